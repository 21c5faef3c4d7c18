//! Images sampled at computed places, and the places of affine maps.

use super::Row;
use crate::builder::{Build, Builder, known_size, problem};
use crate::call::{Call, Results};
use thalweg_base::{DType, Dim, PointwiseFn as F};
use thalweg_tensor::NodeId;

/// The rows of this family.
pub const OPS: &[Row] = &[("AffineGrid", affine_grid), ("GridSample", grid_sample)];

/// The coefficient of the cubic filter.
const CUBIC: f64 = -0.75;

/// The largest dim whose coordinates are constants of the program.
const SIZE_MAX: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// What lies outside of the image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// One dim of an image that is sampled.
struct Along {
    size: usize,
    mode: Mode,
    outside: Outside,
    align_corners: bool,
}

/// A position along one dim and how much it counts, each for every place.
struct Tap {
    position: NodeId,
    weight: Option<NodeId>,
}

impl Along {
    /// Coordinates between positions, from those between -1 and 1.
    fn coordinates(&self, b: &mut Builder, x: NodeId) -> Build<NodeId> {
        let size = self.size as f64;
        // From the middles of the first and the last position, or from the ends of the image.
        let (scale, shift) = if self.align_corners {
            ((size - 1.0) / 2.0, (size - 1.0) / 2.0)
        } else {
            (size / 2.0, (size - 1.0) / 2.0)
        };
        let x = b.with_scalar(F::Mul, x, scale)?;
        let x = b.with_scalar(F::Add, x, shift)?;
        let x = if self.mode == Mode::Nearest { b.unary(F::Round, x)? } else { x };
        match self.outside {
            Outside::Zeros => Ok(x),
            Outside::Border => self.clamp(b, x),
            Outside::Reflection => self.reflect(b, x),
        }
    }

    /// Coordinates beyond the image moved to the first or last position. Those between such a position and the end of the
    /// image stay, which matters to the cubic filter alone.
    fn clamp(&self, b: &mut Builder, x: NodeId) -> Build<NodeId> {
        let last = self.size as f64 - 1.0;
        let above = b.with_scalar(F::Max, x, 0.0)?;
        let inside = b.with_scalar(F::Min, above, last)?;
        if self.mode != Mode::Cubic || self.align_corners {
            return Ok(inside);
        }
        let moved = b.pointwise(F::Sub, &[x, inside])?;
        let moved = b.unary(F::Abs, moved)?;
        let near = b.with_scalar(F::Le, moved, 0.5)?;
        b.select(near, x, inside)
    }

    /// Coordinates folded back at the ends of the image, as often as it takes.
    fn reflect(&self, b: &mut Builder, x: NodeId) -> Build<NodeId> {
        let (low, length) =
            if self.align_corners { (0.0, self.size as f64 - 1.0) } else { (-0.5, self.size as f64) };
        if length == 0.0 {
            return b.with_scalar(F::Mul, x, 0.0);
        }
        let x = b.with_scalar(F::Sub, x, low)?;
        let x = b.unary(F::Abs, x)?;
        let x = b.with_scalar(F::Rem, x, 2.0 * length)?;
        let back = b.number_like(x, 2.0 * length);
        let back = b.binary(F::Sub, back, x)?;
        let x = b.pointwise(F::Min, &[x, back])?;
        b.with_scalar(F::Add, x, low)
    }

    /// Whole coordinates as positions within the image, and where they were outside of it although nothing stands there.
    fn position(&self, b: &mut Builder, x: NodeId) -> Build<(NodeId, Option<NodeId>)> {
        let last = self.size as f64 - 1.0;
        let x = if self.outside == Outside::Reflection { self.reflect(b, x)? } else { x };
        let above = b.with_scalar(F::Max, x, 0.0)?;
        let inside = b.with_scalar(F::Min, above, last)?;
        let counts =
            if self.outside == Outside::Zeros { Some(b.pointwise(F::Eq, &[x, inside])?) } else { None };
        Ok((b.convert(inside, DType::I32)?, counts))
    }

    /// The weight of the position `step` after the one before a coordinate, which is `part` further on.
    fn weight(&self, b: &mut Builder, part: NodeId, step: f64) -> Build<Option<NodeId>> {
        let a = CUBIC;
        let distance = match step <= 0.0 {
            true => b.with_scalar(F::Sub, part, step)?,
            false => {
                let step = b.number_like(part, step);
                b.binary(F::Sub, step, part)?
            }
        };
        // Coefficients of a polynomial in the distance, the highest first.
        let polynomial: &[f64] = match self.mode {
            Mode::Nearest => return Ok(None),
            Mode::Linear => &[-1.0, 1.0],
            Mode::Cubic if step == 0.0 || step == 1.0 => &[a + 2.0, -(a + 3.0), 0.0, 1.0],
            Mode::Cubic => &[a, -5.0 * a, 8.0 * a, -4.0 * a],
        };
        let mut sum = b.with_scalar(F::Mul, distance, polynomial[0])?;
        for (at, coefficient) in polynomial.iter().enumerate().skip(1) {
            sum = b.with_scalar(F::Add, sum, *coefficient)?;
            if at + 1 < polynomial.len() {
                sum = b.pointwise(F::Mul, &[sum, distance])?;
            }
        }
        Ok(Some(sum))
    }

    fn taps(&self, b: &mut Builder, x: NodeId) -> Build<Vec<Tap>> {
        let x = self.coordinates(b, x)?;
        let before = b.unary(F::Floor, x)?;
        let part = b.pointwise(F::Sub, &[x, before])?;
        let steps: &[f64] = match self.mode {
            Mode::Nearest => &[0.0],
            Mode::Linear => &[0.0, 1.0],
            Mode::Cubic => &[-1.0, 0.0, 1.0, 2.0],
        };
        let tap = |step: &f64| {
            let at = b.with_scalar(F::Add, before, *step)?;
            let (position, counts) = self.position(b, at)?;
            let weight = self.weight(b, part, *step)?;
            let weight = match (counts, weight) {
                (None, weight) => weight,
                (Some(counts), None) => Some(b.convert(counts, DType::F32)?),
                (Some(counts), Some(weight)) => {
                    let zero = b.number_like(weight, 0.0);
                    Some(b.select(counts, weight, zero)?)
                }
            };
            Ok(Tap { position, weight })
        };
        steps.iter().map(tap).collect()
    }
}

/// The places of one combination of taps, one for each dim, and its weight.
fn combined(b: &mut Builder, taps: &[&Tap], sizes: &[usize]) -> Build<Tap> {
    let Some((first, rest)) = taps.split_first() else { return problem("an image has a dim at least") };
    let (mut position, mut weight) = (first.position, first.weight);
    for (tap, size) in rest.iter().zip(&sizes[1..]) {
        let scaled = b.with_scalar(F::Mul, position, *size as f64)?;
        position = b.pointwise(F::Add, &[scaled, tap.position])?;
        weight = match (weight, tap.weight) {
            (Some(a), Some(c)) => Some(b.pointwise(F::Mul, &[a, c])?),
            (a, c) => a.or(c),
        };
    }
    Ok(Tap { position, weight })
}

/// `x[n, c, d...]` at places `grid[n, o..., k]`, whose last dim gives the coordinate along the last dim of `x` first.
fn grid_sample(call: &mut Call) -> Results {
    let (x, grid) = (call.x(0)?, call.x(1)?);
    let mode = match call.text_or("mode", "linear").as_str() {
        "nearest" => Mode::Nearest,
        "linear" | "bilinear" => Mode::Linear,
        "cubic" | "bicubic" => Mode::Cubic,
        other => return problem(format!("there is no mode `{other}`")),
    };
    let outside = match call.text_or("padding_mode", "zeros").as_str() {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return problem(format!("there is no padding by `{other}`")),
    };
    let align_corners = call.flag("align_corners", false);
    let b = &mut *call.b;
    let (shape, places) = (b.shape(x), b.shape(grid));
    let rank = shape.len();
    if rank < 3 || places.len() != rank || places[0] != shape[0] || places[rank - 1] != Dim::from(rank - 2) {
        return problem(format!("a grid {places:?} does not fit an image {shape:?}"));
    }
    let sizes = shape[2..].iter().map(known_size).collect::<Build<Vec<usize>>>()?;
    if sizes.contains(&0) {
        return problem("an image without positions is sampled");
    }
    // Places are computed in f32 at least, so that those of large images are exact enough.
    let dtype = b.dtype(x);
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let grid = b.convert(grid, DType::F32)?;
    let mut taps = Vec::new();
    for (at, size) in sizes.iter().enumerate() {
        let column = b.pick(grid, rank - 1, sizes.len() - 1 - at)?;
        taps.push(Along { size: *size, mode, outside, align_corners }.taps(b, column)?);
    }
    let x = b.convert(x, if mode == Mode::Nearest && outside != Outside::Zeros { dtype } else { wide })?;
    let x = b.merge_dims(x, 2, rank)?;
    let combinations = taps.iter().fold(vec![vec![]], |all: Vec<Vec<&Tap>>, taps| {
        all.iter().flat_map(|some| taps.iter().map(move |tap| [&some[..], &[tap]].concat())).collect()
    });
    let mut sum = None;
    for taps in combinations {
        let Tap { position, weight } = combined(b, &taps, &sizes)?;
        let mut part = b.gather(x, position, 2, 1)?;
        if let Some(weight) = weight {
            let shape = b.shape(part);
            let weight = b.convert(weight, wide)?;
            let dims: Vec<usize> = (0..shape.len()).filter(|dim| *dim != 1).collect();
            let weight = b.broadcast(weight, &shape, &dims)?;
            part = b.pointwise(F::Mul, &[part, weight])?;
        }
        sum = Some(match sum {
            Some(sum) => b.pointwise(F::Add, &[sum, part])?,
            None => part,
        });
    }
    let Some(y) = sum else { return problem("an image has a dim at least") };
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// At each place of an image its coordinates between -1 and 1, the last dim's first, mapped by `theta[n, k, k + 1]`, whose
/// last column is what is added.
fn affine_grid(call: &mut Call) -> Results {
    let theta = call.x(0)?;
    let size = call.dims(1)?;
    let align_corners = call.flag("align_corners", false);
    let b = &mut *call.b;
    let dims = size.len().saturating_sub(2);
    let shape = b.shape(theta);
    if dims == 0 || shape.len() != 3 || shape[1..] != [dims.into(), (dims + 1).into()] {
        return problem(format!("maps {shape:?} do not fit images {size:?}"));
    }
    if let (Some(maps), Some(images)) = (shape[0].as_constant(), size[0].as_constant())
        && maps != images
    {
        return problem(format!("{maps} maps are given for {images} images"));
    }
    let result = [&shape[..1], &size[2..], &[dims.into()]].concat();
    let column = |b: &mut Builder, at: usize| -> Build<NodeId> {
        let column = b.pick(theta, 2, at)?;
        b.broadcast(column, &result, &[0, dims + 1])
    };
    let mut sum = column(b, dims)?;
    for at in 0..dims {
        let dim = dims - at;
        let count = known_size(&result[dim])?;
        if count > SIZE_MAX {
            return problem(format!("an image of {count} positions along a dim is mapped"));
        }
        let numbers = (0..count).map(|position| (position as f64, count as f64));
        let coordinates: Vec<f64> = match align_corners {
            true if count == 1 => vec![0.0],
            true => numbers.map(|(position, count)| 2.0 * position / (count - 1.0) - 1.0).collect(),
            false => numbers.map(|(position, count)| (2.0 * position + 1.0) / count - 1.0).collect(),
        };
        let coordinates = b.numbers(b.dtype(theta), &coordinates);
        let coordinates = b.broadcast(coordinates, &result, &[dim])?;
        let column = column(b, at)?;
        let part = b.pointwise(F::Mul, &[coordinates, column])?;
        sum = b.pointwise(F::Add, &[sum, part])?;
    }
    call.one(sum)
}
