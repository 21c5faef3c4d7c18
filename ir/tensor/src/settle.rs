//! Graphs in which nothing is computed of or into tensors without elements.
//!
//! A dim of 0 makes a tensor empty. Such a value needs no work, and what others make of it is known: a sum over no terms is
//! 0, a concatenation is that of its other operands. Settling puts constants in their places, so that no pass after it
//! meets an empty operand in a formula that divides or counts: rules of the e-graph, cuts, loops.
//!
//! Assumes a graph whose sizes are known; symbols are left alone. Keeps the leaves, the names and the meaning.

use crate::graph::{Graph, Node, NodeId};
use crate::op::Op;
use crate::ops::Concat;
use crate::types::TensorType;
use std::sync::Arc;
use thalweg_base::{Literal, Scalar};

/// Whether a type has no elements.
pub fn is_empty(ty: &TensorType) -> bool {
    ty.shape.iter().any(|dim| dim.as_constant() == Some(0))
}

/// Whether any type in a graph or in its sub-graphs is empty, or a loop has no turns.
fn has_empty(graph: &Graph) -> bool {
    graph.nodes().iter().any(|node| {
        node.types.iter().any(is_empty)
            || matches!(&node.op, Op::Scan(op) if op.length.as_constant() == Some(0))
            || node.op.subgraphs().into_iter().any(|graph| has_empty(graph))
    })
}

/// The graph with empty values as constants. Leaves, loops and branches may still give and take empty values, and outputs
/// may be empty; no other op does.
pub fn settle(graph: &Graph) -> Graph {
    if !has_empty(graph) {
        return graph.clone();
    }
    let mut result = Graph::new(graph.name.clone());
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes().len());
    for id in graph.ids() {
        let node = graph.node(id);
        let operands: Vec<NodeId> = node.operands.iter().map(|operand| map[operand.index()]).collect();
        result.current_scope = node.scope.clone();
        result.current_span = node.span;
        let known = known(graph, id, &operands, &mut result);
        map.push(known.unwrap_or_else(|| {
            let subgraphs: Vec<_> =
                node.op.subgraphs().into_iter().map(|own| Arc::new(settle(own))).collect();
            result.push(Node { op: node.op.with_subgraphs(&subgraphs), operands, ..node.clone() })
        }));
    }
    for output in &graph.outputs {
        result.output(output.name.clone(), map[output.node.index()]);
    }
    for update in &graph.updates {
        result.update(update.name.clone(), map[update.node.index()]);
    }
    result
}

/// The value of a node in `result` that stands for one that is empty or made of what is empty, if it is known.
fn known(graph: &Graph, id: NodeId, operands: &[NodeId], result: &mut Graph) -> Option<NodeId> {
    let node = graph.node(id);
    if let Op::Leaf(_) | Op::Constant(_) = &node.op {
        return None;
    }
    let [ty] = &node.types[..] else { return None };
    if is_empty(ty) {
        let literal = Literal::from_scalars(ty.dtype, &ty.sizes(), []);
        return Some(result.constant(literal));
    }
    if let Op::Pick(pick) = &node.op {
        return scanned(graph, node.operands[0], pick.index, result.node(operands[0]));
    }
    if let Op::Scan(_) = &node.op {
        let own = Node { operands: operands.to_vec(), ..node.clone() };
        return scanned(graph, id, 0, &own);
    }
    let empty: Vec<bool> = graph.operand_types_of(id).iter().map(is_empty).collect();
    if !empty.contains(&true) {
        return None;
    }
    match of_nothing(&node.op, ty) {
        Made::Uniform(value) => Some(result.full(ty, value)),
        Made::First => Some(operands[0]),
        Made::OfOthers => {
            let rest: Vec<NodeId> =
                operands.iter().zip(empty).filter(|(_, empty)| !empty).map(|(id, _)| *id).collect();
            match (&node.op, &rest[..]) {
                (_, [only]) => Some(*only),
                (Op::Concat(op), _) => Some(result.add(Concat { dim: op.dim }, &rest)),
                (op, _) => panic!("`{}` is made of all its operands", op.name()),
            }
        }
        Made::Otherwise => None,
    }
}

/// A result of a loop without turns: the carry as it was, where it is one. `own` is the loop in the new graph.
fn scanned(graph: &Graph, id: NodeId, index: usize, own: &Node) -> Option<NodeId> {
    let Op::Scan(op) = &graph.node(id).op else { return None };
    (op.length.as_constant() == Some(0) && index < op.carries).then(|| own.operands[index])
}

/// What an op makes of an operand without elements, where its result has some.
enum Made {
    /// One value everywhere.
    Uniform(Scalar),
    /// The first operand.
    First,
    /// What it makes of those that are not empty.
    OfOthers,
    /// Something else, or nothing at all.
    Otherwise,
}

fn of_nothing(op: &Op, ty: &TensorType) -> Made {
    match op {
        Op::Reduce(op) => Made::Uniform(op.function.identity(ty.dtype)),
        Op::Pad(op) => Made::Uniform(op.value),
        Op::Unfold(op) => Made::Uniform(op.value),
        // Sums of no terms.
        Op::Contract(_) | Op::Convolve(_) | Op::Fold(_) | Op::Scatter(_) => {
            Made::Uniform(Scalar::zero(ty.dtype))
        }
        // An empty slice replaces nothing.
        Op::DynamicUpdate(_) => Made::First,
        Op::Concat(_) => Made::OfOthers,
        // Loops and branches see to it themselves.
        Op::Scan(_) | Op::While(_) | Op::Branch(_) | Op::Pick(_) => Made::Otherwise,
        // Elements are asked for that are not there.
        Op::Gather(_) => Made::Otherwise,
        // Their results have elements only if their operands have some.
        Op::Leaf(_)
        | Op::Constant(_)
        | Op::Iota(_)
        | Op::Random(_)
        | Op::Pointwise(_)
        | Op::Convert(_)
        | Op::Broadcast(_)
        | Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Slice(_)
        | Op::Cumulative(_)
        | Op::ArgSort(_)
        | Op::DynamicSlice(_)
        | Op::Collective(_) => Made::Otherwise,
    }
}
