//! The reference evaluator: every node in order, on every device of the mesh, by the ops' own `eval`.

use crate::Mesh;
use crate::graph::Graph;
use crate::op::{Op, PerDevice};
use crate::ops::{Leaf, LeafKind};
use crate::value::Array;
use std::collections::BTreeMap;

/// Values of leaves by kind and name, on one device.
pub type Environment = BTreeMap<(LeafKind, String), Array>;

/// What a graph gives on one device.
#[derive(Clone, PartialEq, Debug)]
pub struct Results {
    /// The outputs, in order.
    pub outputs: Vec<Array>,
    /// The next values of what is kept, in the order of the updates.
    pub updates: Vec<Array>,
}

/// Why a graph cannot be evaluated.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A leaf has no value.
    #[error("no value is given for `{0}`")]
    Missing(String),
    /// A leaf's value is of another type.
    #[error("`{name}` is {expected}, but its value is {found}")]
    Mismatch {
        /// The leaf.
        name: String,
        /// Its type.
        expected: String,
        /// The type of the value.
        found: String,
    },
}

/// Evaluates a graph without symbols on one device.
pub fn evaluate(graph: &Graph, environment: &Environment) -> Result<Results, EvalError> {
    Ok(evaluate_on(graph, &Mesh::default(), std::slice::from_ref(environment))?.remove(0))
}

/// Evaluates a graph without symbols on every device of a mesh, each with its own leaf values.
pub fn evaluate_on(
    graph: &Graph,
    mesh: &Mesh,
    environments: &[Environment],
) -> Result<Vec<Results>, EvalError> {
    let leaf = |device: usize, leaf: &Leaf| -> Result<Array, EvalError> {
        let found = environments[device].get(&(leaf.kind, leaf.name.to_string()));
        let value = found.ok_or_else(|| EvalError::Missing(leaf.name.to_string()))?;
        if value.dtype != leaf.ty.dtype || value.shape != leaf.ty.sizes() {
            return Err(EvalError::Mismatch {
                name: leaf.name.to_string(),
                expected: leaf.ty.to_string(),
                found: format!("{}{:?}", value.dtype, value.shape),
            });
        }
        Ok(value.clone())
    };
    let values = walk(graph, mesh, environments.len(), leaf)?;
    let root = |device: usize, id: crate::NodeId| values[id.index()][device][0].clone();
    Ok((0..environments.len())
        .map(|device| Results {
            outputs: graph.outputs.iter().map(|output| root(device, output.node)).collect(),
            updates: graph.updates.iter().map(|update| root(device, update.node)).collect(),
        })
        .collect())
}

/// The outputs of a sub-graph for its inputs in order, on every device.
pub(crate) fn outputs(graph: &Graph, mesh: &Mesh, inputs: &PerDevice<Array>) -> PerDevice<Array> {
    let names: Vec<&str> = graph.leaves(LeafKind::Input).map(|(_, leaf)| &*leaf.name).collect();
    let leaf = |device: usize, leaf: &Leaf| -> Result<Array, std::convert::Infallible> {
        let at = names.iter().position(|name| **name == *leaf.name).expect("bodies have inputs only");
        Ok(inputs[device][at].clone())
    };
    let Ok(values) = walk(graph, mesh, inputs.len(), leaf);
    (0..inputs.len())
        .map(|device| {
            graph.outputs.iter().map(|output| values[output.node.index()][device][0].clone()).collect()
        })
        .collect()
}

/// The results of every node on every device.
fn walk<E>(
    graph: &Graph,
    mesh: &Mesh,
    devices: usize,
    leaf_value: impl Fn(usize, &Leaf) -> Result<Array, E>,
) -> Result<Vec<PerDevice<Array>>, E> {
    let mut values: Vec<PerDevice<Array>> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let results = match node.op.as_leaf() {
            Some(leaf) => (0..devices)
                .map(|device| Ok(vec![leaf_value(device, leaf)?]))
                .collect::<Result<PerDevice<Array>, E>>()?,
            None => {
                let all = matches!(node.op, Op::Pick(_));
                let operands = (0..devices)
                    .map(|device| {
                        let of = |operand: &crate::NodeId| {
                            let results = &values[operand.index()][device];
                            if all { results.clone() } else { vec![results[0].clone()] }
                        };
                        node.operands.iter().flat_map(of).collect()
                    })
                    .collect();
                node.op.def().eval(mesh, &operands)
            }
        };
        values.push(results);
    }
    Ok(values)
}
