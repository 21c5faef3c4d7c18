//! Truth values, bits, comparisons and selections.

use super::Class::Exact;
use super::{On, Rule, row};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        row("not-not", Exact, On::Bits, "not(not(x))", "x"),
        row("and-self", Exact, On::Bits, "and(x, x)", "x"),
        row("or-self", Exact, On::Bits, "or(x, x)", "x"),
        row("xor-self", Exact, On::Bits, "xor(x, x)", "0"),
        row("and-zero", Exact, On::Bits, "and(x, 0)", "0"),
        row("or-true", Exact, On::Bool, "or(x, 1)", "1"),
        row("xor-true", Exact, On::Bool, "xor(x, 1)", "not(x)"),
        row("and-absorbs", Exact, On::Bits, "and(x, or(x, y))", "x"),
        row("or-absorbs", Exact, On::Bits, "or(x, and(x, y))", "x"),
        row("and-not-not", Exact, On::Bits, "and(not(x), not(y))", "not(or(x, y))"),
        row("or-not-not", Exact, On::Bits, "or(not(x), not(y))", "not(and(x, y))"),
        row("not-eq", Exact, On::Bool, "not(eq(x, y))", "ne(x, y)"),
        row("not-ne", Exact, On::Bool, "not(ne(x, y))", "eq(x, y)"),
        row("eq-self", Exact, On::Bits, "eq(x, x)", "1"),
        row("ne-self", Exact, On::Bits, "ne(x, x)", "0"),
        row("le-self", Exact, On::Bits, "le(x, x)", "1"),
        row("ge-self", Exact, On::Bits, "ge(x, x)", "1"),
        row("lt-self", Exact, On::Any, "lt(x, x)", "0"),
        row("gt-self", Exact, On::Any, "gt(x, x)", "0"),
        row("gt-as-lt", Exact, On::Any, "gt(x, y)", "lt(y, x)"),
        row("ge-as-le", Exact, On::Any, "ge(x, y)", "le(y, x)"),
        row("select-true", Exact, On::Any, "select(1, x, y)", "x"),
        row("select-false", Exact, On::Any, "select(0, x, y)", "y"),
        row("select-same", Exact, On::Any, "select(p, x, x)", "x"),
        row("select-not", Exact, On::Any, "select(not(p), x, y)", "select(p, y, x)"),
        row("select-then-select", Exact, On::Any, "select(p, select(p, x, z), y)", "select(p, x, y)"),
        row("select-else-select", Exact, On::Any, "select(p, x, select(p, z, y))", "select(p, x, y)"),
        row("select-bool", Exact, On::Bool, "select(p, 1, 0)", "p"),
    ]
}
