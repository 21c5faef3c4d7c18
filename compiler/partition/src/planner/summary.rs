//! What of a model matters to a planner: its blocks in a row, equal ones found equal.
//!
//! The forward pass is cut wherever a single value leads on from what came before, as it does between the layers of all usual
//! models; nothing about the model has to be declared. Values that do not depend on both the data and the parameters, such as
//! masks and positions, are made anew in each block that wants them. Blocks that are the same but for names are one kind, so
//! that whatever is costed is costed once for ninety-six equal layers.

use super::PlannerError;
use std::collections::{BTreeMap, BTreeSet};
use thalweg_base::{Bindings, Dim, Initializer, Scalar, Symbol};
use thalweg_tensor::ops::{Leaf, LeafKind};
use thalweg_tensor::{Graph, Node, NodeId, Op};

/// The name of the input that the block before gives.
pub(crate) const BEFORE: &str = "before";

/// One kind of block.
#[derive(Clone, Debug)]
pub struct BlockKind {
    /// The forward pass: inputs `before` and those of the model, parameters by their number, one output. Sizes are bound but for
    /// the batch.
    pub graph: Graph,
    /// Whether a block before gives an input.
    pub follows: bool,
}

/// A block of the model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// Its kind.
    pub kind: usize,
    /// The module path that its nodes share, such as `block.7.attention`.
    pub scope: String,
    /// Its parameters, in the order of their numbers.
    pub parameters: Vec<String>,
}

/// What a planner knows of a model.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The model's name.
    pub model: String,
    /// The symbol that the samples of a batch are counted by.
    pub batch: Symbol,
    /// The kinds of block.
    pub kinds: Vec<BlockKind>,
    /// The blocks, in order.
    pub blocks: Vec<Block>,
    /// Bytes of the optimizer's state for each element of a parameter, such as 8 of Adam in `f32`.
    pub state_bytes_per_element: f64,
}

/// A training as the planner takes it.
#[derive(Clone, Debug)]
pub struct Training<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The graph of one step: its output `loss` is what is trained.
    pub step: &'a Graph,
    /// The symbol that samples are counted by.
    pub batch: &'a Symbol,
    /// Values for all other symbols.
    pub bindings: &'a Bindings,
}

impl Summary {
    /// The summary of a training.
    pub fn new(training: &Training) -> Result<Summary, PlannerError> {
        let step = training.step;
        let loss = step.outputs.iter().find(|output| output.name == "loss").ok_or(PlannerError::NoLoss)?.node;
        let mut forward = step.clone();
        forward.outputs.retain(|output| output.node == loss);
        forward.outputs.truncate(1);
        forward.updates.clear();
        let forward = without_unused_leaves(&forward.substitute(training.bindings));
        if let Some(open) = forward.symbols().into_iter().find(|symbol| symbol != training.batch) {
            return Err(PlannerError::OpenSize(open.to_string()));
        }
        let mut summary = Summary {
            model: training.model.to_string(),
            batch: training.batch.clone(),
            kinds: Vec::new(),
            blocks: Vec::new(),
            state_bytes_per_element: state_bytes(step, &forward),
        };
        let mut kinds: BTreeMap<Graph, usize> = BTreeMap::new();
        for range in ranges(&forward) {
            let (kind, block) = cut_out(&forward, &range);
            let follows = kind.leaf(LeafKind::Input, BEFORE).is_some();
            let number = *kinds.entry(kind.clone()).or_insert_with(|| {
                summary.kinds.push(BlockKind { graph: kind, follows });
                summary.kinds.len() - 1
            });
            summary.blocks.push(Block { kind: number, ..block });
        }
        match summary.blocks.is_empty() {
            true => Err(PlannerError::NoWork),
            false => Ok(summary),
        }
    }

    /// A number that changes when anything does that a plan depends on: FNV-1a of kinds and blocks.
    pub fn hash(&self) -> String {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut add = |text: &str| {
            for byte in text.bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        for kind in &self.kinds {
            add(&format!("{:?}", kind.graph));
        }
        for block in &self.blocks {
            add(&format!("{} {:?};", block.kind, block.parameters));
        }
        format!("{hash:016x}")
    }

    /// Elements of all parameters, shared ones counted once.
    pub fn parameters(&self) -> f64 {
        let mut sizes: BTreeMap<&str, f64> = BTreeMap::new();
        for block in &self.blocks {
            let leaves = self.kinds[block.kind].graph.leaves(LeafKind::Parameter);
            for (name, (_, leaf)) in block.parameters.iter().zip(leaves) {
                sizes.insert(name, leaf.ty.elements().size() as f64);
            }
        }
        sizes.values().sum()
    }
}

/// Bytes of states that only the optimizer has, for each element of a parameter.
fn state_bytes(step: &Graph, forward: &Graph) -> f64 {
    let elements = |kind: LeafKind, graph: &Graph| -> f64 {
        let sizes = graph.leaves(kind).filter_map(|(_, leaf)| leaf.ty.elements().as_constant());
        sizes.map(|size| size as f64).sum()
    };
    let of_model: Vec<&str> = forward.leaves(LeafKind::State).map(|(_, leaf)| &*leaf.name).collect();
    let states = step.leaves(LeafKind::State).filter(|(_, leaf)| !of_model.contains(&&*leaf.name));
    // States of the model that its forward pass only writes, such as running means, are small beside those of the optimizer.
    let bytes: f64 = states
        .filter_map(|(_, leaf)| {
            Some(leaf.ty.elements().as_constant()? as f64 * leaf.ty.dtype.size_bytes() as f64)
        })
        .sum();
    let parameters = elements(LeafKind::Parameter, forward);
    if parameters > 0.0 { bytes / parameters } else { 0.0 }
}

/// The nodes that the output needs and no others.
fn without_unused_leaves(graph: &Graph) -> Graph {
    let mut live = vec![false; graph.nodes().len()];
    for root in graph.roots() {
        live[root.index()] = true;
    }
    for id in graph.ids().rev() {
        if live[id.index()] {
            graph.node(id).operands.iter().for_each(|operand| live[operand.index()] = true);
        }
    }
    let mut kept = Graph::new(graph.name.clone());
    let mut map = vec![None; graph.nodes().len()];
    for id in graph.ids().filter(|id| live[id.index()]) {
        let mut node = graph.node(id).clone();
        for operand in &mut node.operands {
            *operand = map[operand.index()].expect("what a live node reads is live");
        }
        map[id.index()] = Some(kept.push(node));
    }
    for output in &graph.outputs {
        kept.output(output.name.clone(), map[output.node.index()].expect("outputs are live"));
    }
    kept
}

/// For each node, whether it depends on both the data and the parameters.
fn activations(graph: &Graph) -> Vec<bool> {
    let mut of: Vec<(bool, bool)> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let own = node.op.as_leaf().map_or((false, false), |leaf| match leaf.kind {
            LeafKind::Input => (true, false),
            LeafKind::Parameter => (false, true),
            LeafKind::State => (false, false),
        });
        let all = node.operands.iter().map(|operand| of[operand.index()]);
        of.push(all.fold(own, |a, b| (a.0 || b.0, a.1 || b.1)));
    }
    of.iter().map(|(data, parameters)| *data && *parameters).collect()
}

/// A stretch of the forward pass.
struct Stretch {
    /// Its activations.
    nodes: Vec<NodeId>,
    /// The value that leads into it.
    before: Option<NodeId>,
    /// The value that leads on.
    after: NodeId,
}

/// Where the forward pass is cut: after activations that alone lead on. Stretches that do no products of their own belong to the
/// one before, or to the first.
fn ranges(graph: &Graph) -> Vec<Stretch> {
    let is_activation = activations(graph);
    let mut last_use: Vec<usize> = (0..graph.nodes().len()).collect();
    for id in graph.ids().filter(|id| is_activation[id.index()]) {
        for operand in &graph.node(id).operands {
            last_use[operand.index()] = id.index();
        }
    }
    for root in graph.roots() {
        last_use[root.index()] = usize::MAX;
    }
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut live: Vec<NodeId> = Vec::new();
    let mut nodes = Vec::new();
    let mut before = None;
    for id in graph.ids().filter(|id| is_activation[id.index()]) {
        nodes.push(id);
        live.retain(|own| last_use[own.index()] > id.index());
        if last_use[id.index()] > id.index() {
            live.push(id);
        }
        if live == [id] {
            let stretch = Stretch { nodes: std::mem::take(&mut nodes), before, after: id };
            before = Some(id);
            let works = stretch.nodes.iter().any(|id| works(graph, *id));
            match stretches.last_mut() {
                Some(last) if !works || !last.nodes.iter().any(|id| self::works(graph, *id)) => {
                    last.nodes.extend(stretch.nodes);
                    last.after = stretch.after;
                }
                Some(_) | None => stretches.push(stretch),
            }
        }
    }
    stretches
}

/// Whether a node is worth a block: it multiplies, loops, or looks parameters up.
fn works(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).op, Op::Contract(_) | Op::Convolve(_) | Op::Scan(_) | Op::Gather(_))
}

/// A stretch as a graph of its own, with names that do not depend on where it stands.
fn cut_out(graph: &Graph, stretch: &Stretch) -> (Graph, Block) {
    let mut needed: BTreeSet<NodeId> = stretch.nodes.iter().copied().collect();
    let mut open: Vec<NodeId> = stretch.nodes.clone();
    while let Some(id) = open.pop() {
        for operand in &graph.node(id).operands {
            if Some(*operand) != stretch.before && needed.insert(*operand) {
                open.push(*operand);
            }
        }
    }
    let mut own = Graph::new("block");
    let mut map: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    if let Some(before) = stretch.before {
        map.insert(before, own.input(BEFORE, graph.ty(before).clone()));
    }
    let mut parameters = Vec::new();
    let mut counts = [0; 3];
    for id in &needed {
        let node = graph.node(*id);
        let op = match node.op.as_leaf() {
            Some(leaf) => {
                let slot = leaf.kind as usize;
                let name = format!("{}{}", ["input", "parameter", "state"][slot], counts[slot]);
                counts[slot] += 1;
                if leaf.kind == LeafKind::Parameter {
                    parameters.push(leaf.name.to_string());
                }
                // First values make no difference to a plan.
                let init = leaf.init.as_ref().map(|_| Initializer::Constant(Scalar::zero(leaf.ty.dtype)));
                Op::from(Leaf { name: name.into(), init, ..leaf.clone() })
            }
            None => node.op.clone(),
        };
        let operands = node.operands.iter().map(|operand| map[operand]).collect();
        let scope = "".into();
        map.insert(*id, own.push(Node { op, operands, types: node.types.clone(), scope, span: None }));
    }
    own.output("after", map[&stretch.after]);
    let scope = shared_scope(stretch.nodes.iter().map(|id| &*graph.node(*id).scope));
    (own, Block { kind: 0, scope, parameters })
}

/// The longest module path that all of these begin with; those of nodes that belong to no module do not count.
fn shared_scope<'a>(scopes: impl Iterator<Item = &'a str>) -> String {
    let mut shared: Option<Vec<&str>> = None;
    for scope in scopes.filter(|scope| !scope.is_empty()) {
        let parts: Vec<&str> = scope.split('.').collect();
        shared = Some(match shared {
            None => parts,
            Some(known) => known.iter().zip(&parts).take_while(|(a, b)| a == b).map(|(a, _)| *a).collect(),
        });
    }
    shared.unwrap_or_default().join(".")
}

/// A graph for so many samples.
pub(crate) fn bound(graph: &Graph, batch: &Symbol, samples: usize) -> Graph {
    let bindings = Bindings::from([(batch.clone(), Dim::from(samples))]);
    graph.substitute(&bindings)
}
