//! A whole run of a model: import, stage by stage, with what each stage gives.

use crate::error::ImportError;
use crate::file::Model;
use crate::import::{Import, ImportOptions, Imported, OutputValue, Step};
use crate::value::HostValue;
use std::collections::BTreeMap;
use thalweg_base::Literal;
use thalweg_tensor::Graph;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Literal>;

/// How a graph is run: the values of its outputs in order, from its weights and from what has been computed so far, among which
/// are its inputs.
pub type RunGraph<'a, E> = &'a mut dyn FnMut(&Graph, &Tensors, &Tensors) -> Result<Vec<Literal>, E>;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The outputs of the model, in order.
    pub outputs: Vec<(String, HostValue)>,
    /// The last graph, and where the outputs come from.
    pub last: Imported,
    /// The inputs whose values the graphs depend on, not only their shapes.
    pub fixed: Tensors,
    /// How many graphs were run before the last.
    pub stages: usize,
}

/// Why a run failed.
#[derive(Debug)]
pub enum RunError<E> {
    /// The model cannot be imported for these inputs.
    Import(ImportError),
    /// An input is needed that is not given.
    Missing(String),
    /// A graph could not be run.
    Run(E),
}

/// Imports a model for these inputs and runs its graphs.
pub fn run<E>(
    model: &Model,
    inputs: &[(String, HostValue)],
    run_graph: RunGraph<E>,
) -> Result<Ran, RunError<E>> {
    let mut options = ImportOptions::default();
    let mut tensors = Tensors::new();
    for (name, value) in inputs {
        match value {
            HostValue::Tensor(literal, _) => {
                options.shapes.insert(name.clone(), literal.shape().to_vec());
                tensors.insert(name.clone(), literal.clone());
            }
            HostValue::Sequence(_) | HostValue::Optional(_) => {
                options.values.insert(name.clone(), value.clone());
            }
        }
    }
    let mut import = Import::new(model, &options).map_err(RunError::Import)?;
    let mut fixed = Tensors::new();
    let mut stages = 0;
    loop {
        match import.advance().map_err(RunError::Import)? {
            Step::Input(name) => {
                let value = tensors.get(&name).ok_or_else(|| RunError::Missing(name.clone()))?.clone();
                import.give(&name, &value);
                fixed.insert(name, value);
            }
            Step::Stage(stage) => {
                let outputs = run_graph(&stage.graph, &stage.weights, &tensors).map_err(RunError::Run)?;
                tensors.extend(stage.names.iter().cloned().zip(outputs.iter().cloned()));
                import.resume(&stage, &outputs);
                stages += 1;
            }
            Step::Done(last) => {
                let values = run_graph(&last.graph, &last.weights, &tensors).map_err(RunError::Run)?;
                return Ok(Ran { outputs: last.host_outputs(&values), last, fixed, stages });
            }
        }
    }
}

impl Imported {
    /// The outputs of the model, from those of the graph.
    pub fn host_outputs(&self, values: &[Literal]) -> Vec<(String, HostValue)> {
        self.outputs.iter().map(|(name, value)| (name.clone(), host(value, values))).collect()
    }
}

fn host(value: &OutputValue, values: &[Literal]) -> HostValue {
    match value {
        OutputValue::Computed { index, narrow } => HostValue::Tensor(values[*index].clone(), *narrow),
        OutputValue::Known(value) => value.clone(),
        OutputValue::Sequence(list) => {
            HostValue::Sequence(list.iter().map(|value| host(value, values)).collect())
        }
        OutputValue::Optional(value) => {
            HostValue::Optional(value.as_ref().map(|value| Box::new(host(value, values))))
        }
    }
}
