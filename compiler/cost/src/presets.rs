//! Descriptions of devices that nobody has measured yet.

use std::collections::BTreeMap;
use thalweg_base::{DType, DeviceDescription, DeviceKind, LinkDescription};

/// Cycles per second of a server core under vector load: the usual all-core frequency of x86-64 and Neoverse cores.
const CLOCK_HZ: f64 = 3.0e9;

/// f32 operations in a cycle: two 256-bit fused multiply-adds (Fog, "Instruction tables", Haswell to Zen 4).
const F32_FLOPS_PER_CYCLE: f64 = 2.0 * 8.0 * 2.0;

/// What one core draws from memory: 12 line fill buffers of 64 bytes over 70 ns (Little's law on the numbers of the
/// Intel 64 and IA-32 Optimization Reference Manual).
const CORE_BANDWIDTH_BYTES_PER_S: f64 = 11.0e9;

/// Four fifths, the share that STREAM usually reaches, of two channels of DDR4-3200 (JEDEC JESD79-4: 25.6 GB/s each).
const SOCKET_BANDWIDTH_BYTES_PER_S: f64 = 0.8 * 2.0 * 25.6e9;

/// A processor of that many threads with 256-bit vectors and two memory channels: what planning starts from until the
/// machine is measured.
pub fn cpu_default(threads: usize) -> DeviceDescription {
    let threads = threads.max(1);
    let f32_rate = CLOCK_HZ * F32_FLOPS_PER_CYCLE * threads as f64;
    // Half-width floats are widened to f32 first; integer products have no fused addition; 64-bit ones are emulated.
    let share = |dtype| match dtype {
        DType::F32 => 1.0,
        DType::F64 | DType::F16 | DType::BF16 => 0.5,
        DType::I8 | DType::I16 | DType::U8 | DType::U16 | DType::I32 | DType::U32 | DType::Bool => 0.5,
        DType::I64 | DType::U64 => 0.125,
    };
    let flops_per_s: BTreeMap<DType, f64> =
        DType::ALL.into_iter().map(|dtype| (dtype, f32_rate * share(dtype))).collect();
    DeviceDescription {
        kind: DeviceKind::Cpu,
        name: "generic processor".into(),
        threads,
        features: Vec::new(),
        memory_bytes: 8 << 30,
        flops_per_s,
        bandwidth_bytes_per_s: (CORE_BANDWIDTH_BYTES_PER_S * threads as f64)
            .min(SOCKET_BANDWIDTH_BYTES_PER_S),
        // A call through the plan on one thread; waking others and joining them takes a few microseconds on Linux.
        launch_s: if threads == 1 { 0.3e-6 } else { 3e-6 },
    }
}

/// The way between two threads of one process: a cache line's round trip between cores, and half of the memory
/// bandwidth, as each byte is read and written.
pub fn shared_memory_link(device: &DeviceDescription) -> LinkDescription {
    LinkDescription { latency_s: 2e-7, bandwidth_bytes_per_s: device.bandwidth_bytes_per_s / 2.0 }
}
