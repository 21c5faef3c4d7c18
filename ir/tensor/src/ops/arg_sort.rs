//! The order that sorts a dim: `x[..., y[..., i, ...], ...]` rises with `i`. Equal values keep their order; NaN comes last.

use crate::Mesh;
use crate::axes::{AxisSignature, Role};
use crate::op::Fill;
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use thalweg_base::{DType, Scalar};

/// The positions of a dim in the order that sorts it, as i32.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ArgSort {
    /// The dim.
    pub dim: usize,
    /// Whether the largest comes first (NaN last all the same).
    pub descending: bool,
}

impl ArgSort {
    fn compare(&self, a: Scalar, b: Scalar) -> Ordering {
        let (x, y) = match (a, b) {
            (Scalar::Int(a), Scalar::Int(b)) => return if self.descending { b.cmp(&a) } else { a.cmp(&b) },
            (a, b) => (a.to_f64(), b.to_f64()),
        };
        match (x.is_nan(), y.is_nan()) {
            (false, false) => {
                let order = x.partial_cmp(&y).expect("neither is NaN");
                if self.descending { order.reverse() } else { order }
            }
            (x, y) => x.cmp(&y),
        }
    }
}

impl OpDef for ArgSort {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "a sort takes one operand");
        ensure!(self.dim < operands[0].rank(), "{} has no dim {} to sort", operands[0], self.dim);
        Ok(vec![operands[0].with_dtype(DType::I32)])
    }

    fn axes(&self, operands: &[TensorType], _: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::pointwise(&operands[0].shape, 1);
        let axis = signature.operands[0][self.dim][0];
        signature.axes[axis.index()].role = Role::Whole;
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let x = &operands[0];
            Array::from_fn(DType::I32, &x.shape, |index| {
                let at = |position: usize| {
                    let mut index = index.to_vec();
                    index[self.dim] = position;
                    x.at(&index)
                };
                let mut order: Vec<usize> = (0..x.shape[self.dim]).collect();
                order.sort_by(|a, b| self.compare(at(*a), at(*b)));
                Scalar::Int(order[index[self.dim]] as i128)
            })
        })
    }

    fn vjp(&self, _: &mut VjpContext) -> Vec<Grad> {
        vec![Grad::Zero]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        let length = operands[0].shape[self.dim].size().max(2) as f64;
        Work::streaming(operands[0].elements().size() as f64 * length.log2(), operands, results)
    }

    fn samples() -> Vec<Sample> {
        let sample = |dim, descending, dtype, fill| {
            Sample::filled(ArgSort { dim, descending }, &[(TensorType::new(dtype, [4, 6]), fill)])
        };
        vec![
            sample(1, false, DType::F32, Fill::Distinct),
            sample(0, true, DType::F32, Fill::Distinct),
            sample(1, true, DType::I32, Fill::Normal),
            sample(1, false, DType::I16, Fill::Normal),
            sample(1, true, DType::U32, Fill::Normal),
            sample(0, false, DType::U64, Fill::Normal),
        ]
    }
}
