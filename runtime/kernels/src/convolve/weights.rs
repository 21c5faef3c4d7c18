//! The gradient of the weights as sums over padded copies of x and y, in blocks of channels.
//!
//! A row of the product is a channel of x under a tap, and its steps are the positions of y: each broadcasts the element of x
//! that the tap meets there, at the pace of the stride, against two vectors of y's channels, which lie side by side in the
//! copy. Sums are kept over all batch elements and transposed into w at the end.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::direct::THREAD_WORTH;
use super::grid::{Filler, Grid};
use super::rows::{Rows, Run, row_kernels};
use super::spread::Spread;
use super::{Convolution, Window, with_float};
use crate::blocked::{ALIGN, Operand, Shared, aligned, lines, parallel};
use crate::element::DType;
use crate::epilogue::{self, Epilogue};
use crate::isa::Isa;
use crate::offsets::Offsets;
use crate::pool::ThreadPool;

/// A prepared gradient of weights.
#[derive(Clone, Debug)]
pub(super) struct WeightGradient {
    isa: Isa,
    dtype: DType,
    batch: usize,
    groups: usize,
    x: Grid,
    /// Without padding; its blocks are as wide as a row of the kernel.
    y: Grid,
    /// Where each row begins in the grid of x.
    rows: Box<[isize]>,
    /// A run along each row of y's positions, and the distance between its steps.
    runs: Box<[Run]>,
    pace: isize,
    /// The places of a matrix's rows in w.
    columns: Offsets,
    /// Row panels, and the parts into which they are split.
    panels: usize,
    bands: usize,
    /// Batch elements whose grids exist at the same time.
    at_once: usize,
    workers: usize,
}

/// Bytes of the grids that exist at the same time, unless those of one batch element are larger.
const GRIDS_BYTES: usize = 16 << 20;

impl WeightGradient {
    pub(super) fn new(
        convolution: &Convolution,
        window: &Window,
        taps: &[[i32; 3]],
        isa: Isa,
        threads: usize,
    ) -> WeightGradient {
        let kernels = row_kernels(isa);
        let (ci, co) = (convolution.in_channels, convolution.out_channels);
        let (batch, groups) = (convolution.batch, convolution.groups);
        let x = Grid::new(ci, window.input, window.output, window.stride, taps);
        let mut y = Grid::new(co, window.output, window.output, [1; 3], &[[0; 3]]);
        y.block = kernels.most_columns();
        let row = |channel: usize, tap: &[i32; 3]| {
            let place: [usize; 3] = std::array::from_fn(|axis| (tap[axis] - x.origin[axis]) as usize);
            let block = channel / x.block * x.block_elements();
            (block + channel % x.block) as isize + x.place(place)
        };
        let rows: Box<[isize]> = (0..ci)
            .flat_map(|channel| taps.iter().map(move |tap| (channel, tap)))
            .map(|(channel, tap)| row(channel, tap))
            .collect();
        let along: [usize; 3] = std::array::from_fn(|axis| (window.stride[axis] / x.pick[axis]) as usize);
        let [d, h, w] = window.output;
        let runs = (0..d * h)
            .map(|index| x.place([index / h * along[0], index % h * along[1], 0]))
            .map(|offset| Run { offset, steps: w })
            .collect();
        let panels = rows.len().div_ceil(kernels.most_rows());
        let chunks = (groups * co.div_ceil(y.block)).max(1);
        let work = batch * groups * rows.len() * co * d * h * w;
        let workers = threads.min(work / THREAD_WORTH).max(1);
        let bands = if workers > 1 { (8 * workers).div_ceil(chunks) } else { 1 };
        let each = 4 * groups * (x.elements() + y.elements());
        WeightGradient {
            isa,
            dtype: convolution.dtype,
            batch,
            groups,
            pace: (along[2] * x.block) as isize,
            columns: Offsets::even(rows.len(), 1),
            x,
            y,
            rows,
            runs,
            panels,
            bands: bands.clamp(1, panels.max(1)),
            at_once: (GRIDS_BYTES / each.max(1)).clamp(1, batch.max(1)),
            workers,
        }
    }

    /// Bytes of the grids of x and of y of one batch element and group.
    fn grid_bytes(&self) -> (usize, usize) {
        (lines(self.x.elements() * 4), lines(self.y.elements() * 4))
    }

    /// Elements of the sums of one chunk of y's channels.
    fn chunk_elements(&self) -> usize {
        self.rows.len() * self.y.block
    }

    fn sums_bytes(&self) -> usize {
        lines(self.groups * self.y.blocks() * self.chunk_elements() * 4)
    }

    pub(super) fn workspace_bytes(&self) -> usize {
        let (x, y) = self.grid_bytes();
        self.sums_bytes() + self.at_once * self.groups * (x + y) + ALIGN
    }

    /// Computes w from y and x.
    ///
    /// # Safety
    /// As for `PreparedConvolution::run`.
    pub(super) unsafe fn run(
        &self,
        pool: &ThreadPool,
        y: Operand,
        x: Operand,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        if self.rows.is_empty() || self.y.channels == 0 {
            return;
        }
        let sums = aligned(workspace);
        // SAFETY: within the workspace.
        let grids = unsafe { sums.add(self.sums_bytes()) };
        let (x_bytes, y_bytes) = self.grid_bytes();
        let mut first = 0;
        // Without batch elements there is still a w to be written, of zeros.
        loop {
            let batches = first..(first + self.at_once).min(self.batch);
            let images = batches.start * self.groups..batches.end * self.groups;
            // SAFETY: passed on to the caller; the grids lie within the workspace.
            unsafe {
                let y_grids = grids.add(self.at_once * self.groups * x_bytes);
                let filler = Filler { isa: self.isa, dtype: self.dtype, pool, workers: self.workers };
                filler.fill(&self.x, x, images.clone(), (grids, x_bytes));
                filler.fill(&self.y, y, images, (y_grids, y_bytes));
                self.multiply(pool, batches.clone(), sums, (grids, y_grids), c, epilogue);
            }
            first = batches.end;
            if first >= self.batch {
                break;
            }
        }
    }

    /// Adds the products of some batch elements to the sums; after the last, moves them to w.
    unsafe fn multiply(
        &self,
        pool: &ThreadPool,
        batches: Range<usize>,
        sums: *mut u8,
        (x, y): (*mut u8, *mut u8),
        c: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        let (x_bytes, y_bytes) = self.grid_bytes();
        let tasks = self.groups * self.y.blocks() * self.bands;
        let (x, y, c, sums) = (Shared(x), Shared(y), Shared(c), Shared(sums));
        let next = AtomicUsize::new(0);
        parallel(pool, self.workers, &|_| {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                let (chunk, band) = (task / self.bands, task % self.bands);
                let (group, block) = (chunk / self.y.blocks(), chunk % self.y.blocks());
                let panels = self.panels * band / self.bands..self.panels * (band + 1) / self.bands;
                let sums = sums.get().cast::<f32>().wrapping_add(chunk * self.chunk_elements());
                for batch in batches.clone() {
                    let image = (batch - batches.start) * self.groups + group;
                    let x = x.get().wrapping_add(image * x_bytes).cast::<f32>();
                    let y = y.get().wrapping_add(image * y_bytes).cast::<f32>();
                    let y = y.wrapping_add(block * self.y.block_elements());
                    // SAFETY: passed on to the caller; tasks have their own sums.
                    unsafe { self.panels(panels.clone(), x, y, sums, batch > 0) };
                }
                if batches.end == self.batch {
                    // SAFETY: as above; tasks have their own parts of w.
                    unsafe { self.finish(panels, group, block, sums, c.get(), epilogue) };
                }
            }
        });
    }

    /// The first row of a panel.
    fn row(&self, panel: usize) -> usize {
        self.rows.len() * panel / self.panels
    }

    /// Some row panels of one chunk, for one batch element.
    unsafe fn panels(
        &self,
        panels: Range<usize>,
        x: *const f32,
        y: *const f32,
        sums: *mut f32,
        accumulate: bool,
    ) {
        let (kernels, columns) = (row_kernels(self.isa), self.y.block);
        for panel in panels {
            let (start, end) = (self.row(panel), self.row(panel + 1));
            let mut rows = [std::ptr::null::<f32>(); 16];
            for (row, place) in rows.iter_mut().zip(&self.rows[start..end]) {
                *row = x.wrapping_offset(*place);
            }
            let to = sums.wrapping_add(start * columns);
            let (rows, step) = (rows.as_ptr(), columns);
            let task = Rows { rows, runs: &self.runs, pace: self.pace, b: y, to, step, accumulate };
            // SAFETY: passed on to the caller; the instruction set was checked when this was prepared.
            unsafe { kernels.kernel(end - start, columns)(&task) };
        }
    }

    /// Moves finished sums to w.
    unsafe fn finish(
        &self,
        panels: Range<usize>,
        group: usize,
        block: usize,
        sums: *mut f32,
        c: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        let m = (block * self.y.block, ((block + 1) * self.y.block).min(self.y.channels));
        let n = (self.row(panels.start), self.row(panels.end));
        if n.0 == n.1 {
            return;
        }
        let (channel, step) = (self.rows.len(), self.y.block);
        // SAFETY: passed on to the caller.
        unsafe {
            if self.batch == 0 {
                sums.add(n.0 * step).write_bytes(0, (n.1 - n.0) * step);
            }
            let from = sums.add(n.0 * step).cast_const();
            with_float!(self.dtype, S => {
                let to = c.cast::<S>().add((group * self.y.channels + m.0) * channel);
                let (channels, positions) = (m.1 - m.0, &self.columns);
                self.isa.call(Spread { from, step, to, channels, channel, positions, n });
            });
            epilogue::call(epilogue, group, m, n);
        }
    }
}
