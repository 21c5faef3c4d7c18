//! Expressions: names, fields, lists, conditions, scopes and hints. Calls, operators and indexing have their own files.

use super::builtins;
use super::frame::VarKind;
use super::value::{AxisRef, Callable, DataField, Value};
use super::{Checked, Elaborator, Reported};
use crate::modules::{ALWAYS, Entry, ModuleId, closest};
use crate::program::Pin;
use crate::syntax::ast::{Expr, ExprKind, Hint, Ident, Pattern, ScopePath};
use std::sync::Arc;
use thalweg_base::{DType, Diagnostic, Span};

impl Elaborator<'_> {
    /// The value of an expression.
    pub(crate) fn eval(&mut self, expr: &Expr) -> Checked<Value> {
        let outer = self.span.replace(expr.span);
        let value = self.eval_kind(expr);
        self.span = outer;
        match value? {
            Value::Poison => Err(Reported),
            value => Ok(value),
        }
    }

    fn eval_kind(&mut self, expr: &Expr) -> Checked<Value> {
        match &expr.kind {
            ExprKind::Int(value) => Ok(Value::int(*value)),
            ExprKind::Float(value) => Ok(Value::Float(*value)),
            ExprKind::Str(value) => Ok(Value::Str(value.clone())),
            ExprKind::Bool(value) => Ok(Value::Bool(*value)),
            ExprKind::Name(name) => self.name(name),
            ExprKind::Field(base, field) => {
                let base = self.eval(base)?;
                self.field(base, field)
            }
            ExprKind::Call(callee, args) => self.call(callee, args, None, expr.span),
            ExprKind::As(inner, path) => {
                let parts = self.scope_parts(path)?;
                self.eval_named(inner, parts, path)
            }
            ExprKind::Hinted(inner, hint) => self.eval_hinted(inner, hint),
            ExprKind::Index(base, items) => {
                let value = self.eval(base)?;
                self.index(value, base, items, expr.span)
            }
            ExprKind::Unary(op, operand) => {
                let value = self.eval(operand)?;
                self.unary(*op, value, expr.span)
            }
            ExprKind::Binary(op, at, left, right) => {
                let (a, b) = (self.eval(left), self.eval(right));
                self.binary(*op, *at, (a?, left), (b?, right), expr.span)
            }
            ExprKind::Range(start, end) => {
                let (start, end) = (self.eval_int(start), self.eval_int(end));
                let (start, end) = (start?, end?);
                self.take_turns(end.saturating_sub(start), expr.span)?;
                Ok(Value::list((start..end).map(Value::int)))
            }
            ExprKind::If(condition, then, other) => match (self.condition(condition)?, other) {
                (true, _) => self.block(then),
                (false, Some(other)) => self.eval(other),
                (false, None) => Ok(Value::Unit),
            },
            ExprKind::Block(block) => self.block(block),
            ExprKind::List(elements) => {
                let values: Vec<_> = elements.iter().map(|element| self.eval(element)).collect();
                Ok(Value::List(values.into_iter().collect::<Checked<_>>()?))
            }
            ExprKind::Comprehension(element, pattern, over) => self.comprehension(element, pattern, over),
            ExprKind::Record(fields) => {
                let values: Vec<_> =
                    fields.iter().map(|(name, value)| (name.name.clone(), self.eval(value))).collect();
                let values = values.into_iter().map(|(name, value)| Ok((name, value?)));
                Ok(Value::Record(values.collect::<Checked<_>>()?))
            }
            ExprKind::Scan(scan) => self.scan(scan, expr.span),
            ExprKind::While(turn) => self.while_loop(turn, expr.span),
            ExprKind::Branch(branch) => self.branch(branch, expr.span),
            ExprKind::Scope(path, block) => {
                let parts = self.scope_parts(path)?;
                let depth = self.path.len();
                self.path.extend(parts);
                let value = self.block(block);
                self.path.truncate(depth);
                value
            }
            ExprKind::Error => Err(Reported),
        }
    }

    /// A static integer.
    pub(crate) fn eval_int(&mut self, expr: &Expr) -> Checked<i64> {
        let value = self.eval(expr)?;
        match value.as_int() {
            Some(value) => Ok(value),
            None => self.error(
                "E0303",
                format!("a known integer is needed here, not {}", value.describe()),
                expr.span,
                "not an integer that is known when compiling",
            ),
        }
    }

    fn condition(&mut self, expr: &Expr) -> Checked<bool> {
        match self.eval(expr)? {
            Value::Bool(value) => Ok(value),
            Value::Tensor(tensor) => {
                let error = Diagnostic::error("E0302", "`if` needs a bool that is known when compiling")
                    .at(
                        expr.span,
                        format!("this is a tensor {}, known only when the model runs", tensor.describe()),
                    )
                    .help("to choose element by element, write `select(condition, a, b)`");
                Err(self.fail(error))
            }
            other => {
                let label = format!("this is {}", other.describe());
                self.error("E0302", "`if` needs a bool that is known when compiling", expr.span, label)
            }
        }
    }

    /// Counts turns of static loops, which a slip could make endless.
    pub(crate) fn take_turns(&mut self, turns: i64, span: Span) -> Checked<()> {
        self.turns = self.turns.saturating_add(usize::try_from(turns).unwrap_or(0));
        match self.turns > super::TURNS_MAX {
            true => self.error(
                "E0601",
                format!("static loops have more than {} turns in all", super::TURNS_MAX),
                span,
                "each turn is unrolled when compiling",
            ),
            false => Ok(()),
        }
    }

    fn comprehension(&mut self, element: &Expr, pattern: &Pattern, over: &Expr) -> Checked<Value> {
        let turns = self.iterable(over)?;
        let mut values = Vec::with_capacity(turns.len());
        for turn in turns {
            self.frame_mut().blocks.push(Default::default());
            let value = self.bind(pattern, turn, VarKind::Fixed).and_then(|()| self.eval(element));
            self.frame_mut().blocks.pop();
            values.push(value?);
        }
        Ok(Value::list(values))
    }

    /// What a name stands for: a variable, a dim, something of the module, the prelude or a primitive.
    pub(crate) fn name(&mut self, name: &Ident) -> Checked<Value> {
        if let Some(value) = self.find(&name.name) {
            return value;
        }
        let mut error = Diagnostic::error("E0101", format!("there is no `{}` here", name.name))
            .at(name.span, "not found");
        let modules = &self.program.modules;
        let home = modules.all.iter().find(|module| {
            module.standard && module.name != "prelude" && module.entries.contains_key(&name.name)
        });
        if let Some(home) = home {
            let used = self.find(&home.name).is_some();
            error = error.help(format!("did you mean `{}.{}`?", home.name, name.name));
            if !used {
                error = error.help(format!("`use {}` at the top of the file brings it in", home.name));
            }
        } else if let Some(close) = self.close_name(&name.name) {
            error = error.help(format!("did you mean `{close}`?"));
        } else if self.program.modules.standard(&name.name).is_some() {
            error = error.help(format!("it is a module: write `use {}` at the top of the file", name.name));
        }
        Err(self.fail(error))
    }

    fn close_name(&self, name: &str) -> Option<String> {
        let modules = &self.program.modules;
        let mut names: Vec<&str> = self.frame().names().collect();
        names.extend(modules.get(self.frame().module).entries.keys().map(|name| &**name));
        if let Some(prelude) = modules.standard("prelude") {
            names.extend(modules.get(prelude).entries.keys().map(|name| &**name));
        }
        for primitive in builtins::names().chain(ALWAYS) {
            names.push(primitive);
        }
        closest(name, names.into_iter()).map(str::to_string)
    }

    /// Like `name`, without a complaint when there is none.
    pub(crate) fn find(&mut self, name: &str) -> Option<Checked<Value>> {
        if let Some(var) = self.frame().get(name) {
            return Some(Ok(var.value.clone()));
        }
        if let Some(binding) = self.frame().dims.get(name) {
            return Some(Ok(Value::Int(binding.size.clone())));
        }
        if let Some(rest) = self.frame().rests.get(name) {
            return Some(Ok(Value::list(rest.iter().map(|binding| Value::Int(binding.size.clone())))));
        }
        let module = self.frame().module;
        if let Some(value) = self.entry(module, name) {
            return Some(value);
        }
        if name == "training" {
            return Some(Ok(Value::Bool(self.training)));
        }
        let prelude = self.program.modules.standard("prelude");
        if let Some(value) = prelude.and_then(|prelude| self.entry(prelude, name)) {
            return Some(value);
        }
        if let Some(builtin) = builtins::find(name) {
            return Some(Ok(Value::Function(Callable::Builtin(builtin))));
        }
        if let Ok(dtype) = name.parse::<DType>() {
            return Some(Ok(Value::DType(dtype)));
        }
        ALWAYS.contains(&name).then(|| {
            let module = self.program.modules.standard(name);
            Ok(Value::Module(module.expect("the standard library is read first")))
        })
    }

    /// Something at the top of a module.
    pub(crate) fn entry(&mut self, module: ModuleId, name: &str) -> Option<Checked<Value>> {
        let (entry, _) = self.program.modules.get(module).entries.get(name)?;
        match entry.clone() {
            Entry::Module(id) => Some(Ok(Value::Module(id))),
            Entry::Function(function) => {
                Some(Ok(Value::Function(Callable::User { function, module, bound: None })))
            }
            Entry::Const(item) => Some(self.constant(module, &item)),
        }
    }

    pub(crate) fn field(&mut self, base: Value, field: &Ident) -> Checked<Value> {
        match base {
            Value::Module(module) => {
                if let Some(value) = self.entry(module, &field.name) {
                    return value;
                }
                let data = self.program.modules.get(module);
                let mut error =
                    Diagnostic::error("E0102", format!("the module `{}` has no `{}`", data.name, field.name))
                        .at(field.span, "not in the module");
                if let Some(close) = closest(&field.name, data.entries.keys().map(|name| &**name)) {
                    error = error.help(format!("did you mean `{}.{close}`?", data.name));
                }
                Err(self.fail(error))
            }
            Value::Record(fields) => match fields.iter().find(|(name, _)| *name == field.name) {
                Some((_, value)) => Ok(value.clone()),
                None => {
                    let names: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
                    let mut error =
                        Diagnostic::error("E0111", format!("the record has no field `{}`", field.name))
                            .at(field.span, format!("its fields are {}", names.join(", ")));
                    if let Some(close) = closest(&field.name, names.iter().copied()) {
                        error = error.help(format!("did you mean `{close}`?"));
                    }
                    Err(self.fail(error))
                }
            },
            Value::Data => Ok(Value::DataField(DataField { name: field.name.clone() })),
            other => {
                let message = format!("{} has no fields", other.describe());
                let mut error = Diagnostic::error("E0111", message).at(field.span, "no such field");
                if let Value::Tensor(_) = other {
                    error = error.help(format!("functions are not methods: write `{}(x)`", field.name));
                }
                Err(self.fail(error))
            }
        }
    }

    /// The parts of a path with their indices: `block[0].norm` is `block.0.norm`.
    pub(crate) fn scope_parts(&mut self, path: &ScopePath) -> Checked<Vec<String>> {
        let mut parts = Vec::new();
        for (name, indices) in &path.segments {
            parts.push(name.name.to_string());
            for index in indices {
                parts.push(self.eval_int(index)?.to_string());
            }
        }
        Ok(parts)
    }

    /// `call as inner as outer`: the last one written is the outermost scope.
    fn eval_named(&mut self, inner: &Expr, parts: Vec<String>, path: &ScopePath) -> Checked<Value> {
        match &inner.kind {
            ExprKind::As(inner, path) => {
                let parts = [parts, self.scope_parts(path)?].concat();
                self.eval_named(inner, parts, path)
            }
            ExprKind::Hinted(inner, hint) => {
                let value = self.eval_named(inner, parts, path)?;
                self.pin(hint, inner.span)?;
                Ok(value)
            }
            ExprKind::Call(callee, args) => {
                let outer = self.span.replace(inner.span);
                let value = self.call(callee, args, Some(parts), inner.span);
                self.span = outer;
                value
            }
            _ => {
                let error = Diagnostic::error("E0407", "`as` gives a name to a call")
                    .at(inner.span, "this is no call")
                    .label(path.span, "the name")
                    .help("to name several calls together, write `scope name { … }` around them");
                Err(self.fail(error))
            }
        }
    }

    fn eval_hinted(&mut self, inner: &Expr, hint: &Hint) -> Checked<Value> {
        self.last_scope = self.path.join(".");
        let value = self.eval(inner)?;
        self.pin(hint, inner.span)?;
        Ok(value)
    }

    fn pin(&mut self, hint: &Hint, span: Span) -> Checked<()> {
        const HINTS: [&str; 4] = ["shard", "replicate", "stage", "recompute"];
        if !HINTS.contains(&&*hint.name.name) {
            let mut error = Diagnostic::error("E0408", format!("there is no hint `#{}`", hint.name.name))
                .at(hint.name.span, format!("hints are {}", HINTS.map(|name| format!("#{name}")).join(", ")));
            if let Some(close) = closest(&hint.name.name, HINTS.into_iter()) {
                error = error.help(format!("did you mean `#{close}`?"));
            }
            return Err(self.fail(error));
        }
        let args = hint
            .args
            .iter()
            .map(|(name, value)| (name.as_ref().map(|name| name.name.to_string()), value.name.to_string()))
            .collect();
        let (scope, name) = (self.last_scope.clone(), hint.name.name.to_string());
        self.pins.push(Pin { scope, hint: name, args, span: span.to(hint.span) });
        Ok(())
    }

    /// A dim asked for by name or number, unevaluated so that names which are no variables can be given.
    pub(crate) fn axis(&mut self, expr: &Expr) -> Checked<Vec<AxisRef>> {
        if let ExprKind::List(elements) = &expr.kind {
            let axes: Vec<_> = elements.iter().map(|element| self.axis(element)).collect();
            let axes: Vec<Vec<AxisRef>> = axes.into_iter().collect::<Checked<_>>()?;
            return Ok(axes.into_iter().flatten().collect());
        }
        if let ExprKind::Name(name) = &expr.kind {
            let frame = self.frame();
            if frame.rests.contains_key(&name.name) && frame.get(&name.name).is_none() {
                return Ok(vec![AxisRef::Name(name.name.clone(), None)]);
            }
            let is_dim = frame.dims.contains_key(&name.name) && frame.get(&name.name).is_none();
            return match frame.get(&name.name).map(|var| var.value.clone()) {
                Some(Value::Poison) => Err(Reported),
                Some(Value::Axis(axis)) => Ok(vec![axis]),
                Some(Value::List(values)) => self.axis_list(&values, expr.span),
                Some(value) => Ok(vec![AxisRef::Name(name.name.clone(), value.as_int())]),
                None if is_dim => Ok(vec![AxisRef::Name(name.name.clone(), None)]),
                None => {
                    let module = frame.module;
                    let number = match self.program.modules.get(module).entries.contains_key(&name.name) {
                        true => self.entry(module, &name.name).transpose()?.and_then(|value| value.as_int()),
                        false => None,
                    };
                    Ok(vec![AxisRef::Name(name.name.clone(), number)])
                }
            };
        }
        match self.eval(expr)? {
            Value::Axis(axis) => Ok(vec![axis]),
            Value::List(values) => self.axis_list(&values, expr.span),
            value => match value.as_int() {
                Some(index) => Ok(vec![AxisRef::Index(index)]),
                None => {
                    let label = format!("this is {}", value.describe());
                    self.error("E0207", "a dim is given by its name or number", expr.span, label)
                }
            },
        }
    }

    fn axis_list(&mut self, values: &[Value], span: Span) -> Checked<Vec<AxisRef>> {
        let mut axes = Vec::new();
        for value in values {
            match (value, value.as_int()) {
                (Value::Axis(axis), _) => axes.push(axis.clone()),
                (_, Some(index)) => axes.push(AxisRef::Index(index)),
                (other, None) => {
                    let label = format!("this holds {}", other.describe());
                    return self.error("E0207", "a dim is given by its name or number", span, label);
                }
            }
        }
        Ok(axes)
    }

    /// A constant of a module, evaluated once; a setting of its name replaces the value.
    fn constant(&mut self, module: ModuleId, item: &Arc<crate::syntax::ast::Const>) -> Checked<Value> {
        let key = (module, item.name.name.clone());
        if let Some(value) = self.constants.get(&key) {
            return value.clone().ok_or(Reported);
        }
        if self.constants_open.contains(&key) {
            return self.error(
                "E0109",
                format!("the constant `{}` needs itself", item.name.name),
                item.name.span,
                "defined here",
            );
        }
        self.constants_open.push(key.clone());
        let value = self.constant_value(module, item);
        self.constants_open.pop();
        self.constants.insert(key, value.as_ref().ok().cloned());
        value
    }

    fn constant_value(&mut self, module: ModuleId, item: &crate::syntax::ast::Const) -> Checked<Value> {
        let name = &item.name.name;
        self.frames.push(super::frame::Frame::new(module, format!("const {name}"), None));
        let level = self.levels.len();
        let own = self.eval(&item.value);
        let value = match self.setting(module, name) {
            Some(given) => own.and_then(|own| self.adapt_setting(name, given, &own, item.name.span)),
            None => own,
        };
        let checked = value.and_then(|value| match (&item.ty, value) {
            (_, Value::Tensor(tensor)) => {
                let label = format!("this is a tensor {}", tensor.describe());
                self.error(
                    "E0302",
                    format!("the constant `{name}` is not known when compiling"),
                    item.value.span,
                    label,
                )
            }
            (Some(ty), value) => self.check_static(ty, value, item.value.span, name),
            (None, value) => Ok(value),
        });
        debug_assert_eq!(level, self.levels.len());
        self.frames.pop();
        checked
    }
}
