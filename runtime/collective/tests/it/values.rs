//! Values: every collective, dtype and function against an obvious loop over the operands of the group.

use thalweg_base::{DType, Literal, Mesh, ReduceFn, Scalar};
use thalweg_collective::{CollectiveError, ThreadCommunicator, ThreadOptions, perform, threads};
use thalweg_plan::{Address, CollectiveKind, CollectiveStep};

/// Small slots, so that values take many segments, some of them not full.
const OPTIONS: ThreadOptions = ThreadOptions { timeout: None, segment_bytes: 48 << 10 };

/// Runs `body` for each device on a thread of its own; results by rank.
pub(crate) fn on_each<T: Send>(
    mesh: &Mesh,
    options: ThreadOptions,
    body: impl Fn(usize, ThreadCommunicator) -> T + Sync,
) -> Vec<T> {
    let body = &body;
    std::thread::scope(|scope| {
        let spawn = |(rank, device)| scope.spawn(move || body(rank, device));
        let all: Vec<_> = threads(mesh, options).into_iter().enumerate().map(spawn).collect();
        all.into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

pub(crate) fn step(kind: CollectiveKind, axis: &str, dtype: DType, elements: usize) -> CollectiveStep {
    let (operand, result) = (Address::at(0), Address::at(0));
    CollectiveStep { kind, axis: axis.into(), dtype, elements, operand, result }
}

/// The operand of a rank: small numbers, some negative where there are such.
fn operand(dtype: DType, elements: usize, rank: usize) -> Literal {
    let value = |i: usize| Scalar::Float(((i * 5 + rank * 3) % 7) as f64 * 0.5 - 1.0);
    Literal::from_scalars(dtype, &[elements], (0..elements).map(value))
}

fn combined(function: ReduceFn, a: Scalar, b: Scalar) -> Scalar {
    match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => Scalar::Int(match function {
            ReduceFn::Sum => a + b,
            ReduceFn::Prod => a * b,
            ReduceFn::Max => a.max(b),
            ReduceFn::Min => a.min(b),
        }),
        (a, b) => Scalar::Float(match (function, a.to_f64(), b.to_f64()) {
            (ReduceFn::Sum, a, b) => a + b,
            (ReduceFn::Prod, a, b) => a * b,
            (ReduceFn::Max, a, b) => a.max(b),
            (ReduceFn::Min, a, b) => a.min(b),
        }),
    }
}

fn all_combined(function: ReduceFn, dtype: DType, operands: &[Literal]) -> Literal {
    let at = |i: usize| {
        operands[1..].iter().fold(operands[0].get(i), |sum, operand| combined(function, sum, operand.get(i)))
    };
    Literal::from_scalars(dtype, operands[0].shape(), (0..operands[0].len()).map(at))
}

/// What member `own` gets, by definition.
fn expected(kind: CollectiveKind, dtype: DType, operands: &[Literal], own: usize) -> Literal {
    let members = operands.len();
    let pick = |count: usize, at: &dyn Fn(usize) -> Scalar| {
        Literal::from_scalars(dtype, &[count], (0..count).map(at))
    };
    match kind {
        CollectiveKind::AllReduce(function) => all_combined(function, dtype, operands),
        CollectiveKind::AllGather { outer, inner } => pick(outer * members * inner, &|i| {
            let (row, member, column) = (i / (members * inner), i / inner % members, i % inner);
            operands[member].get(row * inner + column)
        }),
        CollectiveKind::ReduceScatter { combine, outer, inner } => {
            let all = all_combined(combine, dtype, operands);
            pick(outer * inner, &|i| all.get((i / inner * members + own) * inner + i % inner))
        }
        CollectiveKind::AllToAll { block } => {
            pick(block * members, &|i| operands[i / block].get(own * block + i % block))
        }
    }
}

fn check(mesh: &Mesh, axis: &str, dtype: DType, kind: CollectiveKind, elements: usize) {
    let operands: Vec<Literal> = (0..mesh.devices()).map(|rank| operand(dtype, elements, rank)).collect();
    let step = step(kind, axis, dtype, elements);
    let want = |rank: usize| {
        let group = mesh.group(rank, axis);
        let own = mesh.coordinate(rank, axis);
        let of_group: Vec<Literal> = group.iter().map(|member| operands[*member].clone()).collect();
        expected(kind, dtype, &of_group, own)
    };
    let found = on_each(mesh, OPTIONS, |rank, mut device| {
        // Twice, so that slots are used again.
        let mut result = vec![0; want(rank).bytes().len()];
        for _ in 0..2 {
            result.fill(0xee);
            perform(&mut device, &step, "test", operands[rank].bytes(), &mut result)?;
        }
        Ok::<_, CollectiveError>(result)
    });
    for (rank, found) in found.into_iter().enumerate() {
        let found = found.unwrap_or_else(|error| panic!("{kind:?} of {dtype}, device {rank}: {error}"));
        assert!(found == want(rank).bytes(), "{kind:?} of {dtype}, device {rank}");
    }
}

fn line(size: usize) -> Mesh {
    Mesh::line("data", size)
}

#[test]
fn every_dtype_and_function() {
    for dtype in DType::ALL {
        for combine in ReduceFn::ALL {
            // Truth values: the sum of several is whether one holds, as a sum of integers that is not zero.
            for elements in [1, 100, 5000] {
                check(&line(3), "data", dtype, CollectiveKind::AllReduce(combine), elements);
            }
            check(&line(2), "data", dtype, CollectiveKind::ReduceScatter { combine, outer: 5, inner: 7 }, 70);
        }
    }
}

#[test]
fn values_of_many_segments() {
    let n = 30_011;
    for members in [1, 2, 4] {
        let mesh = line(members);
        check(&mesh, "data", DType::F32, CollectiveKind::AllReduce(ReduceFn::Sum), n);
        check(&mesh, "data", DType::F32, CollectiveKind::AllGather { outer: 1, inner: n }, n);
        check(&mesh, "data", DType::F64, CollectiveKind::AllGather { outer: 331, inner: 97 }, 331 * 97);
        let scatter = |outer, inner| CollectiveKind::ReduceScatter { combine: ReduceFn::Sum, outer, inner };
        check(&mesh, "data", DType::F32, scatter(1, n), n * members);
        check(&mesh, "data", DType::BF16, scatter(331, 97), 331 * 97 * members);
        check(&mesh, "data", DType::I64, CollectiveKind::AllToAll { block: n }, n * members);
    }
}

#[test]
fn groups_along_each_axis_of_a_mesh() {
    let mesh = Mesh { axes: vec![("data".to_string(), 2), ("model".to_string(), 3)] };
    for axis in ["data", "model", "none"] {
        check(&mesh, axis, DType::F32, CollectiveKind::AllReduce(ReduceFn::Sum), 1000);
        check(&mesh, axis, DType::F32, CollectiveKind::AllGather { outer: 3, inner: 5 }, 15);
    }
}

#[test]
fn empty_values() {
    check(&line(2), "data", DType::F32, CollectiveKind::AllReduce(ReduceFn::Sum), 0);
    check(&line(2), "data", DType::F32, CollectiveKind::AllGather { outer: 4, inner: 0 }, 0);
}

/// Sums whose result depends on the order must come out the same on every device, in every run.
#[test]
fn bits_do_not_depend_on_timing() {
    let elements = 20_000;
    let values = |rank: usize| {
        let value = |i: usize| {
            Scalar::Float(((i * 31 + rank * 17) % 1009) as f64 / 7.0 * 10f64.powi(rank as i32 * 3))
        };
        Literal::from_scalars(DType::F32, &[elements], (0..elements).map(value))
    };
    let all: Vec<Literal> = (0..4).map(values).collect();
    let by_order: Vec<f32> = (0..elements)
        .map(|i| all[1..].iter().fold(all[0].get(i).to_f64() as f32, |sum, x| sum + x.get(i).to_f64() as f32))
        .collect();
    let expected = Literal::from_f32(&[elements], &by_order);
    let step = step(CollectiveKind::AllReduce(ReduceFn::Sum), "data", DType::F32, elements);
    for run in 0..3 {
        let results = on_each(&line(4), OPTIONS, |rank, mut device| {
            let mut result = vec![0; 4 * elements];
            std::thread::sleep(std::time::Duration::from_micros(200 * ((rank + run) % 4) as u64));
            perform(&mut device, &step, "test", all[rank].bytes(), &mut result).map(|()| result)
        });
        for result in results {
            assert!(result.as_deref() == Ok(expected.bytes()));
        }
    }
}

/// Halves are summed in `f32` and rounded once: a running sum in `f16` would stay at 2048.
#[test]
fn narrow_floats_are_summed_in_f32() {
    let step = step(CollectiveKind::AllReduce(ReduceFn::Sum), "data", DType::F16, 1);
    let results = on_each(&line(4), OPTIONS, |rank, mut device| {
        let value = Literal::scalar(DType::F16, Scalar::Float(if rank == 0 { 2048.0 } else { 1.0 }));
        let mut result = vec![0; 2];
        perform(&mut device, &step, "test", value.bytes(), &mut result).map(|()| result)
    });
    let expected = Literal::scalar(DType::F16, Scalar::Float(2052.0));
    assert!(results.iter().all(|result| result.as_deref() == Ok(expected.bytes())), "{results:?}");
}

#[test]
fn nan_is_neither_largest_nor_smallest() {
    for (combine, nan_at) in [(ReduceFn::Max, 0), (ReduceFn::Min, 1)] {
        let step = step(CollectiveKind::AllReduce(combine), "data", DType::F32, 1);
        let results = on_each(&line(2), OPTIONS, |rank, mut device| {
            let value = if rank == nan_at { f32::NAN } else { 1.0 };
            let mut result = [0; 4];
            perform(&mut device, &step, "test", &value.to_le_bytes(), &mut result)
                .map(|()| f32::from_le_bytes(result))
        });
        assert!(
            results.iter().all(|result| result.as_ref().is_ok_and(|value| value.is_nan())),
            "{results:?}"
        );
    }
}
