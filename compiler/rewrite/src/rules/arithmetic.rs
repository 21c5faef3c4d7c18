//! Sums, products, quotients, signs and extremes of numbers.

use super::Class::{AssumesFinite, Exact, Reassociates};
use super::{Match, On, Rule, row, search_pointwise};
use crate::term::Term;
use crate::view::{Site, View};
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_tensor::{Graph, Op, TensorType};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        search_pointwise("identity-element", Exact, identity_element, identity_samples),
        row("sub-from-zero", Exact, On::Numeric, "sub(0, x)", "neg(x)"),
        row("mul-minus-one", Exact, On::Numeric, "mul(x, -1)", "neg(x)"),
        row("div-minus-one", Exact, On::Float, "div(x, -1)", "neg(x)"),
        row("mul-zero-integer", Exact, On::Integer, "mul(x, 0)", "0"),
        row("mul-zero", AssumesFinite, On::Float, "mul(x, 0)", "0"),
        row("sub-self-integer", Exact, On::Integer, "sub(x, x)", "0"),
        row("sub-self", AssumesFinite, On::Float, "sub(x, x)", "0"),
        row("div-self", AssumesFinite, On::Float, "div(x, x)", "1").positive(),
        row("add-sub-integer", Exact, On::Integer, "sub(add(x, y), y)", "x"),
        row("sub-add-integer", Exact, On::Integer, "add(sub(x, y), y)", "x"),
        row("neg-neg", Exact, On::Numeric, "neg(neg(x))", "x"),
        row("add-neg", Exact, On::Numeric, "add(x, neg(y))", "sub(x, y)"),
        row("sub-neg", Exact, On::Numeric, "sub(x, neg(y))", "add(x, y)"),
        row("neg-sub", Exact, On::Numeric, "neg(sub(x, y))", "sub(y, x)"),
        row("sub-neg-both", Exact, On::Numeric, "sub(neg(x), y)", "neg(add(x, y))"),
        row("mul-neg", Exact, On::Numeric, "mul(neg(x), y)", "neg(mul(x, y))"),
        row("mul-neg-constant", Exact, On::Float, "mul(neg(x), c)", "mul(x, neg(c))"),
        row("neg-mul-constant", Exact, On::Float, "neg(mul(x, c))", "mul(x, neg(c))"),
        row("div-neg-left", Exact, On::Float, "div(neg(x), y)", "neg(div(x, y))").positive(),
        row("div-neg-right", Exact, On::Float, "div(x, neg(y))", "neg(div(x, y))").positive(),
        row("abs-neg", Exact, On::Float, "abs(neg(x))", "abs(x)"),
        row("abs-abs", Exact, On::Numeric, "abs(abs(x))", "abs(x)"),
        row("abs-square", Exact, On::Float, "abs(mul(x, x))", "mul(x, x)"),
        row("square-abs", Exact, On::Numeric, "mul(abs(x), abs(x))", "mul(x, x)"),
        row("square-neg", Exact, On::Numeric, "mul(neg(x), neg(y))", "mul(x, y)"),
        row("sign-abs", Exact, On::Float, "mul(sign(x), abs(x))", "x"),
        row("sub-as-add", Exact, On::Float, "sub(x, c)", "add(x, neg(c))"),
        row("add-add", Reassociates, On::Float, "add(add(x, c), d)", "add(x, add(c, d))").when(same_sign),
        row("add-add-integer", Exact, On::Integer, "add(add(x, c), d)", "add(x, add(c, d))"),
        row("mul-mul", Reassociates, On::Float, "mul(mul(x, c), d)", "mul(x, mul(c, d))")
            .when(normal_product),
        row("mul-mul-integer", Exact, On::Integer, "mul(mul(x, c), d)", "mul(x, mul(c, d))"),
        row("mul-div", Reassociates, On::Float, "mul(div(c, x), d)", "div(mul(c, d), x)")
            .when(normal_product)
            .positive(),
        row("div-power-of-two", Exact, On::Float, "div(x, c)", "mul(x, div(1, c))")
            .when(|found| power_of_two(found.c()) && found.is_normal(1.0 / found.c()))
            .constants([8.0, 1.0]),
        row("div-constant", Reassociates, On::Float, "div(x, c)", "mul(x, div(1, c))")
            .when(|found| found.c() != 0.0 && found.is_normal(found.c()) && found.is_normal(1.0 / found.c())),
        row("mul-reciprocal", Reassociates, On::Float, "mul(x, div(1, y))", "div(x, y)").positive(),
        row("div-reciprocal", Reassociates, On::Float, "div(1, div(1, x))", "x").positive(),
        row("div-product", AssumesFinite, On::Float, "div(mul(x, y), y)", "x").positive(),
        row("div-quotient", AssumesFinite, On::Float, "div(div(x, div(y, z)), z)", "div(x, y)").positive(),
        row("mul-quotients", AssumesFinite, On::Float, "mul(div(x, y), div(y, z))", "div(x, z)").positive(),
        row("div-div", AssumesFinite, On::Float, "div(div(x, y), z)", "div(x, mul(y, z))").positive(),
        row("factor-constants", Reassociates, On::Float, "add(mul(x, c), mul(x, d))", "mul(x, add(c, d))")
            .when(same_sign),
        row("factor-one", Reassociates, On::Float, "add(x, mul(x, c))", "mul(x, add(1, c))")
            .when(|found| found.c() > 0.0 && found.is_normal(1.0 + found.c())),
        row("factor-one-minus", Reassociates, On::Float, "sub(x, mul(x, c))", "mul(x, sub(1, c))")
            .when(|found| found.c() > 0.0 && found.c() <= 0.5)
            .constants([0.25, 1.0]),
        row("max-self", Exact, On::Numeric, "max(x, x)", "x"),
        row("min-self", Exact, On::Numeric, "min(x, x)", "x"),
        row("max-max", Exact, On::Numeric, "max(max(x, y), y)", "max(x, y)"),
        row("min-min", Exact, On::Numeric, "min(min(x, y), y)", "min(x, y)"),
        row("max-constants", Exact, On::Numeric, "max(max(x, c), d)", "max(x, max(c, d))"),
        row("min-constants", Exact, On::Numeric, "min(min(x, c), d)", "min(x, min(c, d))"),
        row("max-neg", Exact, On::Float, "max(neg(x), neg(y))", "neg(min(x, y))"),
        row("min-neg", Exact, On::Float, "min(neg(x), neg(y))", "neg(max(x, y))"),
        row("max-abs-zero", Exact, On::Float, "max(abs(x), 0)", "abs(x)"),
        row("max-square-zero", Exact, On::Float, "max(mul(x, x), 0)", "mul(x, x)"),
    ]
}

/// Sums of constants of one sign neither cancel nor lose what a difference was meant to keep.
fn same_sign(found: &Match) -> bool {
    found.c() * found.d() > 0.0 && found.is_normal(found.c() + found.d())
}

/// The product keeps its precision, and scaling by it cannot overflow where scaling in two steps did not.
fn normal_product(found: &Match) -> bool {
    let product = found.c() * found.d();
    product != 0.0 && found.is_normal(found.c()) && found.is_normal(found.d()) && found.is_normal(product)
}

fn power_of_two(value: f64) -> bool {
    value.is_normal() && value.to_bits() & ((1 << 52) - 1) == 0
}

/// `f(x, e) = x` for every function with an identity element `e`, and `f(e, x) = x` where operands commute.
fn identity_element(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Pointwise(op) = &*site.node.op else { return };
    let [left, right] = site.node.operands[..] else { return };
    let dtype = view.ty(right).dtype;
    let is_identity = |id| {
        let (Some(value), Some(identity)) = (view.uniform(id), op.function.identity(dtype)) else {
            return false;
        };
        value.convert(dtype).to_f64() == identity.to_f64()
    };
    if is_identity(right) {
        found.push(left.into());
    }
    if op.function.is_commutative() && is_identity(left) {
        found.push(right.into());
    }
}

fn identity_samples() -> Vec<Graph> {
    let mut samples = Vec::new();
    for dtype in [DType::F32, DType::I32, DType::Bool] {
        for function in PointwiseFn::ALL {
            let fits = function.arity() == 2 && function.result(&[dtype, dtype]) == Ok(dtype);
            let Some(identity) = function.identity(dtype).filter(|_| fits) else { continue };
            let mut graph = Graph::new(format!("{function} of {dtype}"));
            let ty = TensorType::new(dtype, [4]);
            let x = graph.input("x", ty.clone());
            let e = graph.full(&ty, Scalar::convert(identity, dtype));
            let y = graph.pointwise(*function, &[x, e]);
            graph.output("y", y);
            samples.push(graph);
        }
    }
    samples
}
