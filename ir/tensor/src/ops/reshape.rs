//! The same elements in row-major order under another shape.

use crate::Mesh;
use crate::axes::{AxisId, DimAxes};
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::dim::product;
use thalweg_base::{DType, Dim};

/// The same elements in row-major order under another shape.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Reshape {
    /// The shape of the result.
    pub shape: Vec<Dim>,
}

impl OpDef for Reshape {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "a reshape takes one operand");
        let (from, to) = (operands[0].elements(), product(&self.shape));
        ensure!(
            from == to,
            "a reshape keeps the number of elements, but {} has {from} and the result {to}",
            operands[0]
        );
        Ok(vec![TensorType { dtype: operands[0].dtype, shape: self.shape.clone() }])
    }

    /// Both shapes are read as products of common factors: dims that are equal pair up, a dim that is a product of several
    /// dims on the other side lists them, and what fits neither way is whole.
    fn axes(&self, operands: &[TensorType], _: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::default();
        let (from, to) = (&operands[0].shape, &self.shape);
        let mut dims: [Vec<DimAxes>; 2] = [vec![], vec![]];
        let mut rest: [Vec<Dim>; 2] =
            [from.iter().rev().cloned().collect(), to.iter().rev().cloned().collect()];
        // What is left of the dim that each side is in the middle of, most major factor first.
        let mut open: [Option<Dim>; 2] = [None, None];
        loop {
            for side in 0..2 {
                while open[side].is_none() {
                    match rest[side].pop() {
                        Some(size) if size == Dim::ONE => dims[side].push(vec![]),
                        Some(size) => {
                            dims[side].push(vec![]);
                            open[side] = Some(size);
                        }
                        None => break,
                    }
                }
            }
            let [Some(a), Some(b)] = open.clone() else { break };
            let (factor, left) = match (a.exact_div(&b), b.exact_div(&a)) {
                (Some(quotient), _) if quotient == Dim::ONE => (a, [None, None]),
                // The larger side keeps its minor part open: its major factor is the smaller side's whole dim.
                (Some(quotient), _) => (b, [Some(quotient), None]),
                (None, Some(quotient)) => (a, [None, Some(quotient)]),
                (None, None) => {
                    // Sizes that do not divide: everything from here on is tied together.
                    for side in 0..2 {
                        let tied =
                            std::iter::once(open[side].clone()).flatten().chain(rest[side].drain(..).rev());
                        for (index, size) in tied.collect::<Vec<_>>().into_iter().enumerate() {
                            let axis = signature.axis(&size, Role::Whole);
                            match index {
                                0 => dims[side].last_mut().expect("a dim is open").push(axis),
                                _ => dims[side].push(vec![axis]),
                            }
                        }
                    }
                    break;
                }
            };
            let axis: AxisId = signature.axis(&factor, Role::Mapped);
            for side in 0..2 {
                dims[side].last_mut().expect("a dim is open").push(axis);
                open[side] = left[side].clone();
            }
        }
        let [from, to] = dims;
        signature.operands = vec![from];
        signature.results = vec![to];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        let shape: Vec<usize> = self.shape.iter().map(Dim::size).collect();
        on_each(operands, |operands| Array { shape: shape.clone(), ..operands[0].clone() })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let shape = context.operand_type(0).shape;
        vec![Grad::Value(context.graph.reshape(context.ct(), &shape))]
    }

    /// Nothing moves: the elements keep their order.
    fn work(&self, _: &[TensorType], _: &[TensorType]) -> Work {
        Work::default()
    }

    fn samples() -> Vec<Sample> {
        let sample = |from: &[usize], to: &[usize]| {
            let op = Reshape { shape: to.iter().map(|d| Dim::from(*d)).collect() };
            Sample::new(op, &[TensorType::new(DType::F32, from.iter().copied())])
        };
        vec![
            sample(&[4, 6], &[24]),
            sample(&[24], &[4, 2, 3]),
            sample(&[4, 6, 2], &[4, 12]),
            sample(&[4, 1, 6], &[2, 2, 6, 1]),
            sample(&[4, 6], &[6, 4]),
            sample(&[1], &[]),
        ]
    }
}
