//! Contractions against a loop over every index.

use thalweg_kernels::{Axis, Contraction, DType, Isa, ThreadPool};

use crate::support::{Buffer, Coverage, Random, Value, accumulate, close, zero};

const ALL: [DType; 9] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::Bf16,
    DType::I32,
    DType::I64,
    DType::I16,
    DType::I8,
    DType::U8,
];

/// Which operand is packed ahead.
#[derive(Clone, Copy, Debug)]
enum Packing {
    None,
    A,
    B,
}

/// The offsets of a group's indices in one operand, the last axis fastest.
fn offsets(axes: &[Axis], stride: fn(&Axis) -> isize) -> Vec<isize> {
    let mut all = vec![0];
    for axis in axes {
        all =
            all.iter().flat_map(|at| (0..axis.extent as isize).map(move |i| at + i * stride(axis))).collect();
    }
    all
}

/// The lowest and the highest offset of some groups together.
fn bounds(groups: &[&[isize]]) -> (isize, isize) {
    groups.iter().fold((0, 0), |(low, high), group| {
        (low + group.iter().min().copied().unwrap_or(0), high + group.iter().max().copied().unwrap_or(0))
    })
}

/// Runs the contraction in every way and compares each element; also that nothing else of C is written.
fn check(contraction: &Contraction, seed: u64) {
    check_with(contraction, seed, false);
}

/// As `check`; when `rounded`, operands may be rounded to bfloat16, which the numbers drawn already are: nothing is lost then, and
/// the tolerance is that of the sum.
fn check_with(contraction: &Contraction, seed: u64, rounded: bool) {
    let dtype = contraction.dtype;
    let [ab, ak, am] = [&contraction.batch, &contraction.k, &contraction.m]
        .map(|group| offsets(group, |axis| axis.stride_a));
    let [bb, bk, bn] = [&contraction.batch, &contraction.k, &contraction.n]
        .map(|group| offsets(group, |axis| axis.stride_b));
    let [cb, cm, cn] = [&contraction.batch, &contraction.m, &contraction.n]
        .map(|group| offsets(group, |axis| axis.stride_c));
    let (a_bounds, b_bounds, c_bounds) =
        (bounds(&[&ab, &ak, &am]), bounds(&[&bb, &bk, &bn]), bounds(&[&cb, &cm, &cn]));
    let len = |(low, high): (isize, isize)| (high - low + 1) as usize;
    let mut random = Random(seed);
    let [a_dtype, b_dtype] = contraction.operands.unwrap_or([dtype; 2]);
    let mut a = Buffer::random(a_dtype, len(a_bounds), &mut random);
    let mut b = Buffer::random(b_dtype, len(b_bounds), &mut random);
    if rounded {
        a.round();
        b.round();
    }
    let start = |buffer: &mut Buffer, (low, _): (isize, isize), dtype: DType| {
        buffer.ptr().wrapping_offset(-low * dtype.bytes() as isize)
    };
    let (a_ptr, b_ptr) = (start(&mut a, a_bounds, a_dtype), start(&mut b, b_bounds, b_dtype));
    let empty = Buffer::poison(dtype, 1).get(0);
    let mut want = vec![None; len(c_bounds)];
    for (x, c_batch) in cb.iter().enumerate() {
        for (i, c_row) in cm.iter().enumerate() {
            for (j, c_column) in cn.iter().enumerate() {
                let sum = ak.iter().zip(&bk).fold(zero(dtype), |sum, (in_a, in_b)| {
                    let left = a.get((ab[x] + am[i] + in_a - a_bounds.0) as usize);
                    accumulate(sum, left, b.get((bb[x] + bn[j] + in_b - b_bounds.0) as usize))
                });
                want[(c_batch + c_row + c_column - c_bounds.0) as usize] = Some(sum);
            }
        }
    }
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            let pool = ThreadPool::new(threads);
            for packed in [Packing::None, Packing::A, Packing::B] {
                let prepared = if rounded {
                    contraction.prepare_rounded(isa, threads, matches!(packed, Packing::B))
                } else {
                    contraction.prepare(isa, threads)
                };
                let mut c = Buffer::poison(dtype, len(c_bounds));
                let c_ptr = start(&mut c, c_bounds, dtype);
                let mut workspace = vec![0xA5_u8; prepared.workspace_bytes()];
                let coverage = Coverage::new(cb.len(), cm.len(), cn.len());
                let epilogue = Some(coverage.epilogue());
                // SAFETY: the buffers cover every offset of the operands, and the workspace has the size asked for.
                unsafe {
                    let work = workspace.as_mut_ptr();
                    match packed {
                        Packing::None => prepared.run(&pool, a_ptr, b_ptr, c_ptr, work, epilogue),
                        Packing::A => {
                            let mut words = vec![0_u64; prepared.packed_a_bytes().div_ceil(8)];
                            prepared.pack_a_with(&pool, a_ptr, words.as_mut_ptr().cast());
                            let packed_a = words.as_ptr().cast();
                            prepared.run_packed_a(&pool, packed_a, b_ptr, c_ptr, work, epilogue);
                        }
                        Packing::B => {
                            let mut words = vec![0_u64; prepared.packed_b_bytes().div_ceil(8)];
                            prepared.pack_b_with(&pool, b_ptr, words.as_mut_ptr().cast());
                            let packed_b = words.as_ptr().cast();
                            prepared.run_packed_b(&pool, a_ptr, packed_b, c_ptr, work, epilogue);
                        }
                    }
                }
                coverage.check();
                for (at, want) in want.iter().enumerate() {
                    let got = c.get(at);
                    let fine = match want {
                        Some(want) => close(dtype, ak.len(), got, *want),
                        None => match (got, empty) {
                            (Value::Float(got), Value::Float(_)) => got.is_nan(),
                            _ => got == empty,
                        },
                    };
                    assert!(
                        fine,
                        "{isa:?} {threads} packed {packed:?} at {at}: {got:?}, not {want:?}\n{contraction:?}"
                    );
                }
            }
        }
    }
}

/// Lays out one operand: the axes of `extents` in random order, with gaps, perhaps reversed, perhaps broadcast.
fn strides(extents: &[usize], random: &mut Random, broadcast: bool) -> Vec<isize> {
    let mut order: Vec<usize> = (0..extents.len()).collect();
    // Row-major order often enough, since merged axes take other paths.
    if random.below(3) > 0 {
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i + 1));
        }
    }
    let mut strides = vec![0; extents.len()];
    let mut step = if random.below(8) == 0 { 2 } else { 1 };
    for &axis in order.iter().rev() {
        if broadcast && random.below(8) == 0 {
            continue;
        }
        strides[axis] = if random.below(12) == 0 { -step } else { step };
        step *= extents[axis].max(1) as isize;
        if random.below(6) == 0 {
            step += random.below(3) as isize;
        }
    }
    strides
}

/// A contraction with one to two axes in each group.
fn random_contraction(dtype: DType, limits: [usize; 4], random: &mut Random) -> Contraction {
    let mut groups = limits.map(|limit| {
        let axes = if limit > 1 { random.below(3) } else { 0 };
        let mut left = limit;
        let mut extents = Vec::new();
        for _ in 0..axes {
            let extent = random.below(left) + 1;
            left = (left / extent).max(1);
            extents.push(extent);
        }
        extents
    });
    if random.below(3) == 0 {
        // Long axes reach the regular tiles and several blocks.
        let group = 1 + random.below(3);
        groups[group] = vec![limits[group].max(1)];
    }
    let [batch, m, n, k] = &groups;
    let a = strides(&[&batch[..], m, k].concat(), random, true);
    let b = strides(&[&batch[..], k, n].concat(), random, true);
    let c = strides(&[&batch[..], m, n].concat(), random, false);
    let axis = |extent: usize, stride_a: isize, stride_b: isize, stride_c: isize| Axis {
        extent,
        stride_a,
        stride_b,
        stride_c,
    };
    let (x, y) = (batch.len(), batch.len() + m.len());
    Contraction {
        batch: batch.iter().enumerate().map(|(i, &e)| axis(e, a[i], b[i], c[i])).collect(),
        m: m.iter().enumerate().map(|(i, &e)| axis(e, a[x + i], 0, c[x + i])).collect(),
        n: n.iter().enumerate().map(|(i, &e)| axis(e, 0, b[x + k.len() + i], c[y + i])).collect(),
        k: k.iter().enumerate().map(|(i, &e)| axis(e, a[y + i], b[x + i], 0)).collect(),
        dtype,
        operands: None,
    }
}

#[test]
fn matrices_of_every_tail() {
    for m in [1, 2, 5, 12, 13, 29] {
        for n in [1, 7, 16, 31, 32, 33, 70] {
            for k in [0, 1, 3, 8, 50] {
                check(&Contraction::matrices(m, n, k, DType::F32), 1);
            }
        }
    }
}

#[test]
fn several_blocks() {
    for (m, n, k) in [(150, 400, 530), (70, 40, 1000), (400, 700, 40), (3, 1500, 900)] {
        check(&Contraction::matrices(m, n, k, DType::F32), 2);
    }
    check(&Contraction::matrices(60, 130, 700, DType::F64), 2);
    check(&Contraction::matrices(60, 130, 700, DType::Bf16), 2);
}

/// A vector and a matrix whose rows are short, so that the sum is computed in pieces.
#[test]
fn pieces_of_a_sum() {
    for (m, n, k) in [(1, 700, 1030), (1, 90, 3001), (1000, 1, 600)] {
        let mut contraction = Contraction::matrices(m, n, k, DType::F32);
        if n == 1 {
            // The rows of A side by side: its transpose.
            contraction.m[0].stride_a = 1;
            contraction.k[0].stride_a = m as isize;
        }
        check(&contraction, 8);
        check(&Contraction { dtype: DType::Bf16, ..contraction }, 8);
    }
}

/// Narrow integers summed in `i32`, exactly: every pair of types, sums that end within a word, and the largest products.
#[test]
fn narrow_operands() {
    let types = [DType::U8, DType::I8, DType::I16];
    for a in types {
        for b in types {
            let narrow = |contraction: Contraction| Contraction { operands: Some([a, b]), ..contraction };
            for (m, n, k) in [(1, 1, 1), (1, 70, 33), (5, 7, 6), (13, 33, 64), (29, 32, 0), (40, 1, 19)] {
                let plain = narrow(Contraction::matrices(m, n, k, DType::I32));
                check(&plain, 9);
                let mut turned = plain;
                turned.n[0].stride_b = k as isize;
                turned.k[0].stride_b = 1;
                check(&turned, 10);
            }
            check(&narrow(Contraction::matrices(70, 300, 1700, DType::I32)), 11);
            let mut random = Random(12);
            for seed in 0..25 {
                let limits = [3, 40, 70, 60];
                check(&narrow(random_contraction(DType::I32, limits, &mut random)), seed);
            }
        }
    }
}

/// Operands that may be rounded to bfloat16, where terms are multiplied in pairs: odd sums, tails, several blocks.
#[test]
fn rounded_operands() {
    for m in [1, 5, 12, 29] {
        for n in [1, 7, 32, 70] {
            for k in [0, 1, 2, 9, 50] {
                check_with(&Contraction::matrices(m, n, k, DType::F32), 9, true);
            }
        }
    }
    for (m, n, k) in [(70, 200, 1701), (3, 700, 900), (1, 1500, 901)] {
        check_with(&Contraction::matrices(m, n, k, DType::F32), 9, true);
    }
    let mut random = Random(10);
    for round in 0..150 {
        let limits = random.pick(&[[4, 40, 80, 60], [3, 1, 200, 70], [3, 150, 1, 70], [1, 30, 30, 450]]);
        check_with(&random_contraction(DType::F32, limits, &mut random), round, true);
    }
}

/// What rounding does to numbers that need it: each operand is off by 2^-9 of itself at most.
#[test]
fn rounding_is_to_nearest() {
    let (m, n, k) = (13, 45, 77);
    let contraction = Contraction::matrices(m, n, k, DType::F32);
    let mut random = Random(11);
    let (mut a, mut b) =
        (Buffer::random(DType::F32, m * k, &mut random), Buffer::random(DType::F32, k * n, &mut random));
    for isa in Isa::available() {
        let prepared = contraction.prepare_rounded(isa, 1, false);
        let mut c = Buffer::poison(DType::F32, m * n);
        let mut workspace = vec![0_u8; prepared.workspace_bytes()];
        // SAFETY: the buffers are the matrices described, and the workspace has the size asked for.
        unsafe { prepared.run(&ThreadPool::new(1), a.ptr(), b.ptr(), c.ptr(), workspace.as_mut_ptr(), None) };
        let float = |buffer: &Buffer, at: usize| match buffer.get(at) {
            Value::Float(x) => x,
            Value::Int(_) => panic!("floats were drawn"),
        };
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let terms = (0..k).map(|l| float(&a, i * k + l) * float(&b, l * n + j));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
            let off = (float(&c, i * n + j) - sum).abs();
            assert!(off <= size * (2.0 / 512.0 + 1e-4), "{isa:?} ({i}, {j}): off by {off} of {size}");
        }
    }
}

#[test]
fn strided_operands() {
    let mut random = Random(3);
    for round in 0..250 {
        let limits = random.pick(&[
            [4, 40, 80, 60],
            [3, 1, 200, 70],
            [3, 150, 1, 70],
            [40, 9, 9, 9],
            [1, 30, 30, 450],
        ]);
        check(&random_contraction(DType::F32, limits, &mut random), round);
    }
}

#[test]
fn every_type() {
    let mut random = Random(4);
    for dtype in ALL {
        for round in 0..40 {
            let limits = random.pick(&[[3, 30, 70, 40], [2, 1, 150, 70], [2, 90, 1, 70]]);
            check(&random_contraction(dtype, limits, &mut random), round);
        }
    }
}

#[test]
fn nothing_to_do() {
    for (m, n, k) in [(0, 4, 4), (4, 0, 4), (0, 0, 0), (1, 0, 3), (0, 1, 3), (1, 1, 0), (1, 5, 0), (5, 1, 0)]
    {
        for dtype in ALL {
            check(&Contraction::matrices(m, n, k, dtype), 5);
        }
    }
    let mut empty = Contraction::matrices(4, 4, 4, DType::F32);
    empty.batch = vec![Axis { extent: 0, stride_a: 16, stride_b: 16, stride_c: 16 }];
    check(&empty, 5);
    check(
        &Contraction { batch: vec![], m: vec![], n: vec![], k: vec![], dtype: DType::F32, operands: None },
        5,
    );
}

#[test]
fn batches_share_threads() {
    let mut contraction = Contraction::matrices(20, 24, 16, DType::F32);
    contraction.batch = vec![Axis { extent: 37, stride_a: 320, stride_b: 384, stride_c: 480 }];
    check(&contraction, 6);
    contraction.batch[0].stride_b = 0;
    check(&contraction, 7);
}

#[test]
fn descriptions_are_data() {
    let contraction = Contraction::matrices(2, 3, 4, DType::Bf16);
    let text = serde_json::to_string(&contraction).expect("plain data");
    assert_eq!(serde_json::from_str::<Contraction>(&text).expect("its own text"), contraction);
    assert_eq!(contraction.flops(), 48);
}
