//! What a rule sees of the e-graph.

use crate::facts::{Facts, TensorGraph};
use crate::lang::ENode;
use egg::Id;
use thalweg_base::Scalar;
use thalweg_tensor::ops::{Broadcast, LeafKind, Reshape, Transpose};
use thalweg_tensor::{Op, TensorType};

/// A read-only e-graph with the questions that rules ask.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) egraph: &'a TensorGraph,
}

/// The place where a rule looks: an e-node and its class.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) class: Id,
    pub(crate) node: &'a ENode,
}

impl Site<'_> {
    /// The class of an operand.
    pub(crate) fn operand(&self, index: usize) -> Id {
        self.node.operands[index]
    }
}

impl<'a> View<'a> {
    pub(crate) fn facts(self, id: Id) -> &'a Facts {
        &self.egraph[id].data
    }

    /// The type of a class of one result.
    pub(crate) fn ty(self, id: Id) -> &'a TensorType {
        &self.facts(id).types[0]
    }

    /// The value that all elements have.
    pub(crate) fn uniform(self, id: Id) -> Option<Scalar> {
        self.facts(id).uniform
    }

    /// The e-nodes of a class.
    pub(crate) fn nodes(self, id: Id) -> impl Iterator<Item = &'a ENode> {
        self.egraph[id].nodes.iter()
    }

    /// The transposes in a class, with their operands.
    pub(crate) fn transposes(self, id: Id) -> impl Iterator<Item = (&'a Transpose, Id)> {
        self.nodes(id).filter_map(|node| {
            if let Op::Transpose(op) = &*node.op { Some((op, node.operands[0])) } else { None }
        })
    }

    /// The reshapes in a class, with their operands.
    pub(crate) fn reshapes(self, id: Id) -> impl Iterator<Item = (&'a Reshape, Id)> {
        self.nodes(id).filter_map(|node| {
            if let Op::Reshape(op) = &*node.op { Some((op, node.operands[0])) } else { None }
        })
    }

    /// The broadcasts in a class, with their operands.
    pub(crate) fn broadcasts(self, id: Id) -> impl Iterator<Item = (&'a Broadcast, Id)> {
        self.nodes(id).filter_map(|node| {
            if let Op::Broadcast(op) = &*node.op { Some((op, node.operands[0])) } else { None }
        })
    }

    /// Whether a class is a trained parameter.
    pub(crate) fn is_parameter(self, id: Id) -> bool {
        self.nodes(id).any(|node| node.op.as_leaf().is_some_and(|leaf| leaf.kind == LeafKind::Parameter))
    }
}
