//! The micro-kernel of blocked convolutions: each row of the left side is read where it lies.
//!
//! The left side is broadcast, so its rows may begin anywhere: at a position of a padded plane, at a tile of a Winograd
//! transform, or at a channel. What all of them share is the walk from their beginning, a list of runs. The right side is
//! packed: whole vectors for each step of the sum.

use crate::isa::Isa;
use crate::simd::{Lanes, Vector};
use crate::tile::prefetch;

/// A stretch of the sum: `steps` elements of each row from `offset` on, behind where the row begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub offset: isize,
    pub steps: usize,
}

/// One call: `to[r * step + j] (+)= sum over the steps s of all runs of rows[r][at(s)] * b[s * width + j]`.
pub(super) struct Rows<'a> {
    /// Where each row begins.
    pub rows: *const *const f32,
    pub runs: &'a [Run],
    /// Elements between the steps of a run.
    pub pace: isize,
    pub b: *const f32,
    pub to: *mut f32,
    pub step: usize,
    /// Whether to add to what is there.
    pub accumulate: bool,
}

/// A micro-kernel.
///
/// # Safety
/// The machine must have the instruction set of the table it came from. `rows` must be valid for as many rows as the kernel
/// has, each of them at every step of every run; `b` for a row of vectors at each step; `to` for every row's vectors.
pub(super) type RowsFn = unsafe fn(&Rows<'_>);

/// The micro-kernels of one instruction set: that of `r + 1` rows and `v + 1` vectors is `kernels[v][r]`.
pub(super) struct RowKernels {
    /// Elements in a vector.
    pub lanes: usize,
    kernels: &'static [&'static [RowsFn]],
}

impl RowKernels {
    /// The most rows of a kernel.
    pub(super) fn most_rows(&self) -> usize {
        self.kernels[0].len()
    }

    /// The most elements of a row of the right side.
    pub(super) fn most_columns(&self) -> usize {
        self.kernels.len() * self.lanes
    }

    /// The kernel of `rows` rows and `columns` columns, which are whole vectors.
    #[inline(always)]
    pub(super) fn kernel(&self, rows: usize, columns: usize) -> RowsFn {
        self.kernels[columns / self.lanes - 1][rows - 1]
    }
}

/// Steps of the sum by which the right side is fetched ahead.
const AHEAD: usize = 12;

/// # Safety
/// As for [`RowsFn`].
#[inline(always)]
unsafe fn rows<V: Vector<T = f32>, const R: usize, const W: usize>(task: &Rows<'_>) {
    let width = W * V::LANES;
    // SAFETY: the caller vouches for the instruction set and every address; all accesses are those the contract names.
    unsafe {
        let from: [*const f32; R] = std::array::from_fn(|r| *task.rows.add(r));
        let mut sums = [[V::zero(); W]; R];
        if task.accumulate {
            for r in 0..R {
                for v in 0..W {
                    sums[r][v] = V::load(task.to.add(r * task.step + v * V::LANES));
                }
            }
        }
        let mut b = task.b;
        macro_rules! step {
            ($at:expr) => {{
                let at: isize = $at;
                let mut right = [V::zero(); W];
                for v in 0..W {
                    right[v] = V::load(b.add(v * V::LANES));
                    prefetch(b.wrapping_add(AHEAD * width + v * V::LANES));
                }
                for r in 0..R {
                    let left = V::splat(from[r].offset(at));
                    for v in 0..W {
                        sums[r][v] = left.mul_add(right[v], sums[r][v]);
                    }
                }
                b = b.add(width);
            }};
        }
        for run in task.runs {
            let mut at = run.offset;
            if task.pace == 1 {
                for _ in 0..run.steps / 4 {
                    step!(at);
                    step!(at + 1);
                    step!(at + 2);
                    step!(at + 3);
                    at += 4;
                }
                for _ in 0..run.steps % 4 {
                    step!(at);
                    at += 1;
                }
            } else {
                for _ in 0..run.steps {
                    step!(at);
                    at += task.pace;
                }
            }
        }
        for r in 0..R {
            for v in 0..W {
                sums[r][v].store(task.to.add(r * task.step + v * V::LANES));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn rows_avx512<V: Vector<T = f32>, const R: usize, const W: usize>(task: &Rows<'_>) {
    // SAFETY: passed on to the caller.
    unsafe { rows::<V, R, W>(task) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn rows_avx2<V: Vector<T = f32>, const R: usize, const W: usize>(task: &Rows<'_>) {
    // SAFETY: passed on to the caller.
    unsafe { rows::<V, R, W>(task) }
}

macro_rules! table {
    ($f:ident, $v:ty; $($r:literal)*) => {
        RowKernels {
            lanes: <$v as Vector>::LANES,
            kernels: &[&[$($f::<$v, $r, 1> as RowsFn),*], &[$($f::<$v, $r, 2> as RowsFn),*]],
        }
    };
}

/// The micro-kernels for `isa`: 14 x 2 of 32 vectors, or 6 x 2 of 16.
pub(super) fn row_kernels(isa: Isa) -> &'static RowKernels {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::simd::x86::{F32x8, F32x16};
        static AVX512: RowKernels = table!(rows_avx512, F32x16; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        static AVX2: RowKernels = table!(rows_avx2, F32x8; 1 2 3 4 5 6);
        match isa {
            Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 => return &AVX512,
            Isa::Avx2 => return &AVX2,
            Isa::Portable => {}
        }
    }
    let _ = isa;
    static PORTABLE: RowKernels = table!(rows, Lanes<f32, 4>; 1 2 3 4 5 6);
    &PORTABLE
}
