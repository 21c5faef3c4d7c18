//! The same op or graph in f64, so that finite differences and reordered sums are precise.

use std::sync::Arc;
use thalweg_base::{DType, Literal};
use thalweg_tensor::{Array, Graph, Op, Sample, TensorType};

/// f64 for a float dtype, any other as it is.
pub fn dtype(dtype: DType) -> DType {
    if dtype.is_float() { DType::F64 } else { dtype }
}

/// A type with its dtype widened.
pub fn ty(ty: &TensorType) -> TensorType {
    ty.with_dtype(dtype(ty.dtype))
}

/// An array with its dtype widened; the values stay.
pub fn array(array: &Array) -> Array {
    Array { dtype: dtype(array.dtype), ..array.clone() }
}

/// An op whose dtype attributes and sub-graphs are widened.
pub fn op(op: &Op) -> Op {
    let graphs: Vec<_> = op.subgraphs().iter().map(|own| Arc::new(graph(own))).collect();
    let mut wide = op.with_subgraphs(&graphs);
    if let Op::Leaf(leaf) = &mut wide {
        leaf.ty = ty(&leaf.ty);
    }
    if let Op::Convert(convert) = &mut wide {
        convert.dtype = dtype(convert.dtype);
    }
    if let Op::Iota(iota) = &mut wide {
        iota.dtype = dtype(iota.dtype);
    }
    if let Op::Constant(constant) = &mut wide {
        let own = &constant.value;
        constant.value = Literal::from_scalars(dtype(own.dtype()), own.shape(), own.scalars());
    }
    wide
}

/// A graph with every float in f64. Random values are drawn in f32 all the same, then converted.
pub fn graph(graph: &Graph) -> Graph {
    let mut wide = Graph::new(graph.name.clone());
    let mut map = Vec::new();
    for node in graph.nodes() {
        let operands: Vec<_> = node.operands.iter().map(|operand| map[operand.index()]).collect();
        (wide.current_scope, wide.current_span) = (node.scope.clone(), node.span);
        let id = wide.add(op(&node.op), &operands);
        let drawn = matches!(node.op, Op::Random(_));
        map.push(if drawn { wide.convert(id, DType::F64) } else { id });
    }
    for output in &graph.outputs {
        wide.output(output.name.clone(), map[output.node.index()]);
    }
    for update in &graph.updates {
        wide.update(update.name.clone(), map[update.node.index()]);
    }
    (wide.current_scope, wide.current_span) = (Arc::from(""), None);
    wide
}

/// A sample whose op and operands are widened.
pub fn sample(sample: &Sample) -> Sample {
    Sample {
        op: op(&sample.op),
        operands: sample.operands.iter().map(|(own, fill)| (ty(own), *fill)).collect(),
    }
}
