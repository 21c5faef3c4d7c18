//! The text of one node: its op in the words of the language, over the texts of what it reads.

use super::body::{Body, Writer};
use super::form::{Form, Known, Read};
use super::text::{COMPARE, PREFIX, PRODUCT, SUM, Text, WHOLE, call, list, number, one_or_list, shape, size};
use super::{WriteError, form};
use thalweg_base::{DType, Dim, Literal, PointwiseFn as F, ReduceFn, Scalar};
use thalweg_tensor::ops::{
    Broadcast, Constant, Contract, Convolve, Direction, Distribution, Pad, Slice, Window,
};
use thalweg_tensor::{NodeId, Op};

/// Elements of a constant that are written out; more stand in the weights file.
const ELEMENTS_MAX: usize = 16;

type Written<T> = Result<T, WriteError>;

impl Body<'_> {
    /// The text of a node that has one result.
    pub(super) fn node_text(&mut self, writer: &mut Writer, id: NodeId) -> Written<Text> {
        let dtype = self.view.dtype(id);
        match self.form(id).clone() {
            Form::Plain => self.op_text(writer, id),
            Form::Known(known) => Ok(known_text(&known, self.view.shape(id), dtype)),
            Form::Pointwise(function, reads) => {
                let mut args = Vec::new();
                for read in &reads {
                    args.push(match read {
                        Read::Node(node) => self.read(writer, *node, id),
                        Read::Known(known) => bare(known),
                    });
                }
                Ok(scalar_function(function, dtype, &args))
            }
            Form::Keep(function, x, dims) => {
                let mut args = self.reduction(writer, x, &dims, id);
                args.push("keep: true".into());
                Ok(call(reduce_name(function), &args))
            }
            Form::Mean(x, dims, keep) => {
                let mut args = self.reduction(writer, x, &dims, id);
                args.extend(keep.then(|| "keep: true".to_string()));
                Ok(call("mean", &args))
            }
            Form::Spread(x) => {
                let x = self.read(writer, x, id).text;
                Ok(call("broadcast", &[x, shape(self.view.shape(id))]))
            }
            Form::At(slice) => {
                let Op::Slice(op) = self.view.op(slice) else { panic!("a slice is indexed") };
                let x = self.view.operand(slice, 0);
                let text = self.read(writer, x, id);
                Ok(self.index_text(text, x, op, true))
            }
            Form::Library(name, x) => Ok(call(name, &[self.read(writer, x, id).text])),
        }
    }

    fn reduction(&mut self, writer: &mut Writer, x: NodeId, dims: &[usize], id: NodeId) -> Vec<String> {
        let rank = self.view.shape(x).len();
        let mut args = vec![self.read(writer, x, id).text];
        if dims.len() < rank {
            args.push(format!("over: {}", one_or_list(dims)));
        }
        args
    }

    fn op_text(&mut self, writer: &mut Writer, id: NodeId) -> Written<Text> {
        let node = self.view.graph.node(id);
        let of = |body: &mut Self, writer: &mut Writer, at: usize| {
            let operand = body.view.operand(id, at);
            body.read(writer, operand, id)
        };
        let rank = self.view.shape(id).len();
        match &node.op {
            Op::Constant(Constant { value }) => Ok(self.constant(writer, id, value)),
            Op::Iota(op) => {
                let mut args = vec![size(&op.size).text];
                args.extend((op.dtype != DType::I32).then(|| op.dtype.to_string()));
                Ok(call("iota", &args))
            }
            Op::Random(op) => {
                let name = match op.distribution {
                    Distribution::Uniform => "draw_uniform",
                    Distribution::Normal => "draw_normal",
                };
                let [a, b, counter] = [0, 1, 2].map(|at| of(self, writer, at).text);
                Ok(call(name, &[list([a, b]), counter]))
            }
            Op::Pointwise(_) => panic!("scalar functions have a form of their own"),
            Op::Convert(op) => Ok(call("convert", &[of(self, writer, 0).text, op.dtype.to_string()])),
            Op::Broadcast(Broadcast { shape: to, dims }) => {
                let x = of(self, writer, 0).text;
                Ok(call("broadcast", &[x, shape(to), format!("at: {}", one_or_list(dims))]))
            }
            Op::Reshape(op) => Ok(call("reshape", &[of(self, writer, 0).text, shape(&op.shape)])),
            Op::Transpose(op) => {
                let mut args = vec![of(self, writer, 0).text];
                let mut swapped: Vec<usize> = (0..rank).collect();
                if rank >= 2 {
                    swapped.swap(rank - 2, rank - 1);
                }
                if op.perm != swapped {
                    args.push(list(&op.perm));
                }
                Ok(call("transpose", &args))
            }
            Op::Slice(op) => {
                let x = self.view.operand(id, 0);
                let text = self.read(writer, x, id);
                Ok(self.slice_text(text, x, op))
            }
            Op::Pad(op) => {
                let x = of(self, writer, 0);
                pad_text(x, op, rank, self.view.dtype(id))
            }
            Op::Concat(op) => {
                let mut parts = Vec::new();
                for at in 0..node.operands.len() {
                    parts.push(of(self, writer, at).text);
                }
                let mut args = vec![list(parts)];
                args.extend((op.dim + 1 != rank).then(|| format!("along: {}", op.dim)));
                Ok(call("concat", &args))
            }
            Op::Gather(op) => {
                let mut args = vec![of(self, writer, 0).text, of(self, writer, 1).text];
                args.extend((op.dim != 0).then(|| format!("along: {}", op.dim)));
                args.extend((op.batch != 0).then(|| format!("batch: {}", op.batch)));
                Ok(call("take", &args))
            }
            Op::Scatter(op) => {
                let mut args = vec![of(self, writer, 0).text, of(self, writer, 1).text, size(&op.size).text];
                args.extend((op.dim != op.batch).then(|| format!("along: {}", op.dim)));
                args.extend((op.batch != 0).then(|| format!("batch: {}", op.batch)));
                Ok(call("scatter", &args))
            }
            Op::Reduce(op) => {
                let x = self.view.operand(id, 0);
                let args = self.reduction(writer, x, &op.dims, id);
                Ok(call(reduce_name(op.function), &args))
            }
            Op::Cumulative(op) => {
                let name = match op.function {
                    ReduceFn::Sum => "cumsum",
                    ReduceFn::Prod => "cumprod",
                    ReduceFn::Max => "cummax",
                    ReduceFn::Min => "cummin",
                };
                let mut args = vec![of(self, writer, 0).text];
                args.extend((op.dim + 1 != rank).then(|| format!("along: {}", op.dim)));
                args.extend(op.reverse.then(|| "reverse: true".to_string()));
                Ok(call(name, &args))
            }
            Op::Contract(op) => {
                let (x, w) = (of(self, writer, 0), of(self, writer, 1));
                Ok(contract_text(op, &x, &w))
            }
            Op::Convolve(op) => {
                let args = vec![of(self, writer, 0).text, of(self, writer, 1).text];
                Ok(convolve_text(op, args))
            }
            Op::Unfold(op) => {
                let x = of(self, writer, 0);
                if op.windows.is_empty() {
                    return Ok(x);
                }
                let dtype = self.view.dtype(id);
                let from = rank - op.windows.len();
                let mut args = vec![x.text];
                window_args(&op.windows, from, None, &mut args);
                args.extend(fill("windows", op.value, dtype)?);
                Ok(call("windows", &args))
            }
            Op::Fold(op) => {
                let x = of(self, writer, 0);
                if op.windows.is_empty() {
                    return Ok(x);
                }
                let mut args = vec![x.text];
                window_args(&op.windows, rank, Some(&op.sizes), &mut args);
                Ok(call("fold", &args))
            }
            Op::ArgSort(op) => {
                let mut args = vec![of(self, writer, 0).text];
                args.extend((op.dim + 1 != rank).then(|| format!("along: {}", op.dim)));
                args.extend(op.descending.then(|| "descending: true".to_string()));
                Ok(call("argsort", &args))
            }
            Op::DynamicSlice(op) => {
                let mut starts = Vec::new();
                for at in 0..op.dims.len() {
                    starts.push(of(self, writer, at + 1).text);
                }
                let x = of(self, writer, 0);
                let sizes: Vec<String> = op.sizes.iter().map(|dim| size(dim).text).collect();
                Ok(dynamic("dynamic_slice", vec![x.text], &op.dims, &starts, Some(&sizes)))
            }
            Op::DynamicUpdate(op) => {
                let mut starts = Vec::new();
                for at in 0..op.dims.len() {
                    starts.push(of(self, writer, at + 2).text);
                }
                let args = vec![of(self, writer, 0).text, of(self, writer, 1).text];
                Ok(dynamic("dynamic_update", args, &op.dims, &starts, None))
            }
            Op::Collective(_) => Err(WriteError::Split),
            Op::Leaf(_) | Op::Scan(_) | Op::While(_) | Op::Branch(_) | Op::Pick(_) => {
                panic!("`{}` is no expression of its operands", node.op.name())
            }
        }
    }

    /// A constant that no number says.
    fn constant(&mut self, writer: &mut Writer, id: NodeId, value: &Literal) -> Text {
        let (dtype, sizes) = (value.dtype(), value.shape());
        let dims: Vec<Dim> = sizes.iter().map(|size| Dim::from(*size)).collect();
        if value.is_empty() {
            return known_text(&Known::Number(Scalar::zero(dtype), dtype), &dims, dtype);
        }
        let numbers: Option<Vec<String>> = match value.len() <= ELEMENTS_MAX {
            true => value.scalars().map(|scalar| number(scalar, dtype).map(|text| text.text)).collect(),
            false => None,
        };
        let Some(mut level) = numbers else {
            let wish = self.name_for(writer, id);
            return Text::whole(writer.stored(value, &wish, self.indent));
        };
        for size in sizes.iter().rev() {
            level = level.chunks(*size).map(list).collect();
        }
        let mut args = vec![level.remove(0)];
        args.extend((dtype != DType::F32).then(|| dtype.to_string()));
        call("tensor", &args)
    }

    fn slice_text(&self, x: Text, from: NodeId, op: &Slice) -> Text {
        if op.ranges.is_empty() {
            return x;
        }
        if let [range] = &op.ranges[..]
            && range.stride == -1
            && range.size == self.view.shape(from)[range.dim]
            && range.start == &range.size - &Dim::ONE
        {
            return call("flip", &[x.text, format!("along: {}", range.dim)]);
        }
        if op.ranges.iter().all(|range| range.stride == 1) {
            return self.index_text(x, from, op, false);
        }
        let dims: Vec<usize> = op.ranges.iter().map(|range| range.dim).collect();
        let texts = |of: &dyn Fn(&thalweg_tensor::ops::SliceRange) -> String| {
            one_or_list(&op.ranges.iter().map(of).collect::<Vec<_>>())
        };
        let mut args = vec![
            x.text,
            texts(&|range| size(&range.start).text),
            texts(&|range| size(&range.size).text),
            texts(&|range| range.stride.to_string()),
        ];
        args.extend((dims != [0]).then(|| format!("along: {}", one_or_list(&dims))));
        call("slice", &args)
    }

    /// `x[.., 2..5]`; with `single`, a range of one position is `x[.., 2]`, without its dim.
    fn index_text(&self, x: Text, from: NodeId, op: &Slice, single: bool) -> Text {
        let whole = self.view.shape(from);
        let last = op.ranges.last().map_or(0, |range| range.dim + 1);
        let mut items = vec!["..".to_string(); last];
        for range in &op.ranges {
            let end = &range.start + &range.size;
            let start = if range.start == Dim::default() { String::new() } else { size(&range.start).text };
            let until = if end == whole[range.dim] { String::new() } else { size(&end).text };
            items[range.dim] = match single && range.size == Dim::ONE && whole[range.dim] != Dim::ONE {
                true => size(&range.start).text,
                false => format!("{start}..{until}"),
            };
        }
        Text::whole(format!("{}{}", x.at(WHOLE), list(items)))
    }
}

/// A number as it stands beside a tensor, whose dtype it takes.
pub(super) fn bare(known: &Known) -> Text {
    match known {
        Known::Number(value, dtype) => number(*value, *dtype).expect("only what can be said is known"),
        Known::Size(dim) => size(dim),
    }
}

/// A number as a tensor of its own.
fn known_text(known: &form::Known, dims: &[Dim], dtype: DType) -> Text {
    let text = bare(known).text;
    if dims.is_empty() {
        return call("convert", &[text, dtype.to_string()]);
    }
    let value = match known {
        Known::Number(value, _) => Some(*value),
        Known::Size(_) => None,
    };
    let mut args = vec![shape(dims)];
    let name = match value {
        Some(value) if value == Scalar::zero(dtype) => "zeros",
        Some(value) if value == Scalar::one(dtype) => "ones",
        Some(_) => {
            args.push(text);
            "full"
        }
        None => return call("broadcast", &[format!("convert({text}, {dtype})"), shape(dims)]),
    };
    args.extend((dtype != DType::F32).then(|| dtype.to_string()));
    call(name, &args)
}

fn reduce_name(function: ReduceFn) -> &'static str {
    match function {
        ReduceFn::Sum => "sum",
        ReduceFn::Prod => "prod",
        ReduceFn::Max => "max",
        ReduceFn::Min => "min",
    }
}

fn scalar_function(function: F, dtype: DType, args: &[Text]) -> Text {
    let infix = |symbol: &str, power: u8| {
        // A chain of comparisons is none, and operators of one power group to the left.
        let left = args[0].at(if power == COMPARE { COMPARE + 1 } else { power });
        Text { text: format!("{left} {symbol} {}", args[1].at(power + 1)), power }
    };
    let prefix = |symbol: &str| Text { text: format!("{symbol}{}", args[0].at(PREFIX)), power: PREFIX };
    let named = |name: &str| call(name, &args.iter().map(|arg| arg.text.clone()).collect::<Vec<_>>());
    let logical = dtype == DType::Bool;
    match function {
        F::Neg => prefix("-"),
        F::Not => prefix("!"),
        F::Add => infix("+", SUM),
        F::Sub => infix("-", SUM),
        F::Mul => infix("*", PRODUCT),
        F::Div => infix("/", PRODUCT),
        F::Rem => infix("%", PRODUCT),
        F::Pow => Text { text: format!("{} ** {}", args[0].at(WHOLE), args[1].at(WHOLE)), power: PREFIX + 1 },
        F::Eq => infix("==", COMPARE),
        F::Ne => infix("!=", COMPARE),
        F::Lt => infix("<", COMPARE),
        F::Le => infix("<=", COMPARE),
        F::Gt => infix(">", COMPARE),
        F::Ge => infix(">=", COMPARE),
        F::And if logical => infix("&&", 2),
        F::Or if logical => infix("||", 1),
        F::And => named("bit_and"),
        F::Or => named("bit_or"),
        F::Xor => named("bit_xor"),
        F::Max => named("maximum"),
        F::Min => named("minimum"),
        F::Abs | F::Sign | F::Exp | F::Expm1 | F::Log | F::Log1p | F::Sqrt | F::Rsqrt | F::Sin | F::Cos => {
            named(function.name())
        }
        F::Tanh | F::Erf | F::Floor | F::Ceil | F::Round | F::ShiftLeft | F::ShiftRight => {
            named(function.name())
        }
        F::Select | F::MulAdd => named(function.name()),
    }
}

/// `x @ w` where that is what it is, else `einsum`.
fn contract_text(op: &Contract, x: &Text, w: &Text) -> Text {
    let (lhs, rhs, out): (Vec<char>, Vec<char>, Vec<char>) =
        (op.lhs.chars().collect(), op.rhs.chars().collect(), op.out.chars().collect());
    let product = match (&lhs[..], &rhs[..]) {
        ([free @ .., k], [row]) => k == row && out == free,
        ([free @ .., k], [lead @ .., row, column]) => {
            let shared = lead.is_empty() || (free.len() == lead.len() + 1 && free.starts_with(lead));
            let fits = k == row && shared && !lhs.contains(column);
            fits && out.split_last().is_some_and(|(last, rest)| last == column && rest == free)
        }
        (_, _) => false,
    };
    if product {
        return Text { text: format!("{} @ {}", x.at(PRODUCT), w.at(PRODUCT + 1)), power: PRODUCT };
    }
    let spaced = |letters: &[char]| letters.iter().map(char::to_string).collect::<Vec<_>>().join(" ");
    let pattern = format!("{}, {} -> {}", spaced(&lhs), spaced(&rhs), spaced(&out));
    call("einsum", &[format!("\"{}\"", pattern.trim()), x.text.clone(), w.text.clone()])
}

/// `name: value`, unless every value is the default.
fn counts(name: &str, values: &[usize], default: usize) -> Option<String> {
    if values.iter().all(|value| *value == default) {
        return None;
    }
    let same = values.iter().all(|value| *value == values[0]);
    Some(format!("{name}: {}", if same { values[0].to_string() } else { list(values) }))
}

fn convolve_text(op: &Convolve, mut args: Vec<String>) -> Text {
    let name = match op.direction {
        Direction::Forward => "convolve",
        Direction::InputGradient => "convolve_input",
        Direction::WeightGradient => "convolve_weight",
    };
    if op.direction != Direction::Forward {
        args.push(shape(&op.sizes));
    }
    args.extend(counts("stride", &op.stride, 1));
    args.extend(counts("dilation", &op.dilation, 1));
    args.extend(counts("low", &op.pad_low, 0));
    args.extend(counts("high", &op.pad_high, 0));
    args.extend((op.groups != 1).then(|| format!("groups: {}", op.groups)));
    call(name, &args)
}

/// The arguments of windows over the last of `rank` dims, or those that they name.
fn window_args(windows: &[Window], rank: usize, into: Option<&[Dim]>, args: &mut Vec<String>) {
    let of = |field: fn(&Window) -> usize| windows.iter().map(field).collect::<Vec<_>>();
    let dims = of(|window| window.dim);
    args.push(one_or_list(&of(|window| window.size)));
    args.extend(into.map(|sizes| one_or_list(&sizes.iter().map(|dim| size(dim).text).collect::<Vec<_>>())));
    args.extend(counts("stride", &of(|window| window.stride), 1));
    args.extend(counts("dilation", &of(|window| window.dilation), 1));
    args.extend(counts("low", &of(|window| window.low), 0));
    args.extend(counts("high", &of(|window| window.high), 0));
    let last = dims.iter().copied().eq(rank - dims.len()..rank);
    args.extend((!last).then(|| format!("along: {}", one_or_list(&dims))));
}

/// What added positions hold, unless it is 0.
fn fill(op: &'static str, value: Scalar, dtype: DType) -> Written<Option<String>> {
    let value = value.convert(dtype);
    if value == Scalar::zero(dtype) {
        return Ok(None);
    }
    let text = number(value, dtype).ok_or(WriteError::Number { op })?;
    Ok(Some(format!("value: {}", text.text)))
}

fn pad_text(x: Text, op: &Pad, rank: usize, dtype: DType) -> Written<Text> {
    if op.dims.is_empty() {
        return Ok(x);
    }
    let dims: Vec<usize> = op.dims.iter().map(|dim| dim.dim).collect();
    let amounts = |name: &str, of: &dyn Fn(&thalweg_tensor::ops::PadDim) -> Dim| {
        let sizes: Vec<Dim> = op.dims.iter().map(of).collect();
        let none = sizes.iter().all(|size| *size == Dim::default());
        let same = sizes.iter().all(|size| *size == sizes[0]);
        let text = if same { size(&sizes[0]).text } else { shape(&sizes) };
        (!none).then(|| format!("{name}: {text}"))
    };
    let mut args = vec![x.text];
    args.extend((dims != [rank - 1]).then(|| format!("along: {}", one_or_list(&dims))));
    args.extend(amounts("low", &|dim| dim.low.clone()));
    args.extend(amounts("high", &|dim| dim.high.clone()));
    args.extend(fill("pad", op.value, dtype)?);
    args.extend(amounts("between", &|dim| Dim::from(dim.interior)));
    Ok(call("pad", &args))
}

fn dynamic(
    name: &str,
    mut args: Vec<String>,
    dims: &[usize],
    starts: &[String],
    sizes: Option<&[String]>,
) -> Text {
    args.push(one_or_list(starts));
    args.extend(sizes.map(one_or_list));
    if dims != [0] {
        args.push(format!("along: {}", one_or_list(dims)));
    }
    call(name, &args)
}
