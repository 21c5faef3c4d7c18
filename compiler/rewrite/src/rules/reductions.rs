//! Reductions of reductions, of what only moves or repeats elements, and of what can be taken out of a sum.

use super::Class::{Exact, Reassociates};
use super::movement::{dims, sample, typed_sample};
use super::{Rule, is_normal, search};
use crate::term::Term;
use crate::view::{Site, View};
use egg::Id;
use thalweg_base::{DType, Dim, PointwiseFn, Scalar};
use thalweg_tensor::ops::Contract;
use thalweg_tensor::{Graph, Op, ReduceFn, TensorType};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        search("extreme-of-extreme", Exact, "Reduce", extreme_of_extreme, extreme_samples),
        search("sum-of-sum", Reassociates, "Reduce", sum_of_sum, sum_samples),
        search("reduce-units", Exact, "Reduce", reduce_units, units_samples),
        search("reduce-of-transpose", Reassociates, "Reduce", reduce_transpose, transpose_samples),
        search("reduce-all-of-reshape", Reassociates, "Reduce", reduce_reshape, reshape_samples),
        search("extreme-of-broadcast", Exact, "Reduce", extreme_of_broadcast, || {
            broadcast_samples(ReduceFn::Max)
        }),
        search("sum-of-broadcast", Reassociates, "Reduce", sum_of_broadcast, || {
            broadcast_samples(ReduceFn::Sum)
        }),
        search("extreme-of-neg", Exact, "Reduce", extreme_of_neg, extreme_neg_samples),
        search("sum-of-neg", Exact, "Reduce", sum_of_neg, sum_neg_samples),
        search("sum-of-scaled", Reassociates, "Reduce", sum_of_scaled, scaled_samples),
        search("sum-of-product", Reassociates, "Reduce", sum_of_product, product_samples),
    ]
}

/// The letters that name up to fifty-two dims.
pub(super) fn letter(index: usize) -> Option<char> {
    ('a'..='z').chain('A'..='Z').nth(index)
}

/// The dims below `rank` that are not listed.
pub(super) fn others(rank: usize, listed: &[usize]) -> Vec<usize> {
    (0..rank).filter(|dim| !listed.contains(dim)).collect()
}

/// Whether scaling may be moved past a sum without fear of overflow: exponents of eight bits and more leave dozens of
/// decades of room, those of f16 do not; integers wrap either way.
pub(super) fn scales_safely(dtype: DType) -> bool {
    match dtype {
        DType::F32 | DType::F64 | DType::BF16 => true,
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => true,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => true,
        DType::F16 | DType::Bool => false,
    }
}

/// The pointwise e-nodes of that function in a class.
pub(super) fn functions(view: View<'_>, id: Id, function: PointwiseFn) -> impl Iterator<Item = &'_ [Id]> {
    view.nodes(id).filter_map(move |node| {
        let own = matches!(&*node.op, Op::Pointwise(op) if op.function == function);
        own.then_some(&node.operands[..])
    })
}

fn is_extreme(function: ReduceFn) -> bool {
    match function {
        ReduceFn::Max | ReduceFn::Min => true,
        ReduceFn::Sum | ReduceFn::Prod => false,
    }
}

fn merged(view: View, site: Site, extreme: bool, found: &mut Vec<Term>) {
    let Op::Reduce(outer) = &*site.node.op else { return };
    if is_extreme(outer.function) != extreme {
        return;
    }
    for node in view.nodes(site.operand(0)) {
        let Op::Reduce(inner) = &*node.op else { continue };
        if inner.function == outer.function {
            let kept = others(view.ty(node.operands[0]).rank(), &inner.dims);
            let mut dims = inner.dims.clone();
            dims.extend(outer.dims.iter().map(|dim| kept[*dim]));
            dims.sort_unstable();
            found.push(Term::from(node.operands[0]).reduce(outer.function, dims));
        }
    }
}

fn extreme_of_extreme(view: View, site: Site, found: &mut Vec<Term>) {
    merged(view, site, true, found);
}

/// Sums of sums, and products of products.
fn sum_of_sum(view: View, site: Site, found: &mut Vec<Term>) {
    merged(view, site, false, found);
}

fn two(function: ReduceFn, inner: &'static [usize], outer: &'static [usize]) -> Graph {
    sample(&[&[2, 3, 4]], move |graph, x| {
        let inner = graph.reduce(function, x[0], inner);
        graph.reduce(function, inner, outer)
    })
}

fn extreme_samples() -> Vec<Graph> {
    vec![two(ReduceFn::Max, &[1], &[1]), two(ReduceFn::Min, &[0, 2], &[0])]
}

fn sum_samples() -> Vec<Graph> {
    vec![two(ReduceFn::Sum, &[1], &[0]), two(ReduceFn::Sum, &[2], &[0, 1]), two(ReduceFn::Prod, &[0], &[1])]
}

/// A reduction over dims of size 1 alone keeps every element.
fn reduce_units(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reduce(op) = &*site.node.op else { return };
    let shape = &view.ty(site.operand(0)).shape;
    if op.dims.iter().all(|dim| shape[*dim] == Dim::ONE) {
        found.push(Term::from(site.operand(0)).reshape(&view.ty(site.class).shape));
    }
}

fn units_samples() -> Vec<Graph> {
    vec![sample(&[&[4, 1, 3, 1]], |graph, x| graph.reduce_sum(x[0], &[1, 3]))]
}

fn reduce_transpose(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reduce(outer) = &*site.node.op else { return };
    for (inner, x) in view.transposes(site.operand(0)) {
        let mut dims: Vec<usize> = outer.dims.iter().map(|dim| inner.perm[*dim]).collect();
        dims.sort_unstable();
        let left = others(inner.perm.len(), &dims);
        let place = |dim: usize| left.iter().position(|own| *own == inner.perm[dim]).expect("it is kept");
        let perm = others(inner.perm.len(), &outer.dims).into_iter().map(place).collect();
        found.push(Term::from(x).reduce(outer.function, dims).transpose(perm));
    }
}

fn transpose_samples() -> Vec<Graph> {
    let turned = |perm: &'static [usize], over: &'static [usize]| {
        sample(&[&[2, 3, 4]], move |graph, x| {
            let inner = graph.transpose(x[0], perm);
            graph.reduce_sum(inner, over)
        })
    };
    vec![turned(&[2, 0, 1], &[0]), turned(&[2, 1, 0], &[1]), turned(&[1, 2, 0], &[0, 2])]
}

/// What combines all elements does not see their shape.
fn reduce_reshape(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reduce(outer) = &*site.node.op else { return };
    if view.ty(site.class).rank() > 0 {
        return;
    }
    for (_, x) in view.reshapes(site.operand(0)) {
        let all = (0..view.ty(x).rank()).collect();
        found.push(Term::from(x).reduce(outer.function, all));
    }
}

fn reshape_samples() -> Vec<Graph> {
    vec![sample(&[&[4, 6]], |graph, x| {
        let flat = graph.reshape(x[0], &dims(&[2, 12]));
        graph.reduce_sum(flat, &[0, 1])
    })]
}

/// A reduction of a broadcast without the new dims that it reduces, and how many positions those have.
fn without_new_dims(view: View, site: Site, mut use_it: impl FnMut(ReduceFn, Term, i64)) {
    let Op::Reduce(outer) = &*site.node.op else { return };
    for (inner, x) in view.broadcasts(site.operand(0)) {
        let gone: Vec<usize> = outer.dims.iter().copied().filter(|dim| !inner.dims.contains(dim)).collect();
        let sizes = gone.iter().map(|dim| inner.shape[*dim].as_constant()).collect::<Option<Vec<i64>>>();
        let Some(count) = sizes.map(|sizes| sizes.iter().product::<i64>()) else { continue };
        if gone.is_empty() || count == 0 {
            continue;
        }
        let kept = others(inner.shape.len(), &gone);
        let place = |dim: &usize| kept.iter().position(|own| own == dim).expect("it is kept");
        let shape: Vec<Dim> = kept.iter().map(|dim| inner.shape[*dim].clone()).collect();
        let narrow = Term::from(x).broadcast(&shape, inner.dims.iter().map(place).collect());
        let rest = outer.dims.iter().filter(|dim| !gone.contains(dim)).map(place).collect();
        use_it(outer.function, narrow.reduce(outer.function, rest), count);
    }
}

fn extreme_of_broadcast(view: View, site: Site, found: &mut Vec<Term>) {
    without_new_dims(view, site, |function, term, _| {
        if is_extreme(function) {
            found.push(term);
        }
    });
}

fn sum_of_broadcast(view: View, site: Site, found: &mut Vec<Term>) {
    without_new_dims(view, site, |function, term, count| {
        let ty = view.ty(site.class);
        if function == ReduceFn::Sum && is_normal(count as f64, ty.dtype) {
            let count = Term::Uniform(ty.clone(), Scalar::Int(count.into()).convert(ty.dtype));
            found.push(Term::pointwise(PointwiseFn::Mul, [term, count]));
        }
    });
}

fn broadcast_samples(function: ReduceFn) -> Vec<Graph> {
    let of = |dtype, to: &'static [usize], over: &'static [usize]| {
        typed_sample(dtype, &[&[3]], move |graph, x| {
            let wide = graph.broadcast(x[0], &dims(&[2, 3, 4]), to);
            graph.reduce(function, wide, over)
        })
    };
    vec![
        of(DType::F32, &[1], &[0]),
        of(DType::F32, &[1], &[0, 1]),
        of(DType::F32, &[1], &[0, 1, 2]),
        of(DType::I32, &[1], &[2]),
    ]
}

/// The largest of the negated is the negated smallest. Not for integers, whose smallest value has no negative.
fn extreme_of_neg(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reduce(op) = &*site.node.op else { return };
    let opposite = match op.function {
        ReduceFn::Max => ReduceFn::Min,
        ReduceFn::Min => ReduceFn::Max,
        ReduceFn::Sum | ReduceFn::Prod => return,
    };
    if view.ty(site.class).dtype.is_float() {
        for x in functions(view, site.operand(0), PointwiseFn::Neg) {
            let reduced = Term::from(x[0]).reduce(opposite, op.dims.clone());
            found.push(Term::pointwise(PointwiseFn::Neg, [reduced]));
        }
    }
}

fn neg_sample(function: ReduceFn) -> Vec<Graph> {
    vec![sample(&[&[4, 6]], |graph, x| {
        let negated = graph.pointwise(PointwiseFn::Neg, x);
        graph.reduce(function, negated, &[1])
    })]
}

fn extreme_neg_samples() -> Vec<Graph> {
    [neg_sample(ReduceFn::Max), neg_sample(ReduceFn::Min)].concat()
}

fn sum_of_neg(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reduce(op) = &*site.node.op else { return };
    if op.function == ReduceFn::Sum {
        for x in functions(view, site.operand(0), PointwiseFn::Neg) {
            let reduced = Term::from(x[0]).reduce(op.function, op.dims.clone());
            found.push(Term::pointwise(PointwiseFn::Neg, [reduced]));
        }
    }
}

fn sum_neg_samples() -> Vec<Graph> {
    neg_sample(ReduceFn::Sum)
}

/// A sum of products with a factor that repeats along some of the summed dims: the other factor is summed along those
/// first. A factor that is one known value repeats along all.
fn sum_of_scaled(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reduce(op) = &*site.node.op else { return };
    let ty = view.ty(site.operand(0));
    if op.function != ReduceFn::Sum || !scales_safely(ty.dtype) {
        return;
    }
    for operands in functions(view, site.operand(0), PointwiseFn::Mul) {
        for (x, factor) in [(operands[0], operands[1]), (operands[1], operands[0])] {
            if view.uniform(x).is_some() {
                continue;
            }
            for (inner, y) in view.broadcasts(factor) {
                let first: Vec<usize> =
                    op.dims.iter().copied().filter(|dim| !inner.dims.contains(dim)).collect();
                if first.is_empty() {
                    continue;
                }
                let kept = others(ty.rank(), &first);
                let place = |dim: &usize| kept.iter().position(|own| own == dim).expect("it is kept");
                let shape: Vec<Dim> = kept.iter().map(|dim| ty.shape[*dim].clone()).collect();
                let sum = Term::from(x).reduce(ReduceFn::Sum, first.clone());
                let factor = Term::from(y).broadcast(&shape, inner.dims.iter().map(place).collect());
                let product = Term::pointwise(PointwiseFn::Mul, [sum, factor]);
                let rest = op.dims.iter().filter(|dim| !first.contains(dim)).map(place).collect();
                found.push(product.reduce(ReduceFn::Sum, rest));
            }
        }
    }
}

fn scaled_samples() -> Vec<Graph> {
    vec![
        sample(&[&[4, 6]], |graph, x| {
            let scale = graph.full(&TensorType::new(DType::F32, [4, 6]), Scalar::Float(0.3));
            let scaled = graph.pointwise(PointwiseFn::Mul, &[x[0], scale]);
            graph.reduce_sum(scaled, &[0])
        }),
        sample(&[&[4, 6], &[4]], |graph, x| {
            let scale = graph.broadcast(x[1], &dims(&[4, 6]), &[0]);
            let scaled = graph.pointwise(PointwiseFn::Mul, &[x[0], scale]);
            graph.reduce_sum(scaled, &[1])
        }),
        sample(&[&[4, 6], &[4]], |graph, x| {
            let scale = graph.broadcast(x[1], &dims(&[4, 6]), &[0]);
            let scaled = graph.pointwise(PointwiseFn::Mul, &[x[0], scale]);
            graph.reduce_sum(scaled, &[0, 1])
        }),
    ]
}

/// A sum of products of broadcasts is a contraction when both factors have every summed dim.
fn sum_of_product(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reduce(op) = &*site.node.op else { return };
    let ty = view.ty(site.operand(0));
    if op.function != ReduceFn::Sum {
        return;
    }
    let all: Vec<usize> = (0..ty.rank()).collect();
    let sources = |id: Id| {
        let wide = view.broadcasts(id).map(|(inner, x)| (x, inner.dims.clone()));
        let constant = view.uniform(id).is_some();
        wide.chain([(id, all.clone())]).filter(move |_| !constant).collect::<Vec<_>>()
    };
    let name = |dims: &[usize]| dims.iter().map(|dim| letter(*dim)).collect::<Option<String>>();
    for operands in functions(view, site.operand(0), PointwiseFn::Mul) {
        for (x, x_dims) in sources(operands[0]) {
            for (y, y_dims) in sources(operands[1]) {
                let repeats = x_dims.len() < all.len() || y_dims.len() < all.len();
                let named = all.iter().all(|dim| match op.dims.contains(dim) {
                    true => x_dims.contains(dim) && y_dims.contains(dim),
                    false => x_dims.contains(dim) || y_dims.contains(dim),
                });
                if repeats && named {
                    let letters = [name(&x_dims), name(&y_dims), name(&others(all.len(), &op.dims))];
                    let [Some(lhs), Some(rhs), Some(out)] = letters else { continue };
                    found.push(Term::node(Contract { lhs, rhs, out }, [x, y]));
                }
            }
        }
    }
}

fn product_samples() -> Vec<Graph> {
    vec![
        sample(&[&[4, 6], &[6, 3]], |graph, x| {
            let lhs = graph.broadcast(x[0], &dims(&[4, 6, 3]), &[0, 1]);
            let rhs = graph.broadcast(x[1], &dims(&[4, 6, 3]), &[1, 2]);
            let product = graph.pointwise(PointwiseFn::Mul, &[lhs, rhs]);
            graph.reduce_sum(product, &[1])
        }),
        sample(&[&[4, 6], &[6]], |graph, x| {
            let rhs = graph.broadcast(x[1], &dims(&[4, 6]), &[1]);
            let product = graph.pointwise(PointwiseFn::Mul, &[x[0], rhs]);
            graph.reduce_sum(product, &[1])
        }),
    ]
}
