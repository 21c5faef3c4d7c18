//! Which values lie in memory, and which nodes share a kernel.
//!
//! Assumes a graph without symbols. Guarantees that every unit of work reads only memory that units before it have
//! written, and that every kernel computes what its nodes mean. It stands before memory planning, which needs to know
//! what there is to place.
//!
//! Pointwise functions and movement are computed where they are used unless that costs more than memory: a value is put
//! into memory when a routine, an output or an update needs it there, when it is dear and used more than once, or when an
//! op would read it at many places. Then units that read each other position by position are joined: reductions over
//! the same dims with what is made of them, and pointwise work with the product or convolution that it follows.

use crate::build::{self, Built, GroupSpec, Space, is_reduction};
use crate::emit::Source;
use petgraph::algo::has_path_connecting;
use petgraph::graphmap::DiGraphMap;
use std::collections::{BTreeMap, BTreeSet};
use thalweg_base::PointwiseFn;
use thalweg_kernel::Index;
use thalweg_kernel::ir::{Expr, Place, Stmt};
use thalweg_tensor::ops::CollectiveKind;
use thalweg_tensor::{Graph, Mesh, NodeId, Op};

/// Operations per element from which a value that several units use is kept in memory: about what loading it costs where
/// it comes from the second-level cache.
const SHARED_COST: f64 = 8.0;
/// Operations per element from which a value that is read at many places is kept in memory.
const EXPANDED_COST: f64 = 4.0;
/// Operations per element at which an expression is cut in any case, so that kernels stay small.
const EXPRESSION_COST_MAX: f64 = 400.0;
/// Points that must be kept by a reduction for pointwise work to join it: fewer would leave threads without work.
const KEPT_POINTS_MIN: usize = 64;
/// Nodes and buffers of one kernel.
const ROOTS_MAX: usize = 8;
const BUFFERS_MAX: usize = 24;

/// How a node comes to have its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// It is there before the first step.
    Given,
    /// It may be computed wherever it is used.
    Inline,
    /// A kernel combines it.
    Reduction,
    /// A step of its own computes it.
    Routine,
    /// A loop or branch computes it.
    Control,
    /// It is one of the results of a loop or branch.
    Picked,
}

pub(crate) fn class(op: &Op, operands: usize) -> Class {
    match op {
        Op::Leaf(_) => Class::Given,
        Op::Constant(constant) if constant.value.uniform_value().is_none() => Class::Given,
        Op::Constant(_)
        | Op::Iota(_)
        | Op::Random(_)
        | Op::Pointwise(_)
        | Op::Convert(_)
        | Op::Broadcast(_) => Class::Inline,
        Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Pad(_) | Op::Unfold(_) | Op::Gather(_) => {
            Class::Inline
        }
        Op::DynamicSlice(_) => Class::Inline,
        Op::Concat(_) if operands == 1 => Class::Inline,
        Op::Collective(op) if matches!(op.kind, CollectiveKind::Shard { .. }) => Class::Inline,
        Op::Reduce(_) | Op::Fold(_) => Class::Reduction,
        Op::Contract(_) | Op::Convolve(_) | Op::Scatter(_) | Op::ArgSort(_) | Op::Cumulative(_) => {
            Class::Routine
        }
        Op::DynamicUpdate(_) | Op::Concat(_) | Op::Collective(_) => Class::Routine,
        Op::Scan(_) | Op::While(_) | Op::Branch(_) => Class::Control,
        Op::Pick(_) => Class::Picked,
    }
}

/// One unit of work.
#[derive(Clone, Debug)]
pub(crate) enum Unit {
    /// A generated kernel.
    Kernel(GroupSpec, Box<Built>),
    /// A step of its own, with the pointwise work that follows it tile by tile.
    Routine(NodeId, Option<(GroupSpec, Box<Built>)>),
    /// A loop or branch.
    Control(NodeId),
}

/// The units in the order in which they run, and what lies in memory.
#[derive(Clone, Debug)]
pub(crate) struct Grouping {
    pub units: Vec<Unit>,
    pub stored: Vec<bool>,
}

/// The node whose memory holds the elements of `id` in the same order.
pub(crate) fn dense_base(graph: &Graph, mut id: NodeId) -> NodeId {
    while let Op::Reshape(_) = &graph.node(id).op {
        id = graph.node(id).operands[0];
    }
    id
}

/// Decides what lies in memory and what runs together.
pub(crate) fn group(graph: &Graph, mesh: &Mesh, device: usize) -> Grouping {
    let classes: Vec<Class> = graph.nodes().iter().map(|node| class(&node.op, node.operands.len())).collect();
    let live = live(graph);
    let stored = choose_stored(graph, &classes, &live);
    let mut grouper = Grouper {
        source: Source { graph, stored: &stored, mesh, device },
        classes: &classes,
        groups: Vec::new(),
        group_of: BTreeMap::new(),
        flow: DiGraphMap::new(),
    };
    for id in graph.ids().filter(|id| live[id.index()] && stored[id.index()]) {
        match classes[id.index()] {
            Class::Given | Class::Picked => {}
            Class::Inline | Class::Reduction => grouper.place(id),
            Class::Routine | Class::Control => grouper.alone(id),
        }
    }
    let groups = std::mem::take(&mut grouper.groups);
    let group_of = std::mem::take(&mut grouper.group_of);
    finish(graph, mesh, device, &classes, stored, groups, group_of)
}

fn live(graph: &Graph) -> Vec<bool> {
    let mut live = vec![false; graph.nodes().len()];
    for root in graph.roots() {
        live[root.index()] = true;
    }
    for id in graph.ids().rev() {
        if live[id.index()] {
            for operand in &graph.node(id).operands {
                live[operand.index()] = true;
            }
        }
    }
    live
}

/// The operands that a unit needs in memory, each as it is laid out there.
pub(crate) fn needs_in_memory(graph: &Graph, id: NodeId) -> Vec<NodeId> {
    let node = graph.node(id);
    let dense = |operands: &[NodeId]| operands.iter().map(|operand| dense_base(graph, *operand)).collect();
    match &node.op {
        Op::Contract(_) => match crate::view::narrow_bases(graph, id) {
            Some(bases) => bases.to_vec(),
            None => node.operands.iter().map(|operand| crate::view::base(graph, *operand)).collect(),
        },
        Op::DynamicUpdate(_) => dense(&node.operands[..1]),
        Op::Concat(_) | Op::Cumulative(_) => vec![],
        Op::Leaf(_)
        | Op::Constant(_)
        | Op::Iota(_)
        | Op::Random(_)
        | Op::Pointwise(_)
        | Op::Convert(_)
        | Op::Broadcast(_)
        | Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Slice(_)
        | Op::Pad(_)
        | Op::Gather(_)
        | Op::Scatter(_)
        | Op::Reduce(_)
        | Op::Convolve(_)
        | Op::Unfold(_)
        | Op::Fold(_)
        | Op::ArgSort(_)
        | Op::DynamicSlice(_)
        | Op::Scan(_)
        | Op::While(_)
        | Op::Branch(_)
        | Op::Pick(_)
        | Op::Collective(_) => dense(&node.operands),
    }
}

fn choose_stored(graph: &Graph, classes: &[Class], live: &[bool]) -> Vec<bool> {
    let mut stored: Vec<bool> = classes.iter().map(|class| *class != Class::Inline).collect();
    let mut force = |id: NodeId| stored[id.index()] = true;
    for root in graph.roots() {
        force(dense_base(graph, root));
    }
    let live_ids = || graph.ids().filter(|id| live[id.index()]);
    for id in live_ids() {
        let node = graph.node(id);
        match classes[id.index()] {
            Class::Routine | Class::Control => needs_in_memory(graph, id).into_iter().for_each(&mut force),
            Class::Given | Class::Inline | Class::Reduction | Class::Picked => {}
        }
        if let Op::Reshape(_) = &node.op {
            let signature = node.op.def().axes(&graph.operand_types_of(id), &node.types);
            let splits_only = signature.results[0].iter().all(|axes| axes.len() <= 1);
            let whole = signature.axes.iter().any(|axis| axis.role == thalweg_tensor::Role::Whole);
            let operand = node.operands[0];
            let uniform = is_uniform(graph, operand);
            if (!splits_only || whole) && !uniform && !matches!(graph.node(operand).op, Op::Iota(_)) {
                force(dense_base(graph, operand));
            }
        }
    }
    let users = graph.users();
    let mut cost = vec![0.0; graph.nodes().len()];
    for id in live_ids() {
        if stored[id.index()] {
            continue;
        }
        let node = graph.node(id);
        let own = own_cost(&node.op);
        let total = own + node.operands.iter().map(|operand| cost[operand.index()]).sum::<f64>();
        let mut using: Vec<NodeId> =
            users[id.index()].iter().copied().filter(|user| live[user.index()]).collect();
        using.dedup();
        let scalar = graph.ty(id).rank() == 0;
        let expanded = using.iter().any(|user| total >= expansion_cost(&graph.node(*user).op, scalar));
        let movement = own == 0.0;
        let shared = using.len() > 1 && total >= SHARED_COST && !movement;
        if expanded || shared || total >= EXPRESSION_COST_MAX {
            // A reshape is never stored itself: it is another shape over the memory of what it reshapes.
            stored[dense_base(graph, id).index()] = true;
        } else {
            cost[id.index()] = total;
        }
    }
    stored
}

/// Operations per element of an op that is computed where it is used.
fn own_cost(op: &Op) -> f64 {
    match op {
        Op::Pointwise(op) => op.function.cost().flops(),
        Op::Random(_) => 80.0,
        Op::Convert(_) => 1.0,
        Op::Gather(_) | Op::DynamicSlice(_) => 4.0,
        Op::Leaf(_)
        | Op::Constant(_)
        | Op::Iota(_)
        | Op::Broadcast(_)
        | Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Slice(_)
        | Op::Pad(_)
        | Op::Concat(_)
        | Op::Scatter(_)
        | Op::Reduce(_)
        | Op::Cumulative(_)
        | Op::Contract(_)
        | Op::Convolve(_)
        | Op::Unfold(_)
        | Op::Fold(_)
        | Op::ArgSort(_)
        | Op::DynamicUpdate(_)
        | Op::Scan(_)
        | Op::While(_)
        | Op::Branch(_)
        | Op::Pick(_)
        | Op::Collective(_) => 0.0,
    }
}

/// The cost from which an operand of an op is kept in memory because the op reads each element of it several times.
fn expansion_cost(op: &Op, scalar: bool) -> f64 {
    match op {
        Op::Broadcast(_) if scalar => 1.0,
        Op::Broadcast(_) | Op::Gather(_) => EXPANDED_COST,
        Op::Unfold(op) if op.windows.iter().any(|window| window.stride < window.size) => 1.0,
        Op::Unfold(_)
        | Op::Leaf(_)
        | Op::Constant(_)
        | Op::Iota(_)
        | Op::Random(_)
        | Op::Pointwise(_)
        | Op::Convert(_)
        | Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Slice(_)
        | Op::Pad(_)
        | Op::Concat(_)
        | Op::Scatter(_)
        | Op::Reduce(_)
        | Op::Cumulative(_)
        | Op::Contract(_)
        | Op::Convolve(_)
        | Op::Fold(_)
        | Op::ArgSort(_)
        | Op::DynamicSlice(_)
        | Op::DynamicUpdate(_)
        | Op::Scan(_)
        | Op::While(_)
        | Op::Branch(_)
        | Op::Pick(_)
        | Op::Collective(_) => f64::INFINITY,
    }
}

fn is_uniform(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    if let Op::Constant(constant) = &node.op {
        return constant.value.uniform_value().is_some();
    }
    matches!(node.op, Op::Broadcast(_)) && is_uniform(graph, node.operands[0])
}

#[derive(Clone, Debug)]
struct Group {
    members: Vec<NodeId>,
    /// The routine that the members follow, or none for a kernel of their own.
    anchor: Option<NodeId>,
    space: Space,
    /// Memory that the group reads.
    reads: BTreeSet<NodeId>,
}

struct Grouper<'a> {
    source: Source<'a>,
    classes: &'a [Class],
    groups: Vec<Group>,
    group_of: BTreeMap<NodeId, usize>,
    flow: DiGraphMap<usize, ()>,
}

/// The memory that a unit reads, found through the nodes that are computed on the way.
pub(crate) fn reads(graph: &Graph, stored: &[bool], id: NodeId) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    // What a routine reads in front of a conversion lies in memory, whether the converted values do or not.
    let mut open = match crate::view::narrow_bases(graph, id) {
        Some(bases) => bases.to_vec(),
        None => graph.node(id).operands.clone(),
    };
    while let Some(next) = open.pop() {
        if !seen.insert(next) {
            continue;
        }
        if stored[next.index()] {
            found.insert(next);
        } else {
            open.extend(&graph.node(next).operands);
        }
    }
    found
}

impl Grouper<'_> {
    /// The unit that writes a node's memory; none for what is given.
    fn writer(&self, id: NodeId) -> Option<usize> {
        let id = match self.classes[id.index()] {
            Class::Picked => self.source.graph.node(id).operands[0],
            Class::Given | Class::Inline | Class::Reduction | Class::Routine | Class::Control => id,
        };
        self.group_of.get(&id).copied()
    }

    fn start(&mut self, id: NodeId, anchor: Option<NodeId>, reads: BTreeSet<NodeId>) {
        let index = self.groups.len();
        self.flow.add_node(index);
        for read in &reads {
            if let Some(writer) = self.writer(*read) {
                self.flow.add_edge(writer, index, ());
            }
        }
        let members = if anchor.is_some() { vec![] } else { vec![id] };
        self.groups.push(Group { members, anchor, space: Space::of(self.source, id), reads });
        self.group_of.insert(id, index);
    }

    fn alone(&mut self, id: NodeId) {
        let reads = reads(self.source.graph, self.source.stored, id);
        self.start(id, Some(id), reads);
    }

    /// Puts a node into a group that it fits, else into one of its own.
    fn place(&mut self, id: NodeId) {
        let reads = reads(self.source.graph, self.source.stored, id);
        let mut candidates: BTreeSet<usize> = reads.iter().filter_map(|read| self.writer(*read)).collect();
        let own = Space::of(self.source, id).points();
        for (index, group) in self.groups.iter().enumerate() {
            let shares = |read: &&NodeId| {
                reads.contains(read) && self.source.graph.ty(**read).elements().size() * 2 >= own
            };
            if group.anchor.is_none() && group.reads.iter().any(|read| shares(&read)) {
                candidates.insert(index);
            }
        }
        for candidate in candidates.into_iter().rev() {
            if let Some(space) = self.fits(candidate, id, &reads) {
                let group = &mut self.groups[candidate];
                group.members.push(id);
                group.space = space;
                group.reads.extend(&reads);
                self.group_of.insert(id, candidate);
                for read in &reads {
                    if let Some(writer) = self.writer(*read).filter(|writer| *writer != candidate) {
                        self.flow.add_edge(writer, candidate, ());
                    }
                }
                return;
            }
        }
        self.start(id, None, reads);
    }

    /// The space of a group once the node has joined it, if it may.
    fn fits(&self, candidate: usize, id: NodeId, reads: &BTreeSet<NodeId>) -> Option<Space> {
        let group = &self.groups[candidate];
        if group.members.len() >= ROOTS_MAX {
            return None;
        }
        // Nothing between the group and the node may depend on the group: it would have to run in their midst.
        for read in reads {
            let other = self.writer(*read).filter(|writer| *writer != candidate);
            if other.is_some_and(|writer| has_path_connecting(&self.flow, candidate, writer, None)) {
                return None;
            }
        }
        let mut members = group.members.clone();
        members.push(id);
        if let Some(anchor) = group.anchor {
            let space = Space::of(self.source, id);
            let pointwise = !is_reduction(&self.source.graph.node(id).op);
            let same = pointwise && space.shape == self.source.sizes(anchor);
            let spec = GroupSpec { roots: members.clone(), stored: members, space: space.clone() };
            return (same && epilogue(self.source, anchor, &spec).is_some()).then_some(space);
        }
        let space = self.joined(&group.space, id)?;
        let spec = GroupSpec { roots: members.clone(), stored: members, space: space.clone() };
        let built = build::build(self.source, &spec, String::new())?;
        (built.buffers.len() <= BUFFERS_MAX).then_some(space)
    }

    fn joined(&self, space: &Space, id: NodeId) -> Option<Space> {
        let own = Space::of(self.source, id);
        let reduction = is_reduction(&self.source.graph.node(id).op);
        let fits = match (space.reduced.is_empty(), reduction) {
            (true, false) => own.shape == space.shape,
            (false, true) => own == *space,
            (false, false) => own.shape == space.shape || own.shape == space.kept_shape(),
            (true, true) => {
                let kept: usize = own.kept_shape().iter().product();
                own.shape == space.shape && kept >= KEPT_POINTS_MIN
            }
        };
        // A product over nothing that is kept apart gives one point, whose memory a full value must not pass through.
        match (fits, reduction) {
            (false, _) => None,
            (true, true) => Some(own),
            (true, false) => Some(space.clone()),
        }
    }
}

/// The kernel that follows a routine tile by tile, if the nodes can be computed so: every position is read and written in
/// step with the routine's result, whose dims are batch, rows and columns in this order.
pub(crate) fn epilogue(source: Source, anchor: NodeId, spec: &GroupSpec) -> Option<Built> {
    let boundaries = crate::routine::tile_boundaries(source, anchor)?;
    let name = format!("epilogue_{}", kernel_name(source.graph, spec));
    let mut built = build::build(source, spec, name)?;
    let of_anchor = built.buffers.iter().position(|node| *node == anchor)?;
    let whole = build::dense(
        &built.kernel.ranges.iter().map(|range| Index::var(range.var)).collect::<Vec<_>>(),
        &source.sizes(anchor),
    );
    let mut in_step = true;
    for stmt in &built.kernel.body {
        match stmt {
            Stmt::Let { expr: Expr::Load { place: Place::Buffer(buffer), index, .. }, .. } => {
                in_step &= buffer.index() != of_anchor || *index == whole;
            }
            Stmt::Let { .. } | Stmt::Store { .. } => {}
            Stmt::Loop { .. } => in_step = false,
        }
    }
    if !in_step {
        return None;
    }
    crate::routine::three_ranges(&mut built.kernel, &boundaries)?;
    Some(built)
}

fn finish(
    graph: &Graph,
    mesh: &Mesh,
    device: usize,
    classes: &[Class],
    mut stored: Vec<bool>,
    groups: Vec<Group>,
    group_of: BTreeMap<NodeId, usize>,
) -> Grouping {
    // What only its own group reads stays in registers.
    let mut outside: BTreeSet<NodeId> = graph.roots().map(|root| dense_base(graph, root)).collect();
    for (index, group) in groups.iter().enumerate() {
        outside.extend(group.reads.iter().filter(|read| group_of.get(read) != Some(&index)));
    }
    for (id, group) in &group_of {
        let inner = matches!(classes[id.index()], Class::Inline | Class::Reduction);
        if inner && !outside.contains(id) && groups[*group].anchor != Some(*id) {
            stored[id.index()] = false;
        }
    }
    let source = Source { graph, stored: &stored, mesh, device };
    let mut units: Vec<Option<Unit>> = Vec::new();
    for group in &groups {
        let roots: Vec<NodeId> = group
            .members
            .iter()
            .copied()
            .filter(|id| stored[id.index()] || is_reduction(&graph.node(*id).op))
            .collect();
        let kept: Vec<NodeId> = roots.iter().copied().filter(|id| stored[id.index()]).collect();
        let spec = GroupSpec { roots, stored: kept, space: group.space.clone() };
        units.push(Some(match group.anchor {
            Some(anchor) if classes[anchor.index()] == Class::Control => Unit::Control(anchor),
            Some(anchor) if spec.stored.is_empty() => Unit::Routine(anchor, None),
            Some(anchor) => {
                let built = epilogue(source, anchor, &spec).expect("it was built before");
                Unit::Routine(anchor, Some((spec, Box::new(built))))
            }
            None => {
                let name = kernel_name(graph, &spec);
                let built = crate::form::build(source, &spec, name);
                Unit::Kernel(spec, Box::new(built))
            }
        }));
    }
    // Writers before readers; among those that are ready, the one that ends earliest in the graph's own order, which
    // keeps values short-lived and updates of parameters last.
    let mut waits: Vec<usize> = vec![0; groups.len()];
    let mut users: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); groups.len()];
    for (index, group) in groups.iter().enumerate() {
        for read in &group.reads {
            let of =
                if classes[read.index()] == Class::Picked { graph.node(*read).operands[0] } else { *read };
            let writer = group_of.get(&of).filter(|writer| **writer != index);
            if writer.is_some_and(|writer| users[*writer].insert(index)) {
                waits[index] += 1;
            }
        }
    }
    let rank = |index: usize| {
        let group = &groups[index];
        group.members.last().copied().or(group.anchor).expect("a group has nodes")
    };
    let mut ready: BTreeSet<(NodeId, usize)> =
        (0..groups.len()).filter(|index| waits[*index] == 0).map(|index| (rank(index), index)).collect();
    let mut ordered = Vec::new();
    while let Some((_, index)) = ready.pop_first() {
        ordered.push(units[index].take().expect("each unit runs once"));
        for user in &users[index] {
            waits[*user] -= 1;
            if waits[*user] == 0 {
                ready.insert((rank(*user), *user));
            }
        }
    }
    assert_eq!(ordered.len(), groups.len(), "units do not wait for each other");
    Grouping { units: ordered, stored }
}

/// A name that tells what a kernel does: its functions in order.
pub(crate) fn kernel_name(graph: &Graph, spec: &GroupSpec) -> String {
    let mut parts: Vec<String> =
        spec.roots.iter().map(|id| crate::assemble::label(&graph.node(*id).op)).collect();
    parts.dedup();
    parts.truncate(4);
    parts.join("_")
}

/// Rough operations per point of a kernel, for deciding how many threads it is worth.
pub(crate) fn operations_per_point(body: &[Stmt]) -> f64 {
    body.iter()
        .map(|stmt| match stmt {
            Stmt::Let { expr: Expr::Pointwise(function, _), .. } => cost(*function),
            Stmt::Let { expr: Expr::Load { .. }, .. } | Stmt::Store { .. } => 1.0,
            Stmt::Let { .. } => 0.5,
            Stmt::Loop { extent, body, .. } => *extent as f64 * operations_per_point(body),
        })
        .sum()
}

fn cost(function: PointwiseFn) -> f64 {
    function.cost().flops()
}
