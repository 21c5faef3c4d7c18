//! Values brought to a common mean and scale.

use super::Row;
use super::pool::norm;
use super::reduce::wide;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results, normalize};
use crate::value::Value;
use thalweg_base::{DType, Dim, PointwiseFn as F, Scalar};
use thalweg_tensor::ops::{Unfold, Window};
use thalweg_tensor::{NodeId, ReduceFn};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("BatchNormalization", batch),
    ("GroupNormalization", group),
    ("InstanceNormalization", instance),
    ("LRN", local_response),
    ("LayerNormalization", layer),
    ("LpNormalization", lp),
    ("MeanVarianceNormalization", mean_variance),
    ("RMSNormalization", root_mean_square),
];

/// The largest window of channels.
const CHANNELS_MAX: i64 = 1 << 24;

/// A node less its mean over dims, with that mean and the variance, both of whose dims stay as dims of size 1.
struct Centered {
    difference: NodeId,
    mean: NodeId,
    variance: NodeId,
}

fn centered(b: &mut Builder, x: NodeId, dims: &[usize]) -> Build<Centered> {
    let mean = b.mean(x, dims, true)?;
    let difference = b.binary(F::Sub, x, mean)?;
    let square = b.pointwise(F::Mul, &[difference, difference])?;
    let variance = b.mean(square, dims, true)?;
    Ok(Centered { difference, mean, variance })
}

/// `1 / sqrt(x + epsilon)`.
fn inverse_root(b: &mut Builder, x: NodeId, epsilon: f64) -> Build<NodeId> {
    let more = b.with_scalar(F::Add, x, epsilon)?;
    b.unary(F::Rsqrt, more)
}

/// The attribute `epsilon`, whose default is rounded to f32 as the format does.
fn epsilon(call: &Call) -> f64 {
    call.float_or("epsilon", f64::from(1e-5f32))
}

/// A node repeated along all dims of a shape but the one that it is of.
fn along(b: &mut Builder, x: NodeId, shape: &[Dim], dim: usize) -> Build<NodeId> {
    match b.rank(x) {
        1 => b.broadcast(x, shape, &[dim]),
        rank => problem(format!("an operand of {rank} dims is not of one number for each channel")),
    }
}

/// With statistics of its own (`training`), the result is of the batch, and the statistics are moved towards those of it.
fn batch(call: &mut Call) -> Results {
    let operands = call.all()?;
    let [x, scale, bias, mean, variance] = operands[..] else { return problem("there are five operands") };
    let (epsilon, momentum) = (epsilon(call), call.float_or("momentum", f64::from(0.9f32)));
    // Before op set 9, `spatial` 0 is for statistics of each position; before 14, asking for statistics asks for training.
    let spatial = call.opset >= 9 || call.flag("spatial", true);
    let training = match call.opset {
        14.. => call.flag("training_mode", false),
        _ => call.wants(1) && !(call.opset < 7 && call.flag("is_test", false)),
    };
    let b = &mut *call.b;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let kept: Vec<usize> = match (shape.len(), spatial) {
        (0, _) => return problem("a batch has a dim at least"),
        (1, true) => vec![],
        (_, true) => vec![1],
        (rank, false) => (1..rank).collect(),
    };
    let sizes: Vec<Dim> = match kept.is_empty() {
        true => vec![Dim::ONE],
        false => kept.iter().map(|dim| shape[*dim].clone()).collect(),
    };
    let all_wide = wide(dtype);
    let x = b.convert(x, all_wide)?;
    let wider = |b: &mut Builder, operand: NodeId| {
        let operand = b.convert(operand, all_wide)?;
        if b.shape(operand) != sizes {
            return problem(format!("the statistics of {shape:?} are of shape {sizes:?}"));
        }
        Ok(operand)
    };
    let types = [b.dtype(mean), b.dtype(variance)];
    let (scale, bias) = (wider(b, scale)?, wider(b, bias)?);
    let (mean, variance) = (wider(b, mean)?, wider(b, variance)?);
    let own = match training {
        true => {
            let dims: Vec<usize> = (0..shape.len()).filter(|dim| !kept.contains(dim)).collect();
            let own = centered(b, x, &dims)?;
            Some((b.reshape(own.mean, &sizes)?, b.reshape(own.variance, &sizes)?))
        }
        false => None,
    };
    let (center, spread) = own.unwrap_or((mean, variance));
    let inverse = inverse_root(b, spread, epsilon)?;
    let factor = b.pointwise(F::Mul, &[scale, inverse])?;
    let spread_over = |b: &mut Builder, operand: NodeId| match kept.is_empty() {
        true => b.broadcast_to(operand, &shape),
        false => b.broadcast(operand, &shape, &kept),
    };
    let (center, factor) = (spread_over(b, center)?, spread_over(b, factor)?);
    let bias = spread_over(b, bias)?;
    let y = b.pointwise(F::Sub, &[x, center])?;
    let y = b.pointwise(F::Mul, &[y, factor])?;
    let y = b.pointwise(F::Add, &[y, bias])?;
    let y = b.convert(y, dtype)?;
    let Some((own_mean, own_variance)) = own else { return call.one(y) };
    let mut results = vec![y];
    for ((old, own), dtype) in [(mean, own_mean), (variance, own_variance)].into_iter().zip(types) {
        let old = b.with_scalar(F::Mul, old, momentum)?;
        let new = b.with_scalar(F::Mul, own, 1.0 - momentum)?;
        let moved = b.pointwise(F::Add, &[old, new])?;
        results.push(b.convert(moved, dtype)?);
    }
    // Before op set 14 the batch's own statistics are outputs too.
    for (own, dtype) in [own_mean, own_variance].into_iter().zip(types) {
        results.push(b.convert(own, dtype)?);
    }
    call.several(&results)
}

fn instance(call: &mut Call) -> Results {
    let (x, scale, bias) = (call.x(0)?, call.x(1)?, call.x(2)?);
    let epsilon = epsilon(call);
    let b = &mut *call.b;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    if shape.len() < 2 {
        return problem("a batch with channels has 2 dims at least");
    }
    let dims: Vec<usize> = (2..shape.len()).collect();
    let x = b.convert(x, wide(dtype))?;
    let Centered { difference, variance, .. } = centered(b, x, &dims)?;
    let inverse = inverse_root(b, variance, epsilon)?;
    let y = b.binary(F::Mul, difference, inverse)?;
    let y = affine(b, y, scale, bias)?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// `x scale + bias` with a number for each channel.
fn affine(b: &mut Builder, x: NodeId, scale: NodeId, bias: NodeId) -> Build<NodeId> {
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let (scale, bias) = (b.convert(scale, dtype)?, b.convert(bias, dtype)?);
    let (scale, bias) = (along(b, scale, &shape, 1)?, along(b, bias, &shape, 1)?);
    let y = b.pointwise(F::Mul, &[x, scale])?;
    b.pointwise(F::Add, &[y, bias])
}

/// Statistics over groups of channels. Before op set 21 there is one scale for each group, since then one for each channel.
fn group(call: &mut Call) -> Results {
    let (x, scale, bias) = (call.x(0)?, call.x(1)?, call.x(2)?);
    let epsilon = epsilon(call);
    let groups = Dim::constant(call.int_or("num_groups", 0));
    let by_channel = call.opset >= 21;
    let stash = stash(call, call.b.dtype(x))?;
    let b = &mut *call.b;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    if shape.len() < 2 {
        return problem("a batch with channels has 2 dims at least");
    }
    let Some(each) = shape[1].exact_div(&groups).filter(|_| groups > Dim::default()) else {
        return problem(format!("{} channels make no {groups} groups", shape[1]));
    };
    let split = [&[shape[0].clone(), groups, each], &shape[2..]].concat();
    let dims: Vec<usize> = (2..split.len()).collect();
    let x = b.convert(x, stash)?;
    let x = b.reshape(x, &split)?;
    let Centered { difference, variance, .. } = centered(b, x, &dims)?;
    let inverse = inverse_root(b, variance, epsilon)?;
    let mut y = b.binary(F::Mul, difference, inverse)?;
    if !by_channel {
        y = affine(b, y, scale, bias)?;
    }
    let mut y = b.reshape(y, &shape)?;
    if by_channel {
        y = affine(b, y, scale, bias)?;
    }
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// The dtype of the attribute `stash_type`, in which a normalization is computed; not a narrower one than the operand's.
fn stash(call: &Call, dtype: DType) -> Build<DType> {
    let stash = call.dtype_or("stash_type", DType::F32)?;
    match (stash.is_float(), dtype) {
        (false, _) => problem(format!("statistics are not of {stash}")),
        (true, DType::F64) => Ok(DType::F64),
        (true, _) => Ok(stash),
    }
}

/// The operand in the dtype of the statistics, and the dims from `axis` on.
fn over_last(call: &mut Call) -> Build<(NodeId, Vec<usize>)> {
    let x = call.x(0)?;
    let rank = call.b.rank(x);
    let first = call.axis_or(-1, rank)?;
    let stash = stash(call, call.b.dtype(x))?;
    Ok((call.b.convert(x, stash)?, (first..rank).collect()))
}

/// A function of `x` and an operand that is repeated to its shape, in the dtype of `x`.
fn with_operand(b: &mut Builder, function: F, x: NodeId, operand: NodeId) -> Build<NodeId> {
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let operand = b.convert(operand, dtype)?;
    let operand = b.broadcast_to(operand, &shape)?;
    b.pointwise(function, &[x, operand])
}

/// The statistics are results of the type that they are computed in.
fn layer(call: &mut Call) -> Results {
    let (x, dims) = over_last(call)?;
    let (dtype, scale, bias) = (call.tensor(0)?.ty.dtype, call.x(1)?, call.optional(2)?);
    let statistics = call.dtype_or("stash_type", DType::F32)?;
    let epsilon = epsilon(call);
    let b = &mut *call.b;
    let Centered { difference, mean, variance } = centered(b, x, &dims)?;
    let inverse = inverse_root(b, variance, epsilon)?;
    let y = b.binary(F::Mul, difference, inverse)?;
    let mut y = with_operand(b, F::Mul, y, scale)?;
    if let Some(bias) = bias {
        y = with_operand(b, F::Add, y, bias)?;
    }
    let y = b.convert(y, dtype)?;
    let mut results = vec![b.value(y)];
    for (at, id) in [(1, mean), (2, inverse)] {
        if call.wants(at) {
            let id = call.b.convert(id, statistics)?;
            results.resize(at, Value::Optional(None));
            results.push(call.b.value(id));
        }
    }
    Ok(results)
}

fn root_mean_square(call: &mut Call) -> Results {
    let (x, dims) = over_last(call)?;
    let (dtype, scale) = (call.tensor(0)?.ty.dtype, call.x(1)?);
    let epsilon = epsilon(call);
    let b = &mut *call.b;
    let square = b.pointwise(F::Mul, &[x, x])?;
    let mean = b.mean(square, &dims, true)?;
    let inverse = inverse_root(b, mean, epsilon)?;
    let y = b.binary(F::Mul, x, inverse)?;
    let y = with_operand(b, F::Mul, y, scale)?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// `x / (bias + alpha / size * s)^beta` with the sum `s` of the squares of the channels around.
fn local_response(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let size = match call.int_or("size", 0) {
        size @ 1..=CHANNELS_MAX => size as usize,
        other => return problem(format!("there is no window of {other} channels")),
    };
    let (alpha, beta) = (call.float_or("alpha", f64::from(1e-4f32)), call.float_or("beta", 0.75));
    let bias = call.float_or("bias", 1.0);
    let b = &mut *call.b;
    let (dtype, rank) = (b.dtype(x), b.rank(x));
    if rank < 2 {
        return problem("a batch with channels has 2 dims at least");
    }
    let x = b.convert(x, wide(dtype))?;
    let square = b.pointwise(F::Mul, &[x, x])?;
    let window = Window { dim: 1, size, stride: 1, dilation: 1, low: (size - 1) / 2, high: size / 2 };
    let value = Scalar::Float(0.0);
    let around = b.add(Unfold { windows: vec![window], value }, &[square])?;
    let sum = b.reduce(ReduceFn::Sum, around, &[rank], false)?;
    let scaled = b.with_scalar(F::Mul, sum, alpha / size as f64)?;
    let base = b.with_scalar(F::Add, scaled, bias)?;
    let divisor = b.with_scalar(F::Pow, base, beta)?;
    let y = b.pointwise(F::Div, &[x, divisor])?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// Values over their norm along a dim; 0 where the norm is.
fn lp(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let p = call.int_or("p", 2);
    if !(1..=2).contains(&p) {
        return problem(format!("there is no norm of exponent {p} here"));
    }
    let dim = call.axis_or(-1, call.b.rank(x))?;
    let b = &mut *call.b;
    let dtype = b.dtype(x);
    let x = b.convert(x, wide(dtype))?;
    let norm = norm(b, x, p as f64, |b, powers| b.reduce(ReduceFn::Sum, powers, &[dim], true))?;
    let zero = b.number_like(norm, 0.0);
    let nothing = b.binary(F::Eq, norm, zero)?;
    let ratio = b.binary(F::Div, x, norm)?;
    let y = b.select(nothing, zero, ratio)?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// The format adds this to the standard deviation.
const DEVIATION_LEAST: f64 = 1e-9;

fn mean_variance(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let rank = call.b.rank(x);
    let axes = call.int_list("axes").unwrap_or_else(|| vec![0, 2, 3]);
    let dims = axes.into_iter().map(|axis| normalize(axis, rank)).collect::<Build<Vec<usize>>>()?;
    let b = &mut *call.b;
    let dtype = b.dtype(x);
    let x = b.convert(x, wide(dtype))?;
    let Centered { difference, variance, .. } = centered(b, x, &dims)?;
    let deviation = b.unary(F::Sqrt, variance)?;
    let divisor = b.with_scalar(F::Add, deviation, DEVIATION_LEAST)?;
    let y = b.binary(F::Div, difference, divisor)?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}
