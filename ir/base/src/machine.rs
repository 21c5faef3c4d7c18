//! What is known of devices and the links between them, measured or published.

use crate::DType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The kinds of device that a cluster may have. Code is made for processors so far; the others can be planned for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// Threads of a processor.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A processor for tensors alone.
    Tpu,
}

/// One device: what it can compute, hold and move.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DeviceDescription {
    /// The kind of device.
    pub kind: DeviceKind,
    /// What people call it, such as the processor's model name.
    pub name: String,
    /// Threads that run one kernel together.
    pub threads: usize,
    /// Instruction-set extensions by their common names, sorted, such as `avx2`, `avx512f`, `neon`.
    pub features: Vec<String>,
    /// Memory that a plan may use, in bytes.
    pub memory_bytes: u64,
    /// Arithmetic per second for products of each dtype, one fused multiply-add counted as two.
    pub flops_per_s: BTreeMap<DType, f64>,
    /// Main memory traffic in bytes per second.
    pub bandwidth_bytes_per_s: f64,
    /// The least time a kernel takes, in seconds.
    pub launch_s: f64,
}

/// A way between two devices.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct LinkDescription {
    /// Time for the first byte, in seconds.
    pub latency_s: f64,
    /// Bytes per second.
    pub bandwidth_bytes_per_s: f64,
}
