//! One block of C: the loops around the micro-kernel.

use super::{Operand, Product, Right};
use crate::convolve::Compact;
use crate::element::Storage;
use crate::epilogue::{self, Epilogue};
use crate::pack::Narrow;
use crate::tile::{Kernels, Tile, prefetch_l2};

/// One worker's view of a run.
pub(super) struct Task<'a, S: Storage> {
    pub(super) product: &'a Product,
    pub(super) kernels: &'static Kernels<S::Compute>,
    pub(super) left: Operand,
    pub(super) right: Operand,
    pub(super) c: *mut S,
    pub(super) right_block: *mut S::Compute,
    pub(super) left_panel: *mut S::Compute,
    pub(super) sums: *mut S::Compute,
    pub(super) epilogue: Option<&'a Epilogue>,
}

/// What a worker will read soon.
struct Next {
    /// A left panel: batch element, row panel, first step of the sum and number of steps.
    left: Option<(usize, usize, usize, usize)>,
    /// A right block: batch element, column panels, first step of the sum.
    right: Option<(usize, std::ops::Range<usize>, usize)>,
}

/// The most rows that any micro-kernel has.
const MOST_ROWS: usize = 16;

impl<S: Storage> Task<'_, S> {
    /// The column panels of a block.
    fn columns(&self, n_block: usize) -> std::ops::Range<usize> {
        let blocking = &self.product.blocking;
        n_block * blocking.task_columns..((n_block + 1) * blocking.task_columns).min(blocking.column_panels)
    }

    /// Fetches a share of what comes next: the next left panel, and the right block after this one.
    #[inline(always)]
    unsafe fn prefetch(&self, next: &Next, share: (usize, usize), left_share: (usize, usize)) {
        let p = self.product;
        if let (Operand::Plain(at), Some((batch, panel, k0, depth))) = (self.left, next.left) {
            let rows = (p.blocking.row(p.m, panel), p.blocking.row(p.m, panel + 1));
            let (first, terms) = p.term_range(k0, depth);
            let (bytes, offset) = (p.left_dtype.bytes(), p.left_slots.offset(batch));
            p.left.prefetch(at, bytes, offset, rows, (first, first + terms), left_share);
        }
        if let (Operand::Plain(at), Right::Strided(right), Some((batch, columns, k0))) =
            (self.right, &p.right, &next.right)
        {
            let nr = p.blocking.nr;
            let columns = (columns.start * nr, (columns.end * nr).min(p.n));
            let (first, terms) = p.term_range(*k0, p.blocking.kc.min(p.k - k0));
            let (bytes, offset) = (p.right_dtype.bytes(), p.right_slots.offset(*batch));
            right.prefetch(at, bytes, offset, columns, (first, first + terms), share);
        }
        if let (Operand::Packed(at), Right::Strided(_), Some((batch, columns, k0))) =
            (self.right, &p.right, &next.right)
        {
            // The panels of a packed block lie one behind the other.
            let (nr, depth) = (p.blocking.nr, p.blocking.kc.min(p.k - k0));
            let slot = at.wrapping_add(p.right_slots.of(*batch) * p.right_slot_bytes());
            let first = k0 * p.n.next_multiple_of(nr) + depth * columns.start * nr;
            let start = slot.cast::<S::Compute>().wrapping_add(first).cast::<u8>();
            let lines = (depth * columns.len() * nr * size_of::<S::Compute>()).div_ceil(64);
            for line in lines * share.0 / share.1..lines * (share.0 + 1) / share.1 {
                prefetch_l2(start.wrapping_add(64 * line));
            }
        }
    }

    /// Computes one block of C, given as batch, block of columns and block of rows; `following` is the one that may come next.
    pub(super) unsafe fn run(
        &self,
        (batch, n_block, m_block): (usize, usize, usize),
        following: Option<(usize, usize, usize)>,
    ) {
        let p = self.product;
        let blocking = &p.blocking;
        let rows =
            m_block * blocking.task_rows..((m_block + 1) * blocking.task_rows).min(blocking.row_panels);
        let columns = n_block * blocking.task_columns
            ..((n_block + 1) * blocking.task_columns).min(blocking.column_panels);
        let m0 = blocking.row(p.m, rows.start);
        let n = (columns.start * blocking.nr, (columns.end * blocking.nr).min(p.n));
        let width = columns.len() * blocking.nr;
        // SAFETY: passed on to the caller.
        unsafe {
            let c = self.c.offset(p.c_batch.at(batch));
            let mut k0 = 0;
            loop {
                let depth = blocking.kc.min(p.k - k0);
                let last = k0 + depth == p.k;
                self.fill_right_block(batch, columns.clone(), k0, depth);
                let (indexed, b_table) = match &p.right {
                    Right::Strided(_) | Right::Gather(_) => (false, std::ptr::null()),
                    Right::Padded(padded) => (true, padded.table(k0)),
                };
                let mut unfinished = m0;
                let tiles = rows.len() * columns.len();
                let mut next = Next { left: None, right: None };
                if !last {
                    next.right = Some((batch, columns.clone(), k0 + depth));
                } else if let Some((batch, n_block, _)) = following {
                    next.right = Some((batch, self.columns(n_block), 0));
                }
                for panel in rows.clone() {
                    let (first, end) = (blocking.row(p.m, panel), blocking.row(p.m, panel + 1));
                    let left = self.left_panel(batch, panel, k0, depth);
                    let mut addresses = [std::ptr::null_mut::<S::Compute>(); MOST_ROWS];
                    for (i, address) in addresses.iter_mut().enumerate().take(end - first) {
                        *address = if p.scratch {
                            self.sums.add((first - m0 + i) * width)
                        } else {
                            c.offset(p.c_rows.at(first + i)).cast()
                        };
                    }
                    next.left = if panel + 1 < rows.end {
                        Some((batch, panel + 1, k0, depth))
                    } else if !last {
                        Some((batch, rows.start, k0 + depth, blocking.kc.min(p.k - k0 - depth)))
                    } else {
                        following.map(|(batch, _, m_block)| {
                            (batch, m_block * blocking.task_rows, 0, blocking.kc.min(p.k))
                        })
                    };
                    let done = (panel - rows.start) * columns.len();
                    for panel in columns.clone() {
                        let place = panel - columns.start;
                        self.prefetch(&next, (done + place, tiles), (place, columns.len()));
                        let j = panel * blocking.nr;
                        let count = blocking.nr.min(p.n - j);
                        let (b, b_step) = self.right_panel(batch, panel, place, k0, depth);
                        let column = if p.scratch { (j - n.0) as isize } else { p.c_columns.at(j) };
                        let tile = Tile {
                            k: depth,
                            a: left,
                            a_step: end - first,
                            b,
                            b_step,
                            b_table,
                            rows: addresses.as_ptr(),
                            column,
                            columns: count,
                            accumulate: k0 > 0,
                        };
                        self.kernels.tile(indexed, end - first, count)(&tile);
                    }
                    let enough = (end - unfinished) * (n.1 - n.0) >= epilogue::TILE_ELEMENTS;
                    if last && (enough || panel + 1 == rows.end) {
                        self.finish(
                            c,
                            batch,
                            (unfinished, end),
                            n,
                            self.sums.add((unfinished - m0) * width),
                            width,
                        );
                        unfinished = end;
                    }
                }
                k0 += depth;
                if k0 >= p.k {
                    break;
                }
            }
        }
    }

    /// Moves finished sums to C where they are kept apart, and calls the epilogue.
    unsafe fn finish(
        &self,
        c: *mut S,
        batch: usize,
        m: (usize, usize),
        n: (usize, usize),
        sums: *const S::Compute,
        step: usize,
    ) {
        let p = self.product;
        // SAFETY: passed on to the caller.
        unsafe {
            let (rows, columns, mut n) = (&p.c_rows, &p.c_columns, n);
            if let Right::Padded(padded) = &p.right {
                p.isa.call(Compact { padded, from: sums, step, to: c, rows, m, columns, n });
                n = (padded.before(n.0), padded.before(n.1));
                if n.0 == n.1 {
                    return;
                }
            } else if p.scratch {
                p.isa.call(Narrow { from: sums, step, to: c, rows, m, columns, n });
            }
            if let Some(columns) = p.merged {
                let mut from = n.0;
                while from < n.1 && self.epilogue.is_some() {
                    let (batch, start) = (from / columns, from % columns);
                    let end = columns.min(start + n.1 - from);
                    epilogue::call(self.epilogue, batch, m, (start, end));
                    from += end - start;
                }
            } else if p.swapped {
                epilogue::call(self.epilogue, batch, n, m);
            } else {
                epilogue::call(self.epilogue, batch, m, n);
            }
        }
    }

    /// The packed left panel: found, or packed into the worker's buffer.
    unsafe fn left_panel(&self, batch: usize, panel: usize, k0: usize, depth: usize) -> *const S::Compute {
        let p = self.product;
        // SAFETY: passed on to the caller.
        unsafe {
            match self.left {
                Operand::Packed(at) => {
                    let slot = at.add(p.left_slots.of(batch) * p.left_slot_bytes());
                    slot.cast::<S::Compute>().add(k0 * p.m + depth * p.blocking.row(p.m, panel))
                }
                Operand::Plain(at) => {
                    let from = (at, p.left_slots.offset(batch));
                    p.pack_left_panel(from, self.left_panel.cast(), panel, k0, depth);
                    self.left_panel
                }
            }
        }
    }

    /// Whether panel `panel` of a plain right operand is read where it lies.
    fn in_place(&self, panel: usize) -> bool {
        self.product.right_in_place && (panel + 1) * self.product.blocking.nr <= self.product.n
    }

    /// Packs what the micro-kernel cannot read in place.
    unsafe fn fill_right_block(&self, batch: usize, panels: std::ops::Range<usize>, k0: usize, depth: usize) {
        let p = self.product;
        let Operand::Plain(at) = self.right else { return };
        // SAFETY: passed on to the caller.
        unsafe {
            let from = (at, p.right_slots.offset(batch));
            for panel in panels.clone() {
                if !self.in_place(panel) {
                    let to = self.right_block.add((panel - panels.start) * depth * p.blocking.nr);
                    p.pack_right_panel(from, to.cast(), panel, k0, depth);
                }
            }
        }
    }

    /// A right panel and the distance between its steps.
    #[inline(always)]
    unsafe fn right_panel(
        &self,
        batch: usize,
        panel: usize,
        place: usize,
        k0: usize,
        depth: usize,
    ) -> (*const S::Compute, isize) {
        let p = self.product;
        let nr = p.blocking.nr;
        // SAFETY: passed on to the caller.
        unsafe {
            match (self.right, &p.right) {
                (Operand::Packed(at), Right::Padded(_)) => {
                    let slot = at.add(p.right_slots.of(batch) * p.padded_slot_bytes());
                    (slot.cast::<S::Compute>().add(panel * nr), 0)
                }
                (Operand::Packed(at), _) => {
                    let slot = at.add(p.right_slots.of(batch) * p.right_slot_bytes());
                    let panels = slot.cast::<S::Compute>().add(k0 * p.n.next_multiple_of(nr));
                    (panels.add(depth * panel * nr), nr as isize)
                }
                (Operand::Plain(at), Right::Strided(right)) if self.in_place(panel) => {
                    let at = at.cast::<S>().offset(p.right_slots.offset(batch));
                    (at.offset(right.wide.at(panel * nr) + right.deep.at(k0)).cast(), right.deep.inner)
                }
                (Operand::Plain(_), _) => {
                    (self.right_block.add(place * depth * nr).cast_const(), nr as isize)
                }
            }
        }
    }
}
