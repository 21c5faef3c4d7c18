//! Positions added before, after and between those of some dims, filled with one value.

use crate::Mesh;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::ops::SliceRange;
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Dim, Scalar};

/// What is added to one dim.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PadDim {
    /// The dim.
    pub dim: usize,
    /// Positions before the first; not negative.
    pub low: Dim,
    /// Positions after the last; not negative.
    pub high: Dim,
    /// Positions between each two neighbours.
    pub interior: usize,
}

/// Positions added around and between; other dims stay as they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Pad {
    /// What is added to each dim that is padded, in rising order of the dims.
    pub dims: Vec<PadDim>,
    /// What the added positions hold.
    pub value: Scalar,
}

impl Pad {
    fn padded(dim: &PadDim, size: &Dim) -> Dim {
        let inner = match (dim.interior, size.as_constant()) {
            (0, _) => size.clone(),
            (_, Some(0)) => Dim::default(),
            (step, _) => size + &(&Dim::from(step) * &(size - &Dim::ONE)),
        };
        &(&dim.low + &inner) + &dim.high
    }
}

impl OpDef for Pad {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "a pad takes one operand");
        let mut shape = operands[0].shape.clone();
        ensure!(self.dims.windows(2).all(|pair| pair[0].dim < pair[1].dim), "the dims of a pad rise");
        for pad in &self.dims {
            ensure!(pad.dim < shape.len(), "{} has no dim {} to pad", operands[0], pad.dim);
            for amount in [&pad.low, &pad.high] {
                ensure!(amount.as_constant().is_none_or(|n| n >= 0), "a pad adds {amount} positions");
            }
            shape[pad.dim] = Pad::padded(pad, &shape[pad.dim]);
        }
        Ok(vec![TensorType { dtype: operands[0].dtype, shape }])
    }

    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::pointwise(&operands[0].shape, 1);
        for PadDim { dim, .. } in &self.dims {
            let axis = signature.operands[0][*dim][0];
            signature.axes[axis.index()].role = Role::Whole;
            let padded = signature.axis(&results[0].shape[*dim], Role::Whole);
            signature.results[0][*dim] = vec![padded];
        }
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let mut shape = operands[0].shape.clone();
            for pad in &self.dims {
                shape[pad.dim] = Pad::padded(pad, &shape[pad.dim].into()).size();
            }
            Array::from_fn(operands[0].dtype, &shape, |index| {
                let mut index = index.to_vec();
                for pad in &self.dims {
                    let (low, step) = (pad.low.size(), pad.interior + 1);
                    let position =
                        index[pad.dim].checked_sub(low).filter(|at| at % step == 0).map(|at| at / step);
                    match position.filter(|at| *at < operands[0].shape[pad.dim]) {
                        Some(at) => index[pad.dim] = at,
                        None => return self.value,
                    }
                }
                operands[0].at(&index)
            })
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let shape = context.operand_type(0).shape;
        let range = |pad: &PadDim| SliceRange {
            dim: pad.dim,
            start: pad.low.clone(),
            size: shape[pad.dim].clone(),
            stride: pad.interior as i64 + 1,
        };
        vec![Grad::Value(context.graph.slice(context.ct(), self.dims.iter().map(range).collect()))]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(0.0, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let pad = |dim, low: usize, high: usize, interior| PadDim {
            dim,
            low: low.into(),
            high: high.into(),
            interior,
        };
        let operand = TensorType::new(DType::F32, [4, 6]);
        let zero = Scalar::Float(0.0);
        vec![
            Sample::new(Pad { dims: vec![pad(1, 2, 1, 0)], value: zero }, &[operand.clone()]),
            Sample::new(
                Pad { dims: vec![pad(0, 0, 3, 1), pad(1, 1, 0, 2)], value: Scalar::Float(-1.5) },
                &[operand],
            ),
            Sample::new(
                Pad { dims: vec![pad(0, 1, 1, 0)], value: Scalar::Int(7) },
                &[TensorType::new(DType::I32, [5])],
            ),
        ]
    }
}
