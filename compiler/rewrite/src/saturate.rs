//! Applies rules to an e-graph until nothing new is found, or a limit is met.
//!
//! A round looks at the classes that changed in the round before and at those up to two operands above them, as no rule
//! sees further down, collects every match, and then adds what the rules answer. Nothing depends on the clock or on the
//! order of a hash map. Classes whose values are known are left alone: nothing is cheaper than a constant.

use crate::facts::TensorGraph;
use crate::report::StopReason;
use crate::rules::{self, Table};
use crate::term::{self, Term};
use crate::view::{Site, View};
use egg::Id;
use std::collections::BTreeSet;

/// How far above a changed class a rule may see it: two operands, as in `f(g(h))`.
const RULE_DEPTH: usize = 2;

/// What bounds saturation.
pub(crate) struct Limits<'a> {
    /// Rounds.
    pub(crate) iterations: usize,
    /// E-nodes in one e-graph.
    pub(crate) nodes: usize,
    /// Applications left, over all e-graphs.
    pub(crate) fuel: &'a mut Option<usize>,
}

/// How saturation went.
pub(crate) struct Outcome {
    pub(crate) stop: StopReason,
    pub(crate) iterations: usize,
}

/// Saturates; `fired` counts for each rule how many of its answers were new.
pub(crate) fn saturate(
    egraph: &mut TensorGraph,
    table: &Table,
    limits: Limits,
    fired: &mut [usize],
) -> Outcome {
    egraph.rebuild();
    for iteration in 0..limits.iterations {
        let matches = search(egraph, table, iteration as u32);
        egraph.analysis.round = iteration as u32 + 1;
        let mut changed = false;
        for (rule, class, term) in matches {
            if egraph.total_size() > limits.nodes {
                egraph.rebuild();
                return Outcome { stop: StopReason::NodeLimit, iterations: iteration + 1 };
            }
            if *limits.fuel == Some(0) {
                egraph.rebuild();
                return Outcome { stop: StopReason::FuelSpent, iterations: iteration + 1 };
            }
            egraph.analysis.origin = egraph[class].data.origin;
            let answer = term::add(egraph, term);
            if egraph.union(class, answer) {
                changed = true;
                fired[rule] += 1;
                if let Some(fuel) = limits.fuel {
                    *fuel -= 1;
                }
            }
        }
        egraph.rebuild();
        if !changed {
            return Outcome { stop: StopReason::Saturated, iterations: iteration + 1 };
        }
    }
    Outcome { stop: StopReason::IterationLimit, iterations: limits.iterations }
}

/// Every match at classes that changed in that round, or that lie above one that did.
fn search(egraph: &TensorGraph, table: &Table, round: u32) -> Vec<(usize, Id, Term)> {
    let view = View { egraph };
    let mut classes: BTreeSet<Id> =
        egraph.classes().filter(|class| class.data.touched >= round).map(|class| class.id).collect();
    let mut edge: Vec<Id> = classes.iter().copied().collect();
    for _ in 0..RULE_DEPTH {
        let parents = edge.iter().flat_map(|id| egraph[*id].parents()).map(|id| egraph.find(id));
        let new: BTreeSet<Id> = parents.filter(|id| !classes.contains(id)).collect();
        classes.extend(&new);
        edge = new.into_iter().collect();
    }
    let mut matches = Vec::new();
    let mut answers = Vec::new();
    for class in classes {
        if view.facts(class).is_constant() {
            continue;
        }
        for node in view.nodes(class) {
            for rule in table.of(&node.op) {
                rules::all()[*rule].find(view, Site { class, node }, &mut answers);
                matches.extend(answers.drain(..).map(|answer| (*rule, class, answer)));
            }
        }
    }
    matches
}
