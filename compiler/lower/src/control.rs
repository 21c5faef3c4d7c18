//! Loops and branches: steps that hold steps, over the same arena.
//!
//! A loop's results serve as its carries: they are set before the first turn, and each turn reads them and writes the next ones
//! in their place, as soon as nothing in the turn needs the present ones any more. What the loop reads and writes is live from
//! its beginning to its end.

use crate::assemble::{Body, Interface, Slot};
use thalweg_plan::{LoopId, Origin, Step, StepKind};
use thalweg_tensor::ops::{LeafKind, Scan};
use thalweg_tensor::{Graph, NodeId, Op};

impl Body<'_, '_> {
    /// The step of a loop or branch, and the places of its results.
    pub fn control(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let result_bytes: Vec<usize> = node.types.iter().map(|ty| ty.bytes()).collect();
        let results: Vec<Slot> =
            result_bytes.iter().map(|bytes| Slot::whole(self.planner.buffer(*bytes))).collect();
        let operands: Vec<Slot> = node.operands.iter().map(|operand| self.slot(*operand)).collect();
        for slot in operands.iter().chain(&results) {
            self.planner.touch(slot);
        }
        let origin = self.origin(&[id], None);
        let kind = match &node.op {
            Op::Scan(op) => self.scan(op, &operands, &results, &origin),
            Op::While(op) => {
                for (index, from) in operands[..op.carries].iter().enumerate() {
                    self.copy(from, &results[index], result_bytes[index], &origin);
                }
                let inputs: Vec<Slot> = results.iter().chain(&operands[op.carries..]).cloned().collect();
                let flag = Slot::whole(self.planner.buffer(1));
                let condition = self.sub_graph(&op.condition, &inputs, std::slice::from_ref(&flag));
                let body = self.sub_graph(&op.body, &inputs, &results);
                self.planner.touch(&flag);
                StepKind::While { condition, flag: flag.address(), body }
            }
            Op::Branch(op) => {
                let (flag, inputs) = (operands[0].clone(), &operands[1..]);
                let then = self.sub_graph(&op.then, inputs, &results);
                let otherwise = self.sub_graph(&op.otherwise, inputs, &results);
                StepKind::Branch { flag: flag.address(), then, otherwise }
            }
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
            | Op::Pad(_)
            | Op::Concat(_)
            | Op::Gather(_)
            | Op::Scatter(_)
            | Op::Reduce(_)
            | Op::Cumulative(_)
            | Op::Contract(_)
            | Op::Convolve(_)
            | Op::Unfold(_)
            | Op::Fold(_)
            | Op::ArgSort(_)
            | Op::DynamicSlice(_)
            | Op::DynamicUpdate(_)
            | Op::Pick(_)
            | Op::Collective(_) => {
                panic!("`{}` runs no sub-graph", node.op.name())
            }
        };
        // All that the loop reads and writes is live from its beginning to its end.
        self.planner.clock += 1;
        for slot in operands.iter().chain(&results) {
            self.planner.touch(slot);
        }
        for (index, slot) in results.into_iter().enumerate() {
            if node.types.len() == 1 {
                self.slots.insert(id, slot.clone());
            }
            self.results.insert((id, index), slot);
        }
        self.push(kind, origin);
    }

    fn copy(&mut self, from: &Slot, to: &Slot, bytes: usize, origin: &Origin) {
        self.push(StepKind::Copy { from: from.address(), to: to.address(), bytes }, origin.clone());
    }

    fn sub_graph(&mut self, graph: &Graph, inputs: &[Slot], outputs: &[Slot]) -> Vec<Step> {
        let leaves = graph.leaves(LeafKind::Input).map(|(id, _)| id).zip(inputs.iter().cloned()).collect();
        let interface = Interface { leaves, outputs: outputs.to_vec(), updates: vec![] };
        // Buffers of the sub-graph begin after all that was touched before it.
        self.planner.clock += 1;
        self.planner.plan(graph, &interface)
    }

    fn scan(&mut self, op: &Scan, operands: &[Slot], results: &[Slot], origin: &Origin) -> StepKind {
        let turns = op.length.size();
        let id = LoopId(self.planner.loops);
        self.planner.loops += 1;
        let turn_of = |slot: &Slot, bytes: usize| {
            let mut slot = slot.clone();
            match op.reverse {
                false => slot.per_turn.push((id, bytes as i64)),
                true => {
                    slot.offset += bytes * turns.saturating_sub(1);
                    slot.per_turn.push((id, -(bytes as i64)));
                }
            }
            slot
        };
        let body_inputs: Vec<usize> =
            op.body.leaves(LeafKind::Input).map(|(_, leaf)| leaf.ty.bytes()).collect();
        let body_outputs: Vec<usize> =
            op.body.outputs.iter().map(|out| op.body.ty(out.node).bytes()).collect();
        let (carries, rest) = results.split_at(op.carries);
        let yields = body_outputs.len() - op.carries;
        for ((from, to), bytes) in operands.iter().zip(carries).zip(&body_outputs) {
            self.copy(from, to, *bytes, origin);
        }
        let mut inputs = carries.to_vec();
        for index in op.carries..op.carries + op.sequences {
            inputs.push(turn_of(&operands[index], body_inputs[index]));
        }
        inputs.extend_from_slice(&operands[op.carries + op.sequences..]);
        let stacked: Vec<Slot> = rest[..yields]
            .iter()
            .zip(&body_outputs[op.carries..])
            .map(|(slot, bytes)| turn_of(slot, *bytes))
            .collect();
        let mut body = Vec::new();
        for ((carry, history), bytes) in carries.iter().zip(&rest[yields..]).zip(&body_outputs) {
            let kind = StepKind::Copy {
                from: carry.address(),
                to: turn_of(history, *bytes).address(),
                bytes: *bytes,
            };
            body.push(Step { kind, origin: origin.clone() });
        }
        let outputs: Vec<Slot> = carries.iter().chain(&stacked).cloned().collect();
        body.extend(self.sub_graph(&op.body, &inputs, &outputs));
        StepKind::Loop { id, turns, body }
    }
}
