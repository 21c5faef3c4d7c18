//! What the compiler did, for people and programs to read.

use serde::Serialize;
use std::fmt;

/// One pass of one compilation.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PassReport {
    /// The pass.
    pub name: String,
    /// Seconds it took, its verification not included.
    pub seconds: f64,
    /// Nodes before.
    pub nodes_before: usize,
    /// Nodes after; kernels after lowering.
    pub nodes_after: usize,
}

/// One compilation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The passes, in order.
    pub passes: Vec<PassReport>,
    /// What rewriting did.
    pub rewrite: Option<thalweg_rewrite::Report>,
    /// What was put between pieces, when split: collective, bytes, scope.
    pub reshards: Vec<thalweg_partition::Reshard>,
    /// Kernels made.
    pub kernels: usize,
    /// Of them, those that the wide emitter made; Cranelift made the others.
    pub wide_kernels: usize,
    /// Bytes of machine code.
    pub code_bytes: usize,
    /// The largest arena of a device, in bytes.
    pub arena_bytes: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pass in &self.passes {
            writeln!(
                f,
                "{:<12} {:>9.3} ms  {:>6} -> {}",
                pass.name,
                pass.seconds * 1e3,
                pass.nodes_before,
                pass.nodes_after
            )?;
        }
        write!(
            f,
            "{} kernels ({} in wide vectors), {} bytes of code, arena of {} bytes",
            self.kernels, self.wide_kernels, self.code_bytes, self.arena_bytes
        )
    }
}
