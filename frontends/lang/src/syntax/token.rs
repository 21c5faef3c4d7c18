//! Tokens and the lexer. It never fails: what it cannot read becomes a diagnostic and is left out.

use std::sync::Arc;
use thalweg_base::{Diagnostic, SourceId, Span};

/// What a token is.
#[derive(Clone, PartialEq, Debug)]
pub enum TokenKind {
    /// A name or a keyword; keywords are told apart by the parser, most of them by context.
    Ident(Arc<str>),
    /// An integer literal.
    Int(i64),
    /// A floating-point literal.
    Float(f64),
    /// A string literal, unescaped.
    Str(Arc<str>),
    /// A `///` line, without the slashes and one space.
    Doc(Arc<str>),
    /// An operator or bracket.
    Punct(&'static str),
    /// The end of the file.
    End,
}

/// A token with its place.
#[derive(Clone, Debug)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where it is.
    pub span: Span,
    /// Whether a line break comes before it.
    pub newline_before: bool,
    /// Whether a blank, a line break or a comment follows it.
    pub space_after: bool,
}

/// A `//` comment, kept for the formatter.
#[derive(Clone, Debug)]
pub struct Comment {
    /// Where it is, slashes included, line break excluded.
    pub span: Span,
    /// Index of the token that comes next.
    pub before_token: usize,
}

/// Everything the lexer found.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The tokens, closed by one `End`.
    pub tokens: Vec<Token>,
    /// The comments, in order.
    pub comments: Vec<Comment>,
    /// What could not be read.
    pub errors: Vec<Diagnostic>,
}

/// Operators and brackets, longest first where one begins another.
const PUNCTUATION: [&str; 34] = [
    "..", "->", "==", "!=", "<=", ">=", "&&", "||", "**", "+=", "-=", "*=", "/=", "(", ")", "[", "]", "{",
    "}", ",", ":", ";", "=", "<", ">", "+", "-", "*", "/", "%", "@", "!", ".", "#",
];

/// Splits a source text into tokens.
pub fn lex(source: SourceId, text: &str) -> Tokens {
    let mut lexer = Lexer {
        source,
        text,
        at: 0,
        newline: false,
        out: Vec::new(),
        comments: Vec::new(),
        errors: Vec::new(),
    };
    lexer.run();
    Tokens { tokens: lexer.out, comments: lexer.comments, errors: lexer.errors }
}

struct Lexer<'a> {
    source: SourceId,
    text: &'a str,
    at: usize,
    newline: bool,
    out: Vec<Token>,
    comments: Vec<Comment>,
    errors: Vec<Diagnostic>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: TokenKind, start: usize) {
        let space_after =
            self.rest().chars().next().is_none_or(char::is_whitespace) || self.rest().starts_with("//");
        let span = Span::new(self.source, start, self.at);
        self.out.push(Token { kind, span, newline_before: self.newline, space_after });
        self.newline = false;
    }

    fn error(&mut self, code: &'static str, start: usize, message: String, label: &str) {
        let span = Span::new(self.source, start, self.at);
        self.errors.push(Diagnostic::error(code, message).at(span, label));
    }

    fn run(&mut self) {
        while let Some(c) = self.rest().chars().next() {
            let start = self.at;
            if c.is_whitespace() {
                self.newline |= c == '\n';
                self.at += c.len_utf8();
            } else if self.rest().starts_with("//") {
                self.comment(start);
            } else if c.is_alphabetic() || c == '_' {
                let len = self.rest().find(|c: char| !(c.is_alphanumeric() || c == '_'));
                self.at = len.map_or(self.text.len(), |len| start + len);
                self.push(TokenKind::Ident(self.text[start..self.at].into()), start);
            } else if c.is_ascii_digit() {
                self.number(start);
            } else if c == '"' {
                self.string(start);
            } else if let Some(punct) = PUNCTUATION.iter().find(|punct| self.rest().starts_with(**punct)) {
                self.at += punct.len();
                self.push(TokenKind::Punct(punct), start);
            } else {
                self.at += c.len_utf8();
                self.error(
                    "E0001",
                    start,
                    format!("`{}` is no character of the language", c.escape_default()),
                    "not expected here",
                );
            }
        }
        self.push(TokenKind::End, self.text.len());
    }

    fn comment(&mut self, start: usize) {
        let line = self.rest().split('\n').next().unwrap_or("");
        let line = line.strip_suffix('\r').unwrap_or(line);
        self.at += line.len();
        match line.strip_prefix("///") {
            Some(doc) if !doc.starts_with('/') => {
                let doc = doc.strip_prefix(' ').unwrap_or(doc).trim_end();
                self.push(TokenKind::Doc(doc.into()), start);
            }
            Some(_) | None => {
                let span = Span::new(self.source, start, start + line.trim_end().len());
                self.comments.push(Comment { span, before_token: self.out.len() });
            }
        }
    }

    fn number(&mut self, start: usize) {
        let bytes = self.text.as_bytes();
        let digits = |mut at: usize| {
            while at < bytes.len() && (bytes[at].is_ascii_digit() || bytes[at] == b'_') {
                at += 1;
            }
            at
        };
        let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        let mut end = digits(start);
        let mut float = false;
        if bytes.get(end) == Some(&b'.') && is_digit(end + 1) {
            float = true;
            end = digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = matches!(bytes.get(end + 1), Some(b'+' | b'-')) as usize;
            if is_digit(end + 1 + sign) {
                float = true;
                end = digits(end + 1 + sign);
            }
        }
        self.at = end;
        let trailing =
            self.rest().find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(self.rest().len());
        self.at += trailing;
        let clean = self.text[start..end].replace('_', "");
        let kind = match (trailing, float) {
            (0, true) => clean.parse().ok().filter(|value: &f64| value.is_finite()).map(TokenKind::Float),
            (0, false) => clean.parse().ok().map(TokenKind::Int),
            (_, _) => None,
        };
        if kind.is_none() {
            let text = &self.text[start..self.at];
            let message = format!("`{text}` is not a number that the language can hold");
            self.error("E0002", start, message, "not a 64-bit integer or float");
        }
        self.push(kind.unwrap_or(TokenKind::Int(1)), start);
    }

    fn string(&mut self, start: usize) {
        let mut value = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        let mut end = None;
        let mut bad_escape = None;
        while let Some((offset, c)) = chars.next() {
            match c {
                '"' => {
                    end = Some(start + offset + 1);
                    break;
                }
                '\n' => break,
                '\\' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, 't')) => value.push('\t'),
                    Some((_, c @ ('"' | '\\'))) => value.push(c),
                    Some((_, '\n')) | None => break,
                    Some((at, other)) => bad_escape = Some((start + at, other)),
                },
                c => value.push(c),
            }
        }
        self.at = end.unwrap_or_else(|| start + self.rest().find('\n').unwrap_or(self.rest().len()));
        if end.is_none() {
            self.error(
                "E0003",
                start,
                "a string is not closed".into(),
                "the string begins here and its line ends without `\"`",
            );
        }
        if let Some((at, other)) = bad_escape {
            let span = Span::new(self.source, at, at + other.len_utf8());
            let message = format!("`\\{}` is no escape", other.escape_default());
            self.errors
                .push(Diagnostic::error("E0003", message).at(span, "escapes are \\n, \\t, \\\" and \\\\"));
        }
        self.push(TokenKind::Str(value.into()), start);
    }
}
