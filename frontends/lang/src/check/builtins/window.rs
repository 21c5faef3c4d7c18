//! Sliding windows, their sums, and convolution with its two transposes.

use super::part::count;
use super::{Builtin, Call};
use crate::check::annotation::dim_words;
use crate::check::value::{DimInfo, Tensor, Value};
use crate::check::{Checked, Elaborator};
use thalweg_base::{Diagnostic, Dim};
use thalweg_tensor::ops::*;

macro_rules! rows {
    ($($name:literal $run:expr, $params:expr, $doc:literal;)*) => {
        pub(super) const TABLE: &[Builtin] = &[$(Builtin { name: $name, params: $params, doc: $doc, run: $run },)*];
    };
}

rows! {
    "windows" windows, &["x", "size", "stride?", "dilation?", "low?", "high?", "value?", "along*?"],
        "sliding windows over the last dims, or those of `along`, whose positions become new dims at the end";
    "fold" fold, &["x", "size", "into", "stride?", "dilation?", "low?", "high?", "along*?"],
        "sums of overlapping windows, what `windows` would give transposed; `into` are the sizes of the dims in the result";
    "convolve" convolve, &["x", "w", "stride?", "dilation?", "low?", "high?", "groups?"],
        "x [batch, in, ..] with w [out, in / groups, ..], zeros around";
    "convolve_input" |elab, call| transposed(elab, call, Direction::InputGradient),
        &["w", "y", "size", "stride?", "dilation?", "low?", "high?", "groups?"],
        "the transposed convolution: y [batch, out, ..] carried back by w to [batch, in, ..] of that spatial size";
    "convolve_weight" |elab, call| transposed(elab, call, Direction::WeightGradient),
        &["x", "y", "size", "stride?", "dilation?", "low?", "high?", "groups?"],
        "the sum of products of x and y over all that a window of that size joins: the gradient of `convolve` for its weights";
}

fn tensor(result: Checked<Tensor>) -> Checked<Value> {
    result.map(Value::Tensor)
}

/// One count for each of `count` dims, given as a list or as one number for all.
fn counts(
    elab: &mut Elaborator<'_>,
    call: &Call,
    name: &str,
    number: usize,
    default: i64,
) -> Checked<Vec<usize>> {
    let values: Vec<Value> = match call.value(name).map(|given| given.value.clone()) {
        None => vec![Value::int(default); number],
        Some(Value::List(values)) => values.to_vec(),
        Some(value) => vec![value; number],
    };
    let counts: Option<Vec<usize>> = values
        .iter()
        .map(|value| {
            value.as_int().and_then(|value| usize::try_from(value).ok()).filter(|value| *value < 1 << 31)
        })
        .collect();
    match counts
        .filter(|counts| counts.len() == number && (default == 0 || counts.iter().all(|count| *count > 0)))
    {
        Some(counts) => Ok(counts),
        None => call.wrong(elab, name, &format!("a count for each of {number} dims")),
    }
}

/// The windows of a call, over dims of a tensor of `rank` dims.
fn window_list(elab: &mut Elaborator<'_>, call: &Call, x: &Tensor, rank: usize) -> Checked<Vec<Window>> {
    let number = match &call.value("size").expect("it is needed").value {
        Value::List(values) => values.len(),
        _ => 1,
    };
    if number > rank {
        return call.wrong(elab, "size", &format!("a list of at most {rank} sizes"));
    }
    let dims = match call.axes(elab, "along", x)? {
        Some(dims) if dims.len() == number && dims.iter().all(|dim| *dim < rank) => dims,
        Some(_) => {
            let message = format!("a size of a window for each of {number} dims");
            return elab.error("E0207", message, call.place("along"), "other dims are given");
        }
        None => (rank - number..rank).collect(),
    };
    let size = counts(elab, call, "size", number, 1)?;
    let (stride, dilation) =
        (counts(elab, call, "stride", number, 1)?, counts(elab, call, "dilation", number, 1)?);
    let (low, high) = (counts(elab, call, "low", number, 0)?, counts(elab, call, "high", number, 0)?);
    let window = |at: usize| Window {
        dim: dims[at],
        size: size[at],
        stride: stride[at],
        dilation: dilation[at],
        low: low[at],
        high: high[at],
    };
    Ok((0..number).map(window).collect())
}

fn windows(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let windows = window_list(elab, call, &x, x.rank())?;
    let value = call.scalar(elab, "value", x.ty.dtype)?;
    let mut dims = x.dims.clone();
    for window in &windows {
        if window.count(&x.ty.shape[window.dim]).as_constant().is_some_and(|count| count < 1) {
            return Err(window_clash(elab, call, &x, window.dim, "size"));
        }
        dims[window.dim].origin = Some(call.span);
    }
    tensor(elab.tensor(Unfold { windows, value }, &[&x], dims, call.span))
}

fn fold(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let number = match &call.value("size").expect("it is needed").value {
        Value::List(values) => values.len(),
        _ => 1,
    };
    let Some(rank) = x.rank().checked_sub(number) else {
        return call.wrong(elab, "size", "a list with a size for each of the last dims");
    };
    let windows = window_list(elab, call, &x, rank)?;
    let sizes = call.shape(elab, "into")?;
    let mut dims = x.dims[..rank].to_vec();
    windows.iter().for_each(|window| dims[window.dim].origin = Some(call.place("into")));
    tensor(elab.tensor(Fold { windows, sizes }, &[&x], dims, call.span))
}

fn window_clash(
    elab: &mut Elaborator<'_>,
    call: &Call,
    x: &Tensor,
    dim: usize,
    window: &str,
) -> crate::check::Reported {
    let whole = &x.ty.shape[dim];
    let mut error = Diagnostic::error(
        "E0209",
        format!("the window does not fit {} of {whole}", dim_words(dim, x.rank())),
    )
    .at(call.place(window), "larger than the dim and its padding");
    if let Some(origin) = x.dims[dim].origin {
        error = error.label(origin, format!("{whole} comes from here"));
    }
    elab.fail(error)
}

/// The attributes of a convolution over `number` dims.
fn attributes(
    elab: &mut Elaborator<'_>,
    call: &Call,
    direction: Direction,
    number: usize,
    sizes: Vec<Dim>,
) -> Checked<Convolve> {
    Ok(Convolve {
        direction,
        stride: counts(elab, call, "stride", number, 1)?,
        dilation: counts(elab, call, "dilation", number, 1)?,
        pad_low: counts(elab, call, "low", number, 0)?,
        pad_high: counts(elab, call, "high", number, 0)?,
        groups: count(elab, call, "groups", 1)?.max(1),
        sizes,
    })
}

fn convolve(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let (x, w) = (call.tensor(elab, "x")?, call.tensor(elab, "w")?);
    if x.rank() < 3 || w.rank() != x.rank() {
        let label = format!("x is {}, w is {}", x.describe(), w.describe());
        return elab.error(
            "E0205",
            "`convolve` takes x [batch, in, ..s] and w [out, in, ..k] with as many dims",
            call.span,
            label,
        );
    }
    let groups = count(elab, call, "groups", 1)?.max(1);
    let inner = &w.ty.shape[1] * &Dim::from(groups);
    if inner != x.ty.shape[1] {
        let mut error = Diagnostic::error("E0203", "channels do not agree in `convolve`")
            .at(call.span, format!("{} channels with weights for {inner}", x.ty.shape[1]));
        for (tensor, what) in [(&x, "x"), (&w, "w")] {
            if let Some(origin) = tensor.dims[1].origin {
                error =
                    error.label(origin, format!("the second dim of `{what}` is {} here", tensor.ty.shape[1]));
            }
        }
        return Err(elab.fail(error));
    }
    let number = x.rank() - 2;
    let op = attributes(elab, call, Direction::Forward, number, vec![])?;
    for at in 0..number {
        let Some(size) = w.ty.shape[at + 2].as_constant() else { continue };
        let Some(size) = usize::try_from(size).ok().filter(|size| *size > 0) else {
            return call.wrong(elab, "w", "a tensor whose window is not empty");
        };
        let window = Window {
            dim: at + 2,
            size,
            stride: op.stride[at],
            dilation: op.dilation[at],
            low: op.pad_low[at],
            high: op.pad_high[at],
        };
        if window.count(&x.ty.shape[at + 2]).as_constant().is_some_and(|count| count < 1) {
            return Err(window_clash(elab, call, &x, at + 2, "w"));
        }
    }
    let mut dims = x.dims.clone();
    dims[1] = w.dims[0].clone();
    dims[2..].iter_mut().for_each(|info| info.origin = Some(call.span));
    tensor(elab.tensor(op, &[&x, &w], dims, call.span))
}

/// The transpose of a convolution for one of its operands.
fn transposed(elab: &mut Elaborator<'_>, call: &Call, direction: Direction) -> Checked<Value> {
    let first = if direction == Direction::InputGradient { "w" } else { "x" };
    let (a, y) = (call.tensor(elab, first)?, call.tensor(elab, "y")?);
    if a.rank() < 3 || y.rank() != a.rank() {
        let message = format!("`{}` takes tensors of as many dims, at least three", call.builtin.name);
        let label = format!("{first} is {}, y is {}", a.describe(), y.describe());
        return elab.error("E0205", message, call.span, label);
    }
    let number = a.rank() - 2;
    let mut sizes = call.shape(elab, "size")?;
    if sizes.len() == 1 {
        sizes = vec![sizes.remove(0); number];
    }
    let op = attributes(elab, call, direction, number, sizes)?;
    let dims = vec![DimInfo { name: None, origin: Some(call.span) }; a.rank()];
    tensor(elab.tensor(op, &[&a, &y], dims, call.span))
}
