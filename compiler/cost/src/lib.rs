//! What work costs on a machine, in seconds and bytes: the one model that rewriting, planning and lowering share.
//!
//! Ops say how much arithmetic and traffic they are (`OpDef::work`); this crate alone turns that into seconds. Sizes are
//! bound before anything is costed. It must never know how an op is implemented, only how fast its class of work runs.
//!
//! ```
//! use thalweg_base::DType;
//! use thalweg_cost::{CostModel, presets};
//! use thalweg_tensor::{Graph, TensorType};
//! let model = CostModel::new(&presets::cpu_default(4));
//! let mut graph = Graph::new("product");
//! let x = graph.input("x", TensorType::new(DType::F32, [512, 512]));
//! let y = graph.contract("mk,kn->mn", x, x);
//! graph.output("y", y);
//! assert!(model.graph_seconds(&graph) > 2.0 * 512f64.powi(3) / model.device.flops_per_s[&DType::F32]);
//! assert_eq!(thalweg_cost::peak_bytes(&graph), 2 * 512 * 512 * 4);
//! ```

#![forbid(unsafe_code)]

mod collective;
pub mod kernels;
pub mod library;
mod memory;
mod model;
pub mod presets;
mod topology;

pub use collective::collective_seconds;
pub use memory::peak_bytes;
pub use model::{CostModel, USUAL_PRODUCTS};
pub use topology::{Algorithm, Level, Pattern, Topology, send_seconds};
