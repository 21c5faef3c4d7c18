//! A convolution as sums over a padded copy of its source, read in place: y from x, or the gradient of x from y.
//!
//! A tile is some positions of the result times two vectors of its channels. For each step of the sum (a source channel
//! under a tap) it broadcasts the source's element at each position against the packed weights, so that neither stride nor
//! padding nor the end of a row costs anything, and planes of any size fill the vectors. The copy has blocks of channels at
//! each position ([`Grid`]); finished tiles are transposed on their way to the planes of the result.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::grid::{FillRows, Grid};
use super::rows::{Rows, Run, row_kernels};
use super::with_float;
use crate::blocked::{ALIGN, Operand, Shared, aligned, lines, parallel, pick};
use crate::element::{DType, Storage};
use crate::epilogue::{self, Epilogue};
use crate::isa::{Isa, Work};
use crate::offsets::Offsets;
use crate::pool::ThreadPool;

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

/// Where the planes of the result lie, in elements from its start.
#[derive(Clone, Debug)]
pub(super) struct Planes {
    pub image: usize,
    /// The number of channels, and the distance between them.
    pub channels: usize,
    pub channel: usize,
    pub positions: Offsets,
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
}

/// Multiplications worth another thread: some ten microseconds.
pub(super) const THREAD_WORTH: usize = 400_000;
/// Bytes of the grids that exist at the same time, unless one is larger: they stay in the last-level cache.
const GRIDS_BYTES: usize = 8 << 20;
/// Rows of a grid that are filled as one task.
const FILL_ROWS: usize = 8;

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
        parallel(pool, self.workers, &|_| {
            let (Operand::Plain(from) | Operand::Packed(from)) = pick(&from);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.groups * self.chunks() {
                    break;
                }
                // SAFETY: passed on to the caller; chunks are disjoint.
                unsafe { self.pack_chunk(from, to.get(), index) };
            }
        });
    }

    unsafe fn pack_chunk(&self, from: *const u8, to: *mut u8, index: usize) {
        let (group, chunk) = (index / self.chunks(), index % self.chunks());
        // SAFETY: passed on to the caller; the chunk lies within the group's packed weights.
        unsafe {
            let to = to.add(group * self.group_bytes()).cast::<f32>().add(chunk * self.width * self.k);
            with_float!(self.dtype, S => {
                let from = from.cast::<S>().add(group * self.weights.group);
                self.isa.call(PackChunk { direct: self, from, to, chunk });
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
                self.fill(pool, source, images.clone(), workspace);
                self.multiply(pool, weights, images, c, workspace, epilogue);
            }
        }
    }

    /// Copies some images to their grids.
    unsafe fn fill(
        &self,
        pool: &ThreadPool,
        source: Operand,
        images: std::ops::Range<usize>,
        workspace: *mut u8,
    ) {
        let grid = &self.grid;
        let rows = grid.extent[0] * grid.extent[1];
        let strips = rows.div_ceil(FILL_ROWS);
        let tasks = images.len() * grid.blocks() * strips;
        let image = grid.channels * grid.source.iter().product::<usize>();
        let (grids, next) = (Shared(workspace), AtomicUsize::new(0));
        parallel(pool, self.workers, &|_| {
            let (Operand::Plain(source) | Operand::Packed(source)) = pick(&source);
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                let (rest, strip) = (task / strips, task % strips);
                let (index, block) = (rest / grid.blocks(), rest % grid.blocks());
                let rows = (strip * FILL_ROWS, ((strip + 1) * FILL_ROWS).min(rows));
                // SAFETY: passed on to the caller; strips of rows are disjoint.
                with_float!(self.dtype, S => unsafe {
                    let from = source.cast::<S>().add((images.start + index) * image);
                    let to = grids.get().add(index * self.grid_bytes()).cast::<f32>();
                    let to = to.add(block * grid.block_elements() + rows.0 * grid.extent[2] * grid.block);
                    self.isa.call(FillRows { grid, from, to, block, rows });
                });
            }
        });
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
        for tile in low..high {
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
                let (channel, positions) = (self.planes.channel, &self.planes.positions);
                self.isa.call(Spread { from: sums, step: columns, to, channels: m.1 - m.0, channel, positions, n });
            });
            epilogue::call(epilogue, image, m, n);
        }
    }
}

/// Packs the weights of one chunk of result channels.
struct PackChunk<'a, S> {
    direct: &'a Direct,
    from: *const S,
    to: *mut f32,
    chunk: usize,
}

impl<S: Storage<Compute = f32>> Work for PackChunk<'_, S> {
    /// # Safety
    /// `from` is the group's w, `to` has room for the chunk.
    #[inline(always)]
    unsafe fn go(self) {
        let Direct { grid, weights, width, .. } = self.direct;
        let columns = self.direct.columns(self.chunk);
        let first = self.chunk * width;
        let rows = columns.min(self.direct.planes.channels - first);
        let mut to = self.to;
        // SAFETY: passed on to the caller.
        unsafe {
            for block in 0..grid.blocks() {
                let channels = block * grid.block..((block + 1) * grid.block).min(grid.channels);
                for tap in &weights.taps {
                    for channel in channels.clone() {
                        let from = self.from.add(first * weights.row + channel * weights.channel + tap);
                        for row in 0..rows {
                            *to.add(row) = (*from.add(row * weights.row)).widen();
                        }
                        for row in rows..columns {
                            *to.add(row) = 0.0;
                        }
                        to = to.add(columns);
                    }
                }
            }
        }
    }
}

/// Moves finished tiles, with the channels of each position side by side, to the planes of the result.
pub(super) struct Spread<'a, S> {
    pub from: *const f32,
    pub step: usize,
    /// The first channel's plane, the number of channels, and the distance between their planes.
    pub to: *mut S,
    pub channels: usize,
    pub channel: usize,
    pub positions: &'a Offsets,
    pub n: (usize, usize),
}

impl<S: Storage<Compute = f32>> Work for Spread<'_, S> {
    /// # Safety
    /// `from` has the positions `n` with their channels, `to` is valid at every position of every channel.
    #[inline(always)]
    unsafe fn go(self) {
        let mut p = self.n.0;
        while p < self.n.1 {
            let run = self.positions.even_from(p, self.n.1 - p);
            let from = self.from.wrapping_add((p - self.n.0) * self.step);
            let to = self.to.wrapping_offset(self.positions.at(p));
            let fours = if S::SAME && self.positions.inner == 1 { 4 } else { usize::MAX };
            let (channels, length) = match fours {
                4 => (self.channels / 4 * 4, run / 4 * 4),
                _ => (0, 0),
            };
            // SAFETY: passed on to the caller; where four by four are moved, an element is an f32.
            unsafe {
                for c in (0..channels).step_by(4) {
                    for x in (0..length).step_by(4) {
                        let rows = std::array::from_fn(|i| from.add((x + i) * self.step + c));
                        f32::transpose4(rows, to.add(c * self.channel + x).cast(), self.channel);
                    }
                }
                for c in 0..self.channels {
                    let done = if c < channels { length } else { 0 };
                    for x in done..run {
                        let at = (c * self.channel) as isize + x as isize * self.positions.inner;
                        *to.offset(at) = S::narrow(*from.add(x * self.step + c));
                    }
                }
            }
            p += run;
        }
    }
}
