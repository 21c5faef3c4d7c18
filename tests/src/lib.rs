//! What the tests share: values for samples, comparison within tolerance and random graphs.
//!
//! The tests themselves are one binary, `it`. Everything here is for tests, so a wrong call panics.

#![forbid(unsafe_code)]

pub mod compare;
pub mod models;
pub mod pieces;
pub mod random_graph;
pub mod values;
pub mod widen;
