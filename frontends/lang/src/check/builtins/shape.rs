//! What moves values around: shapes, parts, joins, choices by index, windows and convolution.

use super::{Builtin, Call};
use crate::check::annotation::dim_words;
use crate::check::value::{DimInfo, Tensor, Value};
use crate::check::{Checked, Elaborator};
use thalweg_base::{DType, Diagnostic, Dim, Scalar, dim};
use thalweg_tensor::ops::*;

macro_rules! rows {
    ($($name:literal $run:expr, $params:expr, $doc:literal;)*) => {
        pub(super) const TABLE: &[Builtin] = &[$(Builtin { name: $name, params: $params, doc: $doc, run: $run },)*];
    };
}

rows! {
    "convert" convert, &["x", "dtype"], "the same values in another dtype";
    "reshape" reshape, &["x", "shape"], "the same elements in row-major order under another shape; one size may be -1";
    "broadcast" broadcast, &["x", "shape"], "values repeated along missing leading dims and dims of size 1";
    "transpose" transpose, &["x", "order*?"], "dims in another order; the last two swapped if none is given";
    "concat" concat, &["parts", "along@?"], "tensors one after the other along a dim";
    "stack" stack, &["parts", "at?"], "tensors of one shape side by side along a new dim, the first if not said";
    "split" split, &["x", "into?", "along@?", "sizes?"], "equal parts of a dim, or parts of given sizes: a list";
    "pad" pad, &["x", "along@?", "low?", "high?", "value?"], "positions added before and after";
    "flip" flip, &["x", "along@?"], "a dim in reverse";
    "take" take, &["x", "indices", "along@?", "batch?"], "positions of a dim chosen by integers; the first `batch` dims are shared";
    "scatter" scatter, &["indices", "updates", "size", "along@?", "batch?"], "zeros with updates added at positions of a dim chosen by integers";
    "dynamic_slice" dynamic_slice, &["x", "start", "size", "along@?"], "positions from a computed start";
    "dynamic_update" dynamic_update, &["x", "part", "start", "along@?"], "x with a part replaced from a computed start";
    "windows" windows, &["x", "size", "stride?", "dilation?", "low?", "high?", "value?"],
        "sliding windows over the last dims, whose positions become new dims at the end";
    "convolve" convolve, &["x", "w", "stride?", "dilation?", "low?", "high?", "groups?"],
        "x [batch, in, ..] with w [out, in / groups, ..], zeros around";
}

fn tensor(result: Checked<Tensor>) -> Checked<Value> {
    result.map(Value::Tensor)
}

fn convert(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let dtype = call.dtype(elab, "dtype", DType::F32)?;
    if let Some(value @ (Value::Int(_) | Value::Float(_) | Value::Bool(_))) =
        call.value("x").map(|given| given.value.clone())
    {
        return tensor(elab.literal(&value, dtype, call.place("x")));
    }
    let x = call.tensor(elab, "x")?;
    tensor(elab.convert(&x, dtype, call.span))
}

fn reshape(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let given = call.value("shape").expect("it is needed").clone();
    let Value::List(values) = &given.value else { return call.wrong(elab, "shape", "a list of sizes") };
    let holes: Vec<usize> = (0..values.len()).filter(|at| values[*at].as_int() == Some(-1)).collect();
    let total = x.ty.elements();
    let mut shape = Vec::new();
    for value in values.iter() {
        let Value::Int(size) = value else { return call.wrong(elab, "shape", "a list of sizes") };
        shape.push(if size.as_constant() == Some(-1) { Dim::ONE } else { size.clone() });
    }
    if holes.len() > 1 || shape.iter().any(|size| size.as_constant().is_some_and(|size| size < 0)) {
        return elab.error("E0209", "at most one size of a shape is -1", given.span, "the others are counts");
    }
    let written = dim::product(&shape);
    if let [hole] = holes[..] {
        match total.exact_div(&written) {
            Some(rest) => shape[hole] = rest,
            None => {
                let message = format!("{total} elements do not come in groups of {written}");
                return elab.error("E0209", message, given.span, format!("for {}", x.describe()));
            }
        }
    } else if written != total {
        let error = Diagnostic::error("E0209", format!("{total} elements do not fit a shape of {written}"))
            .at(given.span, format!("this shape has {written} elements"))
            .label(call.place("x"), format!("this is {}, which has {total}", x.describe()));
        return Err(elab.fail(error));
    }
    let origin = Some(given.span);
    let dims = shape.iter().map(|_| DimInfo { name: None, origin }).collect();
    tensor(elab.reshape(&x, shape, dims, call.span))
}

fn broadcast(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let shape = call.shape(elab, "shape")?;
    let span = call.place("shape");
    let fits = shape.len() >= x.rank()
        && x.ty.shape.iter().rev().zip(shape.iter().rev()).all(|(own, to)| own == to || *own == Dim::ONE);
    if !fits {
        let error = Diagnostic::error("E0202", format!("{} does not repeat over this shape", x.describe()))
            .at(span, "the shape asked for")
            .help("only missing leading dims and dims of size 1 repeat");
        return Err(elab.fail(error));
    }
    let dims = shape.iter().map(|_| DimInfo { name: None, origin: Some(span) }).collect();
    tensor(elab.expand(&x, &shape, dims, call.span))
}

fn transpose(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let mut perm: Vec<usize> = (0..x.rank()).collect();
    match &call.axes[call.slot("order")] {
        Some((axes, span)) => {
            perm.clear();
            for axis in axes {
                perm.push(elab.resolve_axis(axis, &x, *span)?);
            }
        }
        None if x.rank() >= 2 => perm.swap(x.rank() - 2, x.rank() - 1),
        None => {}
    }
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if sorted != (0..x.rank()).collect::<Vec<_>>() {
        let message = format!("an order names each of the {} dims once", x.rank());
        return elab.error("E0209", message, call.place("order"), format!("for {}", x.describe()));
    }
    let dims = perm.iter().map(|dim| x.dims[*dim].clone()).collect();
    tensor(elab.tensor(Transpose { perm }, &[&x], dims, call.span))
}

/// Dtypes and all sizes but that of `dim` must agree.
fn same_but(
    elab: &mut Elaborator<'_>,
    call: &Call,
    place: &str,
    parts: &[Tensor],
    dim: Option<usize>,
) -> Checked<()> {
    let first = &parts[0];
    for (index, part) in parts.iter().enumerate().skip(1) {
        let nth = index + 1;
        let what = if part.ty.dtype != first.ty.dtype {
            format!("part 1 is {} and part {nth} is {}", first.ty.dtype, part.ty.dtype)
        } else if part.rank() != first.rank() {
            format!("part 1 is {} and part {nth} is {}", first.describe(), part.describe())
        } else {
            let odd =
                (0..first.rank()).find(|at| Some(*at) != dim && first.ty.shape[*at] != part.ty.shape[*at]);
            let Some(at) = odd else { continue };
            let words = dim_words(at, first.rank());
            let (a, b) = (&first.ty.shape[at], &part.ty.shape[at]);
            let mut error = Diagnostic::error(
                "E0209",
                format!("the parts of `{}` do not fit together", call.builtin.name),
            )
            .at(call.place(place), format!("{words} of part 1 is {a}, of part {nth} it is {b}"));
            for (part, size) in [(first, a), (part, b)] {
                if let Some(origin) = part.dims[at].origin {
                    error = error.label(origin, format!("{size} comes from here"));
                }
            }
            return Err(elab.fail(error));
        };
        let message = format!("the parts of `{}` do not fit together", call.builtin.name);
        return elab.error("E0209", message, call.place(place), what);
    }
    Ok(())
}

fn concat(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let parts = call.tensors(elab, "parts")?;
    let dim = call.axis(elab, "along", &parts[0])?;
    same_but(elab, call, "parts", &parts, Some(dim))?;
    let mut dims = parts[0].dims.clone();
    dims[dim].origin = Some(call.span);
    tensor(elab.tensor(Concat { dim }, &parts.iter().collect::<Vec<_>>(), dims, call.span))
}

fn stack(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let parts = call.tensors(elab, "parts")?;
    same_but(elab, call, "parts", &parts, None)?;
    let rank = parts[0].rank() as i64;
    let at = call.int(elab, "at", 0)?;
    let at = if at < 0 { at + rank + 1 } else { at };
    if !(0..=rank).contains(&at) {
        return elab.error(
            "E0207",
            "there is no such place for a new dim",
            call.place("at"),
            format!("0 to {rank}"),
        );
    }
    let at = at as usize;
    let mut dims = parts[0].dims.clone();
    dims.insert(at, DimInfo { name: None, origin: Some(call.span) });
    let mut rows = Vec::new();
    for part in &parts {
        let mut shape = part.ty.shape.clone();
        shape.insert(at, Dim::ONE);
        rows.push(elab.reshape(part, shape, dims.clone(), call.span)?);
    }
    tensor(elab.tensor(Concat { dim: at }, &rows.iter().collect::<Vec<_>>(), dims, call.span))
}

fn split(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let dim = call.axis(elab, "along", &x)?;
    let whole = x.ty.shape[dim].clone();
    let sizes: Vec<Dim> = match (call.value("into").is_some(), call.value("sizes").is_some()) {
        (true, false) => {
            let count = call.int(elab, "into", 1)?;
            if !(1..=10_000).contains(&count) {
                return elab.error(
                    "E0209",
                    "a number of parts is positive",
                    call.place("into"),
                    format!("this is {count}"),
                );
            }
            match whole.exact_div(&Dim::constant(count)) {
                Some(part) => vec![part; count as usize],
                None => {
                    let mut error =
                        Diagnostic::error("E0209", format!("{whole} does not come in {count} equal parts"))
                            .at(call.place("into"), format!("{} is {whole}", dim_words(dim, x.rank())));
                    if let Some(origin) = x.dims[dim].origin {
                        error = error.label(origin, format!("{whole} comes from here"));
                    }
                    return Err(elab.fail(error));
                }
            }
        }
        (false, true) => call.shape(elab, "sizes")?,
        (_, _) => {
            return elab.error(
                "E0106",
                "`split` needs `into` or `sizes`, one of them",
                call.span,
                "into how many parts?",
            );
        }
    };
    let total = sizes.iter().fold(Dim::default(), |sum, size| &sum + size);
    if total != whole {
        let message = format!("parts of {total} in all do not make {whole}");
        return elab.error(
            "E0209",
            message,
            call.place("sizes"),
            format!("{} is {whole}", dim_words(dim, x.rank())),
        );
    }
    let mut start = Dim::default();
    let mut parts = Vec::new();
    for size in sizes {
        let range = SliceRange { dim, start: start.clone(), size: size.clone(), stride: 1 };
        let mut dims = x.dims.clone();
        dims[dim].origin = Some(call.span);
        parts.push(Value::Tensor(elab.tensor(Slice { ranges: vec![range] }, &[&x], dims, call.span)?));
        start = &start + &size;
    }
    Ok(Value::list(parts))
}

fn count(elab: &mut Elaborator<'_>, call: &Call, name: &str, default: i64) -> Checked<usize> {
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
    let dim = call.axis(elab, "along", &x)?;
    let (low, high) = (count(elab, call, "low", 0)?.into(), count(elab, call, "high", 0)?.into());
    let value = call.float(elab, "value", 0.0)?;
    let value = if x.ty.dtype.is_float() {
        Scalar::Float(value)
    } else {
        Scalar::Int(value as i128).convert(x.ty.dtype)
    };
    let dims = vec![PadDim { dim, low, high, interior: 0 }];
    let mut infos = x.dims.clone();
    infos[dim].origin = Some(call.span);
    tensor(elab.tensor(Pad { dims, value }, &[&x], infos, call.span))
}

fn flip(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let dim = call.axis(elab, "along", &x)?;
    let size = x.ty.shape[dim].clone();
    let range = SliceRange { dim, start: &size - &Dim::ONE, size, stride: -1 };
    let dims = x.dims.clone();
    tensor(elab.tensor(Slice { ranges: vec![range] }, &[&x], dims, call.span))
}

fn integers(elab: &mut Elaborator<'_>, call: &Call, name: &str) -> Checked<Tensor> {
    let given = call.value(name).expect("it is needed").clone();
    if let Value::Int(_) = given.value {
        return elab.literal(&given.value, DType::I32, given.span);
    }
    let tensor = call.tensor(elab, name)?;
    match tensor.ty.dtype.is_integer() {
        true => Ok(tensor),
        false => {
            let error = Diagnostic::error(
                "E0301",
                format!("`{name}` of `{}` must be integers, not {}", call.builtin.name, tensor.ty.dtype),
            )
            .at(given.span, format!("this is {}", tensor.describe()))
            .help("write `convert(x, i32)`");
            Err(elab.fail(error))
        }
    }
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
        Some(_) => call.axis(elab, "along", &updates)?,
        None => batch,
    };
    tensor(elab.tensor(Scatter { dim, batch, size }, &[&indices, &updates], vec![], call.span))
}

fn dynamic_slice(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let (x, start) = (call.tensor(elab, "x")?, integers(elab, call, "start")?);
    let Value::Int(size) = call.value("size").expect("it is needed").value.clone() else {
        return call.wrong(elab, "size", "a size");
    };
    let dim = match call.axes[call.slot("along")] {
        Some(_) => call.axis(elab, "along", &x)?,
        None => 0,
    };
    let mut dims = x.dims.clone();
    if let Some(info) = dims.get_mut(dim) {
        info.origin = Some(call.place("size"));
    }
    tensor(elab.tensor(DynamicSlice { dims: vec![dim], sizes: vec![size] }, &[&x, &start], dims, call.span))
}

fn dynamic_update(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let (x, part) = (call.tensor(elab, "x")?, call.tensor(elab, "part")?);
    let start = integers(elab, call, "start")?;
    let dim = match call.axes[call.slot("along")] {
        Some(_) => call.axis(elab, "along", &x)?,
        None => 0,
    };
    same_but(elab, call, "part", &[x.clone(), part.clone()], Some(dim))?;
    let dims = x.dims.clone();
    tensor(elab.tensor(DynamicUpdate { dims: vec![dim] }, &[&x, &part, &start], dims, call.span))
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

fn windows(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let number = match &call.value("size").expect("it is needed").value {
        Value::List(values) => values.len(),
        _ => 1,
    };
    if number > x.rank() {
        return call.wrong(elab, "size", &format!("a list of at most {} sizes", x.rank()));
    }
    let size = counts(elab, call, "size", number, 1)?;
    let (stride, dilation) =
        (counts(elab, call, "stride", number, 1)?, counts(elab, call, "dilation", number, 1)?);
    let (low, high) = (counts(elab, call, "low", number, 0)?, counts(elab, call, "high", number, 0)?);
    let value = call.float(elab, "value", 0.0)?;
    let value =
        if x.ty.dtype.is_float() { Scalar::Float(value) } else { Scalar::Float(value).convert(x.ty.dtype) };
    let first = x.rank() - number;
    let mut dims = x.dims.clone();
    let mut list = Vec::new();
    for at in 0..number {
        let dim = first + at;
        let window = Window {
            dim,
            size: size[at],
            stride: stride[at],
            dilation: dilation[at],
            low: low[at],
            high: high[at],
        };
        if window.count(&x.ty.shape[dim]).as_constant().is_some_and(|count| count < 1) {
            return Err(window_clash(elab, call, &x, dim, "size"));
        }
        dims[dim].origin = Some(call.span);
        list.push(window);
    }
    tensor(elab.tensor(Unfold { windows: list, value }, &[&x], dims, call.span))
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
    let op = Convolve {
        direction: Direction::Forward,
        stride: counts(elab, call, "stride", number, 1)?,
        dilation: counts(elab, call, "dilation", number, 1)?,
        pad_low: counts(elab, call, "low", number, 0)?,
        pad_high: counts(elab, call, "high", number, 0)?,
        groups,
        sizes: vec![],
    };
    for at in 0..number {
        let kernel = w.ty.shape[at + 2]
            .as_constant()
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| *size > 0);
        let Some(size) = kernel else { return call.wrong(elab, "w", "a tensor whose window is known") };
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
