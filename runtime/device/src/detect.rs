//! What processor this is: from what the system says, or measured.

use crate::features;
use crate::memory::Arena;
use crate::routines;
use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;
use thalweg_base::{DType, DeviceDescription, DeviceKind};
use thalweg_kernels::{Contraction, Isa, ThreadPool};

/// What the system says of the processor; 0 and empty where it says nothing.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CpuFacts {
    /// The model's name.
    pub model: String,
    /// Threads that can run at the same time.
    pub threads: usize,
    /// The present clock rate in Hz.
    pub clock_hz: f64,
    /// Bytes of first-level data cache of one core.
    pub l1_bytes: usize,
    /// Bytes of second-level cache of one core.
    pub l2_bytes: usize,
    /// Bytes of the last-level cache that the first core sees.
    pub l3_bytes: usize,
    /// Bytes of main memory.
    pub memory_bytes: u64,
}

impl CpuFacts {
    /// Asks the system; on Linux through `/proc` and `/sys`.
    pub fn read() -> CpuFacts {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let field = |text: &str, name: &str| -> Option<String> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        let number = |text: Option<String>| -> f64 {
            text.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
        };
        let mut facts = CpuFacts {
            model: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_string()),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            clock_hz: number(field(&cpuinfo, "cpu MHz")) * 1e6,
            memory_bytes: number(field(&meminfo, "MemTotal")) as u64 * 1024,
            ..CpuFacts::default()
        };
        for index in 0..8 {
            let of = |name: &str| {
                fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}"))
                    .map_or(String::new(), |text| text.trim().to_string())
            };
            let bytes = cache_bytes(&of("size"));
            match (of("level").as_str(), of("type").as_str()) {
                ("1", "Data") => facts.l1_bytes = bytes,
                ("2", _) => facts.l2_bytes = bytes,
                ("3", _) => facts.l3_bytes = bytes,
                (_, _) => {}
            }
        }
        facts
    }
}

/// A size such as `1024K`.
fn cache_bytes(text: &str) -> usize {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = match unit {
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => 1,
    };
    digits.parse::<usize>().unwrap_or(0) * scale
}

/// The processor as a device of that many threads, of all when it is not said. Rates are estimates from the clock and the
/// instruction set, without running anything; [`measure`] has better ones.
pub fn detect(threads: Option<usize>) -> DeviceDescription {
    let facts = CpuFacts::read();
    let threads = threads.unwrap_or(facts.threads).max(1);
    let clock = if facts.clock_hz > 0.0 { facts.clock_hz } else { 2.5e9 };
    // Two multiply-adds a cycle of the widest vectors; those of 512 bits take two cycles on every second processor.
    let per_cycle = match Isa::detect() {
        Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 | Isa::Avx2 => 32.0,
        Isa::Portable => 8.0,
    };
    let cores = threads.min(facts.threads) as f64;
    DeviceDescription {
        kind: DeviceKind::Cpu,
        name: facts.model,
        threads,
        features: features(),
        memory_bytes: facts.memory_bytes,
        flops_per_s: rates(clock * per_cycle * cores),
        // One core draws some 12 GB/s; channels of memory saturate slowly beyond.
        bandwidth_bytes_per_s: 12e9 * cores.powf(0.7),
        launch_s: 2e-6,
    }
}

/// Rates of all dtypes from that of `f32`: narrow floats are computed in it, the others take twice its time or more.
fn rates(f32_rate: f64) -> BTreeMap<DType, f64> {
    let share = |dtype: DType| match dtype {
        DType::F32 | DType::F16 | DType::BF16 => 1.0,
        DType::F64 | DType::I8 | DType::I16 | DType::I32 => 0.5,
        DType::U8 | DType::U16 | DType::U32 | DType::Bool => 0.5,
        DType::I64 | DType::U64 => 0.125,
    };
    DType::ALL.into_iter().map(|dtype| (dtype, f32_rate * share(dtype))).collect()
}

/// The processor as a device of that many threads, with rates measured in about a tenth of a second: a product of
/// matrices, a copy larger than the caches, and an empty loop. Without memory to measure in, as [`detect`] says.
pub fn measure(threads: Option<usize>) -> DeviceDescription {
    let mut description = detect(threads);
    let pool = ThreadPool::new(description.threads);
    if let Some(rate) = measure_product(&pool) {
        description.flops_per_s = rates(rate);
    }
    if let Some(rate) = measure_copy(&pool) {
        description.bandwidth_bytes_per_s = rate;
    }
    let launch = best(20, || (0..100).for_each(|_| pool.run(pool.threads(), &|_| {}))) / 100.0;
    description.launch_s = launch.max(1e-8);
    description
}

/// The shortest of several runs, in seconds.
fn best(runs: usize, mut run: impl FnMut()) -> f64 {
    let time = |_| {
        let began = Instant::now();
        run();
        began.elapsed().as_secs_f64()
    };
    (0..runs).map(time).fold(f64::INFINITY, f64::min)
}

fn measure_product(pool: &ThreadPool) -> Option<f64> {
    const SIZE: usize = 768;
    let product = Contraction::matrices(SIZE, SIZE, SIZE, thalweg_kernels::DType::F32);
    let prepared = product.prepare(Isa::detect(), pool.threads());
    let bytes = SIZE * SIZE * size_of::<f32>();
    let mut arena = Arena::new(3 * bytes, "a measurement").ok()?;
    let mut workspace = Arena::new(prepared.workspace_bytes(), "a measurement").ok()?;
    let (base, workspace) = (arena.base(), workspace.base());
    // SAFETY: the arena has room for three matrices side by side, the workspace what the product asked for.
    let run = || unsafe { prepared.run(pool, base, base.add(bytes), base.add(2 * bytes), workspace, None) };
    Some(product.flops() as f64 / best(5, run))
}

fn measure_copy(pool: &ThreadPool) -> Option<f64> {
    const BYTES: usize = 64 << 20;
    let mut arena = Arena::new(2 * BYTES, "a measurement").ok()?;
    let base = arena.base();
    // SAFETY: the arena has both halves.
    let run = || unsafe { routines::copy(pool, base, base.add(BYTES), BYTES) };
    // Every byte is read and written.
    Some(2.0 * BYTES as f64 / best(4, run))
}
