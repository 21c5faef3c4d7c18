//! The split graph: each node as its candidate says, with collectives where a value lies otherwise than it is needed.

use crate::decide::{Decision, decide};
use crate::explain::{AxisExplanation, choices};
use crate::layout::{local, words};
use crate::problem::Problem;
use crate::{PartitionError, Partitioned, Reshard, Strategy};
use std::collections::BTreeMap;
use thalweg_cost::CostModel;
use thalweg_tensor::axes::Part;
use thalweg_tensor::{Graph, Node, NodeId, Op};

/// Splits what there is along one more mesh axis. `origins` says which node of the graph as it was given each node stands
/// for; the same for the new nodes is the result.
pub(crate) fn split_axis(
    split: &mut Partitioned,
    origins: &[Option<NodeId>],
    axis: &str,
    parts: usize,
    strategy: &Strategy,
    cost: &CostModel,
) -> Result<Vec<Option<NodeId>>, PartitionError> {
    let graph = split.graph.clone();
    let decision = decide(Problem::new(&graph, axis, parts, cost), strategy)?;
    let emitted = emit(&decision);
    let moved = |id: NodeId| emitted.map[id.index()];
    for reshard in &mut split.reshards {
        reshard.node = moved(reshard.node);
    }
    split.reshards.extend(emitted.reshards);
    split.reshards.sort_by_key(|reshard| reshard.node);
    let leaves = graph.ids().filter(|id| graph.node(*id).op.as_leaf().is_some());
    for (id, leaf) in leaves.zip(&mut split.leaves) {
        if let Part::Cut(dim) = decision.problem.chosen(&decision.assignment, id).gives {
            leaf.layout.cuts.push((axis.to_string(), dim));
        }
    }
    let mut new_origins = vec![None; emitted.graph.nodes().len()];
    for id in graph.ids() {
        new_origins[moved(id).index()] = origins[id.index()];
    }
    split.explanation.axes.push(AxisExplanation {
        axis: axis.to_string(),
        strategy: decision.strategy.clone(),
        considered: decision.considered.clone(),
        notes: decision.notes.clone(),
        choices: choices(&decision.problem, &decision.assignment, origins),
    });
    split.graph = emitted.graph;
    Ok(new_origins)
}

struct Emitted {
    graph: Graph,
    /// Where each node went.
    map: Vec<NodeId>,
    reshards: Vec<Reshard>,
}

struct Emission<'d, 'g> {
    decision: &'d Decision<'g>,
    out: Emitted,
    /// Values that were laid out anew, for further users.
    converted: BTreeMap<(NodeId, Part), NodeId>,
}

fn emit(decision: &Decision) -> Emitted {
    let graph = decision.problem.graph;
    let out = Emitted { graph: Graph::new(graph.name.clone()), map: Vec::new(), reshards: Vec::new() };
    let mut emission = Emission { decision, out, converted: BTreeMap::new() };
    for id in graph.ids() {
        let node = graph.node(id);
        let candidate = decision.problem.chosen(&decision.assignment, id);
        let operands: Vec<NodeId> = node
            .operands
            .iter()
            .zip(&candidate.needs)
            .map(|(operand, need)| emission.laid_out(*operand, *need, node.op.name(), &node.scope))
            .collect();
        let op = candidate.op.clone();
        let types = emission.out.graph.operand_types(&op, &operands).and_then(|types| op.def().infer(&types));
        let types = types.unwrap_or_else(|error| panic!("the piece {op:?} of {id}: {error}"));
        let node = Node { op, operands, types, scope: node.scope.clone(), span: node.span };
        let new = emission.out.graph.push(node);
        emission.out.map.push(new);
    }
    for output in &graph.outputs {
        let node = emission.laid_out(output.node, Part::Replicated, "output", "");
        emission.out.graph.output(output.name.clone(), node);
    }
    for update in &graph.updates {
        let named = |id: &NodeId| graph.node(*id).op.as_leaf().is_some_and(|leaf| *leaf.name == *update.name);
        let leaf = decision.problem.updates[update.node.index()].iter().copied().find(named);
        let leaf = leaf.expect("an update has its leaf");
        let to = decision.problem.chosen(&decision.assignment, leaf).gives;
        let node = emission.laid_out(update.node, to, "update", "");
        emission.out.graph.update(update.name.clone(), node);
    }
    emission.out
}

impl Emission<'_, '_> {
    /// The value of an old node, laid out as asked. What a new collective costs is known when all axes are split.
    fn laid_out(&mut self, old: NodeId, to: Part, needed_by: &str, user_scope: &str) -> NodeId {
        let problem = &self.decision.problem;
        let from = problem.chosen(&self.decision.assignment, old).gives;
        let value = self.out.map[old.index()];
        let collective = problem.conversion(old, from, to).expect("the choice can be carried out");
        let Some(collective) = collective else { return value };
        if let Some(done) = self.converted.get(&(old, to)) {
            return *done;
        }
        let after = local(problem.graph.ty(old), to, problem.parts);
        let producer = self.out.graph.node(value);
        let scope = match (producer.op.as_leaf(), &*producer.scope, user_scope) {
            (None, "", "") => producer.op.name().into(),
            (Some(leaf), "", "") => leaf.name.clone(),
            (_, "", user) => user.into(),
            (_, _, _) => producer.scope.clone(),
        };
        let (span, op) = (producer.span, Op::from(collective.clone()));
        let reshard = Reshard {
            node: NodeId::new(self.out.graph.nodes().len()),
            kind: collective.kind,
            axis: collective.axis,
            from: words(from),
            to: words(to),
            bytes: 0.0,
            seconds: 0.0,
            needed_by: needed_by.to_string(),
            scope: scope.to_string(),
            span,
        };
        let node = self.out.graph.push(Node { op, operands: vec![value], types: vec![after], scope, span });
        self.out.reshards.push(reshard);
        self.converted.insert((old, to), node);
        node
    }
}
