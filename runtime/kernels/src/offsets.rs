//! Element offsets of a flattened group of axes, for one operand.

use std::collections::BTreeMap;

/// Where index `i` of a flattened group of axes lies, in elements from the operand's start.
#[derive(Clone, Debug)]
pub(crate) struct Offsets {
    /// The number of indices.
    pub len: usize,
    /// The step between neighbours within a run.
    pub inner: isize,
    /// Indices `r * run .. (r + 1) * run` are evenly spaced by `inner`.
    pub run: usize,
    /// The offset of each index, unless one run covers them all.
    table: Option<Box<[isize]>>,
}

impl Offsets {
    /// The offsets of axes given as (extent, stride), the most major first.
    pub(crate) fn new(axes: impl IntoIterator<Item = (usize, isize)>) -> Offsets {
        let mut merged: Vec<(usize, isize)> = Vec::new();
        let mut len = 1_usize;
        for (extent, stride) in axes {
            len = len.checked_mul(extent).expect("the number of indices of a group of axes fits in usize");
            if extent == 1 {
                continue;
            }
            match merged.last_mut() {
                Some((outer, step)) if *step == stride.wrapping_mul(extent as isize) => {
                    *outer *= extent;
                    *step = stride;
                }
                Some(_) | None => merged.push((extent, stride)),
            }
        }
        if len <= 1 || merged.len() <= 1 {
            let inner = merged.first().map_or(1, |axis| axis.1);
            return Offsets { len, inner, run: len.max(1), table: None };
        }
        let mut table = vec![0_isize];
        for &(extent, stride) in &merged {
            table = table
                .iter()
                .flat_map(|start| (0..extent as isize).map(move |i| start + i * stride))
                .collect();
        }
        let (run, inner) = merged[merged.len() - 1];
        Offsets { len, inner, run, table: Some(table.into()) }
    }

    /// `len` indices a fixed `step` apart.
    pub(crate) fn even(len: usize, step: isize) -> Offsets {
        Offsets { len, inner: step, run: len.max(1), table: None }
    }

    /// Offsets one by one.
    pub(crate) fn listed(offsets: Vec<isize>) -> Offsets {
        Offsets { len: offsets.len(), inner: 0, run: 1, table: Some(offsets.into()) }
    }

    /// The offset of index `i`, which must be below `len`.
    #[inline(always)]
    pub(crate) fn at(&self, i: usize) -> isize {
        debug_assert!(i < self.len);
        match &self.table {
            // SAFETY: the table has `len` entries, and every caller's index is below `len`.
            Some(table) => unsafe { *table.get_unchecked(i) },
            None => i as isize * self.inner,
        }
    }

    /// How many indices from `i` on, at most `limit`, are evenly spaced.
    #[inline(always)]
    pub(crate) fn even_from(&self, i: usize, limit: usize) -> usize {
        if self.table.is_none() { limit } else { limit.min(self.run - i % self.run) }
    }

    /// Whether all indices are evenly spaced.
    pub(crate) fn is_even(&self) -> bool {
        self.table.is_none()
    }
}

/// The batch elements of an operand, of which several may be the same matrix.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// The offset of each distinct matrix.
    pub offsets: Vec<isize>,
    of: Option<Box<[u32]>>,
}

impl Slots {
    /// The distinct matrices among the batch elements at `batch`.
    pub(crate) fn new(batch: &Offsets) -> Slots {
        if batch.len <= 1 || (batch.is_even() && batch.inner == 0) {
            return Slots { offsets: vec![0], of: Some(vec![0; batch.len].into()) };
        }
        let mut known = BTreeMap::new();
        let mut offsets = Vec::new();
        let mut of = Vec::with_capacity(batch.len);
        for index in 0..batch.len {
            let offset = batch.at(index);
            let slot = *known.entry(offset).or_insert_with(|| {
                offsets.push(offset);
                offsets.len() - 1
            });
            of.push(u32::try_from(slot).expect("a batch has fewer than 2^32 elements"));
        }
        let identity = offsets.len() == batch.len;
        Slots { offsets, of: if identity { None } else { Some(of.into()) } }
    }

    /// Which distinct matrix batch element `batch` is.
    #[inline(always)]
    pub(crate) fn of(&self, batch: usize) -> usize {
        self.of.as_ref().map_or(batch, |of| of[batch] as usize)
    }

    /// The offset of batch element `batch`.
    #[inline(always)]
    pub(crate) fn offset(&self, batch: usize) -> isize {
        self.offsets[self.of(batch)]
    }
}
