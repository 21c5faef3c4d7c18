//! The same values in another element type.

use super::Row;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results};
use crate::element::{Element, Narrow};
use crate::value::{Tensor, Value};
use thalweg_base::{DType, Dim, Literal, PointwiseFn as F, Scalar};
use thalweg_tensor::NodeId;

/// The rows of this family.
pub const OPS: &[Row] = &[("BitCast", bit_cast), ("Cast", cast), ("CastLike", cast_like)];

fn cast(call: &mut Call) -> Results {
    match call.element("to")? {
        Some(element) => to(call, element),
        None => problem("the element type is not given"),
    }
}

fn cast_like(call: &mut Call) -> Results {
    let like = call.tensor(1)?;
    match like.narrow {
        Some(narrow) => to(call, Element::Narrow(narrow)),
        None => to(call, Element::Plain(like.ty.dtype)),
    }
}

fn to(call: &mut Call, element: Element) -> Results {
    let tensor = call.tensor(0)?;
    let x = wide(call.b, &tensor)?;
    match element {
        Element::Plain(dtype) => {
            let y = call.b.convert(x, dtype)?;
            call.one(y)
        }
        Element::Narrow(narrow) => {
            let saturate = call.flag("saturate", true);
            let up = call.text_or("round_mode", "up");
            let y = encode(call.b, x, narrow, saturate, &up)?;
            Ok(vec![Value::Tensor(Tensor { narrow: Some(narrow), ..call.b.tensor(y) })])
        }
    }
}

/// The numbers of a tensor: those of a narrow type as f32 (integers as they are).
pub fn wide(b: &mut Builder, tensor: &Tensor) -> Build<NodeId> {
    let x = b.node(tensor)?;
    match tensor.narrow {
        None => Ok(x),
        Some(narrow) if narrow.is_integer() => Ok(x),
        Some(narrow) => {
            // One number for each of the 256 codes.
            let table: Vec<f64> = (0..=255).map(|code| narrow.decode(code)).collect();
            let table = b.numbers(DType::F32, &table);
            let codes = b.convert(x, DType::I32)?;
            b.gather(table, codes, 0, 0)
        }
    }
}

/// Numbers in the codes of a narrow type: floats nearest, ties to even, `saturate` saying what is beyond the largest; integers
/// by their low bits.
pub fn encode(b: &mut Builder, x: NodeId, narrow: Narrow, saturate: bool, round: &str) -> Build<NodeId> {
    if narrow.is_integer() {
        return encode_integer(b, x, narrow);
    }
    // Midpoints between the numbers of every narrow type are exact in f32; a number of f64 must not be rounded twice.
    let x = if b.dtype(x) == DType::F64 { x } else { b.convert(x, DType::F32)? };
    let codes: Vec<(f64, u8)> = positive_codes(narrow);
    // The nearest code is how many midpoints lie below: the codes of positive numbers rise with the numbers.
    let (values, first) = (codes.iter().map(|(value, _)| *value).collect::<Vec<f64>>(), codes[0].1);
    let magnitude = b.unary(F::Abs, x)?;
    let code = match narrow == Narrow::F8E8M0 {
        true => power_of_two(b, magnitude, round)?,
        false => nearest(b, magnitude, &values)?,
    };
    let code = b.with_scalar(F::Add, code, f64::from(first))?;
    let largest = *values.last().expect("every type has values");
    let step = largest - values[values.len() - 2];
    let top = f64::from(codes.last().expect("every type has values").1);
    let (infinite, nan, sign_bit) = match narrow {
        Narrow::F8E4M3Fn => (0x7f, 0x7f, 0x80),
        // The quiet one, as IEEE 754 has it for its own types.
        Narrow::F8E5M2 => (0x7c, 0x7e, 0x80),
        Narrow::F8E4M3FnUz | Narrow::F8E5M2FnUz => (0x80, 0x80, 0x80),
        Narrow::F8E8M0 => (0xfe, 0xff, 0),
        // There is no NaN; the format's own implementation gives the code of -0.
        Narrow::F4E2M1 => (7, 8, 8),
        Narrow::U4 | Narrow::I4 | Narrow::U2 | Narrow::I2 => unreachable!("integers are encoded above"),
    };
    let saturates = saturate || matches!(narrow, Narrow::F4E2M1 | Narrow::F8E8M0);
    let too_large = match saturates {
        true => b.with_scalar(F::Gt, magnitude, largest)?,
        // What would round to the next number above the largest overflows; a tie goes to the even one, which is it.
        false => b.with_scalar(F::Ge, magnitude, largest + step / 2.0)?,
    };
    let beyond = b.number(DType::I32, if saturates { top } else { f64::from(infinite) });
    let code = b.select(too_large, beyond, code)?;
    let special_nan = matches!(narrow, Narrow::F8E4M3FnUz | Narrow::F8E5M2FnUz);
    let code = match sign_bit {
        0 => code,
        bit => {
            let negative = sign(b, x)?;
            let signed = b.with_scalar(F::Or, code, f64::from(bit))?;
            // The types without a negative zero use its code for what is no number.
            let has_sign = match special_nan {
                true => {
                    let some = b.with_scalar(F::Ne, code, 0.0)?;
                    b.pointwise(F::And, &[negative, some])?
                }
                false => negative,
            };
            b.select(has_sign, signed, code)?
        }
    };
    let is_nan = b.pointwise(F::Ne, &[x, x])?;
    let nan = b.number(DType::I32, f64::from(nan));
    let code = b.select(is_nan, nan, code)?;
    b.convert(code, DType::U8)
}

/// Whether a number, also 0, has a minus.
fn sign(b: &mut Builder, x: NodeId) -> Build<NodeId> {
    let one = b.number_like(x, 1.0);
    let below = b.with_scalar(F::Lt, x, 0.0)?;
    let inverse = b.binary(F::Div, one, x)?;
    let zero = b.with_scalar(F::Eq, x, 0.0)?;
    let negative_inverse = b.with_scalar(F::Lt, inverse, 0.0)?;
    let negative_zero = b.pointwise(F::And, &[zero, negative_inverse])?;
    b.pointwise(F::Or, &[below, negative_zero])
}

/// The numbers that are not negative, with their codes, rising.
fn positive_codes(narrow: Narrow) -> Vec<(f64, u8)> {
    let bits = if narrow == Narrow::F8E8M0 { 8 } else { narrow.bits() - 1 };
    let all = (0..1u32 << bits).map(|code| (narrow.decode(code as u8), code as u8));
    all.filter(|(value, _)| value.is_finite()).collect()
}

/// The position of the nearest of rising values, ties to the even position.
fn nearest(b: &mut Builder, magnitude: NodeId, values: &[f64]) -> Build<NodeId> {
    let midpoints: Vec<f64> = values.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    let shape = b.shape(magnitude);
    let count = midpoints.len();
    let wider = [&shape[..], &[Dim::from(count)]].concat();
    let dims: Vec<usize> = (0..shape.len()).collect();
    let repeated = b.broadcast(magnitude, &wider, &dims)?;
    let dtype = b.dtype(magnitude);
    let points = b.numbers(dtype, &midpoints);
    let points = b.broadcast(points, &wider, &[shape.len()])?;
    let above = b.pointwise(F::Gt, &[repeated, points])?;
    let equal = b.pointwise(F::Eq, &[repeated, points])?;
    // The midpoint `i` is between the positions `i` and `i + 1`; the upper one is even when `i` is odd.
    let odd: Vec<f64> = (0..count).map(|at| (at % 2) as f64).collect();
    let odd = b.numbers(DType::Bool, &odd);
    let odd = b.broadcast(odd, &wider, &[shape.len()])?;
    let tie = b.pointwise(F::And, &[equal, odd])?;
    let passed = b.pointwise(F::Or, &[above, tie])?;
    let passed = b.convert(passed, DType::I32)?;
    b.reduce(thalweg_tensor::ReduceFn::Sum, passed, &[shape.len()], false)
}

/// The exponent of the power of two above, below or nearest to a number, plus 127.
fn power_of_two(b: &mut Builder, magnitude: NodeId, round: &str) -> Build<NodeId> {
    let powers: Vec<f64> = (-127..=127).map(|exponent| 2f64.powi(exponent)).collect();
    let bounds: Vec<f64> = match round {
        "up" => powers[..254].to_vec(),
        "down" => powers[1..].iter().map(|power| power * (1.0 - 2f64.powi(-25))).collect(),
        "nearest" => powers[..254].iter().map(|power| power * 1.5).collect(),
        other => return problem(format!("there is no rounding `{other}`")),
    };
    let shape = b.shape(magnitude);
    let wider = [&shape[..], &[Dim::from(bounds.len())]].concat();
    let dims: Vec<usize> = (0..shape.len()).collect();
    // In f64, as the smallest powers are below what f32 holds in full.
    let magnitude = b.convert(magnitude, DType::F64)?;
    let repeated = b.broadcast(magnitude, &wider, &dims)?;
    let points = b.numbers(DType::F64, &bounds);
    let points = b.broadcast(points, &wider, &[shape.len()])?;
    let above = b.pointwise(if round == "nearest" { F::Ge } else { F::Gt }, &[repeated, points])?;
    let above = b.convert(above, DType::I32)?;
    b.reduce(thalweg_tensor::ReduceFn::Sum, above, &[shape.len()], false)
}

/// The low bits of integers; fractions are cut off.
fn encode_integer(b: &mut Builder, x: NodeId, narrow: Narrow) -> Build<NodeId> {
    let wide = b.convert(x, DType::I32)?;
    let code = b.with_scalar(F::And, wide, f64::from((1 << narrow.bits()) - 1))?;
    let integers = match narrow {
        Narrow::I4 | Narrow::I2 => {
            let half = b.with_scalar(F::Ge, code, f64::from(1 << (narrow.bits() - 1)))?;
            let moved = b.with_scalar(F::Sub, code, f64::from(1 << narrow.bits()))?;
            b.select(half, moved, code)?
        }
        Narrow::U4 | Narrow::U2 => code,
        Narrow::F8E4M3Fn | Narrow::F8E4M3FnUz | Narrow::F8E5M2 | Narrow::F8E5M2FnUz => code,
        Narrow::F8E8M0 | Narrow::F4E2M1 => code,
    };
    b.convert(integers, narrow.storage())
}

/// The same bits as elements of another type of the same width. Between integers and codes this is a conversion; for floats
/// the values must be known, as no function of ours sees the bits of one.
fn bit_cast(call: &mut Call) -> Results {
    let Some(to) = call.element("to")? else { return problem("the element type is not given") };
    let tensor = call.tensor(0)?;
    let bits = |dtype: DType, narrow: Option<Narrow>| match (narrow, dtype) {
        (Some(narrow), _) => narrow.bits(),
        (None, dtype) => 8 * dtype.size_bytes(),
    };
    let (own, wanted) = (bits(tensor.ty.dtype, tensor.narrow), bits(to.storage(), to.narrow()));
    if own != wanted {
        return problem(format!("an element has {own} bits, one of the result {wanted}"));
    }
    if !tensor.ty.dtype.is_float() && !to.storage().is_float() {
        let x = call.b.node(&tensor)?;
        let y = match to.narrow() {
            Some(narrow) if narrow.bits() < 8 => encode_integer(call.b, x, narrow)?,
            Some(_) | None => call.b.convert(x, to.storage())?,
        };
        return Ok(vec![Value::Tensor(Tensor { narrow: to.narrow(), ..call.b.tensor(y) })]);
    }
    let literal = call.literal(0)?;
    match Literal::from_bytes(to.storage(), literal.shape(), literal.bytes().to_vec()) {
        Ok(literal) => Ok(vec![Value::Tensor(Tensor { narrow: to.narrow(), ..Tensor::known(literal) })]),
        Err(error) => problem(error.to_string()),
    }
}

/// The smallest and largest value of an integer type.
pub fn integer_range(element: Element) -> Option<(f64, f64)> {
    match element {
        Element::Narrow(Narrow::U4) => Some((0.0, 15.0)),
        Element::Narrow(Narrow::I4) => Some((-8.0, 7.0)),
        Element::Narrow(Narrow::U2) => Some((0.0, 3.0)),
        Element::Narrow(Narrow::I2) => Some((-2.0, 1.0)),
        Element::Narrow(_) => None,
        Element::Plain(dtype) if dtype.is_float() => None,
        Element::Plain(dtype) => {
            let (low, high) = dtype.range();
            Some((Scalar::to_f64(low), Scalar::to_f64(high)))
        }
    }
}
