//! `y[...] = x[...]` in another dtype, by the rules of `Scalar::convert`.

use crate::Mesh;
use crate::axes::AxisSignature;
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::DType;

/// The same values in another dtype.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Convert {
    /// The dtype of the result.
    pub dtype: DType,
}

impl OpDef for Convert {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "a conversion takes one operand");
        Ok(vec![operands[0].with_dtype(self.dtype)])
    }

    fn axes(&self, operands: &[TensorType], _: &[TensorType]) -> AxisSignature {
        AxisSignature::pointwise(&operands[0].shape, 1)
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            Array::from_fn(self.dtype, &operands[0].shape, |index| operands[0].at(index))
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let from = context.operand_type(0).dtype;
        match from.is_float() && self.dtype.is_float() {
            true => vec![Grad::Value(context.graph.convert(context.ct(), from))],
            false => vec![Grad::Zero],
        }
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(results[0].elements().size() as f64, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let mut samples = Vec::new();
        for from in DType::ALL {
            for to in DType::ALL {
                samples.push(Sample::new(Convert { dtype: to }, &[TensorType::new(from, [4, 6])]));
            }
        }
        samples
    }
}
