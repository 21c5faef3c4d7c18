//! General contraction of two strided operands.

use serde::{Deserialize, Serialize};

use crate::blocked::{Operand, Parts, Product, Right};
use crate::element::DType;
use crate::epilogue::Epilogue;
use crate::isa::Isa;
use crate::offsets::Offsets;
use crate::pack::Strided;
use crate::pool::ThreadPool;
use crate::skinny::Skinny;
use crate::tile::Word;

/// One axis of a contraction. Strides are in elements; 0 where the operand lacks the axis (or is broadcast along it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Axis {
    /// The number of indices.
    pub extent: usize,
    /// The distance between neighbours in A.
    pub stride_a: isize,
    /// The distance between neighbours in B.
    pub stride_b: isize,
    /// The distance between neighbours in C.
    pub stride_c: isize,
}

/// `C[batch, m, n] = sum over k of A[batch, m, k] * B[batch, k, n]`.
///
/// Each group of axes is flattened in row-major order: its first axis is the most major. `m` axes are those of A and C, `n`
/// axes those of B and C, `k` axes those of A and B, `batch` axes those of all three; the stride of the absent operand is
/// ignored. Distinct indices of C must be distinct elements. Groups may be empty (one index) and extents zero (an empty `k`
/// extent makes C zero).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Contraction {
    /// Axes that A, B and C share.
    pub batch: Vec<Axis>,
    /// Axes of A and C.
    pub m: Vec<Axis>,
    /// Axes of B and C.
    pub n: Vec<Axis>,
    /// Axes of A and B, summed over.
    pub k: Vec<Axis>,
    /// The element type of C, and of A and B unless these are narrower.
    pub dtype: DType,
    /// The element types of A and B where they are narrower integers than C of `I32`: `I16`, `I8` or `U8`. Each element is
    /// taken as the integer that it is.
    pub operands: Option<[DType; 2]>,
}

/// A contraction prepared for an instruction set and a number of threads.
#[derive(Clone, Debug)]
pub struct Prepared {
    form: Form,
    flops: u64,
}

#[derive(Clone, Debug)]
enum Form {
    Blocked(Box<Product>),
    Skinny(Box<Skinny>),
}

/// The offsets of a group of axes in one operand.
fn offsets(axes: &[Axis], stride: impl Fn(&Axis) -> isize) -> Offsets {
    Offsets::new(axes.iter().map(|axis| (axis.extent, stride(axis))))
}

impl Contraction {
    /// The plain product of row-major matrices: A is `[m, k]`, B is `[k, n]`, C is `[m, n]`.
    ///
    /// ```
    /// use thalweg_kernels::{Contraction, DType, Isa, ThreadPool};
    /// let product = Contraction::matrices(2, 2, 2, DType::F32).prepare(Isa::detect(), 1);
    /// let (a, b) = ([1.0_f32, 2.0, 3.0, 4.0], [5.0_f32, 6.0, 7.0, 8.0]);
    /// let mut c = [0.0_f32; 4];
    /// let mut workspace = vec![0_u8; product.workspace_bytes()];
    /// // SAFETY: the arrays have the shapes of the product and the workspace its size.
    /// unsafe {
    ///     let (a, b, c) = (a.as_ptr().cast(), b.as_ptr().cast(), c.as_mut_ptr().cast());
    ///     product.run(&ThreadPool::new(1), a, b, c, workspace.as_mut_ptr(), None);
    /// }
    /// assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
    /// ```
    pub fn matrices(m: usize, n: usize, k: usize, dtype: DType) -> Contraction {
        let axis = |extent: usize, stride_a: usize, stride_b: usize, stride_c: usize| Axis {
            extent,
            stride_a: stride_a as isize,
            stride_b: stride_b as isize,
            stride_c: stride_c as isize,
        };
        Contraction {
            batch: Vec::new(),
            m: vec![axis(m, k, 0, n)],
            n: vec![axis(n, 0, 1, 1)],
            k: vec![axis(k, 1, n, 0)],
            dtype,
            operands: None,
        }
    }

    /// Floating-point operations of one run: a multiplication and an addition for each index of batch, m, n and k.
    pub fn flops(&self) -> u64 {
        let groups = [&self.batch, &self.m, &self.n, &self.k];
        2 * groups.iter().flat_map(|group| group.iter()).map(|axis| axis.extent as u64).product::<u64>()
    }

    /// Fixes offsets, blocking and the kind of kernel, for `threads` threads.
    ///
    /// An instruction set that this machine lacks is replaced by the widest that it has.
    ///
    /// # Panics
    /// When the number of indices of a group does not fit in `usize`, or the operands are of other types than those said above.
    pub fn prepare(&self, isa: Isa, threads: usize) -> Prepared {
        self.prepare_any(isa, threads, None)
    }

    /// As [`prepare`](Self::prepare), but operands of `F32` may be rounded to bfloat16 (8 bits of significand, to nearest) before
    /// they are multiplied, where that is faster; sums are of `f32` still. `packed_b` says whether B will be packed ahead, which
    /// is what lets the product of a vector gain.
    ///
    /// # Panics
    /// As `prepare`.
    pub fn prepare_rounded(&self, isa: Isa, threads: usize, packed_b: bool) -> Prepared {
        self.prepare_any(isa, threads, Some(packed_b))
    }

    fn prepare_any(&self, isa: Isa, threads: usize, rounded: Option<bool>) -> Prepared {
        let isa = isa.or_detected();
        let a_batch = offsets(&self.batch, |axis| axis.stride_a);
        let b_batch = offsets(&self.batch, |axis| axis.stride_b);
        let c_batch = offsets(&self.batch, |axis| axis.stride_c);
        let a = Strided {
            wide: offsets(&self.m, |axis| axis.stride_a),
            deep: offsets(&self.k, |axis| axis.stride_a),
        };
        let b = Strided {
            wide: offsets(&self.n, |axis| axis.stride_b),
            deep: offsets(&self.k, |axis| axis.stride_b),
        };
        let c_rows = offsets(&self.m, |axis| axis.stride_c);
        let c_columns = offsets(&self.n, |axis| axis.stride_c);
        let flops = self.flops();
        let (a_dtype, b_dtype) = match self.operands {
            None => (self.dtype, self.dtype),
            Some([a, b]) => {
                let narrow = self.dtype == DType::I32 && a.fits_words() && b.fits_words();
                assert!(narrow, "products of {a:?} and {b:?} are not summed in {:?}", self.dtype);
                (a, b)
            }
        };
        let skinny = Skinny::new(crate::skinny::Parts {
            isa,
            threads,
            dtype: self.dtype,
            a: &a,
            a_batch: &a_batch,
            b: &b,
            b_batch: &b_batch,
            c_batch: &c_batch,
            c_rows: &c_rows,
            c_columns: &c_columns,
        });
        // A vector's matrix is read once: rounding it saves its bytes only if it was rounded before.
        let halved = isa == Isa::Avx512Bf16 && self.dtype == DType::F32 && c_rows.len == 1;
        let blocked = (halved && rounded == Some(true)) || self.operands.is_some();
        if let Some(skinny) = skinny.filter(|_| !blocked) {
            return Prepared { form: Form::Skinny(Box::new(skinny)), flops };
        }
        // The vectors of the micro-kernel lie along C's columns, so those are to be side by side.
        let swapped = c_rows.inner == 1 && c_rows.len > 1 && (c_columns.inner != 1 || c_columns.len == 1);
        let parts = if swapped {
            Parts {
                isa,
                threads,
                dtype: self.dtype,
                left: b,
                left_batch: b_batch,
                right: Right::Strided(a),
                right_batch: a_batch,
                c_batch,
                c_rows: c_columns,
                c_columns: c_rows,
                swapped,
                merged: None,
            }
        } else {
            Parts {
                isa,
                threads,
                dtype: self.dtype,
                left: a,
                left_batch: a_batch,
                right: Right::Strided(b),
                right_batch: b_batch,
                c_batch,
                c_rows,
                c_columns,
                swapped,
                merged: None,
            }
        };
        let types = if swapped { (b_dtype, a_dtype) } else { (a_dtype, b_dtype) };
        let product = Product::with_operands(parts, types, rounded.is_some());
        Prepared { form: Form::Blocked(Box::new(product)), flops }
    }
}

impl Prepared {
    /// Bytes of workspace that a run needs; of any alignment, its contents do not matter before or after.
    pub fn workspace_bytes(&self) -> usize {
        match &self.form {
            Form::Blocked(product) => product.workspace_bytes(),
            Form::Skinny(skinny) => skinny.workspace_bytes(),
        }
    }

    /// Whether a product of one row gains from a B that is packed ahead: where a run reads fewer bytes of it then, or packs it
    /// itself.
    pub fn wants_packed_row(&self) -> bool {
        match &self.form {
            Form::Blocked(product) => product.word != Word::One && product.dtype != DType::Bf16,
            Form::Skinny(_) => false,
        }
    }

    /// Floating-point (or integer) operations of one run.
    pub fn flops(&self) -> u64 {
        self.flops
    }

    /// Computes C. Allocates nothing.
    ///
    /// # Safety
    /// - `a`, `b` and `c` point to the element at offset 0 of operands that are valid at every described offset, aligned for
    ///   their element type; no element of C is shared with A, B or the workspace, and nobody else uses C meanwhile.
    /// - `workspace` has `workspace_bytes()` bytes, used by nobody else meanwhile.
    /// - The epilogue's function is sound for its buffers and for every tile of C, from any thread of the pool, in parallel.
    pub unsafe fn run(
        &self,
        pool: &ThreadPool,
        a: *const u8,
        b: *const u8,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<Epilogue>,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            self.run_operands(pool, Operand::Plain(a), Operand::Plain(b), c, workspace, epilogue.as_ref())
        }
    }

    /// Computes C from a B that was packed by [`pack_b`](Self::pack_b) of this very preparation.
    ///
    /// # Safety
    /// As for [`run`](Self::run), with `packed_b` (aligned to 8 bytes) what `pack_b` wrote.
    pub unsafe fn run_packed_b(
        &self,
        pool: &ThreadPool,
        a: *const u8,
        packed_b: *const u8,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<Epilogue>,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            self.run_operands(
                pool,
                Operand::Plain(a),
                Operand::Packed(packed_b),
                c,
                workspace,
                epilogue.as_ref(),
            )
        }
    }

    pub(crate) unsafe fn run_operands(
        &self,
        pool: &ThreadPool,
        a: Operand,
        b: Operand,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            match &self.form {
                Form::Blocked(product) if product.swapped => product.run(pool, b, a, c, workspace, epilogue),
                Form::Blocked(product) => product.run(pool, a, b, c, workspace, epilogue),
                Form::Skinny(skinny) => skinny.run(pool, a, b, c, workspace, epilogue),
            }
        }
    }

    /// Computes C from an A that was packed by [`pack_a`](Self::pack_a) of this very preparation.
    ///
    /// # Safety
    /// As for [`run`](Self::run), with `packed_a` (aligned to 8 bytes) what `pack_a` wrote.
    pub unsafe fn run_packed_a(
        &self,
        pool: &ThreadPool,
        packed_a: *const u8,
        b: *const u8,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<Epilogue>,
    ) {
        let (a, b) = (Operand::Packed(packed_a), Operand::Plain(b));
        // SAFETY: passed on to the caller.
        unsafe { self.run_operands(pool, a, b, c, workspace, epilogue.as_ref()) }
    }

    /// Bytes of a packed A, the same batch element counted once where A is broadcast.
    pub fn packed_a_bytes(&self) -> usize {
        match &self.form {
            Form::Blocked(product) if product.swapped => product.packed_right_bytes(),
            Form::Blocked(product) => product.packed_left_bytes(),
            Form::Skinny(skinny) => skinny.packed_a_bytes(),
        }
    }

    /// Brings a constant A into the order that the kernels read, once for many runs.
    ///
    /// # Safety
    /// `a` is a valid A as for [`run`](Self::run); `out` has `packed_a_bytes()` bytes and is aligned to 8 bytes, better to 64.
    pub unsafe fn pack_a(&self, a: *const u8, out: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe { self.pack_a_on(None, a, out) }
    }

    /// As [`pack_a`](Self::pack_a), on the threads of the pool.
    ///
    /// # Safety
    /// As for `pack_a`.
    pub unsafe fn pack_a_with(&self, pool: &ThreadPool, a: *const u8, out: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe { self.pack_a_on(Some(pool), a, out) }
    }

    unsafe fn pack_a_on(&self, pool: Option<&ThreadPool>, a: *const u8, out: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe {
            match &self.form {
                Form::Blocked(product) if product.swapped => product.pack_right_with(pool, a, out),
                Form::Blocked(product) => product.pack_left_with(pool, a, out),
                Form::Skinny(skinny) => skinny.pack_a(a, out),
            }
        }
    }

    /// Bytes of a packed B, the same batch element counted once where B is broadcast.
    pub fn packed_b_bytes(&self) -> usize {
        match &self.form {
            Form::Blocked(product) if product.swapped => product.packed_left_bytes(),
            Form::Blocked(product) => product.packed_right_bytes(),
            Form::Skinny(skinny) => skinny.packed_b_bytes(),
        }
    }

    /// Brings a constant B into the order that the kernels read, once for many runs.
    ///
    /// # Safety
    /// `b` is a valid B as for [`run`](Self::run); `out` has `packed_b_bytes()` bytes and is aligned to 8 bytes, better to 64.
    pub unsafe fn pack_b(&self, b: *const u8, out: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe { self.pack_b_on(None, b, out) }
    }

    /// As [`pack_b`](Self::pack_b), on the threads of the pool.
    ///
    /// # Safety
    /// As for `pack_b`.
    pub unsafe fn pack_b_with(&self, pool: &ThreadPool, b: *const u8, out: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe { self.pack_b_on(Some(pool), b, out) }
    }

    unsafe fn pack_b_on(&self, pool: Option<&ThreadPool>, b: *const u8, out: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe {
            match &self.form {
                Form::Blocked(product) if product.swapped => product.pack_left_with(pool, b, out),
                Form::Blocked(product) => product.pack_right_with(pool, b, out),
                Form::Skinny(skinny) => skinny.pack_b(b, out),
            }
        }
    }
}
