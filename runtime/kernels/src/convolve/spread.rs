//! From finished tiles to the planes of the result.

use crate::element::Storage;
use crate::isa::Work;
use crate::offsets::Offsets;

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

/// What a result has around the positions that a tile computes: under strides wider than the window, the gradient of the input
/// is zero wherever no window was. Each position owns the cells up to the next one along every axis, the first from the start
/// of the axis and the last to its end.
#[derive(Clone, Debug)]
pub(super) struct Around {
    /// Extents of the plane, positions along each axis, and the distance between them.
    pub plane: [usize; 3],
    pub positions: [usize; 3],
    pub step: [usize; 3],
}

impl Around {
    /// What fills the cells of the positions `n` with zeros, for some planes `channel` elements apart; `to` is the first
    /// plane's first position.
    pub(super) fn zeros<S>(
        &self,
        to: *mut S,
        channels: usize,
        channel: usize,
        n: (usize, usize),
    ) -> Zeros<'_, S> {
        Zeros { around: self, to, channels, channel, n }
    }

    /// The cells of the positions `low .. high` along an axis.
    fn cells(&self, axis: usize, low: usize, high: usize) -> (usize, usize) {
        let end = if high == self.positions[axis] { self.plane[axis] } else { high * self.step[axis] };
        (low * self.step[axis], end)
    }
}

/// See [`Around::zeros`].
pub(super) struct Zeros<'a, S> {
    around: &'a Around,
    to: *mut S,
    channels: usize,
    channel: usize,
    n: (usize, usize),
}

impl<S: Storage<Compute = f32>> Work for Zeros<'_, S> {
    /// # Safety
    /// `to` is valid at every cell of the positions of every channel.
    #[inline(always)]
    unsafe fn go(self) {
        let around = self.around;
        let [_, h, w] = around.positions;
        let mut p = self.n.0;
        while p < self.n.1 {
            let (z, y, x) = (p / (h * w), p / w % h, p % w);
            let run = (w - x).min(self.n.1 - p);
            let (planes, rows) = (around.cells(0, z, z + 1), around.cells(1, y, y + 1));
            let (start, end) = around.cells(2, x, x + run);
            for c in 0..self.channels {
                for z in planes.0..planes.1 {
                    for y in rows.0..rows.1 {
                        let row = c * self.channel + (z * around.plane[1] + y) * around.plane[2];
                        for x in start..end {
                            // SAFETY: passed on to the caller.
                            unsafe { *self.to.add(row + x) = S::narrow(0.0) };
                        }
                    }
                }
            }
            p += run;
        }
    }
}
