//! Operands one after the other along a dim.

use crate::Mesh;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::ops::SliceRange;
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Dim};

/// Operands one after the other along a dim; all other sizes are equal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Concat {
    /// The dim.
    pub dim: usize,
}

impl OpDef for Concat {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(!operands.is_empty(), "a concatenation takes at least one operand");
        let mut result = operands[0].clone();
        ensure!(self.dim < result.rank(), "{result} has no dim {} to concatenate along", self.dim);
        for operand in &operands[1..] {
            let mut shape = operand.shape.clone();
            let fits = operand.dtype == result.dtype && operand.rank() == result.rank();
            ensure!(fits, "{} and {operand} cannot be concatenated", operands[0]);
            let total = &result.shape[self.dim] + &shape[self.dim];
            shape[self.dim] = result.shape[self.dim].clone();
            ensure!(
                shape == result.shape,
                "{} and {operand} differ in more than dim {}, along which they are concatenated",
                operands[0],
                self.dim
            );
            result.shape[self.dim] = total;
        }
        Ok(vec![result])
    }

    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::pointwise(&results[0].shape, operands.len());
        let axis = signature.results[0][self.dim][0];
        signature.axes[axis.index()].role = Role::Whole;
        for (index, operand) in operands.iter().enumerate() {
            let own = signature.axis(&operand.shape[self.dim], Role::Whole);
            signature.operands[index][self.dim] = vec![own];
        }
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| Array::concat(operands, self.dim))
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let mut start = Dim::default();
        let mut grads = Vec::new();
        for index in 0..context.operands.len() {
            let size = context.operand_type(index).shape[self.dim].clone();
            let range = SliceRange { dim: self.dim, start: start.clone(), size: size.clone(), stride: 1 };
            grads.push(Grad::Value(context.graph.slice(context.ct(), vec![range])));
            start = &start + &size;
        }
        grads
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(0.0, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let ty = |shape: [usize; 2]| TensorType::new(DType::F32, shape);
        vec![
            Sample::new(Concat { dim: 1 }, &[ty([4, 6]), ty([4, 2])]),
            Sample::new(Concat { dim: 0 }, &[ty([1, 6]), ty([4, 6]), ty([2, 6])]),
            Sample::new(Concat { dim: 0 }, &[ty([4, 6])]),
        ]
    }
}
