//! Which words of the language a node is written with, and which nodes are read for it.
//!
//! What the elaborator adds by itself is left out: a number adapts to the tensor beside it, dims of size 1 and missing
//! leading dims repeat, and a reduction keeps its dims. So these nodes are seen through.

use super::patterns;
use thalweg_base::{DType, Dim, PointwiseFn, ReduceFn, Scalar};
use thalweg_tensor::ops::{Broadcast, LeafKind};
use thalweg_tensor::{Graph, NodeId, Op};

/// A value that is written as a number.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Known {
    /// A number, everywhere the same.
    Number(Scalar, DType),
    /// A size that is not known yet, counted where the model runs.
    Size(Dim),
}

/// How a node is written.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Form {
    /// By its own op, of its own operands.
    Plain,
    /// A number, repeated over the node's shape.
    Known(Known),
    /// A scalar function of nodes and numbers, which repeat over the shape.
    Pointwise(PointwiseFn, Vec<Read>),
    /// A reduction of a node that keeps its dims with size 1.
    Keep(ReduceFn, NodeId, Vec<usize>),
    /// The mean of a node over dims.
    Mean(NodeId, Vec<usize>, bool),
    /// A node repeated over a shape that its own lines up with.
    Spread(NodeId),
    /// A slice with dims of one position gone: the slice.
    At(NodeId),
    /// A function of the library.
    Library(&'static str, NodeId),
}

/// An operand of a scalar function.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Read {
    /// A node, which may lack dims.
    Node(NodeId),
    /// A number.
    Known(Known),
}

impl Form {
    /// The nodes that are read, those that stand for themselves.
    pub(super) fn reads(&self, graph: &Graph, id: NodeId) -> Vec<NodeId> {
        match self {
            Form::Plain => graph.node(id).operands.clone(),
            Form::Known(_) => vec![],
            Form::Pointwise(_, reads) => reads
                .iter()
                .filter_map(|read| if let Read::Node(node) = read { Some(*node) } else { None })
                .collect(),
            Form::Keep(_, x, _) | Form::Mean(x, _, _) | Form::Spread(x) | Form::Library(_, x) => vec![*x],
            Form::At(slice) => graph.node(*slice).operands.clone(),
        }
    }
}

/// A graph with the users of its nodes.
pub(super) struct View<'g> {
    pub(super) graph: &'g Graph,
    users: Vec<Vec<NodeId>>,
    roots: Vec<bool>,
}

impl<'g> View<'g> {
    pub(super) fn new(graph: &'g Graph) -> View<'g> {
        let mut roots = vec![false; graph.nodes().len()];
        graph.roots().for_each(|root| roots[root.index()] = true);
        View { graph, users: graph.users(), roots }
    }

    pub(super) fn op(&self, id: NodeId) -> &'g Op {
        &self.graph.node(id).op
    }

    pub(super) fn operand(&self, id: NodeId, at: usize) -> NodeId {
        self.graph.node(id).operands[at]
    }

    pub(super) fn shape(&self, id: NodeId) -> &'g [Dim] {
        &self.graph.ty(id).shape
    }

    pub(super) fn dtype(&self, id: NodeId) -> DType {
        self.graph.ty(id).dtype
    }

    /// Whether nothing but `user` reads the node.
    pub(super) fn only_for(&self, id: NodeId, user: NodeId) -> bool {
        !self.roots[id.index()] && self.users[id.index()].iter().all(|own| *own == user)
    }

    /// Whether nothing but those nodes reads the node.
    pub(super) fn only_within(&self, id: NodeId, nodes: &[NodeId]) -> bool {
        !self.roots[id.index()] && self.users[id.index()].iter().all(|own| nodes.contains(own))
    }

    /// The function and operands of a scalar function.
    pub(super) fn pointwise(&self, id: NodeId) -> Option<(PointwiseFn, &'g [NodeId])> {
        match self.op(id) {
            Op::Pointwise(op) => Some((op.function, &self.graph.node(id).operands)),
            _ => None,
        }
    }

    /// The number or size that a node is everywhere.
    pub(super) fn known(&self, id: NodeId) -> Option<Known> {
        match self.op(id) {
            Op::Constant(op) => {
                let value = op.value.uniform_value()?;
                Some(Known::Number(value, op.value.dtype()))
            }
            Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) => self.known(self.operand(id, 0)),
            Op::Reduce(op) if op.function == ReduceFn::Sum && op.dims == [0] => {
                let ones = self.operand(id, 0);
                let [size] = self.shape(ones) else { return None };
                let counts = matches!(self.op(ones), Op::Broadcast(_))
                    && size.as_constant().is_none()
                    && self.dtype(id) != DType::Bool
                    && self.known(ones) == Some(Known::Number(Scalar::one(self.dtype(id)), self.dtype(id)));
                counts.then(|| Known::Size(size.clone()))
            }
            _ => None,
        }
    }

    /// The number that a node is everywhere.
    pub(super) fn number(&self, id: NodeId) -> Option<f64> {
        match self.known(id)? {
            Known::Number(value, _) => Some(value.to_f64()),
            Known::Size(_) => None,
        }
    }

    /// What is repeated over the shape of a node when missing leading dims and dims of size 1 repeat; the node itself
    /// if nothing is.
    pub(super) fn peel(&self, id: NodeId) -> NodeId {
        let Op::Broadcast(Broadcast { shape, dims }) = self.op(id) else { return id };
        let source = self.operand(id, 0);
        if let Op::Reshape(_) = self.op(source) {
            let whole = self.operand(source, 0);
            let own = self.shape(whole);
            let lines_up = shape.len().checked_sub(own.len()).is_some_and(|offset| {
                dims.iter().all(|dim| *dim >= offset)
                    && own.iter().enumerate().all(|(at, size)| match dims.contains(&(offset + at)) {
                        true => *size == shape[offset + at],
                        false => *size == Dim::ONE && shape[offset + at] != Dim::ONE,
                    })
            });
            if lines_up {
                return whole;
            }
        }
        let leading = dims.iter().copied().eq(shape.len() - dims.len()..shape.len());
        if leading { source } else { id }
    }

    /// How a node is written.
    pub(super) fn form(&self, id: NodeId) -> Form {
        if let Some(known) = self.known(id).filter(can_say) {
            return Form::Known(known);
        }
        if let Some(form) = patterns::library(self, id) {
            return form;
        }
        let node = self.graph.node(id);
        match &node.op {
            Op::Pointwise(op) => self.mean(id).unwrap_or_else(|| self.scalar_function(id, op.function)),
            Op::Broadcast(_) => match self.peel(id) {
                same if same == id => Form::Plain,
                source => Form::Spread(source),
            },
            Op::Reshape(op) => self.kept(id).or_else(|| self.positions(id, &op.shape)).unwrap_or(Form::Plain),
            Op::Leaf(_) | Op::Constant(_) | Op::Iota(_) | Op::Random(_) | Op::Convert(_) => Form::Plain,
            Op::Transpose(_) | Op::Slice(_) | Op::Pad(_) | Op::Concat(_) | Op::Gather(_) => Form::Plain,
            Op::Scatter(_) | Op::Reduce(_) | Op::Cumulative(_) | Op::Contract(_) | Op::Convolve(_) => {
                Form::Plain
            }
            Op::Unfold(_) | Op::Fold(_) | Op::ArgSort(_) | Op::DynamicSlice(_) | Op::DynamicUpdate(_) => {
                Form::Plain
            }
            Op::Scan(_) | Op::While(_) | Op::Branch(_) | Op::Pick(_) | Op::Collective(_) => Form::Plain,
        }
    }

    /// Operands as they are written beside each other, so that they repeat to the shape of the node again.
    fn scalar_function(&self, id: NodeId, function: PointwiseFn) -> Form {
        let operands = &self.graph.node(id).operands;
        let mut reads: Vec<Read> = operands
            .iter()
            .map(|operand| match self.known(*operand).filter(can_say) {
                Some(known) => Read::Known(known),
                None => Read::Node(self.peel(*operand)),
            })
            .collect();
        // A number takes its dtype from a tensor beside it; the condition of a selection is none.
        let typed = if function == PointwiseFn::Select { 1 } else { 0 };
        if !reads[typed..].iter().any(|read| matches!(read, Read::Node(_))) {
            reads[typed] = Read::Node(operands[typed]);
        }
        for at in 0..reads.len() {
            if self.repeats_to(&reads, self.shape(id)) {
                break;
            }
            reads[at] = Read::Node(operands[at]);
        }
        Form::Pointwise(function, reads)
    }

    fn repeats_to(&self, reads: &[Read], shape: &[Dim]) -> bool {
        let shapes: Vec<&[Dim]> = reads
            .iter()
            .filter_map(|read| if let Read::Node(node) = read { Some(self.shape(*node)) } else { None })
            .collect();
        let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
        rank == shape.len()
            && (1..=rank).all(|back| {
                let wanted = &shape[rank - back];
                let mut sizes =
                    shapes.iter().filter(|own| own.len() >= back).map(|own| &own[own.len() - back]);
                sizes.any(|size| size == wanted)
            })
    }

    /// A reduction whose dims are put back with size 1.
    fn kept(&self, id: NodeId) -> Option<Form> {
        let reduced = self.operand(id, 0);
        let Op::Reduce(op) = self.op(reduced) else { return None };
        let x = self.operand(reduced, 0);
        let keeps = self.only_for(reduced, id) && !op.dims.is_empty() && self.keeps(id, x, &op.dims);
        keeps.then(|| Form::Keep(op.function, x, op.dims.clone()))
    }

    /// Whether a node's shape is that of `x` with dims of size 1 in the places of `dims`.
    pub(super) fn keeps(&self, id: NodeId, x: NodeId, dims: &[usize]) -> bool {
        let (shape, whole) = (self.shape(id), self.shape(x));
        shape.len() == whole.len()
            && shape.iter().enumerate().all(|(at, size)| match dims.contains(&at) {
                true => *size == Dim::ONE,
                false => *size == whole[at],
            })
    }

    /// A sum divided by the number of elements that it is of.
    fn mean(&self, id: NodeId) -> Option<Form> {
        let (PointwiseFn::Div, [sum, count]) = self.pointwise(id)? else { return None };
        let (keep, reduced) = match self.op(*sum) {
            Op::Reshape(_) if self.only_for(*sum, id) => (true, self.operand(*sum, 0)),
            _ => (false, *sum),
        };
        let Op::Reduce(op) = self.op(reduced) else { return None };
        let x = self.operand(reduced, 0);
        let only = if keep { self.only_for(reduced, *sum) } else { self.only_for(reduced, id) };
        let known: Option<i64> = op.dims.iter().map(|dim| self.shape(x)[*dim].as_constant()).product();
        let fits = op.function == ReduceFn::Sum
            && self.dtype(id).is_float()
            && only
            && (!keep || self.keeps(*sum, x, &op.dims))
            && matches!((known, self.number(*count)), (Some(known), Some(count)) if known as f64 == count);
        fits.then(|| Form::Mean(x, op.dims.clone(), keep))
    }

    /// A slice of which some dims of one position are gone.
    fn positions(&self, id: NodeId, shape: &[Dim]) -> Option<Form> {
        let slice = self.operand(id, 0);
        let Op::Slice(op) = self.op(slice) else { return None };
        let x = self.operand(slice, 0);
        let single = |dim: usize| {
            op.ranges.iter().any(|range| range.dim == dim && range.size == Dim::ONE)
                && self.shape(x)[dim] != Dim::ONE
        };
        let kept: Vec<&Dim> =
            (0..self.shape(x).len()).filter(|dim| !single(*dim)).map(|dim| &self.shape(slice)[dim]).collect();
        let simple = op.ranges.iter().all(|range| range.stride == 1);
        let fits = simple && self.only_for(slice, id) && kept.len() < self.shape(x).len();
        (fits && shape.iter().eq(kept)).then_some(Form::At(slice))
    }

    /// Whether a node is a parameter, a state or an input.
    pub(super) fn leaf(&self, id: NodeId) -> Option<(LeafKind, &'g str)> {
        self.op(id).as_leaf().map(|leaf| (leaf.kind, &*leaf.name))
    }
}

/// Whether the language has a literal for it.
fn can_say(known: &Known) -> bool {
    match known {
        Known::Number(value, dtype) => super::text::number(*value, *dtype).is_some(),
        Known::Size(_) => true,
    }
}
