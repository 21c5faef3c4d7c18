//! Axis signatures: one name for each dim of each operand and result of an op.
//!
//! A signature says all that partitioning, batching, fusion and loop building need to know of an op. In the signature
//! of a matrix product, `m k, k n -> m n`, the axes `m` and `n` are mapped and `k` is reduced by a sum. A dim may be made of
//! several axes, most major first, which is how a reshape tells what it merges and splits.

use crate::ReduceFn;
use crate::op::Op;
use serde::{Deserialize, Serialize};
use thalweg_base::{Dim, define_id};

define_id! {
    /// One axis of a signature.
    AxisId, "a"
}

/// What an op does along an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Every position is computed by itself, the same way.
    Mapped,
    /// Positions are combined; cutting the axis leaves parts that this function combines.
    Reduced(ReduceFn),
    /// A position needs its neighbours: `before` positions lower and `after` positions higher.
    Windowed {
        /// Positions needed below, at most.
        before: usize,
        /// Positions needed above, at most.
        after: usize,
    },
    /// It cannot be cut.
    Whole,
}

/// One axis: its size and what the op does along it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Axis {
    /// Number of positions.
    pub size: Dim,
    /// What the op does along it.
    pub role: Role,
}

/// The axes that a dim is made of, most major first.
pub type DimAxes = Vec<AxisId>;

/// The axes of every dim of every operand and result of one op.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AxisSignature {
    /// The axes.
    pub axes: Vec<Axis>,
    /// For each operand, for each of its dims.
    pub operands: Vec<Vec<DimAxes>>,
    /// For each result, for each of its dims.
    pub results: Vec<Vec<DimAxes>>,
}

/// How one operand or result takes part in a cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// Each device has the whole.
    Replicated,
    /// Each device has an equal slice along this dim.
    Cut(usize),
    /// Each device has a value of full shape that this function combines with the others'.
    Partial(ReduceFn),
}

/// One way to cut an op into equal parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The axis that is cut.
    pub axis: AxisId,
    /// For each operand.
    pub operands: Vec<Part>,
    /// For each result.
    pub results: Vec<Part>,
}

impl Cut {
    /// The op that computes one of `parts` pieces: the same op, its shape attribute divided where the result is cut.
    pub fn localize(&self, op: &Op, parts: usize) -> Op {
        let mut op = op.clone();
        if let (Some(shape), [Part::Cut(dim)]) = (op.result_shape_mut(), &self.results[..]) {
            shape[*dim] = shape[*dim].exact_div(&Dim::from(parts)).expect("a cut divides its axis");
        }
        op
    }
}

impl AxisSignature {
    /// Adds an axis.
    pub fn axis(&mut self, size: &Dim, role: Role) -> AxisId {
        self.axes.push(Axis { size: size.clone(), role });
        AxisId::new(self.axes.len() - 1)
    }

    /// Adds one axis for each size.
    pub fn axes_of(&mut self, shape: &[Dim], role: Role) -> Vec<DimAxes> {
        shape.iter().map(|size| vec![self.axis(size, role)]).collect()
    }

    /// The signature of an op that treats every position by itself: operands and results share one shape.
    pub fn pointwise(shape: &[Dim], operands: usize) -> AxisSignature {
        let mut signature = AxisSignature::default();
        let dims = signature.axes_of(shape, Role::Mapped);
        signature.operands = vec![dims.clone(); operands];
        signature.results = vec![dims];
        signature
    }

    /// The cut of `axis` into `parts` equal pieces, when the signature allows it: the axis is mapped or reduced, is the
    /// most major in every dim that has it, and its size is a known multiple of `parts`.
    pub fn cut(&self, axis: AxisId, parts: usize) -> Option<Cut> {
        let Axis { size, role } = &self.axes[axis.index()];
        let size = usize::try_from(size.as_constant()?).ok()?;
        if parts == 0 || size % parts != 0 || size < parts {
            return None;
        }
        let absent = match role {
            Role::Mapped => Part::Replicated,
            Role::Reduced(function) => Part::Partial(*function),
            Role::Windowed { .. } | Role::Whole => return None,
        };
        let part = |dims: &Vec<DimAxes>, absent: Part| -> Option<Part> {
            let mut found = absent;
            for (index, factors) in dims.iter().enumerate() {
                match factors.iter().position(|factor| *factor == axis) {
                    Some(0) => found = Part::Cut(index),
                    Some(_) => return None,
                    None => {}
                }
            }
            Some(found)
        };
        let operands =
            self.operands.iter().map(|dims| part(dims, Part::Replicated)).collect::<Option<_>>()?;
        let results = self.results.iter().map(|dims| part(dims, absent)).collect::<Option<_>>()?;
        Some(Cut { axis, operands, results })
    }

    /// Every cut into `parts` pieces, in the order of the axes.
    pub fn cuts(&self, parts: usize) -> Vec<Cut> {
        (0..self.axes.len()).filter_map(|index| self.cut(AxisId::new(index), parts)).collect()
    }
}
