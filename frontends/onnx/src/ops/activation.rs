//! Activations: functions of each position that models put between layers.

use super::Row;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results};
use thalweg_base::{DType, Dim, PointwiseFn as F, dim::product};
use thalweg_tensor::{NodeId, ReduceFn};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("Celu", celu),
    ("Elu", elu),
    ("Gelu", gelu),
    ("HardSigmoid", hard_sigmoid),
    ("HardSwish", hard_swish),
    ("Hardmax", hardmax),
    ("LeakyRelu", leaky_relu),
    ("LogSoftmax", |call| softmax(call, true)),
    ("Mish", mish),
    ("PRelu", prelu),
    ("Relu", relu),
    ("Selu", selu),
    ("Shrink", shrink),
    ("Sigmoid", sigmoid),
    ("Softmax", |call| softmax(call, false)),
    ("Softplus", softplus),
    ("Softsign", softsign),
    ("Swish", swish),
    ("ThresholdedRelu", thresholded_relu),
];

/// An activation of known parameters, by the name that recurrent nodes use for it.
pub fn named(b: &mut Builder, name: &str, alpha: Option<f64>, beta: Option<f64>, x: NodeId) -> Build<NodeId> {
    match name.to_ascii_lowercase().as_str() {
        "relu" => b.with_scalar(F::Max, x, 0.0),
        "tanh" => b.unary(F::Tanh, x),
        "sigmoid" => logistic(b, x),
        "affine" => {
            let scaled = b.with_scalar(F::Mul, x, alpha.unwrap_or(1.0))?;
            b.with_scalar(F::Add, scaled, beta.unwrap_or(0.0))
        }
        "leakyrelu" => leaky(b, x, alpha.unwrap_or(0.01)),
        "thresholdedrelu" => above(b, x, alpha.unwrap_or(1.0)),
        "scaledtanh" => {
            let inner = b.with_scalar(F::Mul, x, beta.unwrap_or(1.0))?;
            let curve = b.unary(F::Tanh, inner)?;
            b.with_scalar(F::Mul, curve, alpha.unwrap_or(1.0))
        }
        "hardsigmoid" => clamped_line(b, x, alpha.unwrap_or(0.2), beta.unwrap_or(0.5)),
        "elu" => exponential_below(b, x, alpha.unwrap_or(1.0), 1.0),
        "softsign" => {
            let magnitude = b.unary(F::Abs, x)?;
            let divisor = b.with_scalar(F::Add, magnitude, 1.0)?;
            b.pointwise(F::Div, &[x, divisor])
        }
        "softplus" => log_one_plus_exp(b, x),
        other => problem(format!("there is no activation `{other}`")),
    }
}

/// `1 / (1 + e^-x)`.
pub fn logistic(b: &mut Builder, x: NodeId) -> Build<NodeId> {
    let negated = b.unary(F::Neg, x)?;
    let exp = b.unary(F::Exp, negated)?;
    let divisor = b.with_scalar(F::Add, exp, 1.0)?;
    let one = b.number_like(x, 1.0);
    b.binary(F::Div, one, divisor)
}

/// `ln(1 + e^x) = max(x, 0) + log1p(e^-|x|)`.
fn log_one_plus_exp(b: &mut Builder, x: NodeId) -> Build<NodeId> {
    let magnitude = b.unary(F::Abs, x)?;
    let negated = b.unary(F::Neg, magnitude)?;
    let exp = b.unary(F::Exp, negated)?;
    let log = b.unary(F::Log1p, exp)?;
    let positive = b.with_scalar(F::Max, x, 0.0)?;
    b.pointwise(F::Add, &[positive, log])
}

/// `a` where `x` is above 0, else `b`.
fn by_sign(b: &mut Builder, x: NodeId, above: NodeId, below: NodeId) -> Build<NodeId> {
    let positive = b.with_scalar(F::Gt, x, 0.0)?;
    b.select(positive, above, below)
}

fn leaky(b: &mut Builder, x: NodeId, slope: f64) -> Build<NodeId> {
    let sloped = b.with_scalar(F::Mul, x, slope)?;
    by_sign(b, x, x, sloped)
}

/// The value where it is above a threshold, else 0.
fn above(b: &mut Builder, x: NodeId, threshold: f64) -> Build<NodeId> {
    let holds = b.with_scalar(F::Gt, x, threshold)?;
    let zero = b.number_like(x, 0.0);
    b.select(holds, x, zero)
}

/// `min(max(a x + b, 0), 1)`.
fn clamped_line(b: &mut Builder, x: NodeId, slope: f64, offset: f64) -> Build<NodeId> {
    let line = b.with_scalar(F::Mul, x, slope)?;
    let line = b.with_scalar(F::Add, line, offset)?;
    let low = b.with_scalar(F::Max, line, 0.0)?;
    b.with_scalar(F::Min, low, 1.0)
}

/// `x` above 0, else `alpha (e^(x / width) - 1)`.
fn exponential_below(b: &mut Builder, x: NodeId, alpha: f64, width: f64) -> Build<NodeId> {
    let scaled = if width == 1.0 { x } else { b.with_scalar(F::Div, x, width)? };
    let exp = b.unary(F::Expm1, scaled)?;
    let below = b.with_scalar(F::Mul, exp, alpha)?;
    by_sign(b, x, x, below)
}

fn relu(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let y = call.b.with_scalar(F::Max, x, 0.0)?;
    call.one(y)
}

fn sigmoid(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let y = logistic(call.b, x)?;
    call.one(y)
}

fn leaky_relu(call: &mut Call) -> Results {
    let (x, slope) = (call.x(0)?, call.float_or("alpha", 0.01));
    let y = leaky(call.b, x, slope)?;
    call.one(y)
}

/// Before op set 7, a slope of rank 1 is one for each channel, the second dim.
fn prelu(call: &mut Call) -> Results {
    let (x, mut slope) = (call.x(0)?, call.x(1)?);
    if call.opset < 7 && call.b.rank(slope) == 1 && call.b.rank(x) > 2 {
        let channels = call.b.shape(slope)[0].clone();
        let shape = [vec![channels], vec![Dim::ONE; call.b.rank(x) - 2]].concat();
        slope = call.b.reshape(slope, &shape)?;
    }
    let sloped = call.b.binary(F::Mul, x, slope)?;
    let y = by_sign(call.b, x, x, sloped)?;
    call.one(y)
}

fn thresholded_relu(call: &mut Call) -> Results {
    let (x, threshold) = (call.x(0)?, call.float_or("alpha", 1.0));
    let y = above(call.b, x, threshold)?;
    call.one(y)
}

fn hard_sigmoid(call: &mut Call) -> Results {
    let (x, slope, offset) = (call.x(0)?, call.float_or("alpha", 0.2), call.float_or("beta", 0.5));
    let y = clamped_line(call.b, x, slope, offset)?;
    call.one(y)
}

fn hard_swish(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let gate = clamped_line(call.b, x, 1.0 / 6.0, 0.5)?;
    let y = call.b.pointwise(F::Mul, &[x, gate])?;
    call.one(y)
}

fn elu(call: &mut Call) -> Results {
    let (x, alpha) = (call.x(0)?, call.float_or("alpha", 1.0));
    let y = exponential_below(call.b, x, alpha, 1.0)?;
    call.one(y)
}

fn celu(call: &mut Call) -> Results {
    let (x, alpha) = (call.x(0)?, call.float_or("alpha", 1.0));
    let y = exponential_below(call.b, x, alpha, alpha)?;
    call.one(y)
}

/// The defaults are those of Klambauer et al., arXiv 1706.02515, rounded to f32 as the format does.
fn selu(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let (alpha, gamma) = (call.float_or("alpha", 1.673_263_192), call.float_or("gamma", 1.050_701_02));
    let curve = exponential_below(call.b, x, alpha, 1.0)?;
    let y = call.b.with_scalar(F::Mul, curve, gamma)?;
    call.one(y)
}

fn softplus(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let y = log_one_plus_exp(call.b, x)?;
    call.one(y)
}

fn softsign(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let y = named(call.b, "softsign", None, None, x)?;
    call.one(y)
}

fn mish(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let soft = log_one_plus_exp(call.b, x)?;
    let gate = call.b.unary(F::Tanh, soft)?;
    let y = call.b.pointwise(F::Mul, &[x, gate])?;
    call.one(y)
}

fn swish(call: &mut Call) -> Results {
    let (x, alpha) = (call.x(0)?, call.float_or("alpha", 1.0));
    let scaled = if alpha == 1.0 { x } else { call.b.with_scalar(F::Mul, x, alpha)? };
    let gate = logistic(call.b, scaled)?;
    let y = call.b.pointwise(F::Mul, &[x, gate])?;
    call.one(y)
}

fn shrink(call: &mut Call) -> Results {
    let (x, lambda, bias) = (call.x(0)?, call.float_or("lambd", 0.5), call.float_or("bias", 0.0));
    let b = &mut *call.b;
    let dtype = b.dtype(x);
    // The threshold need not be a value of an integer dtype.
    let wide = if dtype.is_float() { dtype } else { DType::F64 };
    let x = b.convert(x, wide)?;
    let (low, high) = (b.with_scalar(F::Lt, x, -lambda)?, b.with_scalar(F::Gt, x, lambda)?);
    let (up, down) = (b.with_scalar(F::Add, x, bias)?, b.with_scalar(F::Sub, x, bias)?);
    let zero = b.number_like(x, 0.0);
    let y = b.select(high, down, zero)?;
    let y = b.select(low, up, y)?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// With the error function, or the approximation by tanh (Hendrycks and Gimpel, arXiv 1606.08415).
fn gelu(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let approximate = call.text_or("approximate", "none") == "tanh";
    let b = &mut *call.b;
    let curve = match approximate {
        true => {
            let square = b.pointwise(F::Mul, &[x, x])?;
            let cubic = b.with_scalar(F::Mul, square, 0.044_715)?;
            let more = b.with_scalar(F::Add, cubic, 1.0)?;
            let inner = b.pointwise(F::Mul, &[x, more])?;
            let scaled = b.with_scalar(F::Mul, inner, (2.0 / std::f64::consts::PI).sqrt())?;
            b.unary(F::Tanh, scaled)?
        }
        false => {
            let scaled = b.with_scalar(F::Mul, x, std::f64::consts::FRAC_1_SQRT_2)?;
            b.unary(F::Erf, scaled)?
        }
    };
    let gate = b.with_scalar(F::Add, curve, 1.0)?;
    let half = b.with_scalar(F::Mul, x, 0.5)?;
    let y = b.pointwise(F::Mul, &[half, gate])?;
    call.one(y)
}

/// The dims that a softmax is over: one since op set 13, before all from `axis` on.
fn softmax_dims(call: &Call, rank: usize) -> Build<Vec<usize>> {
    match call.opset >= 13 {
        true => Ok(vec![call.axis_or(-1, rank)?]),
        false => {
            let axis = call.int_or("axis", 1);
            let first = if axis == rank as i64 { rank } else { crate::call::normalize(axis, rank)? };
            Ok((first..rank).collect())
        }
    }
}

/// `x - max(x)`, and the sum of its exponentials.
pub fn shifted(b: &mut Builder, x: NodeId, dims: &[usize]) -> Build<(NodeId, NodeId, NodeId)> {
    let largest = b.reduce(ReduceFn::Max, x, dims, true)?;
    let shifted = b.binary(F::Sub, x, largest)?;
    let exp = b.unary(F::Exp, shifted)?;
    let sum = b.reduce(ReduceFn::Sum, exp, dims, true)?;
    Ok((shifted, exp, sum))
}

fn softmax(call: &mut Call, log: bool) -> Results {
    let x = call.x(0)?;
    let dims = softmax_dims(call, call.b.rank(x))?;
    let (shifted, exp, sum) = shifted(call.b, x, &dims)?;
    let y = match log {
        true => {
            let log = call.b.unary(F::Log, sum)?;
            call.b.binary(F::Sub, shifted, log)?
        }
        false => call.b.binary(F::Div, exp, sum)?,
    };
    call.one(y)
}

/// 1 at the first largest value, else 0.
fn hardmax(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let shape = call.b.shape(x);
    let dims = softmax_dims(call, shape.len())?;
    let first = dims.first().copied().unwrap_or(shape.len());
    let last = dims.last().map_or(shape.len(), |dim| dim + 1);
    let b = &mut *call.b;
    let flat = b.merge_dims(x, first, last)?;
    let largest = b.reduce(ReduceFn::Max, flat, &[first], true)?;
    let is_largest = b.binary(F::Eq, flat, largest)?;
    let flat_shape = b.shape(flat);
    let position = b.iota_along(DType::I32, &flat_shape, first)?;
    let beyond = b.number(DType::I32, i32::MAX as f64);
    let candidates = b.select(is_largest, position, beyond)?;
    let winner = b.reduce(ReduceFn::Min, candidates, &[first], true)?;
    let holds = b.binary(F::Eq, position, winner)?;
    let dtype = b.dtype(x);
    let y = b.convert(holds, dtype)?;
    debug_assert_eq!(product(&b.shape(y)), product(&shape));
    let y = b.reshape(y, &shape)?;
    call.one(y)
}
