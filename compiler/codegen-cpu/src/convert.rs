//! Conversions between dtypes, and the bits of the 16-bit floats.

use crate::emit::Emitter;
use crate::lanes::{Shape, register_type};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use thalweg_base::{DType, Scalar};
use thalweg_kernel::compute_dtype;

impl Emitter<'_> {
    /// One register of `from` as `to`; storage dtypes round and stay in their compute dtype.
    pub(crate) fn convert(&mut self, x: Value, from: DType, to: DType, shape: Shape) -> Value {
        if from == to {
            return x;
        }
        match to {
            DType::F16 | DType::BF16 => {
                let single = self.convert(x, from, DType::F32, shape);
                let bits = self.narrow_bits(to, single, shape);
                self.widen_bits(to, bits, shape)
            }
            DType::I8 | DType::I16 | DType::U8 | DType::U16 | DType::U32 => {
                let wide = self.convert(x, from, compute_dtype(to), shape);
                match from.is_float() {
                    true => self.clamp(wide, to, shape),
                    false => self.wrap(wide, to, shape),
                }
            }
            DType::Bool => {
                let zero = self.constant(from, Scalar::zero(from), shape);
                match from.is_float() {
                    true => self.b.ins().fcmp(FloatCC::NotEqual, x, zero),
                    false => self.b.ins().icmp(IntCC::NotEqual, x, zero),
                }
            }
            DType::F32 | DType::F64 | DType::I32 | DType::I64 | DType::U64 => {
                self.convert_compute(x, from, to, shape)
            }
        }
    }

    /// Among compute dtypes, to a number.
    fn convert_compute(&mut self, x: Value, from: DType, to: DType, shape: Shape) -> Value {
        let ty = register_type(to, shape);
        match (from, to) {
            (DType::F32, DType::F64) => self.b.ins().fpromote(ty, x),
            (DType::F64, DType::F32) => self.b.ins().fdemote(ty, x),
            (DType::F32 | DType::F64, DType::I32 | DType::I64) => self.b.ins().fcvt_to_sint_sat(ty, x),
            (DType::I32 | DType::I64, DType::F32 | DType::F64) => self.b.ins().fcvt_from_sint(ty, x),
            (DType::F32 | DType::F64, DType::U64) => self.b.ins().fcvt_to_uint_sat(ty, x),
            (DType::U64, DType::F32 | DType::F64) => self.b.ins().fcvt_from_uint(ty, x),
            (DType::I32, DType::I64 | DType::U64) => self.b.ins().sextend(ty, x),
            (DType::I64 | DType::U64, DType::I32) => self.b.ins().ireduce(ty, x),
            (DType::I64, DType::U64) | (DType::U64, DType::I64) => x,
            (DType::Bool, DType::F32 | DType::I32) if shape == Shape::Vector => {
                let one = self.constant(to, Scalar::one(to), shape);
                let bits = self.b.ins().bitcast(types::I32X4, MemFlagsData::new(), one);
                let masked = self.b.ins().band(x, bits);
                self.b.ins().bitcast(ty, MemFlagsData::new(), masked)
            }
            (DType::Bool, DType::I32 | DType::I64 | DType::U64) => self.b.ins().uextend(ty, x),
            (DType::Bool, DType::F32 | DType::F64) => {
                let wide = self.b.ins().uextend(types::I32, x);
                self.b.ins().fcvt_from_sint(ty, wide)
            }
            (from, to) => panic!("{} to {to} is no conversion between compute dtypes", compute_dtype(from)),
        }
    }

    fn clamp(&mut self, x: Value, to: DType, shape: Shape) -> Value {
        let (low, high) = to.range();
        let low = self.constant(compute_dtype(to), low, shape);
        let high = self.constant(compute_dtype(to), high, shape);
        let above = self.b.ins().smax(x, low);
        self.b.ins().smin(above, high)
    }

    fn wrap(&mut self, x: Value, to: DType, shape: Shape) -> Value {
        let (low, high) = to.range();
        if low == Scalar::Int(0) {
            let mask = self.constant(compute_dtype(to), high, shape);
            return self.b.ins().band(x, mask);
        }
        let unused = (compute_dtype(to).size_bytes() - to.size_bytes()) as i64 * 8;
        let high = self.b.ins().ishl_imm_u(x, unused);
        self.b.ins().sshr_imm_u(high, unused)
    }

    fn int(&mut self, value: i64, shape: Shape) -> Value {
        self.constant(DType::I32, Scalar::Int(value.into()), shape)
    }

    fn as_float(&mut self, bits: Value, shape: Shape) -> Value {
        self.b.ins().bitcast(register_type(DType::F32, shape), MemFlagsData::new(), bits)
    }

    fn as_bits(&mut self, float: Value, shape: Shape) -> Value {
        self.b.ins().bitcast(register_type(DType::I32, shape), MemFlagsData::new(), float)
    }

    /// The `f32` of the bits of an `f16` or `bf16`, which lie in the low half of an `i32`.
    pub(crate) fn widen_bits(&mut self, dtype: DType, bits: Value, shape: Shape) -> Value {
        if dtype == DType::BF16 {
            let high = self.b.ins().ishl_imm_u(bits, 16);
            return self.as_float(high, shape);
        }
        // Exponent and fraction move into place and a multiplication by 2^112 corrects the bias, also of subnormal
        // numbers; what was infinite or NaN then gets the largest exponent.
        let magnitude_mask = self.int(0x7fff, shape);
        let magnitude = self.b.ins().band(bits, magnitude_mask);
        let placed = self.b.ins().ishl_imm_u(magnitude, 13);
        let placed = self.as_float(placed, shape);
        let scale = self.constant(DType::F32, Scalar::Float(2f64.powi(112)), shape);
        let scaled = self.b.ins().fmul(placed, scale);
        let scaled = self.as_bits(scaled, shape);
        let largest_finite = self.int(0x7bff, shape);
        let special = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, largest_finite);
        let special = self.mask(special, shape);
        let exponent = self.int(0x7f80_0000, shape);
        let exponent = self.b.ins().band(special, exponent);
        let sign_mask = self.int(0x8000, shape);
        let sign = self.b.ins().band(bits, sign_mask);
        let sign = self.b.ins().ishl_imm_u(sign, 16);
        let value = self.b.ins().bor(scaled, exponent);
        let value = self.b.ins().bor(value, sign);
        self.as_float(value, shape)
    }

    /// The bits of an `f32` rounded to `f16` or `bf16`, to nearest even, in the low half of an `i32`.
    pub(crate) fn narrow_bits(&mut self, dtype: DType, float: Value, shape: Shape) -> Value {
        let bits = self.as_bits(float, shape);
        match dtype == DType::BF16 {
            true => self.bfloat_bits(bits, shape),
            false => self.half_bits(bits, shape),
        }
    }

    /// Adds just below half of the last kept place, plus its parity; a NaN is cut off and made quiet instead.
    fn bfloat_bits(&mut self, bits: Value, shape: Shape) -> Value {
        let one = self.int(1, shape);
        let last = self.b.ins().ushr_imm_u(bits, 16);
        let odd = self.b.ins().band(last, one);
        let half = self.int(0x7fff, shape);
        let bias = self.b.ins().iadd(odd, half);
        let rounded = self.b.ins().iadd(bits, bias);
        let rounded = self.b.ins().ushr_imm_u(rounded, 16);
        let quiet = self.int(0x40, shape);
        let quiet = self.b.ins().bor(last, quiet);
        let magnitude_mask = self.int(0x7fff_ffff, shape);
        let magnitude = self.b.ins().band(bits, magnitude_mask);
        let infinity = self.int(0x7f80_0000, shape);
        let nan = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, infinity);
        self.choose(nan, quiet, rounded, shape)
    }

    /// Giesen's rounding of binary32 to binary16 ("Float to half done quic"): subnormal results by adding a float whose
    /// last place is theirs, normal ones by integer rounding, the rest by comparison.
    fn half_bits(&mut self, bits: Value, shape: Shape) -> Value {
        let magnitude_mask = self.int(0x7fff_ffff, shape);
        let magnitude = self.b.ins().band(bits, magnitude_mask);
        // 2^-14 / 2^-24 = 2^10 subnormal steps; 0.5 has the last place 2^-24.
        let half = self.constant(DType::F32, Scalar::Float(0.5), shape);
        let small = self.as_float(magnitude, shape);
        let small = self.b.ins().fadd(small, half);
        let small = self.as_bits(small, shape);
        let half_bits = self.int(0x3f00_0000, shape);
        let subnormal = self.b.ins().isub(small, half_bits);

        let one = self.int(1, shape);
        let last = self.b.ins().ushr_imm_u(magnitude, 13);
        let odd = self.b.ins().band(last, one);
        // The exponent's bias drops by 112; 0xfff is just below half of the last kept place.
        let rebias = self.int(((-112i64) << 23) + 0xfff, shape);
        let normal = self.b.ins().iadd(magnitude, rebias);
        let normal = self.b.ins().iadd(normal, odd);
        let normal = self.b.ins().ushr_imm_u(normal, 13);

        let least_normal = self.int(113 << 23, shape);
        let is_subnormal = self.b.ins().icmp(IntCC::SignedLessThan, magnitude, least_normal);
        let finite = self.choose(is_subnormal, subnormal, normal, shape);
        let infinity = self.int(0x7f80_0000, shape);
        let nan = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, infinity);
        let quiet_nan = self.int(0x7e00, shape);
        let half_infinity = self.int(0x7c00, shape);
        let special = self.choose(nan, quiet_nan, half_infinity, shape);
        // 2^16 and above overflow; below, the rounding itself may carry into infinity.
        let overflow = self.int((127 + 16) << 23, shape);
        let too_large = self.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, magnitude, overflow);
        let value = self.choose(too_large, special, finite, shape);
        let sign = self.b.ins().ushr_imm_u(bits, 16);
        let sign_mask = self.int(0x8000, shape);
        let sign = self.b.ins().band(sign, sign_mask);
        self.b.ins().bor(value, sign)
    }

    /// A comparison as a mask of 32 bits.
    fn mask(&mut self, comparison: Value, shape: Shape) -> Value {
        match shape {
            Shape::Vector => comparison,
            Shape::Scalar => self.mask_of_scalar(comparison),
        }
    }
}
