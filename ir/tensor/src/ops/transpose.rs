//! `y[j...] = x[i...]` where dim `d` of the result is dim `perm[d]` of the operand.

use crate::Mesh;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::DType;

/// Dims in another order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Transpose {
    /// For each dim of the result, the dim of the operand that it is.
    pub perm: Vec<usize>,
}

impl Transpose {
    /// The permutation that undoes this one.
    pub fn inverse(&self) -> Vec<usize> {
        let mut inverse = vec![0; self.perm.len()];
        for (to, &from) in self.perm.iter().enumerate() {
            inverse[from] = to;
        }
        inverse
    }
}

impl OpDef for Transpose {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "a transpose takes one operand");
        let mut sorted = self.perm.clone();
        sorted.sort();
        ensure!(
            sorted.iter().copied().eq(0..operands[0].rank()),
            "{:?} is no order of the dims of {}",
            self.perm,
            operands[0]
        );
        let shape = self.perm.iter().map(|dim| operands[0].shape[*dim].clone()).collect();
        Ok(vec![TensorType { dtype: operands[0].dtype, shape }])
    }

    fn axes(&self, operands: &[TensorType], _: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::default();
        let dims = signature.axes_of(&operands[0].shape, Role::Mapped);
        signature.results = vec![self.perm.iter().map(|dim| dims[*dim].clone()).collect()];
        signature.operands = vec![dims];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        let inverse = self.inverse();
        on_each(operands, |operands| {
            let shape: Vec<usize> = self.perm.iter().map(|dim| operands[0].shape[*dim]).collect();
            Array::from_fn(operands[0].dtype, &shape, |index| {
                let from: Vec<usize> = inverse.iter().map(|dim| index[*dim]).collect();
                operands[0].at(&from)
            })
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        vec![Grad::Value(context.graph.transpose(context.ct(), &self.inverse()))]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(0.0, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let sample = |perm: &[usize], shape: &[usize]| {
            let operand = TensorType::new(DType::F32, shape.iter().copied());
            Sample::new(Transpose { perm: perm.to_vec() }, &[operand])
        };
        vec![sample(&[1, 0], &[4, 6]), sample(&[2, 0, 1], &[2, 4, 6]), sample(&[0, 2, 1, 3], &[2, 4, 6, 2])]
    }
}
