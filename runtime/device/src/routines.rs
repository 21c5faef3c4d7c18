//! Steps of the processor that are neither generated nor products: scatter, sort, copy.

use half::{bf16, f16};
use thalweg_base::DType;
use thalweg_kernels::ThreadPool;
use thalweg_plan::{ArgSort, Scatter};

/// A pointer that the parts of one loop share.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut u8);

// SAFETY: it is only an address; who goes through it says why no two threads touch the same bytes.
unsafe impl Send for Shared {}
// SAFETY: as for `Send`.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(pointer: *mut u8) -> Shared {
        Shared(pointer)
    }

    pub(crate) fn get(self) -> *mut u8 {
        self.0
    }
}

/// Bytes that are worth another thread: what one core moves in some ten microseconds.
const WORTH_A_THREAD: usize = 256 << 10;

/// The bounds of part `part` of `parts` of `total`.
fn share(total: usize, part: usize, parts: usize) -> (usize, usize) {
    let bound = |part: usize| (total as u128 * part as u128 / parts as u128) as usize;
    (bound(part), bound(part + 1))
}

/// Copies bytes; where the ranges overlap, as if through a third place.
///
/// # Safety
/// `from` is valid for reading `bytes` bytes and `to` for writing them; nobody else uses them meanwhile.
pub(crate) unsafe fn copy(pool: &ThreadPool, from: *const u8, to: *mut u8, bytes: usize) {
    let apart = (from as usize).abs_diff(to as usize) >= bytes;
    let parts = (bytes / WORTH_A_THREAD).clamp(1, pool.threads());
    if parts == 1 || !apart {
        // SAFETY: the caller's promise; `copy` allows overlap.
        unsafe { std::ptr::copy(from, to, bytes) };
        return;
    }
    let (from, to) = (Shared::new(from.cast_mut()), Shared::new(to));
    pool.run(parts, &|part| {
        let (low, high) = share(bytes, part, parts);
        // SAFETY: the caller's promise; parts are disjoint and the ranges do not overlap.
        unsafe { from.get().add(low).copy_to_nonoverlapping(to.get().add(low), high - low) };
    });
}

/// An element that is summed, and the type it is summed in.
trait Summed: Copy + Send + Sync {
    type Wide: Copy + Send + Sync;
    const ZERO: Self::Wide;
    fn add(sum: Self::Wide, value: Self) -> Self::Wide;
    fn round(sum: Self::Wide) -> Self;
}

macro_rules! summed {
    ($($type:ty, $wide:ty, $zero:expr, |$sum:ident, $value:ident| $add:expr, |$total:ident| $round:expr;)*) => {
        $(impl Summed for $type {
            type Wide = $wide;
            const ZERO: $wide = $zero;
            #[inline(always)]
            fn add($sum: $wide, $value: $type) -> $wide { $add }
            #[inline(always)]
            fn round($total: $wide) -> $type { $round }
        })*
    };
}

summed! {
    f32, f32, 0.0, |sum, value| sum + value, |total| total;
    f64, f64, 0.0, |sum, value| sum + value, |total| total;
    f16, f32, 0.0, |sum, value| sum + value.to_f32(), |total| f16::from_f32(total);
    bf16, f32, 0.0, |sum, value| sum + value.to_f32(), |total| bf16::from_f32(total);
    u8, u8, 0, |sum, value| sum.wrapping_add(value), |total| total;
    u16, u16, 0, |sum, value| sum.wrapping_add(value), |total| total;
    i32, i32, 0, |sum, value| sum.wrapping_add(value), |total| total;
    i64, i64, 0, |sum, value| sum.wrapping_add(value), |total| total;
}

/// A truth value: the sum of several is whether one of them holds.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Truth(u8);

impl Summed for Truth {
    type Wide = u8;
    const ZERO: u8 = 0;
    #[inline(always)]
    fn add(sum: u8, value: Truth) -> u8 {
        sum | (value.0 != 0) as u8
    }
    #[inline(always)]
    fn round(total: u8) -> Truth {
        Truth(total)
    }
}

/// Sums at indexed positions.
pub(crate) struct ScatterRoutine {
    scatter: Scatter,
}

impl ScatterRoutine {
    /// Nothing for indices that are no integers.
    pub(crate) fn new(scatter: &Scatter) -> Option<ScatterRoutine> {
        scatter.index_dtype.is_integer().then(|| ScatterRoutine { scatter: scatter.clone() })
    }

    /// Narrow floats are summed in `f32`, all sums side by side.
    pub(crate) fn workspace_bytes(&self) -> usize {
        let scatter = &self.scatter;
        match scatter.dtype {
            DType::F16 | DType::BF16 => {
                scatter.batch * scatter.before * scatter.size * scatter.after * size_of::<f32>()
            }
            DType::F32 | DType::F64 | DType::I8 | DType::I16 | DType::I32 | DType::I64 => 0,
            DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool => 0,
        }
    }

    /// Computes the result. Sums are taken in the order of the indices, whatever the number of threads.
    ///
    /// # Safety
    /// The pointers are valid for the shapes, aligned for the dtypes and do not overlap; the workspace, aligned to 4, has
    /// the bytes asked for; nobody else uses result and workspace meanwhile.
    pub(crate) unsafe fn run(
        &self,
        pool: &ThreadPool,
        indices: *const u8,
        updates: *const u8,
        result: *mut u8,
        workspace: *mut u8,
    ) {
        // SAFETY: passed on to the caller. Signed and unsigned integers wrap alike.
        unsafe {
            match self.scatter.dtype {
                DType::F32 => self.typed::<f32>(pool, indices, updates, result, result),
                DType::F64 => self.typed::<f64>(pool, indices, updates, result, result),
                DType::F16 => self.typed::<f16>(pool, indices, updates, result, workspace),
                DType::BF16 => self.typed::<bf16>(pool, indices, updates, result, workspace),
                DType::I8 | DType::U8 => self.typed::<u8>(pool, indices, updates, result, result),
                DType::I16 | DType::U16 => self.typed::<u16>(pool, indices, updates, result, result),
                DType::I32 | DType::U32 => self.typed::<i32>(pool, indices, updates, result, result),
                DType::I64 | DType::U64 => self.typed::<i64>(pool, indices, updates, result, result),
                DType::Bool => self.typed::<Truth>(pool, indices, updates, result, result),
            }
        }
    }

    /// Each part takes one `(b, p)` and some columns `s`, so that no two parts write the same element.
    unsafe fn typed<T: Summed>(
        &self,
        pool: &ThreadPool,
        indices: *const u8,
        updates: *const u8,
        result: *mut u8,
        sums: *mut u8,
    ) {
        let Scatter { batch, before, size, indices: count, after, index_dtype, .. } = self.scatter;
        let outer = batch * before;
        let apart = result != sums;
        let columns = if outer >= pool.threads() { 1 } else { (after / 16).clamp(1, pool.threads()) };
        let (indices, updates) = (Shared::new(indices.cast_mut()), Shared::new(updates.cast_mut()));
        let (result, sums) = (Shared::new(result), Shared::new(sums));
        pool.run(outer * columns, &|part| {
            let (row, (low, high)) = (part / columns, share(after, part % columns, columns));
            let width = high - low;
            // SAFETY: the caller's promise: the base of this row's part of each operand is within it.
            let (sums, from) = unsafe {
                (
                    sums.get().cast::<T::Wide>().add(row * size * after + low),
                    updates.get().cast::<T>().add(row * count * after + low),
                )
            };
            for position in 0..size {
                // SAFETY: `position < size`, and nobody else has these columns of this row.
                unsafe { std::slice::from_raw_parts_mut(sums.add(position * after), width) }.fill(T::ZERO);
            }
            for q in 0..count {
                // SAFETY: `row / before < batch` and `q < count`, so the index is within the indices.
                let position = unsafe { read_index(indices.get(), index_dtype, row / before * count + q) };
                let Some(position) = usize::try_from(position).ok().filter(|position| *position < size)
                else {
                    continue;
                };
                // SAFETY: `position < size` and `q < count`; results and updates do not overlap.
                let (to, values) = unsafe {
                    (
                        std::slice::from_raw_parts_mut(sums.add(position * after), width),
                        std::slice::from_raw_parts(from.add(q * after), width),
                    )
                };
                for (sum, value) in to.iter_mut().zip(values) {
                    *sum = T::add(*sum, *value);
                }
            }
            if apart {
                for position in 0..size {
                    // SAFETY: as for the zeros above; the workspace is apart from the result.
                    let (from, to) = unsafe {
                        let to = result.get().cast::<T>().add((row * size + position) * after + low);
                        (
                            std::slice::from_raw_parts(sums.add(position * after), width),
                            std::slice::from_raw_parts_mut(to, width),
                        )
                    };
                    for (to, sum) in to.iter_mut().zip(from) {
                        *to = T::round(*sum);
                    }
                }
            }
        });
    }
}

/// The index at a position.
///
/// # Safety
/// `indices` has more than `at` elements of that dtype, and is aligned for it.
unsafe fn read_index(indices: *const u8, dtype: DType, at: usize) -> i64 {
    // SAFETY: passed on to the caller.
    unsafe {
        match dtype {
            DType::I8 => *indices.cast::<i8>().add(at) as i64,
            DType::I16 => *indices.cast::<i16>().add(at) as i64,
            DType::U8 => *indices.add(at) as i64,
            DType::U16 => *indices.cast::<u16>().add(at) as i64,
            DType::U32 => *indices.cast::<u32>().add(at) as i64,
            // What `i64` cannot hold becomes negative, which is outside as well.
            DType::U64 => *indices.cast::<u64>().add(at) as i64,
            DType::I32 => *indices.cast::<i32>().add(at) as i64,
            DType::I64 => *indices.cast::<i64>().add(at),
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::Bool => {
                unreachable!("indices are integers")
            }
        }
    }
}

/// The stable order that sorts lines.
pub(crate) struct ArgSortRoutine {
    sort: ArgSort,
    parts: usize,
}

/// A key whose order as an integer is the order asked for, with the position below it: sorting these needs no stability.
type Line = u128;

impl ArgSortRoutine {
    /// Nothing for lines that `i32` cannot number.
    pub(crate) fn new(sort: &ArgSort, threads: usize) -> Option<ArgSortRoutine> {
        let parts = threads.min(sort.outer * sort.inner).max(1);
        i32::try_from(sort.length).ok().map(|_| ArgSortRoutine { sort: sort.clone(), parts })
    }

    /// One line for each thread.
    pub(crate) fn workspace_bytes(&self) -> usize {
        self.parts * self.sort.length * size_of::<Line>()
    }

    /// Computes the order.
    ///
    /// # Safety
    /// The pointers are valid for the shape, aligned for the dtypes and do not overlap; the workspace, aligned to 16, has
    /// the bytes asked for; nobody else uses result and workspace meanwhile.
    pub(crate) unsafe fn run(
        &self,
        pool: &ThreadPool,
        operand: *const u8,
        result: *mut u8,
        workspace: *mut u8,
    ) {
        let ArgSort { outer, length, inner, .. } = self.sort;
        let lines = outer * inner;
        let (operand, result) = (Shared::new(operand.cast_mut()), Shared::new(result));
        let workspace = Shared::new(workspace);
        pool.run(self.parts, &|part| {
            // SAFETY: each part has its own line of the workspace.
            let line = unsafe {
                std::slice::from_raw_parts_mut(workspace.get().cast::<Line>().add(part * length), length)
            };
            let (low, high) = share(lines, part, self.parts);
            for number in low..high {
                let start = number / inner * length * inner + number % inner;
                for (position, entry) in line.iter_mut().enumerate() {
                    // SAFETY: the element is within the operand.
                    let key = unsafe { self.key(operand.get(), start + position * inner) };
                    *entry = (key as Line) << 32 | position as Line;
                }
                line.sort_unstable();
                for (rank, entry) in line.iter().enumerate() {
                    // SAFETY: within the result; lines are disjoint.
                    unsafe { *result.get().cast::<i32>().add(start + rank * inner) = *entry as u32 as i32 };
                }
            }
        });
    }

    /// An integer whose order is that of the elements: NaN last, zeros of both signs equal.
    ///
    /// # Safety
    /// `operand` has more than `at` elements.
    unsafe fn key(&self, operand: *const u8, at: usize) -> u64 {
        let float = |value: f64| match value {
            value if value.is_nan() => None,
            0.0 => Some(1 << 63),
            value if value < 0.0 => Some(!value.to_bits()),
            value => Some(value.to_bits() | 1 << 63),
        };
        let integer = |value: i64| Some(value as u64 ^ 1 << 63);
        // SAFETY: passed on to the caller.
        let key = unsafe {
            match self.sort.dtype {
                DType::F32 => float(*operand.cast::<f32>().add(at) as f64),
                DType::F64 => float(*operand.cast::<f64>().add(at)),
                DType::F16 => float((*operand.cast::<f16>().add(at)).to_f64()),
                DType::BF16 => float((*operand.cast::<bf16>().add(at)).to_f64()),
                DType::I16 => integer(*operand.cast::<i16>().add(at) as i64),
                DType::U16 => integer(*operand.cast::<u16>().add(at) as i64),
                DType::U32 => integer(*operand.cast::<u32>().add(at) as i64),
                DType::U64 => Some(*operand.cast::<u64>().add(at)),
                DType::I8 => integer(*operand.cast::<i8>().add(at) as i64),
                DType::U8 | DType::Bool => integer(*operand.add(at) as i64),
                DType::I32 => integer(*operand.cast::<i32>().add(at) as i64),
                DType::I64 => integer(*operand.cast::<i64>().add(at)),
            }
        };
        match (key, self.sort.descending) {
            (None, _) => u64::MAX,
            (Some(key), false) => key,
            (Some(key), true) => !key,
        }
    }
}
