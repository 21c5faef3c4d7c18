//! Sums over rows of rows: lanes go from one row to the next.

use crate::harness::{Features, run};
use thalweg_base::{DType, PointwiseFn as F, Scalar, tolerance};
use thalweg_kernel::evaluate::{Array, evaluate};
use thalweg_kernel::{Access, Carry, Index, Kernel, KernelBuilder, verify::verify};

/// For each of four points, `count` combinations of `x[i, j, k]` with `x[i, j, 0]`, over all `j` and `k`, from 1 on. With
/// `between`, each row's first value is also added to what goes from row to row.
fn combinations(dtype: DType, rows: usize, columns: usize, count: usize, between: bool) -> Kernel {
    let mut b = KernelBuilder::new("combinations");
    let x = b.buffer(dtype, 4 * rows * columns, Access::Read);
    let y = b.buffer(dtype, 4 * count, Access::Write);
    let i = b.range(4, 1);
    let one = b.constant(dtype, Scalar::Int(1).convert(dtype));
    let functions: Vec<F> = [F::Add, F::Max, F::Min].into_iter().cycle().take(count).collect();
    let carries: Vec<Carry> = functions.iter().map(|_| Carry { init: one, combine: None }).collect();
    let at = Index::default().plus(i, (rows * columns) as i64);
    let totals = b.loop_(rows, 1, &carries, |b, j, outer| {
        let row = at.clone().plus(j, columns as i64);
        let first = b.load(x, row.clone());
        let inner: Vec<Carry> =
            outer.iter().zip(&functions).map(|(init, function)| Carry::reduce(*init, *function)).collect();
        let sums = b.loop_(columns, 64, &inner, |b, k, phis| {
            let value = b.load(x, row.plus(k, 1));
            let term = b.apply(F::Add, &[value, first]);
            phis.iter().zip(&functions).map(|(phi, function)| b.apply(*function, &[*phi, term])).collect()
        });
        match between {
            true => sums.iter().map(|sum| b.apply(F::Add, &[*sum, first])).collect(),
            false => sums,
        }
    });
    for (position, total) in totals.into_iter().enumerate() {
        b.store(y, Index::constant(position as i64).plus(i, count as i64), total);
    }
    b.finish()
}

#[test]
fn rows_of_rows_are_combined() {
    for features in Features::ALL {
        for dtype in [DType::F32, DType::I32, DType::F64] {
            for (rows, columns) in [(1, 49), (8, 49), (3, 7), (20, 64), (12, 130), (2, 300)] {
                for (count, between) in [(1, false), (2, true), (6, false), (12, false)] {
                    check(&combinations(dtype, rows, columns, count, between), rows * columns, features);
                }
            }
        }
    }
}

fn check(kernel: &Kernel, length: usize, features: Features) {
    assert_eq!(verify(kernel), Ok(()), "{kernel}");
    let [from, to] = [0, 1].map(|buffer| kernel.buffers[buffer]);
    let number = |at: usize| match from.dtype.is_float() {
        true if at == 3 * from.elements / 4 + 1 => Scalar::Float(f64::NAN),
        true => Scalar::Float(((at * 37) % 101) as f64 / 50.0 - 1.0),
        false => Scalar::Int(((at * 37) % 101) as i128 - 50),
    };
    let mut expected =
        [Array::new(from.dtype, (0..from.elements).map(number)), Array::zeros(to.dtype, to.elements)];
    let mut got = expected.clone();
    evaluate(kernel, &mut expected, &kernel.full_ranges());
    run(kernel, &mut got, &kernel.full_ranges(), features);
    for (a, b) in expected[1].values.iter().zip(&got[1].values) {
        let (a, b) = (a.to_f64(), b.to_f64());
        assert!(tolerance::agree(a, b, 1.0, to.dtype, length), "{a} {b} {features:?}\n{kernel}");
    }
}
