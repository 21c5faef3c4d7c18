//! Kinds of static values.

use super::value::{AxisRef, Callable, Value};
use super::{Checked, Elaborator, Reported};
use crate::modules::closest;
use crate::syntax::ast::{TypeExpr, TypeKind};
use thalweg_base::{DType, Diagnostic, Span};

const STATIC_TYPES: [&str; 9] = ["int", "float", "bool", "str", "fn", "dims", "list", "dtype", "axis"];

impl Elaborator<'_> {
    /// A static value against its written type. Integers become floats, numbers constant functions.
    pub(crate) fn check_static(
        &mut self,
        ty: &TypeExpr,
        value: Value,
        span: Span,
        what: &str,
    ) -> Checked<Value> {
        let TypeKind::Name(name) = &ty.kind else {
            return self.check_structure(ty, value, span, what);
        };
        let fits = match (&*name.name, &value) {
            ("int", Value::Int(_)) | ("float", Value::Float(_)) | ("bool", Value::Bool(_)) => true,
            ("str", Value::Str(_)) | ("fn", Value::Function(_)) | ("list", Value::List(_)) => true,
            ("dtype", Value::DType(_)) | ("axis", Value::Axis(_)) | ("init", Value::Initializer(_)) => true,
            ("record", Value::Record(_)) => true,
            ("dims", Value::List(values)) => values.iter().all(|value| matches!(value, Value::Int(_))),
            ("float", Value::Int(_)) => return Ok(Value::Float(self.float(&value, span)?)),
            ("axis", Value::Int(_)) => {
                let index = value.as_int().map(AxisRef::Index);
                match index {
                    Some(index) => return Ok(Value::Axis(index)),
                    None => false,
                }
            }
            ("fn", Value::Int(_) | Value::Float(_)) => {
                return Ok(Value::Function(Callable::Constant(self.float(&value, span)?)));
            }
            (other, _) if !is_static_type(other) => {
                let known = DType::ALL.iter().map(|dtype| dtype.name()).chain(STATIC_TYPES);
                let mut error = Diagnostic::error("E0110", format!("there is no type `{other}`"))
                    .at(name.span, "not a type");
                if let Some(close) = closest(other, known) {
                    error = error.help(format!("did you mean `{close}`?"));
                }
                return Err(self.fail(error));
            }
            (_, _) => false,
        };
        if fits {
            return Ok(value);
        }
        let mut error = Diagnostic::error(
            "E0303",
            format!("{what} must be {} `{}`, not {}", article(&name.name), name.name, value.describe()),
        )
        .at(span, format!("this is {}", value.describe()))
        .label(ty.span, "the type asked for");
        if let Value::Tensor(_) = value {
            error = error
                .help("static values are known when compiling; a tensor is known only when the model runs");
        }
        Err(self.fail(error))
    }

    fn check_structure(&mut self, ty: &TypeExpr, value: Value, span: Span, what: &str) -> Checked<Value> {
        match (&ty.kind, value) {
            (TypeKind::List(types), Value::List(values)) if types.len() == values.len() => {
                let parts: Vec<_> = types
                    .iter()
                    .zip(values.iter())
                    .map(|(ty, value)| self.check_static(ty, value.clone(), span, what))
                    .collect();
                Ok(Value::List(parts.into_iter().collect::<Checked<_>>()?))
            }
            (TypeKind::Error, _) => Err(Reported),
            (_, value) => {
                let message = format!("{what} does not have the type that is written");
                let error = Diagnostic::error("E0303", message)
                    .at(span, format!("this is {}", value.describe()))
                    .label(ty.span, "the type asked for");
                Err(self.fail(error))
            }
        }
    }
}

/// Whether a type's name is that of static values.
pub(crate) fn is_static_type(name: &str) -> bool {
    STATIC_TYPES.contains(&name) || ["init", "record"].contains(&name)
}

fn article(name: &str) -> &'static str {
    if name.starts_with(['a', 'i']) { "an" } else { "a" }
}
