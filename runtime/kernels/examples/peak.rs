//! Measures the kernels against the machine's peak: `cargo run --release -p thalweg-kernels --example peak [threads]`.

#![allow(clippy::print_stdout, reason = "a measurement is its output")]

mod measure;

use measure::{best, peak};
use memmap2::MmapMut;
use thalweg_kernels::{Axis, Contraction, DType, Isa, ThreadPool};

/// Elements in huge pages, where the system has them: what a device's arena is made of.
struct Buffer {
    pages: MmapMut,
}

impl Buffer {
    fn new(elements: usize) -> Buffer {
        let mut pages = MmapMut::map_anon(elements * 4 + (2 << 20)).expect("memory for operands");
        #[cfg(target_os = "linux")]
        pages.advise(memmap2::Advice::HugePage).ok();
        for (index, word) in pages.chunks_exact_mut(4).enumerate() {
            word.copy_from_slice(&((index % 17) as f32 * 0.1 - 0.8).to_ne_bytes());
        }
        Buffer { pages }
    }

    fn at(&mut self) -> *mut u8 {
        self.pages.as_mut_ptr()
    }
}

/// Bytes of operands that no cache holds, for the cases called cold.
const COLD_BYTES: usize = 160 << 20;

/// A product to measure.
struct Case {
    name: String,
    contraction: Contraction,
    packed: bool,
    /// Whether each run takes another copy of B, so that B comes from memory as the weights of a model do.
    cold: bool,
    /// Whether operands may be rounded to bfloat16.
    rounded: bool,
}

impl Case {
    fn rounded(mut self) -> Case {
        self.name += " bf16";
        self.rounded = true;
        self
    }

    /// Operands of those types, summed in `i32`.
    fn narrow(mut self, a: DType, b: DType) -> Case {
        self.name += &format!(" {a:?} {b:?}");
        self.contraction.dtype = DType::I32;
        self.contraction.operands = Some([a, b]);
        self
    }

    fn cold(mut self) -> Case {
        self.name += " cold";
        self.cold = true;
        self
    }
}

fn case(name: &str, m: usize, n: usize, k: usize, packed: bool) -> Case {
    let kind = if packed { " packed" } else { "" };
    Case {
        name: format!("{name} {m}x{n}x{k}{kind}"),
        contraction: Contraction::matrices(m, n, k, DType::F32),
        packed,
        cold: false,
        rounded: false,
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in [64, 128, 256, 384, 512, 768, 1024, 1536, 2048] {
        cases.push(case("square", size, size, size, false));
    }
    for (m, n, k) in [(128, 768, 768), (128, 3072, 768), (128, 768, 3072), (1024, 3072, 768)] {
        cases.push(case("bert", m, n, k, false));
        cases.push(case("bert", m, n, k, true));
        cases.push(case("bert", m, n, k, true).cold());
        cases.push(case("bert", m, n, k, true).rounded());
        cases.push(case("bert", m, n, k, true).narrow(DType::U8, DType::I8));
        cases.push(case("bert", m, n, k, true).narrow(DType::I8, DType::I8));
    }
    // A weight stored as [out, in], which is how most frameworks keep it.
    let mut linear = case("bert B transposed", 128, 768, 3072, false);
    linear.contraction.n[0].stride_b = 3072;
    linear.contraction.k[0].stride_b = 1;
    cases.push(linear);
    let mut gradient = case("A transposed", 768, 768, 1024, false);
    gradient.contraction.m[0].stride_a = 1;
    gradient.contraction.k[0].stride_a = 768;
    cases.push(gradient);
    // Attention: twelve heads, eight sequences.
    let mut scores = case("96 x scores", 128, 128, 64, false);
    scores.contraction.batch = vec![Axis { extent: 96, stride_a: 8192, stride_b: 8192, stride_c: 16384 }];
    scores.contraction.n[0].stride_b = 64;
    scores.contraction.k[0].stride_b = 1;
    cases.push(scores);
    let mut values = case("96 x values", 128, 64, 128, false);
    values.contraction.batch = vec![Axis { extent: 96, stride_a: 16384, stride_b: 8192, stride_c: 8192 }];
    cases.push(values);
    let mut tiny = case("1000 x tiny", 8, 8, 8, false);
    tiny.contraction.batch = vec![Axis { extent: 1000, stride_a: 64, stride_b: 64, stride_c: 64 }];
    cases.push(tiny);
    for m in [2, 4, 8, 16, 32] {
        cases.push(case("few rows", m, 3072, 768, false));
        cases.push(case("few rows", m, 3072, 768, true));
    }
    cases.push(case("few columns", 3072, 8, 768, false));
    cases
}

fn measure(case: &Case, isa: Isa, pool: &ThreadPool, bytes: bool, peak: f64) {
    let prepared = match case.rounded {
        true => case.contraction.prepare_rounded(isa, pool.threads(), case.packed),
        false => case.contraction.prepare(isa, pool.threads()),
    };
    let elements = |groups: [&[Axis]; 3], stride: fn(&Axis) -> isize| {
        groups
            .iter()
            .flat_map(|group| group.iter())
            .map(|axis| (axis.extent - 1) * stride(axis) as usize)
            .sum::<usize>()
            + 1
    };
    let Contraction { batch, m, n, k, .. } = &case.contraction;
    let a_len = elements([batch, m, k], |axis| axis.stride_a);
    let b_len = elements([batch, k, n], |axis| axis.stride_b);
    let c_len = elements([batch, m, n], |axis| axis.stride_c);
    let (mut a, mut b, mut c) = (Buffer::new(a_len), Buffer::new(b_len), Buffer::new(c_len));
    let mut workspace = vec![0_u8; prepared.workspace_bytes()];
    let used = if case.packed { prepared.packed_b_bytes() } else { 4 * b_len };
    let stride = used.next_multiple_of(4096);
    let copies = if case.cold { COLD_BYTES.div_ceil(stride) } else { 1 };
    let mut bs = Buffer::new(copies * stride / 4);
    for copy in 0..copies {
        // SAFETY: there is room for each copy, and b covers the operand.
        unsafe {
            let to = bs.at().add(copy * stride);
            if case.packed {
                prepared.pack_b_with(pool, b.at(), to);
            } else {
                std::ptr::copy_nonoverlapping(b.at(), to, used);
            }
        }
    }
    let mut turn = 0;
    // SAFETY: the buffers cover the operands.
    let seconds = best(|| unsafe {
        let b = bs.at().add(turn % copies * stride);
        turn += 1;
        if case.packed {
            prepared.run_packed_b(pool, a.at(), b, c.at(), workspace.as_mut_ptr(), None);
        } else {
            prepared.run(pool, a.at(), b, c.at(), workspace.as_mut_ptr(), None);
        }
    });
    let rate = prepared.flops() as f64 / seconds;
    print!(
        "{:34} {:9.1} us {:7.1} GFLOP/s {:5.1} %",
        case.name,
        seconds * 1e6,
        rate / 1e9,
        100.0 * rate / peak
    );
    if bytes {
        let moved = 4 * (a_len + c_len) + used;
        print!(" {:6.1} GB/s", moved as f64 / seconds / 1e9);
    }
    println!();
}

fn main() {
    let only: Option<usize> = std::env::args().nth(1).and_then(|word| word.parse().ok());
    let filter = std::env::args().nth(2).unwrap_or_default();
    let isa = match std::env::args().nth(3).as_deref() {
        Some("avx2") => Isa::Avx2,
        Some("portable") => Isa::Portable,
        _ => Isa::detect(),
    };
    let one = peak(isa);
    println!("{isa:?}: {:.1} GFLOP/s on one core", one / 1e9);
    for threads in [1, 2] {
        if only.is_some_and(|only| only != threads) {
            continue;
        }
        let pool = ThreadPool::new(threads);
        let round = best(|| pool.run(threads, &|_| {}));
        println!("\n{threads} threads, an empty round trip {:.2} us", round * 1e6);
        for case in cases() {
            if case.name.contains(&filter) {
                measure(&case, isa, &pool, false, one * threads as f64);
            }
        }
        for (n, k, transposed) in [
            (768, 768, false),
            (3072, 768, false),
            (768, 3072, false),
            (4096, 4096, true),
            (50257, 768, true),
        ] {
            for (packed, rounded) in [(false, false), (true, false), (true, true)] {
                let mut vector = case("vector", 1, n, k, packed).cold();
                if rounded {
                    vector = vector.rounded();
                }
                if transposed {
                    vector.name += " along";
                    vector.contraction.n[0].stride_b = k as isize;
                    vector.contraction.k[0].stride_b = 1;
                }
                if vector.name.contains(&filter) {
                    measure(&vector, isa, &pool, true, one * threads as f64);
                }
            }
        }
    }
}
