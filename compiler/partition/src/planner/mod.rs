//! How the training of a model is spread over a cluster, present or absent: which blocks stand where, how each is cut, what is kept
//! and what is computed again, and what a step takes.
//!
//! [`Summary`] is what a planner works on, derived from the graph of a training step. [`Planner`] costs blocks, each kind once for
//! each way to run it, and plans of them; [`Planner::search`] looks for the plan that takes least within the memory there is.

mod block;
mod estimate;
mod search;
mod stages;
mod summary;

pub use block::{BlockCost, CollectiveUse, Pass};
pub use estimate::{Constants, Planner, PlannerOptions};
pub use search::{Considered, Found, Limits};
pub use summary::{Block, BlockKind, Summary, Training};

use crate::PartitionError;

/// Why a training cannot be planned.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlannerError {
    /// The graph has no loss.
    #[error("the step has no output `loss`; a training is planned by its loss")]
    NoLoss,
    /// The loss depends on no parameters, or on no data.
    #[error("nothing depends on both parameters and data, so there is nothing to plan")]
    NoWork,
    /// A size is open that is not the batch's.
    #[error("the size `{0}` is open; plans are made for known sizes, so write a number or a constant for it")]
    OpenSize(String),
    /// A block has no gradient.
    #[error("`{op}` has no gradient: {reason}")]
    Gradient {
        /// The name of the op.
        op: String,
        /// The reason.
        reason: String,
    },
    /// A block cannot be cut.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// A plan does not fit the model or the cluster.
    #[error("the plan does not fit: {0}")]
    Misfit(String),
    /// A plan was made for another model.
    #[error(
        "the plan was made for another model: its blocks have the hash {found}, those of this model {expected}; plan again"
    )]
    OtherModel {
        /// The hash of this model.
        expected: String,
        /// The hash in the plan.
        found: String,
    },
}
