//! A convolution as sums over a padded copy of its source, read in place: y from x, or the gradient of x from y.
//!
//! A tile is some positions of the result times two vectors of its channels. For each step of the sum (a source channel
//! under a tap) it broadcasts the source's element at each position against the packed weights, so that neither stride nor
//! padding nor the end of a row costs anything, and planes of any size fill the vectors. The copy has blocks of channels at
//! each position ([`Grid`]); finished tiles are transposed on their way to the planes of the result.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::grid::{Filler, Grid};
use super::reorder::Reorder;
use super::rows::{Rows, Run, row_kernels};
use super::spread::{Around, Spread};
use super::with_float;
use crate::blocked::{ALIGN, Operand, Shared, aligned, lines, parallel, pick};
use crate::element::DType;
use crate::epilogue::{self, Epilogue};
use crate::isa::Isa;
use crate::offsets::Offsets;
use crate::pool::ThreadPool;
use crate::tile::prefetch_l2;

/// Where the weights of a matrix lie, in elements from the start of w.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    pub group: usize,
    /// Distances between the channels of the result, and between those of the source.
    pub row: usize,
    pub channel: usize,
    /// Where each tap is.
    pub taps: Box<[usize]>,
}

impl Weights {
    /// Whether all weights of one result channel lie side by side, rather than those of a source channel: they are packed in
    /// the order in which they lie.
    pub(super) fn lie_by_result(&self) -> bool {
        self.row > self.channel
    }
}

/// Where the planes of the result lie, in elements from its start.
#[derive(Clone, Debug)]
pub(super) struct Planes {
    pub image: usize,
    /// The number of channels, and the distance between them.
    pub channels: usize,
    pub channel: usize,
    pub positions: Offsets,
    /// What lies around the positions and is zero.
    pub around: Option<Around>,
}

/// What [`Direct::new`] needs to know; the source of position p under a tap is at `p * step + tap`.
pub(super) struct Parts {
    pub isa: Isa,
    pub threads: usize,
    pub dtype: DType,
    pub batch: usize,
    pub groups: usize,
    /// Source channels of a group, extents of the source and of the result.
    pub channels: usize,
    pub source: [usize; 3],
    pub result: [usize; 3],
    pub step: [i32; 3],
    pub taps: Vec<[i32; 3]>,
    pub weights: Weights,
    pub planes: Planes,
}

/// A prepared convolution in blocks.
#[derive(Clone, Debug)]
pub(super) struct Direct {
    isa: Isa,
    dtype: DType,
    batch: usize,
    groups: usize,
    grid: Grid,
    runs: Box<[Run]>,
    /// Steps of the sum.
    k: usize,
    weights: Weights,
    planes: Planes,
    /// Where the sum of each position begins in the grid.
    places: Box<[isize]>,
    /// Tiles of one image, and the parts into which they are split.
    tiles: usize,
    bands: usize,
    /// Channels of the result in a tile.
    width: usize,
    lanes: usize,
    /// Images (batch elements and groups) whose grids exist at the same time.
    at_once: usize,
    workers: usize,
    /// Whether its positions are all of the result, in its order.
    covers: bool,
}

/// Multiplications worth another thread: some ten microseconds.
pub(super) const THREAD_WORTH: usize = 400_000;
/// Bytes of the grids that exist at the same time, unless one is larger: they stay in the last-level cache.
const GRIDS_BYTES: usize = 8 << 20;

impl Direct {
    pub(super) fn new(parts: Parts) -> Direct {
        let Parts {
            isa,
            threads,
            dtype,
            batch,
            groups,
            channels,
            source,
            result,
            step,
            taps,
            weights,
            planes,
        } = parts;
        let kernels = row_kernels(isa);
        let grid = Grid::new(channels, source, result, step, &taps);
        let mut runs: Vec<Run> = Vec::new();
        for block in 0..grid.blocks() {
            let steps = grid.block.min(channels - block * grid.block);
            for tap in &taps {
                let from: [usize; 3] = std::array::from_fn(|axis| (tap[axis] - grid.origin[axis]) as usize);
                let offset = (block * grid.block_elements()) as isize + grid.place(from);
                match runs.last_mut() {
                    Some(run) if run.offset + run.steps as isize == offset => run.steps += steps,
                    Some(_) | None => runs.push(Run { offset, steps }),
                }
            }
        }
        let along: [usize; 3] = std::array::from_fn(|axis| (step[axis] / grid.pick[axis]) as usize);
        let [d, h, w] = result;
        let places: Box<[isize]> = (0..d * h * w)
            .map(|p| [p / (h * w) * along[0], p / w % h * along[1], p % w * along[2]])
            .map(|position| grid.place(position))
            .collect();
        let tiles = places.len().div_ceil(kernels.most_rows());
        let width = kernels.most_columns();
        let images = batch * groups;
        let at_once = (GRIDS_BYTES / (4 * grid.elements()).max(1)).clamp(1, images.max(1));
        let k = channels * taps.len();
        let covers = planes.around.is_none() && planes.channel == places.len();
        let work = images * places.len() * k * planes.channels;
        let workers = threads.min(work / THREAD_WORTH).max(1);
        // Large enough for an epilogue, small enough that the threads end together.
        let smallest = (epilogue::TILE_ELEMENTS / width / kernels.most_rows()).max(1);
        let others = at_once * planes.channels.div_ceil(width);
        let wanted = if workers > 1 { (8 * workers).div_ceil(others.max(1)) } else { 1 };
        let bands = wanted.max(tiles / (2 * smallest)).min(tiles.div_ceil(smallest)).max(1);
        Direct {
            isa,
            dtype,
            batch,
            groups,
            grid,
            runs: runs.into(),
            k,
            weights,
            planes,
            places,
            tiles,
            bands,
            width,
            lanes: kernels.lanes,
            at_once,
            workers,
            covers,
        }
    }

    /// Blocks of result channels.
    fn chunks(&self) -> usize {
        self.planes.channels.div_ceil(self.width)
    }

    /// The columns of the packed weights of a chunk: whole vectors.
    fn columns(&self, chunk: usize) -> usize {
        self.width.min((self.planes.channels - chunk * self.width).next_multiple_of(self.lanes))
    }

    /// Bytes of the packed weights of one group.
    fn group_bytes(&self) -> usize {
        lines(self.planes.channels.next_multiple_of(self.lanes) * self.k * 4)
    }

    pub(super) fn packed_bytes(&self) -> usize {
        self.groups * self.group_bytes()
    }

    /// The first position of a tile.
    fn position(&self, tile: usize) -> usize {
        self.places.len() * tile / self.tiles
    }

    /// The positions of a band.
    fn band(&self, band: usize) -> (usize, usize) {
        (self.tiles * band / self.bands, self.tiles * (band + 1) / self.bands)
    }

    /// Bytes of the finished tiles of a band.
    fn sums_bytes(&self) -> usize {
        let positions = self.places.len().div_ceil(self.tiles.max(1)) * self.tiles.div_ceil(self.bands);
        lines(positions * self.width * 4)
    }

    /// Whether its positions are all of the result.
    pub(super) fn covers(&self) -> bool {
        self.covers
    }

    fn grid_bytes(&self) -> usize {
        lines(self.grid.elements() * 4)
    }

    pub(super) fn workspace_bytes(&self) -> usize {
        self.packed_bytes() + self.at_once * self.grid_bytes() + self.workers * self.sums_bytes() + ALIGN
    }

    /// Brings the weights into the order in which they are read.
    ///
    /// # Safety
    /// `from` is w, `to` has `packed_bytes` bytes.
    pub(super) unsafe fn pack(&self, pool: &ThreadPool, from: *const u8, to: *mut u8) {
        let (from, to, next) = (Operand::Plain(from), Shared(to), AtomicUsize::new(0));
        let (chunks, blocks) = (self.chunks(), self.grid.blocks());
        let pieces = if self.weights.lie_by_result() { chunks } else { blocks };
        parallel(pool, self.workers, &|_| {
            let (Operand::Plain(from) | Operand::Packed(from)) = pick(&from);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.groups * pieces {
                    break;
                }
                let (group, piece) = (index / pieces, index % pieces);
                // SAFETY: passed on to the caller; pieces are disjoint.
                unsafe {
                    if self.weights.lie_by_result() {
                        self.pack_chunk(from, to.get(), group, piece, 0..blocks);
                    } else {
                        for chunk in 0..chunks {
                            self.pack_chunk(from, to.get(), group, chunk, piece..piece + 1);
                        }
                    }
                }
            }
        });
    }

    /// Packs the weights between some blocks of source channels and one chunk of result channels.
    unsafe fn pack_chunk(
        &self,
        from: *const u8,
        to: *mut u8,
        group: usize,
        chunk: usize,
        blocks: std::ops::Range<usize>,
    ) {
        let Direct { grid, weights, .. } = self;
        let (first, columns) = (chunk * self.width, self.columns(chunk));
        let rows = columns.min(self.planes.channels - first);
        let start = blocks.start * grid.block;
        let channels = ((blocks.end * grid.block).min(grid.channels) - start, grid.block);
        // SAFETY: passed on to the caller; the chunk lies within the group's packed weights.
        unsafe {
            let to = to.add(group * self.group_bytes()).cast::<f32>();
            let to = to.add(first * self.k + start * weights.taps.len() * columns);
            with_float!(self.dtype, S => {
                let from = from.cast::<S>().add(group * weights.group + first * weights.row);
                let from = from.add(start * weights.channel);
                self.isa.call(Reorder { from, weights, channels, rows, columns, to });
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
        if self.places.is_empty() || self.planes.channels == 0 {
            return;
        }
        let mut workspace = aligned(workspace);
        let mut weights = weights;
        if let Operand::Plain(from) = weights {
            // SAFETY: passed on to the caller; the workspace has room for the packed weights.
            unsafe { self.pack(pool, from, workspace) };
            weights = Operand::Packed(workspace);
        }
        // SAFETY: within the workspace.
        workspace = unsafe { workspace.add(self.packed_bytes()) };
        let images = self.batch * self.groups;
        for first in (0..images).step_by(self.at_once) {
            let images = first..(first + self.at_once).min(images);
            // SAFETY: passed on to the caller.
            unsafe {
                let filler = Filler { isa: self.isa, dtype: self.dtype, pool, workers: self.workers };
                filler.fill(&self.grid, source, images.clone(), (workspace, self.grid_bytes()));
                self.multiply(pool, weights, images, c, workspace, epilogue);
            }
        }
    }

    /// Computes the result of the images whose grids are there.
    unsafe fn multiply(
        &self,
        pool: &ThreadPool,
        weights: Operand,
        images: std::ops::Range<usize>,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        let tasks = self.chunks() * images.len() * self.bands;
        let (base, c, next) = (Shared(workspace), Shared(c), AtomicUsize::new(0));
        parallel(pool, self.workers, &|worker| {
            let (Operand::Plain(weights) | Operand::Packed(weights)) = pick(&weights);
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                let (rest, band) = (task / self.bands, task % self.bands);
                let (chunk, index) = (rest / images.len(), rest % images.len());
                let image = images.start + index;
                // SAFETY: passed on to the caller; each worker has its own sums, each task its own part of the result.
                unsafe {
                    let grid = base.get().add(index * self.grid_bytes());
                    let sums = base.get().add(self.at_once * self.grid_bytes() + worker * self.sums_bytes());
                    let weights = weights.add(image % self.groups * self.group_bytes());
                    let weights = weights.cast::<f32>().add(chunk * self.width * self.k);
                    self.band_of(weights, grid.cast(), c.get(), sums.cast(), (image, chunk, band), epilogue);
                }
            }
        });
    }

    /// One band of one chunk.
    unsafe fn band_of(
        &self,
        weights: *const f32,
        grid: *const f32,
        c: *mut u8,
        sums: *mut f32,
        (image, chunk, band): (usize, usize, usize),
        epilogue: Option<&Epilogue>,
    ) {
        let (kernels, columns) = (row_kernels(self.isa), self.columns(chunk));
        let (low, high) = self.band(band);
        let n = (self.position(low), self.position(high));
        let first = self.planes.channel * chunk * self.width + image * self.planes.image;
        for tile in low..high {
            self.prefetch_result(c, first, columns, self.position(tile));
            let (start, end) = (self.position(tile), self.position(tile + 1));
            let mut rows = [std::ptr::null::<f32>(); 16];
            for (row, place) in rows.iter_mut().zip(&self.places[start..end]) {
                *row = grid.wrapping_offset(*place);
            }
            let to = sums.wrapping_add((start - n.0) * columns);
            let (rows, b) = (rows.as_ptr(), weights);
            let task = Rows { rows, runs: &self.runs, pace: 1, b, to, step: columns, accumulate: false };
            // SAFETY: passed on to the caller; the instruction set was checked when this was prepared.
            unsafe { kernels.kernel(end - start, columns)(&task) };
        }
        let m = (chunk * self.width, ((chunk + 1) * self.width).min(self.planes.channels));
        // SAFETY: passed on to the caller.
        unsafe {
            with_float!(self.dtype, S => {
                let to = c.cast::<S>().add(image * self.planes.image + m.0 * self.planes.channel);
                let Planes { channel, positions, around, .. } = &self.planes;
                let (channels, channel, step) = (m.1 - m.0, *channel, columns);
                if let Some(around) = around {
                    self.isa.call(around.zeros(to, channels, channel, n));
                }
                self.isa.call(Spread { from: sums, step, to, channels, channel, positions, n });
            });
            epilogue::call(epilogue, image, m, n);
        }
    }

    /// Asks for the lines of the result in which a tile begins, one for each of `channels` planes from element `first` on: they
    /// arrive while the tile is computed.
    #[inline(always)]
    fn prefetch_result(&self, c: *mut u8, first: usize, channels: usize, position: usize) {
        let bytes = self.dtype.bytes();
        let at = c
            .wrapping_add(first * bytes)
            .wrapping_offset(self.planes.positions.at(position) * bytes as isize);
        for channel in 0..channels {
            prefetch_l2(at.wrapping_add(channel * self.planes.channel * bytes));
        }
    }
}
