//! Powers, exponentials, logarithms, roots and rounding.

use super::Class::{AssumesFinite, Exact, Reassociates};
use super::{On, Rule, row};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        row("pow-zero", Exact, On::Numeric, "pow(x, 0)", "1"),
        row("pow-two", Reassociates, On::Float, "pow(x, 2)", "mul(x, x)"),
        row("pow-two-integer", Exact, On::Integer, "pow(x, 2)", "mul(x, x)"),
        row("pow-three", Reassociates, On::Float, "pow(x, 3)", "mul(x, mul(x, x))"),
        row("pow-minus-one", Reassociates, On::Float, "pow(x, -1)", "div(1, x)").positive(),
        row("pow-half", Reassociates, On::Float, "pow(x, 0.5)", "sqrt(x)").positive(),
        row("pow-minus-half", Reassociates, On::Float, "pow(x, -0.5)", "rsqrt(x)").positive(),
        row("sqrt-square", AssumesFinite, On::Float, "sqrt(mul(x, x))", "abs(x)"),
        row("square-sqrt", AssumesFinite, On::Float, "mul(sqrt(x), sqrt(x))", "x").positive(),
        row("reciprocal-sqrt", Reassociates, On::Float, "div(1, sqrt(x))", "rsqrt(x)").positive(),
        row("reciprocal-rsqrt", Reassociates, On::Float, "div(1, rsqrt(x))", "sqrt(x)").positive(),
        row("sqrt-reciprocal", Reassociates, On::Float, "sqrt(div(1, x))", "rsqrt(x)").positive(),
        row("div-sqrt", Reassociates, On::Float, "div(x, sqrt(y))", "mul(x, rsqrt(y))").positive(),
        row("mul-rsqrt", AssumesFinite, On::Float, "mul(x, rsqrt(x))", "sqrt(x)").positive(),
        row("square-rsqrt", AssumesFinite, On::Float, "mul(rsqrt(x), rsqrt(x))", "div(1, x)").positive(),
        row("log-exp", Reassociates, On::Float, "log(exp(x))", "x"),
        row("exp-log", AssumesFinite, On::Float, "exp(log(x))", "x").positive(),
        row("log-quotient-of-exp", Reassociates, On::Float, "log(div(exp(x), y))", "sub(x, log(y))")
            .positive(),
        row("log-sqrt", Reassociates, On::Float, "log(sqrt(x))", "mul(log(x), 0.5)").positive(),
        row("exp-product", AssumesFinite, On::Float, "mul(exp(x), exp(y))", "exp(add(x, y))"),
        row("exp-quotient", AssumesFinite, On::Float, "div(exp(x), exp(y))", "exp(sub(x, y))"),
        row("reciprocal-exp", Reassociates, On::Float, "div(1, exp(x))", "exp(neg(x))"),
        row("reciprocal-exp-neg", Reassociates, On::Float, "div(1, exp(neg(x)))", "exp(x)"),
        row("exp-minus-one", Reassociates, On::Float, "add(exp(x), -1)", "expm1(x)"),
        row("expm1-plus-one", Reassociates, On::Float, "add(expm1(x), 1)", "exp(x)"),
        row("log-one-plus", Reassociates, On::Float, "log(add(x, 1))", "log1p(x)").positive(),
        row("log1p-expm1", Reassociates, On::Float, "log1p(expm1(x))", "x").positive(),
        row("tanh-neg", Exact, On::Float, "tanh(neg(x))", "neg(tanh(x))"),
        row("erf-neg", Exact, On::Float, "erf(neg(x))", "neg(erf(x))"),
        row("sin-neg", Exact, On::Float, "sin(neg(x))", "neg(sin(x))"),
        row("cos-neg", Exact, On::Float, "cos(neg(x))", "cos(x)"),
        row("floor-floor", Exact, On::Float, "floor(floor(x))", "floor(x)"),
        row("floor-ceil", Exact, On::Float, "floor(ceil(x))", "ceil(x)"),
        row("floor-round", Exact, On::Float, "floor(round(x))", "round(x)"),
        row("ceil-floor", Exact, On::Float, "ceil(floor(x))", "floor(x)"),
        row("ceil-ceil", Exact, On::Float, "ceil(ceil(x))", "ceil(x)"),
        row("ceil-round", Exact, On::Float, "ceil(round(x))", "round(x)"),
        row("round-floor", Exact, On::Float, "round(floor(x))", "floor(x)"),
        row("round-ceil", Exact, On::Float, "round(ceil(x))", "ceil(x)"),
        row("round-round", Exact, On::Float, "round(round(x))", "round(x)"),
        row("floor-neg", Exact, On::Float, "floor(neg(x))", "neg(ceil(x))"),
        row("ceil-neg", Exact, On::Float, "ceil(neg(x))", "neg(floor(x))"),
    ]
}
