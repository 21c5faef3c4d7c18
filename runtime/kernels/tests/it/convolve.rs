//! Convolutions against the relation that defines them.

use thalweg_kernels::{Algorithm, Convolution, DType, Direction, Isa, ThreadPool};

use crate::support::{Buffer, Coverage, Random, accumulate, close, zero};

/// Every (offset in x, offset in w, offset in y) that the relation names.
fn triples(c: &Convolution) -> Vec<(usize, usize, usize)> {
    let flat = |index: &[usize], extents: &[usize]| {
        index.iter().zip(extents).fold(0, |at, (i, extent)| at * extent + i)
    };
    let all = |extents: &[usize]| {
        let mut all = vec![vec![]];
        for &extent in extents {
            all = all
                .iter()
                .flat_map(|index: &Vec<usize>| (0..extent).map(move |i| [&index[..], &[i]].concat()))
                .collect();
        }
        all
    };
    let (x_size, y_size): (usize, usize) = (c.input.iter().product(), c.output.iter().product());
    let taps: usize = c.kernel.iter().product();
    let mut spatial = Vec::new();
    for p in all(&c.output) {
        for t in all(&c.kernel) {
            let at: Option<Vec<usize>> = (0..p.len())
                .map(|d| {
                    let at = (p[d] * c.stride[d] + t[d] * c.dilation[d]) as isize - c.pad_low[d];
                    usize::try_from(at).ok().filter(|&at| at < c.input[d])
                })
                .collect();
            if let Some(at) = at {
                spatial.push((flat(&at, &c.input), flat(&t, &c.kernel), flat(&p, &c.output)));
            }
        }
    }
    let mut triples = Vec::new();
    for b in 0..c.batch {
        for g in 0..c.groups {
            for o in 0..c.out_channels {
                for i in 0..c.in_channels {
                    for &(x, w, y) in &spatial {
                        triples.push((
                            (b * c.groups * c.in_channels + g * c.in_channels + i) * x_size + x,
                            ((g * c.out_channels + o) * c.in_channels + i) * taps + w,
                            (b * c.groups * c.out_channels + g * c.out_channels + o) * y_size + y,
                        ));
                    }
                }
            }
        }
    }
    triples
}

/// The algorithms that can compute a convolution.
fn algorithms(convolution: &Convolution) -> Vec<Algorithm> {
    [Algorithm::Planes, Algorithm::Blocks, Algorithm::Winograd]
        .into_iter()
        .filter(|algorithm| convolution.prepare_with(*algorithm, Isa::Portable, 1).is_some())
        .collect()
}

/// Runs all three directions in every way and compares each element.
fn check(convolution: &Convolution, seed: u64) {
    let dtype = convolution.dtype;
    let c = convolution;
    let (x_size, y_size): (usize, usize) = (c.input.iter().product(), c.output.iter().product());
    let taps: usize = c.kernel.iter().product();
    let lengths = [
        c.batch * c.groups * c.in_channels * x_size,
        c.groups * c.out_channels * c.in_channels * taps,
        c.batch * c.groups * c.out_channels * y_size,
    ];
    let mut random = Random(seed);
    let [mut x, mut w, mut y] = lengths.map(|len| Buffer::random(dtype, len, &mut random));
    let triples = triples(c);
    for direction in [Direction::Forward, Direction::InputGradient, Direction::WeightGradient] {
        let convolution = Convolution { direction, ..convolution.clone() };
        let (target, extents, terms) = match direction {
            Direction::Forward => (2, [c.batch * c.groups, c.out_channels, y_size], c.in_channels * taps),
            Direction::InputGradient => {
                (0, [c.batch * c.groups, c.in_channels, x_size], c.out_channels * taps)
            }
            Direction::WeightGradient => {
                (1, [c.groups, c.out_channels, c.in_channels * taps], c.batch * y_size)
            }
        };
        let mut want = vec![zero(dtype); lengths[target]];
        for &(in_x, in_w, in_y) in &triples {
            let (at, left, right) = match direction {
                Direction::Forward => (in_y, x.get(in_x), w.get(in_w)),
                Direction::InputGradient => (in_x, w.get(in_w), y.get(in_y)),
                Direction::WeightGradient => (in_w, x.get(in_x), y.get(in_y)),
            };
            want[at] = accumulate(want[at], left, right);
        }
        let (a, b) = match direction {
            Direction::Forward => (x.ptr(), w.ptr()),
            Direction::InputGradient => (w.ptr(), y.ptr()),
            Direction::WeightGradient => (x.ptr(), y.ptr()),
        };
        for algorithm in algorithms(&convolution) {
            for isa in Isa::available() {
                for threads in [1, 2] {
                    let pool = ThreadPool::new(threads);
                    let prepared = convolution.prepare_with(algorithm, isa, threads).expect("it can");
                    for packed in [false, true] {
                        let mut got = Buffer::poison(dtype, lengths[target]);
                        let mut workspace = vec![0xA5_u8; prepared.workspace_bytes()];
                        let coverage = Coverage::new(extents[0], extents[1], extents[2]);
                        let epilogue = Some(coverage.epilogue());
                        let (to, workspace) = (got.ptr(), workspace.as_mut_ptr());
                        match prepared.packed_weights_bytes() {
                            Some(bytes) if packed => {
                                let mut weights = vec![0_u64; bytes.div_ceil(8)];
                                let other = if direction == Direction::Forward { a } else { b };
                                // SAFETY: the buffers are the tensors described, and the others have the sizes asked for.
                                unsafe {
                                    prepared.pack_weights(&pool, w.ptr(), weights.as_mut_ptr().cast());
                                    let weights = weights.as_ptr().cast();
                                    prepared.run_packed(&pool, weights, other, to, workspace, epilogue);
                                }
                            }
                            // SAFETY: as above.
                            Some(_) | None => unsafe { prepared.run(&pool, a, b, to, workspace, epilogue) },
                        }
                        coverage.check();
                        for (at, want) in want.iter().enumerate() {
                            let got = got.get(at);
                            assert!(
                                close(dtype, terms, got, *want),
                                "{algorithm:?} {isa:?} {threads} packed {packed} at {at}: {got:?}, not {want:?}\n\
                                 {convolution:?}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// A convolution with equal extents along each of `axes` spatial axes.
fn even(
    axes: usize,
    channels: (usize, usize),
    input: usize,
    kernel: usize,
    stride: usize,
    pad: isize,
) -> Convolution {
    let output = (input + 2 * pad as usize - kernel) / stride + 1;
    Convolution {
        direction: Direction::Forward,
        batch: 2,
        groups: 1,
        in_channels: channels.0,
        out_channels: channels.1,
        input: vec![input; axes],
        kernel: vec![kernel; axes],
        output: vec![output; axes],
        stride: vec![stride; axes],
        dilation: vec![1; axes],
        pad_low: vec![pad; axes],
        dtype: DType::F32,
    }
}

fn random_convolution(dtype: DType, random: &mut Random) -> Convolution {
    let axes = 1 + random.below(3);
    let largest = [40, 12, 6][axes - 1];
    let depthwise = random.below(4) == 0;
    let mut list = |low: usize, high: usize| -> Vec<usize> {
        (0..axes).map(|_| low + random.below(high - low + 1)).collect()
    };
    let (input, kernel, stride, dilation) = (list(1, largest), list(1, 4), list(1, 3), list(1, 2));
    let (low, high) = (list(0, 4), list(0, 3));
    let pad_low: Vec<isize> = low.iter().map(|&pad| pad as isize - 1).collect();
    let output = (0..axes)
        .map(|d| {
            let padded =
                input[d] as isize + pad_low[d] + high[d] as isize - ((kernel[d] - 1) * dilation[d]) as isize;
            if padded > 0 { (padded as usize - 1) / stride[d] + 1 } else { 0 }
        })
        .collect();
    Convolution {
        direction: Direction::Forward,
        batch: 1 + random.below(3),
        groups: 1 + random.below(3),
        in_channels: if depthwise { 1 } else { 1 + random.below(5) },
        out_channels: if depthwise { 1 } else { 1 + random.below(20) },
        input,
        kernel,
        output,
        stride,
        dilation,
        pad_low,
        dtype,
    }
}

#[test]
fn random_windows() {
    let mut random = Random(11);
    for round in 0..200 {
        check(&random_convolution(DType::F32, &mut random), round);
    }
}

#[test]
fn every_type() {
    let mut random = Random(12);
    for dtype in
        [DType::F64, DType::F16, DType::Bf16, DType::I32, DType::I64, DType::I16, DType::I8, DType::U8]
    {
        for round in 0..12 {
            check(&random_convolution(dtype, &mut random), round);
        }
    }
}

#[test]
fn usual_layers() {
    check(&even(2, (3, 8), 32, 7, 2, 3), 1);
    check(&even(2, (16, 24), 14, 3, 1, 1), 2);
    check(&even(2, (20, 40), 9, 1, 1, 0), 3);
    check(&even(2, (20, 14), 9, 1, 2, 0), 4);
    check(&even(1, (40, 30), 50, 5, 1, 2), 5);
    check(&even(3, (4, 6), 8, 3, 1, 1), 6);
    check(&Convolution { groups: 40, ..even(2, (1, 1), 40, 3, 1, 1) }, 7);
    check(&Convolution { groups: 40, ..even(2, (1, 1), 23, 5, 2, 2) }, 8);
    // A plane too large to be buffered whole.
    check(&Convolution { batch: 1, groups: 2, ..even(1, (1, 1), 70_000, 3, 1, 1) }, 8);
    check(&Convolution { groups: 3, ..even(2, (4, 5), 10, 3, 1, 1) }, 9);
}

/// Windows of 3 by 3 of every remainder of division by the tiles, with padding of every kind.
#[test]
fn transforms() {
    let mut random = Random(13);
    for (round, (dtype, channels, extent)) in [
        (DType::F32, (16, 32), [8, 8]),
        (DType::F32, (17, 33), [7, 14]),
        (DType::F32, (40, 20), [13, 3]),
        (DType::F32, (20, 70), [30, 6]),
        (DType::Bf16, (18, 16), [5, 9]),
    ]
    .into_iter()
    .enumerate()
    {
        let pad_low = [0, 1].map(|_| random.below(4) as isize - 1);
        let output = [0, 1].map(|axis| (extent[axis] as isize + pad_low[axis] - 1).max(1) as usize);
        let convolution = Convolution {
            input: extent.to_vec(),
            output: output.to_vec(),
            pad_low: pad_low.to_vec(),
            dtype,
            ..even(2, channels, 8, 3, 1, 1)
        };
        assert!(algorithms(&convolution).contains(&Algorithm::Winograd), "{convolution:?}");
        check(&convolution, round as u64);
    }
}

/// How far the transforms are from plain sums: what the documentation of the algorithm states.
#[test]
fn transforms_are_accurate() {
    for (channels, bound) in [(64, 1.5e-6), (256, 2.5e-6)] {
        let convolution = Convolution { batch: 1, ..even(2, (channels, 32), 28, 3, 1, 1) };
        let mut random = Random(14);
        let mut x = Buffer::random(DType::F32, channels * 28 * 28, &mut random);
        let mut w = Buffer::random(DType::F32, 32 * channels * 9, &mut random);
        let exact = {
            let wide = Convolution { dtype: DType::F64, ..convolution.clone() };
            let widen = |buffer: &Buffer, len: usize| -> Vec<f64> {
                (0..len).map(|at| buffer.get(at).float()).collect()
            };
            let (x, w) = (widen(&x, channels * 28 * 28), widen(&w, 32 * channels * 9));
            let prepared = wide.prepare(Isa::detect(), 1);
            let mut workspace = vec![0_u8; prepared.workspace_bytes()];
            let mut y = vec![0.0_f64; 32 * 28 * 28];
            let (x, w, to) = (x.as_ptr().cast(), w.as_ptr().cast(), y.as_mut_ptr().cast());
            // SAFETY: the buffers are the tensors described.
            unsafe { prepared.run(&ThreadPool::new(1), x, w, to, workspace.as_mut_ptr(), None) };
            y
        };
        let largest = exact.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        for isa in Isa::available() {
            let prepared = convolution.prepare_with(Algorithm::Winograd, isa, 1).expect("it can");
            let mut workspace = vec![0_u8; prepared.workspace_bytes()];
            let mut y = Buffer::poison(DType::F32, 32 * 28 * 28);
            let workspace = workspace.as_mut_ptr();
            // SAFETY: the buffers are the tensors described.
            unsafe { prepared.run(&ThreadPool::new(1), x.ptr(), w.ptr(), y.ptr(), workspace, None) };
            let error = exact
                .iter()
                .enumerate()
                .fold(0.0_f64, |error, (at, want)| error.max((y.get(at).float() - want).abs()));
            assert!(error <= bound * largest, "{isa:?} {channels}: {:e} of the largest", error / largest);
        }
    }
}

#[test]
fn nothing_to_do() {
    check(&Convolution { batch: 0, ..even(2, (3, 4), 5, 3, 1, 1) }, 1);
    check(&Convolution { in_channels: 0, ..even(2, (3, 4), 5, 3, 1, 1) }, 2);
    check(&Convolution { groups: 0, ..even(2, (1, 1), 5, 3, 1, 1) }, 3);
    check(&Convolution { output: vec![0, 5], ..even(2, (3, 4), 5, 3, 1, 1) }, 4);
    check(&Convolution { output: vec![0, 5], ..even(2, (1, 1), 5, 3, 1, 1) }, 5);
}
