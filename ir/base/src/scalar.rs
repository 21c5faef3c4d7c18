//! One element's value, outside any storage format, and how each dtype rounds it.

use crate::DType;
use serde::{Deserialize, Serialize};

/// A value of any dtype: floats as `f64`, integers and truth values (0, 1) as `i64`.
///
/// Equality, order and hash are those of the bits, so that a NaN equals itself, 0 differs from -0, and a value can be
/// part of a key.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Scalar {
    /// The value of a floating-point element.
    Float(f64),
    /// The value of an integer or `bool` element.
    Int(i64),
}

impl Scalar {
    fn key(self) -> (bool, u64) {
        match self {
            Scalar::Float(value) => (true, value.to_bits()),
            Scalar::Int(value) => (false, value as u64),
        }
    }

    /// The value as a float, converting integers.
    pub fn to_f64(self) -> f64 {
        match self {
            Scalar::Float(value) => value,
            Scalar::Int(value) => value as f64,
        }
    }

    /// The value as an integer: floats truncate toward zero and saturate, NaN gives 0.
    pub fn to_i64(self) -> i64 {
        match self {
            Scalar::Float(value) => value as i64,
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
                Scalar::Float(value) => (value != 0.0) as i64,
                Scalar::Int(value) => (value != 0) as i64,
            }),
            DType::I8 | DType::U8 | DType::I32 | DType::I64 => match self {
                Scalar::Float(value) => {
                    let (low, high) = dtype.range();
                    Scalar::Int((value as i64).clamp(low.to_i64(), high.to_i64()))
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
        DType::F64 | DType::I8 | DType::U8 | DType::I32 | DType::I64 | DType::Bool => value,
    }
}

/// Wraps modulo the width of an integer dtype.
pub fn wrap_int(value: i64, dtype: DType) -> i64 {
    match dtype {
        DType::I8 => value as i8 as i64,
        DType::U8 => value as u8 as i64,
        DType::I32 => value as i32 as i64,
        DType::Bool => (value != 0) as i64,
        DType::I64 | DType::F32 | DType::F64 | DType::F16 | DType::BF16 => value,
    }
}
