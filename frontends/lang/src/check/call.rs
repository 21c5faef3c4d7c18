//! Calls: arguments to parameters, the frame of the callee, scopes, and results.

use super::annotation::{Deferred, Site};
use super::frame::{DimBinding, Frame, Var, VarKind};
use super::kinds::is_static_type;
use super::value::{Callable, DataField, DimInfo, Tensor, Value};
use super::{CALLS_MAX, Checked, Elaborator, Reported};
use crate::modules::{ModuleId, closest};
use crate::syntax::ast::{
    Arg, DimExpr, Expr, ExprKind, Function, FunctionKind, Ident, Param, TypeExpr, TypeKind,
};
use std::sync::Arc;
use thalweg_base::{Diagnostic, Dim, Span};
use thalweg_tensor::TensorType;
use thalweg_tensor::ops::{Leaf, LeafKind};

/// An argument that was evaluated.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) value: Value,
    pub(crate) span: Span,
    /// The name of the variable that it is, which then names the dim it sizes.
    pub(crate) variable: Option<Arc<str>>,
}

impl Elaborator<'_> {
    /// `callee(args)`, in the scope `parts` if one was given with `as`.
    pub(crate) fn call(
        &mut self,
        callee: &Expr,
        args: &[Arg],
        parts: Option<Vec<String>>,
        span: Span,
    ) -> Checked<Value> {
        let function = self.eval(callee);
        match function {
            Ok(Value::Function(Callable::Builtin(builtin))) => {
                self.last_scope = self.path.join(".");
                let depth = self.path.len();
                self.path.extend(parts.into_iter().flatten());
                let value = self.call_builtin(builtin, args, span);
                self.path.truncate(depth);
                value
            }
            Ok(Value::Function(Callable::Constant(value))) => {
                for arg in args {
                    self.eval(&arg.value)?;
                }
                Ok(Value::Float(value))
            }
            Ok(Value::Function(Callable::User { function, module, bound })) => {
                let params = if bound.is_some() { function.curried.as_ref() } else { Some(&function.params) };
                let params = params.expect("only curried functions are bound").clone();
                let given = self.arguments(&params, args, &function, span)?;
                let name = self.program.sources.text(callee.span).to_string();
                self.call_user((&function, module, bound), given, name, parts, span)
            }
            Ok(other) => {
                for arg in args {
                    let _ = self.eval(&arg.value);
                }
                let mut error = Diagnostic::error("E0108", format!("{} cannot be called", other.describe()))
                    .at(callee.span, "not a function");
                if let Value::Tensor(_) = other {
                    error = error.help("to take a part of a tensor, write `x[i]`; to multiply, write `*`");
                }
                Err(self.fail(error))
            }
            Err(reported) => {
                for arg in args {
                    if !matches!(arg.value.kind, ExprKind::Name(_)) {
                        let _ = self.eval(&arg.value);
                    }
                }
                Err(reported)
            }
        }
    }

    /// Calls a function value with values: for what the compiler itself calls.
    pub(crate) fn call_value(
        &mut self,
        callable: &Callable,
        values: Vec<Value>,
        parts: Option<Vec<String>>,
        span: Span,
    ) -> Checked<Value> {
        match callable {
            Callable::Constant(value) => Ok(Value::Float(*value)),
            Callable::Builtin(builtin) => {
                let given =
                    values.into_iter().map(|value| Given { value, span, variable: None }).map(Some).collect();
                self.run_builtin(builtin, given, span)
            }
            Callable::User { function, module, bound } => {
                let params =
                    if bound.is_some() { function.curried.as_deref() } else { Some(&function.params[..]) };
                let params = params.expect("only curried functions are bound");
                if values.len() > params.len() {
                    let message = format!(
                        "`{}` takes {} arguments here, not {}",
                        function.name.name,
                        params.len(),
                        values.len()
                    );
                    return self.error("E0107", message, span, "used here");
                }
                let mut given: Vec<Option<Given>> =
                    values.into_iter().map(|value| Some(Given { value, span, variable: None })).collect();
                given.resize(params.len(), None);
                self.all_given(params, &given, function, span)?;
                let name = function.name.name.to_string();
                self.call_user((function, *module, bound.clone()), given, name, parts, span)
            }
        }
    }

    /// Puts arguments in the places of parameters and evaluates them, all before the first complaint ends the call.
    fn arguments(
        &mut self,
        params: &[Param],
        args: &[Arg],
        function: &Function,
        span: Span,
    ) -> Checked<Vec<Option<Given>>> {
        let mut given: Vec<Option<Given>> = vec![None; params.len()];
        let mut failed = false;
        let mut position = 0;
        for arg in args {
            let slot = match &arg.name {
                Some(name) => params.iter().position(|param| param.name.name == name.name),
                None => {
                    while position < params.len() && given[position].is_some() {
                        position += 1;
                    }
                    (position < params.len()).then_some(position)
                }
            };
            let Some(slot) = slot else {
                self.stray_argument(params, arg, function);
                failed = true;
                continue;
            };
            if given[slot].is_some() {
                let message = format!("`{}` is given twice", params[slot].name.name);
                self.fail(Diagnostic::error("E0107", message).at(arg.value.span, "the second time"));
                failed = true;
                continue;
            }
            match self.argument(&params[slot].ty, &arg.value) {
                Ok(value) => given[slot] = Some(value),
                Err(Reported) => {
                    given[slot] = Some(Given { value: Value::Poison, span: arg.value.span, variable: None });
                    failed = true;
                }
            }
        }
        failed |= self.all_given(params, &given, function, span).is_err();
        if failed { Err(Reported) } else { Ok(given) }
    }

    /// Complains of parameters that have neither an argument nor a default.
    fn all_given(
        &mut self,
        params: &[Param],
        given: &[Option<Given>],
        function: &Function,
        span: Span,
    ) -> Checked<()> {
        let missing: Vec<&Param> = params
            .iter()
            .zip(given)
            .filter(|(param, given)| given.is_none() && param.default.is_none())
            .map(|(param, _)| param)
            .collect();
        let Some(first) = missing.first() else {
            return Ok(());
        };
        let names: Vec<String> = missing.iter().map(|param| format!("`{}`", param.name.name)).collect();
        let names = names.join(" and ");
        let error = Diagnostic::error("E0106", format!("`{}` needs {names}", function.name.name))
            .at(span, format!("{names} not given"))
            .label(first.name.span, "declared here");
        Err(self.fail(error))
    }

    fn argument(&mut self, ty: &TypeExpr, expr: &Expr) -> Checked<Given> {
        if matches!(&ty.kind, TypeKind::Name(name) if &*name.name == "axis") {
            let axes = self.axis(expr)?;
            let value = match &axes[..] {
                [axis] => Value::Axis(axis.clone()),
                _ => Value::list(axes.into_iter().map(Value::Axis)),
            };
            return Ok(Given { value, span: expr.span, variable: None });
        }
        let variable = match &expr.kind {
            ExprKind::Name(name) => Some(name.name.clone()),
            _ => None,
        };
        Ok(Given { value: self.eval(expr)?, span: expr.span, variable })
    }

    fn stray_argument(&mut self, params: &[Param], arg: &Arg, function: &Function) {
        let names: Vec<&str> = params.iter().map(|param| &*param.name.name).collect();
        let error = match &arg.name {
            Some(name) => {
                let message = format!("`{}` has no parameter `{}`", function.name.name, name.name);
                let mut error = Diagnostic::error("E0105", message).at(name.span, "no such parameter");
                if let Some(close) = closest(&name.name, names.iter().copied()) {
                    error = error.help(format!("did you mean `{close}`?"));
                } else if !names.is_empty() {
                    error = error.help(format!("its parameters are {}", names.join(", ")));
                }
                error
            }
            None => {
                let s = if params.len() == 1 { "" } else { "s" };
                let message = format!("`{}` takes {} argument{s} at most", function.name.name, params.len());
                Diagnostic::error("E0107", message).at(arg.value.span, "one too many")
            }
        };
        self.fail(error.label(function.name.span, "declared here"));
        let _ = self.eval(&arg.value);
    }

    /// Runs the body of a function with its arguments, in a scope of its own if it is a layer.
    pub(crate) fn call_user(
        &mut self,
        (function, module, bound): (&Arc<Function>, ModuleId, Option<Arc<Frame>>),
        given: Vec<Option<Given>>,
        name: String,
        parts: Option<Vec<String>>,
        span: Span,
    ) -> Checked<Value> {
        if self.frames.len() >= CALLS_MAX {
            let error = Diagnostic::error("E0109", format!("more than {CALLS_MAX} calls within calls"))
                .at(span, format!("`{name}` is called here"))
                .help("a function that calls itself must come to an end over static values");
            // What led here is the same call again and again, so the list of calls is not shown.
            let frames = std::mem::take(&mut self.frames);
            let reported = self.fail(error);
            self.frames = frames;
            return Err(reported);
        }
        let params = if bound.is_some() { function.curried.as_deref() } else { Some(&function.params[..]) };
        let params = params.expect("only curried functions are bound");
        let from_train = self.frames.last().is_some_and(|frame| frame.train);
        let mut frame = match &bound {
            Some(bound) => Frame { call: Some(span), train: false, ..(**bound).clone() },
            None => Frame::new(module, name, Some(span)),
        };
        frame.owns = function.kind != FunctionKind::Fn;
        frame.symbolic = function.kind == FunctionKind::Model && from_train;
        self.frames.push(frame);
        let result = self.enter(function, params, given);
        let unfinished = bound.is_none() && function.curried.is_some();
        let result = match (result, unfinished) {
            (Err(reported), _) => Err(reported),
            (Ok(()), true) => {
                let frame = Arc::new(self.frame().clone());
                Ok(Value::Function(Callable::User { function: function.clone(), module, bound: Some(frame) }))
            }
            (Ok(()), false) => self.in_scope(function, parts, from_train, span),
        };
        self.frames.pop();
        result
    }

    fn in_scope(
        &mut self,
        function: &Arc<Function>,
        parts: Option<Vec<String>>,
        from_train: bool,
        span: Span,
    ) -> Checked<Value> {
        let depth = self.path.len();
        match (parts, function.kind) {
            (Some(parts), _) => self.path.extend(parts),
            (None, FunctionKind::Fn) => {}
            (None, FunctionKind::Model) if from_train => {}
            (None, FunctionKind::Layer | FunctionKind::Model) => {
                let own = self.default_scope(&function.name.name);
                self.path.push(own);
            }
        }
        let scope = self.path.join(".");
        let value = self.run_body(function, span);
        self.path.truncate(depth);
        self.last_scope = scope;
        value
    }

    /// The name of a layer's scope when none is given: that of the function, counted when repeated.
    fn default_scope(&mut self, name: &str) -> String {
        let full = [&self.path.join("."), name].join(".");
        let count = self.taken.entry(full).or_insert(0);
        *count += 1;
        if *count == 1 { name.to_string() } else { format!("{name}_{count}") }
    }

    pub(crate) fn run_body(&mut self, function: &Arc<Function>, span: Span) -> Checked<Value> {
        self.reached.insert(function.span);
        let value = self.block(&function.body)?;
        match &function.result {
            Some(ty) => self.check_result(ty, value, function, span),
            None => Ok(strip_names(value)),
        }
    }

    fn check_result(
        &mut self,
        ty: &TypeExpr,
        value: Value,
        function: &Function,
        span: Span,
    ) -> Checked<Value> {
        let at = function.body.statements.last().map_or(function.body.span, |last| last.span);
        let what = format!("the result of `{}`", function.name.name);
        let site = Site { span: at, ty: ty.span, what, code: "E0206" };
        self.check_result_value(ty, value, &site, span)
    }

    fn check_result_value(&mut self, ty: &TypeExpr, value: Value, site: &Site, call: Span) -> Checked<Value> {
        let tensor_type = tensor_parts(ty);
        match (&ty.kind, value) {
            (TypeKind::List(types), Value::List(values)) if types.len() == values.len() => {
                let parts: Vec<_> = types
                    .iter()
                    .zip(values.iter())
                    .map(|(ty, value)| self.check_result_value(ty, value.clone(), site, call))
                    .collect();
                Ok(Value::List(parts.into_iter().collect::<Checked<_>>()?))
            }
            (TypeKind::Record(types), Value::Record(values)) => {
                let mut parts = Vec::new();
                for (name, ty) in types {
                    let Some((_, value)) = values.iter().find(|(own, _)| *own == name.name) else {
                        let message = format!("{} lacks the field `{}`", site.what, name.name);
                        return self.error("E0206", message, site.span, "not in this record");
                    };
                    parts.push((name.name.clone(), self.check_result_value(ty, value.clone(), site, call)?));
                }
                Ok(Value::Record(parts.into()))
            }
            (_, Value::Tensor(tensor)) if tensor_type.is_some() => {
                let (element, dims) = tensor_type.expect("just seen");
                let mut deferred = Vec::new();
                self.match_tensor(element, dims, &tensor, site, &mut deferred)?;
                self.settle(deferred)?;
                let dims = self.outer_dims(dims, tensor.rank(), call);
                Ok(Value::Tensor(Tensor { dims, ..tensor }))
            }
            (_, value @ (Value::Int(_) | Value::Float(_))) if tensor_type.is_some() => {
                let (element, dims) = tensor_type.expect("just seen");
                Ok(Value::Tensor(self.literal_as(element, dims, &value, site.span)?))
            }
            (_, Value::Unit) => {
                let error = Diagnostic::error("E0206", format!("{} is missing", site.what))
                    .at(site.span, "the body ends without a value")
                    .label(site.ty, "while one is declared")
                    .help("the value of a block is its last expression");
                Err(self.fail(error))
            }
            (_, value) if tensor_type.is_some() => {
                let error = Diagnostic::error("E0206", format!("{} is {}", site.what, value.describe()))
                    .at(site.span, "not a tensor")
                    .label(site.ty, "while this is declared");
                Err(self.fail(error))
            }
            (_, value) => self.check_static(ty, value, site.span, &site.what),
        }
    }

    /// Binds arguments to parameters in the frame that was just opened: static ones first, since they may size the others;
    /// then tensors; then columns of data, whose types follow from all that is known by then.
    pub(crate) fn enter(
        &mut self,
        function: &Function,
        params: &[Param],
        given: Vec<Option<Given>>,
    ) -> Checked<()> {
        let mut failed = false;
        let mut later = Vec::new();
        for (param, given) in params.iter().zip(given) {
            let from_default = given.is_none();
            let given = match given {
                Some(given) => given,
                None => {
                    let default = param.default.as_ref().expect("arguments without default are given");
                    match self.argument(&param.ty, default) {
                        Ok(given) => given,
                        Err(Reported) => {
                            failed = true;
                            continue;
                        }
                    }
                }
            };
            match is_tensor_type(&param.ty) {
                true => later.push((param, given)),
                false => failed |= self.enter_static(function, param, given, from_default).is_err(),
            }
        }
        if failed {
            return Err(Reported);
        }
        let mut deferred = Vec::new();
        let (columns, tensors): (Vec<_>, Vec<_>) =
            later.into_iter().partition(|(_, given)| matches!(given.value, Value::DataField(_)));
        let (literals, tensors): (Vec<_>, Vec<_>) = tensors
            .into_iter()
            .partition(|(_, given)| !matches!(given.value, Value::Tensor(_) | Value::List(_)));
        for (param, given) in tensors {
            failed |= self.enter_tensor(function, param, given, &mut deferred).is_err();
        }
        failed |= self.settle(std::mem::take(&mut deferred)).is_err();
        for (param, given) in literals.into_iter().chain(columns) {
            if failed {
                break;
            }
            failed |= self.enter_tensor(function, param, given, &mut deferred).is_err();
            failed |= self.settle(std::mem::take(&mut deferred)).is_err();
        }
        if failed { Err(Reported) } else { Ok(()) }
    }

    fn enter_static(
        &mut self,
        function: &Function,
        param: &Param,
        given: Given,
        from_default: bool,
    ) -> Checked<()> {
        let what = format!("the argument `{}` of `{}`", param.name.name, function.name.name);
        let value = self.check_static(&param.ty, given.value, given.span, &what)?;
        // An integer can size dims: results that have the size then know the argument as its origin.
        if let Value::Int(size) = &value {
            let origin = if from_default { self.frame().call.or(Some(given.span)) } else { Some(given.span) };
            let outer = DimInfo { name: given.variable.clone(), origin };
            self.frame_mut().dims.insert(param.name.name.clone(), DimBinding { size: size.clone(), outer });
        }
        self.declare(&param.name, value, VarKind::Fixed);
        Ok(())
    }

    fn enter_tensor(
        &mut self,
        function: &Function,
        param: &Param,
        given: Given,
        deferred: &mut Vec<Deferred>,
    ) -> Checked<()> {
        let what = format!("the argument `{}` of `{}`", param.name.name, function.name.name);
        let site = Site { span: given.span, ty: param.ty.span, what, code: "E0201" };
        let value = self.accept(&param.ty, given.value, &site, deferred)?;
        self.declare(&param.name, value, VarKind::Fixed);
        Ok(())
    }

    /// A value for something declared with a type that has tensors in it.
    pub(crate) fn accept(
        &mut self,
        ty: &TypeExpr,
        value: Value,
        site: &Site,
        deferred: &mut Vec<Deferred>,
    ) -> Checked<Value> {
        if let (TypeKind::List(types), Value::List(values)) = (&ty.kind, &value) {
            if types.len() != values.len() {
                let message =
                    format!("{} must be a list of {}, not of {}", site.what, types.len(), values.len());
                return self.error("E0303", message, site.span, "another number of elements");
            }
            let parts: Vec<_> = types
                .iter()
                .zip(values.iter())
                .map(|(ty, value)| self.accept(ty, value.clone(), site, deferred))
                .collect();
            return Ok(Value::List(parts.into_iter().collect::<Checked<_>>()?));
        }
        let Some((element, dims)) = tensor_parts(ty) else {
            return self.check_static(ty, value, site.span, &site.what);
        };
        match value {
            Value::Tensor(tensor) => {
                let dims = self.match_tensor(element, dims, &tensor, site, deferred)?;
                Ok(Value::Tensor(Tensor { dims, ..tensor }))
            }
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                Ok(Value::Tensor(self.literal_as(element, dims, &value, site.span)?))
            }
            Value::DataField(field) => self.column(&field, element, dims, site, deferred),
            other => {
                let error = Diagnostic::error(
                    "E0303",
                    format!("{} must be a tensor, not {}", site.what, other.describe()),
                )
                .at(site.span, format!("this is {}", other.describe()))
                .label(site.ty, "the type asked for");
                Err(self.fail(error))
            }
        }
    }

    /// A column of data where a tensor of a known type is asked for: the first such place decides its type.
    fn column(
        &mut self,
        field: &DataField,
        element: &Ident,
        dims: &[DimExpr],
        site: &Site,
        deferred: &mut Vec<Deferred>,
    ) -> Checked<Value> {
        let tensor = match self.data.get(&field.name) {
            Some(tensor) => tensor.clone(),
            None => {
                let dtype = self.element_dtype(element, None)?;
                let (shape, infos) = self.column_shape(dims)?;
                let ty = TensorType { dtype, shape };
                let leaf = Leaf { kind: LeafKind::Input, name: field.name.clone(), ty, init: None };
                let tensor = self.leaf(leaf, infos, site.ty);
                self.data.insert(field.name.clone(), tensor.clone());
                tensor
            }
        };
        let dims = self.match_tensor(element, dims, &tensor, site, deferred)?;
        Ok(Value::Tensor(Tensor { dims, ..tensor }))
    }

    /// The shape of a column that a signature gives a type to. A name that nothing decides is a size that stays open, but for
    /// that of the first dim once another column is known: rows are as many in all of them.
    fn column_shape(&mut self, dims: &[DimExpr]) -> Checked<(Vec<Dim>, Vec<DimInfo>)> {
        let rows = self.data.values().find_map(|other| {
            let outer = other.dims.first()?.clone();
            Some(DimBinding { size: other.ty.shape.first()?.clone(), outer })
        });
        if let (Some(DimExpr::Size(Expr { kind: ExprKind::Name(name), .. })), Some(rows)) =
            (dims.first(), rows)
            && self.find(&name.name).is_none()
        {
            self.frame_mut().dims.insert(name.name.clone(), rows);
        }
        let symbolic = std::mem::replace(&mut self.frame_mut().symbolic, true);
        let shape = self.shape_of(dims);
        self.frame_mut().symbolic = symbolic;
        shape
    }

    pub(crate) fn declare(&mut self, name: &Ident, value: Value, kind: VarKind) {
        let level = self.level();
        self.frame_mut().declare(name.name.clone(), Var { value, kind, span: name.span, level });
    }
}

/// The element type and dims of a type that is a tensor's; a bare dtype is a tensor of rank 0.
pub(crate) fn tensor_parts(ty: &TypeExpr) -> Option<(&Ident, &[DimExpr])> {
    match &ty.kind {
        TypeKind::Tensor(element, dims) => Some((element, dims)),
        TypeKind::Name(name)
            if !is_static_type(&name.name) && name.name.parse::<thalweg_base::DType>().is_ok() =>
        {
            Some((name, &[]))
        }
        TypeKind::Name(_) | TypeKind::List(_) | TypeKind::Record(_) | TypeKind::Error => None,
    }
}

/// Whether a tensor is somewhere in a type.
pub(crate) fn is_tensor_type(ty: &TypeExpr) -> bool {
    match &ty.kind {
        TypeKind::List(types) => types.iter().any(is_tensor_type),
        TypeKind::Record(fields) => fields.iter().any(|(_, ty)| is_tensor_type(ty)),
        TypeKind::Tensor(..) | TypeKind::Name(_) | TypeKind::Error => tensor_parts(ty).is_some(),
    }
}

/// Names of dims mean something in the function that gave them only.
fn strip_names(value: Value) -> Value {
    match value {
        Value::Tensor(mut tensor) => {
            tensor.dims.iter_mut().for_each(|dim| dim.name = None);
            Value::Tensor(tensor)
        }
        Value::List(values) => Value::list(values.iter().cloned().map(strip_names)),
        Value::Record(fields) => Value::Record(
            fields.iter().map(|(name, value)| (name.clone(), strip_names(value.clone()))).collect(),
        ),
        other => other,
    }
}
