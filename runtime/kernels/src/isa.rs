//! Which instructions a kernel may use, decided at run time.

use serde::{Deserialize, Serialize};

/// An instruction set for which kernels exist. Ordered from the widest to the one that every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Isa {
    /// As [`Avx512Vnni`](Self::Avx512Vnni), with products of pairs of bfloat16 (AVX512-BF16).
    Avx512Bf16,
    /// As [`Avx512`](Self::Avx512), with products of four bytes or two words that are summed in `i32` (AVX512-VNNI).
    Avx512Vnni,
    /// x86-64 with AVX-512 F, BW, DQ and VL: 512-bit vectors, masks.
    Avx512,
    /// x86-64 with AVX2 and FMA: 256-bit vectors.
    Avx2,
    /// Whatever the compiler was told it may use: 128-bit vectors on x86-64 and aarch64.
    Portable,
}

impl Isa {
    /// Every instruction set, widest first.
    const ALL: [Isa; 5] = [Isa::Avx512Bf16, Isa::Avx512Vnni, Isa::Avx512, Isa::Avx2, Isa::Portable];

    /// The widest instruction set of this machine.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Every instruction set this machine can run, widest first; never empty.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 | Isa::Avx2 => false,
            Isa::Portable => true,
        }
    }

    /// This instruction set where the machine has it, else the widest that it has: what makes running sound.
    pub(crate) fn or_detected(self) -> Isa {
        if self.is_available() { self } else { Isa::detect() }
    }

    /// Runs `work` compiled for this instruction set, so that its loops are vectorized for it.
    ///
    /// # Safety
    /// The instruction set must be available, and what `work` itself requires must hold.
    #[inline]
    pub(crate) unsafe fn call<W: Work>(self, work: W) {
        match self {
            // SAFETY: the caller vouches for the instruction set and for the work.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 => unsafe { call_avx512(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { call_avx2(work) },
            // SAFETY: as above.
            _ => unsafe { work.go() },
        }
    }
}

/// A piece of code that is to be compiled once for each instruction set. `go` must be `#[inline(always)]`.
pub(crate) trait Work {
    /// # Safety
    /// What the implementing type says of its fields.
    unsafe fn go(self);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn call_avx512<W: Work>(work: W) {
    // SAFETY: passed on to the caller.
    unsafe { work.go() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn call_avx2<W: Work>(work: W) {
    // SAFETY: passed on to the caller.
    unsafe { work.go() }
}

/// Bytes of second-level cache of one core: what the machine reports, or half a megabyte.
pub(crate) fn l2_bytes() -> usize {
    static L2: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *L2.get_or_init(|| {
        reported_l2().filter(|bytes| (128 << 10..=8 << 20).contains(bytes)).unwrap_or(512 << 10)
    })
}

#[cfg(target_arch = "x86_64")]
fn reported_l2() -> Option<usize> {
    use std::arch::x86_64::__cpuid_count;
    // Intel lists its caches in leaf 4, AMD in the extended leaf 0x8000_001D, both in the same format.
    for (probe, leaf) in [(0x8000_0000_u32, 0x8000_001D_u32), (0, 4)] {
        if __cpuid_count(probe, 0).eax < leaf {
            continue;
        }
        for index in 0..8 {
            let entry = __cpuid_count(leaf, index);
            if entry.eax & 31 == 0 {
                break;
            }
            if (entry.eax >> 5) & 7 == 2 {
                let field = |low: u32, bits: u32| ((entry.ebx >> low) & ((1 << bits) - 1)) as usize + 1;
                return Some(field(22, 10) * field(12, 10) * field(0, 12) * (entry.ecx as usize + 1));
            }
        }
    }
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn reported_l2() -> Option<usize> {
    None
}
