//! What the measuring programs share: the shortest time of a run, and the machine's peak.

use std::hint::black_box;
use std::time::{Duration, Instant};

use thalweg_kernels::Isa;

/// How long a run is repeated, once there were a few.
const TIME_MAX: Duration = Duration::from_millis(400);

/// The shortest time of many runs, in seconds: the machine may have other guests.
pub fn best(mut run: impl FnMut()) -> f64 {
    run();
    let (mut best, started, mut rounds) = (Duration::MAX, Instant::now(), 0);
    while rounds < 5 || (started.elapsed() < TIME_MAX && rounds < 3000) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
        rounds += 1;
    }
    best.as_secs_f64()
}

/// Multiplies and adds in registers only; returns operations.
macro_rules! chains {
    ($name:ident, $features:literal, $set:ident, $fma:ident, $first:ident, $lanes:literal) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        fn $name(rounds: usize) -> f64 {
            use std::arch::x86_64::*;
            let (x, y) = ($set(black_box(0.999)), $set(black_box(0.001)));
            let mut sums = [x; 12];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = $fma(*sum, x, y);
                }
            }
            black_box(sums.map(|sum| $first(sum)));
            (rounds * 12 * $lanes * 2) as f64
        }
    };
}
chains!(chains_avx512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps, _mm512_cvtss_f32, 16);
chains!(chains_avx2, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps, _mm256_cvtss_f32, 8);

/// Arithmetic in arrays that the compiler maps to registers.
fn chains_portable(rounds: usize) -> f64 {
    let (x, y) = (black_box([0.999_f32; 4]), black_box([0.001_f32; 4]));
    let mut sums = [x; 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            for i in 0..4 {
                sum[i] = sum[i] * x[i] + y[i];
            }
        }
    }
    black_box(sums);
    (rounds * 12 * 4 * 2) as f64
}

/// Operations a second of one core.
pub fn peak(isa: Isa) -> f64 {
    let chains = |rounds| match isa {
        // SAFETY: the instruction set is one of the available ones.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 => unsafe { chains_avx512(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { chains_avx2(rounds) },
        _ => chains_portable(rounds),
    };
    let rounds = 100_000;
    let seconds = best(|| {
        black_box(chains(rounds));
    });
    chains(rounds) / seconds
}
