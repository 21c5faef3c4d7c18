//! Reductions and running combinations.

use super::{Builtin, Call};
use crate::check::value::{Tensor, Value};
use crate::check::{Checked, Elaborator};
use thalweg_base::{DType, Dim};
use thalweg_tensor::ReduceFn;
use thalweg_tensor::ops::{ArgSort, Cumulative, Reduce};

macro_rules! rows {
    ($($name:literal $run:expr, $params:expr, $doc:literal;)*) => {
        pub(super) const TABLE: &[Builtin] = &[$(Builtin { name: $name, params: $params, doc: $doc, run: $run },)*];
    };
}

const REDUCE: &[&str] = &["x", "over*?", "keep?"];
const RUN: &[&str] = &["x", "along@?", "reverse?"];

rows! {
    "sum" |elab, call| reduce(elab, call, ReduceFn::Sum), REDUCE, "the sum over dims, all if none are given; `keep` leaves them with size 1";
    "prod" |elab, call| reduce(elab, call, ReduceFn::Prod), REDUCE, "the product over dims";
    "max" |elab, call| reduce(elab, call, ReduceFn::Max), REDUCE, "the largest over dims; of bools: any";
    "min" |elab, call| reduce(elab, call, ReduceFn::Min), REDUCE, "the smallest over dims; of bools: all";
    "mean" mean, REDUCE, "the mean over dims";
    "cumsum" |elab, call| cumulative(elab, call, ReduceFn::Sum), RUN, "running sum along a dim, the last if none is given";
    "cumprod" |elab, call| cumulative(elab, call, ReduceFn::Prod), RUN, "running product along a dim";
    "cummax" |elab, call| cumulative(elab, call, ReduceFn::Max), RUN, "running maximum along a dim";
    "cummin" |elab, call| cumulative(elab, call, ReduceFn::Min), RUN, "running minimum along a dim";
    "argsort" argsort, &["x", "along@?", "descending?"], "the positions that sort a dim, as i32";
}

fn reduced(elab: &mut Elaborator<'_>, call: &Call) -> Checked<(Tensor, Vec<usize>)> {
    let x = call.tensor(elab, "x")?;
    let dims = call.axes(elab, "over", &x)?.unwrap_or_else(|| (0..x.rank()).collect());
    Ok((x, dims))
}

fn reduce_with(
    elab: &mut Elaborator<'_>,
    call: &Call,
    x: &Tensor,
    dims: &[usize],
    function: ReduceFn,
) -> Checked<Tensor> {
    let keep = call.bool(elab, "keep")?;
    if x.ty.dtype == DType::Bool && !matches!(function, ReduceFn::Max | ReduceFn::Min) {
        let message = format!("`{}` takes numbers, not bool", call.builtin.name);
        return elab.error("E0305", message, call.place("x"), "write `convert(x, f32)` to count");
    }
    let kept: Vec<_> = (0..x.rank()).filter(|dim| !dims.contains(dim)).collect();
    let infos = kept.iter().map(|dim| x.dims[*dim].clone()).collect();
    let mut result = x.clone();
    if !dims.is_empty() {
        result = elab.tensor(Reduce { function, dims: dims.to_vec() }, &[x], infos, call.span)?;
    }
    if !keep {
        return Ok(result);
    }
    let shape = (0..x.rank())
        .map(|dim| if dims.contains(&dim) { Dim::ONE } else { x.ty.shape[dim].clone() })
        .collect();
    elab.reshape(&result, shape, x.dims.clone(), call.span)
}

fn reduce(elab: &mut Elaborator<'_>, call: &Call, function: ReduceFn) -> Checked<Value> {
    let (x, dims) = reduced(elab, call)?;
    Ok(Value::Tensor(reduce_with(elab, call, &x, &dims, function)?))
}

/// The sum over the number of elements, which is counted when the model runs if a size is not known.
fn mean(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let (x, dims) = reduced(elab, call)?;
    if !x.ty.dtype.is_float() {
        let message = format!("`mean` takes floats, not {}", x.ty.dtype);
        return elab.error("E0305", message, call.place("x"), "write `convert(x, f32)`");
    }
    let sum = reduce_with(elab, call, &x, &dims, ReduceFn::Sum)?;
    let mut count = elab.scalar(x.ty.dtype, thalweg_base::Scalar::Float(1.0), call.span)?;
    let known: i64 = dims.iter().filter_map(|dim| x.ty.shape[*dim].as_constant()).product();
    if known != 1 {
        count = elab.scalar(x.ty.dtype, thalweg_base::Scalar::Float(known as f64), call.span)?;
    }
    for dim in dims.iter().filter(|dim| x.ty.shape[**dim].as_constant().is_none()) {
        let size = elab.size_tensor(&x.ty.shape[*dim], x.ty.dtype, call.span)?;
        count = elab.pointwise(thalweg_base::PointwiseFn::Mul, &[&count, &size], call.span)?;
    }
    let count = elab.expand(&count, &sum.ty.shape, sum.dims.clone(), call.span)?;
    Ok(Value::Tensor(elab.pointwise(thalweg_base::PointwiseFn::Div, &[&sum, &count], call.span)?))
}

fn cumulative(elab: &mut Elaborator<'_>, call: &Call, function: ReduceFn) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let dim = call.axis(elab, "along", &x)?;
    let reverse = call.bool(elab, "reverse")?;
    let dims = x.dims.clone();
    Ok(Value::Tensor(elab.tensor(Cumulative { function, dim, reverse }, &[&x], dims, call.span)?))
}

fn argsort(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let dim = call.axis(elab, "along", &x)?;
    let descending = call.bool(elab, "descending")?;
    let dims = x.dims.clone();
    Ok(Value::Tensor(elab.tensor(ArgSort { dim, descending }, &[&x], dims, call.span)?))
}
