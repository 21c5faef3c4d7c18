//! Reverse-mode differentiation, as a function on graphs: one walk from the results back, by the ops' own `vjp`.
//!
//! The gradient's nodes are added to the same graph, so the gradient of a gradient is the same function again.

use crate::graph::{Graph, NodeId};
use crate::op::{Grad, Op, VjpContext};
use crate::types::TensorType;
use std::collections::BTreeMap;
use thalweg_base::{PointwiseFn, Scalar, Span};

/// Why a graph has no gradient.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{op}` has no gradient: {reason}")]
pub struct GradientError {
    /// The node that stops it.
    pub node: NodeId,
    /// The name of its op.
    pub op: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// Where the node came from.
    pub span: Option<Span>,
}

/// The gradients of a scalar with respect to nodes, as nodes added to the graph; zeros where it does not depend on one.
///
/// ```
/// use thalweg_base::DType;
/// use thalweg_tensor::{Graph, TensorType, gradients};
/// let mut graph = Graph::new("square");
/// let x = graph.input("x", TensorType::new(DType::F32, [3]));
/// let y = graph.contract("a,a->", x, x);
/// let dx = gradients(&mut graph, y, &[x]).unwrap()[0];
/// assert_eq!(graph.ty(dx), graph.ty(x));
/// ```
pub fn gradients(graph: &mut Graph, of: NodeId, wrt: &[NodeId]) -> Result<Vec<NodeId>, GradientError> {
    let ty = graph.ty(of).clone();
    if ty.rank() != 0 || !ty.dtype.is_float() {
        let (op, span) = (graph.node(of).op.name(), graph.node(of).span);
        let reason = "only a floating-point scalar is differentiated";
        return Err(GradientError { node: of, op, reason, span });
    }
    let one = graph.scalar(ty.dtype, Scalar::Float(1.0));
    backward(graph, &[(of, one)], wrt)
}

/// The cotangents of nodes for given cotangents of others: vector-Jacobian products. Seeds are `(node, cotangent)`.
pub fn backward(
    graph: &mut Graph,
    seeds: &[(NodeId, NodeId)],
    wrt: &[NodeId],
) -> Result<Vec<NodeId>, GradientError> {
    let end = seeds.iter().map(|(node, _)| node.index() + 1).max().unwrap_or(0);
    let mut depends = vec![false; end];
    for index in 0..end {
        let id = NodeId::new(index);
        let through = graph.node(id).operands.iter().any(|operand| depends[operand.index()]);
        depends[index] = through || wrt.contains(&id);
    }
    let mut cotangents: BTreeMap<(NodeId, usize), NodeId> = BTreeMap::new();
    for (node, ct) in seeds {
        accumulate(graph, &mut cotangents, (*node, 0), *ct);
    }
    let (scope, span) = (graph.current_scope.clone(), graph.current_span);
    for index in (0..end).rev().filter(|index| depends[*index]) {
        let id = NodeId::new(index);
        let node = graph.node(id).clone();
        let results: Vec<Option<NodeId>> =
            (0..node.types.len()).map(|result| cotangents.get(&(id, result)).copied()).collect();
        if node.operands.is_empty() || results.iter().all(Option::is_none) {
            continue;
        }
        if let Op::Pick(pick) = &node.op {
            let ct = results[0].expect("it has a cotangent");
            accumulate(graph, &mut cotangents, (node.operands[0], pick.index), ct);
            continue;
        }
        graph.current_scope = node.scope.clone();
        graph.current_span = node.span;
        let operands = node.operands.clone();
        let mut context = VjpContext { graph, node: id, operands, cotangents: results };
        let grads = node.op.def().vjp(&mut context);
        for (operand, grad) in node.operands.iter().zip(grads) {
            match grad {
                _ if !depends[operand.index()] => {}
                Grad::Value(ct) => {
                    debug_assert_eq!(graph.ty(ct), graph.ty(*operand), "the gradient of {:?}", node.op);
                    accumulate(graph, &mut cotangents, (*operand, 0), ct);
                }
                Grad::Zero => {}
                Grad::NotDifferentiable(reason) => {
                    (graph.current_scope, graph.current_span) = (scope, span);
                    return Err(GradientError { node: id, op: node.op.name(), reason, span: node.span });
                }
            }
        }
    }
    (graph.current_scope, graph.current_span) = (scope, span);
    Ok(wrt
        .iter()
        .map(|id| match cotangents.get(&(*id, 0)) {
            Some(ct) => *ct,
            None => {
                let ty: TensorType = graph.ty(*id).clone();
                graph.full(&ty, Scalar::zero(ty.dtype))
            }
        })
        .collect())
}

fn accumulate(
    graph: &mut Graph,
    cotangents: &mut BTreeMap<(NodeId, usize), NodeId>,
    to: (NodeId, usize),
    ct: NodeId,
) {
    let sum = match cotangents.get(&to) {
        Some(other) => graph.pointwise(PointwiseFn::Add, &[*other, ct]),
        None => ct,
    };
    cotangents.insert(to, sum);
}
