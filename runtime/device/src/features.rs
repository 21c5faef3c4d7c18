//! What the processor can do.

macro_rules! detected {
    ($macro:ident: $($name:tt)*) => {
        [$(($name, std::arch::$macro!($name))),*]
    };
}

/// Names of the architecture and of its extensions that this machine has, as Rust's feature detection names them, sorted.
#[cfg(target_arch = "x86_64")]
pub fn features() -> Vec<String> {
    let table = detected!(is_x86_feature_detected:
        "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt"
        "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512vbmi" "avx512bitalg" "avx512vnni" "avx512bf16"
        "avx512fp16");
    named(&table)
}

/// Names of the architecture and of its extensions that this machine has, as Rust's feature detection names them, sorted.
#[cfg(target_arch = "aarch64")]
pub fn features() -> Vec<String> {
    let table = detected!(is_aarch64_feature_detected:
        "neon" "fp16" "lse" "dotprod" "bf16" "i8mm" "sve" "sve2");
    named(&table)
}

/// Names of the architecture and of its extensions that this machine has.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn features() -> Vec<String> {
    named(&[])
}

fn named(table: &[(&str, bool)]) -> Vec<String> {
    let present = table.iter().filter(|(_, present)| *present).map(|(name, _)| name.to_string());
    let mut names: Vec<String> = present.chain([std::env::consts::ARCH.to_string()]).collect();
    names.sort();
    names
}
