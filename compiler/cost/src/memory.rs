//! How much memory a graph needs at once when its nodes run in order.

use thalweg_tensor::{Graph, Node, NodeId, Op};

/// The largest number of bytes held at once when the nodes run in their order: all leaves, which stay, and every value
/// from its node to its last use. Views (reshape, broadcast, pick, slice) hold their operand instead of bytes of their own;
/// constants of one element and iotas are made where they are used. An update takes its leaf's place. What a loop's
/// body holds is not counted. Panics when a size is not bound.
pub fn peak_bytes(graph: &Graph) -> usize {
    let count = graph.nodes().len();
    let mut storage: Vec<NodeId> = Vec::with_capacity(count);
    for id in graph.ids() {
        let node = graph.node(id);
        storage.push(if is_view(&node.op) { storage[node.operands[0].index()] } else { id });
    }
    let mut last_use: Vec<usize> = (0..count).collect();
    for id in graph.ids() {
        for operand in &graph.node(id).operands {
            let at = &mut last_use[storage[operand.index()].index()];
            *at = (*at).max(id.index());
        }
    }
    for root in graph.roots() {
        last_use[storage[root.index()].index()] = usize::MAX;
    }
    let bytes = |node: &Node| -> usize {
        match is_view(&node.op) || node.op.as_leaf().is_some() {
            true => 0,
            false => own_bytes(node),
        }
    };
    let mut freed_after = vec![0usize; count];
    for id in graph.ids() {
        if let Some(freed) = freed_after.get_mut(last_use[id.index()]) {
            *freed += bytes(graph.node(id));
        }
    }
    let leaves = graph.nodes().iter().filter(|node| node.op.as_leaf().is_some());
    let mut held: usize = leaves.map(|node| node.types[0].bytes()).sum();
    let mut peak = held;
    for id in graph.ids() {
        held += bytes(graph.node(id));
        peak = peak.max(held);
        held -= freed_after[id.index()];
    }
    peak
}

fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Broadcast(_) | Op::Slice(_) | Op::Pick(_))
}

fn own_bytes(node: &Node) -> usize {
    let one_value = matches!(&node.op, Op::Constant(constant) if constant.value.len() == 1);
    let made_where_used = one_value || matches!(&node.op, Op::Iota(_));
    if made_where_used { 0 } else { node.types.iter().map(|ty| ty.bytes()).sum() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_base::{DType, PointwiseFn};
    use thalweg_tensor::TensorType;

    #[test]
    fn a_chain_holds_two_values_and_its_leaf() {
        let mut graph = Graph::new("chain");
        let mut x = graph.input("x", TensorType::new(DType::F32, [100]));
        for _ in 0..5 {
            x = graph.pointwise(PointwiseFn::Exp, &[x]);
        }
        graph.output("y", x);
        assert_eq!(peak_bytes(&graph), 3 * 400);
    }

    #[test]
    fn a_view_keeps_its_operand_alive() {
        let mut graph = Graph::new("view");
        let x = graph.input("x", TensorType::new(DType::F32, [10, 10]));
        let y = graph.pointwise(PointwiseFn::Exp, &[x]);
        let view = graph.reshape(y, &[100.into()]);
        let z = graph.pointwise(PointwiseFn::Exp, &[x]);
        let w = graph.pointwise(PointwiseFn::Exp, &[z]);
        graph.output("view", view);
        graph.output("w", w);
        assert_eq!(peak_bytes(&graph), 4 * 400);
    }
}
