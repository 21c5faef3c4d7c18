//! Splits a graph over a mesh of devices: one program that every device runs on its own pieces, with collectives as
//! ordinary ops.
//!
//! How an op may be cut follows from its axis signature alone. For one mesh axis, each node takes one of these candidates:
//! cut along a mapped axis, cut along a reduced axis (which leaves parts that are still to be combined), parts passed on by
//! an op that is linear, or the whole on every device. Where what an operand gives is not what its user needs, a collective
//! stands between. The choice that takes the least time by the cost model is searched for, within the chosen strategy; a
//! mesh of several axes is split along one after the other, as the result of a split is again a graph.
//!
//! Assumes: sizes are bound, and the graph is valid. Guarantees: each output is whole on every device, each update is laid
//! out as its leaf, and results differ from those of one device by the order of sums only.
//!
//! This crate never sees a loop nest or a device's code.
//!
//! ```
//! use thalweg_base::DType;
//! use thalweg_cost::{CostModel, presets};
//! use thalweg_partition::{Strategy, partition};
//! use thalweg_tensor::{Graph, Mesh, TensorType, ops::Initializer};
//! let mut graph = Graph::new("product");
//! let x = graph.input("x", TensorType::new(DType::F32, [8, 4]));
//! let w = graph.parameter("w", TensorType::new(DType::F32, [4, 6]), Initializer::Constant(thalweg_base::Scalar::Float(0.5)));
//! let y = graph.contract("mk,kn->mn", x, w);
//! graph.output("y", y);
//! let cost = CostModel::new(&presets::cpu_default(1));
//! let split = partition(&graph, &Mesh::line("data", 2), &Strategy::data(), &cost).unwrap();
//! assert_eq!(split.graph.ty(split.graph.leaf(thalweg_tensor::ops::LeafKind::Input, "x").unwrap()).sizes(), [4, 4]);
//! assert_eq!(split.reshards.len(), 1); // The result is gathered.
//! ```

#![forbid(unsafe_code)]

mod candidates;
mod decide;
mod emit;
mod explain;
mod layout;
pub mod planner;
mod problem;
mod search;
mod strategy;

pub use explain::{AxisExplanation, Choice, Explanation};
pub use strategy::Strategy;

use serde::{Deserialize, Serialize};
use thalweg_base::{Layout, Span};
use thalweg_cost::CostModel;
use thalweg_tensor::ops::{CollectiveKind, LeafKind};
use thalweg_tensor::{Graph, Mesh, NodeId, Op};

/// Why a graph cannot be split.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// A size is not bound.
    #[error("the size `{0}` is not bound; a graph is split for known sizes")]
    Symbol(String),
    /// A mesh axis has no devices, or stands twice.
    #[error("the mesh axis `{0}` has no devices, or there is another of its name")]
    Mesh(String),
    /// The graph was split along this axis before.
    #[error("the graph is already split along the mesh axis `{0}`")]
    Split(String),
    /// A strategy names a leaf that the graph does not have, or a dim that the leaf does not have.
    #[error("the strategy cuts dim {dim} of `{name}`, which the graph does not have")]
    Leaf {
        /// The leaf.
        name: String,
        /// The dim.
        dim: usize,
    },
    /// A strategy for each mesh axis was expected.
    #[error("{found} strategies are given for {expected} mesh axes")]
    Axes {
        /// The number of mesh axes.
        expected: usize,
        /// The number of strategies.
        found: usize,
    },
}

/// A leaf and how it is laid out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeafLayout {
    /// Where the leaf's value comes from.
    pub kind: LeafKind,
    /// Its name.
    pub name: String,
    /// Which piece of it each device holds.
    pub layout: Layout,
}

/// One change of a value's layout, which the graph says nothing of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reshard {
    /// The collective, in the split graph.
    pub node: NodeId,
    /// What it does.
    pub kind: CollectiveKind,
    /// The mesh axis that it runs along.
    pub axis: String,
    /// How the value is laid out along that axis before, in words.
    pub from: String,
    /// And after.
    pub to: String,
    /// The bytes of the operand on each device; 0 for a shard, which sends nothing.
    pub bytes: f64,
    /// What it costs, in seconds: the cost model's, and a launch where devices wait for each other.
    pub seconds: f64,
    /// The op that needs it, or `output` or `update`.
    pub needed_by: String,
    /// The module path of the value, or of its first user where the value has none, or the value's own name.
    pub scope: String,
    /// The place in the source that the value came from.
    pub span: Option<Span>,
}

/// One program for all devices of a mesh, and what the runtime must know of it.
#[derive(Clone, Debug)]
pub struct Partitioned {
    /// The devices.
    pub mesh: Mesh,
    /// What each device runs, with the types of its pieces.
    pub graph: Graph,
    /// How each leaf is laid out, in the order of their nodes.
    pub leaves: Vec<LeafLayout>,
    /// How each output is laid out: whole on every device.
    pub outputs: Vec<Layout>,
    /// How each update is laid out: as its leaf.
    pub updates: Vec<Layout>,
    /// Every collective that was put in, in the order of the nodes.
    pub reshards: Vec<Reshard>,
    /// The seconds that the cost model gives one call.
    pub seconds: f64,
    /// Why each op is where it is.
    pub explanation: Explanation,
}

impl Partitioned {
    /// The layout of a leaf.
    pub fn layout(&self, kind: LeafKind, name: &str) -> Option<&Layout> {
        let found = self.leaves.iter().find(|leaf| leaf.kind == kind && leaf.name == name);
        found.map(|leaf| &leaf.layout)
    }
}

/// Splits a graph of bound sizes over a mesh, axis by axis.
pub fn partition(
    graph: &Graph,
    mesh: &Mesh,
    strategy: &Strategy,
    cost: &CostModel,
) -> Result<Partitioned, PartitionError> {
    check(graph, mesh)?;
    let strategies = strategy.for_axes(mesh)?;
    let leaves: Vec<LeafLayout> = graph
        .nodes()
        .iter()
        .filter_map(|node| node.op.as_leaf())
        .map(|leaf| LeafLayout { kind: leaf.kind, name: leaf.name.to_string(), layout: Layout::default() })
        .collect();
    let mut split = Partitioned {
        mesh: mesh.clone(),
        graph: graph.clone(),
        leaves,
        outputs: vec![Layout::default(); graph.outputs.len()],
        updates: vec![Layout::default(); graph.updates.len()],
        reshards: Vec::new(),
        seconds: 0.0,
        explanation: Explanation::default(),
    };
    let mut origins: Vec<Option<NodeId>> = graph.ids().map(Some).collect();
    for ((axis, size), strategy) in mesh.axes.iter().zip(strategies) {
        if *size > 1 {
            origins = emit::split_axis(&mut split, &origins, axis, *size, strategy, cost)?;
        }
    }
    // Cuts along later axes have made the collectives of earlier ones smaller.
    split.seconds = cost.graph_seconds(&split.graph);
    for reshard in &mut split.reshards {
        let node = split.graph.node(reshard.node);
        let Op::Collective(collective) = &node.op else { panic!("a reshard is a collective") };
        let operand = split.graph.ty(node.operands[0]);
        let own = problem::seconds(cost, collective, operand, &node.types[0]);
        split.seconds += own - cost.op_seconds(&node.op, &[operand.clone()], &node.types);
        reshard.seconds = own;
        reshard.bytes = if problem::sends(reshard.kind) { operand.bytes() as f64 } else { 0.0 };
    }
    for (update, layout) in graph.updates.iter().zip(&mut split.updates) {
        let kept = |leaf: &&LeafLayout| leaf.kind != LeafKind::Input && leaf.name == update.name;
        *layout = split.leaves.iter().find(kept).expect("an update is of a leaf").layout.clone();
    }
    thalweg_tensor::verify::assert_valid(&split.graph);
    Ok(split)
}

fn check(graph: &Graph, mesh: &Mesh) -> Result<(), PartitionError> {
    if let Some(symbol) = graph.symbols().first() {
        return Err(PartitionError::Symbol(symbol.to_string()));
    }
    for (at, (name, size)) in mesh.axes.iter().enumerate() {
        if *size == 0 || mesh.axes[..at].iter().any(|(other, _)| other == name) {
            return Err(PartitionError::Mesh(name.clone()));
        }
        let runs_along = |op: &Op| matches!(op, Op::Collective(own) if own.axis == *name);
        if graph.nodes().iter().any(|node| runs_along(&node.op)) {
            return Err(PartitionError::Split(name.clone()));
        }
    }
    Ok(())
}
