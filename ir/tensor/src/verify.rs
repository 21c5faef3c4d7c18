//! The verifier. It checks that
//!
//! 1. every operand stands before its user;
//! 2. every node's types are what its op infers from its operands;
//! 3. a scan or a loop is used by picks alone, as its results may grow;
//! 4. inputs have different names, and so have all that is kept; parameters and states say how they begin, inputs do not;
//! 5. outputs have different names and are nodes with one result;
//! 6. an update names a parameter or state, once, and has its type;
//! 7. sub-graphs verify too, and have inputs as their only leaves.

use crate::graph::{Graph, NodeId};
use crate::op::Op;
use crate::ops::{Leaf, LeafKind};
use std::collections::BTreeSet;

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The node, where it is about one.
    pub node: Option<NodeId>,
    /// What is wrong, as a clause.
    pub message: String,
}

/// Every broken rule of a graph; empty for a good one.
pub fn verify(graph: &Graph) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |node: Option<NodeId>, message: String| found.push(Violation { node, message });
    let mut names = BTreeSet::new();
    for id in graph.ids() {
        let node = graph.node(id);
        if let Some(late) = node.operands.iter().find(|operand| **operand >= id) {
            report(Some(id), format!("its operand {late} does not stand before it"));
            continue;
        }
        match graph.operand_types(&node.op, &node.operands).and_then(|types| node.op.def().infer(&types)) {
            Err(error) => report(Some(id), error.0),
            Ok(types) if types != node.types => {
                report(Some(id), format!("it has types {:?}, but its op infers {types:?}", node.types));
            }
            Ok(_) => {}
        }
        for operand in &node.operands {
            let grows = matches!(graph.node(*operand).op, Op::Scan(_) | Op::While(_));
            if grows && !matches!(node.op, Op::Pick(_)) {
                report(Some(id), format!("it uses the loop {operand} without picking a result"));
            }
        }
        if let Op::Leaf(Leaf { kind, name, init, .. }) = &node.op {
            if !names.insert((*kind == LeafKind::Input, name.clone())) {
                report(Some(id), format!("there is another {kind:?} called `{name}`"));
            }
            if (*kind == LeafKind::Input) != init.is_none() {
                report(Some(id), format!("the {kind:?} `{name}` has {init:?} for its beginning"));
            }
        }
        for subgraph in node.op.subgraphs() {
            for violation in verify(subgraph) {
                report(Some(id), format!("in `{}`: {}", subgraph.name, violation.message));
            }
            let leaves = subgraph.leaves(LeafKind::Parameter).chain(subgraph.leaves(LeafKind::State)).count();
            if leaves > 0 || !subgraph.updates.is_empty() {
                report(Some(id), format!("the sub-graph `{}` keeps values of its own", subgraph.name));
            }
        }
    }
    let single = |id: NodeId| id.index() < graph.nodes().len() && graph.node(id).types.len() == 1;
    let mut outputs = BTreeSet::new();
    for output in &graph.outputs {
        if !outputs.insert(&output.name) || !single(output.node) {
            report(None, format!("the output `{}` is doubled or is no single value", output.name));
        }
    }
    let mut updates = BTreeSet::new();
    for update in &graph.updates {
        let leaf = graph
            .leaf(LeafKind::Parameter, &update.name)
            .or_else(|| graph.leaf(LeafKind::State, &update.name));
        let fits = single(update.node) && leaf.is_some_and(|leaf| graph.ty(leaf) == graph.ty(update.node));
        if !updates.insert(&update.name) || !fits {
            report(
                None,
                format!("the update of `{}` is doubled, or of nothing, or of another type", update.name),
            );
        }
    }
    found
}

/// Panics with the first broken rule: a graph that a pass made is our bug.
pub fn assert_valid(graph: &Graph) {
    if let Some(violation) = verify(graph).first() {
        let node = violation.node.map_or(String::new(), |id| format!(" {id} = {:?}", graph.node(id)));
        panic!("the graph `{}` is not valid:{node} {}", graph.name, violation.message);
    }
}
