//! Steps of optimizers, which take parameters, their gradients and what was gathered of those, and give all of that anew.

use super::Row;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results};
use thalweg_base::PointwiseFn as F;
use thalweg_tensor::NodeId;

/// The rows of this family.
pub const OPS: &[Row] = &[("Adagrad", adagrad), ("Adam", adam), ("Momentum", momentum)];

/// Operands of a step: the rate, the count of updates, then for each parameter its value, its gradient and its gathered values.
struct Step {
    rate: NodeId,
    count: NodeId,
    parts: Vec<Vec<NodeId>>,
}

impl Step {
    /// Reads operands with so many lists after the rate and the count. To each gradient, that of `norm_coefficient / 2` times
    /// the square of the parameter is added.
    fn read(call: &mut Call, lists: usize) -> Build<Step> {
        let all = call.all()?;
        let norm = call.float_or("norm_coefficient", 0.0);
        let [rate, count, rest @ ..] = &all[..] else { return problem("the rate or the count is missing") };
        if rest.is_empty() || !rest.len().is_multiple_of(lists) {
            return problem(format!("{} operands are not {lists} for each parameter", rest.len()));
        }
        let parameters = rest.len() / lists;
        let b = &mut *call.b;
        let (rate, count) = (b.reshape(*rate, &[])?, b.reshape(*count, &[])?);
        let mut parts = Vec::new();
        for parameter in 0..parameters {
            let mut part: Vec<NodeId> = (0..lists).map(|list| rest[list * parameters + parameter]).collect();
            if norm != 0.0 {
                let pull = b.with_scalar(F::Mul, part[0], norm)?;
                part[1] = b.binary(F::Add, pull, part[1])?;
            }
            parts.push(part);
        }
        Ok(Step { rate, count, parts })
    }

    /// The rate in the dtype of a parameter.
    fn rate_like(&self, b: &mut Builder, x: NodeId) -> Build<NodeId> {
        let dtype = b.dtype(x);
        b.convert(self.rate, dtype)
    }

    /// The count in the dtype of a parameter.
    fn count_like(&self, b: &mut Builder, x: NodeId) -> Build<NodeId> {
        let dtype = b.dtype(x);
        b.convert(self.count, dtype)
    }
}

/// The results of all parameters, list by list.
fn listed(call: &Call, results: &[Vec<NodeId>]) -> Results {
    let lists = results.first().map_or(0, Vec::len);
    let order: Vec<NodeId> =
        (0..lists).flat_map(|list| results.iter().map(move |result| result[list])).collect();
    call.several(&order)
}

/// `x - step`, where the step may be broadcast.
fn moved(b: &mut Builder, x: NodeId, rate: NodeId, direction: NodeId) -> Build<NodeId> {
    let step = b.binary(F::Mul, rate, direction)?;
    b.binary(F::Sub, x, step)
}

/// `a x + (1 - a) y`.
fn mixed(b: &mut Builder, a: f64, x: NodeId, y: NodeId) -> Build<NodeId> {
    let (old, new) = (b.with_scalar(F::Mul, x, a)?, b.with_scalar(F::Mul, y, 1.0 - a)?);
    b.binary(F::Add, old, new)
}

/// Duchi et al. 2011.
fn adagrad(call: &mut Call) -> Results {
    let step = Step::read(call, 3)?;
    let (decay, epsilon) = (call.float_or("decay_factor", 0.0), call.float_or("epsilon", 1e-6));
    let b = &mut *call.b;
    let mut results = Vec::new();
    for part in &step.parts {
        let (x, gradient, squares) = (part[0], part[1], part[2]);
        let (rate, count) = (step.rate_like(b, x)?, step.count_like(b, x)?);
        let slowed = b.with_scalar(F::Mul, count, decay)?;
        let slowed = b.with_scalar(F::Add, slowed, 1.0)?;
        let rate = b.binary(F::Div, rate, slowed)?;
        let square = b.binary(F::Mul, gradient, gradient)?;
        let squares = b.binary(F::Add, squares, square)?;
        let root = b.unary(F::Sqrt, squares)?;
        let root = b.with_scalar(F::Add, root, epsilon)?;
        let direction = b.binary(F::Div, gradient, root)?;
        results.push(vec![moved(b, x, rate, direction)?, squares]);
    }
    listed(call, &results)
}

/// Kingma and Ba, arXiv 1412.6980, with the corrections of both means in the rate.
fn adam(call: &mut Call) -> Results {
    let step = Step::read(call, 4)?;
    let (alpha, beta) = (call.float_or("alpha", 0.9), call.float_or("beta", 0.999));
    let (epsilon, after) = (call.float_or("epsilon", 1e-6), call.float_or("norm_coefficient_post", 0.0));
    let b = &mut *call.b;
    let mut results = Vec::new();
    for part in &step.parts {
        let (x, gradient) = (part[0], part[1]);
        let mean = mixed(b, alpha, part[2], gradient)?;
        let square = b.binary(F::Mul, gradient, gradient)?;
        let squares = mixed(b, beta, part[3], square)?;
        let root = b.unary(F::Sqrt, squares)?;
        let root = b.with_scalar(F::Add, root, epsilon)?;
        let (rate, count) = (step.rate_like(b, x)?, step.count_like(b, x)?);
        let left = |b: &mut Builder, base: f64| -> Build<NodeId> {
            let (base, one) = (b.number_like(x, base), b.number_like(x, 1.0));
            let power = b.binary(F::Pow, base, count)?;
            b.binary(F::Sub, one, power)
        };
        let (of_squares, of_mean) = (left(b, beta)?, left(b, alpha)?);
        let of_squares = b.unary(F::Sqrt, of_squares)?;
        let corrected = b.binary(F::Mul, rate, of_squares)?;
        let corrected = b.binary(F::Div, corrected, of_mean)?;
        // Before the first update there is nothing to correct.
        let begun = b.with_scalar(F::Gt, count, 0.0)?;
        let rate = b.select(begun, corrected, rate)?;
        let direction = b.binary(F::Div, mean, root)?;
        let mut next = moved(b, x, rate, direction)?;
        if after != 0.0 {
            next = b.with_scalar(F::Mul, next, 1.0 - after)?;
        }
        results.push(vec![next, mean, squares]);
    }
    listed(call, &results)
}

/// Gradient descent with momentum, which may be Nesterov's.
fn momentum(call: &mut Call) -> Results {
    let step = Step::read(call, 3)?;
    let (alpha, beta) = (call.float_or("alpha", 0.0), call.float_or("beta", 1.0));
    let nesterov = match call.text_or("mode", "standard").as_str() {
        "standard" => false,
        "nesterov" => true,
        other => return problem(format!("there is no momentum `{other}`")),
    };
    let b = &mut *call.b;
    let mut results = Vec::new();
    for part in &step.parts {
        let (x, gradient) = (part[0], part[1]);
        let (rate, count) = (step.rate_like(b, x)?, step.count_like(b, x)?);
        let begun = b.with_scalar(F::Gt, count, 0.0)?;
        let (later, first) = (b.number_like(x, beta), b.number_like(x, 1.0));
        let share = b.select(begun, later, first)?;
        let (old, new) = (b.with_scalar(F::Mul, part[2], alpha)?, b.binary(F::Mul, share, gradient)?);
        let momentum = b.binary(F::Add, old, new)?;
        let direction = match nesterov {
            true => {
                let ahead = b.with_scalar(F::Mul, momentum, alpha)?;
                b.binary(F::Add, gradient, ahead)?
            }
            false => momentum,
        };
        results.push(vec![moved(b, x, rate, direction)?, momentum]);
    }
    listed(call, &results)
}
