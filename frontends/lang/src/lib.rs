//! The `.tw` language.

#![forbid(unsafe_code)]

pub mod render;
pub mod syntax;

pub use render::{render, to_json};
pub use syntax::{format_source, parse};
