//! What moves values around: dtypes, shapes, orders of dims, joins and equal parts.

use super::{Builtin, Call};
use crate::check::annotation::dim_words;
use crate::check::value::{DimInfo, Tensor, Value};
use crate::check::{Checked, Elaborator};
use thalweg_base::{DType, Diagnostic, Dim, dim};
use thalweg_tensor::ops::*;

macro_rules! rows {
    ($($name:literal $run:expr, $params:expr, $doc:literal;)*) => {
        pub(super) const TABLE: &[Builtin] = &[$(Builtin { name: $name, params: $params, doc: $doc, run: $run },)*];
    };
}

rows! {
    "convert" convert, &["x", "dtype"], "the same values in another dtype";
    "reshape" reshape, &["x", "shape"], "the same elements in row-major order under another shape; one size may be -1";
    "broadcast" broadcast, &["x", "shape", "at?"],
        "values repeated along missing leading dims and dims of size 1; with `at`, those of x become the dims of these numbers";
    "transpose" transpose, &["x", "order*?"], "dims in another order; the last two swapped if none is given";
    "concat" concat, &["parts", "along@?"], "tensors one after the other along a dim";
    "stack" stack, &["parts", "at?"], "tensors of one shape side by side along a new dim, the first if not said";
    "split" split, &["x", "into?", "along@?", "sizes?"], "equal parts of a dim, or parts of given sizes: a list";
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
    if call.value("at").is_some() {
        return broadcast_at(elab, call, &x, shape);
    }
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

/// A broadcast that says where each dim goes.
fn broadcast_at(elab: &mut Elaborator<'_>, call: &Call, x: &Tensor, shape: Vec<Dim>) -> Checked<Value> {
    let at = match &call.value("at").expect("it was given").value {
        Value::List(values) => values.iter().map(Value::as_int).collect(),
        value => value.as_int().map(|at| vec![at]),
    };
    let at: Option<Vec<usize>> =
        at.and_then(|at: Vec<i64>| at.into_iter().map(|at| usize::try_from(at).ok()).collect());
    let Some(at) = at else { return call.wrong(elab, "at", "a list of numbers of dims") };
    let origin = Some(call.place("shape"));
    let dims = shape.iter().map(|_| DimInfo { name: None, origin }).collect();
    tensor(elab.tensor(Broadcast { shape, dims: at }, &[x], dims, call.span))
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
pub(super) fn same_but(
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
