//! Expressions, by precedence climbing.

use super::ast::*;
use super::parser::{DEPTH_MAX, Parsed, Parser, is_word};
use super::token::TokenKind;
use thalweg_base::{Diagnostic, Span};

/// Binary operators with their binding powers; a higher one binds tighter. `**` alone groups to the right.
const BINARY: [(&str, BinaryOp, u8); 15] = [
    ("||", BinaryOp::Or, 1),
    ("&&", BinaryOp::And, 2),
    ("==", BinaryOp::Eq, 3),
    ("!=", BinaryOp::Ne, 3),
    ("<", BinaryOp::Lt, 3),
    ("<=", BinaryOp::Le, 3),
    (">", BinaryOp::Gt, 3),
    (">=", BinaryOp::Ge, 3),
    ("+", BinaryOp::Add, 5),
    ("-", BinaryOp::Sub, 5),
    ("*", BinaryOp::Mul, 6),
    ("/", BinaryOp::Div, 6),
    ("%", BinaryOp::Rem, 6),
    ("@", BinaryOp::MatMul, 6),
    ("**", BinaryOp::Pow, 8),
];
const COMPARISON: u8 = 3;
const RANGE: u8 = 4;
const UNARY: u8 = 7;

impl Parser<'_> {
    /// An expression of any precedence.
    pub(super) fn expr(&mut self) -> Parsed<Expr> {
        self.binary(0)
    }

    fn node(&mut self, kind: ExprKind, span: Span) -> Parsed<Expr> {
        let depth = expression_depth(&kind) + 1;
        match depth > DEPTH_MAX {
            true => Err(self.too_deep(span)),
            false => Ok(Expr { kind, span, depth }),
        }
    }

    fn binary(&mut self, floor: u8) -> Parsed<Expr> {
        self.nested(|parser| {
            let mut left = parser.prefix()?;
            loop {
                let token = parser.peek().clone();
                let TokenKind::Punct(punct) = token.kind else { return Ok(left) };
                // A line that begins with `-x` begins a value; with `- x` it goes on with the line before.
                if punct == "-" && token.newline_before && !token.space_after {
                    return Ok(left);
                }
                if punct == ".." && RANGE > floor && !token.newline_before {
                    parser.next();
                    let right = parser.binary(RANGE)?;
                    let span = left.span.to(right.span);
                    left = parser.node(ExprKind::Range(Box::new(left), Box::new(right)), span)?;
                    continue;
                }
                let Some((_, op, power)) = BINARY.into_iter().find(|row| row.0 == punct) else {
                    return Ok(left);
                };
                if power <= floor {
                    return Ok(left);
                }
                parser.next();
                let right = parser.binary(if op == BinaryOp::Pow { power - 1 } else { power })?;
                if power == COMPARISON && parser.at_comparison() {
                    let second = parser.peek().span;
                    let error = Diagnostic::error("E0016", "comparisons do not chain")
                        .at(second, "a second comparison")
                        .label(token.span, "the first one")
                        .help("write `a < b && b < c`");
                    return Err(parser.report(error));
                }
                let span = left.span.to(right.span);
                left =
                    parser.node(ExprKind::Binary(op, token.span, Box::new(left), Box::new(right)), span)?;
            }
        })
    }

    fn at_comparison(&self) -> bool {
        BINARY.iter().any(|(punct, _, power)| *power == COMPARISON && self.is(punct))
    }

    fn prefix(&mut self) -> Parsed<Expr> {
        let start = self.peek().span;
        for (punct, op) in [("-", UnaryOp::Neg), ("!", UnaryOp::Not)] {
            if self.eat(punct) {
                let operand = self.binary(UNARY)?;
                let span = start.to(operand.span);
                return self.node(ExprKind::Unary(op, Box::new(operand)), span);
            }
        }
        let mut expr = self.primary()?;
        loop {
            let fresh_line = self.peek().newline_before;
            let kind = if self.is("(") && !fresh_line {
                let open = self.next().span;
                let args = self.separated(")", open, Parser::argument)?;
                ExprKind::Call(Box::new(expr), args)
            } else if self.is("[") && !fresh_line {
                let open = self.next().span;
                let items = self.separated("]", open, Parser::index_item)?;
                ExprKind::Index(Box::new(expr), items)
            } else if self.eat(".") {
                ExprKind::Field(Box::new(expr), self.ident("a name after `.`")?)
            } else if self.eat_word("as") {
                ExprKind::As(Box::new(expr), self.scope_path()?)
            } else if self.is("#") {
                let hint = self.hint()?;
                ExprKind::Hinted(Box::new(expr), hint)
            } else {
                return Ok(expr);
            };
            let span = self.since(start);
            expr = self.node(kind, span)?;
        }
    }

    fn argument(&mut self) -> Parsed<Arg> {
        let named = matches!(self.peek().kind, TokenKind::Ident(_))
            && matches!(self.peek_at(1).kind, TokenKind::Punct(":"));
        let name = match named {
            true => {
                let name = self.any_word("a name")?;
                self.next();
                Some(name)
            }
            false => None,
        };
        Ok(Arg { name, value: self.expr()? })
    }

    /// A name, keywords included: before `:` none can be mistaken.
    fn any_word(&mut self, what: &str) -> Parsed<Ident> {
        let token = self.peek().clone();
        let TokenKind::Ident(name) = token.kind else { return Err(self.expected(what)) };
        self.next();
        Ok(Ident { name, span: token.span })
    }

    fn index_item(&mut self) -> Parsed<IndexItem> {
        let start = self.peek().span;
        if self.eat("..") {
            let end = if self.is(",") || self.is("]") { None } else { Some(self.binary(RANGE)?) };
            return Ok(IndexItem::Range(None, end, self.since(start)));
        }
        let first = self.binary(RANGE)?;
        if !self.eat("..") {
            return Ok(IndexItem::At(first));
        }
        let end = if self.is(",") || self.is("]") { None } else { Some(self.binary(RANGE)?) };
        Ok(IndexItem::Range(Some(first), end, self.since(start)))
    }

    fn hint(&mut self) -> Parsed<Hint> {
        let start = self.next().span;
        let name = self.any_word("the name of a hint, such as `shard`")?;
        let mut args = Vec::new();
        if self.is("(") && !self.peek().newline_before {
            let open = self.next().span;
            args = self.separated(")", open, |parser| {
                let first = parser.hint_word()?;
                match parser.eat(":") {
                    true => Ok((Some(first), parser.hint_word()?)),
                    false => Ok((None, first)),
                }
            })?;
        }
        Ok(Hint { name, args, span: self.since(start) })
    }

    fn hint_word(&mut self) -> Parsed<Ident> {
        if let TokenKind::Int(value) = self.peek().kind {
            return Ok(Ident { name: value.to_string().into(), span: self.next().span });
        }
        self.any_word("a word or number")
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let token = self.peek().clone();
        let start = token.span;
        let kind = match token.kind {
            TokenKind::Int(value) => {
                self.next();
                ExprKind::Int(value)
            }
            TokenKind::Float(value) => {
                self.next();
                ExprKind::Float(value)
            }
            TokenKind::Str(ref value) => {
                self.next();
                ExprKind::Str(value.clone())
            }
            TokenKind::Punct("(") => {
                self.next();
                let mut inner = self.expr()?;
                self.expect_closing(")", start)?;
                inner.span = self.since(start);
                return Ok(inner);
            }
            TokenKind::Punct("[") => self.list(start)?,
            TokenKind::Punct("{") => self.record(start)?,
            TokenKind::Ident(ref name) => match &**name {
                "true" | "false" => {
                    self.next();
                    ExprKind::Bool(&**name == "true")
                }
                "if" => self.conditional()?,
                "while" => self.while_loop()?,
                "branch" if self.at_branch() => self.branch()?,
                "scan" if self.is_word_before_name("scan") => self.scan()?,
                "scope" if self.is_word_before_name("scope") => {
                    self.next();
                    let path = self.scope_path()?;
                    ExprKind::Scope(path, self.block()?)
                }
                _ => ExprKind::Name(self.ident("an expression")?),
            },
            TokenKind::Punct(_) | TokenKind::Doc(_) | TokenKind::End => {
                return Err(self.expected("an expression"));
            }
        };
        let span = self.since(start);
        self.node(kind, span)
    }

    fn list(&mut self, open: Span) -> Parsed<ExprKind> {
        self.next();
        if self.is("]") {
            self.next();
            return Ok(ExprKind::List(Vec::new()));
        }
        let first = self.expr()?;
        if self.eat_word("for") {
            let pattern = self.pattern()?;
            if !self.eat_word("in") {
                return Err(self.expected("`in` and a range or list"));
            }
            let over = self.expr()?;
            self.expect_closing("]", open)?;
            return Ok(ExprKind::Comprehension(Box::new(first), Box::new(pattern), Box::new(over)));
        }
        let mut elements = vec![first];
        if self.eat(",") {
            elements.extend(self.separated("]", open, Parser::expr)?);
        } else {
            self.expect_closing("]", open)?;
        }
        Ok(ExprKind::List(elements))
    }

    fn record(&mut self, open: Span) -> Parsed<ExprKind> {
        self.next();
        let fields = self.separated("}", open, |parser| {
            let name = parser.ident("the name of a field")?;
            parser.expect(":", "and the value of the field")?;
            Ok((name, parser.expr()?))
        })?;
        Ok(ExprKind::Record(fields))
    }

    fn conditional(&mut self) -> Parsed<ExprKind> {
        self.nested(|parser| {
            parser.next();
            let condition = parser.expr()?;
            let then = parser.block()?;
            if !parser.eat_word("else") {
                return Ok(ExprKind::If(Box::new(condition), then, None));
            }
            let start = parser.peek().span;
            let kind = match parser.is_word("if") {
                true => parser.conditional()?,
                false => ExprKind::Block(parser.block()?),
            };
            let span = parser.since(start);
            let other = parser.node(kind, span)?;
            Ok(ExprKind::If(Box::new(condition), then, Some(Box::new(other))))
        })
    }

    /// Whether a `branch` begins; `branch` is a name otherwise.
    fn at_branch(&self) -> bool {
        let negated = self.peek_at(1);
        let negated = negated.kind == TokenKind::Punct("!") && !negated.newline_before;
        self.is_word_before_name("branch") || (self.is_word("branch") && negated)
    }

    fn branch(&mut self) -> Parsed<ExprKind> {
        self.next();
        let condition = self.expr()?;
        let then = self.block()?;
        if !self.eat_word("else") {
            return Err(self.expected("`else` and the other side of the `branch`"));
        }
        let otherwise = self.block()?;
        Ok(ExprKind::Branch(Box::new(Branch { condition, then, otherwise })))
    }

    fn while_loop(&mut self) -> Parsed<ExprKind> {
        self.next();
        let start = self.peek().span;
        let condition = match self.is("{") {
            true => {
                let block = self.block()?;
                let span = self.since(start);
                self.node(ExprKind::Block(block), span)?
            }
            false => self.expr()?,
        };
        let mut carries = Vec::new();
        while self.eat(",") {
            if carries.is_empty() && !self.eat_word("carry") {
                return Err(self.expected("`carry` and what passes from turn to turn"));
            }
            let name = self.ident("a name")?;
            self.expect("=", "and the value before the first turn")?;
            carries.push((name, self.expr()?));
        }
        let body = self.block()?;
        Ok(ExprKind::While(Box::new(While { condition, carries, body })))
    }

    fn scan(&mut self) -> Parsed<ExprKind> {
        self.next();
        let (mut inputs, mut carries) = (Vec::new(), Vec::new());
        let next_is_name = |parser: &Self| {
            matches!(parser.peek_at(1).kind, TokenKind::Ident(_)) && !is_word(parser.peek_at(1), "in")
        };
        let reverse = self.is_word("reverse") && next_is_name(self);
        if reverse {
            self.next();
        }
        let mut in_carries = false;
        loop {
            if self.is_word("carry") && next_is_name(self) {
                self.next();
                in_carries = true;
            }
            let name = self.ident("a name")?;
            if in_carries {
                self.expect("=", "and the value before the first step")?;
                carries.push((name, self.expr()?));
            } else if self.eat_word("in") {
                let value = self.expr()?;
                let along = if self.eat_word("along") { Some(self.expr()?) } else { None };
                inputs.push(ScanInput { name, value, along });
            } else {
                return Err(self.expected("`in` and a tensor to walk along"));
            }
            if !self.eat(",") {
                break;
            }
        }
        let body = self.block()?;
        Ok(ExprKind::Scan(Box::new(Scan { reverse, inputs, carries, body })))
    }
}

fn expression_depth(kind: &ExprKind) -> u32 {
    let most = |depths: &mut dyn Iterator<Item = u32>| depths.max().unwrap_or(0);
    let path =
        |path: &ScopePath| path.segments.iter().flat_map(|(_, at)| at).map(|at| at.depth).max().unwrap_or(0);
    match kind {
        ExprKind::Int(_) | ExprKind::Float(_) | ExprKind::Str(_) | ExprKind::Bool(_) | ExprKind::Name(_) => 0,
        ExprKind::Field(base, _) | ExprKind::Unary(_, base) | ExprKind::Hinted(base, _) => base.depth,
        ExprKind::Call(callee, args) => callee.depth.max(most(&mut args.iter().map(|arg| arg.value.depth))),
        ExprKind::Index(base, items) => base.depth.max(most(&mut items.iter().map(|item| match item {
            IndexItem::At(at) => at.depth,
            IndexItem::Range(start, end, _) => {
                let depth = |side: &Option<Expr>| side.as_ref().map_or(0, |side| side.depth);
                depth(start).max(depth(end))
            }
        }))),
        ExprKind::Binary(_, _, left, right) | ExprKind::Range(left, right) => left.depth.max(right.depth),
        ExprKind::If(condition, then, other) => {
            condition.depth.max(then.depth).max(other.as_ref().map_or(0, |other| other.depth))
        }
        ExprKind::Block(block) => block.depth,
        ExprKind::List(elements) => most(&mut elements.iter().map(|element| element.depth)),
        ExprKind::Comprehension(element, _, over) => element.depth.max(over.depth),
        ExprKind::Record(fields) => most(&mut fields.iter().map(|(_, value)| value.depth)),
        ExprKind::As(call, scope) => call.depth.max(path(scope)),
        ExprKind::Scan(scan) => {
            let inputs = scan.inputs.iter().map(|input| input.value.depth);
            let carries = scan.carries.iter().map(|(_, value)| value.depth);
            scan.body.depth.max(most(&mut inputs.chain(carries)))
        }
        ExprKind::While(turn) => {
            let carries = most(&mut turn.carries.iter().map(|(_, value)| value.depth));
            turn.condition.depth.max(turn.body.depth).max(carries)
        }
        ExprKind::Branch(branch) => branch.condition.depth.max(branch.then.depth).max(branch.otherwise.depth),
        ExprKind::Scope(scope, block) => block.depth.max(path(scope)),
        ExprKind::Error => 0,
    }
}
