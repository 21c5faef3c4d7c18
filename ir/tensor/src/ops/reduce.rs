//! `y[...] = f over the dims of x`, which the result lacks.

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
use thalweg_base::{DType, PointwiseFn, Scalar};

/// Dims combined by a function. Rounding happens once, at the end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Reduce {
    /// The function.
    pub function: ReduceFn,
    /// The dims that are combined, rising.
    pub dims: Vec<usize>,
}

impl OpDef for Reduce {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "a reduction takes one operand");
        let operand = &operands[0];
        ensure!(self.dims.windows(2).all(|pair| pair[0] < pair[1]), "the dims of a reduction rise");
        ensure!(
            self.dims.iter().all(|dim| *dim < operand.rank()),
            "{operand} lacks one of the dims {:?}",
            self.dims
        );
        let logical = matches!(self.function, ReduceFn::Max | ReduceFn::Min);
        ensure!(operand.dtype != DType::Bool || logical, "bool is reduced by max (any) or min (all)");
        let kept = (0..operand.rank()).filter(|dim| !self.dims.contains(dim));
        Ok(vec![TensorType {
            dtype: operand.dtype,
            shape: kept.map(|dim| operand.shape[dim].clone()).collect(),
        }])
    }

    fn axes(&self, operands: &[TensorType], _: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::pointwise(&operands[0].shape, 1);
        let dims: Vec<DimAxes> = signature.operands[0].clone();
        for dim in &self.dims {
            signature.axes[dims[*dim][0].index()].role = Role::Reduced(self.function);
        }
        let kept = (0..dims.len()).filter(|dim| !self.dims.contains(dim));
        signature.results = vec![kept.map(|dim| dims[dim].clone()).collect()];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let x = &operands[0];
            let kept: Vec<usize> = (0..x.shape.len()).filter(|dim| !self.dims.contains(dim)).collect();
            let shape: Vec<usize> = kept.iter().map(|dim| x.shape[*dim]).collect();
            let over: Vec<usize> = self.dims.iter().map(|dim| x.shape[*dim]).collect();
            Array::from_fn(x.dtype, &shape, |outer| {
                let mut index = vec![0; x.shape.len()];
                for (dim, position) in kept.iter().zip(outer) {
                    index[*dim] = *position;
                }
                indices(&over).fold(self.function.identity(x.dtype), |sum, inner| {
                    for (dim, position) in self.dims.iter().zip(&inner) {
                        index[*dim] = *position;
                    }
                    self.function.combine(sum, x.at(&index))
                })
            })
        })
    }

    /// Sum: the cotangent repeated. Max and min: the cotangent shared equally by the positions that attain them.
    /// Product: the cotangent times the product of the others, as `y / x`, which needs values other than 0.
    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let ty = context.operand_type(0);
        if !ty.dtype.is_float() {
            return vec![Grad::Zero];
        }
        let (x, y) = (context.operands[0], context.node);
        let ct = context.ct();
        let graph = &mut *context.graph;
        vec![Grad::Value(match self.function {
            ReduceFn::Sum => graph.unreduce(ct, &ty.shape, &self.dims),
            ReduceFn::Max | ReduceFn::Min => {
                let y = graph.unreduce(y, &ty.shape, &self.dims);
                let attains = graph.pointwise(PointwiseFn::Eq, &[x, y]);
                let share = graph.convert(attains, ty.dtype);
                let count = graph.reduce_sum(share, &self.dims);
                let each = graph.pointwise(PointwiseFn::Div, &[ct, count]);
                let each = graph.unreduce(each, &ty.shape, &self.dims);
                let zero = graph.full(&ty, Scalar::Float(0.0));
                graph.pointwise(PointwiseFn::Select, &[attains, each, zero])
            }
            ReduceFn::Prod => {
                let scaled = graph.pointwise(PointwiseFn::Mul, &[ct, y]);
                let scaled = graph.unreduce(scaled, &ty.shape, &self.dims);
                graph.pointwise(PointwiseFn::Div, &[scaled, x])
            }
        })]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(operands[0].elements().size() as f64, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let mut samples = Vec::new();
        for function in ReduceFn::ALL {
            let fill = if function == ReduceFn::Prod { Fill::Positive } else { Fill::Distinct };
            for (shape, dims) in [(vec![4, 6], vec![1]), (vec![4, 6], vec![0]), (vec![2, 4, 6], vec![0, 2])] {
                let operand = TensorType::new(DType::F32, shape);
                samples.push(Sample::filled(Reduce { function, dims }, &[(operand, fill)]));
            }
            let whole = TensorType::new(DType::F32, [6, 4]);
            samples.push(Sample::filled(Reduce { function, dims: vec![0, 1] }, &[(whole, fill)]));
            for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_integer()) {
                let integer = TensorType::new(dtype, [6, 4]);
                samples.push(Sample::filled(Reduce { function, dims: vec![1] }, &[(integer, Fill::Normal)]));
            }
        }
        for function in [ReduceFn::Max, ReduceFn::Min] {
            samples.push(Sample::new(
                Reduce { function, dims: vec![1] },
                &[TensorType::new(DType::Bool, [4, 6])],
            ));
        }
        samples
    }
}
