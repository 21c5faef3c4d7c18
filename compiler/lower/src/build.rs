//! One kernel for a group of nodes.
//!
//! The nodes of a group share a space: a shape and the dims of it that reductions combine. The kept dims become the
//! kernel's ranges. For each point of them, the reductions run in stages, each after those it depends on; values of full shape
//! are stored in the first stage in which all that they need is known, so that a softmax is three loops over a row while the
//! row is in cache. A [`Form`] says which of the loops there are.

use crate::emit::{Emitter, Member, Source};
use std::collections::BTreeMap;
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_kernel::ir::{Kernel, compute_dtype};
use thalweg_kernel::{Access, Carry, Index, ValueId};
use thalweg_tensor::{NodeId, Op, ReduceFn};

/// Lanes of vector loops: four registers of 512 bits, which hide the latency of an addition. A generator may use fewer.
const LANES: u32 = 64;

/// The shape that a group's nodes range over, and the dims that its reductions combine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Space {
    pub shape: Vec<usize>,
    pub reduced: Vec<usize>,
}

impl Space {
    /// The space that a node by itself ranges over.
    pub fn of(source: Source, id: NodeId) -> Space {
        let node = source.graph.node(id);
        match &node.op {
            Op::Reduce(op) => Space { shape: source.sizes(node.operands[0]), reduced: op.dims.clone() },
            Op::Fold(op) => {
                let mut shape = source.sizes(id);
                let kept = shape.len();
                shape.extend(op.windows.iter().map(|window| window.size));
                Space { reduced: (kept..shape.len()).collect(), shape }
            }
            Op::Cumulative(op) => Space { shape: source.sizes(id), reduced: vec![op.dim] },
            Op::DynamicUpdate(_) => Space { shape: source.sizes(node.operands[1]), reduced: vec![] },
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
            | Op::Concat(_)
            | Op::Gather(_)
            | Op::Scatter(_)
            | Op::Contract(_)
            | Op::Convolve(_)
            | Op::Unfold(_)
            | Op::ArgSort(_)
            | Op::DynamicSlice(_)
            | Op::Scan(_)
            | Op::While(_)
            | Op::Branch(_)
            | Op::Pick(_)
            | Op::Collective(_) => Space { shape: source.sizes(id), reduced: vec![] },
        }
    }

    pub fn kept(&self) -> Vec<usize> {
        (0..self.shape.len()).filter(|dim| !self.reduced.contains(dim)).collect()
    }

    pub fn kept_shape(&self) -> Vec<usize> {
        self.kept().iter().map(|dim| self.shape[*dim]).collect()
    }

    pub fn points(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Whether a node's value is combined over the reduced dims of its space.
pub(crate) fn is_reduction(op: &Op) -> bool {
    matches!(op, Op::Reduce(_) | Op::Fold(_))
}

/// What a group is made of.
#[derive(Clone, Debug)]
pub(crate) struct GroupSpec {
    /// The nodes that the kernel computes, rising.
    pub roots: Vec<NodeId>,
    /// Of them, those that go to memory.
    pub stored: Vec<NodeId>,
    pub space: Space,
}

/// Which loops a group's kernel has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Form {
    /// For each dim of the space that is kept, the step of its range: that many positions next to each other are computed in
    /// one body, each by expressions of its own. 1 for reduced dims.
    pub steps: Vec<usize>,
    /// Whether vectors lie across the last kept dim.
    pub across: bool,
    /// Whether reductions are written out instead of looping.
    pub written_out: bool,
}

impl Form {
    /// Every dim a loop, with vectors along the last one.
    pub fn plain(space: &Space) -> Form {
        let last = space.shape.len().wrapping_sub(1);
        let across = !space.reduced.contains(&last);
        Form { steps: vec![1; space.shape.len()], across, written_out: false }
    }
}

/// A kernel and what its buffers are.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub kernel: Kernel,
    /// For each buffer of the kernel, the node whose memory it is.
    pub buffers: Vec<NodeId>,
    /// Pairs of buffers, one read and one written, that may be the same memory.
    pub in_place: Vec<(usize, usize)>,
}

/// The kernel of a group, unless one of its nodes uses another at other coordinates than it is computed at.
pub(crate) fn build(source: Source, spec: &GroupSpec, name: String) -> Option<Built> {
    build_as(source, spec, name, &Form::plain(&spec.space))
}

/// As [`build`], with the loops of a form.
pub(crate) fn build_as(source: Source, spec: &GroupSpec, name: String, form: &Form) -> Option<Built> {
    let mut emitter = Emitter::new(source, name);
    let kept = spec.space.kept();
    let mut at = vec![Index::default(); spec.space.shape.len()];
    for (position, dim) in kept.iter().enumerate() {
        let (size, step) = (spec.space.shape[*dim], form.steps[*dim]);
        let extent = size.div_ceil(step);
        let vector = form.across && position + 1 == kept.len() && extent > 1;
        let var = emitter.builder.range(extent, if vector { LANES } else { 1 });
        emitter.declare(var, extent);
        at[*dim] = Index::default().plus(var, step as i64);
    }
    let mut builder = GroupBuilder {
        source,
        spec,
        form,
        emitter,
        rows: Vec::new(),
        row: 0,
        identities: Vec::new(),
        writes: BTreeMap::new(),
        stores: Vec::new(),
    };
    for shift in shifts(&form.steps) {
        let at: Vec<Index> =
            at.iter().zip(&shift).map(|(index, by)| index.clone().offset(*by as i64)).collect();
        let outer: Vec<Index> = kept.iter().map(|dim| at[*dim].clone()).collect();
        // The last position of a range may be beyond the dim where its size is no multiple of the step.
        let beyond = |dim: &&usize| {
            let (size, step) = (spec.space.shape[**dim], form.steps[**dim]);
            size % step > 0 && shift[**dim] >= size % step
        };
        let partial: Vec<(Index, usize)> =
            kept.iter().filter(beyond).map(|dim| (at[*dim].clone(), spec.space.shape[*dim])).collect();
        let guard = builder.emitter.inside(&partial);
        builder.rows.push(Row { at, outer, guard, members: BTreeMap::new() });
    }
    builder.run();
    builder.flush();
    if builder.emitter.conflict {
        return None;
    }
    let reads = std::mem::take(&mut builder.emitter.reads);
    let writes = std::mem::take(&mut builder.writes);
    let kernel = builder.emitter.builder.finish();
    let mut buffers = vec![NodeId::default(); kernel.buffers.len()];
    for (node, buffer) in reads.iter().chain(&writes) {
        buffers[buffer.index()] = *node;
    }
    let in_place = crate::in_place::candidates(&kernel);
    Some(Built { kernel, buffers, in_place })
}

/// All ways to go less than a step along each dim, the last dim first.
fn shifts(steps: &[usize]) -> Vec<Vec<usize>> {
    let mut shifts = vec![vec![]];
    for step in steps {
        let longer = |shift: &Vec<usize>| {
            let shift = shift.clone();
            (0..*step).map(move |by| [&shift[..], &[by]].concat())
        };
        shifts = shifts.iter().flat_map(longer).collect();
    }
    shifts
}

/// One of the positions that a body computes side by side.
struct Row {
    /// Coordinates in the full space; those of reduced dims are set inside their loops.
    at: Vec<Index>,
    /// Coordinates in the kept dims.
    outer: Vec<Index>,
    /// Where the position is within its dims; absent where it always is.
    guard: Option<ValueId>,
    members: BTreeMap<NodeId, Member>,
}

struct GroupBuilder<'a> {
    source: Source<'a>,
    spec: &'a GroupSpec,
    form: &'a Form,
    emitter: Emitter<'a>,
    rows: Vec<Row>,
    /// The row that is being emitted.
    row: usize,
    /// What the reductions of the open stage start from.
    identities: Vec<ValueId>,
    writes: BTreeMap<NodeId, thalweg_kernel::BufferId>,
    /// Stores of the body that are due at its end.
    stores: Vec<(NodeId, Index, ValueId, Option<ValueId>)>,
}

impl GroupBuilder<'_> {
    /// Computes the group for all rows, stage by stage.
    fn run(&mut self) {
        let graph = self.source.graph;
        let full: Vec<NodeId> = self.spec.roots.iter().copied().filter(|id| self.is_full(*id)).collect();
        let reductions: Vec<NodeId> =
            self.spec.roots.iter().copied().filter(|id| is_reduction(&graph.node(*id).op)).collect();
        for row in &mut self.rows {
            for id in &self.spec.roots {
                let repeatable = !is_reduction(&graph.node(*id).op);
                let at = if full.contains(id) { row.at.clone() } else { row.outer.clone() };
                row.members.insert(*id, Member { at, value: None, repeatable });
            }
        }
        let stage = self.stages(&reductions);
        let stages = reductions.iter().chain(&full).map(|id| stage[id] + 1).max().unwrap_or(0);
        for now in 0..stages {
            let combine: Vec<NodeId> = reductions.iter().copied().filter(|id| stage[id] == now).collect();
            let store: Vec<NodeId> = full.iter().copied().filter(|id| stage[id] == now).collect();
            self.stage(&combine, &store);
        }
        for row in 0..self.rows.len() {
            self.in_row(row, |builder| {
                let mut stores = Vec::new();
                for id in builder.spec.roots.iter().filter(|id| !full.contains(id)) {
                    let outer = builder.rows[row].outer.clone();
                    let value = builder.emitter.emit(*id, &outer);
                    builder.define(*id, value);
                    stores.push((*id, outer, value));
                }
                builder.store_all(stores);
            });
        }
    }

    /// Emits for one of the rows.
    fn in_row<T>(&mut self, row: usize, emit: impl FnOnce(&mut Self) -> T) -> T {
        self.row = row;
        let Row { members, guard, .. } = &mut self.rows[row];
        std::mem::swap(&mut self.emitter.members, members);
        self.emitter.restrict(*guard);
        let result = emit(self);
        std::mem::swap(&mut self.emitter.members, &mut self.rows[row].members);
        self.emitter.restrict(None);
        result
    }

    /// Whether a node has the full shape of a space of which dims are reduced. Without reduced dims, nodes of the space's
    /// shape are those of the kept dims.
    fn is_full(&self, id: NodeId) -> bool {
        let space = &self.spec.space;
        !space.reduced.is_empty()
            && !is_reduction(&self.source.graph.node(id).op)
            && self.source.sizes(id) == space.shape
    }

    /// For each node of the group's expressions that depends on a reduction, the first stage that may compute it: one
    /// after the last reduction that it needs.
    fn stages(&self, reductions: &[NodeId]) -> BTreeMap<NodeId, usize> {
        let graph = self.source.graph;
        let mut after: BTreeMap<NodeId, usize> = BTreeMap::new();
        let Some(first) = self.spec.roots.first() else { return after };
        let last = *self.spec.roots.last().expect("there is a first");
        for index in first.index()..=last.index() {
            let id = NodeId::new(index);
            let of = |operand: &NodeId| match reductions.contains(operand) {
                true => after.get(operand).map_or(0, |stage| stage + 1),
                false => after.get(operand).copied().unwrap_or(0),
            };
            let stage = graph.node(id).operands.iter().map(of).max().unwrap_or(0);
            after.insert(id, stage);
        }
        after
    }

    /// One nest of loops over the reduced dims, which combines some reductions and stores some full values.
    fn stage(&mut self, combine: &[NodeId], store: &[NodeId]) {
        if combine.is_empty() && store.is_empty() {
            return;
        }
        let functions: Vec<(PointwiseFn, DType)> = combine.iter().map(|id| self.combination(*id)).collect();
        let mut inits: Vec<ValueId> = Vec::new();
        for _ in 0..self.rows.len() {
            for (id, (_, dtype)) in combine.iter().zip(&functions) {
                let identity = self.reduce_fn(*id).identity(self.source.graph.ty(*id).dtype);
                inits.push(self.emitter.builder.constant(*dtype, identity));
            }
        }
        let dims = self.spec.space.reduced.clone();
        self.identities = inits.clone();
        let results = self.nest(&dims, combine, &functions, store, inits);
        for row in 0..self.rows.len() {
            self.in_row(row, |builder| {
                for (id, value) in combine.iter().zip(&results[row * combine.len()..]) {
                    let dtype = builder.source.graph.ty(*id).dtype;
                    let value = builder.emitter.round(dtype, *value);
                    builder.define(*id, value);
                }
            });
        }
    }

    /// The loops over `dims` and what is in them; `carried` are the values of each row's reductions, row by row.
    fn nest(
        &mut self,
        dims: &[usize],
        combine: &[NodeId],
        functions: &[(PointwiseFn, DType)],
        store: &[NodeId],
        carried: Vec<ValueId>,
    ) -> Vec<ValueId> {
        let Some((dim, rest)) = dims.split_first() else {
            let mut next = Vec::new();
            let mut values = Vec::new();
            for row in 0..self.rows.len() {
                self.in_row(row, |builder| {
                    let sums = &carried[row * combine.len()..];
                    for ((id, (function, _)), sum) in combine.iter().zip(functions).zip(sums) {
                        next.push(match builder.term(*id) {
                            None => *sum,
                            // What is combined first needs nothing to be combined with.
                            Some(term) if builder.form.written_out && builder.identities.contains(sum) => {
                                term
                            }
                            Some(term) => builder.emitter.builder.apply(*function, &[*sum, term]),
                        });
                    }
                    let at = builder.rows[row].at.clone();
                    values.extend(store.iter().map(|id| (*id, at.clone(), builder.emitter.emit(*id, &at))));
                });
                let done = std::mem::take(&mut values);
                self.store_all(done);
            }
            return next;
        };
        let extent = self.spec.space.shape[*dim];
        if self.form.written_out {
            return (0..extent).fold(carried, |carried, position| {
                self.place(*dim, &Index::constant(position as i64));
                self.nest(rest, combine, functions, store, carried)
            });
        }
        let lanes = if rest.is_empty() && !self.form.across && extent > 1 { LANES } else { 1 };
        let carries: Vec<Carry> = carried
            .iter()
            .zip(functions.iter().cycle())
            .map(|(init, (function, _))| Carry::reduce(*init, *function))
            .collect();
        // The closure needs the group builder, which holds the kernel builder: it is lent out and taken back.
        let mut kernel = std::mem::replace(&mut self.emitter.builder, thalweg_kernel::KernelBuilder::new(""));
        let results = kernel.loop_(extent, lanes, &carries, |kernel, var, phis| {
            std::mem::swap(&mut self.emitter.builder, kernel);
            self.emitter.declare(var, extent);
            self.emitter.enter();
            self.place(*dim, &Index::var(var));
            let next = self.nest(rest, combine, functions, store, phis.to_vec());
            self.emitter.leave();
            std::mem::swap(&mut self.emitter.builder, kernel);
            next
        });
        self.emitter.builder = kernel;
        results
    }

    /// Sets the coordinate of a reduced dim, also for the members of full shape.
    fn place(&mut self, dim: usize, index: &Index) {
        let full: Vec<NodeId> = self.spec.roots.iter().copied().filter(|id| self.is_full(*id)).collect();
        for row in &mut self.rows {
            row.at[dim] = index.clone();
            for id in &full {
                let member = row.members.get_mut(id).expect("roots are members");
                *member = Member { at: row.at.clone(), value: None, repeatable: true };
            }
        }
    }

    fn define(&mut self, id: NodeId, value: ValueId) {
        self.emitter.members.get_mut(&id).expect("roots are members").value = Some(value);
    }

    fn reduce_fn(&self, id: NodeId) -> ReduceFn {
        // A fold is a sum of windows.
        if let Op::Reduce(op) = &self.source.graph.node(id).op { op.function } else { ReduceFn::Sum }
    }

    /// The scalar function that combines, and the dtype of the accumulator. `bool` is combined as truth.
    fn combination(&self, id: NodeId) -> (PointwiseFn, DType) {
        let dtype = self.source.graph.ty(id).dtype;
        let function = match (self.reduce_fn(id), dtype) {
            (ReduceFn::Max, DType::Bool) => PointwiseFn::Or,
            (ReduceFn::Min, DType::Bool) => PointwiseFn::And,
            (function, _) => function.pointwise(),
        };
        (function, compute_dtype(dtype))
    }

    /// What a reduction combines at the open coordinates; absent where that changes nothing.
    fn term(&mut self, id: NodeId) -> Option<ValueId> {
        let node = self.source.graph.node(id);
        let at = self.rows[self.row].at.clone();
        if let Op::Fold(op) = &node.op {
            let (position, window) = at.split_at(at.len() - op.windows.len());
            return self.emitter.fold_term(id, position, window);
        }
        Some(self.emitter.emit(node.operands[0], &at))
    }

    /// Stores values, all computed before the first is written, so that a kernel may work in place. In a form without inner
    /// loops, those of all rows are stored at the end, next to each other.
    fn store_all(&mut self, values: Vec<(NodeId, Vec<Index>, ValueId)>) {
        let guard = self.rows[self.row].guard;
        for (id, at, value) in values {
            if self.spec.stored.contains(&id) && !self.emitter.conflict {
                let linear = dense(&at, &self.source.sizes(id));
                self.stores.push((id, linear, value, guard));
            }
        }
        if !self.form.written_out {
            self.flush();
        }
    }

    /// Writes the stores that are due, those of each node in the order in which they came.
    fn flush(&mut self) {
        let mut stores = std::mem::take(&mut self.stores);
        stores.sort_by_key(|(id, ..)| *id);
        for (id, linear, value, guard) in stores {
            let ty = self.source.graph.ty(id);
            let builder = &mut self.emitter.builder;
            let buffer = *self
                .writes
                .entry(id)
                .or_insert_with(|| builder.buffer(ty.dtype, ty.elements().size(), Access::Write));
            match guard {
                Some(guard) => builder.store_guarded(buffer, linear, value, guard),
                None => builder.store(buffer, linear, value),
            }
        }
    }
}

/// The row-major position of affine coordinates.
pub(crate) fn dense(at: &[Index], sizes: &[usize]) -> Index {
    let mut linear = Index::default();
    let mut stride = 1i64;
    for (index, size) in at.iter().zip(sizes).rev() {
        linear = linear.offset(index.constant * stride);
        for (var, coefficient) in &index.terms {
            linear = linear.plus(*var, coefficient * stride);
        }
        stride *= *size as i64;
    }
    linear
}

/// A kernel that computes `id`, an operand of an assembled node, into the assembled node's memory, `offset` positions on
/// along `dim` of `whole`.
pub(crate) fn build_piece(
    source: Source,
    id: NodeId,
    into: NodeId,
    dim: usize,
    offset: usize,
    name: String,
) -> Built {
    let mut emitter = Emitter::new(source, name);
    let sizes = source.sizes(id);
    let mut at = Vec::new();
    for (position, size) in sizes.iter().enumerate() {
        let vector = position + 1 == sizes.len() && *size > 1;
        let var = emitter.builder.range(*size, if vector { LANES } else { 1 });
        emitter.declare(var, *size);
        at.push(Index::var(var));
    }
    let value = emitter.emit(id, &at);
    let ty = source.graph.ty(into);
    let buffer = emitter.builder.buffer(ty.dtype, ty.elements().size(), Access::Write);
    let mut to = at.clone();
    if !to.is_empty() {
        to[dim] = to[dim].clone().offset(offset as i64);
    }
    emitter.builder.store(buffer, dense(&to, &ty.sizes()), value);
    finish(emitter, into, buffer)
}

fn finish(mut emitter: Emitter, into: NodeId, buffer: thalweg_kernel::BufferId) -> Built {
    let reads = std::mem::take(&mut emitter.reads);
    let kernel = emitter.builder.finish();
    let mut buffers = vec![into; kernel.buffers.len()];
    for (node, read) in &reads {
        buffers[read.index()] = *node;
    }
    buffers[buffer.index()] = into;
    Built { kernel, buffers, in_place: Vec::new() }
}

/// The kernel of a cumulative op: for every other position, a serial walk along the dim.
pub(crate) fn build_cumulative(source: Source, id: NodeId, name: String) -> Built {
    let node = source.graph.node(id);
    let Op::Cumulative(op) = &node.op else { panic!("{id} is not cumulative") };
    let ty = source.graph.ty(id);
    let sizes = ty.sizes();
    let mut emitter = Emitter::new(source, name);
    let mut at = vec![Index::default(); sizes.len()];
    let kept: Vec<usize> = (0..sizes.len()).filter(|dim| *dim != op.dim).collect();
    for dim in &kept {
        let vector = *dim + 1 == sizes.len() && sizes[*dim] > 1;
        let var = emitter.builder.range(sizes[*dim], if vector { LANES } else { 1 });
        emitter.declare(var, sizes[*dim]);
        at[*dim] = Index::var(var);
    }
    let buffer = emitter.builder.buffer(ty.dtype, ty.elements().size(), Access::Write);
    let extent = sizes[op.dim];
    let init = emitter.builder.constant(compute_dtype(ty.dtype), op.function.identity(ty.dtype));
    let mut kernel = std::mem::replace(&mut emitter.builder, thalweg_kernel::KernelBuilder::new(""));
    kernel.loop_(extent, 1, &[Carry { init, combine: None }], |kernel, var, phis| {
        std::mem::swap(&mut emitter.builder, kernel);
        emitter.declare(var, extent);
        emitter.enter();
        at[op.dim] = match op.reverse {
            false => Index::var(var),
            true => Index::constant(extent as i64 - 1).plus(var, -1),
        };
        let term = emitter.emit(node.operands[0], &at);
        let next = emitter.builder.apply(op.function.pointwise(), &[phis[0], term]);
        let rounded = emitter.round(ty.dtype, next);
        emitter.builder.store(buffer, dense(&at, &sizes), rounded);
        emitter.leave();
        std::mem::swap(&mut emitter.builder, kernel);
        vec![next]
    });
    emitter.builder = kernel;
    finish(emitter, id, buffer)
}

/// The kernel of a dynamic update: writes the slice over what has been copied to the result's memory.
pub(crate) fn build_update(source: Source, id: NodeId, name: String) -> Built {
    let node = source.graph.node(id);
    let Op::DynamicUpdate(op) = &node.op else { panic!("{id} is no dynamic update") };
    let ty = source.graph.ty(id);
    let (whole, slice) = (ty.sizes(), source.sizes(node.operands[1]));
    let mut emitter = Emitter::new(source, name);
    let mut at = Vec::new();
    for (dim, size) in slice.iter().enumerate() {
        let vector = dim + 1 == slice.len() && *size > 1;
        let var = emitter.builder.range(*size, if vector { LANES } else { 1 });
        emitter.declare(var, *size);
        at.push(Index::var(var));
    }
    let value = emitter.emit(node.operands[1], &at);
    let mut to = dense(&at, &whole);
    let mut shift: Option<ValueId> = None;
    for (dim, start) in op.dims.iter().zip(&node.operands[2..]) {
        let stride: usize = whole[dim + 1..].iter().product();
        let start = emitter.emit(*start, &[]);
        let wide = emitter.builder.dtype(start);
        let zero = emitter.builder.constant(wide, Scalar::Int(0));
        let last = emitter.builder.constant(wide, Scalar::Int((whole[*dim] - slice[*dim]) as i128));
        let start = emitter.builder.apply(PointwiseFn::Max, &[start, zero]);
        let start = emitter.builder.apply(PointwiseFn::Min, &[start, last]);
        let start = emitter.builder.convert(DType::I32, start);
        let stride = emitter.builder.i32(stride as i32);
        let scaled = emitter.builder.apply(PointwiseFn::Mul, &[start, stride]);
        shift = Some(match shift {
            Some(other) => emitter.builder.apply(PointwiseFn::Add, &[other, scaled]),
            None => scaled,
        });
    }
    if let Some(shift) = shift {
        to = to.with_dynamic(shift);
    }
    let buffer = emitter.builder.buffer(ty.dtype, ty.elements().size(), Access::Write);
    emitter.builder.store(buffer, to, value);
    finish(emitter, id, buffer)
}
