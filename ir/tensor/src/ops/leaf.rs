//! A value from outside the graph.
//!
//! Inputs are given at each call. Parameters and states are kept between calls under their names; a graph's updates give
//! their next values. Parameters are what training changes and what weight files hold.

use crate::axes::AxisSignature;
use crate::mesh::Mesh;
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thalweg_base::{DType, Literal, Scalar, random};

/// Where a leaf's value comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeafKind {
    /// Given at each call.
    Input,
    /// Kept between calls and trained.
    Parameter,
    /// Kept between calls: running statistics, caches, counters, what an optimizer remembers.
    State,
}

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
    /// The first value of the leaf called `name` under `seed`.
    pub fn literal(&self, seed: u64, name: &str, dtype: DType, shape: &[usize]) -> Literal {
        let key = random::key_for(seed, name);
        let words = |index: usize| random::threefry2x32(key, [index as u32, (index as u64 >> 32) as u32]);
        let count: usize = shape.iter().product();
        match self {
            Initializer::Constant(value) => Literal::full(dtype, shape, *value),
            Initializer::Uniform { low, high } => {
                let (low, high) = (low.to_f64(), high.to_f64());
                let value = |i| Scalar::Float(low + (high - low) * random::uniform(words(i)[0]));
                Literal::from_scalars(dtype, shape, (0..count).map(value))
            }
            Initializer::Normal { mean, deviation } => {
                let value = |i| Scalar::Float(mean.to_f64() + deviation.to_f64() * random::normal(words(i)));
                Literal::from_scalars(dtype, shape, (0..count).map(value))
            }
        }
    }
}

/// A value from outside the graph.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Leaf {
    /// Where it comes from.
    pub kind: LeafKind,
    /// What the caller knows it by.
    pub name: Arc<str>,
    /// Its type.
    pub ty: TensorType,
    /// How it begins, for parameters and states.
    pub init: Option<Initializer>,
}

impl OpDef for Leaf {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.is_empty(), "a leaf has no operands");
        Ok(vec![self.ty.clone()])
    }

    fn axes(&self, _: &[TensorType], results: &[TensorType]) -> AxisSignature {
        AxisSignature::pointwise(&results[0].shape, 0)
    }

    /// The evaluator gives leaves their values and never asks.
    fn eval(&self, _: &Mesh, _: &PerDevice<Array>) -> PerDevice<Array> {
        panic!("the leaf `{}` has no value of its own", self.name)
    }

    fn vjp(&self, _: &mut VjpContext) -> Vec<Grad> {
        vec![]
    }

    fn work(&self, _: &[TensorType], _: &[TensorType]) -> Work {
        Work::default()
    }

    /// None: a leaf computes nothing that could be compared.
    fn samples() -> Vec<Sample> {
        vec![]
    }
}
