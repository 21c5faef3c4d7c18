//! Graphs: nodes in topological order, outputs, and updates of what is kept between calls.

use crate::op::{InferError, Op};
use crate::ops::{Leaf, LeafKind};
use crate::types::TensorType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use thalweg_base::{Bindings, Span, Symbol, define_id};

define_id! {
    /// A node of one graph, which is also the value it computes.
    NodeId, "%"
}

/// An op applied to operands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Node {
    /// What is done.
    pub op: Op,
    /// To what; every operand stands before this node.
    pub operands: Vec<NodeId>,
    /// The types of the results. All ops but loops and branches have one.
    pub types: Vec<TensorType>,
    /// The module path that the node belongs to, such as `block.0.attention`.
    pub scope: Arc<str>,
    /// The place in the source that it came from.
    pub span: Option<Span>,
}

/// A named result of a graph.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Output {
    /// What the caller knows it by.
    pub name: String,
    /// The value.
    pub node: NodeId,
}

/// A new value for a parameter or state, which the next call will find.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Update {
    /// The parameter or state.
    pub name: String,
    /// Its next value.
    pub node: NodeId,
}

/// A dataflow graph.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Graph {
    /// What it is called in dumps.
    pub name: String,
    nodes: Vec<Node>,
    /// The results.
    pub outputs: Vec<Output>,
    /// What is kept for the next call.
    pub updates: Vec<Update>,
    /// The scope that new nodes get.
    #[serde(skip)]
    pub current_scope: Arc<str>,
    /// The span that new nodes get.
    #[serde(skip)]
    pub current_span: Option<Span>,
}

impl Graph {
    /// An empty graph of that name.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds a node in the current scope and span, or says why the op does not fit its operands.
    pub fn try_add(&mut self, op: impl Into<Op>, operands: &[NodeId]) -> Result<NodeId, InferError> {
        let op = op.into();
        let types = op.def().infer(&self.operand_types(&op, operands)?)?;
        let (scope, span) = (self.current_scope.clone(), self.current_span);
        self.nodes.push(Node { op, operands: operands.to_vec(), types, scope, span });
        Ok(NodeId::new(self.nodes.len() - 1))
    }

    /// Adds a node that is known to fit. Panics when it does not, which is a bug of the caller.
    pub fn add(&mut self, op: impl Into<Op>, operands: &[NodeId]) -> NodeId {
        let op = op.into();
        self.try_add(op.clone(), operands).unwrap_or_else(|error| {
            let types: Vec<_> = operands.iter().map(|operand| self.node(*operand).types.clone()).collect();
            panic!("{op:?} of {types:?}: {error}")
        })
    }

    /// The types that an op sees of its operands: all results of the only operand for `Pick`, else one for each.
    pub fn operand_types(&self, op: &Op, operands: &[NodeId]) -> Result<Vec<TensorType>, InferError> {
        if matches!(op, Op::Pick(_)) {
            return Ok(operands.iter().flat_map(|operand| self.node(*operand).types.clone()).collect());
        }
        let one = |operand: &NodeId| match &self.node(*operand).types[..] {
            [ty] => Ok(ty.clone()),
            _ => Err(InferError(format!("{operand} has several results; one must be picked"))),
        };
        operands.iter().map(one).collect()
    }

    /// The operand types of a node of this graph.
    pub fn operand_types_of(&self, id: NodeId) -> Vec<TensorType> {
        let node = self.node(id);
        self.operand_types(&node.op, &node.operands).expect("nodes of a graph fit their operands")
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// All nodes in topological order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All ids in topological order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + use<> {
        (0..self.nodes.len()).map(NodeId::new)
    }

    /// The type of a node's only result.
    pub fn ty(&self, id: NodeId) -> &TensorType {
        &self.node(id).types[0]
    }

    /// Names a result.
    pub fn output(&mut self, name: impl Into<String>, node: NodeId) {
        self.outputs.push(Output { name: name.into(), node });
    }

    /// Sets the next value of a parameter or state.
    pub fn update(&mut self, name: impl Into<String>, node: NodeId) {
        self.updates.push(Update { name: name.into(), node });
    }

    /// The leaves of a kind, in the order of their nodes.
    pub fn leaves(&self, kind: LeafKind) -> impl Iterator<Item = (NodeId, &Leaf)> {
        self.ids().filter_map(move |id| {
            let leaf = self.node(id).op.as_leaf()?;
            (leaf.kind == kind).then_some((id, leaf))
        })
    }

    /// The leaf of that kind and name.
    pub fn leaf(&self, kind: LeafKind, name: &str) -> Option<NodeId> {
        self.leaves(kind).find(|(_, leaf)| &*leaf.name == name).map(|(id, _)| id)
    }

    /// The values that the graph is run for: outputs, then updates.
    pub fn roots(&self) -> impl Iterator<Item = NodeId> {
        self.outputs.iter().map(|output| output.node).chain(self.updates.iter().map(|update| update.node))
    }

    /// The nodes that use each node, in order; a node that uses another twice stands twice.
    pub fn users(&self) -> Vec<Vec<NodeId>> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for id in self.ids() {
            for operand in &self.node(id).operands {
                users[operand.index()].push(id);
            }
        }
        users
    }

    /// Every symbol in a type of the graph.
    pub fn symbols(&self) -> BTreeSet<Symbol> {
        let mut found = BTreeSet::new();
        for dim in self.nodes.iter().flat_map(|node| &node.types).flat_map(|ty| &ty.shape) {
            dim.symbols(&mut found);
        }
        found
    }

    /// The graph with symbols replaced by their bindings.
    pub fn substitute(&self, bindings: &Bindings) -> Graph {
        let mut graph = self.clone();
        for node in &mut graph.nodes {
            node.op = node.op.substitute(bindings);
            for ty in &mut node.types {
                *ty = ty.substitute(bindings);
            }
        }
        graph
    }

    /// The graph without nodes that no output or update needs, and where each old node went. Leaves that are inputs,
    /// parameters or states stay, so that the signature does.
    pub fn prune(&self) -> (Graph, Vec<Option<NodeId>>) {
        let mut live = vec![false; self.nodes.len()];
        for root in self.roots() {
            live[root.index()] = true;
        }
        for id in self.ids().rev() {
            live[id.index()] |= matches!(self.node(id).op, Op::Leaf(_));
            if live[id.index()] {
                for operand in &self.node(id).operands {
                    live[operand.index()] = true;
                }
            }
        }
        let mut graph = Graph::new(self.name.clone());
        let mut map = vec![None; self.nodes.len()];
        for id in self.ids().filter(|id| live[id.index()]) {
            let mut node = self.node(id).clone();
            for operand in &mut node.operands {
                *operand = map[operand.index()].expect("operands of live nodes are live");
            }
            map[id.index()] = Some(graph.push(node));
        }
        let moved = |id: NodeId| map[id.index()].expect("roots are live");
        for output in &self.outputs {
            graph.output(output.name.clone(), moved(output.node));
        }
        for update in &self.updates {
            graph.update(update.name.clone(), moved(update.node));
        }
        (graph, map)
    }

    /// Adds a node as it is. The caller has made sure that it fits; `verify` checks.
    pub fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId::new(self.nodes.len() - 1)
    }

    /// Adds copies of another graph's nodes, its inputs replaced by `inputs` in the order of `leaves(Input)`; gives where
    /// each of its nodes went. Parameters and states of the same kind and name are shared.
    pub fn inline(&mut self, other: &Graph, inputs: &[NodeId]) -> Vec<NodeId> {
        let mut given = inputs.iter();
        let mut map: Vec<NodeId> = Vec::with_capacity(other.nodes.len());
        for node in other.nodes() {
            let id = match node.op.as_leaf() {
                Some(leaf) if leaf.kind == LeafKind::Input => *given.next().expect("an input for each leaf"),
                Some(leaf) => match self.leaf(leaf.kind, &leaf.name) {
                    Some(id) => id,
                    None => self.push(node.clone()),
                },
                None => {
                    let mut node = node.clone();
                    for operand in &mut node.operands {
                        *operand = map[operand.index()];
                    }
                    self.push(node)
                }
            };
            map.push(id);
        }
        map
    }
}
