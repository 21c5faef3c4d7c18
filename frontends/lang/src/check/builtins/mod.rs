//! The primitives: what the standard library is written in, and all that is not.

mod part;
mod pattern;
mod pointwise;
mod reduce;
mod shape;
mod statics;
mod values;
mod window;

use super::call::Given;
use super::value::{AxisRef, Tensor, Value};
use super::{Checked, Elaborator};
use crate::modules::closest;
use crate::syntax::ast::{Arg, Expr, Ident};
use thalweg_base::{DType, Diagnostic, Scalar, Span};

/// A primitive function.
pub struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// Its parameters in order. `?` after a name: may be left out; `@`: a dim by name or number; `*`: a list of dims;
    /// `...` at the end: any further arguments by name.
    pub params: &'static [&'static str],
    /// What it gives, in one line.
    pub doc: &'static str,
    run: fn(&mut Elaborator<'_>, &Call) -> Checked<Value>,
}

/// The arguments of one call of a primitive.
pub(crate) struct Call {
    builtin: &'static Builtin,
    given: Vec<Option<Given>>,
    axes: Vec<Option<(Vec<AxisRef>, Span)>>,
    extra: Vec<(Ident, Given)>,
    pub(crate) span: Span,
}

/// Every primitive, by theme.
pub fn all() -> impl Iterator<Item = &'static Builtin> {
    [
        pointwise::TABLE,
        reduce::TABLE,
        shape::TABLE,
        part::TABLE,
        window::TABLE,
        pattern::TABLE,
        values::TABLE,
        statics::TABLE,
    ]
    .into_iter()
    .flatten()
}

pub(crate) fn find(name: &str) -> Option<&'static Builtin> {
    all().find(|builtin| builtin.name == name)
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    all().map(|builtin| builtin.name)
}

fn bare(param: &str) -> &str {
    param.trim_end_matches(['?', '@', '*'])
}

impl Elaborator<'_> {
    pub(crate) fn call_builtin(
        &mut self,
        builtin: &'static Builtin,
        args: &[Arg],
        span: Span,
    ) -> Checked<Value> {
        let open = builtin.params.last() == Some(&"...");
        let count = builtin.params.len() - open as usize;
        let mut extra = Vec::new();
        let mut slots: Vec<Option<&Expr>> = vec![None; count];
        let mut failed = false;
        for arg in args {
            let slot = match &arg.name {
                Some(name) => builtin.params.iter().position(|param| bare(param) == &*name.name),
                None => slots.iter().position(Option::is_none),
            };
            match slot {
                Some(slot) if slots[slot].is_none() => slots[slot] = Some(&arg.value),
                None if open && arg.name.is_some() => match self.eval(&arg.value) {
                    Ok(value) => {
                        let name = arg.name.clone().expect("it has one");
                        extra.push((name, Given { value, span: arg.value.span, variable: None }));
                    }
                    Err(_) => failed = true,
                },
                _ => {
                    self.stray(builtin, arg);
                    failed = true;
                }
            }
        }
        let missing: Vec<String> = (0..count)
            .filter(|slot| slots[*slot].is_none() && !builtin.params[*slot].contains('?'))
            .map(|slot| format!("`{}`", bare(builtin.params[slot])))
            .collect();
        if !missing.is_empty() {
            let missing = missing.join(" and ");
            let message = format!("`{}` needs {missing}", builtin.name);
            let names: Vec<&str> = builtin.params.iter().map(|param| bare(param)).collect();
            let error = Diagnostic::error("E0106", message)
                .at(span, format!("{missing} not given"))
                .help(format!("it is `{}({})`: {}", builtin.name, names.join(", "), builtin.doc));
            self.fail(error);
            failed = true;
        }
        let (mut given, mut axes) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (param, slot) in builtin.params.iter().zip(slots) {
            let (mut value, mut axis) = (None, None);
            if let Some(expr) = slot {
                match param.contains(['@', '*']) {
                    true => match self.axis(expr) {
                        Ok(found) => axis = Some((found, expr.span)),
                        Err(_) => failed = true,
                    },
                    false => match self.eval(expr) {
                        Ok(found) => value = Some(Given { value: found, span: expr.span, variable: None }),
                        Err(_) => failed = true,
                    },
                }
            }
            given.push(value);
            axes.push(axis);
        }
        match failed {
            true => Err(super::Reported),
            false => (builtin.run)(self, &Call { builtin, given, axes, extra, span }),
        }
    }

    /// Calls a primitive with values in the order of its parameters.
    pub(crate) fn run_builtin(
        &mut self,
        builtin: &'static Builtin,
        mut given: Vec<Option<Given>>,
        span: Span,
    ) -> Checked<Value> {
        let needed = builtin.params.iter().filter(|param| !param.contains(['?', '.'])).count();
        if given.len() < needed || given.len() > builtin.params.len() {
            let message = format!("`{}` does not take {} arguments", builtin.name, given.len());
            return self.error("E0107", message, span, "used here");
        }
        given.resize(builtin.params.len(), None);
        let axes = given.iter().map(|_| None).collect();
        (builtin.run)(self, &Call { builtin, given, axes, extra: Vec::new(), span })
    }

    fn stray(&mut self, builtin: &Builtin, arg: &Arg) {
        let names: Vec<&str> = builtin.params.iter().map(|param| bare(param)).collect();
        let error = match &arg.name {
            Some(name) if names.contains(&&*name.name) => {
                Diagnostic::error("E0107", format!("`{}` is given twice", name.name))
                    .at(arg.value.span, "the second time")
            }
            Some(name) => {
                let message = format!("`{}` has no parameter `{}`", builtin.name, name.name);
                let error = Diagnostic::error("E0105", message).at(name.span, "no such parameter");
                match closest(&name.name, names.iter().copied()) {
                    Some(close) => error.help(format!("did you mean `{close}`?")),
                    None => error.help(format!("its parameters are {}", names.join(", "))),
                }
            }
            None => {
                let message = format!("`{}` takes {} arguments at most", builtin.name, names.len());
                Diagnostic::error("E0107", message).at(arg.value.span, "one too many")
            }
        };
        self.fail(error);
    }

    /// The position of a dim in a tensor.
    pub(crate) fn resolve_axis(&mut self, axis: &AxisRef, x: &Tensor, span: Span) -> Checked<usize> {
        let found = self.resolve_axes(std::slice::from_ref(axis), x, span)?;
        match found[..] {
            [one] => Ok(one),
            _ => self.error("E0207", "one dim is needed here", span, "this stands for several dims"),
        }
    }

    /// The positions of dims in a tensor, rising and without repetition.
    pub(crate) fn resolve_axes(&mut self, axes: &[AxisRef], x: &Tensor, span: Span) -> Checked<Vec<usize>> {
        let rank = x.rank() as i64;
        let mut found = Vec::new();
        for axis in axes {
            let index = match axis {
                AxisRef::Name(name, number) => {
                    let rest = format!("..{name}");
                    let named = |wanted: &str| -> Vec<usize> {
                        (0..x.rank()).filter(|at| x.dims[*at].name.as_deref() == Some(wanted)).collect()
                    };
                    let (one, several) = (named(name), named(&rest));
                    if !one.is_empty() || !several.is_empty() {
                        if one.len() > 1 {
                            let message = format!("`{name}` names several dims of {}", x.describe());
                            return self.error("E0207", message, span, "give the number of the dim");
                        }
                        found.extend(one.into_iter().chain(several));
                        continue;
                    }
                    match number {
                        Some(number) => *number,
                        // A `..s` that stands for no dims names none.
                        None if self.frame().rests.get(&**name).is_some_and(Vec::is_empty) => continue,
                        None => return Err(self.no_such_dim(name, x, span)),
                    }
                }
                AxisRef::Index(index) => *index,
            };
            let at = if index < 0 { index + rank } else { index };
            if !(0..rank).contains(&at) {
                let message = format!("there is no dim {index} in {}", x.describe());
                return self.error(
                    "E0207",
                    message,
                    span,
                    format!("dims are 0 to {}, or -{rank} to -1", rank - 1),
                );
            }
            found.push(at as usize);
        }
        found.sort_unstable();
        let before = found.len();
        found.dedup();
        match found.len() == before {
            true => Ok(found),
            false => self.error("E0207", "a dim is given twice", span, "twice the same dim"),
        }
    }

    fn no_such_dim(&mut self, name: &str, x: &Tensor, span: Span) -> super::Reported {
        let known: Vec<&str> = x
            .dims
            .iter()
            .filter_map(|dim| dim.name.as_deref())
            .filter(|name| !name.starts_with(".."))
            .collect();
        let mut error = Diagnostic::error("E0207", format!("there is no dim `{name}` in {}", x.describe()))
            .at(span, "not a dim of the tensor, and not the number of one");
        if let Some(close) = closest(name, known.iter().copied()) {
            error = error.help(format!("did you mean `{close}`?"));
        }
        error =
            error.help("give its number (`-1` is the last), or name the dims first: `let y: f32[a, b] = …`");
        self.fail(error)
    }
}

impl Call {
    fn slot(&self, name: &str) -> usize {
        let slot = self.builtin.params.iter().position(|param| bare(param) == name);
        slot.unwrap_or_else(|| panic!("`{}` has no parameter `{name}`", self.builtin.name))
    }

    fn value(&self, name: &str) -> Option<&Given> {
        self.given[self.slot(name)].as_ref()
    }

    fn wrong<T>(&self, elab: &mut Elaborator<'_>, name: &str, what: &str) -> Checked<T> {
        let given = self.value(name).expect("it was given");
        let message =
            format!("`{name}` of `{}` must be {what}, not {}", self.builtin.name, given.value.describe());
        elab.error("E0303", message, given.span, format!("this is {}", given.value.describe()))
    }

    fn tensor(&self, elab: &mut Elaborator<'_>, name: &str) -> Checked<Tensor> {
        match self.value(name).map(|given| &given.value) {
            Some(Value::Tensor(tensor)) => Ok(tensor.clone()),
            _ => self.wrong(elab, name, "a tensor"),
        }
    }

    fn tensors(&self, elab: &mut Elaborator<'_>, name: &str) -> Checked<Vec<Tensor>> {
        let given = self.value(name).expect("it was given");
        if let Value::List(values) = &given.value {
            let tensors: Option<Vec<Tensor>> = values
                .iter()
                .map(|value| if let Value::Tensor(tensor) = value { Some(tensor.clone()) } else { None })
                .collect();
            if let Some(tensors) = tensors.filter(|tensors| !tensors.is_empty()) {
                return Ok(tensors);
            }
        }
        self.wrong(elab, name, "a list of tensors")
    }

    fn int(&self, elab: &mut Elaborator<'_>, name: &str, default: i64) -> Checked<i64> {
        match self.value(name).map(|given| given.value.as_int()) {
            None => Ok(default),
            Some(Some(value)) => Ok(value),
            Some(None) => self.wrong(elab, name, "a known integer"),
        }
    }

    fn float(&self, elab: &mut Elaborator<'_>, name: &str, default: f64) -> Checked<f64> {
        match self.value(name) {
            None => Ok(default),
            Some(given) => elab.float(&given.value, given.span),
        }
    }

    /// A static number as an element of a dtype, 0 if it is not given.
    fn scalar(&self, elab: &mut Elaborator<'_>, name: &str, dtype: DType) -> Checked<Scalar> {
        let value = match self.value(name).map(|given| &given.value) {
            None => return Ok(Scalar::zero(dtype)),
            Some(Value::Bool(value)) => Scalar::Int((*value).into()),
            Some(Value::Int(value)) if value.as_constant().is_some() && !dtype.is_float() => {
                Scalar::Int(value.as_constant().expect("just seen").into())
            }
            Some(_) => Scalar::Float(self.float(elab, name, 0.0)?),
        };
        let value = if value.to_f64().is_nan() { Scalar::Float(f64::NAN) } else { value };
        Ok(if dtype.is_float() {
            Scalar::Float(value.to_f64())
        } else {
            Scalar::Int(value.to_i128()).convert(dtype)
        })
    }

    fn bool(&self, elab: &mut Elaborator<'_>, name: &str) -> Checked<bool> {
        match self.value(name).map(|given| &given.value) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => self.wrong(elab, name, "a bool"),
        }
    }

    fn text(&self, elab: &mut Elaborator<'_>, name: &str) -> Checked<(String, Span)> {
        match self.value(name) {
            Some(Given { value: Value::Str(text), span, .. }) => Ok((text.to_string(), *span)),
            _ => self.wrong(elab, name, "a string"),
        }
    }

    fn dtype(
        &self,
        elab: &mut Elaborator<'_>,
        name: &str,
        default: thalweg_base::DType,
    ) -> Checked<thalweg_base::DType> {
        match self.value(name).map(|given| &given.value) {
            None => Ok(default),
            Some(Value::DType(dtype)) => Ok(*dtype),
            Some(_) => self.wrong(elab, name, "a dtype"),
        }
    }

    /// A list of sizes.
    fn shape(&self, elab: &mut Elaborator<'_>, name: &str) -> Checked<Vec<thalweg_base::Dim>> {
        let given = self.value(name).expect("it was given");
        let sizes: Option<Vec<_>> = match &given.value {
            Value::List(values) => values
                .iter()
                .map(|value| if let Value::Int(size) = value { Some(size.clone()) } else { None })
                .collect(),
            Value::Int(size) => Some(vec![size.clone()]),
            _ => None,
        };
        let Some(sizes) = sizes else { return self.wrong(elab, name, "a list of sizes") };
        if let Some(size) = sizes.iter().find(|size| size.as_constant().is_some_and(|size| size < 0)) {
            let message = format!("a size is not negative, as {size} is");
            return elab.error("E0210", message, given.span, "a list of sizes");
        }
        Ok(sizes)
    }

    /// The dims that `over:` or `along:` names; absent when not given.
    fn axes(&self, elab: &mut Elaborator<'_>, name: &str, x: &Tensor) -> Checked<Option<Vec<usize>>> {
        match &self.axes[self.slot(name)] {
            None => Ok(None),
            Some((axes, span)) => elab.resolve_axes(axes, x, *span).map(Some),
        }
    }

    fn axis(&self, elab: &mut Elaborator<'_>, name: &str, x: &Tensor) -> Checked<usize> {
        match &self.axes[self.slot(name)] {
            Some((axes, span)) => match &axes[..] {
                [axis] => elab.resolve_axis(axis, x, *span),
                _ => elab.error("E0207", "one dim is needed here", *span, "this stands for several dims"),
            },
            None => elab.resolve_axis(&AxisRef::Index(-1), x, self.span),
        }
    }

    fn place(&self, name: &str) -> Span {
        let slot = self.slot(name);
        let axis = self.axes[slot].as_ref().map(|(_, span)| *span);
        self.given[slot].as_ref().map(|given| given.span).or(axis).unwrap_or(self.span)
    }
}
