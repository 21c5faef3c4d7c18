//! The `.tw` language: from text to graphs.
//!
//! `syntax` reads and lays out text, `check` runs a program over static values and tensors that are nodes of a graph, which
//! checks every shape on the way, and `train` assembles the step of a training. Layers, losses and optimizers are written in
//! the language itself, under `std/`. `write` goes the other way, from a graph to a program. User mistakes are [`thalweg_base::Diagnostic`]s, collected and never thrown; `render`
//! lays them out.
//!
//! This crate must never know how a graph is rewritten, planned or run, and reads no files: the caller gives it texts.
//!
//! ```
//! use thalweg_lang::{Program, Settings};
//! let text = "model Double(x: f32[n]) -> f32[n] { x + x }";
//! let (program, errors) = Program::parse("double.tw", text);
//! assert!(errors.is_empty());
//! let model = program.elaborate_model("Double", &Settings::new()).unwrap();
//! assert_eq!(model.graph.outputs.len(), 1);
//! ```

#![forbid(unsafe_code)]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "values and syntax are asked for one kind at a time, and all others are one and the same mistake"
)]

mod check;
mod modules;
pub mod program;
pub mod render;
pub mod syntax;
pub mod train;
mod write;

pub use check::builtins::{Builtin, all as primitives};
pub use modules::{LibraryItem, library};
pub use program::{ModelGraph, Pin, Program, Settings};
pub use render::{render, to_json};
pub use syntax::{format_source, parse};
pub use train::{Column, DataSpec, StaticValue, TrainProgram};
pub use write::{WriteError, WrittenProgram, write_program};
