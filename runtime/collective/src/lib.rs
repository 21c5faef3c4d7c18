//! Communication among devices: what every way of it must do, and the way among threads of one process.
//!
//! A [`Communicator`] belongs to one device, its rank. All devices that differ only along one mesh axis form a group, and
//! every collective is among one group; all its members call it in the same order, which the plan fixes. Values are bytes
//! in storage format, dense and row-major. What comes out depends on the operands alone: values are combined in the order
//! of the members, whatever the timing, and every member gets the same bits.
//!
//! A member that fails or does not come must not leave the others waiting: [`Communicator::abort`] makes every call, under
//! way or later, of every member return an error that names who failed and where; a timeout names who is missing.

#![forbid(unsafe_code)]

mod combine;
mod rendezvous;
mod thread;

pub use thread::{ThreadCommunicator, ThreadOptions, threads};

use std::time::Duration;
use thalweg_base::{DType, ReduceFn};
use thalweg_plan::{CollectiveKind, CollectiveStep};

/// What every collective is told.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The mesh axis along which the members of the group differ.
    pub axis: &'a str,
    /// The element type.
    pub dtype: DType,
    /// The step's label, for messages.
    pub label: &'a str,
}

/// One device's way to the others.
pub trait Communicator: Send {
    /// The rank of this device.
    fn rank(&self) -> usize;

    /// How many devices there are.
    fn devices(&self) -> usize;

    /// Ranks of the members of this device's group along an axis, this one included, in the order of their coordinates;
    /// this device alone for an axis that the mesh does not have.
    fn group(&self, axis: &str) -> Vec<usize>;

    /// `result` becomes the combination of all operands; both have one length.
    fn all_reduce(
        &mut self,
        call: Call<'_>,
        combine: ReduceFn,
        operand: &[u8],
        result: &mut [u8],
    ) -> Result<(), CollectiveError>;

    /// `result` `[outer, members, inner]` becomes all operands `[outer, inner]`, in elements.
    fn all_gather(
        &mut self,
        call: Call<'_>,
        outer: usize,
        inner: usize,
        operand: &[u8],
        result: &mut [u8],
    ) -> Result<(), CollectiveError>;

    /// `result` `[outer, inner]` becomes this member's part of the combination of all operands `[outer, members, inner]`.
    fn reduce_scatter(
        &mut self,
        call: Call<'_>,
        combine: ReduceFn,
        outer: usize,
        inner: usize,
        operand: &[u8],
        result: &mut [u8],
    ) -> Result<(), CollectiveError>;

    /// Block `j` of `result` becomes this member's block of member `j`'s operand; blocks have `block` elements.
    fn all_to_all(
        &mut self,
        call: Call<'_>,
        block: usize,
        operand: &[u8],
        result: &mut [u8],
    ) -> Result<(), CollectiveError>;

    /// Says that this device cannot go on: calls of all devices, under way or later, fail with this step and reason.
    fn abort(&self, label: &str, reason: &str);
}

/// Does the collective of a step.
pub fn perform(
    communicator: &mut dyn Communicator,
    step: &CollectiveStep,
    label: &str,
    operand: &[u8],
    result: &mut [u8],
) -> Result<(), CollectiveError> {
    let call = Call { axis: &step.axis, dtype: step.dtype, label };
    match step.kind {
        CollectiveKind::AllReduce(combine) => communicator.all_reduce(call, combine, operand, result),
        CollectiveKind::AllGather { outer, inner } => {
            communicator.all_gather(call, outer, inner, operand, result)
        }
        CollectiveKind::ReduceScatter { combine, outer, inner } => {
            communicator.reduce_scatter(call, combine, outer, inner, operand, result)
        }
        CollectiveKind::AllToAll { block } => communicator.all_to_all(call, block, operand, result),
    }
}

/// Why a collective failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// A device could not go on.
    #[error("device {rank} failed{}: {reason}", at_step(.label))]
    Aborted {
        /// The device that failed.
        rank: usize,
        /// The step it was at; empty when that is not known.
        label: String,
        /// Why, in its words.
        reason: String,
    },
    /// Some members did not come in time.
    #[error("step `{label}` waited {waited:?} for device{} {}", plural(.missing), ranks(.missing))]
    Stalled {
        /// The step of those that wait.
        label: String,
        /// How long they waited.
        waited: Duration,
        /// Ranks of those that did not come.
        missing: Vec<usize>,
    },
    /// Two members called different collectives.
    #[error(
        "device {rank} is at step `{label}` ({call}) while device {other} of its group is at another collective"
    )]
    Mismatch {
        /// The device that noticed.
        rank: usize,
        /// Its step.
        label: String,
        /// What it called.
        call: String,
        /// A device that called something else.
        other: usize,
    },
    /// Operand or result have not the bytes that the call says.
    #[error("step `{label}`: {found} bytes where the collective has {expected}")]
    Size {
        /// The step.
        label: String,
        /// The bytes given.
        found: usize,
        /// The bytes that it should be.
        expected: usize,
    },
}

fn at_step(label: &str) -> String {
    if label.is_empty() { String::new() } else { format!(" at step `{label}`") }
}

fn plural(ranks: &[usize]) -> &'static str {
    if ranks.len() == 1 { "" } else { "s" }
}

fn ranks(ranks: &[usize]) -> String {
    ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
