//! Values of the reference evaluator: simple, slow and obvious.

use thalweg_base::{DType, Literal, Scalar};

/// A dense row-major tensor of scalars; every value is one that its dtype can hold.
#[derive(Clone, PartialEq, Debug)]
pub struct Array {
    /// The element type.
    pub dtype: DType,
    /// The sizes of the dims.
    pub shape: Vec<usize>,
    /// The elements.
    pub values: Vec<Scalar>,
}

/// All multi-indices of a shape, in row-major order.
pub fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let shape = shape.to_vec();
    let count: usize = shape.iter().product();
    (0..count).map(move |flat| unflatten(flat, &shape))
}

/// The multi-index of a row-major position.
pub fn unflatten(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (at, &size) in shape.iter().enumerate().rev() {
        index[at] = flat % size;
        flat /= size;
    }
    index
}

/// The row-major position of a multi-index.
pub fn flatten(index: &[usize], shape: &[usize]) -> usize {
    debug_assert!(index.iter().zip(shape).all(|(i, size)| i < size), "{index:?} is outside {shape:?}");
    index.iter().zip(shape).fold(0, |flat, (i, size)| flat * size + i)
}

impl Array {
    /// An array whose element at each multi-index is computed, then converted to `dtype`.
    pub fn from_fn(dtype: DType, shape: &[usize], element: impl Fn(&[usize]) -> Scalar) -> Array {
        let values = indices(shape).map(|index| element(&index).convert(dtype)).collect();
        Array { dtype, shape: shape.to_vec(), values }
    }

    /// All elements equal.
    pub fn full(dtype: DType, shape: &[usize], value: Scalar) -> Array {
        Array { dtype, shape: shape.to_vec(), values: vec![value.convert(dtype); shape.iter().product()] }
    }

    /// The element at a multi-index.
    pub fn at(&self, index: &[usize]) -> Scalar {
        self.values[flatten(index, &self.shape)]
    }

    /// Replaces the element at a multi-index by a value converted to the dtype.
    pub fn set(&mut self, index: &[usize], value: Scalar) {
        let at = flatten(index, &self.shape);
        self.values[at] = value.convert(self.dtype);
    }

    /// The only element of an array of rank 0 (or of one element).
    pub fn item(&self) -> Scalar {
        assert_eq!(self.values.len(), 1, "an array of shape {:?} is no scalar", self.shape);
        self.values[0]
    }

    /// Equal slices along a dim.
    pub fn split(&self, dim: usize, parts: usize) -> Vec<Array> {
        let mut shape = self.shape.clone();
        assert_eq!(shape[dim] % parts, 0, "{parts} equal parts of {}", shape[dim]);
        shape[dim] /= parts;
        let piece = |part: usize| {
            Array::from_fn(self.dtype, &shape, |index| {
                let mut index = index.to_vec();
                index[dim] += part * shape[dim];
                self.at(&index)
            })
        };
        (0..parts).map(piece).collect()
    }

    /// Arrays one after the other along a dim.
    pub fn concat(parts: &[Array], dim: usize) -> Array {
        let mut shape = parts[0].shape.clone();
        shape[dim] = parts.iter().map(|part| part.shape[dim]).sum();
        Array::from_fn(parts[0].dtype, &shape, |index| {
            let mut index = index.to_vec();
            let mut parts = parts.iter();
            let mut part = parts.next().expect("a concatenation of something");
            while index[dim] >= part.shape[dim] {
                index[dim] -= part.shape[dim];
                part = parts.next().expect("the sizes add up");
            }
            part.at(&index)
        })
    }

    /// Element by element combination of arrays of one shape, rounded once at the end.
    pub fn combine(parts: &[Array], function: crate::ReduceFn) -> Array {
        let first = &parts[0];
        Array::from_fn(first.dtype, &first.shape, |index| {
            parts[1..].iter().fold(first.at(index), |sum, part| function.combine(sum, part.at(index)))
        })
    }

    /// The same values in storage form.
    pub fn to_literal(&self) -> Literal {
        Literal::from_scalars(self.dtype, &self.shape, self.values.iter().copied())
    }

    /// The values of a literal.
    pub fn from_literal(literal: &Literal) -> Array {
        Array { dtype: literal.dtype(), shape: literal.shape().to_vec(), values: literal.scalars().collect() }
    }
}
