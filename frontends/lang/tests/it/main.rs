//! Tests of the language, from text to graph.

mod documentation;
mod examples;
mod hostile;
mod mistakes;
mod numerics;
mod primitives;
mod syntax;
mod write;
