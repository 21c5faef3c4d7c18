//! Losses of classification.

use super::Row;
use super::activation::shifted;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results};
use thalweg_base::{DType, PointwiseFn as F, Scalar};
use thalweg_tensor::{NodeId, ReduceFn};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("NegativeLogLikelihoodLoss", negative_log_likelihood),
    ("SoftmaxCrossEntropyLoss", softmax_cross_entropy),
];

/// How the losses of samples become the result.
struct Reduction {
    mode: String,
    /// The class that stands for no sample.
    ignored: Option<i64>,
}

impl Reduction {
    fn of(call: &Call) -> Reduction {
        Reduction { mode: call.text_or("reduction", "mean"), ignored: call.int("ignore_index") }
    }

    /// The loss of log-probabilities, whose classes are along dim 1, where classes are given for the other dims.
    fn loss(&self, b: &mut Builder, log: NodeId, target: NodeId, weights: Option<NodeId>) -> Build<NodeId> {
        let rank = b.rank(log);
        if rank < 2 || b.rank(target) != rank - 1 {
            return problem(format!(
                "classes of rank {} are given for scores of rank {rank}",
                b.rank(target)
            ));
        }
        let perm: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
        let last = b.transpose(log, &perm)?;
        let chosen = b.gather(last, target, rank - 1, rank - 1)?;
        let mut losses = b.unary(F::Neg, chosen)?;
        let mut weight = weights.map(|weights| b.gather(weights, target, 0, 0)).transpose()?;
        if let Some(weight) = weight {
            losses = b.pointwise(F::Mul, &[losses, weight])?;
        }
        if let Some(ignored) = self.ignored {
            // An ignored class may lie outside of all; then another was chosen for it.
            let dtype = b.dtype(target);
            let ignored = b.graph().scalar(dtype, Scalar::Int(ignored.into()).convert(dtype));
            let ignored = b.binary(F::Eq, target, ignored)?;
            let (zero, one) = (b.number_like(losses, 0.0), b.number_like(losses, 1.0));
            losses = b.select(ignored, zero, losses)?;
            weight = Some(b.select(ignored, zero, weight.unwrap_or(one))?);
        }
        let dims: Vec<usize> = (0..rank - 1).collect();
        match (self.mode.as_str(), weight) {
            ("none", _) => Ok(losses),
            ("sum", _) => b.reduce(ReduceFn::Sum, losses, &dims, false),
            ("mean", None) => b.mean(losses, &dims, false),
            ("mean", Some(weight)) => {
                let sum = b.reduce(ReduceFn::Sum, losses, &dims, false)?;
                let weight = b.reduce(ReduceFn::Sum, weight, &dims, false)?;
                b.pointwise(F::Div, &[sum, weight])
            }
            (other, _) => problem(format!("there is no reduction `{other}`")),
        }
    }
}

/// The dtype that a loss is computed in.
fn working(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

fn negative_log_likelihood(call: &mut Call) -> Results {
    let (log, target, weights) = (call.x(0)?, call.x(1)?, call.optional(2)?);
    let reduction = Reduction::of(call);
    let b = &mut *call.b;
    let dtype = b.dtype(log);
    let log = b.convert(log, working(dtype))?;
    let weights = weights.map(|weights| b.convert(weights, working(dtype))).transpose()?;
    let loss = reduction.loss(b, log, target, weights)?;
    let loss = b.convert(loss, dtype)?;
    call.one(loss)
}

fn softmax_cross_entropy(call: &mut Call) -> Results {
    let (scores, target, weights) = (call.x(0)?, call.x(1)?, call.optional(2)?);
    let reduction = Reduction::of(call);
    let b = &mut *call.b;
    let dtype = b.dtype(scores);
    if b.rank(scores) < 2 {
        return problem("scores have a batch and classes at least");
    }
    let scores = b.convert(scores, working(dtype))?;
    let weights = weights.map(|weights| b.convert(weights, working(dtype))).transpose()?;
    let (shifted, _, sum) = shifted(b, scores, &[1])?;
    let sum = b.unary(F::Log, sum)?;
    let log = b.binary(F::Sub, shifted, sum)?;
    let loss = reduction.loss(b, log, target, weights)?;
    let (loss, log) = (b.convert(loss, dtype)?, b.convert(log, dtype)?);
    call.several(&[loss, log])
}
