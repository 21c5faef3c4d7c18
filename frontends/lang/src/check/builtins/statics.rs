//! Functions of what is known when compiling.

use super::{Builtin, Call};
use crate::check::value::Value;
use crate::check::{Checked, Elaborator};
use crate::syntax::ast::BinaryOp;
use thalweg_base::{Diagnostic, Dim};

macro_rules! rows {
    ($($name:literal $run:expr, $params:expr, $doc:literal;)*) => {
        pub(super) const TABLE: &[Builtin] = &[$(Builtin { name: $name, params: $params, doc: $doc, run: $run },)*];
    };
}

rows! {
    "shape" shape, &["x"], "the sizes of a tensor's dims, a list";
    "rank" rank, &["x"], "the number of a tensor's dims";
    "size" size, &["x", "along@?"], "the size of one dim, the last if none is given";
    "dtype" dtype, &["x"], "the dtype of a tensor";
    "len" len, &["list"], "the number of elements of a list";
    "floor_div" |elab, call| quotient(elab, call, false), &["a", "b"], "a / b rounded down, for sizes";
    "ceil_div" |elab, call| quotient(elab, call, true), &["a", "b"], "a / b rounded up, for sizes";
    "check" check, &["condition", "message"], "an error with that message unless a static condition holds";
}

fn shape(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    Ok(Value::list(call.tensor(elab, "x")?.ty.shape.into_iter().map(Value::Int)))
}

fn rank(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    Ok(Value::int(call.tensor(elab, "x")?.rank() as i64))
}

fn size(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let dim = call.axis(elab, "along", &x)?;
    Ok(Value::Int(x.ty.shape[dim].clone()))
}

fn dtype(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    Ok(Value::DType(call.tensor(elab, "x")?.ty.dtype))
}

fn len(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    match &call.value("list").expect("it is needed").value {
        Value::List(values) => Ok(Value::int(values.len() as i64)),
        _ => call.wrong(elab, "list", "a list"),
    }
}

fn quotient(elab: &mut Elaborator<'_>, call: &Call, up: bool) -> Checked<Value> {
    let Value::Int(a) = call.value("a").expect("it is needed").value.clone() else {
        return call.wrong(elab, "a", "an integer");
    };
    let divisor = call.int(elab, "b", 1)?;
    if divisor <= 0 {
        return elab.error(
            "E0306",
            "a size is divided by a positive number",
            call.place("b"),
            format!("this is {divisor}"),
        );
    }
    let a = match up {
        true => match elab.int_arithmetic(BinaryOp::Add, &a, &Dim::constant(divisor - 1), call.span)? {
            Value::Int(sum) => sum,
            _ => a,
        },
        false => a,
    };
    Ok(Value::Int(a.floor_div(divisor)))
}

fn check(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let message = call.text(elab, "message")?.0;
    match call.bool(elab, "condition")? {
        true => Ok(Value::Unit),
        false => {
            let error = Diagnostic::error("E0308", message).at(call.place("condition"), "this does not hold");
            Err(elab.fail(error))
        }
    }
}
