//! Parts of tensors: cut out, padded, chosen by integers, and at places that are computed.

use super::{Builtin, Call};
use crate::check::value::{AxisRef, Tensor, Value};
use crate::check::{Checked, Elaborator};
use thalweg_base::{DType, Diagnostic, Dim, Span};
use thalweg_tensor::ops::*;

macro_rules! rows {
    ($($name:literal $run:expr, $params:expr, $doc:literal;)*) => {
        pub(super) const TABLE: &[Builtin] = &[$(Builtin { name: $name, params: $params, doc: $doc, run: $run },)*];
    };
}

rows! {
    "slice" slice, &["x", "start", "size", "stride?", "along*?"],
        "so many positions from a start on, at a stride that may be negative; of the first dim, or lists for several dims";
    "pad" pad, &["x", "along*?", "low?", "high?", "value?", "between?"],
        "positions added before, after and between each two; of the last dim, or lists for several dims";
    "flip" flip, &["x", "along@?"], "a dim in reverse";
    "take" take, &["x", "indices", "along@?", "batch?"], "positions of a dim chosen by integers; the first `batch` dims are shared";
    "scatter" scatter, &["indices", "updates", "size", "along@?", "batch?"], "zeros with updates added at positions of a dim chosen by integers";
    "dynamic_slice" dynamic_slice, &["x", "start", "size", "along*?"],
        "positions from a computed start; of the first dim, or lists for several dims";
    "dynamic_update" dynamic_update, &["x", "part", "start", "along*?"],
        "x with a part replaced from a computed start, or lists for several dims";
}

fn tensor(result: Checked<Tensor>) -> Checked<Value> {
    result.map(Value::Tensor)
}

/// The dims that `along` names in the order written, `default` if it is left out.
fn along(elab: &mut Elaborator<'_>, call: &Call, x: &Tensor, default: i64) -> Checked<Vec<usize>> {
    let (axes, span) = match &call.axes[call.slot("along")] {
        Some((axes, span)) => (axes.clone(), *span),
        None => (vec![AxisRef::Index(default)], call.span),
    };
    let mut dims = Vec::new();
    for axis in &axes {
        dims.extend(elab.resolve_axes(std::slice::from_ref(axis), x, span)?);
    }
    match (1..dims.len()).any(|at| dims[..at].contains(&dims[at])) {
        true => elab.error("E0207", "a dim is given twice", span, "twice the same dim"),
        false => Ok(dims),
    }
}

/// The places of `dims` in rising order of the dims.
fn rising(dims: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..dims.len()).collect();
    order.sort_by_key(|at| dims[*at]);
    order
}

/// One size for each of `number` dims, given as a list or as one for all.
fn sizes(
    elab: &mut Elaborator<'_>,
    call: &Call,
    name: &str,
    number: usize,
    default: i64,
) -> Checked<Vec<Dim>> {
    let values: Vec<Value> = match call.value(name).map(|given| given.value.clone()) {
        None => vec![Value::int(default); number],
        Some(Value::List(values)) => values.to_vec(),
        Some(value) => vec![value; number],
    };
    let sizes: Option<Vec<Dim>> = values
        .iter()
        .map(|value| if let Value::Int(size) = value { Some(size.clone()) } else { None })
        .collect();
    match sizes.filter(|sizes| sizes.len() == number) {
        Some(sizes) => Ok(sizes),
        None => call.wrong(elab, name, &format!("an integer for each of {number} dims")),
    }
}

fn slice(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let dims = along(elab, call, &x, 0)?;
    let starts = sizes(elab, call, "start", dims.len(), 0)?;
    let counts = sizes(elab, call, "size", dims.len(), 0)?;
    let strides = sizes(elab, call, "stride", dims.len(), 1)?;
    let mut ranges = Vec::new();
    let mut infos = x.dims.clone();
    for at in rising(&dims) {
        let (dim, size) = (dims[at], counts[at].clone());
        let Some(stride) = strides[at].as_constant().filter(|stride| *stride != 0 && stride.abs() < 1 << 31)
        else {
            return call.wrong(elab, "stride", "a known step that is not 0");
        };
        let start = match starts[at].as_constant().is_some_and(|start| start < 0) {
            true => &x.ty.shape[dim] + &starts[at],
            false => starts[at].clone(),
        };
        infos[dim].origin = Some(call.span);
        ranges.push(SliceRange { dim, start, size, stride });
    }
    tensor(elab.tensor(Slice { ranges }, &[&x], infos, call.span))
}

/// A count that is not negative.
pub(super) fn count(elab: &mut Elaborator<'_>, call: &Call, name: &str, default: i64) -> Checked<usize> {
    let value = call.int(elab, name, default)?;
    match (0..=1 << 31).contains(&value) {
        true => Ok(value as usize),
        false => {
            elab.error("E0303", format!("`{name}` is a count"), call.place(name), format!("this is {value}"))
        }
    }
}

fn pad(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let dims = along(elab, call, &x, -1)?;
    let low = sizes(elab, call, "low", dims.len(), 0)?;
    let high = sizes(elab, call, "high", dims.len(), 0)?;
    let between = sizes(elab, call, "between", dims.len(), 0)?;
    for (name, amounts) in [("low", &low), ("high", &high), ("between", &between)] {
        let odd = |size: &Dim| size.as_constant().is_some_and(|size| !(0..=1 << 31).contains(&size));
        if let Some(odd) = amounts.iter().find(|size| odd(size)) {
            let message = format!("`{name}` is a count");
            return elab.error("E0303", message, call.place(name), format!("this is {odd}"));
        }
    }
    let value = call.scalar(elab, "value", x.ty.dtype)?;
    let mut infos = x.dims.clone();
    let mut padded = Vec::new();
    for at in rising(&dims) {
        let Some(interior) = between[at].as_constant() else {
            return call.wrong(elab, "between", "a known count");
        };
        infos[dims[at]].origin = Some(call.span);
        padded.push(PadDim {
            dim: dims[at],
            low: low[at].clone(),
            high: high[at].clone(),
            interior: interior as usize,
        });
    }
    tensor(elab.tensor(Pad { dims: padded, value }, &[&x], infos, call.span))
}

fn flip(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let dim = call.axis(elab, "along", &x)?;
    let size = x.ty.shape[dim].clone();
    let range = SliceRange { dim, start: &size - &Dim::ONE, size, stride: -1 };
    let dims = x.dims.clone();
    tensor(elab.tensor(Slice { ranges: vec![range] }, &[&x], dims, call.span))
}

/// An integer tensor, or a static integer as one.
fn integers(elab: &mut Elaborator<'_>, call: &Call, name: &str) -> Checked<Tensor> {
    let given = call.value(name).expect("it is needed").clone();
    integer(elab, call, name, &given.value, given.span)
}

fn integer(elab: &mut Elaborator<'_>, call: &Call, name: &str, value: &Value, span: Span) -> Checked<Tensor> {
    match value {
        Value::Int(_) => elab.literal(value, DType::I32, span),
        Value::Tensor(tensor) if tensor.ty.dtype.is_integer() => Ok(tensor.clone()),
        Value::Tensor(tensor) => {
            let error = Diagnostic::error(
                "E0301",
                format!("`{name}` of `{}` must be integers, not {}", call.builtin.name, tensor.ty.dtype),
            )
            .at(span, format!("this is {}", tensor.describe()))
            .help("write `convert(x, i32)`");
            Err(elab.fail(error))
        }
        _ => call.wrong(elab, name, "a tensor"),
    }
}

/// The computed start for each of `number` dims.
fn starts(elab: &mut Elaborator<'_>, call: &Call, number: usize) -> Checked<Vec<Tensor>> {
    let given = call.value("start").expect("it is needed").clone();
    let values = match &given.value {
        Value::List(values) => values.to_vec(),
        value => vec![value.clone()],
    };
    if values.len() != number {
        return call.wrong(elab, "start", &format!("a start for each of {number} dims"));
    }
    values.iter().map(|value| integer(elab, call, "start", value, given.span)).collect()
}

fn take(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let indices = integers(elab, call, "indices")?;
    let dim = match call.axes[call.slot("along")] {
        Some(_) => call.axis(elab, "along", &x)?,
        None => 0,
    };
    let batch = count(elab, call, "batch", 0)?;
    tensor(elab.take(&x, &indices, dim, batch, call.span))
}

fn scatter(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let (indices, updates) = (integers(elab, call, "indices")?, call.tensor(elab, "updates")?);
    let Value::Int(size) = call.value("size").expect("it is needed").value.clone() else {
        return call.wrong(elab, "size", "a size");
    };
    let batch = count(elab, call, "batch", 0)?;
    let dim = match &call.axes[call.slot("along")] {
        // A number is that of a dim of the result, which may have one more than the updates.
        Some((axes, _)) => match axes[..] {
            [AxisRef::Index(index)] if index >= 0 => index as usize,
            _ => call.axis(elab, "along", &updates)?,
        },
        None => batch,
    };
    if dim > updates.rank() {
        let message = format!("there is no dim {dim} in the result");
        return elab.error("E0207", message, call.place("along"), format!("for {}", updates.describe()));
    }
    tensor(elab.tensor(Scatter { dim, batch, size }, &[&indices, &updates], vec![], call.span))
}

fn dynamic_slice(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let dims = along(elab, call, &x, 0)?;
    let starts = starts(elab, call, dims.len())?;
    let counts = sizes(elab, call, "size", dims.len(), 0)?;
    let mut infos = x.dims.clone();
    let (mut sorted, mut taken, mut operands) = (Vec::new(), Vec::new(), vec![&x]);
    for at in rising(&dims) {
        infos[dims[at]].origin = Some(call.place("size"));
        sorted.push(dims[at]);
        taken.push(counts[at].clone());
        operands.push(&starts[at]);
    }
    tensor(elab.tensor(DynamicSlice { dims: sorted, sizes: taken }, &operands, infos, call.span))
}

fn dynamic_update(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let (x, part) = (call.tensor(elab, "x")?, call.tensor(elab, "part")?);
    let dims = along(elab, call, &x, 0)?;
    let starts = starts(elab, call, dims.len())?;
    if let [dim] = dims[..] {
        super::shape::same_but(elab, call, "part", &[x.clone(), part.clone()], Some(dim))?;
    }
    let (mut sorted, mut operands) = (Vec::new(), vec![&x, &part]);
    for at in rising(&dims) {
        sorted.push(dims[at]);
        operands.push(&starts[at]);
    }
    let infos = x.dims.clone();
    tensor(elab.tensor(DynamicUpdate { dims: sorted }, &operands, infos, call.span))
}
