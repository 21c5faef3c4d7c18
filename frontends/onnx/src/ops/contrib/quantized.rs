//! Products and functions of quantized values.

use crate::builder::{Build, Builder, known_size, problem};
use crate::call::{Call, Results, normalize};
use crate::element::Element;
use crate::ops::activation::{logistic, named};
use crate::ops::matmul::{centered_product, product};
use crate::ops::quantize::{centered, dynamically_quantized, numbers, quantized};
use thalweg_base::{DType, Dim, PointwiseFn as F};
use thalweg_tensor::NodeId;

/// Integers times scales: `(x - zero point) scale` in f32.
fn dequantized(b: &mut Builder, x: NodeId, scale: NodeId, zero_point: Option<NodeId>) -> Build<NodeId> {
    let x = centered(b, x, zero_point)?;
    let x = b.convert(x, DType::F32)?;
    let scale = scalar(b, scale)?;
    b.binary(F::Mul, x, scale)
}

/// A list of one number as that number; others stay.
fn scalar(b: &mut Builder, x: NodeId) -> Build<NodeId> {
    match &b.shape(x)[..] {
        [size] if *size == Dim::ONE => b.reshape(x, &[]),
        _ => Ok(x),
    }
}

/// Operands `at` (the integers), `at + 1` (the scale) and `at + 2` (the zero point) as floats.
fn operand(call: &mut Call, at: usize) -> Build<NodeId> {
    let (x, scale, zero) = (call.x(at)?, call.x(at + 1)?, call.optional(at + 2)?);
    let zero = zero.map(|zero| scalar(call.b, zero)).transpose()?;
    dequantized(call.b, x, scale, zero)
}

/// Floats as integers by the scale at `at` and the zero point behind it, of the type of the zero point or of another operand.
fn result(call: &mut Call, y: NodeId, at: usize, like: usize) -> Results {
    let (scale, zero) = (call.x(at)?, numbers(call, at + 1)?);
    let dtype = match zero {
        Some(zero) => call.b.dtype(zero),
        None => call.tensor(like)?.ty.dtype,
    };
    let scale = scalar(call.b, scale)?;
    let zero = zero.map(|zero| scalar(call.b, zero)).transpose()?;
    let ratio = call.b.binary(F::Div, y, scale)?;
    Ok(vec![quantized(call, ratio, zero, Element::Plain(dtype))?])
}

/// A function of two quantized operands.
pub fn q_linear(call: &mut Call, function: F) -> Results {
    let (lhs, rhs) = (operand(call, 0)?, operand(call, 3)?);
    let y = call.b.binary(function, lhs, rhs)?;
    result(call, y, 6, 0)
}

pub fn q_linear_sigmoid(call: &mut Call) -> Results {
    let x = operand(call, 0)?;
    let y = logistic(call.b, x)?;
    result(call, y, 3, 0)
}

pub fn q_linear_leaky_relu(call: &mut Call) -> Results {
    let (x, alpha) = (operand(call, 0)?, call.float_or("alpha", 0.01));
    let y = named(call.b, "leakyrelu", Some(alpha), None, x)?;
    result(call, y, 3, 0)
}

/// The result's scale and zero point come first, then each operand with its own.
pub fn q_linear_concat(call: &mut Call) -> Results {
    let count = call.count().saturating_sub(2) / 3;
    let parts = (0..count).map(|part| operand(call, 2 + 3 * part)).collect::<Build<Vec<NodeId>>>()?;
    let Some(first) = parts.first() else { return problem("nothing is concatenated") };
    let axis = normalize(call.int_or("axis", 0), call.b.rank(*first))?;
    let y = call.b.concat(&parts, axis)?;
    result(call, y, 0, 2)
}

/// The product of integers less their zero points under scales, as floats, with a bias.
fn scaled_product(
    b: &mut Builder,
    lhs: (NodeId, Option<NodeId>),
    rhs: (NodeId, Option<NodeId>),
    scales: [NodeId; 2],
    bias: Option<NodeId>,
) -> Build<NodeId> {
    let sums = centered_product(b, lhs, rhs)?;
    let sums = b.convert(sums, DType::F32)?;
    let [l, r] = [scalar(b, scales[0])?, scalar(b, scales[1])?];
    let scale = b.binary(F::Mul, l, r)?;
    let y = b.binary(F::Mul, sums, scale)?;
    match bias {
        Some(bias) => b.binary(F::Add, y, bias),
        None => Ok(y),
    }
}

pub fn mat_mul_integer_to_float(call: &mut Call) -> Results {
    let (lhs, rhs, scales) = (call.x(0)?, call.x(1)?, [call.x(2)?, call.x(3)?]);
    let (l_zero, r_zero, bias) = (call.optional(4)?, call.optional(5)?, call.optional(6)?);
    let b = &mut *call.b;
    let l_zero = l_zero.map(|zero| scalar(b, zero)).transpose()?;
    let r_zero = r_zero.map(|zero| scalar(b, zero)).transpose()?;
    let y = scaled_product(b, (lhs, l_zero), (rhs, r_zero), scales, bias)?;
    call.one(y)
}

/// The left operand is quantized to u8 by its own range.
pub fn dynamic_quantize_mat_mul(call: &mut Call) -> Results {
    let (lhs, rhs, r_scale) = (call.x(0)?, call.x(1)?, call.x(2)?);
    let (r_zero, bias) = (call.optional(3)?, call.optional(4)?);
    let b = &mut *call.b;
    let (lhs, l_scale, l_zero) = dynamically_quantized(b, lhs)?;
    let r_zero = r_zero.map(|zero| scalar(b, zero)).transpose()?;
    let y = scaled_product(b, (lhs, Some(l_zero)), (rhs, r_zero), [l_scale, r_scale], bias)?;
    call.one(y)
}

/// `alpha a b + c` with quantized operands; `c` has the scale of the product. Without a scale, the result is of floats.
pub fn q_gemm(call: &mut Call) -> Results {
    let (lhs, l_scale, l_zero) = (call.x(0)?, call.x(1)?, call.optional(2)?);
    let (rhs, r_scale, r_zero) = (call.x(3)?, call.x(4)?, call.optional(5)?);
    let bias = call.optional(6)?;
    let alpha = call.float_or("alpha", 1.0);
    let (turn_l, turn_r) = (call.flag("transA", false), call.flag("transB", false));
    let b = &mut *call.b;
    let l_zero = l_zero.map(|zero| scalar(b, zero)).transpose()?;
    let lhs = centered(b, lhs, l_zero)?;
    let mut rhs = b.convert(rhs, DType::I32)?;
    if turn_r {
        rhs = b.transpose(rhs, &[1, 0])?;
    }
    let r_zero = r_zero.map(|zero| scalar(b, zero)).transpose()?;
    let rhs = centered(b, rhs, r_zero)?;
    let lhs = if turn_l { b.transpose(lhs, &[1, 0])? } else { lhs };
    let mut sums = b.contract("mk,kn->mn", lhs, rhs)?;
    if let Some(bias) = bias {
        sums = b.binary(F::Add, sums, bias)?;
    }
    let sums = b.convert(sums, DType::F32)?;
    let (l_scale, r_scale) = (scalar(b, l_scale)?, scalar(b, r_scale)?);
    let scale = b.binary(F::Mul, l_scale, r_scale)?;
    let scale = b.with_scalar(F::Mul, scale, alpha)?;
    let y = b.binary(F::Mul, sums, scale)?;
    if call.has(7) { result(call, y, 7, 0) } else { call.one(y) }
}

/// Numbers of a few bits in bytes, the first in the lowest bits, along a new last dim.
fn unpacked(b: &mut Builder, packed: NodeId, bits: usize) -> Build<NodeId> {
    let wide = b.convert(packed, DType::I32)?;
    let last = b.rank(wide);
    let mask = f64::from((1 << bits) - 1);
    let mut parts = Vec::new();
    for part in 0..8 / bits {
        let moved = match part {
            0 => wide,
            part => b.with_scalar(F::ShiftRight, wide, (part * bits) as f64)?,
        };
        let number = b.with_scalar(F::And, moved, mask)?;
        parts.push(b.unsqueeze(number, &[last])?);
    }
    let parts = b.concat(&parts, last)?;
    b.merge_dims(parts, last - 1, last + 1)
}

/// A product with a matrix whose columns are stored in blocks, each with a scale, in 2, 4 or 8 bits a number.
pub fn mat_mul_n_bits(call: &mut Call) -> Results {
    let (x, packed, scales) = (call.x(0)?, call.x(1)?, call.x(2)?);
    let (zeros, bias) = (call.optional(3)?, call.optional(5)?);
    if call.has(4) {
        return problem("blocks in another order are not taken");
    }
    let bits = match call.int_or("bits", 4) {
        bits @ (2 | 4 | 8) => bits as usize,
        bits => return problem(format!("numbers of {bits} bits are not taken")),
    };
    let (k, n, block) = (call.int_or("K", 0), call.int_or("N", 0), call.int_or("block_size", 0));
    if k <= 0 || n <= 0 || !(1..=1 << 20).contains(&block) {
        return problem(format!("{n} columns of {k} numbers in blocks of {block}"));
    }
    let b = &mut *call.b;
    let dtype = b.dtype(x);
    let (k, n, size) = (Dim::constant(k), Dim::constant(n), Dim::constant(block));
    let [_, blocks, _] = &b.shape(packed)[..] else {
        return problem("the packed matrix does not have 3 dims");
    };
    let blocks = blocks.clone();
    let codes = unpacked(b, packed, bits)?;
    let zeros = match zeros {
        None => b.number(DType::F32, f64::from(1 << (bits - 1))),
        Some(zeros) => {
            let numbers = match b.dtype(zeros) == DType::U8 {
                true => {
                    // The numbers of a column begin with a byte.
                    let bytes = known_size(&blocks)?.saturating_mul(bits).div_ceil(8);
                    let zeros = b.reshape(zeros, &[n.clone(), Dim::from(bytes)])?;
                    let zeros = unpacked(b, zeros, bits)?;
                    b.slice_dim(zeros, 1, 0, blocks.clone())?
                }
                false => zeros,
            };
            let numbers = b.convert(numbers, DType::F32)?;
            b.reshape(numbers, &[n.clone(), blocks.clone(), Dim::ONE])?
        }
    };
    let codes = b.convert(codes, DType::F32)?;
    let numbers = b.binary(F::Sub, codes, zeros)?;
    let scales = b.convert(scales, DType::F32)?;
    let scales = b.reshape(scales, &[n.clone(), blocks.clone(), Dim::ONE])?;
    let numbers = b.binary(F::Mul, numbers, scales)?;
    let columns = b.reshape(numbers, &[n, &blocks * &size])?;
    let columns = b.slice_dim(columns, 1, 0, k)?;
    let columns = b.convert(columns, dtype)?;
    let matrix = b.transpose(columns, &[1, 0])?;
    let mut y = product(b, x, matrix)?;
    if let Some(bias) = bias {
        y = b.binary(F::Add, y, bias)?;
    }
    call.one(y)
}
