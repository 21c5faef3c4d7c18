//! A dense tensor of known values in host memory, with its bytes in storage format.

use crate::{DType, Scalar};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A dense, row-major tensor of known values. Cloning shares the bytes, which may be anyone's: a vector's, or those of a mapped
/// file.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Literal {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

/// Why bytes do not make a literal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{bytes} bytes do not make a {dtype} tensor of shape {shape:?}")]
pub struct LiteralError {
    /// The element type asked for.
    pub dtype: DType,
    /// The shape asked for.
    pub shape: Vec<usize>,
    /// The bytes given.
    pub bytes: usize,
}

impl Literal {
    /// A literal from little-endian, row-major storage bytes. Fails when the length does not fit.
    pub fn from_bytes(
        dtype: DType,
        shape: &[usize],
        bytes: impl Into<Bytes>,
    ) -> Result<Literal, LiteralError> {
        let bytes = bytes.into();
        let expected = shape.iter().try_fold(dtype.size_bytes(), |product, &dim| product.checked_mul(dim));
        match expected == Some(bytes.len()) {
            true => Ok(Literal { dtype, shape: shape.to_vec(), bytes }),
            false => Err(LiteralError { dtype, shape: shape.to_vec(), bytes: bytes.len() }),
        }
    }

    /// A literal from values, each converted to `dtype`. Panics when the count does not fit the shape.
    pub fn from_scalars(dtype: DType, shape: &[usize], values: impl IntoIterator<Item = Scalar>) -> Literal {
        let mut bytes = Vec::new();
        for value in values {
            write_scalar(dtype, value, &mut bytes);
        }
        Literal::from_bytes(dtype, shape, bytes).expect("as many values as the shape has elements")
    }

    /// An `f32` literal. Panics when the count does not fit the shape.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Literal {
        Literal::from_bytes(DType::F32, shape, bytemuck::cast_slice::<f32, u8>(values).to_vec())
            .expect("as many values as the shape has elements")
    }

    /// A tensor of rank 0.
    pub fn scalar(dtype: DType, value: Scalar) -> Literal {
        Literal::from_scalars(dtype, &[], [value])
    }

    /// All elements equal to `value`.
    pub fn full(dtype: DType, shape: &[usize], value: Scalar) -> Literal {
        let mut one = Vec::new();
        write_scalar(dtype, value, &mut one);
        let count = shape.iter().product::<usize>();
        Literal { dtype, shape: shape.to_vec(), bytes: one.repeat(count).into() }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes of the dims.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The storage bytes, little-endian and row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The storage bytes, shared.
    pub fn shared_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The element at a row-major position.
    pub fn get(&self, index: usize) -> Scalar {
        let size = self.dtype.size_bytes();
        read_scalar(self.dtype, &self.bytes[index * size..(index + 1) * size])
    }

    /// Every element, in row-major order.
    pub fn scalars(&self) -> impl Iterator<Item = Scalar> + '_ {
        self.bytes.chunks_exact(self.dtype.size_bytes()).map(|bytes| read_scalar(self.dtype, bytes))
    }

    /// The value that all elements share, compared bit by bit; absent for an empty or uneven literal.
    pub fn uniform_value(&self) -> Option<Scalar> {
        let size = self.dtype.size_bytes();
        let first = self.bytes.get(..size)?;
        self.bytes.chunks_exact(size).all(|bytes| bytes == first).then(|| read_scalar(self.dtype, first))
    }

    /// The elements as `f32`. Panics for another dtype.
    pub fn to_f32(&self) -> Vec<f32> {
        assert_eq!(self.dtype, DType::F32);
        self.bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
    }

    /// The same bytes under another shape of as many elements. Panics when the counts differ.
    pub fn reshaped(&self, shape: &[usize]) -> Literal {
        Literal::from_bytes(self.dtype, shape, self.bytes.clone())
            .expect("a reshape keeps the number of elements")
    }
}

/// Appends the storage bytes of `value` converted to `dtype`.
pub fn write_scalar(dtype: DType, value: Scalar, bytes: &mut Vec<u8>) {
    let value = value.convert(dtype);
    match dtype {
        DType::F32 => bytes.extend((value.to_f64() as f32).to_le_bytes()),
        DType::F64 => bytes.extend(value.to_f64().to_le_bytes()),
        DType::F16 => bytes.extend(half::f16::from_f64(value.to_f64()).to_le_bytes()),
        DType::BF16 => bytes.extend(half::bf16::from_f64(value.to_f64()).to_le_bytes()),
        // In two's complement the low bytes of a value are those of the same value in fewer bits.
        DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64
        | DType::Bool => bytes.extend(&value.to_i128().to_le_bytes()[..dtype.size_bytes()]),
    }
}

/// Reads one element from its storage bytes, as many as `dtype.size_bytes()`.
pub fn read_scalar(dtype: DType, bytes: &[u8]) -> Scalar {
    fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().expect("as many bytes as the dtype has")
    }
    match dtype {
        DType::F32 => Scalar::Float(f32::from_le_bytes(fixed(bytes)) as f64),
        DType::F64 => Scalar::Float(f64::from_le_bytes(fixed(bytes))),
        DType::F16 => Scalar::Float(half::f16::from_le_bytes(fixed(bytes)).to_f64()),
        DType::BF16 => Scalar::Float(half::bf16::from_le_bytes(fixed(bytes)).to_f64()),
        DType::I8 => Scalar::Int(i8::from_le_bytes(fixed(bytes)).into()),
        DType::I16 => Scalar::Int(i16::from_le_bytes(fixed(bytes)).into()),
        DType::I32 => Scalar::Int(i32::from_le_bytes(fixed(bytes)).into()),
        DType::I64 => Scalar::Int(i64::from_le_bytes(fixed(bytes)).into()),
        DType::U8 | DType::Bool => Scalar::Int(bytes[0].into()),
        DType::U16 => Scalar::Int(u16::from_le_bytes(fixed(bytes)).into()),
        DType::U32 => Scalar::Int(u32::from_le_bytes(fixed(bytes)).into()),
        DType::U64 => Scalar::Int(u64::from_le_bytes(fixed(bytes)).into()),
    }
}

impl std::fmt::Debug for Literal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)?;
        f.debug_list().entries(self.scalars().take(8).map(|value| value.to_f64())).finish()
    }
}

/// The serialized form: values as hexadecimal storage bytes when many, so that every bit survives.
#[derive(Serialize, Deserialize)]
struct Stored {
    dtype: DType,
    shape: Vec<usize>,
    hex: String,
}

impl Serialize for Literal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use std::fmt::Write;
        let mut hex = String::with_capacity(self.bytes.len() * 2);
        for byte in self.bytes.iter() {
            write!(hex, "{byte:02x}").expect("writing to a string");
        }
        Stored { dtype: self.dtype, shape: self.shape.clone(), hex }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let stored = Stored::deserialize(deserializer)?;
        let digits: Option<Vec<u8>> = stored.hex.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
        let digits =
            digits.filter(|digits| digits.len() % 2 == 0).ok_or_else(|| D::Error::custom("bad hex"))?;
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        Literal::from_bytes(stored.dtype, &stored.shape, bytes).map_err(D::Error::custom)
    }
}
