//! Nodes that run other graphs: branches, loops, scans.
//!
//! A branch whose condition is known is built in place. Otherwise both sides become the bodies of one op, if they fit it. A
//! loop becomes a `Scan` when its number of turns is known and a `While` when not, if what it carries keeps its types;
//! else its turns are built one after the other, for which each turn's condition must be known.

use crate::builder::{Builder, Level, Stop, problem};
use crate::call::{Attributes, Call, normalize};
use crate::error::Problem;
use crate::import::{End, Frame, Import};
use crate::inputs;
use crate::ops;
use crate::proto::type_proto::Value as Kind;
use crate::proto::{GraphProto, NodeProto, TypeProto};
use crate::value::{Content, Tensor, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use thalweg_base::{DType, Dim, Literal, PointwiseFn, Scalar};
use thalweg_tensor::ops::{Branch, Scan, While};
use thalweg_tensor::{Graph, NodeId, TensorType};

/// A loop whose turns are built one after the other.
pub(crate) struct LoopState<'m> {
    node: &'m NodeProto,
    body: &'m GraphProto,
    kind: LoopKind,
    limit: Option<i64>,
    turn: i64,
    carried: Vec<Value>,
    sequences: Vec<Value>,
    collected: Vec<Vec<Value>>,
}

#[derive(Clone, PartialEq)]
enum LoopKind {
    Loop,
    Scan(ScanLayout),
    /// A function of each element of lists.
    Map,
}

/// Along which dims a scan reads and writes, and which of them backwards.
#[derive(Clone, PartialEq)]
struct ScanLayout {
    inputs: Vec<(usize, bool)>,
    outputs: Vec<(i64, bool)>,
}

impl LoopState<'_> {
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.carried.iter_mut().chain(&mut self.sequences).chain(self.collected.iter_mut().flatten())
    }

    /// The names of outer values that later turns use.
    pub fn names(&self, used: &mut BTreeSet<String>) {
        used.extend(self.body.output.iter().map(|output| output.name.clone()));
        self.body.node.iter().for_each(|node| crate::stage::names_of(node, used));
    }
}

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
                let (layout, carries) = scan_layout(&call, inputs.len())?;
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

    fn repeat(&mut self, node: &'m NodeProto, inputs: &[Option<Value>]) -> Result<(), Stop> {
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
    fn loop_op(
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
            || (!always && scans)
            || (turns.is_none() && scans)
        {
            self.builder.pop_level();
            return Ok(None);
        }
        match (always, turns) {
            (true, Some(turns)) => {
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
    fn while_op(
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

    fn scan(
        &mut self,
        node: &'m NodeProto,
        inputs: &[Option<Value>],
        layout: ScanLayout,
        carries: usize,
    ) -> Result<(), Stop> {
        let body = body_of(node, "body")?;
        let values: Vec<Value> =
            inputs.iter().map(|value| value.clone().ok_or(missing())).collect::<Result<_, Stop>>()?;
        let (carried, sequences) = values.split_at(carries);
        let mut rows = Vec::new();
        for (value, (dim, reverse)) in sequences.iter().zip(&layout.inputs) {
            let tensor = value.as_tensor().ok_or_else(|| Problem::new("a scan goes over tensors"))?;
            let x = self.builder.node(tensor)?;
            let perm: Vec<usize> =
                [*dim].into_iter().chain((0..tensor.rank()).filter(|d| d != dim)).collect();
            let x = self.builder.transpose(x, &perm)?;
            rows.push(if *reverse { self.builder.reverse(x, 0)? } else { x });
        }
        if let Some(values) = self.scan_op(body, carried, &rows, &layout)? {
            self.bind(node, values);
            return Ok(());
        }
        let length = rows.first().map(|row| self.builder.ty(*row).shape[0].clone());
        let Some(turns) = length.as_ref().and_then(Dim::as_constant) else {
            return problem("a scan whose values change their shapes has as many turns as is known");
        };
        let collected = vec![vec![]; body.output.len().saturating_sub(carries)];
        let sequences = rows.into_iter().map(|id| self.builder.value(id)).collect();
        let carried = carried.to_vec();
        let kind = LoopKind::Scan(layout);
        self.begin_turn(LoopState {
            node,
            body,
            kind,
            limit: Some(turns),
            turn: 0,
            carried,
            sequences,
            collected,
        })
    }

    /// A scan as one op; none when what it carries does not keep its types.
    fn scan_op(
        &mut self,
        body: &'m GraphProto,
        carried: &[Value],
        rows: &[NodeId],
        layout: &ScanLayout,
    ) -> Result<Option<Vec<Value>>, Stop> {
        let Some(length) = rows.first().map(|row| self.builder.ty(*row).shape[0].clone()) else {
            return problem("a scan goes over one tensor at least");
        };
        let carries = carried.len();
        let Some(first) = self.nodes_of(carried)? else { return problem("a scan carries tensors") };
        let types: Vec<TensorType> = first.iter().map(|id| self.builder.ty(*id).clone()).collect();
        let row_type = |row: &NodeId| {
            let ty = self.builder.ty(*row);
            TensorType { dtype: ty.dtype, shape: ty.shape[1..].to_vec() }
        };
        let row_types: Vec<TensorType> = rows.iter().map(row_type).collect();
        let built = self.try_body(body, |b: &mut Builder| {
            let carry = types.iter().enumerate().map(|(at, ty)| (format!("carry.{at}"), ty));
            let row = row_types.iter().enumerate().map(|(at, ty)| (format!("row.{at}"), ty));
            let ids: Vec<NodeId> =
                carry.chain(row).map(|(name, ty)| b.graph().input(&name, ty.clone())).collect();
            ids.into_iter().map(|id| b.value(id)).collect()
        })?;
        let Some(built) = built else { return Ok(None) };
        let nodes = self.nodes_of(&built.values)?;
        let fits = |nodes: &Vec<NodeId>| {
            let mut pairs = nodes.iter().zip(&types);
            nodes.len() >= carries && pairs.all(|(id, ty)| self.builder.ty(*id) == ty)
        };
        let nodes = nodes.filter(fits);
        let mut level = self.builder.pop_level();
        let Some(nodes) = nodes else { return Ok(None) };
        for (at, id) in nodes.iter().enumerate() {
            level.graph.output(format!("output.{at}"), *id);
        }
        let captures: Vec<NodeId> = level.captures.iter().map(|(_, outer, _)| *outer).collect();
        let operands = [first, rows.to_vec(), captures].concat();
        let op = Scan {
            body: Arc::new(level.graph),
            length,
            carries,
            sequences: rows.len(),
            reverse: false,
            histories: false,
        };
        let op = self.builder.add(op, &operands)?;
        let mut picks = self.builder.graph().picks(op);
        for (pick, (dim, reverse)) in picks[carries..].iter_mut().zip(&layout.outputs) {
            *pick = self.scan_output(*pick, *dim, *reverse)?;
        }
        Ok(Some(picks.into_iter().map(|id| self.builder.value(id)).collect()))
    }

    /// A scan of op set 8: over the second dim of each row of a batch, all of the same length.
    fn batched_scan(
        &mut self,
        node: &'m NodeProto,
        inputs: &[Option<Value>],
        directions: &[i64],
        carries: usize,
    ) -> Result<(), Stop> {
        let body = body_of(node, "body")?;
        if inputs.first().is_some_and(Option::is_some) {
            return problem("a scan over sequences of different lengths");
        }
        let values: Vec<Value> =
            inputs[1..].iter().map(|value| value.clone().ok_or(missing())).collect::<Result<_, Stop>>()?;
        let Some(nodes) = self.nodes_of(&values)? else { return problem("a scan goes over tensors") };
        if nodes.iter().any(|id| self.builder.rank(*id) == 0)
            || nodes[carries..].iter().any(|id| self.builder.rank(*id) < 2)
        {
            return problem("a scan over batches goes over tensors of 2 dims at least");
        }
        let batch = self.builder.size(nodes[carries], 0)?;
        let outputs = node.output.len().saturating_sub(carries);
        let layout = ScanLayout { inputs: vec![], outputs: vec![(0, false); outputs] };
        let mut results: Vec<Vec<NodeId>> = vec![vec![]; node.output.len()];
        for row in 0..batch {
            let mut picked = Vec::new();
            for id in &nodes {
                picked.push(self.builder.pick(*id, 0, row)?);
            }
            let mut rows = picked.split_off(carries);
            for (id, direction) in rows.iter_mut().zip(directions) {
                if *direction == 1 {
                    *id = self.builder.reverse(*id, 0)?;
                }
            }
            let carried: Vec<Value> = picked.into_iter().map(|id| self.builder.value(id)).collect();
            let Some(values) = self.scan_op(body, &carried, &rows, &layout)? else {
                return problem("a scan over batches whose values change their types");
            };
            let Some(ids) = self.nodes_of(&values)? else { return problem("a scan gives tensors") };
            for (all, id) in results.iter_mut().zip(ids) {
                all.push(self.builder.unsqueeze(id, &[0])?);
            }
        }
        let mut values = Vec::new();
        for rows in results {
            let all = self.builder.concat(&rows, 0)?;
            values.push(self.builder.value(all));
        }
        self.bind(node, values);
        Ok(())
    }

    /// What a scan stacked along the first dim, along the dim that is asked for.
    fn scan_output(&mut self, x: NodeId, dim: i64, reverse: bool) -> Result<NodeId, Stop> {
        let x = if reverse { self.builder.reverse(x, 0)? } else { x };
        let rank = self.builder.rank(x);
        let dim = normalize(dim, rank)?;
        let perm: Vec<usize> = (0..rank).map(|d| if d == dim { 0 } else { d + (d < dim) as usize }).collect();
        self.builder.transpose(x, &perm)
    }

    fn map(&mut self, node: &'m NodeProto, inputs: &[Option<Value>]) -> Result<(), Stop> {
        let body = body_of(node, "body")?;
        let sequences: Vec<Value> =
            inputs.iter().map(|value| value.clone().ok_or(missing())).collect::<Result<_, Stop>>()?;
        let Some(Value::Sequence(first)) = sequences.first() else {
            return problem("the first operand is no list");
        };
        let limit = Some(first.len() as i64);
        let collected = vec![vec![]; body.output.len()];
        let kind = LoopKind::Map;
        self.begin_turn(LoopState { node, body, kind, limit, turn: 0, carried: vec![], sequences, collected })
    }

    /// Begins a turn of a loop that is built turn by turn, or ends the loop.
    fn begin_turn(&mut self, state: LoopState<'m>) -> Result<(), Stop> {
        if state.limit.is_some_and(|limit| state.turn >= limit) {
            return self.end_loop(state);
        }
        let turn = Value::known(Literal::scalar(DType::I64, Scalar::Int(state.turn.into())));
        let mut inputs = Vec::new();
        if state.kind == LoopKind::Loop {
            inputs = vec![turn, Value::known(Literal::scalar(DType::Bool, Scalar::Int(1)))];
        }
        inputs.extend(state.carried.iter().cloned());
        for sequence in &state.sequences {
            let at = state.turn as usize;
            inputs.push(match (sequence, &state.kind) {
                (Value::Sequence(values), LoopKind::Map) => values
                    .get(at)
                    .cloned()
                    .ok_or_else(|| Problem::new("the lists are of different lengths"))?,
                (Value::Tensor(tensor), LoopKind::Scan(_)) => {
                    let x = self.builder.node(tensor)?;
                    let row = self.builder.pick(x, 0, at)?;
                    self.builder.value(row)
                }
                (value, _) => value.clone(),
            });
        }
        let body = state.body;
        let frame = self.body_frame(body, inputs, End::Turn(Box::new(state)))?;
        self.enter(frame)
    }

    /// Whether the frame of a turn can be ended: its condition must be known.
    pub(crate) fn end_turn_needs(state: &LoopState, values: &[Value]) -> Option<Tensor> {
        let condition = values.first().and_then(Value::as_tensor)?;
        (state.kind == LoopKind::Loop && condition.literal().is_none()).then(|| condition.clone())
    }

    pub(crate) fn end_turn(&mut self, mut state: LoopState<'m>, mut values: Vec<Value>) -> Result<(), Stop> {
        let mut goes_on = true;
        if state.kind == LoopKind::Loop {
            let condition = values.remove(0);
            let known = condition.as_tensor().and_then(Tensor::literal);
            goes_on =
                known.is_some_and(|known| known.scalars().next().is_some_and(|value| value.to_i64() != 0));
        }
        let scans = values.split_off(state.carried.len().min(values.len()));
        state.carried = values;
        for (collected, value) in state.collected.iter_mut().zip(scans) {
            collected.push(value);
        }
        state.turn += 1;
        match goes_on {
            true => self.begin_turn(state),
            false => self.end_loop(state),
        }
    }

    fn end_loop(&mut self, state: LoopState<'m>) -> Result<(), Stop> {
        let mut values = state.carried;
        let carried = values.len();
        let offset = if state.kind == LoopKind::Loop { 1 } else { 0 };
        for (at, collected) in state.collected.into_iter().enumerate() {
            if state.kind == LoopKind::Map {
                values.push(Value::Sequence(collected));
                continue;
            }
            if collected.is_empty() {
                values.push(nothing(state.body, offset + carried + at)?);
                continue;
            }
            let mut rows = Vec::new();
            for value in &collected {
                let tensor = value.as_tensor().ok_or_else(|| Problem::new("a loop stacks tensors only"))?;
                let x = self.builder.node(tensor)?;
                rows.push(self.builder.unsqueeze(x, &[0])?);
            }
            let mut stacked = self.builder.concat(&rows, 0)?;
            if let LoopKind::Scan(layout) = &state.kind {
                let (dim, reverse) = layout.outputs.get(at).copied().unwrap_or((0, false));
                stacked = self.scan_output(stacked, dim, reverse)?;
            }
            values.push(self.builder.value(stacked));
        }
        self.bind(state.node, values);
        Ok(())
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

/// A stack of nothing, of the type that a body says its output has.
fn nothing(body: &GraphProto, output: usize) -> Result<Value, Stop> {
    let ty = body.output.get(output).and_then(|output| output.r#type.as_ref());
    let Some(TypeProto { value: Some(Kind::TensorType(tensor)), .. }) = ty else {
        return problem("a loop of no turns stacks values whose type is not given");
    };
    let dtype = crate::element::element(tensor.elem_type)?.storage();
    let size = |dim: &crate::proto::tensor_shape_proto::Dimension| match &dim.value {
        Some(crate::proto::tensor_shape_proto::dimension::Value::DimValue(size)) => (*size).max(0) as usize,
        Some(_) | None => 0,
    };
    let sizes = tensor.shape.iter().flat_map(|shape| &shape.dim).map(size);
    let shape: Vec<usize> = [0].into_iter().chain(sizes).collect();
    Ok(Value::known(Literal::from_scalars(dtype, &shape, [])))
}

fn scan_layout(call: &Call, operands: usize) -> Result<(ScanLayout, usize), Stop> {
    let count = usize::try_from(call.int_or("num_scan_inputs", 0)).unwrap_or(usize::MAX);
    let Some(carries) = operands.checked_sub(count) else {
        return problem(format!("{operands} operands are too few to scan over {count}"));
    };
    let at = |list: &Option<Vec<i64>>, index: usize| {
        list.as_ref().and_then(|list| list.get(index)).copied().unwrap_or(0)
    };
    let (axes, directions) = (call.int_list("scan_input_axes"), call.int_list("scan_input_directions"));
    let mut inputs = Vec::new();
    for index in 0..count {
        let rank = call.tensor(carries + index)?.rank();
        inputs.push((normalize(at(&axes, index), rank)?, at(&directions, index) == 1));
    }
    let (axes, directions) = (call.int_list("scan_output_axes"), call.int_list("scan_output_directions"));
    let outputs = call.node.output.len().saturating_sub(carries);
    let outputs = (0..outputs).map(|index| (at(&axes, index), at(&directions, index) == 1)).collect();
    Ok((ScanLayout { inputs, outputs }, carries))
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
