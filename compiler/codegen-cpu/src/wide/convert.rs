//! Conversions between dtypes, a value at a time; storage dtypes round or wrap and stay in their compute dtype.

use super::Refusal;
use super::emit::{Emitter, Registers, Value, parts};
use super::machine::{Arg, View};
use super::ops::{Order, Src, V};
use iced_x86::Code;
use regalloc2::VReg;
use smallvec::smallvec;
use thalweg_base::{DType, Scalar};
use thalweg_kernel::ir::compute_dtype;

impl Emitter<'_> {
    /// A value of `from` as `to`.
    pub(crate) fn convert(&mut self, value: &Value, from: DType, to: DType) -> Result<Value, Refusal> {
        if from == to {
            return Ok(value.clone());
        }
        let compute = compute_dtype(to);
        let (registers, lanes): (Registers, bool) = match value {
            Value::Constant(constant) => return Ok(Value::Constant(constant.convert(to))),
            Value::Uniform(reg) => (smallvec![*reg], false),
            Value::Lanes(registers) => (registers.clone(), true),
        };
        let mut results = Registers::new();
        let step = if lanes { parts(from) } else { 1 };
        for group in registers.chunks(step) {
            results.extend(self.group(group, from, compute, lanes));
        }
        if compute != to {
            for register in &mut results {
                *register = match (to, from.is_float()) {
                    (DType::F16 | DType::BF16, _) => self.round_half(to, *register),
                    (_, true) => self.clamp(to, *register),
                    (_, false) => self.wrap(to, *register),
                };
            }
        }
        Ok(match lanes {
            true => Value::Lanes(results),
            false => Value::Uniform(results[0]),
        })
    }

    /// One group between compute dtypes. What is the same in all lanes stays in one register.
    fn group(&mut self, registers: &[VReg], from: DType, to: DType, lanes: bool) -> Registers {
        let first = registers[0];
        let (wide_from, wide_to) = (parts(from) == 2, parts(to) == 2);
        match (from, to) {
            _ if from == to => registers.iter().copied().collect(),
            (DType::Bool, _) => {
                let one = Self::source(Scalar::one(to), to);
                let zero = if wide_to { Src::Bits64(0) } else { Src::Bits32(0) };
                (0..if lanes { parts(to) } else { 1 })
                    .map(|part| {
                        let mask = self.part_of_mask(first, part);
                        self.blend(mask, wide_to, one, zero)
                    })
                    .collect()
            }
            (_, DType::Bool) => {
                let zero = if wide_from { Src::Bits64(0) } else { Src::Bits32(0) };
                let masks: Registers = registers
                    .iter()
                    .map(|register| match (from.is_float(), wide_from) {
                        (true, _) => self.compare_floats(Order::Ne, wide_from, *register, zero),
                        (false, true) => self.compare_longs(Order::Ne, false, *register, zero),
                        (false, false) => self.nonzero(*register),
                    })
                    .collect();
                match wide_from {
                    true => smallvec![self.join_masks(masks[0], *masks.last().expect("there is a first"))],
                    false => masks,
                }
            }
            (DType::F32, DType::I32) => smallvec![self.truncate(first)],
            (DType::I32, DType::F32) => {
                let code = Code::EVEX_Vcvtdq2ps_zmm_k1z_zmmm512b32_er;
                smallvec![self.unary(code, Code::VEX_Vcvtdq2ps_ymm_ymmm256, first)]
            }
            (DType::I64, DType::U64) | (DType::U64, DType::I64) => registers.iter().copied().collect(),
            (_, _) if wide_from && wide_to => {
                registers.iter().map(|register| self.between_wide(*register, from, to)).collect()
            }
            (_, _) if wide_to => {
                let mut results = Registers::new();
                for part in 0..if lanes { 2 } else { 1 } {
                    let half = if part == 0 { first } else { self.upper(first) };
                    results.push(self.widen(half, from, to));
                }
                results
            }
            (_, _) => {
                let halves: Registers =
                    registers.iter().map(|register| self.narrow(*register, from, to)).collect();
                smallvec![self.join(halves[0], *halves.last().expect("there is a first"))]
            }
        }
    }

    /// `f32` to `i32`, cut off towards zero and kept within range; NaN gives 0.
    fn truncate(&mut self, x: VReg) -> VReg {
        let code = Code::EVEX_Vcvttps2dq_zmm_k1z_zmmm512b32_sae;
        let whole = self.unary(code, Code::VEX_Vcvttps2dq_ymm_ymmm256, x);
        // The instruction gives the least integer for whatever does not fit.
        let above = self.compare_floats(Order::Ge, false, x, Src::Bits32(2147483648f32.to_bits()));
        let whole = self.blend(above, false, Src::Bits32(i32::MAX as u32), Src::Reg(whole));
        let number = self.compare_floats(Order::Ordered, false, x, Src::Reg(x));
        self.blend(number, false, Src::Reg(whole), Src::Bits32(0))
    }

    /// A register of 8 lanes among 64-bit dtypes.
    fn between_wide(&mut self, x: VReg, from: DType, to: DType) -> VReg {
        let code = match (from, to) {
            (DType::I64, DType::F64) => Code::EVEX_Vcvtqq2pd_zmm_k1z_zmmm512b64_er,
            (DType::U64, DType::F64) => Code::EVEX_Vcvtuqq2pd_zmm_k1z_zmmm512b64_er,
            (DType::F64, DType::U64) => {
                let whole = self.unary(Code::EVEX_Vcvttpd2uqq_zmm_k1z_zmmm512b64_sae, Code::INVALID, x);
                // All ones, the largest number, is what does not fit; what is negative or NaN becomes 0.
                let positive = self.compare_floats(Order::Ge, true, x, Src::Bits64(0));
                return self.blend(positive, true, Src::Reg(whole), Src::Bits64(0));
            }
            (DType::F64, DType::I64) => {
                let whole = self.unary(Code::EVEX_Vcvttpd2qq_zmm_k1z_zmmm512b64_sae, Code::INVALID, x);
                let limit = Src::Bits64(2f64.powi(63).to_bits());
                let above = self.compare_floats(Order::Ge, true, x, limit);
                let whole = self.blend(above, true, Src::Bits64(i64::MAX as u64), Src::Reg(whole));
                let number = self.compare_floats(Order::Ordered, true, x, Src::Reg(x));
                return self.blend(number, true, Src::Reg(whole), Src::Bits64(0));
            }
            (from, to) => panic!("{from} to {to} is no conversion between 64-bit dtypes"),
        };
        self.unary(code, Code::INVALID, x)
    }

    /// The 8 lower lanes of 32 bits as 64-bit values.
    fn widen(&mut self, half: VReg, from: DType, to: DType) -> VReg {
        let code = match (from, to) {
            (DType::F32, DType::F64) => Code::EVEX_Vcvtps2pd_zmm_k1z_ymmm256b32_sae,
            (DType::I32, DType::F64) => Code::EVEX_Vcvtdq2pd_zmm_k1z_ymmm256b32_er,
            (DType::I32, DType::I64 | DType::U64) => Code::EVEX_Vpmovsxdq_zmm_k1z_ymmm256,
            (DType::F32, DType::I64 | DType::U64) => {
                let double = self.widen(half, DType::F32, DType::F64);
                return self.between_wide(double, DType::F64, to);
            }
            (from, to) => panic!("{from} to {to} does not widen"),
        };
        self.resize(code, View::Z, View::Y, half)
    }

    /// 8 lanes of 64 bits as the lower lanes of 32.
    fn narrow(&mut self, x: VReg, from: DType, to: DType) -> VReg {
        let code = match (from, to) {
            (DType::F64, DType::F32) => Code::EVEX_Vcvtpd2ps_ymm_k1z_zmmm512b64_er,
            (DType::I64, DType::F32) => Code::EVEX_Vcvtqq2ps_ymm_k1z_zmmm512b64_er,
            (DType::U64, DType::F32) => Code::EVEX_Vcvtuqq2ps_ymm_k1z_zmmm512b64_er,
            (DType::I64 | DType::U64, DType::I32) => Code::EVEX_Vpmovqd_ymmm256_k1z_zmm,
            (DType::F64, DType::I32) => {
                let low = self.reg(Src::Bits64(f64::from(i32::MIN).to_bits()));
                let high = self.reg(Src::Bits64(f64::from(i32::MAX).to_bits()));
                let number = self.compare_floats(Order::Ordered, true, x, Src::Reg(x));
                let x = self.blend(number, true, Src::Reg(x), Src::Bits64(0));
                let above = self.apply(V::MaxPd, low, Src::Reg(x));
                let within = self.apply(V::MinPd, high, Src::Reg(above));
                let code = Code::EVEX_Vcvttpd2dq_ymm_k1z_zmmm512b64_sae;
                return self.resize(code, View::Y, View::Z, within);
            }
            (from, to) => panic!("{from} to {to} does not narrow"),
        };
        self.resize(code, View::Y, View::Z, x)
    }

    /// Rounds an `f32` to one of the 16-bit floats.
    fn round_half(&mut self, to: DType, x: VReg) -> VReg {
        if to == DType::BF16 {
            let bits = self.bfloat_bits(x);
            return self.shift_left(bits, 16);
        }
        let half = self.vector();
        let args = smallvec![Arg::Def(View::Y, half), Arg::Use(View::Z, x), Arg::Imm8(0)];
        self.push(Code::EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae, args);
        self.resize(Code::EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae, View::Z, View::Y, half)
    }

    /// The bits of an `f32` rounded to `bf16`, to nearest even, in the low half of each lane: just below half of the last kept
    /// place is added, plus its parity; a NaN is cut off and made quiet instead. (`vcvtneps2bf16` would flush subnormals.)
    pub(crate) fn bfloat_bits(&mut self, x: VReg) -> VReg {
        let last = self.shift_right(x, 16);
        let odd = self.apply(V::AndD, last, Src::Bits32(1));
        let bias = self.apply(V::AddD, odd, Src::Bits32(0x7fff));
        let rounded = self.apply(V::AddD, bias, Src::Reg(x));
        let rounded = self.shift_right(rounded, 16);
        let quiet = self.apply(V::OrD, last, Src::Bits32(0x40));
        let nan = self.compare_floats(Order::Unordered, false, x, Src::Reg(x));
        self.blend(nan, false, Src::Reg(quiet), Src::Reg(rounded))
    }

    fn clamp(&mut self, to: DType, x: VReg) -> VReg {
        let compute = compute_dtype(to);
        let (low, high) = to.range();
        let (max, min) = if parts(compute) == 2 { (V::MaxQ, V::MinQ) } else { (V::MaxD, V::MinD) };
        let above = self.apply(max, x, Self::source(low, compute));
        self.apply(min, above, Self::source(high, compute))
    }

    fn wrap(&mut self, to: DType, x: VReg) -> VReg {
        let compute = compute_dtype(to);
        let (low, high) = to.range();
        if low == Scalar::Int(0) {
            let and = if parts(compute) == 2 { V::AndQ } else { V::AndD };
            return self.apply(and, x, Self::source(high, compute));
        }
        let unused = (compute.size_bytes() - to.size_bytes()) as u8 * 8;
        let high = self.shift_left(x, unused);
        let codes = (Code::EVEX_Vpsrad_zmm_k1z_zmmm512b32_imm8, Code::VEX_Vpsrad_ymm_ymm_imm8);
        self.unary_imm(codes.0, codes.1, high, unused)
    }
}
