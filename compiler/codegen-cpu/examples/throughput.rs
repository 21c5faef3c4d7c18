//! Compile time of small kernels and throughput of `gelu(x * w + b)` and of a row softmax's exponentials, in cache.

use std::hint::black_box;
use std::time::Instant;
use thalweg_base::{DType, PointwiseFn as F};
use thalweg_codegen_cpu::{Code, Target, compile, compile_with_disassembly};
use thalweg_kernel::{Access, Carry, Index, Kernel, KernelBuilder, cpu_abi::helper_table};

const COUNT: usize = 4096;

fn gelu(lanes: u32, tanh: bool) -> Kernel {
    let mut b = KernelBuilder::new(if tanh { "gelu_tanh" } else { "gelu_erf" });
    let [x, w, bias] = [(); 3].map(|()| b.buffer(DType::F32, COUNT, Access::Read));
    let y = b.buffer(DType::F32, COUNT, Access::Write);
    let i = b.range(COUNT, lanes);
    let [x, w, bias] = [x, w, bias].map(|buffer| b.load(buffer, Index::var(i)));
    let z = b.apply(F::MulAdd, &[x, w, bias]);
    let one = b.f32(1.0);
    let half = b.f32(0.5);
    let inner = if tanh {
        let scale = b.f32((2.0 / std::f32::consts::PI).sqrt());
        let cubic = b.f32(0.044715);
        let square = b.apply(F::Mul, &[z, z]);
        let factor = b.apply(F::MulAdd, &[square, cubic, one]);
        let scaled = b.apply(F::Mul, &[z, scale]);
        let argument = b.apply(F::Mul, &[scaled, factor]);
        b.apply(F::Tanh, &[argument])
    } else {
        let scale = b.f32(std::f32::consts::FRAC_1_SQRT_2);
        let argument = b.apply(F::Mul, &[z, scale]);
        b.apply(F::Erf, &[argument])
    };
    let sum = b.apply(F::Add, &[inner, one]);
    let halved = b.apply(F::Mul, &[z, half]);
    let result = b.apply(F::Mul, &[halved, sum]);
    b.store(y, Index::var(i), result);
    b.finish()
}

/// Rows of 1024: maximum, exponentials with their sum, division.
fn softmax(lanes: u32) -> Kernel {
    let (rows, columns) = (COUNT / 1024, 1024);
    let mut b = KernelBuilder::new("softmax");
    let x = b.buffer(DType::F32, COUNT, Access::Read);
    let [_, _] = [(); 2].map(|()| b.buffer(DType::F32, COUNT, Access::Read));
    let y = b.buffer(DType::F32, COUNT, Access::ReadWrite);
    let row = b.range(rows, 1);
    let at = |column| Index::var(column).plus(row, columns as i64);
    let low = b.f32(f32::NEG_INFINITY);
    let zero = b.f32(0.0);
    let maximum = b.loop_(columns, lanes, &[Carry::reduce(low, F::Max)], |b, column, phis| {
        let value = b.load(x, at(column));
        vec![b.apply(F::Max, &[phis[0], value])]
    });
    let sum = b.loop_(columns, lanes, &[Carry::reduce(zero, F::Add)], |b, column, phis| {
        let value = b.load(x, at(column));
        let shifted = b.apply(F::Sub, &[value, maximum[0]]);
        let power = b.apply(F::Exp, &[shifted]);
        b.store(y, at(column), power);
        vec![b.apply(F::Add, &[phis[0], power])]
    });
    let one = b.f32(1.0);
    let scale = b.apply(F::Div, &[one, sum[0]]);
    b.loop_(columns, lanes, &[], |b, column, _| {
        let value = b.load(y, at(column));
        let scaled = b.apply(F::Mul, &[value, scale]);
        b.store(y, at(column), scaled);
        Vec::new()
    });
    b.finish()
}

fn target() -> Target {
    #[cfg(target_arch = "x86_64")]
    let features = ["sse4.1", "avx", "avx2", "fma"].map(String::from).to_vec();
    #[cfg(not(target_arch = "x86_64"))]
    let features = Vec::new();
    Target::host(&features)
}

#[allow(clippy::print_stdout, reason = "an example prints what it measures")]
fn measure(kernel: &Kernel, label: &str) {
    let code: Code = compile(kernel, &target()).expect("a kernel that compiles");
    let started = Instant::now();
    let repeats = 20;
    for _ in 0..repeats {
        black_box(compile(black_box(kernel), &target()).expect("a kernel that compiles"));
    }
    let compile_ms = started.elapsed().as_secs_f64() * 1e3 / repeats as f64;

    let mut memory = memmap2::MmapMut::map_anon(code.bytes.len()).expect("memory for code");
    memory[..].copy_from_slice(&code.bytes);
    let memory = memory.make_exec().expect("executable memory");
    // SAFETY: the compiler made the code for this signature.
    let entry: extern "C" fn(*const *mut u8, *const i64) = unsafe { std::mem::transmute(memory.as_ptr()) };
    let mut buffers: Vec<Vec<f32>> = (0..4)
        .map(|k| (0..COUNT).map(|i| ((i * 37 + k * 101) % 997) as f32 / 200.0 - 2.5).collect())
        .collect();
    let helpers = helper_table();
    let mut addresses: Vec<*mut u8> = buffers.iter_mut().map(|buffer| buffer.as_mut_ptr().cast()).collect();
    addresses.push(helpers.as_ptr().cast_mut().cast());
    let hi = kernel.ranges[0].extent as i64;
    let ranges = [0i64, hi];
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let started = Instant::now();
        for _ in 0..200 {
            entry(black_box(addresses.as_ptr()), ranges.as_ptr());
        }
        best = best.min(started.elapsed().as_secs_f64() / 200.0);
    }
    black_box(&buffers);
    println!(
        "{:10} {label:12} {:7.0} M elements/s   compile {compile_ms:.3} ms   {} bytes",
        kernel.name,
        COUNT as f64 / best / 1e6,
        code.bytes.len()
    );
}

#[allow(clippy::print_stdout, reason = "an example prints what it measures")]
fn main() {
    if std::env::args().any(|argument| argument == "--asm") {
        let code = compile_with_disassembly(&gelu(8, true), &target()).expect("a kernel that compiles");
        println!("{}", code.disassembly.expect("asked for"));
        return;
    }
    for lanes in [1, 4, 8, 16] {
        let label = format!("{lanes} lanes");
        measure(&gelu(lanes, true), &label);
        measure(&gelu(lanes, false), &label);
        measure(&softmax(lanes), &label);
    }
}
