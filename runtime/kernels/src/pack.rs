//! Copying a block of an operand into the order in which a micro-kernel reads it.

use crate::element::Storage;
use crate::isa::Work;
use crate::offsets::Offsets;

/// A matrix seen from one side of the product: `wide` indices run across a panel, `deep` ones along the sum.
#[derive(Clone, Debug)]
pub(crate) struct Strided {
    pub wide: Offsets,
    pub deep: Offsets,
}

/// Packs one panel: `to[k * width + i] = from[wide(first + i) + deep(k0 + k)]` for `i < count`, zero for `count <= i < width`.
pub(crate) struct PackPanel<'a, S: Storage> {
    pub to: *mut S::Compute,
    pub width: usize,
    pub from: *const S,
    pub matrix: &'a Strided,
    pub first: usize,
    pub count: usize,
    pub k0: usize,
    pub depth: usize,
}

impl<S: Storage> Work for PackPanel<'_, S> {
    /// # Safety
    /// `from` is valid at every offset of the block, `to` for `depth * width` elements.
    #[inline(always)]
    unsafe fn go(self) {
        let Strided { wide, deep } = self.matrix;
        // SAFETY: all reads are at offsets of the block, all writes below depth * width, as the contract says.
        unsafe {
            if wide.inner == 1 && wide.even_from(self.first, self.count) == self.count {
                let from = self.from.offset(wide.at(self.first));
                match (self.count == self.width, self.width) {
                    (true, 32) => self.copy_rows::<32>(from),
                    (true, 16) => self.copy_rows::<16>(from),
                    (true, 12) => self.copy_rows::<12>(from),
                    (true, 8) => self.copy_rows::<8>(from),
                    (true, 6) => self.copy_rows::<6>(from),
                    _ => self.copy_any(from),
                }
                return;
            }
            let mut done = 0;
            while done < self.depth {
                let run = deep.even_from(self.k0 + done, self.depth - done);
                self.transpose(done, run);
                done += run;
            }
            self.zero_rest();
        }
    }
}

impl<S: Storage> PackPanel<'_, S> {
    /// Elements of a panel lie side by side: whole rows are copied.
    #[inline(always)]
    unsafe fn copy_rows<const N: usize>(&self, from: *const S) {
        for k in 0..self.depth {
            // SAFETY: as for `go`.
            unsafe {
                let row = from.offset(self.matrix.deep.at(self.k0 + k)).cast::<[S; N]>().read_unaligned();
                let mut wide = [S::Compute::default(); N];
                for i in 0..N {
                    wide[i] = row[i].widen();
                }
                self.to.add(k * N).cast::<[S::Compute; N]>().write_unaligned(wide);
            }
        }
    }

    #[inline(always)]
    unsafe fn copy_any(&self, from: *const S) {
        for k in 0..self.depth {
            // SAFETY: as for `go`.
            unsafe {
                let row = from.offset(self.matrix.deep.at(self.k0 + k));
                let to = self.to.add(k * self.width);
                for i in 0..self.count {
                    *to.add(i) = (*row.add(i)).widen();
                }
                for i in self.count..self.width {
                    *to.add(i) = S::Compute::default();
                }
            }
        }
    }

    /// Steps `start .. start + run` of the sum are evenly spaced: walks along them, four panel columns at a time.
    #[inline(always)]
    unsafe fn transpose(&self, start: usize, run: usize) {
        let Strided { wide, deep } = self.matrix;
        let step = deep.inner;
        // SAFETY: as for `go`.
        unsafe {
            let base = self.from.offset(deep.at(self.k0 + start));
            let to = self.to.add(start * self.width);
            let mut i = 0;
            while i + 4 <= self.count {
                let rows: [*const S; 4] = std::array::from_fn(|r| base.offset(wide.at(self.first + i + r)));
                let to = to.add(i);
                let mut k = 0;
                if step == 1 {
                    while k + 4 <= run {
                        S::transpose4(
                            [rows[0].add(k), rows[1].add(k), rows[2].add(k), rows[3].add(k)],
                            to.add(k * self.width),
                            self.width,
                        );
                        k += 4;
                    }
                }
                for k in k..run {
                    let mut column = [S::Compute::default(); 4];
                    for r in 0..4 {
                        column[r] = (*rows[r].offset(k as isize * step)).widen();
                    }
                    to.add(k * self.width).cast::<[S::Compute; 4]>().write_unaligned(column);
                }
                i += 4;
            }
            for i in i..self.count {
                let row = base.offset(wide.at(self.first + i));
                for k in 0..run {
                    *to.add(k * self.width + i) = (*row.offset(k as isize * step)).widen();
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn zero_rest(&self) {
        if self.count == self.width {
            return;
        }
        for k in 0..self.depth {
            for i in self.count..self.width {
                // SAFETY: below depth * width.
                unsafe { *self.to.add(k * self.width + i) = S::Compute::default() };
            }
        }
    }
}

/// Packs one panel of words of two bfloat16: word `to[s * width + i]` has term `k0 + 2 s` of wide index `first + i` in its lower
/// half and the next one in its upper half; zero past `count` and past the last term.
pub(crate) struct PackPairs<'a, S: Storage> {
    pub to: *mut S::Compute,
    pub width: usize,
    pub from: *const S,
    pub matrix: &'a Strided,
    pub first: usize,
    pub count: usize,
    pub k0: usize,
    pub terms: usize,
}

#[inline(always)]
fn pair<S: Storage>(lower: S, upper: S) -> u32 {
    u32::from(lower.bf16_bits()) | u32::from(upper.bf16_bits()) << 16
}

/// Words of a row that are rounded before they are written across the panel.
const PAIR_RUN: usize = 16;

impl<S: Storage> Work for PackPairs<'_, S> {
    /// # Safety
    /// `from` is valid at every offset of the block, `to` for `width` words at each of the steps, each as large as one of
    /// `S::Compute`.
    #[inline(always)]
    unsafe fn go(self) {
        let Strided { wide, deep } = self.matrix;
        let to = self.to.cast::<u32>();
        if self.terms == 0 {
            return;
        }
        // SAFETY: all reads are at offsets of the block, all writes below steps * width, as the contract says.
        unsafe {
            if wide.inner == 1 && wide.even_from(self.first, self.count) == self.count {
                let from = self.from.offset(wide.at(self.first));
                match (self.count == self.width, self.width) {
                    (true, 32) => self.rows::<32>(from, to),
                    (true, 12) => self.rows::<12>(from, to),
                    _ => self.each(to),
                }
            } else if deep.inner == 1 && deep.even_from(self.k0, self.terms) == self.terms {
                self.across(to);
            } else {
                self.each(to);
            }
        }
    }
}

impl<S: Storage> PackPairs<'_, S> {
    /// Elements of a panel lie side by side: two whole rows at a time.
    #[inline(always)]
    unsafe fn rows<const N: usize>(&self, from: *const S, to: *mut u32) {
        let row = |k: usize| from.wrapping_offset(self.matrix.deep.at(self.k0 + k)).cast::<[S; N]>();
        // SAFETY: as for `go`.
        unsafe {
            for step in 0..self.terms / 2 {
                let lower = row(2 * step).read_unaligned();
                let upper = row(2 * step + 1).read_unaligned();
                let words: [u32; N] = std::array::from_fn(|i| pair(lower[i], upper[i]));
                to.add(step * N).cast::<[u32; N]>().write_unaligned(words);
            }
            if self.terms % 2 == 1 {
                let lower = row(self.terms - 1).read_unaligned();
                let words: [u32; N] = std::array::from_fn(|i| u32::from(lower[i].bf16_bits()));
                to.add(self.terms / 2 * N).cast::<[u32; N]>().write_unaligned(words);
            }
        }
    }

    /// Terms lie side by side: four rows are rounded along the sum and written as columns.
    #[inline(always)]
    unsafe fn across(&self, to: *mut u32) {
        let Strided { wide, deep } = self.matrix;
        let steps = self.terms.div_ceil(2);
        // SAFETY: as for `go`.
        unsafe {
            let base = self.from.offset(deep.at(self.k0));
            let mut i = 0;
            while i < self.width {
                let rows = self.count.saturating_sub(i).min(4);
                let across = (self.width - i).min(4);
                for start in (0..steps).step_by(PAIR_RUN) {
                    let run = PAIR_RUN.min(steps - start);
                    let mut words = [[0_u32; PAIR_RUN]; 4];
                    for (r, words) in words.iter_mut().enumerate().take(rows) {
                        let row = base.offset(wide.at(self.first + i + r)).add(2 * start);
                        if 2 * (start + PAIR_RUN) <= self.terms {
                            let terms = row.cast::<[S; 2 * PAIR_RUN]>().read_unaligned();
                            for j in 0..PAIR_RUN {
                                words[j] = pair(terms[2 * j], terms[2 * j + 1]);
                            }
                        } else {
                            for (j, word) in words.iter_mut().enumerate().take(run) {
                                let lower = u32::from((*row.add(2 * j)).bf16_bits());
                                let more = 2 * (start + j) + 1 < self.terms;
                                *word = if more { pair(*row.add(2 * j), *row.add(2 * j + 1)) } else { lower };
                            }
                        }
                    }
                    let to = to.add(start * self.width + i);
                    if across == 4 && run == PAIR_RUN {
                        for j in (0..PAIR_RUN).step_by(4) {
                            let from = words.each_ref().map(|row| row[j..].as_ptr().cast::<f32>());
                            f32::transpose4(from, to.add(j * self.width).cast(), self.width);
                        }
                    } else {
                        for j in 0..run {
                            for r in 0..across {
                                *to.add(j * self.width + r) = words[r][j];
                            }
                        }
                    }
                }
                i += 4;
            }
        }
    }

    #[inline(always)]
    unsafe fn each(&self, to: *mut u32) {
        let Strided { wide, deep } = self.matrix;
        for step in 0..self.terms.div_ceil(2) {
            for i in 0..self.width {
                // SAFETY: as for `go`.
                unsafe {
                    let half = |k: usize| {
                        let inside = i < self.count && k < self.terms;
                        let at = || self.from.offset(wide.at(self.first + i) + deep.at(self.k0 + k));
                        if inside { u32::from((*at()).bf16_bits()) } else { 0 }
                    };
                    *to.add(step * self.width + i) = half(2 * step) | half(2 * step + 1) << 16;
                }
            }
        }
    }
}

/// Rounds finished sums to the stored type: `to[rows(i) + columns(j)] = from[i * step + j]`.
pub(crate) struct Narrow<'a, S: Storage> {
    pub from: *const S::Compute,
    pub step: usize,
    pub to: *mut S,
    pub rows: &'a Offsets,
    pub m: (usize, usize),
    pub columns: &'a Offsets,
    pub n: (usize, usize),
}

impl<S: Storage> Work for Narrow<'_, S> {
    /// # Safety
    /// `from` is valid for the rows, `to` at every offset of the tile.
    #[inline(always)]
    unsafe fn go(self) {
        // SAFETY: as the contract says.
        unsafe {
            for i in self.m.0..self.m.1 {
                let from = self.from.add((i - self.m.0) * self.step);
                let to = self.to.offset(self.rows.at(i));
                let mut j = self.n.0;
                while j < self.n.1 {
                    let run = self.columns.even_from(j, self.n.1 - j);
                    let (from, to) = (from.add(j - self.n.0), to.offset(self.columns.at(j)));
                    if self.columns.inner == 1 {
                        for x in 0..run {
                            *to.add(x) = S::narrow(*from.add(x));
                        }
                    } else {
                        for x in 0..run {
                            *to.offset(x as isize * self.columns.inner) = S::narrow(*from.add(x));
                        }
                    }
                    j += run;
                }
            }
        }
    }
}

/// Asks for a block of a matrix ahead of its use: rows `outer.0 .. outer.1` of `steps.0`, along `inner` of `steps.1`, which must
/// be side by side; of `parts` equal shares of the rows, the one numbered `part`.
pub(crate) fn prefetch_share<S>(
    from: *const S,
    steps: (&Offsets, &Offsets),
    outer: (usize, usize),
    inner: (usize, usize),
    (part, parts): (usize, usize),
) {
    let rows = outer.1 - outer.0;
    let Some(len) = inner.1.checked_sub(inner.0).filter(|&len| len > 0) else { return };
    if steps.1.even_from(inner.0, len) < len {
        return;
    }
    let lines = (len * size_of::<S>()).div_ceil(64);
    let start = from.wrapping_offset(steps.1.at(inner.0)).cast::<u8>();
    for row in rows * part / parts..rows * (part + 1) / parts {
        let at = start.wrapping_offset(steps.0.at(outer.0 + row) * size_of::<S>() as isize);
        for line in 0..lines {
            crate::tile::prefetch_l2(at.wrapping_add(64 * line));
        }
    }
}

impl Strided {
    /// Asks for a share of the block of `wide` and `deep` indices, in whichever order its elements are side by side.
    #[inline(always)]
    pub(crate) fn prefetch<S>(
        &self,
        from: *const S,
        wide: (usize, usize),
        deep: (usize, usize),
        share: (usize, usize),
    ) {
        if self.wide.inner == 1 {
            prefetch_share(from, (&self.deep, &self.wide), deep, wide, share);
        } else if self.deep.inner == 1 {
            prefetch_share(from, (&self.wide, &self.deep), wide, deep, share);
        }
    }
}
