//! Functions of scalars, on static numbers and on tensors element by element.

use super::{Builtin, Call};
use crate::check::value::{Tensor, Value};
use crate::check::{Checked, Elaborator};
use thalweg_base::{DType, Diagnostic, PointwiseFn, Scalar};

macro_rules! rows {
    ($($name:literal $params:tt $function:ident $doc:literal,)*) => {
        pub(super) const TABLE: &[Builtin] = &[$(Builtin {
            name: $name,
            params: &$params,
            doc: $doc,
            run: |elab, call| apply(elab, call, PointwiseFn::$function),
        },)*];
    };
}

rows! {
    "abs" ["x"] Abs "|x|",
    "sign" ["x"] Sign "-1, 0 or 1 with the sign of x",
    "exp" ["x"] Exp "e to the x",
    "expm1" ["x"] Expm1 "e to the x, minus 1, accurate near 0",
    "log" ["x"] Log "natural logarithm",
    "log1p" ["x"] Log1p "logarithm of 1 + x, accurate near 0",
    "sqrt" ["x"] Sqrt "square root",
    "rsqrt" ["x"] Rsqrt "1 / sqrt(x)",
    "sin" ["x"] Sin "sine of radians",
    "cos" ["x"] Cos "cosine of radians",
    "tanh" ["x"] Tanh "hyperbolic tangent",
    "erf" ["x"] Erf "error function",
    "floor" ["x"] Floor "largest integer not above x",
    "ceil" ["x"] Ceil "smallest integer not below x",
    "round" ["x"] Round "nearest integer, ties to even",
    "pow" ["x", "y"] Pow "x to the y",
    "maximum" ["x", "y"] Max "the larger of two",
    "minimum" ["x", "y"] Min "the smaller of two",
    "mul_add" ["a", "b", "c"] MulAdd "a * b + c with one rounding",
    "select" ["condition", "a", "b"] Select "a where the condition holds, else b",
    "bit_and" ["x", "y"] And "bitwise and",
    "bit_or" ["x", "y"] Or "bitwise or",
    "bit_xor" ["x", "y"] Xor "bitwise exclusive or",
    "shift_left" ["x", "y"] ShiftLeft "bits moved up",
    "shift_right" ["x", "y"] ShiftRight "bits moved down, zeros moved in",
}

fn apply(elab: &mut Elaborator<'_>, call: &Call, function: PointwiseFn) -> Checked<Value> {
    let select = function == PointwiseFn::Select;
    let values: Vec<&Value> = call.given.iter().flatten().map(|given| &given.value).collect();
    if !values.iter().any(|value| matches!(value, Value::Tensor(_))) {
        return on_statics(elab, call, function, &values);
    }
    // The operands that share a dtype: for `select` the two branches.
    let skip = select as usize;
    let mut operands: Vec<Option<Tensor>> = Vec::new();
    for value in &values {
        operands.push(if let Value::Tensor(tensor) = value { Some(tensor.clone()) } else { None });
    }
    let dtype = operands[skip..].iter().flatten().map(|tensor| tensor.ty.dtype).next();
    let dtype = dtype.unwrap_or_else(|| {
        let float = values[skip..].iter().any(|value| matches!(value, Value::Float(_)));
        if float { DType::F32 } else { DType::I32 }
    });
    let mut tensors = Vec::new();
    for (index, operand) in operands.into_iter().enumerate() {
        let given = call.given[index].as_ref().expect("all operands are needed");
        tensors.push(match operand {
            Some(tensor) => tensor,
            None => elab.literal(&given.value, if index < skip { DType::Bool } else { dtype }, given.span)?,
        });
    }
    let dtypes: Vec<DType> = tensors.iter().map(|tensor| tensor.ty.dtype).collect();
    if let Err(reason) = function.result(&dtypes) {
        let mut error =
            Diagnostic::error("E0305", format!("`{}` cannot be applied: {reason}", call.builtin.name));
        let described: Vec<String> = tensors.iter().map(Tensor::describe).collect();
        error = error.at(call.span, format!("of {}", described.join(" and ")));
        return Err(elab.fail(error));
    }
    let tensors = elab.broadcast_all(&tensors, call.builtin.name, call.span)?;
    let operands: Vec<&Tensor> = tensors.iter().collect();
    Ok(Value::Tensor(elab.pointwise(function, &operands, call.span)?))
}

fn on_statics(
    elab: &mut Elaborator<'_>,
    call: &Call,
    function: PointwiseFn,
    values: &[&Value],
) -> Checked<Value> {
    if let (PointwiseFn::Select, Value::Bool(condition)) = (function, values[0]) {
        return Ok(values[if *condition { 1 } else { 2 }].clone());
    }
    let integers: Option<Vec<i64>> = values.iter().map(|value| value.as_int()).collect();
    let keeps_integers = matches!(
        function,
        PointwiseFn::Abs
            | PointwiseFn::Sign
            | PointwiseFn::Max
            | PointwiseFn::Min
            | PointwiseFn::And
            | PointwiseFn::Or
            | PointwiseFn::Xor
            | PointwiseFn::ShiftLeft
            | PointwiseFn::ShiftRight
    );
    if let Some(integers) = integers.filter(|_| keeps_integers) {
        let scalars: Vec<Scalar> = integers.into_iter().map(|value| Scalar::Int(value.into())).collect();
        return Ok(Value::int(function.eval(DType::I64, &scalars).to_i64()));
    }
    let mut scalars = Vec::new();
    for given in call.given.iter().flatten() {
        scalars.push(Scalar::Float(elab.float(&given.value, given.span)?));
    }
    if function.result(&vec![DType::F64; scalars.len()]).is_err() {
        return elab.error(
            "E0305",
            format!("`{}` takes integers", call.builtin.name),
            call.span,
            "applied to floats",
        );
    }
    let value = function.eval(DType::F64, &scalars).to_f64();
    let whole = matches!(function, PointwiseFn::Floor | PointwiseFn::Ceil | PointwiseFn::Round);
    // Rounding is how a static float becomes an integer, such as a size.
    match whole && value.abs() < 2f64.powi(53) {
        true => Ok(Value::int(value as i64)),
        false => Ok(Value::Float(value)),
    }
}
