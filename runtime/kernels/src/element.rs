//! Element types: how they are stored, and in what they are computed.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// The element type of the operands and of the result of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary16; summed in binary32, rounded once at the end.
    F16,
    /// The upper half of a binary32; summed in binary32, rounded once at the end.
    Bf16,
    /// 32-bit integer, wrapping; signed and unsigned ones have the same products and sums.
    I32,
    /// 64-bit integer, wrapping; signed and unsigned ones have the same products and sums.
    I64,
    /// 16-bit integer, wrapping; signed and unsigned ones have the same products and sums.
    I16,
    /// 8-bit signed integer, wrapping.
    I8,
    /// 8-bit unsigned integer, wrapping.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F64 | DType::I64 => 8,
            DType::F16 | DType::Bf16 | DType::I16 => 2,
            DType::I8 | DType::U8 => 1,
        }
    }

    /// Bytes of the type in which elements are multiplied and summed.
    pub(crate) fn compute_bytes(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::Bf16 => 4,
            DType::I32 | DType::I16 | DType::I8 | DType::U8 => 4,
            DType::F64 | DType::I64 => 8,
        }
    }

    /// Whether elements are multiplied and summed in binary32.
    pub(crate) fn compute_is_f32(self) -> bool {
        match self {
            DType::F32 | DType::F16 | DType::Bf16 => true,
            DType::F64 | DType::I32 | DType::I64 | DType::I16 | DType::I8 | DType::U8 => false,
        }
    }

    /// Whether it is an integer of which two fit in a word of 32 bits, with its sign.
    pub(crate) fn fits_words(self) -> bool {
        match self {
            DType::I16 | DType::I8 | DType::U8 => true,
            DType::F32 | DType::F64 | DType::F16 | DType::Bf16 | DType::I32 | DType::I64 => false,
        }
    }

    /// Whether elements are stored in another type than they are computed in.
    pub(crate) fn is_narrow(self) -> bool {
        self.bytes() != self.compute_bytes()
    }
}

/// A type in which products are formed and summed.
pub(crate) trait Compute: Copy + Default + Send + Sync + 'static {
    /// `self * b + c`, not necessarily fused.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// `self + b`.
    fn add(self, b: Self) -> Self;
    /// The low 32 bits of the integer, the fraction of a float being dropped.
    fn low_bits(self) -> u32;
}

macro_rules! float_compute {
    ($($t:ty)*) => {$(
        impl Compute for $t {
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                // Fused only where the instruction is always there: elsewhere it would be a library call.
                if cfg!(target_arch = "aarch64") { <$t>::mul_add(self, b, c) } else { self * b + c }
            }
            #[inline(always)]
            fn add(self, b: Self) -> Self {
                self + b
            }
            #[inline(always)]
            fn low_bits(self) -> u32 {
                self as i64 as u32
            }
        }
    )*};
}
float_compute!(f32 f64);

macro_rules! int_compute {
    ($($t:ty)*) => {$(
        impl Compute for $t {
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                self.wrapping_mul(b).wrapping_add(c)
            }
            #[inline(always)]
            fn add(self, b: Self) -> Self {
                self.wrapping_add(b)
            }
            #[inline(always)]
            fn low_bits(self) -> u32 {
                self as u32
            }
        }
    )*};
}
int_compute!(i32 i64);

/// A type in which elements lie in memory.
pub(crate) trait Storage: Copy + Send + Sync + 'static {
    /// What it is computed in; the same type, or a wider one.
    type Compute: crate::tile::Kernel;
    /// Whether `Compute` is this type.
    const SAME: bool;
    /// The value, exactly.
    fn widen(self) -> Self::Compute;
    /// The bits of the nearest bfloat16, ties to even.
    fn bf16_bits(self) -> u16;
    /// The nearest value (ties to even), or the low bits of an integer.
    fn narrow(value: Self::Compute) -> Self;

    /// Writes four elements of each of four rows as columns: `to[j * step + i] = rows[i][j]`.
    ///
    /// # Safety
    /// Four elements at each row, and room for them at `to`.
    #[inline(always)]
    unsafe fn transpose4(rows: [*const Self; 4], to: *mut Self::Compute, step: usize) {
        // SAFETY: passed on to the caller; the words of a vector are those of four 4-byte elements.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if Self::SAME && size_of::<Self>() == 4 {
                use std::arch::x86_64::{
                    _mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_storeu_ps, _mm_unpackhi_ps,
                    _mm_unpacklo_ps,
                };
                let (a, b) = (_mm_loadu_ps(rows[0].cast()), _mm_loadu_ps(rows[1].cast()));
                let (c, d) = (_mm_loadu_ps(rows[2].cast()), _mm_loadu_ps(rows[3].cast()));
                let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
                let (ef, gh) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
                _mm_storeu_ps(to.cast(), _mm_movelh_ps(ab, cd));
                _mm_storeu_ps(to.add(step).cast(), _mm_movehl_ps(cd, ab));
                _mm_storeu_ps(to.add(2 * step).cast(), _mm_movelh_ps(ef, gh));
                _mm_storeu_ps(to.add(3 * step).cast(), _mm_movehl_ps(gh, ef));
                return;
            }
            for j in 0..4 {
                for i in 0..4 {
                    *to.add(j * step + i) = (*rows[i].add(j)).widen();
                }
            }
        }
    }
}

/// The upper half of a number's bits, rounded to nearest, ties to even; without branches, so that vectors can do it.
#[inline(always)]
fn rounded(x: f32) -> u16 {
    let bits = x.to_bits();
    let near = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    // Rounding could carry out of the fraction of what is not a number; it stays one, quiet.
    let quiet = bits | 0x0040_0000;
    let is_nan = bits & 0x7FFF_FFFF > 0x7F80_0000;
    ((if is_nan { quiet } else { near }) >> 16) as u16
}

macro_rules! storage {
    ($($t:ty, $c:ty, $same:literal, $widen:expr, $narrow:expr, $bf16:expr;)*) => {$(
        impl Storage for $t {
            type Compute = $c;
            const SAME: bool = $same;
            #[inline(always)]
            fn widen(self) -> $c {
                let widen: fn($t) -> $c = $widen;
                widen(self)
            }
            #[inline(always)]
            fn bf16_bits(self) -> u16 {
                let bits: fn($t) -> u16 = $bf16;
                bits(self)
            }
            #[inline(always)]
            fn narrow(value: $c) -> $t {
                let narrow: fn($c) -> $t = $narrow;
                narrow(value)
            }
        }
    )*};
}
storage! {
    f32, f32, true, |x| x, |x| x, rounded;
    f64, f64, true, |x| x, |x| x, |x| rounded(x as f32);
    i32, i32, true, |x| x, |x| x, |x| rounded(x as f32);
    i64, i64, true, |x| x, |x| x, |x| rounded(x as f32);
    f16, f32, false, f16::to_f32, f16::from_f32, |x| rounded(x.to_f32());
    bf16, f32, false, |x| f32::from_bits(u32::from(x.to_bits()) << 16), bf16::from_f32, bf16::to_bits;
    i16, i32, false, i32::from, |x| x as i16, |x| rounded(f32::from(x));
    i8, i32, false, i32::from, |x| x as i8, |x| rounded(f32::from(x));
    u8, i32, false, i32::from, |x| x as u8, |x| rounded(f32::from(x));
}

/// Evaluates an expression with a type bound to the storage type of a `DType`.
macro_rules! with_storage {
    ($dtype:expr, $s:ident => $body:expr) => {
        match $dtype {
            $crate::element::DType::F32 => {
                type $s = f32;
                $body
            }
            $crate::element::DType::F64 => {
                type $s = f64;
                $body
            }
            $crate::element::DType::F16 => {
                type $s = half::f16;
                $body
            }
            $crate::element::DType::Bf16 => {
                type $s = half::bf16;
                $body
            }
            $crate::element::DType::I32 => {
                type $s = i32;
                $body
            }
            $crate::element::DType::I64 => {
                type $s = i64;
                $body
            }
            $crate::element::DType::I16 => {
                type $s = i16;
                $body
            }
            $crate::element::DType::I8 => {
                type $s = i8;
                $body
            }
            $crate::element::DType::U8 => {
                type $s = u8;
                $body
            }
        }
    };
}
pub(crate) use with_storage;
