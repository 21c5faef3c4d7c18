//! Elements under other shapes, in other orders, one after the other.

use super::Row;
use crate::builder::{Build, Stop, known_size, problem};
use crate::call::{Call, Results, normalize};
use crate::error::Problem;
use crate::value::{Tensor, Value};
use thalweg_base::{DType, Dim, PointwiseFn as F, Scalar, dim::product};
use thalweg_tensor::NodeId;
use thalweg_tensor::ops::{PadDim, SliceRange};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("CenterCropPad", center_crop_pad),
    ("Concat", concat),
    ("DepthToSpace", depth_to_space),
    ("Expand", expand),
    ("Flatten", flatten),
    ("Identity", identity),
    ("Pad", pad),
    ("Reshape", reshape),
    ("ReverseSequence", reverse_sequence),
    ("Slice", slice),
    ("SpaceToDepth", space_to_depth),
    ("Split", split),
    ("Squeeze", squeeze),
    ("Tile", tile),
    ("Transpose", transpose),
    ("Trilu", trilu),
    ("Unsqueeze", unsqueeze),
];

fn identity(call: &mut Call) -> Results {
    Ok(vec![call.value(0)?.clone()])
}

/// The operand as a node, and a way to make a result of its element type.
fn moved(call: &mut Call) -> Build<(NodeId, Tensor)> {
    let tensor = call.tensor(0)?;
    Ok((call.b.node(&tensor)?, tensor))
}

fn result(call: &Call, of: &Tensor, id: NodeId) -> Results {
    Ok(vec![Value::Tensor(Tensor { narrow: of.narrow, ..call.b.tensor(id) })])
}

/// A size of 0 keeps the operand's (unless `allowzero`), one of -1 is what is left.
pub fn reshape_target(own: &[Dim], sizes: &[Dim], allow_zero: bool) -> Build<Vec<Dim>> {
    let mut shape = Vec::new();
    let mut open = None;
    for (at, size) in sizes.iter().enumerate() {
        match size.as_constant() {
            Some(0) if !allow_zero => match own.get(at) {
                Some(size) => shape.push(size.clone()),
                None => return problem(format!("size {at} is to be kept, but there are {} dims", own.len())),
            },
            Some(-1) if open.is_some() => return problem("two sizes are left open"),
            Some(-1) => {
                open = Some(at);
                shape.push(Dim::ONE);
            }
            Some(_) | None => shape.push(size.clone()),
        }
    }
    if let Some(at) = open {
        let (all, rest) = (product(own), product(&shape));
        shape[at] = match (all.as_constant(), rest.as_constant()) {
            (Some(0), Some(0)) => Dim::default(),
            (Some(all), Some(rest)) if rest > 0 && all % rest == 0 => Dim::constant(all / rest),
            (_, _) => all
                .exact_div(&rest)
                .ok_or_else(|| Problem::new(format!("{all} elements do not make {sizes:?}")))?,
        };
    }
    Ok(shape)
}

fn reshape(call: &mut Call) -> Results {
    let (x, tensor) = moved(call)?;
    let sizes = match call.int_list("shape") {
        Some(sizes) => sizes.into_iter().map(Dim::constant).collect(),
        None => call.dims(1)?,
    };
    let shape = reshape_target(&tensor.ty.shape, &sizes, call.flag("allowzero", false))?;
    let y = call.b.reshape(x, &shape)?;
    result(call, &tensor, y)
}

fn flatten(call: &mut Call) -> Results {
    let (x, tensor) = moved(call)?;
    let rank = tensor.rank();
    let axis = call.int_or("axis", 1);
    let axis = if axis == rank as i64 { rank } else { normalize(axis, rank.max(1))? };
    let shape = [product(&tensor.ty.shape[..axis]), product(&tensor.ty.shape[axis..])];
    let y = call.b.reshape(x, &shape)?;
    result(call, &tensor, y)
}

fn squeeze(call: &mut Call) -> Results {
    let (x, tensor) = moved(call)?;
    let axes = call.axes(1, tensor.rank())?;
    let shape = tensor.ty.shape.iter().enumerate();
    let goes = |at: usize, size: &Dim| axes.as_ref().map_or(*size == Dim::ONE, |axes| axes.contains(&at));
    let shape: Vec<Dim> = shape.filter(|(at, size)| !goes(*at, size)).map(|(_, size)| size.clone()).collect();
    let y = call.b.reshape(x, &shape)?;
    result(call, &tensor, y)
}

fn unsqueeze(call: &mut Call) -> Results {
    let (x, tensor) = moved(call)?;
    let count = match call.int_list("axes") {
        Some(axes) => axes.len(),
        None => call.ints(1)?.len(),
    };
    let axes = call.axes(1, tensor.rank() + count)?.unwrap_or_default();
    let y = call.b.unsqueeze(x, &axes)?;
    result(call, &tensor, y)
}

fn transpose(call: &mut Call) -> Results {
    let (x, tensor) = moved(call)?;
    let rank = tensor.rank();
    let perm = match call.int_list("perm") {
        Some(perm) => perm.into_iter().map(|dim| normalize(dim, rank)).collect::<Build<Vec<usize>>>()?,
        None => (0..rank).rev().collect(),
    };
    let y = call.b.transpose(x, &perm)?;
    result(call, &tensor, y)
}

fn concat(call: &mut Call) -> Results {
    let operands = call.all()?;
    let Some(first) = operands.first() else { return problem("there is no operand") };
    // Op sets before 4 have a default.
    let axis = call.axis_or(1, call.b.rank(*first))?;
    let y = call.b.concat(&operands, axis)?;
    call.one(y)
}

fn expand(call: &mut Call) -> Results {
    let (x, tensor) = moved(call)?;
    let sizes = call.dims(1)?;
    let shape = crate::builder::broadcast_shape(&[tensor.ty.shape.clone(), sizes])?;
    let y = call.b.broadcast_to(x, &shape)?;
    result(call, &tensor, y)
}

fn tile(call: &mut Call) -> Results {
    let (x, tensor) = moved(call)?;
    let repeats = call.dims(1)?;
    let shape = tensor.ty.shape.clone();
    if repeats.len() != shape.len() {
        return problem(format!("{} repeats are given for {} dims", repeats.len(), shape.len()));
    }
    // Each dim is repeated as a new one before it, then both are merged.
    let paired: Vec<Dim> =
        repeats.iter().zip(&shape).flat_map(|(n, size)| [n.clone(), size.clone()]).collect();
    let dims: Vec<usize> = (0..shape.len()).map(|dim| 2 * dim + 1).collect();
    let repeated = call.b.broadcast(x, &paired, &dims)?;
    let merged: Vec<Dim> = repeats.iter().zip(&shape).map(|(n, size)| n * size).collect();
    let y = call.b.reshape(repeated, &merged)?;
    result(call, &tensor, y)
}

/// What a slice of Python takes of a dim: the first position and how many.
pub fn python_range(size: i64, start: i64, end: i64, step: i64) -> (i64, i64) {
    let from_start = |position: i64| if position < 0 { position.saturating_add(size) } else { position };
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let start = from_start(start).clamp(low.max(0), high.max(0));
    let end = if end <= i64::MIN + 1 { low } else { from_start(end).clamp(low, high.max(low)) };
    let span = if step > 0 { end - start } else { start - end };
    let step = step.unsigned_abs().min(i64::MAX as u64) as i64;
    let count = if span > 0 { (span - 1) / step + 1 } else { 0 };
    (start, if size == 0 { 0 } else { count })
}

fn slice(call: &mut Call) -> Results {
    let (x, tensor) = moved(call)?;
    let rank = tensor.rank();
    let (starts, ends, steps) = match call.int_list("starts") {
        Some(starts) => {
            let ends = call.int_list("ends").unwrap_or_default();
            (constants(starts), constants(ends), vec![])
        }
        None => (call.dims(1)?, call.dims(2)?, if call.has(4) { call.ints(4)? } else { vec![] }),
    };
    let axes = match call.axes(3, rank)? {
        Some(axes) => axes,
        None => (0..starts.len()).collect(),
    };
    if starts.len() != ends.len() || axes.len() != starts.len() || axes.iter().any(|axis| *axis >= rank) {
        return problem(format!(
            "{} starts, {} ends and {} axes are given",
            starts.len(),
            ends.len(),
            axes.len()
        ));
    }
    let mut ranges = Vec::new();
    for (at, axis) in axes.into_iter().enumerate() {
        let step = steps.get(at).copied().unwrap_or(1);
        if step == 0 {
            return problem("a slice has a step of 0");
        }
        let range = slice_range(&tensor.ty.shape[axis], &starts[at], &ends[at], step)?;
        ranges.push(SliceRange { dim: axis, start: range.0, size: range.1, stride: step });
    }
    ranges.sort_by_key(|range| range.dim);
    let y = call.b.slice(x, ranges)?;
    result(call, &tensor, y)
}

fn constants(values: Vec<i64>) -> Vec<Dim> {
    values.into_iter().map(Dim::constant).collect()
}

/// The first position and the count of a slice, which may hold symbols where it runs forwards.
fn slice_range(size: &Dim, start: &Dim, end: &Dim, step: i64) -> Build<(Dim, Dim)> {
    if let (Some(size), Some(start), Some(end)) = (size.as_constant(), start.as_constant(), end.as_constant())
    {
        let (start, count) = python_range(size, start, end, step);
        return Ok((Dim::constant(start), Dim::constant(count)));
    }
    let from_start = |position: &Dim| match position.as_constant() {
        Some(value) if value < 0 => size + position,
        Some(_) | None => position.clone(),
    };
    // An end far beyond any size is the dim's own.
    let whole = end.as_constant().is_some_and(|end| end >= 1 << 24);
    match step {
        1 => {
            let first = from_start(start);
            let last = if whole { size.clone() } else { from_start(end) };
            let count = &last - &first;
            let fits = count.as_constant().is_none_or(|count| count >= 0);
            if fits { Ok((first, count)) } else { Ok((Dim::default(), Dim::default())) }
        }
        -1 if start.as_constant() == Some(-1)
            && end.as_constant().is_some_and(|end| end <= -i64::from(i32::MAX)) =>
        {
            Ok((size - &Dim::ONE, size.clone()))
        }
        step if step > 0 => {
            let first = from_start(start);
            let last = if whole { size.clone() } else { from_start(end) };
            let span = &(&last - &first) + &Dim::constant(step - 1);
            Ok((first, span.floor_div(step)))
        }
        _ => Err(Stop::Problem(
            Problem::new(format!("the size {size} of a dim that is sliced backwards must be known"))
                .help("bind it with `--set`"),
        )),
    }
}

fn split(call: &mut Call) -> Results {
    let (x, tensor) = moved(call)?;
    let rank = tensor.rank();
    let axis = call.axis_or(0, rank)?;
    let size = tensor.ty.shape[axis].clone();
    let given = match call.int_list("split") {
        Some(sizes) => Some(constants(sizes)),
        None if call.has(1) => Some(call.dims(1)?),
        None => None,
    };
    let parts = call.int("num_outputs").map_or(call.node.output.len() as i64, |parts| parts);
    let sizes = match given {
        Some(sizes) => sizes,
        None if parts <= 0 || parts as usize > call.node.output.len() => {
            return problem(format!("{parts} parts are asked for as {} outputs", call.node.output.len()));
        }
        None => match size.exact_div(&Dim::constant(parts)) {
            Some(each) => vec![each; parts as usize],
            None => {
                // The last part is smaller.
                let (size, parts) = (known_size(&size)? as i64, parts);
                let each = (size + parts - 1) / parts;
                (0..parts).map(|part| Dim::constant((size - part * each).clamp(0, each))).collect()
            }
        },
    };
    let mut start = Dim::default();
    let mut results = Vec::new();
    for part in &sizes {
        let y = call.b.slice_dim(x, axis, start.clone(), part.clone())?;
        results.extend(result(call, &tensor, y)?);
        start = &start + part;
    }
    Ok(results)
}

fn depth_to_space(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let block = call.int_or("blocksize", 0);
    let column_first = call.text_or("mode", "DCR") == "CRD";
    let shape = call.b.shape(x);
    let [n, c, h, w] = &shape[..] else { return problem("an image batch has 4 dims") };
    let (k, square) = (Dim::constant(block), Dim::constant(block.saturating_mul(block)));
    let Some(depth) = c.exact_div(&square).filter(|_| block > 0) else {
        return problem(format!("{c} channels are not blocks of {block} x {block}"));
    };
    let (split, perm) = match column_first {
        false => ([n.clone(), k.clone(), k.clone(), depth.clone(), h.clone(), w.clone()], [0, 3, 4, 1, 5, 2]),
        true => ([n.clone(), depth.clone(), k.clone(), k.clone(), h.clone(), w.clone()], [0, 1, 4, 2, 5, 3]),
    };
    let y = call.b.reshape(x, &split)?;
    let y = call.b.transpose(y, &perm)?;
    let y = call.b.reshape(y, &[n.clone(), depth, h * &k, w * &k])?;
    call.one(y)
}

fn space_to_depth(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let block = call.int_or("blocksize", 0);
    let shape = call.b.shape(x);
    let [n, c, h, w] = &shape[..] else { return problem("an image batch has 4 dims") };
    let k = Dim::constant(block);
    let rows = h.exact_div(&k).zip(w.exact_div(&k)).filter(|_| block > 0);
    let Some((rows, columns)) = rows else {
        return problem(format!("an image of {h} x {w} is not blocks of {block} x {block}"));
    };
    let split = [n.clone(), c.clone(), rows.clone(), k.clone(), columns.clone(), k.clone()];
    let y = call.b.reshape(x, &split)?;
    let y = call.b.transpose(y, &[0, 3, 5, 1, 2, 4])?;
    let y = call.b.reshape(y, &[n.clone(), &(c * &k) * &k, rows, columns])?;
    call.one(y)
}

/// Positions `0..=i + k` (lower) or `i + k..` (upper) of row `i` stay.
fn trilu(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let shift = if call.has(1) { call.number(1)?.to_i64() } else { 0 };
    let upper = call.flag("upper", true);
    let b = &mut *call.b;
    let shape = b.shape(x);
    let rank = shape.len();
    if rank < 2 {
        return problem("a matrix has 2 dims at least");
    }
    let matrix = [shape[rank - 2].clone(), shape[rank - 1].clone()];
    let (row, column) = (b.iota_along(DType::I64, &matrix, 0)?, b.iota_along(DType::I64, &matrix, 1)?);
    let distance = b.pointwise(F::Sub, &[column, row])?;
    let shift = b.graph().scalar(DType::I64, Scalar::Int(shift.into()));
    let holds = b.binary(if upper { F::Ge } else { F::Le }, distance, shift)?;
    let zero = b.number_like(x, 0.0);
    let y = b.select(holds, x, zero)?;
    call.one(y)
}

/// The most positions that are added or cut off on one side; more fit no memory.
const PAD_MAX: u64 = 1 << 40;

/// The longest table of positions that is kept in a program.
const TABLE_MAX: i64 = 1 << 24;

/// Amounts for each dim, lows then highs; negative ones crop.
fn pad(call: &mut Call) -> Results {
    let (x, tensor) = moved(call)?;
    let rank = tensor.rank();
    let amounts = match call.int_list("pads").or_else(|| call.int_list("paddings")) {
        Some(amounts) => amounts,
        None => call.ints(1)?,
    };
    let axes = match call.has(3) {
        true => call.ints(3)?.into_iter().map(|axis| normalize(axis, rank)).collect::<Build<Vec<usize>>>()?,
        false => (0..rank).collect(),
    };
    if amounts.len() != 2 * axes.len() {
        return problem(format!("{} amounts are given for {} dims", amounts.len(), axes.len()));
    }
    if let Some(amount) = amounts.iter().find(|amount| amount.unsigned_abs() > PAD_MAX) {
        return problem(format!("nothing is padded by {amount}"));
    }
    let value = match call.float("value") {
        Some(value) => Scalar::Float(value),
        None if call.has(2) => call.number(2)?,
        None => Scalar::Float(0.0),
    };
    let mode = call.text_or("mode", "constant");
    let mut y = x;
    for (at, dim) in axes.iter().copied().enumerate() {
        let (low, high) = (amounts[at], amounts[at + axes.len()]);
        let size = call.b.shape(y)[dim].clone();
        let crop = |amount: i64| Dim::constant((-amount).max(0));
        if low < 0 || high < 0 {
            let left = &(&size - &crop(low)) - &crop(high);
            y = call.b.slice_dim(y, dim, crop(low), left)?;
        }
        let (low, high) = (low.max(0), high.max(0));
        if (low, high) == (0, 0) {
            continue;
        }
        y = match mode.as_str() {
            "constant" => {
                let value = value.convert(tensor.ty.dtype);
                let pad = PadDim { dim, low: low.into(), high: high.into(), interior: 0 };
                call.b.pad(y, vec![pad], value)?
            }
            _ => {
                let size = call.b.size(y, dim)? as i64;
                if size + low + high > TABLE_MAX {
                    return problem(format!("a dim of {size} is repeated to {}", size + low + high));
                }
                let positions =
                    (-low..size + high).map(|at| source(&mode, at, size)).collect::<Build<Vec<f64>>>()?;
                let indices = call.b.numbers(DType::I32, &positions);
                call.b.gather(y, indices, dim, 0)?
            }
        };
    }
    result(call, &tensor, y)
}

/// The position that a padded one repeats.
fn source(mode: &str, at: i64, size: i64) -> Build<f64> {
    if size == 0 {
        return problem("nothing can be repeated");
    }
    Ok(match mode {
        "edge" => at.clamp(0, size - 1),
        "wrap" => at.rem_euclid(size),
        "reflect" => {
            let period = (2 * (size - 1)).max(1);
            let at = at.rem_euclid(period);
            if at < size { at } else { period - at }
        }
        other => return problem(format!("there is no padding by `{other}`")),
    } as f64)
}

fn center_crop_pad(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let rank = call.b.rank(x);
    let sizes = call.ints(1)?;
    let axes = match call.int_list("axes") {
        Some(axes) => axes.into_iter().map(|axis| normalize(axis, rank)).collect::<Build<Vec<usize>>>()?,
        None => (0..rank).collect(),
    };
    if axes.len() != sizes.len() {
        return problem(format!("{} sizes are given for {} dims", sizes.len(), axes.len()));
    }
    let mut y = x;
    for (dim, wanted) in axes.into_iter().zip(sizes) {
        let size = call.b.size(y, dim)? as i64;
        y = match wanted <= size {
            true => call.b.slice_dim(y, dim, (size - wanted) / 2, wanted)?,
            false => {
                let low = (wanted - size) / 2;
                let pad = PadDim { dim, low: low.into(), high: (wanted - size - low).into(), interior: 0 };
                let zero = Scalar::zero(call.b.dtype(y));
                call.b.pad(y, vec![pad], zero)?
            }
        };
    }
    call.one(y)
}

/// The first `lengths[b]` positions of each sequence backwards.
fn reverse_sequence(call: &mut Call) -> Results {
    let (x, lengths) = (call.x(0)?, call.x(1)?);
    let rank = call.b.rank(x);
    let (batch, time) =
        (normalize(call.int_or("batch_axis", 1), rank)?, normalize(call.int_or("time_axis", 0), rank)?);
    let rest = (0..rank).filter(|dim| *dim != batch && *dim != time);
    let perm: Vec<usize> = [batch, time].into_iter().chain(rest).collect();
    let b = &mut *call.b;
    let y = b.transpose(x, &perm)?;
    let shape = b.shape(y)[..2].to_vec();
    let lengths = b.convert(lengths, DType::I32)?;
    let lengths = b.broadcast(lengths, &shape, &[0])?;
    let position = b.iota_along(DType::I32, &shape, 1)?;
    let inside = b.pointwise(F::Lt, &[position, lengths])?;
    let last = b.with_scalar(F::Sub, lengths, 1.0)?;
    let mirrored = b.pointwise(F::Sub, &[last, position])?;
    let indices = b.select(inside, mirrored, position)?;
    let y = b.gather(y, indices, 1, 1)?;
    let mut back = vec![0; rank];
    perm.iter().enumerate().for_each(|(to, from)| back[*from] = to);
    let y = b.transpose(y, &back)?;
    call.one(y)
}
