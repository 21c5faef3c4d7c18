//! `while`: a loop that goes on as long as a condition of its carries holds.

use super::emit::Level;
use super::frame::VarKind;
use super::value::{Tensor, Value};
use super::{Checked, Elaborator};
use crate::syntax::ast::{Ident, While};
use std::collections::BTreeSet;
use std::sync::Arc;
use thalweg_base::{DType, Diagnostic, Span};
use thalweg_tensor::ops::{Leaf, LeafKind, While as WhileOp};
use thalweg_tensor::{Graph, NodeId};

type Carries = [(Ident, Tensor, Span)];

impl Elaborator<'_> {
    pub(crate) fn while_loop(&mut self, turn: &While, span: Span) -> Checked<Value> {
        let carries = self.first_carries(&turn.carries)?;
        if carries.is_empty() {
            let error =
                Diagnostic::error("E0410", "a `while` that carries nothing never changes its condition")
                    .at(span, "nothing is carried")
                    .help("write `while condition, carry x = start { … }`");
            return Err(self.fail(error));
        }
        let condition = self.in_body(&carries, |this| {
            let value = this.eval(&turn.condition)?;
            match value {
                Value::Tensor(tensor) if tensor.rank() == 0 && tensor.ty.dtype == DType::Bool => {
                    Ok(vec![tensor])
                }
                other => {
                    let label = format!("this is {}", other.describe());
                    this.error(
                        "E0302",
                        "the condition of `while` is a bool scalar",
                        turn.condition.span,
                        label,
                    )
                }
            }
        });
        let mut picked = Vec::new();
        let body = self.in_body(&carries, |this| {
            let given = this.scan_statements(&turn.body, span)?;
            let mut finals = Vec::new();
            for (name, tensor, at) in &carries {
                finals.push(this.carried(&name.name, tensor, *at)?);
            }
            if let Some((_, at)) = given.yields.first() {
                let error = Diagnostic::error(
                    "E0406",
                    "a `while` cannot `yield`, for nobody knows how often it turns",
                )
                .at(*at, "gives one value for each turn")
                .help("`last` gives carries after the last turn");
                return Err(this.fail(error));
            }
            picked = this.last_carries(&given, &finals)?;
            Ok(finals)
        });
        let (condition, body) = (condition?, body?);
        // Both graphs take the carries and then all that either of them uses of what is around.
        let around: BTreeSet<NodeId> =
            condition.captures.iter().chain(&body.captures).map(|(outer, _)| *outer).collect();
        let around: Vec<Tensor> =
            around.into_iter().map(|node| self.as_tensor_at(node, self.level())).collect();
        let first: Vec<(String, &Tensor)> =
            carries.iter().map(|(name, tensor, _)| (format!("carry.{}", name.name), tensor)).collect();
        let op = WhileOp {
            condition: Arc::new(with_inputs(&condition, &first, &around)),
            body: Arc::new(with_inputs(&body, &first, &around)),
            carries: carries.len(),
        };
        let operands: Vec<&Tensor> = carries.iter().map(|(_, tensor, _)| tensor).chain(&around).collect();
        let node = self.emit(op, &operands, span)?;
        let mut results = Vec::new();
        for index in picked {
            // An op with one result is that result; several must be picked from.
            let dims = carries[index].1.dims.clone();
            results.push(Value::Tensor(match carries.len() {
                1 => self.as_tensor(node, dims, span),
                _ => self.pick(node, index, dims, span)?,
            }));
        }
        match results.len() {
            1 => Ok(results.remove(0)),
            _ => Ok(Value::list(results)),
        }
    }

    /// Elaborates in a graph of its own whose inputs are the carries; what `run` gives are its outputs.
    fn in_body(
        &mut self,
        carries: &Carries,
        run: impl FnOnce(&mut Self) -> Checked<Vec<Tensor>>,
    ) -> Checked<Level> {
        self.levels.push(Level::new(Graph::new("while")));
        self.frame_mut().blocks.push(Default::default());
        for (name, tensor, _) in carries {
            let input =
                self.body_input(&format!("carry.{}", name.name), &tensor.ty, tensor.dims.clone(), name.span);
            self.declare(name, Value::Tensor(input), VarKind::Mutable);
        }
        let outputs = run(self);
        let level = self.level();
        for (index, output) in outputs.iter().flatten().enumerate() {
            let node = self.import(output, level);
            self.levels[level].graph.output(format!("result.{index}"), node);
        }
        self.frame_mut().blocks.pop();
        let level = self.levels.pop().expect("it was pushed");
        outputs.map(|_| level)
    }
}

/// The graph of a level with `first` and all of `around` as its inputs, in that order.
pub(super) fn with_inputs(level: &Level, first: &[(String, &Tensor)], around: &[Tensor]) -> Graph {
    let mut graph = Graph::new(level.graph.name.clone());
    let mut input = |name: String, tensor: &Tensor| {
        graph.add(Leaf { kind: LeafKind::Input, name: name.into(), ty: tensor.ty.clone(), init: None }, &[])
    };
    let own: Vec<NodeId> = first.iter().map(|(name, tensor)| input(name.clone(), tensor)).collect();
    let outer: Vec<(NodeId, NodeId)> = around
        .iter()
        .enumerate()
        .map(|(index, tensor)| (tensor.node, input(format!("captured.{index}"), tensor)))
        .collect();
    let captured = level.captures.iter().map(|(node, _)| {
        outer.iter().find(|(own, _)| own == node).expect("captures of either body are around").1
    });
    let inputs: Vec<NodeId> = own.into_iter().chain(captured).collect();
    let map = graph.inline(&level.graph, &inputs);
    for output in &level.graph.outputs {
        graph.output(output.name.clone(), map[output.node.index()]);
    }
    graph
}
