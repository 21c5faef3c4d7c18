//! `y[i] = i`.

use crate::Mesh;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Dim, Scalar};

/// The positions of a dim: 0, 1, 2, ...
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Iota {
    /// A numeric dtype.
    pub dtype: DType,
    /// How many.
    pub size: Dim,
}

impl OpDef for Iota {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.is_empty(), "an iota has no operands");
        ensure!(self.dtype != DType::Bool, "an iota counts in a numeric dtype, not bool");
        Ok(vec![TensorType { dtype: self.dtype, shape: vec![self.size.clone()] }])
    }

    /// Whole: a piece starts where the one before ends.
    fn axes(&self, _: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::default();
        let dims = signature.axes_of(&results[0].shape, Role::Whole);
        signature.results = vec![dims];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |_| {
            Array::from_fn(self.dtype, &[self.size.size()], |index| Scalar::Int(index[0] as i128))
        })
    }

    fn vjp(&self, _: &mut VjpContext) -> Vec<Grad> {
        vec![]
    }

    fn work(&self, _: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(0.0, &[], results)
    }

    fn samples() -> Vec<Sample> {
        [DType::I32, DType::F32, DType::I64, DType::I16, DType::U64]
            .into_iter()
            .map(|dtype| Sample::new(Iota { dtype, size: 5.into() }, &[]))
            .collect()
    }
}
