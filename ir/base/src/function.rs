//! The scalar functions: one table with a row for each, from which every layer takes what it needs.
//!
//! A row says how a function is typed, what it computes, how a cotangent passes through it (as an expression over the
//! same functions, so that differentiation lifts it to tensors), and which algebraic facts hold. Tensor ops, kernels and
//! code generators all name functions by [`PointwiseFn`].

use crate::{DType, Scalar};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An expression over the operands of a function, its result and the cotangent of that result.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Expr {
    /// The operand at that position.
    Arg(u8),
    /// The function's own result.
    Result,
    /// The cotangent of the result.
    Ct,
    /// A constant in the dtype of the result.
    Float(f64),
    /// A function of expressions.
    Apply(PointwiseFn, &'static [Expr]),
}

/// How a cotangent passes to one operand.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum OperandVjp {
    /// It is this expression.
    Value(Expr),
    /// It is zero wherever the function is differentiable.
    Zero,
    /// It is not defined, for this reason.
    None(&'static str),
}

/// How the dtypes of operands and result hang together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Typing {
    /// All operands and the result share one floating-point dtype.
    Float,
    /// All operands and the result share one numeric dtype.
    Numeric,
    /// All operands and the result share one integer dtype or `bool`.
    Bits,
    /// All operands and the result share one integer dtype.
    Integer,
    /// Operands share any one dtype; the result is `bool`.
    Comparison,
    /// `bool`, then two operands of any one dtype, which the result shares.
    Selection,
}

/// What one evaluation costs, in units of a floating-point addition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CostClass {
    /// An addition, a comparison, a bit operation.
    Cheap,
    /// A division or square root.
    Division,
    /// A polynomial with range reduction.
    Transcendental,
}

impl CostClass {
    /// Operations that one evaluation counts as.
    pub fn flops(self) -> f64 {
        match self {
            CostClass::Cheap => 1.0,
            CostClass::Division => 4.0,
            CostClass::Transcendental => 12.0,
        }
    }
}

macro_rules! functions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A function of scalars, applied to tensors element by element.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum PointwiseFn {
            $($(#[$doc])* $variant,)*
        }

        impl PointwiseFn {
            /// Every function, in declaration order.
            pub const ALL: &'static [PointwiseFn] = &[$(PointwiseFn::$variant,)*];

            /// The name in the language and in text forms.
            pub fn name(self) -> &'static str {
                match self { $(PointwiseFn::$variant => $name,)* }
            }
        }
    };
}

functions! {
    /// `-a`.
    Neg = "neg",
    /// `|a|`.
    Abs = "abs",
    /// -1, 0 or 1 with the sign of `a`.
    Sign = "sign",
    /// `e^a`.
    Exp = "exp",
    /// `e^a - 1`, accurate near 0.
    Expm1 = "expm1",
    /// Natural logarithm.
    Log = "log",
    /// `ln(1 + a)`, accurate near 0.
    Log1p = "log1p",
    /// Square root.
    Sqrt = "sqrt",
    /// `1 / sqrt(a)`.
    Rsqrt = "rsqrt",
    /// Sine of radians.
    Sin = "sin",
    /// Cosine of radians.
    Cos = "cos",
    /// Hyperbolic tangent.
    Tanh = "tanh",
    /// Error function.
    Erf = "erf",
    /// Largest integer not above `a`.
    Floor = "floor",
    /// Smallest integer not below `a`.
    Ceil = "ceil",
    /// Nearest integer, ties to even.
    Round = "round",
    /// Every bit inverted; truth negated.
    Not = "not",
    /// `a + b`.
    Add = "add",
    /// `a - b`.
    Sub = "sub",
    /// `a * b`.
    Mul = "mul",
    /// `a / b`; integers truncate toward zero, and dividing them by 0 gives 0.
    Div = "div",
    /// The remainder with the sign of `a`; integers modulo 0 give 0.
    Rem = "rem",
    /// `a^b`.
    Pow = "pow",
    /// The larger; NaN if either is.
    Max = "max",
    /// The smaller; NaN if either is.
    Min = "min",
    /// Bitwise or logical and.
    And = "and",
    /// Bitwise or logical or.
    Or = "or",
    /// Bitwise or logical exclusive or.
    Xor = "xor",
    /// `a << b` modulo the width; 0 when `b` is not within it.
    ShiftLeft = "shift_left",
    /// `a >> b` with zeros moved in; 0 when `b` is not within the width.
    ShiftRight = "shift_right",
    /// `a == b`.
    Eq = "eq",
    /// `a != b`.
    Ne = "ne",
    /// `a < b`.
    Lt = "lt",
    /// `a <= b`.
    Le = "le",
    /// `a > b`.
    Gt = "gt",
    /// `a >= b`.
    Ge = "ge",
    /// `b` where `a` holds, else `c`.
    Select = "select",
    /// `a * b + c` with one rounding.
    MulAdd = "mul_add",
}

use Expr::{Apply, Arg, Ct, Float, Result as Y};
use OperandVjp::{None as NoVjp, Value, Zero};
use PointwiseFn as F;

const A: Expr = Arg(0);
const B: Expr = Arg(1);
const STEPS: OperandVjp = Zero;
const BITS: OperandVjp = NoVjp("bit operations have no derivative");

impl PointwiseFn {
    /// How many operands it takes.
    pub fn arity(self) -> usize {
        self.vjp().len()
    }

    /// How operand and result dtypes hang together.
    pub fn typing(self) -> Typing {
        match self {
            F::Exp
            | F::Expm1
            | F::Log
            | F::Log1p
            | F::Sqrt
            | F::Rsqrt
            | F::Sin
            | F::Cos
            | F::Tanh
            | F::Erf => Typing::Float,
            F::Floor | F::Ceil | F::Round => Typing::Float,
            F::Neg | F::Abs | F::Sign | F::Add | F::Sub | F::Mul | F::Div | F::Rem | F::Pow => {
                Typing::Numeric
            }
            F::Max | F::Min | F::MulAdd => Typing::Numeric,
            F::Not | F::And | F::Or | F::Xor => Typing::Bits,
            F::ShiftLeft | F::ShiftRight => Typing::Integer,
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge => Typing::Comparison,
            F::Select => Typing::Selection,
        }
    }

    /// What one evaluation costs.
    pub fn cost(self) -> CostClass {
        match self {
            F::Exp | F::Expm1 | F::Log | F::Log1p | F::Sin | F::Cos | F::Tanh | F::Erf | F::Pow => {
                CostClass::Transcendental
            }
            F::Sqrt | F::Rsqrt | F::Div | F::Rem => CostClass::Division,
            F::Neg | F::Abs | F::Sign | F::Floor | F::Ceil | F::Round | F::Not | F::Add | F::Sub | F::Mul => {
                CostClass::Cheap
            }
            F::Max | F::Min | F::And | F::Or | F::Xor | F::ShiftLeft | F::ShiftRight => CostClass::Cheap,
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge | F::Select | F::MulAdd => CostClass::Cheap,
        }
    }

    /// Whether `f(a, b) = f(b, a)`, exactly.
    pub fn is_commutative(self) -> bool {
        matches!(self, F::Add | F::Mul | F::Max | F::Min | F::And | F::Or | F::Xor | F::Eq | F::Ne)
    }

    /// Whether `f(f(a, b), c) = f(a, f(b, c))` up to rounding.
    pub fn is_associative(self) -> bool {
        matches!(self, F::Add | F::Mul | F::Max | F::Min | F::And | F::Or | F::Xor)
    }

    /// The `e` with `f(a, e) = a` for all `a` of the dtype, where there is one.
    pub fn identity(self, dtype: DType) -> Option<Scalar> {
        match self {
            F::Add | F::Sub | F::Or | F::Xor | F::ShiftLeft | F::ShiftRight => Some(Scalar::zero(dtype)),
            F::Mul | F::Div | F::Pow => Some(Scalar::one(dtype)),
            F::Max => Some(dtype.range().0),
            F::Min => Some(dtype.range().1),
            F::And => {
                Some(if dtype == DType::Bool { Scalar::Int(1) } else { Scalar::Int(-1).convert(dtype) })
            }
            F::Neg | F::Abs | F::Sign | F::Exp | F::Expm1 | F::Log | F::Log1p | F::Sqrt | F::Rsqrt => None,
            F::Sin | F::Cos | F::Tanh | F::Erf | F::Floor | F::Ceil | F::Round | F::Not | F::Rem => None,
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge | F::Select | F::MulAdd => None,
        }
    }

    /// The dtype of the result, or a clause that says why the operands do not fit.
    pub fn result(self, operands: &[DType]) -> Result<DType, String> {
        if operands.len() != self.arity() {
            return Err(format!("`{}` takes {} operands, not {}", self.name(), self.arity(), operands.len()));
        }
        let (leading, uniform) = match self.typing() {
            Typing::Selection => (&operands[..1], &operands[1..]),
            Typing::Float | Typing::Numeric | Typing::Bits | Typing::Integer | Typing::Comparison => {
                (&operands[..0], operands)
            }
        };
        if let Some(condition) = leading.iter().find(|dtype| **dtype != DType::Bool) {
            return Err(format!("the first operand of `{}` is bool, not {condition}", self.name()));
        }
        let first = uniform[0];
        if let Some(other) = uniform.iter().find(|dtype| **dtype != first) {
            return Err(format!("`{}` takes operands of one dtype, not {first} and {other}", self.name()));
        }
        let (fits, what) = match self.typing() {
            Typing::Float => (first.is_float(), "floating-point"),
            Typing::Numeric => (first != DType::Bool, "numeric"),
            Typing::Bits => (!first.is_float(), "integer or bool"),
            Typing::Integer => (first.is_integer(), "integer"),
            Typing::Comparison | Typing::Selection => (true, ""),
        };
        match (fits, self.typing()) {
            (false, _) => Err(format!("`{}` takes {what} operands, not {first}", self.name())),
            (true, Typing::Comparison) => Ok(DType::Bool),
            (true, Typing::Float | Typing::Numeric | Typing::Bits | Typing::Integer | Typing::Selection) => {
                Ok(first)
            }
        }
    }

    /// Evaluates on values of operand dtype `dtype` (for `select`, that of the branches) and rounds to the result's.
    /// Panics when the operands do not fit, which `result` finds first.
    pub fn eval(self, dtype: DType, args: &[Scalar]) -> Scalar {
        if self == F::Select {
            return if args[0].to_i64() != 0 { args[1] } else { args[2] };
        }
        if self.typing() == Typing::Comparison {
            let holds = match (args[0], args[1]) {
                (Scalar::Int(a), Scalar::Int(b)) => self.compare(&a, &b),
                (a, b) => self.compare(&a.to_f64(), &b.to_f64()),
            };
            return Scalar::Int(holds.into());
        }
        match dtype.is_float() {
            true => {
                let floats = args.iter().map(|value| value.to_f64()).collect::<Vec<_>>();
                Scalar::Float(self.eval_float(&floats)).convert(dtype)
            }
            false => {
                let ints = args.iter().map(|value| value.to_i128()).collect::<Vec<_>>();
                Scalar::Int(self.eval_int(dtype, &ints)).convert(dtype)
            }
        }
    }

    fn compare<T: PartialOrd>(self, a: &T, b: &T) -> bool {
        let outcomes = [
            (F::Eq, a == b),
            (F::Ne, a != b),
            (F::Lt, a < b),
            (F::Le, a <= b),
            (F::Gt, a > b),
            (F::Ge, a >= b),
        ];
        let outcome = outcomes.iter().find(|(function, _)| *function == self);
        outcome.unwrap_or_else(|| panic!("`{}` is no comparison", self.name())).1
    }

    fn eval_float(self, args: &[f64]) -> f64 {
        let a = args[0];
        let b = args.get(1).copied().unwrap_or(f64::NAN);
        match self {
            F::Neg => -a,
            F::Abs => a.abs(),
            F::Sign => {
                if a == 0.0 || a.is_nan() {
                    a
                } else {
                    a.signum()
                }
            }
            F::Exp => a.exp(),
            F::Expm1 => a.exp_m1(),
            F::Log => a.ln(),
            F::Log1p => a.ln_1p(),
            F::Sqrt => a.sqrt(),
            F::Rsqrt => 1.0 / a.sqrt(),
            F::Sin => a.sin(),
            F::Cos => a.cos(),
            F::Tanh => a.tanh(),
            F::Erf => erf(a),
            F::Floor => a.floor(),
            F::Ceil => a.ceil(),
            F::Round => a.round_ties_even(),
            F::Add => a + b,
            F::Sub => a - b,
            F::Mul => a * b,
            F::Div => a / b,
            F::Rem => a % b,
            F::Pow => a.powf(b),
            F::Max => {
                if a.is_nan() || a > b {
                    a
                } else {
                    b
                }
            }
            F::Min => {
                if a.is_nan() || a < b {
                    a
                } else {
                    b
                }
            }
            F::MulAdd => a.mul_add(b, args[2]),
            F::Not | F::And | F::Or | F::Xor | F::ShiftLeft | F::ShiftRight => {
                panic!("`{}` takes no floats", self.name())
            }
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge | F::Select => {
                unreachable!("comparisons and selections are evaluated before")
            }
        }
    }

    fn eval_int(self, dtype: DType, args: &[i128]) -> i128 {
        let a = args[0];
        let b = args.get(1).copied().unwrap_or(0);
        let bits = dtype.size_bytes() as u32 * 8;
        let within = (0..bits as i128).contains(&b);
        match self {
            F::Neg => a.wrapping_neg(),
            F::Abs => a.wrapping_abs(),
            F::Sign => a.signum(),
            F::Not => {
                if dtype == DType::Bool {
                    1 - a
                } else {
                    !a
                }
            }
            F::Add => a.wrapping_add(b),
            F::Sub => a.wrapping_sub(b),
            F::Mul => a.wrapping_mul(b),
            F::Div => {
                if b == 0 {
                    0
                } else {
                    a.wrapping_div(b)
                }
            }
            F::Rem => {
                if b == 0 {
                    0
                } else {
                    a.wrapping_rem(b)
                }
            }
            F::Pow => integer_power(a, b),
            F::Max => a.max(b),
            F::Min => a.min(b),
            F::And => a & b,
            F::Or => a | b,
            F::Xor => a ^ b,
            F::ShiftLeft => {
                if within {
                    a << b
                } else {
                    0
                }
            }
            F::ShiftRight => {
                let mask = i128::from(u64::MAX >> (64 - bits));
                if within { (a & mask) >> b } else { 0 }
            }
            F::MulAdd => a.wrapping_mul(b).wrapping_add(args[2]),
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
                panic!("`{}` takes floats", self.name())
            }
            F::Floor | F::Ceil | F::Round => panic!("`{}` takes floats", self.name()),
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge | F::Select => {
                unreachable!("comparisons and selections are evaluated before")
            }
        }
    }

    /// How the result's cotangent passes to each operand; as long as the function has operands.
    pub fn vjp(self) -> &'static [OperandVjp] {
        match self {
            F::Neg => const { &[Value(Apply(F::Neg, &[Ct]))] },
            F::Abs => const { &[Value(Apply(F::Mul, &[Ct, Apply(F::Sign, &[A])]))] },
            F::Sign | F::Floor | F::Ceil | F::Round => &[STEPS],
            F::Exp => const { &[Value(Apply(F::Mul, &[Ct, Y]))] },
            F::Expm1 => const { &[Value(Apply(F::Mul, &[Ct, Apply(F::Add, &[Y, Float(1.0)])]))] },
            F::Log => const { &[Value(Apply(F::Div, &[Ct, A]))] },
            F::Log1p => const { &[Value(Apply(F::Div, &[Ct, Apply(F::Add, &[A, Float(1.0)])]))] },
            F::Sqrt => const { &[Value(Apply(F::Div, &[Apply(F::Mul, &[Ct, Float(0.5)]), Y]))] },
            // d a^(-1/2) = -1/2 a^(-1/2) / a.
            F::Rsqrt => {
                const { &[Value(Apply(F::Mul, &[Ct, Apply(F::Mul, &[Float(-0.5), Apply(F::Div, &[Y, A])])]))] }
            }
            F::Sin => const { &[Value(Apply(F::Mul, &[Ct, Apply(F::Cos, &[A])]))] },
            F::Cos => const { &[Value(Apply(F::Neg, &[Apply(F::Mul, &[Ct, Apply(F::Sin, &[A])])]))] },
            F::Tanh => {
                const { &[Value(Apply(F::Mul, &[Ct, Apply(F::Sub, &[Float(1.0), Apply(F::Mul, &[Y, Y])])]))] }
            }
            // d erf(a) = 2/sqrt(pi) exp(-a^2).
            F::Erf => {
                const {
                    &[Value(Apply(
                        F::Mul,
                        &[
                            Ct,
                            Apply(
                                F::Mul,
                                &[
                                    Float(std::f64::consts::FRAC_2_SQRT_PI),
                                    Apply(F::Exp, &[Apply(F::Neg, &[Apply(F::Mul, &[A, A])])]),
                                ],
                            ),
                        ],
                    ))]
                }
            }
            F::Not => &[BITS],
            F::And | F::Or | F::Xor | F::ShiftLeft | F::ShiftRight => &[BITS, BITS],
            F::Add => &[Value(Ct), Value(Ct)],
            F::Sub => const { &[Value(Ct), Value(Apply(F::Neg, &[Ct]))] },
            F::Mul => const { &[Value(Apply(F::Mul, &[Ct, B])), Value(Apply(F::Mul, &[Ct, A]))] },
            F::Div => {
                const {
                    &[
                        Value(Apply(F::Div, &[Ct, B])),
                        Value(Apply(F::Neg, &[Apply(F::Mul, &[Ct, Apply(F::Div, &[Y, B])])])),
                    ]
                }
            }
            // a - trunc(a / b) b: the quotient is constant between its steps.
            F::Rem => {
                const { &[Value(Ct), Value(Apply(F::Mul, &[Ct, Apply(F::Div, &[Apply(F::Sub, &[Y, A]), B])]))] }
            }
            // The exponent's part is 0 where a <= 0, where a^b has no derivative in b.
            F::Pow => {
                const {
                    &[
                        Value(Apply(
                            F::Mul,
                            &[Ct, Apply(F::Mul, &[B, Apply(F::Pow, &[A, Apply(F::Sub, &[B, Float(1.0)])])])],
                        )),
                        Value(Apply(
                            F::Select,
                            &[
                                Apply(F::Gt, &[A, Float(0.0)]),
                                Apply(F::Mul, &[Ct, Apply(F::Mul, &[Y, Apply(F::Log, &[A])])]),
                                Float(0.0),
                            ],
                        )),
                    ]
                }
            }
            // A tie goes to the second operand, so that relu(x) = max(x, 0) has slope 0 at 0.
            F::Max => {
                const {
                    &[
                        Value(Apply(F::Select, &[Apply(F::Gt, &[A, B]), Ct, Float(0.0)])),
                        Value(Apply(F::Select, &[Apply(F::Gt, &[A, B]), Float(0.0), Ct])),
                    ]
                }
            }
            F::Min => {
                const {
                    &[
                        Value(Apply(F::Select, &[Apply(F::Lt, &[A, B]), Ct, Float(0.0)])),
                        Value(Apply(F::Select, &[Apply(F::Lt, &[A, B]), Float(0.0), Ct])),
                    ]
                }
            }
            F::Eq | F::Ne | F::Lt | F::Le | F::Gt | F::Ge => &[STEPS, STEPS],
            F::Select => {
                const {
                    &[
                        STEPS,
                        Value(Apply(F::Select, &[A, Ct, Float(0.0)])),
                        Value(Apply(F::Select, &[A, Float(0.0), Ct])),
                    ]
                }
            }
            F::MulAdd => {
                const { &[Value(Apply(F::Mul, &[Ct, B])), Value(Apply(F::Mul, &[Ct, A])), Value(Ct)] }
            }
        }
    }
}

impl fmt::Display for PointwiseFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PointwiseFn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        PointwiseFn::ALL
            .iter()
            .copied()
            .find(|f| f.name() == text)
            .ok_or_else(|| format!("no function `{text}`"))
    }
}

/// `a^b` for integers, wrapping (the low bits are those of any narrower dtype); a negative power is 0 except of 1 and -1, as the truncated quotient.
fn integer_power(a: i128, b: i128) -> i128 {
    match (a, b) {
        (1, _) => 1,
        (-1, _) => {
            if b % 2 == 0 {
                1
            } else {
                -1
            }
        }
        (_, negative) if negative < 0 => 0,
        (_, _) => {
            let (mut base, mut exponent, mut result) = (a, b, 1i128);
            while exponent > 0 {
                if exponent & 1 == 1 {
                    result = result.wrapping_mul(base);
                }
                base = base.wrapping_mul(base);
                exponent >>= 1;
            }
            result
        }
    }
}

/// The error function to near full double precision: its Maclaurin series for small arguments, the continued fraction
/// of the complementary function for large ones (Abramowitz and Stegun 7.1.6 and 7.1.14).
pub fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    if x.is_nan() {
        return x;
    }
    let value = if magnitude < 2.5 {
        // erf x = 2/sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (1 3 5 ... (2n+1)): all terms positive, no cancellation.
        let (mut term, mut sum, mut n) = (magnitude, magnitude, 1.0);
        while term > sum * 1e-17 && term > 0.0 {
            term *= 2.0 * magnitude * magnitude / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-magnitude * magnitude).exp() * sum
    } else if magnitude < 6.0 {
        let fraction = (1..=60).rev().fold(0.0, |tail, k| (k as f64 / 2.0) / (magnitude + tail));
        let complement =
            (-magnitude * magnitude).exp() / (std::f64::consts::PI.sqrt() * (magnitude + fraction));
        1.0 - complement
    } else {
        1.0
    };
    value.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_function() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in [(0.5, 0.5204998778130465), (1.0, 0.8427007929497149), (2.0, 0.9953222650189527)] {
            assert!((erf(x) - y).abs() < 1e-15, "{x}");
            assert_eq!(erf(-x), -erf(x));
        }
        assert!((erf(2.499999999) - erf(2.5)).abs() < 1e-11);
        assert!((erf(3.0) - 0.9999779095030014).abs() < 1e-15);
    }

    #[test]
    fn names_parse_back() {
        for f in PointwiseFn::ALL {
            assert_eq!(f.name().parse::<PointwiseFn>(), Ok(*f));
        }
    }

    #[test]
    fn identities_hold() {
        for f in PointwiseFn::ALL {
            for dtype in DType::ALL {
                let operands = vec![dtype; f.arity()];
                if let (Ok(_), Some(identity)) = (f.result(&operands), f.identity(dtype)) {
                    for value in [Scalar::zero(dtype), Scalar::one(dtype), Scalar::Int(37).convert(dtype)] {
                        assert_eq!(f.eval(dtype, &[value, identity]), value, "{f} {dtype}");
                    }
                }
            }
        }
    }
}
