//! The scalar functions on values: register by register, constants as operands in memory where the instruction allows.

use super::Refusal;
use super::emit::{Emitter, Registers, Value, parts};
use super::machine::{Arg, View};
use super::ops::{Logic, Order, Src, V};
use iced_x86::Code;
use regalloc2::VReg;
use smallvec::{SmallVec, smallvec};
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_kernel::Exponential;

use PointwiseFn as F;

/// One operand of one register's worth of a function.
#[derive(Clone, Copy, Debug)]
struct Operand {
    source: Src,
    /// Whether nothing needs it afterwards, so that an instruction may overwrite it.
    dies: bool,
}

impl Emitter<'_> {
    /// A function on operands of `dtype` (for `select`, that of the branches). `uses` counts how often each operand is used.
    pub(crate) fn function(
        &mut self,
        f: PointwiseFn,
        dtype: DType,
        values: &[Value],
        uses: &[usize],
    ) -> Result<Value, Refusal> {
        let lanes = values.iter().any(|value| matches!(value, Value::Lanes(_)));
        if values.iter().all(|value| matches!(value, Value::Constant(_))) {
            let scalars: SmallVec<[Scalar; 3]> = values
                .iter()
                .map(|value| match value {
                    Value::Constant(scalar) => *scalar,
                    Value::Uniform(_) | Value::Lanes(_) => panic!("all are constants"),
                })
                .collect();
            return Ok(Value::Constant(f.eval(dtype, &scalars)));
        }
        let groups = if lanes { self.vector.expect("lanes are those of a vector loop").groups } else { 1 };
        let is_truth = |position: usize| dtype == DType::Bool || f == F::Select && position == 0;
        // A uniform value is in one register also where a group has two.
        let steps = if lanes { parts(dtype) } else { 1 };
        let mut results = Registers::new();
        let mut masks: SmallVec<[VReg; 2]> = SmallVec::new();
        for register in 0..groups * steps {
            let mut operands: SmallVec<[Operand; 3]> = SmallVec::new();
            for (position, value) in values.iter().enumerate() {
                let source = match value {
                    Value::Constant(constant) if is_truth(position) => {
                        Src::Reg(self.truth_constant(constant.to_i64() != 0))
                    }
                    Value::Constant(constant) => Self::source(*constant, dtype),
                    Value::Uniform(reg) => Src::Reg(*reg),
                    // A truth value has one register for a group.
                    Value::Lanes(registers) if is_truth(position) => Src::Reg(registers[register / steps]),
                    Value::Lanes(registers) => Src::Reg(registers[register]),
                };
                let upper = is_truth(position) && register % steps == 1 && self.wide();
                let source = match source {
                    Src::Reg(mask) if upper => Src::Reg(self.upper_mask(mask)),
                    Src::Reg(_) | Src::Bits32(_) | Src::Bits64(_) => source,
                };
                let dies = matches!(value, Value::Lanes(_) | Value::Uniform(_))
                    && uses.get(position).copied() == Some(1);
                operands.push(Operand { source, dies });
            }
            let result = self.one(f, dtype, &operands)?;
            if steps == 2 && is_comparison(f) {
                masks.push(result);
                if masks.len() == 2 {
                    results.push(self.join_masks(masks[0], masks[1]));
                    masks.clear();
                }
                continue;
            }
            results.push(result);
        }
        if !lanes {
            let result = results[0];
            return Ok(Value::Uniform(match is_comparison(f) && parts(dtype) == 2 {
                true => self.join_masks(result, result),
                false => result,
            }));
        }
        Ok(Value::Lanes(results))
    }

    fn one(&mut self, f: PointwiseFn, dtype: DType, operands: &[Operand]) -> Result<VReg, Refusal> {
        let refused = Refusal::Function(f, dtype);
        if f == F::Select {
            let condition = self.reg(operands[0].source);
            if dtype == DType::Bool {
                let (a, b) = (self.reg(operands[1].source), self.reg(operands[2].source));
                return Ok(self.choose_truth(condition, a, b));
            }
            return Ok(self.blend(condition, parts(dtype) == 2, operands[1].source, operands[2].source));
        }
        match dtype {
            DType::F32 | DType::F64 => self.float(f, dtype == DType::F64, operands).ok_or(refused),
            DType::I32 => self.int32(f, operands).ok_or(refused),
            DType::I64 | DType::U64 => self.int64(f, dtype == DType::U64, operands).ok_or(refused),
            DType::Bool => self.boolean(f, operands).ok_or(refused),
            DType::F16 | DType::BF16 | DType::I8 | DType::I16 | DType::U8 | DType::U16 | DType::U32 => {
                panic!("{dtype} exists in memory only")
            }
        }
    }

    /// A function that may swap its operands, so that a constant comes second.
    fn commutative(&mut self, op: V, operands: &[Operand]) -> VReg {
        let (a, b) = match (operands[0].source, operands[1].source) {
            (a @ (Src::Bits32(_) | Src::Bits64(_)), b @ Src::Reg(_)) => (b, a),
            other => other,
        };
        let a = self.reg(a);
        self.apply(op, a, b)
    }

    fn ordered(&mut self, op: V, operands: &[Operand]) -> VReg {
        let a = self.reg(operands[0].source);
        self.apply(op, a, operands[1].source)
    }

    fn float(&mut self, f: PointwiseFn, double: bool, operands: &[Operand]) -> Option<VReg> {
        let pick = |single: V, other: V| if double { other } else { single };
        let bits = |single: u32, other: u64| if double { Src::Bits64(other) } else { Src::Bits32(single) };
        let a = operands[0].source;
        Some(match f {
            F::Add => self.commutative(pick(V::AddPs, V::AddPd), operands),
            F::Mul => self.commutative(pick(V::MulPs, V::MulPd), operands),
            F::Sub => self.ordered(pick(V::SubPs, V::SubPd), operands),
            F::Div => self.ordered(pick(V::DivPs, V::DivPd), operands),
            F::Max => self.extremum(pick(V::MaxPs, V::MaxPd), double, operands),
            F::Min => self.extremum(pick(V::MinPs, V::MinPd), double, operands),
            F::MulAdd => self.multiply_add(double, operands),
            F::Neg => {
                let a = self.reg(a);
                self.apply(pick(V::XorD, V::XorQ), a, bits(1 << 31, 1 << 63))
            }
            F::Abs => {
                let a = self.reg(a);
                self.apply(pick(V::AndD, V::AndQ), a, bits(u32::MAX >> 1, u64::MAX >> 1))
            }
            F::Sign => {
                let a = self.reg(a);
                let zero = bits(0, 0);
                let above = self.compare_floats(Order::Gt, double, a, zero);
                let below = self.compare_floats(Order::Lt, double, a, zero);
                let minus = bits((-1f32).to_bits(), (-1f64).to_bits());
                let rest = self.blend(below, double, minus, Src::Reg(a));
                self.blend(above, double, bits(1f32.to_bits(), 1f64.to_bits()), Src::Reg(rest))
            }
            F::Sqrt => self.root(double, a),
            F::Rsqrt => {
                let root = self.root(double, a);
                let one = self.reg(bits(1f32.to_bits(), 1f64.to_bits()));
                self.apply(pick(V::DivPs, V::DivPd), one, Src::Reg(root))
            }
            // Rounding modes: 8 keeps the processor from reporting that a result is inexact.
            F::Floor => self.round_float(double, a, 9),
            F::Ceil => self.round_float(double, a, 10),
            F::Round => self.round_float(double, a, 8),
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge => {
                let a = self.reg(a);
                self.compare_floats(order(f), double, a, operands[1].source)
            }
            F::Exp if !double && self.wide() => {
                let a = self.reg(a);
                self.exponential(a)
            }
            F::Exp
            | F::Expm1
            | F::Log
            | F::Log1p
            | F::Sin
            | F::Cos
            | F::Tanh
            | F::Erf
            | F::Rem
            | F::Pow
            | F::Not
            | F::And
            | F::Or
            | F::Xor
            | F::ShiftLeft
            | F::ShiftRight
            | F::Select => return None,
        })
    }

    /// `e^x` of 32-bit floats, within 1.5 units in the last place; see [`Exponential`].
    fn exponential(&mut self, x: VReg) -> VReg {
        type E = Exponential;
        let source = |value: f32| Src::Bits32(value.to_bits());
        let known = |value: f32| Operand { source: source(value), dies: false };
        let last = |reg: VReg| Operand { source: Src::Reg(reg), dies: true };
        let kept = |reg: VReg| Operand { source: Src::Reg(reg), dies: false };
        // The second operand is the result where either is NaN.
        let highest = self.reg(source(E::HIGHEST));
        let below = self.apply(V::MinPs, highest, Src::Reg(x));
        let lowest = self.reg(source(E::LOWEST));
        let x = self.apply(V::MaxPs, lowest, Src::Reg(below));
        let rounder = self.reg(source(E::ROUNDER));
        let shifted = self.multiply_add(false, &[kept(x), known(E::LOG2_E), last(rounder)]);
        let n = self.apply(V::SubPs, shifted, source(E::ROUNDER));
        let r = self.multiply_add(false, &[kept(n), known(-E::LN2_HIGH), last(x)]);
        let r = self.multiply_add(false, &[kept(n), known(-E::LN2_LOW), last(r)]);
        let mut sum = self.reg(source(E::POLYNOMIAL[0]));
        for coefficient in &E::POLYNOMIAL[1..] {
            sum = self.multiply_add(false, &[last(sum), kept(r), known(*coefficient)]);
        }
        let square = self.apply(V::MulPs, r, Src::Reg(r));
        let tail = self.multiply_add(false, &[kept(sum), kept(square), last(r)]);
        let p = self.apply(V::AddPs, tail, source(1.0));
        self.apply(V::ScalePs, p, Src::Reg(n))
    }

    fn root(&mut self, double: bool, a: Src) -> VReg {
        let a = self.reg(a);
        match double {
            false => self.unary(Code::EVEX_Vsqrtps_zmm_k1z_zmmm512b32_er, Code::VEX_Vsqrtps_ymm_ymmm256, a),
            true => self.unary(Code::EVEX_Vsqrtpd_zmm_k1z_zmmm512b64_er, Code::INVALID, a),
        }
    }

    fn round_float(&mut self, double: bool, a: Src, mode: u8) -> VReg {
        let a = self.reg(a);
        match double {
            false => {
                let wide = Code::EVEX_Vrndscaleps_zmm_k1z_zmmm512b32_imm8_sae;
                self.unary_imm(wide, Code::VEX_Vroundps_ymm_ymmm256_imm8, a, mode)
            }
            true => {
                let wide = Code::EVEX_Vrndscalepd_zmm_k1z_zmmm512b64_imm8_sae;
                self.unary_imm(wide, Code::INVALID, a, mode)
            }
        }
    }

    /// The larger or smaller operand, NaN if either is. The instruction gives its second operand where either is NaN, so one
    /// operand, the first, is checked on its own; one that is a known number needs no check.
    fn extremum(&mut self, op: V, double: bool, operands: &[Operand]) -> VReg {
        let (a, b) = (operands[0].source, operands[1].source);
        let is_number = |source: Src| match source {
            Src::Reg(_) => false,
            Src::Bits32(bits) => !f32::from_bits(bits).is_nan(),
            Src::Bits64(bits) => !f64::from_bits(bits).is_nan(),
        };
        for (number, other) in [(b, a), (a, b)] {
            if is_number(number) {
                let number = self.reg(number);
                return self.apply(op, number, other);
            }
        }
        // The second operand is checked: in a reduction it is the new one, which no earlier round is waited for.
        let (checked, other) = (self.reg(b), a);
        if self.wide() {
            let number = self.compare_floats(Order::Ordered, double, checked, Src::Reg(checked));
            let (wide, narrow) = op.codes();
            let (code, full, def) = (self.code(wide, narrow), self.full(), self.vector());
            let other = self.arg(other);
            let args = smallvec![Arg::Tied(full, def, checked), Arg::Use(full, checked), other];
            self.push_masked(code, args, number, false);
            return def;
        }
        let chosen = self.apply(op, checked, other);
        let nan = self.compare_floats(Order::Unordered, double, checked, Src::Reg(checked));
        self.blend(nan, double, Src::Reg(checked), Src::Reg(chosen))
    }

    /// `a * b + c` rounded once: the form that overwrites an operand nobody needs, with a constant read from memory.
    fn multiply_add(&mut self, double: bool, operands: &[Operand]) -> VReg {
        let (mut a, mut b, c) = (operands[0], operands[1], operands[2]);
        let constant = |operand: Operand| !matches!(operand.source, Src::Reg(_));
        if constant(a) && !constant(b) || b.dies && !a.dies && !constant(b) && !constant(a) {
            (a, b) = (b, a);
        }
        // 231: c += a * b. 213: a = b * a + c. 132: a = a * b + c.
        let forms = match double {
            false => [
                (Code::EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er, Code::VEX_Vfmadd231ps_ymm_ymm_ymmm256),
                (Code::EVEX_Vfmadd213ps_zmm_k1z_zmm_zmmm512b32_er, Code::VEX_Vfmadd213ps_ymm_ymm_ymmm256),
                (Code::EVEX_Vfmadd132ps_zmm_k1z_zmm_zmmm512b32_er, Code::VEX_Vfmadd132ps_ymm_ymm_ymmm256),
            ],
            true => [
                (Code::EVEX_Vfmadd231pd_zmm_k1z_zmm_zmmm512b64_er, Code::INVALID),
                (Code::EVEX_Vfmadd213pd_zmm_k1z_zmm_zmmm512b64_er, Code::INVALID),
                (Code::EVEX_Vfmadd132pd_zmm_k1z_zmm_zmmm512b64_er, Code::INVALID),
            ],
        };
        let (form, tied, second, third) = if constant(c) && constant(b) {
            // A constant factor in a register of its own is overwritten: no copy of `a`.
            let b = Operand { source: Src::Reg(self.own_reg(b.source)), dies: true };
            (1, b, a, c)
        } else if !constant(c) && (c.dies || !a.dies) {
            (0, c, a, b)
        } else if constant(b) {
            (2, a, c, b)
        } else {
            (1, a, b, c)
        };
        let (tied, second) = (self.own_reg(tied.source), self.reg(second.source));
        let third = self.arg(third.source);
        let (code, full, def) = (self.code(forms[form].0, forms[form].1), self.full(), self.vector());
        self.push(code, smallvec![Arg::Tied(full, def, tied), Arg::Use(full, second), third]);
        def
    }

    fn int32(&mut self, f: PointwiseFn, operands: &[Operand]) -> Option<VReg> {
        let a = operands[0].source;
        Some(match f {
            F::Add => self.commutative(V::AddD, operands),
            F::Sub => self.ordered(V::SubD, operands),
            F::Mul => self.commutative(V::MulD, operands),
            F::Max => self.commutative(V::MaxD, operands),
            F::Min => self.commutative(V::MinD, operands),
            F::And => self.commutative(V::AndD, operands),
            F::Or => self.commutative(V::OrD, operands),
            F::Xor => self.commutative(V::XorD, operands),
            F::MulAdd => {
                let product = self.commutative(V::MulD, &operands[..2]);
                self.apply(V::AddD, product, operands[2].source)
            }
            F::Neg => {
                let (zero, a) = (self.zero(), a);
                self.apply(V::SubD, zero, a)
            }
            F::Not => {
                let a = self.reg(a);
                self.apply(V::XorD, a, Src::Bits32(u32::MAX))
            }
            F::Abs => {
                let a = self.reg(a);
                self.unary(Code::EVEX_Vpabsd_zmm_k1z_zmmm512b32, Code::VEX_Vpabsd_ymm_ymmm256, a)
            }
            F::Sign => {
                let a = self.reg(a);
                let below = self.apply(V::MinD, a, Src::Bits32(1));
                self.apply(V::MaxD, below, Src::Bits32(u32::MAX))
            }
            // Shifts by 32 and more, and by negative amounts, which are large unsigned ones, give 0.
            F::ShiftLeft => match operands[1].source {
                Src::Bits32(amount) if amount < 32 => {
                    let a = self.reg(a);
                    self.shift_left(a, amount as u8)
                }
                Src::Reg(_) | Src::Bits32(_) | Src::Bits64(_) => self.ordered(V::LeftD, operands),
            },
            F::ShiftRight => match operands[1].source {
                Src::Bits32(amount) if amount < 32 => {
                    let a = self.reg(a);
                    self.shift_right(a, amount as u8)
                }
                Src::Reg(_) | Src::Bits32(_) | Src::Bits64(_) => self.ordered(V::RightD, operands),
            },
            F::Div => self.divide(operands),
            F::Rem => {
                let quotient = self.divide(operands);
                let b = self.reg(operands[1].source);
                let product = self.apply(V::MulD, b, Src::Reg(quotient));
                let a = self.reg(a);
                let rest = self.apply(V::SubD, a, Src::Reg(product));
                match operands[1].source {
                    Src::Reg(divisor) => self.zero_where_zero(divisor, rest),
                    Src::Bits32(0) => self.zero(),
                    Src::Bits32(_) | Src::Bits64(_) => rest,
                }
            }
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge => {
                let a = self.reg(a);
                self.compare_ints(order(f), a, operands[1].source)
            }
            F::Pow => return None,
            F::Exp
            | F::Expm1
            | F::Log
            | F::Log1p
            | F::Sqrt
            | F::Rsqrt
            | F::Sin
            | F::Cos
            | F::Tanh
            | F::Erf => {
                return None;
            }
            F::Floor | F::Ceil | F::Round | F::Select => return None,
        })
    }

    pub(crate) fn shift_right(&mut self, a: VReg, bits: u8) -> VReg {
        let codes = (Code::EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8, Code::VEX_Vpsrld_ymm_ymm_imm8);
        self.unary_imm(codes.0, codes.1, a, bits)
    }

    fn zero_where_zero(&mut self, divisor: VReg, value: VReg) -> VReg {
        let valid = self.nonzero(divisor);
        self.blend(valid, false, Src::Reg(value), Src::Bits32(0))
    }

    /// The quotient of 32-bit integers, cut off towards zero, through binary64. There the quotient of two such numbers is
    /// rounded to the right integer part, and 2^31 becomes the `i32` that -2^31 / -1 wraps to. For a known divisor a product with
    /// the reciprocal serves, made larger by 2^-40: enough that multiples of the divisor do not fall below their quotient,
    /// too little for others, whose distance from the next multiple is at least 1 / 2^31 of it, to reach it.
    fn divide(&mut self, operands: &[Operand]) -> VReg {
        let a = self.reg(operands[0].source);
        let (divisor, factor) = match operands[1].source {
            Src::Bits32(0) => return self.zero(),
            Src::Bits32(bits) => {
                let factor = (1.0 + 2f64.powi(-40)) / f64::from(bits as i32);
                (None, Src::Bits64(factor.to_bits()))
            }
            Src::Reg(divisor) => (Some(divisor), Src::Reg(divisor)),
            Src::Bits64(_) => panic!("32-bit operands"),
        };
        let mut halves = Registers::new();
        for half in 0..2 {
            let wide = |e: &mut Self, x: VReg| {
                let part = if half == 0 { x } else { e.half(x) };
                match e.wide() {
                    true => e.resize(Code::EVEX_Vcvtdq2pd_zmm_k1z_ymmm256b32_er, View::Z, View::Y, part),
                    false => e.resize(Code::VEX_Vcvtdq2pd_ymm_xmmm128, View::Y, View::X, part),
                }
            };
            let dividend = wide(self, a);
            let quotient = match divisor {
                None => self.apply(V::MulPd, dividend, factor),
                Some(divisor) => {
                    let divisor = wide(self, divisor);
                    self.apply(V::DivPd, dividend, Src::Reg(divisor))
                }
            };
            halves.push(match self.wide() {
                true => self.resize(Code::EVEX_Vcvttpd2dq_ymm_k1z_zmmm512b64_sae, View::Y, View::Z, quotient),
                false => self.resize(Code::VEX_Vcvttpd2dq_xmm_ymmm256, View::X, View::Y, quotient),
            });
        }
        let quotient = match self.wide() {
            true => self.join(halves[0], halves[1]),
            false => {
                let def = self.vector();
                let args = smallvec![
                    Arg::Def(View::Y, def),
                    Arg::Use(View::Y, halves[0]),
                    Arg::Use(View::X, halves[1]),
                    Arg::Imm8(1)
                ];
                self.push(Code::VEX_Vinserti128_ymm_ymm_xmmm128_imm8, args);
                def
            }
        };
        match divisor {
            Some(divisor) => self.zero_where_zero(divisor, quotient),
            None => quotient,
        }
    }

    /// The upper half of a register of 32-bit lanes.
    fn half(&mut self, x: VReg) -> VReg {
        if self.wide() {
            return self.upper(x);
        }
        let def = self.vector();
        let args = smallvec![Arg::Def(View::X, def), Arg::Use(View::Y, x), Arg::Imm8(1)];
        self.push(Code::VEX_Vextracti128_xmmm128_ymm_imm8, args);
        def
    }

    fn int64(&mut self, f: PointwiseFn, unsigned: bool, operands: &[Operand]) -> Option<VReg> {
        let a = operands[0].source;
        Some(match f {
            F::Add => self.commutative(V::AddQ, operands),
            F::Sub => self.ordered(V::SubQ, operands),
            F::Mul => self.commutative(V::MulQ, operands),
            F::Max => self.commutative(if unsigned { V::MaxUnsignedQ } else { V::MaxQ }, operands),
            F::Min => self.commutative(if unsigned { V::MinUnsignedQ } else { V::MinQ }, operands),
            F::And => self.commutative(V::AndQ, operands),
            F::Or => self.commutative(V::OrQ, operands),
            F::Xor => self.commutative(V::XorQ, operands),
            F::ShiftLeft => self.ordered(V::LeftQ, operands),
            F::ShiftRight => self.ordered(V::RightQ, operands),
            F::MulAdd => {
                let product = self.commutative(V::MulQ, &operands[..2]);
                self.apply(V::AddQ, product, operands[2].source)
            }
            F::Neg => {
                let zero = self.zero();
                self.apply(V::SubQ, zero, a)
            }
            F::Not => {
                let a = self.reg(a);
                self.apply(V::XorQ, a, Src::Bits64(u64::MAX))
            }
            F::Abs => {
                let a = self.reg(a);
                match unsigned {
                    true => a,
                    false => self.unary(Code::EVEX_Vpabsq_zmm_k1z_zmmm512b64, Code::INVALID, a),
                }
            }
            F::Sign => {
                let a = self.reg(a);
                match unsigned {
                    true => self.apply(V::MinUnsignedQ, a, Src::Bits64(1)),
                    false => {
                        let below = self.apply(V::MinQ, a, Src::Bits64(1));
                        self.apply(V::MaxQ, below, Src::Bits64(u64::MAX))
                    }
                }
            }
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge => {
                let a = self.reg(a);
                self.compare_longs(order(f), unsigned, a, operands[1].source)
            }
            F::Div | F::Rem | F::Pow => return None,
            F::Exp
            | F::Expm1
            | F::Log
            | F::Log1p
            | F::Sqrt
            | F::Rsqrt
            | F::Sin
            | F::Cos
            | F::Tanh
            | F::Erf => {
                return None;
            }
            F::Floor | F::Ceil | F::Round | F::Select => return None,
        })
    }

    fn boolean(&mut self, f: PointwiseFn, operands: &[Operand]) -> Option<VReg> {
        let a = self.reg(operands[0].source);
        if f == F::Not {
            return Some(self.not(a));
        }
        let b = self.reg(operands.get(1)?.source);
        Some(match f {
            F::And | F::Min => self.logic(Logic::And, a, b),
            F::Or | F::Max => self.logic(Logic::Or, a, b),
            F::Xor | F::Ne => self.logic(Logic::Xor, a, b),
            F::Eq => self.logic(Logic::Same, a, b),
            F::Lt => self.logic(Logic::Without, a, b),
            F::Gt => self.logic(Logic::Without, b, a),
            F::Le => {
                let greater = self.logic(Logic::Without, b, a);
                self.not(greater)
            }
            F::Ge => {
                let less = self.logic(Logic::Without, a, b);
                self.not(less)
            }
            F::Neg | F::Abs | F::Sign | F::Add | F::Sub | F::Mul | F::Div | F::Rem | F::Pow | F::MulAdd => {
                return None;
            }
            F::ShiftLeft | F::ShiftRight | F::Select | F::Not => return None,
            F::Exp
            | F::Expm1
            | F::Log
            | F::Log1p
            | F::Sqrt
            | F::Rsqrt
            | F::Sin
            | F::Cos
            | F::Tanh
            | F::Erf => {
                return None;
            }
            F::Floor | F::Ceil | F::Round => return None,
        })
    }
}

fn is_comparison(f: PointwiseFn) -> bool {
    matches!(f, F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge)
}

fn order(f: PointwiseFn) -> Order {
    let orders = [
        (F::Eq, Order::Eq),
        (F::Ne, Order::Ne),
        (F::Lt, Order::Lt),
        (F::Le, Order::Le),
        (F::Gt, Order::Gt),
        (F::Ge, Order::Ge),
    ];
    let found = orders.iter().find(|(comparison, _)| *comparison == f);
    found.unwrap_or_else(|| panic!("`{f}` is no comparison")).1
}
