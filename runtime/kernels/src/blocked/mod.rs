//! The blocked product that contractions and convolutions share.
//!
//! After the layout of Goto and van de Geijn ("Anatomy of high-performance matrix multiplication", 2008), turned so that a
//! block of the right operand stays in the second-level cache and a panel of the left one in the first: for each task (a
//! block of C), for each block of k, the right block is packed, and for each row panel the micro-kernel runs along it. A row
//! of tiles is finished right after the last block of k, which is when the epilogue gets it, still in cache.

mod task;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::convolve::{Fill, Gather, GatherPanel, OVERRUN, Padded};
use crate::element::{DType, Storage, with_storage};
use crate::epilogue::Epilogue;
use crate::isa::Isa;
use crate::offsets::{Offsets, Slots};
use crate::pack::{Bf16Terms, ByteTerms, IntTerms, PackPanel, PackWords, Strided};
use crate::plan::{Blocking, Shape};
use crate::pool::ThreadPool;
use crate::tile::{Kernel, Kernels, Word};
use task::Task;

/// Where the right operand comes from.
#[derive(Clone, Debug)]
pub(crate) enum Right {
    /// A matrix with offsets that are sums over its two sides.
    Strided(Strided),
    /// A convolution's matrix, never written down.
    Gather(Gather),
    /// A convolution's matrix, read in place from a copy of the source between zeros.
    Padded(Padded),
}

/// An operand as given to a run.
#[derive(Clone, Copy)]
pub(crate) enum Operand {
    /// As described.
    Plain(*const u8),
    /// As written by [`Product::pack_left`] or [`Product::pack_right`].
    Packed(*const u8),
}

// SAFETY: an operand is only read; that the memory outlives the run is the caller's promise.
unsafe impl Sync for Operand {}

/// A pointer that the tasks of one run share, each writing its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub *mut u8);
// SAFETY: tasks write disjoint parts; the memory outlives the run by the caller's promise.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn get(&self) -> *mut u8 {
        self.0
    }
}

/// A product ready to run: `C[b, i, j] = sum_k L[b, i, k] * R[b, k, j]`.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub isa: Isa,
    pub dtype: DType,
    /// The element types of the operands: `dtype`, or narrower integers.
    pub left_dtype: DType,
    pub right_dtype: DType,
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    /// Steps of the sum.
    pub k: usize,
    /// What a step of the sum takes from a packed operand.
    pub word: Word,
    pub left: Strided,
    pub left_slots: Slots,
    pub right: Right,
    pub right_slots: Slots,
    pub c_batch: Offsets,
    pub c_rows: Offsets,
    pub c_columns: Offsets,
    /// Whether left and right, m and n are exchanged against what the user described: the epilogue sees the latter.
    pub swapped: bool,
    /// Columns of one batch element as the user described it, where columns of all of them were put side by side.
    pub merged: Option<usize>,
    /// Whether sums are kept beside C until they are complete: C is narrower than the sum, or its columns are apart.
    scratch: bool,
    /// Whether the micro-kernel reads full right panels where they lie.
    right_in_place: bool,
    pub blocking: Blocking,
}

/// What buffers within a workspace are aligned to: a cache line, and the widest vector.
pub(crate) const ALIGN: usize = 64;

/// Rounds up to whole cache lines.
pub(crate) fn lines(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// What `Product::new` needs to know.
pub(crate) struct Parts {
    pub isa: Isa,
    pub threads: usize,
    pub dtype: DType,
    pub left: Strided,
    pub left_batch: Offsets,
    pub right: Right,
    pub right_batch: Offsets,
    pub c_batch: Offsets,
    pub c_rows: Offsets,
    pub c_columns: Offsets,
    pub swapped: bool,
    pub merged: Option<usize>,
}

impl Product {
    /// Chooses the blocking.
    pub(crate) fn new(parts: Parts) -> Product {
        let types = (parts.dtype, parts.dtype);
        Product::with_operands(parts, types, false)
    }

    /// Chooses the blocking of a product whose operands are narrower than the sum, or whose `f32` operands may be rounded to
    /// bfloat16 where that is faster.
    pub(crate) fn with_operands(
        parts: Parts,
        (left_dtype, right_dtype): (DType, DType),
        rounding: bool,
    ) -> Product {
        let Parts {
            isa,
            threads,
            dtype,
            left,
            left_batch,
            right,
            right_batch,
            c_batch,
            c_rows,
            c_columns,
            swapped,
            merged,
        } = parts;
        let word = match &right {
            Right::Strided(_) => Word::of(dtype, (left_dtype, right_dtype), rounding, isa),
            Right::Gather(_) | Right::Padded(_) => Word::One,
        };
        let terms = word.terms();
        let (lanes, mr, nr) = with_storage!(dtype, S => {
            let kernels = kernels_of::<<S as Storage>::Compute>(isa, word);
            (kernels.lanes, kernels.mr(), kernels.nr())
        });
        let (m, k) = (left.wide.len, left.deep.len.div_ceil(terms));
        let (n, padded) = match &right {
            Right::Strided(_) | Right::Gather(_) => (c_columns.len, false),
            Right::Padded(padded) => (padded.columns(), true),
        };
        let in_runs = c_columns.inner == 1 && (c_columns.is_even() || c_columns.run.is_multiple_of(nr));
        let scratch = dtype.is_narrow() || padded || !(in_runs || n == 1);
        let right_in_place = match &right {
            Right::Strided(right) => {
                // Packing pays when a panel is read more than once.
                k > 0
                    && m <= mr
                    && terms == 1
                    && !dtype.is_narrow()
                    && right.wide.inner == 1
                    && right.wide.is_even()
                    && right.deep.is_even()
            }
            Right::Gather(_) | Right::Padded(_) => false,
        };
        let right_cost = match &right {
            Right::Strided(right) if right.wide.inner == 1 => 3.0,
            Right::Strided(_) => 8.0,
            Right::Gather(_) => 12.0,
            Right::Padded(_) => 0.5,
        };
        let left_slots = Slots::new(&left_batch);
        let shape = Shape {
            batch: c_batch.len,
            m,
            n,
            k,
            mr,
            nr,
            lanes,
            bytes: dtype.compute_bytes(),
            left_slots: left_slots.offsets.len(),
            left_cost: terms as f64 * if left.wide.inner == 1 { 0.2 } else { 0.5 },
            right_cost: terms as f64 * right_cost,
            right_in_place,
            scratch,
            threads,
        };
        let blocking = Blocking::choose(&shape);
        let right_slots = Slots::new(&right_batch);
        Product {
            isa,
            dtype,
            left_dtype,
            right_dtype,
            batch: c_batch.len,
            m,
            n,
            k,
            word,
            left,
            left_slots,
            right,
            right_slots,
            c_batch,
            c_rows,
            c_columns,
            swapped,
            merged,
            scratch,
            right_in_place,
            blocking,
        }
    }

    /// The micro-kernels.
    fn kernels<S: Storage>(&self) -> &'static Kernels<S::Compute> {
        kernels_of(self.isa, self.word)
    }

    /// The first term of some steps, and how many terms they have.
    fn term_range(&self, k0: usize, depth: usize) -> (usize, usize) {
        let first = k0 * self.word.terms();
        (first, (depth * self.word.terms()).min(self.left.deep.len - first))
    }

    /// Bytes of one packed left matrix.
    fn left_slot_bytes(&self) -> usize {
        lines(self.m * self.k * self.dtype.compute_bytes())
    }

    /// Bytes of one packed right matrix: its last panel is filled up with zeros.
    fn right_slot_bytes(&self) -> usize {
        lines(self.n.next_multiple_of(self.blocking.nr) * self.k * self.dtype.compute_bytes())
    }

    /// Bytes of the packed left operand.
    pub(crate) fn packed_left_bytes(&self) -> usize {
        self.left_slots.offsets.len() * self.left_slot_bytes()
    }

    /// Bytes of the packed right operand.
    pub(crate) fn packed_right_bytes(&self) -> usize {
        self.right_slots.offsets.len() * self.right_slot_bytes()
    }

    /// Bytes of a worker's right block.
    fn right_block_bytes(&self) -> usize {
        let Blocking { kc, task_columns, nr, .. } = self.blocking;
        lines((kc * task_columns * nr + OVERRUN) * self.dtype.compute_bytes())
    }

    /// Bytes of a worker's right block, left panel and unfinished sums.
    fn worker_bytes(&self) -> (usize, usize, usize) {
        let blocking = &self.blocking;
        let bytes = self.dtype.compute_bytes();
        let right = if self.padded_slot_bytes() > 0 { 0 } else { self.right_block_bytes() };
        let left = lines(blocking.kc * blocking.mr * bytes);
        let sums = blocking.task_rows * blocking.mr * blocking.task_columns * blocking.nr * bytes;
        (right, left, if self.scratch { lines(sums) } else { 0 })
    }

    /// Bytes of one matrix of a padded right operand, 0 for others.
    fn padded_slot_bytes(&self) -> usize {
        match &self.right {
            Right::Strided(_) | Right::Gather(_) => 0,
            Right::Padded(padded) => lines(padded.elements() * self.dtype.compute_bytes()),
        }
    }

    /// Bytes of a padded right operand.
    fn padded_bytes(&self) -> usize {
        self.right_slots.offsets.len() * self.padded_slot_bytes()
    }

    /// Bytes that a run needs beside its operands.
    pub(crate) fn workspace_bytes(&self) -> usize {
        let (right, left, sums) = self.worker_bytes();
        let ahead =
            if self.blocking.left_ahead { self.left_slots.offsets.len() * self.left_slot_bytes() } else { 0 };
        ahead + self.padded_bytes() + self.blocking.workers * (right + left + sums) + ALIGN
    }

    /// Packs the left operand whole, on the threads of a pool or on this one.
    ///
    /// # Safety
    /// `from` is the described operand, `to` has `packed_left_bytes` bytes.
    pub(crate) unsafe fn pack_left_with(&self, pool: Option<&ThreadPool>, from: *const u8, to: *mut u8) {
        let (from, to, pieces) = (Operand::Plain(from), Shared(to), self.left_pieces());
        shares(pool, self.packed_left_bytes(), pieces, &|index| {
            let Operand::Plain(from) = pick(&from) else { return };
            // SAFETY: passed on to the caller; each piece lies within the packed operand, apart from the others.
            unsafe { self.pack_left_piece(from, to.get(), index) };
        });
    }

    /// Packs the right operand whole, on the threads of a pool or on this one.
    ///
    /// # Safety
    /// `from` is the described operand, `to` has `packed_right_bytes` bytes.
    pub(crate) unsafe fn pack_right_with(&self, pool: Option<&ThreadPool>, from: *const u8, to: *mut u8) {
        let (nr, panels) = (self.blocking.nr, self.blocking.column_panels);
        let (blocks, groups) = (self.k.div_ceil(self.blocking.kc), panels.div_ceil(PACK_PANELS));
        let (from, to) = (Operand::Plain(from), Shared(to));
        let pieces = self.right_slots.offsets.len() * blocks * groups;
        shares(pool, self.packed_right_bytes(), pieces, &|index| {
            let Operand::Plain(from) = pick(&from) else { return };
            let (rest, group) = (index / groups, index % groups);
            let (slot, k0) = (rest / blocks, rest % blocks * self.blocking.kc);
            let depth = self.blocking.kc.min(self.k - k0);
            let group = group * PACK_PANELS..((group + 1) * PACK_PANELS).min(panels);
            for done in (0..depth).step_by(PACK_STEPS) {
                let steps = PACK_STEPS.min(depth - done);
                for panel in group.clone() {
                    let at = k0 * self.n.next_multiple_of(nr) + depth * panel * nr + done * nr;
                    // SAFETY: passed on to the caller; each part of a panel lies within the packed operand, apart from the
                    // others.
                    unsafe {
                        let from = (from, self.right_slots.offsets[slot]);
                        let to =
                            to.get().add(slot * self.right_slot_bytes() + at * self.dtype.compute_bytes());
                        self.pack_right_panel(from, to, panel, k0 + done, steps);
                    }
                }
            }
        });
    }

    /// Packs the left operand whole, on this thread.
    ///
    /// # Safety
    /// As for `pack_left_with`.
    pub(crate) unsafe fn pack_left(&self, from: *const u8, to: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe { self.pack_left_with(None, from, to) }
    }

    /// The pieces in which the left operand is packed ahead: a row panel of one block of k.
    fn left_pieces(&self) -> usize {
        self.left_slots.offsets.len() * self.blocking.row_panels * self.k.div_ceil(self.blocking.kc)
    }

    unsafe fn pack_left_piece(&self, from: *const u8, to: *mut u8, index: usize) {
        let blocks = self.k.div_ceil(self.blocking.kc);
        let (rest, block) = (index / blocks, index % blocks);
        let (slot, panel) = (rest / self.blocking.row_panels, rest % self.blocking.row_panels);
        let k0 = block * self.blocking.kc;
        let depth = self.blocking.kc.min(self.k - k0);
        let row = self.blocking.row(self.m, panel);
        let at = slot * self.left_slot_bytes() + (k0 * self.m + depth * row) * self.dtype.compute_bytes();
        // SAFETY: passed on to the caller.
        unsafe { self.pack_left_panel((from, self.left_slots.offsets[slot]), to.add(at), panel, k0, depth) }
    }

    /// Packs a panel of the left matrix that begins `offset` elements from `from`.
    unsafe fn pack_left_panel(
        &self,
        (from, offset): (*const u8, isize),
        to: *mut u8,
        panel: usize,
        k0: usize,
        depth: usize,
    ) {
        let first = self.blocking.row(self.m, panel);
        let count = self.blocking.row(self.m, panel + 1) - first;
        let block = PanelBlock { width: count, first, count, k0, depth };
        // SAFETY: passed on to the caller.
        with_storage!(self.left_dtype, S => unsafe {
            self.pack_panel::<S>(from.cast::<S>().offset(offset), to, &self.left, block)
        });
    }

    /// Packs a panel of a matrix of strides, as the micro-kernel takes its terms.
    unsafe fn pack_panel<S: Storage>(
        &self,
        from: *const S,
        to: *mut u8,
        matrix: &Strided,
        block: PanelBlock,
    ) {
        let PanelBlock { width, first, count, k0, depth } = block;
        let (k0, terms) = if self.word == Word::One { (k0, depth) } else { self.term_range(k0, depth) };
        macro_rules! words {
            ($form:ty) => {
                PackWords {
                    to: to.cast(),
                    width,
                    from,
                    matrix,
                    first,
                    count,
                    k0,
                    terms,
                    form: PhantomData::<$form>,
                }
            };
        }
        // SAFETY: passed on to the caller; the instruction set was checked when the product was prepared.
        unsafe {
            match self.word {
                Word::One => {
                    self.isa.call(PackPanel { to: to.cast(), width, from, matrix, first, count, k0, depth });
                }
                Word::Bf16Pair => self.isa.call(words!(Bf16Terms)),
                Word::IntPair => self.isa.call(words!(IntTerms)),
                Word::BytesLeft | Word::BytesRight => self.isa.call(words!(ByteTerms)),
            }
        }
    }

    /// Packs a panel of the right matrix that begins `offset` elements from `from`.
    unsafe fn pack_right_panel(
        &self,
        (from, offset): (*const u8, isize),
        to: *mut u8,
        panel: usize,
        k0: usize,
        depth: usize,
    ) {
        let width = self.blocking.nr;
        let first = panel * width;
        let count = width.min(self.n - first);
        // SAFETY: passed on to the caller; the instruction set was checked when the product was prepared.
        with_storage!(self.right_dtype, S => unsafe {
            let from = from.cast::<S>().offset(offset);
            match &self.right {
                Right::Strided(matrix) => {
                    self.pack_panel::<S>(from, to, matrix, PanelBlock { width, first, count, k0, depth });
                }
                Right::Gather(gather) => {
                    let (to, readable) = (to.cast(), gather.total - offset as usize);
                    self.isa.call(GatherPanel { to, width, from, gather, readable, first, count, k0, depth });
                }
                Right::Padded(_) => panic!("a padded operand is never packed"),
            }
        });
    }

    /// Computes C.
    ///
    /// # Safety
    /// The operands and C are as described and do not overlap C, the workspace has `workspace_bytes` bytes, and the epilogue
    /// is sound for every tile.
    pub(crate) unsafe fn run(
        &self,
        pool: &ThreadPool,
        left: Operand,
        right: Operand,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        // SAFETY: passed on to the caller.
        with_storage!(self.dtype, S => unsafe {
            self.run_typed::<S>(pool, left, right, c, workspace, epilogue)
        });
    }

    unsafe fn run_typed<S: Storage>(
        &self,
        pool: &ThreadPool,
        left: Operand,
        right: Operand,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        let (n_blocks, m_blocks) = self.blocking.tasks();
        let tasks = self.batch * n_blocks * m_blocks;
        if tasks == 0 {
            return;
        }
        let mut workspace = aligned(workspace);
        let workers = self.blocking.workers;
        let mut left = left;
        if let (Operand::Plain(from), true) = (left, self.blocking.left_ahead) {
            let (from, to) = (Operand::Plain(from), Shared(workspace));
            let pieces = self.left_pieces();
            let share = pieces.div_ceil(workers);
            let pack = |worker: usize| {
                let Operand::Plain(from) = pick(&from) else { return };
                for index in worker * share..((worker + 1) * share).min(pieces) {
                    // SAFETY: the workspace has room for the packed operand; pieces are disjoint.
                    unsafe { self.pack_left_piece(from, to.get(), index) };
                }
            };
            parallel(pool, workers, &pack);
            left = Operand::Packed(workspace);
            // SAFETY: within the workspace.
            workspace = unsafe { workspace.add(self.left_slots.offsets.len() * self.left_slot_bytes()) };
        }
        let mut right = right;
        if let (Operand::Plain(from), Right::Padded(padded)) = (right, &self.right) {
            let (from, to) = (Operand::Plain(from), Shared(workspace));
            let planes = self.right_slots.offsets.len() * padded.planes();
            let plane_elements = padded.source_plane();
            let share = planes.div_ceil(workers);
            let fill = |worker: usize| {
                let Operand::Plain(from) = pick(&from) else { return };
                for plane in worker * share..((worker + 1) * share).min(planes) {
                    let (slot, index) = (plane / padded.planes(), plane % padded.planes());
                    // SAFETY: the workspace has room for the padded operand; planes are disjoint.
                    unsafe {
                        let offset = self.right_slots.offsets[slot] + (index * plane_elements) as isize;
                        let to = to.get().add(slot * self.padded_slot_bytes()).cast();
                        self.isa.call(Fill::<S> { padded, from: from.cast::<S>().offset(offset), to, index });
                    }
                }
            };
            parallel(pool, workers, &fill);
            right = Operand::Packed(workspace);
            // SAFETY: within the workspace.
            workspace = unsafe { workspace.add(self.padded_bytes()) };
        }
        let (right_bytes, left_bytes, sums_bytes) = self.worker_bytes();
        let base = Shared(workspace);
        let c = Shared(c);
        let next = AtomicUsize::new(0);
        let body = |worker: usize| {
            // SAFETY: each worker has its own part of the workspace.
            let task = unsafe {
                let right_block = base.get().add(worker * (right_bytes + left_bytes + sums_bytes));
                Task::<S> {
                    product: self,
                    kernels: self.kernels::<S>(),
                    left: pick(&left),
                    right: pick(&right),
                    c: c.get().cast(),
                    right_block: right_block.cast(),
                    left_panel: right_block.add(right_bytes).cast(),
                    sums: right_block.add(right_bytes + left_bytes).cast(),
                    epilogue,
                }
            };
            loop {
                let first = next.fetch_add(self.blocking.grain, Ordering::Relaxed);
                if first >= tasks {
                    break;
                }
                for index in first..(first + self.blocking.grain).min(tasks) {
                    let block = |index: usize| {
                        let (rest, m_block) = (index / m_blocks, index % m_blocks);
                        (rest / n_blocks, rest % n_blocks, m_block)
                    };
                    // A guess, which only decides what is fetched ahead: the others take as many tasks as this worker.
                    let ahead = if self.blocking.grain == 1 { workers } else { 1 };
                    let next = Some(index + ahead).filter(|&next| next < tasks).map(block);
                    // SAFETY: passed on to the caller; tasks are disjoint blocks of C.
                    unsafe { task.run(block(index), next) };
                }
            }
        };
        parallel(pool, workers, &body);
    }
}

/// Which part of a matrix a panel holds.
struct PanelBlock {
    width: usize,
    first: usize,
    count: usize,
    /// The first step of the sum, and the number of steps.
    k0: usize,
    depth: usize,
}

/// The micro-kernels for a word that [`Word::of`] chose.
fn kernels_of<T: Kernel>(isa: Isa, word: Word) -> &'static Kernels<T> {
    T::word_kernels(isa, word).unwrap_or_else(|| T::kernels(isa))
}

impl Word {
    /// The word in which a product of these operand types is fastest.
    fn of(dtype: DType, (left, right): (DType, DType), rounding: bool, isa: Isa) -> Word {
        if dtype == DType::Bf16 || (rounding && dtype == DType::F32) {
            return if f32::word_kernels(isa, Word::Bf16Pair).is_some() { Word::Bf16Pair } else { Word::One };
        }
        if dtype != DType::I32 || !left.fits_words() || !right.fits_words() {
            return Word::One;
        }
        let wanted = match (left, right) {
            (DType::U8, DType::I8) => Word::BytesLeft,
            (DType::I8, DType::U8) => Word::BytesRight,
            _ => Word::IntPair,
        };
        if i32::word_kernels(isa, wanted).is_some() { wanted } else { Word::IntPair }
    }
}

/// The operand behind a reference: a closure that names a field of it would capture the bare pointer, which is not `Sync`.
pub(crate) fn pick(operand: &Operand) -> Operand {
    *operand
}

pub(crate) fn aligned(at: *mut u8) -> *mut u8 {
    at.wrapping_add(at.align_offset(ALIGN))
}

/// Column panels and steps of the sum that are packed together: rows of a kilobyte or two are read at a time, and the panels
/// written meanwhile stay in the first-level cache.
const PACK_PANELS: usize = 16;
const PACK_STEPS: usize = 16;
/// Bytes below which packing is done by one thread.
const PACK_ALONE: usize = 128 << 10;

/// Packs pieces, all threads taking one after the other where there is enough to do.
fn shares(pool: Option<&ThreadPool>, bytes: usize, pieces: usize, pack: &(dyn Fn(usize) + Sync)) {
    match pool.filter(|_| bytes >= PACK_ALONE) {
        Some(pool) => pool.run(pieces, pack),
        None => (0..pieces).for_each(pack),
    }
}

/// Runs `body` for each worker, without the pool where there is but one.
pub(crate) fn parallel(pool: &ThreadPool, workers: usize, body: &(dyn Fn(usize) + Sync)) {
    if workers == 1 { body(0) } else { pool.run(workers, body) }
}
