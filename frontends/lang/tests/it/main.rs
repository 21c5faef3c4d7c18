//! Tests of the language, from text to graph.

mod syntax;
