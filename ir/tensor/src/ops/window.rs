//! Sliding windows as dims of their own, and the sum of overlapping windows.
//!
//! Along a windowed dim, `Unfold` gives `y[..., p, ..., k] = x[..., p * stride + k * dilation - low, ...]`, with the window's
//! positions `k` as new dims at the end, and the pad value where the input has no such position. Pooling is `Unfold`
//! and a reduction over the new dims. `Fold` is the transpose: each position sums all that `Unfold` made of it.

use crate::Mesh;
use crate::ReduceFn;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use crate::value::indices;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Dim, Scalar};

/// How a window slides along one dim.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Window {
    /// The dim.
    pub dim: usize,
    /// Positions in a window.
    pub size: usize,
    /// The step from one window to the next.
    pub stride: usize,
    /// The step from one position in a window to the next.
    pub dilation: usize,
    /// Pad positions before the first.
    pub low: usize,
    /// Pad positions after the last.
    pub high: usize,
}

impl Window {
    /// How many windows a dim of that size has.
    pub fn count(&self, size: &Dim) -> Dim {
        let padded = size + &Dim::from(self.low + self.high);
        let room = &padded - &Dim::from(self.dilation * (self.size - 1) + 1);
        &room.floor_div(self.stride as i64) + &Dim::ONE
    }

    /// The position that entry `k` of window `p` is at, unless it is padding.
    fn position(&self, p: usize, k: usize, size: usize) -> Option<usize> {
        (p * self.stride + k * self.dilation).checked_sub(self.low).filter(|position| *position < size)
    }
}

/// Sliding windows as new dims at the end, in the order of the windows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Unfold {
    /// The windows, each along another dim, rising.
    pub windows: Vec<Window>,
    /// What padding holds.
    pub value: Scalar,
}

/// The sum of overlapping windows, the transpose of `Unfold`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Fold {
    /// The windows, each along another dim, rising.
    pub windows: Vec<Window>,
    /// The sizes of those dims in the result.
    pub sizes: Vec<Dim>,
}

fn check(windows: &[Window], rank: usize) -> Result<(), InferError> {
    ensure!(windows.windows(2).all(|pair| pair[0].dim < pair[1].dim), "the dims of windows rise");
    for window in windows {
        ensure!(window.dim < rank, "there is no dim {} to slide a window along", window.dim);
        ensure!(
            window.size > 0 && window.stride > 0 && window.dilation > 0,
            "a window has positive sizes and steps"
        );
    }
    Ok(())
}

fn unfolded(windows: &[Window], shape: &[Dim]) -> Result<Vec<Dim>, InferError> {
    let mut result = shape.to_vec();
    for window in windows {
        let count = window.count(&shape[window.dim]);
        ensure!(
            count.as_constant().is_none_or(|n| n >= 0),
            "a window is larger than its dim of {}",
            shape[window.dim]
        );
        result[window.dim] = count;
        result.push(window.size.into());
    }
    Ok(result)
}

/// The signature for the folded and the unfolded shape; they share the dims without windows.
fn signature(
    windows: &[Window],
    folded: &[Dim],
    unfolded: &[Dim],
) -> (AxisSignature, [Vec<Vec<crate::AxisId>>; 2]) {
    let mut signature = AxisSignature::default();
    let from = signature.axes_of(folded, Role::Mapped);
    let mut to = from.clone();
    for window in windows {
        let reach = window.dilation * (window.size - 1);
        let role = Role::Windowed { before: window.low, after: reach.saturating_sub(window.low) };
        signature.axes[from[window.dim][0].index()].role = role;
        to[window.dim] = vec![signature.axis(&unfolded[window.dim], role)];
        to.push(vec![signature.axis(&window.size.into(), Role::Whole)]);
    }
    (signature, [from, to])
}

impl OpDef for Unfold {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "an unfold takes one operand");
        check(&self.windows, operands[0].rank())?;
        Ok(vec![TensorType { dtype: operands[0].dtype, shape: unfolded(&self.windows, &operands[0].shape)? }])
    }

    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let (mut signature, [from, to]) = signature(&self.windows, &operands[0].shape, &results[0].shape);
        signature.operands = vec![from];
        signature.results = vec![to];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let x = &operands[0];
            let dims: Vec<Dim> = x.shape.iter().map(|size| Dim::from(*size)).collect();
            let shape: Vec<usize> = unfolded(&self.windows, &dims)
                .expect("operands were inferred")
                .iter()
                .map(Dim::size)
                .collect();
            Array::from_fn(x.dtype, &shape, |index| {
                let mut from = index[..x.shape.len()].to_vec();
                for (at, window) in self.windows.iter().enumerate() {
                    let k = index[x.shape.len() + at];
                    match window.position(from[window.dim], k, x.shape[window.dim]) {
                        Some(position) => from[window.dim] = position,
                        None => return self.value,
                    }
                }
                x.at(&from)
            })
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let shape = context.operand_type(0).shape;
        let sizes = self.windows.iter().map(|window| shape[window.dim].clone()).collect();
        vec![Grad::Value(context.graph.add(Fold { windows: self.windows.clone(), sizes }, &[context.ct()]))]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(0.0, operands, results)
    }

    fn samples() -> Vec<Sample> {
        cases()
            .into_iter()
            .map(|(windows, shape)| {
                Sample::new(
                    Unfold { windows, value: Scalar::Float(-1.0) },
                    &[TensorType::new(DType::F32, shape)],
                )
            })
            .collect()
    }
}

fn cases() -> Vec<(Vec<Window>, Vec<usize>)> {
    let window = |dim, size, stride, dilation, low, high| Window { dim, size, stride, dilation, low, high };
    vec![
        (vec![window(1, 3, 1, 1, 0, 0)], vec![2, 6]),
        (vec![window(2, 2, 2, 1, 0, 0), window(3, 2, 2, 1, 0, 0)], vec![2, 2, 4, 6]),
        (vec![window(1, 3, 2, 2, 2, 1)], vec![2, 7]),
        (vec![window(0, 3, 2, 1, 1, 1)], vec![6, 2]),
    ]
}

impl OpDef for Fold {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 1, "a fold takes one operand");
        ensure!(operands[0].dtype != DType::Bool, "a fold adds, which bool cannot");
        ensure!(self.sizes.len() == self.windows.len(), "a fold has a size for each window");
        let rank = operands[0].rank().checked_sub(self.windows.len());
        let rank = rank.ok_or_else(|| InferError(format!("{} has fewer dims than windows", operands[0])))?;
        check(&self.windows, rank)?;
        let mut shape = operands[0].shape[..rank].to_vec();
        for (window, size) in self.windows.iter().zip(&self.sizes) {
            shape[window.dim] = size.clone();
        }
        let expected = unfolded(&self.windows, &shape)?;
        ensure!(
            expected == operands[0].shape,
            "windows over {shape:?} are {expected:?}, not {}",
            operands[0]
        );
        Ok(vec![TensorType { dtype: operands[0].dtype, shape }])
    }

    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let (mut signature, [from, to]) = signature(&self.windows, &results[0].shape, &operands[0].shape);
        signature.operands = vec![to];
        signature.results = vec![from];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let y = &operands[0];
            let rank = y.shape.len() - self.windows.len();
            let mut shape = y.shape[..rank].to_vec();
            for (window, size) in self.windows.iter().zip(&self.sizes) {
                shape[window.dim] = size.size();
            }
            let wide = if y.dtype.is_float() { DType::F64 } else { DType::I64 };
            let mut sum = Array::full(wide, &shape, Scalar::zero(wide));
            'windows: for index in indices(&y.shape) {
                let mut to = index[..rank].to_vec();
                for (at, window) in self.windows.iter().enumerate() {
                    match window.position(to[window.dim], index[rank + at], shape[window.dim]) {
                        Some(position) => to[window.dim] = position,
                        None => continue 'windows,
                    }
                }
                sum.set(&to, ReduceFn::Sum.combine(sum.at(&to), y.at(&index)));
            }
            Array::from_fn(y.dtype, &shape, |index| sum.at(index))
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let value = Scalar::zero(context.operand_type(0).dtype);
        vec![Grad::Value(context.graph.add(Unfold { windows: self.windows.clone(), value }, &[context.ct()]))]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        Work::streaming(operands[0].elements().size() as f64, operands, results)
    }

    fn samples() -> Vec<Sample> {
        cases()
            .into_iter()
            .map(|(windows, shape)| {
                let dims: Vec<Dim> = shape.iter().map(|size| Dim::from(*size)).collect();
                let operand = unfolded(&windows, &dims).expect("the sample fits");
                let sizes = windows.iter().map(|window| dims[window.dim].clone()).collect();
                Sample::new(Fold { windows, sizes }, &[TensorType { dtype: DType::F32, shape: operand }])
            })
            .collect()
    }
}
