//! The compiler from a tensor graph to a plan: its passes in order, its options, its report.
//!
//! The passes stand in one table, [`pipeline::TENSOR_PASSES`], followed by two typed steps: lowering to a plan of kernels, and
//! code for the kernels. The driver, never a pass, verifies after each, times it, and keeps what `dump` shows. It reads no
//! environment and does no input or output.

#![forbid(unsafe_code)]

pub mod dump;
pub mod options;
pub mod pipeline;
pub mod report;

pub use dump::{Stage, dump};
pub use options::Options;
pub use pipeline::{Compiled, compile};
pub use report::{PassReport, Report};
pub use thalweg_codegen_cpu::Emitter;

/// Why a graph cannot be compiled.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// A size has no value.
    #[error("the size `{0}` has no value; give one with --set {0}=...")]
    Unbound(String),
    /// A size has a value that makes shapes impossible.
    #[error("with {bindings}: {message}")]
    Binding {
        /// The values given.
        bindings: String,
        /// What does not fit, as a clause.
        message: String,
    },
    /// The graph cannot be split so.
    #[error(transparent)]
    Partition(#[from] thalweg_partition::PartitionError),
    /// The graph cannot be lowered.
    #[error(transparent)]
    Lower(#[from] thalweg_lower::LowerError),
    /// No code can be made.
    #[error(transparent)]
    Codegen(#[from] thalweg_codegen_cpu::CodegenError),
}
