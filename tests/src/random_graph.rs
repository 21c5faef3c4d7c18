//! Random well-typed graphs over all ops, which shrink.
//!
//! A graph grows from a list of numbers: each choice takes the next one modulo the number of possibilities, and the graph is
//! done when they run out. Shrinking the list shrinks the graph. A node is kept only when its values, which are known as
//! the graph grows, are finite and of moderate size, so that no comparison drowns in overflow; and a function that jumps
//! is applied only to values that no reordering can change, so that rounding cannot make a difference of 1.

use crate::values;
use proptest::prelude::*;
use std::fmt;
use std::sync::Arc;
use thalweg_base::{DType, Dim, PointwiseFn, Scalar, SourceId, Span};
use thalweg_tensor::eval::Environment;
use thalweg_tensor::op::Fill;
use thalweg_tensor::ops::*;
use thalweg_tensor::verify::assert_valid;
use thalweg_tensor::{Array, Graph, Mesh, NodeId, Op, ReduceFn, Sample, TensorType};

/// The largest magnitude of a float that a graph may hold.
const MAGNITUDE_MAX: f64 = 1e3;

/// The most elements of a node.
const ELEMENTS_MAX: usize = 256;

/// The most nodes of a graph, leaves not counted.
const NODES_MAX: usize = 40;

/// A graph and values for its leaves.
#[derive(Clone)]
pub struct RandomGraph {
    /// The graph. Whatever nothing uses is an output.
    pub graph: Graph,
    /// A value for each leaf.
    pub environment: Environment,
}

impl fmt::Debug for RandomGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.graph, f)
    }
}

/// Random graphs for proptest.
pub fn strategy() -> impl Strategy<Value = RandomGraph> {
    proptest::collection::vec(any::<u32>(), 10..240).prop_map(|choices| random_graph(&choices))
}

/// How many graphs a test tries. Failures are not written down: the numbers that made a graph mean another one as soon as
/// an op or a sample is added, so what was found becomes a test of its own.
pub fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(count) }
}

/// The graph that a list of numbers grows to.
pub fn random_graph(choices: &[u32]) -> RandomGraph {
    let mut growth = Growth {
        graph: Graph::new("random"),
        environment: Environment::new(),
        values: Vec::new(),
        exact: Vec::new(),
        choices: choices.iter(),
        samples: Op::all_samples(),
    };
    growth.leaf();
    for step in 0..NODES_MAX {
        growth.graph.current_scope = Arc::from(format!("part.{}", step / 4));
        growth.graph.current_span = Some(Span::new(SourceId(0), step, step + 1));
        if growth.choices.as_slice().is_empty() {
            break;
        }
        growth.step();
    }
    growth.finish()
}

struct Growth<'a> {
    graph: Graph,
    environment: Environment,
    /// The results of each node.
    values: Vec<Vec<Array>>,
    /// Whether no reordering of arithmetic can change the node's values.
    exact: Vec<bool>,
    choices: std::slice::Iter<'a, u32>,
    samples: Vec<Sample>,
}

impl Growth<'_> {
    /// A number below `count`; 0 when the choices have run out.
    fn choose(&mut self, count: usize) -> usize {
        self.choices.next().map_or(0, |choice| *choice as usize % count.max(1))
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.choose(from.len())]
    }

    /// A node with one result that is no loop.
    fn node(&mut self) -> NodeId {
        let usable: Vec<NodeId> = self.graph.ids().filter(|id| self.usable(*id)).collect();
        self.pick(&usable)
    }

    fn usable(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        node.types.len() == 1 && node.op.subgraphs().is_empty()
    }

    /// A node of that type: one that there is, or a new leaf.
    fn node_of(&mut self, ty: &TensorType) -> NodeId {
        let mut fitting: Vec<Option<NodeId>> =
            self.graph.ids().filter(|id| self.usable(*id) && self.graph.ty(*id) == ty).map(Some).collect();
        fitting.push(None);
        match self.pick(&fitting) {
            Some(node) => node,
            None => self.leaf_of(ty.clone(), Fill::Normal),
        }
    }

    fn leaf(&mut self) -> NodeId {
        let dtype = self.pick(&[DType::F32, DType::F32, DType::F32, DType::I32, DType::Bool]);
        let rank = self.pick(&[2, 1, 3, 0]);
        let shape: Vec<usize> = (0..rank).map(|_| self.pick(&[4, 2, 6, 3, 1])).collect();
        self.leaf_of(TensorType::new(dtype, shape), Fill::Normal)
    }

    fn leaf_of(&mut self, ty: TensorType, fill: Fill) -> NodeId {
        let count = self.graph.nodes().len();
        let kind = match self.choose(3) {
            2 => LeafKind::Parameter,
            _ => LeafKind::Input,
        };
        let name = format!("leaf{count}");
        let init = (kind != LeafKind::Input).then_some(Initializer::Constant(Scalar::zero(ty.dtype)));
        let value = values::filled(&ty, fill, count as u64);
        self.environment.insert((kind, name.clone()), value.clone());
        self.values.push(vec![value]);
        self.exact.push(true);
        self.graph.add_leaf(kind, &name, ty, init)
    }

    /// Adds a node if it fits, its values are moderate, and it does not jump where rounding could matter.
    fn offer(&mut self, op: impl Into<Op>, operands: &[NodeId]) -> Option<NodeId> {
        let op = op.into();
        let types = self.graph.operand_types(&op, operands).ok()?;
        let results = op.def().infer(&types).ok()?;
        let exact = operands.iter().all(|operand| self.exact[operand.index()]);
        if results.iter().any(|ty| ty.elements().size() > ELEMENTS_MAX) || (jumps(&op, &types) && !exact) {
            return None;
        }
        let all = matches!(op, Op::Pick(_));
        let of = |operand: &NodeId| {
            let values = &self.values[operand.index()];
            if all { values.clone() } else { vec![values[0].clone()] }
        };
        let arrays = vec![operands.iter().flat_map(of).collect::<Vec<Array>>()];
        let values = op.def().eval(&Mesh::default(), &arrays).remove(0);
        let floats = values.iter().filter(|array| array.dtype.is_float());
        let moderate = |value: &Scalar| value.to_f64().abs() <= MAGNITUDE_MAX;
        if !floats.flat_map(|array| &array.values).all(moderate) {
            return None;
        }
        let whole = results.iter().all(|ty| !ty.dtype.is_float());
        let from_whole = types.iter().all(|ty| !ty.dtype.is_float()) && !matches!(op, Op::Random(_));
        self.exact.push(whole || (exact && (moves(&op) || from_whole)));
        self.values.push(values);
        Some(self.graph.add(op, operands))
    }

    fn step(&mut self) {
        let x = self.node();
        let ty = self.graph.ty(x).clone();
        let (shape, rank) = (ty.shape.clone(), ty.rank());
        let dim = self.choose(rank);
        match self.choose(16) {
            0..=2 => self.pointwise(x),
            3 => {
                let size = Dim::from(self.pick(&[2, 4, 3, 6]));
                let at = self.choose(rank + 1);
                let mut to = shape;
                to.insert(at, size);
                let dims = (0..=rank).filter(|dim| *dim != at).collect();
                self.offer(Broadcast { shape: to, dims }, &[x]);
            }
            4 if rank > 0 => {
                let function = self.pick(&ReduceFn::ALL);
                let dims = if self.choose(3) == 2 { (0..rank).collect() } else { vec![dim] };
                self.offer(Reduce { function, dims }, &[x]);
            }
            5 if rank > 1 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(dim, (dim + 1) % rank);
                self.offer(Transpose { perm }, &[x]);
            }
            6 => self.reshape(x),
            7 if rank > 0 => {
                let size = shape[dim].size();
                let start = self.choose(size);
                let stride: i64 = self.pick(&[1, 2, -1]);
                let room = if stride > 0 { size - 1 - start } else { start };
                let most = room / stride.unsigned_abs() as usize + 1;
                let taken = 1 + self.choose(most);
                let range = SliceRange { dim, start: start.into(), size: taken.into(), stride };
                self.offer(Slice { ranges: vec![range] }, &[x]);
            }
            8 if rank > 0 => {
                let (low, high, interior) = (self.choose(3), self.choose(3), self.choose(2));
                let pad = PadDim { dim, low: low.into(), high: high.into(), interior };
                let value = Scalar::Float(self.choose(2) as f64).convert(ty.dtype);
                self.offer(Pad { dims: vec![pad], value }, &[x]);
            }
            9 if rank > 0 => {
                let other = self.node_of(&ty);
                self.offer(Concat { dim }, &[x, other]);
            }
            10 | 11 => self.contract(x),
            12 => {
                let dtype = self.pick(&[DType::F32, DType::I32, DType::Bool]);
                self.offer(Convert { dtype }, &[x]);
            }
            13 if rank > 0 => {
                let index = TensorType::new(DType::I32, [self.pick(&[2, 3, 4])]);
                let index = self.node_of(&index);
                self.offer(Gather { dim, batch: 0 }, &[x, index]);
            }
            14 if rank > 0 => {
                let (function, reverse) = (self.pick(&ReduceFn::ALL), self.choose(2) == 1);
                self.offer(Cumulative { function, dim, reverse }, &[x]);
            }
            _ => self.sample(),
        }
    }

    fn pointwise(&mut self, x: NodeId) {
        let function = self.pick(PointwiseFn::ALL);
        let ty = self.graph.ty(x).clone();
        let select = function == PointwiseFn::Select;
        let mut operands = vec![if select { self.node_of(&ty.with_dtype(DType::Bool)) } else { x }];
        while operands.len() < function.arity() {
            operands.push(if select && operands.len() == 1 { x } else { self.node_of(&ty) });
        }
        self.offer(Pointwise { function }, &operands);
    }

    /// Two neighbouring dims become one, or one is split.
    fn reshape(&mut self, x: NodeId) {
        let mut shape = self.graph.ty(x).shape.clone();
        let dim = self.choose(shape.len());
        if self.choose(2) == 0 && dim + 1 < shape.len() {
            let minor = shape.remove(dim + 1);
            shape[dim] = &shape[dim] * &minor;
        } else if let Some(size) = shape.get(dim).cloned() {
            let by = Dim::from(self.pick(&[2, 3]));
            if let Some(quotient) = size.exact_div(&by) {
                let (major, minor) = if self.choose(2) == 0 { (quotient, by) } else { (by, quotient) };
                shape[dim] = major;
                shape.insert(dim + 1, minor);
            }
        } else {
            shape.push(Dim::ONE);
        }
        self.offer(Reshape { shape }, &[x]);
    }

    /// A product with a node that shares the last dim, or with itself.
    fn contract(&mut self, x: NodeId) {
        let ty = self.graph.ty(x).clone();
        let letters: String = ('a'..).take(ty.rank()).collect();
        let Some(size) = ty.shape.last() else { return };
        let (batch, last) = letters.split_at(letters.len() - 1);
        let contracts = [
            format!("{letters},{last}z->{batch}z"),
            format!("{letters},{letters}->"),
            format!("{letters},{letters}->{batch}"),
            format!("{letters},z->z{letters}"),
        ];
        let form = self.choose(contracts.len());
        let out = Dim::from(self.pick(&[4, 2, 3]));
        let other = match form {
            0 => TensorType::new(ty.dtype, [size.clone(), out]),
            3 => TensorType::new(ty.dtype, [out]),
            _ => ty,
        };
        let other = self.node_of(&other);
        self.offer(Contract::new(&contracts[form]), &[x, other]);
    }

    /// An op of a sample, on nodes that there are where the values of its operands do not matter.
    fn sample(&mut self) {
        let at = self.choose(self.samples.len());
        let sample = self.samples[at].clone();
        if matches!(sample.op, Op::Collective(_)) {
            return;
        }
        let plain = |ty: &TensorType| matches!(ty.dtype, DType::F32 | DType::I32 | DType::Bool);
        if !sample.operands.iter().all(|(ty, _)| plain(ty)) {
            return;
        }
        let operands: Vec<NodeId> = sample
            .operands
            .iter()
            .map(|(ty, fill)| match fill {
                Fill::Normal => self.node_of(ty),
                Fill::Positive | Fill::Index(_) | Fill::Distinct => self.leaf_of(ty.clone(), *fill),
            })
            .collect();
        if let Some(node) = self.offer(sample.op, &operands)
            && !self.usable(node)
        {
            for index in 0..self.graph.node(node).types.len() {
                self.offer(Pick { index }, &[node]);
            }
        }
    }

    fn finish(mut self) -> RandomGraph {
        self.graph.current_scope = Arc::from("");
        self.graph.current_span = None;
        let users = self.graph.users();
        let ends: Vec<NodeId> =
            self.graph.ids().filter(|id| users[id.index()].is_empty() && self.usable(*id)).collect();
        let mut updated = Vec::new();
        for (index, end) in ends.into_iter().enumerate() {
            let fits = self.graph.leaves(LeafKind::Parameter).find(|(id, leaf)| {
                leaf.ty == *self.graph.ty(end) && *id != end && !updated.contains(&leaf.name)
            });
            match fits.map(|(_, leaf)| leaf.name.clone()) {
                Some(name) => {
                    self.graph.update(&*name, end);
                    updated.push(name);
                }
                None => self.graph.output(format!("y{index}"), end),
            }
        }
        assert_valid(&self.graph);
        RandomGraph { graph: self.graph, environment: self.environment }
    }
}

/// Whether a small change of a float operand can make a large one of the result.
fn jumps(op: &Op, operands: &[TensorType]) -> bool {
    use PointwiseFn::{Ceil, Eq, Floor, Ge, Gt, Le, Lt, Ne, Rem, Round, Sign};
    let floats = operands.iter().any(|ty| ty.dtype.is_float());
    let steps = [Ceil, Eq, Floor, Ge, Gt, Le, Lt, Ne, Rem, Round, Sign];
    match op {
        Op::Pointwise(own) => floats && steps.contains(&own.function),
        Op::Convert(own) => floats && !own.dtype.is_float(),
        Op::ArgSort(_) | Op::While(_) => floats,
        Op::Leaf(_) | Op::Constant(_) | Op::Iota(_) | Op::Random(_) | Op::Broadcast(_) => false,
        Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Pad(_) | Op::Concat(_) => false,
        Op::Gather(_) | Op::Scatter(_) | Op::Reduce(_) | Op::Cumulative(_) | Op::Contract(_) => false,
        Op::Convolve(_) | Op::Unfold(_) | Op::Fold(_) | Op::DynamicSlice(_) | Op::DynamicUpdate(_) => false,
        Op::Scan(_) | Op::Branch(_) | Op::Pick(_) | Op::Collective(_) => false,
    }
}

/// Whether the op only moves values.
fn moves(op: &Op) -> bool {
    match op {
        Op::Leaf(_) | Op::Constant(_) | Op::Iota(_) | Op::Broadcast(_) | Op::Reshape(_) => true,
        Op::Transpose(_) | Op::Slice(_) | Op::Pad(_) | Op::Concat(_) | Op::Gather(_) => true,
        Op::Unfold(_) | Op::DynamicSlice(_) | Op::DynamicUpdate(_) | Op::Pick(_) => true,
        Op::Random(_) | Op::Pointwise(_) | Op::Convert(_) | Op::Scatter(_) | Op::Reduce(_) => false,
        Op::Cumulative(_) | Op::Contract(_) | Op::Convolve(_) | Op::Fold(_) | Op::ArgSort(_) => false,
        Op::Scan(_) | Op::While(_) | Op::Branch(_) | Op::Collective(_) => false,
    }
}
