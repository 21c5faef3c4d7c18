//! Types of tensors.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thalweg_base::{Bindings, DType, Dim, dim};

/// The dtype and shape of a tensor.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TensorType {
    /// The element type.
    pub dtype: DType,
    /// The sizes of the dims, outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A type of that dtype and shape.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> TensorType {
        TensorType { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// The type of a tensor of rank 0.
    pub fn scalar(dtype: DType) -> TensorType {
        TensorType { dtype, shape: Vec::new() }
    }

    /// The number of dims.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements, symbolic where the shape is.
    pub fn elements(&self) -> Dim {
        dim::product(&self.shape)
    }

    /// The sizes as numbers. Panics when a symbol is not bound.
    pub fn sizes(&self) -> Vec<usize> {
        self.shape.iter().map(Dim::size).collect()
    }

    /// The size in bytes. Panics when a symbol is not bound.
    pub fn bytes(&self) -> usize {
        self.elements().size().saturating_mul(self.dtype.size_bytes())
    }

    /// The same shape with another dtype.
    pub fn with_dtype(&self, dtype: DType) -> TensorType {
        TensorType { dtype, shape: self.shape.clone() }
    }

    /// The type with symbols replaced by their bindings.
    pub fn substitute(&self, bindings: &Bindings) -> TensorType {
        TensorType {
            dtype: self.dtype,
            shape: self.shape.iter().map(|dim| dim.substitute(bindings)).collect(),
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(", "))
    }
}

impl FromStr for TensorType {
    type Err = String;

    fn from_str(text: &str) -> Result<TensorType, String> {
        let open = text.find('[').ok_or_else(|| format!("`{text}` is not a type: `[` is missing"))?;
        let dims =
            text[open + 1..].strip_suffix(']').ok_or_else(|| format!("`{text}` does not end in `]`"))?;
        let shape = match dims.trim() {
            "" => Ok(Vec::new()),
            dims => dims.split(',').map(str::parse).collect(),
        };
        Ok(TensorType { dtype: text[..open].parse()?, shape: shape? })
    }
}
