//! Random kernels: what compiled code leaves in memory is what the evaluator leaves, within tolerance.

use crate::harness::{Features, run};
use proptest::prelude::*;
use proptest::test_runner::TestRng;
use thalweg_base::{DType, PointwiseFn as F, Scalar, tolerance};
use thalweg_kernel::evaluate::{Array, evaluate};
use thalweg_kernel::{Access, Carry, Index, Kernel, KernelBuilder, ValueId, VarId, text, verify::verify};

/// Choices for one kernel; shrinks through its fields.
#[derive(Clone, Debug)]
struct Recipe {
    outer: usize,
    inner: usize,
    lanes: u32,
    input: DType,
    second: DType,
    output: DType,
    steps: Vec<(usize, usize, usize)>,
    reduction: usize,
    reduced: usize,
    guarded: bool,
    gathered: bool,
    /// The vector loop is the last range, and stores go through a permutation.
    ranged: bool,
    stride: i64,
    seed: u64,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let dtype = || prop::sample::select(DType::ALL.to_vec());
    let shape = (1..4usize, 1..90usize, prop::sample::select(vec![1u32, 2, 4, 8, 16, 64]));
    let dtypes = (dtype(), dtype(), dtype());
    let steps = prop::collection::vec((0..1000usize, 0..1000usize, 0..1000usize), 1..12);
    let rest = (0..6usize, 1..37usize, any::<bool>(), any::<(bool, bool)>(), 1..6i64, any::<u64>());
    (shape, dtypes, steps, rest).prop_map(
        |(
            (outer, inner, lanes),
            (input, second, output),
            steps,
            (reduction, reduced, guarded, (gathered, ranged), stride, seed),
        )| {
            Recipe {
                outer,
                inner,
                lanes,
                input,
                second,
                output,
                steps,
                reduction,
                reduced,
                guarded,
                gathered,
                ranged,
                stride,
                seed,
            }
        },
    )
}

/// Functions whose results stay comparable: no function with a jump right where rounding decides.
const UNARY: &[F] = &[F::Neg, F::Abs, F::Tanh, F::Sin, F::Exp, F::Erf, F::Not, F::Sqrt, F::Log1p, F::Cos];
const BINARY: &[F] = &[
    F::Add,
    F::Sub,
    F::Mul,
    F::Max,
    F::Min,
    F::And,
    F::Or,
    F::Xor,
    F::ShiftLeft,
    F::ShiftRight,
    F::Div,
    F::Rem,
    F::Eq,
    F::Lt,
    F::Ge,
    F::Pow,
];

/// Keeps magnitudes small, so that one rounding error stays one.
fn tame(b: &mut KernelBuilder, value: ValueId) -> ValueId {
    match b.dtype(value).is_float() {
        true => {
            let dtype = b.dtype(value);
            let high = b.constant(dtype, Scalar::Float(3.0));
            let low = b.constant(dtype, Scalar::Float(-3.0));
            let below = b.apply(F::Min, &[value, high]);
            b.apply(F::Max, &[below, low])
        }
        false => value,
    }
}

/// `y` in the dtype of `x`; `x` itself where that would turn a rounding difference into another integer.
fn joined(b: &mut KernelBuilder, y: ValueId, x: ValueId) -> ValueId {
    match b.dtype(y).is_float() && !b.dtype(x).is_float() {
        true => x,
        false => b.convert(b.dtype(x), y),
    }
}

/// Adds values to the pool by well-typed random functions.
fn grow(b: &mut KernelBuilder, pool: &mut Vec<ValueId>, steps: &[(usize, usize, usize)]) {
    for (kind, left, right) in steps {
        let (x, y) = (pool[left % pool.len()], pool[right % pool.len()]);
        let unary = UNARY[left % UNARY.len()];
        let binary = BINARY[right % BINARY.len()];
        let dtypes = [b.dtype(x), b.dtype(y)];
        let value = match kind % 5 {
            0 if unary.result(&dtypes[..1]).is_ok() => {
                // Roots and logarithms of negative numbers are NaN, which would drown the rest.
                let x = if matches!(unary, F::Sqrt | F::Log1p) { b.apply(F::Abs, &[x]) } else { x };
                b.apply(unary, &[x])
            }
            1 | 2 => {
                let y = joined(b, y, x);
                // Float equality, quotients near poles and remainders jump; integers do not.
                let jumps = matches!(binary, F::Eq | F::Lt | F::Ge | F::Rem | F::Div | F::Pow);
                match binary.result(&[dtypes[0]; 2]).is_ok() && !(jumps && dtypes[0].is_float()) {
                    true => b.apply(binary, &[x, y]),
                    false => x,
                }
            }
            3 => {
                let target = DType::ALL[right % DType::ALL.len()];
                // A float that rounding moves across an integer, or across zero, would convert to another number.
                match dtypes[0].is_float() && !target.is_float() {
                    true => x,
                    false => b.convert(target, x),
                }
            }
            _ => {
                let zero = b.constant(DType::I32, Scalar::Int(0));
                let whole = match dtypes[0].is_float() {
                    true => zero,
                    false => b.convert(DType::I32, x),
                };
                let condition = b.apply(F::Gt, &[whole, zero]);
                let y = joined(b, y, x);
                b.apply(F::Select, &[condition, y, x])
            }
        };
        let value = tame(b, value);
        pool.push(value);
    }
}

fn build(recipe: &Recipe) -> Kernel {
    let Recipe { outer, inner, lanes, stride, reduced, .. } = *recipe;
    let mut b = KernelBuilder::new("random");
    let row = inner * stride as usize + 3;
    let x = b.buffer(recipe.input, outer * row, Access::Read);
    let z = b.buffer(recipe.second, outer * inner * reduced, Access::Read);
    let table = b.buffer(DType::I32, inner, Access::Read);
    let y = b.buffer(recipe.output, outer * inner, Access::Write);
    let totals = b.buffer(recipe.output, outer, Access::Write);
    let scratch = b.scratch(recipe.input, inner);
    let i = b.range(outer, 1);

    // A vector loop with an inner reduction, guards, gathers and strides.
    let columns = |b: &mut KernelBuilder, j: VarId| {
        let mut pool = vec![b.load(x, Index::constant(1).plus(i, row as i64).plus(j, stride))];
        let column = b.index(DType::I32, Index::var(j).offset(2));
        pool.push(column);
        if recipe.guarded {
            let limit = b.i32(inner as i32 / 2 + 2);
            let inside = b.apply(F::Lt, &[column, limit]);
            let shifted = Index::var(j).plus(i, row as i64).offset(1);
            pool.push(b.load_guarded(x, shifted, inside, Scalar::one(recipe.input)));
            // One element for all lanes but the first ones.
            let outside = b.apply(F::Ge, &[column, limit]);
            let same = Index::default().plus(i, row as i64);
            pool.push(b.load_guarded(x, same, outside, Scalar::one(recipe.input)));
        }
        if recipe.gathered {
            let position = b.load(table, Index::var(j));
            pool.push(b.load(x, Index::value(position).plus(i, row as i64)));
        }
        let start = b.load(x, Index::constant(0));
        pool.push(start);
        let dtype = b.dtype(pool[0]);
        let zero = b.constant(dtype, Scalar::zero(dtype));
        let sums = b.loop_(reduced, 1, &[Carry { init: zero, combine: None }], |b, k, phis| {
            let mut index = Index::default().plus(i, (inner * reduced) as i64);
            index = index.plus(j, reduced as i64).plus(k, 1);
            let value = b.load(z, index);
            let value = b.convert(dtype, value);
            let next = match dtype == DType::Bool {
                true => b.apply(F::Xor, &[phis[0], value]),
                false => b.apply(F::Add, &[phis[0], value]),
            };
            vec![next]
        });
        let sum = tame(b, sums[0]);
        pool.push(sum);
        grow(b, &mut pool, &recipe.steps);
        let last = *pool.last().expect("the pool is not empty");
        let result = convert_for_store(b, last, recipe.output);
        let target = match recipe.ranged {
            true => {
                let position = b.load(table, Index::var(j));
                Index::value(position).plus(i, inner as i64)
            }
            false => Index::default().plus(i, inner as i64).plus(j, 1),
        };
        match recipe.guarded {
            true => {
                let limit = b.i32(inner as i32 - 1);
                let inside = b.apply(F::Le, &[column, limit]);
                b.store_guarded(y, target, result, inside);
            }
            false => b.store(y, target, result),
        }
        pool[0]
    };
    if recipe.ranged {
        let j = b.range(inner, lanes);
        columns(&mut b, j);
        return b.finish();
    }
    b.loop_(inner, lanes, &[], |b, j, _| {
        let value = columns(b, j);
        b.store(scratch, Index::var(j), value);
        Vec::new()
    });

    // A reduction across lanes, over what the first loop left in scratch.
    let combine = [F::Add, F::Max, F::Min, F::Mul, F::And, F::Or][recipe.reduction];
    let probe = b.load(scratch, Index::constant(0));
    let dtype = b.dtype(probe);
    let combine = match combine.result(&[dtype; 2]) {
        Ok(_) => combine,
        Err(_) if dtype == DType::Bool => F::Or,
        Err(_) => F::Add,
    };
    let init = b.constant(dtype, Scalar::one(dtype));
    let total = b.loop_(inner, lanes, &[Carry::reduce(init, combine)], |b, j, phis| {
        let value = b.load(scratch, Index::var(j));
        vec![b.apply(combine, &[phis[0], value])]
    });
    let total = convert_for_store(&mut b, total[0], recipe.output);
    b.store(totals, Index::var(i), total);
    b.finish()
}

/// To the output's compute dtype, unless that would turn a rounding difference into another integer.
fn convert_for_store(b: &mut KernelBuilder, value: ValueId, output: DType) -> ValueId {
    let wanted = thalweg_kernel::compute_dtype(output);
    match b.dtype(value).is_float() && !wanted.is_float() {
        true => b.constant(wanted, Scalar::Int(1)),
        false => b.convert(wanted, value),
    }
}

fn fill(dtype: DType, count: usize, rng: &mut TestRng) -> Array {
    let value = |rng: &mut TestRng| match dtype.is_float() {
        true => Scalar::Float(rng.random_range(-2.0..2.0)),
        false if dtype == DType::Bool => Scalar::Int(rng.random_range(0..2)),
        false => match rng.random_range(0..8) {
            0 => Scalar::Int(rng.random::<i64>().into()),
            _ => Scalar::Int(rng.random_range(-5..9)),
        },
    };
    Array::new(dtype, (0..count).map(|_| value(rng)))
}

fn check(recipe: &Recipe) {
    let kernel = build(recipe);
    if let Err(problems) = verify(&kernel) {
        panic!("{problems:?}\n{kernel}");
    }
    assert_eq!(text::parse(&text::print(&kernel)).as_ref(), Ok(&kernel), "{kernel}");
    let mut rng = TestRng::from_seed(prop::test_runner::RngAlgorithm::ChaCha, &seed_bytes(recipe.seed));
    let mut expected: Vec<Array> =
        kernel.buffers.iter().map(|buffer| fill(buffer.dtype, buffer.elements, &mut rng)).collect();
    // A permutation, so that stores through it are independent.
    let mut positions: Vec<_> = (0..recipe.inner as i128).map(Scalar::Int).collect();
    for last in (1..recipe.inner).rev() {
        positions.swap(last, rng.random_range(0..=last));
    }
    expected[2] = Array::new(DType::I32, positions);
    let mut got = expected.clone();
    evaluate(&kernel, &mut expected, &kernel.full_ranges());
    // Any cover of the index space is the same: here in parts, the later ones first.
    let features = Features::ALL[(recipe.seed % 4) as usize];
    let (half, split) = (recipe.outer / 2, recipe.inner * 3 / 5);
    for rows in [(half, recipe.outer), (0, half)] {
        match recipe.ranged {
            true => {
                run(&kernel, &mut got, &[rows, (split, recipe.inner)], features);
                run(&kernel, &mut got, &[rows, (0, split)], features);
            }
            false => run(&kernel, &mut got, &[rows], features),
        }
    }
    for (buffer, (expected, got)) in expected.iter().zip(&got).enumerate() {
        // Narrow inputs round results of a chain to few digits; the widest epsilon on the way is the tolerance's.
        let narrow = [recipe.input, recipe.second, recipe.output, DType::BF16];
        let dtype = match expected.dtype.is_float() {
            true => {
                narrow.into_iter().max_by(|a, b| a.epsilon().total_cmp(&b.epsilon())).expect("four dtypes")
            }
            false => expected.dtype,
        };
        for (position, (a, b)) in expected.values.iter().zip(&got.values).enumerate() {
            let (a, b) = (a.to_f64(), b.to_f64());
            let agrees = tolerance::agree(a, b, 1.0, dtype, recipe.inner.max(recipe.reduced));
            assert!(
                agrees,
                "buffer {buffer} at {position}: {a} evaluated, {b} compiled\n{recipe:?}\n{kernel}"
            );
        }
    }
}

fn seed_bytes(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compiled_is_evaluated(recipe in recipe()) {
        check(&recipe);
    }
}
