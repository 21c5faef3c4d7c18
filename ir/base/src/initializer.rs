//! How kept values begin.

use crate::literal::write_scalar;
use crate::{DType, Literal, Scalar, random};
use serde::{Deserialize, Serialize};

/// How a parameter or state begins. Position `i` takes counter `i` under a key made from the seed and the leaf's name, so
/// values do not depend on order, split or device.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Initializer {
    /// Every element this value.
    Constant(Scalar),
    /// Uniform in [low, high).
    Uniform {
        /// The lower bound.
        low: Scalar,
        /// The upper bound.
        high: Scalar,
    },
    /// Normal with this mean and standard deviation.
    Normal {
        /// The mean.
        mean: Scalar,
        /// The standard deviation.
        deviation: Scalar,
    },
}

impl Initializer {
    /// The value at a row-major position of the global tensor, under the key that [`random::key_for`] makes of seed and
    /// name.
    pub fn value(&self, key: [u32; 2], position: usize) -> Scalar {
        let words = || random::threefry2x32(key, [position as u32, (position as u64 >> 32) as u32]);
        match self {
            Initializer::Constant(value) => *value,
            Initializer::Uniform { low, high } => {
                let (low, high) = (low.to_f64(), high.to_f64());
                Scalar::Float(low + (high - low) * random::uniform(words()[0]))
            }
            Initializer::Normal { mean, deviation } => {
                Scalar::Float(mean.to_f64() + deviation.to_f64() * random::normal(words()))
            }
        }
    }

    /// The storage bytes of the values from position `first` on, under that key; as many as fit.
    pub fn fill(&self, key: [u32; 2], first: usize, dtype: DType, bytes: &mut [u8]) {
        let elements = bytes.chunks_exact_mut(dtype.size_bytes()).zip(first..);
        if dtype == DType::F32 {
            // What large models are made of, without a turn through scalars of any type.
            for (element, position) in elements {
                element.copy_from_slice(&(self.value(key, position).to_f64() as f32).to_le_bytes());
            }
            return;
        }
        let mut one = Vec::with_capacity(dtype.size_bytes());
        for (element, position) in elements {
            one.clear();
            write_scalar(dtype, self.value(key, position), &mut one);
            element.copy_from_slice(&one);
        }
    }

    /// The first value of the leaf called `name` under `seed`.
    pub fn literal(&self, seed: u64, name: &str, dtype: DType, shape: &[usize]) -> Literal {
        let key = random::key_for(seed, name);
        let count: usize = shape.iter().product();
        Literal::from_scalars(dtype, shape, (0..count).map(|position| self.value(key, position)))
    }
}
