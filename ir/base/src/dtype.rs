//! Element types.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The type of one element of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// Signed 8 bits, wrapping.
    I8,
    /// Signed 16 bits, wrapping.
    I16,
    /// Signed 32 bits, wrapping.
    I32,
    /// Signed 64 bits, wrapping.
    I64,
    /// Unsigned 8 bits, wrapping.
    U8,
    /// Unsigned 16 bits, wrapping.
    U16,
    /// Unsigned 32 bits, wrapping.
    U32,
    /// Unsigned 64 bits, wrapping.
    U64,
    /// A truth value, one byte that is 0 or 1.
    Bool,
}

impl DType {
    /// Every dtype, in declaration order.
    pub const ALL: [DType; 13] = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::Bool,
    ];

    /// The name in the language and in text forms.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I8 => "i8",
            DType::I16 => "i16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::U32 => "u32",
            DType::U64 => "u64",
            DType::Bool => "bool",
        }
    }

    /// Size of one element in bytes.
    pub fn size_bytes(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether elements are floating point.
    pub fn is_float(self) -> bool {
        match self {
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => true,
            DType::I8 | DType::I16 | DType::I32 | DType::I64 => false,
            DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool => false,
        }
    }

    /// Whether elements are integers; `bool` is not one.
    pub fn is_integer(self) -> bool {
        !self.is_float() && self != DType::Bool
    }

    /// The distance from 1 to the next larger value; 0 for exact types.
    pub fn epsilon(self) -> f64 {
        match self {
            DType::F32 => f32::EPSILON as f64,
            DType::F64 => f64::EPSILON,
            DType::F16 => 2f64.powi(-10),
            DType::BF16 => 2f64.powi(-7),
            DType::I8 | DType::I16 | DType::I32 | DType::I64 => 0.0,
            DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool => 0.0,
        }
    }

    /// The smallest and largest value: infinities for floats, the range for integers, 0 and 1 for `bool`.
    pub fn range(self) -> (crate::Scalar, crate::Scalar) {
        use crate::Scalar::{Float, Int};
        match self {
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {
                (Float(f64::NEG_INFINITY), Float(f64::INFINITY))
            }
            DType::I8 => (Int(i8::MIN.into()), Int(i8::MAX.into())),
            DType::I16 => (Int(i16::MIN.into()), Int(i16::MAX.into())),
            DType::I32 => (Int(i32::MIN.into()), Int(i32::MAX.into())),
            DType::I64 => (Int(i64::MIN.into()), Int(i64::MAX.into())),
            DType::U8 => (Int(0), Int(u8::MAX.into())),
            DType::U16 => (Int(0), Int(u16::MAX.into())),
            DType::U32 => (Int(0), Int(u32::MAX.into())),
            DType::U64 => (Int(0), Int(u64::MAX.into())),
            DType::Bool => (Int(0), Int(1)),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        DType::ALL.into_iter().find(|dtype| dtype.name() == text).ok_or_else(|| format!("no dtype `{text}`"))
    }
}
