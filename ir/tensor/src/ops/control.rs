//! A loop while a condition holds, and one of two sub-graphs.

use super::scan::{check_body, whole};
use crate::Mesh;
use crate::axes::AxisSignature;
use crate::eval;
use crate::gradient;
use crate::graph::{Graph, NodeId};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure};
use crate::ops::{Leaf, LeafKind, Pick};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thalweg_base::{DType, PointwiseFn, Scalar};

/// A loop while a condition holds.
///
/// Operands: the carries' first values, then the invariants. Both sub-graphs take all of them; the condition gives one
/// `bool` scalar, the body the next carries. Results are the last carries.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct While {
    /// Whether to go on.
    #[serde(skip)]
    pub condition: Arc<Graph>,
    /// One turn.
    #[serde(skip)]
    pub body: Arc<Graph>,
    /// How many operands are carries.
    pub carries: usize,
}

/// One of two sub-graphs, by a `bool` scalar: the first operand. Both take all other operands and give results of the same types.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Branch {
    /// What is run when it holds.
    #[serde(skip)]
    pub then: Arc<Graph>,
    /// What is run when it does not.
    #[serde(skip)]
    pub otherwise: Arc<Graph>,
}

/// All devices must agree on where control goes; a plan that makes them differ is wrong.
fn agreed(values: impl Iterator<Item = Scalar>) -> bool {
    let values: Vec<bool> = values.map(|value| value.to_i64() != 0).collect();
    assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "devices disagree on a condition");
    values[0]
}

impl OpDef for While {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(self.carries <= operands.len(), "a loop lacks operands");
        let holds = check_body(&self.condition, operands)?;
        ensure!(
            holds == [TensorType::scalar(DType::Bool)],
            "the condition of a loop is one bool, not {holds:?}"
        );
        let next = check_body(&self.body, operands)?;
        ensure!(next == operands[..self.carries], "the body of a loop does not give its carries back");
        Ok(next)
    }

    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        whole(operands, results)
    }

    fn eval(&self, mesh: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        let mut values = operands.clone();
        while agreed(eval::outputs(&self.condition, mesh, &values).iter().map(|results| results[0].item())) {
            let next = eval::outputs(&self.body, mesh, &values);
            for (values, next) in values.iter_mut().zip(next) {
                values.splice(..self.carries, next);
            }
        }
        values.into_iter().map(|all| all[..self.carries].to_vec()).collect()
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let reason = "a loop of unknown length keeps no history; use a scan";
        vec![Grad::NotDifferentiable(reason); context.operands.len()]
    }

    /// The work of one turn: how many there are is not known.
    fn work(&self, _: &[TensorType], _: &[TensorType]) -> Work {
        self.body.work()
    }

    fn samples() -> Vec<Sample> {
        // Double x until its first element exceeds the limit.
        let (x, limit) = (TensorType::new(DType::F32, [3]), TensorType::scalar(DType::F32));
        let graph = |name: &str| {
            let mut graph = Graph::new(name);
            let mut input = |name: &str, ty: &TensorType| {
                graph.add(Leaf { kind: LeafKind::Input, name: name.into(), ty: ty.clone(), init: None }, &[])
            };
            let nodes = (input("x", &x), input("limit", &limit));
            (graph, nodes)
        };
        let (mut condition, (a, b)) = graph("condition");
        let largest = condition.reduce(crate::ReduceFn::Max, a, &[0]);
        let holds = condition.pointwise(PointwiseFn::Lt, &[largest, b]);
        condition.output("holds", holds);
        let (mut body, (a, _)) = graph("body");
        let next = body.pointwise(PointwiseFn::Add, &[a, a]);
        body.output("x", next);
        let op = While { condition: Arc::new(condition), body: Arc::new(body), carries: 1 };
        // Positive values, so that doubling gets there.
        vec![Sample::filled(op, &[(x, crate::op::Fill::Positive), (limit, crate::op::Fill::Positive)])]
    }
}

impl OpDef for Branch {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        let condition = operands.first() == Some(&TensorType::scalar(DType::Bool));
        ensure!(condition, "a branch is decided by one bool");
        let then = check_body(&self.then, &operands[1..])?;
        let otherwise = check_body(&self.otherwise, &operands[1..])?;
        ensure!(then == otherwise, "the two sides of a branch give {then:?} and {otherwise:?}");
        Ok(then)
    }

    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        whole(operands, results)
    }

    fn eval(&self, mesh: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        let holds = agreed(operands.iter().map(|all| all[0].item()));
        let inputs = operands.iter().map(|all| all[1..].to_vec()).collect();
        eval::outputs(if holds { &self.then } else { &self.otherwise }, mesh, &inputs)
    }

    /// A branch by the same condition, each side the gradient of the side that was taken.
    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let types: Vec<TensorType> =
            (1..context.operands.len()).map(|index| context.operand_type(index)).collect();
        let wrt: Vec<usize> = (0..types.len()).filter(|index| types[*index].dtype.is_float()).collect();
        let cts: Vec<(usize, NodeId)> =
            context.cotangents.iter().enumerate().filter_map(|(result, ct)| Some((result, (*ct)?))).collect();
        let mut sides = Vec::new();
        for side in [&self.then, &self.otherwise] {
            let mut graph = Graph::new(format!("{}_vjp", side.name));
            let mut input = |name: String, ty: &TensorType| {
                graph.add(Leaf { kind: LeafKind::Input, name: name.into(), ty: ty.clone(), init: None }, &[])
            };
            let inputs: Vec<NodeId> =
                types.iter().enumerate().map(|(index, ty)| input(format!("operand{index}"), ty)).collect();
            let seeds: Vec<NodeId> = cts
                .iter()
                .map(|(result, ct)| input(format!("ct{result}"), &context.graph.ty(*ct).clone()))
                .collect();
            let map = graph.inline(side, &inputs);
            let seeds: Vec<(NodeId, NodeId)> = cts
                .iter()
                .zip(seeds)
                .map(|((result, _), seed)| (map[side.outputs[*result].node.index()], seed))
                .collect();
            let wrt: Vec<NodeId> = wrt.iter().map(|index| inputs[*index]).collect();
            match gradient::backward(&mut graph, &seeds, &wrt) {
                Ok(grads) => {
                    for (index, grad) in grads.into_iter().enumerate() {
                        graph.output(format!("grad{index}"), grad);
                    }
                }
                Err(error) => return vec![Grad::NotDifferentiable(error.reason); context.operands.len()],
            }
            sides.push(Arc::new(graph.prune().0));
        }
        let otherwise = sides.remove(1);
        let op = Branch { then: sides.remove(0), otherwise };
        let operands: Vec<NodeId> =
            context.operands.iter().copied().chain(cts.iter().map(|(_, ct)| *ct)).collect();
        let mut grads = vec![Grad::Zero; context.operands.len()];
        if !wrt.is_empty() {
            let back = context.graph.add(op, &operands);
            for (result, operand) in wrt.iter().enumerate() {
                grads[operand + 1] = Grad::Value(match wrt.len() {
                    1 => back,
                    _ => context.graph.add(Pick { index: result }, &[back]),
                });
            }
        }
        grads
    }

    /// The work of the larger side.
    fn work(&self, _: &[TensorType], _: &[TensorType]) -> Work {
        let (then, otherwise) = (self.then.work(), self.otherwise.work());
        if then.flops >= otherwise.flops { then } else { otherwise }
    }

    fn samples() -> Vec<Sample> {
        let x = TensorType::new(DType::F32, [4]);
        let side = |function| {
            let mut graph = Graph::new("side");
            let leaf = Leaf { kind: LeafKind::Input, name: "x".into(), ty: x.clone(), init: None };
            let input = graph.add(leaf, &[]);
            let result = graph.pointwise(function, &[input]);
            graph.output("y", result);
            Arc::new(graph)
        };
        let op = Branch { then: side(PointwiseFn::Sin), otherwise: side(PointwiseFn::Neg) };
        vec![Sample::new(op, &[TensorType::scalar(DType::Bool), x])]
    }
}
