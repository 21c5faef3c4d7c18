//! The wide x86 emitter: whole kernels as AVX-512 or AVX2 code.
//!
//! A kernel's loops become loops of whole vector registers: 16 lanes (AVX2: 8) are a *group*, and a vector loop works on
//! several groups a round where that hides latency. What is the same in all lanes fills a register as well, so there is one
//! kind of value and no scalar code but addresses. What is left over at the end of a loop is one more round with a mask,
//! which switches off loads and stores beyond the end. Values move out of loops they do not depend on, addresses are sums
//! that grow along with the loops, constants are operands in memory behind the code.
//!
//! What the emitter does not take it refuses with a [`Refusal`], and Cranelift compiles the kernel: functions that need a
//! helper, gathers and scatters of narrow elements, and with AVX2 whatever is not 32 bits wide.

mod address;
mod assemble;
mod convert;
mod emit;
mod loops;
mod machine;
mod memory;
mod nest;
mod ops;
mod pointwise;
mod strided;

use crate::target::Target;
use thalweg_base::{DType, PointwiseFn};
use thalweg_kernel::Kernel;
use thalweg_kernel::expand::expand_except;

/// The width of vectors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Level {
    /// 512 bits with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// 256 bits with AVX2 and FMA.
    Avx2,
}

impl Level {
    /// Lanes of 32 bits in a register.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Level::Avx512 => 16,
            Level::Avx2 => 8,
        }
    }

    /// Functions of `f32` values that need no expansion: with AVX-512, powers of two are an instruction.
    pub(crate) fn native(self) -> &'static [PointwiseFn] {
        match self {
            Level::Avx512 => &[PointwiseFn::Exp],
            Level::Avx2 => &[],
        }
    }

    /// How many vector registers there are.
    pub(crate) fn vector_registers(self) -> usize {
        match self {
            Level::Avx512 => 32,
            Level::Avx2 => 16,
        }
    }

    /// Whether a target has it. The calling convention must be that of System V.
    pub(crate) fn is_on(self, target: &Target) -> bool {
        let needed: &[&str] = match self {
            Level::Avx512 => {
                &["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c", "bmi1", "bmi2"]
            }
            Level::Avx2 => &["avx2", "fma", "bmi1", "bmi2"],
        };
        target.is_x86()
            && !target.triple.contains("windows")
            && needed.iter().all(|feature| target.has(feature))
    }
}

/// Why a kernel is not one for the wide emitter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The target has neither AVX-512 nor AVX2, or another calling convention, or another emitter is asked for.
    #[error("the target has no wide vectors")]
    Target,
    /// A function that only a helper or scalar instructions give.
    #[error("`{0}` of {1} has no vector instructions")]
    Function(PointwiseFn, DType),
    /// Values or memory of a dtype that the vector width does not cover.
    #[error("{0} is not covered by this vector width")]
    Width(DType),
    /// Elements of fewer than 32 bits at positions that are not next to each other.
    #[error("scattered elements of {0}")]
    Scattered(DType),
    /// A place too large for 32-bit positions or distances.
    #[error("a position beyond 32 bits")]
    Offset,
    /// A loop or range without iterations.
    #[error("a loop without iterations")]
    Empty,
    /// More values at once than registers can be found for.
    #[error("too many values at once")]
    Registers,
}

/// Code of a verified kernel; refuses what it does not cover.
pub(crate) fn compile(kernel: &Kernel, level: Level, listing: bool) -> Result<assemble::Assembled, Refusal> {
    let kernel = expand_except(kernel, level.native());
    let (program, scratch) = emit::emit(&kernel, level)?;
    assemble::assemble(&program, level, scratch, listing)
}
