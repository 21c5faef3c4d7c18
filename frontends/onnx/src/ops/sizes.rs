//! Arithmetic with sizes that are not known yet: chains from `Shape` to `Reshape` stay shapes and leave no node.

use super::movement::python_range;
use super::shape::sizes;
use crate::builder::{Build, Stop};
use crate::call::{Call, normalize};
use crate::value::{Content, Tensor, Value};
use thalweg_base::{DType, Dim, Literal, Scalar};

/// The result of a node whose operands are sizes, where that is a list of sizes again or known; else none, and the node is
/// lowered as any other.
pub fn lower(call: &Call) -> Build<Option<Value>> {
    let symbolic = |value: &Option<Value>| {
        let content = value.as_ref().and_then(Value::as_tensor).map(|tensor| &tensor.content);
        matches!(content, Some(Content::Sizes(_)))
    };
    if !super::domain(&call.node.domain).is_empty() || !call.inputs.iter().any(symbolic) {
        return Ok(None);
    }
    let first = of(call, 0);
    let rank = |at: usize| call.tensor(at).map_or(0, |tensor| tensor.rank());
    Ok(match (call.node.op_type.as_str(), first) {
        ("Identity", Some(x)) => Some(sizes(x, rank(0))),
        ("Cast", Some(x)) => {
            let same = matches!(call.dtype_or("to", DType::I64), Ok(DType::I64));
            same.then(|| sizes(x, rank(0)))
        }
        ("Unsqueeze", Some(x)) if rank(0) == 0 => Some(sizes(x, 1)),
        ("Squeeze", Some(x)) if x.len() == 1 => Some(sizes(x, 0)),
        ("Reshape", Some(x)) => match call.ints(1)?.len() {
            0 => Some(sizes(x, 0)),
            1 => Some(sizes(x, 1)),
            _ => None,
        },
        ("Concat", Some(_)) => {
            let all: Option<Vec<Vec<Dim>>> = (0..call.count()).map(|at| of(call, at)).collect();
            all.map(|all| sizes(all.concat(), 1))
        }
        ("Gather", Some(x)) if rank(0) == 1 && rank(1) <= 1 => {
            let picked = call.ints(1)?.into_iter().map(|at| Ok(x[normalize(at, x.len())?].clone()));
            Some(sizes(picked.collect::<Build<Vec<Dim>>>()?, rank(1)))
        }
        ("Slice", Some(x)) if rank(0) == 1 && call.opset >= 10 => {
            let step = if call.has(4) { call.number(4)?.to_i64() } else { 1 };
            let (start, end) = (call.number(1)?.to_i64(), call.number(2)?.to_i64());
            if step == 0 {
                return Ok(None);
            }
            let (start, count) = python_range(x.len() as i64, start, end, step);
            Some(sizes((0..count).map(|at| x[(start + at * step) as usize].clone()).collect(), 1))
        }
        ("ReduceProd", Some(x)) if rank(0) == 1 => {
            Some(sizes(vec![thalweg_base::dim::product(&x)], call.flag("keepdims", true) as usize))
        }
        ("ReduceSum", Some(x)) if rank(0) == 1 => {
            let sum = x.iter().fold(Dim::default(), |sum, dim| &sum + dim);
            Some(sizes(vec![sum], call.flag("keepdims", true) as usize))
        }
        ("Add" | "Sub" | "Mul" | "Div" | "Equal" | "Max" | "Min", Some(a)) => of(call, 1).and_then(|b| {
            let rank = rank(0).max(rank(1));
            pairs(call, &a, &b, rank)
        }),
        ("Where", None) => {
            let condition = call.literal(0)?;
            let (a, b) = (of(call, 1), of(call, 2));
            a.zip(b).and_then(|(a, b)| chosen(&condition, &a, &b))
        }
        _ => None,
    })
}

/// An operand as sizes: one of i64 that is known, or known up to symbols.
fn of(call: &Call, index: usize) -> Option<Vec<Dim>> {
    let tensor: Tensor = call.tensor(index).ok()?;
    if tensor.rank() > 1 || tensor.ty.dtype != DType::I64 {
        return None;
    }
    match &tensor.content {
        Content::Sizes(sizes) => Some(sizes.to_vec()),
        Content::Known { .. } => call.dims(index).ok(),
        Content::Node { .. } => None,
    }
}

fn at<T>(values: &[T], index: usize) -> &T {
    if values.len() == 1 { &values[0] } else { &values[index] }
}

/// An arithmetic op on two lists, one of which may have a single element.
fn pairs(call: &Call, a: &[Dim], b: &[Dim], rank: usize) -> Option<Value> {
    let count = a.len().max(b.len());
    if (a.len() != count && a.len() != 1) || (b.len() != count && b.len() != 1) {
        return None;
    }
    let both = || (0..count).map(|index| (at(a, index), at(b, index)));
    let dims = |of: &dyn Fn(&Dim, &Dim) -> Option<Dim>| -> Option<Value> {
        let result: Option<Vec<Dim>> = both().map(|(a, b)| of(a, b)).collect();
        result.map(|dims| sizes(dims, rank))
    };
    match call.node.op_type.as_str() {
        "Add" => dims(&|a, b| Some(a + b)),
        "Sub" => dims(&|a, b| Some(a - b)),
        "Mul" => dims(&|a, b| Some(a * b)),
        "Div" => dims(&|a, b| match b.as_constant() {
            Some(b) if b > 0 => Some(a.floor_div(b)),
            Some(_) | None => a.exact_div(b),
        }),
        // A size is never below 0, whatever its symbols are.
        "Max" | "Min" => dims(&|a, b| {
            let larger = match (a.as_constant(), b.as_constant()) {
                _ if a == b => return Some(a.clone()),
                (Some(x), None) if x <= 0 => b,
                (None, Some(x)) if x <= 0 => a,
                (Some(x), Some(y)) => {
                    if x > y {
                        a
                    } else {
                        b
                    }
                }
                (_, _) => return None,
            };
            let other = if larger == a { b } else { a };
            Some(if call.node.op_type == "Max" { larger } else { other }.clone())
        }),
        "Equal" => {
            let equal = |(a, b): (&Dim, &Dim)| match (a.as_constant(), b.as_constant()) {
                _ if a == b => Some(true),
                (Some(_), Some(_)) => Some(false),
                (Some(x), None) | (None, Some(x)) if x < 0 => Some(false),
                (_, _) => None,
            };
            let values: Option<Vec<bool>> = both().map(equal).collect();
            values.map(|values| {
                let shape = if rank == 0 { vec![] } else { vec![values.len()] };
                let scalars = values.into_iter().map(|value| Scalar::Int(value.into()));
                Value::known(Literal::from_scalars(DType::Bool, &shape, scalars))
            })
        }
        _ => None,
    }
}

fn chosen(condition: &Literal, a: &[Dim], b: &[Dim]) -> Option<Value> {
    let count = condition.len().max(a.len()).max(b.len());
    let holds: Vec<bool> = condition.scalars().map(|value| value.to_i64() != 0).collect();
    if [holds.len(), a.len(), b.len()].iter().any(|length| *length != count && *length != 1) {
        return None;
    }
    let dims = (0..count).map(|index| if *at(&holds, index) { at(a, index) } else { at(b, index) }.clone());
    Some(sizes(dims.collect(), 1))
}

/// A stop is passed on only when it asks for a value.
pub fn needs_only(result: Build<Option<Value>>) -> Build<Option<Value>> {
    match result {
        Err(Stop::Problem(_)) => Ok(None),
        other => other,
    }
}
