//! Calls of ONNX models: for each set of shapes, and of values that shapes depend on, the model becomes other graphs.

use super::{Bucket, Key, Outputs, PLANS_MAX, Session, State};
use crate::cache;
use crate::error::{Error, Result};
use crate::onnx::OnnxModel;
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use thalweg_base::{Bindings, DType, Literal, Scalar};
use thalweg_executor::{TensorView, Trace};
use thalweg_onnx::{HostValue, Imported, RunError, Tensors};
use thalweg_tensor::Graph;
use thalweg_tensor::ops::LeafKind;

/// What a model became for a call. Calls alike need not import it again.
pub(super) struct Specialized {
    shapes: BTreeMap<String, Vec<usize>>,
    /// The inputs whose values the graph depends on.
    fixed: Tensors,
    imported: Imported,
    /// The number of the plan that it was compiled to, if it was run.
    bucket: Option<u64>,
}

impl Session {
    pub(super) fn call_onnx(
        &self,
        state: &mut State,
        model: &OnnxModel,
        inputs: &[(&str, Tensor)],
        traced: bool,
    ) -> Result<(Outputs, Option<Trace>)> {
        let tensors: Tensors =
            inputs.iter().map(|(name, tensor)| (name.to_string(), tensor.0.clone())).collect();
        let shapes: BTreeMap<String, Vec<usize>> =
            tensors.iter().map(|(name, value)| (name.clone(), value.shape().to_vec())).collect();
        let alike = |known: &Specialized| {
            known.shapes == shapes && known.fixed.iter().all(|(name, value)| tensors.get(name) == Some(value))
        };
        if let Some(at) = state.imports.iter().position(alike) {
            // The last used goes last, as the plans do.
            let known = state.imports.remove(at);
            let Imported { graph, weights, .. } = &known.imported;
            // To compare graphs takes long beside a small model.
            let found = state.buckets.values().position(|bucket| Some(bucket.number) == known.bucket);
            let ran = match found {
                Some(at) => {
                    let last = state.buckets.len() - 1;
                    state.buckets.move_index(at, last);
                    state.buckets[last].run_graph(graph, &tensors, traced)
                }
                None => self.run_graph(state, model, graph, weights, &tensors, traced),
            };
            let outputs = ran.as_ref().map(|(values, _)| known.imported.host_outputs(values));
            let outputs = outputs.ok();
            state.imports.push(known);
            let (_, trace) = ran?;
            return Ok((collected(outputs.unwrap_or_default()), trace));
        }
        let values: Vec<(String, HostValue)> = tensors
            .iter()
            .map(|(name, value)| (name.clone(), HostValue::Tensor(value.clone(), None)))
            .collect();
        let (mut trace, mut bucket) = (None, None);
        let ran = thalweg_onnx::run(model.model(), &values, &mut |graph, weights, tensors| {
            let (outputs, recorded) = self.run_graph(state, model, graph, weights, tensors, traced)?;
            trace = recorded;
            bucket = state.buckets.values().next_back().map(|bucket| bucket.number);
            Ok(outputs)
        });
        let ran = ran.map_err(|error| match error {
            RunError::Import(error) => model.error(error),
            RunError::Missing(name) => Error::Inputs { problems: vec![format!("`{name}` is not given")] },
            RunError::Run(error) => error,
        })?;
        if ran.stages == 0 {
            if state.imports.len() >= PLANS_MAX {
                state.imports.remove(0);
            }
            state.imports.push(Specialized { shapes, fixed: ran.fixed, imported: ran.last, bucket });
        }
        Ok((collected(ran.outputs), trace))
    }

    fn run_graph(
        &self,
        state: &mut State,
        model: &OnnxModel,
        graph: &Graph,
        weights: &Tensors,
        tensors: &Tensors,
        traced: bool,
    ) -> Result<(Vec<Literal>, Option<Trace>)> {
        self.graph_bucket(state, model, graph, weights)?.run_graph(graph, tensors, traced)
    }

    /// The plan of a graph, with the model's weights, or those that the session was given instead.
    fn graph_bucket<'a>(
        &self,
        state: &'a mut State,
        model: &OnnxModel,
        graph: &Graph,
        weights: &Tensors,
    ) -> Result<&'a mut Bucket> {
        let key = Key::Graph(Box::new(graph.clone()));
        let bucket = match state.buckets.shift_remove(&key) {
            Some(bucket) => bucket,
            None => {
                let options = &self.shared.options;
                let (plan, report) = cache::compile(
                    &runnable(graph),
                    &Bindings::new(),
                    &options.driver(),
                    options.cache.as_ref(),
                )?;
                let known = |name: &str| weights.contains_key(name);
                let mut bucket = self.load(state, plan.into(), Some(report), known)?;
                // The device has what it needs of each: that the file's bytes are in memory as well is not needed.
                bucket.set_known(&[&state.given, weights], |value| model.release(value.bytes()))?;
                bucket
            }
        };
        Ok(state.keep(key, bucket))
    }
}

impl Bucket {
    /// Runs the plan of a graph; gives the values of the graph's outputs.
    fn run_graph(
        &mut self,
        graph: &Graph,
        tensors: &Tensors,
        traced: bool,
    ) -> Result<(Vec<Literal>, Option<Trace>)> {
        let views: Vec<(&str, TensorView<'_>)> = graph
            .leaves(LeafKind::Input)
            .filter_map(|(_, leaf)| {
                let (name, value) = tensors.get_key_value(&*leaf.name)?;
                Some((name.as_str(), TensorView::from(value)))
            })
            .collect();
        let (mut values, trace) = self.run(&views, traced)?;
        values.truncate(graph.outputs.len());
        Ok((values, trace))
    }
}

/// A plan computes something; a model whose outputs are all known needs none of it.
fn runnable(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    if graph.outputs.is_empty() {
        let nothing = graph.scalar(DType::F32, Scalar::Float(0.0));
        graph.output("nothing", nothing);
    }
    graph
}

/// Outputs by name; the elements of lists under the name with their position.
fn collected(outputs: Vec<(String, HostValue)>) -> Outputs {
    let mut tensors = indexmap::IndexMap::new();
    for (name, value) in outputs {
        put(&mut tensors, name, value);
    }
    Outputs { tensors }
}

fn put(tensors: &mut indexmap::IndexMap<String, Tensor>, name: String, value: HostValue) {
    match value {
        HostValue::Tensor(literal, _) => {
            tensors.insert(name, Tensor(literal));
        }
        HostValue::Sequence(values) => {
            for (at, value) in values.into_iter().enumerate() {
                put(tensors, format!("{name}.{at}"), value);
            }
        }
        HostValue::Optional(Some(value)) => put(tensors, name, *value),
        HostValue::Optional(None) => {}
    }
}
