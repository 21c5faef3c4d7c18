//! Convolution and its two gradients: three readings of one trilinear relation.
//!
//! With `i = p * stride + k * dilation - pad` along each spatial dim, an input `x[n, g c, i]`, weights `w[g o, c, k]` and an
//! output `y[n, g o, p]` hang together by the form `sum x w y`; each direction is its derivative by one of the three. So the
//! gradient of any direction for any operand is another direction.

use crate::Mesh;
use crate::ReduceFn;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use crate::value::indices;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Dim, Scalar};

/// Which of the three is computed from the other two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// `(x, w)` to `y`.
    Forward,
    /// `(w, y)` to `x`.
    InputGradient,
    /// `(x, y)` to `w`.
    WeightGradient,
}

/// Convolution over the dims after the first two, or one of its gradients.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Convolve {
    /// Which of the three is computed.
    pub direction: Direction,
    /// The step between outputs, for each spatial dim.
    pub stride: Vec<usize>,
    /// The step between weights.
    pub dilation: Vec<usize>,
    /// Zeros before the input.
    pub pad_low: Vec<usize>,
    /// Zeros after the input.
    pub pad_high: Vec<usize>,
    /// Independent groups of channels.
    pub groups: usize,
    /// The spatial sizes of what is computed, for the gradients; empty for `Forward`, which derives them.
    pub sizes: Vec<Dim>,
}

impl Convolve {
    /// Which operand the weights are; none where they are what is computed.
    pub fn weights(&self) -> Option<usize> {
        match self.direction {
            Direction::Forward => Some(1),
            Direction::InputGradient => Some(0),
            Direction::WeightGradient => None,
        }
    }

    /// The types of x, w and y.
    fn roles<T: Clone>(&self, operands: &[T], result: T) -> [T; 3] {
        let (a, b) = (operands[0].clone(), operands[1].clone());
        match self.direction {
            Direction::Forward => [a, b, result],
            Direction::InputGradient => [result, a, b],
            Direction::WeightGradient => [a, result, b],
        }
    }

    /// The spatial sizes of the output for those of the input and the weights.
    fn output_sizes(&self, input: &[Dim], kernel: &[Dim]) -> Vec<Dim> {
        (0..input.len())
            .map(|d| {
                let reach = &Dim::from(self.dilation[d]) * &(&kernel[d] - &Dim::ONE);
                let room = &(&input[d] + &Dim::from(self.pad_low[d] + self.pad_high[d])) - &reach;
                &(&room - &Dim::ONE).floor_div(self.stride[d] as i64) + &Dim::ONE
            })
            .collect()
    }

    fn direct(&self, direction: Direction, sizes: &[Dim]) -> Convolve {
        let sizes = if direction == Direction::Forward { vec![] } else { sizes.to_vec() };
        Convolve { direction, sizes, ..self.clone() }
    }
}

impl OpDef for Convolve {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 2, "a convolution takes two operands");
        let (a, b) = (&operands[0], &operands[1]);
        ensure!(
            a.dtype == b.dtype && a.dtype != DType::Bool,
            "a convolution of {} with {}",
            a.dtype,
            b.dtype
        );
        let spatial = self.stride.len();
        ensure!(spatial >= 1, "a convolution has at least one spatial dim");
        ensure!(
            [&self.dilation, &self.pad_low, &self.pad_high].iter().all(|list| list.len() == spatial),
            "stride, dilation and padding of a convolution are equally long"
        );
        ensure!(
            self.stride.iter().chain(&self.dilation).all(|step| *step > 0) && self.groups > 0,
            "stride, dilation and groups of a convolution are positive"
        );
        for operand in operands {
            ensure!(
                operand.rank() == spatial + 2,
                "{operand} does not have two dims and {spatial} spatial ones"
            );
        }
        let groups = Dim::from(self.groups);
        let expected = if self.direction == Direction::Forward { 0 } else { spatial };
        ensure!(self.sizes.len() == expected, "this direction of a convolution takes {expected} sizes");
        let shape = match self.direction {
            Direction::Forward => {
                ensure!(
                    a.shape[1] == &groups * &b.shape[1],
                    "{a} has {} channels, but the weights {b} take {}",
                    a.shape[1],
                    &groups * &b.shape[1]
                );
                ensure!(
                    b.shape[0].exact_div(&groups).is_some(),
                    "{} outputs make no {groups} groups",
                    b.shape[0]
                );
                let sizes = self.output_sizes(&a.shape[2..], &b.shape[2..]);
                for size in &sizes {
                    ensure!(
                        size.as_constant().is_none_or(|n| n >= 0),
                        "the weights {b} reach beyond the input {a}"
                    );
                }
                [&[a.shape[0].clone(), b.shape[0].clone()], &sizes[..]].concat()
            }
            Direction::InputGradient => {
                ensure!(a.shape[0] == b.shape[1], "weights {a} and output {b} differ in output channels");
                ensure!(
                    b.shape[2..] == self.output_sizes(&self.sizes, &a.shape[2..]),
                    "an input of spatial size {:?} does not give the output {b}",
                    self.sizes
                );
                [&[b.shape[0].clone(), &groups * &a.shape[1]], &self.sizes[..]].concat()
            }
            Direction::WeightGradient => {
                ensure!(a.shape[0] == b.shape[0], "input {a} and output {b} differ in batch size");
                let channels = a.shape[1].exact_div(&groups);
                let channels = channels.ok_or_else(|| InferError(format!("{a} makes no {groups} groups")))?;
                ensure!(
                    b.shape[2..] == self.output_sizes(&a.shape[2..], &self.sizes),
                    "weights of spatial size {:?} do not give the output {b}",
                    self.sizes
                );
                [&[b.shape[1].clone(), channels], &self.sizes[..]].concat()
            }
        };
        Ok(vec![TensorType { dtype: a.dtype, shape }])
    }

    /// Batch and channels are ordinary axes; spatial positions need their neighbours; channels in groups stay whole.
    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature {
        let [x, w, y] = self.roles(operands, results[0].clone());
        let mut signature = AxisSignature::default();
        let sum = Role::Reduced(ReduceFn::Sum);
        let (batch, inputs, outputs) = match self.direction {
            Direction::Forward => (Role::Mapped, sum, Role::Mapped),
            Direction::InputGradient => (Role::Mapped, Role::Mapped, sum),
            Direction::WeightGradient => (sum, Role::Mapped, Role::Mapped),
        };
        let n = signature.axis(&x.shape[0], batch);
        let (xc, wc, wo, yo);
        if self.groups == 1 {
            let c = signature.axis(&w.shape[1], inputs);
            let o = signature.axis(&w.shape[0], outputs);
            (xc, wc, wo, yo) = (c, c, o, o);
        } else {
            xc = signature.axis(&x.shape[1], Role::Whole);
            wc = signature.axis(&w.shape[1], Role::Whole);
            wo = signature.axis(&w.shape[0], Role::Whole);
            yo = wo;
        }
        let mut dims = [vec![vec![n], vec![xc]], vec![vec![wo], vec![wc]], vec![vec![n], vec![yo]]];
        for d in 0..self.stride.len() {
            let reach =
                self.dilation[d] * w.shape[2 + d].as_constant().map_or(0, |k| (k as usize).saturating_sub(1));
            let window =
                Role::Windowed { before: self.pad_low[d], after: reach.saturating_sub(self.pad_low[d]) };
            for (dims, (ty, role)) in dims.iter_mut().zip([(&x, window), (&w, Role::Whole), (&y, window)]) {
                dims.push(vec![signature.axis(&ty.shape[2 + d], role)]);
            }
        }
        let [x, w, y] = dims;
        (signature.operands, signature.results) = match self.direction {
            Direction::Forward => (vec![x, w], vec![y]),
            Direction::InputGradient => (vec![w, y], vec![x]),
            Direction::WeightGradient => (vec![x, y], vec![w]),
        };
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let types: Vec<TensorType> = operands
                .iter()
                .map(|array| TensorType::new(array.dtype, array.shape.iter().copied()))
                .collect();
            let result = self.infer(&types).expect("operands were inferred").remove(0);
            let wide = if result.dtype.is_float() { DType::F64 } else { DType::I64 };
            let mut sum = Array::full(wide, &result.sizes(), Scalar::zero(wide));
            let [x, w, y] = self.roles(&types, result.clone()).map(|ty| ty.sizes());
            let (og, cg, spatial) = (w[0] / self.groups, w[1], self.stride.len());
            let space = [&[x[0], self.groups, og, cg][..], &y[2..], &w[2..]].concat();
            for at in indices(&space) {
                let (p, k) = at[4..].split_at(spatial);
                let i: Option<Vec<usize>> = (0..spatial)
                    .map(|d| {
                        let i =
                            (p[d] * self.stride[d] + k[d] * self.dilation[d]).checked_sub(self.pad_low[d])?;
                        (i < x[2 + d]).then_some(i)
                    })
                    .collect();
                let Some(i) = i else { continue };
                let (o, c) = (at[1] * og + at[2], at[1] * cg + at[3]);
                let xi = [&[at[0], c], &i[..]].concat();
                let wi = [&[o, at[3]], k].concat();
                let yi = [&[at[0], o], p].concat();
                let (a, b, to) = match self.direction {
                    Direction::Forward => (xi, wi, yi),
                    Direction::InputGradient => (wi, yi, xi),
                    Direction::WeightGradient => (xi, yi, wi),
                };
                let product = ReduceFn::Prod.combine(operands[0].at(&a), operands[1].at(&b));
                sum.set(&to, ReduceFn::Sum.combine(sum.at(&to), product));
            }
            Array::from_fn(result.dtype, &result.sizes(), |index| sum.at(index))
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let (a, b, ct) = (context.operands[0], context.operands[1], context.ct());
        let sizes =
            [context.operand_type(0).shape[2..].to_vec(), context.operand_type(1).shape[2..].to_vec()];
        use Direction::{Forward, InputGradient, WeightGradient};
        let (for_a, for_b) = match self.direction {
            Forward => ((InputGradient, [b, ct]), (WeightGradient, [a, ct])),
            InputGradient => ((WeightGradient, [ct, b]), (Forward, [ct, a])),
            WeightGradient => ((InputGradient, [ct, b]), (Forward, [a, ct])),
        };
        let mut grads = Vec::new();
        for ((direction, operands), sizes) in [for_a, for_b].into_iter().zip(&sizes) {
            grads.push(Grad::Value(context.graph.add(self.direct(direction, sizes), &operands)));
        }
        grads
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        let [_, w, y] = self.roles(operands, results[0].clone());
        let products =
            y.elements().size() as f64 * w.shape[1..].iter().map(|d| d.size() as f64).product::<f64>();
        Work::streaming(2.0 * products, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let mut samples = Vec::new();
        // Input, weights, stride, dilation, padding, groups.
        type Case = (&'static [usize], &'static [usize], usize, usize, usize, usize);
        let cases: [Case; 6] = [
            (&[2, 4, 5, 6], &[2, 4, 3, 3], 1, 1, 1, 1),
            (&[2, 2, 7, 6], &[4, 2, 3, 2], 2, 1, 1, 1),
            (&[2, 4, 6], &[4, 1, 3], 1, 2, 2, 4),
            (&[2, 4, 4, 4], &[6, 2, 1, 1], 1, 1, 0, 2),
            (&[1, 2, 3, 4, 3], &[2, 2, 2, 2, 2], 1, 1, 0, 1),
            (&[2, 3, 8, 8], &[4, 3, 3, 3], 3, 1, 2, 1),
        ];
        for (x, w, stride, dilation, pad, groups) in cases {
            let spatial = x.len() - 2;
            let forward = Convolve {
                direction: Direction::Forward,
                stride: vec![stride; spatial],
                dilation: vec![dilation; spatial],
                pad_low: vec![pad; spatial],
                pad_high: vec![pad; spatial],
                groups,
                sizes: vec![],
            };
            let ty = |shape: &[usize]| TensorType::new(DType::F32, shape.iter().copied());
            let (x, w) = (ty(x), ty(w));
            let y = forward.infer(&[x.clone(), w.clone()]).expect("the sample fits").remove(0);
            let input = forward.direct(Direction::InputGradient, &x.shape[2..]);
            let weights = forward.direct(Direction::WeightGradient, &w.shape[2..]);
            samples.push(Sample::new(forward, &[x.clone(), w.clone()]));
            samples.push(Sample::new(input, &[w, y.clone()]));
            samples.push(Sample::new(weights, &[x, y]));
        }
        samples
    }
}
