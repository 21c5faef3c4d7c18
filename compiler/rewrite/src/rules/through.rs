//! Pointwise functions and conversions moved inside of what only moves elements: fewer elements to compute, and movement
//! that meets what cancels it.

use super::Class::Exact;
use super::movement::{dims, sample};
use super::{Rule, search, search_pointwise};
use crate::term::Term;
use crate::view::{Site, View};
use egg::Id;
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_tensor::{Graph, Op, TensorType};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        search_pointwise("pointwise-of-broadcasts", Exact, of_broadcasts, broadcast_samples),
        search_pointwise("pointwise-of-transposes", Exact, of_transposes, transpose_samples),
        search_pointwise("pointwise-of-reshapes", Exact, of_reshapes, reshape_samples),
        search("convert-of-broadcast", Exact, "Convert", convert_broadcast, convert_broadcast_samples),
        search("convert-of-transpose", Exact, "Convert", convert_transpose, convert_transpose_samples),
        search("convert-of-reshape", Exact, "Convert", convert_reshape, convert_reshape_samples),
    ]
}

/// The function of what each operand was before one movement that all share: `inner` finds it for the first operand that
/// is not uniform, then for each other one; uniform operands take the type before the movement.
fn inside<M: PartialEq>(
    view: View,
    site: Site,
    movements: impl Fn(Id) -> Vec<(M, Id)>,
    outside: impl Fn(&M, Term) -> Term,
    found: &mut Vec<Term>,
) {
    let Op::Pointwise(op) = &*site.node.op else { return };
    let Some(first) = site.node.operands.iter().find(|id| view.uniform(**id).is_none()) else { return };
    'movements: for (movement, x) in movements(*first) {
        let mut operands = Vec::new();
        for operand in &site.node.operands {
            let dtype = view.ty(*operand).dtype;
            if let Some(value) = view.uniform(*operand) {
                operands.push(Term::Uniform(view.ty(x).with_dtype(dtype), value));
                continue;
            }
            let same = movements(*operand)
                .into_iter()
                .find(|(other, y)| *other == movement && view.ty(*y).shape == view.ty(x).shape);
            let Some((_, y)) = same else { continue 'movements };
            operands.push(y.into());
        }
        found.push(outside(&movement, Term::pointwise(op.function, operands)));
    }
}

fn of_broadcasts(view: View, site: Site, found: &mut Vec<Term>) {
    let movements = |id| view.broadcasts(id).map(|(op, x)| (op.dims.clone(), x)).collect();
    let shape = &view.ty(site.class).shape;
    inside(view, site, movements, |dims, term| term.broadcast(shape, dims.clone()), found);
}

fn of_transposes(view: View, site: Site, found: &mut Vec<Term>) {
    let movements = |id| view.transposes(id).map(|(op, x)| (op.perm.clone(), x)).collect();
    inside(view, site, movements, |perm, term| term.transpose(perm.clone()), found);
}

fn of_reshapes(view: View, site: Site, found: &mut Vec<Term>) {
    let movements = |id| view.reshapes(id).map(|(_, x)| ((), x)).collect();
    let shape = &view.ty(site.class).shape;
    inside(view, site, movements, |(), term| term.reshape(shape), found);
}

fn broadcast_samples() -> Vec<Graph> {
    vec![
        sample(&[&[3]], |graph, x| {
            let wide = graph.broadcast(x[0], &dims(&[2, 3]), &[1]);
            graph.pointwise(PointwiseFn::Exp, &[wide])
        }),
        sample(&[&[3], &[3]], |graph, x| {
            let wide = [0, 1].map(|index| graph.broadcast(x[index], &dims(&[3, 4]), &[0]));
            graph.pointwise(PointwiseFn::Mul, &wide)
        }),
        sample(&[&[3]], |graph, x| {
            let wide = graph.broadcast(x[0], &dims(&[3, 4]), &[0]);
            let half = graph.full(&TensorType::new(DType::F32, [3, 4]), Scalar::Float(0.5));
            let above = graph.pointwise(PointwiseFn::Gt, &[wide, half]);
            graph.pointwise(PointwiseFn::Select, &[above, wide, half])
        }),
    ]
}

fn transpose_samples() -> Vec<Graph> {
    vec![
        sample(&[&[2, 3], &[2, 3]], |graph, x| {
            let turned = [0, 1].map(|index| graph.transpose(x[index], &[1, 0]));
            graph.pointwise(PointwiseFn::Sub, &turned)
        }),
        sample(&[&[2, 3]], |graph, x| {
            let turned = graph.transpose(x[0], &[1, 0]);
            graph.pointwise(PointwiseFn::Tanh, &[turned])
        }),
    ]
}

fn reshape_samples() -> Vec<Graph> {
    vec![sample(&[&[4, 6], &[4, 6]], |graph, x| {
        let flat = [0, 1].map(|index| graph.reshape(x[index], &dims(&[24])));
        graph.pointwise(PointwiseFn::Sub, &flat)
    })]
}

fn convert_broadcast(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Convert(outer) = &*site.node.op else { return };
    for (inner, x) in view.broadcasts(site.operand(0)) {
        found.push(Term::from(x).convert(outer.dtype).broadcast(&inner.shape, inner.dims.clone()));
    }
}

fn convert_transpose(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Convert(outer) = &*site.node.op else { return };
    for (inner, x) in view.transposes(site.operand(0)) {
        found.push(Term::from(x).convert(outer.dtype).transpose(inner.perm.clone()));
    }
}

fn convert_reshape(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Convert(outer) = &*site.node.op else { return };
    for (inner, x) in view.reshapes(site.operand(0)) {
        found.push(Term::from(x).convert(outer.dtype).reshape(&inner.shape));
    }
}

fn convert_broadcast_samples() -> Vec<Graph> {
    vec![sample(&[&[3]], |graph, x| {
        let wide = graph.broadcast(x[0], &dims(&[2, 3]), &[1]);
        graph.convert(wide, DType::I32)
    })]
}

fn convert_transpose_samples() -> Vec<Graph> {
    vec![sample(&[&[2, 3]], |graph, x| {
        let turned = graph.transpose(x[0], &[1, 0]);
        graph.convert(turned, DType::BF16)
    })]
}

fn convert_reshape_samples() -> Vec<Graph> {
    vec![sample(&[&[4, 6]], |graph, x| {
        let flat = graph.reshape(x[0], &dims(&[24]));
        graph.convert(flat, DType::F64)
    })]
}
