//! `y[..., j, ...] = x[..., start + j * stride, ...]` along the dims that are named.

use crate::Mesh;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::ops::PadDim;
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Dim, Scalar};

/// What is taken of one dim.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SliceRange {
    /// The dim.
    pub dim: usize,
    /// The first position.
    pub start: Dim,
    /// How many positions.
    pub size: Dim,
    /// The step from one to the next; not 0. A negative step runs backwards.
    pub stride: i64,
}

/// Positions of some dims at a fixed step; other dims are whole.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Slice {
    /// What is taken of each dim that is sliced, in rising order of the dims.
    pub ranges: Vec<SliceRange>,
}

impl OpDef for Slice {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "a slice takes one operand");
        let mut shape = operands[0].shape.clone();
        ensure!(self.ranges.windows(2).all(|pair| pair[0].dim < pair[1].dim), "the dims of a slice rise");
        for SliceRange { dim, start, size, stride } in &self.ranges {
            ensure!(*dim < shape.len(), "{} has no dim {dim} to slice", operands[0]);
            ensure!(*stride != 0, "a slice has a stride that is not 0");
            let last = start + &(&Dim::constant(*stride) * &(size - &Dim::ONE));
            if let (Some(from), Some(start), Some(last), Some(size)) =
                (shape[*dim].as_constant(), start.as_constant(), last.as_constant(), size.as_constant())
            {
                let fits = size == 0 || ((0..from).contains(&start) && (0..from).contains(&last));
                ensure!(
                    size >= 0 && fits,
                    "positions {start} to {last} are not all within a dim of size {from}"
                );
            }
            shape[*dim] = size.clone();
        }
        Ok(vec![TensorType { dtype: operands[0].dtype, shape }])
    }

    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::pointwise(&operands[0].shape, 1);
        for SliceRange { dim, .. } in &self.ranges {
            let axis = signature.operands[0][*dim][0];
            signature.axes[axis.index()].role = Role::Whole;
            let taken = signature.axis(&results[0].shape[*dim], Role::Whole);
            signature.results[0][*dim] = vec![taken];
        }
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let mut shape = operands[0].shape.clone();
            for range in &self.ranges {
                shape[range.dim] = range.size.size();
            }
            Array::from_fn(operands[0].dtype, &shape, |index| {
                let mut index = index.to_vec();
                for range in &self.ranges {
                    index[range.dim] =
                        (range.start.size() as i64 + index[range.dim] as i64 * range.stride) as usize;
                }
                operands[0].at(&index)
            })
        })
    }

    /// Zeros at the positions not taken: a pad with gaps, after turning round what ran backwards.
    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let shape = context.operand_type(0).shape;
        let mut ct = context.ct();
        let mut dims = Vec::new();
        for SliceRange { dim, start, size, stride } in &self.ranges {
            let last = start + &(&Dim::constant(*stride) * &(size - &Dim::ONE));
            let (low, high) = if *stride > 0 { (start, &last) } else { (&last, start) };
            if *stride < 0 {
                ct = context.graph.reverse(ct, *dim);
            }
            let after = &(&shape[*dim] - high) - &Dim::ONE;
            dims.push(PadDim {
                dim: *dim,
                low: low.clone(),
                high: after,
                interior: stride.unsigned_abs() as usize - 1,
            });
        }
        let zero = Scalar::zero(context.graph.ty(ct).dtype);
        vec![Grad::Value(context.graph.pad(ct, dims, zero))]
    }

    fn work(&self, _: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(0.0, results, results)
    }

    fn samples() -> Vec<Sample> {
        let range = |dim, start: usize, size: usize, stride| SliceRange {
            dim,
            start: start.into(),
            size: size.into(),
            stride,
        };
        let operand = TensorType::new(DType::F32, [4, 6]);
        vec![
            Sample::new(Slice { ranges: vec![range(1, 2, 3, 1)] }, &[operand.clone()]),
            Sample::new(Slice { ranges: vec![range(0, 1, 2, 2), range(1, 0, 6, 1)] }, &[operand.clone()]),
            Sample::new(Slice { ranges: vec![range(1, 5, 3, -2)] }, &[operand.clone()]),
            Sample::new(Slice { ranges: vec![] }, &[operand]),
        ]
    }
}
