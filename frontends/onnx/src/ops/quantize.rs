//! Numbers as small integers with a scale and a zero point.
//!
//! Products of quantized values are summed as integers of 32 bits: only so are they what the format defines, to the bit.

use super::Row;
use super::cast::{encode, integer_range, wide};
use super::matmul::{centered_product, product};
use super::pool::window::{kernel_of, slides};
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results, normalize};
use crate::element::Element;
use crate::value::{Tensor, Value};
use thalweg_base::{DType, Dim, PointwiseFn as F};
use thalweg_tensor::ops::{Convolve, Direction};
use thalweg_tensor::{NodeId, ReduceFn};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("DequantizeLinear", dequantize_linear),
    ("DynamicQuantizeLinear", dynamic_quantize_linear),
    ("QLinearConv", qlinear_conv),
    ("QLinearMatMul", qlinear_mat_mul),
    ("QuantizeLinear", quantize_linear),
];

/// The numbers of an operand that is given, those of narrow floats as f32.
pub fn numbers(call: &mut Call, index: usize) -> Build<Option<NodeId>> {
    match call.has(index) {
        true => {
            let tensor = call.tensor(index)?;
            wide(call.b, &tensor).map(Some)
        }
        false => Ok(None),
    }
}

/// The only number, the numbers along a dim, or those of blocks of a dim, in a shape that can be broadcast to that of what
/// they belong to.
fn spread(b: &mut Builder, p: NodeId, shape: &[Dim], axis: i64, block: i64) -> Build<NodeId> {
    let own = b.shape(p);
    if own.iter().all(|size| *size == Dim::ONE) && own.len() <= 1 {
        return b.reshape(p, &[]);
    }
    let axis = normalize(axis, shape.len())?;
    if block <= 0 {
        let [size] = &own[..] else {
            return problem(format!("scales of shape {own:?} are given for {shape:?} without a block size"));
        };
        let mut target = vec![Dim::ONE; shape.len()];
        target[axis] = size.clone();
        return b.reshape(p, &target);
    }
    if own.len() != shape.len() {
        return problem(format!("scales of shape {own:?} are given for blocks of {shape:?}"));
    }
    // Each scale is repeated along a new dim behind that of the blocks; the last block may be cut.
    let dims: Vec<usize> = (0..=axis).chain(axis + 2..=own.len()).collect();
    let repeated = [&own[..=axis], &[Dim::constant(block)], &own[axis + 1..]].concat();
    let repeated = b.broadcast(p, &repeated, &dims)?;
    let merged = b.merge_dims(repeated, axis, axis + 2)?;
    b.slice_dim(merged, axis, 0, shape[axis].clone())
}

/// The dtype that numbers of a type are computed in.
fn working(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Rounded, moved by the zero point and cut to what the type holds.
pub fn quantized(call: &mut Call, x: NodeId, zero_point: Option<NodeId>, to: Element) -> Build<Value> {
    let saturate = call.flag("saturate", true);
    let b = &mut *call.b;
    let is_float = to.narrow().is_some_and(|narrow| !narrow.is_integer());
    let mut y = if is_float { x } else { b.unary(F::Round, x)? };
    if let Some(zero_point) = zero_point {
        let dtype = b.dtype(y);
        let zero_point = b.convert(zero_point, dtype)?;
        y = b.binary(F::Add, y, zero_point)?;
    }
    match to {
        // The conversion saturates.
        Element::Plain(dtype) => {
            let y = b.convert(y, dtype)?;
            Ok(b.value(y))
        }
        Element::Narrow(narrow) => {
            if let Some((low, high)) = integer_range(to) {
                y = b.with_scalar(F::Max, y, low)?;
                y = b.with_scalar(F::Min, y, high)?;
            }
            let y = encode(b, y, narrow, saturate, "up")?;
            Ok(Value::Tensor(Tensor { narrow: Some(narrow), ..b.tensor(y) }))
        }
    }
}

/// The element type of an operand that is given.
fn element_of(call: &Call, index: usize) -> Build<Option<Element>> {
    if !call.has(index) {
        return Ok(None);
    }
    let tensor = call.tensor(index)?;
    Ok(Some(tensor.narrow.map_or(Element::Plain(tensor.ty.dtype), Element::Narrow)))
}

pub fn quantize_linear(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let Some(scale) = numbers(call, 1)? else { return problem("the scale is missing") };
    let zero_point = numbers(call, 2)?;
    // 0 stands for no element type in both attributes.
    let given = |call: &Call, name: &str| -> Build<Option<Element>> {
        if call.int_or(name, 0) == 0 { Ok(None) } else { call.element(name) }
    };
    let to = match (element_of(call, 2)?, given(call, "output_dtype")?) {
        (Some(own), Some(asked)) if own != asked => {
            return problem(format!("{asked:?} is asked for, but the zero point is {own:?}"));
        }
        (Some(to), _) | (None, Some(to)) => to,
        (None, None) => Element::Plain(DType::U8),
    };
    if to.storage().is_float() {
        return problem(format!("{to:?} is no type to quantize to"));
    }
    let precision = match given(call, "precision")? {
        Some(element) => element.storage(),
        None => call.b.dtype(scale),
    };
    let (axis, block) = (call.int_or("axis", 1), call.int_or("block_size", 0));
    let b = &mut *call.b;
    // A scale may be an integer in op sets that let `x` be one.
    let precision = if precision.is_float() { precision } else { DType::F32 };
    let shape = b.shape(x);
    let (x, scale) = (b.convert(x, precision)?, b.convert(scale, precision)?);
    let scale = spread(b, scale, &shape, axis, block)?;
    let ratio = b.binary(F::Div, x, scale)?;
    // Half precision does not hold all integers of 16 bits.
    let ratio = b.convert(ratio, working(precision))?;
    let zero_point = zero_point.map(|zero_point| spread(b, zero_point, &shape, axis, block)).transpose()?;
    Ok(vec![quantized(call, ratio, zero_point, to)?])
}

pub fn dequantize_linear(call: &mut Call) -> Results {
    let Some(x) = numbers(call, 0)? else { return problem("operand 0 is missing") };
    let Some(scale) = numbers(call, 1)? else { return problem("the scale is missing") };
    let zero_point = numbers(call, 2)?;
    let scale_dtype = call.b.dtype(scale);
    let dtype = match call.int_or("output_dtype", 0) {
        0 => scale_dtype,
        _ => call.dtype_or("output_dtype", scale_dtype)?,
    };
    let (axis, block) = (call.int_or("axis", 1), call.int_or("block_size", 0));
    let b = &mut *call.b;
    let shape = b.shape(x);
    let wide = working(dtype);
    let mut y = b.convert(x, wide)?;
    if let Some(zero_point) = zero_point {
        let zero_point = b.convert(zero_point, wide)?;
        let zero_point = spread(b, zero_point, &shape, axis, block)?;
        y = b.binary(F::Sub, y, zero_point)?;
    }
    let scale = b.convert(scale, wide)?;
    let scale = spread(b, scale, &shape, axis, block)?;
    let y = b.binary(F::Mul, y, scale)?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// The scale and zero point of u8 for the range of `x`, which is widened to hold 0, and the quantized values.
pub fn dynamically_quantized(b: &mut Builder, x: NodeId) -> Build<(NodeId, NodeId, NodeId)> {
    let x = b.convert(x, DType::F32)?;
    let dims: Vec<usize> = (0..b.rank(x)).collect();
    let high = b.reduce(ReduceFn::Max, x, &dims, false)?;
    let high = b.with_scalar(F::Max, high, 0.0)?;
    let low = b.reduce(ReduceFn::Min, x, &dims, false)?;
    let low = b.with_scalar(F::Min, low, 0.0)?;
    let range = b.pointwise(F::Sub, &[high, low])?;
    let scale = b.with_scalar(F::Div, range, 255.0)?;
    // Zeros alone have no range; any scale takes them to 0.
    let (empty, one) = (b.with_scalar(F::Eq, range, 0.0)?, b.number(DType::F32, 1.0));
    let scale = b.select(empty, one, scale)?;
    let below = b.pointwise(F::Div, &[low, scale])?;
    let zero = b.number(DType::F32, 0.0);
    let zero_point = b.pointwise(F::Sub, &[zero, below])?;
    let zero_point = b.with_scalar(F::Min, zero_point, 255.0)?;
    let zero_point = b.unary(F::Round, zero_point)?;
    let ratio = b.binary(F::Div, x, scale)?;
    let ratio = b.unary(F::Round, ratio)?;
    let y = b.binary(F::Add, ratio, zero_point)?;
    Ok((b.convert(y, DType::U8)?, scale, b.convert(zero_point, DType::U8)?))
}

fn dynamic_quantize_linear(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let (y, scale, zero_point) = dynamically_quantized(call.b, x)?;
    call.several(&[y, scale, zero_point])
}

/// Integers of 32 bits (f32 for floats of 8 bits) without their zero point, which can be broadcast to them.
pub fn centered(b: &mut Builder, x: NodeId, zero_point: Option<NodeId>) -> Build<NodeId> {
    let dtype = if b.dtype(x).is_float() { DType::F32 } else { DType::I32 };
    let x = b.convert(x, dtype)?;
    let Some(zero_point) = zero_point else { return Ok(x) };
    let zero_point = b.convert(zero_point, dtype)?;
    b.binary(F::Sub, x, zero_point)
}

/// A number for all, or one for each row: in a shape that is broadcast to that of the matrices.
fn of_rows(b: &mut Builder, p: NodeId) -> Build<NodeId> {
    match &b.shape(p)[..] {
        [size] if *size == Dim::ONE => b.reshape(p, &[]),
        [size] => b.reshape(p, &[size.clone(), Dim::ONE]),
        _ => Ok(p),
    }
}

/// A number for all, or one for each column.
fn of_columns(b: &mut Builder, p: NodeId) -> Build<NodeId> {
    match &b.shape(p)[..] {
        [size] if *size == Dim::ONE => b.reshape(p, &[]),
        _ => Ok(p),
    }
}

/// Sums of products under the scale of what they are quantized to.
fn rescaled(b: &mut Builder, sums: NodeId, scales: [NodeId; 3]) -> Build<NodeId> {
    let [x, w, y] = scales;
    let (x, w, y) = (b.convert(x, DType::F32)?, b.convert(w, DType::F32)?, b.convert(y, DType::F32)?);
    let product = b.binary(F::Mul, x, w)?;
    let factor = b.binary(F::Div, product, y)?;
    let sums = b.convert(sums, DType::F32)?;
    b.binary(F::Mul, sums, factor)
}

fn qlinear_mat_mul(call: &mut Call) -> Results {
    let [a, a_scale, w, w_scale, y_scale] = each(call, [0, 1, 3, 4, 6])?;
    let (a_zero, w_zero, y_zero) = (numbers(call, 2)?, numbers(call, 5)?, numbers(call, 7)?);
    let to = match element_of(call, 7)? {
        Some(to) => to,
        None => Element::Plain(call.b.dtype(a)),
    };
    let b = &mut *call.b;
    let a_zero = a_zero.map(|zero| of_rows(b, zero)).transpose()?;
    let w_zero = w_zero.map(|zero| of_columns(b, zero)).transpose()?;
    let sums = match b.dtype(a).is_float() || b.dtype(w).is_float() {
        true => {
            let (a, w) = (centered(b, a, a_zero)?, centered(b, w, w_zero)?);
            product(b, a, w)?
        }
        false => centered_product(b, (a, a_zero), (w, w_zero))?,
    };
    let scales = [of_rows(b, a_scale)?, of_columns(b, w_scale)?, of_rows(b, y_scale)?];
    let y = rescaled(b, sums, scales)?;
    let y_zero = y_zero.map(|zero| of_rows(b, zero)).transpose()?;
    Ok(vec![quantized(call, y, y_zero, to)?])
}

/// The numbers of operands that must be given.
pub fn each<const N: usize>(call: &mut Call, indices: [usize; N]) -> Build<[NodeId; N]> {
    let mut ids = [NodeId::default(); N];
    for (id, index) in ids.iter_mut().zip(indices) {
        match numbers(call, index)? {
            Some(given) => *id = given,
            None => return problem(format!("operand {index} is missing")),
        }
    }
    Ok(ids)
}

/// The convolution that the attributes describe.
fn convolution(call: &Call, x: NodeId, w: NodeId) -> Build<Convolve> {
    let (x, w) = (call.b.shape(x), call.b.shape(w));
    if x.len() != w.len() || x.len() < 3 {
        return problem(format!("weights of shape {w:?} do not slide over {x:?}"));
    }
    let slides = slides(call, &x[2..], &kernel_of(call, &w[2..])?)?;
    Ok(Convolve {
        direction: Direction::Forward,
        stride: slides.iter().map(|slide| slide.stride).collect(),
        dilation: slides.iter().map(|slide| slide.dilation).collect(),
        pad_low: slides.iter().map(|slide| slide.low).collect(),
        pad_high: slides.iter().map(|slide| slide.high + slide.extra).collect(),
        groups: usize::try_from(call.int_or("group", 1)).unwrap_or(0),
        sizes: vec![],
    })
}

/// A number for all, or one for each channel, in a shape that is broadcast to one of that rank with channels there.
fn of_channels(b: &mut Builder, p: NodeId, rank: usize, dim: usize) -> Build<NodeId> {
    match &b.shape(p)[..] {
        [] => Ok(p),
        [size] if *size == Dim::ONE => b.reshape(p, &[]),
        [size] => {
            let mut shape = vec![Dim::ONE; rank];
            shape[dim] = size.clone();
            b.reshape(p, &shape)
        }
        other => problem(format!("scales, zero points or a bias of shape {other:?} are given for channels")),
    }
}

fn qlinear_conv(call: &mut Call) -> Results {
    let [x, x_scale, w, w_scale, y_scale] = each(call, [0, 1, 3, 4, 6])?;
    let (x_zero, w_zero, y_zero) = (numbers(call, 2)?, numbers(call, 5)?, numbers(call, 7)?);
    let bias = numbers(call, 8)?;
    let to = match element_of(call, 7)? {
        Some(to) => to,
        None => Element::Plain(call.b.dtype(x)),
    };
    let convolve = convolution(call, x, w)?;
    let b = &mut *call.b;
    let rank = b.rank(x);
    let x_zero = x_zero.map(|zero| of_channels(b, zero, rank, 1)).transpose()?;
    let w_zero = w_zero.map(|zero| of_channels(b, zero, rank, 0)).transpose()?;
    // Padding stands for 0, as what is centered has it.
    let (x, w) = (centered(b, x, x_zero)?, centered(b, w, w_zero)?);
    let mut sums = b.add(convolve, &[x, w])?;
    if let Some(bias) = bias {
        let bias = of_channels(b, bias, rank, 1)?;
        let bias = b.convert(bias, DType::I32)?;
        sums = b.binary(F::Add, sums, bias)?;
    }
    let (x_scale, w_scale) = (of_channels(b, x_scale, rank, 1)?, of_channels(b, w_scale, rank, 1)?);
    let y_scale = of_channels(b, y_scale, rank, 1)?;
    let y = rescaled(b, sums, [x_scale, w_scale, y_scale])?;
    let y_zero = y_zero.map(|zero| of_channels(b, zero, rank, 1)).transpose()?;
    Ok(vec![quantized(call, y, y_zero, to)?])
}
