//! A convolution's source copied between zeros, where the micro-kernel reads it in place.
//!
//! With the rows of a plane `pitch` apart and zeros around them, the columns of the product (positions of the result, counted
//! along the pitch) are side by side for every tap: row k of the right operand begins at `table[k]`, and nothing is packed. The
//! columns between the end of a row of the result and the next row are computed and dropped. Under strides the source is taken
//! apart by remainder, one part for each that some tap meets.

use crate::element::Storage;
use crate::isa::Work;
use crate::offsets::Offsets;
use crate::tile::AHEAD;

/// A right operand in the padded form.
#[derive(Clone, Debug)]
pub(crate) struct Padded {
    /// Planes of one matrix, and the extents of each in the source.
    planes: usize,
    source: [usize; 3],
    /// Extents of the result, and of a part of a padded plane.
    result: [usize; 3],
    pitch: [usize; 3],
    /// The position in the source of each part's first element; its neighbours are `step` further on.
    parts: Box<[[i32; 3]]>,
    step: [i32; 3],
    /// Where each row of the right operand begins, and some more entries for those who look ahead.
    table: Box<[isize]>,
}

/// Elements behind a matrix that the last, incomplete panel reads.
const SLACK: usize = 64;

impl Padded {
    /// The operand of `planes` planes whose row (plane, tap) holds, for position p of the result, the element at
    /// `p * step + taps[tap]`.
    pub(super) fn new(
        planes: usize,
        source: [usize; 3],
        result: [usize; 3],
        step: [i32; 3],
        taps: &[[i32; 3]],
    ) -> Padded {
        let lowest: [i32; 3] =
            std::array::from_fn(|axis| taps.iter().map(|tap| tap[axis]).min().unwrap_or_default());
        let mut parts: Vec<[i32; 3]> = Vec::new();
        let mut reach = [0; 3];
        let mut places = Vec::with_capacity(taps.len());
        for tap in taps {
            let first: [i32; 3] =
                std::array::from_fn(|axis| lowest[axis] + (tap[axis] - lowest[axis]) % step[axis]);
            let part = parts.iter().position(|part| *part == first).unwrap_or_else(|| {
                parts.push(first);
                parts.len() - 1
            });
            let along: [usize; 3] =
                std::array::from_fn(|axis| ((tap[axis] - first[axis]) / step[axis]) as usize);
            for axis in 0..3 {
                reach[axis] = reach[axis].max(along[axis]);
            }
            places.push((part, along));
        }
        let pitch: [usize; 3] = std::array::from_fn(|axis| result[axis] + reach[axis]);
        let size: usize = pitch.iter().product();
        let plane = size * parts.len();
        let mut table = Vec::with_capacity(planes * taps.len() + AHEAD as usize);
        for index in 0..planes {
            for (part, [z, y, x]) in &places {
                table.push((index * plane + part * size + (z * pitch[1] + y) * pitch[2] + x) as isize);
            }
        }
        table.extend([0; AHEAD as usize]);
        Padded { planes, source, result, pitch, parts: parts.into(), step, table: table.into() }
    }

    /// Columns of the product, those to be dropped included.
    pub(crate) fn columns(&self) -> usize {
        if self.result.contains(&0) {
            return 0;
        }
        let [d, h, w] = self.result;
        ((d - 1) * self.pitch[1] + h - 1) * self.pitch[2] + w
    }

    /// Elements of one padded plane.
    fn plane(&self) -> usize {
        self.parts.len() * self.pitch.iter().product::<usize>()
    }

    /// Elements of one padded matrix.
    pub(crate) fn elements(&self) -> usize {
        self.planes * self.plane() + SLACK
    }

    /// Elements of one plane of the source.
    pub(crate) fn source_plane(&self) -> usize {
        self.source.iter().product()
    }

    /// Planes of one matrix.
    pub(crate) fn planes(&self) -> usize {
        self.planes
    }

    /// Where the rows of the right operand begin, from row `k` on.
    pub(crate) fn table(&self, k: usize) -> *const isize {
        self.table[k..].as_ptr()
    }

    /// How many positions of the result come before column `column`.
    pub(crate) fn before(&self, column: usize) -> usize {
        let [_, h, w] = self.result;
        let (row, x) = (column / self.pitch[2], column % self.pitch[2]);
        let (z, y) = (row / self.pitch[1], row % self.pitch[1]);
        if y >= h { (z + 1) * h * w } else { (z * h + y) * w + x.min(w) }
    }
}

/// Fills one padded plane.
pub(crate) struct Fill<'a, S: Storage> {
    pub padded: &'a Padded,
    /// The plane in the source, and the padded matrix that it is plane `index` of.
    pub from: *const S,
    pub to: *mut S::Compute,
    pub index: usize,
}

impl<S: Storage> Work for Fill<'_, S> {
    /// # Safety
    /// `from` is a plane of the source, `to` has room for a padded matrix.
    #[inline(always)]
    unsafe fn go(self) {
        let Padded { source, pitch, step, .. } = self.padded;
        // SAFETY: every row lies within the padded matrix, and what is read within the plane.
        unsafe {
            let mut to = self.to.add(self.index * self.padded.plane());
            for part in &self.padded.parts {
                for z in 0..pitch[0] as i32 {
                    for y in 0..pitch[1] as i32 {
                        let (z, y) = (part[0] + z * step[0], part[1] + y * step[1]);
                        let inside = (0..source[0] as i32).contains(&z) && (0..source[1] as i32).contains(&y);
                        let len = if inside { source[2] } else { 0 };
                        let (low, high) = super::range(part[2], step[2], len, pitch[2]);
                        for x in 0..low {
                            *to.add(x) = S::Compute::default();
                        }
                        let row = (z as isize * source[1] as isize + y as isize) * source[2] as isize;
                        let first = row + (part[2] + low as i32 * step[2]) as isize;
                        let from = self.from.wrapping_offset(first);
                        if step[2] == 1 {
                            for x in 0..high - low {
                                *to.add(low + x) = (*from.add(x)).widen();
                            }
                        } else {
                            for x in 0..high - low {
                                *to.add(low + x) = (*from.add(x * step[2] as usize)).widen();
                            }
                        }
                        for x in high..pitch[2] {
                            *to.add(x) = S::Compute::default();
                        }
                        to = to.add(pitch[2]);
                    }
                }
            }
            if self.index + 1 == self.padded.planes {
                // Nothing of it reaches the result, but it must not be what makes an addition slow.
                for x in 0..SLACK {
                    *to.add(x) = S::Compute::default();
                }
            }
        }
    }
}

/// Moves finished sums of the columns `n` to their places in C, dropping those between the rows.
pub(crate) struct Compact<'a, S: Storage> {
    pub padded: &'a Padded,
    pub from: *const S::Compute,
    pub step: usize,
    pub to: *mut S,
    pub rows: &'a Offsets,
    pub m: (usize, usize),
    pub columns: &'a Offsets,
    pub n: (usize, usize),
}

impl<S: Storage> Work for Compact<'_, S> {
    /// # Safety
    /// `from` is valid for the rows, `to` at every offset of the tile.
    #[inline(always)]
    unsafe fn go(self) {
        let mut column = self.n.0;
        while column < self.n.1 {
            let row_end = ((column / self.padded.pitch[2] + 1) * self.padded.pitch[2]).min(self.n.1);
            let (mut real, end) = (self.padded.before(column), self.padded.before(row_end));
            let mut place = column - self.n.0;
            while real < end {
                let run = self.columns.even_from(real, end - real);
                for i in self.m.0..self.m.1 {
                    // SAFETY: as the contract says.
                    unsafe {
                        let from = self.from.add((i - self.m.0) * self.step + place);
                        let to = self.to.offset(self.rows.at(i) + self.columns.at(real));
                        if self.columns.inner == 1 {
                            for x in 0..run {
                                *to.add(x) = S::narrow(*from.add(x));
                            }
                        } else {
                            for x in 0..run {
                                *to.offset(x as isize * self.columns.inner) = S::narrow(*from.add(x));
                            }
                        }
                    }
                }
                real += run;
                place += run;
            }
            column = row_end;
        }
    }
}
