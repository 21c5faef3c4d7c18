//! Positions chosen by an index tensor, and sums at such positions.
//!
//! With `b` leading dims shared by both operands, `Gather` takes `x[b, p, n, s]` and `i[b, q]` to
//! `y[b, p, q, s] = x[b, p, i[b, q], s]` (`p`, `q`, `s` stand for any dims, `n` is dim `dim` of `x`).
//! `Scatter` is its transpose: `x[b, p, n, s] = sum over q with i[b, q] = n of y[b, p, q, s]`.
//! An index outside of 0..n is clamped into it by `Gather` and dropped by `Scatter`.

use crate::Mesh;
use crate::ReduceFn;
use crate::axes::DimAxes;
use crate::axes::{AxisSignature, Role};
use crate::op::Fill;
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use crate::value::indices;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Dim, Scalar};

/// Positions of a dim chosen by an index tensor: operands `x` and integer `indices`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Gather {
    /// The dim of `x` that is indexed.
    pub dim: usize,
    /// How many leading dims `x` and `indices` share; at most `dim`.
    pub batch: usize,
}

/// Sums at positions of a dim chosen by an index tensor: operands integer `indices` and `updates`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Scatter {
    /// The dim of the result that is indexed.
    pub dim: usize,
    /// How many leading dims `indices` and `updates` share; at most `dim`.
    pub batch: usize,
    /// The size of that dim.
    pub size: Dim,
}

/// The dims of the gathered side as ranges of the dims `[b, p, q, s]`.
struct Layout {
    dim: usize,
    batch: usize,
    index_rank: usize,
}

impl Layout {
    fn chosen(&self) -> std::ops::Range<usize> {
        self.dim..self.dim + self.index_rank
    }

    /// The multi-index into `indices` for one into the gathered side.
    fn index_of(&self, y: &[usize]) -> Vec<usize> {
        [&y[..self.batch], &y[self.chosen()]].concat()
    }

    /// The multi-index into `x` for one into the gathered side.
    fn source_of(&self, y: &[usize], position: usize) -> Vec<usize> {
        [&y[..self.dim], &[position], &y[self.chosen().end..]].concat()
    }

    /// The signature, for `x`, `indices` and the gathered side in that order.
    fn axes(&self, x: &[Dim], index: &[Dim], chosen_role: Role) -> (AxisSignature, [Vec<DimAxes>; 3]) {
        let mut signature = AxisSignature::default();
        let mut x_dims = signature.axes_of(x, Role::Mapped);
        signature.axes[x_dims[self.dim][0].index()].role = Role::Whole;
        let chosen = signature.axes_of(&index[self.batch..], chosen_role);
        let i_dims = [&x_dims[..self.batch], &chosen[..]].concat();
        let y_dims = [&x_dims[..self.dim], &chosen[..], &x_dims[self.dim + 1..]].concat();
        let x_dims = std::mem::take(&mut x_dims);
        (signature, [x_dims, i_dims, y_dims])
    }
}

impl Gather {
    fn layout(&self, index_rank: usize) -> Layout {
        Layout { dim: self.dim, batch: self.batch, index_rank: index_rank - self.batch }
    }
}

impl OpDef for Gather {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 2, "a gather takes values and indices");
        let (x, index) = (&operands[0], &operands[1]);
        ensure!(index.dtype.is_integer(), "a gather takes integer indices, not {}", index.dtype);
        ensure!(self.dim < x.rank(), "{x} has no dim {} to gather from", self.dim);
        ensure!(self.batch <= self.dim && self.batch <= index.rank(), "{} dims cannot be shared", self.batch);
        ensure!(
            x.shape[..self.batch] == index.shape[..self.batch],
            "the shared dims of {x} and {index} differ"
        );
        let shape = [&x.shape[..self.dim], &index.shape[self.batch..], &x.shape[self.dim + 1..]].concat();
        Ok(vec![TensorType { dtype: x.dtype, shape }])
    }

    fn axes(&self, operands: &[TensorType], _: &[TensorType]) -> AxisSignature {
        let layout = self.layout(operands[1].rank());
        let (mut signature, [x, index, y]) =
            layout.axes(&operands[0].shape, &operands[1].shape, Role::Mapped);
        signature.operands = vec![x, index];
        signature.results = vec![y];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let (x, index) = (&operands[0], &operands[1]);
            let layout = self.layout(index.shape.len());
            let shape = [&x.shape[..self.dim], &index.shape[self.batch..], &x.shape[self.dim + 1..]].concat();
            Array::from_fn(x.dtype, &shape, |y| {
                let position =
                    index.at(&layout.index_of(y)).to_i128().clamp(0, x.shape[self.dim] as i128 - 1);
                x.at(&layout.source_of(y, position as usize))
            })
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let size = context.operand_type(0).shape[self.dim].clone();
        let op = Scatter { dim: self.dim, batch: self.batch, size };
        vec![Grad::Value(context.graph.add(op, &[context.operands[1], context.ct()])), Grad::Zero]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(0.0, &[operands[1].clone(), results[0].clone()], results)
    }

    fn samples() -> Vec<Sample> {
        let typed = |dim: usize, batch, x: &[usize], index: &[usize], dtype: DType| {
            let x = TensorType::new(DType::F32, x.iter().copied());
            let bound = x.shape[dim].size();
            let index = TensorType::new(dtype, index.iter().copied());
            Sample::filled(Gather { dim, batch }, &[(x, Fill::Normal), (index, Fill::Index(bound))])
        };
        let sample = |dim, batch, x: &[usize], index: &[usize]| typed(dim, batch, x, index, DType::I32);
        vec![
            typed(1, 0, &[4, 5], &[3], DType::U8),
            typed(1, 0, &[4, 5], &[3], DType::I16),
            typed(0, 0, &[5, 6], &[4], DType::U32),
            typed(1, 1, &[4, 6], &[4, 2], DType::U64),
            sample(0, 0, &[5, 6], &[4]),
            sample(0, 0, &[5, 6], &[2, 4]),
            sample(1, 0, &[4, 5, 2], &[3]),
            sample(1, 1, &[4, 6], &[4, 2]),
            sample(2, 1, &[2, 4, 5, 2], &[2, 3]),
            sample(0, 0, &[5], &[]),
        ]
    }
}

impl Scatter {
    fn layout(&self, index_rank: usize) -> Layout {
        Layout { dim: self.dim, batch: self.batch, index_rank: index_rank - self.batch }
    }
}

impl OpDef for Scatter {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 2, "a scatter takes indices and updates");
        let (index, updates) = (&operands[0], &operands[1]);
        ensure!(index.dtype.is_integer(), "a scatter takes integer indices, not {}", index.dtype);
        ensure!(updates.dtype != DType::Bool, "a scatter adds, which bool cannot");
        ensure!(self.batch <= self.dim && self.batch <= index.rank(), "{} dims cannot be shared", self.batch);
        let layout = self.layout(index.rank());
        ensure!(layout.chosen().end <= updates.rank(), "{updates} has too few dims for indices {index}");
        ensure!(
            updates.shape[..self.batch] == index.shape[..self.batch]
                && updates.shape[layout.chosen()] == index.shape[self.batch..],
            "the dims of indices {index} do not stand in updates {updates}"
        );
        let shape = [&updates.shape[..self.dim], &[self.size.clone()], &updates.shape[layout.chosen().end..]]
            .concat();
        Ok(vec![TensorType { dtype: updates.dtype, shape }])
    }

    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let layout = self.layout(operands[0].rank());
        let role = Role::Reduced(ReduceFn::Sum);
        let (mut signature, [x, index, y]) = layout.axes(&results[0].shape, &operands[0].shape, role);
        signature.operands = vec![index, y];
        signature.results = vec![x];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let (index, updates) = (&operands[0], &operands[1]);
            let layout = self.layout(index.shape.len());
            let shape =
                [&updates.shape[..self.dim], &[self.size.size()], &updates.shape[layout.chosen().end..]]
                    .concat();
            // The sum is kept unrounded until the end.
            let wide = if updates.dtype.is_float() { DType::F64 } else { DType::I64 };
            let mut sum = Array::full(wide, &shape, Scalar::zero(wide));
            for y in indices(&updates.shape) {
                let position = index.at(&layout.index_of(&y)).to_i64();
                if (0..self.size.size() as i64).contains(&position) {
                    let at = layout.source_of(&y, position as usize);
                    sum.set(&at, ReduceFn::Sum.combine(sum.at(&at), updates.at(&y)));
                }
            }
            Array::from_fn(updates.dtype, &shape, |index| sum.at(index))
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let op = Gather { dim: self.dim, batch: self.batch };
        vec![Grad::Zero, Grad::Value(context.graph.add(op, &[context.ct(), context.operands[0]]))]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(operands[1].elements().size() as f64, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let typed = |dim, batch, size: usize, index: &[usize], updates: &[usize], dtypes: [DType; 2]| {
            let index = TensorType::new(dtypes[0], index.iter().copied());
            let updates = TensorType::new(dtypes[1], updates.iter().copied());
            let op = Scatter { dim, batch, size: size.into() };
            Sample::filled(op, &[(index, Fill::Index(size)), (updates, Fill::Normal)])
        };
        let sample = |dim, batch, size, index: &[usize], updates: &[usize]| {
            typed(dim, batch, size, index, updates, [DType::I32, DType::F32])
        };
        vec![
            typed(0, 0, 5, &[4], &[4, 6], [DType::U64, DType::U16]),
            typed(1, 0, 5, &[3], &[4, 3, 2], [DType::U16, DType::U64]),
            sample(0, 0, 5, &[4], &[4, 6]),
            sample(0, 0, 3, &[2, 4], &[2, 4, 6]),
            sample(1, 1, 6, &[4, 2], &[4, 2]),
            sample(1, 0, 5, &[3], &[4, 3, 2]),
        ]
    }
}
