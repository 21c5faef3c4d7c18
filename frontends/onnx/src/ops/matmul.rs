//! Products of matrices.

use super::Row;
use super::reduce::{first_extreme, wide};
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results};
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_base::{DType, Dim, PointwiseFn as F};
use thalweg_tensor::ops::{Scan, SliceRange};
use thalweg_tensor::{NodeId, ReduceFn, TensorType};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("Det", det),
    ("Einsum", einsum),
    ("Gemm", gemm),
    ("MatMul", matmul),
    ("MatMulInteger", matmul_integer),
];

/// A node whose dims have labels; equal labels of several nodes are one axis.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// The node.
    pub id: NodeId,
    /// A label for each of its dims.
    pub labels: Vec<usize>,
}

/// `sum of l r` over the labels that the result lacks. A label of one operand alone is summed before, as the op requires.
pub fn contract(b: &mut Builder, l: Labelled, r: Labelled, out: &[usize]) -> Build<NodeId> {
    let l = summed(b, l, |label| r.labels.contains(&label) || out.contains(&label))?;
    let r = summed(b, r, |label| l.labels.contains(&label) || out.contains(&label))?;
    let mut letters: BTreeMap<usize, char> = BTreeMap::new();
    for label in l.labels.iter().chain(&r.labels) {
        let next = letters.len();
        if !letters.contains_key(label) {
            let Some(letter) = ('a'..='z').chain('A'..='Z').nth(next) else {
                return problem("a product has more axes than there are letters");
            };
            letters.insert(*label, letter);
        }
    }
    let name =
        |labels: &[usize]| labels.iter().map(|label| letters.get(label).unwrap_or(&'?')).collect::<String>();
    let notation = format!("{},{}->{}", name(&l.labels), name(&r.labels), name(out));
    b.contract(&notation, l.id, r.id)
}

/// The node with the labels summed that are not kept.
fn summed(b: &mut Builder, x: Labelled, kept: impl Fn(usize) -> bool) -> Build<Labelled> {
    let dims: Vec<usize> = (0..x.labels.len()).filter(|dim| !kept(x.labels[*dim])).collect();
    let id = b.reduce(ReduceFn::Sum, x.id, &dims, false)?;
    Ok(Labelled { id, labels: x.labels.into_iter().filter(|label| kept(*label)).collect() })
}

/// The product of two tensors as stacks of matrices, as NumPy does. A size that is broadcast is left out of the operand
/// that would repeat, so that nothing is repeated.
pub fn product(b: &mut Builder, lhs: NodeId, rhs: NodeId) -> Build<NodeId> {
    let (l_shape, r_shape) = (b.shape(lhs), b.shape(rhs));
    let (l_rank, r_rank) = (l_shape.len(), r_shape.len());
    if l_rank == 0 || r_rank == 0 {
        return problem("a matrix product has no scalar operand");
    }
    let stacked = |rank: usize| rank.saturating_sub(2);
    let batch = stacked(l_rank).max(stacked(r_rank));
    let (row, inner, column) = (batch, batch + 1, batch + 2);
    let mut out: Vec<usize> = (0..batch).collect();
    let (mut l, mut r) = (Vec::new(), Vec::new());
    let size = |shape: &[Dim], label: usize| {
        let at = (label + stacked(shape.len())).checked_sub(batch)?;
        Some(shape[at].clone())
    };
    for label in 0..batch {
        match (size(&l_shape, label), size(&r_shape, label)) {
            (Some(a), Some(c)) if a == c => {
                l.push(Some(label));
                r.push(Some(label));
            }
            (Some(a), Some(c)) if a == Dim::ONE || c == Dim::ONE => {
                l.push((a != Dim::ONE).then_some(label));
                r.push((c != Dim::ONE).then_some(label));
            }
            (Some(a), Some(c)) => {
                return problem(format!("the sizes {a} and {c} cannot be broadcast to each other"));
            }
            (Some(_), None) => l.push(Some(label)),
            (None, Some(_)) => r.push(Some(label)),
            (None, None) => {}
        }
    }
    if l_rank > 1 {
        l.push(Some(row));
        out.push(row);
    }
    l.push(Some(inner));
    r.push(Some(inner));
    if r_rank > 1 {
        r.push(Some(column));
        out.push(column);
    }
    let (l, r) = (labelled(b, lhs, l)?, labelled(b, rhs, r)?);
    contract(b, l, r, &out)
}

/// A node without the dims that have no label; they have size 1.
fn labelled(b: &mut Builder, x: NodeId, labels: Vec<Option<usize>>) -> Build<Labelled> {
    let shape = b.shape(x);
    let kept: Vec<Dim> = shape
        .iter()
        .zip(&labels)
        .filter(|(_, label)| label.is_some())
        .map(|(size, _)| size.clone())
        .collect();
    let id = b.reshape(x, &kept)?;
    Ok(Labelled { id, labels: labels.into_iter().flatten().collect() })
}

fn matmul(call: &mut Call) -> Results {
    let (lhs, rhs) = (call.x(0)?, call.x(1)?);
    let y = product(call.b, lhs, rhs)?;
    call.one(y)
}

/// A number times a node; one with a fraction times integers is computed in f64, as the fraction is lost otherwise.
fn scaled(b: &mut Builder, x: NodeId, factor: f64) -> Build<NodeId> {
    let dtype = b.dtype(x);
    if factor == 1.0 {
        return Ok(x);
    }
    let exact = dtype.is_float() || factor.fract() == 0.0;
    let x = b.convert(x, if exact { dtype } else { DType::F64 })?;
    let y = b.with_scalar(F::Mul, x, factor)?;
    b.convert(y, dtype)
}

fn gemm(call: &mut Call) -> Results {
    let (lhs, rhs, bias) = (call.x(0)?, call.x(1)?, call.optional(2)?);
    let (alpha, beta) = (call.float_or("alpha", 1.0), call.float_or("beta", 1.0));
    let notation = match (call.flag("transA", false), call.flag("transB", false)) {
        (false, false) => "mk,kn->mn",
        (false, true) => "mk,nk->mn",
        (true, false) => "km,kn->mn",
        (true, true) => "km,nk->mn",
    };
    let b = &mut *call.b;
    let y = b.contract(notation, lhs, rhs)?;
    let mut y = scaled(b, y, alpha)?;
    if let Some(bias) = bias
        && beta != 0.0
    {
        let bias = scaled(b, bias, beta)?;
        let shape = b.shape(y);
        let bias = b.broadcast_to(bias, &shape)?;
        y = b.pointwise(F::Add, &[y, bias])?;
    }
    call.one(y)
}

/// The operand less its zero point, in i32. A zero point of rank 1 is for rows or columns: the dim of that many from the end.
pub fn centered(
    b: &mut Builder,
    x: NodeId,
    zero_point: Option<NodeId>,
    dim_from_end: usize,
) -> Build<NodeId> {
    let x = b.convert(x, DType::I32)?;
    let Some(zero_point) = zero_point else { return Ok(x) };
    let zero_point = placed(b, zero_point, dim_from_end)?;
    let shape = b.shape(x);
    let zero_point = b.broadcast_to(zero_point, &shape)?;
    b.pointwise(F::Sub, &[x, zero_point])
}

/// A zero point in i32, in a shape that is broadcast to that of what it belongs to.
fn placed(b: &mut Builder, zero_point: NodeId, dim_from_end: usize) -> Build<NodeId> {
    let mut zero_point = b.convert(zero_point, DType::I32)?;
    if b.rank(zero_point) == 1 {
        let shape = [b.shape(zero_point), vec![Dim::ONE; dim_from_end - 1]].concat();
        zero_point = b.reshape(zero_point, &shape)?;
    }
    let all: Dim = thalweg_base::dim::product(&b.shape(zero_point));
    if all == Dim::ONE { b.reshape(zero_point, &[]) } else { Ok(zero_point) }
}

/// The product of integers less their zero points, in i32; the zero points have shapes that are broadcast to those of their
/// operands.
///
/// `sum (a - p)(b - q) = sum a b - p sum b - q sum (a - p)`: where p is the same along a row of `a`, and q along a column of
/// `b`, what is multiplied are the operands themselves, which are of bytes, and the rest are sums of columns and rows.
pub fn centered_product(
    b: &mut Builder,
    (lhs, l_zero): (NodeId, Option<NodeId>),
    (rhs, r_zero): (NodeId, Option<NodeId>),
) -> Build<NodeId> {
    let (l, r) = (b.convert(lhs, DType::I32)?, b.convert(rhs, DType::I32)?);
    let l_zero = l_zero.map(|zero| b.convert(zero, DType::I32)).transpose()?;
    let r_zero = r_zero.map(|zero| b.convert(zero, DType::I32)).transpose()?;
    let (l_rank, r_rank) = (b.rank(l), b.rank(r));
    let along = |b: &Builder, zero: Option<NodeId>, from_end: usize| {
        let shape = zero.map(|zero| b.shape(zero)).unwrap_or_default();
        shape.len() < from_end || shape[shape.len() - from_end] == Dim::ONE
    };
    if l_rank < 2 || r_rank < 2 || !along(b, l_zero, 1) || !along(b, r_zero, 2) {
        let l = l_zero.map_or(Ok(l), |zero| b.binary(F::Sub, l, zero))?;
        let r = r_zero.map_or(Ok(r), |zero| b.binary(F::Sub, r, zero))?;
        return product(b, l, r);
    }
    let mut y = product(b, l, r)?;
    if let Some(zero) = l_zero {
        let columns = b.reduce(ReduceFn::Sum, r, &[r_rank - 2], true)?;
        let taken = b.binary(F::Mul, zero, columns)?;
        y = b.binary(F::Sub, y, taken)?;
    }
    if let Some(zero) = r_zero {
        let mut rows = b.reduce(ReduceFn::Sum, l, &[l_rank - 1], true)?;
        if let Some(zero) = l_zero {
            let size = b.shape(l)[l_rank - 1].clone();
            let terms = b.size_like(rows, &size)?;
            let whole = b.binary(F::Mul, zero, terms)?;
            rows = b.binary(F::Sub, rows, whole)?;
        }
        let taken = b.binary(F::Mul, rows, zero)?;
        y = b.binary(F::Sub, y, taken)?;
    }
    Ok(y)
}

fn matmul_integer(call: &mut Call) -> Results {
    let (lhs, rhs) = (call.x(0)?, call.x(1)?);
    let (l_zero, r_zero) = (call.optional(2)?, call.optional(3)?);
    let rank = call.b.rank(lhs).min(2);
    let l_zero = l_zero.map(|zero| placed(call.b, zero, rank.max(1))).transpose()?;
    let r_zero = r_zero.map(|zero| placed(call.b, zero, 1)).transpose()?;
    let y = centered_product(call.b, (lhs, l_zero), (rhs, r_zero))?;
    call.one(y)
}

/// Einstein's notation as labels: letters stand for themselves, the dims of an ellipsis count from its last.
struct Notation {
    operands: Vec<Vec<usize>>,
    out: Vec<usize>,
}

/// The labels of an ellipsis begin beyond those of all letters.
const ELLIPSIS: usize = 1 << 8;

/// Reads a notation for operands of those ranks.
fn parse(equation: &str, ranks: &[usize]) -> Build<Notation> {
    let text: String = equation.chars().filter(|letter| !letter.is_whitespace()).collect();
    let (inputs, out) = match text.split_once("->") {
        Some((inputs, out)) => (inputs, Some(out)),
        None => (&*text, None),
    };
    let terms: Vec<&str> = inputs.split(',').collect();
    if terms.len() != ranks.len() {
        return problem(format!("`{equation}` has {} terms for {} operands", terms.len(), ranks.len()));
    }
    let mut widest = 0;
    let mut operands = Vec::new();
    for (term, rank) in terms.iter().zip(ranks) {
        let letters = term.replacen("...", "", 1).chars().count();
        let width = match rank.checked_sub(letters) {
            Some(width) if width == 0 || term.contains("...") => width,
            Some(_) | None => {
                return problem(format!("`{term}` does not name the dims of an operand of rank {rank}"));
            }
        };
        widest = widest.max(width);
        operands.push(labels(term, width)?);
    }
    let out = match out {
        Some(out) => labels(out, widest)?,
        None => {
            let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
            operands.iter().flatten().for_each(|label| *counts.entry(*label).or_default() += 1);
            let once = counts.into_iter().filter(|(label, count)| *label < ELLIPSIS && *count == 1);
            labels("...", widest)?.into_iter().chain(once.map(|(label, _)| label)).collect()
        }
    };
    let repeated = out.iter().enumerate().any(|(at, label)| out[..at].contains(label));
    let known = out.iter().all(|label| operands.iter().flatten().any(|other| other == label));
    match known && !repeated {
        true => Ok(Notation { operands, out }),
        false => problem(format!("the result of `{equation}` repeats a letter or has one of its own")),
    }
}

/// The labels of a term whose ellipsis stands for so many dims.
fn labels(term: &str, width: usize) -> Build<Vec<usize>> {
    let (before, after) = term.split_once("...").unwrap_or((term, ""));
    let letter = |letter: char| match letter.is_ascii_alphabetic() {
        true => Ok(letter as usize),
        false => problem(format!("`{letter}` is no letter")),
    };
    let middle = if term.contains("...") { width } else { 0 };
    let ellipsis = (0..middle).rev().map(|from_end| Ok(ELLIPSIS + from_end));
    before.chars().map(letter).chain(ellipsis).chain(after.chars().map(letter)).collect()
}

/// The node with one dim for each label: of dims that share one, the diagonal.
fn diagonal(b: &mut Builder, mut x: Labelled) -> Build<Labelled> {
    loop {
        let repeated = (0..x.labels.len())
            .find_map(|at| Some((x.labels[..at].iter().position(|label| *label == x.labels[at])?, at)));
        let Some((first, second)) = repeated else { return Ok(x) };
        let (size, other) = (b.size(x.id, first)?, b.size(x.id, second)?);
        if size != other {
            return problem(format!("there is no diagonal of {size} x {other}"));
        }
        let rank = x.labels.len();
        let rest: Vec<usize> = (0..rank).filter(|dim| *dim != first && *dim != second).collect();
        let perm = [&rest[..], &[first, second]].concat();
        let y = b.transpose(x.id, &perm)?;
        let y = b.merge_dims(y, rank - 2, rank)?;
        let range =
            SliceRange { dim: rank - 2, start: Dim::default(), size: size.into(), stride: size as i64 + 1 };
        let id = b.slice(y, vec![range])?;
        let labels = rest.iter().map(|dim| x.labels[*dim]).chain([x.labels[first]]).collect();
        x = Labelled { id, labels };
    }
}

/// Pairs of operands are contracted, that of the smallest result first, until one is left.
fn einsum(call: &mut Call) -> Results {
    let ids = call.all()?;
    let equation = call.text_or("equation", "");
    let b = &mut *call.b;
    let ranks: Vec<usize> = ids.iter().map(|id| b.rank(*id)).collect();
    let Notation { operands, out } = parse(&equation, &ranks)?;
    let mut sizes: BTreeMap<usize, Dim> = BTreeMap::new();
    for (id, labels) in ids.iter().zip(&operands) {
        for (label, size) in labels.iter().zip(b.shape(*id)) {
            let known = sizes.entry(*label).or_insert(Dim::ONE);
            if *known == Dim::ONE {
                *known = size;
            } else if size != *known && size != Dim::ONE {
                return problem(format!("`{equation}` has one letter for the sizes {known} and {size}"));
            }
        }
    }
    let mut left = Vec::new();
    for (id, labels) in ids.into_iter().zip(operands) {
        let shape = b.shape(id);
        let kept = labels
            .iter()
            .zip(&shape)
            .map(|(label, size)| (*size == sizes[label]).then_some(*label))
            .collect();
        let x = labelled(b, id, kept)?;
        left.push(diagonal(b, x)?);
    }
    // A symbol counts as more than most known sizes.
    let cost = |labels: &[usize]| {
        labels.iter().map(|label| sizes[label].as_constant().unwrap_or(1 << 10) as f64).product()
    };
    while left.len() > 1 {
        let result = |i: usize, j: usize| -> Vec<usize> {
            let others = || (0..left.len()).filter(|at| *at != i && *at != j).flat_map(|at| &left[at].labels);
            let extra = left[j].labels.iter().filter(|label| !left[i].labels.contains(label));
            let all = left[i].labels.iter().chain(extra);
            all.filter(|label| out.contains(label) || others().any(|other| other == *label))
                .copied()
                .collect()
        };
        let pairs = (0..left.len()).flat_map(|i| (i + 1..left.len()).map(move |j| (i, j)));
        let costs = pairs.map(|(i, j)| (cost(&result(i, j)), i, j));
        let best = costs.reduce(|best: (f64, usize, usize), next| if next.0 < best.0 { next } else { best });
        let Some((_, i, j)) = best else { break };
        let labels = if left.len() == 2 { out.clone() } else { result(i, j) };
        let r = left.remove(j);
        let l = left.remove(i);
        let id = contract(b, l, r, &labels)?;
        left.insert(i, Labelled { id, labels });
    }
    let Some(x) = left.pop() else { return problem("there is no operand") };
    let x = summed(b, x, |label| out.contains(&label))?;
    let perm: Option<Vec<usize>> =
        out.iter().map(|label| x.labels.iter().position(|other| other == label)).collect();
    let Some(perm) = perm else { return problem(format!("`{equation}` loses an axis of its result")) };
    let y = b.transpose(x.id, &perm)?;
    call.one(y)
}

/// By elimination with the largest pivot of each column: the product of the pivots, negated by each exchange of rows.
fn det(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let b = &mut *call.b;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let rank = shape.len();
    if rank < 2 || shape[rank - 1] != shape[rank - 2] {
        return problem("a determinant is of square matrices");
    }
    let (stack, n) = (thalweg_base::dim::product(&shape[..rank - 2]), shape[rank - 1].clone());
    let x = b.convert(x, wide(dtype))?;
    let x = b.reshape(x, &[stack.clone(), n.clone(), n.clone()])?;
    let one = b.full(wide(dtype), std::slice::from_ref(&stack), 1.0)?;
    let steps = b.iota(DType::I32, n.clone())?;
    let types: Vec<TensorType> = [x, one].iter().map(|id| b.ty(*id).clone()).collect();
    b.push_level();
    let step = elimination(b, &types);
    let level = b.pop_level();
    step?;
    let scan = Scan {
        body: Arc::new(level.graph),
        length: n,
        carries: 2,
        sequences: 1,
        reverse: false,
        histories: false,
    };
    let results = b.graph().scan(scan, &[x, one, steps])?;
    let y = b.reshape(results[1], &shape[..rank - 2])?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// The body of the loop over columns: rows up to that of the column are not looked at again.
fn elimination(b: &mut Builder, types: &[TensorType]) -> Build<()> {
    let matrix = b.graph().input("matrix", types[0].clone());
    let product = b.graph().input("product", types[1].clone());
    let step = b.graph().input("step", TensorType { dtype: DType::I32, shape: vec![] });
    let shape = b.shape(matrix);
    let rows = [shape[0].clone(), shape[1].clone()];
    let row = b.iota_along(DType::I32, &rows, 1)?;
    let column = b.gather(matrix, step, 2, 0)?;
    let magnitude = b.unary(F::Abs, column)?;
    let done = b.binary(F::Lt, row, step)?;
    let none = b.number_like(magnitude, -1.0);
    let magnitude = b.select(done, none, magnitude)?;
    let pivot_row = first_extreme(b, ReduceFn::Max, magnitude, 1, false)?;
    let pivot_row = b.reshape(pivot_row, &rows[..1])?;
    let pivot = b.gather(column, pivot_row, 1, 1)?;
    let upper = b.gather(matrix, pivot_row, 1, 1)?;
    let (first, first_column) = (b.gather(matrix, step, 1, 0)?, b.gather(column, step, 1, 0)?);
    let pivot_place = b.broadcast(pivot_row, &rows, &[0])?;
    let is_pivot = b.pointwise(F::Eq, &[row, pivot_place])?;
    // The row of the pivot takes the place of the step's, which is written in its place.
    let first_column = b.broadcast(first_column, &rows, &[0])?;
    let column = b.pointwise(F::Select, &[is_pivot, first_column, column])?;
    let zero = b.number_like(pivot, 0.0);
    let singular = b.binary(F::Eq, pivot, zero)?;
    let one = b.number_like(pivot, 1.0);
    let divisor = b.select(singular, one, pivot)?;
    let divisor = b.broadcast(divisor, &rows, &[0])?;
    let factor = b.pointwise(F::Div, &[column, divisor])?;
    let below = b.binary(F::Gt, row, step)?;
    let factor = b.select(below, factor, zero)?;
    let is_pivot = b.broadcast(is_pivot, &shape, &[0, 1])?;
    let first = b.broadcast(first, &shape, &[0, 2])?;
    let exchanged = b.pointwise(F::Select, &[is_pivot, first, matrix])?;
    let factor = b.broadcast(factor, &shape, &[0, 1])?;
    let upper = b.broadcast(upper, &shape, &[0, 2])?;
    let taken = b.pointwise(F::Mul, &[factor, upper])?;
    let next = b.pointwise(F::Sub, &[exchanged, taken])?;
    let same = b.binary(F::Eq, pivot_row, step)?;
    let negated = b.unary(F::Neg, pivot)?;
    let signed = b.pointwise(F::Select, &[same, pivot, negated])?;
    let product = b.pointwise(F::Mul, &[product, signed])?;
    b.graph().output("matrix", next);
    b.graph().output("product", product);
    Ok(())
}
