//! The micro-kernels: a tile of C held in registers while k runs.

use crate::element::Compute;
use crate::isa::Isa;
use crate::simd::{Lanes, PairLanes, Vector};

/// One call of a micro-kernel: `C[i, j] (+)= sum_k a[k * a_step + i] * b[k * b_step + j]`.
pub(crate) struct Tile<T> {
    /// Terms of the sum.
    pub k: usize,
    pub a: *const T,
    pub a_step: usize,
    /// Where step 0 of B begins and the distance to the next; or what `b_table`, for the indexed kernels, counts from.
    pub b: *const T,
    pub b_step: isize,
    /// Where each step of B begins, with `AHEAD` entries more than `k`.
    pub b_table: *const isize,
    /// The address of column 0 of each row of C.
    pub rows: *const *mut T,
    /// The tile's first column, in elements from the addresses in `rows`.
    pub column: isize,
    /// Columns of C that are stored; the kernel of `v` vectors takes more than `v - 1` and at most `v` vectors of them.
    pub columns: usize,
    /// Whether to add to what is in C.
    pub accumulate: bool,
}

/// A micro-kernel.
///
/// # Safety
/// The machine must have the instruction set of the table it came from. `a` must be valid for its rows at each of `k` steps,
/// `b` for whole vectors at each step, `rows` for the kernel's rows, and C writable and not shared.
pub(crate) type TileFn<T> = unsafe fn(&Tile<T>);

/// The micro-kernels of one element type and instruction set.
pub(crate) struct Kernels<T: 'static> {
    /// Elements in a vector.
    pub lanes: usize,
    /// The kernel for `v + 1` vectors of columns and `r + 1` rows is `tiles[v][r]`; the largest are the regular ones.
    pub tiles: &'static [&'static [TileFn<T>]],
    /// The same for a B whose steps begin where a table says.
    pub indexed: &'static [&'static [TileFn<T>]],
}

impl<T> Kernels<T> {
    /// Rows of the largest tile.
    pub(crate) fn mr(&self) -> usize {
        self.tiles[0].len()
    }

    /// Columns of the largest tile.
    pub(crate) fn nr(&self) -> usize {
        self.lanes * self.tiles.len()
    }

    /// The kernel for `rows` rows and `columns` columns.
    #[inline(always)]
    pub(crate) fn tile(&self, indexed: bool, rows: usize, columns: usize) -> TileFn<T> {
        let tiles = if indexed { self.indexed } else { self.tiles };
        tiles[(columns - 1) / self.lanes][rows - 1]
    }
}

/// A type for which there are micro-kernels.
pub(crate) trait Kernel: Compute {
    /// Its micro-kernels for `isa`.
    fn kernels(isa: Isa) -> &'static Kernels<Self>;
    /// Those whose operands are words of several terms of the sum, where `isa` has them.
    fn word_kernels(isa: Isa, word: Word) -> Option<&'static Kernels<Self>>;
}

/// What the elements are that a step of the sum takes from an operand: one, or a word of 32 bits with several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// One element of the type of the sum.
    One,
    /// Two bfloat16, summed in `f32`.
    Bf16Pair,
    /// Two integers of 16 bits, summed in `i32`.
    IntPair,
    /// Four bytes, those of the left operand unsigned and those of the right one signed, summed in `i32`.
    BytesLeft,
    /// Four bytes, those of the right operand unsigned and those of the left one signed, summed in `i32`.
    BytesRight,
}

impl Word {
    /// Terms of the sum in each step.
    pub(crate) fn terms(self) -> usize {
        match self {
            Word::One => 1,
            Word::Bf16Pair | Word::IntPair => 2,
            Word::BytesLeft | Word::BytesRight => 4,
        }
    }
}

/// How many steps ahead of the sum B is fetched: at some two cycles a step and row this covers the latency of L2.
pub(crate) const AHEAD: isize = 8;

#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for a cache line to be brought to the second-level cache.
#[inline(always)]
pub(crate) fn prefetch_l2(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// # Safety
/// As for [`TileFn`].
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const W: usize, const INDEXED: bool>(t: &Tile<V::T>) {
    // SAFETY: the caller vouches for the instruction set and every address; all accesses are those the contract names.
    unsafe {
        let mut sum = [[V::zero(); W]; R];
        let (mut a, mut b) = (t.a, t.b);
        let (a_step, b_step) = (t.a_step, t.b_step);
        let mut table = t.b_table;
        for i in 0..R {
            let row = (*t.rows.add(i)).wrapping_offset(t.column);
            prefetch(row);
            if W * V::LANES * size_of::<V::T>() > 64 {
                prefetch(row.wrapping_add(t.columns - 1));
            }
        }
        macro_rules! step {
            () => {{
                let mut right = [V::zero(); W];
                let ahead = if INDEXED {
                    b = t.b.wrapping_offset(*table);
                    t.b.wrapping_offset(*table.offset(AHEAD))
                } else {
                    b.wrapping_offset(AHEAD * b_step)
                };
                for (v, right) in right.iter_mut().enumerate() {
                    *right = V::load(b.add(v * V::LANES));
                    prefetch(ahead.wrapping_add(v * V::LANES));
                }
                for i in 0..R {
                    let left = V::splat(a.add(i));
                    for v in 0..W {
                        sum[i][v] = left.mul_add(right[v], sum[i][v]);
                    }
                }
                a = a.wrapping_add(a_step);
                if INDEXED {
                    table = table.add(1);
                } else {
                    b = b.wrapping_offset(b_step);
                }
            }};
        }
        for _ in 0..t.k / 4 {
            step!();
            step!();
            step!();
            step!();
        }
        for _ in 0..t.k % 4 {
            step!();
        }
        let last = t.columns - (W - 1) * V::LANES;
        for (i, sum) in sum.iter().enumerate() {
            let row = (*t.rows.add(i)).offset(t.column);
            for (v, sum) in sum.iter().enumerate() {
                let to = row.add(v * V::LANES);
                if v + 1 < W || last == V::LANES {
                    let sum = if t.accumulate { sum.add(V::load(to)) } else { *sum };
                    sum.store(to);
                } else {
                    let sum = if t.accumulate { sum.add(V::load_first(to, last)) } else { *sum };
                    sum.store_first(to, last);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn tile_avx512<V: Vector, const R: usize, const W: usize, const INDEXED: bool>(t: &Tile<V::T>) {
    // SAFETY: passed on to the caller.
    unsafe { tile::<V, R, W, INDEXED>(t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2<V: Vector, const R: usize, const W: usize, const INDEXED: bool>(t: &Tile<V::T>) {
    // SAFETY: passed on to the caller.
    unsafe { tile::<V, R, W, INDEXED>(t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn tile_bf16<V: Vector, const R: usize, const W: usize, const INDEXED: bool>(t: &Tile<V::T>) {
    // SAFETY: passed on to the caller.
    unsafe { tile::<V, R, W, INDEXED>(t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn tile_vnni<V: Vector, const R: usize, const W: usize, const INDEXED: bool>(t: &Tile<V::T>) {
    // SAFETY: passed on to the caller.
    unsafe { tile::<V, R, W, INDEXED>(t) }
}

macro_rules! table {
    ($f:ident, $v:ty, $t:ty; $($r:literal)*) => {
        Kernels::<$t> {
            lanes: <$v as Vector>::LANES,
            tiles: &[&[$($f::<$v, $r, 1, false> as TileFn<$t>),*], &[$($f::<$v, $r, 2, false> as TileFn<$t>),*]],
            indexed: &[&[$($f::<$v, $r, 1, true> as TileFn<$t>),*], &[$($f::<$v, $r, 2, true> as TileFn<$t>),*]],
        }
    };
}

/// The shapes fill the registers: 12 x 2 of 32 vectors, 6 x 2 of 16, which a portable target has at least.
macro_rules! float_kernel {
    ($t:ty, $wide:ident, $mid:ident, $n:literal, $words:ident) => {
        impl Kernel for $t {
            fn word_kernels(isa: Isa, word: Word) -> Option<&'static Kernels<Self>> {
                $words(isa, word)
            }

            fn kernels(isa: Isa) -> &'static Kernels<Self> {
                #[cfg(target_arch = "x86_64")]
                {
                    use crate::simd::x86::{$mid, $wide};
                    static AVX512: Kernels<$t> = table!(tile_avx512, $wide, $t; 1 2 3 4 5 6 7 8 9 10 11 12);
                    static AVX2: Kernels<$t> = table!(tile_avx2, $mid, $t; 1 2 3 4 5 6);
                    match isa {
                        Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 => return &AVX512,
                        Isa::Avx2 => return &AVX2,
                        Isa::Portable => {}
                    }
                }
                let _ = isa;
                static PORTABLE: Kernels<$t> = table!(tile, Lanes<$t, $n>, $t; 1 2 3 4 5 6);
                &PORTABLE
            }
        }
    };
}
float_kernel!(f32, F32x16, F32x8, 4, bf16_words);
float_kernel!(f64, F64x8, F64x4, 2, no_words);

fn bf16_words(isa: Isa, word: Word) -> Option<&'static Kernels<f32>> {
    #[cfg(target_arch = "x86_64")]
    if (isa, word) == (Isa::Avx512Bf16, Word::Bf16Pair) {
        use crate::simd::x86::Bf16Pairs;
        static PAIRS: Kernels<f32> = table!(tile_bf16, Bf16Pairs, f32; 1 2 3 4 5 6 7 8 9 10 11 12);
        return Some(&PAIRS);
    }
    let _ = (isa, word);
    None
}

fn no_words<T>(_: Isa, _: Word) -> Option<&'static Kernels<T>> {
    None
}

/// Bytes need an instruction for their products; pairs of 16 bits have one everywhere, or are computed in lanes.
fn int_words(isa: Isa, word: Word) -> Option<&'static Kernels<i32>> {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::simd::x86::{BytesLeft, BytesRight, IntPairs8, IntPairs16, IntPairsVnni};
        static LEFT: Kernels<i32> = table!(tile_vnni, BytesLeft, i32; 1 2 3 4 5 6 7 8 9 10 11 12);
        static RIGHT: Kernels<i32> = table!(tile_vnni, BytesRight, i32; 1 2 3 4 5 6 7 8 9 10 11 12);
        static VNNI: Kernels<i32> = table!(tile_vnni, IntPairsVnni, i32; 1 2 3 4 5 6 7 8 9 10 11 12);
        static AVX512: Kernels<i32> = table!(tile_avx512, IntPairs16, i32; 1 2 3 4 5 6 7 8 9 10 11 12);
        static AVX2: Kernels<i32> = table!(tile_avx2, IntPairs8, i32; 1 2 3 4 5 6);
        match (isa, word) {
            (Isa::Avx512Bf16 | Isa::Avx512Vnni, Word::BytesLeft) => return Some(&LEFT),
            (Isa::Avx512Bf16 | Isa::Avx512Vnni, Word::BytesRight) => return Some(&RIGHT),
            (Isa::Avx512Bf16 | Isa::Avx512Vnni, Word::IntPair) => return Some(&VNNI),
            (Isa::Avx512, Word::IntPair) => return Some(&AVX512),
            (Isa::Avx2, Word::IntPair) => return Some(&AVX2),
            _ => {}
        }
    }
    let _ = isa;
    static PORTABLE: Kernels<i32> = table!(tile, PairLanes, i32; 1 2 3 4 5 6);
    (word == Word::IntPair).then_some(&PORTABLE)
}

/// Integers take the array form everywhere, compiled for the instruction set.
macro_rules! int_kernel {
    ($t:ty, $wide:literal, $mid:literal, $n:literal, $words:ident) => {
        impl Kernel for $t {
            fn word_kernels(isa: Isa, word: Word) -> Option<&'static Kernels<Self>> {
                $words(isa, word)
            }

            fn kernels(isa: Isa) -> &'static Kernels<Self> {
                #[cfg(target_arch = "x86_64")]
                {
                    static AVX512: Kernels<$t> = table!(tile_avx512, Lanes<$t, $wide>, $t; 1 2 3 4 5 6 7 8);
                    static AVX2: Kernels<$t> = table!(tile_avx2, Lanes<$t, $mid>, $t; 1 2 3 4);
                    match isa {
                        Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 => return &AVX512,
                        Isa::Avx2 => return &AVX2,
                        Isa::Portable => {}
                    }
                }
                let _ = isa;
                static PORTABLE: Kernels<$t> = table!(tile, Lanes<$t, $n>, $t; 1 2 3 4 5 6);
                &PORTABLE
            }
        }
    };
}
int_kernel!(i32, 8, 8, 4, int_words);
int_kernel!(i64, 4, 4, 2, no_words);
