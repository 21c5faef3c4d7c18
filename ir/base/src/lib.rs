//! What every layer of Thalweg speaks of: dtypes, dims, scalar functions, ids, spans, diagnostics, devices,
//! clusters and meshes of devices and what lies where on them.
//!
//! Everything here is plain data with small functions over it. This crate knows no tensor op, no kernel and no
//! device; it is at the bottom of every arrow and imports nothing of ours.

#![forbid(unsafe_code)]

pub mod buffer;
pub mod cluster;
pub mod diagnostic;
pub mod dim;
pub mod dtype;
pub mod function;
pub mod id;
pub mod initializer;
pub mod literal;
pub mod machine;
pub mod mesh;
pub mod random;
pub mod reduce;
pub mod scalar;
pub mod span;
pub mod tolerance;

pub use buffer::{Buffer, Recycled};
pub use cluster::{Accelerator, Cluster, ClusterError, DeviceGroup, HostGroup, Link, ProductCurve};
pub use diagnostic::{Diagnostic, Label, Severity};
pub use dim::{Bindings, Dim, Symbol};
pub use dtype::DType;
pub use function::{CostClass, Expr, PointwiseFn};
pub use initializer::Initializer;
pub use literal::Literal;
pub use machine::{DeviceDescription, DeviceKind, LinkDescription};
pub use mesh::{Layout, Mesh};
pub use reduce::ReduceFn;
pub use scalar::Scalar;
pub use span::{SourceId, SourceMap, Span};
