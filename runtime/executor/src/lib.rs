//! Runs plans. An [`Executor`] owns one program on each device of the plan's mesh, gives them their pieces of what goes in,
//! lets them run side by side, each on a thread of its own, and puts together what comes out.
//!
//! Callers see global tensors by name and never a device: which piece is where is said by the plan's ports. Kept values
//! (parameters and states) stay in the arenas between calls; they begin as [`Executor::initialize`] says or as they are
//! set. After the first call a call allocates nothing ([`Executor::run_into`]).
//!
//! ```
//! use std::sync::Arc;
//! use thalweg_base::{DType, Layout, Literal, Mesh};
//! use thalweg_executor::{Executor, Options};
//! use thalweg_plan::{Address, FORMAT_VERSION, Origin, Plan, Port, Program, Step, StepKind};
//!
//! let port = |name: &str, place: usize| Port {
//!     name: name.into(),
//!     dtype: DType::F32,
//!     shape: vec![2],
//!     layout: Layout::default(),
//!     initial: None,
//!     places: vec![place],
//! };
//! let copy = StepKind::Copy { from: Address::at(0), to: Address::at(64), bytes: 8 };
//! let step = Step { kind: copy, origin: Origin::default() };
//! let plan = Plan {
//!     version: FORMAT_VERSION,
//!     name: "identity".into(),
//!     key: String::new(),
//!     target: vec![],
//!     mesh: Mesh::default(),
//!     inputs: vec![port("x", 0)],
//!     parameters: vec![],
//!     states: vec![],
//!     outputs: vec![port("y", 64)],
//!     kernels: vec![],
//!     programs: vec![Program { arena_bytes: 72, kept_bytes: 72, constants: vec![], steps: vec![step] }],
//! };
//! let mut executor = Executor::new(Arc::new(plan), &Options::default())?;
//! let x = Literal::from_f32(&[2], &[1.0, 2.0]);
//! assert_eq!(executor.run(&[("x", (&x).into())])?, [x]);
//! # Ok::<(), thalweg_executor::ExecutorError>(())
//! ```

#![forbid(unsafe_code)]

mod crew;
mod error;
mod executor;
mod initial;
mod piece;
mod trace;

pub use crew::Interrupt;
pub use error::ExecutorError;
pub use executor::{Executor, Options, TensorView};
pub use initial::initial_bytes;
pub use trace::{Trace, TraceEvent};
