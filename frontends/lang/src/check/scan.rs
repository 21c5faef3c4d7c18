//! `scan`: a loop that runs with the model, one copy of its body in the graph.

use super::emit::Level;
use super::frame::{Var, VarKind};
use super::value::{DimInfo, Tensor, Value};
use super::{Checked, Elaborator, Reported};
use crate::syntax::ast::{Block, Expr, ExprKind, Ident, Scan, ScanInput, Stmt, StmtKind};
use std::sync::Arc;
use thalweg_base::{DType, Diagnostic, Dim, Span};
use thalweg_tensor::ops::{Leaf, LeafKind, Pick, Scan as ScanOp, Transpose};
use thalweg_tensor::{Graph, TensorType};

/// A tensor that is walked along, with its dim moved to the front.
struct Sequence {
    name: Arc<str>,
    span: Span,
    tensor: Tensor,
    /// Where the dim was.
    dim: usize,
}

/// What the last statements of the body give.
pub(super) struct Given {
    pub(super) yields: Vec<(Tensor, Span)>,
    pub(super) last: Vec<(Value, Span)>,
}

impl Elaborator<'_> {
    pub(crate) fn scan(&mut self, scan: &Scan, span: Span) -> Checked<Value> {
        let mut sequences = Vec::new();
        for input in &scan.inputs {
            sequences.push(self.sequence(input)?);
        }
        let Some(first) = sequences.first() else {
            return self.error(
                "E0410",
                "a scan walks along something",
                span,
                "write `scan xt in x along dim` or `scan i in 0..n`",
            );
        };
        let (length, length_info) = (first.tensor.ty.shape[0].clone(), first.tensor.dims[0].clone());
        for other in &sequences[1..] {
            if other.tensor.ty.shape[0] != length {
                let size = other.tensor.ty.shape[0].clone();
                let mut error = Diagnostic::error(
                    "E0202",
                    format!("a scan walks along dims of {length} and {size} at once"),
                )
                .at(other.span, format!("this is {size} long"))
                .label(sequences[0].span, format!("this is {length} long"));
                for info in [&length_info, &other.tensor.dims[0]] {
                    if let Some(origin) = info.origin {
                        error = error.label(origin, "a size comes from here");
                    }
                }
                return Err(self.fail(error));
            }
        }
        let carries = self.first_carries(&scan.carries)?;
        let (body, given, finals) = self.scan_body(scan, &sequences, &carries, span)?;
        self.scan_results(
            scan,
            span,
            ScanParts { length, length_info, sequences, carries, body, given, finals },
        )
    }

    /// The values that carries begin with; numbers become scalars.
    pub(super) fn first_carries(&mut self, written: &[(Ident, Expr)]) -> Checked<Vec<(Ident, Tensor, Span)>> {
        let mut carries = Vec::new();
        for (name, expr) in written {
            let value = match self.eval(expr)? {
                Value::Tensor(tensor) => tensor,
                value @ (Value::Int(_) | Value::Float(_) | Value::Bool(_)) => {
                    let dtype = match value {
                        Value::Float(_) => DType::F32,
                        Value::Bool(_) => DType::Bool,
                        _ => DType::I32,
                    };
                    self.literal(&value, dtype, expr.span)?
                }
                other => {
                    let message = format!("what a loop carries is a tensor, not {}", other.describe());
                    return self.error("E0404", message, expr.span, "not a tensor");
                }
            };
            carries.push((name.clone(), value, expr.span));
        }
        Ok(carries)
    }

    fn sequence(&mut self, input: &ScanInput) -> Checked<Sequence> {
        let span = input.value.span;
        if let ExprKind::Range(start, end) = &input.value.kind {
            if input.along.is_some() {
                return self.error("E0410", "a range has no dim to walk along", span, "leave `along` out");
            }
            let (start, end) = (self.eval_size(start)?, self.eval_size(end)?);
            let length = &end - &start;
            if length.as_constant().is_some_and(|length| length < 0) {
                return self.error(
                    "E0208",
                    format!("the range {start}..{end} runs backwards"),
                    span,
                    "use `scan reverse`",
                );
            }
            let mut tensor = self.iota(&length, DType::I32, span)?;
            if start != Dim::default() {
                let offset = self.size_tensor(&start, DType::I32, span)?;
                let offset = self.expand(&offset, &[length], tensor.dims.clone(), span)?;
                tensor = self.pointwise(thalweg_base::PointwiseFn::Add, &[&tensor, &offset], span)?;
            }
            return Ok(Sequence { name: input.name.name.clone(), span: input.name.span, tensor, dim: 0 });
        }
        let x = match self.eval(&input.value)? {
            Value::Tensor(tensor) => tensor,
            other => {
                let error = Diagnostic::error(
                    "E0410",
                    format!("a scan walks along a tensor or a range, not {}", other.describe()),
                )
                .at(span, "not a tensor")
                .help("a loop over a list is unrolled by `for`");
                return Err(self.fail(error));
            }
        };
        let dim = match &input.along {
            Some(along) => {
                let axes = self.axis(along)?;
                match &axes[..] {
                    [axis] => self.resolve_axis(axis, &x, along.span)?,
                    _ => {
                        return self.error("E0207", "a scan walks along one dim", along.span, "several dims");
                    }
                }
            }
            None if x.rank() > 0 => 0,
            None => {
                return self.error("E0410", "a scalar has no dim to walk along", span, "this has no dims");
            }
        };
        let mut perm: Vec<usize> = (0..x.rank()).collect();
        perm.remove(dim);
        perm.insert(0, dim);
        let dims = perm.iter().map(|at| x.dims[*at].clone()).collect();
        let tensor = if dim == 0 { x } else { self.tensor(Transpose { perm }, &[&x], dims, span)? };
        Ok(Sequence { name: input.name.name.clone(), span, tensor, dim })
    }

    /// Elaborates the body in a graph of its own, whose inputs are the carries, then the slices of the sequences.
    fn scan_body(
        &mut self,
        scan: &Scan,
        sequences: &[Sequence],
        carries: &[(Ident, Tensor, Span)],
        span: Span,
    ) -> Checked<(Level, Given, Vec<Tensor>)> {
        self.levels.push(Level::new(Graph::new("scan")));
        self.frame_mut().blocks.push(Default::default());
        let level = self.level();
        for (name, tensor, _) in carries {
            let input =
                self.body_input(&format!("carry.{}", name.name), &tensor.ty, tensor.dims.clone(), name.span);
            self.declare(name, Value::Tensor(input), VarKind::Mutable);
        }
        for sequence in sequences {
            let ty =
                TensorType { dtype: sequence.tensor.ty.dtype, shape: sequence.tensor.ty.shape[1..].to_vec() };
            let dims = sequence.tensor.dims[1..].to_vec();
            let input = self.body_input(&format!("step.{}", sequence.name), &ty, dims, sequence.span);
            let var = Var { value: Value::Tensor(input), kind: VarKind::Fixed, span: sequence.span, level };
            self.frame_mut().declare(sequence.name.clone(), var);
        }
        let given = self.scan_statements(&scan.body, span);
        let finals: Vec<Checked<Tensor>> =
            carries.iter().map(|(name, tensor, at)| self.carried(&name.name, tensor, *at)).collect();
        self.frame_mut().blocks.pop();
        let level = self.levels.pop().expect("it was pushed");
        let finals = finals.into_iter().collect::<Checked<Vec<_>>>();
        Ok((level, given?, finals?))
    }

    pub(super) fn body_input(
        &mut self,
        name: &str,
        ty: &TensorType,
        dims: Vec<DimInfo>,
        span: Span,
    ) -> Tensor {
        let leaf = Leaf { kind: LeafKind::Input, name: name.into(), ty: ty.clone(), init: None };
        let level = self.levels.last_mut().expect("the body's graph is open");
        let node = level.graph.add(leaf, &[]);
        self.as_tensor(node, dims, span)
    }

    pub(super) fn scan_statements(&mut self, body: &Block, span: Span) -> Checked<Given> {
        let mut given = Given { yields: Vec::new(), last: Vec::new() };
        let ends = body
            .statements
            .iter()
            .position(|statement| matches!(statement.kind, StmtKind::Yield(_) | StmtKind::Last(_)));
        let (before, end) = body.statements.split_at(ends.unwrap_or(body.statements.len()));
        // The variables of the body must live on for `yield` and `last`, so its statements run in the block that is open.
        self.statements(before)?;
        for Stmt { kind, span, .. } in end {
            match kind {
                StmtKind::Yield(values) if given.yields.is_empty() => {
                    for expr in values {
                        given.yields.push((self.yielded(expr)?, expr.span));
                    }
                }
                StmtKind::Last(values) if given.last.is_empty() => {
                    for expr in values {
                        given.last.push((self.eval(expr)?, expr.span));
                    }
                }
                _ => {
                    return self.error(
                        "E0406",
                        "`yield` and `last` end the body of a scan, each at most once",
                        *span,
                        "comes after them",
                    );
                }
            }
        }
        match given.yields.is_empty() && given.last.is_empty() {
            true => {
                let error = Diagnostic::error("E0406", "a scan gives nothing")
                    .at(span, "no `yield` and no `last` in its body")
                    .help(
                        "`yield h` stacks what each step gives; `last h` gives the value after the last step",
                    );
                Err(self.fail(error))
            }
            false => Ok(given),
        }
    }

    fn yielded(&mut self, expr: &Expr) -> Checked<Tensor> {
        match self.eval(expr)? {
            Value::Tensor(tensor) => Ok(tensor),
            other => {
                let message = format!("a scan yields tensors, not {}", other.describe());
                self.error("E0406", message, expr.span, "not a tensor")
            }
        }
    }

    /// The value that a carry has at the end of a step, which must be as it was at the start.
    pub(super) fn carried(&mut self, name: &str, before: &Tensor, span: Span) -> Checked<Tensor> {
        let var = self.frame().get(name).expect("carries are declared").clone();
        let Value::Tensor(after) = var.value else {
            return match var.value {
                Value::Poison => Err(Reported),
                value @ (Value::Int(_) | Value::Float(_) | Value::Bool(_)) => {
                    self.literal_like(&value, before, span)
                }
                other => self.error(
                    "E0404",
                    format!("the carry `{name}` becomes {}", other.describe()),
                    var.span,
                    "not a tensor",
                ),
            };
        };
        if after.ty != before.ty {
            let error =
                Diagnostic::error("E0404", format!("the carry `{name}` changes its type from step to step"))
                    .at(var.span, format!("begins as {} and becomes {}", before.describe(), after.describe()))
                    .label(span, format!("the first value is {}", before.describe()));
            return Err(self.fail(error));
        }
        Ok(after)
    }

    fn scan_results(&mut self, scan: &Scan, span: Span, parts: ScanParts) -> Checked<Value> {
        let ScanParts { length, length_info, sequences, carries, body, given, finals } = parts;
        // `last` may name carries, whose final values are results; what else it gives is carried along to be one.
        let (mut finals, mut firsts) =
            (finals, carries.iter().map(|(_, tensor, _)| tensor.clone()).collect::<Vec<_>>());
        let picked = self.last_carries(&given, &finals);
        self.levels.push(body);
        let level = self.level();
        let outputs: Vec<Tensor> =
            finals.drain(..).chain(given.yields.iter().map(|(tensor, _)| tensor.clone())).collect();
        for (index, output) in outputs.iter().enumerate() {
            let node = self.import(output, level);
            let graph = &mut self.levels[level].graph;
            graph.output(format!("result.{index}"), node);
        }
        let body = self.levels.pop().expect("just pushed");
        let picked = picked?;
        let outer = self.level();
        let mut operands = std::mem::take(&mut firsts);
        operands.extend(sequences.iter().map(|sequence| sequence.tensor.clone()));
        for (node, _) in &body.captures {
            operands.push(self.as_tensor_at(*node, outer));
        }
        let op = ScanOp {
            body: Arc::new(body.graph),
            length,
            carries: carries.len(),
            sequences: sequences.len(),
            reverse: scan.reverse,
            histories: false,
        };
        let operands: Vec<&Tensor> = operands.iter().collect();
        let node = self.emit(op, &operands, span)?;
        let mut results = Vec::new();
        let dim = sequences[0].dim;
        for (index, (tensor, at)) in given.yields.iter().enumerate() {
            let mut dims = vec![length_info.clone()];
            dims.extend(tensor.dims.iter().cloned());
            let stacked = self.pick(node, carries.len() + index, dims, *at)?;
            results.push(self.move_front(stacked, dim, *at)?);
        }
        for index in picked {
            results.push(self.pick(node, index, carries[index].1.dims.clone(), span)?);
        }
        let mut values = results.into_iter().map(Value::Tensor);
        match values.len() {
            1 => Ok(values.next().expect("there is one")),
            _ => Ok(Value::list(values)),
        }
    }

    /// Which carries `last` gives.
    pub(super) fn last_carries(&mut self, given: &Given, finals: &[Tensor]) -> Checked<Vec<usize>> {
        let mut picked = Vec::new();
        for (value, at) in &given.last {
            let Value::Tensor(tensor) = value else {
                let message = format!("`last` gives tensors, not {}", value.describe());
                return self.error("E0406", message, *at, "not a tensor");
            };
            match finals.iter().position(|own| own.node == tensor.node && own.level == tensor.level) {
                Some(found) => picked.push(found),
                None => {
                    let error = Diagnostic::error("E0406", "`last` gives what the loop carries")
                        .at(*at, "not the value of a carry after the step")
                        .help("carry the value too; a scan may also `yield` it, and its last position be taken: `y[.., -1]`");
                    return Err(self.fail(error));
                }
            }
        }
        Ok(picked)
    }

    pub(super) fn pick(
        &mut self,
        node: thalweg_tensor::NodeId,
        index: usize,
        dims: Vec<DimInfo>,
        span: Span,
    ) -> Checked<Tensor> {
        let graph = &mut self.levels.last_mut().expect("a graph is open").graph;
        let picked = graph.add(Pick { index }, &[node]);
        Ok(self.as_tensor(picked, dims, span))
    }

    /// Moves the first dim to where the walked dim was in the first sequence.
    fn move_front(&mut self, x: Tensor, to: usize, span: Span) -> Checked<Tensor> {
        let to = to.min(x.rank() - 1);
        if to == 0 {
            return Ok(x);
        }
        let mut perm: Vec<usize> = (1..x.rank()).collect();
        perm.insert(to, 0);
        let dims = perm.iter().map(|at| x.dims[*at].clone()).collect();
        self.tensor(Transpose { perm }, &[&x], dims, span)
    }
}

struct ScanParts {
    length: Dim,
    length_info: DimInfo,
    sequences: Vec<Sequence>,
    carries: Vec<(Ident, Tensor, Span)>,
    body: Level,
    given: Given,
    finals: Vec<Tensor>,
}
