//! `branch`: one of two blocks, chosen when the model runs.

use super::emit::Level;
use super::value::{DimInfo, Tensor, Value};
use super::while_loop::with_inputs;
use super::{Checked, Elaborator};
use crate::syntax::ast::{Block, Branch, Expr};
use std::collections::BTreeSet;
use std::sync::Arc;
use thalweg_base::{DType, Diagnostic, Span};
use thalweg_tensor::ops::Branch as BranchOp;
use thalweg_tensor::{Graph, NodeId};

impl Elaborator<'_> {
    pub(crate) fn branch(&mut self, branch: &Branch, span: Span) -> Checked<Value> {
        let condition = self.branch_condition(&branch.condition)?;
        let then = self.branch_side(&branch.then);
        let otherwise = self.branch_side(&branch.otherwise);
        let ((mut then, a), (mut otherwise, b)) = (then?, otherwise?);
        let mut pairs = Vec::new();
        if !pair(&a, &b, &mut pairs) || pairs.is_empty() {
            let message = "the two sides of a `branch` give values of other kinds";
            let label = format!("{} on one side, {} on the other", a.describe(), b.describe());
            return self.error("E0307", message, span, label);
        }
        let mut dims = Vec::new();
        for (index, (a, b)) in pairs.iter().enumerate() {
            let a = self.side_result(&mut then, a, b, branch.then.span)?;
            let b = self.side_result(&mut otherwise, b, &Value::Tensor(a.clone()), branch.otherwise.span)?;
            if a.ty != b.ty {
                let error = Diagnostic::error("E0202", "the two sides of a `branch` give other types")
                    .at(span, format!("{} and {}", a.describe(), b.describe()))
                    .help("both give tensors of one dtype and shape");
                return Err(self.fail(error));
            }
            for (level, tensor) in [(&mut then, &a), (&mut otherwise, &b)] {
                level.graph.output(format!("result.{index}"), tensor.node);
            }
            dims.push(a.dims);
        }
        let around: BTreeSet<NodeId> =
            then.captures.iter().chain(&otherwise.captures).map(|(outer, _)| *outer).collect();
        let around: Vec<Tensor> =
            around.into_iter().map(|node| self.as_tensor_at(node, self.level())).collect();
        let op = BranchOp {
            then: Arc::new(with_inputs(&then, &[], &around)),
            otherwise: Arc::new(with_inputs(&otherwise, &[], &around)),
        };
        let operands: Vec<&Tensor> = std::iter::once(&condition).chain(&around).collect();
        let node = self.emit(op, &operands, span)?;
        let mut results = Vec::new();
        let count = dims.len();
        for (index, dims) in dims.into_iter().enumerate() {
            // An op with one result is that result; several must be picked from.
            results.push(match count {
                1 => self.as_tensor(node, dims, span),
                _ => self.pick(node, index, dims, span)?,
            });
        }
        Ok(rebuild(&a, &mut results.into_iter()))
    }

    fn branch_condition(&mut self, expr: &Expr) -> Checked<Tensor> {
        match self.eval(expr)? {
            Value::Tensor(tensor) if tensor.rank() == 0 && tensor.ty.dtype == DType::Bool => Ok(tensor),
            Value::Bool(value) => self.literal(&Value::Bool(value), DType::Bool, expr.span),
            other => {
                let error = Diagnostic::error("E0302", "the condition of `branch` is a bool scalar")
                    .at(expr.span, format!("this is {}", other.describe()))
                    .help("to choose element by element, write `select(condition, a, b)`");
                Err(self.fail(error))
            }
        }
    }

    /// Elaborates a side in a graph of its own.
    fn branch_side(&mut self, block: &Block) -> Checked<(Level, Value)> {
        self.levels.push(Level::new(Graph::new("branch")));
        let value = self.block(block);
        let level = self.levels.pop().expect("it was pushed");
        value.map(|value| (level, value))
    }

    /// A result of a side as a tensor of the side's own graph; a number takes the type of the other side's tensor.
    fn side_result(
        &mut self,
        level: &mut Level,
        value: &Value,
        other: &Value,
        span: Span,
    ) -> Checked<Tensor> {
        let outer = self.level();
        self.levels.push(std::mem::replace(level, Level::new(Graph::new(""))));
        let result = match (value, other) {
            (Value::Tensor(tensor), _) => {
                let node = self.import(tensor, outer + 1);
                Ok(self.as_tensor(node, tensor.dims.clone(), span))
            }
            (value, Value::Tensor(other)) => {
                let like = Tensor { dims: vec![DimInfo::default(); other.rank()], ..other.clone() };
                self.literal_like(value, &like, span)
            }
            (value, _) => {
                let message = format!("a side of a `branch` gives tensors, not {}", value.describe());
                self.error("E0303", message, span, "no tensor on either side")
            }
        };
        *level = self.levels.pop().expect("just pushed");
        result
    }
}

/// Pairs up the tensors and numbers of two values of one structure.
fn pair(a: &Value, b: &Value, found: &mut Vec<(Value, Value)>) -> bool {
    let leaf =
        |value: &Value| matches!(value, Value::Tensor(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_));
    match (a, b) {
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| pair(a, b, found))
        }
        (Value::Record(a), Value::Record(b)) => {
            let same = a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.0 == b.0);
            same && a.iter().zip(b.iter()).all(|(a, b)| pair(&a.1, &b.1, found))
        }
        (a, b) if leaf(a) && leaf(b) => {
            found.push((a.clone(), b.clone()));
            true
        }
        (_, _) => false,
    }
}

/// The value of that structure with the results in the places of tensors.
fn rebuild(like: &Value, results: &mut impl Iterator<Item = Tensor>) -> Value {
    match like {
        Value::List(values) => {
            Value::List(values.iter().map(|value| rebuild(value, results)).collect::<Vec<_>>().into())
        }
        Value::Record(fields) => Value::Record(
            fields
                .iter()
                .map(|(name, value)| (name.clone(), rebuild(value, results)))
                .collect::<Vec<_>>()
                .into(),
        ),
        _ => Value::Tensor(results.next().expect("a result for each tensor")),
    }
}
