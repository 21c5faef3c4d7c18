//! Convolutions of one channel to one: too little reuse for a product, so rows are summed directly.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Convolution, Direction, Window};
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
}

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

    fn row_bytes(&self) -> usize {
        lines(self.result().0[2] * self.dtype.compute_bytes())
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

/// The indices i below `len` for which `from + i * step` lies in `0..extent`.
#[inline(always)]
fn range(from: i32, step: i32, extent: usize, len: usize) -> (usize, usize) {
    let up = |distance: i32| if distance <= 0 { 0 } else { (distance - 1) / step + 1 };
    let end = (up(extent as i32 - from) as usize).min(len);
    ((up(-from) as usize).min(end), end)
}

impl<S: Storage> Work for Rows<'_, S> {
    /// # Safety
    /// The operands are those of the convolution, `sums` has room for a row of the result.
    #[inline(always)]
    unsafe fn go(self) {
        let extents = self.depthwise.result().0;
        for row in self.rows.0..self.rows.1 {
            // SAFETY: passed on to the caller.
            unsafe {
                let width = extents[2];
                for i in 0..width {
                    *self.sums.add(i) = S::Compute::default();
                }
                let outer = [(row / extents[1]) as i32, (row % extents[1]) as i32];
                match self.depthwise.direction {
                    Direction::Forward => self.forward(outer),
                    Direction::InputGradient => self.input_gradient(outer),
                    Direction::WeightGradient => self.weight_gradient(outer),
                }
                let to = self.to.add((self.plane * extents[0] * extents[1] + row) * width);
                for i in 0..width {
                    *to.add(i) = S::narrow(*self.sums.add(i));
                }
            }
        }
    }
}

impl<S: Storage> Rows<'_, S> {
    /// A row of y: each tap adds a shifted row of x.
    #[inline(always)]
    unsafe fn forward(&self, outer: [i32; 2]) {
        let Window { input, kernel, output, stride, dilation, pad } = self.depthwise.window;
        let plane = self.plane * input.iter().product::<usize>();
        let weights = self.plane % self.depthwise.groups * kernel.iter().product::<usize>();
        for tap in 0..kernel[0] * kernel[1] {
            let taps = [(tap / kernel[1]) as i32, (tap % kernel[1]) as i32];
            let at: [i32; 2] = std::array::from_fn(|axis| {
                outer[axis] * stride[axis] + taps[axis] * dilation[axis] - pad[axis]
            });
            if (0..2).any(|axis| at[axis] < 0 || at[axis] >= input[axis] as i32) {
                continue;
            }
            let row = plane + (at[0] as usize * input[1] + at[1] as usize) * input[2];
            for last in 0..kernel[2] {
                let from = last as i32 * dilation[2] - pad[2];
                let (start, end) = range(from, stride[2], input[2], output[2]);
                // SAFETY: passed on to the caller; `range` keeps to the row.
                unsafe {
                    let weight = (*self.left.add(weights + tap * kernel[2] + last)).widen();
                    let x =
                        self.right.wrapping_offset(row as isize + (from + start as i32 * stride[2]) as isize);
                    self.add(weight, x, stride[2] as usize, self.sums.wrapping_add(start), 1, end - start);
                }
            }
        }
    }

    /// A row of the gradient of x: each tap adds a row of y, spread out by the stride.
    #[inline(always)]
    unsafe fn input_gradient(&self, outer: [i32; 2]) {
        let Window { input, kernel, output, stride, dilation, pad } = self.depthwise.window;
        let plane = self.plane * output.iter().product::<usize>();
        let weights = self.plane % self.depthwise.groups * kernel.iter().product::<usize>();
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
            let row =
                plane + ((at[0] / stride[0]) as usize * output[1] + (at[1] / stride[1]) as usize) * output[2];
            for last in 0..kernel[2] {
                let from = last as i32 * dilation[2] - pad[2];
                let (start, end) = range(from, stride[2], input[2], output[2]);
                // SAFETY: passed on to the caller; `range` keeps to the row.
                unsafe {
                    let weight = (*self.left.add(weights + tap * kernel[2] + last)).widen();
                    let sums = self.sums.wrapping_offset((from + start as i32 * stride[2]) as isize);
                    self.add(
                        weight,
                        self.right.wrapping_add(row + start),
                        1,
                        sums,
                        stride[2] as usize,
                        end - start,
                    );
                }
            }
        }
    }

    /// A row of the gradient of w: each tap is a scalar product of y with a shifted x, over the whole batch.
    #[inline(always)]
    unsafe fn weight_gradient(&self, taps: [i32; 2]) {
        let Window { input, kernel, output, stride, dilation, pad } = self.depthwise.window;
        for batch in 0..self.depthwise.batch {
            let plane = batch * self.depthwise.groups + self.plane;
            for p in 0..output[0] * output[1] {
                let outer = [(p / output[1]) as i32, (p % output[1]) as i32];
                let at: [i32; 2] = std::array::from_fn(|axis| {
                    outer[axis] * stride[axis] + taps[axis] * dilation[axis] - pad[axis]
                });
                if (0..2).any(|axis| at[axis] < 0 || at[axis] >= input[axis] as i32) {
                    continue;
                }
                let row = ((plane * input[0] + at[0] as usize) * input[1] + at[1] as usize) * input[2];
                let y = (plane * output[0] * output[1] + p) * output[2];
                for last in 0..kernel[2] {
                    let from = last as i32 * dilation[2] - pad[2];
                    let (start, end) = range(from, stride[2], input[2], output[2]);
                    let x =
                        self.right.wrapping_offset(row as isize + (from + start as i32 * stride[2]) as isize);
                    // SAFETY: passed on to the caller; `range` keeps to the row.
                    unsafe {
                        let sum = self.product(
                            self.left.wrapping_add(y + start),
                            x,
                            stride[2] as usize,
                            end - start,
                        );
                        *self.sums.add(last) = (*self.sums.add(last)).add(sum);
                    }
                }
            }
        }
    }

    /// `to[i * to_step] += weight * from[i * from_step]`.
    #[inline(always)]
    unsafe fn add(
        &self,
        weight: S::Compute,
        from: *const S,
        from_step: usize,
        to: *mut S::Compute,
        to_step: usize,
        len: usize,
    ) {
        const STEP: usize = 16;
        let mut i = 0;
        // SAFETY: passed on to the caller.
        unsafe {
            if from_step == 1 && to_step == 1 {
                while i + STEP <= len {
                    let row = from.add(i).cast::<[S; STEP]>().read_unaligned();
                    let at = to.add(i).cast::<[S::Compute; STEP]>();
                    let mut sums = at.read_unaligned();
                    for j in 0..STEP {
                        sums[j] = row[j].widen().mul_add(weight, sums[j]);
                    }
                    at.write_unaligned(sums);
                    i += STEP;
                }
            }
            for i in i..len {
                let at = to.add(i * to_step);
                *at = (*from.add(i * from_step)).widen().mul_add(weight, *at);
            }
        }
    }

    /// The scalar product of `y[i]` and `x[i * step]`.
    #[inline(always)]
    unsafe fn product(&self, y: *const S, x: *const S, step: usize, len: usize) -> S::Compute {
        const STEP: usize = 16;
        let mut sums = [S::Compute::default(); STEP];
        let mut i = 0;
        // SAFETY: passed on to the caller.
        unsafe {
            while i + STEP <= len {
                for j in 0..STEP {
                    let left = (*y.add(i + j)).widen();
                    sums[j] = left.mul_add((*x.add((i + j) * step)).widen(), sums[j]);
                }
                i += STEP;
            }
            for i in i..len {
                sums[0] = (*y.add(i)).widen().mul_add((*x.add(i * step)).widen(), sums[0]);
            }
        }
        let mut half = STEP / 2;
        while half > 0 {
            for j in 0..half {
                sums[j] = sums[j].add(sums[j + half]);
            }
            half /= 2;
        }
        sums[0]
    }
}
