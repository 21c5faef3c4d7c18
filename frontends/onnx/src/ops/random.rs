//! Random values.
//!
//! A generator without a state stands behind them: a value depends on a key and on its own position. The key comes from the
//! attribute `seed` if there is one, else from the name of the node's output. So a model gives the same values in every call
//! and on every device, two nodes of one seed give the same ones, and so do the turns of a loop.

use super::Row;
use crate::builder::{Build, check_elements, problem};
use crate::call::{Call, Results};
use thalweg_base::{DType, Dim, PointwiseFn as F, Scalar, random::key_for};
use thalweg_tensor::ops::{Distribution, Random};
use thalweg_tensor::{NodeId, ReduceFn};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("Bernoulli", bernoulli),
    ("Dropout", dropout),
    ("Multinomial", multinomial),
    ("RandomNormal", |c| drawn(c, Distribution::Normal)),
    ("RandomNormalLike", |c| drawn_like(c, Distribution::Normal)),
    ("RandomUniform", |c| drawn(c, Distribution::Uniform)),
    ("RandomUniformLike", |c| drawn_like(c, Distribution::Uniform)),
];

/// f32 values of a shape.
fn draw(call: &mut Call, distribution: Distribution, shape: &[Dim]) -> Build<NodeId> {
    // Seeds are numbers, of `Dropout` integers.
    let key = match call.attribute("seed") {
        Some(seed) => key_for(u64::from(seed.f.to_bits()) ^ seed.i as u64, ""),
        None => key_for(0, call.node.output.first().map_or("", String::as_str)),
    };
    check_elements(shape)?;
    let b = &mut *call.b;
    let words = key.map(|word| b.graph().scalar(DType::I32, Scalar::Int(i128::from(word as i32))));
    let counter = b.graph().linear_index(shape);
    b.add(Random { distribution }, &[words[0], words[1], counter])
}

/// Values under the node's own mean and scale, or low and high end.
fn scaled(call: &mut Call, distribution: Distribution, shape: &[Dim], dtype: DType) -> Results {
    let (scale, shift) = match distribution {
        Distribution::Normal => (call.float_or("scale", 1.0), call.float_or("mean", 0.0)),
        Distribution::Uniform => {
            let low = call.float_or("low", 0.0);
            (call.float_or("high", 1.0) - low, low)
        }
    };
    let x = draw(call, distribution, shape)?;
    let x = call.b.with_scalar(F::Mul, x, scale)?;
    let x = call.b.with_scalar(F::Add, x, shift)?;
    let y = call.b.convert(x, dtype)?;
    call.one(y)
}

fn drawn(call: &mut Call, distribution: Distribution) -> Results {
    let Some(shape) = call.int_list("shape") else { return problem("the attribute `shape` is missing") };
    let dtype = call.dtype_or("dtype", DType::F32)?;
    let shape: Vec<Dim> = shape.into_iter().map(Dim::constant).collect();
    scaled(call, distribution, &shape, dtype)
}

fn drawn_like(call: &mut Call, distribution: Distribution) -> Results {
    let ty = call.tensor(0)?.ty;
    let dtype = call.dtype_or("dtype", ty.dtype)?;
    scaled(call, distribution, &ty.shape, dtype)
}

/// 1 with the operand as the probability, else 0.
fn bernoulli(call: &mut Call) -> Results {
    let p = call.x(0)?;
    let shape = call.b.shape(p);
    let dtype = call.dtype_or("dtype", call.b.dtype(p))?;
    let x = draw(call, Distribution::Uniform, &shape)?;
    let p = call.b.convert(p, DType::F32)?;
    let holds = call.b.pointwise(F::Lt, &[x, p])?;
    let y = call.b.convert(holds, dtype)?;
    call.one(y)
}

/// Classes drawn with probabilities whose logarithms are given up to a constant: a uniform share of the whole falls within
/// the running sum at the class.
fn multinomial(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let count = call.int_or("sample_size", 1);
    let dtype = call.dtype_or("dtype", DType::I32)?;
    let [batch, classes] = &call.b.shape(x)[..] else { return problem("there are 2 dims, batch and class") };
    let x = call.b.convert(x, DType::F32)?;
    let share = draw(call, Distribution::Uniform, &[batch.clone(), Dim::constant(count)])?;
    let b = &mut *call.b;
    let most = b.reduce(ReduceFn::Max, x, &[1], true)?;
    let x = b.binary(F::Sub, x, most)?;
    let weights = b.unary(F::Exp, x)?;
    let running = b.cumulative(ReduceFn::Sum, weights, 1, false)?;
    let whole = b.reduce(ReduceFn::Max, running, &[1], true)?;
    let share = b.binary(F::Mul, share, whole)?;
    let (share, running) = (b.unsqueeze(share, &[2])?, b.unsqueeze(running, &[1])?);
    let below = b.binary(F::Le, running, share)?;
    let below = b.convert(below, DType::I32)?;
    let class = b.reduce(ReduceFn::Sum, below, &[2], false)?;
    // A share that rounds up to the whole is of the last class.
    let last = b.size_like(class, &(classes - &Dim::ONE))?;
    let class = b.binary(F::Min, class, last)?;
    let y = b.convert(class, dtype)?;
    call.one(y)
}

/// Nothing is dropped unless the node says that the model is being trained: by its third operand, before op set 7 by the
/// absence of `is_test`. Op sets between have no way to say so.
fn dropout(call: &mut Call) -> Results {
    let tensor = call.tensor(0)?;
    let training = match call.opset {
        ..7 => !call.flag("is_test", false),
        7..12 => false,
        _ => call.has(2) && call.number(2)?.convert(DType::Bool).to_i64() != 0,
    };
    let ratio = match call.float("ratio") {
        Some(ratio) => ratio,
        None if training && call.has(1) => call.number(1)?.to_f64(),
        None => 0.5,
    };
    let mask_dtype = if call.opset < 10 { tensor.ty.dtype } else { DType::Bool };
    if !training || ratio == 0.0 {
        let mut values = vec![call.value(0)?.clone()];
        if call.wants(1) {
            let mask = call.b.full(mask_dtype, &tensor.ty.shape, 1.0)?;
            values.push(call.b.value(mask));
        }
        return Ok(values);
    }
    if !(0.0..=1.0).contains(&ratio) {
        return problem(format!("{ratio} is no part to drop"));
    }
    let x = call.x(0)?;
    let draws = draw(call, Distribution::Uniform, &tensor.ty.shape)?;
    let b = &mut *call.b;
    let keeps = b.with_scalar(F::Ge, draws, ratio)?;
    let scaled = b.with_scalar(F::Mul, x, 1.0 / (1.0 - ratio))?;
    let zero = b.number_like(x, 0.0);
    let y = b.select(keeps, scaled, zero)?;
    let mask = b.convert(keeps, mask_dtype)?;
    call.several(&[y, mask])
}
