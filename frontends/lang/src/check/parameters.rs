//! `param` and `state`: leaves of the graph named by the path of scopes, and settings of static values.

use super::call::tensor_parts;
use super::frame::VarKind;
use super::value::{DimInfo, Tensor, Value};
use super::{Checked, Declared, Elaborator};
use crate::modules::ModuleId;
use crate::syntax::ast::Leaf as LeafDecl;
use std::sync::Arc;
use thalweg_base::{DType, Diagnostic, Scalar, Span};
use thalweg_tensor::TensorType;
use thalweg_tensor::ops::{Initializer, Leaf, LeafKind};

impl Elaborator<'_> {
    /// Declares a parameter or state of the layer that is being elaborated.
    pub(crate) fn parameter(&mut self, decl: &LeafDecl, state: bool, span: Span) -> Checked<()> {
        let result = self.parameter_tensor(decl, state, span);
        let (value, var) = match result {
            Ok((tensor, name)) => {
                (Value::Tensor(tensor), if state { VarKind::State(name) } else { VarKind::Fixed })
            }
            Err(super::Reported) => (Value::Poison, VarKind::Mutable),
        };
        let failed = matches!(value, Value::Poison);
        self.declare(&decl.name, value, var);
        // Leaves are the model's own, so even a state that is declared in a scan's body is assigned outside only.
        let last = self.frame_mut().get_mut(&decl.name.name).expect("just declared");
        last.level = 0;
        if failed { Err(super::Reported) } else { Ok(()) }
    }

    fn parameter_tensor(&mut self, decl: &LeafDecl, state: bool, span: Span) -> Checked<(Tensor, Arc<str>)> {
        let kind = if state { "state" } else { "param" };
        if !self.frame().owns {
            let function = self.frame().function.clone();
            let error = Diagnostic::error("E0402", format!("a `fn` has no {kind}"))
                .at(span, format!("`{function}` is pure"))
                .help("declare it as a `layer`, which may own parameters and state");
            return Err(self.fail(error));
        }
        let Some((element, dims)) = tensor_parts(&decl.ty) else {
            return self.error(
                "E0303",
                format!("a {kind} is a tensor"),
                decl.ty.span,
                "a type such as `f32[n, m]` is needed",
            );
        };
        let dtype = self.element_dtype(element, None)?;
        let (shape, infos) = self.shape_of(dims)?;
        if !state && let Some(at) = shape.iter().position(|size| size.as_constant().is_none()) {
            let error = Diagnostic::error(
                "E0210",
                format!("a parameter's shape must be known, and `{}` is not", shape[at]),
            )
            .at(
                infos[at].origin.unwrap_or(decl.ty.span),
                format!("`{}` is any size when the model runs", shape[at]),
            )
            .help(format!("write a number for `{}` in the model's signature", shape[at]));
            return Err(self.fail(error));
        }
        let ty = TensorType { dtype, shape };
        let init = self.initializer(decl, &ty, kind)?;
        let mut path = self.path.clone();
        match &decl.path {
            Some(own) => path.extend(self.scope_parts(own)?),
            None => path.push(decl.name.name.to_string()),
        }
        let name: Arc<str> = path.join(".").into();
        let place =
            self.user_span().filter(|place| place.source != decl.name.span.source).unwrap_or(decl.name.span);
        if let Some(first) = self.declared.get(&*name).map(|first| first.span) {
            return Err(self.declared_twice(&name, first, place));
        }
        let leaf_kind = if state { LeafKind::State } else { LeafKind::Parameter };
        let leaf = Leaf { kind: leaf_kind, name: name.clone(), ty, init: Some(init) };
        let tensor = self.leaf(leaf, infos, decl.ty.span);
        self.declared.insert(name.to_string(), Declared { tensor: tensor.clone(), span: place });
        Ok((tensor, name))
    }

    /// Two parameters of one name: said once for each scope.
    fn declared_twice(&mut self, name: &str, first: Span, second: Span) -> super::Reported {
        if !self.shared_scopes.insert(self.path.join(".")) {
            return super::Reported;
        }
        let mut error = Diagnostic::error("E0401", format!("two parameters are called `{name}`"));
        error = match first == second {
            true => error
                .at(second, "declared here each time")
                .help("put each turn of a loop in a scope of its own: `scope block[i] { … }`"),
            false => error
                .at(second, "declared here a second time")
                .label(first, "and here the first time")
                .help("give the calls different names with `as`"),
        };
        self.fail(error)
    }

    fn initializer(&mut self, decl: &LeafDecl, ty: &TensorType, kind: &str) -> Checked<Initializer> {
        let Some(expr) = &decl.init else {
            let error =
                Diagnostic::error("E0404", format!("the {kind} `{}` has no first value", decl.name.name))
                    .at(decl.name.span, "no initializer")
                    .help("write one after the type, such as `= init.zeros()` or `= init.glorot()`");
            return Err(self.fail(error));
        };
        let mut value = self.eval(expr)?;
        if let Value::Function(callable) = &value {
            let shape = Value::list(ty.shape.iter().cloned().map(Value::Int));
            value = self.call_value(&callable.clone(), vec![shape], None, expr.span)?;
        }
        let scalar =
            |value: f64| if ty.dtype.is_float() { Scalar::Float(value) } else { Scalar::Int(value as i128) };
        let unlike = |value: f64| !ty.dtype.is_float() && value.fract() != 0.0;
        match value {
            Value::Initializer(Initializer::Constant(value)) if unlike(value.to_f64()) => {
                let message = format!("{} does not fit a {kind} of dtype {}", value.to_f64(), ty.dtype);
                self.error("E0304", message, expr.span, "not an integer")
            }
            Value::Initializer(Initializer::Constant(value)) => {
                Ok(Initializer::Constant(scalar(value.to_f64())))
            }
            Value::Initializer(init) if ty.dtype.is_float() => Ok(init),
            Value::Initializer(_) => self.error(
                "E0304",
                format!("random values do not fit a {kind} of dtype {}", ty.dtype),
                expr.span,
                "only floats can begin at random",
            ),
            Value::Bool(value) if ty.dtype == DType::Bool => {
                Ok(Initializer::Constant(Scalar::Int(value as i128)))
            }
            value @ (Value::Int(_) | Value::Float(_)) => {
                let value = self.float(&value, expr.span)?;
                match unlike(value) {
                    true => self.error(
                        "E0304",
                        format!("{value} does not fit dtype {}", ty.dtype),
                        expr.span,
                        "not an integer",
                    ),
                    false => Ok(Initializer::Constant(scalar(value))),
                }
            }
            other => {
                let message = format!("{} is no initializer", other.describe());
                let error = Diagnostic::error("E0303", message)
                    .at(expr.span, "a number or something like `init.glorot()` is needed");
                Err(self.fail(error))
            }
        }
    }

    /// The setting that replaces a constant of the user's own file.
    pub(crate) fn setting(&mut self, module: ModuleId, name: &str) -> Option<String> {
        if self.program.modules.get(module).standard {
            return None;
        }
        let value = self.settings.get(name).cloned()?;
        self.used_settings.insert(name.to_string());
        Some(value)
    }

    /// A setting's text as a value of the same kind as the one it replaces.
    pub(crate) fn adapt_setting(
        &mut self,
        name: &str,
        given: String,
        own: &Value,
        span: Span,
    ) -> Checked<Value> {
        let text = given.trim();
        let value = match own {
            Value::Int(_) => text.parse().ok().map(Value::int),
            Value::Float(_) => text.parse().ok().filter(|value: &f64| value.is_finite()).map(Value::Float),
            Value::Bool(_) => text.parse().ok().map(Value::Bool),
            Value::Str(_) => Some(Value::Str(text.into())),
            Value::DType(_) => text.parse().ok().map(Value::DType),
            _ => None,
        };
        match value {
            Some(value) => Ok(value),
            None => {
                let message = format!("the setting `{name}={given}` does not fit");
                self.error("E0506", message, span, format!("this is {}", own.describe()))
            }
        }
    }

    /// The inputs of a model that is elaborated by itself: a leaf for each tensor of its signature.
    pub(crate) fn input(&mut self, name: &str, ty: TensorType, infos: Vec<DimInfo>, span: Span) -> Tensor {
        self.leaf(Leaf { kind: LeafKind::Input, name: name.into(), ty, init: None }, infos, span)
    }
}
