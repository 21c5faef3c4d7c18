//! Windows of 3 by 3 without strides by the algorithm of Winograd: F(4x4, 3x3), 36 products where there were 144.
//!
//! After Lavin and Gray ("Fast algorithms for convolutional neural networks", 2015): tiles of 6 by 6 of the source and the
//! weights are transformed, multiplied point by point and summed over the channels, which is 36 matrix products, and the sums
//! transformed back to tiles of 4 by 4 of the result. The points of evaluation are 0, 1/sqrt 2, -1/sqrt 2, sqrt 2, -sqrt 2 and
//! infinity, whose transforms have entries between 1/6 and 2 sqrt 2: on random operands of one magnitude the error stays below
//! 1.5e-6 of the largest result at 64 channels and 2.5e-6 at 256, some four times that of plain sums.
//!
//! A row of tiles of one image is a unit. The units of as many images as fit in the cache are transformed, then each task
//! takes a chunk of the result's channels and a band of units through the 36 products and back.

mod transform;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::direct::{Parts, Planes, Weights};
use super::grid::{BLOCK, FillRows, Grid};
use super::rows::{Rows, Run, row_kernels};
use super::spread::Spread;
use super::with_float;
use crate::blocked::{ALIGN, Operand, Shared, aligned, lines, parallel, pick};
use crate::element::DType;
use crate::epilogue::{self, Epilogue};
use crate::isa::Isa;
use crate::pool::ThreadPool;
use transform::{PackChunk, TransformInput, TransformOutput, with_vector};

/// Positions of a tile of the source, and of the result, along one axis.
const FROM: usize = 6;
const TO: usize = 4;
/// Products.
const POINTS: usize = FROM * FROM;

/// A prepared convolution by transforms.
#[derive(Clone, Debug)]
pub(super) struct Winograd {
    isa: Isa,
    dtype: DType,
    /// Of the whole padded plane, of which only a few rows exist at a time.
    grid: Grid,
    /// The walk of a sum over the channels.
    runs: Box<[Run]>,
    weights: Weights,
    planes: Planes,
    /// Extents of the result, and tiles along each axis.
    result: [usize; 2],
    tiles: [usize; 2],
    units: usize,
    /// Units that are transformed at the same time, and units of a band.
    at_once: usize,
    band: usize,
    /// Channels of the result in a chunk.
    width: usize,
    workers: usize,
}

/// Bytes of the transformed source that exist at the same time: they stay in the last-level cache beside the weights.
const SOURCE_BYTES: usize = 6 << 20;
/// Tiles of a band: its sums stay in the second-level cache.
const BAND_TILES: usize = 56;
/// Cycles to transform a vector of one tile, forwards or backwards, and a vector of weights.
const TILE_CYCLES: f64 = 300.0;
const WEIGHT_CYCLES: f64 = 200.0;
/// Cycles of a product's step against those of a convolution in blocks, whose rows of tiles are longer.
const STEP_COST: f64 = 1.15;
/// Bytes of weights that one core reads from memory in a cycle.
const BYTES_PER_CYCLE: f64 = 4.5;
/// The share of the time of plain sums that must remain at most.
const WORTH: f64 = 0.8;

/// Whether the algorithm can compute it.
pub(super) fn fits(parts: &Parts) -> bool {
    let Parts { groups, channels, source, result, step, taps, planes, .. } = parts;
    let lowest = |axis: usize| taps.iter().map(|tap| tap[axis]).min().unwrap_or_default();
    let dense = (0..9).all(|i| taps.contains(&[lowest(0), lowest(1) + i / 3, lowest(2) + i % 3]));
    *groups == 1
        && *step == [1; 3]
        && taps.len() == 9
        && dense
        && (source[0], result[0], lowest(0)) == (1, 1, 0)
        && *channels >= BLOCK
        && planes.around.is_none()
        && !result.contains(&0)
}

/// Whether it is worth it by a count of cycles: arithmetic, transforms, and weights that come from memory.
pub(super) fn pays(parts: &Parts) -> bool {
    let kernels = row_kernels(parts.isa);
    let [_, h, w] = parts.result;
    let positions = (parts.batch * h * w) as f64;
    let tiles = (parts.batch * h.div_ceil(TO) * w.div_ceil(TO)) as f64;
    let columns = parts.planes.channels.next_multiple_of(kernels.most_columns());
    let (channels, vectors) = (parts.channels as f64, (columns / kernels.lanes) as f64);
    let traffic = channels * (4 * columns) as f64 / BYTES_PER_CYCLE;
    let plain = (9.0 * positions * channels * vectors).max(9.0 * traffic);
    let product = (36.0 * tiles * channels * vectors * STEP_COST).max(36.0 * traffic);
    let transforms = tiles * (channels / kernels.lanes as f64 + vectors) * TILE_CYCLES;
    product + transforms + channels * vectors * WEIGHT_CYCLES < WORTH * plain
}

impl Winograd {
    /// Prepares what [`fits`] the algorithm.
    pub(super) fn new(parts: Parts) -> Winograd {
        let Parts { isa, threads, dtype, batch, channels, source, result, taps, weights, planes, .. } = parts;
        let kernels = row_kernels(isa);
        let [_, h, w] = result;
        let tiles = [h.div_ceil(TO), w.div_ceil(TO)];
        let mut grid = Grid::new(channels, source, [1, tiles[0] * TO, tiles[1] * TO], [1; 3], &taps);
        grid.block = BLOCK;
        // The taps in the order of their places, whichever way they were listed.
        let place = |i: usize| [grid.origin[0], grid.origin[1] + i as i32 / 3, grid.origin[2] + i as i32 % 3];
        let number = |i: usize| taps.iter().position(|tap| *tap == place(i)).expect("the taps are dense");
        let taps = (0..9).map(|i| weights.taps[number(i)]).collect();
        let units = batch * tiles[0];
        let unit_bytes = POINTS * grid.blocks() * BLOCK * tiles[1] * 4;
        let width = kernels.most_columns();
        let work = batch * h * w * 9 * channels * planes.channels;
        let workers = threads.min(work / super::direct::THREAD_WORTH).max(1);
        let at_once = (SOURCE_BYTES / unit_bytes).clamp(1, units.max(1));
        // Bands of equal size, several for each thread where the chunks alone are not.
        let chunks = planes.channels.div_ceil(width).max(1);
        let most = (BAND_TILES / tiles[1]).max(1);
        let least = (kernels.most_rows() / tiles[1]).max(1);
        let wanted = if workers > 1 { (4 * workers).div_ceil(chunks) } else { 1 };
        let bands = at_once.div_ceil(most).max(wanted.min(at_once.div_ceil(least)));
        let band = at_once.div_ceil(bands);
        let run = |block: usize| Run {
            offset: (block * at_once * tiles[1] * BLOCK) as isize,
            steps: BLOCK.min(channels - block * BLOCK),
        };
        Winograd {
            isa,
            dtype,
            runs: (0..grid.blocks()).map(run).collect(),
            grid,
            weights: Weights { taps, ..weights },
            planes,
            result: [h, w],
            tiles,
            units,
            at_once,
            band,
            width,
            workers,
        }
    }

    /// Blocks of result channels.
    fn chunks(&self) -> usize {
        self.planes.channels.div_ceil(self.width)
    }

    /// Elements of one point's part of the transformed weights of a chunk. A line more than there are, for the same reason as
    /// in the transformed source.
    fn weight_elements(&self) -> usize {
        self.grid.channels * self.width + BLOCK
    }

    /// Elements of the transformed weights of a chunk.
    fn chunk_elements(&self) -> usize {
        POINTS * self.weight_elements()
    }

    pub(super) fn packed_bytes(&self) -> usize {
        lines(self.chunks() * self.chunk_elements() * 4)
    }

    /// Elements of one point's part of the transformed source. A line more than there are, so that the parts of a tile do not
    /// all fall on the same sets of the caches.
    fn point_elements(&self) -> usize {
        self.grid.blocks() * self.at_once * self.tiles[1] * BLOCK + BLOCK
    }

    fn source_bytes(&self) -> usize {
        lines(POINTS * self.point_elements() * 4)
    }

    /// Bytes of a worker's rows of the source, of its sums, and of its rows of the result.
    fn worker_bytes(&self) -> (usize, usize, usize) {
        let strip = lines(FROM * self.grid.extent[2] * BLOCK * 4);
        let sums = lines(POINTS * self.band * self.tiles[1] * self.width * 4);
        (strip, sums, lines(TO * self.tiles[1] * TO * self.width * 4))
    }

    pub(super) fn workspace_bytes(&self) -> usize {
        let (strip, sums, rows) = self.worker_bytes();
        self.packed_bytes() + self.source_bytes() + self.workers * (strip + sums + rows) + ALIGN
    }

    /// Transforms the weights.
    ///
    /// # Safety
    /// `from` is w, `to` has `packed_bytes` bytes.
    pub(super) unsafe fn pack(&self, pool: &ThreadPool, from: *const u8, to: *mut u8) {
        let slices = self.grid.channels.div_ceil(BLOCK);
        let (from, to, next) = (Operand::Plain(from), Shared(to), AtomicUsize::new(0));
        parallel(pool, self.workers, &|_| {
            let (Operand::Plain(from) | Operand::Packed(from)) = pick(&from);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.chunks() * slices {
                    break;
                }
                let (chunk, slice) = match self.weights.lie_by_result() {
                    true => (index / slices, index % slices),
                    false => (index % self.chunks(), index / self.chunks()),
                };
                let first = slice * BLOCK;
                let channels = first..(first + BLOCK).min(self.grid.channels);
                // SAFETY: passed on to the caller; slices are disjoint.
                unsafe { self.pack_slice(from, to.get(), chunk, channels) };
            }
        });
    }

    unsafe fn pack_slice(&self, from: *const u8, to: *mut u8, chunk: usize, channels: Range<usize>) {
        let first = chunk * self.width;
        let rows = self.width.min(self.planes.channels - first);
        // SAFETY: passed on to the caller; the chunk lies within the packed weights.
        unsafe {
            let to = to.cast::<f32>().add(chunk * self.chunk_elements());
            with_float!(self.dtype, S => {
                let from = from.cast::<S>().add(first * self.weights.row);
                let (weights, width, step) = (&self.weights, self.width, self.weight_elements());
                with_vector!(self.isa, V => {
                    let vector = PhantomData::<V>;
                    self.isa.call(PackChunk { from, weights, channels, rows, width, to, step, vector });
                });
            });
        }
    }

    /// Computes the result.
    ///
    /// # Safety
    /// As for `PreparedConvolution::run`.
    pub(super) unsafe fn run(
        &self,
        pool: &ThreadPool,
        weights: Operand,
        source: Operand,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        let mut workspace = aligned(workspace);
        let mut weights = weights;
        if let Operand::Plain(from) = weights {
            // SAFETY: passed on to the caller; the workspace has room for the packed weights.
            unsafe { self.pack(pool, from, workspace) };
            weights = Operand::Packed(workspace);
        }
        // SAFETY: within the workspace.
        workspace = unsafe { workspace.add(self.packed_bytes()) };
        for first in (0..self.units).step_by(self.at_once) {
            let units = first..(first + self.at_once).min(self.units);
            // SAFETY: passed on to the caller.
            unsafe {
                self.transform(pool, source, units.clone(), workspace);
                self.multiply(pool, weights, units, c, workspace, epilogue);
            }
        }
    }

    /// The part of the workspace that is one worker's own.
    fn own(&self, workspace: *mut u8, worker: usize) -> *mut u8 {
        let (strip, sums, rows) = self.worker_bytes();
        workspace.wrapping_add(self.source_bytes() + worker * (strip + sums + rows))
    }

    /// Transforms the source of some units.
    unsafe fn transform(&self, pool: &ThreadPool, source: Operand, units: Range<usize>, workspace: *mut u8) {
        let (grid, blocks) = (&self.grid, self.grid.blocks());
        let image = grid.channels * grid.source.iter().product::<usize>();
        let (base, next) = (Shared(workspace), AtomicUsize::new(0));
        parallel(pool, self.workers, &|worker| {
            let (Operand::Plain(source) | Operand::Packed(source)) = pick(&source);
            let strip = self.own(base.get(), worker).cast::<f32>();
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= units.len() * blocks {
                    break;
                }
                let (index, block) = (task / blocks, task % blocks);
                let (batch, row) =
                    ((units.start + index) / self.tiles[0], (units.start + index) % self.tiles[0]);
                let rows = (row * TO, row * TO + FROM);
                // SAFETY: passed on to the caller; each worker has its own strip, each task its own tiles.
                unsafe {
                    with_float!(self.dtype, S => {
                        let from = source.cast::<S>().add(batch * image);
                        self.isa.call(FillRows { grid, from, to: strip, block, rows });
                    });
                    let tile = (block * self.at_once + index) * self.tiles[1];
                    let to = base.get().cast::<f32>().add(tile * BLOCK);
                    let (tiles, step) = (self.tiles[1], self.point_elements());
                    with_vector!(self.isa, V => {
                        self.isa.call(TransformInput::<V>::new(strip, grid.extent[2] * BLOCK, tiles, to, step));
                    });
                }
            }
        });
    }

    /// Multiplies the transformed units, and transforms the sums back.
    unsafe fn multiply(
        &self,
        pool: &ThreadPool,
        weights: Operand,
        units: Range<usize>,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        let bands = units.len().div_ceil(self.band);
        let (base, c, next) = (Shared(workspace), Shared(c), AtomicUsize::new(0));
        parallel(pool, self.workers, &|worker| {
            let (Operand::Plain(weights) | Operand::Packed(weights)) = pick(&weights);
            let (strip, sums, _) = self.worker_bytes();
            let own = self.own(base.get(), worker);
            let (sums, rows) = (own.wrapping_add(strip), own.wrapping_add(strip + sums));
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= self.chunks() * bands {
                    break;
                }
                let (chunk, band) = (task / bands, task % bands);
                let within = band * self.band..((band + 1) * self.band).min(units.len());
                // SAFETY: passed on to the caller; each worker has its own sums, each task its own part of the result.
                unsafe {
                    let weights = weights.cast::<f32>().add(chunk * self.chunk_elements());
                    let source = base.get().cast::<f32>();
                    self.products(weights, source, sums.cast(), within.clone());
                    let units = units.start + within.start..units.start + within.end;
                    self.back(sums.cast(), rows.cast(), c.get(), chunk, units, epilogue);
                }
            }
        });
    }

    /// The 36 products of one band: `sums[point][tile][channel]`.
    unsafe fn products(&self, weights: *const f32, source: *const f32, sums: *mut f32, units: Range<usize>) {
        let kernels = row_kernels(self.isa);
        let (first, tiles) = (units.start * self.tiles[1], units.len() * self.tiles[1]);
        let panels = tiles.div_ceil(kernels.most_rows());
        for point in 0..POINTS {
            let source = source.wrapping_add(point * self.point_elements());
            let b = weights.wrapping_add(point * self.weight_elements());
            for panel in 0..panels {
                let (start, end) = (tiles * panel / panels, tiles * (panel + 1) / panels);
                let rows: [*const f32; 16] =
                    std::array::from_fn(|row| source.wrapping_add((first + start + row) * BLOCK));
                let to = sums.wrapping_add((point * tiles + start) * self.width);
                let (rows, step) = (rows.as_ptr(), self.width);
                let task = Rows { rows, runs: &self.runs, pace: 1, b, to, step, accumulate: false };
                // SAFETY: passed on to the caller; the instruction set was checked when this was prepared.
                unsafe { kernels.kernel(end - start, self.width)(&task) };
            }
        }
    }

    /// Transforms the sums of one band back and moves them to the planes of the result.
    unsafe fn back(
        &self,
        sums: *const f32,
        rows: *mut f32,
        c: *mut u8,
        chunk: usize,
        units: Range<usize>,
        epilogue: Option<&Epilogue>,
    ) {
        let [height, width] = self.result;
        let m = (chunk * self.width, ((chunk + 1) * self.width).min(self.planes.channels));
        let step = units.len() * self.tiles[1] * self.width;
        for (index, unit) in units.clone().enumerate() {
            let (image, tile) = (unit / self.tiles[0], unit % self.tiles[0]);
            let from = sums.wrapping_add(index * self.tiles[1] * self.width);
            let end = (tile * TO + TO).min(height);
            // SAFETY: passed on to the caller.
            unsafe {
                with_vector!(self.isa, V => {
                    self.isa.call(TransformOutput::<V>::new(from, step, self.width, self.tiles[1], rows));
                });
                with_float!(self.dtype, S => {
                    let to = c.cast::<S>().add(image * self.planes.image + m.0 * self.planes.channel);
                    for y in tile * TO..end {
                        let from = rows.add((y - tile * TO) * self.tiles[1] * TO * self.width).cast_const();
                        self.isa.call(Spread {
                            from,
                            step: self.width,
                            to,
                            channels: m.1 - m.0,
                            channel: self.planes.channel,
                            positions: &self.planes.positions,
                            n: (y * width, y * width + width),
                        });
                    }
                });
                // What the band has of an image is finished with its last unit there.
                if unit + 1 == units.end || tile + 1 == self.tiles[0] {
                    let first = units.start.max(image * self.tiles[0]) % self.tiles[0];
                    epilogue::call(epilogue, image, m, (first * TO * width, end * width));
                }
            }
        }
    }
}
