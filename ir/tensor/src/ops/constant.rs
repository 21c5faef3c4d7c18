//! Known values.

use crate::Mesh;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::{Dim, Literal};

/// A tensor of known values.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Constant {
    /// The values.
    pub value: Literal,
}

impl OpDef for Constant {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.is_empty(), "a constant has no operands");
        Ok(vec![TensorType::new(self.value.dtype(), self.value.shape().iter().map(|size| Dim::from(*size)))])
    }

    /// Whole: its pieces differ, so each device keeps all of it and takes its slice.
    fn axes(&self, _: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::default();
        let dims = signature.axes_of(&results[0].shape, Role::Whole);
        signature.results = vec![dims];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |_| Array::from_literal(&self.value))
    }

    fn vjp(&self, _: &mut VjpContext) -> Vec<Grad> {
        vec![]
    }

    fn work(&self, _: &[TensorType], _: &[TensorType]) -> Work {
        Work::default()
    }

    fn samples() -> Vec<Sample> {
        vec![
            Sample::new(
                Constant { value: Literal::from_f32(&[2, 3], &[1.0, -2.0, 0.5, 3.0, 4.0, -0.25]) },
                &[],
            ),
            Sample::new(Constant { value: Literal::from_f32(&[], &[7.0]) }, &[]),
        ]
    }
}
