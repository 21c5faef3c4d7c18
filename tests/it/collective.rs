//! Collectives against their definitions, on a mesh of two axes.

use thalweg_base::{DType, Scalar};
use thalweg_tensor::ops::{Collective, CollectiveKind};
use thalweg_tensor::{Array, Mesh, OpDef, ReduceFn};

/// Device `d` holds `100 d + 10 i + j` at `(i, j)` of a 2 x 4 array.
fn value(device: usize, i: usize, j: usize) -> i64 {
    (100 * device + 10 * i + j) as i64
}

/// On a 2 x 2 mesh, whose devices 0, 1, 2, 3 are at (0,0), (0,1), (1,0), (1,1): the result of a collective along `axis` at
/// every position of every device, against `expected(group, own, i, j)`.
fn check(
    kind: CollectiveKind,
    axis: &str,
    shape: [usize; 2],
    expected: impl Fn([usize; 2], usize, usize, usize) -> i64,
) {
    let mesh = Mesh { axes: vec![("data".into(), 2), ("model".into(), 2)] };
    let groups =
        if axis == "model" { [[0, 1], [0, 1], [2, 3], [2, 3]] } else { [[0, 2], [1, 3], [0, 2], [1, 3]] };
    let own = if axis == "model" { [0, 1, 0, 1] } else { [0, 0, 1, 1] };
    let operand =
        |device| Array::from_fn(DType::I32, &[2, 4], |at| Scalar::Int(value(device, at[0], at[1]).into()));
    let operands = (0..4).map(|device| vec![operand(device)]).collect();
    let op = Collective { kind, axis: axis.into(), size: 2 };
    for (device, results) in op.eval(&mesh, &operands).into_iter().enumerate() {
        let wanted = Array::from_fn(DType::I32, &shape, |at| {
            Scalar::Int(expected(groups[device], own[device], at[0], at[1]).into())
        });
        assert_eq!(results, [wanted], "{op:?} on device {device}");
    }
}

#[test]
fn collectives_mean_what_they_say() {
    for axis in ["data", "model"] {
        let all = |function| CollectiveKind::AllReduce { function };
        check(all(ReduceFn::Sum), axis, [2, 4], |[a, b], _, i, j| value(a, i, j) + value(b, i, j));
        check(all(ReduceFn::Max), axis, [2, 4], |[a, b], _, i, j| value(a, i, j).max(value(b, i, j)));
        check(all(ReduceFn::Min), axis, [2, 4], |[a, b], _, i, j| value(a, i, j).min(value(b, i, j)));
        check(all(ReduceFn::Prod), axis, [2, 4], |[a, b], _, i, j| value(a, i, j) * value(b, i, j));
        check(CollectiveKind::AllGather { dim: 1 }, axis, [2, 8], |group, _, i, j| {
            value(group[j / 4], i, j % 4)
        });
        check(CollectiveKind::AllGather { dim: 0 }, axis, [4, 4], |group, _, i, j| {
            value(group[i / 2], i % 2, j)
        });
        let scatter = |function, dim| CollectiveKind::ReduceScatter { function, dim };
        check(scatter(ReduceFn::Sum, 1), axis, [2, 2], |[a, b], own, i, j| {
            value(a, i, j + 2 * own) + value(b, i, j + 2 * own)
        });
        check(scatter(ReduceFn::Max, 0), axis, [1, 4], |[a, b], own, i, j| {
            value(a, i + own, j).max(value(b, i + own, j))
        });
        check(CollectiveKind::AllToAll { split: 1, concat: 0 }, axis, [4, 2], |group, own, i, j| {
            value(group[i / 2], i % 2, j + 2 * own)
        });
        check(CollectiveKind::AllToAll { split: 0, concat: 0 }, axis, [2, 4], |group, own, i, j| {
            value(group[i], own, j)
        });
        check(CollectiveKind::Shard { dim: 1 }, axis, [2, 2], |group, own, i, j| {
            value(group[own], i, j + 2 * own)
        });
    }
}
