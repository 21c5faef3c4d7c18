//! Models on the reference evaluator.

use crate::Runner;
use thalweg_base::Literal;
use thalweg_onnx::{HostValue, Model, RunError, Tensors, run};
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Array, Graph, eval};

/// Runs graphs by the reference evaluator.
pub struct Reference;

impl Runner for Reference {
    fn run(&self, model: &Model, inputs: &[(String, HostValue)]) -> Result<Vec<HostValue>, String> {
        let ran = run(model, inputs, &mut evaluate).map_err(text)?;
        Ok(ran.outputs.into_iter().map(|(_, value)| value).collect())
    }
}

/// What a failed run says.
pub fn text(error: RunError<String>) -> String {
    match error {
        RunError::Import(error) => error.to_string(),
        RunError::Missing(name) => format!("`{name}` is not given"),
        RunError::Run(error) => error,
    }
}

fn evaluate(graph: &Graph, weights: &Tensors, inputs: &Tensors) -> Result<Vec<Literal>, String> {
    let mut environment = eval::Environment::new();
    for kind in [LeafKind::Input, LeafKind::Parameter, LeafKind::State] {
        for (_, leaf) in graph.leaves(kind) {
            let from = if kind == LeafKind::Input { inputs } else { weights };
            if let Some(value) = from.get(&*leaf.name) {
                environment.insert((kind, leaf.name.to_string()), Array::from_literal(value));
            }
        }
    }
    let results = eval::evaluate(graph, &environment).map_err(|error| error.to_string())?;
    Ok(results.outputs.iter().map(Array::to_literal).collect())
}
