//! ONNX models as tensor graphs, and tensor graphs as ONNX models.
//!
//! [`Model::read`] decodes a file; [`Import`] walks over its nodes and builds a graph, in which shapes are computed as far as
//! they can be and every op is a composition of ours. The rows of the op table are in `ops/`, a family to a file; the control
//! ops, which run graphs of their own, in `control`. Where shapes or control depend on values that only a run gives, a model
//! becomes several graphs, one after the other.
//!
//! This crate must never know how a graph is run, and reads no file: what lies beside a model is given by the caller.

#![forbid(unsafe_code)]

mod builder;
mod call;
mod control;
pub mod element;
pub mod error;
pub mod export;
mod file;
mod fold;
mod import;
mod inputs;
mod ops;
pub mod proto;
mod run;
mod stage;
mod value;

pub use element::Narrow;
pub use error::{ImportError, NodeProblem, Problem};
pub use export::{ExportError, encode, export};
pub use file::{Files, Model};
pub use import::{Import, ImportOptions, Imported, OutputValue, Stage, Step};
pub use inputs::InputInfo;
pub use ops::supported;
pub use run::{Ran, RunError, RunGraph, Tensors, run};
pub use value::HostValue;
