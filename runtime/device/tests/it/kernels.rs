//! Kernels for tests: each as kernel IR and as a function of this program. Its machine code is a jump to that function, so
//! that the processor can be tested without a code generator.

use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_kernel::{Access, Index, Kernel, KernelBuilder};
use thalweg_plan::{Code, CompiledKernel};

type Function = unsafe extern "C" fn(buffers: *const *mut u8, ranges: *const i64);

/// Machine code that jumps to a function.
#[cfg(target_arch = "x86_64")]
fn jump(to: Function) -> Vec<u8> {
    // mov rax, imm64; jmp rax
    [&[0x48, 0xb8][..], &(to as usize as u64).to_le_bytes(), &[0xff, 0xe0]].concat()
}

/// Machine code that jumps to a function.
#[cfg(target_arch = "aarch64")]
fn jump(to: Function) -> Vec<u8> {
    // ldr x16, #8; br x16; the address
    [&0x5800_0050_u32.to_le_bytes()[..], &0xd61f_0200_u32.to_le_bytes(), &(to as usize as u64).to_le_bytes()]
        .concat()
}

fn compiled(kernel: Kernel, function: Function) -> CompiledKernel {
    CompiledKernel { kernel, code: Some(Code { bytes: jump(function), alignment: 16 }) }
}

/// The bounds of range `at`.
unsafe fn bounds(ranges: *const i64, at: usize) -> std::ops::Range<usize> {
    // SAFETY: the caller has that many ranges.
    unsafe { *ranges.add(2 * at) as usize..*ranges.add(2 * at + 1) as usize }
}

/// Buffer `at` as elements.
unsafe fn buffer<T>(buffers: *const *mut u8, at: usize) -> *mut T {
    // SAFETY: the caller has that many buffers.
    unsafe { (*buffers.add(at)).cast() }
}

/// `y[i] = x[i] + x[i]` over `n` floats, in vectors of 8.
pub(crate) fn double(n: usize) -> CompiledKernel {
    unsafe extern "C" fn code(buffers: *const *mut u8, ranges: *const i64) {
        // SAFETY: called with two buffers and one range within them.
        unsafe {
            let (x, y) = (buffer::<f32>(buffers, 0), buffer::<f32>(buffers, 1));
            for i in bounds(ranges, 0) {
                *y.add(i) = *x.add(i) + *x.add(i);
            }
        }
    }
    let mut b = KernelBuilder::new("double");
    let x = b.buffer(DType::F32, n, Access::Read);
    let y = b.buffer(DType::F32, n, Access::Write);
    let i = b.range(n, 8);
    let value = b.load(x, Index::var(i));
    let sum = b.apply(PointwiseFn::Add, &[value, value]);
    b.store(y, Index::var(i), sum);
    compiled(b.finish(), code)
}

/// `x[0] += step[0]`, one `i32`.
pub(crate) fn advance() -> CompiledKernel {
    unsafe extern "C" fn code(buffers: *const *mut u8, _: *const i64) {
        // SAFETY: called with two buffers of one element.
        unsafe { *buffer::<i32>(buffers, 0) += *buffer::<i32>(buffers, 1) };
    }
    let mut b = KernelBuilder::new("advance");
    let x = b.buffer(DType::I32, 1, Access::ReadWrite);
    let step = b.buffer(DType::I32, 1, Access::Read);
    let (value, step) = (b.load(x, Index::constant(0)), b.load(step, Index::constant(0)));
    let sum = b.apply(PointwiseFn::Add, &[value, step]);
    b.store(x, Index::constant(0), sum);
    compiled(b.finish(), code)
}

/// `flag[0] = x[0] < limit[0]`, of `i32`.
pub(crate) fn less() -> CompiledKernel {
    unsafe extern "C" fn code(buffers: *const *mut u8, _: *const i64) {
        // SAFETY: called with three buffers of one element.
        unsafe {
            *buffer::<u8>(buffers, 2) = (*buffer::<i32>(buffers, 0) < *buffer::<i32>(buffers, 1)) as u8;
        }
    }
    let mut b = KernelBuilder::new("less");
    let x = b.buffer(DType::I32, 1, Access::Read);
    let limit = b.buffer(DType::I32, 1, Access::Read);
    let flag = b.buffer(DType::Bool, 1, Access::Write);
    let (value, limit) = (b.load(x, Index::constant(0)), b.load(limit, Index::constant(0)));
    let holds = b.apply(PointwiseFn::Lt, &[value, limit]);
    b.store(flag, Index::constant(0), holds);
    compiled(b.finish(), code)
}

/// `y[i] = exp(x[i])` over `n` doubles, by the helper that generated code calls for it.
pub(crate) fn exponential(n: usize) -> CompiledKernel {
    unsafe extern "C" fn code(buffers: *const *mut u8, ranges: *const i64) {
        let number = thalweg_kernel::cpu_abi::HELPERS.iter().position(|helper| helper.name == "exp_f64");
        // SAFETY: called with two buffers, the helpers' table behind them, and one range.
        unsafe {
            let (x, y) = (buffer::<f64>(buffers, 0), buffer::<f64>(buffers, 1));
            let table = buffer::<extern "C" fn(f64) -> f64>(buffers, 2);
            let exp = *table.add(number.unwrap_or(usize::MAX));
            for i in bounds(ranges, 0) {
                *y.add(i) = exp(*x.add(i));
            }
        }
    }
    let mut b = KernelBuilder::new("exponential");
    let x = b.buffer(DType::F64, n, Access::Read);
    let y = b.buffer(DType::F64, n, Access::Write);
    let i = b.range(n, 1);
    let value = b.load(x, Index::var(i));
    let result = b.apply(PointwiseFn::Exp, &[value]);
    b.store(y, Index::var(i), result);
    compiled(b.finish(), code)
}

/// `c[batch, m, n] = max(c[batch, m, n] + bias[n], 0)` in place: an epilogue.
pub(crate) fn bias_relu<const M: usize, const N: usize>(batch: usize) -> CompiledKernel {
    unsafe extern "C" fn code<const M: usize, const N: usize>(buffers: *const *mut u8, ranges: *const i64) {
        // SAFETY: called with two buffers and three ranges within them.
        unsafe {
            let (c, bias) = (buffer::<f32>(buffers, 0), buffer::<f32>(buffers, 1));
            for b in bounds(ranges, 0) {
                for m in bounds(ranges, 1) {
                    for n in bounds(ranges, 2) {
                        let at = c.add((b * M + m) * N + n);
                        *at = (*at + *bias.add(n)).max(0.0);
                    }
                }
            }
        }
    }
    let mut b = KernelBuilder::new("bias_relu");
    let c = b.buffer(DType::F32, batch * M * N, Access::ReadWrite);
    let bias = b.buffer(DType::F32, N, Access::Read);
    let (i, j, k) = (b.range(batch, 1), b.range(M, 1), b.range(N, 1));
    let at = Index::var(k).plus(j, N as i64).plus(i, (M * N) as i64);
    let (value, bias) = (b.load(c, at.clone()), b.load(bias, Index::var(k)));
    let sum = b.apply(PointwiseFn::Add, &[value, bias]);
    let zero = b.constant(DType::F32, Scalar::Float(0.0));
    let result = b.apply(PointwiseFn::Max, &[sum, zero]);
    b.store(c, at, result);
    compiled(b.finish(), code::<M, N>)
}
