//! The gathered operand of a convolution: the matrix that im2col would write, packed without being written.

use crate::element::Storage;
use crate::isa::Work;

/// One side's share in the position of an element: positions and offsets of both sides add up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// Elements from the operand's start, without the spatial axes.
    pub offset: isize,
    /// Share in the position along each spatial axis.
    pub position: [i32; 3],
}

/// A side of the gathered matrix. Within runs of `run` indices only the last position changes, by `rise` each.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub places: Box<[Place]>,
    pub run: usize,
    pub rise: i32,
}

/// A matrix whose element (k, j) is the element of a tensor at position `deep[k] + wide[j]`, or zero outside of it.
#[derive(Clone, Debug)]
pub(crate) struct Gather {
    pub wide: Side,
    pub deep: Side,
    /// Extents of the spatial axes, and the distances between neighbours.
    pub extent: [i32; 3],
    pub stride: [isize; 3],
    /// Elements of the whole tensor.
    pub total: usize,
    /// Whether the runs are those of the wide side (else of the deep side).
    pub wide_runs: bool,
}

/// Which elements of a run lie inside: those from `start` to `end`, the first of them at `at`.
struct Inside {
    start: usize,
    end: usize,
    at: isize,
}

const NOTHING: Inside = Inside { start: 0, end: 0, at: 0 };

impl Gather {
    /// The elements of a run of `len` that starts where `a` and `b` meet and rises by `rise`.
    #[inline(always)]
    fn inside(&self, a: &Place, b: &Place, rise: i32, len: usize) -> Inside {
        let (z, y) = (a.position[0] + b.position[0], a.position[1] + b.position[1]);
        // One comparison does for both ends: what is negative is large without its sign.
        if z as u32 >= self.extent[0] as u32 || y as u32 >= self.extent[1] as u32 {
            return NOTHING;
        }
        let (first, extent, len) = (a.position[2] + b.position[2], self.extent[2], len as i32);
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
        let at = z as isize * self.stride[0] + y as isize * self.stride[1] + (first + start * rise) as isize;
        Inside { start: start as usize, end: end as usize, at: a.offset + b.offset + at }
    }
}

/// Packs one panel of a gathered matrix, as [`crate::pack::PackPanel`] does of a strided one.
pub(crate) struct GatherPanel<'a, S: Storage> {
    pub to: *mut S::Compute,
    pub width: usize,
    pub from: *const S,
    pub gather: &'a Gather,
    /// Elements of the tensor from `from` on.
    pub readable: usize,
    pub first: usize,
    pub count: usize,
    pub k0: usize,
    pub depth: usize,
}

/// Elements moved at a time.
const BLOCK: usize = 16;
/// Elements beyond a panel that packing it may overwrite.
pub(crate) const OVERRUN: usize = BLOCK;
/// The widest panel of any micro-kernel.
const WIDEST: usize = 64;

impl<S: Storage> Work for GatherPanel<'_, S> {
    /// # Safety
    /// `from` is the start of a matrix within the tensor, `to` has `depth * width + OVERRUN` elements.
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
        let mut pieces = [(Place::default(), 0_u32, 0_u32); WIDEST];
        let (mut known, mut j) = (0, 0);
        while j < self.count {
            let index = self.first + j;
            let len = (wide.run - index % wide.run).min(self.count - j);
            pieces[known] = (wide.places[index], j as u32, len as u32);
            known += 1;
            j += len;
        }
        let pieces = &pieces[..known];
        for k in 0..self.depth {
            let row = &deep.places[self.k0 + k];
            // SAFETY: each piece lies within the tensor. Blocks run over the end of their piece and of the row, into what is
            // written after them; the last row's end is followed by the overrun.
            unsafe {
                let to = self.to.add(k * self.width);
                for (place, j, len) in pieces {
                    let inside = self.gather.inside(row, place, wide.rise, *len as usize);
                    self.piece(&inside, to.add(*j as usize), *len as usize);
                }
                if self.count < self.width {
                    zeros(to.add(self.count), self.width - self.count);
                }
            }
        }
    }

    /// Writes a piece of `len` elements, zero outside of the tensor.
    #[inline(always)]
    unsafe fn piece(&self, inside: &Inside, to: *mut S::Compute, len: usize) {
        let &Inside { start, end, at } = inside;
        // SAFETY: as for `along_rows`; blocks are read only where the tensor goes on that far.
        unsafe {
            let from = self.from.wrapping_offset(at);
            if start > 0 || end == 0 {
                zeros(to, if end == 0 { len } else { start });
                if end == 0 {
                    return;
                }
            }
            let (count, rise) = (end - start, self.gather.wide.rise as usize);
            let blocks = count.next_multiple_of(BLOCK);
            if rise == 1 && at as usize + blocks <= self.readable {
                for i in (0..blocks).step_by(BLOCK) {
                    copy_block(from.add(i), to.add(start + i));
                }
            } else {
                for i in 0..count {
                    *to.add(start + i) = (*from.add(i * rise)).widen();
                }
            }
            if end < len {
                zeros(to.add(end), len - end);
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
                // SAFETY: the pieces lie within the tensor, `len` rows within the panel.
                unsafe {
                    for i in (0..inside.start).chain(inside.end..len) {
                        *to.add(i * self.width) = S::Compute::default();
                    }
                    let from = self.from.wrapping_offset(inside.at);
                    for i in inside.start..inside.end {
                        let element = from.wrapping_add((i - inside.start) * deep.rise as usize);
                        *to.add(i * self.width) = (*element).widen();
                    }
                }
            }
            k += len;
        }
    }
}

#[inline(always)]
unsafe fn copy_block<S: Storage>(from: *const S, to: *mut S::Compute) {
    // SAFETY: a block at both, by the caller.
    unsafe {
        let block = from.cast::<[S; BLOCK]>().read_unaligned();
        let mut wide = [S::Compute::default(); BLOCK];
        for i in 0..BLOCK {
            wide[i] = block[i].widen();
        }
        to.cast::<[S::Compute; BLOCK]>().write_unaligned(wide);
    }
}

/// Writes zeros in whole blocks, at least `len` of them.
#[inline(always)]
unsafe fn zeros<T: Copy + Default>(to: *mut T, len: usize) {
    for i in (0..len).step_by(BLOCK) {
        // SAFETY: room for whole blocks, by the caller.
        unsafe { to.add(i).cast::<[T; BLOCK]>().write_unaligned([T::default(); BLOCK]) };
    }
}
