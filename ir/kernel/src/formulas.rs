//! Formulas for transcendental functions of binary32 values, without branches.
//!
//! Errors are in units in the last place of the binary32 result, the largest seen over dense samples with every product
//! and sum rounded once (`mul_add` fused); the tests of this crate and of the CPU code generator hold them to it.
//! Polynomials of `exp`, `log`, `sin` and `cos` are those of Cephes (Moshier, `expf.c`, `logf.c`, `sinf.c`); the rational
//! functions of `tanh` and `erf` are our own least-maximum fits, their coefficients then searched among neighbouring
//! binary32 values.

use crate::ir::{Expr, Stmt, ValueId};
use std::collections::BTreeMap;
use thalweg_base::{DType, PointwiseFn, Scalar};

use PointwiseFn as F;

/// Adding 1.5 * 2^23 rounds a small float to an integer, which is then in the low bits of the sum.
const ROUNDER: f32 = 12_582_912.0;
const ROUNDER_BITS: i32 = 0x4B40_0000;
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has 9 bits, so that its products with exponents are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// `e^r = 1 + r + r^2 (...)` for |r| <= ln 2 / 2.
const EXP: [f32; 6] = [1.987_569_2e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
/// `ln(1 + f) = f - f^2/2 + f^3 (...)` for 1 + f between sqrt(1/2) and sqrt(2).
const LOG: [f32; 9] = [
    7.037_683_6e-2,
    -0.115_146_1,
    0.116_769_99,
    -0.124_201_41,
    0.142_493_23,
    -0.166_680_58,
    0.200_007_15,
    -0.249_999_94,
    0.333_333_3,
];
/// Added to the bits of a float, it makes the exponent field 128 + e where the value is 2^e m with m in
/// [sqrt(1/2), sqrt(2)).
const LOG_BIAS: i32 = 0x4000_0000 - 0x3F35_04F3;

/// What `e^x` is made of, for devices with an instruction that multiplies by a power of two: with `x` clamped to
/// [`LOWEST`](Exponential::LOWEST) to [`HIGHEST`](Exponential::HIGHEST), `n = (x * LOG2_E + ROUNDER) - ROUNDER` and
/// `r = (x - n * LN2_HIGH) - n * LN2_LOW`, each product fused with its sum, it is `(1 + (r + r^2 q(r))) 2^n`.
#[derive(Clone, Copy, Debug)]
pub struct Exponential;

impl Exponential {
    /// Below it the result is 0.
    pub const LOWEST: f32 = -104.0;
    /// Above it the result is infinite.
    pub const HIGHEST: f32 = 89.0;
    /// The logarithm of e to the base of 2.
    pub const LOG2_E: f32 = LOG2_E;
    /// Adding it rounds a small float to an integer.
    pub const ROUNDER: f32 = ROUNDER;
    /// The leading bits of ln 2.
    pub const LN2_HIGH: f32 = LN2_HIGH;
    /// The rest of ln 2.
    pub const LN2_LOW: f32 = LN2_LOW;
    /// The polynomial `q`, highest coefficient first.
    pub const POLYNOMIAL: [f32; 6] = EXP;
}

/// Writes formulas as statements.
#[derive(Debug)]
pub(crate) struct Formulas {
    next: ValueId,
    constants: BTreeMap<(DType, u32), ValueId>,
    constant_stmts: Vec<Stmt>,
    stmts: Vec<Stmt>,
}

impl Formulas {
    /// Formulas whose values are named from `next` on.
    pub(crate) fn new(next: ValueId) -> Formulas {
        Formulas { next, constants: BTreeMap::new(), constant_stmts: Vec::new(), stmts: Vec::new() }
    }

    /// The constants that formulas used; they belong at the start of the kernel's body.
    pub(crate) fn take_constants(&mut self) -> Vec<Stmt> {
        std::mem::take(&mut self.constant_stmts)
    }

    /// Statements that define `value` as the function of `f32` operands; absent for a function that every device has.
    pub(crate) fn expand(
        &mut self,
        value: ValueId,
        function: PointwiseFn,
        operands: &[ValueId],
    ) -> Option<Vec<Stmt>> {
        let x = operands[0];
        let result = match function {
            F::Exp => self.exp(x),
            F::Expm1 => self.expm1(x),
            F::Log => self.log(x),
            F::Log1p => self.log1p(x),
            F::Rsqrt => self.rsqrt(x),
            F::Sin => self.sine(x, 0),
            F::Cos => self.sine(x, 1),
            F::Tanh => self.tanh(x),
            F::Erf => self.erf(x),
            F::Pow => self.pow(x, operands[1]),
            F::Neg | F::Abs | F::Sign | F::Sqrt | F::Floor | F::Ceil | F::Round => return None,
            F::Not | F::Add | F::Sub | F::Mul | F::Div | F::Rem | F::Max | F::Min | F::MulAdd => return None,
            F::And | F::Or | F::Xor | F::ShiftLeft | F::ShiftRight => return None,
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge | F::Select => return None,
        };
        let mut stmts = std::mem::take(&mut self.stmts);
        match stmts.last_mut() {
            Some(Stmt::Let { value: last, .. }) if *last == result => *last = value,
            last => panic!("a formula ends with its result, not {last:?}"),
        }
        Some(stmts)
    }

    fn emit(&mut self, expr: Expr) -> ValueId {
        let value = self.next;
        self.next = ValueId(value.0 + 1);
        self.stmts.push(Stmt::Let { value, expr });
        value
    }

    fn constant(&mut self, dtype: DType, bits: u32, scalar: Scalar) -> ValueId {
        if let Some(value) = self.constants.get(&(dtype, bits)) {
            return *value;
        }
        let value = self.next;
        self.next = ValueId(value.0 + 1);
        self.constant_stmts.push(Stmt::Let { value, expr: Expr::Constant(dtype, scalar) });
        self.constants.insert((dtype, bits), value);
        value
    }

    fn f(&mut self, value: f32) -> ValueId {
        self.constant(DType::F32, value.to_bits(), Scalar::Float(value as f64))
    }

    fn i(&mut self, value: i32) -> ValueId {
        self.constant(DType::I32, value as u32, Scalar::Int(value as i128))
    }

    fn apply(&mut self, function: PointwiseFn, operands: &[ValueId]) -> ValueId {
        self.emit(Expr::Pointwise(function, operands.to_vec()))
    }

    /// With a float constant as second operand.
    fn with(&mut self, function: PointwiseFn, x: ValueId, constant: f32) -> ValueId {
        let constant = self.f(constant);
        self.apply(function, &[x, constant])
    }

    /// With an integer constant as second operand.
    fn with_int(&mut self, function: PointwiseFn, x: ValueId, constant: i32) -> ValueId {
        let constant = self.i(constant);
        self.apply(function, &[x, constant])
    }

    fn mul_add(&mut self, a: ValueId, b: ValueId, c: ValueId) -> ValueId {
        self.apply(F::MulAdd, &[a, b, c])
    }

    /// `a * constant + c`.
    fn scaled_add(&mut self, a: ValueId, constant: f32, c: ValueId) -> ValueId {
        let constant = self.f(constant);
        self.mul_add(a, constant, c)
    }

    fn select(&mut self, condition: ValueId, b: ValueId, c: ValueId) -> ValueId {
        self.apply(F::Select, &[condition, b, c])
    }

    fn bits(&mut self, x: ValueId) -> ValueId {
        self.emit(Expr::Bitcast(DType::I32, x))
    }

    fn float(&mut self, bits: ValueId) -> ValueId {
        self.emit(Expr::Bitcast(DType::F32, bits))
    }

    /// A polynomial, highest coefficient first.
    fn polynomial(&mut self, x: ValueId, coefficients: &[f32]) -> ValueId {
        let mut sum = self.f(coefficients[0]);
        for coefficient in &coefficients[1..] {
            let coefficient = self.f(*coefficient);
            sum = self.mul_add(sum, x, coefficient);
        }
        sum
    }

    /// `e^r - 1` for |r| <= ln 2 / 2.
    fn exp_tail(&mut self, r: ValueId) -> ValueId {
        let q = self.polynomial(r, &EXP);
        let square = self.apply(F::Mul, &[r, r]);
        self.mul_add(q, square, r)
    }

    /// `x = n ln 2 + r`: the float whose low bits are n, and r.
    fn exp_reduce(&mut self, x: ValueId) -> (ValueId, ValueId) {
        let rounder = self.f(ROUNDER);
        let shifted = self.scaled_add(x, LOG2_E, rounder);
        let n = self.apply(F::Sub, &[shifted, rounder]);
        let r = self.scaled_add(n, -LN2_HIGH, x);
        let r = self.scaled_add(n, -LN2_LOW, r);
        (shifted, r)
    }

    /// `p * 2^n` for n from -252 to 254 in the low bits of `shifted`: two powers of two, so that neither overflows and
    /// results below the normal range are rounded once.
    fn scale(&mut self, p: ValueId, shifted: ValueId) -> ValueId {
        let bits = self.bits(shifted);
        let biased = self.with_int(F::Sub, bits, ROUNDER_BITS - 256);
        let half = self.with_int(F::ShiftRight, biased, 1);
        let other = self.apply(F::Sub, &[biased, half]);
        let mut product = p;
        for part in [half, other] {
            let exponent = self.with_int(F::Sub, part, 1);
            let power = self.with_int(F::ShiftLeft, exponent, 23);
            let power = self.float(power);
            product = self.apply(F::Mul, &[product, power]);
        }
        product
    }

    /// Restricts to an interval; NaN stays.
    fn clamp(&mut self, x: ValueId, low: f32, high: f32) -> ValueId {
        let below = self.with(F::Min, x, high);
        self.with(F::Max, below, low)
    }

    /// `e^x`, within 1.5 units; 0 below -104, infinite above 88.73.
    fn exp(&mut self, x: ValueId) -> ValueId {
        let x = self.clamp(x, Exponential::LOWEST, Exponential::HIGHEST);
        let (shifted, r) = self.exp_reduce(x);
        let tail = self.exp_tail(r);
        let p = self.with(F::Add, tail, 1.0);
        self.scale(p, shifted)
    }

    /// `e^x - 1`, within 2 units: `2 (s p + (s - 1/2))` with `s = 2^(n-1)` and `p = e^r - 1`.
    fn expm1(&mut self, x: ValueId) -> ValueId {
        let clamped = self.clamp(x, -18.0, 89.0);
        let (shifted, r) = self.exp_reduce(clamped);
        let p = self.exp_tail(r);
        let bits = self.bits(shifted);
        let power = self.with_int(F::ShiftLeft, bits, 23);
        let power = self.with_int(F::Add, power, 126 << 23);
        let s = self.float(power);
        let rest = self.with(F::Sub, s, 0.5);
        let half = self.mul_add(s, p, rest);
        let value = self.apply(F::Add, &[half, half]);
        // Halving would round subnormal numbers, where the function is the identity.
        let magnitude = self.apply(F::Abs, &[x]);
        let tiny = self.with(F::Lt, magnitude, 1e-30);
        self.select(tiny, x, value)
    }

    /// `u = 2^e m` for normal u: e as an integer, and m - 1 with m in [sqrt(1/2), sqrt(2)).
    fn log_reduce(&mut self, u: ValueId) -> (ValueId, ValueId) {
        let bits = self.bits(u);
        let biased = self.with_int(F::Add, bits, LOG_BIAS);
        let field = self.with_int(F::ShiftRight, biased, 23);
        let e = self.with_int(F::Sub, field, 128);
        let power = self.with_int(F::ShiftLeft, e, 23);
        let m = self.apply(F::Sub, &[bits, power]);
        let m = self.float(m);
        let f = self.with(F::Sub, m, 1.0);
        (e, f)
    }

    /// A positive number below the normal range times 2^23, and the exponent to add for that.
    fn log_normalize(&mut self, x: ValueId) -> (ValueId, ValueId) {
        let subnormal = self.with(F::Lt, x, f32::MIN_POSITIVE);
        let scaled = self.with(F::Mul, x, 8_388_608.0);
        let normal = self.select(subnormal, scaled, x);
        let (lower, zero) = (self.f(-23.0), self.f(0.0));
        let exponent = self.select(subnormal, lower, zero);
        (normal, exponent)
    }

    /// `e ln 2 + ln(1 + f)`.
    fn log_sum(&mut self, e: ValueId, f: ValueId) -> ValueId {
        let square = self.apply(F::Mul, &[f, f]);
        let p = self.polynomial(f, &LOG);
        let cube = self.apply(F::Mul, &[square, f]);
        let y = self.apply(F::Mul, &[cube, p]);
        let y = self.scaled_add(e, LN2_LOW, y);
        let y = self.scaled_add(square, -0.5, y);
        let sum = self.apply(F::Add, &[f, y]);
        self.scaled_add(e, LN2_HIGH, sum)
    }

    /// Patches a logarithm: infinite at infinity, minus infinity where `x` is `pole`, NaN below and for NaN.
    fn log_special(&mut self, x: ValueId, value: ValueId, pole: f32) -> ValueId {
        let finite = self.with(F::Lt, x, f32::INFINITY);
        let value = self.select(finite, value, x);
        let at_pole = self.with(F::Eq, x, pole);
        let (low, nan) = (self.f(f32::NEG_INFINITY), self.f(f32::NAN));
        let outside = self.select(at_pole, low, nan);
        let inside = self.with(F::Gt, x, pole);
        self.select(inside, value, outside)
    }

    /// Natural logarithm, within 1 unit, of subnormal numbers too.
    fn log(&mut self, x: ValueId) -> ValueId {
        let (normal, exponent) = self.log_normalize(x);
        let (e, f) = self.log_reduce(normal);
        let e = self.emit(Expr::Convert(DType::F32, e));
        let e = self.apply(F::Add, &[e, exponent]);
        let value = self.log_sum(e, f);
        self.log_special(x, value, 0.0)
    }

    /// `ln(1 + x)`, within 2 units: the logarithm of the rounded sum, with the sum's error added to the reduced argument.
    fn log1p(&mut self, x: ValueId) -> ValueId {
        let one = self.f(1.0);
        let u = self.apply(F::Add, &[x, one]);
        // Knuth's two-sum: u + error = 1 + x exactly.
        let x_part = self.apply(F::Sub, &[u, one]);
        let one_part = self.apply(F::Sub, &[u, x_part]);
        let one_error = self.apply(F::Sub, &[one, one_part]);
        let x_error = self.apply(F::Sub, &[x, x_part]);
        let error = self.apply(F::Add, &[one_error, x_error]);
        let (e, f) = self.log_reduce(u);
        // Beyond 2^100 the error does not matter, and 2^-e must not leave the range.
        let bounded = self.with_int(F::Min, e, 100);
        let power = self.with_int(F::ShiftLeft, bounded, 23);
        let unit = self.i(127 << 23);
        let inverse = self.apply(F::Sub, &[unit, power]);
        let inverse = self.float(inverse);
        let f = self.mul_add(error, inverse, f);
        let e = self.emit(Expr::Convert(DType::F32, e));
        let value = self.log_sum(e, f);
        self.log_special(x, value, -1.0)
    }

    /// `1 / sqrt(x)` with both operations rounded: within 1.5 units.
    fn rsqrt(&mut self, x: ValueId) -> ValueId {
        let root = self.apply(F::Sqrt, &[x]);
        let one = self.f(1.0);
        self.apply(F::Div, &[one, root])
    }

    /// `x P(x^2) / Q(x^2)`, highest coefficients first.
    fn odd_rational(&mut self, x: ValueId, numerator: &[f32], denominator: &[f32]) -> ValueId {
        let square = self.apply(F::Mul, &[x, x]);
        let p = self.polynomial(square, numerator);
        let p = self.apply(F::Mul, &[p, x]);
        let q = self.polynomial(square, denominator);
        self.apply(F::Div, &[p, q])
    }

    /// Hyperbolic tangent, within 4.5 units: a rational function, constant beyond |x| = 9 where it is 1.
    fn tanh(&mut self, x: ValueId) -> ValueId {
        const P: [f32; 5] = [1.3352532e-8, 2.0607704e-5, 3.4955135e-3, 1.338097e-1, 1.0];
        const Q: [f32; 5] = [7.7757403e-7, 3.285504e-4, 2.587672e-2, 4.6714285e-1, 1.0];
        let x = self.clamp(x, -9.0, 9.0);
        let value = self.odd_rational(x, &P, &Q);
        self.clamp(value, -1.0, 1.0)
    }

    /// Error function, within 4.5 units: a rational function, constant beyond |x| = 3.95 where it is 1.
    fn erf(&mut self, x: ValueId) -> ValueId {
        const P: [f32; 6] =
            [2.0258644e-6, 2.8462382e-4, 3.806426e-3, 5.2869987e-2, 1.9151334e-1, 1.1283792e+0];
        const Q: [f32; 6] = [3.7827984e-5, 1.1702592e-3, 1.5051627e-2, 1.1454382e-1, 5.03057e-1, 1.0];
        let x = self.clamp(x, -3.95, 3.95);
        let value = self.odd_rational(x, &P, &Q);
        self.clamp(value, -1.0, 1.0)
    }

    /// Sine (`quarter` 0) or cosine (`quarter` 1), within 2 units for |x| <= 10000 and with an absolute error below 1e-6 up
    /// to 2^22; beyond that the sine is 0 and the cosine 1. NaN for infinities.
    ///
    /// The argument is reduced by multiples of pi/2 in three parts (Cody and Waite) with fused products.
    fn sine(&mut self, x: ValueId, quarter: i32) -> ValueId {
        const HALF_PI: [f32; 3] = [1.570_796_4, -4.371_139e-8, -1.715_125e-15];
        let magnitude = self.apply(F::Abs, &[x]);
        let within = self.with(F::Le, magnitude, 4_194_304.0);
        let nothing = self.with(F::Mul, x, 0.0);
        let x = self.select(within, x, nothing);
        let rounder = self.f(ROUNDER);
        let shifted = self.scaled_add(x, std::f32::consts::FRAC_2_PI, rounder);
        let n = self.apply(F::Sub, &[shifted, rounder]);
        let r = HALF_PI.iter().fold(x, |r, part| self.scaled_add(n, -part, r));
        let quadrant = self.bits(shifted);
        let quadrant = if quarter == 0 { quadrant } else { self.with_int(F::Add, quadrant, quarter) };

        let z = self.apply(F::Mul, &[r, r]);
        let sine = self.polynomial(z, &[-1.951_529_6e-4, 8.332_161e-3, -0.166_666_55]);
        let cube = self.apply(F::Mul, &[z, r]);
        let sine = self.mul_add(sine, cube, r);
        let cosine = self.polynomial(z, &[2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2]);
        let one = self.f(1.0);
        let lead = self.scaled_add(z, -0.5, one);
        let square = self.apply(F::Mul, &[z, z]);
        let cosine = self.mul_add(cosine, square, lead);

        let odd = self.with_int(F::And, quadrant, 1);
        let odd = self.with_int(F::Ne, odd, 0);
        let value = self.select(odd, cosine, sine);
        let sign = self.with_int(F::And, quadrant, 2);
        let sign = self.with_int(F::ShiftLeft, sign, 30);
        let bits = self.bits(value);
        let bits = self.apply(F::Xor, &[bits, sign]);
        self.float(bits)
    }

    /// log2 of a normal positive number of value `2^exponent u`, as an unevaluated sum of two floats with a relative
    /// error near 2^-30: `log2 m = 2 / ln 2 * atanh(f / (2 + f))`, the quotient and the leading term in two parts.
    fn log2_pair(&mut self, u: ValueId, exponent: ValueId) -> (ValueId, ValueId) {
        const FACTOR: f32 = 2.885_39;
        const FACTOR_LOW: f32 = (2.0 * std::f64::consts::LOG2_E - FACTOR as f64) as f32;
        const THIRD: f32 = 1.0 / 3.0;
        const THIRD_LOW: f32 = (1.0 / 3.0 - THIRD as f64) as f32;
        let (e, f) = self.log_reduce(u);
        let e = self.emit(Expr::Convert(DType::F32, e));
        let e = self.apply(F::Add, &[e, exponent]);
        let two = self.f(2.0);
        let d = self.apply(F::Add, &[f, two]);
        let d_lead = self.apply(F::Sub, &[d, two]);
        let d_low = self.apply(F::Sub, &[f, d_lead]);
        let s = self.apply(F::Div, &[f, d]);
        let minus_s = self.apply(F::Neg, &[s]);
        let rest = self.mul_add(minus_s, d, f);
        let rest = self.mul_add(minus_s, d_low, rest);
        let s_low = self.apply(F::Div, &[rest, d]);
        let z = self.apply(F::Mul, &[s, s]);
        let series = self.polynomial(z, &[1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 0.2]);
        let series = self.apply(F::Mul, &[series, z]);
        // s^3 / 3 is up to a hundredth of s: its rounding errors count where y is in the hundreds.
        let minus_z = self.apply(F::Neg, &[z]);
        let z_low = self.mul_add(s, s, minus_z);
        let cube = self.apply(F::Mul, &[z, s]);
        let minus_cube = self.apply(F::Neg, &[cube]);
        let cube_low = self.mul_add(z, s, minus_cube);
        let cube_low = self.mul_add(z_low, s, cube_low);
        let tail = self.scaled_add(cube, THIRD_LOW, s_low);
        let tail = self.scaled_add(cube_low, THIRD, tail);
        let tail = self.mul_add(series, cube, tail);
        let tail = self.scaled_add(cube, THIRD, tail);
        let high = self.apply(F::Add, &[s, tail]);
        let taken = self.apply(F::Sub, &[high, s]);
        let low = self.apply(F::Sub, &[tail, taken]);

        let lead = self.with(F::Mul, high, FACTOR);
        let minus_lead = self.apply(F::Neg, &[lead]);
        let error = self.scaled_add(high, FACTOR, minus_lead);
        let error = self.scaled_add(high, FACTOR_LOW, error);
        let error = self.scaled_add(low, FACTOR, error);
        let sum = self.apply(F::Add, &[e, lead]);
        let taken = self.apply(F::Sub, &[sum, e]);
        let lost = self.apply(F::Sub, &[lead, taken]);
        let low = self.apply(F::Add, &[lost, error]);
        (sum, low)
    }

    /// `x^y`, within 4 units; special cases as in IEEE 754 `pow`: `x^0` and `1^y` are 1 even with NaN, a negative base needs
    /// an integer exponent or gives NaN, zeros and infinities keep their sign under odd exponents.
    fn pow(&mut self, x: ValueId, y: ValueId) -> ValueId {
        let (zero, one, infinity, nan) = (self.f(0.0), self.f(1.0), self.f(f32::INFINITY), self.f(f32::NAN));
        let magnitude = self.apply(F::Abs, &[x]);
        let (normal, exponent) = self.log_normalize(magnitude);
        let (log, log_low) = self.log2_pair(normal, exponent);

        // y log2 |x| in two parts, then 2 to that.
        let product = self.apply(F::Mul, &[y, log]);
        let minus_product = self.apply(F::Neg, &[product]);
        let low = self.mul_add(y, log, minus_product);
        let low = self.mul_add(y, log_low, low);
        let size = self.apply(F::Abs, &[product]);
        let within = self.with(F::Lt, size, 152.0);
        let low = self.select(within, low, zero);
        let clamped = self.clamp(product, -152.0, 130.0);
        let rounder = self.f(ROUNDER);
        let shifted = self.apply(F::Add, &[clamped, rounder]);
        let n = self.apply(F::Sub, &[shifted, rounder]);
        let r = self.apply(F::Sub, &[clamped, n]);
        let r = self.apply(F::Add, &[r, low]);
        let r = self.with(F::Mul, r, std::f32::consts::LN_2);
        let tail = self.exp_tail(r);
        let p = self.apply(F::Add, &[tail, one]);
        let power = self.scale(p, shifted);

        let grows = self.apply(F::Gt, &[y, zero]);
        let at_zero = self.select(grows, zero, infinity);
        let at_infinity = self.select(grows, infinity, zero);
        let is_zero = self.apply(F::Eq, &[magnitude, zero]);
        let power = self.select(is_zero, at_zero, power);
        let is_infinite = self.apply(F::Eq, &[magnitude, infinity]);
        let power = self.select(is_infinite, at_infinity, power);
        let is_one = self.apply(F::Eq, &[magnitude, one]);
        let power = self.select(is_one, one, power);

        let whole = self.apply(F::Floor, &[y]);
        let is_whole = self.apply(F::Eq, &[whole, y]);
        let half = self.with(F::Mul, y, 0.5);
        let half_whole = self.apply(F::Floor, &[half]);
        let half_fraction = self.apply(F::Ne, &[half_whole, half]);
        let is_odd = self.apply(F::And, &[is_whole, half_fraction]);
        let bits = self.bits(x);
        let is_negative = self.with_int(F::Lt, bits, 0);
        let flips = self.apply(F::And, &[is_odd, is_negative]);
        let negated = self.apply(F::Neg, &[power]);
        let power = self.select(flips, negated, power);

        let below_zero = self.apply(F::Lt, &[x, zero]);
        let above_infinity = self.with(F::Gt, x, f32::NEG_INFINITY);
        let finite_negative = self.apply(F::And, &[below_zero, above_infinity]);
        let is_fraction = self.apply(F::Not, &[is_whole]);
        let undefined = self.apply(F::And, &[finite_negative, is_fraction]);
        let x_unordered = self.apply(F::Ne, &[x, x]);
        let y_unordered = self.apply(F::Ne, &[y, y]);
        let undefined = self.apply(F::Or, &[undefined, x_unordered]);
        let undefined = self.apply(F::Or, &[undefined, y_unordered]);
        let power = self.select(undefined, nan, power);
        let no_exponent = self.apply(F::Eq, &[y, zero]);
        let unit_base = self.apply(F::Eq, &[x, one]);
        let certain = self.apply(F::Or, &[no_exponent, unit_base]);
        self.select(certain, one, power)
    }
}
