//! The tensor IR: typed dataflow graphs of some thirty ops, and functions over them.
//!
//! A graph is plain data. Nodes stand in topological order, shapes may hold named symbols, and every node knows the
//! scope (module path) and the span it came from. The meaning of an op is in its own file under `ops/`: its types, its
//! axis signature, its values, its derivative, its work and its samples. Before and after partitioning the graph is the
//! same IR: collectives are ordinary ops.
//!
//! This crate must never know how an op is executed, on what device, or at what cost in seconds.

#![forbid(unsafe_code)]

pub mod axes;
pub mod builder;
pub mod eval;
pub mod gradient;
pub mod graph;
pub mod op;
pub mod ops;
pub mod settle;
pub mod text;
pub mod types;
pub mod value;
pub mod verify;
pub mod view;

pub use axes::{Axis, AxisId, AxisSignature, Role};
pub use gradient::{GradientError, gradients};
pub use graph::{Graph, Node, NodeId, Output, Update};
pub use op::{Grad, InferError, Op, OpDef, Sample, VjpContext, Work};
pub use thalweg_base::{Mesh, ReduceFn};
pub use types::TensorType;
pub use value::Array;
