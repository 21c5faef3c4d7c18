//! Reductions and running combinations.

use super::Row;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results, normalize};
use thalweg_base::{DType, Dim, PointwiseFn as F};
use thalweg_tensor::ops::PadDim;
use thalweg_tensor::{NodeId, ReduceFn};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("ArgMax", |call| arg(call, ReduceFn::Max)),
    ("ArgMin", |call| arg(call, ReduceFn::Min)),
    ("CumProd", |call| cumulative(call, ReduceFn::Prod)),
    ("CumSum", |call| cumulative(call, ReduceFn::Sum)),
    ("ReduceL1", |call| reduced(call, l1)),
    ("ReduceL2", |call| reduced(call, l2)),
    ("ReduceLogSum", |call| reduced(call, log_sum)),
    ("ReduceLogSumExp", |call| reduced(call, log_sum_exp)),
    ("ReduceMax", |call| reduced(call, |b, x, dims| b.reduce(ReduceFn::Max, x, dims, true))),
    ("ReduceMean", |call| reduced(call, mean)),
    ("ReduceMin", |call| reduced(call, |b, x, dims| b.reduce(ReduceFn::Min, x, dims, true))),
    ("ReduceProd", |call| reduced(call, |b, x, dims| b.reduce(ReduceFn::Prod, x, dims, true))),
    ("ReduceSum", |call| reduced(call, sum)),
    ("ReduceSumSquare", |call| reduced(call, sum_square)),
];

/// How dims of a node are combined; they stay as dims of size 1.
type Combine = fn(&mut Builder, NodeId, &[usize]) -> Build<NodeId>;

/// Without axes all dims are combined, or none where `noop_with_empty_axes` says so. Functions that the op applies before and
/// after are applied all the same.
fn reduced(call: &mut Call, combine: Combine) -> Results {
    let x = call.x(0)?;
    let rank = call.b.rank(x);
    let dims = match call.axes(1, rank)? {
        Some(dims) if !dims.is_empty() => dims,
        Some(_) | None if call.flag("noop_with_empty_axes", false) => vec![],
        Some(_) | None => (0..rank).collect(),
    };
    let keep = call.flag("keepdims", true);
    let b = &mut *call.b;
    let y = combine(b, x, &dims)?;
    let y = if keep { y } else { without(b, y, &dims)? };
    call.one(y)
}

/// A node without dims of size 1.
fn without(b: &mut Builder, x: NodeId, dims: &[usize]) -> Build<NodeId> {
    let shape = b.shape(x);
    let left: Vec<Dim> = shape
        .iter()
        .enumerate()
        .filter(|(dim, _)| !dims.contains(dim))
        .map(|(_, size)| size.clone())
        .collect();
    b.reshape(x, &left)
}

/// The dtype that sums of powers and logarithms are computed in, so that they neither overflow nor lose the fraction.
pub fn wide(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        DType::F32 | DType::F64 => dtype,
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => DType::F64,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool => DType::F64,
    }
}

/// Computes in the wider dtype and gives the result in the node's own.
fn widened(
    b: &mut Builder,
    x: NodeId,
    compute: impl FnOnce(&mut Builder, NodeId) -> Build<NodeId>,
) -> Build<NodeId> {
    let dtype = b.dtype(x);
    let x = b.convert(x, wide(dtype))?;
    let y = compute(b, x)?;
    b.convert(y, dtype)
}

fn sum(b: &mut Builder, x: NodeId, dims: &[usize]) -> Build<NodeId> {
    b.reduce(ReduceFn::Sum, x, dims, true)
}

/// The mean of integers is truncated, and their sum is exact.
fn mean(b: &mut Builder, x: NodeId, dims: &[usize]) -> Build<NodeId> {
    match b.dtype(x).is_float() {
        true => widened(b, x, |b, x| b.mean(x, dims, true)),
        false => b.mean(x, dims, true),
    }
}

fn l1(b: &mut Builder, x: NodeId, dims: &[usize]) -> Build<NodeId> {
    let unsigned = matches!(b.dtype(x), DType::U8 | DType::U16 | DType::U32 | DType::U64);
    let x = if unsigned { x } else { b.unary(F::Abs, x)? };
    sum(b, x, dims)
}

fn sum_square(b: &mut Builder, x: NodeId, dims: &[usize]) -> Build<NodeId> {
    let squares = |b: &mut Builder, x: NodeId| {
        let square = b.pointwise(F::Mul, &[x, x])?;
        sum(b, square, dims)
    };
    if b.dtype(x).is_float() { widened(b, x, squares) } else { squares(b, x) }
}

fn l2(b: &mut Builder, x: NodeId, dims: &[usize]) -> Build<NodeId> {
    widened(b, x, |b, x| {
        let square = sum_square(b, x, dims)?;
        b.unary(F::Sqrt, square)
    })
}

fn log_sum(b: &mut Builder, x: NodeId, dims: &[usize]) -> Build<NodeId> {
    widened(b, x, |b, x| {
        let sum = sum(b, x, dims)?;
        b.unary(F::Log, sum)
    })
}

/// `m + ln(sum of e^(x - m))` with the largest value as `m`, so that no exponential overflows. An infinite `m` would make
/// NaN of `x - m`, and 0 in its place gives the infinite result.
fn log_sum_exp(b: &mut Builder, x: NodeId, dims: &[usize]) -> Build<NodeId> {
    widened(b, x, |b, x| {
        let largest = b.reduce(ReduceFn::Max, x, dims, true)?;
        let magnitude = b.unary(F::Abs, largest)?;
        let infinite = b.with_scalar(F::Eq, magnitude, f64::INFINITY)?;
        let zero = b.number_like(x, 0.0);
        let shift = b.select(infinite, zero, largest)?;
        let shifted = b.binary(F::Sub, x, shift)?;
        let exp = b.unary(F::Exp, shifted)?;
        let sum = sum(b, exp, dims)?;
        let log = b.unary(F::Log, sum)?;
        b.pointwise(F::Add, &[log, shift])
    })
}

/// The position of the extreme: the smallest, or with `select_last_index` the largest, of the positions that hold it. NaN is
/// the extreme wherever there is one.
fn arg(call: &mut Call, function: ReduceFn) -> Results {
    let x = call.x(0)?;
    let rank = call.b.rank(x);
    let dim = call.axis_or(0, rank)?;
    let last = call.flag("select_last_index", false);
    let keep = call.flag("keepdims", true);
    let b = &mut *call.b;
    let positions = first_extreme(b, function, x, dim, last)?;
    let positions = b.convert(positions, DType::I64)?;
    let y = if keep { positions } else { without(b, positions, &[dim])? };
    call.one(y)
}

/// The first or last position of the extreme along a dim, which stays as one of size 1.
pub fn first_extreme(
    b: &mut Builder,
    function: ReduceFn,
    x: NodeId,
    dim: usize,
    last: bool,
) -> Build<NodeId> {
    let shape = b.shape(x);
    if shape[dim] == Dim::default() {
        return problem("nothing has no extreme");
    }
    let extreme = b.reduce(function, x, &[dim], true)?;
    let mut holds = b.binary(F::Eq, x, extreme)?;
    if b.dtype(x).is_float() {
        let nan = b.pointwise(F::Ne, &[x, x])?;
        holds = b.pointwise(F::Or, &[holds, nan])?;
    }
    let long = shape[dim].as_constant().is_some_and(|size| size > i64::from(i32::MAX));
    let dtype = if long { DType::I64 } else { DType::I32 };
    let position = b.iota_along(dtype, &shape, dim)?;
    let (other, winner) = match last {
        false => (dtype.range().1, ReduceFn::Min),
        true => (dtype.range().0, ReduceFn::Max),
    };
    let other = b.graph().scalar(dtype, other);
    let candidates = b.select(holds, position, other)?;
    b.reduce(winner, candidates, &[dim], true)
}

/// Without its own position, a running combination is that of the position before.
fn cumulative(call: &mut Call, function: ReduceFn) -> Results {
    let x = call.x(0)?;
    let rank = call.b.rank(x);
    let dim = normalize(call.number(1)?.to_i64(), rank)?;
    let (exclusive, reverse) = (call.flag("exclusive", false), call.flag("reverse", false));
    let b = &mut *call.b;
    let mut y = b.cumulative(function, x, dim, reverse)?;
    let size = b.shape(x)[dim].clone();
    if exclusive && size != Dim::default() {
        let left = &size - &Dim::ONE;
        y = b.slice_dim(y, dim, usize::from(reverse), left)?;
        let (low, high) = if reverse { (Dim::default(), Dim::ONE) } else { (Dim::ONE, Dim::default()) };
        let value = function.identity(b.dtype(x));
        y = b.pad(y, vec![PadDim { dim, low, high, interior: 0 }], value)?;
    }
    call.one(y)
}
