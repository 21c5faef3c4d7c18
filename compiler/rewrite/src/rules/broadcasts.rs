//! Broadcasts: merged with each other, with reshapes that add dims of size 1, and moved outward.

use super::Class::Exact;
use super::movement::{dims, sample};
use super::{Rule, search};
use crate::term::Term;
use crate::view::{Site, View};
use thalweg_base::Dim;
use thalweg_tensor::{Graph, Op};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        search("broadcast-broadcast", Exact, "Broadcast", broadcast_broadcast, broadcast_samples),
        search("broadcast-of-units", Exact, "Broadcast", broadcast_units, units_samples),
        search("reshape-of-broadcast", Exact, "Reshape", reshape_broadcast, reshape_samples),
        search("reshape-drops-broadcast-units", Exact, "Reshape", reshape_drops_units, drops_samples),
        search("transpose-of-broadcast", Exact, "Transpose", transpose_broadcast, transpose_samples),
        search("slice-of-broadcast", Exact, "Slice", slice_broadcast, slice_samples),
    ]
}

fn broadcast_broadcast(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Broadcast(outer) = &*site.node.op else { return };
    for (inner, x) in view.broadcasts(site.operand(0)) {
        let to = inner.dims.iter().map(|dim| outer.dims[*dim]).collect();
        found.push(Term::from(x).broadcast(&outer.shape, to));
    }
}

fn broadcast_samples() -> Vec<Graph> {
    vec![
        sample(&[&[3]], |graph, x| {
            let inner = graph.broadcast(x[0], &dims(&[2, 3]), &[1]);
            graph.broadcast(inner, &dims(&[2, 4, 3]), &[0, 2])
        }),
        sample(&[&[]], |graph, x| {
            let inner = graph.broadcast(x[0], &dims(&[2]), &[]);
            graph.broadcast(inner, &dims(&[2, 4]), &[0])
        }),
    ]
}

/// Where each dim of `from` goes when `to` is `from` with dims of size 1 put in: the places of the rest.
fn placed(from: &[Dim], to: &[Dim]) -> Option<Vec<usize>> {
    let mut places = Vec::with_capacity(from.len());
    let mut rest = from.iter().peekable();
    for (at, size) in to.iter().enumerate() {
        if rest.peek() == Some(&size) {
            places.push(at);
            rest.next();
        } else if *size != Dim::ONE {
            return None;
        }
    }
    rest.next().is_none().then_some(places)
}

/// A broadcast of a reshape that only puts in dims of size 1 puts them in itself.
fn broadcast_units(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Broadcast(outer) = &*site.node.op else { return };
    for (inner, x) in view.reshapes(site.operand(0)) {
        if let Some(places) = placed(&view.ty(x).shape, &inner.shape) {
            let to = places.iter().map(|place| outer.dims[*place]).collect();
            found.push(Term::from(x).broadcast(&outer.shape, to));
        }
    }
}

fn units_samples() -> Vec<Graph> {
    vec![sample(&[&[3]], |graph, x| {
        let inner = graph.reshape(x[0], &dims(&[1, 3, 1]));
        graph.broadcast(inner, &dims(&[1, 2, 3, 1]), &[0, 2, 3])
    })]
}

/// A reshape that only puts in dims of size 1 after a broadcast is a broadcast to the larger rank.
fn reshape_broadcast(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reshape(outer) = &*site.node.op else { return };
    let Some(places) = placed(&view.ty(site.operand(0)).shape, &outer.shape) else { return };
    for (inner, x) in view.broadcasts(site.operand(0)) {
        let to = inner.dims.iter().map(|dim| places[*dim]).collect();
        found.push(Term::from(x).broadcast(&outer.shape, to));
    }
}

fn reshape_samples() -> Vec<Graph> {
    vec![sample(&[&[3]], |graph, x| {
        let inner = graph.broadcast(x[0], &dims(&[3, 2]), &[0]);
        graph.reshape(inner, &dims(&[3, 1, 2]))
    })]
}

/// A reshape that takes out dims of size 1 which a broadcast put in undoes that part of it.
fn reshape_drops_units(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reshape(outer) = &*site.node.op else { return };
    for (inner, x) in view.broadcasts(site.operand(0)) {
        let new_unit = |dim: usize| !inner.dims.contains(&dim) && inner.shape[dim] == Dim::ONE;
        let kept: Vec<usize> = (0..inner.shape.len()).filter(|dim| !new_unit(*dim)).collect();
        let shape: Vec<Dim> = kept.iter().map(|dim| inner.shape[*dim].clone()).collect();
        if kept.len() < inner.shape.len() {
            let place = |dim: &usize| kept.iter().position(|at| at == dim).expect("old dims are kept");
            let to = inner.dims.iter().map(place).collect();
            found.push(Term::from(x).broadcast(&shape, to).reshape(&outer.shape));
        }
    }
}

fn drops_samples() -> Vec<Graph> {
    vec![sample(&[&[3, 2]], |graph, x| {
        let inner = graph.broadcast(x[0], &dims(&[3, 1, 2]), &[0, 2]);
        graph.reshape(inner, &dims(&[6]))
    })]
}

/// A transposed broadcast is a broadcast, of the transposed operand where its own dims change order.
fn transpose_broadcast(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Transpose(outer) = &*site.node.op else { return };
    for (inner, x) in view.broadcasts(site.operand(0)) {
        let own = |to: usize| inner.dims.iter().position(|dim| *dim == outer.perm[to]);
        let places: Vec<usize> = (0..outer.perm.len()).filter(|to| own(*to).is_some()).collect();
        let perm: Vec<usize> = places.iter().filter_map(|to| own(*to)).collect();
        found.push(Term::from(x).transpose(perm).broadcast(&view.ty(site.class).shape, places));
    }
}

fn transpose_samples() -> Vec<Graph> {
    vec![
        sample(&[&[3]], |graph, x| {
            let inner = graph.broadcast(x[0], &dims(&[2, 3]), &[1]);
            graph.transpose(inner, &[1, 0])
        }),
        sample(&[&[3, 4]], |graph, x| {
            let inner = graph.broadcast(x[0], &dims(&[2, 3, 4]), &[1, 2]);
            graph.transpose(inner, &[2, 0, 1])
        }),
    ]
}

/// A slice of a broadcast takes fewer repetitions, and slices the operand along the dims that it has.
fn slice_broadcast(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Slice(outer) = &*site.node.op else { return };
    for (inner, x) in view.broadcasts(site.operand(0)) {
        let ranges = outer.ranges.iter().filter_map(|range| {
            let dim = inner.dims.iter().position(|dim| *dim == range.dim)?;
            Some(thalweg_tensor::ops::SliceRange { dim, ..range.clone() })
        });
        let sliced = Term::from(x).slice(ranges.collect());
        found.push(sliced.broadcast(&view.ty(site.class).shape, inner.dims.clone()));
    }
}

fn slice_samples() -> Vec<Graph> {
    vec![sample(&[&[6]], |graph, x| {
        let inner = graph.broadcast(x[0], &dims(&[4, 6]), &[1]);
        graph.slice(inner, vec![super::slices::range(0, 1, 2, 1), super::slices::range(1, 1, 2, 3)])
    })]
}
