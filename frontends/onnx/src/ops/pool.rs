//! Windows combined to one value: pooling.

mod roi;
pub mod window;

use super::Row;
use super::reduce::wide;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results};
use thalweg_base::{DType, Dim, PointwiseFn as F, Scalar, dim::product};
use thalweg_tensor::ops::{PadDim, Scatter, Unfold};
use thalweg_tensor::{NodeId, ReduceFn, TensorType};
use window::{Slide, checked, extents, kernel_attribute, slides, windows};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("AveragePool", average_pool),
    ("GlobalAveragePool", global_average_pool),
    ("GlobalLpPool", global_lp_pool),
    ("GlobalMaxPool", global_max_pool),
    ("LpPool", lp_pool),
    ("MaxPool", max_pool),
    ("MaxRoiPool", roi::max_pool),
    ("MaxUnpool", max_unpool),
    ("RoiAlign", roi::align),
];

/// The number of spatial dims of an image batch.
fn spatial(shape: &[Dim]) -> Build<usize> {
    match shape.len().checked_sub(2) {
        Some(count @ 1..) => Ok(count),
        Some(_) | None => problem(format!("{shape:?} is no image batch: it has no spatial dims")),
    }
}

/// The windows of a pooling node over a batch of that shape.
fn pooled(call: &Call, shape: &[Dim]) -> Build<Vec<Slide>> {
    let count = spatial(shape)?;
    let kernel = kernel_attribute(call, count)?;
    slides(call, &shape[2..], &kernel)
}

/// The dims of the windows' positions behind those of a tensor of that rank.
fn inner(rank: usize, slides: &[Slide]) -> Vec<usize> {
    (rank..rank + slides.len()).collect()
}

fn max_pool(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let shape = call.b.shape(x);
    let slides = pooled(call, &shape)?;
    let column_major = call.flag("storage_order", false);
    let wants_indices = call.wants(1);
    let b = &mut *call.b;
    let value = b.dtype(x).range().0;
    let taken = b.add(Unfold { windows: windows(&slides, 2), value }, &[x])?;
    let y = b.reduce(ReduceFn::Max, taken, &inner(shape.len(), &slides), false)?;
    if !wants_indices {
        return call.one(y);
    }
    let indices = winners(b, taken, y, &shape, &slides, column_major)?;
    call.several(&[y, indices])
}

/// Where in the whole input the first largest value of each window is.
fn winners(
    b: &mut Builder,
    taken: NodeId,
    largest: NodeId,
    shape: &[Dim],
    slides: &[Slide],
    column_major: bool,
) -> Build<NodeId> {
    let rank = shape.len();
    let dims: Vec<usize> = (0..rank).collect();
    let all = b.shape(taken);
    let largest = b.broadcast(largest, &all, &dims)?;
    let mut holds = b.pointwise(F::Eq, &[taken, largest])?;
    if b.dtype(taken).is_float() {
        let nan = b.pointwise(F::Ne, &[taken, taken])?;
        holds = b.pointwise(F::Or, &[holds, nan])?;
    }
    let plane = product(&shape[2..]);
    let place = b.iota(DType::I64, plane.clone())?;
    let place = b.reshape(place, &shape[2..])?;
    let beyond = DType::I64.range().1;
    let place = b.add(Unfold { windows: windows(slides, 0), value: beyond }, &[place])?;
    let place = b.broadcast(place, &all, &(2..all.len()).collect::<Vec<usize>>())?;
    let beyond = b.graph().scalar(DType::I64, beyond);
    let candidates = b.select(holds, place, beyond)?;
    let mut place = b.reduce(ReduceFn::Min, candidates, &inner(rank, slides), false)?;
    if column_major {
        place = transposed(b, place, &shape[2..])?;
    }
    let out = b.shape(place);
    let images = b.iota(DType::I64, &shape[0] * &shape[1])?;
    let images = b.reshape(images, &shape[..2])?;
    let size = b.size_like(images, &plane)?;
    let start = b.binary(F::Mul, images, size)?;
    let start = b.broadcast(start, &out, &[0, 1])?;
    b.pointwise(F::Add, &[start, place])
}

/// Positions in row-major order as positions in column-major order.
fn transposed(b: &mut Builder, place: NodeId, sizes: &[Dim]) -> Build<NodeId> {
    let mut rest = place;
    let mut sum = None;
    for (dim, size) in sizes.iter().enumerate().rev() {
        let size = b.size_like(rest, size)?;
        let at = b.binary(F::Rem, rest, size)?;
        rest = b.binary(F::Div, rest, size)?;
        let step = b.size_like(rest, &product(&sizes[..dim]))?;
        let part = b.binary(F::Mul, at, step)?;
        sum = Some(match sum {
            None => part,
            Some(sum) => b.pointwise(F::Add, &[sum, part])?,
        });
    }
    Ok(sum.unwrap_or(place))
}

/// The sum of each window, whose padding counts 0.
fn window_sum(b: &mut Builder, x: NodeId, slides: &[Slide], first: usize) -> Build<NodeId> {
    let value = Scalar::zero(b.dtype(x));
    let rank = b.rank(x);
    let taken = b.add(Unfold { windows: windows(slides, first), value }, &[x])?;
    b.reduce(ReduceFn::Sum, taken, &inner(rank, slides), false)
}

/// The sum of each window over how many of its positions count: all without padding, or all but those that only make the
/// last window whole.
fn average_pool(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let shape = call.b.shape(x);
    let slides = pooled(call, &shape)?;
    let padding_counts = call.flag("count_include_pad", false);
    let b = &mut *call.b;
    let dtype = b.dtype(x);
    let x = b.convert(x, wide(dtype))?;
    let sum = window_sum(b, x, &slides, 2)?;
    let whole =
        slides.iter().all(|slide| slide.extra == 0 && (padding_counts || slide.low + slide.high == 0));
    let y = match whole {
        true => b.with_scalar(F::Div, sum, slides.iter().map(|slide| slide.size as f64).product())?,
        false => {
            let count = counts(b, b.dtype(sum), &shape[2..], &slides, padding_counts)?;
            let all = b.shape(sum);
            let count = b.broadcast(count, &all, &(2..all.len()).collect::<Vec<usize>>())?;
            b.pointwise(F::Div, &[sum, count])?
        }
    };
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// How many positions count in each window of one image: the product of the counts along each dim.
fn counts(
    b: &mut Builder,
    dtype: DType,
    sizes: &[Dim],
    slides: &[Slide],
    padding_counts: bool,
) -> Build<NodeId> {
    let out: Vec<Dim> = slides.iter().zip(sizes).map(|(slide, size)| slide.window(0).count(size)).collect();
    let mut all = None;
    for (dim, (slide, size)) in slides.iter().zip(sizes).enumerate() {
        let (size, slide) = match padding_counts {
            true => (size + &Dim::from(slide.low + slide.high), Slide { low: 0, high: 0, ..*slide }),
            false => (size.clone(), *slide),
        };
        let ones = b.full(dtype, &[size], 1.0)?;
        let line = window_sum(b, ones, &[slide], 0)?;
        let line = b.broadcast(line, &out, &[dim])?;
        all = Some(match all {
            None => line,
            Some(all) => b.pointwise(F::Mul, &[all, line])?,
        });
    }
    match all {
        Some(all) => Ok(all),
        None => problem("an image has a spatial dim at least"),
    }
}

/// The exponent of a norm: an integer attribute, at first a number.
fn exponent(call: &Call) -> Build<f64> {
    let p = match call.attribute("p") {
        None => 2.0,
        Some(p) if call.opset < 2 => p.f as f64,
        Some(p) => p.i as f64,
    };
    if p > 0.0 { Ok(p) } else { problem(format!("there is no norm of exponent {p}")) }
}

/// `(sum of |x|^p)^(1/p)`, of sums that are computed by a function.
pub fn norm(
    b: &mut Builder,
    x: NodeId,
    p: f64,
    sum: impl FnOnce(&mut Builder, NodeId) -> Build<NodeId>,
) -> Build<NodeId> {
    let powers = match p {
        1.0 => b.unary(F::Abs, x)?,
        2.0 => b.pointwise(F::Mul, &[x, x])?,
        p => {
            let magnitude = b.unary(F::Abs, x)?;
            b.with_scalar(F::Pow, magnitude, p)?
        }
    };
    let sum = sum(b, powers)?;
    match p {
        1.0 => Ok(sum),
        2.0 => b.unary(F::Sqrt, sum),
        p => b.with_scalar(F::Pow, sum, 1.0 / p),
    }
}

fn lp_pool(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let shape = call.b.shape(x);
    let slides = pooled(call, &shape)?;
    let p = exponent(call)?;
    let b = &mut *call.b;
    let dtype = b.dtype(x);
    let x = b.convert(x, wide(dtype))?;
    let y = norm(b, x, p, |b, powers| window_sum(b, powers, &slides, 2))?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// The operand in the dtype it is combined in, and its spatial dims.
fn whole(call: &mut Call) -> Build<(DType, NodeId, Vec<usize>)> {
    let x = call.x(0)?;
    let b = &mut *call.b;
    let count = spatial(&b.shape(x))?;
    let dtype = b.dtype(x);
    let x = b.convert(x, wide(dtype))?;
    Ok((dtype, x, (2..2 + count).collect()))
}

fn global_average_pool(call: &mut Call) -> Results {
    let (dtype, x, dims) = whole(call)?;
    let y = call.b.mean(x, &dims, true)?;
    let y = call.b.convert(y, dtype)?;
    call.one(y)
}

fn global_max_pool(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let count = spatial(&call.b.shape(x))?;
    let dims: Vec<usize> = (2..2 + count).collect();
    let y = call.b.reduce(ReduceFn::Max, x, &dims, true)?;
    call.one(y)
}

fn global_lp_pool(call: &mut Call) -> Results {
    let p = exponent(call)?;
    let (dtype, x, dims) = whole(call)?;
    let y = norm(call.b, x, p, |b, powers| b.reduce(ReduceFn::Sum, powers, &dims, true))?;
    let y = call.b.convert(y, dtype)?;
    call.one(y)
}

/// Values put back to where they were the largest of their windows. The indices count in the smallest image that the windows
/// cover; a larger result goes on with zeros.
fn max_unpool(call: &mut Call) -> Results {
    let (x, indices) = (call.x(0)?, call.x(1)?);
    let shape = call.b.shape(x);
    let count = spatial(&shape)?;
    let kernel = kernel_attribute(call, count)?;
    let strides = extents(call, "strides", count, 1, 1)?;
    let pads = extents(call, "pads", 2 * count, 0, 0)?;
    let wanted = match call.has(2) {
        true => {
            let listed = call.ints(2)?;
            Some(checked(&listed[listed.len().saturating_sub(count)..], "output_shape", count, 0)?)
        }
        false => None,
    };
    let b = &mut *call.b;
    let mut covered = shape[..2].to_vec();
    for at in 0..count {
        let span = kernel[at] as i64 - pads[at] as i64 - pads[at + count] as i64;
        covered.push(&(&(&shape[2 + at] - &Dim::ONE) * &Dim::from(strides[at])) + &Dim::constant(span));
    }
    crate::builder::check_elements(&covered)?;
    let (all, size) = (product(&shape), product(&covered));
    if b.shape(indices) != shape {
        return problem(format!("indices of shape {:?} are not those of {shape:?}", b.shape(indices)));
    }
    let (flat, indices) =
        (b.reshape(x, std::slice::from_ref(&all))?, b.reshape(indices, std::slice::from_ref(&all))?);
    let scatter = |b: &mut Builder, values: NodeId| {
        b.add(Scatter { dim: 0, batch: 0, size: size.clone() }, &[indices, values])
    };
    let mut y = scatter(b, flat)?;
    // A value that won in several windows that overlap is there once.
    if kernel.iter().zip(&strides).any(|(size, stride)| stride < size) {
        let ones = TensorType { dtype: b.dtype(x), shape: vec![all] };
        let one = Scalar::one(ones.dtype);
        let ones = b.graph().full(&ones, one);
        let times = scatter(b, ones)?;
        let times = b.with_scalar(F::Max, times, 1.0)?;
        y = b.pointwise(F::Div, &[y, times])?;
    }
    let mut y = b.reshape(y, &covered)?;
    if let Some(wanted) = wanted {
        let zero = Scalar::zero(b.dtype(x));
        for (at, size) in wanted.into_iter().enumerate() {
            let own = b.size(y, 2 + at)?;
            y = b.slice_dim(y, 2 + at, 0, own.min(size))?;
            let high = size.saturating_sub(own).into();
            y = b.pad(y, vec![PadDim { dim: 2 + at, low: Dim::default(), high, interior: 0 }], zero)?;
        }
    }
    call.one(y)
}
