//! Values while a model is imported: known at once, known up to sizes, or computed when the model runs.

use crate::element::Narrow;
use std::sync::Arc;
use thalweg_base::{Dim, Literal};
use thalweg_tensor::{NodeId, TensorType};

/// What a name in a model stands for.
#[derive(Clone, Debug)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A list of values; how many there are is always known.
    Sequence(Vec<Value>),
    /// A value that may be missing; whether it is there is always known.
    Optional(Option<Box<Value>>),
    /// A result of a node that could not be imported. What depends on it is not reported again.
    Poisoned,
}

/// A tensor with what is known of it.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its dtype in memory and its shape.
    pub ty: TensorType,
    /// The narrow type that its bytes are of.
    pub narrow: Option<Narrow>,
    /// Where its elements come from.
    pub content: Content,
}

/// Where the elements of a tensor come from.
#[derive(Clone, Debug)]
pub enum Content {
    /// They are computed by a node of the graph at that depth: 0 for the model's, more for bodies of loops and branches.
    Node {
        /// The depth.
        level: usize,
        /// The node.
        id: NodeId,
    },
    /// They are known.
    Known {
        /// The values.
        literal: Literal,
        /// What the model calls them, when they are its own: a weight.
        name: Option<Arc<str>>,
    },
    /// They are sizes, of rank 0 or 1 and dtype i64, that may hold symbols.
    Sizes(Arc<[Dim]>),
}

/// Named floating-point values of at least so many elements are weights, which may be trained and replaced; others are
/// constants of the program.
const WEIGHT_ELEMENTS_MIN: usize = 2;

/// Named integers of more elements than this are weights: nobody trains them, but a program is no place for them.
const CONSTANT_INTEGERS_MAX: usize = 1024;

impl Content {
    /// The name and values, when it is a weight.
    pub fn weight(&self) -> Option<(&Arc<str>, &Literal)> {
        let Content::Known { literal, name: Some(name) } = self else { return None };
        let weight = match literal.dtype().is_float() {
            true => literal.len() >= WEIGHT_ELEMENTS_MIN,
            false => literal.len() > CONSTANT_INTEGERS_MAX,
        };
        weight.then_some((name, literal))
    }
}

impl Value {
    /// The tensor, when it is one; an optional tensor that is there counts.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Value::Tensor(tensor) => Some(tensor),
            Value::Optional(Some(value)) => value.as_tensor(),
            Value::Sequence(_) | Value::Optional(None) | Value::Poisoned => None,
        }
    }

    /// Visits every tensor in it.
    pub fn tensors_mut(&mut self, visit: &mut dyn FnMut(&mut Tensor)) {
        match self {
            Value::Tensor(tensor) => visit(tensor),
            Value::Sequence(values) => values.iter_mut().for_each(|value| value.tensors_mut(visit)),
            Value::Optional(Some(value)) => value.tensors_mut(visit),
            Value::Optional(None) | Value::Poisoned => {}
        }
    }

    /// Known values.
    pub fn known(literal: Literal) -> Value {
        Value::Tensor(Tensor::known(literal))
    }
}

impl Tensor {
    /// Known values without a name.
    pub fn known(literal: Literal) -> Tensor {
        let ty = TensorType::new(literal.dtype(), literal.shape().iter().copied());
        Tensor { ty, narrow: None, content: Content::Known { literal, name: None } }
    }

    /// The values, when they are known.
    pub fn literal(&self) -> Option<Literal> {
        match &self.content {
            Content::Known { literal, .. } => Some(literal.clone()),
            Content::Sizes(sizes) => {
                let values: Option<Vec<i64>> = sizes.iter().map(Dim::as_constant).collect();
                let shape: Vec<usize> = self.ty.sizes();
                values.map(|values| {
                    let scalars = values.into_iter().map(|value| thalweg_base::Scalar::Int(value.into()));
                    Literal::from_scalars(self.ty.dtype, &shape, scalars)
                })
            }
            Content::Node { .. } => None,
        }
    }

    /// The rank.
    pub fn rank(&self) -> usize {
        self.ty.rank()
    }
}

/// A value outside of any graph: what goes into a model and comes out.
#[derive(Clone, PartialEq, Debug)]
pub enum HostValue {
    /// A tensor, and the narrow type that its bytes are of.
    Tensor(Literal, Option<Narrow>),
    /// A list.
    Sequence(Vec<HostValue>),
    /// A value that may be missing.
    Optional(Option<Box<HostValue>>),
}
