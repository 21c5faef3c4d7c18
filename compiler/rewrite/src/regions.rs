//! Cuts a graph into regions, each rewritten by itself, and finds those that are equal.
//!
//! A region is a run of consecutive nodes in topological order, so nothing leads out of it and back in: whatever it is
//! replaced by that computes its results from its inputs, the whole has no cycle. Runs that repeat, such as the blocks of
//! a transformer, are cut at the same places, so that equal blocks become equal regions. Leaves are in no region. Constants
//! and iotas are copied into every region that uses them, so that rules see them. Picks stay with the node they pick from.

use crate::lang::OpRef;
use rustc_hash::FxHasher;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use thalweg_tensor::ops::{Leaf, LeafKind};
use thalweg_tensor::{Graph, NodeId, Op};

/// How many nodes a region has at most: an e-graph of so many nodes is saturated in some tens of milliseconds.
pub(crate) const REGION_NODES_MAX: usize = 384;

/// The shortest run that counts as repeating. Shorter ones are better rewritten together with their neighbours.
const PERIOD_MIN: usize = 16;

/// The longest run that is looked for: two hundred times a transformer layer's dozen ops.
const PERIOD_MAX: usize = 2048;

/// A region in a form that does not depend on where it lies: equal regions have equal shapes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Shape {
    /// Ops and their operands as earlier positions. Inputs are leaves named by their order.
    pub(crate) nodes: Vec<(OpRef, Vec<u32>)>,
    /// The positions that are used outside.
    pub(crate) outputs: Vec<u32>,
}

/// A region of a graph.
pub(crate) struct Region {
    /// What it computes.
    pub(crate) shape: Shape,
    /// The graph's node for each position.
    pub(crate) ids: Vec<NodeId>,
}

/// Whether a node is copied into the regions that use it: it costs nothing and tells rules much.
fn is_ground(graph: &Graph, id: NodeId, ground: &[bool]) -> bool {
    let node = graph.node(id);
    let of_ground = node.operands.iter().all(|operand| ground[operand.index()]);
    if let Op::Constant(constant) = &node.op {
        return constant.value.len() <= crate::facts::FOLDED_ELEMENTS_MAX;
    }
    matches!(&node.op, Op::Iota(_)) || (matches!(&node.op, Op::Broadcast(_) | Op::Reshape(_)) && of_ground)
}

/// The regions of a graph, in the order of their nodes.
pub(crate) fn split(graph: &Graph) -> Vec<Region> {
    let mut ground: Vec<bool> = Vec::with_capacity(graph.nodes().len());
    for id in graph.ids() {
        ground.push(is_ground(graph, id, &ground));
    }
    // A unit is a node with its picks.
    let users = graph.users();
    let mut units: Vec<Vec<NodeId>> = Vec::new();
    for id in graph.ids() {
        let node = graph.node(id);
        if ground[id.index()] || matches!(node.op, Op::Leaf(_) | Op::Pick(_)) {
            continue;
        }
        let is_pick = |user: &&NodeId| matches!(graph.node(**user).op, Op::Pick(_));
        let mut unit = vec![id];
        unit.extend(users[id.index()].iter().filter(is_pick));
        unit.dedup();
        units.push(unit);
    }
    let tokens: Vec<u64> = units.iter().map(|unit| token(graph, unit[0])).collect();
    let mut outside_use = vec![usize::MAX; graph.nodes().len()];
    let mut unit_of = vec![usize::MAX; graph.nodes().len()];
    for (at, unit) in units.iter().enumerate() {
        for id in unit {
            unit_of[id.index()] = at;
        }
    }
    for (id, users) in graph.ids().zip(&users) {
        let last = users.iter().map(|user| unit_of[user.index()]).max();
        outside_use[id.index()] = last.unwrap_or(0);
    }
    for root in graph.roots() {
        outside_use[root.index()] = usize::MAX;
    }
    let cuts = cuts(&tokens);
    let ranges = cuts.windows(2).map(|pair| pair[0]..pair[1]);
    ranges
        .map(|range| {
            let end = range.end;
            let members: Vec<NodeId> = units[range].concat();
            let used_later = |id: &NodeId| outside_use[id.index()] >= end;
            region(graph, &members, &ground, used_later)
        })
        .collect()
}

/// A hash of a node and its types, without names of leaves and places.
fn token(graph: &Graph, id: NodeId) -> u64 {
    let node = graph.node(id);
    let mut hasher = FxHasher::default();
    node.op.hash(&mut hasher);
    node.types.hash(&mut hasher);
    for operand in &node.operands {
        graph.node(*operand).types.hash(&mut hasher);
    }
    hasher.finish()
}

/// Where regions begin, and the end.
fn cuts(tokens: &[u64]) -> Vec<usize> {
    let count = tokens.len();
    let mut cuts = vec![0];
    if count > REGION_NODES_MAX {
        let mut pending = 0;
        let mut at = 0;
        let repeats = repeats(tokens);
        while at < count {
            match repeats[at] {
                None => at += 1,
                Some((period, copies)) => {
                    cut_run(&mut cuts, pending, at - pending);
                    for copy in 0..copies {
                        cut_run(&mut cuts, at + copy * period, period);
                    }
                    at += copies * period;
                    pending = at;
                }
            }
        }
        cut_run(&mut cuts, pending, count - pending);
    } else if count > 0 {
        cuts.push(count);
    }
    cuts
}

/// Cuts a run of nodes into regions of nearly equal size.
fn cut_run(cuts: &mut Vec<usize>, start: usize, length: usize) {
    let parts = length.div_ceil(REGION_NODES_MAX);
    cuts.extend((1..=parts).map(|part| start + length * part / parts));
}

/// For each position the period and the number of copies of the repetition there that leaves most to be replayed.
fn repeats(tokens: &[u64]) -> Vec<Option<(usize, usize)>> {
    let count = tokens.len();
    let mut best: Vec<(usize, Option<(usize, usize)>)> = vec![(0, None); count];
    for period in PERIOD_MIN..=PERIOD_MAX.min(count / 2) {
        let mut run = 0;
        for at in (0..count - period).rev() {
            run = if tokens[at] == tokens[at + period] { run + 1 } else { 0 };
            let more = run / period;
            if more > 0 && more * period > best[at].0 {
                best[at] = (more * period, Some((period, more + 1)));
            }
        }
    }
    best.into_iter().map(|(_, repeat)| repeat).collect()
}

/// The region of consecutive nodes.
fn region(
    graph: &Graph,
    members: &[NodeId],
    ground: &[bool],
    used_later: impl Fn(&NodeId) -> bool,
) -> Region {
    let mut places: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut region = Region { shape: Shape { nodes: vec![], outputs: vec![] }, ids: vec![] };
    let mut inputs = 0;
    for member in members {
        for operand in &graph.node(*member).operands {
            place_outside(graph, *operand, ground, &mut places, &mut region, &mut inputs);
        }
        push(graph, *member, &mut places, &mut region);
    }
    let outputs = members.iter().filter(|id| used_later(id) && graph.node(**id).types.len() == 1);
    region.shape.outputs = outputs.map(|id| places[id]).collect();
    region
}

/// Gives an operand from outside a position: a ground node with what it needs, or an input.
fn place_outside(
    graph: &Graph,
    id: NodeId,
    ground: &[bool],
    places: &mut BTreeMap<NodeId, u32>,
    region: &mut Region,
    inputs: &mut usize,
) {
    if places.contains_key(&id) {
        return;
    }
    let node = graph.node(id);
    if ground[id.index()] {
        for operand in &node.operands {
            place_outside(graph, *operand, ground, places, region, inputs);
        }
        push(graph, id, places, region);
        return;
    }
    // Rules treat parameters apart from other inputs.
    let is_parameter = node.op.as_leaf().is_some_and(|leaf| leaf.kind == LeafKind::Parameter);
    let leaf = Leaf {
        kind: if is_parameter { LeafKind::Parameter } else { LeafKind::Input },
        name: format!("{inputs}").into(),
        ty: node.types[0].clone(),
        init: None,
    };
    *inputs += 1;
    places.insert(id, region.ids.len() as u32);
    region.ids.push(id);
    region.shape.nodes.push((OpRef::new(leaf.into()), vec![]));
}

fn push(graph: &Graph, id: NodeId, places: &mut BTreeMap<NodeId, u32>, region: &mut Region) {
    let node = graph.node(id);
    let operands = node.operands.iter().map(|operand| places[operand]).collect();
    places.insert(id, region.ids.len() as u32);
    region.ids.push(id);
    region.shape.nodes.push((OpRef::new(node.op.clone()), operands));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_runs_are_cut_alike() {
        let block: Vec<u64> = (100..150).collect();
        let mut tokens: Vec<u64> = (0..30).collect();
        for _ in 0..20 {
            tokens.extend(&block);
        }
        tokens.extend(200..230);
        let cuts = cuts(&tokens);
        assert_eq!(cuts[..4], [0, 30, 80, 130]);
        assert_eq!(cuts[cuts.len() - 2..], [1030, 1060]);
        assert!(cuts.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= REGION_NODES_MAX));
    }

    #[test]
    fn long_runs_are_cut_into_equal_parts() {
        let tokens: Vec<u64> = (0..1000).collect();
        assert_eq!(cuts(&tokens), [0, 333, 666, 1000]);
        assert_eq!(cuts(&[]), [0]);
        assert_eq!(cuts(&tokens[..10]), [0, 10]);
    }
}
