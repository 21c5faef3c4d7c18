//! Which processor code is made for.

use crate::CodegenError;
use crate::wide::Level;
use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};

/// Which of the emitters compiles kernels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Emitter {
    /// The widest vectors that the target has, and Cranelift for kernels that the wide emitter refuses.
    #[default]
    Widest,
    /// Cranelift for every kernel.
    Cranelift,
    /// AVX2 code where the wide emitter takes a kernel, even if the target has wider vectors.
    Avx2,
    /// AVX-512 code where the wide emitter takes a kernel.
    Avx512,
}

/// A processor: its architecture, the operating system's calling convention, and its instruction-set extensions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Target {
    /// A target triple, such as `x86_64-unknown-linux-gnu`.
    pub triple: String,
    /// Extensions by the names that Rust's feature detection uses, such as `avx2` or `sse4.1`; unknown ones are ignored.
    pub features: Vec<String>,
    /// Which emitter is used, as far as the target has what it needs.
    pub emitter: Emitter,
}

/// Names of extensions and the Cranelift settings they stand for.
const X86_FEATURES: &[(&str, &str)] = &[
    ("sse3", "has_sse3"),
    ("ssse3", "has_ssse3"),
    ("sse4.1", "has_sse41"),
    ("sse4.2", "has_sse42"),
    ("popcnt", "has_popcnt"),
    ("avx", "has_avx"),
    ("avx2", "has_avx2"),
    ("fma", "has_fma"),
    ("bmi1", "has_bmi1"),
    ("bmi2", "has_bmi2"),
    ("lzcnt", "has_lzcnt"),
    ("avx512f", "has_avx512f"),
    ("avx512dq", "has_avx512dq"),
    ("avx512vl", "has_avx512vl"),
    ("avx512vbmi", "has_avx512vbmi"),
    ("avx512bitalg", "has_avx512bitalg"),
];

const ARM_FEATURES: &[(&str, &str)] = &[("lse", "has_lse"), ("fp16", "has_fp16")];

impl Target {
    /// The architecture and operating system that this compiler was built for, with those extensions.
    ///
    /// An extension implies the older ones that every processor with it has: `avx` implies SSE up to 4.2.
    pub fn host(features: &[String]) -> Target {
        let system = match std::env::consts::OS {
            "macos" => "apple-darwin",
            "windows" => "pc-windows-msvc",
            _ => "unknown-linux-gnu",
        };
        let mut features = features.to_vec();
        if features.iter().any(|name| name == "avx") {
            features.extend(["sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"].map(String::from));
        }
        features.sort();
        features.dedup();
        let triple = format!("{}-{system}", std::env::consts::ARCH);
        Target { triple, features, emitter: Emitter::default() }
    }

    /// The same target with one emitter forced.
    pub fn with_emitter(self, emitter: Emitter) -> Target {
        Target { emitter, ..self }
    }

    /// The vector width that kernels are compiled for, if it is not Cranelift's.
    pub(crate) fn level(&self) -> Option<Level> {
        let wanted: &[Level] = match self.emitter {
            Emitter::Widest => &[Level::Avx512, Level::Avx2],
            Emitter::Cranelift => &[],
            Emitter::Avx2 => &[Level::Avx2],
            Emitter::Avx512 => &[Level::Avx512],
        };
        wanted.iter().copied().find(|level| level.is_on(self))
    }

    /// Whether code is for x86-64.
    pub(crate) fn is_x86(&self) -> bool {
        self.triple.starts_with("x86_64")
    }

    pub(crate) fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|name| name == feature)
    }

    /// Whether there is a fused multiply-add.
    pub(crate) fn has_fma(&self) -> bool {
        !self.is_x86() || (self.has("fma") && self.has("avx"))
    }

    /// Cranelift's description. Fails for an architecture that is not built in, and for x86-64 without SSE 4.1, where
    /// rounding would need calls.
    pub(crate) fn isa(&self) -> Result<OwnedTargetIsa, CodegenError> {
        if self.is_x86() && !self.has("sse4.1") {
            return Err(CodegenError::Target("x86-64 without SSE 4.1".into()));
        }
        let mut flags = settings::builder();
        let shared = [
            ("opt_level", "speed"),
            ("is_pic", "true"),
            ("enable_probestack", "false"),
            ("unwind_info", "false"),
            ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ];
        for (name, value) in shared {
            flags.set(name, value).map_err(|error| CodegenError::Target(error.to_string()))?;
        }
        let mut builder =
            isa::lookup_by_name(&self.triple).map_err(|error| CodegenError::Target(error.to_string()))?;
        let known = if self.is_x86() { X86_FEATURES } else { ARM_FEATURES };
        for (_, setting) in known.iter().filter(|(name, _)| self.has(name)) {
            builder.enable(setting).map_err(|error| CodegenError::Target(error.to_string()))?;
        }
        builder.finish(settings::Flags::new(flags)).map_err(|error| CodegenError::Target(error.to_string()))
    }
}
