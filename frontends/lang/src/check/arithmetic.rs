//! Operators on static values, among them sizes that are not known yet.

use super::value::Value;
use super::{Checked, Elaborator};
use crate::syntax::ast::BinaryOp;
use thalweg_base::{Diagnostic, Dim, Span};

/// The largest number in a symbolic size; products of two such still fit.
const SIZE_MAX: u64 = 1 << 31;

impl Elaborator<'_> {
    pub(super) fn static_operator(
        &mut self,
        op: BinaryOp,
        a: Value,
        b: Value,
        at: Span,
        span: Span,
    ) -> Checked<Value> {
        match (&a, &b) {
            (Value::Int(x), Value::Int(y)) => return self.int_operator(op, x, y, span),
            (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
                let (x, y) = (self.float(&a, span)?, self.float(&b, span)?);
                return Ok(match op {
                    BinaryOp::Add => Value::Float(x + y),
                    BinaryOp::Sub => Value::Float(x - y),
                    BinaryOp::Mul => Value::Float(x * y),
                    BinaryOp::Div => Value::Float(x / y),
                    BinaryOp::Rem => Value::Float(x % y),
                    BinaryOp::Pow => Value::Float(x.powf(y)),
                    BinaryOp::Eq => Value::Bool(x == y),
                    BinaryOp::Ne => Value::Bool(x != y),
                    BinaryOp::Lt => Value::Bool(x < y),
                    BinaryOp::Le => Value::Bool(x <= y),
                    BinaryOp::Gt => Value::Bool(x > y),
                    BinaryOp::Ge => Value::Bool(x >= y),
                    BinaryOp::And | BinaryOp::Or | BinaryOp::MatMul => return self.undefined(op, &a, &b, at),
                });
            }
            (Value::Bool(x), Value::Bool(y)) => match op {
                BinaryOp::And => return Ok(Value::Bool(*x && *y)),
                BinaryOp::Or => return Ok(Value::Bool(*x || *y)),
                BinaryOp::Eq => return Ok(Value::Bool(x == y)),
                BinaryOp::Ne => return Ok(Value::Bool(x != y)),
                _ => {}
            },
            (Value::Str(x), Value::Str(y)) => match op {
                BinaryOp::Eq => return Ok(Value::Bool(x == y)),
                BinaryOp::Ne => return Ok(Value::Bool(x != y)),
                BinaryOp::Add => return Ok(Value::Str(format!("{x}{y}").into())),
                _ => {}
            },
            (Value::DType(x), Value::DType(y)) => match op {
                BinaryOp::Eq => return Ok(Value::Bool(x == y)),
                BinaryOp::Ne => return Ok(Value::Bool(x != y)),
                _ => {}
            },
            (Value::List(x), Value::List(y)) if op == BinaryOp::Add => {
                return Ok(Value::list(x.iter().chain(y.iter()).cloned()));
            }
            (_, _) => {}
        }
        self.undefined(op, &a, &b, at)
    }

    fn undefined(&mut self, op: BinaryOp, a: &Value, b: &Value, at: Span) -> Checked<Value> {
        let message =
            format!("`{}` is not defined between {} and {}", op.symbol(), a.describe(), b.describe());
        self.error("E0305", message, at, "not defined")
    }

    /// A static number as a float.
    pub(crate) fn float(&mut self, value: &Value, span: Span) -> Checked<f64> {
        match value {
            Value::Float(value) => Ok(*value),
            Value::Int(dim) if dim.as_constant().is_some() => {
                Ok(dim.as_constant().expect("just seen") as f64)
            }
            Value::Int(dim) => {
                let error =
                    Diagnostic::error("E0302", format!("the size `{dim}` is not known when compiling"))
                        .at(span, "a number is needed here")
                        .help(format!("fix it with `--set {dim}=…`, or use the size with tensors only"));
                Err(self.fail(error))
            }
            other => {
                let message = format!("a number is needed, not {}", other.describe());
                self.error("E0303", message, span, "not a number")
            }
        }
    }

    fn int_operator(&mut self, op: BinaryOp, x: &Dim, y: &Dim, span: Span) -> Checked<Value> {
        let known = (x.as_constant(), y.as_constant());
        match (op, known) {
            (BinaryOp::Eq, _) if x == y => Ok(Value::Bool(true)),
            (BinaryOp::Ne, _) if x == y => Ok(Value::Bool(false)),
            (BinaryOp::Eq, (Some(_), Some(_))) => Ok(Value::Bool(false)),
            (BinaryOp::Ne, (Some(_), Some(_))) => Ok(Value::Bool(true)),
            (BinaryOp::Lt, (Some(x), Some(y))) => Ok(Value::Bool(x < y)),
            (BinaryOp::Le, (Some(x), Some(y))) => Ok(Value::Bool(x <= y)),
            (BinaryOp::Gt, (Some(x), Some(y))) => Ok(Value::Bool(x > y)),
            (BinaryOp::Ge, (Some(x), Some(y))) => Ok(Value::Bool(x >= y)),
            (BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge, _) => {
                let message = format!("`{x} {} {y}` is not known when compiling", op.symbol());
                self.error("E0302", message, span, "compares sizes that are not known yet")
            }
            (
                BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Rem | BinaryOp::Pow,
                _,
            ) => self.int_arithmetic(op, x, y, span),
            (BinaryOp::And | BinaryOp::Or | BinaryOp::MatMul, _) => {
                self.undefined(op, &Value::Int(x.clone()), &Value::Int(y.clone()), span)
            }
        }
    }

    /// Arithmetic on sizes. `/` is exact: it gives an integer when it comes out evenly, a float for known numbers else.
    pub(crate) fn int_arithmetic(&mut self, op: BinaryOp, x: &Dim, y: &Dim, span: Span) -> Checked<Value> {
        let large = |this: &mut Self| {
            this.error(
                "E0602",
                "an integer is too large",
                span,
                format!("`{x} {} {y}` leaves the range", op.symbol()),
            )
        };
        if let (Some(a), Some(b)) = (x.as_constant(), y.as_constant()) {
            if b == 0 && matches!(op, BinaryOp::Div | BinaryOp::Rem) {
                return self.error("E0306", "a division by zero", span, "the divisor is 0");
            }
            let value = match op {
                BinaryOp::Add => a.checked_add(b),
                BinaryOp::Sub => a.checked_sub(b),
                BinaryOp::Mul => a.checked_mul(b),
                BinaryOp::Rem => a.checked_rem_euclid(b),
                BinaryOp::Div if a.checked_rem(b) == Some(0) => a.checked_div(b),
                BinaryOp::Div => return Ok(Value::Float(a as f64 / b as f64)),
                BinaryOp::Pow if b < 0 => return Ok(Value::Float((a as f64).powf(b as f64))),
                BinaryOp::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
                _ => return self.undefined(op, &Value::Int(x.clone()), &Value::Int(y.clone()), span),
            };
            return match value {
                Some(value) => Ok(Value::int(value)),
                None => large(self),
            };
        }
        if !size_is_moderate(x) || !size_is_moderate(y) {
            return large(self);
        }
        match op {
            BinaryOp::Add => Ok(Value::Int(x + y)),
            BinaryOp::Sub => Ok(Value::Int(x - y)),
            BinaryOp::Mul => Ok(Value::Int(x * y)),
            BinaryOp::Div => match x.exact_div(y) {
                Some(quotient) => Ok(Value::Int(quotient)),
                None => {
                    let error =
                        Diagnostic::error("E0306", format!("`{x}` is not known to be a multiple of `{y}`"))
                            .at(span, "this division must come out evenly")
                            .help("`floor_div(a, b)` rounds down");
                    Err(self.fail(error))
                }
            },
            _ => {
                let message = format!("`{x} {} {y}` is not known when compiling", op.symbol());
                self.error("E0302", message, span, "needs sizes that are not known yet")
            }
        }
    }
}

/// Whether every number in a size is small enough for further arithmetic, which does not check for overflow.
pub(crate) fn size_is_moderate(dim: &Dim) -> bool {
    if let Some(value) = dim.as_constant() {
        return value.unsigned_abs() < SIZE_MAX;
    }
    let text = dim.to_string();
    let numbers = text
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    // A size with thousands of terms is no size of a model either, and would make every further step slow.
    text.len() < 4096
        && numbers.into_iter().all(|number| number.parse::<u64>().is_ok_and(|number| number < SIZE_MAX))
}
