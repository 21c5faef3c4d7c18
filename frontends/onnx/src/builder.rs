//! Graphs while they are built: nodes are added only where they fit, so that a model that lies is an error.

use crate::error::Problem;
use crate::value::{Content, Tensor, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_base::{DType, Dim, Literal, PointwiseFn, Scalar};
use thalweg_tensor::ops::*;
use thalweg_tensor::{Graph, NodeId, Op, ReduceFn, TensorType};

/// The most elements that a tensor of a model may have: far more than any memory holds, far less than overflows.
const ELEMENTS_MAX: i64 = 1 << 40;

/// Why a node was not imported.
#[derive(Clone, Debug)]
pub enum Stop {
    /// It cannot be.
    Problem(Problem),
    /// The values of this tensor are needed first: shapes or control depend on them.
    Needs(Box<Tensor>),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Stop {
        Stop::Problem(problem)
    }
}

impl From<thalweg_tensor::InferError> for Stop {
    fn from(error: thalweg_tensor::InferError) -> Stop {
        Stop::Problem(Problem::new(error.0))
    }
}

/// A problem as what a lowering returns.
pub fn problem<T>(message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Problem(Problem::new(message)))
}

/// What building gives.
pub type Build<T> = Result<T, Stop>;

/// One graph of a nest.
#[derive(Default)]
pub struct Level {
    /// The graph.
    pub graph: Graph,
    /// Values of outer graphs that this one uses, each with the input that stands for it.
    pub captures: Vec<(usize, NodeId, NodeId)>,
}

/// The graphs that are being built, the model's first, then those of bodies inside of bodies.
pub struct Builder {
    levels: Vec<Level>,
    /// The weights that the model's graph uses.
    pub weights: BTreeMap<String, Literal>,
}

impl Builder {
    /// One empty graph of that name.
    pub fn new(name: &str) -> Builder {
        Builder {
            levels: vec![Level { graph: Graph::new(name), captures: vec![] }],
            weights: BTreeMap::new(),
        }
    }

    /// How deep the current graph is.
    pub fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    /// Begins a graph inside of the current one.
    pub fn push_level(&mut self) {
        let mut level = Level::default();
        level.graph.current_scope = self.graph().current_scope.clone();
        self.levels.push(level);
    }

    /// Ends the current graph and gives it.
    pub fn pop_level(&mut self) -> Level {
        assert!(self.levels.len() > 1, "the model's own graph is ended by `finish`");
        self.levels.pop().expect("there is one")
    }

    /// Replaces the outermost graph by an empty one and gives it.
    pub fn take_graph(&mut self) -> Graph {
        assert_eq!(self.levels.len(), 1, "bodies are ended before");
        let name = self.levels[0].graph.name.clone();
        std::mem::replace(&mut self.levels[0].graph, Graph::new(name))
    }

    /// The current graph.
    pub fn graph(&mut self) -> &mut Graph {
        &mut self.levels.last_mut().expect("there is always one").graph
    }

    /// The type of a node of the current graph.
    pub fn ty(&self, id: NodeId) -> &TensorType {
        self.levels.last().expect("there is always one").graph.ty(id)
    }

    /// The shape of a node.
    pub fn shape(&self, id: NodeId) -> Vec<Dim> {
        self.ty(id).shape.clone()
    }

    /// The rank of a node.
    pub fn rank(&self, id: NodeId) -> usize {
        self.ty(id).rank()
    }

    /// The dtype of a node.
    pub fn dtype(&self, id: NodeId) -> DType {
        self.ty(id).dtype
    }

    /// A size as a number. Fails when it is a symbol.
    pub fn size(&self, id: NodeId, dim: usize) -> Build<usize> {
        known_size(&self.ty(id).shape[dim])
    }

    /// A value of the current graph.
    pub fn value(&self, id: NodeId) -> Value {
        Value::Tensor(self.tensor(id))
    }

    /// A tensor of the current graph.
    pub fn tensor(&self, id: NodeId) -> Tensor {
        let content = Content::Node { level: self.depth(), id };
        Tensor { ty: self.ty(id).clone(), narrow: None, content }
    }

    /// The node of the current graph that a tensor is: constants and weights are put there, outer values are captured.
    pub fn node(&mut self, tensor: &Tensor) -> Build<NodeId> {
        if let Some((name, literal)) = tensor.content.weight() {
            let id = self.weight(name, literal);
            return Ok(self.captured(0, id));
        }
        match &tensor.content {
            Content::Known { literal, .. } => match literal.uniform_value() {
                Some(value) if literal.len() > 1 => Ok(self.graph().full(&tensor.ty, value)),
                Some(_) | None => Ok(self.graph().constant(literal.clone())),
            },
            Content::Sizes(sizes) => {
                let parts: Vec<NodeId> =
                    sizes.iter().map(|size| self.size_node(size)).collect::<Build<_>>()?;
                match tensor.rank() {
                    0 => Ok(parts[0]),
                    _ => {
                        let rows: Vec<NodeId> = parts
                            .into_iter()
                            .map(|part| self.reshape(part, &[Dim::ONE]))
                            .collect::<Build<_>>()?;
                        self.concat(&rows, 0)
                    }
                }
            }
            Content::Node { level, id } => Ok(self.captured(*level, *id)),
        }
    }

    /// A size as a scalar of the program: a symbol has its value only when the model runs.
    fn size_node(&mut self, size: &Dim) -> Build<NodeId> {
        if let Some(value) = size.as_constant() {
            return Ok(self.graph().scalar(DType::I64, Scalar::Int(value.into())));
        }
        let ones = TensorType { dtype: DType::I64, shape: vec![size.clone()] };
        let ones = self.graph().full(&ones, Scalar::Int(1));
        Ok(self.graph().reduce_sum(ones, &[0]))
    }

    fn weight(&mut self, name: &str, literal: &Literal) -> NodeId {
        let kind = if literal.dtype().is_float() { LeafKind::Parameter } else { LeafKind::State };
        if let Some(id) = self.levels[0].graph.leaf(kind, name) {
            return id;
        }
        self.weights.insert(name.to_string(), literal.clone());
        let ty = TensorType::new(literal.dtype(), literal.shape().iter().copied());
        let init = Some(Initializer::Constant(Scalar::zero(literal.dtype())));
        let graph = &mut self.levels[0].graph;
        let scope = std::mem::take(&mut graph.current_scope);
        let id = graph.add_leaf(kind, name, ty, init);
        graph.current_scope = scope;
        id
    }

    /// The node of the current graph that stands for one of an outer graph.
    fn captured(&mut self, level: usize, id: NodeId) -> NodeId {
        let mut id = id;
        for inner in level + 1..self.levels.len() {
            let ty = self.levels[inner - 1].graph.ty(id).clone();
            let Level { graph, captures } = &mut self.levels[inner];
            let found = captures.iter().find(|(from, outer, _)| (*from, *outer) == (inner - 1, id));
            id = match found {
                Some((_, _, own)) => *own,
                None => {
                    let own = graph.input(&format!("captured.{}", captures.len()), ty);
                    captures.push((inner - 1, id, own));
                    own
                }
            };
        }
        id
    }

    /// Adds a node if it fits its operands and its result any memory.
    pub fn add(&mut self, op: impl Into<Op>, operands: &[NodeId]) -> Build<NodeId> {
        let id = self.graph().try_add(op, operands)?;
        for ty in &self.graph().node(id).types {
            check_elements(&ty.shape)?;
        }
        Ok(id)
    }

    /// A scalar function of nodes of equal shape.
    pub fn pointwise(&mut self, function: PointwiseFn, operands: &[NodeId]) -> Build<NodeId> {
        self.add(Pointwise { function }, operands)
    }

    /// A scalar function of one node.
    pub fn unary(&mut self, function: PointwiseFn, x: NodeId) -> Build<NodeId> {
        self.pointwise(function, &[x])
    }

    /// A scalar function of nodes whose shapes are broadcast to each other.
    pub fn binary(&mut self, function: PointwiseFn, a: NodeId, b: NodeId) -> Build<NodeId> {
        let operands = self.broadcast_all(&[a, b])?;
        self.pointwise(function, &operands)
    }

    /// A scalar function of a node and a number of its dtype.
    pub fn with_scalar(&mut self, function: PointwiseFn, x: NodeId, value: f64) -> Build<NodeId> {
        let number = self.number_like(x, value);
        self.binary(function, x, number)
    }

    /// `b` where the condition holds, else `c`; shapes are broadcast to each other.
    pub fn select(&mut self, condition: NodeId, b: NodeId, c: NodeId) -> Build<NodeId> {
        let operands = self.broadcast_all(&[condition, b, c])?;
        self.pointwise(PointwiseFn::Select, &operands)
    }

    /// A scalar of a node's dtype.
    pub fn number_like(&mut self, x: NodeId, value: f64) -> NodeId {
        let dtype = self.dtype(x);
        self.number(dtype, value)
    }

    /// A scalar.
    pub fn number(&mut self, dtype: DType, value: f64) -> NodeId {
        self.graph().scalar(dtype, Scalar::Float(value).convert(dtype))
    }

    /// One value at every position.
    pub fn full(&mut self, dtype: DType, shape: &[Dim], value: f64) -> Build<NodeId> {
        let number = self.number(dtype, value);
        self.broadcast_to(number, shape)
    }

    /// The same values in another dtype.
    pub fn convert(&mut self, x: NodeId, dtype: DType) -> Build<NodeId> {
        if self.dtype(x) == dtype { Ok(x) } else { self.add(Convert { dtype }, &[x]) }
    }

    /// The same elements under another shape.
    pub fn reshape(&mut self, x: NodeId, shape: &[Dim]) -> Build<NodeId> {
        check_elements(shape)?;
        match self.ty(x).shape == shape {
            true => Ok(x),
            false => self.add(Reshape { shape: shape.to_vec() }, &[x]),
        }
    }

    /// Dims in another order.
    pub fn transpose(&mut self, x: NodeId, perm: &[usize]) -> Build<NodeId> {
        match perm.len() == self.rank(x) && perm.iter().copied().eq(0..perm.len()) {
            true => Ok(x),
            false => self.add(Transpose { perm: perm.to_vec() }, &[x]),
        }
    }

    /// Values repeated along the dims of `shape` that `dims` does not name.
    pub fn broadcast(&mut self, x: NodeId, shape: &[Dim], dims: &[usize]) -> Build<NodeId> {
        check_elements(shape)?;
        match dims.len() == shape.len() && self.ty(x).shape == shape {
            true => Ok(x),
            false => self.add(Broadcast { shape: shape.to_vec(), dims: dims.to_vec() }, &[x]),
        }
    }

    /// The node repeated to a shape that its own can be broadcast to, as NumPy does: dims are matched from the last, and a
    /// dim of 1 or one that is not there repeats.
    pub fn broadcast_to(&mut self, x: NodeId, shape: &[Dim]) -> Build<NodeId> {
        let own = self.shape(x);
        if own == shape {
            return Ok(x);
        }
        if own.len() > shape.len() {
            return problem(format!("{own:?} cannot be broadcast to {shape:?}"));
        }
        let first = shape.len() - own.len();
        let mut kept = Vec::new();
        for (dim, size) in own.iter().enumerate() {
            match () {
                () if *size == shape[first + dim] => kept.push(dim),
                () if *size == Dim::ONE => {}
                () => return problem(format!("{own:?} cannot be broadcast to {shape:?}")),
            }
        }
        let sizes: Vec<Dim> = kept.iter().map(|dim| own[*dim].clone()).collect();
        let x = self.reshape(x, &sizes)?;
        let dims: Vec<usize> = kept.iter().map(|dim| first + dim).collect();
        self.broadcast(x, shape, &dims)
    }

    /// Nodes repeated to the shape that all of theirs can be broadcast to.
    pub fn broadcast_all(&mut self, operands: &[NodeId]) -> Build<Vec<NodeId>> {
        let shapes: Vec<Vec<Dim>> = operands.iter().map(|operand| self.shape(*operand)).collect();
        let shape = broadcast_shape(&shapes)?;
        operands.iter().map(|operand| self.broadcast_to(*operand, &shape)).collect()
    }

    /// Dims of size 1 put in, so that they are at those places of the result.
    pub fn unsqueeze(&mut self, x: NodeId, dims: &[usize]) -> Build<NodeId> {
        let mut shape = self.shape(x);
        let mut dims = dims.to_vec();
        dims.sort_unstable();
        for dim in dims {
            if dim > shape.len() {
                return problem(format!("there is no place {dim} for a dim"));
            }
            shape.insert(dim, Dim::ONE);
        }
        self.reshape(x, &shape)
    }

    /// Positions of some dims.
    pub fn slice(&mut self, x: NodeId, ranges: Vec<SliceRange>) -> Build<NodeId> {
        let whole = |range: &SliceRange, shape: &[Dim]| {
            range.stride == 1 && range.start == Dim::default() && shape.get(range.dim) == Some(&range.size)
        };
        let shape = self.shape(x);
        let ranges: Vec<SliceRange> = ranges.into_iter().filter(|range| !whole(range, &shape)).collect();
        if ranges.is_empty() { Ok(x) } else { self.add(Slice { ranges }, &[x]) }
    }

    /// Positions `start..start + size` of one dim.
    pub fn slice_dim(
        &mut self,
        x: NodeId,
        dim: usize,
        start: impl Into<Dim>,
        size: impl Into<Dim>,
    ) -> Build<NodeId> {
        self.slice(x, vec![SliceRange { dim, start: start.into(), size: size.into(), stride: 1 }])
    }

    /// One position of a dim, which the result lacks.
    pub fn pick(&mut self, x: NodeId, dim: usize, position: usize) -> Build<NodeId> {
        let row = self.slice_dim(x, dim, position, 1)?;
        let mut shape = self.shape(row);
        shape.remove(dim);
        self.reshape(row, &shape)
    }

    /// One dim from its last position to its first.
    pub fn reverse(&mut self, x: NodeId, dim: usize) -> Build<NodeId> {
        let size = self.ty(x).shape[dim].clone();
        self.slice(x, vec![SliceRange { dim, start: &size - &Dim::ONE, size, stride: -1 }])
    }

    /// Positions added to some dims.
    pub fn pad(&mut self, x: NodeId, dims: Vec<PadDim>, value: Scalar) -> Build<NodeId> {
        let adds = |dim: &PadDim| dim.interior > 0 || dim.low != Dim::default() || dim.high != Dim::default();
        let dims: Vec<PadDim> = dims.into_iter().filter(adds).collect();
        if dims.is_empty() { Ok(x) } else { self.add(Pad { dims, value }, &[x]) }
    }

    /// Operands one after the other; those without elements are left out.
    pub fn concat(&mut self, operands: &[NodeId], dim: usize) -> Build<NodeId> {
        let empty = |operand: &NodeId| self.ty(*operand).shape.get(dim) == Some(&Dim::default());
        let full: Vec<NodeId> = operands.iter().copied().filter(|operand| !empty(operand)).collect();
        match (&full[..], operands) {
            ([only], _) => Ok(*only),
            ([], [first, ..]) => Ok(*first),
            ([], []) => problem("nothing is concatenated"),
            (full, _) => self.add(Concat { dim }, full),
        }
    }

    /// Dims combined by a function; with `keep`, they stay as dims of size 1.
    pub fn reduce(&mut self, function: ReduceFn, x: NodeId, dims: &[usize], keep: bool) -> Build<NodeId> {
        let mut shape = self.shape(x);
        let mut dims = dims.to_vec();
        dims.sort_unstable();
        dims.dedup();
        let reduced = match dims.is_empty() {
            true => x,
            false => self.add(Reduce { function, dims: dims.clone() }, &[x])?,
        };
        if !keep {
            return Ok(reduced);
        }
        dims.iter().for_each(|dim| shape[*dim] = Dim::ONE);
        self.reshape(reduced, &shape)
    }

    /// The mean over dims.
    pub fn mean(&mut self, x: NodeId, dims: &[usize], keep: bool) -> Build<NodeId> {
        let count = thalweg_base::dim::product(dims.iter().map(|dim| &self.ty(x).shape[*dim]));
        let sum = self.reduce(ReduceFn::Sum, x, dims, keep)?;
        let count = self.size_like(sum, &count)?;
        self.binary(PointwiseFn::Div, sum, count)
    }

    /// A size as a scalar of a node's dtype.
    pub fn size_like(&mut self, x: NodeId, size: &Dim) -> Build<NodeId> {
        match size.as_constant() {
            Some(value) => Ok(self.number_like(x, value as f64)),
            None => {
                let count = self.size_node(size)?;
                let dtype = self.dtype(x);
                self.convert(count, dtype)
            }
        }
    }

    /// Running combination along a dim.
    pub fn cumulative(&mut self, function: ReduceFn, x: NodeId, dim: usize, reverse: bool) -> Build<NodeId> {
        self.add(Cumulative { function, dim, reverse }, &[x])
    }

    /// Sum of products in Einstein's notation. Letters of no second place are summed before.
    pub fn contract(&mut self, notation: &str, lhs: NodeId, rhs: NodeId) -> Build<NodeId> {
        let op =
            parse_einsum(notation).ok_or_else(|| Problem::new(format!("`{notation}` is no contraction")))?;
        self.add(op, &[lhs, rhs])
    }

    /// Positions of a dim chosen by indices, which share the first `batch` dims.
    pub fn gather(&mut self, x: NodeId, indices: NodeId, dim: usize, batch: usize) -> Build<NodeId> {
        self.add(Gather { dim, batch }, &[x, indices])
    }

    /// 0, 1, 2, ... along a dim of a shape.
    pub fn iota_along(&mut self, dtype: DType, shape: &[Dim], dim: usize) -> Build<NodeId> {
        let iota = self.add(Iota { dtype, size: shape[dim].clone() }, &[])?;
        self.broadcast(iota, shape, &[dim])
    }

    /// 0, 1, 2, ... of a size.
    pub fn iota(&mut self, dtype: DType, size: impl Into<Dim>) -> Build<NodeId> {
        self.add(Iota { dtype, size: size.into() }, &[])
    }

    /// Known numbers of rank 1.
    pub fn numbers(&mut self, dtype: DType, values: &[f64]) -> NodeId {
        let scalars = values.iter().map(|value| Scalar::Float(*value));
        self.graph().constant(Literal::from_scalars(dtype, &[values.len()], scalars))
    }

    /// Dims `low..high` merged into one.
    pub fn merge_dims(&mut self, x: NodeId, low: usize, high: usize) -> Build<NodeId> {
        let shape = self.shape(x);
        let merged = thalweg_base::dim::product(&shape[low..high]);
        let shape = [&shape[..low], &[merged], &shape[high..]].concat();
        self.reshape(x, &shape)
    }
}

/// The name under which a node's parts are shown.
pub fn scope_name(name: &str) -> Arc<str> {
    name.trim_matches('/').replace('/', ".").into()
}

/// A size as a number. Fails when it is a symbol.
pub fn known_size(size: &Dim) -> Build<usize> {
    match size.as_constant().map(usize::try_from) {
        Some(Ok(size)) => Ok(size),
        Some(Err(_)) => problem(format!("{size} is no size")),
        None => Err(Stop::Problem(
            Problem::new(format!("the size `{size}` must be known here")).help("bind it with `--set`"),
        )),
    }
}

/// Fails when a shape has a negative size, or more elements than any memory holds.
pub fn check_elements(shape: &[Dim]) -> Build<()> {
    let mut elements = 1i64;
    for size in shape.iter().filter_map(Dim::as_constant) {
        if size < 0 {
            return problem(format!("the size {size} of {shape:?} is negative"));
        }
        elements = elements.saturating_mul(size.max(1));
    }
    match elements <= ELEMENTS_MAX {
        true => Ok(()),
        false => problem(format!("a tensor of shape {shape:?} does not fit any memory")),
    }
}

/// The shape that all can be broadcast to, as NumPy does.
pub fn broadcast_shape(shapes: &[Vec<Dim>]) -> Build<Vec<Dim>> {
    let rank = shapes.iter().map(Vec::len).max().unwrap_or(0);
    let mut result = vec![Dim::ONE; rank];
    for shape in shapes {
        let first = rank - shape.len();
        for (size, into) in shape.iter().zip(&mut result[first..]) {
            match () {
                () if size == into || *size == Dim::ONE => {}
                () if *into == Dim::ONE => *into = size.clone(),
                () => {
                    return problem(format!("the sizes {into} and {size} cannot be broadcast to each other"));
                }
            }
        }
    }
    Ok(result)
}
