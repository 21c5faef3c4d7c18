//! The ways to run one node on the devices of a mesh axis, from its axis signature and from linearity.

use crate::layout::local;
use thalweg_base::PointwiseFn;
use thalweg_cost::CostModel;
use thalweg_tensor::axes::Part;
use thalweg_tensor::ops::CollectiveKind;
use thalweg_tensor::{Graph, NodeId, Op, ReduceFn, TensorType};

/// One way to run a node on every device.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// What each device runs.
    pub op: Op,
    /// How each operand must lie.
    pub needs: Vec<Part>,
    /// How the results lie. Several results are always whole.
    pub gives: Part,
    /// What it takes, in seconds.
    pub seconds: f64,
}

/// Every way to run a node on `parts` devices; the first is the whole on each.
pub(crate) fn candidates(graph: &Graph, id: NodeId, parts: usize, cost: &CostModel) -> Vec<Candidate> {
    let node = graph.node(id);
    let types = graph.operand_types_of(id);
    let slots = node.operands.len();
    let mut found = vec![Candidate {
        op: node.op.clone(),
        needs: vec![Part::Replicated; slots],
        gives: Part::Replicated,
        seconds: cost.op_seconds(&node.op, &types, &node.types),
    }];
    // A pick belongs to an op of several results, which is never cut.
    if node.types.len() != 1 || matches!(node.op, Op::Pick(_)) {
        return found;
    }
    for cut in node.op.def().axes(&types, &node.types).cuts(parts) {
        let op = cut.localize(&node.op, parts);
        let operands: Vec<TensorType> =
            types.iter().zip(&cut.operands).map(|(ty, part)| local(ty, *part, parts)).collect();
        let results = op.def().infer(&operands).expect("the pieces of an op fit");
        let seconds = cost.op_seconds(&op, &operands, &results);
        found.push(Candidate { op, needs: cut.operands, gives: cut.results[0], seconds });
    }
    for group in linear(&node.op, &types) {
        // Passing on parts that are larger than what they came from would only make their sum dearer.
        let largest = group.iter().map(|slot| types[*slot].bytes()).max().unwrap_or(0);
        if node.types[0].bytes() <= largest {
            let mut needs = vec![Part::Replicated; slots];
            for slot in group {
                needs[slot] = Part::Partial(ReduceFn::Sum);
            }
            let candidate = Candidate { needs, gives: Part::Partial(ReduceFn::Sum), ..found[0].clone() };
            found.push(candidate);
        }
    }
    found
}

/// The groups of operands in which an op is linear while all others stay fixed: given parts of their sums, it gives parts of
/// the sum.
fn linear(op: &Op, types: &[TensorType]) -> Vec<Vec<usize>> {
    let zero = |value: thalweg_base::Scalar| value.to_f64() == 0.0;
    let when = |holds: bool, groups: &[&[usize]]| -> Vec<Vec<usize>> {
        if holds { groups.iter().map(|group| group.to_vec()).collect() } else { vec![] }
    };
    match op {
        Op::Pointwise(own) => {
            use PointwiseFn as F;
            match own.function {
                F::Neg => when(true, &[&[0]]),
                F::Add | F::Sub => when(true, &[&[0, 1]]),
                F::Mul => when(true, &[&[0], &[1]]),
                // Integer division rounds each part.
                F::Div => when(types[0].dtype.is_float(), &[&[0]]),
                F::Select => when(true, &[&[1, 2]]),
                F::MulAdd => when(true, &[&[0, 2], &[1, 2]]),
                F::Abs | F::Sign | F::Exp | F::Expm1 | F::Log | F::Log1p | F::Sqrt | F::Rsqrt => vec![],
                F::Sin | F::Cos | F::Tanh | F::Erf | F::Floor | F::Ceil | F::Round | F::Not => vec![],
                F::Rem | F::Pow | F::Max | F::Min | F::And | F::Or | F::Xor => vec![],
                F::ShiftLeft | F::ShiftRight | F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge => vec![],
            }
        }
        Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) => when(true, &[&[0]]),
        Op::Gather(_) | Op::DynamicSlice(_) | Op::Fold(_) => when(true, &[&[0]]),
        Op::Pad(own) => when(zero(own.value), &[&[0]]),
        Op::Unfold(own) => when(zero(own.value), &[&[0]]),
        Op::Reduce(own) => when(own.function == ReduceFn::Sum, &[&[0]]),
        Op::Cumulative(own) => when(own.function == ReduceFn::Sum, &[&[0]]),
        Op::Concat(_) => vec![(0..types.len()).collect()],
        Op::Scatter(_) => when(true, &[&[1]]),
        Op::Contract(_) | Op::Convolve(_) => when(true, &[&[0], &[1]]),
        Op::DynamicUpdate(_) => when(true, &[&[0, 1]]),
        Op::Collective(own) => {
            let sums = match own.kind {
                CollectiveKind::AllReduce { function } => function == ReduceFn::Sum,
                CollectiveKind::ReduceScatter { function, .. } => function == ReduceFn::Sum,
                CollectiveKind::AllGather { .. } | CollectiveKind::AllToAll { .. } => true,
                CollectiveKind::Shard { .. } => true,
            };
            when(sums, &[&[0]])
        }
        // A conversion rounds each part; the others are no functions of numbers, or not linear ones.
        Op::Convert(_) | Op::Leaf(_) | Op::Constant(_) | Op::Iota(_) | Op::Random(_) => vec![],
        Op::ArgSort(_) | Op::Scan(_) | Op::While(_) | Op::Branch(_) | Op::Pick(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_base::{Scalar, tolerance};
    use thalweg_tensor::{Array, Mesh};

    /// Small positive integers, so that sums are exact, quotients exist, and no position is out of range for long.
    fn operand(ty: &TensorType, seed: usize) -> Array {
        let least = usize::from(ty.dtype != thalweg_base::DType::Bool);
        let number = |index: &[usize]| index.iter().fold(seed, |hash, at| hash * 31 + at * 7 + 3) % 5 + least;
        Array::from_fn(ty.dtype, &ty.sizes(), |index| Scalar::Int(number(index) as i128))
    }

    /// For every sample and group: the op of a sum is the sum of the op's results for its parts.
    #[test]
    fn linear_ops_are_linear() {
        let mesh = Mesh::line("devices", 2);
        let mut checked = 0;
        for sample in Op::all_samples() {
            let types: Vec<TensorType> = sample.operands.iter().map(|(ty, _)| ty.clone()).collect();
            for group in linear(&sample.op, &types) {
                let values = |part: usize, device: usize| -> Vec<Array> {
                    let of = |slot: usize| {
                        let shared = if group.contains(&slot) { 101 * part } else { 0 };
                        operand(&types[slot], 10 * slot + device + shared)
                    };
                    (0..types.len()).map(of).collect()
                };
                let parts = [1, 2].map(|part| (0..2).map(|device| values(part, device)).collect::<Vec<_>>());
                let mut whole = parts[0].clone();
                for (device, operands) in whole.iter_mut().enumerate() {
                    for slot in &group {
                        let both = [&parts[0], &parts[1]].map(|part| part[device][*slot].clone());
                        operands[*slot] = Array::combine(&both, ReduceFn::Sum);
                    }
                }
                let [a, b] = parts.map(|operands| sample.op.def().eval(&mesh, &operands));
                for (device, results) in sample.op.def().eval(&mesh, &whole).into_iter().enumerate() {
                    let sum = Array::combine(&[a[device][0].clone(), b[device][0].clone()], ReduceFn::Sum);
                    for (found, expected) in sum.values.iter().zip(&results[0].values) {
                        let (x, y) = (found.to_f64(), expected.to_f64());
                        let agree = tolerance::agree(x, y, 1.0, sum.dtype, 64);
                        assert!(agree, "{:?} in {group:?}: {x} is not {y}", sample.op);
                    }
                }
                checked += 1;
            }
        }
        assert!(checked > 50, "only {checked} groups were tried");
    }
}
