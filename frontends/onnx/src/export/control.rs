//! Ops that run graphs of their own. In the format, a body sees the names around it, so what ours is given as invariants needs
//! no inputs there.

use super::value_info;
use super::writer::{Attribute, Write, Writer};
use crate::proto::{GraphProto, ValueInfoProto};
use thalweg_base::{DType, Scalar};
use thalweg_tensor::ops::{Branch, LeafKind, Scan, While};
use thalweg_tensor::{Graph, NodeId, TensorType};

impl Writer {
    /// The graph of a body. The first inputs are its own, under new names; the rest have the names of outer values.
    fn body_graph(
        &mut self,
        graph: &Graph,
        name: &str,
        own: usize,
        outer: &[&str],
        finish: impl FnOnce(&mut Writer, &[String], Vec<String>) -> Vec<(String, TensorType)>,
    ) -> Write<GraphProto> {
        let mut body = self.body(graph);
        let leaves: Vec<(NodeId, TensorType)> =
            graph.leaves(LeafKind::Input).map(|(id, leaf)| (id, leaf.ty.clone())).collect();
        let mut inputs: Vec<ValueInfoProto> = Vec::new();
        let mut names = Vec::new();
        for (at, (id, ty)) in leaves.iter().enumerate() {
            let input = match at < own {
                true => {
                    let input = body.fresh(&format!("{name}.input"));
                    inputs.push(value_info(&input, ty));
                    input
                }
                false => outer[at - own].to_string(),
            };
            body.values[id.index()] = vec![input.clone()];
            names.push(input);
        }
        body.graph(graph)?;
        let results = graph.outputs.iter().map(|output| body.of(output.node)).collect();
        let outputs = finish(&mut body, &names, results);
        let mut infos = Vec::new();
        for (value, ty) in outputs {
            // Outputs of a body have names of their own, also where they are inputs or outer values.
            let output = body.fresh(&format!("{name}.output"));
            body.push("Identity", &[&value], &[output.clone()], &[]);
            infos.push(value_info(&output, &ty));
        }
        self.end_body(&mut body);
        Ok(GraphProto {
            name: name.to_string(),
            node: body.nodes,
            initializer: body.initializers,
            input: inputs,
            output: infos,
            ..GraphProto::default()
        })
    }

    pub(super) fn scan(&mut self, op: &Scan, inputs: &[&str], types: &[TensorType]) -> Write<Vec<String>> {
        let own = op.carries + op.sequences;
        let result_types: Vec<TensorType> =
            op.body.outputs.iter().map(|output| op.body.ty(output.node).clone()).collect();
        if op.sequences == 0 {
            return self.unable("a loop over no sequence");
        }
        let carries = types[..op.carries].to_vec();
        let graph = self.body_graph(&op.body, "scan", own, &inputs[own..], |_, names, results| {
            let mut outputs: Vec<(String, TensorType)> = results.into_iter().zip(result_types).collect();
            if op.histories {
                outputs.extend(names[..op.carries].iter().cloned().zip(carries));
            }
            outputs
        })?;
        let yields = op.body.outputs.len() - op.carries + if op.histories { op.carries } else { 0 };
        let directions = |count: usize| Attribute::Ints(vec![op.reverse as i64; count]);
        let mut attributes = vec![
            ("body", Attribute::Graph(Box::new(graph))),
            ("num_scan_inputs", Attribute::Int(op.sequences as i64)),
        ];
        if op.reverse {
            attributes.push(("scan_input_directions", directions(op.sequences)));
            attributes.push(("scan_output_directions", directions(yields)));
        }
        let outputs: Vec<String> = (0..op.carries + yields).map(|_| self.fresh("scan")).collect();
        self.push("Scan", &inputs[..own], &outputs, &attributes);
        Ok(outputs)
    }

    /// A loop of the format tests its condition at the end of a turn, so the first test is before it.
    pub(super) fn repeat(&mut self, op: &While, inputs: &[&str], types: &[TensorType]) -> Write<Vec<String>> {
        let first = self.inlined(&op.condition, inputs)?;
        let carries = types[..op.carries].to_vec();
        let mut failed = None;
        let condition = &op.condition;
        let outer = &inputs[op.carries..];
        let mut graph = self.body_graph(&op.body, "while", op.carries, outer, |body, _, results| {
            let next: Vec<&str> = results.iter().map(String::as_str).chain(outer.iter().copied()).collect();
            let goes_on = match body.inlined(condition, &next) {
                Ok(name) => name,
                Err(error) => {
                    failed = Some(error);
                    String::new()
                }
            };
            let mut outputs = vec![(goes_on, TensorType::scalar(DType::Bool))];
            outputs.extend(results.into_iter().zip(carries));
            outputs
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let (turn, held) = (self.fresh("while.turn"), self.fresh("while.held"));
        graph.input.splice(
            0..0,
            [
                value_info(&turn, &TensorType::scalar(DType::I64)),
                value_info(&held, &TensorType::scalar(DType::Bool)),
            ],
        );
        let outputs: Vec<String> = (0..op.carries).map(|_| self.fresh("while")).collect();
        let limit = self.number(DType::I64, Scalar::Int(i64::MAX.into()));
        let all: Vec<&str> = [limit.as_str(), first.as_str()]
            .into_iter()
            .chain(inputs[..op.carries].iter().copied())
            .collect();
        self.push("Loop", &all, &outputs, &[("body", Attribute::Graph(Box::new(graph)))]);
        Ok(outputs)
    }

    /// The only output of a graph whose nodes are written among these.
    fn inlined(&mut self, graph: &Graph, inputs: &[&str]) -> Write<String> {
        let outer = std::mem::replace(&mut self.values, vec![vec![]; graph.nodes().len()]);
        for ((id, _), name) in graph.leaves(LeafKind::Input).zip(inputs) {
            self.values[id.index()] = vec![name.to_string()];
        }
        let written = self.graph(graph);
        let name = graph.outputs.first().map(|output| self.values[output.node.index()].first().cloned());
        self.values = outer;
        written?;
        Ok(name.flatten().expect("a condition gives one value"))
    }

    pub(super) fn branch(&mut self, op: &Branch, inputs: &[&str]) -> Write<Vec<String>> {
        let mut sides = Vec::new();
        for (name, graph) in [("then_branch", &op.then), ("else_branch", &op.otherwise)] {
            let types: Vec<TensorType> =
                graph.outputs.iter().map(|output| graph.ty(output.node).clone()).collect();
            let side = self.body_graph(graph, name, 0, &inputs[1..], |_, _, results| {
                results.into_iter().zip(types).collect()
            })?;
            sides.push((name, Attribute::Graph(Box::new(side))));
        }
        let outputs: Vec<String> = op.then.outputs.iter().map(|_| self.fresh("branch")).collect();
        self.push("If", &inputs[..1], &outputs, &sides);
        Ok(outputs)
    }
}
