//! Addresses, loads and stores.

use crate::emit::Emitter;
use crate::lanes::{Operand, REGISTER_LANES, Shape, register_type};
use cranelift_codegen::ir::{BlockArg, Endianness, InstBuilder, MemFlagsData, Type, Value, types};
use thalweg_base::{DType, Scalar};
use thalweg_kernel::{Index, Place, ValueId, compute_dtype};

/// An address, with a constant number of bytes to add.
#[derive(Clone, Copy)]
struct Address {
    base: Value,
    offset: i32,
}

impl Address {
    fn plus(self, bytes: i32) -> Address {
        Address { base: self.base, offset: self.offset + bytes }
    }
}

fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

/// Lanes of registers of another element size, in the order of memory.
fn lane_order() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

impl Emitter<'_> {
    fn place_base(&self, place: Place) -> Value {
        match place {
            Place::Buffer(id) => self.buffers[id.index()],
            Place::Scratch(id) => self.scratch[id.index()],
        }
    }

    /// `base + size * (index with `dynamic` for its dynamic part, in the given lane)`.
    ///
    /// Terms are added from the outermost loop inwards, so that loop-invariant parts of the sum are expressions of their
    /// own, which Cranelift moves out of loops.
    fn address(
        &mut self,
        base: Value,
        size: i64,
        index: &Index,
        dynamic: Option<Value>,
        lane: i64,
    ) -> Address {
        let mut terms: Vec<_> = index.terms.iter().map(|(var, factor)| (self.var(*var), *factor)).collect();
        terms.sort_by_key(|((_, depth), _)| *depth);
        let innermost = terms.last().map(|((_, depth), _)| *depth);
        let mut sum = base;
        for inner in [false, true] {
            if inner && let Some(dynamic) = dynamic {
                let bytes = self.b.ins().imul_imm_s(dynamic, size);
                sum = self.b.ins().iadd(sum, bytes);
            }
            for ((var, _), factor) in
                terms.iter().filter(|((_, depth), _)| (Some(*depth) == innermost) == inner)
            {
                let bytes = self.b.ins().imul_imm_s(*var, factor * size);
                sum = self.b.ins().iadd(sum, bytes);
            }
        }
        let step = self.vector.map_or(0, |(var, _)| index.coefficient(var));
        let offset = (index.constant + lane * step) * size;
        match i32::try_from(offset) {
            // Room for the registers of a vector access, which add to it.
            Ok(offset) if offset < i32::MAX - 4096 => Address { base: sum, offset },
            Ok(_) | Err(_) => Address { base: self.b.ins().iadd_imm_s(sum, offset), offset: 0 },
        }
    }

    /// A dynamic part as an `i64`, for one lane.
    fn dynamic_lane(&mut self, index: &Index, lane: u32) -> Option<Value> {
        let value = index.dynamic?;
        let dtype = self.dtype(value);
        let scalar = match self.operand(value) {
            Operand::Uniform(scalar) => scalar,
            Operand::Lanes(registers) => {
                let register = registers[(lane / REGISTER_LANES) as usize];
                self.extract(register, dtype, (lane % REGISTER_LANES) as u8)
            }
        };
        Some(if dtype == DType::I64 { scalar } else { self.b.ins().sextend(types::I64, scalar) })
    }

    fn dynamic_varies(&self, index: &Index) -> bool {
        index.dynamic.is_some_and(|value| matches!(self.operand(value), Operand::Lanes(_)))
    }

    /// A position as a value.
    pub(crate) fn position(&mut self, dtype: DType, index: &Index) -> Operand {
        let step = self.vector.map_or(0, |(var, _)| index.coefficient(var));
        let varies = self.dynamic_varies(index);
        let dynamic = if varies { None } else { self.dynamic_lane(index, 0) };
        let zero = self.b.ins().iconst(types::I64, 0);
        let address = self.address(zero, 1, index, dynamic, 0);
        let mut scalar = self.b.ins().iadd_imm_s(address.base, address.offset as i64);
        if dtype == DType::I32 {
            scalar = self.b.ins().ireduce(types::I32, scalar);
        }
        if step == 0 && !varies {
            return Operand::Uniform(scalar);
        }
        let (_, lanes) = self.vector.expect("only vector loops have positions that vary");
        let spread = self.b.ins().splat(types::I32X4, scalar);
        let dynamic = index.dynamic.filter(|_| varies).map(|value| {
            let operand = self.operand(value);
            self.registers(&operand, value)
        });
        let registers = (0..lanes / REGISTER_LANES)
            .map(|register| {
                let steps: Vec<u8> = (0..REGISTER_LANES)
                    .flat_map(|lane| {
                        (((register * REGISTER_LANES + lane) as i64 * step) as i32).to_le_bytes()
                    })
                    .collect();
                let constant = self.b.func.dfg.constants.insert(steps.into());
                let steps = self.b.ins().vconst(types::I32X4, constant);
                let sum = self.b.ins().iadd(spread, steps);
                match &dynamic {
                    Some(dynamic) => self.b.ins().iadd(sum, dynamic[register as usize]),
                    None => sum,
                }
            })
            .collect();
        Operand::Lanes(registers)
    }

    /// A load.
    pub(crate) fn load(
        &mut self,
        place: Place,
        index: &Index,
        guard: Option<ValueId>,
        otherwise: Scalar,
    ) -> Operand {
        let dtype = self.kernel.place_dtype(place);
        let guard = guard.map(|value| self.operand(value));
        let step = self.vector.map_or(0, |(var, _)| index.coefficient(var));
        let guard_varies = matches!(guard, Some(Operand::Lanes(_)));
        if step == 0 && !guard_varies && !self.dynamic_varies(index) {
            let guard = guard.map(scalar_of);
            return Operand::Uniform(self.load_lane(place, index, 0, guard, otherwise));
        }
        let (_, lanes) = self.vector.expect("only vector loops have positions that vary");
        let contiguous = step == 1 && !self.dynamic_varies(index);
        let Some(guard) = guard else {
            return Operand::Lanes(self.load_inside(place, index, contiguous, otherwise, lanes));
        };
        // Most guarded rounds are inside as a whole: one branch, then plain loads.
        let ty = register_type(compute_dtype(dtype), Shape::Vector);
        let (fast, slow, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let results: Vec<_> =
            (0..lanes / REGISTER_LANES).map(|_| self.b.append_block_param(done, ty)).collect();
        let all = self.all_lanes(&guard);
        self.b.ins().brif(all, fast, &[], slow, &[]);
        self.b.switch_to_block(fast);
        let loaded = self.load_inside(place, index, contiguous, otherwise, lanes);
        let loaded: Vec<BlockArg> = loaded.into_iter().map(BlockArg::from).collect();
        self.b.ins().jump(done, &loaded);
        self.b.switch_to_block(slow);
        let patched = match &guard {
            Operand::Uniform(_) => {
                let constant = self.constant(compute_dtype(dtype), otherwise, Shape::Vector);
                vec![constant; results.len()]
            }
            Operand::Lanes(_) => self.gather(place, index, Some(guard), otherwise, lanes),
        };
        let patched: Vec<BlockArg> = patched.into_iter().map(BlockArg::from).collect();
        self.b.ins().jump(done, &patched);
        self.b.switch_to_block(done);
        Operand::Lanes(results)
    }

    /// All lanes of a load that nothing guards.
    fn load_inside(
        &mut self,
        place: Place,
        index: &Index,
        contiguous: bool,
        otherwise: Scalar,
        lanes: u32,
    ) -> Vec<Value> {
        match contiguous {
            true => self.load_contiguous(place, index, lanes),
            false => self.gather(place, index, None, otherwise, lanes),
        }
    }

    fn load_contiguous(&mut self, place: Place, index: &Index, lanes: u32) -> Vec<Value> {
        let dtype = self.kernel.place_dtype(place);
        let dynamic = self.dynamic_lane(index, 0);
        let address = self.address(self.place_base(place), dtype.size_bytes() as i64, index, dynamic, 0);
        let bytes = REGISTER_LANES as i32 * dtype.size_bytes() as i32;
        (0..(lanes / REGISTER_LANES) as i32)
            .map(|register| self.load_register(dtype, address.plus(register * bytes)))
            .collect()
    }

    /// Lane by lane.
    fn gather(
        &mut self,
        place: Place,
        index: &Index,
        guard: Option<Operand>,
        otherwise: Scalar,
        lanes: u32,
    ) -> Vec<Value> {
        let dtype = compute_dtype(self.kernel.place_dtype(place));
        let start = self.constant(dtype, otherwise, Shape::Vector);
        (0..lanes / REGISTER_LANES)
            .map(|register| {
                (0..REGISTER_LANES).fold(start, |filled, lane| {
                    let number = register * REGISTER_LANES + lane;
                    let guard = guard.as_ref().map(|guard| self.guard_lane(guard, number));
                    let scalar = self.load_lane(place, index, number, guard, otherwise);
                    self.insert(filled, dtype, lane as u8, scalar)
                })
            })
            .collect()
    }

    fn guard_lane(&mut self, guard: &Operand, lane: u32) -> Value {
        match guard {
            Operand::Uniform(scalar) => *scalar,
            Operand::Lanes(registers) => {
                let register = registers[(lane / REGISTER_LANES) as usize];
                self.extract(register, DType::Bool, (lane % REGISTER_LANES) as u8)
            }
        }
    }

    /// One element; where `guard` is false the address is replaced by that of the first element.
    fn load_lane(
        &mut self,
        place: Place,
        index: &Index,
        lane: u32,
        guard: Option<Value>,
        otherwise: Scalar,
    ) -> Value {
        let dtype = self.kernel.place_dtype(place);
        if guard.is_some() && self.kernel.place_elements(place) == 0 {
            return self.constant(compute_dtype(dtype), otherwise, Shape::Scalar);
        }
        let dynamic = self.dynamic_lane(index, lane);
        let base = self.place_base(place);
        let address = self.address(base, dtype.size_bytes() as i64, index, dynamic, lane as i64);
        let Some(guard) = guard else { return self.load_scalar(dtype, address) };
        let inside = self.b.ins().iadd_imm_s(address.base, address.offset as i64);
        let safe = self.b.ins().select(guard, inside, base);
        let loaded = self.load_scalar(dtype, Address { base: safe, offset: 0 });
        let otherwise = self.constant(compute_dtype(dtype), otherwise, Shape::Scalar);
        self.b.ins().select(guard, loaded, otherwise)
    }

    fn load_scalar(&mut self, dtype: DType, Address { base, offset }: Address) -> Value {
        match dtype {
            DType::F32 | DType::F64 | DType::I32 | DType::I64 | DType::U64 | DType::Bool => {
                self.b.ins().load(register_type(dtype, Shape::Scalar), flags(), base, offset)
            }
            DType::I8 => self.b.ins().sload8(types::I32, flags(), base, offset),
            DType::I16 => self.b.ins().sload16(types::I32, flags(), base, offset),
            DType::U8 => self.b.ins().uload8(types::I32, flags(), base, offset),
            DType::U16 => self.b.ins().uload16(types::I32, flags(), base, offset),
            DType::U32 => self.b.ins().uload32(flags(), base, offset),
            DType::F16 | DType::BF16 => {
                let bits = self.b.ins().uload16(types::I32, flags(), base, offset);
                self.widen_bits(dtype, bits, Shape::Scalar)
            }
        }
    }

    fn load_register(&mut self, dtype: DType, Address { base, offset }: Address) -> Value {
        match dtype {
            DType::F32 | DType::I32 => {
                self.b.ins().load(register_type(dtype, Shape::Vector), flags(), base, offset)
            }
            DType::I8 | DType::U8 | DType::Bool => {
                let packed = self.b.ins().load(types::I32, flags(), base, offset);
                let vector = self.b.ins().scalar_to_vector(types::I32X4, packed);
                let bytes = self.b.ins().bitcast(types::I8X16, lane_order(), vector);
                if dtype == DType::I8 {
                    let halves = self.b.ins().swiden_low(bytes);
                    self.b.ins().swiden_low(halves)
                } else {
                    let halves = self.b.ins().uwiden_low(bytes);
                    let words = self.b.ins().uwiden_low(halves);
                    match dtype == DType::Bool {
                        true => self.b.ins().ineg(words),
                        false => words,
                    }
                }
            }
            DType::I16 => self.b.ins().sload16x4(flags(), base, offset),
            DType::U16 => self.b.ins().uload16x4(flags(), base, offset),
            DType::F16 | DType::BF16 => {
                let bits = self.b.ins().uload16x4(flags(), base, offset);
                self.widen_bits(dtype, bits, Shape::Vector)
            }
            DType::F64 | DType::I64 | DType::U32 | DType::U64 => panic!("64-bit values have no lanes here"),
        }
    }

    /// A store.
    pub(crate) fn store(&mut self, place: Place, index: &Index, value: ValueId, guard: Option<ValueId>) {
        let guard = guard.map(|guard| self.operand(guard));
        let operand = self.operand(value);
        let step = self.vector.map_or(0, |(var, _)| index.coefficient(var));
        let scalar_position = step == 0 && !self.dynamic_varies(index);
        match (&operand, self.vector) {
            (_, Some((_, lanes))) if !scalar_position => {
                let registers = self.registers(&operand, value);
                let contiguous = step == 1 && !self.dynamic_varies(index);
                match (contiguous, guard) {
                    (false, guard) => self.scatter(place, index, &registers, guard, lanes),
                    (true, None) => self.store_contiguous(place, index, &registers),
                    (true, Some(guard)) => {
                        let all = self.all_lanes(&guard);
                        let (fast, slow, done) =
                            (self.b.create_block(), self.b.create_block(), self.b.create_block());
                        self.b.ins().brif(all, fast, &[], slow, &[]);
                        self.b.switch_to_block(fast);
                        self.store_contiguous(place, index, &registers);
                        self.b.ins().jump(done, &[]);
                        self.b.switch_to_block(slow);
                        if matches!(guard, Operand::Lanes(_)) {
                            self.scatter(place, index, &registers, Some(guard), lanes);
                        }
                        self.b.ins().jump(done, &[]);
                        self.b.switch_to_block(done);
                    }
                }
            }
            (Operand::Uniform(scalar), _) if !matches!(guard, Some(Operand::Lanes(_))) => {
                let guard = guard.map(scalar_of);
                self.store_lane(place, index, 0, *scalar, guard);
            }
            // One place that every lane writes: in order, so that the last one stays.
            (_, vector) => {
                let (_, lanes) = vector.expect("only vector loops have lanes");
                let registers = self.registers(&operand, value);
                self.scatter(place, index, &registers, guard, lanes);
            }
        }
    }

    fn store_contiguous(&mut self, place: Place, index: &Index, registers: &[Value]) {
        let dtype = self.kernel.place_dtype(place);
        let dynamic = self.dynamic_lane(index, 0);
        let address = self.address(self.place_base(place), dtype.size_bytes() as i64, index, dynamic, 0);
        let bytes = REGISTER_LANES as i32 * dtype.size_bytes() as i32;
        for (number, register) in registers.iter().enumerate() {
            self.store_register(dtype, address.plus(number as i32 * bytes), *register);
        }
    }

    fn scatter(
        &mut self,
        place: Place,
        index: &Index,
        registers: &[Value],
        guard: Option<Operand>,
        lanes: u32,
    ) {
        let dtype = compute_dtype(self.kernel.place_dtype(place));
        for number in 0..lanes {
            let register = registers[(number / REGISTER_LANES) as usize];
            let scalar = self.extract(register, dtype, (number % REGISTER_LANES) as u8);
            let guard = guard.as_ref().map(|guard| self.guard_lane(guard, number));
            self.store_lane(place, index, number, scalar, guard);
        }
    }

    fn store_lane(&mut self, place: Place, index: &Index, lane: u32, scalar: Value, guard: Option<Value>) {
        let done = guard.map(|guard| {
            let (inside, done) = (self.b.create_block(), self.b.create_block());
            self.b.ins().brif(guard, inside, &[], done, &[]);
            self.b.switch_to_block(inside);
            done
        });
        let dtype = self.kernel.place_dtype(place);
        let dynamic = self.dynamic_lane(index, lane);
        let Address { base, offset } =
            self.address(self.place_base(place), dtype.size_bytes() as i64, index, dynamic, lane as i64);
        match dtype {
            DType::F32 | DType::F64 | DType::I32 | DType::I64 | DType::U64 | DType::Bool => {
                self.b.ins().store(flags(), scalar, base, offset);
            }
            DType::I8 | DType::U8 => {
                self.b.ins().istore8(flags(), scalar, base, offset);
            }
            DType::I16 | DType::U16 => {
                self.b.ins().istore16(flags(), scalar, base, offset);
            }
            DType::U32 => {
                self.b.ins().istore32(flags(), scalar, base, offset);
            }
            DType::F16 | DType::BF16 => {
                let bits = self.narrow_bits(dtype, scalar, Shape::Scalar);
                self.b.ins().istore16(flags(), bits, base, offset);
            }
        }
        if let Some(done) = done {
            self.b.ins().jump(done, &[]);
            self.b.switch_to_block(done);
        }
    }

    fn store_register(&mut self, dtype: DType, Address { base, offset }: Address, register: Value) {
        let packed = match dtype {
            DType::F32 | DType::I32 => register,
            DType::I8 | DType::U8 | DType::Bool => {
                let mask = if dtype == DType::Bool { 1 } else { 255 };
                let mask = self.constant(DType::I32, Scalar::Int(mask), Shape::Vector);
                let low = self.b.ins().band(register, mask);
                let halves = self.b.ins().unarrow(low, low);
                let bytes = self.b.ins().unarrow(halves, halves);
                self.first_lane(bytes, types::I32X4)
            }
            DType::I16 | DType::U16 => {
                let mask = self.constant(DType::I32, Scalar::Int(0xffff), Shape::Vector);
                let low = self.b.ins().band(register, mask);
                let halves = self.b.ins().unarrow(low, low);
                self.first_lane(halves, types::I64X2)
            }
            DType::F16 | DType::BF16 => {
                let bits = self.narrow_bits(dtype, register, Shape::Vector);
                let halves = self.b.ins().unarrow(bits, bits);
                self.first_lane(halves, types::I64X2)
            }
            DType::F64 | DType::I64 | DType::U32 | DType::U64 => panic!("64-bit values have no lanes here"),
        };
        self.b.ins().store(flags(), packed, base, offset);
    }

    fn first_lane(&mut self, register: Value, ty: Type) -> Value {
        let cast = self.b.ins().bitcast(ty, lane_order(), register);
        self.b.ins().extractlane(cast, 0)
    }

    /// Whether a guard holds in every lane, as an `i8`.
    fn all_lanes(&mut self, guard: &Operand) -> Value {
        match guard {
            Operand::Uniform(scalar) => *scalar,
            Operand::Lanes(registers) => {
                let mut all = registers[0];
                for register in &registers[1..] {
                    all = self.b.ins().band(all, *register);
                }
                self.b.ins().vall_true(all)
            }
        }
    }
}

fn scalar_of(operand: Operand) -> Value {
    match operand {
        Operand::Uniform(scalar) => scalar,
        Operand::Lanes(_) => panic!("a value that does not vary is a scalar"),
    }
}
