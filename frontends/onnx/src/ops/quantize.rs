//! Numbers as small integers with a scale and a zero point.
//!
//! Products of quantized values are summed as integers of 32 bits: only so are they what the format defines, to the bit.

use super::Row;
use super::cast::{encode, integer_range, wide};
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

fn quantize_linear(call: &mut Call) -> Results {
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

fn dequantize_linear(call: &mut Call) -> Results {
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

/// The matrix product of the last two dims; the others are batches, which are broadcast to each other. An operand of rank 1
/// is a row on the left and a column on the right, whose dim the result lacks.
pub fn mat_mul(b: &mut Builder, lhs: NodeId, rhs: NodeId) -> Build<NodeId> {
    let (l, r) = (b.shape(lhs), b.shape(rhs));
    if l.is_empty() || r.is_empty() {
        return problem("a matrix product takes no scalars");
    }
    let (l_batch, r_batch) = (l.len().saturating_sub(2), r.len().saturating_sub(2));
    let batch = l_batch.max(r_batch);
    if batch > 20 {
        return problem(format!("a matrix product of rank {}", batch + 2));
    }
    // `x` is summed over, `y` and `z` are rows and columns, the letters before are the batches.
    let letters: Vec<char> = ('a'..='w').take(batch).collect();
    let mut out = String::new();
    let mut kept = [vec![], vec![]];
    let mut names = [String::new(), String::new()];
    for (at, letter) in letters.iter().enumerate() {
        let size =
            |shape: &[Dim], own: usize| (at + own).checked_sub(batch).map(|dim| (dim, shape[dim].clone()));
        let sizes = [size(&l, l_batch), size(&r, r_batch)];
        let wider = sizes.iter().flatten().any(|(_, size)| *size != Dim::ONE);
        for (side, size) in sizes.into_iter().enumerate() {
            if let Some((dim, size)) = size
                && (size != Dim::ONE || !wider)
            {
                kept[side].push(dim);
                names[side].push(*letter);
            }
        }
        out.push(*letter);
    }
    kept[0].extend(l_batch..l.len());
    kept[1].extend(r_batch..r.len());
    names[0].push_str(if l.len() > 1 { "yx" } else { "x" });
    names[1].push_str(if r.len() > 1 { "xz" } else { "x" });
    out.push_str(if l.len() > 1 { "y" } else { "" });
    out.push_str(if r.len() > 1 { "z" } else { "" });
    let picked =
        |shape: &[Dim], dims: &[usize]| dims.iter().map(|dim| shape[*dim].clone()).collect::<Vec<Dim>>();
    let (l, r) = (picked(&l, &kept[0]), picked(&r, &kept[1]));
    let (lhs, rhs) = (b.reshape(lhs, &l)?, b.reshape(rhs, &r)?);
    b.contract(&format!("{},{}->{out}", names[0], names[1]), lhs, rhs)
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
    let (a, w) = (centered(b, a, a_zero)?, centered(b, w, w_zero)?);
    let sums = mat_mul(b, a, w)?;
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

/// The largest step or padding: beyond any tensor, and far from what overflows.
const STEP_MAX: usize = 1 << 31;

/// A list of positive numbers, one for each spatial dim, or ones.
fn steps(call: &Call, name: &str, spatial: usize) -> Build<Vec<usize>> {
    let Some(list) = call.int_list(name) else { return Ok(vec![1; spatial]) };
    let step = |step: &i64| usize::try_from(*step).ok().filter(|step| (1..=STEP_MAX).contains(step));
    let steps: Option<Vec<usize>> = list.iter().map(step).collect();
    match steps {
        Some(steps) if steps.len() == spatial => Ok(steps),
        Some(_) | None => problem(format!("`{name}` is {list:?} for {spatial} spatial dims")),
    }
}

/// The convolution that the attributes describe.
fn convolution(call: &Call, x: NodeId, w: NodeId) -> Build<Convolve> {
    let spatial = call.b.rank(x).saturating_sub(2);
    let (stride, dilation) = (steps(call, "strides", spatial)?, steps(call, "dilations", spatial)?);
    let groups = usize::try_from(call.int_or("group", 1)).unwrap_or(0);
    let mode = call.text_or("auto_pad", "NOTSET");
    let (mut pad_low, mut pad_high) = (vec![0; spatial], vec![0; spatial]);
    match mode.as_str() {
        "NOTSET" => {
            let pads = call.int_list("pads").unwrap_or_else(|| vec![0; 2 * spatial]);
            let amount = |pad: &i64| usize::try_from(*pad).ok().filter(|pad| *pad <= STEP_MAX);
            let amounts: Option<Vec<usize>> = pads.iter().map(amount).collect();
            let Some(amounts) = amounts.filter(|amounts| amounts.len() == 2 * spatial) else {
                return problem(format!("`pads` is {pads:?} for {spatial} spatial dims"));
            };
            (pad_low, pad_high) = (amounts[..spatial].to_vec(), amounts[spatial..].to_vec());
        }
        "VALID" => {}
        "SAME_UPPER" | "SAME_LOWER" => {
            if call.b.rank(w) != spatial + 2 {
                return problem(format!("the weights have {} dims", call.b.rank(w)));
            }
            for dim in 0..spatial {
                let (size, window) = (call.b.size(x, dim + 2)?, call.b.size(w, dim + 2)?);
                let reach = dilation[dim].saturating_mul(window.saturating_sub(1)).saturating_add(1);
                let last = size.div_ceil(stride[dim]).saturating_sub(1).saturating_mul(stride[dim]);
                let all = last.saturating_add(reach).saturating_sub(size);
                let less = all / 2;
                (pad_low[dim], pad_high[dim]) = match mode.as_str() {
                    "SAME_UPPER" => (less, all - less),
                    _ => (all - less, less),
                };
            }
        }
        other => return problem(format!("there is no padding by `{other}`")),
    }
    Ok(Convolve { direction: Direction::Forward, stride, dilation, pad_low, pad_high, groups, sizes: vec![] })
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
    if rank < 3 {
        return problem(format!("a convolution of a tensor of rank {rank}"));
    }
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
