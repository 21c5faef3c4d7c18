//! Tensors that go into and come out of a session, and how they are made from and into `ndarray` arrays.

use crate::error::{Error, Result};
use bytes::Bytes;
use ndarray::{ArrayBase, ArrayD, Data, Dimension, IxDyn};
use thalweg_base::{Buffer, DType, Literal};

/// A dense, row-major tensor of values in host memory. Cloning shares the values.
///
/// ```
/// use thalweg::Tensor;
/// let array = ndarray::array![[1f32, 2.], [3., 4.]];
/// let tensor = Tensor::from(array.view());
/// assert_eq!(tensor.shape(), [2, 2]);
/// assert_eq!(tensor.array::<f32>().unwrap(), array.into_dyn());
/// ```
#[derive(Clone, PartialEq)]
pub struct Tensor(pub(crate) Literal);

/// A type of elements: `f32`, `f64`, `f16`, `bf16`, `i8`, `i16`, `i32`, `i64`, `u8`, `u16`, `u32`, `u64` or
/// `bool`.
pub trait Element: Copy + private::Sealed + 'static {
    /// The dtype that the elements have in a tensor.
    const DTYPE: DType;

    #[doc(hidden)]
    fn to_bytes(elements: &[Self]) -> Buffer;

    #[doc(hidden)]
    fn from_bytes(bytes: &[u8]) -> Vec<Self>;
}

mod private {
    pub trait Sealed {}
}

macro_rules! element {
    ($($ty:ty => $dtype:ident),+ $(,)?) => {$(
        impl private::Sealed for $ty {}

        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;

            fn to_bytes(elements: &[Self]) -> Buffer {
                match cfg!(target_endian = "little") {
                    true => Buffer::copy_of(bytemuck::cast_slice(elements)),
                    false => {
                        let bytes: Vec<u8> = elements.iter().flat_map(|element| element.to_le_bytes()).collect();
                        Buffer::copy_of(&bytes)
                    }
                }
            }

            fn from_bytes(bytes: &[u8]) -> Vec<Self> {
                let read = |bytes: &[u8]| <$ty>::from_le_bytes(bytes.try_into().expect("chunks of one element"));
                bytes.chunks_exact(size_of::<$ty>()).map(read).collect()
            }
        }
    )+};
}

element! {
    f32 => F32, f64 => F64, half::f16 => F16, half::bf16 => BF16, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
}

impl private::Sealed for bool {}

impl Element for bool {
    const DTYPE: DType = DType::Bool;

    fn to_bytes(elements: &[Self]) -> Buffer {
        let mut bytes = Buffer::zeroed(elements.len());
        bytes.as_mut().iter_mut().zip(elements).for_each(|(byte, element)| *byte = *element as u8);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Vec<Self> {
        bytes.iter().map(|byte| *byte != 0).collect()
    }
}

impl Tensor {
    /// A tensor from elements in row-major order. Fails when there are not as many as the shape has.
    pub fn new<T: Element>(shape: &[usize], elements: &[T]) -> Result<Tensor> {
        Tensor::of(T::DTYPE, shape, T::to_bytes(elements))
    }

    /// A tensor from its storage bytes: little-endian, row-major, truth values one byte each. Fails when the length does
    /// not fit the shape.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Result<Tensor> {
        Tensor::of(dtype, shape, bytes)
    }

    fn of(dtype: DType, shape: &[usize], bytes: impl Into<Bytes>) -> Result<Tensor> {
        let literal = Literal::from_bytes(dtype, shape, bytes);
        literal.map(Tensor).map_err(|error| Error::Inputs { problems: vec![error.to_string()] })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    /// The sizes of the dims.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The storage bytes: little-endian, row-major.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The elements in row-major order. Fails when they are of another type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        match self.dtype() == T::DTYPE {
            true => Ok(T::from_bytes(self.bytes())),
            false => Err(Error::Dtype { asked: T::DTYPE, found: self.dtype() }),
        }
    }

    /// An array of the elements. Fails when they are of another type.
    pub fn array<T: Element>(&self) -> Result<ArrayD<T>> {
        let elements = self.to_vec()?;
        Ok(ArrayD::from_shape_vec(IxDyn(self.shape()), elements).expect("a tensor has as many as its shape"))
    }

    /// Every element as `f64`, in row-major order, whatever the type; integers beyond 2^53 are rounded.
    pub fn to_f64(&self) -> Vec<f64> {
        self.0.scalars().map(|scalar| scalar.to_f64()).collect()
    }

    /// The element of a tensor that has just one, as `f64`.
    pub fn item(&self) -> Option<f64> {
        (self.len() == 1).then(|| self.0.get(0).to_f64())
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Literal> for Tensor {
    fn from(literal: Literal) -> Tensor {
        Tensor(literal)
    }
}

impl<T: Element, S: Data<Elem = T>, D: Dimension> From<&ArrayBase<S, D>> for Tensor {
    fn from(array: &ArrayBase<S, D>) -> Tensor {
        let bytes = match array.as_slice() {
            Some(elements) => T::to_bytes(elements),
            None => T::to_bytes(&array.iter().copied().collect::<Vec<T>>()),
        };
        Tensor(
            Literal::from_bytes(T::DTYPE, array.shape(), bytes).expect("an array has as many as its shape"),
        )
    }
}

impl<T: Element, S: Data<Elem = T>, D: Dimension> From<ArrayBase<S, D>> for Tensor {
    fn from(array: ArrayBase<S, D>) -> Tensor {
        Tensor::from(&array)
    }
}

impl<T: Element> From<T> for Tensor {
    fn from(element: T) -> Tensor {
        let bytes = T::to_bytes(&[element]);
        Tensor(Literal::from_bytes(T::DTYPE, &[], bytes).expect("a scalar is one element"))
    }
}
