//! The scalar functions, on one register of either shape.

use crate::emit::Emitter;
use crate::lanes::{REGISTER_LANES, Shape, register_type};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{AbiParam, InstBuilder, MemFlagsData, Signature, Type, Value, types};
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_kernel::cpu_abi::{HELPERS, Signature as HelperSignature};

use PointwiseFn as F;

impl Emitter<'_> {
    /// A function on operands of `dtype` (for `select`, that of the branches).
    pub(crate) fn function(&mut self, f: PointwiseFn, dtype: DType, args: &[Value], shape: Shape) -> Value {
        self.function_with(f, dtype, args, shape, None)
    }

    /// As `function`, where the last operand is known to be a constant.
    pub(crate) fn function_with(
        &mut self,
        f: PointwiseFn,
        dtype: DType,
        args: &[Value],
        shape: Shape,
        constant: Option<Scalar>,
    ) -> Value {
        match f {
            F::Select => self.choose(args[0], args[1], args[2], shape),
            F::Eq => self.compare(IntCC::Equal, FloatCC::Equal, dtype, args, shape),
            F::Ne => self.compare(IntCC::NotEqual, FloatCC::NotEqual, dtype, args, shape),
            F::Lt => self.compare(IntCC::SignedLessThan, FloatCC::LessThan, dtype, args, shape),
            F::Le => self.compare(IntCC::SignedLessThanOrEqual, FloatCC::LessThanOrEqual, dtype, args, shape),
            F::Gt => self.compare(IntCC::SignedGreaterThan, FloatCC::GreaterThan, dtype, args, shape),
            F::Ge => {
                self.compare(IntCC::SignedGreaterThanOrEqual, FloatCC::GreaterThanOrEqual, dtype, args, shape)
            }
            F::Neg
            | F::Abs
            | F::Sign
            | F::Exp
            | F::Expm1
            | F::Log
            | F::Log1p
            | F::Sqrt
            | F::Rsqrt
            | F::Sin
            | F::Cos
            | F::Tanh
            | F::Erf
            | F::Floor
            | F::Ceil
            | F::Round
            | F::Not
            | F::Add
            | F::Sub
            | F::Mul
            | F::Div
            | F::Rem
            | F::Pow
            | F::Max
            | F::Min
            | F::And
            | F::Or
            | F::Xor
            | F::ShiftLeft
            | F::ShiftRight
            | F::MulAdd => match dtype.is_float() {
                true => self.float(f, dtype, args, shape, constant),
                false => self.integer(f, dtype, args, shape, constant),
            },
        }
    }

    fn float(
        &mut self,
        f: PointwiseFn,
        dtype: DType,
        args: &[Value],
        shape: Shape,
        constant: Option<Scalar>,
    ) -> Value {
        let a = args[0];
        match f {
            F::Neg => self.b.ins().fneg(a),
            F::Abs => self.b.ins().fabs(a),
            F::Sign => self.float_sign(dtype, a, shape),
            F::Sqrt => self.b.ins().sqrt(a),
            F::Rsqrt => {
                let root = self.b.ins().sqrt(a);
                let one = self.constant(dtype, Scalar::Float(1.0), shape);
                self.b.ins().fdiv(one, root)
            }
            F::Floor => self.b.ins().floor(a),
            F::Ceil => self.b.ins().ceil(a),
            F::Round => self.b.ins().nearest(a),
            F::Add => self.b.ins().fadd(a, args[1]),
            F::Sub => self.b.ins().fsub(a, args[1]),
            F::Mul => self.b.ins().fmul(a, args[1]),
            F::Div => self.b.ins().fdiv(a, args[1]),
            F::Max | F::Min => {
                let number = constant.is_some_and(|value| !value.to_f64().is_nan());
                self.extremum(f, dtype, a, args[1], number, shape)
            }
            F::MulAdd => self.multiply_add(dtype, a, args[1], args[2], shape),
            F::Exp | F::Expm1 | F::Log | F::Log1p | F::Sin | F::Cos | F::Tanh | F::Erf | F::Rem | F::Pow => {
                match shape {
                    Shape::Scalar => self.float_call(f, dtype, args),
                    Shape::Vector => self.lane_by_lane(f, dtype, args),
                }
            }
            F::Not | F::And | F::Or | F::Xor | F::ShiftLeft | F::ShiftRight => {
                panic!("`{f}` takes no floats")
            }
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge | F::Select => unreachable!("handled before"),
        }
    }

    fn integer(
        &mut self,
        f: PointwiseFn,
        dtype: DType,
        args: &[Value],
        shape: Shape,
        constant: Option<Scalar>,
    ) -> Value {
        let a = args[0];
        match f {
            F::Neg => self.b.ins().ineg(a),
            F::Abs if dtype == DType::U64 => a,
            F::Abs => self.b.ins().iabs(a),
            F::Sign if dtype == DType::U64 => {
                let one = self.constant(dtype, Scalar::Int(1), shape);
                self.b.ins().umin(a, one)
            }
            F::Sign => {
                let one = self.constant(dtype, Scalar::Int(1), shape);
                let minus_one = self.constant(dtype, Scalar::Int(-1), shape);
                let below = self.b.ins().smin(a, one);
                self.b.ins().smax(below, minus_one)
            }
            F::Not if dtype == DType::Bool && shape == Shape::Scalar => {
                let one = self.b.ins().iconst(types::I8, 1);
                self.b.ins().bxor(a, one)
            }
            F::Not => self.b.ins().bnot(a),
            F::Add => self.b.ins().iadd(a, args[1]),
            F::Sub => self.b.ins().isub(a, args[1]),
            F::Mul => self.b.ins().imul(a, args[1]),
            F::MulAdd => {
                let product = self.b.ins().imul(a, args[1]);
                self.b.ins().iadd(product, args[2])
            }
            F::Max if dtype == DType::U64 => self.b.ins().umax(a, args[1]),
            F::Min if dtype == DType::U64 => self.b.ins().umin(a, args[1]),
            F::Max => self.b.ins().smax(a, args[1]),
            F::Min => self.b.ins().smin(a, args[1]),
            F::And => self.b.ins().band(a, args[1]),
            F::Or => self.b.ins().bor(a, args[1]),
            F::Xor => self.b.ins().bxor(a, args[1]),
            F::ShiftLeft | F::ShiftRight => match (constant, shape) {
                (Some(amount), _) => self.shift_known(f, a, amount.to_i64(), shape),
                (None, Shape::Scalar) => self.shift(f, dtype, a, args[1]),
                (None, Shape::Vector) => self.lane_by_lane(f, dtype, args),
            },
            F::Div | F::Rem | F::Pow if shape == Shape::Vector => self.lane_by_lane(f, dtype, args),
            F::Div | F::Rem if dtype == DType::U64 => self.divide_unsigned(f, a, args[1]),
            F::Div | F::Rem => self.divide(f, dtype, a, args[1], constant),
            F::Pow => {
                let mut wide: Vec<_> =
                    args.iter().map(|x| self.convert(*x, dtype, DType::I64, Shape::Scalar)).collect();
                if dtype == DType::U64 {
                    wide[1] = self.signed_exponent(wide[1]);
                }
                let result = self.call(F::Pow, DType::I64, &wide);
                self.convert(result, DType::I64, dtype, Shape::Scalar)
            }
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
                panic!("`{f}` takes floats")
            }
            F::Floor | F::Ceil | F::Round => panic!("`{f}` takes floats"),
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge | F::Select => unreachable!("handled before"),
        }
    }

    fn compare(
        &mut self,
        integer: IntCC,
        float: FloatCC,
        dtype: DType,
        args: &[Value],
        shape: Shape,
    ) -> Value {
        let (a, b) = (args[0], args[1]);
        match (dtype.is_float(), dtype, shape) {
            (true, _, _) => self.b.ins().fcmp(float, a, b),
            // In a mask, true is -1 and so below false.
            (false, DType::Bool, Shape::Vector) => self.b.ins().icmp(integer, b, a),
            (false, DType::U64, _) => self.b.ins().icmp(integer.unsigned(), a, b),
            (false, _, _) => self.b.ins().icmp(integer, a, b),
        }
    }

    /// `b` where the condition holds, else `c`; a condition in vectors is a mask of 32-bit lanes.
    pub(crate) fn choose(&mut self, condition: Value, b: Value, c: Value, shape: Shape) -> Value {
        if shape == Shape::Scalar {
            return self.b.ins().select(condition, b, c);
        }
        let ty = self.b.func.dfg.value_type(b);
        let b = self.b.ins().bitcast(types::I32X4, MemFlagsData::new(), b);
        let c = self.b.ins().bitcast(types::I32X4, MemFlagsData::new(), c);
        let chosen = match self.target.is_x86() {
            true => self.b.ins().blendv(condition, b, c),
            false => self.b.ins().bitselect(condition, b, c),
        };
        self.b.ins().bitcast(ty, MemFlagsData::new(), chosen)
    }

    /// `a` with NaN and both zeros kept, else 1 with the sign of `a`.
    fn float_sign(&mut self, dtype: DType, a: Value, shape: Shape) -> Value {
        let zero = self.constant(dtype, Scalar::Float(0.0), shape);
        let one = self.constant(dtype, Scalar::Float(1.0), shape);
        let minus_one = self.constant(dtype, Scalar::Float(-1.0), shape);
        let above = self.b.ins().fcmp(FloatCC::GreaterThan, a, zero);
        let below = self.b.ins().fcmp(FloatCC::LessThan, a, zero);
        let rest = self.choose(below, minus_one, a, shape);
        self.choose(above, one, rest, shape)
    }

    /// The larger or smaller operand, NaN if either is. `x > y ? x : y` is one instruction and gives `y` where either is
    /// NaN, which is enough when the other one is known to be a number.
    fn extremum(
        &mut self,
        f: PointwiseFn,
        dtype: DType,
        a: Value,
        b: Value,
        b_is_number: bool,
        shape: Shape,
    ) -> Value {
        if b_is_number {
            return self.extremum_or_second(f, b, a, shape);
        }
        let chosen = self.extremum_or_second(f, a, b, shape);
        let nan = self.b.ins().fcmp(FloatCC::Unordered, a, a);
        debug_assert!(dtype.is_float());
        self.choose(nan, a, chosen, shape)
    }

    fn extremum_or_second(&mut self, f: PointwiseFn, x: Value, y: Value, shape: Shape) -> Value {
        // The operand order is the one that Cranelift turns into `maxps` and `minps`.
        let better = match f == F::Max {
            true => self.b.ins().fcmp(FloatCC::LessThan, y, x),
            false => self.b.ins().fcmp(FloatCC::LessThan, x, y),
        };
        match shape {
            Shape::Scalar => self.b.ins().select(better, x, y),
            Shape::Vector => {
                let mask = self.b.ins().bitcast(types::F32X4, MemFlagsData::new(), better);
                self.b.ins().bitselect(mask, x, y)
            }
        }
    }

    fn multiply_add(&mut self, dtype: DType, a: Value, b: Value, c: Value, shape: Shape) -> Value {
        match (self.target.has_fma(), dtype, shape) {
            (true, _, _) => self.b.ins().fma(a, b, c),
            (false, DType::F32, Shape::Scalar) => {
                let [a, b, c] = [a, b, c].map(|x| self.b.ins().fpromote(types::F64, x));
                let product = self.b.ins().fmul(a, b);
                let sum = self.b.ins().fadd(product, c);
                self.b.ins().fdemote(types::F32, sum)
            }
            (false, DType::F32, Shape::Vector) => {
                let low = self.multiply_add_low(a, b, c);
                // Lanes 2, 3 to the front, then back behind the lower ones.
                let upper = [a, b, c].map(|x| self.shuffle(x, x, [2, 3, 0, 1]));
                let high = self.multiply_add_low(upper[0], upper[1], upper[2]);
                self.shuffle(low, high, [0, 1, 4, 5])
            }
            (false, _, _) => {
                let product = self.b.ins().fmul(a, b);
                self.b.ins().fadd(product, c)
            }
        }
    }

    /// The two lower lanes through `f64`, where the product is exact.
    fn multiply_add_low(&mut self, a: Value, b: Value, c: Value) -> Value {
        let [a, b, c] = [a, b, c].map(|x| self.b.ins().fvpromote_low(x));
        let product = self.b.ins().fmul(a, b);
        let sum = self.b.ins().fadd(product, c);
        self.b.ins().fvdemote(sum)
    }

    /// Picks four of eight `f32` lanes.
    fn shuffle(&mut self, a: Value, b: Value, lanes: [u8; 4]) -> Value {
        let order = MemFlagsData::new().with_endianness(cranelift_codegen::ir::Endianness::Little);
        let a = self.b.ins().bitcast(types::I8X16, order, a);
        let b = self.b.ins().bitcast(types::I8X16, order, b);
        let bytes: Vec<u8> = lanes.iter().flat_map(|lane| (0..4).map(move |byte| lane * 4 + byte)).collect();
        let mask = self.b.func.dfg.immediates.push(bytes.into());
        let shuffled = self.b.ins().shuffle(a, b, mask);
        self.b.ins().bitcast(types::F32X4, order, shuffled)
    }

    /// Shifts by a known amount; 0 when it is not within the width.
    pub(crate) fn shift_known(&mut self, f: PointwiseFn, x: Value, amount: i64, shape: Shape) -> Value {
        let ty = self.b.func.dfg.value_type(x);
        let bits = ty.lane_bits() as i64;
        if !(0..bits).contains(&amount) {
            let dtype = if bits == 64 { DType::I64 } else { DType::I32 };
            return self.constant(dtype, Scalar::Int(0), shape);
        }
        match f == F::ShiftLeft {
            true => self.b.ins().ishl_imm_u(x, amount),
            false => self.b.ins().ushr_imm_u(x, amount),
        }
    }

    fn shift(&mut self, f: PointwiseFn, dtype: DType, x: Value, amount: Value) -> Value {
        let shifted = match f == F::ShiftLeft {
            true => self.b.ins().ishl(x, amount),
            false => self.b.ins().ushr(x, amount),
        };
        let bits = dtype.size_bytes() as i64 * 8;
        let within = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, amount, bits);
        let zero = self.constant(dtype, Scalar::Int(0), Shape::Scalar);
        self.b.ins().select(within, shifted, zero)
    }

    /// The processor traps on a zero divisor and on the one overflow, so those divide by 1 and are patched.
    fn divide(
        &mut self,
        f: PointwiseFn,
        dtype: DType,
        a: Value,
        b: Value,
        constant: Option<Scalar>,
    ) -> Value {
        if constant.is_some_and(|divisor| !matches!(divisor, Scalar::Int(0 | -1))) {
            return match f == F::Div {
                true => self.b.ins().sdiv(a, b),
                false => self.b.ins().srem(a, b),
            };
        }
        let is_zero = self.b.ins().icmp_imm_s(IntCC::Equal, b, 0);
        let is_minus_one = self.b.ins().icmp_imm_s(IntCC::Equal, b, -1);
        let special = self.b.ins().bor(is_zero, is_minus_one);
        let one = self.constant(dtype, Scalar::Int(1), Shape::Scalar);
        let zero = self.constant(dtype, Scalar::Int(0), Shape::Scalar);
        let divisor = self.b.ins().select(special, one, b);
        match f == F::Div {
            true => {
                let quotient = self.b.ins().sdiv(a, divisor);
                let negated = self.b.ins().ineg(a);
                let quotient = self.b.ins().select(is_minus_one, negated, quotient);
                self.b.ins().select(is_zero, zero, quotient)
            }
            // The remainder by 1 is the 0 that both cases want.
            false => self.b.ins().srem(a, divisor),
        }
    }

    /// The processor traps on a zero divisor, so that one divides by 1 and is patched.
    fn divide_unsigned(&mut self, f: PointwiseFn, a: Value, b: Value) -> Value {
        let is_zero = self.b.ins().icmp_imm_u(IntCC::Equal, b, 0);
        let one = self.b.ins().iconst(types::I64, 1);
        let divisor = self.b.ins().select(is_zero, one, b);
        if f == F::Rem {
            // The remainder by 1 is the 0 that is wanted.
            return self.b.ins().urem(a, divisor);
        }
        let quotient = self.b.ins().udiv(a, divisor);
        let zero = self.b.ins().iconst(types::I64, 0);
        self.b.ins().select(is_zero, zero, quotient)
    }

    /// An exponent from 0 to `i64::MAX` that gives the same power modulo 2^64 as this `u64`. Odd numbers return to 1
    /// after 2^62 steps, and even ones are 0 from 64 steps on.
    fn signed_exponent(&mut self, exponent: Value) -> Value {
        let period = self.b.ins().iconst(types::I64, 1 << 62);
        let mask = self.b.ins().iconst(types::I64, (1 << 62) - 1);
        let rest = self.b.ins().band(exponent, mask);
        let folded = self.b.ins().bor(rest, period);
        let large = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, exponent, 0);
        self.b.ins().select(large, folded, exponent)
    }

    /// Applies the scalar form to each lane of operands that share one dtype.
    fn lane_by_lane(&mut self, f: PointwiseFn, dtype: DType, args: &[Value]) -> Value {
        (0..REGISTER_LANES as u8).fold(args[0], |filled, lane| {
            let scalars: Vec<_> = args.iter().map(|arg| self.extract(*arg, dtype, lane)).collect();
            let result = self.function(f, dtype, &scalars, Shape::Scalar);
            self.insert(filled, dtype, lane, result)
        })
    }

    /// Through the `f64` helper.
    fn float_call(&mut self, f: PointwiseFn, dtype: DType, args: &[Value]) -> Value {
        let wide: Vec<_> = args.iter().map(|x| self.convert(*x, dtype, DType::F64, Shape::Scalar)).collect();
        let result = self.call(f, DType::F64, &wide);
        self.convert(result, DType::F64, dtype, Shape::Scalar)
    }

    /// Calls a helper by its place in the table.
    fn call(&mut self, f: PointwiseFn, dtype: DType, args: &[Value]) -> Value {
        let position = HELPERS
            .iter()
            .position(|helper| {
                let takes = match helper.signature {
                    HelperSignature::Float1(_) | HelperSignature::Float2(_) => DType::F64,
                    HelperSignature::Int2(_) => DType::I64,
                };
                helper.function == f && takes == dtype
            })
            .unwrap_or_else(|| panic!("no helper for `{f}` on {dtype}"));
        let ty: Type = register_type(dtype, Shape::Scalar);
        let mut signature = Signature::new(self.b.func.signature.call_conv);
        signature.params = vec![AbiParam::new(ty); args.len()];
        signature.returns = vec![AbiParam::new(ty)];
        let signature = self.b.import_signature(signature);
        let flags = MemFlagsData::trusted().with_readonly().with_can_move();
        let address = self.b.ins().load(types::I64, flags, self.helpers, 8 * position as i32);
        let call = self.b.ins().call_indirect(signature, address, args);
        self.b.inst_results(call)[0]
    }
}
