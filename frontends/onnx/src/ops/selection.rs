//! Results whose sizes depend on values. Those values are known when such a node is imported, after a stage if they have to
//! be computed first.

use super::Row;
use crate::builder::{Build, problem};
use crate::call::{Call, Results};
use crate::value::Value;
use std::cmp::Ordering;
use thalweg_base::{DType, Literal, Scalar};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("Compress", compress),
    ("NonMaxSuppression", non_max_suppression),
    ("NonZero", non_zero),
    ("Unique", unique),
];

fn integers(shape: &[usize], values: impl IntoIterator<Item = usize>) -> Literal {
    Literal::from_scalars(DType::I64, shape, values.into_iter().map(|value| Scalar::Int(value as i128)))
}

fn holds(value: Scalar) -> bool {
    value.convert(DType::Bool).to_i64() != 0
}

/// Only the condition has to be known.
fn compress(call: &mut Call) -> Results {
    let condition = call.literal(1)?;
    let x = call.x(0)?;
    let rank = call.b.rank(x);
    let (x, dim) = match call.int("axis") {
        Some(_) => (x, call.axis_or(0, rank)?),
        None => (call.b.merge_dims(x, 0, rank)?, 0),
    };
    let chosen: Vec<f64> =
        condition.scalars().enumerate().filter(|(_, value)| holds(*value)).map(|(at, _)| at as f64).collect();
    let size = call.b.shape(x)[dim].as_constant().unwrap_or(i64::MAX);
    if let Some(last) = chosen.last().filter(|last| **last >= size as f64) {
        return problem(format!("the condition chooses position {last} of a dim of size {size}"));
    }
    let indices = call.b.numbers(DType::I32, &chosen);
    let y = call.b.gather(x, indices, dim, 0)?;
    call.one(y)
}

/// A row for each dim, a column for each element that is not 0. Of a scalar there are no rows, but a column still.
fn non_zero(call: &mut Call) -> Results {
    let x = call.literal(0)?;
    let found: Vec<usize> =
        x.scalars().enumerate().filter(|(_, value)| holds(*value)).map(|(at, _)| at).collect();
    let mut rows = Vec::new();
    for dim in 0..x.shape().len() {
        let inner: usize = x.shape()[dim + 1..].iter().product();
        rows.extend(found.iter().map(|at| at / inner % x.shape()[dim]));
    }
    Ok(vec![Value::known(integers(&[x.shape().len(), found.len()], rows))])
}

/// By value, with NaN last and equal to itself.
fn order(a: &Scalar, b: &Scalar) -> Ordering {
    match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => a.cmp(b),
        (a, b) => {
            let (a, b) = (a.to_f64(), b.to_f64());
            a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }
    }
}

fn order_lists(a: &[Scalar], b: &[Scalar]) -> Ordering {
    a.iter().zip(b).map(|(a, b)| order(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// The different elements, or positions of a dim, each once: by value, or in the order in which they are met.
fn unique(call: &mut Call) -> Results {
    let literal = call.literal(0)?;
    let rank = literal.shape().len();
    let (shape, dim) = match call.int("axis") {
        Some(_) => (literal.shape().to_vec(), call.axis_or(0, rank)?),
        None => (vec![literal.len()], 0),
    };
    let (count, inner): (usize, usize) = (shape[dim], shape[dim + 1..].iter().product());
    let outer: usize = shape[..dim].iter().product();
    let place = |at: usize, part: usize| (part / inner * count + at) * inner + part % inner;
    let parts = outer * inner;
    let elements: Vec<Scalar> = literal.scalars().collect();
    let items: Vec<Vec<Scalar>> =
        (0..count).map(|at| (0..parts).map(|part| elements[place(at, part)]).collect()).collect();

    let mut sorted: Vec<usize> = (0..count).collect();
    sorted.sort_by(|a, b| order_lists(&items[*a], &items[*b]));
    // The sort is stable, so the first of each run is the one that is met first.
    let mut runs: Vec<Vec<usize>> = Vec::new();
    for at in sorted {
        match runs.last_mut() {
            Some(run) if order_lists(&items[run[0]], &items[at]).is_eq() => run.push(at),
            Some(_) | None => runs.push(vec![at]),
        }
    }
    if !call.flag("sorted", true) {
        runs.sort_by_key(|run| run[0]);
    }
    let mut inverse = vec![0; count];
    for (number, run) in runs.iter().enumerate() {
        run.iter().for_each(|at| inverse[*at] = number);
    }
    let mut result = shape.clone();
    result[dim] = runs.len();
    let values = (0..outer).flat_map(|block| {
        let (runs, elements) = (&runs, &elements);
        runs.iter()
            .flat_map(move |run| (0..inner).map(move |part| elements[place(run[0], block * inner + part)]))
    });
    let values = Literal::from_scalars(literal.dtype(), &result, values);
    let firsts = integers(&[runs.len()], runs.iter().map(|run| run[0]));
    let counts = integers(&[runs.len()], runs.iter().map(Vec::len));
    Ok([values, firsts, integers(&[count], inverse), counts].into_iter().map(Value::known).collect())
}

/// Lower and upper ends of a box along both dims.
type Rectangle = [[f32; 2]; 2];

/// A box from its four numbers: two corners, or a center with sizes.
fn read_box(numbers: &[f32], center: bool) -> Rectangle {
    [0, 1].map(|dim| match center {
        true => [numbers[dim] - numbers[dim + 2] / 2.0, numbers[dim] + numbers[dim + 2] / 2.0],
        false => [numbers[dim].min(numbers[dim + 2]), numbers[dim].max(numbers[dim + 2])],
    })
}

/// The area that two boxes share, of the area that either covers.
fn overlap(a: &Rectangle, b: &Rectangle) -> f32 {
    let area = |of: &Rectangle| (of[0][1] - of[0][0]) * (of[1][1] - of[1][0]);
    let shared = [0, 1].map(|dim| (a[dim][1].min(b[dim][1]) - a[dim][0].max(b[dim][0])).max(0.0));
    let shared = shared[0] * shared[1];
    let all = area(a) + area(b) - shared;
    if shared > 0.0 && area(a) > 0.0 && area(b) > 0.0 && all > 0.0 { shared / all } else { 0.0 }
}

/// The best boxes of each class, but none that overlaps a better one too much.
fn non_max_suppression(call: &mut Call) -> Results {
    let (boxes, scores) = (call.literal(0)?, call.literal(1)?);
    let optional = |call: &Call, at: usize| -> Build<Option<f64>> {
        let given = call.has(at) && !call.literal(at)?.is_empty();
        if given { Ok(Some(call.number(at)?.to_f64())) } else { Ok(None) }
    };
    let most = optional(call, 2)?.map_or(0, |most| most.max(0.0) as usize);
    let most_overlap = optional(call, 3)?.unwrap_or(0.0) as f32;
    let least_score = optional(call, 4)?;
    let center = call.flag("center_point_box", false);
    let (&[batches, count, 4], &[score_batches, classes, score_count]) = (boxes.shape(), scores.shape())
    else {
        return problem("boxes have the shape [batches, boxes, 4] and scores [batches, classes, boxes]");
    };
    if (batches, count) != (score_batches, score_count) {
        return problem(format!("boxes {:?} do not fit scores {:?}", boxes.shape(), scores.shape()));
    }
    let numbers: Vec<f32> = boxes.scalars().map(|value| value.to_f64() as f32).collect();
    let all: Vec<Rectangle> = numbers.chunks_exact(4).map(|numbers| read_box(numbers, center)).collect();
    let scores: Vec<f64> = scores.scalars().map(Scalar::to_f64).collect();
    let mut selected = Vec::new();
    for batch in 0..batches {
        for class in 0..classes {
            let first = (batch * classes + class) * count;
            let score = |at: &usize| scores[first + at];
            let mut candidates: Vec<usize> =
                (0..count).filter(|at| least_score.is_none_or(|least| score(at) > least)).collect();
            // Of equal scores the first box is better.
            candidates.sort_by(|a, b| score(b).total_cmp(&score(a)));
            let mut kept: Vec<usize> = Vec::new();
            for at in candidates {
                if kept.len() >= most {
                    break;
                }
                let own = &all[batch * count + at];
                if kept.iter().all(|other| overlap(own, &all[batch * count + other]) <= most_overlap) {
                    kept.push(at);
                    selected.extend([batch, class, at]);
                }
            }
        }
    }
    Ok(vec![Value::known(integers(&[selected.len() / 3, 3], selected))])
}
