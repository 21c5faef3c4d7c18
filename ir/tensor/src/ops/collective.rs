//! Communication among the devices that differ only along one axis of the mesh.

use crate::Mesh;
use crate::ReduceFn;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Dim};

/// What is communicated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectiveKind {
    /// Every device gets the combination of all.
    AllReduce {
        /// How values are combined.
        function: ReduceFn,
    },
    /// Every device gets all pieces, one after the other along the dim.
    AllGather {
        /// The dim.
        dim: usize,
    },
    /// Every device gets its piece along the dim of the combination of all.
    ReduceScatter {
        /// How values are combined.
        function: ReduceFn,
        /// The dim.
        dim: usize,
    },
    /// Every device gets its piece along `split` of all, one after the other along `concat`.
    AllToAll {
        /// The dim that is cut.
        split: usize,
        /// The dim that grows.
        concat: usize,
    },
    /// Every device keeps its own piece along the dim of what all have; nothing is sent.
    Shard {
        /// The dim.
        dim: usize,
    },
}

/// Communication along one mesh axis.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Collective {
    /// What is communicated.
    pub kind: CollectiveKind,
    /// The mesh axis.
    pub axis: String,
    /// The number of devices along it.
    pub size: usize,
}

impl OpDef for Collective {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "a collective takes one operand");
        ensure!(self.size > 0, "a mesh axis has devices");
        let mut result = operands[0].clone();
        let parts = Dim::from(self.size);
        let (cut, grown) = match self.kind {
            CollectiveKind::AllReduce { .. } => (None, None),
            CollectiveKind::AllGather { dim } => (None, Some(dim)),
            CollectiveKind::ReduceScatter { dim, .. } | CollectiveKind::Shard { dim } => (Some(dim), None),
            CollectiveKind::AllToAll { split, concat } => (Some(split), Some(concat)),
        };
        for dim in cut.iter().chain(&grown) {
            ensure!(*dim < result.rank(), "{result} has no dim {dim}");
        }
        if let Some(dim) = cut {
            let piece = result.shape[dim].exact_div(&parts);
            result.shape[dim] = piece
                .ok_or_else(|| InferError(format!("dim {dim} of {} makes no {parts} pieces", operands[0])))?;
        }
        if let Some(dim) = grown {
            result.shape[dim] = &result.shape[dim] * &parts;
        }
        Ok(vec![result])
    }

    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::pointwise(&operands[0].shape, 1);
        for dim in 0..operands[0].rank() {
            if operands[0].shape[dim] != results[0].shape[dim] {
                let axis = signature.operands[0][dim][0];
                signature.axes[axis.index()].role = Role::Whole;
                signature.results[0][dim] = vec![signature.axis(&results[0].shape[dim], Role::Whole)];
            }
        }
        signature
    }

    fn eval(&self, mesh: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        let devices = 0..operands.len();
        devices
            .map(|device| {
                let group = mesh.group(device, &self.axis);
                assert_eq!(group.len(), self.size, "the mesh has as many devices along `{}`", self.axis);
                let own = mesh.coordinate(device, &self.axis);
                let all: Vec<Array> = group.iter().map(|member| operands[*member][0].clone()).collect();
                vec![match self.kind {
                    CollectiveKind::AllReduce { function } => Array::combine(&all, function),
                    CollectiveKind::AllGather { dim } => Array::concat(&all, dim),
                    CollectiveKind::ReduceScatter { function, dim } => {
                        Array::combine(&all, function).split(dim, self.size).remove(own)
                    }
                    CollectiveKind::AllToAll { split, concat } => {
                        let pieces: Vec<Array> =
                            all.iter().map(|array| array.split(split, self.size).remove(own)).collect();
                        Array::concat(&pieces, concat)
                    }
                    CollectiveKind::Shard { dim } => operands[device][0].split(dim, self.size).remove(own),
                }]
            })
            .collect()
    }

    fn vjp(&self, _: &mut VjpContext) -> Vec<Grad> {
        vec![Grad::NotDifferentiable("graphs are differentiated before they are split over devices")]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        let adds =
            matches!(self.kind, CollectiveKind::AllReduce { .. } | CollectiveKind::ReduceScatter { .. });
        Work::streaming(if adds { operands[0].elements().size() as f64 } else { 0.0 }, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let kinds = [
            CollectiveKind::AllReduce { function: ReduceFn::Sum },
            CollectiveKind::AllReduce { function: ReduceFn::Max },
            CollectiveKind::AllGather { dim: 1 },
            CollectiveKind::ReduceScatter { function: ReduceFn::Sum, dim: 0 },
            CollectiveKind::AllToAll { split: 0, concat: 1 },
            CollectiveKind::Shard { dim: 1 },
        ];
        kinds
            .into_iter()
            .map(|kind| {
                let op = Collective { kind, axis: "devices".into(), size: 2 };
                Sample::new(op, &[TensorType::new(DType::F32, [4, 6])])
            })
            .collect()
    }
}
