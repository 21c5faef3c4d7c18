//! The data types of the kernel IR, and what they mean.

use serde::{Deserialize, Serialize};
use thalweg_base::{DType, PointwiseFn, Scalar, define_id};

define_id! {
    /// A buffer argument of one kernel: the position in [`Kernel::buffers`].
    BufferId, "b"
}
define_id! {
    /// A thread-private array of one kernel: the position in [`Kernel::scratch`].
    ScratchId, "s"
}
define_id! {
    /// A loop variable (`i64`), unique within one kernel.
    VarId, "i"
}
define_id! {
    /// A value computed inside one kernel; defined once.
    ValueId, "v"
}

/// One generated function.
///
/// A call gets the base address of every buffer and, for every range dim, the half-open part `[lo, hi)` that it is to
/// cover. It runs `body` for each point of that box, in row-major order (the last range is innermost). *Any disjoint
/// cover of the full index space by such calls, in any order or in parallel, must leave the same memory.* That is the
/// writer's duty; the verifier cannot prove it. So a body writes only places that no other point of the index space
/// reads or writes, and reductions are [`Stmt::Loop`]s, not ranges.
///
/// A buffer that a kernel writes overlaps none of its other buffers, with one exception: two buffers may be the same
/// memory, element for element, when every point reads from it only elements that no other point writes, and reads them
/// before it writes them (an elementwise kernel in place).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// A name for dumps and profiles. It has no meaning.
    pub name: String,
    /// The arguments.
    pub buffers: Vec<Buffer>,
    /// Thread-private arrays; undefined at the start of every point of the index space.
    pub scratch: Vec<Scratch>,
    /// The parallel index space, outermost first. None means one point.
    pub ranges: Vec<Range>,
    /// What happens at one point.
    pub body: Vec<Stmt>,
}

/// How a kernel uses a buffer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Loads only.
    Read,
    /// Stores only.
    Write,
    /// Both.
    ReadWrite,
}

/// A kernel argument: a base pointer to `elements` dense elements, aligned to the size of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Buffer {
    /// The storage dtype.
    pub dtype: DType,
    /// How many elements may be addressed.
    pub elements: usize,
    /// How the kernel uses it.
    pub access: Access,
}

/// A small array that lives during one call and belongs to the thread that makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scratch {
    /// The storage dtype.
    pub dtype: DType,
    /// How many elements it has; [`Scratch::BYTES_MAX`] at most over all scratch of a kernel, for it lives on the stack.
    pub elements: usize,
}

impl Scratch {
    /// The most bytes that all scratch arrays of one kernel take together: a quarter of the smallest usual thread stack.
    pub const BYTES_MAX: usize = 512 * 1024;
}

/// One dim of the parallel index space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Range {
    /// Its loop variable, from 0 to `extent` over all calls.
    pub var: VarId,
    /// Its full size.
    pub extent: usize,
    /// Lanes of the loop over it, as in [`Stmt::Loop`]; more than 1 only in the last range.
    pub lanes: u32,
}

/// Where a load or store goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Place {
    /// An argument.
    Buffer(BufferId),
    /// A thread-private array.
    Scratch(ScratchId),
}

impl From<BufferId> for Place {
    fn from(id: BufferId) -> Place {
        Place::Buffer(id)
    }
}

impl From<ScratchId> for Place {
    fn from(id: ScratchId) -> Place {
        Place::Scratch(id)
    }
}

/// An element position: `constant + sum of coefficient * variable + dynamic`, computed in 64 bits.
///
/// Terms are kept in the order of their variables, each variable at most once and with a coefficient other than 0, so
/// that equal positions compare equal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Index {
    /// The constant part.
    pub constant: i64,
    /// Loop variables and their coefficients.
    pub terms: Vec<(VarId, i64)>,
    /// An `i32` or `i64` value that is added: gathers and scatters. It is the writer's duty that the sum is within the
    /// array wherever the access happens.
    pub dynamic: Option<ValueId>,
}

impl Index {
    /// The same position everywhere.
    pub fn constant(constant: i64) -> Index {
        Index { constant, terms: Vec::new(), dynamic: None }
    }

    /// A loop variable.
    pub fn var(var: VarId) -> Index {
        Index::default().plus(var, 1)
    }

    /// A computed position.
    pub fn value(value: ValueId) -> Index {
        Index { dynamic: Some(value), ..Index::default() }
    }

    /// Adds `coefficient * var`.
    pub fn plus(mut self, var: VarId, coefficient: i64) -> Index {
        match self.terms.binary_search_by_key(&var, |term| term.0) {
            Ok(at) => {
                self.terms[at].1 += coefficient;
                if self.terms[at].1 == 0 {
                    self.terms.remove(at);
                }
            }
            Err(at) if coefficient != 0 => self.terms.insert(at, (var, coefficient)),
            Err(_) => {}
        }
        self
    }

    /// Adds a constant.
    pub fn offset(mut self, constant: i64) -> Index {
        self.constant += constant;
        self
    }

    /// Adds a computed value; replaces the one that was there.
    pub fn with_dynamic(mut self, value: ValueId) -> Index {
        self.dynamic = Some(value);
        self
    }

    /// The coefficient of a variable; 0 when it does not occur.
    pub fn coefficient(&self, var: VarId) -> i64 {
        self.terms.binary_search_by_key(&var, |term| term.0).map_or(0, |at| self.terms[at].1)
    }
}

/// One step of a body.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Stmt {
    /// Defines a value.
    Let {
        /// The value defined.
        value: ValueId,
        /// What it is.
        expr: Expr,
    },
    /// Writes one element; converted to the storage dtype as by [`Scalar::convert`].
    Store {
        /// Where.
        place: Place,
        /// Which element.
        index: Index,
        /// What; its dtype is the compute dtype of the place.
        value: ValueId,
        /// A `bool`: nothing is written, and the index may lie anywhere, where it is false.
        guard: Option<ValueId>,
    },
    /// Runs `body` with `var` from 0 to `extent`, in that order.
    ///
    /// `lanes > 1` allows that many successive iterations to run side by side, statement by statement: values that
    /// depend on `var` become vectors. The writer promises that no iteration reads or writes an element that another
    /// one writes. Loads and stores with coefficient 1 in `var` are contiguous, with coefficient 0 (loads) broadcast, with
    /// others strided. The extent need not be a multiple of the lanes. A generator may use fewer lanes, or one. The
    /// meaning is that of the plain loop, except that `carried` values may be reassociated.
    Loop {
        /// The loop variable.
        var: VarId,
        /// How often.
        extent: usize,
        /// How many iterations may run side by side: a power of two, at most [`Stmt::LANES_MAX`].
        lanes: u32,
        /// Values handed from one iteration to the next.
        carried: Vec<Carried>,
        /// The iteration.
        body: Vec<Stmt>,
    },
}

impl Stmt {
    /// The most lanes a loop may have.
    pub const LANES_MAX: u32 = 64;
}

/// A value handed from one iteration to the next: a reduction's accumulator.
///
/// With lanes > 1 every lane accumulates on its own. Lane 0 starts from `init`, the others from the identity of
/// `combine`, and the lanes are combined at the end. That is a reassociation when `next` is `combine(phi, t)` with a `t`
/// that does not depend on `phi` (or `mul_add(a, b, phi)` for `add`); the writer promises so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Carried {
    /// The value at the start of an iteration; defined inside the body.
    pub phi: ValueId,
    /// The value before the first iteration; defined outside.
    pub init: ValueId,
    /// The value at the end of an iteration; visible at the end of the body.
    pub next: ValueId,
    /// The value after the last iteration, `init` when there is none; defined after the loop.
    pub result: ValueId,
    /// How lanes are combined; absent only when the loop has one lane.
    pub combine: Option<PointwiseFn>,
}

/// What a value is. Expressions have an order, so that equal ones can be found.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Expr {
    /// A constant of a compute dtype.
    Constant(DType, Scalar),
    /// A position as an `i32` (wrapping) or `i64`.
    Index(DType, Index),
    /// One element, as the compute dtype of the place.
    Load {
        /// Where.
        place: Place,
        /// Which element.
        index: Index,
        /// A `bool`: nothing is read, and the index may lie anywhere, where it is false.
        guard: Option<ValueId>,
        /// The value where the guard is false, in the compute dtype; 0 without guard.
        otherwise: Scalar,
    },
    /// A scalar function, typed by [`PointwiseFn::result`].
    Pointwise(PointwiseFn, Vec<ValueId>),
    /// Converts as [`Scalar::convert`] does. A storage dtype (`f16`, `bf16`, `i8`, `i16`,
    /// `u8`, `u16`, `u32`) rounds or wraps to it and stays
    /// in its compute dtype: lowering puts one after every operation of such a dtype, because the reference evaluator
    /// rounds there. On the way to `f16` or `bf16`, values of `f64`, `i32` and `i64` may be rounded to `f32` first.
    Convert(DType, ValueId),
    /// The same bits as the other dtype: `f32` and `i32`, `f64` and `i64`.
    Bitcast(DType, ValueId),
}

/// The dtype of a value in a register that was loaded from `dtype`: `f32` for `f16` and `bf16`, `i32` for the integers
/// of 8 and 16 bits, `i64` for `u32`, else itself.
pub fn compute_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => DType::F32,
        DType::I32 | DType::I8 | DType::I16 | DType::U8 | DType::U16 => DType::I32,
        DType::F64 => DType::F64,
        DType::I64 | DType::U32 => DType::I64,
        DType::U64 => DType::U64,
        DType::Bool => DType::Bool,
    }
}

impl Kernel {
    /// The storage dtype of a place.
    pub fn place_dtype(&self, place: Place) -> DType {
        match place {
            Place::Buffer(id) => self.buffers[id.index()].dtype,
            Place::Scratch(id) => self.scratch[id.index()].dtype,
        }
    }

    /// How many elements a place has.
    pub fn place_elements(&self, place: Place) -> usize {
        match place {
            Place::Buffer(id) => self.buffers[id.index()].elements,
            Place::Scratch(id) => self.scratch[id.index()].elements,
        }
    }

    /// The full index space, as `(lo, hi)` for each range.
    pub fn full_ranges(&self) -> Vec<(usize, usize)> {
        self.ranges.iter().map(|range| (0, range.extent)).collect()
    }
}

impl Expr {
    /// Calls `f` on every value it uses.
    pub fn for_each_operand(&self, mut f: impl FnMut(ValueId)) {
        match self {
            Expr::Constant(..) => {}
            Expr::Index(_, index) => index.dynamic.into_iter().for_each(f),
            Expr::Load { index, guard, .. } => index.dynamic.into_iter().chain(*guard).for_each(f),
            Expr::Pointwise(_, operands) => operands.iter().copied().for_each(f),
            Expr::Convert(_, value) | Expr::Bitcast(_, value) => f(*value),
        }
    }
}
