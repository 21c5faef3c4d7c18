//! Counter-based random values: `y[...] = draw(key0, key1, counter[...])`.
//!
//! The counter is an operand, usually built from iotas, so a value depends on its global position only: cutting the counter
//! cuts the result, and every split gives the same values. See `thalweg_base::random` for the generator.

use crate::Mesh;
use crate::axes::AxisSignature;
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Scalar, random};

/// What is drawn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Uniform in [0, 1), a multiple of 2^-24.
    Uniform,
    /// Standard normal.
    Normal,
}

/// Random f32 values for operands `key0: i32[]`, `key1: i32[]`, `counter: i32[...]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Random {
    /// What is drawn.
    pub distribution: Distribution,
}

impl OpDef for Random {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 3, "random takes two key words and a counter");
        for operand in operands {
            ensure!(
                operand.dtype == DType::I32,
                "random takes keys and counters of i32, not {}",
                operand.dtype
            );
        }
        ensure!(operands[0].rank() == 0 && operands[1].rank() == 0, "the key words of random are scalars");
        Ok(vec![operands[2].with_dtype(DType::F32)])
    }

    fn axes(&self, operands: &[TensorType], _: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::pointwise(&operands[2].shape, 1);
        signature.operands.splice(0..0, [vec![], vec![]]);
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let key = [operands[0].item().to_i64() as u32, operands[1].item().to_i64() as u32];
            Array::from_fn(DType::F32, &operands[2].shape, |index| {
                let words = random::threefry2x32(key, [operands[2].at(index).to_i64() as u32, 0]);
                Scalar::Float(match self.distribution {
                    Distribution::Uniform => random::uniform(words[0]),
                    Distribution::Normal => random::normal(words),
                })
            })
        })
    }

    fn vjp(&self, _: &mut VjpContext) -> Vec<Grad> {
        vec![Grad::Zero, Grad::Zero, Grad::Zero]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        // Threefry-2x32-20 is 20 rounds of an addition, a rotation and an exclusive or, and five key injections.
        Work::streaming(75.0 * results[0].elements().size() as f64, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let key = TensorType::scalar(DType::I32);
        let counter = TensorType::new(DType::I32, [4, 6]);
        [Distribution::Uniform, Distribution::Normal]
            .into_iter()
            .map(|distribution| {
                Sample::new(Random { distribution }, &[key.clone(), key.clone(), counter.clone()])
            })
            .collect()
    }
}
