//! A graph as petgraph sees it, so that petgraph's algorithms work on it: nodes are nodes, uses are edges.

use crate::graph::{Graph, NodeId};
use petgraph::Direction;
use petgraph::visit::{
    GraphBase, IntoNeighbors, IntoNeighborsDirected, IntoNodeIdentifiers, NodeCompactIndexable, NodeCount,
    NodeIndexable, VisitMap, Visitable,
};

/// A graph with its uses, for petgraph's algorithms. Edges lead from an operand to its user.
///
/// ```
/// use thalweg_base::{DType, PointwiseFn};
/// use thalweg_tensor::{Graph, TensorType, view::Dataflow};
/// let mut graph = Graph::new("double");
/// let x = graph.input("x", TensorType::new(DType::F32, [3]));
/// let y = graph.pointwise(PointwiseFn::Add, &[x, x]);
/// let flow = Dataflow::new(&graph);
/// assert_eq!(petgraph::algo::toposort(&flow, None).unwrap(), [x, y]);
/// ```
pub struct Dataflow<'g> {
    graph: &'g Graph,
    users: Vec<Vec<NodeId>>,
}

/// Which nodes a walk has seen.
pub struct Visited(Vec<bool>);

impl VisitMap<NodeId> for Visited {
    fn visit(&mut self, node: NodeId) -> bool {
        !std::mem::replace(&mut self.0[node.index()], true)
    }

    fn is_visited(&self, node: &NodeId) -> bool {
        self.0[node.index()]
    }

    fn unvisit(&mut self, node: NodeId) -> bool {
        std::mem::replace(&mut self.0[node.index()], false)
    }
}

impl<'g> Dataflow<'g> {
    /// The view of a graph.
    pub fn new(graph: &'g Graph) -> Dataflow<'g> {
        Dataflow { graph, users: graph.users() }
    }

    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }
}

impl GraphBase for Dataflow<'_> {
    type EdgeId = (NodeId, NodeId);
    type NodeId = NodeId;
}

impl<'a> IntoNeighbors for &'a Dataflow<'_> {
    type Neighbors = std::iter::Copied<std::slice::Iter<'a, NodeId>>;

    fn neighbors(self, node: NodeId) -> Self::Neighbors {
        self.neighbors_directed(node, Direction::Outgoing)
    }
}

impl<'a> IntoNeighborsDirected for &'a Dataflow<'_> {
    type NeighborsDirected = std::iter::Copied<std::slice::Iter<'a, NodeId>>;

    fn neighbors_directed(self, node: NodeId, direction: Direction) -> Self::NeighborsDirected {
        match direction {
            Direction::Outgoing => self.users[node.index()].iter().copied(),
            Direction::Incoming => self.graph.node(node).operands.iter().copied(),
        }
    }
}

impl IntoNodeIdentifiers for &Dataflow<'_> {
    type NodeIdentifiers = std::iter::Map<std::ops::Range<usize>, fn(usize) -> NodeId>;

    fn node_identifiers(self) -> Self::NodeIdentifiers {
        (0..self.graph.nodes().len()).map(NodeId::new)
    }
}

impl NodeCount for Dataflow<'_> {
    fn node_count(&self) -> usize {
        self.graph.nodes().len()
    }
}

impl NodeIndexable for Dataflow<'_> {
    fn node_bound(&self) -> usize {
        self.graph.nodes().len()
    }

    fn to_index(&self, node: NodeId) -> usize {
        node.index()
    }

    fn from_index(&self, index: usize) -> NodeId {
        NodeId::new(index)
    }
}

impl NodeCompactIndexable for Dataflow<'_> {}

impl Visitable for Dataflow<'_> {
    type Map = Visited;

    fn visit_map(&self) -> Self::Map {
        Visited(vec![false; self.graph.nodes().len()])
    }

    fn reset_map(&self, map: &mut Self::Map) {
        *map = self.visit_map();
    }
}
