//! A value from outside the graph.
//!
//! Inputs are given at each call. Parameters and states are kept between calls under their names; a graph's updates give
//! their next values. Parameters are what training changes and what weight files hold.

use crate::Mesh;
use crate::axes::AxisSignature;
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure};
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thalweg_base::Initializer;

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
