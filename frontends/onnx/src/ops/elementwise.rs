//! Functions of each position.

use super::Row;
use crate::builder::{Build, problem};
use crate::call::{Call, Results};
use crate::value::Value;
use thalweg_base::{DType, PointwiseFn as F};
use thalweg_tensor::NodeId;

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("Abs", |c| unary(c, F::Abs)),
    ("Acos", acos),
    ("Acosh", acosh),
    ("Add", |c| binary(c, F::Add)),
    ("And", |c| binary(c, F::And)),
    ("Asin", asin),
    ("Asinh", asinh),
    ("Atan", atan),
    ("Atanh", atanh),
    ("BitShift", bit_shift),
    ("BitwiseAnd", |c| binary(c, F::And)),
    ("BitwiseNot", |c| unary(c, F::Not)),
    ("BitwiseOr", |c| binary(c, F::Or)),
    ("BitwiseXor", |c| binary(c, F::Xor)),
    ("Ceil", |c| unary(c, F::Ceil)),
    ("Clip", clip),
    ("Cos", |c| unary(c, F::Cos)),
    ("Cosh", cosh),
    ("Div", |c| binary(c, F::Div)),
    ("Equal", |c| binary(c, F::Eq)),
    ("Erf", |c| unary(c, F::Erf)),
    ("Exp", |c| unary(c, F::Exp)),
    ("Floor", |c| unary(c, F::Floor)),
    ("Greater", |c| binary(c, F::Gt)),
    ("GreaterOrEqual", |c| binary(c, F::Ge)),
    ("IsInf", is_inf),
    ("IsNaN", is_nan),
    ("Less", |c| binary(c, F::Lt)),
    ("LessOrEqual", |c| binary(c, F::Le)),
    ("Log", |c| unary(c, F::Log)),
    ("Max", |c| fold(c, F::Max)),
    ("Mean", mean),
    ("Min", |c| fold(c, F::Min)),
    ("Mod", modulo),
    ("Mul", |c| binary(c, F::Mul)),
    ("Neg", |c| unary(c, F::Neg)),
    ("Not", |c| unary(c, F::Not)),
    ("Or", |c| binary(c, F::Or)),
    ("Pow", pow),
    ("Reciprocal", reciprocal),
    ("Round", |c| unary(c, F::Round)),
    ("Sign", |c| unary(c, F::Sign)),
    ("Sin", |c| unary(c, F::Sin)),
    ("Sinh", sinh),
    ("Sqrt", |c| unary(c, F::Sqrt)),
    ("Sub", |c| binary(c, F::Sub)),
    ("Sum", |c| fold(c, F::Add)),
    ("Tan", tan),
    ("Tanh", |c| unary(c, F::Tanh)),
    ("Where", select),
    ("Xor", |c| binary(c, F::Xor)),
];

fn unary(call: &mut Call, function: F) -> Results {
    let x = call.x(0)?;
    let y = call.b.unary(function, x)?;
    call.one(y)
}

fn binary(call: &mut Call, function: F) -> Results {
    let (a, mut b) = (call.x(0)?, call.x(1)?);
    // Before op set 7, the second operand was repeated along dims from `axis` on.
    if let (true, Some(axis)) = (call.opset < 7, call.int("axis")) {
        let (rank, own) = (call.b.rank(a), call.b.rank(b));
        let axis = crate::call::normalize(axis, rank)?;
        let Some(after) = rank.checked_sub(axis + own) else {
            return problem("the second operand has dims beyond those of the first");
        };
        let shape = [call.b.shape(b), vec![thalweg_base::Dim::ONE; after]].concat();
        b = call.b.reshape(b, &shape)?;
    }
    let y = call.b.binary(function, a, b)?;
    call.one(y)
}

fn fold(call: &mut Call, function: F) -> Results {
    let operands = call.all()?;
    let operands = call.b.broadcast_all(&operands)?;
    let Some((first, rest)) = operands.split_first() else { return problem("there is no operand") };
    let mut y = *first;
    for operand in rest {
        y = call.b.pointwise(function, &[y, *operand])?;
    }
    call.one(y)
}

fn mean(call: &mut Call) -> Results {
    let count = call.count() as f64;
    let sum = fold(call, F::Add)?;
    let Some(Value::Tensor(sum)) = sum.into_iter().next() else { return problem("there is no operand") };
    let sum = call.b.node(&sum)?;
    let y = call.b.with_scalar(F::Div, sum, count)?;
    call.one(y)
}

fn select(call: &mut Call) -> Results {
    let (condition, a, b) = (call.x(0)?, call.x(1)?, call.x(2)?);
    let y = call.b.select(condition, a, b)?;
    call.one(y)
}

fn reciprocal(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let one = call.b.number_like(x, 1.0);
    let y = call.b.binary(F::Div, one, x)?;
    call.one(y)
}

/// Op sets before 11 have the bounds as attributes.
fn clip(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let bound = |call: &mut Call, at: usize, name: &str| -> Build<Option<NodeId>> {
        match call.float(name) {
            Some(value) => Ok(Some(call.b.number_like(x, value))),
            None => call.optional(at),
        }
    };
    let (low, high) = (bound(call, 1, "min")?, bound(call, 2, "max")?);
    let mut y = x;
    if let Some(low) = low {
        y = call.b.binary(F::Max, y, low)?;
    }
    if let Some(high) = high {
        y = call.b.binary(F::Min, y, high)?;
    }
    call.one(y)
}

fn bit_shift(call: &mut Call) -> Results {
    match call.text_or("direction", "").as_str() {
        "LEFT" => binary(call, F::ShiftLeft),
        "RIGHT" => binary(call, F::ShiftRight),
        other => problem(format!("`{other}` is no direction; LEFT and RIGHT are")),
    }
}

/// With `fmod` the sign is the dividend's, otherwise the divisor's.
fn modulo(call: &mut Call) -> Results {
    let (a, b) = (call.x(0)?, call.x(1)?);
    let operands = call.b.broadcast_all(&[a, b])?;
    let remainder = call.b.pointwise(F::Rem, &operands)?;
    if call.flag("fmod", false) {
        return call.one(remainder);
    }
    let zero = call.b.number_like(remainder, 0.0);
    let divisor_negative = call.b.binary(F::Lt, operands[1], zero)?;
    let negative = call.b.binary(F::Lt, remainder, zero)?;
    let differs = call.b.pointwise(F::Xor, &[divisor_negative, negative])?;
    let some = call.b.binary(F::Ne, remainder, zero)?;
    let wrong = call.b.pointwise(F::And, &[differs, some])?;
    let moved = call.b.pointwise(F::Add, &[remainder, operands[1]])?;
    let y = call.b.select(wrong, moved, remainder)?;
    call.one(y)
}

/// The exponent may be of another dtype than the base, whose the result is.
fn pow(call: &mut Call) -> Results {
    let (a, b) = (call.x(0)?, call.x(1)?);
    let (base, exponent) = (call.b.dtype(a), call.b.dtype(b));
    let dtype = match (base.is_float(), exponent.is_float()) {
        (false, true) => DType::F64,
        (_, _) => base,
    };
    let (x, e) = (call.b.convert(a, dtype)?, call.b.convert(b, dtype)?);
    let y = call.b.binary(F::Pow, x, e)?;
    let y = call.b.convert(y, base)?;
    call.one(y)
}

fn is_nan(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let y = call.b.pointwise(F::Ne, &[x, x])?;
    call.one(y)
}

fn is_inf(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let equals = |call: &mut Call, value: f64| call.b.with_scalar(F::Eq, x, value);
    let y = match (call.flag("detect_negative", true), call.flag("detect_positive", true)) {
        (true, true) => {
            let (low, high) = (equals(call, f64::NEG_INFINITY)?, equals(call, f64::INFINITY)?);
            call.b.pointwise(F::Or, &[low, high])?
        }
        (true, false) => equals(call, f64::NEG_INFINITY)?,
        (false, true) => equals(call, f64::INFINITY)?,
        (false, false) => {
            let shape = call.b.shape(x);
            call.b.full(DType::Bool, &shape, 0.0)?
        }
    };
    call.one(y)
}

/// `(e^x + s e^-x) / 2`.
fn hyperbolic(call: &mut Call, sign: f64) -> Build<NodeId> {
    let x = call.x(0)?;
    let negated = call.b.unary(F::Neg, x)?;
    let (up, down) = match sign < 0.0 {
        // The difference of `expm1` keeps its digits near 0.
        true => (call.b.unary(F::Expm1, x)?, call.b.unary(F::Expm1, negated)?),
        false => (call.b.unary(F::Exp, x)?, call.b.unary(F::Exp, negated)?),
    };
    let sum = call.b.pointwise(if sign < 0.0 { F::Sub } else { F::Add }, &[up, down])?;
    call.b.with_scalar(F::Mul, sum, 0.5)
}

fn cosh(call: &mut Call) -> Results {
    let y = hyperbolic(call, 1.0)?;
    call.one(y)
}

fn sinh(call: &mut Call) -> Results {
    let y = hyperbolic(call, -1.0)?;
    call.one(y)
}

fn tan(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let (sin, cos) = (call.b.unary(F::Sin, x)?, call.b.unary(F::Cos, x)?);
    let y = call.b.pointwise(F::Div, &[sin, cos])?;
    call.one(y)
}

fn asinh(call: &mut Call) -> Results {
    // sign(x) ln(|x| + sqrt(x^2 + 1)) = sign(x) log1p(|x| + x^2 / (1 + sqrt(x^2 + 1))), which keeps its digits near 0.
    let x = call.x(0)?;
    let b = &mut *call.b;
    let magnitude = b.unary(F::Abs, x)?;
    let square = b.pointwise(F::Mul, &[x, x])?;
    let more = b.with_scalar(F::Add, square, 1.0)?;
    let root = b.unary(F::Sqrt, more)?;
    let divisor = b.with_scalar(F::Add, root, 1.0)?;
    let part = b.pointwise(F::Div, &[square, divisor])?;
    let sum = b.pointwise(F::Add, &[magnitude, part])?;
    let log = b.unary(F::Log1p, sum)?;
    let sign = b.unary(F::Sign, x)?;
    let y = b.pointwise(F::Mul, &[sign, log])?;
    call.one(y)
}

fn acosh(call: &mut Call) -> Results {
    // With t = x - 1: log1p(t + sqrt(2 t + t^2)).
    let x = call.x(0)?;
    let b = &mut *call.b;
    let t = b.with_scalar(F::Sub, x, 1.0)?;
    let square = b.pointwise(F::Mul, &[t, t])?;
    let twice = b.with_scalar(F::Mul, t, 2.0)?;
    let sum = b.pointwise(F::Add, &[twice, square])?;
    let root = b.unary(F::Sqrt, sum)?;
    let sum = b.pointwise(F::Add, &[t, root])?;
    let y = b.unary(F::Log1p, sum)?;
    call.one(y)
}

fn atanh(call: &mut Call) -> Results {
    // (log1p(x) - log1p(-x)) / 2.
    let x = call.x(0)?;
    let b = &mut *call.b;
    let negated = b.unary(F::Neg, x)?;
    let (up, down) = (b.unary(F::Log1p, x)?, b.unary(F::Log1p, negated)?);
    let difference = b.pointwise(F::Sub, &[up, down])?;
    let y = b.with_scalar(F::Mul, difference, 0.5)?;
    call.one(y)
}

/// The arc tangent from its series, after two halvings of the angle and for large values the reflection at 1:
/// atan(x) = pi/2 - atan(1/x), atan(x) = 2 atan(x / (1 + sqrt(1 + x^2))).
fn arc_tangent(call: &mut Call, x: NodeId) -> Build<NodeId> {
    let b = &mut *call.b;
    let dtype = b.dtype(x);
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let x = b.convert(x, wide)?;
    let magnitude = b.unary(F::Abs, x)?;
    let large = b.with_scalar(F::Gt, magnitude, 1.0)?;
    let one = b.number_like(x, 1.0);
    let inverse = b.binary(F::Div, one, magnitude)?;
    let mut t = b.select(large, inverse, magnitude)?;
    for _ in 0..2 {
        let square = b.pointwise(F::Mul, &[t, t])?;
        let more = b.with_scalar(F::Add, square, 1.0)?;
        let root = b.unary(F::Sqrt, more)?;
        let divisor = b.with_scalar(F::Add, root, 1.0)?;
        t = b.pointwise(F::Div, &[t, divisor])?;
    }
    // Now t is at most tan(pi / 16), so 12 terms reach the last digit of f64 and 5 that of f32.
    let terms = if wide == DType::F64 { 12 } else { 5 };
    let square = b.pointwise(F::Mul, &[t, t])?;
    let mut sum = b.number_like(x, 1.0 / f64::from(2 * terms + 1));
    let shape = b.shape(x);
    sum = b.broadcast_to(sum, &shape)?;
    for term in (0..terms).rev() {
        let product = b.pointwise(F::Mul, &[sum, square])?;
        let coefficient = b.number_like(x, 1.0 / f64::from(2 * term + 1));
        sum = b.binary(F::Sub, coefficient, product)?;
    }
    let quarter = b.pointwise(F::Mul, &[sum, t])?;
    let angle = b.with_scalar(F::Mul, quarter, 4.0)?;
    let right = b.number_like(x, std::f64::consts::FRAC_PI_2);
    let reflected = b.binary(F::Sub, right, angle)?;
    let angle = b.select(large, reflected, angle)?;
    let sign = b.unary(F::Sign, x)?;
    let y = b.pointwise(F::Mul, &[sign, angle])?;
    b.convert(y, dtype)
}

fn atan(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let y = arc_tangent(call, x)?;
    call.one(y)
}

/// asin(x) = atan(x / sqrt((1 - x)(1 + x))).
fn arc_sine(call: &mut Call) -> Build<NodeId> {
    let x = call.x(0)?;
    let one = call.b.number_like(x, 1.0);
    let (less, more) = (call.b.binary(F::Sub, one, x)?, call.b.binary(F::Add, one, x)?);
    let product = call.b.pointwise(F::Mul, &[less, more])?;
    let root = call.b.unary(F::Sqrt, product)?;
    let tangent = call.b.pointwise(F::Div, &[x, root])?;
    arc_tangent(call, tangent)
}

fn asin(call: &mut Call) -> Results {
    let y = arc_sine(call)?;
    call.one(y)
}

fn acos(call: &mut Call) -> Results {
    let y = arc_sine(call)?;
    let right = call.b.number_like(y, std::f64::consts::FRAC_PI_2);
    let y = call.b.binary(F::Sub, right, y)?;
    call.one(y)
}
