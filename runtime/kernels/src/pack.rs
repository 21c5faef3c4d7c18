//! Copying a block of an operand into the order in which a micro-kernel reads it.

use std::marker::PhantomData;

use crate::element::{Compute, Storage};
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

/// How terms of the sum are written side by side in a word of 32 bits, the first in the lowest bits.
pub(crate) trait Terms {
    /// Terms of a word.
    const COUNT: usize;
    /// The bits of a term, those above its share of the word being dropped.
    fn bits<S: Storage>(x: S) -> u32;
}

/// Two bfloat16, rounded to nearest.
pub(crate) struct Bf16Terms;
impl Terms for Bf16Terms {
    const COUNT: usize = 2;
    #[inline(always)]
    fn bits<S: Storage>(x: S) -> u32 {
        u32::from(x.bf16_bits())
    }
}

/// Two integers of 16 bits.
pub(crate) struct IntTerms;
impl Terms for IntTerms {
    const COUNT: usize = 2;
    #[inline(always)]
    fn bits<S: Storage>(x: S) -> u32 {
        x.widen().low_bits()
    }
}

/// Four bytes.
pub(crate) struct ByteTerms;
impl Terms for ByteTerms {
    const COUNT: usize = 4;
    #[inline(always)]
    fn bits<S: Storage>(x: S) -> u32 {
        x.widen().low_bits()
    }
}

/// Packs one panel of words of several terms: word `to[s * width + i]` has the terms from `k0 + s * COUNT` on of wide index
/// `first + i`; zero past `count` and past the last term.
pub(crate) struct PackWords<'a, S, T> {
    pub to: *mut u32,
    pub width: usize,
    pub from: *const S,
    pub matrix: &'a Strided,
    pub first: usize,
    pub count: usize,
    pub k0: usize,
    pub terms: usize,
    pub form: PhantomData<T>,
}

/// Words of a row that are made before they are written across the panel.
const WORD_RUN: usize = 16;

impl<S: Storage, T: Terms> Work for PackWords<'_, S, T> {
    /// # Safety
    /// `from` is valid at every offset of the block, `to` for `width` words at each of the steps.
    #[inline(always)]
    unsafe fn go(self) {
        let Strided { wide, deep } = self.matrix;
        if self.terms == 0 {
            return;
        }
        // SAFETY: all reads are at offsets of the block, all writes below steps * width, as the contract says.
        unsafe {
            if wide.inner == 1 && wide.even_from(self.first, self.count) == self.count {
                let from = self.from.offset(wide.at(self.first));
                match (self.count == self.width, self.width) {
                    (true, 32) => self.rows::<32>(from),
                    (true, 12) => self.rows::<12>(from),
                    _ => self.each(),
                }
            } else if deep.inner == 1 && deep.even_from(self.k0, self.terms) == self.terms {
                self.across();
            } else {
                self.each();
            }
        }
    }
}

impl<S: Storage, T: Terms> PackWords<'_, S, T> {
    /// Where a term lies in a word.
    #[inline(always)]
    fn placed(x: S, term: usize) -> u32 {
        let width = 32 / T::COUNT;
        (T::bits(x) & (u32::MAX >> (32 - width))) << (term * width)
    }

    /// Elements of a panel lie side by side: the rows of a word at a time.
    #[inline(always)]
    unsafe fn rows<const N: usize>(&self, from: *const S) {
        for step in 0..self.terms.div_ceil(T::COUNT) {
            let mut words = [0_u32; N];
            for term in 0..T::COUNT.min(self.terms - step * T::COUNT) {
                let at = self.matrix.deep.at(self.k0 + step * T::COUNT + term);
                // SAFETY: as for `go`.
                let row = unsafe { from.offset(at).cast::<[S; N]>().read_unaligned() };
                for i in 0..N {
                    words[i] |= Self::placed(row[i], term);
                }
            }
            // SAFETY: as for `go`.
            unsafe { self.to.add(step * N).cast::<[u32; N]>().write_unaligned(words) };
        }
    }

    /// Terms lie side by side: words of four rows are made along the sum and written as columns.
    #[inline(always)]
    unsafe fn across(&self) {
        let Strided { wide, deep } = self.matrix;
        let steps = self.terms.div_ceil(T::COUNT);
        // SAFETY: as for `go`.
        unsafe {
            let base = self.from.offset(deep.at(self.k0));
            let mut i = 0;
            while i < self.width {
                let rows = self.count.saturating_sub(i).min(4);
                let across = (self.width - i).min(4);
                for start in (0..steps).step_by(WORD_RUN) {
                    let run = WORD_RUN.min(steps - start);
                    let mut words = [[0_u32; WORD_RUN]; 4];
                    for (r, words) in words.iter_mut().enumerate().take(rows) {
                        let row = base.offset(wide.at(self.first + i + r));
                        let whole = (start + WORD_RUN) * T::COUNT <= self.terms;
                        for (j, word) in words.iter_mut().enumerate().take(run) {
                            let first = (start + j) * T::COUNT;
                            let terms = if whole { T::COUNT } else { T::COUNT.min(self.terms - first) };
                            for term in 0..terms {
                                *word |= Self::placed(*row.add(first + term), term);
                            }
                        }
                    }
                    let to = self.to.add(start * self.width + i);
                    if across == 4 && run == WORD_RUN {
                        for j in (0..WORD_RUN).step_by(4) {
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
    unsafe fn each(&self) {
        let Strided { wide, deep } = self.matrix;
        for step in 0..self.terms.div_ceil(T::COUNT) {
            for i in 0..self.width {
                let mut word = 0;
                for term in 0..T::COUNT.min(self.terms - step * T::COUNT) {
                    if i < self.count {
                        let at = wide.at(self.first + i) + deep.at(self.k0 + step * T::COUNT + term);
                        // SAFETY: as for `go`.
                        word |= Self::placed(unsafe { *self.from.offset(at) }, term);
                    }
                }
                // SAFETY: as for `go`.
                unsafe { *self.to.add(step * self.width + i) = word };
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

/// Asks for a block of a matrix of elements of some bytes ahead of its use: rows `outer.0 .. outer.1` of `steps.0`, along
/// `inner` of `steps.1`, which must be side by side; of `parts` equal shares of the rows, the one numbered `part`.
fn prefetch_share(
    (from, bytes): (*const u8, usize),
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
    let lines = (len * bytes).div_ceil(64);
    let start = from.wrapping_offset(steps.1.at(inner.0) * bytes as isize);
    for row in rows * part / parts..rows * (part + 1) / parts {
        let at = start.wrapping_offset(steps.0.at(outer.0 + row) * bytes as isize);
        for line in 0..lines {
            crate::tile::prefetch_l2(at.wrapping_add(64 * line));
        }
    }
}

impl Strided {
    /// Asks for a share of the block of `wide` and `deep` indices of a matrix that begins `offset` elements of `bytes` bytes
    /// from `from`, in whichever order its elements are side by side.
    #[inline(always)]
    pub(crate) fn prefetch(
        &self,
        from: *const u8,
        bytes: usize,
        offset: isize,
        wide: (usize, usize),
        deep: (usize, usize),
        share: (usize, usize),
    ) {
        let from = (from.wrapping_offset(offset * bytes as isize), bytes);
        if self.wide.inner == 1 {
            prefetch_share(from, (&self.deep, &self.wide), deep, wide, share);
        } else if self.deep.inner == 1 {
            prefetch_share(from, (&self.wide, &self.deep), wide, deep, share);
        }
    }
}
