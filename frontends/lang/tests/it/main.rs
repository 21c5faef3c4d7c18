//! Tests of the language, from text to graph.

mod examples;
mod mistakes;
mod numerics;
mod syntax;
