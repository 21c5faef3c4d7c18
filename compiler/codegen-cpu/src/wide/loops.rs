//! Loops: rounds of whole groups, the masked rest, values that go round, lanes combined at the end.

use super::Refusal;
use super::emit::{Emitter, Registers, Value, Var, Vector, parts};
use super::machine::{Arg, Flow, Inst, Label, Mask, Mem, View};
use super::nest::{Item, Nest, accumulates, size};
use super::ops::{Logic, Order, Src, V};
use iced_x86::Code;
use regalloc2::VReg;
use smallvec::smallvec;
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_kernel::Carried;
use thalweg_kernel::analysis::varying;

impl<'a> Emitter<'a> {
    /// How many groups a round of a vector loop covers; none for a loop that stays a loop of single points.
    fn groups(&self, nest: &Nest) -> usize {
        if nest.lanes == 1 || self.vector.is_some() || nest.extent == 1 {
            return 0;
        }
        let fitting = nest.extent / self.level.lanes();
        let allowed = nest.lanes as usize / self.level.lanes();
        // Sums wait for each other, so several of them run side by side; other work overlaps between rounds as it is,
        // and more groups only save the loop's own instructions.
        let (small, pair) = if self.wide() { (16, 48) } else { (8, 24) };
        let wanted = match (!nest.carried.is_empty() || accumulates(&nest.items), size(&nest.items)) {
            (true, values) if values <= pair => 4,
            (false, values) if values <= small => 4,
            (_, values) if values <= pair => 2,
            (true, _) => 2,
            (false, _) => 1,
        };
        // Half of the registers may hold what goes round.
        let room = self.level.vector_registers() / 2 / nest.carried.len().max(1);
        let bounded = wanted.min(fitting).min(allowed).min(room).max(1);
        1 << bounded.ilog2()
    }

    pub(crate) fn range(&mut self, nest: &Nest<'a>, dim: usize) -> Result<(), Refusal> {
        let (lo, hi) = self.ranges[dim];
        let groups = self.groups(nest);
        if groups == 0 {
            return self.counted(nest, lo, hi, 1, None);
        }
        let lanes = self.level.lanes();
        self.varying = varying(nest.var, &[], nest.stmts);
        let mut start = lo;
        if nest.extent >= groups * lanes {
            let step = groups * lanes;
            let span = self.int();
            let args = smallvec![Arg::Tied(View::R64, span, hi), Arg::Use(View::R64, lo)];
            self.push(Code::Sub_r64_rm64, args);
            let whole = self.int();
            let mask = Arg::Imm32Wide(-(step as i32));
            self.push(Code::And_rm64_imm32, smallvec![Arg::Tied(View::R64, whole, span), mask]);
            let split = self.lea(Mem { index: Some((View::R64, whole, 1)), ..Mem::at(lo) });
            let vector = Vector { var: nest.var, groups, tail: None };
            self.counted(nest, lo, split, step, Some(vector))?;
            start = split;
        }
        let vector = Vector { var: nest.var, groups: 1, tail: Some(start) };
        self.counted(nest, start, hi, lanes, Some(vector))?;
        Ok(())
    }

    /// A loop from `lo` in steps while below `hi`, both in registers. A vector loop with a tail computes its mask from what
    /// is left in each round.
    fn counted(
        &mut self,
        nest: &Nest<'a>,
        lo: VReg,
        hi: VReg,
        step: usize,
        vector: Option<Vector>,
    ) -> Result<(), Refusal> {
        let [enter, head, again, done, skip, after] = [(); 6].map(|()| self.m.label());
        self.branch_less(lo, hi, enter, skip);
        self.m.begin(enter, Vec::new(), false);
        let counter = self.int();
        let strides = self.strides(nest);
        let mut args = vec![lo];
        for stride in &strides {
            args.push(self.multiply_int(lo, *stride)?);
        }
        self.m.jump(head, args);
        let products: Vec<VReg> = strides.iter().map(|_| self.int()).collect();
        let params = [&[counter][..], &products].concat();
        self.m.begin(head, params, true);
        let scope = self.enter(nest.var, counter, &strides, &products);
        let outer = (self.vector, vector.is_some());
        if let Some(mut vector) = vector {
            if vector.tail.is_some() {
                vector.tail = Some(self.rest_mask(counter, hi));
            }
            self.vector = Some(vector);
        }
        self.prepare(&nest.items)?;
        self.items(&nest.items)?;
        if outer.1 {
            self.vector = outer.0;
        }
        self.leave(scope);
        let mut nexts = vec![self.lea(Mem::at(counter).plus(step as i32))];
        for (stride, product) in strides.iter().zip(&products) {
            let bytes = i32::try_from(stride * step as i64).map_err(|_| Refusal::Offset)?;
            nexts.push(self.lea(Mem::at(*product).plus(bytes)));
        }
        self.branch_less(nexts[0], hi, again, done);
        self.m.begin(again, Vec::new(), false);
        self.m.jump(head, nexts);
        self.m.begin(done, Vec::new(), false);
        self.m.jump(after, Vec::new());
        self.m.begin(skip, Vec::new(), false);
        self.m.jump(after, Vec::new());
        self.m.begin(after, Vec::new(), false);
        Ok(())
    }

    fn branch_less(&mut self, a: VReg, b: VReg, yes: Label, no: Label) {
        let args = smallvec![Arg::Use(View::R64, a), Arg::Use(View::R64, b)];
        let flow = Flow::IfLess(yes, no);
        self.m.push(Inst { code: Code::Cmp_r64_rm64, args, mask: Mask::All, zeroing: false, flow });
    }

    fn branch_below(&mut self, a: VReg, bound: i32, yes: Label, no: Label) {
        let args = smallvec![Arg::Use(View::R64, a), Arg::Imm32Wide(bound)];
        let flow = Flow::IfLess(yes, no);
        self.m.push(Inst { code: Code::Cmp_rm64_imm32, args, mask: Mask::All, zeroing: false, flow });
    }

    /// The lanes below `hi - counter`, which is from 1 to some hundred.
    fn rest_mask(&mut self, counter: VReg, hi: VReg) -> VReg {
        let rest = self.int();
        self.push(
            Code::Sub_r64_rm64,
            smallvec![Arg::Tied(View::R64, rest, hi), Arg::Use(View::R64, counter)],
        );
        if !self.wide() {
            let spread = self.spread_int(rest, false);
            let lanes = self.lane_numbers(1, 0);
            return self.compare_ints(Order::Gt, spread, lanes);
        }
        // What is left may be more than the 255 that `bzhi` counts to, in a range that is all tail.
        let (ones, bits, mask) = (self.int(), self.int(), self.truth());
        self.push(Code::Mov_r32_imm32, smallvec![Arg::Def(View::R32, ones), Arg::Imm32(-1)]);
        let args = smallvec![Arg::Def(View::R32, bits), Arg::Use(View::R32, ones), Arg::Use(View::R32, rest)];
        self.push(Code::VEX_Bzhi_r32_rm32_r32, args);
        self.push(Code::VEX_Kmovw_kr_r32, smallvec![Arg::Def(View::K, mask), Arg::Use(View::R32, bits)]);
        mask
    }

    /// The first `count` lanes of a group.
    fn known_mask(&mut self, count: usize) -> VReg {
        if self.wide() {
            return self.mask_constant((1 << count) - 1);
        }
        let bytes: Vec<u8> =
            (0..8).flat_map(|lane| (if lane < count { u32::MAX } else { 0 }).to_le_bytes()).collect();
        let (mem, def) = (self.vector_mem(&bytes), self.vector());
        self.push(Code::VEX_Vmovups_ymm_ymmm256, smallvec![Arg::Def(View::Y, def), Arg::Mem(mem)]);
        def
    }

    /// A loop of the body: whole rounds, one masked round for the rest, lanes combined at the end.
    pub(crate) fn inner(&mut self, nest: &Nest<'a>, extent: usize) -> Result<(), Refusal> {
        let groups = self.groups(nest);
        let inits: Vec<Value> = nest.carried.iter().map(|carry| self.value(carry.init)).collect();
        if groups == 0 {
            if let Some(inner) = self.handed_on(nest) {
                let started = self.identities(inner, self.groups(inner));
                let ended = self.rounds(nest, 0, extent, 1, &started)?;
                return self.combined(nest, inner.carried, inits, ended);
            }
            let started: Vec<Value> = nest
                .carried
                .iter()
                .zip(inits)
                .map(|(carry, init)| match self.vector {
                    // Inside a vector loop an accumulator has lanes when its phi varies there.
                    Some(vector) if self.varying.get(carry.phi).is_some() => {
                        Value::Lanes(self.registers(&init, self.dtype(carry.init), vector.groups))
                    }
                    _ => Value::Uniform(self.uniform(&init, self.dtype(carry.init))),
                })
                .collect();
            let ended = self.rounds(nest, 0, extent, 1, &started)?;
            for (carry, value) in nest.carried.iter().zip(ended) {
                self.define(carry.result, value);
            }
            return Ok(());
        }
        let lanes = self.level.lanes();
        let step = groups * lanes;
        let whole = extent / step * step;
        // Lanes come from an outer loop, and go back to it.
        let handed = inits.iter().any(|init| matches!(init, Value::Lanes(_)));
        let mut accumulators = if handed { inits.clone() } else { self.identities(nest, groups) };
        self.varying = varying(nest.var, nest.carried, nest.stmts);
        if whole > 0 {
            self.vector = Some(Vector { var: nest.var, groups, tail: None });
            accumulators = self.rounds(nest, 0, whole, step, &accumulators)?;
        }
        if extent > whole {
            let rest = extent - whole;
            let tail = match rest % lanes {
                0 => None,
                count => Some(self.known_mask(count)),
            };
            let vector = Vector { var: nest.var, groups: rest.div_ceil(lanes), tail };
            self.vector = Some(vector);
            accumulators = self.rest(nest, whole, vector, accumulators)?;
        }
        self.vector = None;
        if handed {
            for (carry, lanes) in nest.carried.iter().zip(accumulators) {
                self.define(carry.result, lanes);
            }
            return Ok(());
        }
        self.combined(nest, nest.carried, inits, accumulators)
    }

    /// The loop that does the work of one without lanes: a vector loop that goes on with what its carried values are, and is
    /// all that makes them. Then lanes need not be combined but at the end of the outer loop.
    fn handed_on<'b>(&self, nest: &'b Nest<'a>) -> Option<&'b Nest<'a>> {
        let Some(Item::Loop(inner)) = nest.items.last() else { return None };
        let only = nest.items.iter().rev().skip(1).all(|item| matches!(item, Item::Let(..)));
        let mut carries = nest.carried.iter().zip(inner.carried);
        let same = nest.carried.len() == inner.carried.len()
            && carries.all(|(outer, own)| own.init == outer.phi && own.result == outer.next);
        // A phi that anything else reads is read as a single value.
        let once = nest.carried.iter().all(|carry| self.uses.get(carry.phi) == Some(&1));
        let fits = only && same && once && !nest.carried.is_empty() && self.vector.is_none();
        (fits && self.groups(inner) > 0).then_some(inner)
    }

    /// Accumulators of a vector loop that change nothing.
    fn identities(&mut self, nest: &Nest<'a>, groups: usize) -> Vec<Value> {
        let identities = nest.carried.iter().map(|carry| {
            let dtype = self.dtype(carry.init);
            let register = self.uniform(&Value::Constant(identity(carry, dtype)), dtype);
            Value::Lanes(smallvec![register; groups * parts(dtype)])
        });
        identities.collect()
    }

    /// Defines the results of a loop from the lanes of its accumulators, which combine as those of `vectors` do, and from
    /// what it began with.
    fn combined(
        &mut self,
        nest: &Nest<'a>,
        vectors: &[Carried],
        inits: Vec<Value>,
        accumulators: Vec<Value>,
    ) -> Result<(), Refusal> {
        for (((carry, of), lanes), init) in nest.carried.iter().zip(vectors).zip(accumulators).zip(inits) {
            let dtype = self.dtype(carry.init);
            let combine = of.combine.expect("verified: carried values of vector loops combine");
            let Value::Lanes(registers) = lanes else { panic!("a vector loop carries lanes") };
            let total = Value::Uniform(self.fold(combine, dtype, registers)?);
            let result = match init == Value::Constant(identity(of, dtype)) {
                true => total,
                false => self.function(combine, dtype, &[init, total], &[0, 0])?,
            };
            self.define(carry.result, result);
        }
        Ok(())
    }

    /// The last, partial round: fewer groups than accumulators have, and lanes beyond the end left as they were.
    fn rest(
        &mut self,
        nest: &Nest<'a>,
        at: usize,
        vector: Vector,
        accumulators: Vec<Value>,
    ) -> Result<Vec<Value>, Refusal> {
        let mut phis = Vec::new();
        for (carry, value) in nest.carried.iter().zip(&accumulators) {
            let Value::Lanes(registers) = value else { panic!("a vector loop carries lanes") };
            let count = vector.groups * parts(self.dtype(carry.init));
            phis.push(Value::Lanes(registers[..count].iter().copied().collect()));
        }
        let nexts = self.round(nest, Var::Known(at as i64), &phis)?;
        let mut results = Vec::new();
        for ((carry, old), next) in nest.carried.iter().zip(accumulators).zip(nexts) {
            let dtype = self.dtype(carry.init);
            let (Value::Lanes(mut registers), Value::Lanes(next)) = (old, next) else {
                panic!("a vector loop carries lanes")
            };
            let parts = parts(dtype);
            for (position, next) in next.iter().enumerate() {
                let kept = registers[position];
                registers[position] = match vector.tail {
                    Some(mask) if position / parts + 1 == vector.groups => {
                        let mask = self.part_of_mask(mask, position % parts);
                        match dtype == DType::Bool {
                            true => self.choose_truth(mask, *next, kept),
                            false => self.blend(mask, parts == 2, Src::Reg(*next), Src::Reg(kept)),
                        }
                    }
                    _ => *next,
                };
            }
            results.push(Value::Lanes(registers));
        }
        Ok(results)
    }

    /// The part of a group's mask for the first or second register of its 64-bit values.
    pub(crate) fn part_of_mask(&mut self, mask: VReg, part: usize) -> VReg {
        if part == 0 { mask } else { self.upper_mask(mask) }
    }

    /// Iterations `lo..hi` in steps that divide their number; none when it is zero.
    fn rounds(
        &mut self,
        nest: &Nest<'a>,
        lo: usize,
        hi: usize,
        step: usize,
        started: &[Value],
    ) -> Result<Vec<Value>, Refusal> {
        // Few short rounds are written out, where positions are known numbers.
        let turns = (hi - lo) / step;
        if turns == 1 || turns <= 9 && turns * size(&nest.items) <= 40 {
            let mut values = started.to_vec();
            for turn in 0..turns {
                values = self.round(nest, Var::Known((lo + turn * step) as i64), &values)?;
            }
            return Ok(values);
        }
        let [head, again, done] = [(); 3].map(|()| self.m.label());
        let counter = self.int();
        let strides = self.strides(nest);
        let flat: Vec<VReg> = started.iter().flat_map(registers_of).copied().collect();
        let mut args = vec![self.int_constant(lo as i64)];
        for stride in &strides {
            args.push(self.int_constant(lo as i64 * stride));
        }
        args.extend(&flat);
        self.m.jump(head, args);
        let products: Vec<VReg> = strides.iter().map(|_| self.int()).collect();
        let phis: Vec<VReg> = flat.iter().map(|reg| self.m.vreg(reg.class())).collect();
        self.m.begin(head, [&[counter][..], &products, &phis].concat(), true);
        let scope = self.enter(nest.var, counter, &strides, &products);
        let phis = regroup(started, &phis);
        let nexts = self.carry_round(nest, &phis)?;
        self.leave(scope);
        let next_flat: Vec<VReg> = nexts.iter().flat_map(registers_of).copied().collect();
        let mut args = vec![self.lea(Mem::at(counter).plus(step as i32))];
        let bound = i32::try_from(hi).map_err(|_| Refusal::Offset)?;
        for (stride, product) in strides.iter().zip(&products) {
            let bytes = i32::try_from(stride * step as i64).map_err(|_| Refusal::Offset)?;
            args.push(self.lea(Mem::at(*product).plus(bytes)));
        }
        self.branch_below(args[0], bound, again, done);
        self.m.begin(again, Vec::new(), false);
        args.extend(&next_flat);
        self.m.jump(head, args);
        self.m.begin(done, Vec::new(), false);
        Ok(nexts)
    }

    /// One round at a known position.
    fn round(&mut self, nest: &Nest<'a>, at: Var, phis: &[Value]) -> Result<Vec<Value>, Refusal> {
        let scope = self.enter_at(nest.var, at);
        let nexts = self.carry_round(nest, phis)?;
        self.leave(scope);
        Ok(nexts)
    }

    /// Binds the phis, emits the body, returns the successors in the phis' layout.
    fn carry_round(&mut self, nest: &Nest<'a>, phis: &[Value]) -> Result<Vec<Value>, Refusal> {
        for (carry, phi) in nest.carried.iter().zip(phis) {
            self.define(carry.phi, phi.clone());
        }
        self.prepare(&nest.items)?;
        self.items(&nest.items)?;
        let mut nexts = Vec::new();
        for (carry, phi) in nest.carried.iter().zip(phis) {
            let (next, dtype) = (self.value(carry.next), self.dtype(carry.next));
            nexts.push(match phi {
                Value::Lanes(registers) => {
                    let groups = registers.len() / parts(dtype);
                    Value::Lanes(self.registers(&next, dtype, groups))
                }
                Value::Uniform(_) | Value::Constant(_) => Value::Uniform(self.uniform(&next, dtype)),
            });
        }
        Ok(nexts)
    }

    /// Combines all lanes; the result fills a register.
    fn fold(
        &mut self,
        combine: PointwiseFn,
        dtype: DType,
        mut registers: Registers,
    ) -> Result<VReg, Refusal> {
        let double = parts(dtype) == 2;
        let extremum = match (combine, dtype.is_float()) {
            (PointwiseFn::Max, true) => Some(if double { V::MaxPd } else { V::MaxPs }),
            (PointwiseFn::Min, true) => Some(if double { V::MinPd } else { V::MinPs }),
            (_, _) => None,
        };
        // Whether there is a NaN is found beside the steps, each of which then is one instruction.
        let mut nan: Option<VReg> = None;
        if extremum.is_some() {
            for two in registers.chunks(2) {
                let second = Src::Reg(*two.last().expect("chunks hold one or two"));
                let found = self.compare_floats(Order::Unordered, double, two[0], second);
                nan = Some(nan.map_or(found, |nan| self.logic(Logic::Or, nan, found)));
            }
        }
        let pair = |e: &mut Self, a: VReg, b: VReg| -> Result<VReg, Refusal> {
            if let Some(op) = extremum {
                return Ok(e.apply(op, a, Src::Reg(b)));
            }
            let operands = [Value::Uniform(a), Value::Uniform(b)];
            let result = e.function(combine, dtype, &operands, &[0, 0])?;
            Ok(e.uniform(&result, dtype))
        };
        while registers.len() > 1 {
            let half = registers.len().div_ceil(2);
            for position in half..registers.len() {
                registers[position - half] = pair(self, registers[position - half], registers[position])?;
            }
            registers.truncate(half);
        }
        let mut total = registers[0];
        if dtype == DType::Bool {
            return self.fold_truth(combine, total);
        }
        let steps: &[(Code, u8)] = match (self.wide(), double) {
            (true, false) => &[
                (Code::EVEX_Vshuff64x2_zmm_k1z_zmm_zmmm512b64_imm8, 0x4e),
                (Code::EVEX_Vshuff64x2_zmm_k1z_zmm_zmmm512b64_imm8, 0xb1),
                (Code::EVEX_Vpermilps_zmm_k1z_zmmm512b32_imm8, 0x4e),
                (Code::EVEX_Vpermilps_zmm_k1z_zmmm512b32_imm8, 0xb1),
            ],
            (true, true) => &[
                (Code::EVEX_Vshuff64x2_zmm_k1z_zmm_zmmm512b64_imm8, 0x4e),
                (Code::EVEX_Vshuff64x2_zmm_k1z_zmm_zmmm512b64_imm8, 0xb1),
                (Code::EVEX_Vpermilpd_zmm_k1z_zmmm512b64_imm8, 0x55),
            ],
            (false, _) => &[
                (Code::VEX_Vperm2f128_ymm_ymm_ymmm256_imm8, 0x01),
                (Code::VEX_Vpermilps_ymm_ymmm256_imm8, 0x4e),
                (Code::VEX_Vpermilps_ymm_ymmm256_imm8, 0xb1),
            ],
        };
        for (code, imm) in steps {
            let two = matches!(
                code,
                Code::EVEX_Vshuff64x2_zmm_k1z_zmm_zmmm512b64_imm8 | Code::VEX_Vperm2f128_ymm_ymm_ymmm256_imm8
            );
            let turned = match two {
                true => self.binary_imm(*code, *code, total, total, *imm),
                false => self.unary_imm(*code, *code, total, *imm),
            };
            total = pair(self, total, turned)?;
        }
        if let Some(nan) = nan {
            let any = self.fold_truth(PointwiseFn::Or, nan)?;
            let value = Self::source(Scalar::Float(f64::NAN), dtype);
            total = self.blend(any, double, value, Src::Reg(total));
        }
        Ok(total)
    }

    /// Combines the lanes of a truth value.
    fn fold_truth(&mut self, combine: PointwiseFn, total: VReg) -> Result<VReg, Refusal> {
        let bits = self.int();
        let code = match self.wide() {
            true => (Code::VEX_Kmovw_r32_kr, View::K),
            false => (Code::VEX_Vmovmskps_r32_ymm, View::Y),
        };
        let negate = matches!(combine, PointwiseFn::And | PointwiseFn::Min);
        let source = if negate { self.not(total) } else { total };
        self.push(code.0, smallvec![Arg::Def(View::R32, bits), Arg::Use(code.1, source)]);
        let any = negate || matches!(combine, PointwiseFn::Or | PointwiseFn::Max);
        let counted = if any {
            bits
        } else if matches!(combine, PointwiseFn::Xor | PointwiseFn::Ne) {
            let (count, odd) = (self.int(), self.int());
            let args = smallvec![Arg::Def(View::R32, count), Arg::Use(View::R32, bits)];
            self.push(Code::Popcnt_r32_rm32, args);
            let args = smallvec![Arg::Tied(View::R64, odd, count), Arg::Imm32Wide(1)];
            self.push(Code::And_rm64_imm32, args);
            odd
        } else {
            return Err(Refusal::Function(combine, DType::Bool));
        };
        let spread = self.spread_int(counted, false);
        let any = self.nonzero(spread);
        Ok(if negate { self.not(any) } else { any })
    }
}

fn identity(carry: &Carried, dtype: DType) -> Scalar {
    let combine = carry.combine.expect("verified: carried values of vector loops combine");
    combine.identity(dtype).expect("verified: the combiner has an identity")
}

fn registers_of(value: &Value) -> &[VReg] {
    match value {
        Value::Uniform(reg) => std::slice::from_ref(reg),
        Value::Lanes(registers) => registers,
        Value::Constant(_) => panic!("carried values are in registers"),
    }
}

/// Splits registers into values of the same layout as `like`.
fn regroup(like: &[Value], mut registers: &[VReg]) -> Vec<Value> {
    like.iter()
        .map(|value| {
            let (own, rest) = registers.split_at(registers_of(value).len());
            registers = rest;
            match value {
                Value::Uniform(_) | Value::Constant(_) => Value::Uniform(own[0]),
                Value::Lanes(_) => Value::Lanes(own.iter().copied().collect()),
            }
        })
        .collect()
}
