//! Images under other sizes: each dim on its own, since every filter is a product of one for each dim.
//!
//! What a position of the result takes of which positions of the operand is known at import. Where it is one, the dim is
//! repeated, sliced or gathered; where it is few, they are gathered and weighted; where it is many, as when a filter is
//! widened against aliasing, the dim is contracted with a matrix.

use super::Row;
use crate::builder::{Build, Builder, Stop, known_size, problem};
use crate::call::{Call, Results, normalize};
use crate::error::Problem;
use crate::value::{Tensor, Value};
use thalweg_base::{DType, Dim, Literal, PointwiseFn as F, Scalar};
use thalweg_tensor::NodeId;
use thalweg_tensor::ops::SliceRange;

/// The rows of this family.
pub const OPS: &[Row] = &[("Resize", resize), ("Upsample", upsample)];

/// The most positions that are gathered one by one for each of the result.
const TAPS_MAX: usize = 4;

/// The largest dim whose positions are looked at one by one at import.
const SIZE_MAX: usize = 1 << 20;

/// The largest matrix of a wide filter.
const MATRIX_MAX: usize = 1 << 26;

/// How positions of the result and of the operand correspond.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coordinates {
    AlignCorners,
    Asymmetric,
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    CropAndResize,
}

/// Which position the nearest is.
#[derive(Clone, Copy)]
enum Rounding {
    Floor,
    Ceil,
    PreferFloor,
    PreferCeil,
    /// What op set 10 left open and its runtimes do: towards the result's end where it is smaller, else the start.
    Old,
}

#[derive(Clone, Copy)]
enum Filter {
    Nearest(Rounding),
    Linear,
    /// With the coefficient that is usually called `a`.
    Cubic(f64),
}

/// How an image is resized.
struct Method {
    filter: Filter,
    coordinates: Coordinates,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f64,
}

/// What becomes of one dim.
struct Change {
    dim: usize,
    size: Dim,
    scale: f64,
    /// The part of the operand that the result shows, from 0 to 1.
    crop: [f64; 2],
}

/// The positions that one of the result takes of the operand, each with its weight; absent outside of the crop.
type Taps = Option<Vec<(usize, f64)>>;

impl Filter {
    /// How far it reaches.
    fn reach(self) -> f64 {
        match self {
            Filter::Nearest(_) => 0.5,
            Filter::Linear => 1.0,
            Filter::Cubic(_) => 2.0,
        }
    }

    /// The weight at a distance. The cubic one is that of Keys, "Cubic convolution interpolation for digital image
    /// processing" (1981).
    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Filter::Nearest(_) => 1.0,
            Filter::Linear => (1.0 - x).max(0.0),
            Filter::Cubic(a) if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Filter::Cubic(a) if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            Filter::Cubic(_) => 0.0,
        }
    }
}

impl Rounding {
    fn round(self, x: f64, scale: f64) -> f64 {
        match self {
            Rounding::Floor => x.floor(),
            Rounding::Ceil => x.ceil(),
            Rounding::PreferFloor => (x - 0.5).ceil(),
            Rounding::PreferCeil => (x + 0.5).floor(),
            Rounding::Old if scale < 1.0 => x.ceil(),
            Rounding::Old => x.floor(),
        }
    }
}

impl Method {
    /// The coordinate in the operand of a position of the result.
    fn coordinate(&self, change: &Change, position: usize, from: usize, to: usize) -> f64 {
        let (x, from, scale) = (position as f64, from as f64, change.scale);
        let exact = scale * from;
        let centered = (x + 0.5) / scale - 0.5;
        match self.coordinates {
            Coordinates::AlignCorners if exact == 1.0 => 0.0,
            Coordinates::AlignCorners => x * (from - 1.0) / (exact - 1.0),
            Coordinates::Asymmetric => x / scale,
            Coordinates::PytorchHalfPixel if exact == 1.0 => -0.5,
            Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => centered,
            Coordinates::HalfPixelSymmetric => from / 2.0 * (1.0 - to as f64 / exact) + centered,
            Coordinates::CropAndResize => {
                let [low, high] = change.crop;
                let along = if exact == 1.0 { 0.5 } else { x / (exact - 1.0) };
                (low + along * (high - low)) * (from - 1.0)
            }
        }
    }

    fn taps(&self, change: &Change, position: usize, from: usize, to: usize) -> Taps {
        let x = self.coordinate(change, position, from, to);
        let last = from as f64 - 1.0;
        if self.coordinates == Coordinates::CropAndResize && !(0.0..=last).contains(&x) {
            return None;
        }
        let inside = |at: f64| at.clamp(0.0, last) as usize;
        if let Filter::Nearest(rounding) = self.filter {
            return Some(vec![(inside(rounding.round(x, change.scale)), 1.0)]);
        }
        let narrowed = if self.antialias { change.scale.min(1.0) } else { 1.0 };
        let reach = self.filter.reach() / narrowed;
        let mut taps: Vec<(usize, f64)> = Vec::new();
        let mut sum = 0.0;
        let mut at = (x - reach).ceil();
        while at <= x + reach {
            let weight = self.filter.weight((at - x) * narrowed);
            let excluded = self.exclude_outside && !(0.0..=last).contains(&at);
            if weight != 0.0 && !excluded {
                sum += weight;
                match taps.last_mut() {
                    Some((place, total)) if *place == inside(at) => *total += weight,
                    Some(_) | None => taps.push((inside(at), weight)),
                }
            }
            at += 1.0;
        }
        if taps.is_empty() || sum == 0.0 {
            return Some(vec![(inside(x), if self.exclude_outside { 0.0 } else { 1.0 })]);
        }
        taps.iter_mut().for_each(|(_, weight)| *weight /= sum);
        Some(taps)
    }
}

/// A dim of which each position is repeated so many times.
fn repeat(b: &mut Builder, x: NodeId, dim: usize, times: usize) -> Build<NodeId> {
    let shape = b.shape(x);
    let mut wide = shape.clone();
    wide.insert(dim + 1, times.into());
    let dims: Vec<usize> = (0..wide.len()).filter(|other| *other != dim + 1).collect();
    let repeated = b.broadcast(x, &wide, &dims)?;
    b.merge_dims(repeated, dim, dim + 2)
}

/// Positions of a dim chosen by known indices.
fn choose(b: &mut Builder, x: NodeId, dim: usize, indices: &[usize]) -> Build<NodeId> {
    let size = b.size(x, dim)?;
    if let Some(times) = indices.len().checked_div(size).filter(|times| times * size == indices.len())
        && indices.iter().enumerate().all(|(at, index)| *index == at / times)
    {
        return repeat(b, x, dim, times);
    }
    let stride = indices.get(1).map_or(1, |second| *second as i64 - indices[0] as i64);
    if stride > 0 && indices.windows(2).all(|pair| pair[1] as i64 - pair[0] as i64 == stride) {
        let size = indices.len().into();
        return b.slice(x, vec![SliceRange { dim, start: indices[0].into(), size, stride }]);
    }
    let indices: Vec<f64> = indices.iter().map(|index| *index as f64).collect();
    let indices = b.numbers(DType::I32, &indices);
    b.gather(x, indices, dim, 0)
}

/// Known numbers along a dim of a shape.
fn along(b: &mut Builder, like: NodeId, dim: usize, numbers: &[f64]) -> Build<NodeId> {
    let (dtype, shape) = (b.dtype(like), b.shape(like));
    let numbers = b.numbers(dtype, numbers);
    b.broadcast(numbers, &shape, &[dim])
}

/// A dim as weighted sums of its positions.
fn weigh(b: &mut Builder, x: NodeId, dim: usize, taps: &[Vec<(usize, f64)>]) -> Build<NodeId> {
    let most = taps.iter().map(Vec::len).max().unwrap_or(1);
    if most > TAPS_MAX {
        let (from, dtype) = (b.size(x, dim)?, b.dtype(x));
        if from * taps.len() > MATRIX_MAX {
            return problem(format!("a dim of size {from} is filtered to {}", taps.len()));
        }
        let mut matrix = vec![0.0; from * taps.len()];
        for (row, taps) in taps.iter().enumerate() {
            taps.iter().for_each(|(at, weight)| matrix[row * from + at] = *weight);
        }
        let matrix = matrix.into_iter().map(Scalar::Float);
        let matrix = b.graph().constant(Literal::from_scalars(dtype, &[taps.len(), from], matrix));
        let own: String = ('a'..='z').take(b.rank(x)).collect();
        let contracted = &own[dim..dim + 1];
        return b.contract(&format!("{own},Z{contracted}->{}", own.replace(contracted, "Z")), x, matrix);
    }
    let mut sum = None;
    for tap in 0..most {
        // Where there are fewer, the first stands in with no weight.
        let each: Vec<(usize, f64)> =
            taps.iter().map(|taps| *taps.get(tap).unwrap_or(&(taps[0].0, 0.0))).collect();
        let indices: Vec<usize> = each.iter().map(|(at, _)| *at).collect();
        let weights: Vec<f64> = each.iter().map(|(_, weight)| *weight).collect();
        let mut part = choose(b, x, dim, &indices)?;
        if weights.iter().any(|weight| *weight != 1.0) {
            let weights = along(b, part, dim, &weights)?;
            part = b.pointwise(F::Mul, &[part, weights])?;
        }
        sum = Some(match sum {
            Some(sum) => b.pointwise(F::Add, &[sum, part])?,
            None => part,
        });
    }
    sum.map_or_else(|| problem("an image without positions is resized"), Ok)
}

/// One dim under another size.
fn change_dim(b: &mut Builder, x: NodeId, method: &Method, change: &Change) -> Build<NodeId> {
    let dim = change.dim;
    let own = b.shape(x)[dim].clone();
    // A whole multiple repeats each position, whatever the size is.
    let repeats = matches!(
        (method.filter, method.coordinates),
        (Filter::Nearest(Rounding::Floor | Rounding::Old), Coordinates::Asymmetric)
            | (Filter::Nearest(Rounding::PreferFloor | Rounding::PreferCeil), Coordinates::HalfPixel)
    );
    if repeats
        && change.scale >= 1.0
        && change.scale.fract() == 0.0
        && change.size == times(&own, change.scale)
    {
        return repeat(b, x, dim, change.scale as usize);
    }
    let (from, to) = (known_size(&own)?, known_size(&change.size)?);
    if from == 0 || to == 0 || from.max(to) > SIZE_MAX {
        return problem(format!("a dim of size {from} is resized to {to}"));
    }
    let taps: Vec<Taps> = (0..to).map(|position| method.taps(change, position, from, to)).collect();
    let outside: Vec<f64> = taps.iter().map(|taps| f64::from(u8::from(taps.is_none()))).collect();
    let taps: Vec<Vec<(usize, f64)>> =
        taps.into_iter().map(|taps| taps.unwrap_or_else(|| vec![(0, 1.0)])).collect();
    let single = taps.iter().all(|taps| matches!(taps[..], [(_, 1.0)]));
    let y = match single {
        true => choose(b, x, dim, &taps.iter().map(|taps| taps[0].0).collect::<Vec<usize>>())?,
        false => weigh(b, x, dim, &taps)?,
    };
    if outside.iter().all(|outside| *outside == 0.0) {
        return Ok(y);
    }
    let shape = b.shape(y);
    let outside = b.numbers(DType::Bool, &outside);
    let outside = b.broadcast(outside, &shape, &[dim])?;
    let value = b.number_like(y, method.extrapolation);
    b.select(outside, value, y)
}

fn times(size: &Dim, scale: f64) -> Dim {
    size * &Dim::constant(scale as i64)
}

/// The operand with those dims changed.
fn apply(call: &mut Call, method: &Method, mut changes: Vec<Change>) -> Results {
    let tensor = call.tensor(0)?;
    let mut x = call.b.node(&tensor)?;
    let shape = tensor.ty.shape.clone();
    let kept = |change: &Change| {
        let moves = method.coordinates == Coordinates::CropAndResize && change.crop != [0.0, 1.0];
        change.size == shape[change.dim] && change.scale == 1.0 && !moves
    };
    changes.retain(|change| !kept(change));
    if let Some(change) = changes.iter().find(|change| !change.scale.is_finite() || change.scale <= 0.0) {
        return problem(format!("dim {} is scaled by {}", change.dim, change.scale));
    }
    // Dims that shrink go first, which leaves less to do for the others.
    changes.sort_by(|a, b| a.scale.total_cmp(&b.scale));
    let dtype = tensor.ty.dtype;
    let weighs = !matches!(method.filter, Filter::Nearest(_)) && !changes.is_empty();
    if weighs && tensor.narrow.is_some() {
        return problem("elements of a narrow type are not interpolated");
    }
    if weighs && dtype != DType::F64 {
        x = call.b.convert(x, DType::F32)?;
    }
    for change in &changes {
        x = change_dim(call.b, x, method, change)?;
    }
    if weighs && !dtype.is_float() {
        x = call.b.unary(F::Round, x)?;
    }
    let y = call.b.convert(x, dtype)?;
    Ok(vec![Value::Tensor(Tensor { narrow: tensor.narrow, ..call.b.tensor(y) })])
}

/// Changes by scales, one for each of those dims.
fn by_scales(call: &Call, dims: &[usize], scales: &[f64]) -> Build<Vec<Change>> {
    let shape = call.tensor(0)?.ty.shape;
    if scales.len() != dims.len() {
        return problem(format!("{} scales are given for {} dims", scales.len(), dims.len()));
    }
    let change = |(dim, scale): (&usize, &f64)| {
        let (dim, scale) = (*dim, *scale);
        let symbol = shape[dim].as_constant().is_none();
        let size = match symbol && scale.fract() == 0.0 {
            true => times(&shape[dim], scale),
            false => Dim::constant((known_size(&shape[dim])? as f64 * scale).floor() as i64),
        };
        Ok(Change { dim, size, scale, crop: [0.0, 1.0] })
    };
    dims.iter().zip(scales).map(change).collect()
}

/// Changes to sizes, one for each of those dims.
fn by_sizes(call: &Call, dims: &[usize], sizes: Vec<Dim>) -> Build<Vec<Change>> {
    let shape = call.tensor(0)?.ty.shape;
    if sizes.len() != dims.len() {
        return problem(format!("{} sizes are given for {} dims", sizes.len(), dims.len()));
    }
    let scale = |dim: usize, size: &Dim| -> Build<f64> {
        match size.exact_div(&shape[dim]).and_then(|times| times.as_constant()) {
            Some(times) => Ok(times as f64),
            None => Ok(known_size(size)? as f64 / known_size(&shape[dim])? as f64),
        }
    };
    let scales = dims.iter().zip(&sizes).map(|(dim, size)| scale(*dim, size)).collect::<Build<Vec<f64>>>()?;
    let shared = match call.text_or("keep_aspect_ratio_policy", "stretch").as_str() {
        "stretch" => None,
        "not_larger" => scales.iter().copied().reduce(f64::min),
        "not_smaller" => scales.iter().copied().reduce(f64::max),
        other => return problem(format!("there is no policy `{other}`")),
    };
    let change = |((dim, size), scale): ((&usize, Dim), f64)| {
        let (size, scale) = match shared {
            None => (size, scale),
            Some(scale) => {
                let own = known_size(&shape[*dim])? as f64;
                (Dim::constant((scale * own + 0.5).floor() as i64), scale)
            }
        };
        Ok(Change { dim: *dim, size, scale, crop: [0.0, 1.0] })
    };
    dims.iter().zip(sizes).zip(scales).map(change).collect()
}

fn filter(call: &Call, rounding: Rounding) -> Build<Filter> {
    Ok(match call.text_or("mode", "nearest").as_str() {
        "nearest" => Filter::Nearest(rounding),
        "linear" | "bilinear" => Filter::Linear,
        "cubic" => Filter::Cubic(call.float_or("cubic_coeff_a", -0.75)),
        other => return problem(format!("there is no mode `{other}`")),
    })
}

/// Op set 10 has neither coordinates nor roundings to choose from, and the scales as its second operand.
fn resize(call: &mut Call) -> Results {
    let rank = call.tensor(0)?.rank();
    let all: Vec<usize> = (0..rank).collect();
    if call.opset < 11 {
        return old(call, &all, Rounding::Old, |call| call.floats(1));
    }
    let coordinates = match call.text_or("coordinate_transformation_mode", "half_pixel").as_str() {
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "tf_crop_and_resize" => Coordinates::CropAndResize,
        other => return problem(format!("there are no coordinates `{other}`")),
    };
    let rounding = match call.text_or("nearest_mode", "round_prefer_floor").as_str() {
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        "round_prefer_floor" => Rounding::PreferFloor,
        "round_prefer_ceil" => Rounding::PreferCeil,
        other => return problem(format!("there is no rounding `{other}`")),
    };
    let method = Method {
        filter: filter(call, rounding)?,
        coordinates,
        antialias: call.flag("antialias", false),
        exclude_outside: call.flag("exclude_outside", false),
        extrapolation: call.float_or("extrapolation_value", 0.0),
    };
    let dims = match call.int_list("axes") {
        Some(axes) => axes.into_iter().map(|axis| normalize(axis, rank)).collect::<Build<Vec<usize>>>()?,
        None => all,
    };
    // An operand without elements counts as one that is not given.
    let given = |call: &Call, at: usize| -> Build<bool> {
        Ok(call.has(at) && call.tensor(at)?.ty.shape != [Dim::default()])
    };
    let mut changes = match (given(call, 2)?, given(call, 3)?) {
        (true, _) => by_scales(call, &dims, &call.floats(2)?)?,
        (false, true) => by_sizes(call, &dims, call.dims(3)?)?,
        (false, false) => return problem("neither scales nor sizes are given"),
    };
    if coordinates == Coordinates::CropAndResize {
        let crop = call.floats(1)?;
        if crop.len() != 2 * dims.len() {
            return problem(format!("a crop of {} numbers is given for {} dims", crop.len(), dims.len()));
        }
        changes
            .iter_mut()
            .enumerate()
            .for_each(|(at, change)| change.crop = [crop[at], crop[at + dims.len()]]);
    }
    apply(call, &method, changes)
}

/// What all ops before op set 11 do.
fn old(
    call: &mut Call,
    dims: &[usize],
    rounding: Rounding,
    scales: impl Fn(&Call) -> Build<Vec<f64>>,
) -> Results {
    let scales = scales(call)?;
    let changes = by_scales(call, dims, &scales)?;
    let method = Method {
        filter: filter(call, rounding)?,
        coordinates: Coordinates::Asymmetric,
        antialias: false,
        exclude_outside: false,
        extrapolation: 0.0,
    };
    apply(call, &method, changes)
}

fn upsample(call: &mut Call) -> Results {
    let rank = call.tensor(0)?.rank();
    let dims: Vec<usize> = (0..rank).collect();
    let missing = || Stop::Problem(Problem::new("no scales are given"));
    old(call, &dims, Rounding::Floor, |call| match call.opset {
        9.. => call.floats(1),
        // The first op set has one for rows and one for columns.
        1 if rank == 4 && call.float_list("scales").is_none() => {
            let [rows, columns] =
                ["height_scale", "width_scale"].map(|name| call.float(name).ok_or_else(missing));
            Ok(vec![1.0, 1.0, rows?, columns?])
        }
        _ => call.float_list("scales").ok_or_else(missing),
    })
}
