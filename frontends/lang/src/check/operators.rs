//! Operators on static values and on tensors, with broadcasting.

use super::value::{DimInfo, Tensor, Value};
use super::{Checked, Elaborator};
use crate::syntax::ast::{BinaryOp, Expr, ExprKind, UnaryOp};
use thalweg_base::{DType, Diagnostic, Dim, PointwiseFn, Scalar, Span};
use thalweg_tensor::ops::Contract;

impl Elaborator<'_> {
    pub(crate) fn unary(&mut self, op: UnaryOp, value: Value, span: Span) -> Checked<Value> {
        let (symbol, function) = match op {
            UnaryOp::Neg => ("-", PointwiseFn::Neg),
            UnaryOp::Not => ("!", PointwiseFn::Not),
        };
        match (op, value) {
            (UnaryOp::Neg, Value::Int(dim)) => {
                self.int_arithmetic(BinaryOp::Sub, &Dim::default(), &dim, span)
            }
            (UnaryOp::Neg, Value::Float(value)) => Ok(Value::Float(-value)),
            (UnaryOp::Not, Value::Bool(value)) => Ok(Value::Bool(!value)),
            (_, Value::Tensor(tensor)) => {
                if let Err(reason) = function.result(&[tensor.ty.dtype]) {
                    return self.error(
                        "E0305",
                        format!("`{symbol}` cannot be applied: {reason}"),
                        span,
                        tensor.describe(),
                    );
                }
                Ok(Value::Tensor(self.pointwise(function, &[&tensor], span)?))
            }
            (_, other) => self.error(
                "E0305",
                format!("`{symbol}` cannot be applied to {}", other.describe()),
                span,
                "not defined",
            ),
        }
    }

    pub(crate) fn binary(
        &mut self,
        op: BinaryOp,
        at: Span,
        left: (Value, &Expr),
        right: (Value, &Expr),
        span: Span,
    ) -> Checked<Value> {
        let (a, b) = (left.0, right.0);
        if op == BinaryOp::MatMul {
            let (Value::Tensor(x), Value::Tensor(w)) = (&a, &b) else {
                let odd = if matches!(a, Value::Tensor(_)) { (&b, right.1) } else { (&a, left.1) };
                let label = format!("this is {}", odd.0.describe());
                return self.error("E0305", "`@` multiplies tensors", odd.1.span, label);
            };
            return self.matmul((x, left.1), (w, right.1), span);
        }
        match (&a, &b) {
            (Value::Tensor(x), Value::Tensor(y)) => {
                let (x, y) = self.broadcast(
                    (x, left.1.span, left.1),
                    (y, right.1.span, right.1),
                    op.symbol(),
                    at,
                    span,
                )?;
                self.tensor_operator(op, &x, &y, at, span)
            }
            (Value::Tensor(x), Value::Int(_) | Value::Float(_) | Value::Bool(_)) => {
                let y = self.literal_like(&b, x, right.1.span)?;
                self.tensor_operator(op, x, &y, at, span)
            }
            (Value::Int(_) | Value::Float(_) | Value::Bool(_), Value::Tensor(y)) => {
                let x = self.literal_like(&a, y, left.1.span)?;
                self.tensor_operator(op, &x, y, at, span)
            }
            (_, _) => self.static_operator(op, a, b, at, span),
        }
    }

    /// A static number as a tensor of the dtype and shape of another: literals adapt to what is around them.
    pub(crate) fn literal_like(&mut self, value: &Value, like: &Tensor, span: Span) -> Checked<Tensor> {
        let scalar = self.literal(value, like.ty.dtype, span)?;
        self.expand(&scalar, &like.ty.shape, like.dims.clone(), span)
    }

    /// A static number as a tensor of rank 0 of a dtype that can hold it.
    pub(crate) fn literal(&mut self, value: &Value, dtype: DType, span: Span) -> Checked<Tensor> {
        let misfit = |what: String| {
            Diagnostic::error("E0304", format!("{what} does not fit the dtype {dtype} around it"))
                .at(span, format!("would have to become {dtype}"))
                .help("convert the tensor first: `convert(x, f32)`")
        };
        let scalar = match value {
            Value::Int(dim) => match dim.as_constant() {
                None => return self.size_tensor(dim, dtype, span),
                Some(value) if dtype.is_float() => Scalar::Float(value as f64),
                Some(value) => {
                    let (low, high) = dtype.range();
                    if dtype == DType::Bool || !(low.to_i128()..=high.to_i128()).contains(&value.into()) {
                        return Err(self.fail(misfit(format!("the integer {value}"))));
                    }
                    Scalar::Int(value.into())
                }
            },
            // All that is no number is written with one pattern of bits, whatever the machine made of it.
            Value::Float(value) if dtype.is_float() && value.is_nan() => Scalar::Float(f64::NAN),
            Value::Float(value) if dtype.is_float() => Scalar::Float(*value),
            Value::Bool(value) if dtype == DType::Bool => Scalar::Int(*value as i128),
            other => return Err(self.fail(misfit(other.describe()))),
        };
        self.scalar(dtype, scalar, span)
    }

    fn tensor_operator(
        &mut self,
        op: BinaryOp,
        x: &Tensor,
        y: &Tensor,
        at: Span,
        span: Span,
    ) -> Checked<Value> {
        let function = match op {
            BinaryOp::Add => PointwiseFn::Add,
            BinaryOp::Sub => PointwiseFn::Sub,
            BinaryOp::Mul => PointwiseFn::Mul,
            BinaryOp::Div => PointwiseFn::Div,
            BinaryOp::Rem => PointwiseFn::Rem,
            BinaryOp::Pow => PointwiseFn::Pow,
            BinaryOp::Eq => PointwiseFn::Eq,
            BinaryOp::Ne => PointwiseFn::Ne,
            BinaryOp::Lt => PointwiseFn::Lt,
            BinaryOp::Le => PointwiseFn::Le,
            BinaryOp::Gt => PointwiseFn::Gt,
            BinaryOp::Ge => PointwiseFn::Ge,
            BinaryOp::And => PointwiseFn::And,
            BinaryOp::Or => PointwiseFn::Or,
            BinaryOp::MatMul => panic!("`@` is no pointwise operator"),
        };
        if let Err(reason) = function.result(&[x.ty.dtype, y.ty.dtype]) {
            let message = format!("`{}` cannot be applied: {reason}", op.symbol());
            return self.error(
                "E0305",
                message,
                at,
                format!("between {} and {}", x.describe(), y.describe()),
            );
        }
        let mut result = self.pointwise(function, &[x, y], span)?;
        result.dims = merge(&x.dims, &y.dims);
        Ok(Value::Tensor(result))
    }

    /// Brings two tensors to one dtype-checked shape: missing leading dims and dims of size 1 repeat, nothing else.
    pub(crate) fn broadcast(
        &mut self,
        (x, x_span, x_expr): (&Tensor, Span, &Expr),
        (y, y_span, y_expr): (&Tensor, Span, &Expr),
        what: &str,
        at: Span,
        span: Span,
    ) -> Checked<(Tensor, Tensor)> {
        if x.ty.dtype != y.ty.dtype {
            let (from, to) = match x.ty.dtype.is_float() || !y.ty.dtype.is_float() {
                true => (y_expr, x.ty.dtype),
                false => (x_expr, y.ty.dtype),
            };
            let text = self.program.sources.text(from.span).to_string();
            let error = Diagnostic::error("E0301", format!("dtypes do not agree in `{what}`"))
                .at(at, format!("between {} and {}", x.ty.dtype, y.ty.dtype))
                .label(x_span, format!("this is {}", x.describe()))
                .label(y_span, format!("this is {}", y.describe()))
                .help(format!("tensors never change dtype silently; write `convert({text}, {to})`"));
            return Err(self.fail(error));
        }
        let rank = x.rank().max(y.rank());
        let (mut shape, mut dims) = (Vec::with_capacity(rank), Vec::with_capacity(rank));
        for back in (1..=rank).rev() {
            let side = |tensor: &Tensor| -> Option<(Dim, DimInfo)> {
                let at = tensor.rank().checked_sub(back)?;
                Some((tensor.ty.shape[at].clone(), tensor.dims[at].clone()))
            };
            let (size, info) = match (side(x), side(y)) {
                (Some((a, left)), Some((b, right))) if a == b => (a, merge(&[left], &[right]).remove(0)),
                (Some((a, _)), Some(b)) if a == Dim::ONE => b,
                (Some(a), Some((b, _))) if b == Dim::ONE => a,
                (Some(a), None) | (None, Some(a)) => a,
                (Some(_), Some(_)) => return Err(self.clash((x, x_expr), (y, y_expr), back, what, at)),
                (None, None) => panic!("the rank is that of one of the two"),
            };
            shape.push(size);
            dims.push(info);
        }
        let left = self.expand(x, &shape, dims.clone(), span)?;
        Ok((left, self.expand(y, &shape, dims, span)?))
    }

    /// The error for sizes that do not broadcast, counted from the last dim.
    fn clash(
        &mut self,
        x: (&Tensor, &Expr),
        y: (&Tensor, &Expr),
        back: usize,
        what: &str,
        at: Span,
    ) -> super::Reported {
        let (a, b) = (x.0.rank() - back, y.0.rank() - back);
        let (m, n) = (&x.0.ty.shape[a], &y.0.ty.shape[b]);
        let mut error = Diagnostic::error("E0202", format!("shapes do not agree in `{what}`")).at(
            at,
            format!(
                "{} against {}: the {} dim is {m} on the left and the {} is {n} on the right",
                x.0.describe(),
                y.0.describe(),
                ordinal(a, x.0.rank()),
                ordinal(b, y.0.rank())
            ),
        );
        error = self.origin(error, x.0, a, x.1, "");
        error = self.origin(error, y.0, b, y.1, "and ");
        let fits = |other: &Tensor, size: &Dim| other.ty.shape.iter().filter(|dim| *dim == size).count() == 1;
        if y.0.rank() < x.0.rank() && fits(x.0, n) {
            let name = self.program.sources.text(y.1.span);
            error = error.help(format!(
                "only missing leading dims and dims of size 1 repeat; `reshape({name}, […])` with dims of size 1 lines it up"
            ));
        } else {
            error = error.help("only scalars, missing leading dims and dims of size 1 repeat");
        }
        self.fail(error)
    }

    /// Adds where the size of a dim comes from.
    pub(crate) fn origin(
        &self,
        error: Diagnostic,
        x: &Tensor,
        dim: usize,
        expr: &Expr,
        lead: &str,
    ) -> Diagnostic {
        let Some(origin) = x.dims[dim].origin else { return error };
        let text = self.subject(expr);
        let size = &x.ty.shape[dim];
        error.label(origin, format!("{lead}the {} dim of {text} is {size} here", ordinal(dim, x.rank())))
    }

    /// What a message calls an expression.
    pub(crate) fn subject(&self, expr: &Expr) -> String {
        match &expr.kind {
            ExprKind::Name(name) => format!("`{}`", name.name),
            _ => {
                let text = self.program.sources.text(expr.span);
                match text.len() <= 40 && !text.contains('\n') {
                    true => format!("`{text}`"),
                    false => "this value".into(),
                }
            }
        }
    }

    /// `x @ w`: the last dim of `x` with the second to last of `w` (its only one for a vector); leading dims of both
    /// broadcast.
    fn matmul(
        &mut self,
        (x, x_expr): (&Tensor, &Expr),
        (w, w_expr): (&Tensor, &Expr),
        span: Span,
    ) -> Checked<Value> {
        for (tensor, expr) in [(x, x_expr), (w, w_expr)] {
            if tensor.rank() == 0 {
                let label = format!("this is a scalar {}", tensor.describe());
                return self.error("E0203", "`@` needs tensors with dims", expr.span, label);
            }
        }
        if x.ty.dtype != w.ty.dtype {
            let error = Diagnostic::error("E0301", "dtypes do not agree in `@`")
                .at(span, format!("between {} and {}", x.ty.dtype, w.ty.dtype))
                .help(format!("write `convert({}, {})`", self.program.sources.text(w_expr.span), x.ty.dtype));
            return Err(self.fail(error));
        }
        let (k, row) = (x.rank() - 1, w.rank().saturating_sub(2));
        if x.ty.shape[k] != w.ty.shape[row] {
            return Err(self.matmul_clash((x, x_expr), (w, w_expr), span));
        }
        let vector = w.rank() == 1;
        let (mut left, mut right) = (x.clone(), w.clone());
        let lead = if w.rank() > 2 { x.rank().saturating_sub(2).max(w.rank() - 2) } else { 0 };
        if lead > 0 {
            if x.rank() == 1 {
                return self.error(
                    "E0203",
                    "`@` of a vector with stacked matrices",
                    span,
                    "give the vector a row dim first",
                );
            }
            let (rows, columns) = (x.rank() - 2, w.rank() - 2);
            let parts = |tensor: &Tensor, count: usize| Tensor {
                ty: thalweg_tensor::TensorType {
                    dtype: tensor.ty.dtype,
                    shape: tensor.ty.shape[..count].to_vec(),
                },
                dims: tensor.dims[..count].to_vec(),
                ..tensor.clone()
            };
            let (shape, dims) =
                self.lead_shape((&parts(x, rows), x_expr), (&parts(w, columns), w_expr), span)?;
            let whole = |tensor: &Tensor, count: usize| {
                let shape = [&shape[..], &tensor.ty.shape[count..]].concat();
                (shape, [&dims[..], &tensor.dims[count..]].concat())
            };
            let ((xs, xd), (ws, wd)) = (whole(x, rows), whole(w, columns));
            left = self.expand(x, &xs, xd, span)?;
            right = self.expand(w, &ws, wd, span)?;
        }
        let letters: Vec<char> = ('a'..='z').chain('A'..='Z').collect();
        let free = left.rank() - 1;
        if free + 2 > letters.len() {
            return self.error("E0203", "`@` of tensors with too many dims", span, "at most 50 dims");
        }
        let (sum, column) = (letters[free], letters[free + 1]);
        let lhs: String = letters[..free].iter().chain([&sum]).collect();
        let batch: String = letters[..lead].iter().collect();
        let (rhs, out) = match vector {
            true => (sum.to_string(), letters[..free].iter().collect()),
            false => {
                (format!("{batch}{sum}{column}"), letters[..free].iter().chain([&column]).collect::<String>())
            }
        };
        let mut dims = left.dims[..free].to_vec();
        if !vector {
            dims.push(right.dims[right.rank() - 1].clone());
        }
        Ok(Value::Tensor(self.tensor(Contract { lhs, rhs, out }, &[&left, &right], dims, span)?))
    }

    fn lead_shape(
        &mut self,
        x: (&Tensor, &Expr),
        w: (&Tensor, &Expr),
        span: Span,
    ) -> Checked<(Vec<Dim>, Vec<DimInfo>)> {
        let rank = x.0.rank().max(w.0.rank());
        let (mut shape, mut dims) = (Vec::new(), Vec::new());
        for back in (1..=rank).rev() {
            let side = |tensor: &Tensor| {
                tensor
                    .rank()
                    .checked_sub(back)
                    .map(|at| (tensor.ty.shape[at].clone(), tensor.dims[at].clone()))
            };
            let (size, info) = match (side(x.0), side(w.0)) {
                (Some(a), Some(b)) if a.0 == b.0 || b.0 == Dim::ONE => a,
                (Some(a), Some(b)) if a.0 == Dim::ONE => b,
                (Some(a), None) | (None, Some(a)) => a,
                (Some(_), Some(_)) => return Err(self.clash(x, w, back, "@", span)),
                (None, None) => panic!("the rank is that of one of the two"),
            };
            shape.push(size);
            dims.push(info);
        }
        Ok((shape, dims))
    }

    fn matmul_clash(
        &mut self,
        (x, x_expr): (&Tensor, &Expr),
        (w, w_expr): (&Tensor, &Expr),
        span: Span,
    ) -> super::Reported {
        let (k, row) = (x.rank() - 1, w.rank().saturating_sub(2));
        let (m, n) = (&x.ty.shape[k], &w.ty.shape[row]);
        let mut error = Diagnostic::error("E0203", "shapes do not agree in `@`")
            .at(span, format!("contracts {m} with {n}"));
        error = self.origin(error, x, k, x_expr, "");
        error = self.origin(error, w, row, w_expr, "and ");
        if w.rank() == 2 {
            let out = &w.ty.shape[1];
            let (x, w) = (self.program.sources.text(x_expr.span), self.program.sources.text(w_expr.span));
            error = error
                .help(format!("`{w}: f32[{m}, {out}]` would fit; or did you mean `nn.linear({x}, {out})`?"));
        }
        self.fail(error)
    }
}

/// What is known of dims that two operands share: a name both can agree on, and one's origin.
pub(crate) fn merge(a: &[DimInfo], b: &[DimInfo]) -> Vec<DimInfo> {
    let one = |a: &DimInfo, b: &DimInfo| DimInfo {
        name: if a.name == b.name {
            a.name.clone()
        } else {
            a.name.clone().xor(b.name.clone()).or(a.name.clone())
        },
        origin: a.origin.or(b.origin),
    };
    a.iter().zip(b).map(|(a, b)| one(a, b)).collect()
}

/// The place of a dim in words: "first", "last", "third".
pub(crate) fn ordinal(dim: usize, rank: usize) -> String {
    const WORDS: [&str; 6] = ["first", "second", "third", "fourth", "fifth", "sixth"];
    match dim {
        _ if rank == 1 => "only".into(),
        dim if dim + 1 == rank => "last".into(),
        dim if dim < WORDS.len() => WORDS[dim].into(),
        dim => format!("{}th", dim + 1),
    }
}
