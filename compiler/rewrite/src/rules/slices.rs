//! Slices, pads, concatenations and constant starts of dynamic slices.

use super::Class::Exact;
use super::movement::{dims, sample};
use super::{Rule, search};
use crate::term::Term;
use crate::view::{Site, View};
use thalweg_base::{DType, Dim, PointwiseFn, Scalar};
use thalweg_tensor::ops::{Concat, DynamicSlice, Pad, PadDim, SliceRange};
use thalweg_tensor::{Graph, Op};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        search("slice-slice", Exact, "Slice", slice_slice, slice_samples),
        search("slice-of-pad", Exact, "Slice", slice_pad, slice_pad_samples),
        search("slice-of-concat", Exact, "Slice", slice_concat, slice_concat_samples),
        search("slice-of-transpose", Exact, "Slice", slice_transpose, slice_transpose_samples),
        search("pad-pad", Exact, "Pad", pad_pad, pad_samples),
        search("concat-of-slices", Exact, "Concat", concat_slices, concat_slices_samples),
        search("concat-concat", Exact, "Concat", concat_concat, concat_samples),
        search("dynamic-slice-known", Exact, "DynamicSlice", known_start, dynamic_samples),
    ]
}

/// A range with a positive step, for samples.
pub(super) fn range(dim: usize, start: usize, size: usize, stride: i64) -> SliceRange {
    SliceRange { dim, start: start.into(), size: size.into(), stride }
}

/// A pad of one dim, for samples.
pub(super) fn pad(dim: usize, low: usize, high: usize) -> PadDim {
    PadDim { dim, low: low.into(), high: high.into(), interior: 0 }
}

fn slice_slice(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Slice(outer) = &*site.node.op else { return };
    for node in view.nodes(site.operand(0)) {
        let Op::Slice(inner) = &*node.op else { continue };
        let mut ranges = inner.ranges.clone();
        for range in &outer.ranges {
            match ranges.iter_mut().find(|own| own.dim == range.dim) {
                None => ranges.push(range.clone()),
                Some(own) => {
                    own.start = &own.start + &(&Dim::constant(own.stride) * &range.start);
                    own.size = range.size.clone();
                    own.stride *= range.stride;
                }
            }
        }
        ranges.sort_by_key(|range| range.dim);
        // An empty slice may start where a slice of something would not.
        if ranges.iter().all(|range| range.size.as_constant() != Some(0)) {
            found.push(Term::from(node.operands[0]).slice(ranges));
        }
    }
}

fn slice_samples() -> Vec<Graph> {
    let two = |inner: SliceRange, outer: SliceRange| {
        sample(&[&[12, 3]], move |graph, x| {
            let inner = graph.slice(x[0], vec![inner.clone()]);
            graph.slice(inner, vec![outer.clone()])
        })
    };
    vec![
        two(range(0, 2, 9, 1), range(0, 1, 4, 2)),
        two(range(0, 1, 5, 2), range(1, 1, 2, 1)),
        two(range(0, 11, 12, -1), range(0, 11, 12, -1)),
    ]
}

/// A slice of a pad that takes only what was there slices what was padded.
fn slice_pad(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Slice(outer) = &*site.node.op else { return };
    'nodes: for node in view.nodes(site.operand(0)) {
        let Op::Pad(inner) = &*node.op else { continue };
        let shape = &view.ty(node.operands[0]).shape;
        let mut ranges = outer.ranges.clone();
        let mut rest = Vec::new();
        for pad in &inner.dims {
            let Some(at) = ranges.iter().position(|range| range.dim == pad.dim) else {
                rest.push(pad.clone());
                continue;
            };
            let range = &mut ranges[at];
            let step = pad.interior as i64 + 1;
            let start = &range.start - &pad.low;
            let whole = start == Dim::default() && range.stride == step && range.size == shape[pad.dim];
            let last = &start + &(&Dim::constant(range.stride) * &(&range.size - &Dim::ONE));
            let inside = match (start.as_constant(), last.as_constant(), shape[pad.dim].as_constant()) {
                (Some(start), Some(last), Some(size)) => {
                    let within = 0..(size - 1) * step + 1;
                    within.contains(&start) && within.contains(&last) && start % step == 0
                }
                (_, _, _) => false,
            };
            if range.stride % step != 0 || !(whole || inside) {
                continue 'nodes;
            }
            range.start = start.floor_div(step);
            range.stride /= step;
        }
        let value = inner.value;
        let sliced = Term::from(node.operands[0]).slice(ranges);
        match rest.is_empty() {
            true => found.push(sliced),
            false => found.push(Term::node(Pad { dims: rest, value }, [sliced])),
        }
    }
}

fn slice_pad_samples() -> Vec<Graph> {
    let zero = Scalar::Float(0.0);
    vec![
        sample(&[&[4, 6]], move |graph, x| {
            let padded = graph.pad(x[0], vec![pad(0, 2, 1), pad(1, 1, 1)], zero);
            graph.slice(padded, vec![range(0, 2, 4, 1), range(1, 1, 6, 1)])
        }),
        sample(&[&[4, 6]], move |graph, x| {
            let padded = graph.pad(x[0], vec![pad(0, 2, 1), pad(1, 1, 1)], zero);
            graph.slice(padded, vec![range(0, 3, 2, 1)])
        }),
        sample(&[&[4, 6]], move |graph, x| {
            let apart = PadDim { interior: 2, ..pad(0, 1, 0) };
            let padded = graph.pad(x[0], vec![apart], zero);
            graph.slice(padded, vec![range(0, 1, 4, 3)])
        }),
    ]
}

/// A slice that lies within one operand of a concatenation slices that operand.
fn slice_concat(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Slice(outer) = &*site.node.op else { return };
    for node in view.nodes(site.operand(0)) {
        let Op::Concat(inner) = &*node.op else { continue };
        let Some(at) = outer.ranges.iter().position(|range| range.dim == inner.dim) else {
            let sliced = node.operands.iter().map(|x| Term::from(*x).slice(outer.ranges.clone()));
            found.push(Term::node(inner.clone(), sliced));
            continue;
        };
        let range = &outer.ranges[at];
        let last = &range.start + &(&Dim::constant(range.stride) * &(&range.size - &Dim::ONE));
        let mut before = Dim::default();
        for operand in &node.operands {
            let size = &view.ty(*operand).shape[inner.dim];
            let start = &range.start - &before;
            let whole = start == Dim::default() && range.stride == 1 && range.size == *size;
            let bounds = (start.as_constant(), (&last - &before).as_constant(), size.as_constant());
            let inside = matches!(bounds, (Some(start), Some(last), Some(size))
                if (0..size).contains(&start) && (0..size).contains(&last));
            if whole || inside {
                let mut ranges = outer.ranges.clone();
                ranges[at].start = start;
                found.push(Term::from(*operand).slice(ranges));
            }
            before = &before + size;
        }
    }
}

fn slice_concat_samples() -> Vec<Graph> {
    let cut = |ranges: Vec<SliceRange>| {
        sample(&[&[4, 2], &[4, 3]], move |graph, x| {
            let both = graph.concat(x, 1);
            graph.slice(both, ranges.clone())
        })
    };
    vec![cut(vec![range(1, 2, 3, 1)]), cut(vec![range(1, 4, 2, -1)]), cut(vec![range(0, 1, 2, 1)])]
}

/// A slice of a transpose is a transposed slice, so that slices meet what they can be merged with.
fn slice_transpose(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Slice(outer) = &*site.node.op else { return };
    for (inner, x) in view.transposes(site.operand(0)) {
        let mut ranges: Vec<SliceRange> = outer
            .ranges
            .iter()
            .map(|range| SliceRange { dim: inner.perm[range.dim], ..range.clone() })
            .collect();
        ranges.sort_by_key(|range| range.dim);
        found.push(Term::from(x).slice(ranges).transpose(inner.perm.clone()));
    }
}

fn slice_transpose_samples() -> Vec<Graph> {
    vec![sample(&[&[2, 3, 4]], |graph, x| {
        let turned = graph.transpose(x[0], &[2, 0, 1]);
        graph.slice(turned, vec![range(0, 1, 2, 1), range(2, 0, 2, 1)])
    })]
}

/// Pads with one value merge when neither leaves gaps.
fn pad_pad(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Pad(outer) = &*site.node.op else { return };
    let dtype = view.ty(site.class).dtype;
    for node in view.nodes(site.operand(0)) {
        let Op::Pad(inner) = &*node.op else { continue };
        let gaps = outer.dims.iter().chain(&inner.dims).any(|pad| pad.interior > 0);
        if gaps || outer.value.convert(dtype) != inner.value.convert(dtype) {
            continue;
        }
        let mut dims = inner.dims.clone();
        for pad in &outer.dims {
            match dims.iter_mut().find(|own| own.dim == pad.dim) {
                None => dims.push(pad.clone()),
                Some(own) => {
                    own.low = &own.low + &pad.low;
                    own.high = &own.high + &pad.high;
                }
            }
        }
        dims.sort_by_key(|pad| pad.dim);
        found.push(Term::node(Pad { dims, value: inner.value }, [node.operands[0]]));
    }
}

fn pad_samples() -> Vec<Graph> {
    vec![sample(&[&[2, 3]], |graph, x| {
        let inner = graph.pad(x[0], vec![pad(0, 1, 0)], Scalar::Float(2.0));
        graph.pad(inner, vec![pad(0, 0, 2), pad(1, 1, 1)], Scalar::Float(2.0))
    })]
}

/// Neighbouring slices of one tensor, one after the other, are one slice.
fn concat_slices(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Concat(op) = &*site.node.op else { return };
    let only = |range: &SliceRange| range.dim == op.dim && range.stride == 1;
    let slices = |id| {
        view.nodes(id).filter_map(move |node| {
            let Op::Slice(slice) = &*node.op else { return None };
            let [range] = &slice.ranges[..] else { return None };
            only(range).then_some((range, node.operands[0]))
        })
    };
    'starts: for (first, x) in slices(site.operand(0)) {
        let mut size = first.size.clone();
        for operand in &site.node.operands[1..] {
            let start = &first.start + &size;
            let next = slices(*operand).find(|(range, from)| *from == x && range.start == start);
            let Some((next, _)) = next else { continue 'starts };
            size = &size + &next.size;
        }
        let whole = SliceRange { dim: op.dim, start: first.start.clone(), size, stride: 1 };
        found.push(Term::from(x).slice(vec![whole]));
    }
}

fn concat_slices_samples() -> Vec<Graph> {
    vec![sample(&[&[4, 6]], |graph, x| {
        let parts = [(0, 2), (2, 3), (5, 1)].map(|(start, size)| graph.slice_dim(x[0], 1, start, size));
        graph.concat(&parts, 1)
    })]
}

fn concat_concat(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Concat(outer) = &*site.node.op else { return };
    for (at, operand) in site.node.operands.iter().enumerate() {
        for node in view.nodes(*operand) {
            let within = matches!(&*node.op, Op::Concat(inner) if inner.dim == outer.dim);
            if within && !node.operands.contains(&site.class) {
                let mut operands = site.node.operands.to_vec();
                operands.splice(at..=at, node.operands.iter().copied());
                found.push(Term::node(Concat { dim: outer.dim }, operands));
            }
        }
    }
}

fn concat_samples() -> Vec<Graph> {
    vec![sample(&[&[2, 3], &[2, 1], &[2, 2]], |graph, x| {
        let inner = graph.concat(&x[1..], 1);
        graph.concat(&[x[0], inner], 1)
    })]
}

/// A dynamic slice whose starts are known is a slice, its starts clamped as the op does.
fn known_start(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::DynamicSlice(op) = &*site.node.op else { return };
    let shape = &view.ty(site.operand(0)).shape;
    let range = |at: usize| {
        let (dim, size) = (op.dims[at], op.sizes[at].as_constant()?);
        let start = view.uniform(site.operand(at + 1))?.to_i64();
        let start = start.clamp(0, shape[dim].as_constant()? - size);
        Some(SliceRange { dim, start: start.into(), size: size.into(), stride: 1 })
    };
    if let Some(ranges) = (0..op.dims.len()).map(range).collect::<Option<Vec<_>>>() {
        found.push(Term::from(site.operand(0)).slice(ranges));
    }
}

fn dynamic_samples() -> Vec<Graph> {
    vec![sample(&[&[4, 6]], |graph, x| {
        let starts = [1, 9].map(|start| graph.scalar(DType::I32, Scalar::Int(start)));
        let op = DynamicSlice { dims: vec![0, 1], sizes: dims(&[2, 3]) };
        let y = graph.add(op, &[x[0], starts[0], starts[1]]);
        graph.pointwise(PointwiseFn::Neg, &[y])
    })]
}
