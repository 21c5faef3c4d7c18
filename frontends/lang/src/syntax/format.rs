//! The formatter: canonical spacing and indentation over the tokens that are there.
//!
//! Line breaks are the author's, blank lines at most one in a row, comments stay where they are. Formatting what was
//! formatted changes nothing.

use super::parser::{is_keyword, parse};
use super::token::{Comment, Token, TokenKind, lex};
use thalweg_base::{Diagnostic, SourceId};

const INDENT: usize = 4;

/// The text in canonical layout, or the syntax errors that forbid it. The diagnostics speak of source 0.
pub fn format_source(text: &str) -> Result<String, Vec<Diagnostic>> {
    let source = SourceId::new(0);
    let (_, errors) = parse(source, text);
    if !errors.is_empty() {
        return Err(errors);
    }
    let lexed = lex(source, text);
    let mut formatter = Formatter { text, tokens: &lexed.tokens, lines: Vec::new(), open: Vec::new(), at: 0 };
    formatter.run(&lexed.comments);
    Ok(formatter.finish())
}

#[derive(Default)]
struct Line {
    indent: usize,
    text: String,
    blank_before: bool,
    /// Column of a `=` that lines up with those of the lines around, in `train` blocks.
    equals: Option<usize>,
}

struct Bracket {
    line: usize,
    train: bool,
}

struct Formatter<'a> {
    text: &'a str,
    tokens: &'a [Token],
    lines: Vec<Line>,
    open: Vec<Bracket>,
    at: usize,
}

impl Formatter<'_> {
    fn run(&mut self, comments: &[Comment]) {
        let mut comments = comments.iter().peekable();
        let mut end = 0;
        let mut separated = false;
        for index in 0..self.tokens.len() {
            self.at = index;
            while let Some(comment) = comments.next_if(|comment| comment.before_token <= index) {
                let (start, stop) = (comment.span.start as usize, comment.span.end as usize);
                let text = &self.text[start..stop];
                let gap = self.text[end..start].matches('\n').count();
                match (gap, self.lines.last_mut()) {
                    (0, Some(line)) => {
                        line.text.push_str("  ");
                        line.text.push_str(text);
                    }
                    (_, _) => {
                        self.new_line(gap, false);
                        self.last().text.push_str(text);
                    }
                }
                end = stop;
            }
            let token = &self.tokens[index];
            let (start, stop) = (token.span.start as usize, token.span.end as usize);
            let gap = self.text[end.min(start)..start].matches('\n').count();
            if token.kind == TokenKind::End {
                break;
            }
            end = stop;
            if token.kind == TokenKind::Punct(";") {
                separated = true;
                continue;
            }
            let closing = matches!(token.kind, TokenKind::Punct(")" | "]" | "}"));
            let fresh = index == 0 || token.newline_before || (separated && !closing);
            if fresh {
                self.new_line(gap, closing);
            } else if self.space(index) {
                self.last().text.push(' ');
            }
            self.token(token, fresh, separated);
            separated = false;
        }
    }

    fn last(&mut self) -> &mut Line {
        self.lines.last_mut().expect("a line was begun")
    }

    fn new_line(&mut self, newlines: usize, closing: bool) {
        let kept = self.open.len() - (closing && !self.open.is_empty()) as usize;
        let mut opening_lines: Vec<usize> = self.open[..kept].iter().map(|bracket| bracket.line).collect();
        opening_lines.dedup();
        let mut indent = opening_lines.len();
        if closing && self.open.last().is_some_and(|last| opening_lines.last() == Some(&last.line)) {
            indent -= 1;
        }
        if !closing && self.continues() {
            indent += 1;
        }
        let after_open =
            self.at > 0 && matches!(self.tokens[self.at - 1].kind, TokenKind::Punct("{" | "(" | "["));
        let blank_before = newlines > 1 && !self.lines.is_empty() && !closing && !after_open;
        self.lines.push(Line { indent, blank_before, ..Line::default() });
    }

    /// Whether the line that begins at the current token goes on with an expression, outside of parentheses.
    fn continues(&self) -> bool {
        let operator = |token: &Token| match token.kind {
            TokenKind::Punct(punct) => {
                ["+", "*", "/", "%", "@", "**", "&&", "||", "==", "!=", "<", "<=", ">", ">=", "="]
                    .contains(&punct)
            }
            TokenKind::Ident(ref name) => &**name == "as",
            TokenKind::Int(_)
            | TokenKind::Float(_)
            | TokenKind::Str(_)
            | TokenKind::Doc(_)
            | TokenKind::End => false,
        };
        let token = &self.tokens[self.at];
        let minus = token.kind == TokenKind::Punct("-") && token.space_after && self.at > 0;
        let after = self.at > 0
            && (operator(&self.tokens[self.at - 1])
                || self.tokens[self.at - 1].kind == TokenKind::Punct("-"));
        operator(token)
            || minus
            || after
            || token.kind == TokenKind::Punct("#")
            || token.kind == TokenKind::Punct(".")
    }

    fn token(&mut self, token: &Token, fresh: bool, separated: bool) {
        let line = self.lines.len() - 1;
        match token.kind {
            TokenKind::Punct("(" | "[" | "{") => {
                let is = |back: usize, word: &str| {
                    self.at >= back
                        && matches!(&self.tokens[self.at - back].kind, TokenKind::Ident(name) if &**name == word)
                };
                let train = self.open.is_empty() && token.kind == TokenKind::Punct("{") && is(2, "train");
                self.open.push(Bracket { line, train });
            }
            TokenKind::Punct(")" | "]" | "}") => {
                self.open.pop();
            }
            TokenKind::Punct("=") => {
                let first = self.at == 1 || self.tokens[self.at - 1].newline_before;
                if first && self.open.last().is_some_and(|bracket| bracket.train) {
                    let width = self.last().text.chars().count();
                    self.last().equals = Some(width);
                }
            }
            TokenKind::Punct(_)
            | TokenKind::Ident(_)
            | TokenKind::Int(_)
            | TokenKind::Float(_)
            | TokenKind::Str(_)
            | TokenKind::Doc(_)
            | TokenKind::End => {}
        }
        let text = match &token.kind {
            TokenKind::Doc(doc) if doc.is_empty() => "///".to_string(),
            TokenKind::Doc(doc) => format!("/// {doc}"),
            _ => self.text[token.span.start as usize..token.span.end as usize].to_string(),
        };
        self.last().text.push_str(&text);
        // `- x` at the start of a line goes on with the line before, `-x` does not: the blank is kept.
        if fresh && !separated && token.kind == TokenKind::Punct("-") && token.space_after {
            self.last().text.push(' ');
        }
    }

    /// Whether a value ends with this token, so that what follows is no prefix.
    fn ends_value(&self, index: usize) -> bool {
        match &self.tokens[index].kind {
            TokenKind::Ident(name) if &**name == "var" => !self.tokens[index].newline_before,
            TokenKind::Ident(name) => !is_keyword(name) || ["true", "false", "fn"].contains(&&**name),
            TokenKind::Int(_) | TokenKind::Float(_) | TokenKind::Str(_) => true,
            TokenKind::Punct(punct) => [")", "]", "}"].contains(punct),
            TokenKind::Doc(_) | TokenKind::End => false,
        }
    }

    fn is_prefix(&self, index: usize) -> bool {
        let fresh = self.tokens[index].newline_before && !self.tokens[index].space_after;
        match self.tokens[index].kind {
            TokenKind::Punct("-" | "!") => index == 0 || fresh || !self.ends_value(index - 1),
            TokenKind::Punct(_)
            | TokenKind::Ident(_)
            | TokenKind::Int(_)
            | TokenKind::Float(_)
            | TokenKind::Str(_)
            | TokenKind::Doc(_)
            | TokenKind::End => false,
        }
    }

    /// Whether a blank stands before a token that is not the first of its line.
    fn space(&self, index: usize) -> bool {
        let (before, token) = (&self.tokens[index - 1], &self.tokens[index]);
        let TokenKind::Punct(left) = before.kind else { return self.space_after_value(index) };
        match left {
            "(" | "[" | "." | "#" | ".." => false,
            "-" if before.newline_before => false,
            "-" | "!" if self.is_prefix(index - 1) => false,
            "{" => token.kind != TokenKind::Punct("}"),
            _ => self.space_after_value(index),
        }
    }

    fn space_after_value(&self, index: usize) -> bool {
        match self.tokens[index].kind {
            TokenKind::Punct(")" | "]" | "," | ":" | ".") => false,
            TokenKind::Punct("..") => !self.ends_value(index - 1),
            TokenKind::Punct("(" | "[") => {
                !self.ends_value(index - 1) && self.tokens[index - 1].kind != TokenKind::Punct("(")
            }
            TokenKind::Punct(_)
            | TokenKind::Ident(_)
            | TokenKind::Int(_)
            | TokenKind::Float(_)
            | TokenKind::Str(_)
            | TokenKind::Doc(_)
            | TokenKind::End => true,
        }
    }

    fn finish(mut self) -> String {
        let mut start = 0;
        while start < self.lines.len() {
            let group = self.lines[start..]
                .iter()
                .enumerate()
                .take_while(|(nth, line)| line.equals.is_some() && (*nth == 0 || !line.blank_before));
            let count = group.count();
            let width =
                self.lines[start..start + count].iter().filter_map(|line| line.equals).max().unwrap_or(0);
            for line in &mut self.lines[start..start + count] {
                let at = line.equals.expect("lines of the group have one");
                let byte = line.text.char_indices().nth(at).map_or(line.text.len(), |(byte, _)| byte);
                line.text.insert_str(byte, &" ".repeat(width - at));
            }
            start += count.max(1);
        }
        let mut out = String::new();
        for line in &self.lines {
            if line.blank_before {
                out.push('\n');
            }
            out.push_str(&" ".repeat(line.indent * INDENT));
            out.push_str(line.text.trim_end());
            out.push('\n');
        }
        out
    }
}
