//! Vectors of one register, in the forms that the micro-kernels need.

use crate::element::Compute;

/// One register of elements.
pub(crate) trait Vector: Copy {
    /// The element type.
    type T: Compute;
    /// Elements in a vector.
    const LANES: usize;

    /// All elements zero.
    unsafe fn zero() -> Self;
    /// All elements `*from`.
    unsafe fn splat(from: *const Self::T) -> Self;
    /// `LANES` elements at `from`, of any alignment.
    unsafe fn load(from: *const Self::T) -> Self;
    /// The first `n <= LANES` elements at `from`, the others zero; no byte beyond them is touched.
    unsafe fn load_first(from: *const Self::T, n: usize) -> Self;
    /// Stores all elements.
    unsafe fn store(self, to: *mut Self::T);
    /// Stores the first `n <= LANES` elements.
    unsafe fn store_first(self, to: *mut Self::T, n: usize);
    /// `self * b + c`.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// `self + b`.
    unsafe fn add(self, b: Self) -> Self;
}

/// A vector as an array, which the compiler maps to registers.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<T, const N: usize>([T; N]);

// SAFETY of every block here: the pointers are valid for the elements named in the trait, by its callers.
impl<T: Compute, const N: usize> Vector for Lanes<T, N> {
    type T = T;
    const LANES: usize = N;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Lanes([T::default(); N])
    }
    #[inline(always)]
    unsafe fn splat(from: *const T) -> Self {
        // SAFETY: one element at `from`.
        Lanes([unsafe { *from }; N])
    }
    #[inline(always)]
    unsafe fn load(from: *const T) -> Self {
        // SAFETY: N elements at `from`.
        Lanes(unsafe { from.cast::<[T; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const T, n: usize) -> Self {
        let mut lanes = [T::default(); N];
        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
            // SAFETY: n elements at `from`.
            *lane = unsafe { *from.add(i) };
        }
        Lanes(lanes)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut T) {
        // SAFETY: N elements at `to`.
        unsafe { to.cast::<[T; N]>().write_unaligned(self.0) };
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut T, n: usize) {
        for (i, lane) in self.0.iter().enumerate().take(n) {
            // SAFETY: n elements at `to`.
            unsafe { *to.add(i) = *lane };
        }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Lanes(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Lanes(std::array::from_fn(|i| self.0[i].add(b.0[i])))
    }
}

/// Sums of four products of pairs: the operands of `mul_add` are words of two integers of 16 bits each, all else is of `i32`.
#[derive(Clone, Copy)]
pub(crate) struct PairLanes(Lanes<i32, 4>);

impl Vector for PairLanes {
    type T = i32;
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: arrays need no instruction set.
        Self(unsafe { Lanes::zero() })
    }
    #[inline(always)]
    unsafe fn splat(from: *const i32) -> Self {
        // SAFETY: passed on to the caller.
        Self(unsafe { Lanes::splat(from) })
    }
    #[inline(always)]
    unsafe fn load(from: *const i32) -> Self {
        // SAFETY: passed on to the caller.
        Self(unsafe { Lanes::load(from) })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const i32, n: usize) -> Self {
        // SAFETY: passed on to the caller.
        Self(unsafe { Lanes::load_first(from, n) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: passed on to the caller.
        unsafe { self.0.store(to) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut i32, n: usize) {
        // SAFETY: passed on to the caller.
        unsafe { self.0.store_first(to, n) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        let (a, b, c) = (self.0.0, b.0.0, c.0.0);
        Self(Lanes(std::array::from_fn(|i| {
            let lower = i32::from(a[i] as i16) * i32::from(b[i] as i16);
            c[i].wrapping_add(lower).wrapping_add((a[i] >> 16) * (b[i] >> 16))
        })))
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: arrays need no instruction set.
        Self(unsafe { self.0.add(b.0) })
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    //! 512-bit and 256-bit registers.
    use super::Vector;
    use std::arch::x86_64::*;

    macro_rules! avx512 {
        ($name:ident, $t:ty, $reg:ty, $mask:ty, $lanes:literal, $zero:ident, $splat:ident, $load:ident, $loadm:ident, $store:ident, $storem:ident, $fma:ident, $add:ident) => {
            #[derive(Clone, Copy)]
            pub(crate) struct $name($reg);

            impl Vector for $name {
                type T = $t;
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn zero() -> Self {
                    // SAFETY: only kernels compiled for AVX-512 name this type.
                    Self(unsafe { $zero() })
                }
                #[inline(always)]
                unsafe fn splat(from: *const $t) -> Self {
                    // SAFETY: as above; one element at `from`.
                    Self(unsafe { $splat(*from) })
                }
                #[inline(always)]
                unsafe fn load(from: *const $t) -> Self {
                    // SAFETY: as above; a vector of elements at `from`.
                    Self(unsafe { $load(from) })
                }
                #[inline(always)]
                unsafe fn load_first(from: *const $t, n: usize) -> Self {
                    // SAFETY: as above; lanes that are masked out are not read.
                    Self(unsafe { $loadm(((1_u32 << n) - 1) as $mask, from) })
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $t) {
                    // SAFETY: as above; room for a vector of elements at `to`.
                    unsafe { $store(to, self.0) }
                }
                #[inline(always)]
                unsafe fn store_first(self, to: *mut $t, n: usize) {
                    // SAFETY: as above; lanes that are masked out are not written.
                    unsafe { $storem(to, ((1_u32 << n) - 1) as $mask, self.0) }
                }
                #[inline(always)]
                unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $fma(self.0, b.0, c.0) })
                }
                #[inline(always)]
                unsafe fn add(self, b: Self) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $add(self.0, b.0) })
                }
            }
        };
    }
    avx512!(
        F32x16,
        f32,
        __m512,
        __mmask16,
        16,
        _mm512_setzero_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_maskz_loadu_ps,
        _mm512_storeu_ps,
        _mm512_mask_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps
    );
    avx512!(
        F64x8,
        f64,
        __m512d,
        __mmask8,
        8,
        _mm512_setzero_pd,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_maskz_loadu_pd,
        _mm512_storeu_pd,
        _mm512_mask_storeu_pd,
        _mm512_fmadd_pd,
        _mm512_add_pd
    );

    /// Sums of 16 products of pairs: the operands of `mul_add` are words of two bfloat16 each, all else is of `f32`.
    #[derive(Clone, Copy)]
    pub(crate) struct Bf16Pairs(F32x16);

    impl Vector for Bf16Pairs {
        type T = f32;
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: only kernels compiled for AVX512-BF16 name this type.
            Self(unsafe { F32x16::zero() })
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> Self {
            // SAFETY: as above; one word at `from`.
            Self(unsafe { F32x16::splat(from) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above; a vector of words at `from`.
            Self(unsafe { F32x16::load(from) })
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, n: usize) -> Self {
            // SAFETY: as above; lanes that are masked out are not read.
            Self(unsafe { F32x16::load_first(from, n) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above; room for a vector at `to`.
            unsafe { self.0.store(to) }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, n: usize) {
            // SAFETY: as above; lanes that are masked out are not written.
            unsafe { self.0.store_first(to, n) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: as above; 512 bits are 32 bfloat16.
            Self(F32x16(unsafe {
                let pairs = |x: __m512| std::mem::transmute::<__m512, __m512bh>(x);
                _mm512_dpbf16_ps(c.0.0, pairs(self.0.0), pairs(b.0.0))
            }))
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { self.0.add(b.0) })
        }
    }

    macro_rules! avx2 {
        ($name:ident, $t:ty, $int:ty, $reg:ty, $lanes:literal, $zero:ident, $splat:ident, $load:ident, $loadm:ident, $store:ident, $storem:ident, $fma:ident, $add:ident) => {
            #[derive(Clone, Copy)]
            pub(crate) struct $name($reg);

            impl $name {
                /// All bits set in the first `n` lanes.
                #[inline(always)]
                unsafe fn mask(n: usize) -> __m256i {
                    let mut lanes: [$int; $lanes] = [0; $lanes];
                    for lane in lanes.iter_mut().take(n) {
                        *lane = -1;
                    }
                    // SAFETY: only kernels compiled for AVX2 name this type; the array has 32 bytes.
                    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
                }
            }

            impl Vector for $name {
                type T = $t;
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn zero() -> Self {
                    // SAFETY: only kernels compiled for AVX2 name this type.
                    Self(unsafe { $zero() })
                }
                #[inline(always)]
                unsafe fn splat(from: *const $t) -> Self {
                    // SAFETY: as above; one element at `from`.
                    Self(unsafe { $splat(*from) })
                }
                #[inline(always)]
                unsafe fn load(from: *const $t) -> Self {
                    // SAFETY: as above; a vector of elements at `from`.
                    Self(unsafe { $load(from) })
                }
                #[inline(always)]
                unsafe fn load_first(from: *const $t, n: usize) -> Self {
                    // SAFETY: as above; lanes that are masked out are not read.
                    Self(unsafe { $loadm(from, Self::mask(n)) })
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $t) {
                    // SAFETY: as above; room for a vector of elements at `to`.
                    unsafe { $store(to, self.0) }
                }
                #[inline(always)]
                unsafe fn store_first(self, to: *mut $t, n: usize) {
                    // SAFETY: as above; lanes that are masked out are not written.
                    unsafe { $storem(to, Self::mask(n), self.0) }
                }
                #[inline(always)]
                unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $fma(self.0, b.0, c.0) })
                }
                #[inline(always)]
                unsafe fn add(self, b: Self) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $add(self.0, b.0) })
                }
            }
        };
    }
    avx2!(
        F32x8,
        f32,
        i32,
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_maskload_ps,
        _mm256_storeu_ps,
        _mm256_maskstore_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps
    );
    avx2!(
        F64x4,
        f64,
        i64,
        __m256d,
        4,
        _mm256_setzero_pd,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_maskload_pd,
        _mm256_storeu_pd,
        _mm256_maskstore_pd,
        _mm256_fmadd_pd,
        _mm256_add_pd
    );

    /// Vectors of `i32` whose `mul_add` takes words of several integers: what it computes is an expression of the sum, the left
    /// and the right operand.
    macro_rules! words {
        ($(#[$about:meta])* $name:ident, $reg:ty, $lanes:literal, $zero:ident, $splat:ident, $load:ident, $store:ident, $add:ident, $loadm:expr, $storem:expr, $products:expr) => {
            $(#[$about])*
            #[derive(Clone, Copy)]
            pub(crate) struct $name($reg);

            impl Vector for $name {
                type T = i32;
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn zero() -> Self {
                    // SAFETY: only kernels compiled for its instruction set name this type.
                    Self(unsafe { $zero() })
                }
                #[inline(always)]
                unsafe fn splat(from: *const i32) -> Self {
                    // SAFETY: as above; one word at `from`.
                    Self(unsafe { $splat(*from) })
                }
                #[inline(always)]
                unsafe fn load(from: *const i32) -> Self {
                    // SAFETY: as above; a vector of words at `from`.
                    Self(unsafe { $load(from.cast()) })
                }
                #[inline(always)]
                unsafe fn load_first(from: *const i32, n: usize) -> Self {
                    // SAFETY: as above; lanes that are masked out are not read.
                    Self(unsafe { $loadm(from, n) })
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut i32) {
                    // SAFETY: as above; room for a vector at `to`.
                    unsafe { $store(to.cast(), self.0) }
                }
                #[inline(always)]
                unsafe fn store_first(self, to: *mut i32, n: usize) {
                    // SAFETY: as above; lanes that are masked out are not written.
                    unsafe { $storem(to, n, self.0) }
                }
                #[inline(always)]
                unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $products(c.0, self.0, b.0) })
                }
                #[inline(always)]
                unsafe fn add(self, b: Self) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $add(self.0, b.0) })
                }
            }
        };
    }
    macro_rules! words_512 {
        ($(#[$about:meta])* $name:ident, $products:expr) => {
            words!(
                $(#[$about])*
                $name,
                __m512i,
                16,
                _mm512_setzero_si512,
                _mm512_set1_epi32,
                _mm512_loadu_si512,
                _mm512_storeu_si512,
                _mm512_add_epi32,
                |from, n: usize| _mm512_maskz_loadu_epi32(((1_u32 << n) - 1) as __mmask16, from),
                |to, n: usize, value| _mm512_mask_storeu_epi32(to, ((1_u32 << n) - 1) as __mmask16, value),
                $products
            );
        };
    }
    words_512!(
        /// Four bytes a word, those of the left operand unsigned, those of the right one signed.
        BytesLeft,
        |c, a, b| _mm512_dpbusd_epi32(c, a, b)
    );
    words_512!(
        /// Four bytes a word, those of the right operand unsigned, those of the left one signed.
        BytesRight,
        |c, a, b| _mm512_dpbusd_epi32(c, b, a)
    );
    words_512!(
        /// Two integers of 16 bits a word, by one instruction.
        IntPairsVnni,
        |c, a, b| _mm512_dpwssd_epi32(c, a, b)
    );
    words_512!(
        /// Two integers of 16 bits a word.
        IntPairs16,
        |c, a, b| _mm512_add_epi32(c, _mm512_madd_epi16(a, b))
    );
    words!(
        /// Two integers of 16 bits a word.
        IntPairs8,
        __m256i,
        8,
        _mm256_setzero_si256,
        _mm256_set1_epi32,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm256_add_epi32,
        |from, n| _mm256_maskload_epi32(from, F32x8::mask(n)),
        |to, n, value| _mm256_maskstore_epi32(to, F32x8::mask(n), value),
        |c, a, b| _mm256_add_epi32(c, _mm256_madd_epi16(a, b))
    );
}
