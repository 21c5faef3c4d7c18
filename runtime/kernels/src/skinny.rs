//! Products of a matrix and a vector: bound by the matrix's way through memory, so nothing is packed.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::blocked::{ALIGN, Operand, Shared, aligned, lines, parallel, pick};
use crate::element::{Compute, DType, Storage, with_storage};
use crate::epilogue::{self, Epilogue};
use crate::isa::{Isa, Work};
use crate::offsets::{Offsets, Slots};
use crate::pack::Strided;
use crate::pool::ThreadPool;
use crate::tile::prefetch_l2;

/// In which direction the matrix is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// Along the sum: each result is a scalar product.
    Along,
    /// Across the sum: the results are a combination of rows.
    Across,
}

/// `C[b, j] = sum_k M[b, j, k] * x[b, k]`.
#[derive(Clone, Debug)]
pub(crate) struct Skinny {
    isa: Isa,
    dtype: DType,
    matrix: Strided,
    matrix_slots: Slots,
    vector: Offsets,
    vector_slots: Slots,
    c_batch: Offsets,
    c: Offsets,
    /// Whether the matrix is A, so that results are counted along m.
    matrix_is_a: bool,
    direction: Direction,
    /// Results of one task.
    chunk: usize,
    /// Pieces of the sum that are computed apart and added in order; it depends on the shape alone, so that the number of
    /// threads changes no result.
    pieces: usize,
    workers: usize,
}

/// What the choice depends on: the contraction's operands.
pub(crate) struct Parts<'a> {
    pub isa: Isa,
    pub threads: usize,
    pub dtype: DType,
    pub a: &'a Strided,
    pub a_batch: &'a Offsets,
    pub b: &'a Strided,
    pub b_batch: &'a Offsets,
    pub c_batch: &'a Offsets,
    pub c_rows: &'a Offsets,
    pub c_columns: &'a Offsets,
}

/// Bytes of matrix below which another thread does not pay.
const THREAD_BYTES: usize = 64 << 10;
/// The shortest run worth walking along.
const SHORTEST_RUN: usize = 16;
/// Results that a worker accumulates at a time when it reads across: 16 KB of f32, half of a first-level cache.
const WIDEST: usize = 4096;
/// How far ahead of its use the matrix is asked for when it is read across, in bytes: its rows are short, and the hardware's
/// own prefetching begins anew with each. Measured: 3 KB to 50 KB are alike, beyond them the second-level cache suffers.
const AHEAD_BYTES: usize = 24 << 10;
/// Bytes of the longest row for which threads share the sum rather than the results: half of such a row is a run too short
/// for memory to serve it well. Measured with 3072 by 768 `f32`: 28 GB/s with half rows, 40 with whole ones.
const SHORT_ROW: usize = 6 << 10;
/// Pieces of such a sum, and the fewest steps that one has.
const PIECES: usize = 4;
const PIECE_STEPS: usize = 128;
/// Elements of one step of the loops: two 512-bit vectors of f32.
const STEP: usize = 32;

impl Skinny {
    /// The kernel for this product, if one side of C is a single index and the matrix lies suitably.
    pub(crate) fn new(parts: Parts<'_>) -> Option<Skinny> {
        let Parts { isa, threads, dtype, a, a_batch, b, b_batch, c_batch, c_rows, c_columns } = parts;
        let matrix_is_a = c_rows.len != 1;
        let (matrix, matrix_batch, vector, vector_batch, c) = match (c_rows.len, c_columns.len) {
            (1, _) => (b, b_batch, &a.deep, a_batch, c_columns),
            (_, 1) => (a, a_batch, &b.deep, b_batch, c_rows),
            _ => return None,
        };
        let (outputs, k) = (c.len, vector.len);
        if outputs == 0 || k == 0 || c_batch.len == 0 {
            return None;
        }
        let walkable = |side: &Offsets| side.inner == 1 && (side.is_even() || side.run >= SHORTEST_RUN);
        let direction = if walkable(&matrix.deep) && k > 1 {
            Direction::Along
        } else if walkable(&matrix.wide) {
            Direction::Across
        } else {
            return None;
        };
        let bytes = c_batch.len * outputs * k * dtype.bytes();
        let workers = threads.min(bytes / THREAD_BYTES).max(1);
        let apart = direction == Direction::Across
            && c_batch.len == 1
            && bytes >= 4 * THREAD_BYTES
            && outputs * dtype.bytes() <= SHORT_ROW;
        let pieces = if apart { (k / PIECE_STEPS).clamp(1, PIECES) } else { 1 };
        let shares = if pieces > 1 { 1 } else { workers.div_ceil(c_batch.len) };
        let chunk = match direction {
            Direction::Along => {
                let share = outputs.div_ceil(if workers == 1 { 1 } else { 4 * shares });
                share.next_multiple_of(4).min(outputs)
            }
            // The longer the runs, the better memory serves them: no more shares than threads while a share fits.
            Direction::Across => {
                let share = outputs.div_ceil(shares * outputs.div_ceil(shares * WIDEST));
                share.next_multiple_of(2 * STEP).min(outputs)
            }
        };
        Some(Skinny {
            isa,
            dtype,
            matrix: matrix.clone(),
            matrix_slots: Slots::new(matrix_batch),
            vector: vector.clone(),
            vector_slots: Slots::new(vector_batch),
            c_batch: c_batch.clone(),
            c: c.clone(),
            matrix_is_a,
            direction,
            chunk,
            pieces,
            workers,
        })
    }

    /// Bytes of a worker's vector and sums.
    fn worker_bytes(&self) -> (usize, usize) {
        let bytes = self.dtype.compute_bytes();
        (lines(self.vector.len * bytes), lines(self.chunk * bytes))
    }

    pub(crate) fn workspace_bytes(&self) -> usize {
        let (vector, sums) = self.worker_bytes();
        let apart = if self.pieces > 1 { self.pieces * sums } else { 0 };
        self.workers * (vector + sums) + apart + ALIGN
    }

    /// A packed operand keeps its element type: a packed matrix lies along the sum, row after row.
    fn packed_bytes(&self, matrix: bool) -> usize {
        let elements = if matrix {
            self.matrix_slots.offsets.len() * self.vector.len * self.c.len
        } else {
            self.vector_slots.offsets.len() * self.vector.len
        };
        elements * self.dtype.bytes()
    }

    pub(crate) fn packed_a_bytes(&self) -> usize {
        self.packed_bytes(self.matrix_is_a)
    }

    pub(crate) fn packed_b_bytes(&self) -> usize {
        self.packed_bytes(!self.matrix_is_a)
    }

    /// # Safety
    /// As for `Prepared::pack_a`.
    pub(crate) unsafe fn pack_a(&self, from: *const u8, to: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe { self.pack(self.matrix_is_a, from, to) }
    }

    /// # Safety
    /// As for `Prepared::pack_b`.
    pub(crate) unsafe fn pack_b(&self, from: *const u8, to: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe { self.pack(!self.matrix_is_a, from, to) }
    }

    unsafe fn pack(&self, matrix: bool, from: *const u8, to: *mut u8) {
        let k = self.vector.len;
        with_storage!(self.dtype, S => {
            let (from, mut to) = (from.cast::<S>(), to.cast::<S>());
            let (slots, rows) = if matrix { (&self.matrix_slots, self.c.len) } else { (&self.vector_slots, 1) };
            for slot in &slots.offsets {
                for row in 0..rows {
                    for i in 0..k {
                        let at = if matrix {
                            self.matrix.wide.at(row) + self.matrix.deep.at(i)
                        } else {
                            self.vector.at(i)
                        };
                        // SAFETY: the caller's operand is valid at every offset, and `to` has room for all of them.
                        unsafe {
                            *to = *from.offset(slot + at);
                            to = to.add(1);
                        }
                    }
                }
            }
        });
    }

    /// # Safety
    /// As for `Prepared::run`.
    pub(crate) unsafe fn run(
        &self,
        pool: &ThreadPool,
        a: Operand,
        b: Operand,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        // SAFETY: passed on to the caller.
        with_storage!(self.dtype, S => unsafe { self.run_typed::<S>(pool, a, b, c, workspace, epilogue) });
    }

    unsafe fn run_typed<S: Storage>(
        &self,
        pool: &ThreadPool,
        a: Operand,
        b: Operand,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        let (matrix, vector) = if self.matrix_is_a { (a, b) } else { (b, a) };
        let chunks = self.c.len.div_ceil(self.chunk);
        // A packed matrix is read along, for which rows are never too short.
        let pieces = if matches!(matrix, Operand::Packed(_)) { 1 } else { self.pieces };
        let tasks = self.c_batch.len * chunks * pieces;
        let (vector_bytes, sums_bytes) = self.worker_bytes();
        let (base, c) = (Shared(aligned(workspace)), Shared(c));
        let apart = base.get().wrapping_add(self.workers * (vector_bytes + sums_bytes));
        let apart = Shared(apart);
        let next = AtomicUsize::new(0);
        let body = |worker: usize| {
            // SAFETY: each worker has its own part of the workspace.
            let (buffer, sums) = unsafe {
                let own = base.get().add(worker * (vector_bytes + sums_bytes));
                (own.cast::<S::Compute>(), own.add(vector_bytes).cast::<S::Compute>())
            };
            let mut held = None;
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                let (rest, piece) = (task / pieces, task % pieces);
                let (batch, first) = (rest / chunks, rest % chunks * self.chunk);
                let count = self.chunk.min(self.c.len - first);
                let k = self.vector.len;
                let steps = (k * piece / pieces, k * (piece + 1) / pieces);
                // SAFETY: passed on to the caller; tasks are disjoint parts of C, or write sums of their own.
                unsafe {
                    let x = self.vector::<S>(pick(&vector), batch, buffer, &mut held);
                    let sums = if pieces > 1 { apart.get().add(piece * sums_bytes).cast() } else { sums };
                    self.sums::<S>(pick(&matrix), batch, x, sums, (first, count), steps);
                    if pieces == 1 {
                        self.finish::<S>(c.get(), sums, batch, (first, first + count), epilogue);
                    }
                }
            }
        };
        parallel(pool, self.workers, &body);
        if pieces > 1 {
            let sums = apart.get().cast::<S::Compute>();
            // SAFETY: every piece has been written, and nobody else is at work.
            unsafe {
                for piece in 1..pieces {
                    let part = apart.get().add(piece * sums_bytes).cast::<S::Compute>();
                    for i in 0..self.c.len {
                        *sums.add(i) = (*sums.add(i)).add(*part.add(i));
                    }
                }
                self.finish::<S>(c.get(), sums, 0, (0, self.c.len), epilogue);
            }
        }
    }

    /// Stores finished sums of the results `range` and calls the epilogue.
    ///
    /// # Safety
    /// C is valid at these results of `batch`, `sums` has as many elements, and nobody else is at these results.
    unsafe fn finish<S: Storage>(
        &self,
        c: *mut u8,
        sums: *const S::Compute,
        batch: usize,
        range: (usize, usize),
        epilogue: Option<&Epilogue>,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            let c = c.cast::<S>().offset(self.c_batch.at(batch));
            for i in range.0..range.1 {
                *c.offset(self.c.at(i)) = S::narrow(*sums.add(i - range.0));
            }
            if self.matrix_is_a {
                epilogue::call(epilogue, batch, range, (0, 1));
            } else {
                epilogue::call(epilogue, batch, (0, 1), range);
            }
        }
    }

    /// The vector of a batch element, side by side in the type of the sum: where it lies, or in `buffer`, which holds the one
    /// of slot `held`.
    unsafe fn vector<S: Storage>(
        &self,
        from: Operand,
        batch: usize,
        buffer: *mut S::Compute,
        held: &mut Option<usize>,
    ) -> *const S::Compute {
        let slot = self.vector_slots.of(batch);
        let (from, packed) = match from {
            Operand::Packed(at) => (at.cast::<S>().wrapping_add(slot * self.vector.len), true),
            Operand::Plain(at) => (at.cast::<S>().wrapping_offset(self.vector_slots.offsets[slot]), false),
        };
        if S::SAME && (packed || (self.vector.is_even() && self.vector.inner == 1)) {
            return from.cast();
        }
        if *held != Some(slot) {
            for i in 0..self.vector.len {
                let at = if packed { i as isize } else { self.vector.at(i) };
                // SAFETY: the caller's operand is valid at every offset; the buffer has room for the vector.
                unsafe { *buffer.add(i) = (*from.offset(at)).widen() };
            }
            *held = Some(slot);
        }
        buffer
    }

    /// Computes `count` results from `first` on into `sums`, of the whole sum or of some of its steps.
    unsafe fn sums<S: Storage>(
        &self,
        from: Operand,
        batch: usize,
        x: *const S::Compute,
        sums: *mut S::Compute,
        (first, count): (usize, usize),
        steps: (usize, usize),
    ) {
        let slot = self.matrix_slots.of(batch);
        let k = self.vector.len;
        // SAFETY: passed on to the caller; the instruction set was checked when the product was prepared.
        unsafe {
            match from {
                Operand::Packed(at) => {
                    let from = at.cast::<S>().add(slot * k * self.c.len);
                    let (wide, deep) = (&Offsets::even(self.c.len, k as isize), &Offsets::even(k, 1));
                    self.isa.call(Along { from, wide, deep, x, sums, first, count });
                }
                Operand::Plain(at) => {
                    let from = at.cast::<S>().offset(self.matrix_slots.offsets[slot]);
                    let (wide, deep) = (&self.matrix.wide, &self.matrix.deep);
                    match self.direction {
                        Direction::Along => self.isa.call(Along { from, wide, deep, x, sums, first, count }),
                        Direction::Across => {
                            self.isa.call(Across { from, wide, deep, x, sums, first, count, steps })
                        }
                    }
                }
            }
        }
    }
}

/// Scalar products of the rows `first .. first + count` with x.
struct Along<'a, S: Storage> {
    from: *const S,
    wide: &'a Offsets,
    deep: &'a Offsets,
    x: *const S::Compute,
    sums: *mut S::Compute,
    first: usize,
    count: usize,
}

impl<S: Storage> Work for Along<'_, S> {
    /// # Safety
    /// The matrix is valid at the offsets of these rows, x for the length of the sum, `sums` for `count` results.
    #[inline(always)]
    unsafe fn go(self) {
        let mut i = 0;
        // SAFETY: as the contract says.
        unsafe {
            let ahead = AHEAD_BYTES / (self.deep.len * size_of::<S>());
            let ahead = ahead.clamp(4, 32).next_multiple_of(4);
            while i + 4 <= self.count {
                let later = if i + ahead + 4 <= self.count { i + ahead } else { i };
                self.rows::<4>(i, later);
                i += 4;
            }
            while i < self.count {
                self.rows::<1>(i, i);
                i += 1;
            }
        }
    }
}

impl<S: Storage> Along<'_, S> {
    /// Computes R results from `i` on, and asks for the rows of as many from `later` on.
    #[inline(always)]
    unsafe fn rows<const R: usize>(&self, i: usize, later: usize) {
        // SAFETY: as for `go`.
        unsafe {
            let mut totals = [S::Compute::default(); R];
            let mut done = 0;
            while done < self.deep.len {
                let run = self.deep.even_from(done, self.deep.len - done);
                let start = self.from.offset(self.deep.at(done));
                let rows: [*const S; R] =
                    std::array::from_fn(|r| start.wrapping_offset(self.wide.at(self.first + i + r)));
                let ahead: [*const u8; R] = std::array::from_fn(|r| {
                    start.wrapping_offset(self.wide.at(self.first + later + r)).cast()
                });
                let x = self.x.add(done);
                let mut sums = [[S::Compute::default(); STEP]; R];
                let mut k = 0;
                while k + STEP <= run {
                    let x = x.add(k).cast::<[S::Compute; STEP]>().read_unaligned();
                    for r in 0..R {
                        if later > i {
                            for line in (0..STEP * size_of::<S>()).step_by(64) {
                                prefetch_l2(ahead[r].wrapping_add(k * size_of::<S>() + line));
                            }
                        }
                        let row = rows[r].add(k).cast::<[S; STEP]>().read_unaligned();
                        for j in 0..STEP {
                            sums[r][j] = row[j].widen().mul_add(x[j], sums[r][j]);
                        }
                    }
                    k += STEP;
                }
                for r in 0..R {
                    let mut rest = S::Compute::default();
                    for k in k..run {
                        rest = (*rows[r].add(k)).widen().mul_add(*x.add(k), rest);
                    }
                    // Pairwise, so that vectors can do it and the error grows with the logarithm.
                    let mut half = STEP / 2;
                    while half > 0 {
                        for j in 0..half {
                            sums[r][j] = sums[r][j].add(sums[r][j + half]);
                        }
                        half /= 2;
                    }
                    totals[r] = totals[r].add(sums[r][0].add(rest));
                }
                done += run;
            }
            self.sums.add(i).cast::<[S::Compute; R]>().write_unaligned(totals);
        }
    }
}

/// The combination of the matrix's rows `steps` by x, for the columns `first .. first + count`.
struct Across<'a, S: Storage> {
    from: *const S,
    wide: &'a Offsets,
    deep: &'a Offsets,
    x: *const S::Compute,
    sums: *mut S::Compute,
    first: usize,
    count: usize,
    steps: (usize, usize),
}

impl<S: Storage> Work for Across<'_, S> {
    /// # Safety
    /// As for [`Along`].
    #[inline(always)]
    unsafe fn go(self) {
        // SAFETY: as the contract says.
        unsafe {
            for i in 0..self.count {
                *self.sums.add(i) = S::Compute::default();
            }
            let ahead = (AHEAD_BYTES / (self.count * size_of::<S>())).clamp(1, 16).next_multiple_of(4);
            let (mut k, end) = self.steps;
            while k < end {
                let rows = (end - k).min(4);
                let later = if k + ahead + 4 <= end { k + ahead } else { k };
                let mut i = 0;
                while i < self.count {
                    let run = self.wide.even_from(self.first + i, self.count - i);
                    let start = self.from.wrapping_offset(self.wide.at(self.first + i));
                    if rows == 4 {
                        self.add::<4>(start, (k, later), i, run)
                    } else {
                        self.add_each(start, k, rows, i, run)
                    }
                    i += run;
                }
                k += rows;
            }
        }
    }
}

impl<S: Storage> Across<'_, S> {
    /// Adds R rows from step `k` on to the sums `i .. i + run`, and asks for as many from step `later` on.
    #[inline(always)]
    unsafe fn add<const R: usize>(&self, start: *const S, (k, later): (usize, usize), i: usize, run: usize) {
        // SAFETY: as for `go`.
        unsafe {
            let rows: [*const S; R] = std::array::from_fn(|r| start.wrapping_offset(self.deep.at(k + r)));
            let ahead: [*const u8; R] =
                std::array::from_fn(|r| start.wrapping_offset(self.deep.at(later + r)).cast());
            let x = self.x.add(k).cast::<[S::Compute; R]>().read_unaligned();
            let sums = self.sums.add(i);
            let mut j = 0;
            while j + STEP <= run {
                let to = sums.add(j).cast::<[S::Compute; STEP]>();
                let mut sum = to.read_unaligned();
                for r in 0..R {
                    if later > k {
                        for line in (0..STEP * size_of::<S>()).step_by(64) {
                            prefetch_l2(ahead[r].wrapping_add(j * size_of::<S>() + line));
                        }
                    }
                    let row = rows[r].add(j).cast::<[S; STEP]>().read_unaligned();
                    for l in 0..STEP {
                        sum[l] = row[l].widen().mul_add(x[r], sum[l]);
                    }
                }
                to.write_unaligned(sum);
                j += STEP;
            }
            for j in j..run {
                let mut sum = *sums.add(j);
                for r in 0..R {
                    sum = (*rows[r].add(j)).widen().mul_add(x[r], sum);
                }
                *sums.add(j) = sum;
            }
        }
    }

    #[inline(always)]
    unsafe fn add_each(&self, start: *const S, k: usize, rows: usize, i: usize, run: usize) {
        for r in 0..rows {
            // SAFETY: as for `go`.
            unsafe { self.add::<1>(start, (k + r, k + r), i, run) };
        }
    }
}
