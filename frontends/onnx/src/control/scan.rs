//! Scans over dims of tensors.

use super::turns::{LoopKind, LoopState};
use super::{body_of, missing};
use crate::builder::{Builder, Stop, problem};
use crate::call::{Call, normalize};
use crate::error::Problem;
use crate::import::Import;
use crate::proto::{GraphProto, NodeProto};
use crate::value::Value;
use std::sync::Arc;
use thalweg_base::Dim;
use thalweg_tensor::ops::Scan;
use thalweg_tensor::{NodeId, TensorType};

/// Along which dims a scan reads and writes, and which of them backwards.
#[derive(Clone, PartialEq)]
pub(super) struct ScanLayout {
    pub inputs: Vec<(usize, bool)>,
    pub outputs: Vec<(i64, bool)>,
}

impl<'m> Import<'m> {
    pub(super) fn scan(
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
    pub(super) fn scan_op(
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
    pub(super) fn batched_scan(
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
    pub(super) fn scan_output(&mut self, x: NodeId, dim: i64, reverse: bool) -> Result<NodeId, Stop> {
        let x = if reverse { self.builder.reverse(x, 0)? } else { x };
        let rank = self.builder.rank(x);
        let dim = normalize(dim, rank)?;
        let perm: Vec<usize> = (0..rank).map(|d| if d == dim { 0 } else { d + (d < dim) as usize }).collect();
        self.builder.transpose(x, &perm)
    }
}

pub(super) fn scan_layout(call: &Call, operands: usize) -> Result<(ScanLayout, usize), Stop> {
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
