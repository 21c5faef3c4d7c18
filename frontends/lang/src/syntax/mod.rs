//! From text to tree: tokens, the tree, the parser and the formatter.

pub mod ast;
mod expression;
pub mod format;
mod parser;
mod statement;
pub mod token;

pub use format::format_source;
pub use parser::parse;

/// Words that are never names.
pub(crate) fn keywords() -> impl Iterator<Item = &'static str> {
    parser::KEYWORDS.into_iter().chain(["false"])
}
