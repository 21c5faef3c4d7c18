//! Measures convolutions against the machine's peak, layer by layer:
//! `cargo run --release -p thalweg-kernels --example layers -- [threads] [batch] [filter] [avx512|avx2|portable] [planes|blocks|winograd]`.
//!
//! Prints for every layer shape of ResNet-50, and some of MobileNet, the shortest time of each direction and the fraction
//! of the peak of multiplications and additions that it amounts to, counting those of the plain algorithm: a Winograd
//! transform may exceed it. Weights are packed ahead in the forward direction, as they are when a plan keeps them.

#![allow(clippy::print_stdout, reason = "a measurement is its output")]

mod measure;

use measure::{best, peak};
use thalweg_kernels::{Algorithm, Convolution, DType, Direction, Isa, ThreadPool};

/// A layer: name, channels in and out, groups, input, window, stride, and how often ResNet-50 has it.
type Layer = (&'static str, usize, usize, usize, usize, usize, usize, usize);

const LAYERS: [Layer; 27] = [
    ("stem", 3, 64, 1, 224, 7, 2, 1),
    ("2 first", 64, 64, 1, 56, 1, 1, 1),
    ("2 reduce", 256, 64, 1, 56, 1, 1, 2),
    ("2 middle", 64, 64, 1, 56, 3, 1, 3),
    ("2 expand", 64, 256, 1, 56, 1, 1, 4),
    ("3 first", 256, 128, 1, 56, 1, 1, 1),
    ("3 strided", 128, 128, 1, 56, 3, 2, 1),
    ("3 shortcut", 256, 512, 1, 56, 1, 2, 1),
    ("3 reduce", 512, 128, 1, 28, 1, 1, 3),
    ("3 middle", 128, 128, 1, 28, 3, 1, 3),
    ("3 expand", 128, 512, 1, 28, 1, 1, 4),
    ("4 first", 512, 256, 1, 28, 1, 1, 1),
    ("4 strided", 256, 256, 1, 28, 3, 2, 1),
    ("4 shortcut", 512, 1024, 1, 28, 1, 2, 1),
    ("4 reduce", 1024, 256, 1, 14, 1, 1, 5),
    ("4 middle", 256, 256, 1, 14, 3, 1, 5),
    ("4 expand", 256, 1024, 1, 14, 1, 1, 6),
    ("5 first", 1024, 512, 1, 14, 1, 1, 1),
    ("5 strided", 512, 512, 1, 14, 3, 2, 1),
    ("5 shortcut", 1024, 2048, 1, 14, 1, 2, 1),
    ("5 reduce", 2048, 512, 1, 7, 1, 1, 2),
    ("5 middle", 512, 512, 1, 7, 3, 1, 2),
    ("5 expand", 512, 2048, 1, 7, 1, 1, 3),
    ("groups of 4", 4, 4, 32, 56, 3, 1, 0),
    ("groups of 16", 16, 16, 32, 14, 3, 1, 0),
    ("depthwise", 1, 1, 96, 56, 3, 1, 0),
    ("depthwise strided", 1, 1, 96, 56, 3, 2, 0),
];

/// Measures one direction of a layer; returns seconds.
fn measure(layer: Layer, direction: Direction, batch: usize, isa: Isa, pool: &ThreadPool, peak: f64) -> f64 {
    let (name, ci, co, groups, size, window, stride, _) = layer;
    let pad = window / 2;
    let output = (size + 2 * pad - window) / stride + 1;
    let convolution = Convolution {
        direction,
        batch,
        groups,
        in_channels: ci,
        out_channels: co,
        input: vec![size; 2],
        kernel: vec![window; 2],
        output: vec![output; 2],
        stride: vec![stride; 2],
        dilation: vec![1; 2],
        pad_low: vec![pad as isize; 2],
        dtype: DType::F32,
    };
    let algorithm = match std::env::args().nth(5).as_deref() {
        Some("planes") => Some(Algorithm::Planes),
        Some("blocks") => Some(Algorithm::Blocks),
        Some("winograd") => Some(Algorithm::Winograd),
        _ => None,
    };
    let forced = algorithm.and_then(|algorithm| convolution.prepare_with(algorithm, isa, pool.threads()));
    let prepared = forced.unwrap_or_else(|| convolution.prepare(isa, pool.threads()));
    let x = vec![0.5_f32; batch * groups * ci * size * size];
    let w = vec![0.5_f32; groups * co * ci * window * window];
    let y = vec![0.5_f32; batch * groups * co * output * output];
    let (a, b, target) = match direction {
        Direction::Forward => (&x, &w, y.len()),
        Direction::InputGradient => (&w, &y, x.len()),
        Direction::WeightGradient => (&x, &y, w.len()),
    };
    let mut c = vec![0.0_f32; target];
    let mut workspace = vec![0_u8; prepared.workspace_bytes()];
    let ahead = if direction == Direction::Forward { prepared.packed_weights_bytes() } else { None };
    let mut packed = vec![0_u64; ahead.unwrap_or(0) / 8 + 8];
    let packed = packed.as_mut_ptr().cast::<u8>();
    let packed = packed.wrapping_add(packed.align_offset(64));
    if ahead.is_some() {
        // SAFETY: the buffer has the size asked for.
        unsafe { prepared.pack_weights(pool, w.as_ptr().cast(), packed) };
    }
    // SAFETY: the buffers are the tensors described.
    let seconds = best(|| unsafe {
        let (a, b, c) = (a.as_ptr().cast(), b.as_ptr().cast(), c.as_mut_ptr().cast());
        match ahead {
            Some(_) => prepared.run_packed(pool, packed, a, c, workspace.as_mut_ptr(), None),
            None => prepared.run(pool, a, b, c, workspace.as_mut_ptr(), None),
        }
    });
    let rate = prepared.flops() as f64 / seconds;
    println!(
        "{:32} {:9.1} us {:7.1} GFLOP/s {:5.1} %",
        format!("{name} {direction:?}"),
        seconds * 1e6,
        rate / 1e9,
        100.0 * rate / peak
    );
    seconds
}

fn main() {
    let word = |index: usize| std::env::args().nth(index).unwrap_or_default();
    let threads = word(1).parse().unwrap_or(2);
    let batch = word(2).parse().unwrap_or(1);
    let filter = word(3);
    let isa = match word(4).as_str() {
        "avx2" => Isa::Avx2,
        "portable" => Isa::Portable,
        _ => Isa::detect(),
    };
    let one = peak(isa);
    println!("{isa:?}: {:.1} GFLOP/s on one core; {threads} threads, batch {batch}", one / 1e9);
    let pool = ThreadPool::new(threads);
    for direction in [Direction::Forward, Direction::InputGradient, Direction::WeightGradient] {
        let mut total = 0.0;
        for layer in LAYERS {
            if format!("{} {direction:?}", layer.0).contains(&filter) {
                let seconds = measure(layer, direction, batch, isa, &pool, one * threads as f64);
                total += layer.7 as f64 * seconds;
            }
        }
        println!("ResNet-50 {direction:?}: {:.2} ms", total * 1e3);
    }
}
