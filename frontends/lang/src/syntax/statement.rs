//! Blocks and statements.

use super::ast::*;
use super::parser::{Parsed, Parser, Recorded, is_word};
use super::token::TokenKind;
use thalweg_base::{Diagnostic, Span};

impl Parser<'_> {
    /// `{ … }`, with every statement on its own line.
    pub(super) fn block(&mut self) -> Parsed<Block> {
        let open = self.expect("{", "and a block")?;
        self.nested(|parser| {
            let mut statements: Vec<Stmt> = Vec::new();
            loop {
                while parser.eat(";") {}
                if parser.is("}") {
                    break;
                }
                let item = parser.peek().newline_before && parser.at_item();
                if parser.at_end() || item {
                    let token = parser.peek().clone();
                    let found = parser.describe(&token);
                    let error = Diagnostic::error("E0011", "a block is not closed")
                        .at(token.span, format!("`}}` is expected before {found}"))
                        .label(open, "the block begins here");
                    return Err(parser.report(error));
                }
                let start = parser.peek().span;
                let before = parser.at;
                let kind = match parser.statement() {
                    Ok(kind) => kind,
                    Err(Recorded) => {
                        parser.skip_line();
                        if parser.at == before {
                            parser.next();
                        }
                        StmtKind::Error
                    }
                };
                statements.push(Stmt { kind, span: parser.since(start) });
            }
            parser.next();
            let depth =
                statements.iter().map(|statement| statement_depth(&statement.kind)).max().unwrap_or(0);
            Ok(Block { statements, span: parser.since(open), depth })
        })
    }

    /// Skips to the next line outside of brackets opened on the way, or to a `}` that closes what is around.
    pub(super) fn skip_line(&mut self) {
        let mut open = 0usize;
        while !self.at_end() {
            let token = self.peek();
            if token.newline_before && (open == 0 || self.at_item()) {
                return;
            }
            match &token.kind {
                TokenKind::Punct("(" | "[" | "{") => open += 1,
                TokenKind::Punct("}") if open == 0 => return,
                TokenKind::Punct(")" | "]" | "}") => open = open.saturating_sub(1),
                TokenKind::Punct(_)
                | TokenKind::Ident(_)
                | TokenKind::Int(_)
                | TokenKind::Float(_)
                | TokenKind::Str(_)
                | TokenKind::Doc(_)
                | TokenKind::End => {}
            }
            let newline_next = self.peek_at(1).newline_before;
            self.next();
            if newline_next && open == 0 {
                return;
            }
        }
    }

    /// Checks that nothing else stands on the line.
    pub(super) fn end_of_line(&mut self, context: &str) -> Parsed<()> {
        let token = self.peek().clone();
        if token.newline_before || self.at_end() || self.is("}") || self.is(";") {
            return Ok(());
        }
        let found = self.describe(&token);
        let mut error =
            Diagnostic::error("E0014", format!("expected the end of the line {context}, found {found}"))
                .at(token.span, "a new line is expected before this");
        if is_word(&token, "and") || is_word(&token, "or") {
            error = error.help("`and` is written `&&`, `or` is written `||`");
        }
        Err(self.report(error))
    }

    fn statement(&mut self) -> Parsed<StmtKind> {
        self.docs();
        let kind = if self.is_word("let") || self.at_var() {
            self.binding()?
        } else if self.eat_word("for") {
            let pattern = self.pattern()?;
            if !self.eat_word("in") {
                return Err(self.expected("`in` and a range or list"));
            }
            let over = self.expr()?;
            StmtKind::For { pattern, over, body: self.block()? }
        } else if self.is_word_before_name("param") {
            self.next();
            StmtKind::Param(self.leaf("param")?)
        } else if self.is_word_before_name("state") {
            self.next();
            StmtKind::State(self.leaf("state")?)
        } else if self.eat_word("yield") {
            StmtKind::Yield(self.values()?)
        } else if self.is_word("last") && self.begins_value(1) {
            self.next();
            StmtKind::Last(self.values()?)
        } else {
            self.assignment_or_expression()?
        };
        self.end_of_line("after a statement")?;
        Ok(kind)
    }

    /// Whether a `var` statement begins; `var` is a name otherwise, that of a running variance for one.
    fn at_var(&self) -> bool {
        let list = self.peek_at(1);
        let list = list.kind == TokenKind::Punct("[") && !list.newline_before;
        self.is_word_before_name("var") || (self.is_word("var") && list)
    }

    /// Whether the token ahead can only begin a value, on the same line.
    fn begins_value(&self, ahead: usize) -> bool {
        let token = self.peek_at(ahead);
        !token.newline_before
            && match &token.kind {
                TokenKind::Ident(name) => &**name != "as",
                TokenKind::Int(_) | TokenKind::Float(_) | TokenKind::Str(_) => true,
                TokenKind::Punct(_) | TokenKind::Doc(_) | TokenKind::End => false,
            }
    }

    fn values(&mut self) -> Parsed<Vec<Expr>> {
        let mut values = vec![self.expr()?];
        while self.eat(",") {
            values.push(self.expr()?);
        }
        Ok(values)
    }

    fn binding(&mut self) -> Parsed<StmtKind> {
        let mutable = self.is_word("var");
        self.next();
        let pattern = self.pattern()?;
        let ty = if self.eat(":") { Some(self.type_expr()?) } else { None };
        self.expect("=", "and a value")?;
        let value = self.expr()?;
        Ok(StmtKind::Let { mutable, pattern, ty, value })
    }

    pub(super) fn pattern(&mut self) -> Parsed<Pattern> {
        self.nested(|parser| {
            let open = parser.peek().span;
            if parser.eat("[") {
                let parts = parser.separated("]", open, Parser::pattern)?;
                return Ok(Pattern::List(parts, parser.since(open)));
            }
            Ok(Pattern::Name(parser.ident("a name")?))
        })
    }

    fn leaf(&mut self, what: &str) -> Parsed<Leaf> {
        let name = self.ident("a name")?;
        self.expect(":", &format!("and the type of the {what}, such as `f32[n, m]`"))?;
        let ty = self.type_expr()?;
        let mut init = if self.eat("=") { Some(self.expr()?) } else { None };
        let path = init.as_mut().and_then(take_path);
        Ok(Leaf { name, ty, init, path })
    }

    fn assignment_or_expression(&mut self) -> Parsed<StmtKind> {
        const ASSIGN: [(&str, Option<BinaryOp>); 5] = [
            ("=", None),
            ("+=", Some(BinaryOp::Add)),
            ("-=", Some(BinaryOp::Sub)),
            ("*=", Some(BinaryOp::Mul)),
            ("/=", Some(BinaryOp::Div)),
        ];
        let value = self.expr()?;
        let Some((punct, op)) = ASSIGN.into_iter().find(|(punct, _)| self.is(punct)) else {
            return Ok(StmtKind::Expr(value));
        };
        let ExprKind::Name(target) = value.kind else {
            let error = Diagnostic::error("E0015", format!("only a name can stand before `{punct}`"))
                .at(value.span, "this is no name")
                .help("to change a part of a tensor, build the new tensor and assign it as a whole");
            return Err(self.report(error));
        };
        self.next();
        Ok(StmtKind::Assign { target, op, value: self.expr()? })
    }

    /// `block[i].attention`
    pub(super) fn scope_path(&mut self) -> Parsed<ScopePath> {
        let start = self.peek().span;
        let mut segments = Vec::new();
        loop {
            let name = self.ident("the name of a scope")?;
            let mut indices = Vec::new();
            while self.is("[") && !self.peek().newline_before {
                let open = self.next().span;
                indices.extend(self.separated("]", open, Parser::expr)?);
            }
            segments.push((name, indices));
            if !self.eat(".") {
                let span: Span = self.since(start);
                return Ok(ScopePath { segments, span });
            }
        }
    }
}

/// The path at the end of an initializer. `as` binds to its last operand as it does to a call, but names what is declared.
fn take_path(expr: &mut Expr) -> Option<ScopePath> {
    match &mut expr.kind {
        ExprKind::As(inner, path) => {
            let path = path.clone();
            *expr = (**inner).clone();
            Some(path)
        }
        ExprKind::Unary(_, last) | ExprKind::Binary(_, _, _, last) => take_path(last),
        _ => None,
    }
}

fn statement_depth(kind: &StmtKind) -> u32 {
    match kind {
        StmtKind::Let { value, .. } | StmtKind::Assign { value, .. } | StmtKind::Expr(value) => value.depth,
        StmtKind::For { over, body, .. } => over.depth.max(body.depth + 1),
        StmtKind::Param(leaf) | StmtKind::State(leaf) => leaf.init.as_ref().map_or(0, |init| init.depth),
        StmtKind::Yield(values) | StmtKind::Last(values) => {
            values.iter().map(|value| value.depth).max().unwrap_or(0)
        }
        StmtKind::Error => 0,
    }
}
