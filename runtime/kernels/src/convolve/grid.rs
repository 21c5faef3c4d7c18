//! A tensor's planes copied between zeros, with blocks of channels side by side at each position.
//!
//! A step of a convolution then finds its channels in one cache line, whatever the stride, and no tap has to ask where the
//! planes end.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{range, with_float};
use crate::blocked::{Operand, Shared, parallel, pick};
use crate::element::{DType, Storage};
use crate::isa::{Isa, Work};
use crate::pool::ThreadPool;
use crate::tile::prefetch_l2;

/// Channels of one block: as many `f32` as fill a cache line.
pub(super) const BLOCK: usize = 16;

/// Rows of a grid that are filled as one task.
const FILL_ROWS: usize = 8;
/// Rows by which the source is asked for ahead: rows of a few cache lines in many planes are more streams than the hardware
/// follows by itself.
const ROWS_AHEAD: usize = 2;

/// The copy of the planes of one matrix (one batch element and group).
#[derive(Clone, Debug)]
pub(super) struct Grid {
    /// Channels, and how many of them a block holds; the last block may have less, but takes as much room.
    pub channels: usize,
    pub block: usize,
    /// Extents of the planes that are copied.
    pub source: [usize; 3],
    /// The position in the source of the grid's first element, and the distance to the next along each axis.
    pub origin: [i32; 3],
    pub pick: [i32; 3],
    /// Extents of the grid.
    pub extent: [usize; 3],
}

impl Grid {
    /// A grid of what lies at `p * step + tap` for each position p below `result` and each of the taps.
    pub(super) fn new(
        channels: usize,
        source: [usize; 3],
        result: [usize; 3],
        step: [i32; 3],
        taps: &[[i32; 3]],
    ) -> Grid {
        let lowest = std::array::from_fn(|axis| taps.iter().map(|tap| tap[axis]).min().unwrap_or_default());
        let highest: [i32; 3] =
            std::array::from_fn(|axis| taps.iter().map(|tap| tap[axis]).max().unwrap_or_default());
        let span: [usize; 3] = std::array::from_fn(|axis| (highest[axis] - lowest[axis]) as usize);
        // Where all taps fall on one place, only the positions that are met are copied.
        let pick = std::array::from_fn(|axis| if span[axis] == 0 { step[axis] } else { 1 });
        let extent = std::array::from_fn(|axis| {
            let last = result[axis].saturating_sub(1) * (step[axis] / pick[axis]) as usize;
            last + span[axis] + 1
        });
        Grid { channels, block: channels.clamp(1, BLOCK), source, origin: lowest, pick, extent }
    }

    /// Blocks of channels.
    pub(super) fn blocks(&self) -> usize {
        self.channels.div_ceil(self.block)
    }

    /// Elements of one block's part.
    pub(super) fn block_elements(&self) -> usize {
        self.extent.iter().product::<usize>() * self.block
    }

    /// Elements of the grid.
    pub(super) fn elements(&self) -> usize {
        self.blocks() * self.block_elements()
    }

    /// Where the element lies that belongs to a position counted from the first of the grid.
    pub(super) fn place(&self, [z, y, x]: [usize; 3]) -> isize {
        (((z * self.extent[1] + y) * self.extent[2] + x) * self.block) as isize
    }
}

/// Who copies images to their grids: the instruction set, the element type of the source, and how many threads.
pub(super) struct Filler<'a> {
    pub isa: Isa,
    pub dtype: DType,
    pub pool: &'a ThreadPool,
    pub workers: usize,
}

impl Filler<'_> {
    /// Copies some images of `source` to their grids, which are `bytes` bytes apart from `grids` on.
    ///
    /// # Safety
    /// The source has the images, `grids` room for as many grids, which nobody else uses meanwhile.
    pub(super) unsafe fn fill(
        &self,
        grid: &Grid,
        source: Operand,
        images: Range<usize>,
        (grids, bytes): (*mut u8, usize),
    ) {
        let rows = grid.extent[0] * grid.extent[1];
        let strips = rows.div_ceil(FILL_ROWS);
        let tasks = images.len() * grid.blocks() * strips;
        let image = grid.channels * grid.source.iter().product::<usize>();
        let (grids, next) = (Shared(grids), AtomicUsize::new(0));
        parallel(self.pool, self.workers, &|_| {
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
                    let to = grids.get().add(index * bytes).cast::<f32>();
                    let to = to.add(block * grid.block_elements() + rows.0 * grid.extent[2] * grid.block);
                    self.isa.call(FillRows { grid, from, to, block, rows });
                });
            }
        });
    }
}

/// Copies rows (all axes but the last) `rows.0 .. rows.1` of one block.
pub(super) struct FillRows<'a, S: Storage> {
    pub grid: &'a Grid,
    /// The planes of the matrix.
    pub from: *const S,
    /// The first of these rows in the grid.
    pub to: *mut S::Compute,
    pub block: usize,
    pub rows: (usize, usize),
}

impl<S: Storage> Work for FillRows<'_, S> {
    /// # Safety
    /// `from` has the planes, `to` room for the rows.
    #[inline(always)]
    unsafe fn go(self) {
        let grid = self.grid;
        let length = grid.extent[2] * grid.block;
        for row in self.rows.0..(self.rows.0 + ROWS_AHEAD).min(self.rows.1) {
            self.prefetch(row);
        }
        for row in self.rows.0..self.rows.1 {
            if row + ROWS_AHEAD < self.rows.1 {
                self.prefetch(row + ROWS_AHEAD);
            }
            // SAFETY: passed on to the caller.
            unsafe { self.row(row, self.to.add((row - self.rows.0) * length)) };
        }
    }
}

/// Where a row of a grid comes from.
struct Origin {
    /// The grid's positions that lie inside of the source.
    low: usize,
    high: usize,
    /// The first of them in the source's plane.
    at: isize,
}

impl<S: Storage> FillRows<'_, S> {
    #[inline(always)]
    fn origin(&self, row: usize) -> Origin {
        let grid = self.grid;
        let [_, height, width] = grid.source.map(|extent| extent as i32);
        let z = grid.origin[0] + (row / grid.extent[1]) as i32 * grid.pick[0];
        let y = grid.origin[1] + (row % grid.extent[1]) as i32 * grid.pick[1];
        let inside = (0..grid.source[0] as i32).contains(&z) && (0..height).contains(&y);
        let len = if inside { grid.source[2] } else { 0 };
        let (low, high) = range(grid.origin[2], grid.pick[2], len, grid.extent[2]);
        let at = (z as isize * height as isize + y as isize) * width as isize;
        Origin { low, high, at: at + (grid.origin[2] + low as i32 * grid.pick[2]) as isize }
    }

    /// The channels of the block, and the elements of a plane.
    #[inline(always)]
    fn channels(&self) -> (usize, usize, usize) {
        let first = self.block * self.grid.block;
        let count = self.grid.block.min(self.grid.channels - first);
        (first, count, self.grid.source.iter().product())
    }

    /// Asks for the source of a row.
    #[inline(always)]
    fn prefetch(&self, row: usize) {
        let Origin { low, high, at } = self.origin(row);
        let (first, count, plane) = self.channels();
        let bytes = (high - low) * self.grid.pick[2] as usize * size_of::<S>();
        for c in first..first + count {
            let from = self.from.wrapping_offset(at).wrapping_add(c * plane).cast::<u8>();
            for line in (0..bytes).step_by(64) {
                prefetch_l2(from.wrapping_add(line));
            }
        }
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize, to: *mut S::Compute) {
        let (grid, block) = (self.grid, self.grid.block);
        let Origin { low, high, at } = self.origin(row);
        let (first, count, plane) = self.channels();
        // SAFETY: the row lies within the grid, and what is read within the planes. Four channels at a time are written, those
        // beyond the block (of three at least) into the next position, which is written afterwards, the last one by one.
        unsafe {
            for i in 0..low * block {
                *to.add(i) = S::Compute::default();
            }
            for i in high * block..grid.extent[2] * block {
                *to.add(i) = S::Compute::default();
            }
            if low >= high {
                return;
            }
            let from = self.from.wrapping_offset(at).wrapping_add(first * plane);
            let to = to.add(low * block);
            let (pick, len) = (grid.pick[2] as usize, high - low);
            let fours = if block > 2 { (len - 1) / 4 * 4 } else { 0 };
            // From the last channels to the first, so that what runs over the block is written again.
            for c in (0..count).step_by(4).rev() {
                let rows: [*const S; 4] = std::array::from_fn(|i| from.add((c + i).min(count - 1) * plane));
                for x in (0..fours).step_by(4) {
                    let to = to.add(x * block + c);
                    if pick == 1 {
                        S::transpose4(rows.map(|row| row.add(x)), to, block);
                    } else {
                        let picked: [[S; 4]; 4] =
                            rows.map(|row| std::array::from_fn(|i| *row.add((x + i) * pick)));
                        S::transpose4(picked.each_ref().map(|row| row.as_ptr()), to, block);
                    }
                }
            }
            for x in fours..len {
                for c in 0..count {
                    *to.add(x * block + c) = (*from.add(c * plane + x * pick)).widen();
                }
            }
        }
    }
}
