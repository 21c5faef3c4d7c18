//! Element types of the format, and how its tensors become literals.

use crate::error::Problem;
use crate::proto::{TensorProto, tensor_proto::DataType};
use bytes::Bytes;
use thalweg_base::{DType, Literal};

/// An element type of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element {
    /// A type that tensors of ours have.
    Plain(DType),
    /// A type of 8 bits or less, held as a number of 8 bits.
    Narrow(Narrow),
}

/// Types of 8 bits or less that ours lack. In memory an element is one byte: the value for integers, the code for floats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Narrow {
    /// Four exponent bits, three of fraction, no infinity.
    F8E4M3Fn,
    /// Four exponent bits, three of fraction, no infinity, no negative zero.
    F8E4M3FnUz,
    /// Five exponent bits, two of fraction.
    F8E5M2,
    /// Five exponent bits, two of fraction, no infinity, no negative zero.
    F8E5M2FnUz,
    /// Eight exponent bits: a power of two.
    F8E8M0,
    /// Two exponent bits, one of fraction.
    F4E2M1,
    /// Unsigned, 4 bits.
    U4,
    /// Signed, 4 bits.
    I4,
    /// Unsigned, 2 bits.
    U2,
    /// Signed, 2 bits.
    I2,
}

impl Narrow {
    /// Every narrow type.
    pub const ALL: [Narrow; 10] = [
        Narrow::F8E4M3Fn,
        Narrow::F8E4M3FnUz,
        Narrow::F8E5M2,
        Narrow::F8E5M2FnUz,
        Narrow::F8E8M0,
        Narrow::F4E2M1,
        Narrow::U4,
        Narrow::I4,
        Narrow::U2,
        Narrow::I2,
    ];

    /// The dtype that holds it.
    pub fn storage(self) -> DType {
        match self {
            Narrow::I4 | Narrow::I2 => DType::I8,
            Narrow::F8E4M3Fn | Narrow::F8E4M3FnUz | Narrow::F8E5M2 | Narrow::F8E5M2FnUz => DType::U8,
            Narrow::F8E8M0 | Narrow::F4E2M1 | Narrow::U4 | Narrow::U2 => DType::U8,
        }
    }

    /// Bits of one element in a file.
    pub fn bits(self) -> usize {
        match self {
            Narrow::F8E4M3Fn | Narrow::F8E4M3FnUz | Narrow::F8E5M2 | Narrow::F8E5M2FnUz => 8,
            Narrow::F8E8M0 => 8,
            Narrow::F4E2M1 | Narrow::U4 | Narrow::I4 => 4,
            Narrow::U2 | Narrow::I2 => 2,
        }
    }

    /// Whether elements are numbers rather than codes of floats.
    pub fn is_integer(self) -> bool {
        matches!(self, Narrow::U4 | Narrow::I4 | Narrow::U2 | Narrow::I2)
    }

    /// The value that a code (the low bits of the byte) stands for. The formats are those of the Open Compute Project's
    /// "OFP8" and "MX" specifications and, for the `UZ` ones, of Noune et al., arXiv 2206.02915.
    pub fn decode(self, code: u8) -> f64 {
        let split = |exponent_bits: u32, fraction_bits: u32, bias: i32| {
            let sign = if code >> (exponent_bits + fraction_bits) & 1 == 1 { -1.0 } else { 1.0 };
            let exponent = (code >> fraction_bits) as i32 & ((1 << exponent_bits) - 1);
            let fraction = (code & ((1 << fraction_bits) - 1)) as f64 / f64::from(1 << fraction_bits);
            sign * match exponent {
                0 => fraction * 2f64.powi(1 - bias),
                _ => (1.0 + fraction) * 2f64.powi(exponent - bias),
            }
        };
        match self {
            Narrow::F8E4M3Fn if code & 0x7f == 0x7f => f64::NAN,
            Narrow::F8E4M3Fn => split(4, 3, 7),
            Narrow::F8E4M3FnUz | Narrow::F8E5M2FnUz if code == 0x80 => f64::NAN,
            Narrow::F8E4M3FnUz => split(4, 3, 8),
            Narrow::F8E5M2FnUz => split(5, 2, 16),
            Narrow::F8E5M2 if code & 0x7f > 0x7c => f64::NAN,
            Narrow::F8E5M2 if code & 0x7f == 0x7c => {
                f64::INFINITY.copysign(if code > 127 { -1.0 } else { 1.0 })
            }
            Narrow::F8E5M2 => split(5, 2, 15),
            Narrow::F8E8M0 if code == 0xff => f64::NAN,
            Narrow::F8E8M0 => 2f64.powi(code as i32 - 127),
            Narrow::F4E2M1 => split(2, 1, 1),
            Narrow::U4 => (code & 15) as f64,
            Narrow::I4 => ((code << 4) as i8 >> 4) as f64,
            Narrow::U2 => (code & 3) as f64,
            Narrow::I2 => ((code << 6) as i8 >> 6) as f64,
        }
    }
}

/// The element type of that number in the format, or what it is when there is none.
pub fn element(number: i32) -> Result<Element, Problem> {
    use Element::{Narrow as N, Plain};
    let ty =
        DataType::try_from(number).map_err(|_| Problem::new(format!("there is no element type {number}")))?;
    Ok(match ty {
        DataType::Float => Plain(DType::F32),
        DataType::Double => Plain(DType::F64),
        DataType::Float16 => Plain(DType::F16),
        DataType::Bfloat16 => Plain(DType::BF16),
        DataType::Uint8 => Plain(DType::U8),
        DataType::Int8 => Plain(DType::I8),
        DataType::Uint16 => Plain(DType::U16),
        DataType::Int16 => Plain(DType::I16),
        DataType::Uint32 => Plain(DType::U32),
        DataType::Int32 => Plain(DType::I32),
        DataType::Uint64 => Plain(DType::U64),
        DataType::Int64 => Plain(DType::I64),
        DataType::Bool => Plain(DType::Bool),
        DataType::Float8e4m3fn => N(Narrow::F8E4M3Fn),
        DataType::Float8e4m3fnuz => N(Narrow::F8E4M3FnUz),
        DataType::Float8e5m2 => N(Narrow::F8E5M2),
        DataType::Float8e5m2fnuz => N(Narrow::F8E5M2FnUz),
        DataType::Float8e8m0 => N(Narrow::F8E8M0),
        DataType::Float4e2m1 => N(Narrow::F4E2M1),
        DataType::Uint4 => N(Narrow::U4),
        DataType::Int4 => N(Narrow::I4),
        DataType::Uint2 => N(Narrow::U2),
        DataType::Int2 => N(Narrow::I2),
        DataType::String => return Err(Problem::new("strings are not computed with: tensors hold numbers")),
        DataType::Complex64 | DataType::Complex128 => {
            return Err(Problem::new(
                "complex numbers are no elements; the format's own ops use pairs of reals",
            ));
        }
        DataType::Undefined => return Err(Problem::new("the element type is not given")),
    })
}

/// The number of a dtype in the format.
pub fn number(dtype: DType) -> i32 {
    let ty = match dtype {
        DType::F32 => DataType::Float,
        DType::F64 => DataType::Double,
        DType::F16 => DataType::Float16,
        DType::BF16 => DataType::Bfloat16,
        DType::U8 => DataType::Uint8,
        DType::I8 => DataType::Int8,
        DType::U16 => DataType::Uint16,
        DType::I16 => DataType::Int16,
        DType::U32 => DataType::Uint32,
        DType::I32 => DataType::Int32,
        DType::U64 => DataType::Uint64,
        DType::I64 => DataType::Int64,
        DType::Bool => DataType::Bool,
    };
    ty as i32
}

impl Element {
    /// The dtype in memory.
    pub fn storage(self) -> DType {
        match self {
            Element::Plain(dtype) => dtype,
            Element::Narrow(narrow) => narrow.storage(),
        }
    }

    /// The narrow type, when it is one.
    pub fn narrow(self) -> Option<Narrow> {
        match self {
            Element::Plain(_) => None,
            Element::Narrow(narrow) => Some(narrow),
        }
    }
}

/// The sizes of a tensor, and how many elements and bytes that makes in memory. Fails for sizes that lie.
fn sizes(dims: &[i64], dtype: DType) -> Result<(Vec<usize>, usize), Problem> {
    let shape: Option<Vec<usize>> = dims.iter().map(|size| usize::try_from(*size).ok()).collect();
    let shape = shape.ok_or_else(|| Problem::new(format!("the sizes {dims:?} are not all sizes")))?;
    let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
    let count = count
        .filter(|count| {
            count.checked_mul(dtype.size_bytes()).is_some_and(|bytes| bytes <= isize::MAX as usize)
        })
        .ok_or_else(|| Problem::new(format!("a tensor of shape {dims:?} does not fit any memory")))?;
    Ok((shape, count))
}

/// The values of a tensor.
pub fn literal(tensor: &TensorProto) -> Result<(Literal, Element), Problem> {
    let element = element(tensor.data_type)?;
    let dtype = element.storage();
    let (shape, count) = sizes(&tensor.dims, dtype)?;
    let raw = &tensor.raw_data;
    let bytes: Bytes = match element {
        _ if raw.is_empty() => typed(tensor, element, count)?.into(),
        Element::Narrow(narrow) => unpack(raw, narrow, count)?.into(),
        Element::Plain(DType::Bool) => raw.iter().map(|byte| (*byte != 0) as u8).collect(),
        // Weights may be gigabytes of a mapped file: they are shared, not copied.
        Element::Plain(_) => raw.clone(),
    };
    let found = bytes.len();
    Literal::from_bytes(dtype, &shape, bytes).map(|literal| (literal, element)).map_err(|_| {
        let expected = count * dtype.size_bytes();
        Problem::new(format!("a tensor of {dtype}{shape:?} has {expected} bytes, but {found} are given"))
    })
}

/// The bytes of elements in a field of their own type.
fn typed(tensor: &TensorProto, element: Element, count: usize) -> Result<Vec<u8>, Problem> {
    fn each<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|value| bytes(*value)).collect()
    }
    Ok(match element {
        Element::Plain(DType::F32) => each(&tensor.float_data, f32::to_le_bytes),
        Element::Plain(DType::F64) => each(&tensor.double_data, f64::to_le_bytes),
        Element::Plain(DType::I64) => each(&tensor.int64_data, i64::to_le_bytes),
        Element::Plain(DType::U64) => each(&tensor.uint64_data, u64::to_le_bytes),
        Element::Plain(DType::U32) => each(&tensor.uint64_data, |value| (value as u32).to_le_bytes()),
        Element::Plain(DType::I32) => each(&tensor.int32_data, i32::to_le_bytes),
        Element::Plain(DType::F16 | DType::BF16 | DType::U16 | DType::I16) => {
            each(&tensor.int32_data, |value| (value as u16).to_le_bytes())
        }
        Element::Plain(DType::U8 | DType::I8) => each(&tensor.int32_data, |value| [value as u8]),
        Element::Plain(DType::Bool) => each(&tensor.int32_data, |value| [(value != 0) as u8]),
        Element::Narrow(narrow) => {
            let packed = each(&tensor.int32_data, |value| [value as u8]);
            unpack(&packed, narrow, count)?
        }
    })
}

/// One byte for each element of a packed tensor; the first element is in the lowest bits.
fn unpack(packed: &[u8], narrow: Narrow, count: usize) -> Result<Vec<u8>, Problem> {
    let per_byte = 8 / narrow.bits();
    if packed.len() != count.div_ceil(per_byte) {
        return Err(Problem::new(format!(
            "{count} elements of {} bits are not {} bytes",
            narrow.bits(),
            packed.len()
        )));
    }
    let code = |at: usize| {
        let shifted = packed[at / per_byte] >> (at % per_byte * narrow.bits());
        match narrow.bits() {
            8 => shifted,
            bits => shifted & ((1 << bits) - 1),
        }
    };
    let value = |code: u8| if narrow.is_integer() { narrow.decode(code) as i8 as u8 } else { code };
    Ok((0..count).map(|at| value(code(at))).collect())
}
