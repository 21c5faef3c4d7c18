//! Steps: what a program does, one after the other.

use crate::KernelId;
use crate::routine::{ArgSort, Contraction, Convolution, Scatter};
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, ReduceFn, Span, define_id};

define_id! {
    /// A loop of a program; its turn number may shift addresses in its body. Nested loops have different ids.
    LoopId, "l"
}

/// A place in the device's arena: a byte offset, shifted by the turn of enclosing loops.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Address {
    /// The byte offset in the first turn.
    pub offset: usize,
    /// Bytes added for each turn of a loop; negative for one that runs backwards.
    pub per_turn: Vec<(LoopId, i64)>,
}

impl Address {
    /// A place that no loop shifts.
    pub fn at(offset: usize) -> Address {
        Address { offset, per_turn: Vec::new() }
    }
}

/// A call of a generated kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Launch {
    /// The kernel.
    pub kernel: KernelId,
    /// Where each of its buffers is.
    pub buffers: Vec<Address>,
    /// Into how many parts the first range is split; each part is run by one thread. 1 for small kernels.
    pub parts: u32,
}

/// What is communicated, along one mesh axis, over dense row-major values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum CollectiveKind {
    /// Every device gets the combination of all.
    AllReduce(ReduceFn),
    /// Every device gets all pieces; the result is `[outer, devices, inner]` for pieces `[outer, inner]`.
    AllGather {
        /// Elements before the gathered dim.
        outer: usize,
        /// Elements of the gathered dim and after it, of one piece.
        inner: usize,
    },
    /// Every device gets its piece `[outer, inner]` of the combination of values `[outer, devices, inner]`.
    ReduceScatter {
        /// How values are combined.
        combine: ReduceFn,
        /// Elements before the scattered dim.
        outer: usize,
        /// Elements of one piece of the scattered dim and after it.
        inner: usize,
    },
    /// Device `i` gets block `i` of every device, `blocks[j]` from device `j` written at block `j`; blocks are contiguous
    /// of this many elements.
    AllToAll {
        /// Elements of one block.
        block: usize,
    },
}

/// Communication among the devices that differ only along one mesh axis.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CollectiveStep {
    /// What is communicated.
    pub kind: CollectiveKind,
    /// The mesh axis.
    pub axis: String,
    /// The element type.
    pub dtype: DType,
    /// Elements of this device's operand.
    pub elements: usize,
    /// This device's operand.
    pub operand: Address,
    /// This device's result; another place than the operand.
    pub result: Address,
}

/// Where a step came from, for profiles and messages.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The scope (module path) of the main op.
    pub scope: String,
    /// A short description, such as `contract + add, gelu`.
    pub label: String,
    /// The place in the source of the main op.
    pub span: Option<Span>,
    /// Arithmetic operations.
    pub flops: f64,
    /// Bytes read and written.
    pub bytes: f64,
}

/// One step.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// What is done.
    pub kind: StepKind,
    /// Where it came from.
    pub origin: Origin,
}

/// What a step does.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum StepKind {
    /// Runs a generated kernel.
    Launch(Launch),
    /// `c = a b`, then an epilogue kernel on every finished tile. The epilogue's ranges are the flattened
    /// `[batch, m, n]`.
    Contract {
        /// The shape.
        contraction: Contraction,
        /// The left operand.
        a: Address,
        /// The right operand.
        b: Address,
        /// The result.
        c: Address,
        /// What is run on each tile of the result while it is in cache.
        epilogue: Option<Launch>,
        /// Whether `b` holds a parameter that no step of this program writes, so that it may be packed once for many calls.
        b_constant: bool,
    },
    /// A convolution or one of its gradients; operands in the order of the direction. Ranges of the epilogue are as in
    /// `Contract`, for the result as `[batch, channels, positions]`.
    Convolve {
        /// The shape.
        convolution: Convolution,
        /// The first operand.
        a: Address,
        /// The second operand.
        b: Address,
        /// The result.
        c: Address,
        /// What is run on each tile of the result while it is in cache.
        epilogue: Option<Launch>,
        /// Whether the weights are a constant or a parameter that no step of this program writes, so that they may be
        /// packed once for many calls.
        weights_constant: bool,
    },
    /// Sums at indexed positions.
    Scatter {
        /// The shape.
        scatter: Scatter,
        /// The indices.
        indices: Address,
        /// The updates.
        updates: Address,
        /// The result, which is zeroed first.
        result: Address,
    },
    /// The order that sorts.
    ArgSort {
        /// The shape.
        sort: ArgSort,
        /// What is sorted.
        operand: Address,
        /// The order, as i32.
        result: Address,
    },
    /// Copies bytes; the ranges do not overlap.
    Copy {
        /// From here.
        from: Address,
        /// To here.
        to: Address,
        /// As many bytes.
        bytes: usize,
    },
    /// Communicates with other devices.
    Collective(CollectiveStep),
    /// Repeats steps.
    Loop {
        /// The loop, whose turn shifts addresses.
        id: LoopId,
        /// How often.
        turns: usize,
        /// One turn.
        body: Vec<Step>,
    },
    /// Runs `condition`, then, while the `bool` at `flag` holds, `body` and `condition` again.
    While {
        /// Computes the flag.
        condition: Vec<Step>,
        /// Where the flag is.
        flag: Address,
        /// One turn.
        body: Vec<Step>,
    },
    /// Runs one of two lists of steps.
    Branch {
        /// Where the flag is.
        flag: Address,
        /// Run when it holds.
        then: Vec<Step>,
        /// Run when it does not.
        otherwise: Vec<Step>,
    },
}
