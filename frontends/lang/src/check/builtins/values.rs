//! Tensors made from nothing: constants, positions, random values, and first values of parameters.

use super::{Builtin, Call};
use crate::check::value::{DimInfo, Value};
use crate::check::{Checked, Elaborator};
use thalweg_base::{DType, Dim, Literal, PointwiseFn, Scalar, dim, random};
use thalweg_tensor::TensorType;
use thalweg_tensor::ops::{Constant, Distribution, Initializer, Random};

macro_rules! rows {
    ($($name:literal $run:expr, $params:expr, $doc:literal;)*) => {
        pub(super) const TABLE: &[Builtin] = &[$(Builtin { name: $name, params: $params, doc: $doc, run: $run },)*];
    };
}

rows! {
    "zeros" |elab, call| filled(elab, call, 0), &["shape", "dtype?"], "zeros, f32 if no dtype is given";
    "ones" |elab, call| filled(elab, call, 1), &["shape", "dtype?"], "ones, f32 if no dtype is given";
    "full" full, &["shape", "value", "dtype?"], "one value everywhere";
    "tensor" known, &["values", "dtype?"], "a tensor of known numbers, a list of lists for each further dim; f32 if no dtype is given";
    "iota" iota, &["size", "dtype?"], "the numbers 0, 1, 2, …; i32 if no dtype is given";
    "random_uniform" |elab, call| draw(elab, call, Distribution::Uniform), &["shape"], "random f32 values in [0, 1), new at every step";
    "random_normal" |elab, call| draw(elab, call, Distribution::Normal), &["shape"], "random f32 values of a standard normal, new at every step";
    "draw_uniform" |elab, call| draw_at(elab, call, Distribution::Uniform), &["key", "counter"],
        "random f32 values in [0, 1) that are those of a key, two i32 scalars, and an i32 counter for each position";
    "draw_normal" |elab, call| draw_at(elab, call, Distribution::Normal), &["key", "counter"], "random f32 values of a standard normal, likewise";
    "initial_constant" initial_constant, &["value"], "the initializer that gives one value";
    "initial_uniform" initial_uniform, &["low", "high"], "the initializer that draws from [low, high)";
    "initial_normal" initial_normal, &["mean", "deviation"], "the initializer that draws from a normal";
}

fn fill(elab: &mut Elaborator<'_>, call: &Call, dtype: DType, value: Scalar) -> Checked<Value> {
    let shape = call.shape(elab, "shape")?;
    let origin = Some(call.place("shape"));
    let dims = shape.iter().map(|_| DimInfo { name: None, origin }).collect();
    Ok(Value::Tensor(elab.full(&TensorType { dtype, shape }, value, dims, call.span)?))
}

fn filled(elab: &mut Elaborator<'_>, call: &Call, value: i64) -> Checked<Value> {
    let dtype = call.dtype(elab, "dtype", DType::F32)?;
    fill(elab, call, dtype, Scalar::Int(value.into()).convert(dtype))
}

fn full(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let dtype = call.dtype(elab, "dtype", DType::F32)?;
    let given = call.value("value").expect("it is needed").clone();
    if let Value::Tensor(scalar) = &given.value {
        if scalar.rank() > 0 {
            return call.wrong(elab, "value", "a scalar");
        }
        let shape = call.shape(elab, "shape")?;
        return Ok(Value::Tensor(elab.expand(
            scalar,
            &shape,
            vec![DimInfo::default(); shape.len()],
            call.span,
        )?));
    }
    let value = call.scalar(elab, "value", dtype)?;
    fill(elab, call, dtype, value.convert(dtype))
}

/// Nested lists as a constant.
fn known(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let dtype = call.dtype(elab, "dtype", DType::F32)?;
    let given = call.value("values").expect("it is needed").clone();
    let (mut shape, mut level) = (Vec::new(), &given.value);
    while let Value::List(values) = level {
        shape.push(values.len());
        match values.first() {
            Some(first) => level = first,
            None => break,
        }
    }
    let mut values = vec![given.value.clone()];
    for size in &shape {
        let mut inner = Vec::new();
        for value in &values {
            match value {
                Value::List(parts) if parts.len() == *size => inner.extend(parts.iter().cloned()),
                _ => return call.wrong(elab, "values", "a list of lists that are equally long"),
            }
        }
        values = inner;
    }
    let mut scalars = Vec::new();
    for value in &values {
        let fits = match value {
            Value::Int(size) => size.as_constant().is_some() && dtype != DType::Bool,
            Value::Float(_) => dtype.is_float(),
            Value::Bool(_) => dtype == DType::Bool,
            _ => false,
        };
        if !fits {
            let message = format!("{} is no known {dtype}", value.describe());
            return elab.error("E0304", message, given.span, "not of this dtype");
        }
        scalars.push(match value {
            Value::Int(size) => Scalar::Int(size.as_constant().expect("just seen").into()),
            Value::Bool(value) => Scalar::Int((*value).into()),
            value => Scalar::Float(elab.float(value, given.span)?),
        });
        let (low, high) = dtype.range();
        if let (Some(Scalar::Int(last)), false) = (scalars.last(), dtype.is_float())
            && !(low.to_i128()..=high.to_i128()).contains(last)
        {
            let message = format!("the integer {last} does not fit the dtype {dtype}");
            return elab.error("E0304", message, given.span, "out of range");
        }
    }
    let value = Literal::from_scalars(dtype, &shape, scalars);
    Ok(Value::Tensor(elab.tensor(Constant { value }, &[], vec![], call.span)?))
}

fn iota(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let dtype = call.dtype(elab, "dtype", DType::I32)?;
    let given = call.value("size").expect("it is needed").clone();
    let Value::Int(size) = given.value else { return call.wrong(elab, "size", "a size") };
    if dtype == DType::Bool || size.as_constant().is_some_and(|size| size < 0) {
        return elab.error(
            "E0303",
            "`iota` counts from 0 up in numbers",
            call.span,
            format!("{size} values of {dtype}"),
        );
    }
    Ok(Value::Tensor(elab.iota(&size, dtype, given.span)?))
}

/// Values that depend on the seed, the scope, which draw of the scope it is, the step, and the position.
fn draw(elab: &mut Elaborator<'_>, call: &Call, distribution: Distribution) -> Checked<Value> {
    let shape = call.shape(elab, "shape")?;
    let scope = elab.path.join(".");
    let count = elab.random_calls.entry(scope.clone()).or_insert(0);
    *count += 1;
    let key = random::key_for(elab.seed, &format!("{scope}/random/{count}"));
    let word = |word: u32| Scalar::Int(word as i32 as i128);
    let first = elab.scalar(DType::I32, word(key[0]), call.span)?;
    let second = elab.scalar(DType::I32, word(key[1]), call.span)?;
    let step = elab.step_input(call.span);
    let mixed = elab.pointwise(PointwiseFn::Xor, &[&second, &step], call.span)?;
    let count: Dim = dim::product(&shape);
    let positions = elab.iota(&count, DType::I32, call.span)?;
    let origin = Some(call.place("shape"));
    let dims: Vec<DimInfo> = shape.iter().map(|_| DimInfo { name: None, origin }).collect();
    let counter = elab.reshape(&positions, shape, dims.clone(), call.span)?;
    Ok(Value::Tensor(elab.tensor(Random { distribution }, &[&first, &mixed, &counter], dims, call.span)?))
}

/// Values of an explicit key and counter.
fn draw_at(elab: &mut Elaborator<'_>, call: &Call, distribution: Distribution) -> Checked<Value> {
    let counter = call.tensor(elab, "counter")?;
    let given = call.value("key").expect("it is needed").clone();
    let Value::List(words) = &given.value else {
        return call.wrong(elab, "key", "a list of two i32 scalars");
    };
    let mut operands = Vec::new();
    for word in words.iter() {
        operands.push(match word {
            Value::Tensor(word) => word.clone(),
            Value::Int(_) => elab.literal(word, DType::I32, given.span)?,
            _ => return call.wrong(elab, "key", "a list of two i32 scalars"),
        });
    }
    let dims = counter.dims.clone();
    operands.push(counter);
    let operands: Vec<_> = operands.iter().collect();
    Ok(Value::Tensor(elab.tensor(Random { distribution }, &operands, dims, call.span)?))
}

fn initial_constant(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    Ok(Value::Initializer(Initializer::Constant(Scalar::Float(call.float(elab, "value", 0.0)?))))
}

fn initial_uniform(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let (low, high) = (call.float(elab, "low", 0.0)?, call.float(elab, "high", 1.0)?);
    Ok(Value::Initializer(Initializer::Uniform { low: Scalar::Float(low), high: Scalar::Float(high) }))
}

fn initial_normal(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let (mean, deviation) = (call.float(elab, "mean", 0.0)?, call.float(elab, "deviation", 1.0)?);
    Ok(Value::Initializer(Initializer::Normal {
        mean: Scalar::Float(mean),
        deviation: Scalar::Float(deviation),
    }))
}
