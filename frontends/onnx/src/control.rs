//! Nodes that run other graphs: branches, loops, scans.
//!
//! A branch whose condition is known is built in place. Otherwise both sides become the bodies of one op, if they fit it. A
//! loop becomes a `Scan` when its number of turns is known and a `While` when not, if what it carries keeps its types;
//! else its turns are built one after the other, for which each turn's condition must be known.

mod loops;
mod scan;
mod turns;

pub(crate) use turns::LoopState;

use crate::builder::{Builder, Level, Stop, problem};
use crate::call::{Attributes, Call};
use crate::error::Problem;
use crate::import::{End, Frame, Import};
use crate::inputs;
use crate::ops;
use crate::proto::{GraphProto, NodeProto};
use crate::value::{Content, Tensor, Value};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use thalweg_tensor::ops::Branch;
use thalweg_tensor::{Graph, NodeId, TensorType};

/// A body that was built, and what it gives; its level is still open.
struct Body {
    values: Vec<Value>,
}

impl<'m> Import<'m> {
    /// Builds a node that runs other graphs. False when it is none.
    pub(crate) fn control(
        &mut self,
        node: &'m NodeProto,
        inputs: &[Option<Value>],
        opset: i64,
        outer: &Attributes<'m>,
    ) -> Result<bool, Stop> {
        if !ops::domain(&node.domain).is_empty() {
            return Ok(false);
        }
        match node.op_type.as_str() {
            "If" => self.branch(node, inputs)?,
            "Loop" => self.repeat(node, inputs)?,
            "Scan" => {
                let b = &mut self.builder;
                let call = Call { b, node, opset, inputs, outer };
                if opset < 9 {
                    let count = usize::try_from(call.int_or("num_scan_inputs", 0)).unwrap_or(usize::MAX);
                    let directions = call.int_list("directions").unwrap_or_default();
                    return match inputs.len().checked_sub(1 + count).filter(|_| count > 0) {
                        Some(carries) => self.batched_scan(node, inputs, &directions, carries).map(|()| true),
                        None => {
                            problem(format!("{} operands are too few to scan over {count}", inputs.len()))
                        }
                    };
                }
                let (layout, carries) = scan::scan_layout(&call, inputs.len())?;
                self.scan(node, inputs, layout, carries)?;
            }
            "SequenceMap" => self.map(node, inputs)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn branch(&mut self, node: &'m NodeProto, inputs: &[Option<Value>]) -> Result<(), Stop> {
        let condition = tensor(inputs, 0)?;
        let (then, otherwise) = (body_of(node, "then_branch")?, body_of(node, "else_branch")?);
        if let Some(known) = condition.literal() {
            let holds = known.scalars().next().is_some_and(|value| value.to_i64() != 0);
            let frame = self.body_frame(if holds { then } else { otherwise }, vec![], End::Bind(node))?;
            return self.enter(frame);
        }
        let built = self.both_branches(&condition, then, otherwise);
        match built? {
            Some(values) => self.bind(node, values),
            None => return Err(Stop::Needs(Box::new(condition))),
        }
        Ok(())
    }

    /// Both sides as the bodies of one op; none when they do not fit it.
    fn both_branches(
        &mut self,
        condition: &Tensor,
        then: &'m GraphProto,
        otherwise: &'m GraphProto,
    ) -> Result<Option<Vec<Value>>, Stop> {
        let mut sides = Vec::new();
        for graph in [then, otherwise] {
            let Some(body) = self.try_body(graph, |_| vec![])? else { return Ok(None) };
            let Some(nodes) = self.nodes_of(&body.values)? else {
                self.builder.pop_level();
                return Ok(None);
            };
            sides.push((self.builder.pop_level(), nodes));
        }
        let types = |side: &(Level, Vec<NodeId>)| -> Vec<TensorType> {
            side.1.iter().map(|id| side.0.graph.ty(*id).clone()).collect()
        };
        if types(&sides[0]) != types(&sides[1]) || sides[0].1.is_empty() {
            return Ok(None);
        }
        let mut outer: Vec<NodeId> = Vec::new();
        for (level, _) in &sides {
            for (_, id, _) in &level.captures {
                if !outer.contains(id) {
                    outer.push(*id);
                }
            }
        }
        let mut graphs = sides.into_iter().map(|(level, nodes)| {
            let types: Vec<TensorType> = outer.iter().map(|id| self.builder.ty(*id).clone()).collect();
            let mut graph = Graph::new("branch");
            let leaves: Vec<NodeId> = types
                .into_iter()
                .enumerate()
                .map(|(at, ty)| graph.input(&format!("captured.{at}"), ty))
                .collect();
            let own: Vec<NodeId> = level
                .captures
                .iter()
                .map(|(_, id, _)| leaves[outer.iter().position(|other| other == id).expect("all are listed")])
                .collect();
            let moved = graph.inline(&level.graph, &own);
            for (at, id) in nodes.iter().enumerate() {
                graph.output(format!("output.{at}"), moved[id.index()]);
            }
            Arc::new(graph)
        });
        let (then, otherwise) = (graphs.next().expect("two sides"), graphs.next().expect("two sides"));
        drop(graphs);
        let condition = self.builder.node(condition)?;
        let condition = self.builder.reshape(condition, &[])?;
        let operands = [vec![condition], outer].concat();
        let op = self.builder.add(Branch { then, otherwise }, &operands)?;
        let picks = self.builder.graph().picks(op);
        Ok(Some(picks.into_iter().map(|id| self.builder.value(id)).collect()))
    }

    /// Builds a body in a graph of its own, which stays open. None when the body alone cannot be built so.
    fn try_body(
        &mut self,
        graph: &'m GraphProto,
        inputs: impl FnOnce(&mut Builder) -> Vec<Value>,
    ) -> Result<Option<Body>, Stop> {
        let (floor, depth) = (self.frames.len(), self.builder.depth());
        self.builder.push_level();
        let inputs = inputs(&mut self.builder);
        let begun = self.body_frame(graph, inputs, End::Return).and_then(|frame| self.enter(frame));
        self.trials += 1;
        let result = begun.and_then(|()| self.run(floor));
        self.trials -= 1;
        match result {
            Ok(()) => Ok(Some(Body { values: std::mem::take(&mut self.returned) })),
            Err(stop) => {
                self.frames.truncate(floor);
                while self.builder.depth() > depth {
                    self.builder.pop_level();
                }
                match stop {
                    // What lies outside of all bodies can be had; then the body is tried again.
                    Stop::Needs(tensor) if matches!(tensor.content, Content::Node { level: 0, .. }) => {
                        Err(Stop::Needs(tensor))
                    }
                    Stop::Needs(_) | Stop::Problem(_) => Ok(None),
                }
            }
        }
    }

    fn body_frame(
        &mut self,
        graph: &'m GraphProto,
        inputs: Vec<Value>,
        end: End<'m>,
    ) -> Result<Frame<'m>, Stop> {
        let frame = self.frames.last().expect("a body is in a frame");
        let (attributes, opsets) = (frame.attributes.clone(), frame.opsets.clone());
        let mut scope: BTreeMap<&str, Value> = inputs::stored(graph)?.into_iter().collect();
        scope.extend(graph.input.iter().map(|input| input.name.as_str()).zip(inputs));
        let outputs = graph.output.iter().map(|output| output.name.as_str()).collect();
        Ok(Frame {
            nodes: &graph.node,
            next: 0,
            outputs,
            scope,
            sees_parent: true,
            attributes: Rc::clone(&attributes),
            opsets,
            end,
        })
    }

    /// Values as nodes of the current graph; none when they are not all tensors of ours.
    fn nodes_of(&mut self, values: &[Value]) -> Result<Option<Vec<NodeId>>, Stop> {
        let mut nodes = Vec::new();
        for value in values {
            match value {
                Value::Tensor(tensor) if tensor.narrow.is_none() => nodes.push(self.builder.node(tensor)?),
                Value::Tensor(_) | Value::Sequence(_) | Value::Optional(_) | Value::Poisoned => {
                    return Ok(None);
                }
            }
        }
        Ok(Some(nodes))
    }
}

/// Inputs of a graph for what a body captures.
fn captured_inputs(graph: &mut Graph, level: &Level) -> Vec<NodeId> {
    let leaf = |(at, (_, _, own)): (usize, &(usize, NodeId, NodeId))| {
        graph.input(&format!("captured.{at}"), level.graph.ty(*own).clone())
    };
    level.captures.iter().enumerate().map(leaf).collect()
}

fn body_of<'m>(node: &'m NodeProto, name: &str) -> Result<&'m GraphProto, Stop> {
    let attribute = node.attribute.iter().find(|attribute| attribute.name == name);
    match attribute.and_then(|attribute| attribute.g.as_ref()) {
        Some(graph) => Ok(graph),
        None => problem(format!("the graph `{name}` is missing")),
    }
}

fn tensor(inputs: &[Option<Value>], index: usize) -> Result<Tensor, Stop> {
    match inputs.get(index).and_then(|value| value.as_ref()).and_then(Value::as_tensor) {
        Some(tensor) => Ok(tensor.clone()),
        None => problem(format!("operand {index} is no tensor")),
    }
}

fn missing() -> Stop {
    Stop::Problem(Problem::new("an operand is missing"))
}
