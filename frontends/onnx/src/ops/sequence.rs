//! Lists and optional values. They exist only while a model is imported: a graph has their tensors.

use super::Row;
use crate::builder::{Build, problem};
use crate::call::{Call, Results, normalize};
use crate::value::Value;
use thalweg_base::{DType, Literal, Scalar};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("ConcatFromSequence", concat),
    ("Optional", optional),
    ("OptionalGetElement", get_element),
    ("OptionalHasElement", has_element),
    ("SequenceAt", at),
    ("SequenceConstruct", construct),
    ("SequenceEmpty", |_| Ok(vec![Value::Sequence(vec![])])),
    ("SequenceErase", erase),
    ("SequenceInsert", insert),
    ("SequenceLength", length),
    ("SplitToSequence", split),
];

/// The longest list that grows by one element at a time: each time it is copied.
const LENGTH_MAX: usize = 1 << 12;

fn list(call: &Call, index: usize) -> Build<Vec<Value>> {
    match call.value(index)? {
        Value::Sequence(values) => Ok(values.clone()),
        Value::Optional(Some(value)) => match &**value {
            Value::Sequence(values) => Ok(values.clone()),
            Value::Tensor(_) | Value::Optional(_) | Value::Poisoned => {
                problem(format!("operand {index} is no list"))
            }
        },
        Value::Tensor(_) | Value::Optional(None) | Value::Poisoned => {
            problem(format!("operand {index} is no list"))
        }
    }
}

fn construct(call: &mut Call) -> Results {
    let values = (0..call.count()).map(|index| call.value(index).cloned()).collect::<Build<Vec<Value>>>()?;
    Ok(vec![Value::Sequence(values)])
}

fn at(call: &mut Call) -> Results {
    let values = list(call, 0)?;
    let position = normalize(call.number(1)?.to_i64(), values.len())?;
    Ok(vec![values[position].clone()])
}

fn insert(call: &mut Call) -> Results {
    let mut values = list(call, 0)?;
    let position = match call.has(2) {
        // A position counted from the end is that of an element, before which the value goes.
        true => match call.number(2)?.to_i64() {
            end if end == values.len() as i64 => values.len(),
            position => normalize(position, values.len())?,
        },
        false => values.len(),
    };
    if values.len() >= LENGTH_MAX {
        return problem(format!("a list gets more than {LENGTH_MAX} elements"));
    }
    values.insert(position, call.value(1)?.clone());
    Ok(vec![Value::Sequence(values)])
}

fn erase(call: &mut Call) -> Results {
    let mut values = list(call, 0)?;
    let position = if call.has(1) { call.number(1)?.to_i64() } else { -1 };
    values.remove(normalize(position, values.len())?);
    Ok(vec![Value::Sequence(values)])
}

fn length(call: &mut Call) -> Results {
    let count = list(call, 0)?.len() as i64;
    Ok(vec![Value::known(Literal::scalar(DType::I64, Scalar::Int(count.into())))])
}

fn concat(call: &mut Call) -> Results {
    let values = list(call, 0)?;
    let mut nodes = Vec::new();
    for value in &values {
        let Some(tensor) = value.as_tensor() else { return problem("the list holds more than tensors") };
        nodes.push(call.b.node(tensor)?);
    }
    let Some(first) = nodes.first() else { return problem("the list is empty") };
    let new = call.flag("new_axis", false);
    let axis = call.axis_or(0, call.b.rank(*first) + new as usize)?;
    if new {
        nodes = nodes.into_iter().map(|node| call.b.unsqueeze(node, &[axis])).collect::<Build<_>>()?;
    }
    let y = call.b.concat(&nodes, axis)?;
    call.one(y)
}

fn split(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let axis = call.axis_or(0, call.b.rank(x))?;
    let size = call.b.size(x, axis)?;
    let given = if call.has(1) { Some(call.literal(1)?) } else { None };
    let keeps = call.flag("keepdims", true) || given.is_some();
    let sizes: Vec<usize> = match given {
        Some(sizes) if sizes.shape().is_empty() => {
            let each = sizes.get(0).to_i64().max(1) as usize;
            (0..size.div_ceil(each)).map(|part| each.min(size - part * each)).collect()
        }
        Some(sizes) => sizes.scalars().map(|size| size.to_i64().max(0) as usize).collect(),
        None => vec![1; size],
    };
    let mut start = 0;
    let mut values = Vec::new();
    for part in sizes {
        let y = match keeps {
            true => call.b.slice_dim(x, axis, start, part)?,
            false => call.b.pick(x, axis, start)?,
        };
        values.push(call.b.value(y));
        start += part;
    }
    Ok(vec![Value::Sequence(values)])
}

fn optional(call: &mut Call) -> Results {
    let value = if call.has(0) { Some(Box::new(call.value(0)?.clone())) } else { None };
    Ok(vec![Value::Optional(value)])
}

fn get_element(call: &mut Call) -> Results {
    match call.value(0)? {
        Value::Optional(Some(value)) => Ok(vec![(**value).clone()]),
        Value::Optional(None) => problem("the optional value is missing"),
        value @ (Value::Tensor(_) | Value::Sequence(_) | Value::Poisoned) => Ok(vec![value.clone()]),
    }
}

fn has_element(call: &mut Call) -> Results {
    let there = matches!(call.inputs.first(), Some(Some(value)) if !matches!(value, Value::Optional(None)));
    Ok(vec![Value::known(Literal::scalar(DType::Bool, Scalar::Int(there.into())))])
}
