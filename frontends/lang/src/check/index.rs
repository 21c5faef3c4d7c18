//! `x[…]`: positions and ranges of tensors and lists.

use super::operators::ordinal;
use super::value::{DimInfo, Tensor, Value};
use super::{Checked, Elaborator};
use crate::syntax::ast::{BinaryOp, Expr, IndexItem};
use thalweg_base::{Diagnostic, Dim, Span};
use thalweg_tensor::ops::{DynamicSlice, Gather, Slice, SliceRange};

/// What one part of an index does to its dim.
enum Part {
    /// It stays whole.
    All,
    /// A range stays.
    Range(Dim, Dim),
    /// One position, and the dim goes.
    At(Dim),
    /// A position computed when the model runs, and the dim goes.
    Dynamic(Tensor),
    /// Positions chosen by a tensor of integers.
    Take(Tensor),
}

impl Elaborator<'_> {
    pub(crate) fn index(
        &mut self,
        base: Value,
        base_expr: &Expr,
        items: &[IndexItem],
        span: Span,
    ) -> Checked<Value> {
        match base {
            Value::Tensor(x) => self.index_tensor(x, base_expr, items, span).map(Value::Tensor),
            Value::List(values) => self.index_list(&values, items, span),
            other => self.error(
                "E0303",
                format!("{} has no parts", other.describe()),
                base_expr.span,
                "cannot be indexed",
            ),
        }
    }

    fn index_list(&mut self, values: &[Value], items: &[IndexItem], span: Span) -> Checked<Value> {
        let count = values.len() as i64;
        let resolve = |index: i64| if index < 0 { index + count } else { index };
        match items {
            [IndexItem::At(expr)] => {
                let index = self.eval_int(expr)?;
                match usize::try_from(resolve(index)).ok().and_then(|at| values.get(at)) {
                    Some(value) => Ok(value.clone()),
                    None => {
                        let label = format!("the list has {count} elements");
                        self.error("E0208", format!("there is no element {index}"), expr.span, label)
                    }
                }
            }
            [IndexItem::Range(start, end, at)] => {
                let start = start.as_ref().map(|start| self.eval_int(start)).transpose()?.map_or(0, resolve);
                let end = end.as_ref().map(|end| self.eval_int(end)).transpose()?.map_or(count, resolve);
                match 0 <= start && start <= end && end <= count {
                    true => Ok(Value::list(values[start as usize..end as usize].iter().cloned())),
                    false => {
                        let label = format!("the list has {count} elements");
                        self.error("E0208", format!("there are no elements {start}..{end}"), *at, label)
                    }
                }
            }
            _ => self.error("E0208", "a list has one index", span, format!("{} are given", items.len())),
        }
    }

    fn index_tensor(&mut self, x: Tensor, base: &Expr, items: &[IndexItem], span: Span) -> Checked<Tensor> {
        if items.len() > x.rank() {
            let message = format!("{} indices for {} dims", items.len(), x.rank());
            return self.error("E0208", message, span, format!("{} is {}", self.subject(base), x.describe()));
        }
        let mut parts = Vec::new();
        for (dim, item) in items.iter().enumerate() {
            parts.push(self.index_part(&x, dim, item)?);
        }
        // Fixed slices first, then what is computed, from the last dim so that positions of the others stay.
        let mut result = self.slice(&x, &parts, span)?;
        for (dim, part) in parts.iter().enumerate().rev() {
            match part {
                Part::Dynamic(start) => {
                    let op = DynamicSlice { dims: vec![dim], sizes: vec![Dim::ONE] };
                    let dims = result.dims.clone();
                    result = self.tensor(op, &[&result, start], dims, span)?;
                }
                Part::Take(indices) => result = self.take(&result, indices, dim, 0, span)?,
                Part::All | Part::Range(..) | Part::At(_) => {}
            }
        }
        let mut at = 0;
        let (mut shape, mut dims) = (Vec::new(), Vec::new());
        for dim in 0..x.rank() {
            let width = match parts.get(dim) {
                Some(Part::Take(indices)) => indices.rank(),
                _ => 1,
            };
            let gone = matches!(parts.get(dim), Some(Part::At(_) | Part::Dynamic(_)));
            for offset in at..at + width {
                if !gone {
                    shape.push(result.ty.shape[offset].clone());
                    dims.push(result.dims[offset].clone());
                }
            }
            at += width;
        }
        self.reshape(&result, shape, dims, span)
    }

    fn index_part(&mut self, x: &Tensor, dim: usize, item: &IndexItem) -> Checked<Part> {
        let whole = x.ty.shape[dim].clone();
        let (start, end, span) = match item {
            IndexItem::Range(None, None, _) => return Ok(Part::All),
            IndexItem::Range(start, end, span) => {
                let start = start.as_ref().map(|start| self.position(start, &whole)).transpose()?;
                let end = end.as_ref().map(|end| self.position(end, &whole)).transpose()?;
                (start.unwrap_or_default(), end.unwrap_or(whole.clone()), *span)
            }
            IndexItem::At(expr) => match self.eval(expr)? {
                Value::Tensor(index) if !index.ty.dtype.is_integer() => {
                    let error =
                        Diagnostic::error("E0301", format!("an index is an integer, not {}", index.ty.dtype))
                            .at(expr.span, format!("this is {}", index.describe()))
                            .help("write `convert(i, i32)`");
                    return Err(self.fail(error));
                }
                Value::Tensor(index) if index.rank() == 0 => return Ok(Part::Dynamic(index)),
                Value::Tensor(index) => return Ok(Part::Take(index)),
                Value::Int(index) => {
                    let at = if index.as_constant().is_some_and(|index| index < 0) {
                        &whole + &index
                    } else {
                        index
                    };
                    let outside = match (at.as_constant(), whole.as_constant()) {
                        (Some(at), Some(whole)) => at < 0 || at >= whole,
                        (Some(at), None) => at < 0,
                        (None, _) => false,
                    };
                    if outside {
                        return Err(self.outside(x, dim, expr.span, format!("position {at}")));
                    }
                    return Ok(Part::At(at));
                }
                other => {
                    let label = format!("this is {}", other.describe());
                    return self.error(
                        "E0303",
                        "an index is an integer, a range or a tensor of integers",
                        expr.span,
                        label,
                    );
                }
            },
        };
        let size = match self.int_arithmetic(BinaryOp::Sub, &end, &start, span)? {
            Value::Int(size) => size,
            _ => panic!("a difference of integers is an integer"),
        };
        let negative =
            [&start, &size].into_iter().any(|value| value.as_constant().is_some_and(|value| value < 0));
        let beyond = (&whole - &end).as_constant().is_some_and(|rest| rest < 0);
        match negative || beyond {
            true => Err(self.outside(x, dim, span, format!("the range {start}..{end}"))),
            false => Ok(Part::Range(start, size)),
        }
    }

    fn outside(&mut self, x: &Tensor, dim: usize, span: Span, what: String) -> super::Reported {
        let whole = &x.ty.shape[dim];
        let mut error =
            Diagnostic::error("E0208", format!("{what} is outside of a dim of {whole}")).at(span, "outside");
        if let Some(origin) = x.dims[dim].origin {
            error = error.label(origin, format!("the {} dim is {whole} here", ordinal(dim, x.rank())));
        }
        self.fail(error)
    }

    /// A bound of a range; negative numbers count from the end.
    fn position(&mut self, expr: &Expr, whole: &Dim) -> Checked<Dim> {
        match self.eval(expr)? {
            Value::Int(at) if at.as_constant().is_some_and(|at| at < 0) => Ok(whole + &at),
            Value::Int(at) => Ok(at),
            Value::Tensor(_) => {
                let error = Diagnostic::error("E0302", "the bounds of a range are known when compiling")
                    .at(expr.span, "this is a tensor")
                    .help("`dynamic_slice(x, start, size, along: dim)` takes a computed start");
                Err(self.fail(error))
            }
            other => {
                let label = format!("this is {}", other.describe());
                self.error("E0303", "the bounds of a range are integers", expr.span, label)
            }
        }
    }

    fn slice(&mut self, x: &Tensor, parts: &[Part], span: Span) -> Checked<Tensor> {
        let mut ranges = Vec::new();
        let mut dims = x.dims.clone();
        for (dim, part) in parts.iter().enumerate() {
            let (start, size) = match part {
                Part::Range(start, size) => (start.clone(), size.clone()),
                Part::At(at) => (at.clone(), Dim::ONE),
                Part::All | Part::Dynamic(_) | Part::Take(_) => continue,
            };
            if size != x.ty.shape[dim] {
                dims[dim].origin = Some(span);
                ranges.push(SliceRange { dim, start, size, stride: 1 });
            }
        }
        match ranges.is_empty() {
            true => Ok(x.clone()),
            false => self.tensor(Slice { ranges }, &[x], dims, span),
        }
    }

    /// Positions of a dim chosen by a tensor of integers, whose dims take the place of the dim; the first `batch` dims of both
    /// go together.
    pub(crate) fn take(
        &mut self,
        x: &Tensor,
        indices: &Tensor,
        dim: usize,
        batch: usize,
        span: Span,
    ) -> Checked<Tensor> {
        let shared = batch <= dim && dim < x.rank() && batch <= indices.rank();
        if !shared || x.ty.shape[..batch] != indices.ty.shape[..batch] {
            let label = format!("{} by {}", x.describe(), indices.describe());
            return self.error(
                "E0202",
                format!("the first {batch} dims do not go together in `take`"),
                span,
                label,
            );
        }
        let mut dims: Vec<DimInfo> = x.dims[..dim].to_vec();
        dims.extend_from_slice(&indices.dims[batch..]);
        dims.extend_from_slice(&x.dims[dim + 1..]);
        self.tensor(Gather { dim, batch }, &[x, indices], dims, span)
    }
}
