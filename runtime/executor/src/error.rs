//! What callers of an executor can do wrong, and what can go wrong in a run.

use thalweg_base::DType;
use thalweg_collective::CollectiveError;
use thalweg_device::DeviceError;

/// Why a call of an executor failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// The plan cannot be loaded on the devices.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The plan is for more or fewer devices.
    #[error("the plan `{plan}` is for {wanted} devices; {given} are given")]
    Devices {
        /// The plan's name.
        plan: String,
        /// Devices of the plan.
        wanted: usize,
        /// Devices given.
        given: usize,
    },
    /// A name that the plan does not have.
    #[error("there is no {what} `{name}`; there {}", list(.known))]
    Unknown {
        /// `input` and the like.
        what: &'static str,
        /// The name asked for.
        name: String,
        /// Names that there are.
        known: Vec<String>,
    },
    /// An input was not given.
    #[error("the input `{name}` ({dtype}{shape:?}) is not given")]
    Missing {
        /// The input.
        name: String,
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Too many or too few inputs or outputs were given by position.
    #[error("the plan has {wanted} {what}s; {given} are given")]
    Count {
        /// `input` or `output`.
        what: &'static str,
        /// How many the plan has.
        wanted: usize,
        /// How many were given.
        given: usize,
    },
    /// A value has another type than the plan says.
    #[error("`{name}` is {dtype}{shape:?}, not {found_dtype}{found_shape:?}")]
    Type {
        /// The value.
        name: String,
        /// The element type that it has.
        dtype: DType,
        /// The shape that it has.
        shape: Vec<usize>,
        /// The element type that was given.
        found_dtype: DType,
        /// The shape that was given.
        found_shape: Vec<usize>,
    },
    /// A buffer of another size than the value.
    #[error("`{name}` has {expected} bytes; the buffer has {found}")]
    Bytes {
        /// The value.
        name: String,
        /// Bytes of the value.
        expected: usize,
        /// Bytes of the buffer.
        found: usize,
    },
    /// The run was interrupted. Kept values may be half updated.
    #[error("the run was interrupted before step `{step}`")]
    Interrupted {
        /// The step that was not begun.
        step: String,
    },
    /// A collective failed; where other devices were then is said behind it.
    #[error("device {rank}: {source}{}", whereabouts(.at))]
    Collective {
        /// The device that says so.
        rank: usize,
        /// What it says.
        source: CollectiveError,
        /// Devices that were waited for, and the steps at which they were.
        at: Vec<(usize, String)>,
    },
    /// A device ended its run in another way.
    #[error("device {rank} failed at step `{step}`: {reason}")]
    Failed {
        /// The device.
        rank: usize,
        /// The step at which it was.
        step: String,
        /// Why, in its words.
        reason: String,
    },
}

fn list(known: &[String]) -> String {
    match known {
        [] => "is none".to_string(),
        [one] => format!("is only `{one}`"),
        many => format!("are `{}`", many.join("`, `")),
    }
}

fn whereabouts(at: &[(usize, String)]) -> String {
    at.iter().map(|(rank, step)| format!("; device {rank} was at step `{step}`")).collect()
}
