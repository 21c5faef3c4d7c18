//! The parser's core and the items of a file.
//!
//! Recursive descent with one token of lookahead here and there. A syntax error is recorded and the parser goes on at
//! the next line or item, so one run shows all of them. Nesting is bounded: hostile input cannot exhaust the stack.

use super::ast::*;
use super::token::{Token, TokenKind, lex};
use std::sync::Arc;
use thalweg_base::{Diagnostic, SourceId, Span};

/// How deep brackets and operators may nest. Code that people write stays below twenty.
pub(crate) const DEPTH_MAX: u32 = 160;

/// Syntax errors after which the rest of a file is not worth reading out.
const ERRORS_MAX: usize = 50;

/// What the parser answers when it has already recorded an error.
pub(super) struct Recorded;

pub(super) type Parsed<T> = Result<T, Recorded>;

/// Parses a file. The module holds all that could be read; the diagnostics say what could not.
pub fn parse(source: SourceId, text: &str) -> (Module, Vec<Diagnostic>) {
    let lexed = lex(source, text);
    let mut parser = Parser {
        text,
        tokens: lexed.tokens,
        at: 0,
        depth: 0,
        deep_reported: false,
        errors: lexed.errors,
        last_error: None,
    };
    let items = parser.items();
    parser.errors.truncate(ERRORS_MAX);
    parser.errors.sort_by_key(|error| error.primary.as_ref().map(|label| label.span));
    (Module { source, items }, parser.errors)
}

pub(super) struct Parser<'a> {
    pub(super) text: &'a str,
    pub(super) tokens: Vec<Token>,
    pub(super) at: usize,
    pub(super) depth: u32,
    pub(super) deep_reported: bool,
    pub(super) errors: Vec<Diagnostic>,
    /// The token of the last error: a second one at the same token would only repeat it.
    last_error: Option<usize>,
}

impl Parser<'_> {
    pub(super) fn peek(&self) -> &Token {
        &self.tokens[self.at]
    }

    pub(super) fn peek_at(&self, ahead: usize) -> &Token {
        &self.tokens[(self.at + ahead).min(self.tokens.len() - 1)]
    }

    pub(super) fn next(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    pub(super) fn at_end(&self) -> bool {
        self.peek().kind == TokenKind::End
    }

    pub(super) fn is(&self, punct: &str) -> bool {
        matches!(self.peek().kind, TokenKind::Punct(p) if p == punct)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        is_word(self.peek(), word)
    }

    /// Whether a word stands here with a name after it on the same line: `state mean`, but not `state = 3`.
    pub(super) fn is_word_before_name(&self, word: &str) -> bool {
        let next = self.peek_at(1);
        self.is_word(word)
            && !next.newline_before
            && matches!(next.kind, TokenKind::Ident(_))
            && !is_word(next, "as")
    }

    pub(super) fn eat(&mut self, punct: &str) -> bool {
        let found = self.is(punct);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn since(&self, start: Span) -> Span {
        let end = self.tokens[self.at.saturating_sub(1)].span.end.max(start.end);
        Span { end, ..start }
    }

    pub(super) fn describe(&self, token: &Token) -> String {
        match &token.kind {
            TokenKind::End => "the end of the file".into(),
            TokenKind::Doc(_) => "a doc comment".into(),
            TokenKind::Str(_) => "a string".into(),
            TokenKind::Ident(_) | TokenKind::Int(_) | TokenKind::Float(_) | TokenKind::Punct(_) => {
                format!("`{}`", &self.text[token.span.start as usize..token.span.end as usize])
            }
        }
    }

    pub(super) fn report(&mut self, error: Diagnostic) -> Recorded {
        if self.last_error != Some(self.at) {
            self.last_error = Some(self.at);
            self.errors.push(error);
        }
        Recorded
    }

    pub(super) fn expected(&mut self, what: &str) -> Recorded {
        let token = self.peek().clone();
        let found = self.describe(&token);
        self.report(
            Diagnostic::error("E0010", format!("expected {what}, found {found}"))
                .at(token.span, format!("expected {what}")),
        )
    }

    pub(super) fn expect(&mut self, punct: &str, context: &str) -> Parsed<Span> {
        match self.is(punct) {
            true => Ok(self.next().span),
            false => Err(self.expected(&format!("`{punct}` {context}"))),
        }
    }

    /// Like `expect` for a closing bracket, with the opening one in the message.
    pub(super) fn expect_closing(&mut self, punct: &str, open: Span) -> Parsed<Span> {
        if self.is(punct) {
            return Ok(self.next().span);
        }
        let token = self.peek().clone();
        let found = self.describe(&token);
        let opened = &self.text[open.start as usize..open.end as usize];
        let error = Diagnostic::error("E0011", format!("expected `{punct}`, found {found}"))
            .at(token.span, format!("`{punct}` or `,` is expected before this"))
            .label(open, format!("to close this `{opened}`"));
        Err(self.report(error))
    }

    pub(super) fn ident(&mut self, what: &str) -> Parsed<Ident> {
        let token = self.peek().clone();
        match &token.kind {
            TokenKind::Ident(name) if !is_keyword(name) => {
                self.next();
                Ok(Ident { name: name.clone(), span: token.span })
            }
            TokenKind::Ident(name) => {
                let error =
                    Diagnostic::error("E0010", format!("expected {what}, found the keyword `{name}`"))
                        .at(token.span, "a keyword cannot be a name");
                Err(self.report(error))
            }
            TokenKind::Int(_)
            | TokenKind::Float(_)
            | TokenKind::Str(_)
            | TokenKind::Doc(_)
            | TokenKind::Punct(_)
            | TokenKind::End => Err(self.expected(what)),
        }
    }

    /// Elements up to `close`, separated by commas, a last comma allowed.
    pub(super) fn separated<T>(
        &mut self,
        close: &str,
        open: Span,
        mut element: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let mut elements = Vec::new();
        while !self.is(close) {
            elements.push(element(self)?);
            if !self.eat(",") {
                break;
            }
        }
        self.expect_closing(close, open)?;
        Ok(elements)
    }

    /// Runs `inner` one level deeper, or records that the input nests too deep.
    pub(super) fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEPTH_MAX {
            return Err(self.too_deep(self.peek().span));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    pub(super) fn too_deep(&mut self, span: Span) -> Recorded {
        if !self.deep_reported {
            self.deep_reported = true;
            let error =
                Diagnostic::error("E0012", format!("an expression nests deeper than {DEPTH_MAX} levels"))
                    .at(span, "the limit is reached here")
                    .help("give parts of it a name with `let`");
            self.last_error = Some(self.at);
            self.errors.push(error);
        }
        Recorded
    }

    pub(super) fn docs(&mut self) -> String {
        let mut doc = String::new();
        while let TokenKind::Doc(line) = &self.peek().kind {
            if !doc.is_empty() {
                doc.push('\n');
            }
            doc.push_str(line);
            self.next();
        }
        doc
    }

    /// Whether an item starts here. Words such as `model` are keywords only in this place.
    pub(super) fn at_item(&self) -> bool {
        let hard = ["use", "const", "fn"].iter().any(|word| self.is_word(word));
        hard || ["layer", "model", "train"].iter().any(|word| self.is_word_before_name(word))
    }

    fn items(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        while !self.at_end() {
            let doc = self.docs();
            match self.item(doc) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => {}
                Err(Recorded) => self.skip_to_item(),
            }
        }
        items
    }

    fn skip_to_item(&mut self) {
        self.depth = 0;
        while !self.at_end() {
            let fresh = self.peek().newline_before;
            if fresh && (self.at_item() || matches!(self.peek().kind, TokenKind::Doc(_))) {
                return;
            }
            self.next();
        }
    }

    fn item(&mut self, doc: String) -> Parsed<Option<Item>> {
        if self.at_end() || self.eat(";") {
            return Ok(None);
        }
        let start = self.peek().span;
        if self.eat_word("use") {
            return self.use_item(start).map(Some);
        }
        if self.eat_word("const") {
            let name = self.ident("the name of a constant")?;
            let ty = if self.eat(":") { Some(self.type_expr()?) } else { None };
            self.expect("=", "and the value of the constant")?;
            let value = self.expr()?;
            self.end_of_line("after a constant")?;
            return Ok(Some(Item::Const(Const { doc, name, ty, value })));
        }
        if self.at_item() {
            for kind in [FunctionKind::Fn, FunctionKind::Layer, FunctionKind::Model] {
                if self.eat_word(kind.keyword()) {
                    return self
                        .function(doc, kind, start)
                        .map(|function| Some(Item::Function(Arc::new(function))));
                }
            }
            self.next();
            return self.train(doc, start).map(|train| Some(Item::Train(Arc::new(train))));
        }
        let token = self.peek().clone();
        let found = self.describe(&token);
        let mut error = Diagnostic::error("E0013", format!("expected an item, found {found}")).at(
            token.span,
            "only `use`, `const`, `fn`, `layer`, `model` and `train` stand at the top of a file",
        );
        if is_word(&token, "let") || is_word(&token, "var") {
            error = error.help("a value for the whole file is a `const`");
        } else if is_word(&token, "def") || is_word(&token, "class") || is_word(&token, "import") {
            error = error.help("a function is `fn name(x: f32[n]) -> f32[n] { … }`, an import is `use nn`");
        }
        Err(self.report(error))
    }

    fn use_item(&mut self, start: Span) -> Parsed<Item> {
        let mut path = vec![self.ident("the name of a module")?];
        while self.eat(".") {
            path.push(self.ident("the name of a module")?);
        }
        let alias = if self.eat_word("as") { Some(self.ident("another name for the module")?) } else { None };
        let span = self.since(start);
        self.end_of_line("after `use`")?;
        Ok(Item::Use(Use { path, alias, span }))
    }

    fn function(&mut self, doc: String, kind: FunctionKind, start: Span) -> Parsed<Function> {
        let name = self.ident(&format!("the name of the {}", kind.keyword()))?;
        let params = self.params()?;
        let curried = if self.is("(") { Some(self.params()?) } else { None };
        let result = if self.eat("->") { Some(self.type_expr()?) } else { None };
        let span = self.since(start);
        let body = self.block()?;
        Ok(Function { doc, kind, name, params, curried, result, body, span })
    }

    fn params(&mut self) -> Parsed<Vec<Param>> {
        let open = self.expect("(", "and the parameters")?;
        self.separated(")", open, |parser| {
            let name = parser.ident("the name of a parameter")?;
            parser.expect(":", "and the type of the parameter")?;
            let ty = parser.type_expr()?;
            let default = if parser.eat("=") { Some(parser.expr()?) } else { None };
            Ok(Param { name, ty, default })
        })
    }

    fn train(&mut self, doc: String, start: Span) -> Parsed<Train> {
        let model = self.ident("the name of the model to train")?;
        let span = self.since(start);
        let open = self.expect("{", "and what to train with")?;
        let mut fields = Vec::new();
        while !self.is("}") {
            if self.at_end() || (self.peek().newline_before && self.at_item()) {
                self.expect_closing("}", open)?;
            }
            if self.eat(";") || self.eat(",") {
                continue;
            }
            let before = self.at;
            match self.train_field() {
                Ok(field) => fields.push(field),
                Err(Recorded) => {
                    self.skip_line();
                    if self.at == before {
                        self.next();
                    }
                }
            }
        }
        self.next();
        Ok(Train { doc, model, fields, span })
    }

    fn train_field(&mut self) -> Parsed<(Ident, Expr)> {
        self.docs();
        let name = self.ident("a name such as `loss`")?;
        self.expect("=", "and a value")?;
        let value = self.expr()?;
        if !self.is("}") && !self.is(",") {
            self.end_of_line("after a field")?;
        }
        Ok((name, value))
    }

    /// A written type.
    pub(super) fn type_expr(&mut self) -> Parsed<TypeExpr> {
        self.nested(|parser| {
            let start = parser.peek().span;
            let kind = if parser.eat("[") {
                TypeKind::List(parser.separated("]", start, Parser::type_expr)?)
            } else if parser.eat("{") {
                TypeKind::Record(parser.separated("}", start, |parser| {
                    let name = parser.ident("the name of a field")?;
                    parser.expect(":", "and the type of the field")?;
                    Ok((name, parser.type_expr()?))
                })?)
            } else {
                let name = match parser.is_word("fn") {
                    true => Ident { name: "fn".into(), span: parser.next().span },
                    false => parser.ident("a type such as `f32[n]` or `int`")?,
                };
                match parser.is("[") && !parser.peek().newline_before {
                    true => {
                        let open = parser.next().span;
                        TypeKind::Tensor(name, parser.separated("]", open, Parser::dim_expr)?)
                    }
                    false => TypeKind::Name(name),
                }
            };
            Ok(TypeExpr { kind, span: parser.since(start) })
        })
    }

    fn dim_expr(&mut self) -> Parsed<DimExpr> {
        if self.eat("..") {
            return Ok(DimExpr::Rest(self.ident("a name for the leading dims")?));
        }
        if self.is_word("_") {
            return Ok(DimExpr::Any(self.next().span));
        }
        Ok(DimExpr::Size(self.expr()?))
    }
}

pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(&token.kind, TokenKind::Ident(name) if &**name == word)
}

/// Words that are never names. All others that the grammar knows are keywords only where they fit.
pub(crate) const KEYWORDS: [&str; 12] =
    ["use", "const", "fn", "let", "for", "while", "in", "if", "else", "yield", "as", "true"];

pub(super) fn is_keyword(word: &str) -> bool {
    KEYWORDS.contains(&word) || word == "false"
}
