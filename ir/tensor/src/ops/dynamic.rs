//! Slices whose start is computed: `y = x[start..start + size]`, and `x` with such a slice replaced.
//!
//! A start is clamped so that the slice lies within the dim.

use crate::Mesh;
use crate::axes::{AxisSignature, Role};
use crate::op::Fill;
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Dim, Scalar};

/// A slice whose start is computed: operands `x` and an integer scalar for each sliced dim.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DynamicSlice {
    /// The dims, rising.
    pub dims: Vec<usize>,
    /// How many positions of each.
    pub sizes: Vec<Dim>,
}

/// A slice replaced at a computed start: operands `x`, the new slice, and an integer scalar for each sliced dim.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DynamicUpdate {
    /// The dims, rising; along others the slice is as large as `x`.
    pub dims: Vec<usize>,
}

fn check_starts(starts: &[TensorType], dims: &[usize], rank: usize) -> Result<(), InferError> {
    ensure!(
        dims.windows(2).all(|pair| pair[0] < pair[1]) && dims.iter().all(|dim| *dim < rank),
        "bad dims {dims:?}"
    );
    ensure!(starts.len() == dims.len(), "a dynamic slice has a start for each of its dims");
    for start in starts {
        ensure!(start.dtype.is_integer() && start.rank() == 0, "a start is an integer scalar, not {start}");
    }
    Ok(())
}

fn clamped(start: &Array, size: usize, whole: usize) -> usize {
    start.item().to_i128().clamp(0, (whole - size) as i128) as usize
}

/// The signature of the whole, the slice, and the starts.
fn signature(dims: &[usize], whole: &[Dim], slice: &[Dim]) -> (AxisSignature, [Vec<Vec<crate::AxisId>>; 2]) {
    let mut signature = AxisSignature::default();
    let from = signature.axes_of(whole, Role::Mapped);
    let mut to = from.clone();
    for dim in dims {
        signature.axes[from[*dim][0].index()].role = Role::Whole;
        to[*dim] = vec![signature.axis(&slice[*dim], Role::Whole)];
    }
    (signature, [from, to])
}

impl OpDef for DynamicSlice {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(
            !operands.is_empty() && self.sizes.len() == self.dims.len(),
            "a dynamic slice takes a tensor and starts"
        );
        check_starts(&operands[1..], &self.dims, operands[0].rank())?;
        let mut shape = operands[0].shape.clone();
        for (dim, size) in self.dims.iter().zip(&self.sizes) {
            if let (Some(whole), Some(part)) = (shape[*dim].as_constant(), size.as_constant()) {
                ensure!((0..=whole).contains(&part), "a slice of {part} does not fit a dim of {whole}");
            }
            shape[*dim] = size.clone();
        }
        Ok(vec![TensorType { dtype: operands[0].dtype, shape }])
    }

    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let (mut signature, [from, to]) = signature(&self.dims, &operands[0].shape, &results[0].shape);
        signature.operands = vec![vec![]; operands.len()];
        signature.operands[0] = from;
        signature.results = vec![to];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let x = &operands[0];
            let mut shape = x.shape.clone();
            for (dim, size) in self.dims.iter().zip(&self.sizes) {
                shape[*dim] = size.size();
            }
            Array::from_fn(x.dtype, &shape, |index| {
                let mut from = index.to_vec();
                for (dim, start) in self.dims.iter().zip(&operands[1..]) {
                    from[*dim] += clamped(start, shape[*dim], x.shape[*dim]);
                }
                x.at(&from)
            })
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let ty = context.operand_type(0);
        let zeros = context.graph.full(&ty, Scalar::Float(0.0));
        let operands = [&[zeros, context.ct()], &context.operands[1..]].concat();
        let grad = context.graph.add(DynamicUpdate { dims: self.dims.clone() }, &operands);
        let starts = std::iter::repeat_n(Grad::Zero, context.operands.len() - 1);
        [Grad::Value(grad)].into_iter().chain(starts).collect()
    }

    fn work(&self, _: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(0.0, results, results)
    }

    fn samples() -> Vec<Sample> {
        let x = (TensorType::new(DType::F32, [4, 6]), Fill::Normal);
        let start = (TensorType::scalar(DType::I32), Fill::Index(6));
        vec![
            Sample::filled(
                DynamicSlice { dims: vec![1], sizes: vec![3.into()] },
                &[x.clone(), start.clone()],
            ),
            Sample::filled(
                DynamicSlice { dims: vec![0, 1], sizes: vec![2.into(), 1.into()] },
                &[x.clone(), start.clone(), start],
            ),
            // Far beyond the end, where the last slice is taken.
            Sample::filled(
                DynamicSlice { dims: vec![1], sizes: vec![3.into()] },
                &[x, (TensorType::scalar(DType::U64), Fill::Distinct)],
            ),
        ]
    }
}

impl OpDef for DynamicUpdate {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() >= 2, "a dynamic update takes a tensor, a slice and starts");
        let (x, slice) = (&operands[0], &operands[1]);
        check_starts(&operands[2..], &self.dims, x.rank())?;
        ensure!(slice.dtype == x.dtype && slice.rank() == x.rank(), "{slice} is no slice of {x}");
        for dim in 0..x.rank() {
            let (whole, part) = (&x.shape[dim], &slice.shape[dim]);
            let fits = match (self.dims.contains(&dim), whole.as_constant(), part.as_constant()) {
                (true, Some(whole), Some(part)) => part <= whole,
                (true, _, _) => true,
                (false, _, _) => whole == part,
            };
            ensure!(fits, "{slice} does not fit dim {dim} of {x}");
        }
        Ok(vec![x.clone()])
    }

    fn axes(&self, operands: &[TensorType], _: &[TensorType]) -> AxisSignature {
        let (mut signature, [whole, slice]) = signature(&self.dims, &operands[0].shape, &operands[1].shape);
        signature.operands = vec![vec![]; operands.len()];
        signature.operands[0] = whole.clone();
        signature.operands[1] = slice;
        signature.results = vec![whole];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let (x, slice) = (&operands[0], &operands[1]);
            Array::from_fn(x.dtype, &x.shape, |index| {
                let mut inside = index.to_vec();
                for (dim, start) in self.dims.iter().zip(&operands[2..]) {
                    let start = clamped(start, slice.shape[*dim], x.shape[*dim]);
                    match index[*dim].checked_sub(start).filter(|at| *at < slice.shape[*dim]) {
                        Some(at) => inside[*dim] = at,
                        None => return x.at(index),
                    }
                }
                slice.at(&inside)
            })
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let (ct, slice) = (context.ct(), context.operand_type(1));
        let starts = context.operands[2..].to_vec();
        let zeros = context.graph.full(&slice, Scalar::Float(0.0));
        let for_x = context.graph.add(self.clone(), &[&[ct, zeros], &starts[..]].concat());
        let sizes = self.dims.iter().map(|dim| slice.shape[*dim].clone()).collect();
        let cut = DynamicSlice { dims: self.dims.clone(), sizes };
        let for_slice = context.graph.add(cut, &[&[ct], &starts[..]].concat());
        let zeros = std::iter::repeat_n(Grad::Zero, starts.len());
        [Grad::Value(for_x), Grad::Value(for_slice)].into_iter().chain(zeros).collect()
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(0.0, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let x = (TensorType::new(DType::F32, [4, 6]), Fill::Normal);
        let slice = |shape: [usize; 2]| (TensorType::new(DType::F32, shape), Fill::Normal);
        let start = (TensorType::scalar(DType::I32), Fill::Index(6));
        vec![
            Sample::filled(DynamicUpdate { dims: vec![1] }, &[x.clone(), slice([4, 2]), start.clone()]),
            Sample::filled(DynamicUpdate { dims: vec![0, 1] }, &[x, slice([1, 3]), start.clone(), start]),
        ]
    }
}
