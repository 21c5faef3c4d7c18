//! What a user may ask of a split.

use crate::PartitionError;
use std::collections::BTreeMap;
use thalweg_base::Symbol;
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Graph, Mesh};

/// How to split along a mesh axis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// Every device takes a share of the batch. Inputs are cut, parameters and states are on every device; what the batch
    /// was summed over is all-reduced where it is needed whole.
    Data {
        /// The dim that each named input (or state) is cut along. Where empty: dim 0 of the inputs that have as many
        /// positions along it as the first input.
        dims: BTreeMap<String, usize>,
    },
    /// Every device takes a share of each parameter of rank 2 and above; inputs are on every device.
    Tensor {
        /// The dims that named parameters are cut along; others are chosen by cost.
        dims: BTreeMap<String, usize>,
    },
    /// Whatever takes the least time, at most as much as one device alone or either of the above.
    Auto,
    /// A strategy for each axis of the mesh; the others stand for all axes.
    PerAxis(Vec<Strategy>),
}

impl Strategy {
    /// Data parallel, along dim 0 of the inputs.
    pub fn data() -> Strategy {
        Strategy::Data { dims: BTreeMap::new() }
    }

    /// Data parallel along the dims of a graph's inputs that are this symbol, which is bound later.
    pub fn data_along(graph: &Graph, symbol: &Symbol) -> Strategy {
        let dims = graph.leaves(LeafKind::Input).filter_map(|(_, leaf)| {
            let dim = leaf.ty.shape.iter().position(|size| size.as_symbol() == Some(symbol))?;
            Some((leaf.name.to_string(), dim))
        });
        Strategy::Data { dims: dims.collect() }
    }

    /// Tensor parallel, along dims chosen by cost.
    pub fn tensor() -> Strategy {
        Strategy::Tensor { dims: BTreeMap::new() }
    }

    /// A short name for explanations.
    pub fn name(&self) -> &'static str {
        match self {
            Strategy::Data { .. } => "data",
            Strategy::Tensor { .. } => "tensor",
            Strategy::Auto => "auto",
            Strategy::PerAxis(_) => "per axis",
        }
    }

    /// One strategy for each axis of the mesh.
    pub(crate) fn for_axes(&self, mesh: &Mesh) -> Result<Vec<&Strategy>, PartitionError> {
        let expected = mesh.axes.len();
        match self {
            Strategy::Data { .. } | Strategy::Tensor { .. } | Strategy::Auto => Ok(vec![self; expected]),
            Strategy::PerAxis(each) => {
                let nested = each.iter().any(|own| matches!(own, Strategy::PerAxis(_)));
                match each.len() == expected && !nested {
                    true => Ok(each.iter().collect()),
                    false => Err(PartitionError::Axes { expected, found: each.len() }),
                }
            }
        }
    }
}
