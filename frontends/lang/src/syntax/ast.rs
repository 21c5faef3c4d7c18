//! The syntax tree: what was written, with the place of every part. Nothing is resolved or checked here.

use std::sync::Arc;
use thalweg_base::{SourceId, Span};

/// A name with its place.
#[derive(Clone, Debug)]
pub struct Ident {
    /// The name.
    pub name: Arc<str>,
    /// Where it stands.
    pub span: Span,
}

/// One source file.
#[derive(Clone, Debug)]
pub struct Module {
    /// The file.
    pub source: SourceId,
    /// Its items, in order.
    pub items: Vec<Item>,
}

/// What may stand at the top of a file.
#[derive(Clone, Debug)]
pub enum Item {
    /// `use a.b`
    Use(Use),
    /// `const name = value`
    Const(Const),
    /// `fn`, `layer` or `model`
    Function(Arc<Function>),
    /// `train Model { … }`
    Train(Arc<Train>),
}

/// `use a.b as c`: brings a module into scope.
#[derive(Clone, Debug)]
pub struct Use {
    /// The dotted path.
    pub path: Vec<Ident>,
    /// Another name for it.
    pub alias: Option<Ident>,
    /// The whole item.
    pub span: Span,
}

/// `const name: type = value`: a static value that the command line may override.
#[derive(Clone, Debug)]
pub struct Const {
    /// Documentation.
    pub doc: String,
    /// Its name.
    pub name: Ident,
    /// Its type, if written.
    pub ty: Option<TypeExpr>,
    /// Its value.
    pub value: Expr,
}

/// Which kind of function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FunctionKind {
    /// Pure; owns nothing.
    Fn,
    /// Owns parameters and state.
    Layer,
    /// An entry point; a layer whose free dims are symbols.
    Model,
}

impl FunctionKind {
    /// The keyword.
    pub fn keyword(self) -> &'static str {
        match self {
            FunctionKind::Fn => "fn",
            FunctionKind::Layer => "layer",
            FunctionKind::Model => "model",
        }
    }
}

/// `fn name(…)(…) -> type { … }`, likewise `layer` and `model`.
#[derive(Clone, Debug)]
pub struct Function {
    /// Documentation.
    pub doc: String,
    /// Which kind.
    pub kind: FunctionKind,
    /// Its name.
    pub name: Ident,
    /// The parameters.
    pub params: Vec<Param>,
    /// A second list: a call with the first list then gives a function of the second.
    pub curried: Option<Vec<Param>>,
    /// What it returns, if written.
    pub result: Option<TypeExpr>,
    /// What it does.
    pub body: Block,
    /// From the keyword to the end of the signature.
    pub span: Span,
}

/// A parameter of a function.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its name.
    pub name: Ident,
    /// Its type.
    pub ty: TypeExpr,
    /// What it is when not given.
    pub default: Option<Expr>,
}

/// A written type.
#[derive(Clone, Debug)]
pub struct TypeExpr {
    /// What it says.
    pub kind: TypeKind,
    /// Where.
    pub span: Span,
}

/// What a type says.
#[derive(Clone, Debug)]
pub enum TypeKind {
    /// `f32[a, b]`
    Tensor(Ident, Vec<DimExpr>),
    /// `int`, `float`, `bool`, `str`, `fn`, `dims`, `list`, or a dtype for a tensor of rank 0
    Name(Ident),
    /// `[a, b]`: a list of given types
    List(Vec<TypeExpr>),
    /// `{ a: t, b: u }`
    Record(Vec<(Ident, TypeExpr)>),
    /// What could not be parsed.
    Error,
}

/// One dim of a written tensor type.
#[derive(Clone, Debug)]
pub enum DimExpr {
    /// `..s`: any number of dims
    Rest(Ident),
    /// `_`: one dim of any size
    Any(Span),
    /// A size: a name, a number or arithmetic over them
    Size(Expr),
}

impl DimExpr {
    /// Where it stands.
    pub fn span(&self) -> Span {
        match self {
            DimExpr::Rest(name) => name.span,
            DimExpr::Any(span) => *span,
            DimExpr::Size(expr) => expr.span,
        }
    }
}

/// `{ … }`
#[derive(Clone, Debug)]
pub struct Block {
    /// The statements; the value is that of a last expression.
    pub statements: Vec<Stmt>,
    /// With its braces.
    pub span: Span,
    pub(crate) depth: u32,
}

/// A statement.
#[derive(Clone, Debug)]
pub struct Stmt {
    /// What it does.
    pub kind: StmtKind,
    /// Where.
    pub span: Span,
}

/// What is bound by `let`, `var` and `for`.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// One name; `_` binds nothing.
    Name(Ident),
    /// `[a, b]`: the elements of a list.
    List(Vec<Pattern>, Span),
}

impl Pattern {
    /// Where it stands.
    pub fn span(&self) -> Span {
        match self {
            Pattern::Name(name) => name.span,
            Pattern::List(_, span) => *span,
        }
    }
}

/// What a statement does.
#[derive(Clone, Debug)]
pub enum StmtKind {
    /// `let p = e` or `var p = e`
    Let {
        /// Whether it may be assigned later (`var`).
        mutable: bool,
        /// What is bound.
        pattern: Pattern,
        /// A type to check, which also names the dims.
        ty: Option<TypeExpr>,
        /// The value.
        value: Expr,
    },
    /// `name = e`, `name += e` and so on
    Assign {
        /// What is assigned.
        target: Ident,
        /// The operator of a compound assignment.
        op: Option<BinaryOp>,
        /// The value.
        value: Expr,
    },
    /// `for p in e { … }` over static values
    For {
        /// What each turn binds.
        pattern: Pattern,
        /// A range or list.
        over: Expr,
        /// The body.
        body: Block,
    },
    /// `param name: type = initializer`
    Param(Leaf),
    /// `state name: type = initializer`
    State(Leaf),
    /// `yield a, b`: what one step of a scan puts out
    Yield(Vec<Expr>),
    /// `last a, b`: what a scan gives after its last step
    Last(Vec<Expr>),
    /// An expression
    Expr(Expr),
    /// What could not be parsed
    Error,
}

/// A declaration of a parameter or of state.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Its name within the scope.
    pub name: Ident,
    /// Its dtype and shape.
    pub ty: TypeExpr,
    /// Its initializer.
    pub init: Option<Expr>,
    /// What it is called in the model, if that is not its name within the scope.
    pub path: Option<ScopePath>,
}

/// An expression.
#[derive(Clone, Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where.
    pub span: Span,
    /// Levels below it, which the parser bounds so that no walk over the tree can exhaust the stack.
    pub(crate) depth: u32,
}

/// An argument of a call.
#[derive(Clone, Debug)]
pub struct Arg {
    /// `name:` before it.
    pub name: Option<Ident>,
    /// The value.
    pub value: Expr,
}

/// One part of `x[…]`.
#[derive(Clone, Debug)]
pub enum IndexItem {
    /// `i`: one position, which drops the dim
    At(Expr),
    /// `a..b`, either side optional
    Range(Option<Expr>, Option<Expr>, Span),
}

/// `block[i].attention`
#[derive(Clone, Debug)]
pub struct ScopePath {
    /// The parts, each with its indices.
    pub segments: Vec<(Ident, Vec<Expr>)>,
    /// Where.
    pub span: Span,
}

/// `#name(a: b)`: a wish for the planner.
#[derive(Clone, Debug)]
pub struct Hint {
    /// What is wished.
    pub name: Ident,
    /// Its arguments: what, and the word or number given for it.
    pub args: Vec<(Option<Ident>, Ident)>,
    /// Where.
    pub span: Span,
}

/// An operator of one operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnaryOp {
    /// `-a`
    Neg,
    /// `!a`
    Not,
}

/// An operator of two operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BinaryOp {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// `a % b`
    Rem,
    /// `a ** b`
    Pow,
    /// `a @ b`
    MatMul,
    /// `a == b`
    Eq,
    /// `a != b`
    Ne,
    /// `a < b`
    Lt,
    /// `a <= b`
    Le,
    /// `a > b`
    Gt,
    /// `a >= b`
    Ge,
    /// `a && b`
    And,
    /// `a || b`
    Or,
}

impl BinaryOp {
    /// How it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Rem => "%",
            BinaryOp::Pow => "**",
            BinaryOp::MatMul => "@",
            BinaryOp::Eq => "==",
            BinaryOp::Ne => "!=",
            BinaryOp::Lt => "<",
            BinaryOp::Le => "<=",
            BinaryOp::Gt => ">",
            BinaryOp::Ge => ">=",
            BinaryOp::And => "&&",
            BinaryOp::Or => "||",
        }
    }
}

/// One tensor that a scan walks along.
#[derive(Clone, Debug)]
pub struct ScanInput {
    /// The name of one step's slice, or of the step's number.
    pub name: Ident,
    /// The tensor, or a range of numbers.
    pub value: Expr,
    /// The dim walked along, by name or index.
    pub along: Option<Expr>,
}

/// `scan xt in x along s, carry h = … { … }`
#[derive(Clone, Debug)]
pub struct Scan {
    /// From the last step to the first.
    pub reverse: bool,
    /// What is walked along.
    pub inputs: Vec<ScanInput>,
    /// What passes from step to step, with its value before the first.
    pub carries: Vec<(Ident, Expr)>,
    /// One step.
    pub body: Block,
}

/// `while condition, carry x = … { … }`
#[derive(Clone, Debug)]
pub struct While {
    /// Whether to go on: a `bool` scalar of the carries.
    pub condition: Expr,
    /// What passes from turn to turn, with its first value.
    pub carries: Vec<(Ident, Expr)>,
    /// One turn.
    pub body: Block,
}

/// `branch condition { … } else { … }`: a choice at run time.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Which side is run: a `bool` scalar.
    pub condition: Expr,
    /// What is run when it holds.
    pub then: Block,
    /// What is run when it does not.
    pub otherwise: Block,
}

/// What an expression is.
#[derive(Clone, Debug)]
pub enum ExprKind {
    /// `3`
    Int(i64),
    /// `0.5`
    Float(f64),
    /// `"text"`
    Str(Arc<str>),
    /// `true`
    Bool(bool),
    /// A name
    Name(Ident),
    /// `a.b`
    Field(Box<Expr>, Ident),
    /// `f(a, n: b)`
    Call(Box<Expr>, Vec<Arg>),
    /// `x[i, a..b]`
    Index(Box<Expr>, Vec<IndexItem>),
    /// `-a`
    Unary(UnaryOp, Box<Expr>),
    /// `a + b`; the span is the operator's
    Binary(BinaryOp, Span, Box<Expr>, Box<Expr>),
    /// `a..b`
    Range(Box<Expr>, Box<Expr>),
    /// `if c { a } else { b }`
    If(Box<Expr>, Block, Option<Box<Expr>>),
    /// `{ … }` after `else`
    Block(Block),
    /// `[a, b]`
    List(Vec<Expr>),
    /// `[e for p in xs]`
    Comprehension(Box<Expr>, Box<Pattern>, Box<Expr>),
    /// `{ a: x, b: y }`
    Record(Vec<(Ident, Expr)>),
    /// `call as path`
    As(Box<Expr>, ScopePath),
    /// `call #hint(…)`
    Hinted(Box<Expr>, Hint),
    /// `scan …`
    Scan(Box<Scan>),
    /// `while …`
    While(Box<While>),
    /// `branch c { … } else { … }`
    Branch(Box<Branch>),
    /// `scope path { … }`
    Scope(ScopePath, Block),
    /// What could not be parsed
    Error,
}

/// `train Model { name = value … }`
#[derive(Clone, Debug)]
pub struct Train {
    /// Documentation.
    pub doc: String,
    /// The model that is trained.
    pub model: Ident,
    /// Its settings and names, in order.
    pub fields: Vec<(Ident, Expr)>,
    /// The keyword and the model's name.
    pub span: Span,
}
