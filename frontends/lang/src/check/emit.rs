//! Nodes of the graph: constants, broadcasting, and values of outer graphs inside the body of a scan.

use super::value::{DimInfo, Tensor};
use super::{Checked, Elaborator, NODES_MAX};
use std::collections::BTreeMap;
use thalweg_base::{DType, Diagnostic, Dim, PointwiseFn, Scalar, Span};
use thalweg_tensor::ops::{Broadcast, Convert, Iota, Leaf, LeafKind, Pointwise, Reduce, Reshape};
use thalweg_tensor::{Graph, NodeId, Op, ReduceFn, TensorType};

/// A graph that nodes are added to.
pub(crate) struct Level {
    pub(crate) graph: Graph,
    /// Values of the graph around that are used inside, in order: the node there and the input here.
    pub(crate) captures: Vec<(NodeId, NodeId)>,
    imported: BTreeMap<NodeId, NodeId>,
}

impl Level {
    pub(crate) fn new(graph: Graph) -> Level {
        Level { graph, captures: Vec::new(), imported: BTreeMap::new() }
    }
}

impl Elaborator<'_> {
    pub(crate) fn level(&self) -> usize {
        self.levels.len() - 1
    }

    fn prepare(&mut self) -> Checked<()> {
        let (scope, span) = (self.path.join("."), self.user_span());
        let nodes: usize = self.levels.iter().map(|level| level.graph.nodes().len()).sum();
        if nodes >= NODES_MAX {
            let error = Diagnostic::error("E0601", format!("the model has more than {NODES_MAX} nodes"))
                .help("a loop that runs so often may be a `scan`, which keeps one copy of its body");
            return Err(self.fail(error));
        }
        let graph = &mut self.levels.last_mut().expect("a graph is open").graph;
        if *graph.current_scope != *scope {
            graph.current_scope = scope.into();
        }
        graph.current_span = span;
        Ok(())
    }

    /// Adds a node to the innermost graph; `span` is what an error points at.
    pub(crate) fn emit(&mut self, op: impl Into<Op>, operands: &[&Tensor], span: Span) -> Checked<NodeId> {
        let mut nodes = Vec::with_capacity(operands.len());
        for operand in operands {
            nodes.push(self.import(operand, self.level()));
        }
        self.prepare()?;
        let graph = &mut self.levels.last_mut().expect("a graph is open").graph;
        match graph.try_add(op, &nodes) {
            Ok(node) => Ok(node),
            Err(error) => {
                self.error("E0211", error.to_string(), span, "this cannot be done with these shapes")
            }
        }
    }

    /// Adds a node and gives it as a tensor; `dims` says what is known of its dims.
    pub(crate) fn tensor(
        &mut self,
        op: impl Into<Op>,
        operands: &[&Tensor],
        dims: Vec<DimInfo>,
        span: Span,
    ) -> Checked<Tensor> {
        let node = self.emit(op, operands, span)?;
        Ok(self.as_tensor(node, dims, span))
    }

    /// A node of the innermost graph as a tensor. Missing knowledge of dims is filled in with `span` as their origin.
    pub(crate) fn as_tensor(&self, node: NodeId, mut dims: Vec<DimInfo>, span: Span) -> Tensor {
        let ty = self.levels[self.level()].graph.ty(node).clone();
        dims.resize(ty.rank(), DimInfo::default());
        for dim in &mut dims {
            dim.origin = dim.origin.or(Some(span));
        }
        Tensor { node, level: self.level(), ty, dims }
    }

    /// A node of an open graph, nothing known of its dims.
    pub(crate) fn as_tensor_at(&self, node: NodeId, level: usize) -> Tensor {
        let ty = self.levels[level].graph.ty(node).clone();
        let dims = vec![DimInfo::default(); ty.rank()];
        Tensor { node, level, ty, dims }
    }

    /// Brings tensors to one shape.
    pub(crate) fn broadcast_all(
        &mut self,
        tensors: &[Tensor],
        what: &str,
        span: Span,
    ) -> Checked<Vec<Tensor>> {
        let rank = tensors.iter().map(Tensor::rank).max().unwrap_or(0);
        let (mut shape, mut dims) = (Vec::new(), Vec::new());
        for back in (1..=rank).rev() {
            let mut found: Option<(Dim, DimInfo)> = None;
            for tensor in tensors.iter().filter(|tensor| tensor.rank() >= back) {
                let at = tensor.rank() - back;
                let (size, info) = (tensor.ty.shape[at].clone(), tensor.dims[at].clone());
                match &found {
                    Some((own, _)) if *own == size || size == Dim::ONE => {}
                    Some((own, other)) if *own != Dim::ONE => {
                        let described: Vec<String> = tensors.iter().map(Tensor::describe).collect();
                        let mut error =
                            Diagnostic::error("E0202", format!("shapes do not agree in `{what}`"))
                                .at(span, format!("{own} against {size} in {}", described.join(", ")));
                        for (origin, size) in [(other.origin, own), (info.origin, &size)] {
                            if let Some(origin) = origin {
                                error = error.label(origin, format!("{size} comes from here"));
                            }
                        }
                        return Err(self.fail(
                            error.help("only scalars, missing leading dims and dims of size 1 repeat"),
                        ));
                    }
                    Some(_) | None => found = Some((size, info)),
                }
            }
            let (size, info) = found.expect("one of the tensors has the dim");
            shape.push(size);
            dims.push(info);
        }
        tensors.iter().map(|tensor| self.expand(tensor, &shape, dims.clone(), span)).collect()
    }

    /// The node of the graph at `level` that stands for a tensor of the same or an outer graph.
    pub(crate) fn import(&mut self, tensor: &Tensor, level: usize) -> NodeId {
        assert!(tensor.level <= level, "a value of a scan's body is used outside of it");
        let mut node = tensor.node;
        for inner in tensor.level + 1..=level {
            let level = &mut self.levels[inner];
            node = match level.imported.get(&node) {
                Some(found) => *found,
                None => {
                    let name = format!("captured.{}", level.captures.len());
                    let leaf =
                        Leaf { kind: LeafKind::Input, name: name.into(), ty: tensor.ty.clone(), init: None };
                    let input = level.graph.add(leaf, &[]);
                    level.captures.push((node, input));
                    level.imported.insert(node, input);
                    input
                }
            };
        }
        node
    }

    /// A leaf of the model's own graph, whatever graph is innermost now.
    pub(crate) fn leaf(&mut self, leaf: Leaf, dims: Vec<DimInfo>, span: Span) -> Tensor {
        let (scope, place) = (self.path.join("."), self.user_span());
        let ty = leaf.ty.clone();
        let graph = &mut self.levels[0].graph;
        graph.current_scope = scope.into();
        graph.current_span = place;
        let node = graph.add(leaf, &[]);
        let mut tensor = Tensor { node, level: 0, ty, dims };
        tensor.dims.resize(tensor.ty.rank(), DimInfo::default());
        for dim in &mut tensor.dims {
            dim.origin = dim.origin.or(Some(span));
        }
        tensor
    }

    /// A constant of rank 0.
    pub(crate) fn scalar(&mut self, dtype: DType, value: Scalar, span: Span) -> Checked<Tensor> {
        self.tensor(Op::scalar(dtype, value), &[], vec![], span)
    }

    /// A constant repeated over a shape.
    pub(crate) fn full(
        &mut self,
        ty: &TensorType,
        value: Scalar,
        dims: Vec<DimInfo>,
        span: Span,
    ) -> Checked<Tensor> {
        let scalar = self.scalar(ty.dtype, value, span)?;
        self.expand(&scalar, &ty.shape, dims, span)
    }

    /// Repeats a tensor over a shape that its own is a suffix of, but for dims of size 1, which stretch.
    pub(crate) fn expand(
        &mut self,
        x: &Tensor,
        shape: &[Dim],
        dims: Vec<DimInfo>,
        span: Span,
    ) -> Checked<Tensor> {
        if x.ty.shape == shape {
            return Ok(Tensor { dims, ..x.clone() });
        }
        let offset = shape.len() - x.rank();
        let stretched = |at: usize| x.ty.shape[at] != shape[offset + at];
        let kept: Vec<usize> = (0..x.rank()).filter(|at| !stretched(*at)).collect();
        let mut operand = x.clone();
        if kept.len() < x.rank() {
            let shape = kept.iter().map(|at| x.ty.shape[*at].clone()).collect();
            operand = self.tensor(Reshape { shape }, &[x], vec![], span)?;
        }
        let to = kept.iter().map(|at| offset + at).collect();
        self.tensor(Broadcast { shape: shape.to_vec(), dims: to }, &[&operand], dims, span)
    }

    pub(crate) fn pointwise(
        &mut self,
        function: PointwiseFn,
        operands: &[&Tensor],
        span: Span,
    ) -> Checked<Tensor> {
        let dims = operands[0].dims.clone();
        self.tensor(Pointwise { function }, operands, dims, span)
    }

    pub(crate) fn reshape(
        &mut self,
        x: &Tensor,
        shape: Vec<Dim>,
        dims: Vec<DimInfo>,
        span: Span,
    ) -> Checked<Tensor> {
        match x.ty.shape == shape {
            true => Ok(Tensor { dims, ..x.clone() }),
            false => self.tensor(Reshape { shape }, &[x], dims, span),
        }
    }

    pub(crate) fn convert(&mut self, x: &Tensor, dtype: DType, span: Span) -> Checked<Tensor> {
        match x.ty.dtype == dtype {
            true => Ok(x.clone()),
            false => self.tensor(Convert { dtype }, &[x], x.dims.clone(), span),
        }
    }

    /// A size as a tensor of rank 0. A size that is not known yet is counted where the model runs.
    pub(crate) fn size_tensor(&mut self, size: &Dim, dtype: DType, span: Span) -> Checked<Tensor> {
        if let Some(value) = size.as_constant() {
            return self.scalar(dtype, Scalar::Int(value.into()), span);
        }
        let one = self.scalar(dtype, Scalar::Int(1), span)?;
        let ones =
            self.tensor(Broadcast { shape: vec![size.clone()], dims: vec![] }, &[&one], vec![], span)?;
        self.tensor(Reduce { function: ReduceFn::Sum, dims: vec![0] }, &[&ones], vec![], span)
    }

    pub(crate) fn iota(&mut self, size: &Dim, dtype: DType, span: Span) -> Checked<Tensor> {
        self.tensor(Iota { dtype, size: size.clone() }, &[], vec![], span)
    }

    /// The input that counts steps of training, an `i32` scalar.
    pub(crate) fn step_input(&mut self, span: Span) -> Tensor {
        if let Some(step) = &self.step {
            return step.clone();
        }
        let ty = TensorType::scalar(DType::I32);
        let step =
            self.leaf(Leaf { kind: LeafKind::Input, name: "step".into(), ty, init: None }, vec![], span);
        self.step = Some(step.clone());
        step
    }
}
