//! Rewriting by equality saturation: an e-graph over the tensor IR's own ops, rules with checked classes, and extraction by
//! the cost of the whole graph on a device.
//!
//! A graph is cut into regions; equal ones are rewritten once and the result is replayed. In a region, rules add what each
//! value equals until nothing new is found or a limit of e-nodes or rounds is met, never of time, and the cheapest choice of
//! all is taken if it is cheaper than what was there. The result has the same leaves, outputs and updates; nodes keep the
//! scope and span of what they came from. The same graph and options always give the same result.
//!
//! This crate must never see a loop, a kernel or a device other than through the cost model.
//!
//! ```
//! use thalweg_base::{DType, PointwiseFn};
//! use thalweg_cost::{CostModel, presets};
//! use thalweg_rewrite::{Options, rewrite};
//! use thalweg_tensor::{Graph, TensorType};
//!
//! let mut graph = Graph::new("twice negated");
//! let x = graph.input("x", TensorType::new(DType::F32, [3]));
//! let y = graph.pointwise(PointwiseFn::Neg, &[x]);
//! let z = graph.pointwise(PointwiseFn::Neg, &[y]);
//! graph.output("z", z);
//! let cost = CostModel::new(&presets::cpu_default(1));
//! let (rewritten, report) = rewrite(&graph, &Options::default(), &cost);
//! assert_eq!(rewritten.outputs[0].node, rewritten.leaf(thalweg_tensor::ops::LeafKind::Input, "x").unwrap());
//! assert_eq!(report.rules, [("neg-neg".to_string(), 1)]);
//! ```

#![forbid(unsafe_code)]

mod extract;
mod facts;
mod lang;
mod normalize;
mod pattern;
mod plan;
mod regions;
mod report;
mod rewrite;
pub mod rules;
mod saturate;
mod term;
mod view;

#[cfg(test)]
mod tests;

pub use report::{Report, StopReason};
pub use rewrite::{Options, rewrite};
pub use rules::{Class, Rule};
