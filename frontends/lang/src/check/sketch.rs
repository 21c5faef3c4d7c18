//! Functions that nothing uses: their names are checked, with made-up arguments.

use super::frame::{DimBinding, Frame, VarKind};
use super::value::{Callable, DimInfo, Value};
use super::{Elaborator, Reported};
use crate::program::{Program, Settings};
use crate::syntax::ast::{DimExpr, Function, FunctionKind, Param, TypeExpr, TypeKind};
use std::collections::BTreeSet;
use std::sync::Arc;
use thalweg_base::{DType, Diagnostic, Dim, Span};
use thalweg_tensor::TensorType;

/// What is wrong whatever the arguments are: names that do not exist, misplaced `param`s, unknown types.
const CERTAIN: [&str; 8] = ["E0101", "E0102", "E0103", "E0104", "E0105", "E0110", "E0402", "E0406"];

impl Program {
    /// Runs a function of the main file with arguments of its types that stand for any, and keeps what is wrong for all.
    pub(crate) fn sketch(&self, function: &Arc<Function>, reached: &mut BTreeSet<Span>) -> Vec<Diagnostic> {
        let settings = Settings::new();
        self.on_large_stack(|| {
            let mut elab = Elaborator::new(self, &settings, &function.name.name, false);
            elab.sketch(function);
            reached.append(&mut elab.reached);
            let own = self.modules.get(self.main).source;
            let certain = |error: &Diagnostic| {
                CERTAIN.contains(&error.code) && error.primary.iter().all(|label| label.span.source == own)
            };
            elab.errors.into_iter().filter(certain).collect()
        })
    }
}

impl Elaborator<'_> {
    fn sketch(&mut self, function: &Arc<Function>) {
        let mut frame = Frame::new(self.program.main, function.name.name.to_string(), None);
        frame.owns = function.kind != FunctionKind::Fn;
        frame.symbolic = true;
        self.frames.push(frame);
        let params: Vec<&Param> = function.params.iter().chain(function.curried.iter().flatten()).collect();
        for param in params {
            let value = match &param.default {
                Some(default) => self.eval(default),
                None => self.made_up(&param.ty, &param.name.name),
            };
            self.declare(&param.name, value.unwrap_or(Value::Poison), VarKind::Fixed);
        }
        let _ = self.run_body(function, function.span);
        self.frames.pop();
    }

    fn made_up(&mut self, ty: &TypeExpr, name: &str) -> Result<Value, Reported> {
        match &ty.kind {
            TypeKind::Name(word) => match &*word.name {
                "int" => Ok(Value::Int(Dim::symbol(name))),
                "float" => Ok(Value::Float(0.5)),
                "bool" => Ok(Value::Bool(false)),
                "str" => Ok(Value::Str("".into())),
                "dtype" => Ok(Value::DType(DType::F32)),
                "fn" => Ok(Value::Function(Callable::Constant(0.5))),
                // Nothing can be said of what depends on the elements of an unknown list.
                "list" | "dims" | "record" | "init" | "axis" => Err(Reported),
                _ => {
                    let dtype = self.element_dtype(word, None)?;
                    Ok(Value::Tensor(self.input(name, TensorType::scalar(dtype), vec![], ty.span)))
                }
            },
            TypeKind::Tensor(element, dims) => {
                let dtype = self.element_dtype(element, None)?;
                for dim in dims {
                    if let DimExpr::Rest(rest) = dim {
                        let outer = DimInfo { name: None, origin: Some(rest.span) };
                        let binding = DimBinding { size: Dim::symbol(&rest.name), outer };
                        self.frame_mut().rests.entry(rest.name.clone()).or_insert_with(|| vec![binding]);
                    }
                }
                let (shape, infos) = self.shape_of(dims)?;
                Ok(Value::Tensor(self.input(name, TensorType { dtype, shape }, infos, ty.span)))
            }
            TypeKind::List(_) | TypeKind::Record(_) | TypeKind::Error => Err(Reported),
        }
    }
}
