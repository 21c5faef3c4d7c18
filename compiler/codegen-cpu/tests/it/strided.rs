//! Every second, third, … element: loads that pick lanes, stores that interleave them, with and without masks.

use crate::harness::{Features, run};
use thalweg_base::{DType, PointwiseFn as F, Scalar};
use thalweg_kernel::evaluate::{Array, evaluate};
use thalweg_kernel::{Access, Index, Kernel, KernelBuilder, VarId, verify::verify};

/// `y[step * j + r] = x[step * j + r + 1] + r`, where `step * j + r < elements`, for all `r` below `step`. The loop is the
/// last range or one of the body.
fn interleave(dtype: DType, step: i64, elements: usize, ranged: bool) -> Kernel {
    let mut b = KernelBuilder::new("interleave");
    let x = b.buffer(dtype, elements + 1, Access::Read);
    let y = b.buffer(dtype, elements, Access::Write);
    let turns = elements.div_ceil(step as usize);
    let body = |b: &mut KernelBuilder, j: VarId| {
        let mut stores = Vec::new();
        for r in 0..step {
            let at = Index::constant(r).plus(j, step);
            let guard = (step * (turns as i64 - 1) + r >= elements as i64).then(|| {
                let (turn, last) = (b.index(DType::I32, Index::var(j)), b.i32(turns as i32 - 1));
                b.apply(F::Lt, &[turn, last])
            });
            let from = at.clone().offset(1);
            let value = match guard {
                Some(guard) => b.load_guarded(x, from, guard, Scalar::one(dtype)),
                None => b.load(x, from),
            };
            let shift = b.constant(dtype, Scalar::Int(r.into()).convert(dtype));
            stores.push((at, b.apply(F::Add, &[value, shift]), guard));
        }
        for (at, value, guard) in stores {
            match guard {
                Some(guard) => b.store_guarded(y, at, value, guard),
                None => b.store(y, at, value),
            }
        }
    };
    if ranged {
        let j = b.range(turns, 64);
        body(&mut b, j);
    } else {
        b.loop_(turns, 64, &[], |b, j, _| {
            body(b, j);
            Vec::new()
        });
    }
    b.finish()
}

#[test]
fn strided_elements_are_loaded_and_stored() {
    for features in Features::ALL {
        for dtype in [DType::F32, DType::I32, DType::F64] {
            for step in 1..6 {
                for elements in [1, 2, 15, 16, 17, 33, 64, 65, 95, 130, 257] {
                    for ranged in [false, true] {
                        check(&interleave(dtype, step, elements, ranged), features);
                    }
                }
            }
        }
    }
}

fn check(kernel: &Kernel, features: Features) {
    assert_eq!(verify(kernel), Ok(()), "{kernel}");
    let array = |count: usize, from: usize| {
        let dtype = kernel.buffers[0].dtype;
        Array::new(dtype, (from..from + count).map(|value| Scalar::Int(value as i128).convert(dtype)))
    };
    let mut expected = [array(kernel.buffers[0].elements, 1000), array(kernel.buffers[1].elements, 0)];
    let mut got = expected.clone();
    evaluate(kernel, &mut expected, &kernel.full_ranges());
    match kernel.ranges.first().map(|range| range.extent) {
        Some(turns) => {
            run(kernel, &mut got, &[(turns * 2 / 3, turns)], features);
            run(kernel, &mut got, &[(0, turns * 2 / 3)], features);
        }
        None => run(kernel, &mut got, &[], features),
    }
    assert_eq!(got, expected, "{features:?}\n{kernel}");
}
