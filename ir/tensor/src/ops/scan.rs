//! A loop over the positions of a dim, with values carried from each turn to the next.
//!
//! For `t` from 0 to `length - 1` (or back), the body maps `(carries, sequences at t, invariants)` to
//! `(carries, yields)`. Results are the last carries, then the yields stacked along a new first dim at position `t`, then,
//! if asked for, the history of each carry: what turn `t` began with.

use crate::Mesh;
use crate::axes::{AxisSignature, Role};
use crate::eval;
use crate::gradient;
use crate::graph::{Graph, NodeId};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure};
use crate::ops::{Leaf, LeafKind, Pick};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thalweg_base::{DType, Dim, PointwiseFn, Scalar};

/// A loop over the positions of a dim.
///
/// Operands: the carries' first values, the sequences (their first dim is `length`), the invariants. The body's inputs stand
/// in that order, its outputs are the next carries and the yields; it has no other leaves and no updates.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Scan {
    /// One turn.
    #[serde(skip)]
    pub body: Arc<Graph>,
    /// The number of turns.
    pub length: Dim,
    /// How many operands are carries.
    pub carries: usize,
    /// How many operands are sequences.
    pub sequences: usize,
    /// Whether it runs from the last position to the first.
    pub reverse: bool,
    /// Whether the carries' histories are results too.
    pub histories: bool,
}

impl Scan {
    fn yields(&self) -> usize {
        self.body.outputs.len() - self.carries
    }

    fn stacked(&self, ty: &TensorType) -> TensorType {
        TensorType { dtype: ty.dtype, shape: [&[self.length.clone()], &ty.shape[..]].concat() }
    }
}

/// Checks that the inputs of a body have those types, and gives the types of its outputs.
pub(super) fn check_body(body: &Graph, inputs: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
    let leaves: Vec<&Leaf> = body.leaves(LeafKind::Input).map(|(_, leaf)| leaf).collect();
    ensure!(leaves.len() == inputs.len(), "a body of {} inputs is given {}", leaves.len(), inputs.len());
    for (leaf, ty) in leaves.iter().zip(inputs) {
        ensure!(leaf.ty == *ty, "the body takes {} for `{}`, not {ty}", leaf.ty, leaf.name);
    }
    let others = body.leaves(LeafKind::Parameter).count() + body.leaves(LeafKind::State).count();
    ensure!(others == 0 && body.updates.is_empty(), "a body has no parameters, states or updates of its own");
    Ok(body.outputs.iter().map(|output| body.ty(output.node).clone()).collect())
}

/// The signature of an op that runs a sub-graph: nothing is known of its axes, so none is cut.
pub(super) fn whole(operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
    let mut signature = AxisSignature::default();
    signature.operands = operands.iter().map(|ty| signature.axes_of(&ty.shape, Role::Whole)).collect();
    signature.results = results.iter().map(|ty| signature.axes_of(&ty.shape, Role::Whole)).collect();
    signature
}

impl OpDef for Scan {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() >= self.carries + self.sequences, "a scan lacks operands");
        let (carries, rest) = operands.split_at(self.carries);
        let (sequences, invariants) = rest.split_at(self.sequences);
        let mut inputs = carries.to_vec();
        for sequence in sequences {
            ensure!(
                sequence.shape.first() == Some(&self.length),
                "a scan of {} turns runs over a sequence {sequence}",
                self.length
            );
            inputs.push(TensorType { dtype: sequence.dtype, shape: sequence.shape[1..].to_vec() });
        }
        inputs.extend_from_slice(invariants);
        let outputs = check_body(&self.body, &inputs)?;
        ensure!(outputs.len() >= self.carries, "the body of a scan lacks a carry");
        for (index, (before, after)) in carries.iter().zip(&outputs).enumerate() {
            ensure!(before == after, "carry {index} of a scan begins as {before} and goes on as {after}");
        }
        let mut results = carries.to_vec();
        results.extend(outputs[self.carries..].iter().map(|ty| self.stacked(ty)));
        if self.histories {
            results.extend(carries.iter().map(|ty| self.stacked(ty)));
        }
        Ok(results)
    }

    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        whole(operands, results)
    }

    fn eval(&self, mesh: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        let length = self.length.size();
        let mut carries: PerDevice<Array> = operands.iter().map(|all| all[..self.carries].to_vec()).collect();
        // For each turn in the order of positions, on each device: the yields, then what the carries were.
        let mut turns: Vec<PerDevice<Array>> = vec![vec![]; length];
        for turn in 0..length {
            let t = if self.reverse { length - 1 - turn } else { turn };
            let inputs = (0..operands.len()).map(|device| {
                let all = &operands[device];
                let sequences = all[self.carries..self.carries + self.sequences].iter().map(|sequence| {
                    Array::from_fn(sequence.dtype, &sequence.shape[1..], |index| {
                        sequence.at(&[&[t], index].concat())
                    })
                });
                let invariants = all[self.carries + self.sequences..].iter().cloned();
                carries[device].iter().cloned().chain(sequences).chain(invariants).collect()
            });
            let outputs = eval::outputs(&self.body, mesh, &inputs.collect());
            let before = std::mem::take(&mut carries);
            for (mut outputs, before) in outputs.into_iter().zip(before) {
                let mut kept = outputs.split_off(self.carries);
                kept.extend(if self.histories { before } else { vec![] });
                turns[t].push(kept);
                carries.push(outputs);
            }
        }
        let outputs: Vec<TensorType> =
            self.body.outputs.iter().map(|output| self.body.ty(output.node).clone()).collect();
        let histories = if self.histories { &outputs[..self.carries] } else { &[] };
        for (device, results) in carries.iter_mut().enumerate() {
            for (index, ty) in outputs[self.carries..].iter().chain(histories).enumerate() {
                let shape = self.stacked(ty).sizes();
                let stacked = Array::from_fn(ty.dtype, &shape, |at| turns[at[0]][device][index].at(&at[1..]));
                results.push(stacked);
            }
        }
        carries
    }

    /// A scan in the other direction, over the histories of the carries: each turn repeats the body on what it began with
    /// and passes the cotangents of its outputs back. Its carries are the cotangents of the carries and the sums of
    /// those of the invariants.
    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let graph = &mut *context.graph;
        let forward = Scan { histories: true, ..self.clone() };
        if !self.histories {
            graph.replace_op(context.node, forward.clone().into());
            context.cotangents.resize(context.cotangents.len() + self.carries, None);
        }
        let types: Vec<TensorType> =
            context.operands.iter().map(|operand| graph.ty(*operand).clone()).collect();
        let result_types = graph.node(context.node).types.clone();
        let is_float = |ty: &TensorType| ty.dtype.is_float();
        let invariants = self.carries + self.sequences..types.len();
        let float_carries: Vec<usize> = (0..self.carries).filter(|index| is_float(&types[*index])).collect();
        let float_sequences: Vec<usize> =
            (self.carries..invariants.start).filter(|index| is_float(&types[*index])).collect();
        let float_invariants: Vec<usize> =
            invariants.clone().filter(|index| is_float(&types[*index])).collect();

        let mut body = Graph::new(format!("{}_vjp", self.body.name));
        let input = |body: &mut Graph, name: String, ty: &TensorType| {
            let leaf = Leaf { kind: LeafKind::Input, name: name.into(), ty: ty.clone(), init: None };
            body.add(leaf, &[])
        };
        let element = |ty: &TensorType| TensorType { dtype: ty.dtype, shape: ty.shape[1..].to_vec() };
        // Operands of the new scan and inputs of its body, in step: carries, sequences, invariants.
        let mut operands = Vec::new();
        let mut carried = Vec::new();
        for index in float_carries.iter().chain(&float_invariants) {
            let ct = if *index < self.carries { context.cotangents[*index] } else { None };
            operands.push(ct.unwrap_or_else(|| graph.full(&types[*index], Scalar::Float(0.0))));
            carried.push(input(&mut body, format!("ct{index}"), &types[*index]));
        }
        let mut begun: Vec<NodeId> = vec![NodeId::default(); types.len()];
        let history = |index: usize| self.carries + self.yields() + index;
        for index in 0..self.carries {
            operands.push(graph.add(Pick { index: history(index) }, &[context.node]));
            begun[index] = input(&mut body, format!("carry{index}"), &types[index]);
        }
        for index in self.carries..invariants.start {
            operands.push(context.operands[index]);
            begun[index] = input(&mut body, format!("sequence{index}"), &element(&types[index]));
        }
        let mut stacked_cts: Vec<Option<NodeId>> = vec![None; result_types.len()];
        for result in self.carries..result_types.len() {
            if let Some(ct) = context.cotangents[result] {
                operands.push(ct);
                stacked_cts[result] =
                    Some(input(&mut body, format!("ct_y{result}"), &element(&result_types[result])));
            }
        }
        let sequences = operands.len() - carried.len();
        for index in invariants.clone() {
            operands.push(context.operands[index]);
            begun[index] = input(&mut body, format!("invariant{index}"), &types[index]);
        }

        let map = body.inline(&self.body, &begun);
        let out = |index: usize| map[self.body.outputs[index].node.index()];
        let mut seeds: Vec<(NodeId, NodeId)> =
            float_carries.iter().zip(&carried).map(|(index, ct)| (out(*index), *ct)).collect();
        for index in 0..self.yields() {
            if let Some(ct) = stacked_cts[self.carries + index] {
                seeds.push((out(self.carries + index), ct));
            }
        }
        let wrt: Vec<usize> =
            float_carries.iter().chain(&float_sequences).chain(&float_invariants).copied().collect();
        let wrt_nodes: Vec<NodeId> = wrt.iter().map(|index| begun[*index]).collect();
        let grads = match gradient::backward(&mut body, &seeds, &wrt_nodes) {
            Ok(grads) => grads,
            Err(error) => return vec![Grad::NotDifferentiable(error.reason); types.len()],
        };
        let grad_of =
            |index: usize| grads[wrt.iter().position(|own| *own == index).expect("it is differentiated")];
        for (index, ct) in float_carries.iter().chain(&float_invariants).zip(&carried) {
            let mut next = grad_of(*index);
            let extra = match *index < self.carries {
                true => stacked_cts[history(*index)],
                false => Some(*ct),
            };
            if let Some(extra) = extra {
                next = body.pointwise(PointwiseFn::Add, &[next, extra]);
            }
            body.output(format!("ct{index}"), next);
        }
        for index in &float_sequences {
            body.output(format!("ct{index}"), grad_of(*index));
        }
        let (body, _) = body.prune();
        let op = Scan {
            body: Arc::new(body),
            length: self.length.clone(),
            carries: carried.len(),
            sequences,
            reverse: !self.reverse,
            histories: false,
        };
        let back = graph.add(op, &operands);
        let order: Vec<usize> =
            float_carries.iter().chain(&float_invariants).chain(&float_sequences).copied().collect();
        (0..types.len())
            .map(|operand| match order.iter().position(|index| *index == operand) {
                Some(index) => Grad::Value(graph.add(Pick { index }, &[back])),
                None => Grad::Zero,
            })
            .collect()
    }

    fn work(&self, _: &[TensorType], _: &[TensorType]) -> Work {
        let turn = self.body.work();
        let turns = self.length.size() as f64;
        Work {
            flops: turn.flops * turns,
            bytes_read: turn.bytes_read * turns,
            bytes_written: turn.bytes_written * turns,
        }
    }

    fn samples() -> Vec<Sample> {
        // h = tanh(h w + x), which yields h * x as well.
        let mut body = Graph::new("cell");
        let mut input = |name: &str, shape: &[usize]| {
            let ty = TensorType::new(DType::F32, shape.iter().copied());
            body.add(Leaf { kind: LeafKind::Input, name: name.into(), ty, init: None }, &[])
        };
        let (h, x, w) = (input("h", &[2, 3]), input("x", &[2, 3]), input("w", &[3, 3]));
        let product = body.contract("bn,nm->bm", h, w);
        let sum = body.pointwise(PointwiseFn::Add, &[product, x]);
        let next = body.pointwise(PointwiseFn::Tanh, &[sum]);
        let out = body.pointwise(PointwiseFn::Mul, &[next, x]);
        body.output("h", next);
        body.output("y", out);
        let body = Arc::new(body);
        let ty = |shape: &[usize]| TensorType::new(DType::F32, shape.iter().copied());
        let operands = [ty(&[2, 3]), ty(&[4, 2, 3]), ty(&[3, 3])];
        [(false, false), (true, true)]
            .into_iter()
            .map(|(reverse, histories)| {
                let length = 4.into();
                let op = Scan { body: body.clone(), length, carries: 1, sequences: 1, reverse, histories };
                Sample::new(op, &operands)
            })
            .collect()
    }
}
