//! Control flow: ranges, loops with their main and tail parts, carried values, statements.

use crate::lanes::{LANES_MAX, Operand, REGISTER_LANES, Shape, has_lanes, register_type};
use crate::target::Target;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::immediates::Ieee32;
use cranelift_codegen::ir::{
    BlockArg, InstBuilder, MemFlagsData, StackSlotData, StackSlotKind, Value, types,
};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::FunctionBuilder;
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_kernel::analysis::{ValueMap, dtypes, varying};
use thalweg_kernel::{Carried, Expr, Kernel, Range, Stmt, ValueId, VarId};

/// Writes the body of one function.
pub(crate) struct Emitter<'a> {
    pub(crate) b: FunctionBuilder<'a>,
    pub(crate) kernel: &'a Kernel,
    pub(crate) target: &'a Target,
    config: TargetFrontendConfig,
    pub(crate) dtypes: ValueMap<DType>,
    /// Base addresses.
    pub(crate) buffers: Vec<Value>,
    pub(crate) scratch: Vec<Value>,
    /// The address of the helper table.
    pub(crate) helpers: Value,
    /// Values in scope; entries of bodies that were left are stale and never read.
    pub(crate) values: ValueMap<Operand>,
    /// Constants among them.
    pub(crate) constants: ValueMap<Scalar>,
    /// The `i64` of each loop variable, by id, and how deep its loop is.
    vars: Vec<Option<(Value, usize)>>,
    depth: usize,
    /// The vector loop that is being emitted, and how many lanes a value has there.
    pub(crate) vector: Option<(VarId, u32)>,
    /// The values that have lanes in it.
    varying: ValueMap<()>,
}

/// Where a loop ends.
#[derive(Clone, Copy)]
enum Bound {
    Known(i64),
    Computed(Value),
}

impl<'a> Emitter<'a> {
    pub(crate) fn new(
        b: FunctionBuilder<'a>,
        kernel: &'a Kernel,
        target: &'a Target,
        config: TargetFrontendConfig,
    ) -> Emitter<'a> {
        Emitter {
            b,
            kernel,
            target,
            config,
            dtypes: dtypes(kernel),
            buffers: Vec::new(),
            scratch: Vec::new(),
            helpers: Value::from_u32(0),
            values: ValueMap::default(),
            constants: ValueMap::default(),
            vars: Vec::new(),
            depth: 0,
            vector: None,
            varying: ValueMap::default(),
        }
    }

    /// Emits the whole function.
    pub(crate) fn emit(mut self) {
        let entry = self.b.create_block();
        self.b.append_block_params_for_function_params(entry);
        self.b.switch_to_block(entry);
        let (buffers, ranges) = (self.b.block_params(entry)[0], self.b.block_params(entry)[1]);
        let flags = MemFlagsData::trusted().with_readonly().with_can_move();
        for position in 0..self.kernel.buffers.len() {
            let base = self.b.ins().load(types::I64, flags, buffers, 8 * position as i32);
            self.buffers.push(base);
        }
        self.helpers = self.b.ins().load(types::I64, flags, buffers, 8 * self.kernel.buffers.len() as i32);
        for scratch in &self.kernel.scratch {
            let bytes = (scratch.elements * scratch.dtype.size_bytes()) as u32;
            let slot =
                self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 4));
            let base = self.b.ins().stack_addr(types::I64, slot, 0);
            self.scratch.push(base);
        }
        let bounds: Vec<_> = (0..self.kernel.ranges.len())
            .map(|dim| {
                let lo = self.b.ins().load(types::I64, flags, ranges, 16 * dim as i32);
                let hi = self.b.ins().load(types::I64, flags, ranges, 16 * dim as i32 + 8);
                (lo, hi)
            })
            .collect();
        self.ranges(&self.kernel.ranges, &bounds);
        self.b.ins().return_(&[]);
        self.b.seal_all_blocks();
        self.b.finalize(self.config);
    }

    fn ranges(&mut self, ranges: &'a [Range], bounds: &[(Value, Value)]) {
        let kernel = self.kernel;
        let Some((range, inner)) = ranges.split_first() else {
            self.body(&kernel.body);
            return;
        };
        let (lo, hi) = bounds[0];
        let lanes = self.lanes_of(range.var, &[], &kernel.body, range.lanes, range.extent);
        if inner.is_empty() && lanes > 1 {
            let span = self.b.ins().isub(hi, lo);
            let main = self.b.ins().band_imm_s(span, -(lanes as i64));
            let split = self.b.ins().iadd(lo, main);
            self.vector = Some((range.var, lanes));
            self.varying = varying(range.var, &[], &kernel.body);
            self.loop_over(range.var, lo, Bound::Computed(split), lanes, &[], |e, _| {
                e.body(&kernel.body);
                Vec::new()
            });
            self.vector = None;
            self.loop_over(range.var, split, Bound::Computed(hi), 1, &[], |e, _| {
                e.body(&kernel.body);
                Vec::new()
            });
        } else {
            self.loop_over(range.var, lo, Bound::Computed(hi), 1, &[], |e, _| {
                e.ranges(inner, &bounds[1..]);
                Vec::new()
            });
        }
    }

    /// The lanes that a loop gets: none where a value of 64 bits would have them.
    fn lanes_of(&self, var: VarId, carried: &[Carried], body: &[Stmt], lanes: u32, extent: usize) -> u32 {
        let fitting = if extent == 0 { 1 } else { 1 << extent.ilog2().min(16) };
        let lanes = lanes.min(LANES_MAX).min(fitting);
        if lanes < REGISTER_LANES || self.vector.is_some() {
            return 1;
        }
        let varying = varying(var, carried, body);
        let values_fit = (0..varying.end().0)
            .map(ValueId)
            .filter(|value| varying.get(*value).is_some())
            .all(|value| has_lanes(self.dtype(value)));
        if values_fit && self.stores_fit(body) { lanes } else { 1 }
    }

    /// Whether all stores are of dtypes that can have lanes: a 64-bit value may go to many places without varying itself.
    fn stores_fit(&self, body: &[Stmt]) -> bool {
        body.iter().all(|stmt| match stmt {
            Stmt::Let { .. } => true,
            Stmt::Store { value, .. } => has_lanes(self.dtype(*value)),
            Stmt::Loop { body, .. } => self.stores_fit(body),
        })
    }

    /// Emits a loop from `lo` in steps of `step` while below `hi`, a whole number of steps away. Values are handed from
    /// one round to the next, each one register; those after the last round are returned.
    fn loop_over(
        &mut self,
        var: VarId,
        lo: Value,
        hi: Bound,
        step: u32,
        carried: &[Value],
        body: impl FnOnce(&mut Self, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let header = self.b.create_block();
        let exit = self.b.create_block();
        let counter = self.b.append_block_param(header, types::I64);
        let mut phis = Vec::new();
        let mut results = Vec::new();
        for value in carried {
            let ty = self.b.func.dfg.value_type(*value);
            phis.push(self.b.append_block_param(header, ty));
            results.push(self.b.append_block_param(exit, ty));
        }
        let entering: Vec<BlockArg> =
            std::iter::once(lo).chain(carried.iter().copied()).map(BlockArg::from).collect();
        match hi {
            // A known bound is above the start: the caller leaves empty loops out.
            Bound::Known(_) => {
                self.b.ins().jump(header, &entering);
            }
            Bound::Computed(hi) => {
                let any = self.b.ins().icmp(IntCC::SignedLessThan, lo, hi);
                self.b.ins().brif(any, header, &entering, exit, &entering[1..]);
            }
        }
        self.b.switch_to_block(header);
        self.depth += 1;
        self.set_var(var, counter);
        let nexts = body(self, &phis);
        self.depth -= 1;
        let counter = self.b.ins().iadd_imm_s(counter, step as i64);
        let more = match hi {
            Bound::Known(hi) => self.b.ins().icmp_imm_s(IntCC::SignedLessThan, counter, hi),
            Bound::Computed(hi) => self.b.ins().icmp(IntCC::SignedLessThan, counter, hi),
        };
        let again: Vec<BlockArg> = std::iter::once(counter).chain(nexts).map(BlockArg::from).collect();
        self.b.ins().brif(more, header, &again, exit, &again[1..]);
        self.b.switch_to_block(exit);
        results
    }

    fn set_var(&mut self, var: VarId, value: Value) {
        if self.vars.len() <= var.index() {
            self.vars.resize(var.index() + 1, None);
        }
        self.vars[var.index()] = Some((value, self.depth));
    }

    /// The `i64` of a loop variable (of lane 0 in a vector loop) and how deep its loop is.
    pub(crate) fn var(&self, var: VarId) -> (Value, usize) {
        self.vars[var.index()].expect("verified: loop variables are in scope")
    }

    fn body(&mut self, body: &'a [Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Let { value, expr } => {
                    if let Expr::Constant(_, constant) = expr {
                        self.constants.insert(*value, *constant);
                    }
                    let operand = self.expr(expr);
                    self.values.insert(*value, operand);
                }
                Stmt::Store { place, index, value, guard } => self.store(*place, index, *value, *guard),
                Stmt::Loop { var, extent, lanes, carried, body } => {
                    self.inner_loop(*var, *extent, *lanes, carried, body);
                }
            }
        }
    }

    fn inner_loop(
        &mut self,
        var: VarId,
        extent: usize,
        lanes: u32,
        carried: &'a [Carried],
        body: &'a [Stmt],
    ) {
        let lanes = self.lanes_of(var, carried, body, lanes, extent);
        let inits: Vec<_> = carried.iter().map(|carry| self.operand(carry.init)).collect();
        let results = match self.vector {
            // Inside a vector loop an accumulator has lanes when its phi varies there.
            Some(_) => {
                let inits = carried
                    .iter()
                    .zip(inits)
                    .map(|(carry, init)| match self.varying.get(carry.phi) {
                        Some(()) => Operand::Lanes(self.registers(&init, carry.init)),
                        None => init,
                    })
                    .collect();
                self.span(var, 0, extent as i64, 1, carried, body, inits)
            }
            None => self.span(var, 0, extent as i64, lanes, carried, body, inits),
        };
        for (carry, result) in carried.iter().zip(results) {
            self.values.insert(carry.result, result);
        }
    }

    /// Iterations `lo..hi`: as many as fill `lanes`, then the rest with fewer lanes.
    #[allow(clippy::too_many_arguments, reason = "a loop with its bounds, which calls itself for the rest")]
    fn span(
        &mut self,
        var: VarId,
        lo: i64,
        hi: i64,
        lanes: u32,
        carried: &'a [Carried],
        body: &'a [Stmt],
        inits: Vec<Operand>,
    ) -> Vec<Operand> {
        let rounds = (hi - lo) / lanes as i64;
        if rounds == 0 {
            return match hi == lo {
                true => inits,
                false => self.span(var, lo, hi, narrower(hi - lo), carried, body, inits),
            };
        }
        let split = lo + rounds * lanes as i64;
        let started: Vec<Operand> = match lanes {
            1 => inits,
            _ => carried.iter().zip(inits).map(|(carry, init)| self.spread(carry, init, lanes)).collect(),
        };
        let start = self.b.ins().iconst(types::I64, lo);
        if lanes > 1 {
            self.vector = Some((var, lanes));
            self.varying = varying(var, carried, body);
        }
        let ended = if rounds == 1 {
            self.set_var(var, start);
            self.round(carried, body, &started)
        } else {
            let flat: Vec<Value> = started.iter().flat_map(registers_of).copied().collect();
            let end = Bound::Known(split);
            let results = self.loop_over(var, start, end, lanes, &flat, |e, phis| {
                let phis = regroup(&started, phis);
                let nexts = e.round(carried, body, &phis);
                nexts.iter().flat_map(registers_of).copied().collect()
            });
            regroup(&started, &results)
        };
        let folded = match lanes {
            1 => ended,
            _ => {
                self.vector = None;
                carried.iter().zip(ended).map(|(carry, lanes)| self.fold(carry, lanes)).collect()
            }
        };
        match hi - split {
            0 => folded,
            rest => self.span(var, split, hi, narrower(rest).min(lanes), carried, body, folded),
        }
    }

    /// One iteration, or one of each lane: binds the phis, emits the body, returns the successors in the phis' layout.
    fn round(&mut self, carried: &'a [Carried], body: &'a [Stmt], phis: &[Operand]) -> Vec<Operand> {
        for (carry, phi) in carried.iter().zip(phis) {
            self.values.insert(carry.phi, phi.clone());
        }
        self.body(body);
        carried
            .iter()
            .zip(phis)
            .map(|(carry, phi)| {
                let next = self.operand(carry.next);
                match phi {
                    Operand::Uniform(_) => next,
                    Operand::Lanes(_) => Operand::Lanes(self.registers(&next, carry.next)),
                }
            })
            .collect()
    }

    /// Lane 0 from the initial value, the others from the identity.
    fn spread(&mut self, carry: &Carried, init: Operand, lanes: u32) -> Operand {
        let dtype = self.dtype(carry.init);
        let combine = carry.combine.expect("verified: carried values of vector loops combine");
        let identity = combine.identity(dtype).expect("verified: the combiner has an identity");
        let Operand::Uniform(init) = init else { panic!("vector loops do not nest") };
        let others = self.constant(dtype, identity, Shape::Vector);
        let lane = match dtype {
            DType::Bool => self.mask_of_scalar(init),
            DType::F32 | DType::I32 => init,
            DType::F64
            | DType::I64
            | DType::U64
            | DType::F16
            | DType::BF16
            | DType::I8
            | DType::I16
            | DType::U8
            | DType::U16
            | DType::U32 => {
                panic!("{dtype} has no lanes")
            }
        };
        let first = self.b.ins().insertlane(others, lane, 0);
        let mut registers = vec![others; (lanes / REGISTER_LANES) as usize];
        registers[0] = first;
        Operand::Lanes(registers)
    }

    /// Combines all lanes into one scalar.
    fn fold(&mut self, carry: &Carried, lanes: Operand) -> Operand {
        let Operand::Lanes(mut registers) = lanes else { panic!("a vector loop carries lanes") };
        let combine = carry.combine.expect("verified: carried values of vector loops combine");
        let dtype = self.dtype(carry.init);
        while registers.len() > 1 {
            let upper = registers.split_off(registers.len() / 2);
            for (low, high) in registers.iter_mut().zip(upper) {
                *low = self.function(combine, dtype, &[*low, high], Shape::Vector);
            }
        }
        let mut scalars: Vec<_> =
            (0..REGISTER_LANES as u8).map(|lane| self.extract(registers[0], dtype, lane)).collect();
        while scalars.len() > 1 {
            let upper = scalars.split_off(scalars.len() / 2);
            for (low, high) in scalars.iter_mut().zip(upper) {
                *low = self.function(combine, dtype, &[*low, high], Shape::Scalar);
            }
        }
        Operand::Uniform(scalars[0])
    }

    fn expr(&mut self, expr: &Expr) -> Operand {
        match expr {
            Expr::Constant(dtype, value) => Operand::Uniform(self.constant(*dtype, *value, Shape::Scalar)),
            Expr::Index(dtype, index) => self.position(*dtype, index),
            Expr::Load { place, index, guard, otherwise } => self.load(*place, index, *guard, *otherwise),
            Expr::Pointwise(function, operands) => self.pointwise(*function, operands),
            Expr::Convert(dtype, value) => {
                let from = self.dtype(*value);
                let operand = self.operand(*value);
                self.map(operand, |e, register, shape| e.convert(register, from, *dtype, shape))
            }
            Expr::Bitcast(dtype, value) => {
                let operand = self.operand(*value);
                self.map(operand, |e, register, shape| {
                    let ty = register_type(*dtype, shape);
                    e.b.ins().bitcast(ty, MemFlagsData::new(), register)
                })
            }
        }
    }

    fn pointwise(&mut self, function: PointwiseFn, operands: &[ValueId]) -> Operand {
        let dtype = self.dtype(*operands.last().expect("functions have operands"));
        let values: Vec<_> = operands.iter().map(|operand| self.operand(*operand)).collect();
        let Some(count) = values.iter().find_map(|value| match value {
            Operand::Uniform(_) => None,
            Operand::Lanes(registers) => Some(registers.len()),
        }) else {
            let scalars: Vec<_> = values.iter().flat_map(registers_of).copied().collect();
            let constant = self.constants.get(*operands.last().expect("functions have operands")).copied();
            return Operand::Uniform(self.function_with(function, dtype, &scalars, Shape::Scalar, constant));
        };
        let constant = self.constants.get(*operands.last().expect("functions have operands")).copied();
        if let (PointwiseFn::ShiftLeft | PointwiseFn::ShiftRight, Some(amount)) = (function, constant) {
            let registers = registers_of(&values[0]).to_vec();
            return Operand::Lanes(
                registers
                    .iter()
                    .map(|x| self.shift_known(function, *x, amount.to_i64(), Shape::Vector))
                    .collect(),
            );
        }
        let spread: Vec<_> =
            values.iter().zip(operands).map(|(value, operand)| self.registers(value, *operand)).collect();
        let registers = (0..count)
            .map(|register| {
                let arguments: Vec<_> = spread.iter().map(|operand| operand[register]).collect();
                self.function_with(function, dtype, &arguments, Shape::Vector, constant)
            })
            .collect();
        Operand::Lanes(registers)
    }

    /// Applies `f` to every register.
    pub(crate) fn map(
        &mut self,
        operand: Operand,
        mut f: impl FnMut(&mut Self, Value, Shape) -> Value,
    ) -> Operand {
        match operand {
            Operand::Uniform(value) => Operand::Uniform(f(self, value, Shape::Scalar)),
            Operand::Lanes(registers) => Operand::Lanes(
                registers.into_iter().map(|register| f(self, register, Shape::Vector)).collect(),
            ),
        }
    }

    pub(crate) fn dtype(&self, value: ValueId) -> DType {
        *self.dtypes.get(value).expect("every value has a dtype")
    }

    pub(crate) fn operand(&self, value: ValueId) -> Operand {
        self.values.get(value).expect("verified: values are defined before their uses").clone()
    }

    /// The registers of a value of the vector loop being emitted, one scalar spread to all lanes.
    pub(crate) fn registers(&mut self, operand: &Operand, value: ValueId) -> Vec<Value> {
        match operand {
            Operand::Lanes(registers) => registers.clone(),
            Operand::Uniform(scalar) => {
                let (_, lanes) = self.vector.expect("registers are asked for in vector loops");
                let dtype = self.dtype(value);
                let register = match self.constants.get(value).copied() {
                    Some(constant) => self.constant(dtype, constant, Shape::Vector),
                    None => self.splat(*scalar, dtype),
                };
                vec![register; (lanes / REGISTER_LANES) as usize]
            }
        }
    }

    /// All lanes the same.
    pub(crate) fn splat(&mut self, scalar: Value, dtype: DType) -> Value {
        let lane = if dtype == DType::Bool { self.mask_of_scalar(scalar) } else { scalar };
        self.b.ins().splat(register_type(dtype, Shape::Vector), lane)
    }

    /// 0 or 1 as an `i8` to 0 or -1 as an `i32`.
    pub(crate) fn mask_of_scalar(&mut self, scalar: Value) -> Value {
        let wide = self.b.ins().uextend(types::I32, scalar);
        self.b.ins().ineg(wide)
    }

    /// One lane as a scalar.
    pub(crate) fn extract(&mut self, register: Value, dtype: DType, lane: u8) -> Value {
        let scalar = self.b.ins().extractlane(register, lane);
        match dtype == DType::Bool {
            true => self.b.ins().icmp_imm_s(IntCC::NotEqual, scalar, 0),
            false => scalar,
        }
    }

    /// Puts a scalar into one lane.
    pub(crate) fn insert(&mut self, register: Value, dtype: DType, lane: u8, scalar: Value) -> Value {
        let scalar = if dtype == DType::Bool { self.mask_of_scalar(scalar) } else { scalar };
        self.b.ins().insertlane(register, scalar, lane)
    }

    /// A constant of a compute dtype.
    pub(crate) fn constant(&mut self, dtype: DType, value: Scalar, shape: Shape) -> Value {
        match (dtype, shape) {
            (DType::F32, Shape::Scalar) => {
                self.b.ins().f32const(Ieee32::with_bits((value.to_f64() as f32).to_bits()))
            }
            (DType::F64, Shape::Scalar) => self.b.ins().f64const(value.to_f64()),
            (DType::I32, Shape::Scalar) => {
                self.b.ins().iconst(types::I32, value.to_i64() as i32 as u32 as i64)
            }
            (DType::I64 | DType::U64, Shape::Scalar) => self.b.ins().iconst(types::I64, value.to_i64()),
            (DType::Bool, Shape::Scalar) => self.b.ins().iconst(types::I8, (value.to_i64() != 0) as i64),
            (DType::F32, Shape::Vector) => {
                self.vector_constant(types::F32X4, (value.to_f64() as f32).to_bits())
            }
            (DType::I32, Shape::Vector) => self.vector_constant(types::I32X4, value.to_i64() as u32),
            (DType::Bool, Shape::Vector) => {
                self.vector_constant(types::I32X4, if value.to_i64() != 0 { u32::MAX } else { 0 })
            }
            (DType::F64 | DType::I64 | DType::U64, Shape::Vector)
            | (
                DType::F16 | DType::BF16 | DType::I8 | DType::I16 | DType::U8 | DType::U16 | DType::U32,
                Shape::Scalar | Shape::Vector,
            ) => {
                panic!("no {dtype} constant has the shape {shape:?}")
            }
        }
    }

    fn vector_constant(&mut self, ty: cranelift_codegen::ir::Type, bits: u32) -> Value {
        let bytes: Vec<u8> =
            std::iter::repeat_n(bits.to_le_bytes(), REGISTER_LANES as usize).flatten().collect();
        let constant = self.b.func.dfg.constants.insert(bytes.into());
        self.b.ins().vconst(ty, constant)
    }
}

/// The widest lanes that a rest of a loop can fill: 4 or 1.
fn narrower(rest: i64) -> u32 {
    if rest >= REGISTER_LANES as i64 { REGISTER_LANES } else { 1 }
}

fn registers_of(operand: &Operand) -> &[Value] {
    match operand {
        Operand::Uniform(value) => std::slice::from_ref(value),
        Operand::Lanes(registers) => registers,
    }
}

/// Splits registers into operands of the same layout as `like`.
fn regroup(like: &[Operand], mut registers: &[Value]) -> Vec<Operand> {
    like.iter()
        .map(|operand| {
            let (own, rest) = registers.split_at(registers_of(operand).len());
            registers = rest;
            match operand {
                Operand::Uniform(_) => Operand::Uniform(own[0]),
                Operand::Lanes(_) => Operand::Lanes(own.to_vec()),
            }
        })
        .collect()
}
