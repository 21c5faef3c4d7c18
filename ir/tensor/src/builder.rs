//! Short ways to add nodes, for code that knows its operands fit: differentiation, rewriting, partitioning, tests.
//!
//! Each method panics when the op does not fit, which is a bug of the caller. Code that builds from a user's program
//! uses [`Graph::try_add`] and makes a diagnostic of the error.

use crate::ReduceFn;
use crate::graph::{Graph, Node, NodeId};
use crate::op::{Op, Work};
use crate::ops::*;
use crate::types::TensorType;
use thalweg_base::{DType, Dim, Literal, PointwiseFn, Scalar};

impl Graph {
    /// A leaf.
    pub fn add_leaf(
        &mut self,
        kind: LeafKind,
        name: &str,
        ty: TensorType,
        init: Option<Initializer>,
    ) -> NodeId {
        self.add(Leaf { kind, name: name.into(), ty, init }, &[])
    }

    /// An input of the call.
    pub fn input(&mut self, name: &str, ty: TensorType) -> NodeId {
        self.add_leaf(LeafKind::Input, name, ty, None)
    }

    /// A trained parameter.
    pub fn parameter(&mut self, name: &str, ty: TensorType, init: Initializer) -> NodeId {
        self.add_leaf(LeafKind::Parameter, name, ty, Some(init))
    }

    /// A value kept between calls.
    pub fn state(&mut self, name: &str, ty: TensorType, init: Initializer) -> NodeId {
        self.add_leaf(LeafKind::State, name, ty, Some(init))
    }

    /// Known values.
    pub fn constant(&mut self, value: Literal) -> NodeId {
        self.add(Constant { value }, &[])
    }

    /// A known value of rank 0.
    pub fn scalar(&mut self, dtype: DType, value: Scalar) -> NodeId {
        self.constant(Literal::scalar(dtype, value))
    }

    /// One value at every position of a type.
    pub fn full(&mut self, ty: &TensorType, value: Scalar) -> NodeId {
        let scalar = self.scalar(ty.dtype, value);
        self.broadcast(scalar, &ty.shape, &[])
    }

    /// A scalar function of each position.
    pub fn pointwise(&mut self, function: PointwiseFn, operands: &[NodeId]) -> NodeId {
        self.add(Pointwise { function }, operands)
    }

    /// The same values in another dtype; the node itself when it has that dtype.
    pub fn convert(&mut self, x: NodeId, dtype: DType) -> NodeId {
        if self.ty(x).dtype == dtype { x } else { self.add(Convert { dtype }, &[x]) }
    }

    /// Values repeated along the dims of `shape` that `dims` does not name; the node itself when there are none.
    pub fn broadcast(&mut self, x: NodeId, shape: &[Dim], dims: &[usize]) -> NodeId {
        match dims.len() == shape.len() {
            true => x,
            false => self.add(Broadcast { shape: shape.to_vec(), dims: dims.to_vec() }, &[x]),
        }
    }

    /// The same elements under another shape; the node itself when it has that shape.
    pub fn reshape(&mut self, x: NodeId, shape: &[Dim]) -> NodeId {
        if self.ty(x).shape == shape { x } else { self.add(Reshape { shape: shape.to_vec() }, &[x]) }
    }

    /// Dims in another order; the node itself when the order is the same.
    pub fn transpose(&mut self, x: NodeId, perm: &[usize]) -> NodeId {
        match perm.iter().copied().eq(0..perm.len()) {
            true => x,
            false => self.add(Transpose { perm: perm.to_vec() }, &[x]),
        }
    }

    /// Positions of some dims.
    pub fn slice(&mut self, x: NodeId, ranges: Vec<SliceRange>) -> NodeId {
        self.add(Slice { ranges }, &[x])
    }

    /// Positions `start..start + size` of one dim.
    pub fn slice_dim(
        &mut self,
        x: NodeId,
        dim: usize,
        start: impl Into<Dim>,
        size: impl Into<Dim>,
    ) -> NodeId {
        self.slice(x, vec![SliceRange { dim, start: start.into(), size: size.into(), stride: 1 }])
    }

    /// One dim from its last position to its first.
    pub fn reverse(&mut self, x: NodeId, dim: usize) -> NodeId {
        let size = self.ty(x).shape[dim].clone();
        self.slice(x, vec![SliceRange { dim, start: &size - &Dim::ONE, size, stride: -1 }])
    }

    /// Positions added to some dims.
    pub fn pad(&mut self, x: NodeId, dims: Vec<PadDim>, value: Scalar) -> NodeId {
        self.add(Pad { dims, value }, &[x])
    }

    /// Operands one after the other.
    pub fn concat(&mut self, operands: &[NodeId], dim: usize) -> NodeId {
        self.add(Concat { dim }, operands)
    }

    /// Dims combined by a function; the node itself when there are none.
    pub fn reduce(&mut self, function: ReduceFn, x: NodeId, dims: &[usize]) -> NodeId {
        if dims.is_empty() { x } else { self.add(Reduce { function, dims: dims.to_vec() }, &[x]) }
    }

    /// The sum over dims.
    pub fn reduce_sum(&mut self, x: NodeId, dims: &[usize]) -> NodeId {
        self.reduce(ReduceFn::Sum, x, dims)
    }

    /// What a reduction over `dims` gave, repeated along them again to the shape that was reduced.
    pub fn unreduce(&mut self, x: NodeId, shape: &[Dim], dims: &[usize]) -> NodeId {
        let kept: Vec<usize> = (0..shape.len()).filter(|dim| !dims.contains(dim)).collect();
        self.broadcast(x, shape, &kept)
    }

    /// Sum of products in Einstein's notation, such as `"mk,kn->mn"`.
    pub fn contract(&mut self, notation: &str, lhs: NodeId, rhs: NodeId) -> NodeId {
        self.add(Contract::new(notation), &[lhs, rhs])
    }

    /// At each position of `shape`, the position along `dim`.
    pub fn iota_along(&mut self, dtype: DType, shape: &[Dim], dim: usize) -> NodeId {
        let iota = self.add(Iota { dtype, size: shape[dim].clone() }, &[]);
        self.broadcast(iota, shape, &[dim])
    }

    /// At each position of `shape`, its row-major number as i32: the counter for random values.
    pub fn linear_index(&mut self, shape: &[Dim]) -> NodeId {
        let size = thalweg_base::dim::product(shape);
        let iota = self.add(Iota { dtype: DType::I32, size }, &[]);
        self.reshape(iota, shape)
    }

    /// A scan and each of its results.
    pub fn scan(&mut self, op: Scan, operands: &[NodeId]) -> Result<Vec<NodeId>, crate::InferError> {
        let node = self.try_add(op, operands)?;
        Ok(self.picks(node))
    }

    /// Each result of a node.
    pub fn picks(&mut self, node: NodeId) -> Vec<NodeId> {
        (0..self.node(node).types.len()).map(|index| self.add(Pick { index }, &[node])).collect()
    }

    /// Puts another op in a node's place. Panics unless the types of the results that there were stay.
    pub fn replace_op(&mut self, id: NodeId, op: Op) {
        let types = op.def().infer(&self.operand_types_of(id)).expect("the replacement fits the operands");
        assert!(types.starts_with(&self.node(id).types), "the replacement keeps the results");
        let node = self.node_mut(id);
        *node = Node { op, types, ..node.clone() };
    }

    /// The work of all nodes. Panics when a symbol is not bound.
    pub fn work(&self) -> Work {
        self.ids().fold(Work::default(), |sum, id| {
            let node = self.node(id);
            let work = node.op.def().work(&self.operand_types_of(id), &node.types);
            Work {
                flops: sum.flops + work.flops,
                bytes_read: sum.bytes_read + work.bytes_read,
                bytes_written: sum.bytes_written + work.bytes_written,
            }
        })
    }
}
