//! What a rule answers: an expression over classes, and the short ways to write one.

use crate::facts::{TensorGraph, add_uniform};
use crate::lang::{ENode, OpRef};
use egg::Id;
use thalweg_base::{Dim, PointwiseFn, Scalar};
use thalweg_tensor::ops::{Broadcast, Convert, Pointwise, Reduce, Reshape, Slice, SliceRange, Transpose};
use thalweg_tensor::{Op, ReduceFn, TensorType};

/// An expression over classes.
#[derive(Clone, Debug)]
pub(crate) enum Term {
    /// A class that there is.
    Class(Id),
    /// One value at every position.
    Uniform(TensorType, Scalar),
    /// An op of terms. An op that changes nothing stands for its operand.
    Node(Op, Vec<Term>),
}

impl From<Id> for Term {
    fn from(id: Id) -> Term {
        Term::Class(id)
    }
}

impl Term {
    pub(crate) fn node(op: impl Into<Op>, operands: impl IntoIterator<Item = impl Into<Term>>) -> Term {
        Term::Node(op.into(), operands.into_iter().map(Into::into).collect())
    }

    pub(crate) fn pointwise<T: Into<Term>>(
        function: PointwiseFn,
        operands: impl IntoIterator<Item = T>,
    ) -> Term {
        Term::node(Pointwise { function }, operands)
    }

    pub(crate) fn transpose(self, perm: Vec<usize>) -> Term {
        Term::node(Transpose { perm }, [self])
    }

    pub(crate) fn reshape(self, shape: &[Dim]) -> Term {
        Term::node(Reshape { shape: shape.to_vec() }, [self])
    }

    pub(crate) fn broadcast(self, shape: &[Dim], dims: Vec<usize>) -> Term {
        Term::node(Broadcast { shape: shape.to_vec(), dims }, [self])
    }

    pub(crate) fn reduce(self, function: ReduceFn, dims: Vec<usize>) -> Term {
        Term::node(Reduce { function, dims }, [self])
    }

    pub(crate) fn slice(self, ranges: Vec<SliceRange>) -> Term {
        Term::node(Slice { ranges }, [self])
    }

    pub(crate) fn convert(self, dtype: thalweg_base::DType) -> Term {
        Term::node(Convert { dtype }, [self])
    }
}

/// Adds a term and gives its class.
pub(crate) fn add(egraph: &mut TensorGraph, term: Term) -> Id {
    match term {
        Term::Class(id) => egraph.find(id),
        Term::Uniform(ty, value) => add_uniform(egraph, &ty, value),
        Term::Node(op, operands) => {
            let operands: Vec<Id> = operands.into_iter().map(|operand| add(egraph, operand)).collect();
            match changes_nothing(egraph, &op, &operands) {
                true => operands[0],
                false => egraph.add(ENode::new(OpRef::new(op), operands)),
            }
        }
    }
}

/// Whether an op gives its first operand as it is.
pub(crate) fn changes_nothing(egraph: &TensorGraph, op: &Op, operands: &[Id]) -> bool {
    let ty = |index: usize| &egraph[operands[index]].data.types[0];
    match op {
        Op::Convert(op) => op.dtype == ty(0).dtype,
        Op::Broadcast(op) => op.dims.len() == op.shape.len(),
        Op::Reshape(op) => op.shape == ty(0).shape,
        Op::Transpose(op) => op.perm.iter().copied().eq(0..op.perm.len()),
        Op::Slice(op) => op.ranges.iter().all(|range| {
            range.start == Dim::default() && range.stride == 1 && range.size == ty(0).shape[range.dim]
        }),
        Op::Pad(op) => op
            .dims
            .iter()
            .all(|pad| pad.low == Dim::default() && pad.high == Dim::default() && pad.interior == 0),
        Op::Concat(_) => operands.len() == 1,
        Op::Reduce(op) => op.dims.is_empty(),
        Op::Leaf(_) | Op::Constant(_) | Op::Iota(_) | Op::Random(_) | Op::Pointwise(_) => false,
        Op::Gather(_) | Op::Scatter(_) | Op::Cumulative(_) | Op::Contract(_) | Op::Convolve(_) => false,
        Op::Unfold(_) | Op::Fold(_) | Op::ArgSort(_) | Op::DynamicSlice(_) | Op::DynamicUpdate(_) => false,
        Op::Scan(_) | Op::While(_) | Op::Branch(_) | Op::Pick(_) | Op::Collective(_) => false,
    }
}
