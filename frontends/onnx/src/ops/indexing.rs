//! Elements chosen and replaced by index tensors.

use super::Row;
use crate::builder::{Build, Builder, known_size, problem};
use crate::call::{Call, Results, normalize};
use crate::value::{Tensor, Value};
use thalweg_base::{DType, Dim, Literal, PointwiseFn as F, Scalar, dim::product};
use thalweg_tensor::NodeId;
use thalweg_tensor::ops::{ArgSort, PadDim, Scatter, SliceRange};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("Scatter", scatter_elements),
    ("ScatterElements", scatter_elements),
    ("ScatterND", scatter_nd),
    ("TopK", top_k),
];

/// The most known indices that are looked at one by one at import.
const KNOWN_MAX: usize = 1 << 20;

/// The indices of an operand, when they are known and not too many.
fn known(tensor: &Tensor) -> Option<Vec<i64>> {
    let literal = tensor.literal().filter(|literal| literal.len() <= KNOWN_MAX)?;
    Some(literal.scalars().map(|index| index.to_i64()).collect())
}

/// A known index counted from the start. Fails when the dim has no such position.
fn checked(index: i64, size: i64) -> Build<i64> {
    let position = if index < 0 { index.saturating_add(size) } else { index };
    match (0..size).contains(&position) {
        true => Ok(position),
        false => problem(format!("there is no position {index} in a dim of size {size}")),
    }
}

/// Indices counted from the start, of a dim of that size.
fn from_start(b: &mut Builder, indices: NodeId, size: &Dim) -> Build<NodeId> {
    let size = b.size_like(indices, size)?;
    let negative = b.with_scalar(F::Lt, indices, 0.0)?;
    let moved = b.binary(F::Add, indices, size)?;
    b.select(negative, moved, indices)
}

/// An operand as positions of a dim of that size: known ones are counted from the start here, others when the model runs.
fn positions(call: &mut Call, operand: usize, size: &Dim) -> Build<NodeId> {
    let tensor = call.tensor(operand)?;
    let indices = call.x(operand)?;
    match (known(&tensor), size.as_constant()) {
        (Some(values), Some(size)) => {
            let checked = values.iter().map(|index| checked(*index, size)).collect::<Build<Vec<i64>>>()?;
            match checked == values {
                true => Ok(indices),
                false => {
                    let scalars = checked.into_iter().map(|position| Scalar::Int(position.into()));
                    Ok(call.b.graph().constant(Literal::from_scalars(
                        tensor.ty.dtype,
                        &tensor.ty.sizes(),
                        scalars,
                    )))
                }
            }
        }
        (Some(values), None) if values.iter().all(|index| *index >= 0) => Ok(indices),
        (_, _) => from_start(call.b, indices, size),
    }
}

/// The slice that known indices are, if each is as far from the one before.
fn progression(indices: &[i64], size: &Dim) -> Option<SliceRange> {
    let (first, last) = (*indices.first()?, *indices.last()?);
    let stride = indices.get(1).map_or(Some(1), |second| second.checked_sub(first))?;
    let even = indices.windows(2).all(|pair| pair[1].checked_sub(pair[0]) == Some(stride));
    let one_side = (first < 0) == (last < 0);
    let start = if first < 0 { size + &Dim::constant(first) } else { Dim::constant(first) };
    (even && one_side && stride != 0).then(|| SliceRange {
        dim: 0,
        start,
        size: indices.len().into(),
        stride,
    })
}

fn gather(call: &mut Call) -> Results {
    let (of, indices) = (call.tensor(0)?, call.tensor(1)?);
    let x = call.b.node(&of)?;
    let dim = call.axis_or(0, of.rank())?;
    let size = of.ty.shape[dim].clone();
    let y = match known(&indices).and_then(|values| progression(&values, &size)) {
        Some(range) => {
            let y = call.b.slice(x, vec![SliceRange { dim, ..range }])?;
            let shape = [&of.ty.shape[..dim], &indices.ty.shape, &of.ty.shape[dim + 1..]].concat();
            call.b.reshape(y, &shape)?
        }
        None => {
            let indices = positions(call, 1, &size)?;
            call.b.gather(x, indices, dim, 0)?
        }
    };
    Ok(vec![Value::Tensor(Tensor { narrow: of.narrow, ..call.b.tensor(y) })])
}

/// The order of dims that brings one to the end, and the one that brings it back.
fn to_last(rank: usize, dim: usize) -> [Vec<usize>; 2] {
    let there: Vec<usize> = (0..rank).filter(|other| *other != dim).chain([dim]).collect();
    let back =
        (0..rank).map(|other| if other == dim { rank - 1 } else { other - (other > dim) as usize }).collect();
    [there, back]
}

/// Positions of the last dim chosen by indices of as many dims.
fn take_along_last(b: &mut Builder, x: NodeId, indices: NodeId) -> Build<NodeId> {
    let last = b.rank(x) - 1;
    b.gather(x, indices, last, last)
}

fn gather_elements(call: &mut Call) -> Results {
    let mut x = call.x(0)?;
    let shape = call.b.shape(x);
    let rank = shape.len();
    let dim = call.axis_or(0, rank)?;
    let indices = positions(call, 1, &shape[dim])?;
    let b = &mut *call.b;
    let chosen = b.shape(indices);
    if chosen.len() != rank {
        return problem(format!("indices of {} dims are given for {rank}", chosen.len()));
    }
    for other in (0..rank).filter(|other| *other != dim && chosen[*other] != shape[*other]) {
        x = b.slice_dim(x, other, 0, chosen[other].clone())?;
    }
    let [there, back] = to_last(rank, dim);
    let (x, indices) = (b.transpose(x, &there)?, b.transpose(indices, &there)?);
    let y = take_along_last(b, x, indices)?;
    let y = b.transpose(y, &back)?;
    call.one(y)
}

/// The row-major numbers of the places that the last dim of an operand gives along dims of those sizes. Known ones are
/// given as values too.
fn linear(call: &mut Call, operand: usize, sizes: &[Dim]) -> Build<(NodeId, Option<Vec<i64>>)> {
    let tensor = call.tensor(operand)?;
    let last = tensor.rank() - 1;
    let fixed: Option<Vec<i64>> = sizes.iter().map(Dim::as_constant).collect();
    if let (Some(values), Some(fixed), true) = (known(&tensor), fixed, !sizes.is_empty()) {
        let number = |place: &[i64]| {
            place.iter().zip(&fixed).try_fold(0i64, |sum, (index, size)| {
                Ok(sum.saturating_mul(*size).saturating_add(checked(*index, *size)?))
            })
        };
        let numbers = values.chunks_exact(sizes.len()).map(number).collect::<Build<Vec<i64>>>()?;
        let small = numbers.iter().all(|number| i32::try_from(*number).is_ok());
        let scalars = numbers.iter().map(|number| Scalar::Int((*number).into()));
        let dtype = if small { DType::I32 } else { DType::I64 };
        let literal = Literal::from_scalars(dtype, &tensor.ty.sizes()[..last], scalars);
        return Ok((call.b.graph().constant(literal), Some(numbers)));
    }
    let indices = call.x(operand)?;
    let b = &mut *call.b;
    let mut sum = None;
    for (at, size) in sizes.iter().enumerate() {
        let column = b.pick(indices, last, at)?;
        let column = from_start(b, column, size)?;
        sum = Some(match sum {
            None => column,
            Some(sum) => {
                let size = b.size_like(sum, size)?;
                let scaled = b.binary(F::Mul, sum, size)?;
                b.pointwise(F::Add, &[scaled, column])?
            }
        });
    }
    match sum {
        Some(sum) => Ok((sum, None)),
        None => Ok((b.full(DType::I32, &tensor.ty.shape[..last], 0.0)?, None)),
    }
}

/// How many dims the last dim of an operand gives places along, at most so many.
fn depth(call: &Call, operand: usize, most: usize) -> Build<usize> {
    let tensor = call.tensor(operand)?;
    let Some(last) = tensor.ty.shape.last() else { return problem("indices of places have a dim at least") };
    match known_size(last)? {
        depth if depth <= most => Ok(depth),
        depth => problem(format!("places of {depth} dims are given for {most}")),
    }
}

fn gather_nd(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let shape = call.b.shape(x);
    let batch = normalize(call.int_or("batch_dims", 0), shape.len() + 1)?;
    let end = batch + depth(call, 1, shape.len() - batch)?;
    let (indices, _) = linear(call, 1, &shape[batch..end])?;
    let x = call.b.merge_dims(x, batch, end)?;
    let y = call.b.gather(x, indices, batch, batch)?;
    call.one(y)
}

/// Updates of the places along a dim: `[b, q, s]` for indices `[b, q]`, where `b`, `s` stand for any dims.
struct Updates {
    indices: NodeId,
    values: NodeId,
    /// Whether it is known that no place has two.
    distinct: bool,
}

/// Whether no position of a dim is named twice along it.
fn are_distinct(indices: &[i64], shape: &[usize], dim: usize) -> bool {
    let inner: usize = shape[dim + 1..].iter().product();
    let block = inner * shape[dim];
    let lines = indices.iter().enumerate().map(|(at, index)| (at / block.max(1), at % inner.max(1), *index));
    let mut sorted: Vec<(usize, usize, i64)> = lines.collect();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[0] != pair[1])
}

/// Values of which each is combined with those before it in the same run of equal indices. At distance 1, 2, 4, ..., each
/// takes in what its neighbour has gathered, so the turns are as many as the count has bits.
fn along_runs(b: &mut Builder, function: F, indices: NodeId, mut values: NodeId) -> Build<NodeId> {
    let dim = b.rank(indices) - 1;
    let count = b.size(indices, dim)?;
    let dims: Vec<usize> = (0..=dim).collect();
    let mut distance = 1;
    while distance < count {
        let moved = |b: &mut Builder, x: NodeId, first: i128| -> Build<NodeId> {
            let kept = b.slice_dim(x, dim, 0, count - distance)?;
            let first = Scalar::Int(first).convert(b.dtype(x));
            b.pad(kept, vec![PadDim { dim, low: distance.into(), high: Dim::default(), interior: 0 }], first)
        };
        let before = moved(b, indices, -1)?;
        let same = b.pointwise(F::Eq, &[before, indices])?;
        let shape = b.shape(values);
        let same = b.broadcast(same, &shape, &dims)?;
        let neighbours = moved(b, values, 0)?;
        let both = b.pointwise(function, &[neighbours, values])?;
        values = b.select(same, both, values)?;
        distance *= 2;
    }
    Ok(values)
}

/// Sorted indices of which only the last of each run stays; the others become -1, which is no place.
fn last_of_runs(b: &mut Builder, indices: NodeId) -> Build<NodeId> {
    let dim = b.rank(indices) - 1;
    let rest = &b.shape(indices)[dim] - &Dim::ONE;
    let next = b.slice_dim(indices, dim, 1, rest)?;
    let none = Scalar::Int(-1).convert(b.dtype(indices));
    let next = b.pad(next, vec![PadDim { dim, low: Dim::default(), high: Dim::ONE, interior: 0 }], none)?;
    let last = b.pointwise(F::Ne, &[next, indices])?;
    let none = b.number_like(indices, -1.0);
    b.select(last, indices, none)
}

/// At each place the number of its update plus 1, or 0 if it has none. No place may have two.
fn numbered(b: &mut Builder, indices: NodeId, numbers: NodeId, size: &Dim) -> Build<NodeId> {
    let dim = b.rank(indices) - 1;
    let numbers = b.with_scalar(F::Add, numbers, 1.0)?;
    b.add(Scatter { dim, batch: dim, size: size.clone() }, &[indices, numbers])
}

/// The function of a reduction; none replaces.
fn reduction(call: &Call, dtype: DType) -> Build<Option<F>> {
    let logical = dtype == DType::Bool;
    Ok(match call.text_or("reduction", "none").as_str() {
        "none" => None,
        "add" => Some(F::Add),
        "mul" => Some(F::Mul),
        "max" => Some(if logical { F::Or } else { F::Max }),
        "min" => Some(if logical { F::And } else { F::Min }),
        other => return problem(format!("there is no reduction by `{other}`")),
    })
}

/// Data `[b, n, s]` with updates.
///
/// The graph's own scatter only sums, so what is scattered is the number of the update that a place takes, which selects
/// exactly whatever the values are. That needs one update for a place at most. Unless that is known, a stable sort brings
/// updates of one place together in their order: the last of them stands for all, after the others have been combined into
/// it, or, when updates replace, alone, as in a loop over them.
fn updated(b: &mut Builder, data: NodeId, updates: &Updates, function: Option<F>) -> Build<NodeId> {
    let Updates { mut indices, mut values, distinct } = *updates;
    let shape = b.shape(data);
    let dim = b.rank(indices) - 1;
    let size = &shape[dim];
    let chosen = b.shape(indices);
    if product(&b.shape(values)) == Dim::default() {
        return Ok(data);
    }
    if function == Some(F::Add) {
        let sum = b.add(Scatter { dim, batch: dim, size: size.clone() }, &[indices, values])?;
        return b.binary(F::Add, data, sum);
    }
    let mut numbers = b.iota_along(DType::I32, &chosen, dim)?;
    if !distinct && chosen[dim] != Dim::ONE {
        let order = b.add(ArgSort { dim, descending: false }, &[indices])?;
        indices = take_along_last(b, indices, order)?;
        match function {
            Some(function) => {
                values = b.gather(values, order, dim, dim)?;
                values = along_runs(b, function, indices, values)?;
            }
            None => numbers = order,
        }
        indices = last_of_runs(b, indices)?;
    }
    let numbers = numbered(b, indices, numbers, size)?;
    taken(b, data, numbers, values, function)
}

/// Data `[b, n, s]` with the updates of those numbers, counted from 1; 0 is none.
fn taken(
    b: &mut Builder,
    data: NodeId,
    numbers: NodeId,
    values: NodeId,
    function: Option<F>,
) -> Build<NodeId> {
    let shape = b.shape(data);
    let dim = b.rank(numbers) - 1;
    let hit = b.with_scalar(F::Gt, numbers, 0.0)?;
    let hit = b.broadcast(hit, &shape, &(0..=dim).collect::<Vec<_>>())?;
    let numbers = b.with_scalar(F::Sub, numbers, 1.0)?;
    let values = b.gather(values, numbers, dim, dim)?;
    let values = match function {
        Some(function) => b.pointwise(function, &[data, values])?,
        None => values,
    };
    b.select(hit, values, data)
}

fn scatter_elements(call: &mut Call) -> Results {
    let (data, values) = (call.x(0)?, call.x(2)?);
    let shape = call.b.shape(data);
    let rank = shape.len();
    let dim = call.axis_or(0, rank)?;
    let indices = positions(call, 1, &shape[dim])?;
    let function = reduction(call, call.b.dtype(data))?;
    let given = call.tensor(1)?;
    let chosen = given.ty.shape.clone();
    if chosen.len() != rank || chosen != call.b.shape(values) {
        return problem(format!("indices {chosen:?} and updates do not fit data {shape:?}"));
    }
    let distinct = match (known(&given), shape[dim].as_constant()) {
        (Some(values), Some(size)) => {
            let values = values.into_iter().map(|index| checked(index, size)).collect::<Build<Vec<i64>>>()?;
            are_distinct(&values, &given.ty.sizes(), dim)
        }
        (_, _) => false,
    };
    let b = &mut *call.b;
    // Only the first positions of dims along which there are fewer indices change.
    let mut parts = vec![data];
    let fewer: Vec<usize> =
        (0..rank).filter(|other| *other != dim && chosen[*other] != shape[*other]).collect();
    for other in &fewer {
        let part = b.slice_dim(parts[parts.len() - 1], *other, 0, chosen[*other].clone())?;
        parts.push(part);
    }
    let [there, back] = to_last(rank, dim);
    let part = b.transpose(parts[fewer.len()], &there)?;
    let (indices, values) = (b.transpose(indices, &there)?, b.transpose(values, &there)?);
    let part = updated(b, part, &Updates { indices, values, distinct }, function)?;
    let mut y = b.transpose(part, &back)?;
    for (at, other) in fewer.iter().enumerate().rev() {
        let rest = &shape[*other] - &chosen[*other];
        let rest = b.slice_dim(parts[at], *other, chosen[*other].clone(), rest)?;
        y = b.concat(&[y, rest], *other)?;
    }
    call.one(y)
}

fn scatter_nd(call: &mut Call) -> Results {
    let (data, values) = (call.x(0)?, call.x(2)?);
    let shape = call.b.shape(data);
    let function = reduction(call, call.b.dtype(data))?;
    let end = depth(call, 1, shape.len())?;
    let given = call.tensor(1)?.ty.shape;
    let expected = [&given[..given.len() - 1], &shape[end..]].concat();
    if call.b.shape(values) != expected {
        return problem(format!("updates {:?} are given where {expected:?} fit", call.b.shape(values)));
    }
    let (indices, numbers) = linear(call, 1, &shape[..end])?;
    let b = &mut *call.b;
    let rank = b.rank(indices);
    let indices = b.merge_dims(indices, 0, rank)?;
    let values = b.merge_dims(values, 0, rank)?;
    let rows = b.merge_dims(data, 0, end)?;
    let size = product(&shape[..end]).as_constant().unwrap_or(i64::MAX);
    let y = match numbers {
        // Which update a place takes is known, whatever their order.
        Some(numbers) if function.is_none() && !numbers.is_empty() && size <= KNOWN_MAX as i64 => {
            let mut last = vec![0i64; size as usize];
            numbers.iter().zip(1..).for_each(|(place, number)| last[*place as usize] = number);
            let scalars = last.iter().map(|number| Scalar::Int((*number).into()));
            let last = b.graph().constant(Literal::from_scalars(DType::I32, &[last.len()], scalars));
            taken(b, rows, last, values, None)?
        }
        numbers => {
            let distinct = numbers.is_some_and(|numbers| are_distinct(&numbers, &[numbers.len()], 0));
            updated(b, rows, &Updates { indices, values, distinct }, function)?
        }
    };
    let y = b.reshape(y, &shape)?;
    call.one(y)
}

/// The first positions in sorted order; of equal values the earlier is first. NaN comes last.
fn top_k(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let rank = call.b.rank(x);
    let dim = call.axis_or(-1, rank)?;
    let count = match call.int("k") {
        Some(count) => Dim::constant(count),
        None => match &call.dims(1)?[..] {
            [count] => count.clone(),
            counts => return problem(format!("{} counts are given instead of one", counts.len())),
        },
    };
    let size = call.b.shape(x)[dim].clone();
    if let (Some(count), Some(size)) = (count.as_constant(), size.as_constant())
        && !(0..=size).contains(&count)
    {
        return problem(format!("{count} values are taken of a dim of size {size}"));
    }
    let descending = call.flag("largest", true);
    let b = &mut *call.b;
    let [there, back] = to_last(rank, dim);
    let x = b.transpose(x, &there)?;
    let order = b.add(ArgSort { dim: rank - 1, descending }, &[x])?;
    let order = b.slice_dim(order, rank - 1, 0, count)?;
    let values = take_along_last(b, x, order)?;
    let values = b.transpose(values, &back)?;
    let indices = b.transpose(order, &back)?;
    let indices = b.convert(indices, DType::I64)?;
    call.several(&[values, indices])
}
