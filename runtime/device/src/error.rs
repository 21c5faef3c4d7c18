//! What cannot be done on a device.

use crate::ExchangeError;
use thalweg_base::DType;

/// Why a program cannot be loaded, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The plan contradicts itself.
    #[error("the plan is damaged: {violation}")]
    Invalid {
        /// What is wrong with it.
        violation: String,
    },
    /// The plan has no program for that device.
    #[error("the plan has {devices} devices; there is none of rank {rank}")]
    Rank {
        /// The rank asked for.
        rank: usize,
        /// The devices of the plan.
        devices: usize,
    },
    /// The machine lacks what the plan's machine code was made for.
    #[error(
        "the plan was compiled for a machine with {missing}, which this one ({machine}) lacks: compile the model here"
    )]
    Target {
        /// Names of what is missing.
        missing: String,
        /// What this machine is.
        machine: String,
    },
    /// A kernel has no machine code, and the device runs nothing else.
    #[error(
        "kernel `{kernel}` has no machine code: compile the plan for this processor or use the reference device"
    )]
    NoCode {
        /// The kernel's name.
        kernel: String,
    },
    /// No memory for the arena, the workspace or the code.
    #[error("no memory for {bytes} bytes of {purpose}: {source}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// What they are for.
        purpose: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system refuses to execute the generated code.
    #[error("the system refuses to make generated code executable: {source}")]
    Executable {
        /// The system's reason.
        source: std::io::Error,
    },
    /// A step that this device cannot do.
    #[error("step `{step}`: {reason}")]
    Unsupported {
        /// The step's label.
        step: String,
        /// Why not.
        reason: String,
    },
    /// A dtype that this routine does not take.
    #[error("step `{step}`: {dtype} cannot be computed with here")]
    DType {
        /// The step's label.
        step: String,
        /// The dtype.
        dtype: DType,
    },
    /// Bytes outside of the arena were to be read or written.
    #[error("bytes {offset}..{end} are outside of an arena of {arena} bytes", end = .offset.saturating_add(*.bytes))]
    OutsideArena {
        /// The first byte.
        offset: usize,
        /// How many.
        bytes: usize,
        /// The arena's size.
        arena: usize,
    },
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Whoever runs the program asked for it.
    #[error("the run was cancelled before step `{step}`")]
    Cancelled {
        /// The step that was not begun.
        step: String,
    },
    /// Lent memory could not be copied.
    #[error(transparent)]
    Memory(#[from] DeviceError),
    /// A collective failed.
    #[error("step `{step}`: {source}")]
    Collective {
        /// The step's label.
        step: String,
        /// What the communicator says.
        source: ExchangeError,
    },
}
