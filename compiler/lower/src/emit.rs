//! Scalar expressions of tensor nodes: the value of a node at given coordinates, as kernel IR.
//!
//! A node that lies in memory is loaded. Any other node is computed on the spot from its operands at the coordinates that
//! its op maps to, so chains of pointwise functions, broadcasts, slices, pads, reshapes, gathers and windows become one
//! expression. Equal subexpressions in one loop body are computed once.

use std::collections::BTreeMap;
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_kernel::ir::compute_dtype;
use thalweg_kernel::{Access, BufferId, Index, KernelBuilder, ValueId, VarId};
use thalweg_tensor::ops::{CollectiveKind, Distribution};
use thalweg_tensor::{Graph, Mesh, NodeId, Op};

/// The graph being lowered, what of it lies in memory, and the device that it is for.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub graph: &'a Graph,
    /// For each node, whether it lies in memory.
    pub stored: &'a [bool],
    pub mesh: &'a Mesh,
    pub device: usize,
}

impl Source<'_> {
    /// The sizes of a node's only result.
    pub fn sizes(&self, id: NodeId) -> Vec<usize> {
        self.graph.ty(id).sizes()
    }

    /// The positions by which this device's shard along a mesh axis is shifted, for pieces of `size`.
    pub fn shard_offset(&self, axis: &str, size: usize) -> usize {
        self.mesh.coordinate(self.device, axis) * size
    }
}

/// A value that the kernel itself computes: where it is defined and, once it is, what it is.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub at: Vec<Index>,
    pub value: Option<ValueId>,
    /// Whether it may be computed again where it is used (all but reductions).
    pub repeatable: bool,
}

type Key = (NodeId, Vec<Index>, Option<ValueId>);

/// Where a position that an op maps to lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Inside {
    /// Within its dim wherever the loops are.
    Always,
    /// Within where the value holds.
    Where(ValueId),
    /// Never within.
    Never,
}

/// Writes expressions into a kernel.
pub(crate) struct Emitter<'a> {
    source: Source<'a>,
    pub builder: KernelBuilder,
    extents: BTreeMap<VarId, usize>,
    /// Nodes that are read from memory, with the kernel's buffer for each.
    pub reads: BTreeMap<NodeId, BufferId>,
    pub members: BTreeMap<NodeId, Member>,
    cache: Vec<BTreeMap<Key, ValueId>>,
    guard: Option<ValueId>,
    /// Set when a member is used at other coordinates than it is computed at: the kernel cannot be built so.
    pub conflict: bool,
}

impl<'a> Emitter<'a> {
    pub fn new(source: Source<'a>, name: String) -> Emitter<'a> {
        Emitter {
            source,
            builder: KernelBuilder::new(name),
            extents: BTreeMap::new(),
            reads: BTreeMap::new(),
            members: BTreeMap::new(),
            cache: vec![BTreeMap::new()],
            guard: None,
            conflict: false,
        }
    }

    /// Tells the extent of a loop variable, from which bounds are known.
    pub fn declare(&mut self, var: VarId, extent: usize) {
        self.extents.insert(var, extent);
    }

    /// Where the positions are below their sizes; absent where all always are.
    pub fn inside(&mut self, positions: &[(Index, usize)]) -> Option<ValueId> {
        let mut inside = Inside::Always;
        for (position, size) in positions {
            self.within(position.clone(), 1, *size, &mut inside);
        }
        match inside {
            Inside::Always => None,
            Inside::Where(condition) => Some(condition),
            Inside::Never => panic!("the first position of a range is within"),
        }
    }

    /// Lets what follows hold only where a condition does: loads leave the rest alone, stores have to be guarded by it.
    pub fn restrict(&mut self, guard: Option<ValueId>) {
        self.guard = guard;
    }

    /// Begins a loop body: what is computed in it is not known outside.
    pub fn enter(&mut self) {
        self.cache.push(BTreeMap::new());
    }

    /// Ends a loop body.
    pub fn leave(&mut self) {
        self.cache.pop();
    }

    /// The value of a node at coordinates, in its compute dtype.
    pub fn emit(&mut self, id: NodeId, at: &[Index]) -> ValueId {
        if let Some(member) = self.members.get(&id) {
            match member.value {
                Some(value) if member.at == at => return value,
                _ if member.at != at || !member.repeatable => self.conflict = true,
                Some(_) | None => {}
            }
        }
        if self.conflict {
            let dtype = compute_dtype(self.source.graph.ty(id).dtype);
            return self.builder.constant(dtype, Scalar::zero(dtype));
        }
        let key = (id, at.to_vec(), self.guard);
        if let Some(value) = self.cache.iter().rev().find_map(|scope| scope.get(&key)) {
            return *value;
        }
        let value = match self.source.stored[id.index()] && !self.members.contains_key(&id) {
            true => {
                let linear = self.linearize(at, &self.source.sizes(id));
                self.load(id, linear)
            }
            false => self.compute(id, at),
        };
        self.cache.last_mut().expect("a scope is open").insert(key, value);
        value
    }

    /// The value that a node's op gives, even when the node lies in memory: for the kernel that puts it there.
    pub fn compute(&mut self, id: NodeId, at: &[Index]) -> ValueId {
        let node = self.source.graph.node(id);
        let operands = &node.operands;
        let dtype = self.source.graph.ty(id).dtype;
        match &node.op {
            Op::Constant(constant) => {
                let value = constant.value.uniform_value().expect("uneven constants lie in memory");
                self.builder.constant(compute_dtype(dtype), value)
            }
            Op::Iota(_) => {
                let position = self.builder.index(DType::I32, at[0].clone());
                self.builder.convert(dtype, position)
            }
            Op::Random(random) => {
                let key0 = self.emit(operands[0], &[]);
                let key1 = self.emit(operands[1], &[]);
                let counter = self.emit(operands[2], at);
                let zero = self.builder.i32(0);
                let words = self.builder.threefry([key0, key1], [counter, zero]);
                match random.distribution {
                    Distribution::Uniform => self.builder.uniform(words[0]),
                    Distribution::Normal => self.builder.normal(words),
                }
            }
            Op::Pointwise(op) => {
                let mut args: Vec<ValueId> = operands.iter().map(|operand| self.emit(*operand, at)).collect();
                let narrow = matches!(dtype, DType::I8 | DType::I16);
                if narrow && op.function == PointwiseFn::ShiftRight {
                    // Zeros are moved into the bits of the dtype, not into the thirty-two of the register.
                    let mask = self.builder.i32((1 << (8 * dtype.size_bytes())) - 1);
                    args[0] = self.builder.apply(PointwiseFn::And, &[args[0], mask]);
                }
                let value = self.builder.apply(op.function, &args);
                self.round(dtype, value)
            }
            Op::Convert(_) => {
                let value = self.emit(operands[0], at);
                self.builder.convert(dtype, value)
            }
            Op::Broadcast(op) => {
                let at: Vec<Index> = op.dims.iter().map(|dim| at[*dim].clone()).collect();
                self.emit(operands[0], &at)
            }
            Op::Reshape(_) => {
                let linear = self.linearize(at, &self.source.sizes(id));
                self.emit_linear(operands[0], linear)
            }
            Op::Transpose(op) => {
                let at: Vec<Index> = op.inverse().iter().map(|dim| at[*dim].clone()).collect();
                self.emit(operands[0], &at)
            }
            Op::Slice(op) => {
                let mut at = at.to_vec();
                for range in &op.ranges {
                    at[range.dim] =
                        self.scale(&at[range.dim].clone(), range.stride).offset(range.start.size() as i64);
                }
                self.emit(operands[0], &at)
            }
            Op::Pad(op) => {
                let from = self.source.sizes(operands[0]);
                let mut at = at.to_vec();
                let mut inside = Inside::Always;
                for pad in &op.dims {
                    let shifted = at[pad.dim].clone().offset(-(pad.low.size() as i64));
                    let step = pad.interior + 1;
                    at[pad.dim] = self.within(shifted, step, from[pad.dim], &mut inside);
                }
                self.guarded(inside, operands[0], &at, op.value)
            }
            Op::Unfold(op) => {
                let from = self.source.sizes(operands[0]);
                let (positions, window) = at.split_at(from.len());
                let mut at = positions.to_vec();
                let mut inside = Inside::Always;
                for (window, k) in op.windows.iter().zip(window) {
                    let p = self.scale(&at[window.dim].clone(), window.stride as i64);
                    let k = self.scale(k, window.dilation as i64);
                    let shifted = self.sum(&p, &k).offset(-(window.low as i64));
                    at[window.dim] = self.within(shifted, 1, from[window.dim], &mut inside);
                }
                self.guarded(inside, operands[0], &at, op.value)
            }
            Op::Gather(op) => {
                let size = self.source.sizes(operands[0])[op.dim];
                let index_rank = self.source.graph.ty(operands[1]).rank();
                let chosen = op.dim..op.dim + index_rank - op.batch;
                let index_at = [&at[..op.batch], &at[chosen.clone()]].concat();
                let position = self.position(operands[1], &index_at, size - 1);
                let at = [&at[..op.dim], &[Index::value(position)], &at[chosen.end..]].concat();
                self.emit(operands[0], &at)
            }
            Op::DynamicSlice(op) => {
                let from = self.source.sizes(operands[0]);
                let mut at = at.to_vec();
                for ((dim, size), start) in op.dims.iter().zip(&op.sizes).zip(&operands[1..]) {
                    let start = self.position(*start, &[], from[*dim] - size.size());
                    at[*dim] = self.sum(&at[*dim].clone(), &Index::value(start));
                }
                self.emit(operands[0], &at)
            }
            Op::Collective(op) => {
                let CollectiveKind::Shard { dim } = op.kind else {
                    panic!("results of communication lie in memory");
                };
                let size = self.source.sizes(id)[dim];
                let mut at = at.to_vec();
                at[dim] = at[dim].clone().offset(self.source.shard_offset(&op.axis, size) as i64);
                self.emit(operands[0], &at)
            }
            Op::Concat(_) => {
                // A single operand is itself; several are assembled in memory, one kernel for each.
                assert_eq!(operands.len(), 1, "a concatenation of several lies in memory");
                self.emit(operands[0], at)
            }
            Op::Leaf(_)
            | Op::Scatter(_)
            | Op::Reduce(_)
            | Op::Cumulative(_)
            | Op::Contract(_)
            | Op::Convolve(_)
            | Op::Fold(_)
            | Op::ArgSort(_)
            | Op::DynamicUpdate(_)
            | Op::Scan(_)
            | Op::While(_)
            | Op::Branch(_)
            | Op::Pick(_) => panic!("{} of `{}` lies in memory", id, node.op.name()),
        }
    }

    /// The term that a fold adds for position `at` and window entry `window`: zero where no window covers it so, absent
    /// where that is so for all positions.
    pub fn fold_term(&mut self, id: NodeId, at: &[Index], window: &[Index]) -> Option<ValueId> {
        let node = self.source.graph.node(id);
        let Op::Fold(op) = &node.op else { panic!("{id} is no fold") };
        let from = self.source.sizes(node.operands[0]);
        let mut at = at.to_vec();
        let mut inside = Inside::Always;
        for (own, k) in op.windows.iter().zip(window) {
            let k = self.scale(k, -(own.dilation as i64));
            let shifted = self.sum(&at[own.dim].clone().offset(own.low as i64), &k);
            at[own.dim] = self.within(shifted, own.stride, from[own.dim], &mut inside);
        }
        if inside == Inside::Never {
            return None;
        }
        let at = [&at[..], window].concat();
        let zero = Scalar::zero(self.source.graph.ty(id).dtype);
        Some(self.guarded(inside, node.operands[0], &at, zero))
    }

    /// Rounds or wraps a value of a storage dtype that is kept in a wider register.
    pub fn round(&mut self, dtype: DType, value: ValueId) -> ValueId {
        if compute_dtype(dtype) == dtype { value } else { self.builder.convert(dtype, value) }
    }

    /// The value of a node at a row-major position.
    fn emit_linear(&mut self, id: NodeId, linear: Index) -> ValueId {
        let node = self.source.graph.node(id);
        if self.source.stored[id.index()] && !self.members.contains_key(&id) {
            return self.load(id, linear);
        }
        if matches!(node.op, Op::Reshape(_)) && !self.members.contains_key(&id) {
            return self.emit_linear(node.operands[0], linear);
        }
        let sizes = self.source.sizes(id);
        let mut at = vec![Index::default(); sizes.len()];
        let mut rest = linear;
        for (dim, size) in sizes.iter().enumerate().rev() {
            match dim {
                0 => at[0] = rest.clone(),
                _ => (rest, at[dim]) = self.divide(rest, *size as i64),
            }
        }
        self.emit(id, &at)
    }

    fn load(&mut self, id: NodeId, linear: Index) -> ValueId {
        let ty = self.source.graph.ty(id);
        let builder = &mut self.builder;
        let buffer = *self
            .reads
            .entry(id)
            .or_insert_with(|| builder.buffer(ty.dtype, ty.elements().size(), Access::Read));
        // What is loaded where the guard is off is not used; there is no harm where it can be loaded.
        let (low, high) = self.bounds(&linear);
        let anywhere = low >= 0 && high < ty.elements().size() as i64;
        let builder = &mut self.builder;
        match self.guard.filter(|_| !anywhere) {
            Some(guard) => builder.load_guarded(buffer, linear, guard, Scalar::zero(compute_dtype(ty.dtype))),
            None => builder.load(buffer, linear),
        }
    }

    /// The value of a node where `inside` holds, else `otherwise`.
    fn guarded(&mut self, inside: Inside, id: NodeId, at: &[Index], otherwise: Scalar) -> ValueId {
        let inside = match inside {
            Inside::Always => return self.emit(id, at),
            Inside::Where(condition) => condition,
            Inside::Never => {
                let dtype = compute_dtype(self.source.graph.ty(id).dtype);
                return self.builder.constant(dtype, otherwise);
            }
        };
        let outer = self.guard;
        self.guard = Some(match outer {
            Some(outer) => self.builder.apply(PointwiseFn::And, &[outer, inside]),
            None => inside,
        });
        let value = self.emit(id, at);
        self.guard = outer;
        let dtype = self.builder.dtype(value);
        let otherwise = self.builder.constant(dtype, otherwise);
        self.builder.apply(PointwiseFn::Select, &[inside, value, otherwise])
    }

    /// The position `shifted / step`; adds to `inside` the condition that it is one of `size` positions.
    fn within(&mut self, shifted: Index, step: usize, size: usize, inside: &mut Inside) -> Index {
        let mut conditions = Vec::new();
        let mut position = shifted;
        let (low, high) = self.bounds(&position);
        let mut never = high < 0;
        if low < 0 && !never {
            conditions.push(self.compare(PointwiseFn::Ge, &position, 0));
        }
        if step > 1 {
            // Truncation and floor agree where the position is not negative; elsewhere the guard is false anyway.
            let (quotient, remainder) = self.divide(position, step as i64);
            match self.bounds(&remainder) {
                (0, 0) => {}
                (low, _) if low > 0 => never = true,
                (_, _) => conditions.push(self.compare(PointwiseFn::Eq, &remainder, 0)),
            }
            position = quotient;
        }
        let (low, high) = self.bounds(&position);
        never |= low >= size as i64;
        if high >= size as i64 && !never {
            conditions.push(self.compare(PointwiseFn::Lt, &position, size as i64));
        }
        if never {
            *inside = Inside::Never;
        }
        for condition in conditions {
            *inside = match *inside {
                Inside::Always => Inside::Where(condition),
                Inside::Where(other) => {
                    Inside::Where(self.builder.apply(PointwiseFn::And, &[other, condition]))
                }
                Inside::Never => Inside::Never,
            };
        }
        position
    }

    /// Compares a position with a number. A position of one loop is compared as the loop's own variable, so that positions
    /// along it, which differ by steps and shifts, share what compares them.
    fn compare(&mut self, function: PointwiseFn, index: &Index, bound: i64) -> ValueId {
        let mut bound = bound - index.constant;
        let mut index = Index { constant: 0, ..index.clone() };
        if let ([(var, factor)], None) = (&index.terms[..], index.dynamic)
            && *factor > 1
            && function != PointwiseFn::Eq
        {
            // `factor * i >= bound` and `factor * i < bound` both divide to the next whole number above.
            bound = -(-bound).div_euclid(*factor);
            index = Index::var(*var);
        }
        let (value, bound) = (self.value(&index), self.builder.i32(bound as i32));
        self.builder.apply(function, &[value, bound])
    }

    /// A computed position, clamped into `0..=last`.
    fn position(&mut self, id: NodeId, at: &[Index], last: usize) -> ValueId {
        let value = self.emit(id, at);
        let wide = self.builder.dtype(value);
        let (zero, last) = (
            self.builder.constant(wide, Scalar::Int(0)),
            self.builder.constant(wide, Scalar::Int(last as i128)),
        );
        let clamped = self.builder.apply(PointwiseFn::Max, &[value, zero]);
        let clamped = self.builder.apply(PointwiseFn::Min, &[clamped, last]);
        self.builder.convert(DType::I32, clamped)
    }

    /// A position as an `i32` value.
    fn value(&mut self, index: &Index) -> ValueId {
        self.builder.index(DType::I32, index.clone())
    }

    fn linearize(&mut self, at: &[Index], sizes: &[usize]) -> Index {
        let mut linear = Index::default();
        let mut stride = 1;
        for (index, size) in at.iter().zip(sizes).rev() {
            let scaled = self.scale(index, stride);
            linear = self.sum(&scaled, &linear);
            stride *= *size as i64;
        }
        linear
    }

    fn scale(&mut self, index: &Index, factor: i64) -> Index {
        let mut scaled = Index::constant(index.constant * factor);
        for (var, coefficient) in &index.terms {
            scaled = scaled.plus(*var, coefficient * factor);
        }
        match index.dynamic {
            None => scaled,
            Some(value) if factor == 1 => scaled.with_dynamic(value),
            Some(value) => {
                let factor = self.builder.i32(factor as i32);
                scaled.with_dynamic(self.builder.apply(PointwiseFn::Mul, &[value, factor]))
            }
        }
    }

    fn sum(&mut self, a: &Index, b: &Index) -> Index {
        let mut sum = Index::constant(a.constant + b.constant);
        for (var, coefficient) in a.terms.iter().chain(&b.terms) {
            sum = sum.plus(*var, *coefficient);
        }
        match (a.dynamic, b.dynamic) {
            (Some(x), Some(y)) => sum.with_dynamic(self.builder.apply(PointwiseFn::Add, &[x, y])),
            (Some(x), None) | (None, Some(x)) => sum.with_dynamic(x),
            (None, None) => sum,
        }
    }

    /// The smallest and largest value of a position, as far as loops tell; computed parts may be anything.
    fn bounds(&self, index: &Index) -> (i64, i64) {
        if index.dynamic.is_some() {
            return (i64::MIN, i64::MAX);
        }
        let (mut low, mut high) = (index.constant, index.constant);
        for (var, coefficient) in &index.terms {
            let reach = coefficient * (self.extents[var] as i64 - 1).max(0);
            low += reach.min(0);
            high += reach.max(0);
        }
        (low, high)
    }

    /// Quotient and remainder of a position by a positive divisor; affine where the loops' extents prove it.
    fn divide(&mut self, index: Index, divisor: i64) -> (Index, Index) {
        let mut quotient = Index::constant(index.constant.div_euclid(divisor));
        let mut remainder = Index::constant(index.constant.rem_euclid(divisor));
        for (var, coefficient) in &index.terms {
            match coefficient % divisor {
                0 => quotient = quotient.plus(*var, coefficient / divisor),
                _ => remainder = remainder.plus(*var, *coefficient),
            }
        }
        let (low, high) = self.bounds(&remainder);
        if index.dynamic.is_none() && low >= 0 && high < divisor {
            return (quotient, remainder);
        }
        let (value, by) = (self.value(&index), self.builder.i32(divisor as i32));
        let quotient = self.builder.apply(PointwiseFn::Div, &[value, by]);
        let remainder = self.builder.apply(PointwiseFn::Rem, &[value, by]);
        (Index::value(quotient), Index::value(remainder))
    }
}
