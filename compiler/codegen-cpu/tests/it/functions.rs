//! Every function on every dtype and every conversion between storage dtypes, with awkward values, for one lane and many.

use crate::harness::{Features, run};
use thalweg_base::PointwiseFn as F;
use thalweg_base::{CostClass, DType, PointwiseFn, Scalar, tolerance};
use thalweg_kernel::evaluate::{Array, evaluate};
use thalweg_kernel::{Access, Carry, Index, Kernel, KernelBuilder, ValueId, compute_dtype};

/// Values where rounding, wrapping, saturation and special cases happen; each list's length is odd, so that there is a
/// tail.
fn awkward(dtype: DType) -> Array {
    let floats = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        0.1,
        -3.7,
        127.5,
        128.0,
        -128.5,
        255.5,
        300.0,
        -1e3,
        6e4,
        65519.0,
        65520.0,
        1e-5,
        6e-8,
        2.9e-8,
        -1e-7,
        1e-40,
        3.39e38,
        -3e38,
        2147483648.0,
        -2147483904.0,
        9.3e18,
        1.3e19,
        4294967040.0,
        16777217.0,
        2049.0,
        2051.0,
        257.0,
        259.0,
        33.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    let integers = [
        0,
        1,
        -1,
        2,
        -2,
        3,
        7,
        31,
        32,
        33,
        63,
        64,
        100,
        127,
        128,
        -128,
        -129,
        255,
        256,
        -7,
        65535,
        65536,
        16777217,
        i32::MAX as i128,
        i32::MIN as i128,
        u32::MAX as i128,
        1 << 31,
        1 << 40,
        -(1 << 40),
        i64::MAX as i128,
        i64::MIN as i128,
        u64::MAX as i128,
        (1 << 63) + 1025,
        i16::MAX as i128,
        5,
        12,
        -31,
    ];
    match dtype.is_float() {
        true => Array::new(dtype, floats.map(Scalar::Float)),
        false => Array::new(dtype, integers.map(Scalar::Int)),
    }
}

/// One output element for each pair of elements of the inputs: the first at `i`, the others at `(i + shift) % n`.
fn kernel(
    inputs: &[DType],
    output: DType,
    lanes: u32,
    body: impl FnOnce(&mut KernelBuilder, &[ValueId]) -> ValueId,
) -> Kernel {
    let mut b = KernelBuilder::new("table");
    let counts: Vec<_> = inputs.iter().map(|dtype| awkward(*dtype).values.len()).collect();
    let columns = counts[0];
    let rows = counts.get(1).copied().unwrap_or(1);
    let buffers: Vec<_> =
        inputs.iter().zip(&counts).map(|(dtype, count)| b.buffer(*dtype, *count, Access::Read)).collect();
    let y = b.buffer(output, rows * columns, Access::Write);
    let row = b.range(rows, 1);
    let column = b.range(columns, lanes);
    let values: Vec<_> = buffers
        .iter()
        .enumerate()
        .map(|(position, buffer)| match position {
            // The second operand is one value a row: uniform in the vector loop; the third goes along with the first.
            1 => b.load(*buffer, Index::var(row)),
            _ => b.load(*buffer, Index::var(column)),
        })
        .collect();
    let result = body(&mut b, &values);
    b.store(y, Index::var(column).plus(row, columns as i64), result);
    b.finish()
}

fn is_nan(value: Scalar) -> bool {
    value.to_f64().is_nan()
}

fn compare(kernel: &Kernel, inputs: &[DType], exact: bool, what: &str) {
    for features in Features::ALL {
        let mut expected: Vec<Array> = inputs.iter().map(|dtype| awkward(*dtype)).collect();
        let output = kernel.buffers.last().expect("an output");
        expected.push(Array::zeros(output.dtype, output.elements));
        let mut got = expected.clone();
        evaluate(kernel, &mut expected, &kernel.full_ranges());
        run(kernel, &mut got, &kernel.full_ranges(), features);
        let columns = expected[0].values.len();
        for position in 0..output.elements {
            let [a, b] = [&expected, &got].map(|arrays| arrays[inputs.len()].values[position]);
            let same = match exact {
                // Zeros of both signs and all NaNs are the same.
                true => {
                    a == b || a.to_f64() == b.to_f64() && output.dtype.is_float() || is_nan(a) && is_nan(b)
                }
                false => tolerance::agree(a.to_f64(), b.to_f64(), f32::MIN_POSITIVE as f64, output.dtype, 1),
            };
            let (x, y) = (expected[0].values[position % columns], position / columns);
            assert!(
                same,
                "{what} {features:?} of {x:?} and number {y}: {a:?} evaluated, {b:?} compiled\n{kernel}"
            );
        }
    }
}

#[test]
fn every_function() {
    let dtypes = [DType::F32, DType::F64, DType::I32, DType::I64, DType::U64, DType::Bool];
    for function in PointwiseFn::ALL.iter().copied() {
        for dtype in dtypes {
            let mut operands = vec![dtype; function.arity()];
            if function == PointwiseFn::Select {
                operands[0] = DType::Bool;
            }
            let Ok(result) = function.result(&operands) else { continue };
            for lanes in [1, 8] {
                let kernel = kernel(&operands, result, lanes, |b, values| b.apply(function, values));
                let approximate = function.cost() == CostClass::Transcendental
                    || matches!(function, PointwiseFn::Rsqrt | PointwiseFn::MulAdd);
                // Sines of numbers beyond their stated range have no meaning.
                let wild = matches!(function, PointwiseFn::Sin | PointwiseFn::Cos) && dtype == DType::F32;
                if !wild {
                    let what = format!("{function} {dtype} {lanes} lanes");
                    compare(&kernel, &operands, !(approximate && dtype.is_float()), &what);
                }
            }
        }
    }
}

#[test]
fn every_conversion() {
    for from in DType::ALL {
        for to in DType::ALL {
            for lanes in [1, 8] {
                // Once rounded in a register and stored wide, once converted by the store.
                let wide = compute_dtype(to);
                let kernels = [
                    kernel(&[from], wide, lanes, |b, values| b.convert(to, values[0])),
                    kernel(&[from], to, lanes, |b, values| b.convert(wide, values[0])),
                ];
                // On the way to the narrow floats, f64 and integers may be rounded twice.
                let twice = matches!(to, DType::F16 | DType::BF16)
                    && matches!(from, DType::F64 | DType::I64 | DType::I32 | DType::U32 | DType::U64);
                for kernel in &kernels {
                    compare(kernel, &[from], !twice, &format!("{from} to {to} {lanes} lanes"));
                }
            }
        }
    }
}

#[test]
fn every_half_float_survives() {
    for dtype in [DType::F16, DType::BF16] {
        for lanes in [1, 8] {
            let mut b = KernelBuilder::new("halves");
            let x = b.buffer(dtype, 65536, Access::Read);
            let y = b.buffer(dtype, 65536, Access::Write);
            let wide = b.buffer(DType::F32, 65536, Access::Write);
            let i = b.range(65536, lanes);
            let value = b.load(x, Index::var(i));
            b.store(y, Index::var(i), value);
            b.store(wide, Index::var(i), value);
            let kernel = b.finish();
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let literal = thalweg_base::Literal::from_bytes(dtype, &[65536], bytes).expect("as many bytes");
            let input = Array::from_literal(&literal);
            let mut buffers = [input.clone(), Array::zeros(dtype, 65536), Array::zeros(DType::F32, 65536)];
            run(&kernel, &mut buffers, &[(0, 65536)], Features::Widest);
            for (position, value) in input.values.iter().enumerate() {
                let expected = value.to_f64();
                for buffer in &buffers[1..] {
                    let got = buffer.values[position].to_f64();
                    assert!(
                        got == expected || (got.is_nan() && expected.is_nan()),
                        "{dtype} {position:#06x}: {got}"
                    );
                }
            }
        }
    }
}

#[test]
fn extrema_of_rows_keep_nan() {
    for (function, dtype) in [F::Max, F::Min].into_iter().flat_map(|f| [(f, DType::F32), (f, DType::F64)]) {
        for count in [1, 7, 16, 40, 64, 129] {
            let mut b = KernelBuilder::new("extremum");
            let x = b.buffer(dtype, 6 * count, Access::Read);
            let y = b.buffer(dtype, 6, Access::Write);
            let i = b.range(6, 1);
            let start = b.constant(dtype, function.identity(dtype).expect("extrema have identities"));
            let total = b.loop_(count, 64, &[Carry::reduce(start, function)], |b, j, phis| {
                let value = b.load(x, Index::var(j).plus(i, count as i64));
                vec![b.apply(function, &[phis[0], value])]
            });
            b.store(y, Index::var(i), total[0]);
            let kernel = b.finish();
            // One row without NaN; the others have one at places that different registers and lanes hold.
            let places = [usize::MAX, 0, count / 2, count - 1, count / 3, 5 % count];
            let values = (0..6 * count).map(|k| match k % count == places[k / count] {
                true => Scalar::Float(f64::NAN),
                false => Scalar::Float(((k * 37) % 101) as f64 - 50.0),
            });
            for features in Features::ALL {
                let mut expected = [Array::new(dtype, values.clone()), Array::zeros(dtype, 6)];
                let mut got = expected.clone();
                evaluate(&kernel, &mut expected, &kernel.full_ranges());
                run(&kernel, &mut got, &kernel.full_ranges(), features);
                for (a, b) in expected[1].values.iter().zip(&got[1].values) {
                    assert!(
                        a == b || is_nan(*a) && is_nan(*b),
                        "{features:?} {count}: {a:?} {b:?}\n{kernel}"
                    );
                }
            }
        }
    }
}
