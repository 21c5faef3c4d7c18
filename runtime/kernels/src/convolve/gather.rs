//! The gathered operand of a convolution: the matrix that im2col would write, packed without being written.

use crate::element::Storage;
use crate::isa::Work;

/// One side's share in the position of an element: positions and offsets of both sides add up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// Elements from the operand's start, without the spatial axes.
    pub offset: isize,
    /// Share in the position along each spatial axis, multiplied by that axis' step.
    pub position: [i32; 3],
}

/// A side of the gathered matrix. Within runs of `run` indices only the last position changes, by `rise` each.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub places: Box<[Place]>,
    pub run: usize,
    pub rise: i32,
}

/// A matrix whose element (k, j) is the element of a tensor at position `(deep[k] + wide[j]) / step`, or zero where that
/// is not a whole number or lies outside.
#[derive(Clone, Debug)]
pub(crate) struct Gather {
    pub wide: Side,
    pub deep: Side,
    /// Extents of the spatial axes, the divisors of positions, and the distances between neighbours.
    pub extent: [i32; 3],
    pub step: [i32; 3],
    pub stride: [isize; 3],
    /// Whether the runs are those of the wide side (else of the deep side).
    pub wide_runs: bool,
}

/// Which elements of a run lie inside: `start`, `start + every`, ..., below `end`, the first of them at `at`, the next `stride`
/// further on each.
struct Inside {
    start: usize,
    end: usize,
    every: usize,
    at: isize,
    stride: isize,
}

const NOTHING: Inside = Inside { start: 0, end: 0, every: 1, at: 0, stride: 0 };

impl Gather {
    /// The elements of a run of `len` that starts where `a` and `b` meet and rises by `rise`.
    #[inline(always)]
    fn inside(&self, a: &Place, b: &Place, rise: i32, len: usize) -> Inside {
        let mut at = a.offset + b.offset;
        for axis in 0..2 {
            let mut position = a.position[axis] + b.position[axis];
            if self.step[axis] != 1 {
                if position % self.step[axis] != 0 {
                    return NOTHING;
                }
                position /= self.step[axis];
            }
            if position < 0 || position >= self.extent[axis] {
                return NOTHING;
            }
            at += position as isize * self.stride[axis];
        }
        let (first, extent, len) = (a.position[2] + b.position[2], self.extent[2], len as i32);
        if self.step[2] == 1 {
            let (start, end) = if rise == 1 {
                ((-first).max(0), extent - first)
            } else {
                let up = |distance: i32| if distance <= 0 { 0 } else { (distance - 1) / rise + 1 };
                (up(-first), up(extent - first))
            };
            let end = end.clamp(0, len);
            if start >= end {
                return NOTHING;
            }
            let at = at + (first + start * rise) as isize * self.stride[2];
            let stride = rise as isize * self.stride[2];
            Inside { start: start as usize, end: end as usize, every: 1, at, stride }
        } else {
            // Positions rise by one here, so every step-th of them is a whole number.
            let step = self.step[2];
            let start = if first < 0 { -first } else { (step - first % step) % step };
            let end = (step * extent - first).clamp(0, len);
            if start >= end {
                return NOTHING;
            }
            let at = at + ((first + start) / step) as isize * self.stride[2];
            Inside {
                start: start as usize,
                end: end as usize,
                every: step as usize,
                at,
                stride: self.stride[2],
            }
        }
    }
}

/// Packs one panel of a gathered matrix, as [`crate::pack::PackPanel`] does of a strided one.
pub(crate) struct GatherPanel<'a, S: Storage> {
    pub to: *mut S::Compute,
    pub width: usize,
    pub from: *const S,
    pub gather: &'a Gather,
    pub first: usize,
    pub count: usize,
    pub k0: usize,
    pub depth: usize,
}

impl<S: Storage> Work for GatherPanel<'_, S> {
    /// # Safety
    /// `from` is the tensor's start, `to` has `depth * width` elements.
    #[inline(always)]
    unsafe fn go(self) {
        // SAFETY: passed on to the caller.
        unsafe { if self.gather.wide_runs { self.along_rows() } else { self.along_columns() } }
    }
}

impl<S: Storage> GatherPanel<'_, S> {
    /// Runs lie across the panel: each step of the sum is a row, made of a few pieces of the tensor.
    #[inline(always)]
    unsafe fn along_rows(&self) {
        let Gather { wide, deep, .. } = self.gather;
        for k in 0..self.depth {
            let row = &deep.places[self.k0 + k];
            let mut j = 0;
            while j < self.count {
                let index = self.first + j;
                let len = (wide.run - index % wide.run).min(self.count - j);
                let inside = self.gather.inside(row, &wide.places[index], wide.rise, len);
                // SAFETY: the piece lies within the tensor, and the row within the panel.
                unsafe { self.row(&inside, self.to.add(k * self.width + j), len) };
                j += len;
            }
            for j in self.count..self.width {
                // SAFETY: within the panel.
                unsafe { *self.to.add(k * self.width + j) = S::Compute::default() };
            }
        }
    }

    #[inline(always)]
    unsafe fn row(&self, inside: &Inside, to: *mut S::Compute, len: usize) {
        let &Inside { start, end, every, at, stride } = inside;
        // SAFETY: as for `along_rows`.
        unsafe {
            let from = self.from.wrapping_offset(at);
            if every == 1 && stride == 1 {
                if len == 32 && start == 0 && end == 32 {
                    let from = from.cast::<[S; 32]>().read_unaligned();
                    let to = to.cast::<[S::Compute; 32]>();
                    let mut row = [S::Compute::default(); 32];
                    for i in 0..32 {
                        row[i] = from[i].widen();
                    }
                    to.write_unaligned(row);
                    return;
                }
                for i in 0..start {
                    *to.add(i) = S::Compute::default();
                }
                for i in 0..end - start {
                    *to.add(start + i) = (*from.add(i)).widen();
                }
                for i in end..len {
                    *to.add(i) = S::Compute::default();
                }
                return;
            }
            for i in 0..len {
                *to.add(i) = S::Compute::default();
            }
            let (mut i, mut from) = (start, from);
            while i < end {
                *to.add(i) = (*from).widen();
                i += every;
                from = from.wrapping_offset(stride);
            }
        }
    }

    /// Runs lie along the sum: each column is walked for the length of a run, so that the rows touched stay in cache.
    #[inline(always)]
    unsafe fn along_columns(&self) {
        let Gather { wide, deep, .. } = self.gather;
        let mut k = 0;
        while k < self.depth {
            let index = self.k0 + k;
            let len = (deep.run - index % deep.run).min(self.depth - k);
            for j in 0..self.width {
                // SAFETY: within the panel.
                let to = unsafe { self.to.add(k * self.width + j) };
                let inside = if j < self.count {
                    let column = &wide.places[self.first + j];
                    self.gather.inside(&deep.places[index], column, deep.rise, len)
                } else {
                    NOTHING
                };
                // SAFETY: the pieces lie within the tensor, `len` rows within the panel; `every` is one here, since only the
                // gradient of the input divides positions and its runs lie across.
                unsafe {
                    for i in (0..inside.start).chain(inside.end..len) {
                        *to.add(i * self.width) = S::Compute::default();
                    }
                    let mut from = self.from.wrapping_offset(inside.at);
                    for i in inside.start..inside.end {
                        *to.add(i * self.width) = (*from).widen();
                        from = from.wrapping_offset(inside.stride);
                    }
                }
            }
            k += len;
        }
    }
}
