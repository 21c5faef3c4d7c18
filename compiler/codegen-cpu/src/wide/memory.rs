//! Loads and stores: contiguous, the same for all lanes, gathered and scattered, each with or without a mask.

use super::Refusal;
use super::emit::{Emitter, Registers, Value, parts};
use super::machine::{Arg, Flow, Inst, Mask, Mem, View};
use super::ops::{Logic, Src, V};
use iced_x86::Code;
use regalloc2::VReg;
use smallvec::smallvec;
use thalweg_base::{DType, Scalar};
use thalweg_kernel::ir::{Index, compute_dtype};
use thalweg_kernel::{Place, Stmt, ValueId};

impl Emitter<'_> {
    /// Element `lane 0` of an integer value, as a 64-bit register.
    pub(crate) fn extract_int(&mut self, value: ValueId) -> Result<VReg, Refusal> {
        let dtype = self.dtype(value);
        let operand = self.value(value);
        if let Value::Constant(constant) = operand {
            return Ok(self.int_constant(constant.to_i64()));
        }
        let register = self.uniform(&operand, dtype);
        let wide = self.wide();
        let low = self.int();
        if dtype == DType::I64 {
            let args = smallvec![Arg::Def(View::R64, low), Arg::Use(View::X, register)];
            self.push(Code::EVEX_Vmovq_rm64_xmm, args);
            return Ok(low);
        }
        let code = if wide { Code::EVEX_Vmovd_rm32_xmm } else { Code::VEX_Vmovd_rm32_xmm };
        self.push(code, smallvec![Arg::Def(View::R32, low), Arg::Use(View::X, register)]);
        let def = self.int();
        let args = smallvec![Arg::Def(View::R64, def), Arg::Use(View::R32, low)];
        self.push(Code::Movsxd_r64_rm32, args);
        Ok(def)
    }

    fn dynamic_varies(&self, index: &Index) -> bool {
        index.dynamic.is_some_and(|value| matches!(self.value(value), Value::Lanes(_)))
    }

    /// The lanes of a group that a guard and the end of the loop leave on; absent where all are.
    pub(crate) fn mask(&mut self, guard: Option<&Value>, group: usize) -> Option<VReg> {
        let vector = self.vector.expect("groups are those of a vector loop");
        let tail = vector.tail.filter(|_| group + 1 == vector.groups);
        let guard = guard.map(|guard| match guard {
            Value::Lanes(registers) => registers[group],
            Value::Constant(_) | Value::Uniform(_) => self.uniform(guard, DType::Bool),
        });
        self.both(guard, tail)
    }

    /// A load.
    pub(crate) fn load(
        &mut self,
        place: Place,
        index: &Index,
        guard: Option<ValueId>,
        otherwise: Scalar,
    ) -> Result<Value, Refusal> {
        let dtype = self.kernel.place_dtype(place);
        let guard =
            guard.map(|guard| self.value(guard)).filter(|guard| *guard != Value::Constant(Scalar::Int(1)));
        let guarded = guard.is_some();
        let step = self.vector.map_or(0, |vector| index.coefficient(vector.var));
        let dynamic_varies = self.dynamic_varies(index);
        let guard_varies = matches!(guard, Some(Value::Lanes(_)));
        if step == 0 && !dynamic_varies && !guard_varies {
            let mask = guard.map(|guard| self.uniform(&guard, DType::Bool));
            let mem = self.address(place, index)?;
            let loaded = self.load_same(dtype, mem, mask)[0];
            return Ok(Value::Uniform(match mask {
                Some(mask) => self.patch(dtype, loaded, mask, otherwise, 0),
                None => loaded,
            }));
        }
        let vector = self.vector.expect("only vector loops have positions that vary");
        let mut registers = Registers::new();
        // One element for the lanes that a guard leaves on: a masked broadcast, where there is one for the lanes' width.
        let same = step == 0 && self.wide() && parts(compute_dtype(dtype)) == 1;
        let steps = !dynamic_varies && self.steps(dtype, step);
        if (dynamic_varies || step != 1 && !same) && !steps {
            let (mem, positions) = self.positions(place, index, step, dynamic_varies)?;
            for group in 0..vector.groups {
                let mask = self.mask(guard.as_ref(), group);
                registers.extend(self.gather(dtype, mem, positions[group], mask, otherwise)?);
            }
            return Ok(Value::Lanes(registers));
        }
        let mem = self.address(place, index)?;
        for group in 0..vector.groups {
            let mask = self.mask(guard.as_ref(), group);
            let loaded = match step {
                0 => self.load_same(dtype, mem, mask),
                _ if steps => {
                    let bytes = step as usize * group * self.level.lanes() * dtype.size_bytes();
                    smallvec![self.load_stepping(mem.plus(bytes as i32), step as usize, mask)]
                }
                _ => {
                    let bytes = group * self.level.lanes() * dtype.size_bytes();
                    self.load_contiguous(dtype, mem.plus(bytes as i32), mask)
                }
            };
            for (part, register) in loaded.into_iter().enumerate() {
                registers.push(match mask {
                    Some(mask) if guarded => self.patch(dtype, register, mask, otherwise, part),
                    _ => register,
                });
            }
        }
        Ok(Value::Lanes(registers))
    }

    /// Puts `otherwise` where the mask is off and zero was loaded.
    fn patch(&mut self, dtype: DType, loaded: VReg, mask: VReg, otherwise: Scalar, part: usize) -> VReg {
        let dtype = compute_dtype(dtype);
        if dtype == DType::Bool {
            return match otherwise.to_i64() != 0 {
                true => {
                    let off = self.not(mask);
                    self.logic(Logic::Or, loaded, off)
                }
                false => loaded,
            };
        }
        let otherwise = Self::source(otherwise, dtype);
        if matches!(otherwise, Src::Bits32(0) | Src::Bits64(0)) {
            return loaded;
        }
        let mask = self.part_of_mask(mask, part);
        let otherwise = Src::Reg(self.reg(otherwise));
        self.blend(mask, parts(dtype) == 2, Src::Reg(loaded), otherwise)
    }

    fn load_one(&mut self, code: Code, view: View, mem: Mem, mask: Option<VReg>) -> VReg {
        let def = self.vector();
        let args = smallvec![Arg::Def(view, def), Arg::Mem(mem)];
        match mask {
            Some(mask) => self.push_masked(code, args, mask, true),
            None => self.push(code, args),
        }
        def
    }

    /// One element in all lanes; zero where the mask is off. AVX2 masks are the same in all lanes here.
    fn load_same(&mut self, dtype: DType, mem: Mem, mask: Option<VReg>) -> Registers {
        if !self.wide() {
            let Some(mask) = mask else {
                return smallvec![self.load_one(Code::VEX_Vbroadcastss_ymm_m32, View::Y, mem, None)];
            };
            let first = self.first_lane(mask);
            let def = self.vector();
            let args = smallvec![Arg::Def(View::X, def), Arg::Use(View::X, first), Arg::Mem(mem)];
            self.push(Code::VEX_Vmaskmovps_xmm_xmm_m128, args);
            let spread = self.resize(Code::VEX_Vbroadcastss_ymm_xmm, View::Y, View::X, def);
            return smallvec![spread];
        }
        let (code, view) = match dtype {
            DType::F32 | DType::I32 => (Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32, View::Z),
            DType::F64 | DType::I64 | DType::U64 => (Code::EVEX_Vbroadcastsd_zmm_k1z_xmmm64, View::Z),
            DType::I8 | DType::U8 | DType::Bool => (Code::EVEX_Vpbroadcastb_xmm_k1z_xmmm8, View::X),
            DType::I16 | DType::U16 | DType::F16 | DType::BF16 => {
                (Code::EVEX_Vpbroadcastw_ymm_k1z_xmmm16, View::Y)
            }
            DType::U32 => (Code::EVEX_Vpbroadcastd_ymm_k1z_xmmm32, View::Y),
        };
        let loaded = self.load_one(code, view, mem, mask);
        smallvec![match dtype {
            DType::F32 | DType::I32 | DType::F64 | DType::I64 | DType::U64 => loaded,
            DType::I8 => self.resize(Code::EVEX_Vpmovsxbd_zmm_k1z_xmmm128, View::Z, View::X, loaded),
            DType::U8 => self.resize(Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128, View::Z, View::X, loaded),
            DType::Bool => self.nonzero_bytes(loaded),
            DType::I16 => self.resize(Code::EVEX_Vpmovsxwd_zmm_k1z_ymmm256, View::Z, View::Y, loaded),
            DType::U16 => self.resize(Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256, View::Z, View::Y, loaded),
            DType::U32 => self.resize(Code::EVEX_Vpmovzxdq_zmm_k1z_ymmm256, View::Z, View::Y, loaded),
            DType::F16 => self.resize(Code::EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae, View::Z, View::Y, loaded),
            DType::BF16 => {
                let wide = self.resize(Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256, View::Z, View::Y, loaded);
                self.shift_left(wide, 16)
            }
        }]
    }

    pub(crate) fn shift_left(&mut self, a: VReg, bits: u8) -> VReg {
        let codes = (Code::EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8, Code::VEX_Vpslld_ymm_ymm_imm8);
        self.unary_imm(codes.0, codes.1, a, bits)
    }

    /// The mask without all lanes but the first.
    fn first_lane(&mut self, mask: VReg) -> VReg {
        let mut bytes = vec![0; 32];
        bytes[..4].fill(0xff);
        let first = self.load_vector(&bytes);
        self.apply(V::AndD, mask, Src::Reg(first))
    }

    fn nonzero_bytes(&mut self, bytes: VReg) -> VReg {
        let def = self.truth();
        let args = smallvec![Arg::Def(View::K, def), Arg::Use(View::X, bytes), Arg::Use(View::X, bytes)];
        self.push(Code::EVEX_Vptestmb_kr_k1_xmm_xmmm128, args);
        def
    }

    /// A group of elements next to each other; zero where the mask is off.
    fn load_contiguous(&mut self, dtype: DType, mem: Mem, mask: Option<VReg>) -> Registers {
        if !self.wide() {
            let Some(mask) = mask else {
                return smallvec![self.load_one(Code::VEX_Vmovups_ymm_ymmm256, View::Y, mem, None)];
            };
            let def = self.vector();
            let args = smallvec![Arg::Def(View::Y, def), Arg::Use(View::Y, mask), Arg::Mem(mem)];
            self.push(Code::VEX_Vmaskmovps_ymm_ymm_m256, args);
            return smallvec![def];
        }
        let code = match dtype {
            DType::F32 | DType::I32 => Code::EVEX_Vmovups_zmm_k1z_zmmm512,
            DType::F64 | DType::I64 | DType::U64 => Code::EVEX_Vmovupd_zmm_k1z_zmmm512,
            DType::U32 => Code::EVEX_Vpmovzxdq_zmm_k1z_ymmm256,
            DType::I8 => Code::EVEX_Vpmovsxbd_zmm_k1z_xmmm128,
            DType::U8 => Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128,
            DType::I16 => Code::EVEX_Vpmovsxwd_zmm_k1z_ymmm256,
            DType::U16 | DType::BF16 => Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256,
            DType::F16 => Code::EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae,
            DType::Bool => {
                let bytes = self.load_one(Code::EVEX_Vmovdqu8_xmm_k1z_xmmm128, View::X, mem, mask);
                return smallvec![self.nonzero_bytes(bytes)];
            }
        };
        let parts = parts(compute_dtype(dtype));
        (0..parts)
            .map(|part| {
                let mask = mask.map(|mask| self.part_of_mask(mask, part));
                let mem = mem.plus((part * 8 * dtype.size_bytes()) as i32);
                let loaded = self.load_one(code, View::Z, mem, mask);
                if dtype == DType::BF16 { self.shift_left(loaded, 16) } else { loaded }
            })
            .collect()
    }

    /// A base and, for each group, the 32-bit positions from there in elements.
    fn positions(
        &mut self,
        place: Place,
        index: &Index,
        step: i64,
        dynamic_varies: bool,
    ) -> Result<(Mem, Registers), Refusal> {
        let vector = self.vector.expect("only vector loops have positions that vary");
        if let Some(dynamic) = index.dynamic.filter(|_| dynamic_varies) {
            if step == 0 && self.dtype(dynamic) == DType::I32 {
                let mem = self.address(place, &Index { dynamic: None, ..index.clone() })?;
                let (mem, value) = (self.lea(mem), self.value(dynamic));
                return Ok((Mem::at(mem), self.registers(&value, DType::I32, vector.groups)));
            }
            // The whole position is below 2^31, so that sums modulo 2^32 are exact.
            let position = self.position(DType::I32, index)?;
            let base = self.address(place, &Index::default())?;
            return Ok((base, self.registers(&position, DType::I32, vector.groups)));
        }
        if i32::try_from(step * (vector.groups * self.level.lanes()) as i64).is_err() {
            return Err(Refusal::Offset);
        }
        let mem = self.address(place, index)?;
        let base = Mem::at(self.lea(mem));
        let registers = (0..vector.groups)
            .map(|group| {
                let lanes = self.lane_numbers(step, group * self.level.lanes());
                self.reg(lanes)
            })
            .collect();
        Ok((base, registers))
    }

    fn all_lanes(&mut self, mask: Option<VReg>) -> VReg {
        mask.unwrap_or_else(|| self.truth_constant(true))
    }

    fn gather(
        &mut self,
        dtype: DType,
        mem: Mem,
        positions: VReg,
        mask: Option<VReg>,
        otherwise: Scalar,
    ) -> Result<Registers, Refusal> {
        let size = dtype.size_bytes() as u8;
        let full = self.full();
        let start = match dtype {
            DType::F32 | DType::I32 | DType::F64 | DType::I64 | DType::U64 => Self::source(otherwise, dtype),
            DType::F16
            | DType::BF16
            | DType::I8
            | DType::I16
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::Bool => return Err(Refusal::Scattered(dtype)),
        };
        let mask = self.all_lanes(mask);
        let parts = parts(dtype);
        let mut registers = Registers::new();
        for part in 0..parts {
            let start = self.reg(start);
            let mask = self.part_of_mask(mask, part);
            let (def, spent) = (self.vector(), self.truth());
            let (view, positions) = match (parts, part) {
                (1, _) => (full, positions),
                (_, 0) => (View::Y, positions),
                (_, _) => (View::Y, self.upper(positions)),
            };
            let mem = Arg::Mem(Mem { index: Some((view, positions, size)), ..mem });
            if !self.wide() {
                let args = smallvec![Arg::Tied(full, def, start), mem, Arg::Tied(full, spent, mask)];
                self.push(Code::VEX_Vgatherdps_ymm_vm32y_ymm, args);
            } else {
                let code = match parts {
                    1 => Code::EVEX_Vgatherdps_zmm_k1_vm32z,
                    _ => Code::EVEX_Vgatherdpd_zmm_k1_vm32y,
                };
                let args = smallvec![Arg::Tied(full, def, start), mem];
                let mask = Mask::Consumed(spent, mask);
                self.m.push(Inst { code, args, mask, zeroing: false, flow: Flow::Next });
            }
            registers.push(def);
        }
        Ok(registers)
    }

    fn scatter(
        &mut self,
        dtype: DType,
        mem: Mem,
        positions: VReg,
        values: &[VReg],
        mask: Option<VReg>,
    ) -> Result<(), Refusal> {
        let code = match dtype {
            DType::F32 | DType::I32 => Code::EVEX_Vscatterdps_vm32z_k1_zmm,
            DType::F64 | DType::I64 | DType::U64 => Code::EVEX_Vscatterdpd_vm32y_k1_zmm,
            DType::F16
            | DType::BF16
            | DType::I8
            | DType::I16
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::Bool => return Err(Refusal::Scattered(dtype)),
        };
        if !self.wide() {
            return Err(Refusal::Scattered(dtype));
        }
        let mask = self.all_lanes(mask);
        for (part, value) in values.iter().enumerate() {
            let mask = self.part_of_mask(mask, part);
            let spent = self.truth();
            let (view, positions) = match (values.len(), part) {
                (1, _) => (View::Z, positions),
                (_, 0) => (View::Y, positions),
                (_, _) => (View::Y, self.upper(positions)),
            };
            let mem = Mem { index: Some((view, positions, dtype.size_bytes() as u8)), ..mem };
            let args = smallvec![Arg::Mem(mem), Arg::Use(View::Z, *value)];
            let mask = Mask::Consumed(spent, mask);
            self.m.push(Inst { code, args, mask, zeroing: false, flow: Flow::Next });
        }
        Ok(())
    }

    /// A store.
    pub(crate) fn store(&mut self, stmt: &Stmt) -> Result<(), Refusal> {
        let Stmt::Store { place, index, value, guard } = stmt else { panic!("only stores are stored") };
        let storage = self.kernel.place_dtype(*place);
        let dtype = compute_dtype(storage);
        let guard =
            guard.map(|guard| self.value(guard)).filter(|guard| *guard != Value::Constant(Scalar::Int(1)));
        let operand = self.value(*value);
        let step = self.vector.map_or(0, |vector| index.coefficient(vector.var));
        let dynamic_varies = self.dynamic_varies(index);
        let lanes = step != 0
            || dynamic_varies
            || matches!(operand, Value::Lanes(_))
            || matches!(guard, Some(Value::Lanes(_)));
        if !lanes {
            let mem = self.address(*place, index)?;
            let register = self.uniform(&operand, dtype);
            let mask = guard.map(|guard| self.uniform(&guard, DType::Bool));
            self.store_first(storage, mem, register, mask);
            return Ok(());
        }
        let vector = self.vector.expect("only vector loops have lanes");
        let registers = self.registers(&operand, dtype, vector.groups);
        let parts = parts(dtype);
        if step == 1 && !dynamic_varies {
            let mem = self.address(*place, index)?;
            for group in 0..vector.groups {
                let mask = self.mask(guard.as_ref(), group);
                let bytes = group * self.level.lanes() * storage.size_bytes();
                let values = &registers[group * parts..(group + 1) * parts];
                self.store_contiguous(storage, mem.plus(bytes as i32), values, mask);
            }
            return Ok(());
        }
        // Lanes that write one place do so in order, so that the last one stays.
        let (mem, positions) = self.positions(*place, index, step, dynamic_varies)?;
        for group in 0..vector.groups {
            let mask = self.mask(guard.as_ref(), group);
            let values = &registers[group * parts..(group + 1) * parts];
            self.scatter(storage, mem, positions[group], values, mask)?;
        }
        Ok(())
    }

    fn store_one(&mut self, code: Code, view: View, mem: Mem, value: VReg, mask: Option<VReg>) {
        let args = smallvec![Arg::Mem(mem), Arg::Use(view, value)];
        match mask {
            Some(mask) => self.push_masked(code, args, mask, false),
            None => self.push(code, args),
        }
    }

    /// One element, from the first lane.
    fn store_first(&mut self, dtype: DType, mem: Mem, value: VReg, mask: Option<VReg>) {
        match (dtype, self.wide(), mask) {
            (DType::F32 | DType::I32, true, _) => {
                self.store_one(Code::EVEX_Vmovss_m32_k1_xmm, View::X, mem, value, mask);
            }
            (DType::F64 | DType::I64 | DType::U64, true, _) => {
                self.store_one(Code::EVEX_Vmovsd_m64_k1_xmm, View::X, mem, value, mask);
            }
            (_, false, None) => self.store_one(Code::VEX_Vmovss_m32_xmm, View::X, mem, value, None),
            (_, false, Some(mask)) => {
                let first = self.first_lane(mask);
                let args = smallvec![Arg::Mem(mem), Arg::Use(View::X, first), Arg::Use(View::X, value)];
                self.push(Code::VEX_Vmaskmovps_m128_xmm_xmm, args);
            }
            (
                DType::F16
                | DType::BF16
                | DType::I8
                | DType::I16
                | DType::U8
                | DType::U16
                | DType::U32
                | DType::Bool,
                true,
                _,
            ) => {
                let first = self.mask_constant(1);
                let mask = self.both(Some(first), mask);
                let parts = parts(compute_dtype(dtype));
                let values: Registers = smallvec![value; parts];
                self.store_contiguous(dtype, mem, &values[..1], mask);
            }
        }
    }

    /// A group of elements next to each other, or as much of it as there are values.
    fn store_contiguous(&mut self, dtype: DType, mem: Mem, values: &[VReg], mask: Option<VReg>) {
        if !self.wide() {
            match mask {
                None => self.store_one(Code::VEX_Vmovups_ymmm256_ymm, View::Y, mem, values[0], None),
                Some(mask) => {
                    let args =
                        smallvec![Arg::Mem(mem), Arg::Use(View::Y, mask), Arg::Use(View::Y, values[0])];
                    self.push(Code::VEX_Vmaskmovps_m256_ymm_ymm, args);
                }
            }
            return;
        }
        for (part, value) in values.iter().enumerate() {
            let mask = mask.map(|mask| self.part_of_mask(mask, part));
            let mem = mem.plus((part * 8 * dtype.size_bytes()) as i32);
            let (code, view, value) = match dtype {
                DType::F32 | DType::I32 => (Code::EVEX_Vmovups_zmmm512_k1z_zmm, View::Z, *value),
                DType::F64 | DType::I64 | DType::U64 => (Code::EVEX_Vmovupd_zmmm512_k1z_zmm, View::Z, *value),
                DType::U32 => (Code::EVEX_Vpmovqd_ymmm256_k1z_zmm, View::Z, *value),
                DType::I8 | DType::U8 => (Code::EVEX_Vpmovdb_xmmm128_k1z_zmm, View::Z, *value),
                DType::I16 | DType::U16 => (Code::EVEX_Vpmovdw_ymmm256_k1z_zmm, View::Z, *value),
                DType::BF16 => {
                    let bits = self.bfloat_bits(*value);
                    (Code::EVEX_Vpmovdw_ymmm256_k1z_zmm, View::Z, bits)
                }
                DType::F16 => {
                    let args = smallvec![Arg::Mem(mem), Arg::Use(View::Z, *value), Arg::Imm8(0)];
                    let code = Code::EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae;
                    match mask {
                        Some(mask) => self.push_masked(code, args, mask, false),
                        None => self.push(code, args),
                    }
                    continue;
                }
                DType::Bool => {
                    let ones = self.vector_mem(&[1; 16]);
                    let bytes =
                        self.load_one(Code::EVEX_Vmovdqu8_xmm_k1z_xmmm128, View::X, ones, Some(*value));
                    (Code::EVEX_Vmovdqu8_xmmm128_k1z_xmm, View::X, bytes)
                }
            };
            self.store_one(code, view, mem, value, mask);
        }
    }
}
