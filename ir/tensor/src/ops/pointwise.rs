//! `y[...] = f(a[...], b[...], ...)` for a row of the function table.

use crate::Mesh;
use crate::axes::AxisSignature;
use crate::graph::NodeId;
use crate::op::Fill;
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::function::{Expr, OperandVjp, Typing};
use thalweg_base::{DType, PointwiseFn, Scalar};

/// A scalar function applied at each position; all operands have one shape.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Pointwise {
    /// The function.
    pub function: PointwiseFn,
}

impl OpDef for Pointwise {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        let dtypes: Vec<DType> = operands.iter().map(|ty| ty.dtype).collect();
        let dtype = self.function.result(&dtypes).map_err(InferError)?;
        for operand in &operands[1..] {
            ensure!(
                operand.shape == operands[0].shape,
                "`{}` takes operands of one shape, not {} and {}",
                self.function,
                operands[0],
                operand
            );
        }
        Ok(vec![operands[0].with_dtype(dtype)])
    }

    fn axes(&self, operands: &[TensorType], _: &[TensorType]) -> AxisSignature {
        AxisSignature::pointwise(&operands[0].shape, operands.len())
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let dtypes: Vec<DType> = operands.iter().map(|array| array.dtype).collect();
            let result = self.function.result(&dtypes).expect("operands were inferred");
            let operand_dtype = dtypes[dtypes.len() - 1];
            Array::from_fn(result, &operands[0].shape, |index| {
                let args: Vec<Scalar> = operands.iter().map(|array| array.at(index)).collect();
                self.function.eval(operand_dtype, &args)
            })
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let zero_valued = !context.graph.ty(context.node).dtype.is_float();
        let rows = self.function.vjp();
        rows.iter()
            .map(|row| match row {
                OperandVjp::Zero => Grad::Zero,
                _ if zero_valued => Grad::Zero,
                OperandVjp::Value(expr) => Grad::Value(lift(context, *expr)),
                OperandVjp::None(reason) => Grad::NotDifferentiable(reason),
            })
            .collect()
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        let elements = results[0].elements().size() as f64;
        Work::streaming(self.function.cost().flops() * elements, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let mut samples = Vec::new();
        for function in PointwiseFn::ALL {
            for dtype in DType::ALL {
                let mut dtypes = vec![dtype; function.arity()];
                if function.typing() == Typing::Selection {
                    dtypes[0] = DType::Bool;
                }
                if function.result(&dtypes).is_ok() {
                    let fill = |dtype| {
                        use PointwiseFn::{Div, Log, Log1p, Pow, Rem, Rsqrt, ShiftLeft, ShiftRight, Sqrt};
                        if [Log, Log1p, Sqrt, Rsqrt, Div, Rem, Pow].contains(function) {
                            Fill::Positive
                        } else if [ShiftLeft, ShiftRight].contains(function) {
                            Fill::Index(8)
                        } else if dtype == DType::Bool {
                            Fill::Normal
                        } else {
                            Fill::Distinct
                        }
                    };
                    let operands: Vec<_> =
                        dtypes.iter().map(|dtype| (TensorType::new(*dtype, [4, 6]), fill(*dtype))).collect();
                    samples.push(Sample::filled(Pointwise { function: *function }, &operands));
                }
            }
        }
        samples
    }
}

/// Builds a derivative's expression as nodes of the graph.
fn lift(context: &mut VjpContext, expr: Expr) -> NodeId {
    match expr {
        Expr::Arg(index) => context.operands[index as usize],
        Expr::Result => context.node,
        Expr::Ct => context.ct(),
        Expr::Float(value) => {
            let ty = context.graph.ty(context.node).clone();
            context.graph.full(&ty, Scalar::Float(value))
        }
        Expr::Apply(function, args) => {
            let args: Vec<NodeId> = args.iter().map(|arg| lift(context, *arg)).collect();
            context.graph.pointwise(function, &args)
        }
    }
}
