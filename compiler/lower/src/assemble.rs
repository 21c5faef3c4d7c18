//! Steps: the units of a graph in order, each with the places that it reads and writes.
//!
//! While steps are made, an address names a buffer and an offset in it; once all lifetimes are known and the arena is laid
//! out, the addresses are linked to byte offsets. Loops and branches hold steps of their own over the same arena, so one
//! memory plan covers all.

use crate::build::{Built, build_cumulative, build_piece, build_update};
use crate::emit::Source;
use crate::group::{Class, Grouping, Unit, class, dense_base, group, operations_per_point, reads};
use crate::memory::{Buffer, place};
use crate::{prepare, routine, view};
use std::collections::{BTreeMap, BTreeSet};
use thalweg_base::Literal;
use thalweg_kernel::ir::Kernel;
use thalweg_plan::{
    Address, CollectiveKind as PlanCollective, CollectiveStep, KernelId, Launch, LoopId, Origin, Step,
    StepKind,
};
use thalweg_tensor::ops::{Collective, CollectiveKind};
use thalweg_tensor::{Graph, Mesh, NodeId, Op};

/// Bits of an unlinked address that hold the offset in its buffer; those above hold the buffer.
const OFFSET_BITS: u32 = 40;
/// Operations from which a kernel is split over threads: about what waking another thread costs.
const PARALLEL_OPERATIONS: f64 = 60_000.0;

/// A place: a buffer, an offset in bytes, and how loops shift it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Slot {
    pub buffer: usize,
    pub offset: usize,
    pub per_turn: Vec<(LoopId, i64)>,
}

impl Slot {
    pub fn whole(buffer: usize) -> Slot {
        Slot { buffer, offset: 0, per_turn: vec![] }
    }

    fn shifted(&self, bytes: usize) -> Slot {
        Slot { offset: self.offset + bytes, ..self.clone() }
    }

    pub fn address(&self) -> Address {
        assert!(self.offset < 1 << OFFSET_BITS, "a buffer is smaller than a terabyte");
        Address { offset: self.buffer << OFFSET_BITS | self.offset, per_turn: self.per_turn.clone() }
    }
}

/// The kernels of all programs, each once.
#[derive(Default)]
pub(crate) struct KernelTable {
    pub kernels: Vec<Kernel>,
}

impl KernelTable {
    fn add(&mut self, mut kernel: Kernel) -> KernelId {
        let stem = kernel.name.clone();
        let same = |other: &Kernel| {
            other.ranges == kernel.ranges
                && other.buffers == kernel.buffers
                && other.scratch == kernel.scratch
                && other.body == kernel.body
        };
        if let Some(at) = self.kernels.iter().position(same) {
            return KernelId::new(at);
        }
        kernel.name = format!("{stem}_k{}", self.kernels.len());
        self.kernels.push(kernel);
        KernelId::new(self.kernels.len() - 1)
    }
}

/// Lays out one device's program.
pub(crate) struct Planner<'a> {
    pub mesh: &'a Mesh,
    pub device: usize,
    pub threads: usize,
    pub table: &'a mut KernelTable,
    pub buffers: Vec<Buffer>,
    pub constants: Vec<(usize, Literal)>,
    /// Buffers that no step writes, in loops either: constants, and parameters without an update.
    pub unwritten: BTreeSet<usize>,
    pub clock: usize,
    pub loops: u32,
}

/// Where the values of a graph come from and go to.
pub(crate) struct Interface {
    /// The place of every leaf.
    pub leaves: BTreeMap<NodeId, Slot>,
    /// Where each output is wanted, in order.
    pub outputs: Vec<Slot>,
    /// Where each update is wanted, in order.
    pub updates: Vec<Slot>,
}

impl<'a> Planner<'a> {
    pub fn new(mesh: &'a Mesh, device: usize, threads: usize, table: &'a mut KernelTable) -> Planner<'a> {
        Planner {
            mesh,
            device,
            threads,
            table,
            buffers: vec![],
            constants: vec![],
            unwritten: BTreeSet::new(),
            clock: 0,
            loops: 0,
        }
    }

    /// Adds a buffer that is live from now until it is last touched.
    pub fn buffer(&mut self, bytes: usize) -> usize {
        self.buffers.push(Buffer { bytes: bytes.max(1), first: self.clock, last: self.clock, fixed: None });
        self.buffers.len() - 1
    }

    /// Adds a buffer that is kept, at a place.
    pub fn kept(&mut self, bytes: usize, fixed: usize) -> usize {
        self.buffers.push(Buffer { bytes: bytes.max(1), first: 0, last: usize::MAX, fixed: Some(fixed) });
        self.buffers.len() - 1
    }

    pub fn touch(&mut self, slot: &Slot) {
        let buffer = &mut self.buffers[slot.buffer];
        buffer.last = buffer.last.max(self.clock);
        buffer.first = buffer.first.min(self.clock);
    }

    /// The steps of a graph between its interface's places.
    pub fn plan(&mut self, graph: &Graph, interface: &Interface) -> Vec<Step> {
        let (graph, map) = prepare::prepare(graph);
        let leaves = interface.leaves.iter().map(|(id, slot)| (map[id.index()], slot.clone())).collect();
        let interface =
            Interface { leaves, outputs: interface.outputs.clone(), updates: interface.updates.clone() };
        let grouping = group(&graph, self.mesh, self.device);
        Body::new(self, &graph, &grouping, &interface).run()
    }

    /// Places all buffers, those without a place at or after `start`; links the steps; gives the bytes of the arena.
    pub fn link(&self, steps: &mut [Step], start: usize) -> usize {
        let (offsets, end) = place(&self.buffers, start);
        for step in steps {
            each_address(step, &mut |address| {
                let (buffer, offset) =
                    (address.offset >> OFFSET_BITS, address.offset & ((1 << OFFSET_BITS) - 1));
                address.offset = offsets[buffer] + offset;
            });
        }
        end
    }
}

fn each_address(step: &mut Step, f: &mut impl FnMut(&mut Address)) {
    fn launch(launch: &mut Launch, f: &mut impl FnMut(&mut Address)) {
        launch.buffers.iter_mut().for_each(f);
    }
    match &mut step.kind {
        StepKind::Launch(own) => launch(own, f),
        StepKind::Contract { a, b, c, epilogue, .. } | StepKind::Convolve { a, b, c, epilogue, .. } => {
            [a, b, c].into_iter().for_each(&mut *f);
            if let Some(epilogue) = epilogue {
                launch(epilogue, f);
            }
        }
        StepKind::Scatter { indices, updates, result, .. } => {
            [indices, updates, result].into_iter().for_each(f)
        }
        StepKind::ArgSort { operand, result, .. } => [operand, result].into_iter().for_each(f),
        StepKind::Copy { from, to, .. } => [from, to].into_iter().for_each(f),
        StepKind::Collective(collective) => {
            [&mut collective.operand, &mut collective.result].into_iter().for_each(f);
        }
        StepKind::Loop { body, .. } => body.iter_mut().for_each(|step| each_address(step, f)),
        StepKind::While { condition, flag, body } => {
            f(flag);
            condition.iter_mut().chain(body).for_each(|step| each_address(step, f));
        }
        StepKind::Branch { flag, then, otherwise } => {
            f(flag);
            then.iter_mut().chain(otherwise).for_each(|step| each_address(step, f));
        }
    }
}

/// One graph on its way to steps.
pub(crate) struct Body<'p, 'a> {
    pub planner: &'p mut Planner<'a>,
    pub graph: &'p Graph,
    grouping: &'p Grouping,
    interface: &'p Interface,
    /// The place of every node that lies in memory; results of loops and branches by position.
    pub slots: BTreeMap<NodeId, Slot>,
    pub results: BTreeMap<(NodeId, usize), Slot>,
    /// For every node in memory, the unit that last reads it; the number of units for what is read at the end.
    last_use: BTreeMap<NodeId, usize>,
    /// Buffers that this body made for one value alone, and may hand on.
    own: BTreeMap<NodeId, usize>,
    steps: Vec<Step>,
}

impl<'p, 'a> Body<'p, 'a> {
    fn new(
        planner: &'p mut Planner<'a>,
        graph: &'p Graph,
        grouping: &'p Grouping,
        interface: &'p Interface,
    ) -> Body<'p, 'a> {
        let mut last_use = BTreeMap::new();
        for (index, unit) in grouping.units.iter().enumerate() {
            for read in unit_reads(graph, grouping, unit) {
                last_use.insert(read, index);
            }
        }
        for root in graph.roots() {
            last_use.insert(dense_base(graph, root), grouping.units.len());
        }
        Body {
            planner,
            graph,
            grouping,
            interface,
            slots: interface.leaves.clone(),
            results: BTreeMap::new(),
            last_use,
            own: BTreeMap::new(),
            steps: Vec::new(),
        }
    }

    fn source(&self) -> Source<'p> {
        Source {
            graph: self.graph,
            stored: &self.grouping.stored,
            mesh: self.mesh(),
            device: self.planner.device,
        }
    }

    fn mesh(&self) -> &'p Mesh
    where
        'a: 'p,
    {
        self.planner.mesh
    }

    fn bytes(&self, id: NodeId) -> usize {
        self.graph.ty(id).bytes()
    }

    fn run(mut self) -> Vec<Step> {
        self.literals();
        for (index, unit) in self.grouping.units.iter().enumerate() {
            self.planner.clock += 1;
            match unit {
                Unit::Kernel(spec, built) => {
                    self.choose_places(index, &spec.stored, built, None);
                    self.read_now(built);
                    let launch = self.launch(built);
                    let origin = self.origin(&spec.roots, Some(&built.kernel));
                    self.push(StepKind::Launch(launch), origin);
                }
                Unit::Routine(id, epilogue) => {
                    self.routine(index, *id, epilogue.as_ref().map(|(spec, b)| (spec, &**b)))
                }
                Unit::Control(id) => self.control(*id),
            }
        }
        self.planner.clock += 1;
        self.finish();
        self.steps
    }

    pub fn push(&mut self, kind: StepKind, origin: Origin) {
        // Values without elements have places and nothing in them.
        if matches!(kind, StepKind::Copy { bytes: 0, .. }) {
            return;
        }
        self.steps.push(Step { kind, origin });
    }

    /// Uneven constants get a place in the arena for good.
    fn literals(&mut self) {
        let nodes: Vec<NodeId> = self.graph.ids().collect();
        for id in nodes {
            let Op::Constant(constant) = &self.graph.node(id).op else { continue };
            if class(&self.graph.node(id).op, 0) != Class::Given || !self.last_use.contains_key(&id) {
                continue;
            }
            let known = self.planner.constants.iter().find(|(_, value)| *value == constant.value);
            let buffer = match known {
                Some((buffer, _)) => *buffer,
                None => {
                    let buffer = self.planner.kept(constant.value.bytes().len(), 0);
                    self.planner.constants.push((buffer, constant.value.clone()));
                    self.planner.unwritten.insert(buffer);
                    buffer
                }
            };
            self.slots.insert(id, Slot::whole(buffer));
        }
    }

    /// The place that a node is wanted at in the end, if it may be written there now: when a leaf lies there, its value must not
    /// be needed any more, or only position by position by this very unit, whose kernel is `built` and whose routine, if it has
    /// one, is `anchor`.
    fn wanted(&self, unit: usize, id: NodeId, built: Option<&Built>, anchor: Option<NodeId>) -> Option<Slot> {
        let at_end = |node: NodeId| dense_base(self.graph, node) == id;
        let (graph, interface) = (self.graph, self.interface);
        let updates = graph.updates.iter().zip(&interface.updates).map(|(update, slot)| (update.node, slot));
        let outputs = graph.outputs.iter().zip(&interface.outputs).map(|(output, slot)| (output.node, slot));
        let mut wanted = updates.chain(outputs).filter(|(node, _)| at_end(*node)).map(|(_, slot)| slot);
        wanted.find(|slot| self.is_free(unit, id, slot, built, anchor)).cloned()
    }

    /// Whether a node may be written to a place where it is wanted.
    fn is_free(
        &self,
        unit: usize,
        id: NodeId,
        slot: &Slot,
        built: Option<&Built>,
        anchor: Option<NodeId>,
    ) -> bool {
        let old = self.interface.leaves.iter().find(|(_, leaf)| *leaf == slot).map(|(leaf, _)| *leaf);
        match old.and_then(|old| Some((old, *self.last_use.get(&old)?))) {
            None => true,
            Some((_, last)) if last < unit => true,
            Some((old, last)) if last == unit => {
                !self.routine_reads(anchor, old)
                    && built.is_some_and(|built| {
                        let pair = |(read, write): &(usize, usize)| {
                            built.buffers[*read] == old && built.buffers[*write] == id
                        };
                        built.in_place.iter().any(pair)
                    })
            }
            Some(_) => false,
        }
    }

    /// Whether a routine reads the memory of a node: other tiles of it may still do so when the epilogue of one writes.
    fn routine_reads(&self, routine: Option<NodeId>, id: NodeId) -> bool {
        routine.is_some_and(|routine| reads(self.graph, &self.grouping.stored, routine).contains(&id))
    }

    /// Gives each written node a place: where it is wanted, or that of a value that is read for the last time and may be
    /// overwritten position by position, or a new one.
    fn choose_places(&mut self, unit: usize, written: &[NodeId], built: &Built, anchor: Option<NodeId>) {
        let mut taken: Vec<NodeId> = Vec::new();
        for id in written {
            let slot = self.wanted(unit, *id, Some(built), anchor).or_else(|| {
                let reuse = built.in_place.iter().find_map(|(read, write)| {
                    let from = built.buffers[*read];
                    let dead = self.last_use.get(&from) == Some(&unit)
                        && !taken.contains(&from)
                        && !self.routine_reads(anchor, from);
                    (built.buffers[*write] == *id && dead && self.own.contains_key(&from)).then_some(from)
                })?;
                taken.push(reuse);
                let buffer = self.own.remove(&reuse)?;
                self.own.insert(*id, buffer);
                Some(Slot::whole(buffer))
            });
            let slot = slot.unwrap_or_else(|| {
                let buffer = self.planner.buffer(self.bytes(*id));
                self.own.insert(*id, buffer);
                Slot::whole(buffer)
            });
            self.planner.touch(&slot);
            self.slots.insert(*id, slot);
        }
        // A routine whose result only its own epilogue reads may work where the epilogue writes.
        if let Some(anchor) = anchor {
            let pair = built.in_place.iter().find(|(read, write)| {
                built.buffers[*read] == anchor && written.contains(&built.buffers[*write])
            });
            if let Some((_, write)) = pair.filter(|_| self.last_use.get(&anchor) == Some(&unit)) {
                let slot = self.slots[&built.buffers[*write]].clone();
                // The epilogue's other operands are read after the routine has written: none may lie there.
                let shared = built.buffers.iter().any(|node| {
                    *node != anchor && !written.contains(node) && self.slots.get(node) == Some(&slot)
                });
                if !shared {
                    self.slots.insert(anchor, slot);
                }
            }
        }
    }

    pub fn slot(&self, id: NodeId) -> Slot {
        let id = dense_base(self.graph, id);
        let node = self.graph.node(id);
        if let Op::Pick(pick) = &node.op {
            return self.results[&(node.operands[0], pick.index)].clone();
        }
        self.slots.get(&id).unwrap_or_else(|| panic!("{id} has no place")).clone()
    }

    fn read_now(&mut self, built: &Built) {
        for node in &built.buffers {
            let slot = self.slot(*node);
            self.planner.touch(&slot);
        }
    }

    fn launch(&mut self, built: &Built) -> Launch {
        let buffers = built.buffers.iter().map(|node| self.slot(*node).address()).collect();
        let points: f64 = built.kernel.ranges.iter().map(|range| range.extent as f64).product();
        let operations = points * operations_per_point(&built.kernel.body);
        let splittable = built.kernel.ranges.first().map_or(1, |range| range.extent);
        let parts = if operations >= PARALLEL_OPERATIONS { self.planner.threads.min(splittable) } else { 1 };
        Launch { kernel: self.planner.table.add(built.kernel.clone()), buffers, parts: parts.max(1) as u32 }
    }

    /// Runs a kernel that writes one node.
    fn run_kernel(&mut self, id: NodeId, mut built: Built) {
        crate::coalesce::coalesce(&mut built.kernel, &[]);
        self.read_now(&built);
        let launch = self.launch(&built);
        let origin = self.origin(&[id], Some(&built.kernel));
        self.push(StepKind::Launch(launch), origin);
    }

    pub fn origin(&self, nodes: &[NodeId], kernel: Option<&Kernel>) -> Origin {
        let main = self.graph.node(nodes[0]);
        let mut labels: Vec<String> = Vec::new();
        let (mut flops, mut bytes) = (0.0, 0.0);
        for id in nodes {
            let node = self.graph.node(*id);
            labels.push(label(&node.op));
            let work = node.op.def().work(&self.graph.operand_types_of(*id), &node.types);
            flops += work.flops;
            bytes += work.bytes_read + work.bytes_written;
        }
        if let Some(kernel) = kernel {
            let points: f64 = kernel.ranges.iter().map(|range| range.extent as f64).product();
            flops = flops.max(points * operations_per_point(&kernel.body));
            bytes = kernel.buffers.iter().map(|b| (b.elements * b.dtype.size_bytes()) as f64).sum();
        }
        labels.dedup();
        Origin { scope: main.scope.to_string(), label: labels.join(" + "), span: main.span, flops, bytes }
    }

    /// Whether no step of the program writes the memory in which a node lies.
    fn is_constant(&self, id: NodeId) -> bool {
        self.planner.unwritten.contains(&self.slot(id).buffer)
    }

    fn routine(&mut self, unit: usize, id: NodeId, epilogue: Option<(&crate::build::GroupSpec, &Built)>) {
        let node = self.graph.node(id);
        if let Some((spec, built)) = epilogue {
            self.choose_places(unit, &spec.stored, built, Some(id));
        }
        if !self.slots.contains_key(&id) {
            let slot = self.wanted(unit, id, None, Some(id)).unwrap_or_else(|| {
                let buffer = self.planner.buffer(self.bytes(id));
                self.own.insert(id, buffer);
                Slot::whole(buffer)
            });
            self.planner.touch(&slot);
            self.slots.insert(id, slot);
        }
        for operand in reads(self.graph, &self.grouping.stored, id) {
            let slot = self.slot(operand);
            self.planner.touch(&slot);
        }
        let result = self.slot(id);
        self.planner.touch(&result);
        let operand = |body: &Self, index: usize| body.slot(node.operands[index]).address();
        let mut nodes = vec![id];
        nodes.extend(epilogue.iter().flat_map(|(spec, _)| &spec.roots));
        let origin = self.origin(&nodes, None);
        let source = self.source();
        let epilogue = epilogue.map(|(_, built)| {
            self.read_now(built);
            self.launch(built)
        });
        let kind = match &node.op {
            Op::Contract(_) => {
                let step = routine::contract(source, id);
                let place = |view: &view::View| {
                    let size = self.graph.ty(view.base).dtype.size_bytes();
                    self.slot(view.base).shifted(view.offset as usize * size).address()
                };
                let b_constant = self.is_constant(step.b.base);
                let (a, b) = (place(&step.a), place(&step.b));
                StepKind::Contract {
                    contraction: step.contraction,
                    a,
                    b,
                    c: result.address(),
                    epilogue,
                    b_constant,
                }
            }
            Op::Convolve(op) => {
                let weights = op.weights();
                StepKind::Convolve {
                    convolution: routine::convolution(source, id),
                    a: operand(self, 0),
                    b: operand(self, 1),
                    c: result.address(),
                    epilogue,
                    weights_constant: weights.is_some_and(|weights| self.is_constant(node.operands[weights])),
                }
            }
            Op::Scatter(_) => StepKind::Scatter {
                scatter: routine::scatter(source, id),
                indices: operand(self, 0),
                updates: operand(self, 1),
                result: result.address(),
            },
            Op::ArgSort(_) => StepKind::ArgSort {
                sort: routine::arg_sort(source, id),
                operand: operand(self, 0),
                result: result.address(),
            },
            Op::Collective(op) => self.collective(op, id, &result),
            Op::Cumulative(_) => {
                return self.run_kernel(id, build_cumulative(source, id, "cumulative".into()));
            }
            Op::DynamicUpdate(_) => {
                let from = self.slot(node.operands[0]);
                let bytes = self.bytes(id);
                self.push(StepKind::Copy { from: from.address(), to: result.address(), bytes }, origin);
                return self.run_kernel(id, build_update(source, id, "dynamic_update".into()));
            }
            Op::Concat(op) => {
                let mut offset = 0;
                for piece in &node.operands {
                    let built = build_piece(source, *piece, id, op.dim, offset, "concat".into());
                    offset += source.sizes(*piece)[op.dim];
                    self.run_kernel(id, built);
                }
                return;
            }
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
            | Op::Reduce(_)
            | Op::Unfold(_)
            | Op::Fold(_)
            | Op::DynamicSlice(_)
            | Op::Scan(_)
            | Op::While(_)
            | Op::Branch(_)
            | Op::Pick(_) => {
                panic!("`{}` is no routine", node.op.name())
            }
        };
        self.push(kind, origin);
    }

    fn collective(&self, op: &Collective, id: NodeId, result: &Slot) -> StepKind {
        let operand = self.graph.node(id).operands[0];
        let sizes = self.graph.ty(operand).sizes();
        let around =
            |dim: usize| (sizes[..dim].iter().product::<usize>(), sizes[dim..].iter().product::<usize>());
        let kind = match op.kind {
            CollectiveKind::AllReduce { function } => PlanCollective::AllReduce(function),
            CollectiveKind::AllGather { dim } => {
                let (outer, inner) = around(dim);
                PlanCollective::AllGather { outer, inner }
            }
            CollectiveKind::ReduceScatter { function, dim } => {
                let (outer, inner) = around(dim);
                PlanCollective::ReduceScatter { combine: function, outer, inner: inner / op.size }
            }
            CollectiveKind::AllToAll { .. } => {
                PlanCollective::AllToAll { block: sizes.iter().product::<usize>() / op.size }
            }
            CollectiveKind::Shard { .. } => panic!("a shard is a view"),
        };
        StepKind::Collective(CollectiveStep {
            kind,
            axis: op.axis.clone(),
            dtype: self.graph.ty(id).dtype,
            elements: sizes.iter().product(),
            operand: self.slot(operand).address(),
            result: result.address(),
        })
    }

    /// Copies to where outputs and updates are wanted what is not there yet. What an update would overwrite before
    /// another one reads it is set aside first.
    fn finish(&mut self) {
        let graph = self.graph;
        let updates = graph.updates.iter().map(|update| update.node).zip(&self.interface.updates);
        let outputs = graph.outputs.iter().map(|output| output.node).zip(&self.interface.outputs);
        let mut copies: Vec<(NodeId, Slot, Slot)> = Vec::new();
        for (node, to) in outputs.chain(updates) {
            let from = self.slot(node);
            self.planner.touch(to);
            self.planner.touch(&from);
            if from != *to {
                copies.push((node, from, to.clone()));
            }
        }
        let overwritten: Vec<Slot> = copies.iter().map(|(_, _, to)| to.clone()).collect();
        for (node, from, _) in &mut copies {
            if overwritten.contains(from) {
                let aside = Slot::whole(self.planner.buffer(self.bytes(*node)));
                let bytes = self.bytes(*node);
                let origin = self.origin(&[*node], None);
                self.push(StepKind::Copy { from: from.address(), to: aside.address(), bytes }, origin);
                *from = aside;
            }
        }
        self.planner.clock += 1;
        for (node, from, to) in copies {
            self.planner.touch(&from);
            self.planner.touch(&to);
            let origin = self.origin(&[node], None);
            let bytes = self.bytes(node);
            self.push(StepKind::Copy { from: from.address(), to: to.address(), bytes }, origin);
        }
    }
}

/// What people call an op: the function of a pointwise op or reduction, else the op's own name.
pub(crate) fn label(op: &Op) -> String {
    if let Op::Pointwise(op) = op {
        op.function.name().to_string()
    } else if let Op::Reduce(op) = op {
        format!("reduce_{}", op.function.pointwise().name())
    } else {
        op.name().to_lowercase()
    }
}

/// The memory that a unit reads from outside of itself.
fn unit_reads(graph: &Graph, grouping: &Grouping, unit: &Unit) -> Vec<NodeId> {
    match unit {
        Unit::Kernel(_, built) => built.buffers.clone(),
        Unit::Routine(id, epilogue) => {
            let mut all: Vec<NodeId> = reads(graph, &grouping.stored, *id).into_iter().collect();
            all.extend(epilogue.iter().flat_map(|(_, built)| built.buffers.clone()));
            all
        }
        Unit::Control(id) => reads(graph, &grouping.stored, *id).into_iter().collect(),
    }
}
