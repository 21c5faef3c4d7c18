//! Convolutions of one channel to one: too little reuse for a product, so rows are summed directly.
//!
//! A row of the source is first copied between zeros, under a stride apart by remainder, so that every tap then adds whole
//! vectors without a question where the row ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Convolution, Direction, Window, range};
use crate::blocked::{ALIGN, Operand, Shared, aligned, lines, parallel, pick};
use crate::element::{Compute, DType, Storage, with_storage};
use crate::epilogue::{self, Epilogue};
use crate::isa::{Isa, Work};
use crate::pool::ThreadPool;

/// A prepared convolution of `batch * groups` planes.
#[derive(Clone, Debug)]
pub(crate) struct Depthwise {
    direction: Direction,
    isa: Isa,
    dtype: DType,
    batch: usize,
    groups: usize,
    window: Window,
    /// Rows (all axes but the last) of the result that one task computes.
    rows: usize,
    workers: usize,
    row: Row,
    /// Whether a plane of the source is buffered whole before its rows are used; else each row each time.
    whole: bool,
}

/// How a row of the source lies in the buffer.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Results that one buffered row serves, in whole blocks.
    results: usize,
    /// Elements of one remainder's part, and the number of parts.
    part: usize,
    parts: usize,
    /// Where element 0 of the source belongs, counted before the row is taken apart; its neighbours are `spread` further on.
    first: i32,
    spread: usize,
}

impl Row {
    fn new(direction: Direction, window: &Window) -> Row {
        let (stride, reach) =
            (window.stride[2] as usize, (window.kernel[2].max(1) - 1) * window.dilation[2] as usize);
        match direction {
            Direction::Forward | Direction::WeightGradient => {
                let results = window.output[2].next_multiple_of(BLOCK);
                Row {
                    results,
                    part: results + reach / stride + 1,
                    parts: stride,
                    first: window.pad[2],
                    spread: 1,
                }
            }
            // The gradient of x is the sum of y, spread out by the stride, with the taps in reverse.
            Direction::InputGradient => {
                let results = window.input[2].next_multiple_of(BLOCK);
                let first = reach as i32 - window.pad[2];
                Row { results, part: results + reach + 1, parts: 1, first, spread: stride }
            }
        }
    }

    /// Copies a row of the source between zeros.
    ///
    /// # Safety
    /// `from` has `len` elements, `to` has `part * parts`.
    #[inline(always)]
    unsafe fn fill<S: Storage>(&self, from: *const S, len: usize, to: *mut S::Compute) {
        // SAFETY: passed on to the caller; `range` keeps to the part.
        unsafe {
            for i in 0..self.part * self.parts {
                *to.add(i) = S::Compute::default();
            }
            let step = self.parts as i32;
            for part in 0..self.parts {
                // Place i of this part is element (i * parts + part - first) / spread of the source.
                let to = to.add(part * self.part);
                if self.spread == 1 {
                    let start = part as i32 - self.first;
                    let (low, high) = range(start, step, len, self.part);
                    let from = from.wrapping_offset((start + low as i32 * step) as isize);
                    if step == 1 {
                        for i in 0..high - low {
                            *to.add(low + i) = (*from.add(i)).widen();
                        }
                    } else {
                        for i in 0..high - low {
                            *to.add(low + i) = (*from.add(i * self.parts)).widen();
                        }
                    }
                } else {
                    let (low, high) = range(self.first, self.spread as i32, self.part, len);
                    for i in low..high {
                        let at = self.first as isize + (i * self.spread) as isize;
                        *to.offset(at) = (*from.add(i)).widen();
                    }
                }
            }
        }
    }

    /// Where the elements that a tap of the last axis meets begin.
    #[inline(always)]
    fn tap(&self, window: &Window, tap: usize) -> usize {
        if self.spread == 1 && self.parts > 1 {
            let distance = tap * window.dilation[2] as usize;
            distance % self.parts * self.part + distance / self.parts
        } else {
            tap * window.dilation[2] as usize
        }
    }
}

/// The largest plane that is buffered whole: a part of the second-level cache.
const LARGEST_BUFFER: usize = 256 << 10;

/// Elements summed at a time.
const BLOCK: usize = 16;

/// Multiplications worth another thread: some ten microseconds.
const THREAD_WORTH: usize = 200_000;

impl Depthwise {
    pub(super) fn new(convolution: &Convolution, window: Window, isa: Isa, threads: usize) -> Depthwise {
        let result = match convolution.direction {
            Direction::Forward => window.output,
            Direction::InputGradient => window.input,
            Direction::WeightGradient => window.kernel,
        };
        let all = result[0] * result[1];
        let row = Row::new(convolution.direction, &window);
        let source = match convolution.direction {
            Direction::Forward | Direction::WeightGradient => window.input,
            Direction::InputGradient => window.output,
        };
        let buffer = source[0] * source[1] * row.part * row.parts * convolution.dtype.compute_bytes();
        let whole = buffer <= LARGEST_BUFFER;
        let work = convolution.flops() as usize / 2;
        let rows = match convolution.direction {
            Direction::Forward | Direction::InputGradient => {
                epilogue::TILE_ELEMENTS.div_ceil(result[2].max(1))
            }
            Direction::WeightGradient => all,
        };
        Depthwise {
            direction: convolution.direction,
            isa,
            dtype: convolution.dtype,
            batch: convolution.batch,
            groups: convolution.groups,
            window,
            rows: rows.clamp(1, all.max(1)),
            workers: threads.min(work / THREAD_WORTH).max(1),
            row,
            whole,
        }
    }

    /// Extents of the result, and whether it has one plane for each batch element.
    fn result(&self) -> ([usize; 3], usize) {
        match self.direction {
            Direction::Forward => (self.window.output, self.batch * self.groups),
            Direction::InputGradient => (self.window.input, self.batch * self.groups),
            Direction::WeightGradient => (self.window.kernel, self.groups),
        }
    }

    pub(super) fn weights_bytes(&self) -> usize {
        self.groups * self.window.kernel.iter().product::<usize>() * self.dtype.bytes()
    }

    /// Elements of a worker's sums, of its row of y in whole blocks, and of its buffered row.
    fn buffers(&self) -> (usize, usize, usize) {
        let sums = match self.direction {
            Direction::Forward | Direction::InputGradient => self.row.results,
            Direction::WeightGradient => self.window.kernel.iter().product::<usize>() * BLOCK,
        };
        let rows = if self.whole { self.source_rows().0 } else { 1 };
        (sums, self.row.results, self.row.part * self.row.parts * rows)
    }

    /// Rows of a plane of the source, and their length.
    fn source_rows(&self) -> (usize, usize) {
        let source = match self.direction {
            Direction::Forward | Direction::WeightGradient => self.window.input,
            Direction::InputGradient => self.window.output,
        };
        (source[0] * source[1], source[2])
    }

    fn row_bytes(&self) -> usize {
        let (sums, y, row) = self.buffers();
        lines((sums + y + row) * self.dtype.compute_bytes())
    }

    pub(super) fn workspace_bytes(&self) -> usize {
        self.workers * self.row_bytes() + ALIGN
    }

    /// # Safety
    /// As for `PreparedConvolution::run`; `left` is w, or y for the gradient of the weights, `right` is x or y.
    pub(super) unsafe fn run(
        &self,
        pool: &ThreadPool,
        left: Operand,
        right: Operand,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        let (extents, planes) = self.result();
        let all = extents[0] * extents[1];
        if planes == 0 || all * extents[2] == 0 {
            return;
        }
        let pieces = all.div_ceil(self.rows);
        let next = AtomicUsize::new(0);
        let (base, c) = (Shared(aligned(workspace)), Shared(c));
        let body = |worker: usize| {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= planes * pieces {
                    break;
                }
                let (plane, first) = (task / pieces, task % pieces * self.rows);
                let rows = (first, (first + self.rows).min(all));
                let (Operand::Plain(left) | Operand::Packed(left)) = pick(&left);
                let (Operand::Plain(right) | Operand::Packed(right)) = pick(&right);
                // SAFETY: passed on to the caller; each worker has its own row, each task its own rows of the result.
                unsafe {
                    let sums = base.get().add(worker * self.row_bytes());
                    with_storage!(self.dtype, S => {
                        let (left, right, to, sums) = (left.cast(), right.cast(), c.get().cast(), sums.cast());
                        self.isa.call(Rows::<S> { depthwise: self, plane, rows, left, right, to, sums });
                    });
                    epilogue::call(epilogue, plane, (0, 1), (rows.0 * extents[2], rows.1 * extents[2]));
                }
            }
        };
        parallel(pool, self.workers, &body);
    }
}

/// Some rows of one plane of the result.
struct Rows<'a, S: Storage> {
    depthwise: &'a Depthwise,
    plane: usize,
    rows: (usize, usize),
    left: *const S,
    right: *const S,
    to: *mut S,
    sums: *mut S::Compute,
}

impl<S: Storage> Work for Rows<'_, S> {
    /// # Safety
    /// The operands are those of the convolution, `sums` has room for the worker's buffers.
    #[inline(always)]
    unsafe fn go(self) {
        let extents = self.depthwise.result().0;
        let (sums, y, _) = self.depthwise.buffers();
        // SAFETY: passed on to the caller.
        unsafe {
            let (y, buffer) = (self.sums.add(sums), self.sums.add(sums + y));
            if self.depthwise.direction == Direction::WeightGradient {
                self.weight_gradient(y, buffer);
                return;
            }
            if self.depthwise.whole {
                self.fill_plane(self.plane, buffer);
            }
            for row in self.rows.0..self.rows.1 {
                for i in (0..sums).step_by(BLOCK) {
                    self.sums.add(i).cast::<[S::Compute; BLOCK]>().write([S::Compute::default(); BLOCK]);
                }
                let outer = [(row / extents[1]) as i32, (row % extents[1]) as i32];
                if self.depthwise.direction == Direction::Forward {
                    self.forward(outer, buffer);
                } else {
                    self.input_gradient(outer, buffer);
                }
                let to = self.to.add((self.plane * extents[0] * extents[1] + row) * extents[2]);
                for i in 0..extents[2] {
                    *to.add(i) = S::narrow(*self.sums.add(i));
                }
            }
        }
    }
}

impl<S: Storage> Rows<'_, S> {
    /// Buffers every row of a plane of the source.
    #[inline(always)]
    unsafe fn fill_plane(&self, plane: usize, buffer: *mut S::Compute) {
        let (rows, len) = self.depthwise.source_rows();
        let row = &self.depthwise.row;
        for index in 0..rows {
            // SAFETY: passed on to the caller; the buffer has room for all rows.
            unsafe {
                let from = self.right.add((plane * rows + index) * len);
                row.fill(from, len, buffer.add(index * row.part * row.parts));
            }
        }
    }

    /// A row of a plane of the source, buffered.
    #[inline(always)]
    unsafe fn buffered(&self, plane: usize, index: usize, buffer: *mut S::Compute) -> *const S::Compute {
        let row = &self.depthwise.row;
        // SAFETY: passed on to the caller; the row lies within the plane, and the buffer has room.
        unsafe {
            if self.depthwise.whole {
                return buffer.add(index * row.part * row.parts);
            }
            let (rows, len) = self.depthwise.source_rows();
            row.fill(self.right.add((plane * rows + index) * len), len, buffer);
        }
        buffer
    }

    /// A row of y: each row of x in reach adds its taps.
    #[inline(always)]
    unsafe fn forward(&self, outer: [i32; 2], buffer: *mut S::Compute) {
        let Window { input, kernel, stride, dilation, pad, .. } = self.depthwise.window;
        for tap in 0..kernel[0] * kernel[1] {
            let taps = [(tap / kernel[1]) as i32, (tap % kernel[1]) as i32];
            let at: [i32; 2] = std::array::from_fn(|axis| {
                outer[axis] * stride[axis] + taps[axis] * dilation[axis] - pad[axis]
            });
            if (0..2).any(|axis| at[axis] < 0 || at[axis] >= input[axis] as i32) {
                continue;
            }
            let row = at[0] as usize * input[1] + at[1] as usize;
            // SAFETY: passed on to the caller; the row lies within x.
            unsafe { self.add_taps(tap, false, self.buffered(self.plane, row, buffer)) };
        }
    }

    /// A row of the gradient of x: each row of y in reach adds its taps.
    #[inline(always)]
    unsafe fn input_gradient(&self, outer: [i32; 2], buffer: *mut S::Compute) {
        let Window { kernel, output, stride, dilation, pad, .. } = self.depthwise.window;
        for tap in 0..kernel[0] * kernel[1] {
            let taps = [(tap / kernel[1]) as i32, (tap % kernel[1]) as i32];
            let at: [i32; 2] =
                std::array::from_fn(|axis| outer[axis] + pad[axis] - taps[axis] * dilation[axis]);
            let hit = |axis: usize| {
                at[axis] >= 0 && at[axis] % stride[axis] == 0 && at[axis] / stride[axis] < output[axis] as i32
            };
            if !(hit(0) && hit(1)) {
                continue;
            }
            let row = (at[0] / stride[0]) as usize * output[1] + (at[1] / stride[1]) as usize;
            // SAFETY: passed on to the caller; the row lies within y.
            unsafe { self.add_taps(tap, true, self.buffered(self.plane, row, buffer)) };
        }
    }

    /// Adds what the taps of row `tap` of the window, in order or reversed, find in the buffered row.
    #[inline(always)]
    unsafe fn add_taps(&self, tap: usize, reversed: bool, buffer: *const S::Compute) {
        let window = &self.depthwise.window;
        let row = &self.depthwise.row;
        let last = window.kernel[2];
        let weights =
            self.plane % self.depthwise.groups * window.kernel.iter().product::<usize>() + tap * last;
        let mut first = 0;
        // SAFETY: passed on to the caller; a row serves every tap in whole blocks.
        unsafe {
            // Up to four taps at once, so that a sum is loaded and stored less often.
            while first < last {
                let count = (last - first).min(4);
                let mut taps = [(S::Compute::default(), 0); 4];
                for (i, tap) in taps.iter_mut().enumerate().take(count) {
                    let at = first + i;
                    let weight = weights + if reversed { last - 1 - at } else { at };
                    *tap = ((*self.left.add(weight)).widen(), row.tap(window, at));
                }
                match count {
                    1 => self.add_some::<1>(&taps, buffer),
                    2 => self.add_some::<2>(&taps, buffer),
                    3 => self.add_some::<3>(&taps, buffer),
                    _ => self.add_some::<4>(&taps, buffer),
                }
                first += count;
            }
        }
    }

    #[inline(always)]
    unsafe fn add_some<const N: usize>(&self, taps: &[(S::Compute, usize); 4], buffer: *const S::Compute) {
        for i in (0..self.depthwise.row.results).step_by(BLOCK) {
            // SAFETY: passed on to the caller.
            unsafe {
                let at = self.sums.add(i).cast::<[S::Compute; BLOCK]>();
                let mut sums = at.read_unaligned();
                for (weight, start) in &taps[..N] {
                    let row = buffer.add(start + i).cast::<[S::Compute; BLOCK]>().read_unaligned();
                    for j in 0..BLOCK {
                        sums[j] = row[j].mul_add(*weight, sums[j]);
                    }
                }
                at.write_unaligned(sums);
            }
        }
    }

    /// A plane of the gradient of w: each tap is a scalar product of y with a shifted x, over the whole batch.
    #[inline(always)]
    unsafe fn weight_gradient(&self, y: *mut S::Compute, buffer: *mut S::Compute) {
        let Window { input, kernel, output, stride, dilation, pad } = self.depthwise.window;
        let row = &self.depthwise.row;
        let taps = kernel.iter().product::<usize>();
        // SAFETY: passed on to the caller; rows lie within x and y, and a buffered row serves every tap in whole blocks.
        unsafe {
            for i in 0..taps * BLOCK {
                *self.sums.add(i) = S::Compute::default();
            }
            for i in 0..row.results {
                *y.add(i) = S::Compute::default();
            }
            for batch in 0..self.depthwise.batch {
                let plane = batch * self.depthwise.groups + self.plane;
                if self.depthwise.whole {
                    self.fill_plane(plane, buffer);
                }
                for p in 0..output[0] * output[1] {
                    let outer = [(p / output[1]) as i32, (p % output[1]) as i32];
                    let from = self.left.add((plane * output[0] * output[1] + p) * output[2]);
                    for i in 0..output[2] {
                        *y.add(i) = (*from.add(i)).widen();
                    }
                    for tap in 0..kernel[0] * kernel[1] {
                        let place = [(tap / kernel[1]) as i32, (tap % kernel[1]) as i32];
                        let at: [i32; 2] = std::array::from_fn(|axis| {
                            outer[axis] * stride[axis] + place[axis] * dilation[axis] - pad[axis]
                        });
                        if (0..2).any(|axis| at[axis] < 0 || at[axis] >= input[axis] as i32) {
                            continue;
                        }
                        let x = self.buffered(plane, at[0] as usize * input[1] + at[1] as usize, buffer);
                        for last in 0..kernel[2] {
                            let x = x.add(row.tap(&self.depthwise.window, last));
                            let at =
                                self.sums.add((tap * kernel[2] + last) * BLOCK).cast::<[S::Compute; BLOCK]>();
                            let mut sums = at.read_unaligned();
                            for i in (0..row.results).step_by(BLOCK) {
                                let left = y.add(i).cast::<[S::Compute; BLOCK]>().read_unaligned();
                                let right = x.add(i).cast::<[S::Compute; BLOCK]>().read_unaligned();
                                for j in 0..BLOCK {
                                    sums[j] = left[j].mul_add(right[j], sums[j]);
                                }
                            }
                            at.write_unaligned(sums);
                        }
                    }
                }
            }
            for tap in 0..taps {
                let mut sum = S::Compute::default();
                for j in 0..BLOCK {
                    sum = sum.add(*self.sums.add(tap * BLOCK + j));
                }
                *self.to.add(self.plane * taps + tap) = S::narrow(sum);
            }
        }
    }
}
