//! Assignment to variables and to state.

use super::frame::VarKind;
use super::value::{Tensor, Value};
use super::{Checked, Elaborator, Reported};
use crate::modules::closest;
use crate::syntax::ast::{BinaryOp, Expr, ExprKind, Ident};
use std::sync::Arc;
use thalweg_base::{Diagnostic, Span};

impl Elaborator<'_> {
    pub(crate) fn assign(
        &mut self,
        target: &Ident,
        op: Option<BinaryOp>,
        value: &Expr,
        span: Span,
    ) -> Checked<()> {
        let result = self.eval(value);
        let Some(var) = self.frame().get(&target.name).cloned() else {
            let frame = self.frame();
            let mut error =
                Diagnostic::error("E0101", format!("there is no variable `{}` here", target.name))
                    .at(target.span, "not found");
            error = match closest(&target.name, frame.names()) {
                Some(close) => error.help(format!("did you mean `{close}`?")),
                None => error.help(format!(
                    "a new name is given with `let {} = …` or `var {} = …`",
                    target.name, target.name
                )),
            };
            return Err(self.fail(error));
        };
        if var.kind == VarKind::Fixed {
            let error = Diagnostic::error("E0104", format!("`{}` cannot be assigned", target.name))
                .at(span, "assigned here")
                .label(var.span, "not declared with `var`")
                .help(format!(
                    "declare it with `var {}`, or give the new value a name with `let`",
                    target.name
                ));
            return Err(self.fail(error));
        }
        if var.level != self.level() {
            let branch = self.levels.last().is_some_and(|level| level.graph.name == "branch");
            let (what, loops) =
                if branch { ("side of a branch", "branch") } else { ("body of a scan", "scan") };
            let mut error = Diagnostic::error("E0405", format!("the {what} cannot assign `{}`", target.name))
                .at(span, "assigned here")
                .label(var.span, format!("declared outside of the {loops}"));
            error = match var.kind {
                _ if branch => error.help("give the value from both sides, and assign that of the branch"),
                VarKind::State(_) => {
                    error.help("carry a value through the scan and assign the state after it, from `last`")
                }
                VarKind::Fixed | VarKind::Mutable => error.help(format!(
                    "pass it from step to step: `scan …, carry {} = {} {{ … }}`",
                    target.name, target.name
                )),
            };
            return Err(self.fail(error));
        }
        let result = match (result, op) {
            (Ok(new), Some(op)) => {
                let name = Expr { kind: ExprKind::Name(target.clone()), span: target.span, depth: 0 };
                match var.value.clone() {
                    Value::Poison => Err(Reported),
                    old => self.binary(op, span, (old, &name), (new, value), span),
                }
            }
            (result, _) => result,
        };
        let result = match (result, &var.kind) {
            (Ok(new), VarKind::State(name)) => {
                self.update(name, &var.value, new, value.span, var.span).map(Value::Tensor)
            }
            (result, _) => result,
        };
        let failed = result.is_err();
        let slot = self.frame_mut().get_mut(&target.name).expect("just found");
        slot.value = result.unwrap_or(Value::Poison);
        if failed { Err(Reported) } else { Ok(()) }
    }

    /// Sets the next value of a state, which keeps its type.
    fn update(
        &mut self,
        name: &Arc<str>,
        old: &Value,
        new: Value,
        span: Span,
        declared: Span,
    ) -> Checked<Tensor> {
        let Value::Tensor(old) = old else { return Err(Reported) };
        let tensor = match new {
            Value::Tensor(tensor) => tensor,
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => self.literal_like(&new, old, span)?,
            other => {
                let message = format!("a state is a tensor, not {}", other.describe());
                return self.error("E0403", message, span, "not a tensor");
            }
        };
        if tensor.ty != old.ty {
            let error = Diagnostic::error("E0403", format!("the state `{name}` keeps its type"))
                .at(span, format!("this is {}", tensor.describe()))
                .label(declared, format!("declared as {}", old.describe()));
            return Err(self.fail(error));
        }
        let tensor = Tensor { dims: old.dims.clone(), ..tensor };
        self.updates.insert(name.to_string(), tensor.clone());
        Ok(tensor)
    }
}
