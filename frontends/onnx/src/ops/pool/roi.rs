//! Pooling over regions of images.

use super::window::checked;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results};
use crate::ops::reduce::wide;
use thalweg_base::{DType, Dim, PointwiseFn as F};
use thalweg_tensor::{NodeId, ReduceFn};

/// The most samples along one dim of a region, for which a sample's place must be an i32.
const SAMPLES_MAX: f64 = (1 << 16) as f64;

/// An image batch and regions of it.
struct Regions {
    x: NodeId,
    shape: [Dim; 4],
    rois: NodeId,
    count: Dim,
}

fn regions(call: &mut Call, columns: i64) -> Build<Regions> {
    let (x, rois) = (call.x(0)?, call.x(1)?);
    let b = &mut *call.b;
    let (Ok(shape), [count, width]) = (<[Dim; 4]>::try_from(b.shape(x)), &b.shape(rois)[..]) else {
        return problem("regions are rows of a matrix, of an image batch of 4 dims");
    };
    if *width != Dim::constant(columns) {
        return problem(format!("a region has {columns} numbers, not {width}"));
    }
    Ok(Regions { x, shape, rois, count: count.clone() })
}

/// The largest value in each cell of a grid over each region, whose corners are rounded to positions; 0 in an empty cell.
///
/// A cell's rows and columns are ranges, so the largest is taken along columns first, then along rows.
pub fn max_pool(call: &mut Call) -> Results {
    let Regions { x, shape, rois, count } = regions(call, 5)?;
    let cells = match call.int_list("pooled_shape") {
        Some(cells) => checked(&cells, "pooled_shape", 2, 1)?,
        None => return problem("`pooled_shape` is missing"),
    };
    let scale = call.float_or("spatial_scale", 1.0);
    let b = &mut *call.b;
    let batch = b.pick(rois, 1, 0)?;
    let batch = b.convert(batch, DType::I32)?;
    let (rows, row_empty) = ranges(b, rois, [2, 4], scale, cells[0], &shape[2])?;
    let (columns, column_empty) = ranges(b, rois, [1, 3], scale, cells[1], &shape[3])?;
    let images = b.gather(x, batch, 0, 0)?;
    let [_, channels, height, width] = shape;
    let dtype = b.dtype(x);
    let lowest = b.graph().scalar(dtype, dtype.range().0);
    let largest = |b: &mut Builder, x: NodeId, inside: NodeId, all: [Dim; 5], x_dims: [usize; 4]| {
        let x = b.broadcast(x, &all, &x_dims)?;
        let inside = b.broadcast(inside, &all, &[0, 3, 4])?;
        let held = b.select(inside, x, lowest)?;
        b.reduce(ReduceFn::Max, held, &[4], false)
    };
    let (down, across) = (Dim::from(cells[0]), Dim::from(cells[1]));
    let all = [count.clone(), channels.clone(), height.clone(), across.clone(), width];
    let y = largest(b, images, columns, all, [0, 1, 2, 4])?;
    let y = b.transpose(y, &[0, 1, 3, 2])?;
    let all = [count, channels, across, down, height];
    let y = largest(b, y, rows, all, [0, 1, 2, 4])?;
    let y = b.transpose(y, &[0, 1, 3, 2])?;
    let out = b.shape(y);
    let (row_empty, column_empty) =
        (b.broadcast(row_empty, &out, &[0, 2])?, b.broadcast(column_empty, &out, &[0, 3])?);
    let empty = b.pointwise(F::Or, &[row_empty, column_empty])?;
    let zero = b.number_like(y, 0.0);
    let y = b.select(empty, zero, y)?;
    call.one(y)
}

/// Which positions of a dim are in each cell of each region, `[regions, cells, positions]`, and which cells have none.
fn ranges(
    b: &mut Builder,
    rois: NodeId,
    corners: [usize; 2],
    scale: f64,
    cells: usize,
    size: &Dim,
) -> Build<(NodeId, NodeId)> {
    let dtype = wide(b.dtype(rois));
    let corner = |b: &mut Builder, at: usize| {
        let corner = b.pick(rois, 1, at)?;
        let corner = b.convert(corner, dtype)?;
        let scaled = b.with_scalar(F::Mul, corner, scale)?;
        // Halves are rounded away from 0, and corners are not negative.
        let half = b.with_scalar(F::Add, scaled, 0.5)?;
        b.unary(F::Floor, half)
    };
    let (start, end) = (corner(b, corners[0])?, corner(b, corners[1])?);
    let extent = b.pointwise(F::Sub, &[end, start])?;
    let extent = b.with_scalar(F::Add, extent, 1.0)?;
    let extent = b.with_scalar(F::Max, extent, 1.0)?;
    let shape = [b.shape(start)[0].clone(), Dim::from(cells)];
    let step = b.with_scalar(F::Div, extent, cells as f64)?;
    let (step, start) = (b.broadcast(step, &shape, &[0])?, b.broadcast(start, &shape, &[0])?);
    let cell = b.iota_along(dtype, &shape, 1)?;
    let next = b.with_scalar(F::Add, cell, 1.0)?;
    let limit = b.size_like(cell, size)?;
    let bound = |b: &mut Builder, cell: NodeId, round: F| {
        let at = b.pointwise(F::Mul, &[cell, step])?;
        let at = b.unary(round, at)?;
        let at = b.pointwise(F::Add, &[at, start])?;
        let at = b.with_scalar(F::Max, at, 0.0)?;
        b.binary(F::Min, at, limit)
    };
    let (low, high) = (bound(b, cell, F::Floor)?, bound(b, next, F::Ceil)?);
    let empty = b.pointwise(F::Le, &[high, low])?;
    let all = [shape[0].clone(), shape[1].clone(), size.clone()];
    let position = b.iota_along(dtype, &all, 2)?;
    let (low, high) = (b.broadcast(low, &all, &[0, 1])?, b.broadcast(high, &all, &[0, 1])?);
    let (above, below) = (b.pointwise(F::Ge, &[position, low])?, b.pointwise(F::Lt, &[position, high])?);
    let inside = b.pointwise(F::And, &[above, below])?;
    Ok((inside, empty))
}

/// How samples lie along one dim of regions.
struct Axis {
    /// Cells of the result.
    cells: usize,
    /// The columns of the regions with its start and end.
    corners: [usize; 2],
    /// The size of the images' dim.
    size: Dim,
}

/// What [`samples`] gives, all `[regions, cells * samples]`.
struct Samples {
    lower: NodeId,
    upper: NodeId,
    /// The shares of the lower and the upper neighbour; both are 0 outside of the image.
    shares: [NodeId; 2],
    /// Whether there is such a sample; absent if all are.
    exists: Option<NodeId>,
    /// How many samples a cell has, `[regions]`; absent if all have as many as there may be.
    counts: Option<NodeId>,
    /// How many samples a cell may have.
    grid: usize,
}

/// Values interpolated between positions at samples of each cell of a grid over each region (He et al., arXiv 1703.06870),
/// whose mean is taken, or the largest part that a neighbour has.
pub fn align(call: &mut Call) -> Results {
    let Regions { x, shape, rois, count } = regions(call, 4)?;
    let batch = call.x(2)?;
    let cells = checked(
        &[call.int_or("output_height", 1), call.int_or("output_width", 1)],
        "output_height, output_width",
        2,
        1,
    )?;
    let largest = match call.text_or("mode", "avg").as_str() {
        "avg" => false,
        "max" => true,
        other => return problem(format!("there is no mode `{other}`")),
    };
    let vertical = Axis { cells: cells[0], corners: [1, 3], size: shape[2].clone() };
    let horizontal = Axis { cells: cells[1], corners: [0, 2], size: shape[3].clone() };
    let v = samples(call, rois, &vertical)?;
    let h = samples(call, rois, &horizontal)?;

    let b = &mut *call.b;
    let [n, channels, height, width] = shape;
    let dtype = b.dtype(x);
    let by_channel = b.transpose(x, &[1, 0, 2, 3])?;
    let plane = &height * &width;
    let flat = b.reshape(by_channel, &[channels.clone(), &n * &plane])?;
    let places = [count.clone(), b.shape(v.lower)[1].clone(), b.shape(h.lower)[1].clone()];
    let batch = b.convert(batch, DType::I32)?;
    let plane = b.size_like(batch, &plane)?;
    let start = b.binary(F::Mul, batch, plane)?;
    let start = b.broadcast(start, &places, &[0])?;
    let width = b.size_like(batch, &width)?;
    let all = [&[channels.clone()], &places[..]].concat();
    let mut parts = Vec::new();
    for (row, row_share) in [(v.lower, v.shares[0]), (v.upper, v.shares[1])] {
        let row = b.binary(F::Mul, row, width)?;
        let (row, row_share) =
            (b.broadcast(row, &places, &[0, 1])?, b.broadcast(row_share, &places, &[0, 1])?);
        let row = b.pointwise(F::Add, &[start, row])?;
        for (column, share) in [(h.lower, h.shares[0]), (h.upper, h.shares[1])] {
            let (column, share) =
                (b.broadcast(column, &places, &[0, 2])?, b.broadcast(share, &places, &[0, 2])?);
            let index = b.pointwise(F::Add, &[row, column])?;
            let taken = b.gather(flat, index, 1, 0)?;
            let weight = b.pointwise(F::Mul, &[row_share, share])?;
            let weight = b.convert(weight, dtype)?;
            let weight = b.broadcast(weight, &all, &[1, 2, 3])?;
            parts.push(b.pointwise(F::Mul, &[taken, weight])?);
        }
    }
    let combine = if largest { F::Max } else { F::Add };
    let mut parts = parts.into_iter();
    let Some(mut sampled) = parts.next() else { return problem("a sample has four neighbours") };
    for part in parts {
        sampled = b.pointwise(combine, &[sampled, part])?;
    }
    if largest {
        let lowest = b.number_like(sampled, f64::NEG_INFINITY);
        for (exists, dims) in [(v.exists, [1, 2]), (h.exists, [1, 3])] {
            let Some(exists) = exists else { continue };
            let exists = b.broadcast(exists, &all, &dims)?;
            sampled = b.select(exists, sampled, lowest)?;
        }
    }
    let grid = [Dim::from(cells[0]), Dim::from(v.grid), Dim::from(cells[1]), Dim::from(h.grid)];
    let sampled = b.reshape(sampled, &[&[channels, count], &grid[..]].concat())?;
    let function = if largest { ReduceFn::Max } else { ReduceFn::Sum };
    let mut y = b.reduce(function, sampled, &[3, 5], false)?;
    let out = b.shape(y);
    for samples in [&v, &h] {
        y = match samples.counts {
            None if largest => y,
            None => b.with_scalar(F::Div, y, samples.grid as f64)?,
            Some(counts) => {
                let counts = b.convert(counts, dtype)?;
                let counts = b.broadcast(counts, &out, &[1])?;
                match largest {
                    true => {
                        let zero = b.number_like(y, 0.0);
                        let some = b.with_scalar(F::Gt, counts, 0.0)?;
                        b.select(some, y, zero)?
                    }
                    false => {
                        let counts = b.with_scalar(F::Max, counts, 1.0)?;
                        b.pointwise(F::Div, &[y, counts])?
                    }
                }
            }
        };
    }
    let y = b.transpose(y, &[1, 0, 2, 3])?;
    call.one(y)
}

/// The samples along one dim. Without a `sampling_ratio` a cell has about one for each position, so how many there may be
/// depends on the regions' values.
fn samples(call: &mut Call, rois: NodeId, axis: &Axis) -> Build<Samples> {
    let scale = call.float_or("spatial_scale", 1.0);
    let ratio = call.int_or("sampling_ratio", 0);
    // Before op set 16 there was no attribute, and regions began at the corners of positions.
    let default = if call.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = call.text_or("coordinate_transformation_mode", default) == "half_pixel";
    let offset = if half_pixel { 0.5 } else { 0.0 };
    let shortest = if half_pixel { f64::NEG_INFINITY } else { 1.0 };
    let grid = match ratio {
        1.. => checked(&[ratio], "sampling_ratio", 1, 1)?[0],
        _ => {
            let values = call.floats(1)?;
            let extents =
                values.chunks_exact(4).map(|roi| (roi[axis.corners[1]] - roi[axis.corners[0]]) * scale);
            let most = extents
                .fold(1.0f64, |most, extent| most.max((extent.max(shortest) / axis.cells as f64).ceil()));
            if most > SAMPLES_MAX {
                return problem(format!("a cell of a region would have {most} samples"));
            }
            // The graph computes the count of each region in a narrower dtype, which may round to one more.
            most as usize + 1
        }
    };
    let b = &mut *call.b;
    let dtype = wide(b.dtype(rois));
    let corner = |b: &mut Builder, at: usize| {
        let corner = b.pick(rois, 1, at)?;
        let corner = b.convert(corner, dtype)?;
        let scaled = b.with_scalar(F::Mul, corner, scale)?;
        b.with_scalar(F::Sub, scaled, offset)
    };
    let (start, end) = (corner(b, axis.corners[0])?, corner(b, axis.corners[1])?);
    let mut extent = b.pointwise(F::Sub, &[end, start])?;
    if !half_pixel {
        extent = b.with_scalar(F::Max, extent, 1.0)?;
    }
    let step = b.with_scalar(F::Div, extent, axis.cells as f64)?;
    let (count, counts) = match ratio {
        1.. => (b.number(dtype, grid as f64), None),
        _ => {
            let count = b.unary(F::Ceil, step)?;
            (count, Some(count))
        }
    };
    let per_sample = b.binary(F::Div, step, count)?;

    let shape = [b.shape(start)[0].clone(), Dim::from(axis.cells), Dim::from(grid)];
    let merged = [shape[0].clone(), Dim::from(axis.cells * grid)];
    let (cell, sample) = (b.iota_along(dtype, &shape, 1)?, b.iota_along(dtype, &shape, 2)?);
    let (start, step) = (b.broadcast(start, &shape, &[0])?, b.broadcast(step, &shape, &[0])?);
    let per_sample = b.broadcast(per_sample, &shape, &[0])?;
    let middle = b.with_scalar(F::Add, sample, 0.5)?;
    let (by_cell, by_sample) =
        (b.pointwise(F::Mul, &[cell, step])?, b.pointwise(F::Mul, &[middle, per_sample])?);
    let place = b.pointwise(F::Add, &[start, by_cell])?;
    let place = b.pointwise(F::Add, &[place, by_sample])?;

    let size = b.size_like(place, &axis.size)?;
    let last = b.size_like(place, &(&axis.size - &Dim::ONE))?;
    let (above, below) = (b.with_scalar(F::Ge, place, -1.0)?, b.binary(F::Le, place, size)?);
    let mut inside = b.pointwise(F::And, &[above, below])?;
    let mut exists = None;
    if let Some(counts) = counts {
        let counts = b.broadcast(counts, &shape, &[0])?;
        let there = b.pointwise(F::Lt, &[sample, counts])?;
        inside = b.pointwise(F::And, &[inside, there])?;
        exists = Some(b.reshape(there, &merged)?);
    }
    let place = b.with_scalar(F::Max, place, 0.0)?;
    let place = b.binary(F::Min, place, last)?;
    let lower = b.unary(F::Floor, place)?;
    let fraction = b.pointwise(F::Sub, &[place, lower])?;
    let one = b.number_like(fraction, 1.0);
    let rest = b.binary(F::Sub, one, fraction)?;
    let upper = b.with_scalar(F::Add, lower, 1.0)?;
    let upper = b.binary(F::Min, upper, last)?;
    let zero = b.number_like(fraction, 0.0);
    let mut results = Vec::new();
    for share in [rest, fraction] {
        let share = b.select(inside, share, zero)?;
        results.push(b.reshape(share, &merged)?);
    }
    let index = |b: &mut Builder, place: NodeId| {
        let index = b.convert(place, DType::I32)?;
        b.reshape(index, &merged)
    };
    let (lower, upper) = (index(b, lower)?, index(b, upper)?);
    Ok(Samples { lower, upper, shares: [results[0], results[1]], exists, counts, grid })
}
