//! Loops as one op.

use super::turns::{LoopKind, LoopState};
use super::{body_of, captured_inputs, tensor};
use crate::builder::{Builder, Level, Stop};
use crate::import::Import;
use crate::proto::{GraphProto, NodeProto};
use crate::value::{Tensor, Value};
use std::sync::Arc;
use thalweg_base::{DType, Dim, Literal, PointwiseFn, Scalar};
use thalweg_tensor::ops::{Scan, While};
use thalweg_tensor::{Graph, NodeId, TensorType};

/// The most turns of a scan: it goes over the numbers of its turns, which are a tensor.
const SCAN_TURNS_MAX: i64 = 1 << 31;

impl<'m> Import<'m> {
    pub(super) fn repeat(&mut self, node: &'m NodeProto, inputs: &[Option<Value>]) -> Result<(), Stop> {
        let body = body_of(node, "body")?;
        let carried: Vec<Value> =
            inputs.iter().skip(2).map(|value| value.clone().unwrap_or(Value::Optional(None))).collect();
        let limit = inputs.first().and_then(|value| value.as_ref()).map(|_| tensor(inputs, 0)).transpose()?;
        let condition =
            inputs.get(1).and_then(|value| value.as_ref()).map(|_| tensor(inputs, 1)).transpose()?;
        let starts = match condition.as_ref().map(Tensor::literal) {
            None => Some(true),
            Some(Some(known)) => Some(known.scalars().next().is_some_and(|value| value.to_i64() != 0)),
            Some(None) => None,
        };
        let turns = match &limit {
            None => None,
            Some(limit) => {
                limit.literal().map(|known| known.scalars().next().map_or(0, |value| value.to_i64()))
            }
        };
        if starts == Some(true) || starts.is_none() {
            let known_turns = turns.filter(|turns| starts == Some(true) && *turns > 0);
            if let Some(values) = self.loop_op(node, body, &carried, &limit, &condition, known_turns)? {
                self.bind(node, values);
                return Ok(());
            }
        }
        if let (Some(condition), None) = (&condition, starts) {
            return Err(Stop::Needs(Box::new(condition.clone())));
        }
        if let (Some(limit), None) = (limit, turns) {
            return Err(Stop::Needs(Box::new(limit)));
        }
        let limit = if starts == Some(false) { Some(0) } else { turns };
        let scans = body.output.len().saturating_sub(1 + carried.len());
        let collected = vec![vec![]; scans];
        self.begin_turn(LoopState {
            node,
            body,
            kind: LoopKind::Loop,
            limit,
            turn: 0,
            carried,
            sequences: vec![],
            collected,
        })
    }

    /// A loop as one op; none when it does not fit.
    pub(super) fn loop_op(
        &mut self,
        node: &'m NodeProto,
        body: &'m GraphProto,
        carried: &[Value],
        limit: &Option<Tensor>,
        condition: &Option<Tensor>,
        turns: Option<i64>,
    ) -> Result<Option<Vec<Value>>, Stop> {
        let Some(first) = self.nodes_of(carried)? else { return Ok(None) };
        let types: Vec<TensorType> = first.iter().map(|id| self.builder.ty(*id).clone()).collect();
        let scans = node.output.len() > carried.len() || body.output.len() > 1 + carried.len();
        let count = carried.len();
        let takes_condition = types.clone();
        let built = self.try_body(body, |b: &mut Builder| {
            let mut values = vec![b.graph().input("turn", TensorType::scalar(DType::I64))];
            values.extend(
                takes_condition
                    .iter()
                    .enumerate()
                    .map(|(at, ty)| b.graph().input(&format!("carry.{at}"), ty.clone())),
            );
            let mut values: Vec<Value> = values.into_iter().map(|id| b.value(id)).collect();
            values.insert(1, Value::known(Literal::scalar(DType::Bool, Scalar::Int(1))));
            values
        })?;
        let Some(built) = built else { return Ok(None) };
        let goes_on = built.values.first().and_then(Value::as_tensor).and_then(Tensor::literal);
        let always =
            goes_on.is_some_and(|known| known.scalars().next().is_some_and(|value| value.to_i64() != 0));
        let Some(nodes) = self.nodes_of(&built.values)? else {
            self.builder.pop_level();
            return Ok(None);
        };
        let fits = nodes[1..=count].iter().zip(&types).all(|(id, ty)| self.builder.ty(*id) == ty);
        if !fits
            || (always && turns.is_none() && limit.is_none())
            || ((!always || turns.is_some_and(|turns| turns > SCAN_TURNS_MAX)) && scans)
            || (turns.is_none() && scans)
        {
            self.builder.pop_level();
            return Ok(None);
        }
        match (always, turns) {
            (true, Some(turns)) if turns <= SCAN_TURNS_MAX => {
                let level = self.builder.pop_level();
                // The body takes the turn first; a scan takes carries first.
                let captures: Vec<NodeId> = level.captures.iter().map(|(_, outer, _)| *outer).collect();
                let mut graph = Graph::new("loop");
                let carries: Vec<NodeId> = types
                    .iter()
                    .enumerate()
                    .map(|(at, ty)| graph.input(&format!("carry.{at}"), ty.clone()))
                    .collect();
                let turn = graph.input("turn", TensorType::scalar(DType::I64));
                let inputs = [vec![turn], carries, captured_inputs(&mut graph, &level)].concat();
                let moved = graph.inline(&level.graph, &inputs);
                for (at, id) in nodes[1..].iter().enumerate() {
                    graph.output(format!("output.{at}"), moved[id.index()]);
                }
                let iota = self.builder.iota(DType::I64, turns)?;
                let operands = [first, vec![iota], captures].concat();
                let op = Scan {
                    body: Arc::new(graph),
                    length: Dim::constant(turns),
                    carries: count,
                    sequences: 1,
                    reverse: false,
                    histories: false,
                };
                let op = self.builder.add(op, &operands)?;
                let picks = self.builder.graph().picks(op);
                Ok(Some(picks.into_iter().map(|id| self.builder.value(id)).collect()))
            }
            (_, _) => {
                let next_condition = self.builder.reshape(nodes[0], &[])?;
                let level = self.builder.pop_level();
                self.while_op(
                    level,
                    [vec![next_condition], nodes[1..].to_vec()].concat(),
                    first,
                    &types,
                    limit,
                    condition,
                )
                .map(Some)
            }
        }
    }

    /// A loop while a condition holds. It carries the turn, the condition and the loop's own values.
    pub(super) fn while_op(
        &mut self,
        level: Level,
        nodes: Vec<NodeId>,
        first: Vec<NodeId>,
        types: &[TensorType],
        limit: &Option<Tensor>,
        condition: &Option<Tensor>,
    ) -> Result<Vec<Value>, Stop> {
        let captures: Vec<NodeId> = level.captures.iter().map(|(_, outer, _)| *outer).collect();
        let inputs_of = |graph: &mut Graph| -> Vec<NodeId> {
            let turn = graph.input("turn", TensorType::scalar(DType::I64));
            let goes_on = graph.input("condition", TensorType::scalar(DType::Bool));
            let carries =
                types.iter().enumerate().map(|(at, ty)| graph.input(&format!("carry.{at}"), ty.clone()));
            [turn, goes_on].into_iter().chain(carries.collect::<Vec<_>>()).collect()
        };
        let mut test = Graph::new("condition");
        let inputs = inputs_of(&mut test);
        let limit_input = test.input("limit", TensorType::scalar(DType::I64));
        captured_inputs(&mut test, &level);
        let below = test.pointwise(PointwiseFn::Lt, &[inputs[0], limit_input]);
        let holds = test.pointwise(PointwiseFn::And, &[below, inputs[1]]);
        test.output("holds", holds);
        let mut graph = Graph::new("loop");
        let inputs = inputs_of(&mut graph);
        graph.input("limit", TensorType::scalar(DType::I64));
        let captured = captured_inputs(&mut graph, &level);
        let own = [vec![inputs[0]], inputs[2..].to_vec(), captured].concat();
        let moved = graph.inline(&level.graph, &own);
        let one = graph.scalar(DType::I64, Scalar::Int(1));
        let next = graph.pointwise(PointwiseFn::Add, &[inputs[0], one]);
        graph.output("turn", next);
        for (at, id) in nodes.iter().enumerate() {
            graph.output(format!("output.{at}"), moved[id.index()]);
        }
        let b = &mut self.builder;
        let zero = b.graph().scalar(DType::I64, Scalar::Int(0));
        let starts = match condition {
            Some(condition) => b.node(condition)?,
            None => b.graph().scalar(DType::Bool, Scalar::Int(1)),
        };
        let starts = b.reshape(starts, &[])?;
        let limit = match limit {
            Some(limit) => b.node(limit)?,
            None => b.graph().scalar(DType::I64, Scalar::Int(i64::MAX.into())),
        };
        let limit = b.reshape(limit, &[])?;
        let operands = [vec![zero, starts], first, vec![limit], captures].concat();
        let op = While { condition: Arc::new(test), body: Arc::new(graph), carries: 2 + types.len() };
        let op = b.add(op, &operands)?;
        let picks = b.graph().picks(op);
        Ok(picks.into_iter().skip(2).map(|id| b.value(id)).collect())
    }
}
