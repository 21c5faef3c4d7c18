//! Written types against values: dims unify by name, classes of dtypes by name, static values by kind.

use super::frame::DimBinding;
use super::operators::ordinal;
use super::value::{DimInfo, Tensor, Value};
use super::{Checked, Elaborator, Reported};
use crate::syntax::ast::{DimExpr, Expr, ExprKind, Ident};
use std::collections::BTreeSet;
use std::sync::Arc;
use thalweg_base::{Bindings, Diagnostic, Dim, Span, Symbol};

/// Where a value meets a type.
#[derive(Clone)]
pub(crate) struct Site {
    /// The value.
    pub(crate) span: Span,
    /// The written type.
    pub(crate) ty: Span,
    /// What the value is there: "the argument `x` of `nn.linear`".
    pub(crate) what: String,
    /// The code of an error about shapes.
    pub(crate) code: &'static str,
}

/// A dim whose written size could not be decided yet.
pub(crate) struct Deferred {
    expr: Expr,
    size: Dim,
    info: DimInfo,
    /// Which dim of how many.
    place: (usize, usize),
    site: Site,
}

impl Elaborator<'_> {
    /// Matches a tensor with `element[dims]` in the current frame: names of dims that are free are bound, others must have
    /// the same size. Gives what is known of the dims inside.
    pub(crate) fn match_tensor(
        &mut self,
        element: &Ident,
        dims: &[DimExpr],
        tensor: &Tensor,
        site: &Site,
        deferred: &mut Vec<Deferred>,
    ) -> Checked<Vec<DimInfo>> {
        self.match_element(element, tensor.ty.dtype, site)?;
        let rests = dims.iter().filter(|dim| matches!(dim, DimExpr::Rest(_))).count();
        let fixed = dims.len() - rests;
        if rests > 1 {
            return self.error(
                "E0110",
                "a type has at most one `..`",
                site.ty,
                "which dims are whose is not clear",
            );
        }
        if tensor.rank() < fixed || (rests == 0 && tensor.rank() != fixed) {
            let (s, at_least) =
                (if fixed == 1 { "" } else { "s" }, if rests == 1 { "at least " } else { "" });
            let error = Diagnostic::error(
                "E0205",
                format!("{} must have {at_least}{fixed} dim{s}, not {}", site.what, tensor.rank()),
            )
            .at(site.span, format!("this is {}", tensor.describe()))
            .label(site.ty, "the dims asked for");
            return Err(self.fail(error));
        }
        let mut inside = Vec::with_capacity(tensor.rank());
        let mut at = 0;
        let mut failed = false;
        for dim in dims {
            match dim {
                DimExpr::Rest(name) => {
                    let count = tensor.rank() - fixed;
                    let part = at..at + count;
                    failed |= self.match_rest(name, tensor, part.clone(), site).is_err();
                    let label: Arc<str> = format!("..{}", name.name).into();
                    inside.extend(
                        tensor.dims[part]
                            .iter()
                            .map(|info| DimInfo { name: Some(label.clone()), ..info.clone() }),
                    );
                    at += count;
                }
                DimExpr::Any(_) => {
                    inside.push(DimInfo { name: None, ..tensor.dims[at].clone() });
                    at += 1;
                }
                DimExpr::Size(expr) => {
                    let (size, info) = (&tensor.ty.shape[at], &tensor.dims[at]);
                    failed |= self.match_size(expr, size, info, (at, tensor.rank()), site, deferred).is_err();
                    let name = match &expr.kind {
                        ExprKind::Name(name) => Some(name.name.clone()),
                        _ => None,
                    };
                    inside.push(DimInfo { name, origin: info.origin });
                    at += 1;
                }
            }
        }
        if failed { Err(Reported) } else { Ok(inside) }
    }

    fn match_rest(
        &mut self,
        name: &Ident,
        tensor: &Tensor,
        part: std::ops::Range<usize>,
        site: &Site,
    ) -> Checked<()> {
        let given: Vec<DimBinding> = part
            .map(|at| DimBinding { size: tensor.ty.shape[at].clone(), outer: tensor.dims[at].clone() })
            .collect();
        let Some(bound) = self.frame().rests.get(&name.name).cloned() else {
            self.frame_mut().rests.insert(name.name.clone(), given);
            return Ok(());
        };
        let list = |dims: &[DimBinding]| {
            let sizes: Vec<String> = dims.iter().map(|dim| dim.size.to_string()).collect();
            format!("[{}]", sizes.join(", "))
        };
        if let Some(at) = (0..bound.len().min(given.len())).find(|at| bound[*at].size != given[*at].size)
            && bound.len() == given.len()
        {
            let label = format!("dim {} of `..{}`", at + 1, name.name);
            return Err(self.size_clash(&label, &bound[at], &given[at].size, &given[at].outer, site));
        }
        if bound.len() == given.len() {
            return Ok(());
        }
        let message = format!("`..{}` is {} and {} in one call", name.name, list(&bound), list(&given));
        let mut error = Diagnostic::error(site.code, message)
            .at(site.span, format!("{} has `..{}` = {}", site.what, name.name, list(&given)));
        if let Some(origin) = bound.iter().find_map(|dim| dim.outer.origin) {
            error = error.label(origin, format!("while this makes it {}", list(&bound)));
        }
        Err(self.fail(error.label(site.ty, "declared here")))
    }

    fn size_clash(
        &mut self,
        name: &str,
        bound: &DimBinding,
        size: &Dim,
        info: &DimInfo,
        site: &Site,
    ) -> Reported {
        let mut error = Diagnostic::error(site.code, format!("{name} is {} and {size}", bound.size))
            .at(site.span, format!("{} makes it {size}", site.what));
        if let Some(origin) = bound.outer.origin {
            error = error.label(origin, format!("{name} is {} because of this", bound.size));
        }
        if let Some(origin) =
            info.origin.filter(|origin| Some(*origin) != bound.outer.origin && *origin != site.span)
        {
            error = error.label(origin, format!("{size} comes from here"));
        }
        if site.ty != site.span {
            error = error.label(site.ty, "the type that both must fit");
        }
        self.fail(with_free_help(error, &bound.size, size))
    }

    fn match_size(
        &mut self,
        expr: &Expr,
        size: &Dim,
        info: &DimInfo,
        place: (usize, usize),
        site: &Site,
        deferred: &mut Vec<Deferred>,
    ) -> Checked<()> {
        if let ExprKind::Name(name) = &expr.kind {
            let bound = self.frame().dims.get(&name.name).cloned();
            let known = match bound {
                Some(bound) => Some(bound),
                None => match self.find_size(&name.name) {
                    Some(found) => {
                        let origin = self.frame().get(&name.name).map(|var| var.span).or(Some(name.span));
                        Some(DimBinding { size: found?, outer: DimInfo { name: None, origin } })
                    }
                    None => None,
                },
            };
            return match known {
                Some(bound) if bound.size == *size => Ok(()),
                Some(bound) => Err(self.size_clash(&format!("`{}`", name.name), &bound, size, info, site)),
                None => {
                    let binding = DimBinding { size: size.clone(), outer: info.clone() };
                    self.frame_mut().dims.insert(name.name.clone(), binding);
                    Ok(())
                }
            };
        }
        deferred.push(Deferred {
            expr: expr.clone(),
            size: size.clone(),
            info: info.clone(),
            place,
            site: site.clone(),
        });
        Ok(())
    }

    /// The size that a name stands for, if it is a variable or constant that holds an integer.
    fn find_size(&mut self, name: &str) -> Option<Checked<Dim>> {
        let module = self.frame().module;
        let value = match self.frame().get(name) {
            Some(var) => Ok(var.value.clone()),
            None => self.entry(module, name)?,
        };
        match value {
            Ok(Value::Int(dim)) => Some(Ok(dim)),
            Ok(_) => None,
            Err(reported) => Some(Err(reported)),
        }
    }

    /// Decides sizes written as expressions, after all names that other arguments decide are known. One unknown name in a
    /// linear expression is solved for.
    pub(crate) fn settle(&mut self, deferred: Vec<Deferred>) -> Checked<()> {
        let mut failed = false;
        for Deferred { expr, size, info, place, site } in deferred {
            failed |= self.settle_one(&expr, &size, &info, place, &site).is_err();
        }
        if failed { Err(Reported) } else { Ok(()) }
    }

    fn settle_one(
        &mut self,
        expr: &Expr,
        size: &Dim,
        info: &DimInfo,
        place: (usize, usize),
        site: &Site,
    ) -> Checked<()> {
        let mut names = BTreeSet::new();
        free_names(expr, &mut names);
        let mut unknown: Vec<Arc<str>> = Vec::new();
        for name in names {
            if !self.frame().dims.contains_key(&name) && self.find_size(&name).is_none() {
                unknown.push(name);
            }
        }
        if let [name] = &unknown[..] {
            let symbol = Symbol::new(&format!("?{name}"));
            let binding = DimBinding { size: Dim::symbol(symbol.name()), outer: info.clone() };
            self.frame_mut().dims.insert(name.clone(), binding);
            let value = self.eval_size(expr);
            self.frame_mut().dims.remove(name);
            let value = value?;
            let at =
                |number: i64| value.substitute(&Bindings::from([(symbol.clone(), Dim::constant(number))]));
            let (offset, slope) = (at(0), &at(1) - &at(0));
            let linear = &offset + &(&slope * &Dim::symbol(symbol.name()));
            let solution = (linear == value).then(|| (size - &offset).exact_div(&slope)).flatten();
            if let Some(solution) = solution.filter(|size| size.as_constant().is_none_or(|size| size >= 0)) {
                self.frame_mut()
                    .dims
                    .insert(name.clone(), DimBinding { size: solution, outer: info.clone() });
                return Ok(());
            }
            let text = self.program.sources.text(expr.span).to_string();
            let error = Diagnostic::error(site.code, format!("no `{name}` makes `{text}` equal to {size}"))
                .at(site.span, format!("{} has this size", site.what))
                .label(expr.span, "asked for here");
            return Err(self.fail(error));
        }
        if !unknown.is_empty() {
            let list: Vec<String> = unknown.iter().map(|name| format!("`{name}`")).collect();
            return self.error(
                "E0210",
                format!("the sizes {} are not decided", list.join(" and ")),
                expr.span,
                "at most one name can be found from a size",
            );
        }
        let wanted = self.eval_size(expr)?;
        if wanted == *size {
            return Ok(());
        }
        let words = dim_words(place.0, place.1);
        let text = self.program.sources.text(expr.span).to_string();
        let asked = if text == wanted.to_string() { text } else { format!("`{text}` = {wanted}") };
        let mut error =
            Diagnostic::error(site.code, format!("{words} of {} must be {asked}, not {size}", site.what))
                .at(site.span, format!("{words} of this is {size}"))
                .label(expr.span, format!("{wanted} is asked for here"));
        if let Some(origin) = info.origin.filter(|origin| *origin != site.span && *origin != expr.span) {
            error = error.label(origin, format!("{size} comes from here"));
        }
        Err(self.fail(with_free_help(error, &wanted, size)))
    }

    /// An expression as a size.
    pub(crate) fn eval_size(&mut self, expr: &Expr) -> Checked<Dim> {
        match self.eval(expr)? {
            Value::Int(dim) => {
                if dim.as_constant().is_some_and(|size| size < 0) {
                    return self.error(
                        "E0210",
                        format!("a size is not negative, as {dim} is"),
                        expr.span,
                        "this is the size",
                    );
                }
                Ok(dim)
            }
            other => {
                let label = format!("this is {}", other.describe());
                self.error("E0210", "a size is an integer", expr.span, label)
            }
        }
    }

    /// The shape that written dims stand for. In a model's signature, names that are nothing else are sizes known only when
    /// the model runs.
    pub(crate) fn shape_of(&mut self, dims: &[DimExpr]) -> Checked<(Vec<Dim>, Vec<DimInfo>)> {
        let (mut shape, mut infos) = (Vec::new(), Vec::new());
        let mut failed = false;
        for dim in dims {
            match dim {
                DimExpr::Rest(name) => match self.spread(&name.name) {
                    Some(rest) => {
                        for binding in rest {
                            shape.push(binding.size);
                            infos.push(DimInfo {
                                name: Some(format!("..{}", name.name).into()),
                                ..binding.outer
                            });
                        }
                    }
                    None => {
                        let error = Diagnostic::error(
                            "E0210",
                            format!("what `..{}` stands for is not known here", name.name),
                        )
                        .at(name.span, "no argument decides it")
                        .help("a model's inputs have a known number of dims: name each of them");
                        self.fail(error);
                        failed = true;
                    }
                },
                DimExpr::Any(span) => {
                    let error = Diagnostic::error("E0210", "the size `_` is not known here")
                        .at(*span, "give it a name or a number");
                    self.fail(error);
                    failed = true;
                }
                DimExpr::Size(expr) => match self.declared_size(expr) {
                    Ok(size) => {
                        let name = match &expr.kind {
                            ExprKind::Name(name) => Some(name.name.clone()),
                            _ => None,
                        };
                        shape.push(size);
                        infos.push(DimInfo { name, origin: Some(expr.span) });
                    }
                    Err(Reported) => failed = true,
                },
            }
        }
        if failed { Err(Reported) } else { Ok((shape, infos)) }
    }

    /// The sizes that `..name` stands for: dims of an argument, or a list of sizes.
    fn spread(&self, name: &str) -> Option<Vec<DimBinding>> {
        if let Some(rest) = self.frame().rests.get(name) {
            return Some(rest.clone());
        }
        let var = self.frame().get(name)?;
        let Value::List(values) = &var.value else { return None };
        let size = |value: &Value| match value {
            Value::Int(size) => {
                Some(DimBinding { size: size.clone(), outer: DimInfo { name: None, origin: Some(var.span) } })
            }
            _ => None,
        };
        values.iter().map(size).collect()
    }

    fn declared_size(&mut self, expr: &Expr) -> Checked<Dim> {
        let mut names = BTreeSet::new();
        free_names(expr, &mut names);
        if self.frame().symbolic {
            // In a training, `batch` and the like are its own settings.
            let open = !self.frames.iter().any(|frame| frame.train);
            for name in names {
                if self.frame().dims.contains_key(&name) || self.find_size(&name).is_some() {
                    continue;
                }
                let given = self.settings.get(&*name).filter(|_| open);
                let size = match given.and_then(|value| value.parse::<i64>().ok()) {
                    Some(value) if value >= 0 => {
                        self.used_settings.insert(name.to_string());
                        Dim::constant(value)
                    }
                    Some(_) | None => Dim::symbol(&name),
                };
                let outer = DimInfo { name: Some(name.clone()), origin: Some(expr.span) };
                self.frame_mut().dims.insert(name, DimBinding { size, outer });
            }
        }
        self.eval_size(expr)
    }

    /// What the caller knows of the dims of a result that was declared as `dims`, `inside` being what is known within.
    pub(crate) fn outer_dims(&self, dims: &[DimExpr], rank: usize, call: Span) -> Vec<DimInfo> {
        let unnamed = DimInfo { name: None, origin: Some(call) };
        let mut infos = Vec::with_capacity(rank);
        for dim in dims {
            match dim {
                DimExpr::Rest(name) => {
                    let rest = self.frame().rests.get(&name.name);
                    infos.extend(rest.into_iter().flatten().map(|binding| binding.outer.clone()));
                }
                DimExpr::Any(_) => infos.push(unnamed.clone()),
                DimExpr::Size(expr) => infos.push(match &expr.kind {
                    ExprKind::Name(name) => {
                        let bound = self.frame().dims.get(&name.name).map(|binding| binding.outer.clone());
                        bound.unwrap_or_else(|| unnamed.clone())
                    }
                    _ => unnamed.clone(),
                }),
            }
        }
        infos.resize(rank, unnamed);
        infos
    }
}

/// Says what may be done when one of two sizes is open.
fn with_free_help(error: Diagnostic, a: &Dim, b: &Dim) -> Diagnostic {
    match (a.as_symbol(), b.as_symbol()) {
        (Some(a), Some(b)) => error.help(format!(
            "`{a}` and `{b}` may differ when the model runs; give both one name if they may not"
        )),
        (Some(open), None) | (None, Some(open)) => error.help(format!(
            "`{open}` may be any size when the model runs; write the number in its place if it is fixed"
        )),
        (None, None) => error,
    }
}

/// Every name in a size.
fn free_names(expr: &Expr, names: &mut BTreeSet<Arc<str>>) {
    match &expr.kind {
        ExprKind::Name(name) => {
            names.insert(name.name.clone());
        }
        ExprKind::Binary(_, _, left, right) => {
            free_names(left, names);
            free_names(right, names);
        }
        ExprKind::Unary(_, operand) => free_names(operand, names),
        ExprKind::Call(_, args) => args.iter().for_each(|arg| free_names(&arg.value, names)),
        _ => {}
    }
}

/// A site for a dim by its number, for messages.
pub(crate) fn dim_words(dim: usize, rank: usize) -> String {
    format!("the {} dim", ordinal(dim, rank))
}
