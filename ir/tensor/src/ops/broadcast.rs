//! `y[j...] = x[j[dims[0]], j[dims[1]], ...]`: values repeat along the dims that `dims` does not name.

use crate::Mesh;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Dim};

/// Values repeated along new dims.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Broadcast {
    /// The shape of the result.
    pub shape: Vec<Dim>,
    /// For each dim of the operand, the dim of the result that it becomes; strictly rising.
    pub dims: Vec<usize>,
}

impl OpDef for Broadcast {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "a broadcast takes one operand");
        let operand = &operands[0];
        ensure!(self.dims.len() == operand.rank(), "a broadcast of {operand} names {} dims", self.dims.len());
        ensure!(self.dims.windows(2).all(|pair| pair[0] < pair[1]), "the dims of a broadcast rise");
        for (size, &dim) in operand.shape.iter().zip(&self.dims) {
            let to =
                self.shape.get(dim).ok_or_else(|| InferError(format!("a broadcast has no dim {dim}")))?;
            ensure!(to == size, "a broadcast keeps the sizes of its operand, but {size} would become {to}");
        }
        Ok(vec![TensorType { dtype: operand.dtype, shape: self.shape.clone() }])
    }

    fn axes(&self, _: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::default();
        let dims = signature.axes_of(&results[0].shape, Role::Mapped);
        signature.operands = vec![self.dims.iter().map(|dim| dims[*dim].clone()).collect()];
        signature.results = vec![dims];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        let shape: Vec<usize> = self.shape.iter().map(Dim::size).collect();
        on_each(operands, |operands| {
            Array::from_fn(operands[0].dtype, &shape, |index| {
                let from: Vec<usize> = self.dims.iter().map(|dim| index[*dim]).collect();
                operands[0].at(&from)
            })
        })
    }

    /// The sum over the new dims.
    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let new: Vec<usize> = (0..self.shape.len()).filter(|dim| !self.dims.contains(dim)).collect();
        vec![Grad::Value(context.graph.reduce_sum(context.ct(), &new))]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(0.0, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let sample = |shape: &[usize], dims: &[usize], operand: &[usize], dtype| {
            let op = Broadcast { shape: shape.iter().map(|d| Dim::from(*d)).collect(), dims: dims.to_vec() };
            Sample::new(op, &[TensorType::new(dtype, operand.iter().copied())])
        };
        vec![
            sample(&[2, 4, 6], &[1], &[4], DType::F32),
            sample(&[2, 4], &[], &[], DType::F32),
            sample(&[4, 2, 6], &[0, 2], &[4, 6], DType::F64),
            sample(&[4, 2], &[0], &[4], DType::Bool),
        ]
    }
}
