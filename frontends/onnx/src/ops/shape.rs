//! Values that come from shapes and attributes alone.

use super::Row;
use crate::builder::{Build, problem};
use crate::call::{Call, Results};
use crate::value::{Content, Tensor, Value};
use thalweg_base::{DType, Dim, Literal, PointwiseFn as F, Scalar, dim::product};
use thalweg_tensor::{NodeId, TensorType};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("Constant", constant),
    ("ConstantOfShape", constant_of_shape),
    ("EyeLike", eye_like),
    ("OneHot", one_hot),
    ("Range", range),
    ("Shape", shape),
    ("Size", size),
];

/// Sizes as a value: known ones at once.
pub fn sizes(dims: Vec<Dim>, rank: usize) -> Value {
    let shape = if rank == 0 { vec![] } else { vec![Dim::from(dims.len())] };
    let tensor = Tensor {
        ty: TensorType { dtype: DType::I64, shape },
        narrow: None,
        content: Content::Sizes(dims.into()),
    };
    match tensor.literal() {
        Some(literal) => Value::known(literal),
        None => Value::Tensor(tensor),
    }
}

fn shape(call: &mut Call) -> Results {
    let tensor = call.tensor(0)?;
    let rank = tensor.rank() as i64;
    let bound = |position: i64| {
        (if position < 0 { position.saturating_add(rank) } else { position }).clamp(0, rank) as usize
    };
    let (start, end) = (bound(call.int_or("start", 0)), bound(call.int_or("end", rank)));
    Ok(vec![sizes(tensor.ty.shape[start.min(end)..end].to_vec(), 1)])
}

fn size(call: &mut Call) -> Results {
    let tensor = call.tensor(0)?;
    Ok(vec![sizes(vec![product(&tensor.ty.shape)], 0)])
}

/// A large constant is a weight under the name of its output.
fn constant(call: &mut Call) -> Results {
    if let Some(tensor) = call.tensor_attribute("value")? {
        let Content::Known { literal, .. } = tensor.content.clone() else {
            return problem("a constant is known");
        };
        let name = call.node.output.first().map(|name| name.as_str().into());
        return Ok(vec![Value::Tensor(Tensor { content: Content::Known { literal, name }, ..tensor })]);
    }
    let list = |dtype, values: Vec<Scalar>| Literal::from_scalars(dtype, &[values.len()], values);
    let literal = if let Some(value) = call.float("value_float") {
        Literal::scalar(DType::F32, Scalar::Float(value))
    } else if let Some(value) = call.int("value_int") {
        Literal::scalar(DType::I64, Scalar::Int(value.into()))
    } else if let Some(values) = call.float_list("value_floats") {
        list(DType::F32, values.into_iter().map(Scalar::Float).collect())
    } else if let Some(values) = call.int_list("value_ints") {
        list(DType::I64, values.into_iter().map(|value| Scalar::Int(value.into())).collect())
    } else if let Some(sparse) = call.attribute("sparse_value").and_then(|value| value.sparse_tensor.as_ref())
    {
        crate::inputs::dense(sparse)?
    } else {
        return problem("the constant is no tensor of numbers");
    };
    Ok(vec![Value::known(literal)])
}

fn constant_of_shape(call: &mut Call) -> Results {
    let shape = call.dims(0)?;
    let value = match call.tensor_attribute("value")?.and_then(|tensor| tensor.literal()) {
        Some(value) if value.len() == 1 => value.reshaped(&[]),
        Some(_) => return problem("the value is no single number"),
        None => Literal::scalar(DType::F32, Scalar::Float(0.0)),
    };
    let value = call.b.graph().constant(value);
    let y = call.b.broadcast_to(value, &shape)?;
    call.one(y)
}

fn range(call: &mut Call) -> Results {
    let dtype = call.tensor(0)?.ty.dtype;
    if let (DType::I64, Ok([start]), Ok([end]), Ok([step])) =
        (dtype, call.dims(0).as_deref(), call.dims(1).as_deref(), call.dims(2).as_deref())
        && (start.as_constant().is_none() || end.as_constant().is_none())
    {
        let Some(step @ 1..) = step.as_constant() else { return problem("a range of symbols goes forwards") };
        let count = (&(end - start) + &Dim::constant(step - 1)).floor_div(step);
        let iota = call.b.iota(dtype, count)?;
        let scaled = call.b.with_scalar(F::Mul, iota, step as f64)?;
        let start = call.b.size_like(iota, start)?;
        let y = call.b.binary(F::Add, scaled, start)?;
        return call.one(y);
    }
    let (start, end, step) = (call.number(0)?, call.number(1)?, call.number(2)?);
    let count = match (start, end, step) {
        (Scalar::Int(start), Scalar::Int(end), Scalar::Int(step)) if step != 0 => {
            let span = if step > 0 { end - start } else { start - end };
            if span <= 0 { 0 } else { ((span - 1) / step.abs() + 1) as i64 }
        }
        (_, _, _) => ((end.to_f64() - start.to_f64()) / step.to_f64()).ceil().max(0.0) as i64,
    };
    let wide = if dtype.is_float() { DType::F64 } else { dtype };
    let iota = call.b.iota(wide, count)?;
    let step = call.b.graph().scalar(wide, step);
    let start = call.b.graph().scalar(wide, start);
    let y = call.b.binary(F::Mul, iota, step)?;
    let y = call.b.binary(F::Add, y, start)?;
    let y = call.b.convert(y, dtype)?;
    call.one(y)
}

fn eye_like(call: &mut Call) -> Results {
    let ty = call.tensor(0)?.ty;
    let dtype = call.dtype_or("dtype", ty.dtype)?;
    let shift = call.int_or("k", 0);
    if ty.rank() != 2 {
        return problem("a matrix has 2 dims");
    }
    let b = &mut *call.b;
    let (row, column) = (b.iota_along(DType::I64, &ty.shape, 0)?, b.iota_along(DType::I64, &ty.shape, 1)?);
    let shifted = b.with_scalar(F::Add, row, shift as f64)?;
    let holds = b.pointwise(F::Eq, &[shifted, column])?;
    let y = b.convert(holds, dtype)?;
    call.one(y)
}

/// Indices count from the end if negative; those outside give no 1.
fn one_hot(call: &mut Call) -> Results {
    let indices = call.x(0)?;
    let depth = call.number(1)?.to_i64();
    let values = call.x(2)?;
    let rank = call.b.rank(indices) + 1;
    let axis = call.axis_or(-1, rank)?;
    let b = &mut *call.b;
    let indices = b.convert(indices, DType::I64)?;
    let negative = b.with_scalar(F::Lt, indices, 0.0)?;
    let moved = b.with_scalar(F::Add, indices, depth as f64)?;
    let indices = b.select(negative, moved, indices)?;
    let mut shape = b.shape(indices);
    shape.insert(axis, Dim::constant(depth));
    let indices = b.unsqueeze(indices, &[axis])?;
    let position = b.iota_along(DType::I64, &shape, axis)?;
    let holds = b.binary(F::Eq, indices, position)?;
    let value = |b: &mut crate::builder::Builder, at: usize| -> Build<NodeId> { b.pick(values, 0, at) };
    let (off, on) = (value(b, 0)?, value(b, 1)?);
    let y = b.select(holds, on, off)?;
    call.one(y)
}
