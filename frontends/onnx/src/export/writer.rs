//! A list of nodes while it is written, and short ways to add some.

use super::{ExportError, tensor};
use crate::element::number;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use std::collections::{BTreeMap, BTreeSet};
use thalweg_base::{DType, Dim, Literal, Scalar, Symbol};
use thalweg_tensor::ops::{Broadcast, LeafKind};
use thalweg_tensor::{Graph, Node, NodeId, Op};

/// What writing gives.
pub type Write<T> = Result<T, ExportError>;

/// An attribute of a node.
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A text.
    Text(String),
    /// A graph.
    Graph(Box<GraphProto>),
}

/// The nodes of a graph of the format.
pub struct Writer {
    /// The nodes.
    pub nodes: Vec<NodeProto>,
    /// The stored values.
    pub initializers: Vec<TensorProto>,
    /// The names of each node's results.
    pub values: Vec<Vec<String>>,
    /// Names that are taken, in the whole model.
    taken: BTreeSet<String>,
    /// Where the value of a symbol is: a dim of an input of the model.
    symbols: BTreeMap<Symbol, (String, usize)>,
    /// The node that is being written.
    scope: String,
    op: &'static str,
}

impl Writer {
    /// An empty list for a model's graph.
    pub fn new(graph: &Graph) -> Writer {
        let mut symbols = BTreeMap::new();
        for (_, leaf) in graph.leaves(LeafKind::Input) {
            for (at, dim) in leaf.ty.shape.iter().enumerate() {
                if let Some(symbol) = dim.as_symbol() {
                    symbols.entry(symbol.clone()).or_insert_with(|| (leaf.name.to_string(), at));
                }
            }
        }
        // Outputs keep their names, so nothing else may have them.
        let taken = graph.outputs.iter().map(|output| output.name.clone()).collect();
        Writer {
            nodes: vec![],
            initializers: vec![],
            values: vec![vec![]; graph.nodes().len()],
            taken,
            symbols,
            scope: String::new(),
            op: "",
        }
    }

    /// Begins the body of a node; names of outer nodes stay known in it.
    pub fn body(&mut self, graph: &Graph) -> Writer {
        Writer {
            nodes: vec![],
            initializers: vec![],
            values: vec![vec![]; graph.nodes().len()],
            taken: std::mem::take(&mut self.taken),
            symbols: self.symbols.clone(),
            scope: self.scope.clone(),
            op: self.op,
        }
    }

    /// Ends a body, whose names stay taken.
    pub fn end_body(&mut self, body: &mut Writer) {
        self.taken = std::mem::take(&mut body.taken);
    }

    /// Writes every node but the leaves.
    pub fn graph(&mut self, graph: &Graph) -> Write<()> {
        let repeats = repeated_by_users(graph);
        for id in graph.ids() {
            let node = graph.node(id);
            if matches!(node.op, Op::Leaf(_)) {
                continue;
            }
            self.scope = node.scope.to_string();
            self.op = node.op.name();
            let names = match repeats[id.index()] {
                Some(op) => {
                    let operand = node.operands[0];
                    vec![self.placed(op, &self.of(operand), graph.ty(operand))?]
                }
                None => self.node(graph, node)?,
            };
            self.values[id.index()] = names;
        }
        Ok(())
    }

    /// Where the value of a symbol is.
    pub fn symbol(&self, symbol: &Symbol) -> Option<(String, usize)> {
        self.symbols.get(symbol).cloned()
    }

    /// The name of a leaf, which it keeps.
    pub fn leaf(&mut self, id: NodeId, name: &str) -> String {
        let own = if self.taken.contains(name) { self.fresh(name) } else { name.to_string() };
        self.taken.insert(own.clone());
        if own != name {
            for (input, _) in self.symbols.values_mut().filter(|(input, _)| input == name) {
                *input = own.clone();
            }
        }
        self.values[id.index()] = vec![own.clone()];
        own
    }

    /// The name of an output, which it keeps; a value of another name is handed on.
    pub fn output(&mut self, name: &str, id: NodeId) -> String {
        let from = self.values[id.index()][0].clone();
        self.push("Identity", &[&from], &[name.to_string()], &[]);
        name.to_string()
    }

    /// A name that nothing else has.
    pub fn fresh(&mut self, hint: &str) -> String {
        let mut name = hint.to_string();
        let mut count = 1;
        while self.taken.contains(&name) {
            count += 1;
            name = format!("{hint}_{count}");
        }
        self.taken.insert(name.clone());
        name
    }

    /// Adds a node of given results.
    pub fn push(&mut self, op: &str, inputs: &[&str], outputs: &[String], attributes: &[(&str, Attribute)]) {
        let attribute = |(name, value): &(&str, Attribute)| {
            let mut proto = AttributeProto { name: name.to_string(), ..AttributeProto::default() };
            let kind = match value {
                Attribute::Int(value) => {
                    proto.i = *value;
                    AttributeType::Int
                }
                Attribute::Ints(values) => {
                    proto.ints = values.clone();
                    AttributeType::Ints
                }
                Attribute::Text(text) => {
                    proto.s = text.as_bytes().to_vec();
                    AttributeType::String
                }
                Attribute::Graph(graph) => {
                    proto.g = Some((**graph).clone());
                    AttributeType::Graph
                }
            };
            proto.r#type = kind as i32;
            proto
        };
        self.nodes.push(NodeProto {
            name: outputs.first().cloned().unwrap_or_default(),
            op_type: op.to_string(),
            input: inputs.iter().map(|name| name.to_string()).collect(),
            output: outputs.to_vec(),
            attribute: attributes.iter().map(attribute).collect(),
            ..NodeProto::default()
        });
    }

    /// Adds a node of one result.
    pub fn add_with(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let place = if self.scope.is_empty() { String::new() } else { format!("{}/", self.scope) };
        let name = self.fresh(&format!("{place}{op}"));
        self.push(op, inputs, &[name.clone()], attributes);
        name
    }

    /// Adds a node of one result without attributes.
    pub fn add(&mut self, op: &str, inputs: &[&str]) -> String {
        self.add_with(op, inputs, &[])
    }

    /// A stored value.
    pub fn constant(&mut self, literal: &Literal) -> String {
        let name = self.fresh("constant");
        self.initializers.push(tensor(&name, literal));
        name
    }

    /// A stored number.
    pub fn number(&mut self, dtype: DType, value: Scalar) -> String {
        self.constant(&Literal::scalar(dtype, value.convert(dtype)))
    }

    /// Stored integers.
    pub fn ints(&mut self, values: &[i64]) -> String {
        let scalars = values.iter().map(|value| Scalar::Int((*value).into()));
        self.constant(&Literal::from_scalars(DType::I64, &[values.len()], scalars))
    }

    /// The same values in another dtype.
    pub fn cast(&mut self, x: &str, dtype: DType) -> String {
        self.add_with("Cast", &[x], &[("to", Attribute::Int(number(dtype).into()))])
    }

    /// The same elements under another shape.
    pub fn reshape(&mut self, x: &str, shape: &[Dim]) -> Write<String> {
        let shape = self.shape(shape)?;
        // A size of 0 is meant as it stands.
        Ok(self.add_with("Reshape", &[x, &shape], &[("allowzero", Attribute::Int(1))]))
    }

    /// Dims in another order.
    pub fn transpose(&mut self, x: &str, perm: &[usize]) -> String {
        match perm.iter().copied().eq(0..perm.len()) {
            true => x.to_string(),
            false => {
                let perm = perm.iter().map(|dim| *dim as i64).collect();
                self.add_with("Transpose", &[x], &[("perm", Attribute::Ints(perm))])
            }
        }
    }

    /// The first result of an operand.
    pub fn of(&self, id: NodeId) -> String {
        self.values[id.index()][0].clone()
    }

    /// The error that the node cannot be written.
    pub fn unable<T>(&self, reason: impl Into<String>) -> Write<T> {
        Err(ExportError::Op { op: self.op, scope: self.scope.clone(), reason: reason.into() })
    }

    /// Writes a node and gives the names of its results.
    fn node(&mut self, graph: &Graph, node: &Node) -> Write<Vec<String>> {
        let names: Vec<String> = node.operands.iter().map(|operand| self.of(*operand)).collect();
        let inputs: Vec<&str> = names.iter().map(String::as_str).collect();
        let types = graph.operand_types(&node.op, &node.operands).expect("nodes of a graph fit");
        let one = match &node.op {
            Op::Pick(op) => {
                let from = &self.values[node.operands[0].index()];
                return Ok(vec![from[op.index].clone()]);
            }
            Op::Scan(op) => return self.scan(op, &inputs, &types),
            Op::While(op) => return self.repeat(op, &inputs, &types),
            Op::Branch(op) => return self.branch(op, &inputs),
            Op::Leaf(_) => unreachable!("leaves are named before"),
            Op::Constant(op) => self.constant(&op.value),
            Op::Iota(op) => self.iota(op)?,
            Op::Random(_) => {
                return self.unable("the format has no random values that depend on a key and a counter");
            }
            Op::Collective(_) => return self.unable("a model of the format runs on one device"),
            Op::Pointwise(op) => self.pointwise(op.function, &inputs, types[0].dtype, node.types[0].dtype),
            Op::Convert(op) => self.convert(inputs[0], types[0].dtype, op.dtype),
            Op::Broadcast(op) => self.broadcast(op, inputs[0], &types[0])?,
            Op::Reshape(op) => self.reshape(inputs[0], &op.shape)?,
            Op::Transpose(op) => self.transpose(inputs[0], &op.perm),
            Op::Slice(op) => self.slice(op, inputs[0])?,
            Op::Pad(op) => self.pad(op, inputs[0], &types[0])?,
            Op::Concat(op) => self.add_with("Concat", &inputs, &[("axis", Attribute::Int(op.dim as i64))]),
            Op::Gather(op) => self.gather(op, &inputs, &types)?,
            Op::Scatter(op) => self.scatter(op, &inputs, &types)?,
            Op::Reduce(op) => self.reduce(op, inputs[0], types[0].dtype),
            Op::Cumulative(op) => self.cumulative(op, inputs[0], &types[0])?,
            Op::Contract(op) => self.contract(op, &inputs, &types),
            Op::Convolve(op) => self.convolve(op, &inputs, &types, &node.types[0])?,
            Op::Unfold(op) => self.unfold(op, inputs[0], &types[0])?,
            Op::Fold(op) => self.fold(op, inputs[0], &types[0], &node.types[0])?,
            Op::ArgSort(op) => self.arg_sort(op, inputs[0], &types[0])?,
            Op::DynamicSlice(op) => self.dynamic_slice(op, &inputs, &types)?,
            Op::DynamicUpdate(op) => self.dynamic_update(op, &inputs, &types)?,
        };
        Ok(vec![one])
    }
}

/// The broadcasts that need not be written: functions of positions repeat their operands themselves, if one of them has the
/// whole shape.
fn repeated_by_users(graph: &Graph) -> Vec<Option<&Broadcast>> {
    let broadcast = |id: NodeId| if let Op::Broadcast(op) = &graph.node(id).op { Some(op) } else { None };
    let mut repeated: Vec<Option<&Broadcast>> = graph.ids().map(broadcast).collect();
    for id in graph.ids() {
        let node = graph.node(id);
        let whole = node.operands.iter().any(|operand| broadcast(*operand).is_none());
        if !matches!(node.op, Op::Pointwise(_)) || !whole {
            node.operands.iter().for_each(|operand| repeated[operand.index()] = None);
        }
    }
    graph.roots().for_each(|root| repeated[root.index()] = None);
    repeated
}
