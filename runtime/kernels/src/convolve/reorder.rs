//! Bringing weights into the order in which convolutions in blocks read them.
//!
//! Where weights change with every step of a training this is done for every run, so it is done four by four: reading along w,
//! and writing rows of the packed weights.

use super::direct::Weights;
use crate::element::Storage;
use crate::isa::Work;
use crate::tile::prefetch_l2;

/// Packs the weights of one chunk of result channels: for each block of source channels, for each tap, for each channel of the
/// block, a row of `columns` result channels, those behind `rows` zero.
pub(super) struct Reorder<'a, S> {
    /// The weights of the chunk's first result channel.
    pub from: *const S,
    pub weights: &'a Weights,
    /// Source channels, and those of a block.
    pub channels: (usize, usize),
    pub rows: usize,
    pub columns: usize,
    pub to: *mut f32,
}

/// Channels, or blocks of them where these are side by side, by which w is asked for ahead.
const AHEAD: usize = 4;

impl<S: Storage<Compute = f32>> Work for Reorder<'_, S> {
    /// # Safety
    /// `from` has the weights of the rows, `to` room for the chunk.
    #[inline(always)]
    unsafe fn go(self) {
        let (channels, block) = self.channels;
        let Weights { row, channel, ref taps, .. } = *self.weights;
        let mut to = self.to;
        for first in (0..channels).step_by(block) {
            let count = block.min(channels - first);
            // SAFETY: passed on to the caller; the block's rows lie within the chunk.
            unsafe {
                let from = self.from.add(first * channel);
                if taps.len() == 1 && channel == 1 {
                    self.prefetch(from.wrapping_add(taps[0] + AHEAD * count));
                    self.square(from.add(taps[0]), count, to, self.columns);
                } else if row == 1 {
                    for (at, tap) in taps.iter().enumerate() {
                        for c in 0..count {
                            let to = to.add((at * count + c) * self.columns);
                            self.row(from.add(c * channel + tap), to);
                        }
                    }
                } else {
                    for c in 0..count {
                        self.prefetch(from.wrapping_add((c + AHEAD) * channel));
                        self.taps(from.add(c * channel), to.add(c * self.columns), count * self.columns);
                    }
                }
                for line in 0..taps.len() * count {
                    for column in self.rows..self.columns {
                        *to.add(line * self.columns + column) = 0.0;
                    }
                }
                to = to.add(taps.len() * count * self.columns);
            }
        }
    }
}

impl<S: Storage<Compute = f32>> Reorder<'_, S> {
    /// Asks for the weights of a source channel.
    #[inline(always)]
    fn prefetch(&self, from: *const S) {
        let row = self.weights.row;
        // Rows that share cache lines are asked for once.
        let step = if row * size_of::<S>() < 32 { 2 } else { 1 };
        for r in (0..self.rows).step_by(step) {
            prefetch_l2(from.wrapping_add(r * row).cast());
        }
    }

    /// Result channels lie side by side.
    #[inline(always)]
    unsafe fn row(&self, from: *const S, to: *mut f32) {
        prefetch_l2(from.wrapping_add(AHEAD * self.weights.channel).cast());
        prefetch_l2(from.wrapping_add(AHEAD * self.weights.channel + self.rows - 1).cast());
        for r in 0..self.rows {
            // SAFETY: passed on to the caller.
            unsafe { *to.add(r) = (*from.add(r)).widen() };
        }
    }

    /// `count` elements that lie side by side in each row become rows `step` apart.
    #[inline(always)]
    unsafe fn square(&self, from: *const S, count: usize, to: *mut f32, step: usize) {
        let row = self.weights.row;
        let (fours, done) = (self.rows / 4 * 4, count / 4 * 4);
        // SAFETY: passed on to the caller.
        unsafe {
            for r in (0..fours).step_by(4) {
                let rows: [*const S; 4] = std::array::from_fn(|i| from.add((r + i) * row));
                for i in (0..done).step_by(4) {
                    S::transpose4(rows.map(|row| row.add(i)), to.add(i * step + r), step);
                }
            }
            for r in 0..self.rows {
                for i in if r < fours { done } else { 0 }..count {
                    *to.add(i * step + r) = (*from.add(r * row + i)).widen();
                }
            }
        }
    }

    /// The taps of one source channel become rows `step` apart: four at a time where they lie side by side.
    #[inline(always)]
    unsafe fn taps(&self, from: *const S, to: *mut f32, step: usize) {
        let taps = &self.weights.taps;
        let mut at = 0;
        while at < taps.len() {
            let dense = at + 4 <= taps.len() && (1..4).all(|i| taps[at + i] == taps[at] + i);
            let count = if dense { 4 } else { 1 };
            // SAFETY: passed on to the caller.
            unsafe { self.square(from.add(taps[at]), count, to.add(at * step), step) };
            at += count;
        }
    }
}
