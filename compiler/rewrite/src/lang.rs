//! The tensor IR's own ops as egg's language: an e-node is an op and the classes of its operands.

use egg::{Id, Language};
use rustc_hash::FxHasher;
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::mem::Discriminant;
use std::ops::Deref;
use std::sync::Arc;
use thalweg_tensor::Op;

/// A shared op that is hashed once: egg clones and hashes e-nodes constantly, and an op may hold a large constant.
#[derive(Clone, Debug)]
pub(crate) struct OpRef {
    hash: u64,
    op: Arc<Op>,
}

impl OpRef {
    pub(crate) fn new(op: Op) -> OpRef {
        let mut hasher = FxHasher::default();
        op.hash(&mut hasher);
        OpRef { hash: hasher.finish(), op: Arc::new(op) }
    }
}

impl Deref for OpRef {
    type Target = Op;

    fn deref(&self) -> &Op {
        &self.op
    }
}

impl PartialEq for OpRef {
    fn eq(&self, other: &OpRef) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.op, &other.op) || self.op == other.op)
    }
}

impl Eq for OpRef {}

impl PartialOrd for OpRef {
    fn partial_cmp(&self, other: &OpRef) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OpRef {
    fn cmp(&self, other: &OpRef) -> Ordering {
        let of_hash = self.hash.cmp(&other.hash);
        match of_hash.is_eq() && !Arc::ptr_eq(&self.op, &other.op) {
            true => self.op.cmp(&other.op),
            false => of_hash,
        }
    }
}

impl Hash for OpRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// An op of operand classes. Every op is an e-node, leaves without operands; those with several results (loops and
/// branches) are opaque, and a pick of one of their results is an e-node of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct ENode {
    pub(crate) op: OpRef,
    pub(crate) operands: SmallVec<[Id; 3]>,
}

impl ENode {
    /// The e-node; operands of a commutative function are sorted, so that `a + b` and `b + a` are one.
    pub(crate) fn new(op: OpRef, operands: impl IntoIterator<Item = Id>) -> ENode {
        let mut operands: SmallVec<[Id; 3]> = operands.into_iter().collect();
        if let Op::Pointwise(pointwise) = &*op
            && pointwise.function.is_commutative()
        {
            operands.sort_unstable();
        }
        ENode { op, operands }
    }
}

impl Language for ENode {
    type Discriminant = Discriminant<Op>;

    fn discriminant(&self) -> Discriminant<Op> {
        std::mem::discriminant(&self.op)
    }

    fn matches(&self, other: &ENode) -> bool {
        self.op == other.op && self.operands.len() == other.operands.len()
    }

    fn children(&self) -> &[Id] {
        &self.operands
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.operands
    }
}
