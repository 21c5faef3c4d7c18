//! From text to tree: tokens, the tree, the parser and the formatter.

pub mod ast;
mod expression;
pub mod format;
mod parser;
mod statement;
pub mod token;

pub use format::format_source;
pub use parser::parse;
