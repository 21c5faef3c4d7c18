//! One result of an op that has several.

use crate::Mesh;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};

/// The result at a position of an op that has several; its only operand is that op.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Pick {
    /// The position.
    pub index: usize,
}

impl OpDef for Pick {
    /// The operand types are all results of the operand.
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(self.index < operands.len(), "there is no result {} among {}", self.index, operands.len());
        Ok(vec![operands[self.index].clone()])
    }

    fn axes(&self, operands: &[TensorType], _: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::default();
        signature.operands = operands.iter().map(|ty| signature.axes_of(&ty.shape, Role::Mapped)).collect();
        signature.results = vec![signature.operands[self.index].clone()];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| operands[self.index].clone())
    }

    /// Differentiation hands the cotangent to the picked result itself and never asks.
    fn vjp(&self, _: &mut VjpContext) -> Vec<Grad> {
        panic!("the cotangent of a pick belongs to the op that it picks from")
    }

    fn work(&self, _: &[TensorType], _: &[TensorType]) -> Work {
        Work::default()
    }

    /// None of its own: the samples of ops with several results pick each of them.
    fn samples() -> Vec<Sample> {
        vec![]
    }
}
