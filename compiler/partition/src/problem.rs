//! The choice of a candidate for every node along one mesh axis, and what a choice costs.

use crate::candidates::{Candidate, candidates};
use crate::layout::local;
use thalweg_cost::CostModel;
use thalweg_tensor::axes::Part;
use thalweg_tensor::ops::{Collective, CollectiveKind, LeafKind};
use thalweg_tensor::{Graph, NodeId, Op, TensorType};

/// For each node, the number of its candidate.
pub(crate) type Assignment = Vec<usize>;

/// What changes when a node takes another candidate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings {
    /// Collectives that send something.
    pub messages: usize,
    /// Seconds of collectives, reluctance counted.
    pub communication: f64,
    /// Seconds of the node itself.
    pub work: f64,
}

impl Surroundings {
    pub(crate) fn seconds(&self) -> f64 {
        self.communication + self.work
    }
}

/// What must be decided along one mesh axis.
#[derive(Clone)]
pub(crate) struct Problem<'a> {
    pub graph: &'a Graph,
    pub axis: &'a str,
    pub parts: usize,
    pub cost: &'a CostModel,
    /// For each node.
    pub candidates: Vec<Vec<Candidate>>,
    /// For each node, its users and the slots in which they take it.
    pub users: Vec<Vec<(NodeId, usize)>>,
    /// For each node, whether it is an output.
    pub is_output: Vec<bool>,
    /// For each node, the leaves whose next value it is.
    pub updates: Vec<Vec<NodeId>>,
    /// For each leaf, the node of its next value.
    pub next: Vec<Option<NodeId>>,
    /// For each node, a factor on the price of changing how it lies once it is cut: more than 1 where the strategy is
    /// against it.
    pub reluctance: Vec<f64>,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(graph: &'a Graph, axis: &'a str, parts: usize, cost: &'a CostModel) -> Problem<'a> {
        let nodes = graph.nodes().len();
        let mut users = vec![Vec::new(); nodes];
        for id in graph.ids() {
            for (slot, operand) in graph.node(id).operands.iter().enumerate() {
                users[operand.index()].push((id, slot));
            }
        }
        let mut is_output = vec![false; nodes];
        for output in &graph.outputs {
            is_output[output.node.index()] = true;
        }
        let mut updates = vec![Vec::new(); nodes];
        let mut next = vec![None; nodes];
        for update in &graph.updates {
            let leaf = graph
                .leaf(LeafKind::Parameter, &update.name)
                .or_else(|| graph.leaf(LeafKind::State, &update.name))
                .expect("an update is of a leaf");
            updates[update.node.index()].push(leaf);
            next[leaf.index()] = Some(update.node);
        }
        let candidates = graph.ids().map(|id| candidates(graph, id, parts, cost)).collect();
        let reluctance = vec![1.0; nodes];
        Problem { graph, axis, parts, cost, candidates, users, is_output, updates, next, reluctance }
    }

    pub(crate) fn chosen(&self, assignment: &Assignment, id: NodeId) -> &Candidate {
        &self.candidates[id.index()][assignment[id.index()]]
    }

    /// The collective that makes one placement of a node's value of another; none where they are equal. `Err` where no
    /// collective does.
    pub(crate) fn conversion(&self, id: NodeId, from: Part, to: Part) -> Result<Option<Collective>, ()> {
        let divides = |dim: usize| {
            let size = self.graph.ty(id).shape[dim].size();
            size.is_multiple_of(self.parts) && size > 0
        };
        if from == to {
            return Ok(None);
        }
        let kind = match (from, to) {
            (_, Part::Cut(dim)) if !divides(dim) => return Err(()),
            (Part::Replicated, Part::Cut(dim)) => CollectiveKind::Shard { dim },
            (Part::Cut(dim), Part::Replicated) => CollectiveKind::AllGather { dim },
            (Part::Cut(concat), Part::Cut(split)) => CollectiveKind::AllToAll { split, concat },
            (Part::Partial(function), Part::Replicated) => CollectiveKind::AllReduce { function },
            (Part::Partial(function), Part::Cut(dim)) => CollectiveKind::ReduceScatter { function, dim },
            (Part::Replicated, Part::Replicated) | (_, Part::Partial(_)) => return Err(()),
        };
        Ok(Some(Collective { kind, axis: self.axis.to_string(), size: self.parts }))
    }

    /// The seconds of that collective; infinite where there is none.
    pub(crate) fn conversion_seconds(&self, id: NodeId, from: Part, to: Part) -> f64 {
        match self.conversion(id, from, to) {
            Ok(None) => 0.0,
            Ok(Some(collective)) => {
                let ty = self.graph.ty(id);
                let (before, after) = (local(ty, from, self.parts), local(ty, to, self.parts));
                seconds(self.cost, &collective, &before, &after)
            }
            Err(()) => f64::INFINITY,
        }
    }

    pub(crate) fn reluctant_seconds(&self, id: NodeId, from: Part, to: Part) -> f64 {
        self.reluctance[id.index()] * self.conversion_seconds(id, from, to)
    }

    /// The placements that a node's value is needed in, each once.
    pub(crate) fn targets(&self, assignment: &Assignment, id: NodeId) -> Vec<Part> {
        let needs =
            self.users[id.index()].iter().map(|(user, slot)| self.chosen(assignment, *user).needs[*slot]);
        let output = self.is_output[id.index()].then_some(Part::Replicated);
        let kept = self.updates[id.index()].iter().map(|leaf| self.chosen(assignment, *leaf).gives);
        let mut targets: Vec<Part> = needs.chain(output).chain(kept).collect();
        targets.sort();
        targets.dedup();
        targets
    }

    /// The price of the candidates of some nodes, and of all changes of their values, their operands' values, and their
    /// next values.
    pub(crate) fn surroundings(&self, assignment: &Assignment, ids: &[NodeId]) -> Surroundings {
        let mut affected: Vec<NodeId> = ids.to_vec();
        for id in ids {
            affected.extend(&self.graph.node(*id).operands);
            affected.extend(self.next[id.index()]);
        }
        affected.sort();
        affected.dedup();
        let work = ids.iter().map(|id| self.chosen(assignment, *id).seconds).sum();
        let mut sum = Surroundings { messages: 0, communication: 0.0, work };
        for own in affected {
            let gives = self.chosen(assignment, own).gives;
            for target in self.targets(assignment, own) {
                let seconds = self.reluctant_seconds(own, gives, target);
                sum.messages += usize::from(gives != target && gives != Part::Replicated);
                sum.communication += seconds;
            }
        }
        sum
    }

    /// The seconds of the whole assignment, without reluctance.
    pub(crate) fn total(&self, assignment: &Assignment) -> f64 {
        let of = |id: NodeId| {
            let own = self.chosen(assignment, id);
            let targets = self.targets(assignment, id).into_iter();
            own.seconds + targets.map(|to| self.conversion_seconds(id, own.gives, to)).sum::<f64>()
        };
        self.graph.ids().map(of).sum()
    }

    /// Keeps only those candidates of a leaf that give one of these placements.
    pub(crate) fn restrict(&mut self, leaf: NodeId, to: &[Part]) {
        self.candidates[leaf.index()].retain(|candidate| to.contains(&candidate.gives));
        assert!(!self.candidates[leaf.index()].is_empty(), "a leaf can lie in some way");
    }
}

/// The seconds of a collective: those of the cost model, and a meeting where devices wait for each other.
pub(crate) fn seconds(cost: &CostModel, op: &Collective, before: &TensorType, after: &TensorType) -> f64 {
    let meeting = if sends(op.kind) { cost.meeting_s } else { 0.0 };
    meeting + cost.op_seconds(&Op::from(op.clone()), &[before.clone()], &[after.clone()])
}

/// Whether a collective sends anything.
pub(crate) fn sends(kind: CollectiveKind) -> bool {
    match kind {
        CollectiveKind::AllReduce { .. } | CollectiveKind::AllGather { .. } => true,
        CollectiveKind::ReduceScatter { .. } | CollectiveKind::AllToAll { .. } => true,
        CollectiveKind::Shard { .. } => false,
    }
}
