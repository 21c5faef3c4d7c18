//! Transposes, reshapes and conversions that cancel, merge or do nothing.

use super::Class::Exact;
use super::{Rule, search};
use crate::term::{Term, changes_nothing};
use crate::view::{Site, View};
use thalweg_base::{DType, Dim, PointwiseFn};
use thalweg_tensor::ops::{Broadcast, Concat, Convert, Pad, Reduce, Reshape, Slice, Transpose};
use thalweg_tensor::{Graph, NodeId, Op, ReduceFn, TensorType};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        search("transpose-nothing", Exact, "Transpose", nothing, || nothing_samples("Transpose")),
        search("reshape-nothing", Exact, "Reshape", nothing, || nothing_samples("Reshape")),
        search("broadcast-nothing", Exact, "Broadcast", nothing, || nothing_samples("Broadcast")),
        search("convert-nothing", Exact, "Convert", nothing, || nothing_samples("Convert")),
        search("slice-nothing", Exact, "Slice", nothing, || nothing_samples("Slice")),
        search("pad-nothing", Exact, "Pad", nothing, || nothing_samples("Pad")),
        search("concat-nothing", Exact, "Concat", nothing, || nothing_samples("Concat")),
        search("reduce-nothing", Exact, "Reduce", nothing, || nothing_samples("Reduce")),
        search("transpose-transpose", Exact, "Transpose", transpose_transpose, transpose_samples),
        search("transpose-units", Exact, "Transpose", transpose_units, units_samples),
        search("reshape-reshape", Exact, "Reshape", reshape_reshape, reshape_samples),
        search("reshape-transpose-units", Exact, "Reshape", reshape_of_units, reshape_units_samples),
        search("convert-convert", Exact, "Convert", convert_convert, convert_samples),
    ]
}

/// A graph of one output over inputs of these shapes.
pub(super) fn sample(shapes: &[&[usize]], build: impl Fn(&mut Graph, &[NodeId]) -> NodeId) -> Graph {
    typed_sample(DType::F32, shapes, build)
}

/// A graph of one output over inputs of these shapes and that dtype.
pub(super) fn typed_sample(
    dtype: DType,
    shapes: &[&[usize]],
    build: impl Fn(&mut Graph, &[NodeId]) -> NodeId,
) -> Graph {
    let mut graph = Graph::new("sample");
    let input = |graph: &mut Graph, index: usize, shape: &[usize]| {
        graph.input(&format!("x{index}"), TensorType::new(dtype, shape.iter().copied()))
    };
    let inputs: Vec<NodeId> =
        shapes.iter().enumerate().map(|(index, shape)| input(&mut graph, index, shape)).collect();
    let y = build(&mut graph, &inputs);
    graph.output("y", y);
    graph
}

/// Sizes as dims.
pub(super) fn dims(sizes: &[usize]) -> Vec<Dim> {
    sizes.iter().map(|size| Dim::from(*size)).collect()
}

fn nothing(view: View, site: Site, found: &mut Vec<Term>) {
    if changes_nothing(view.egraph, &site.node.op, &site.node.operands) {
        found.push(site.operand(0).into());
    }
}

fn nothing_samples(name: &str) -> Vec<Graph> {
    let all: [Op; 8] = [
        Transpose { perm: vec![0, 1] }.into(),
        Reshape { shape: dims(&[4, 6]) }.into(),
        Broadcast { shape: dims(&[4, 6]), dims: vec![0, 1] }.into(),
        Convert { dtype: DType::F32 }.into(),
        Slice { ranges: vec![super::slices::range(1, 0, 6, 1)] }.into(),
        Pad { dims: vec![super::slices::pad(0, 0, 0)], value: thalweg_base::Scalar::Float(3.0) }.into(),
        Concat { dim: 1 }.into(),
        Reduce { function: ReduceFn::Sum, dims: vec![] }.into(),
    ];
    let op = all.into_iter().find(|op| op.name() == name).expect("each has a sample");
    vec![sample(&[&[4, 6]], |graph, x| {
        let x = graph.pointwise(PointwiseFn::Exp, x);
        graph.add(op.clone(), &[x])
    })]
}

/// The order that applies `inner` first.
pub(super) fn compose(outer: &[usize], inner: &[usize]) -> Vec<usize> {
    outer.iter().map(|dim| inner[*dim]).collect()
}

fn transpose_transpose(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Transpose(outer) = &*site.node.op else { return };
    for (inner, x) in view.transposes(site.operand(0)) {
        found.push(Term::from(x).transpose(compose(&outer.perm, &inner.perm)));
    }
}

fn transpose_samples() -> Vec<Graph> {
    let two = |outer: &'static [usize], inner: &'static [usize]| {
        sample(&[&[2, 3, 4]], move |graph, x| {
            let inner = graph.transpose(x[0], inner);
            graph.transpose(inner, outer)
        })
    };
    vec![two(&[1, 2, 0], &[1, 2, 0]), two(&[1, 2, 0], &[2, 0, 1]), two(&[0, 2, 1], &[0, 2, 1])]
}

/// A transpose that moves only dims of size 1 past others keeps the order of elements, and is a reshape.
fn transpose_units(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Transpose(op) = &*site.node.op else { return };
    let shape = &view.ty(site.operand(0)).shape;
    let large: Vec<usize> = op.perm.iter().copied().filter(|dim| shape[*dim] != Dim::ONE).collect();
    if large.windows(2).all(|pair| pair[0] < pair[1]) {
        found.push(Term::from(site.operand(0)).reshape(&view.ty(site.class).shape));
    }
}

fn units_samples() -> Vec<Graph> {
    vec![
        sample(&[&[1, 4]], |graph, x| graph.transpose(x[0], &[1, 0])),
        sample(&[&[2, 1, 4]], |graph, x| graph.transpose(x[0], &[1, 0, 2])),
    ]
}

fn reshape_reshape(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reshape(outer) = &*site.node.op else { return };
    for (_, x) in view.reshapes(site.operand(0)) {
        found.push(Term::from(x).reshape(&outer.shape));
    }
}

fn reshape_samples() -> Vec<Graph> {
    let two = |inner: &'static [usize], outer: &'static [usize]| {
        sample(&[&[4, 6]], move |graph, x| {
            let inner = graph.reshape(x[0], &dims(inner));
            graph.reshape(inner, &dims(outer))
        })
    };
    vec![two(&[24], &[4, 6]), two(&[2, 12], &[8, 3]), two(&[4, 1, 6], &[4, 6, 1])]
}

/// A reshape of a transpose that moves dims of size 1 alone is a reshape of its operand.
fn reshape_of_units(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reshape(outer) = &*site.node.op else { return };
    for (inner, x) in view.transposes(site.operand(0)) {
        let shape = &view.ty(x).shape;
        let large: Vec<usize> = inner.perm.iter().copied().filter(|dim| shape[*dim] != Dim::ONE).collect();
        if large.windows(2).all(|pair| pair[0] < pair[1]) {
            found.push(Term::from(x).reshape(&outer.shape));
        }
    }
}

fn reshape_units_samples() -> Vec<Graph> {
    vec![sample(&[&[1, 3, 4]], |graph, x| {
        let inner = graph.transpose(x[0], &[1, 0, 2]);
        graph.reshape(inner, &dims(&[12]))
    })]
}

/// Whether every value of `narrow` is one of `wide`.
fn holds(wide: DType, narrow: DType) -> bool {
    use DType::{BF16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
    match narrow {
        Bool => true,
        F32 => matches!(wide, F32 | F64),
        F64 => wide == F64,
        F16 => matches!(wide, F16 | F32 | F64),
        BF16 => matches!(wide, BF16 | F32 | F64),
        I8 => matches!(wide, I8 | I16 | I32 | I64 | F16 | BF16 | F32 | F64),
        U8 => matches!(wide, U8 | U16 | U32 | U64 | I16 | I32 | I64 | F16 | BF16 | F32 | F64),
        I16 => matches!(wide, I16 | I32 | I64 | F32 | F64),
        U16 => matches!(wide, U16 | U32 | U64 | I32 | I64 | F32 | F64),
        I32 => matches!(wide, I32 | I64 | F64),
        U32 => matches!(wide, U32 | U64 | I64 | F64),
        I64 => wide == I64,
        U64 => wide == U64,
    }
}

/// A conversion whose operand was widened without loss converts what was widened. Widening an integer to another
/// integer or a float keeps its value, so what follows sees the same number.
fn convert_convert(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Convert(outer) = &*site.node.op else { return };
    for node in view.nodes(site.operand(0)) {
        let Op::Convert(inner) = &*node.op else { continue };
        let from = view.ty(node.operands[0]).dtype;
        // An integer converts to another by wrapping and a float by saturating, so the kinds must agree, unless the
        // result holds every value.
        let same_rule = inner.dtype.is_float() == from.is_float() || holds(outer.dtype, from);
        if holds(inner.dtype, from) && same_rule {
            found.push(Term::from(node.operands[0]).convert(outer.dtype));
        }
    }
}

fn convert_samples() -> Vec<Graph> {
    let two = |from, inner, outer| {
        typed_sample(from, &[&[4, 6]], move |graph, x| {
            let inner = graph.convert(x[0], inner);
            graph.convert(inner, outer)
        })
    };
    vec![
        two(DType::F32, DType::F64, DType::F32),
        two(DType::BF16, DType::F32, DType::BF16),
        two(DType::F16, DType::F64, DType::F32),
        two(DType::I8, DType::I32, DType::I8),
        two(DType::I8, DType::F32, DType::I64),
        two(DType::U16, DType::I32, DType::I8),
        two(DType::U32, DType::U64, DType::F32),
        two(DType::U16, DType::F32, DType::U64),
        two(DType::Bool, DType::F32, DType::I32),
    ]
}
