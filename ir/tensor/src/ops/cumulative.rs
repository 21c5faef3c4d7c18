//! Running combination along a dim: `y[i] = f(x[0], ..., x[i])`, or from the end when reversed.

use crate::Mesh;
use crate::ReduceFn;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::DType;

/// Running combination along a dim, the position itself included.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Cumulative {
    /// The function.
    pub function: ReduceFn,
    /// The dim.
    pub dim: usize,
    /// Whether it runs from the last position to the first.
    pub reverse: bool,
}

impl OpDef for Cumulative {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "a cumulative op takes one operand");
        ensure!(self.dim < operands[0].rank(), "{} has no dim {}", operands[0], self.dim);
        ensure!(operands[0].dtype != DType::Bool, "a cumulative op takes numbers, not bool");
        Ok(vec![operands[0].clone()])
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
            Array::from_fn(x.dtype, &x.shape, |index| {
                let own = index[self.dim];
                let range = if self.reverse { own..x.shape[self.dim] } else { 0..own + 1 };
                range.fold(self.function.identity(x.dtype), |sum, position| {
                    let mut from = index.to_vec();
                    from[self.dim] = position;
                    self.function.combine(sum, x.at(&from))
                })
            })
        })
    }

    /// Of a sum: the cotangents summed from the other end.
    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        match self.function {
            _ if !context.operand_type(0).dtype.is_float() => vec![Grad::Zero],
            ReduceFn::Sum => {
                let op = Cumulative { reverse: !self.reverse, ..self.clone() };
                vec![Grad::Value(context.graph.add(op, &[context.ct()]))]
            }
            ReduceFn::Prod | ReduceFn::Max | ReduceFn::Min => {
                vec![Grad::NotDifferentiable("only the cumulative sum has a derivative here")]
            }
        }
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(results[0].elements().size() as f64, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let mut samples = Vec::new();
        for function in ReduceFn::ALL {
            for (dim, reverse) in [(0, false), (1, true)] {
                let operand = TensorType::new(DType::F32, [4, 6]);
                samples.push(Sample::new(Cumulative { function, dim, reverse }, &[operand]));
            }
        }
        for (function, dtype) in [
            (ReduceFn::Sum, DType::I64),
            (ReduceFn::Prod, DType::U16),
            (ReduceFn::Sum, DType::U32),
            (ReduceFn::Max, DType::U64),
        ] {
            samples.push(Sample::new(
                Cumulative { function, dim: 0, reverse: false },
                &[TensorType::new(dtype, [5])],
            ));
        }
        samples
    }
}
