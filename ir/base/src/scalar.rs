//! One element's value, outside any storage format, and how each dtype rounds it.

use crate::DType;
use serde::{Deserialize, Serialize};

/// A value of any dtype: floats as `f64`, integers and truth values (0, 1) as `i128`, which
/// holds every `i64` and every `u64`.
///
/// Equality, order and hash are those of the bits, so that a NaN equals itself, 0 differs from -0, and a value can be
/// part of a key.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Scalar {
    /// The value of a floating-point element.
    Float(f64),
    /// The value of an integer or `bool` element.
    Int(i128),
}

impl Scalar {
    fn key(self) -> (bool, u128) {
        match self {
            Scalar::Float(value) => (true, value.to_bits().into()),
            Scalar::Int(value) => (false, value as u128),
        }
    }

    /// The value as a float, converting integers.
    pub fn to_f64(self) -> f64 {
        match self {
            Scalar::Float(value) => value,
            Scalar::Int(value) => value as f64,
        }
    }

    /// The value as an integer of 64 bits: floats truncate toward zero and saturate, NaN gives 0. A `u64` above the
    /// largest `i64` keeps its bits, and so becomes negative.
    pub fn to_i64(self) -> i64 {
        match self {
            Scalar::Float(value) => value as i64,
            Scalar::Int(value) => value as i64,
        }
    }

    /// The value as an integer that no dtype exceeds: floats truncate toward zero and saturate, NaN gives 0.
    pub fn to_i128(self) -> i128 {
        match self {
            Scalar::Float(value) => value as i128,
            Scalar::Int(value) => value,
        }
    }

    /// Converts to `dtype` with that dtype's rule: floats round to nearest even, float to integer truncates toward
    /// zero and saturates at the range of `dtype` (NaN gives 0), integer to integer wraps, anything to `bool` is
    /// "not zero".
    pub fn convert(self, dtype: DType) -> Scalar {
        match dtype {
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {
                Scalar::Float(round_float(self.to_f64(), dtype))
            }
            DType::Bool => Scalar::Int(match self {
                Scalar::Float(value) => (value != 0.0).into(),
                Scalar::Int(value) => (value != 0).into(),
            }),
            DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::U64 => match self {
                Scalar::Float(value) => {
                    let (low, high) = dtype.range();
                    Scalar::Int((value as i128).clamp(low.to_i128(), high.to_i128()))
                }
                Scalar::Int(value) => Scalar::Int(wrap_int(value, dtype)),
            },
        }
    }

    /// 0 in the kind of `dtype`.
    pub fn zero(dtype: DType) -> Scalar {
        Scalar::Float(0.0).convert(dtype)
    }

    /// 1 in the kind of `dtype`.
    pub fn one(dtype: DType) -> Scalar {
        Scalar::Float(1.0).convert(dtype)
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Scalar) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Scalar {}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Scalar) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Scalar) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl std::hash::Hash for Scalar {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// Rounds to the nearest value of a float dtype, ties to even.
pub fn round_float(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => value as f32 as f64,
        DType::F16 => half::f16::from_f64(value).to_f64(),
        DType::BF16 => half::bf16::from_f64(value).to_f64(),
        DType::F64 | DType::I8 | DType::I16 | DType::I32 | DType::I64 => value,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool => value,
    }
}

/// Wraps modulo the width of an integer dtype.
pub fn wrap_int(value: i128, dtype: DType) -> i128 {
    match dtype {
        DType::I8 => (value as i8).into(),
        DType::I16 => (value as i16).into(),
        DType::I32 => (value as i32).into(),
        DType::I64 => (value as i64).into(),
        DType::U8 => (value as u8).into(),
        DType::U16 => (value as u16).into(),
        DType::U32 => (value as u32).into(),
        DType::U64 => (value as u64).into(),
        DType::Bool => (value != 0).into(),
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Literal;

    #[test]
    fn the_ends_of_every_range_are_kept() {
        for dtype in DType::ALL {
            let (low, high) = dtype.range();
            for value in [low, high] {
                assert_eq!(value.convert(dtype), value, "{dtype}");
                assert_eq!(Literal::scalar(dtype, value).get(0), value, "{dtype}");
            }
        }
    }

    #[test]
    fn integers_wrap_and_floats_saturate() {
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_integer()) {
            let (low, high) = dtype.range();
            let above = Scalar::Int(high.to_i128() + 1);
            let below = Scalar::Int(low.to_i128() - 1);
            assert_eq!((above.convert(dtype), below.convert(dtype)), (low, high), "{dtype}");
            let floats = [f64::INFINITY, f64::NEG_INFINITY, 1e30, -1e30, f64::NAN];
            let ends = floats.map(|value| Scalar::Float(value).convert(dtype));
            assert_eq!(ends, [high, low, high, low, Scalar::Int(0)], "{dtype}");
        }
        assert_eq!(Scalar::Float(1e19).convert(DType::U64), Scalar::Int(10_000_000_000_000_000_000));
        assert_eq!(Scalar::Int(u64::MAX.into()).to_i64(), -1);
        assert_eq!(Scalar::Int(u64::MAX.into()).to_f64(), 2f64.powi(64));
    }

    #[test]
    fn unsigned_numbers_are_ordered_and_divided_as_such() {
        use crate::PointwiseFn as F;
        let [large, half, two] = [u64::MAX, 1 << 63, 2].map(|value| Scalar::Int(value.into()));
        let apply = |function: F, a, b| function.eval(DType::U64, &[a, b]);
        assert_eq!(apply(F::Div, large, two), Scalar::Int(i64::MAX.into()));
        assert_eq!(apply(F::ShiftRight, large, two), Scalar::Int((u64::MAX >> 2).into()));
        assert_eq!(apply(F::Mul, half, two), Scalar::Int(0));
        assert_eq!(apply(F::Gt, large, half), Scalar::Int(1));
        assert_eq!(apply(F::Min, half, two), two);
    }
}
