//! Loops whose turns are built one after the other.

use super::scan::ScanLayout;
use super::{body_of, missing};
use crate::builder::{Stop, problem};
use crate::error::Problem;
use crate::import::{End, Import};
use crate::proto::type_proto::Value as Kind;
use crate::proto::{GraphProto, NodeProto, TypeProto};
use crate::value::{Tensor, Value};
use std::collections::BTreeSet;
use thalweg_base::{DType, Literal, Scalar};

/// A loop whose turns are built one after the other.
pub(crate) struct LoopState<'m> {
    pub(super) node: &'m NodeProto,
    pub(super) body: &'m GraphProto,
    pub(super) kind: LoopKind,
    pub(super) limit: Option<i64>,
    pub(super) turn: i64,
    pub(super) carried: Vec<Value>,
    pub(super) sequences: Vec<Value>,
    pub(super) collected: Vec<Vec<Value>>,
}

#[derive(Clone, PartialEq)]
pub(super) enum LoopKind {
    Loop,
    Scan(ScanLayout),
    /// A function of each element of lists.
    Map,
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

impl<'m> Import<'m> {
    pub(super) fn map(&mut self, node: &'m NodeProto, inputs: &[Option<Value>]) -> Result<(), Stop> {
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
    pub(super) fn begin_turn(&mut self, state: LoopState<'m>) -> Result<(), Stop> {
        if state.limit.is_some_and(|limit| state.turn >= limit) {
            return self.end_loop(state);
        }
        self.count_step()?;
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

    pub(super) fn end_loop(&mut self, state: LoopState<'m>) -> Result<(), Stop> {
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
