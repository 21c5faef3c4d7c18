//! Equal nodes made one, over the whole graph.

use std::collections::BTreeMap;
use thalweg_tensor::{Graph, Node, NodeId, Op};

/// The graph without nodes that nothing needs, and with nodes of one op and the same operands made one: the first. The
/// operands of commutative functions are compared in sorted order.
pub(crate) fn normalize(graph: &Graph) -> Graph {
    let (graph, _) = graph.prune();
    let mut result = Graph::new(graph.name.clone());
    let mut seen: BTreeMap<(u64, Vec<NodeId>), Vec<NodeId>> = BTreeMap::new();
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let operands: Vec<NodeId> = node.operands.iter().map(|operand| map[operand.index()]).collect();
        let mut key = operands.clone();
        if let Op::Pointwise(op) = &node.op
            && op.function.is_commutative()
        {
            key.sort_unstable();
        }
        let candidates = seen.entry((hash(&node.op), key)).or_default();
        let equal = candidates.iter().find(|id| result.node(**id).op == node.op).copied();
        let id = match equal.filter(|_| !matches!(node.op, Op::Leaf(_))) {
            Some(id) => id,
            None => {
                let id = result.push(Node { operands, ..node.clone() });
                candidates.push(id);
                id
            }
        };
        map.push(id);
    }
    for output in &graph.outputs {
        result.output(output.name.clone(), map[output.node.index()]);
    }
    for update in &graph.updates {
        result.update(update.name.clone(), map[update.node.index()]);
    }
    result
}

fn hash(op: &Op) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = rustc_hash::FxHasher::default();
    op.hash(&mut hasher);
    hasher.finish()
}
