//! Runs compiled code: the only unsafe code of this crate's tests.

use thalweg_base::PointwiseFn;
use thalweg_base::{DType, Literal};
use thalweg_codegen_cpu::{Code, Emitter, Target, compile};
use thalweg_kernel::cpu_abi::helper_table;
use thalweg_kernel::evaluate::Array;
use thalweg_kernel::{Access, Index, Kernel, KernelBuilder};

/// The features of this machine that code may use.
pub(crate) fn host_features() -> Vec<String> {
    let mut features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt)*) => { $(if std::is_x86_feature_detected!($name) { features.push($name.to_string()); })* };
        }
        detect!("sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "avx2" "fma" "bmi1" "bmi2" "lzcnt");
        detect!("f16c" "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl");
    }
    features
}

/// What code may use: all of this machine by each emitter, or as little as the compiler accepts (no fused multiply-add on
/// x86-64). An emitter that this machine has no instructions for is Cranelift.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Features {
    Widest,
    Avx2,
    Cranelift,
    Least,
}

impl Features {
    pub(crate) const ALL: [Features; 4] =
        [Features::Widest, Features::Avx2, Features::Cranelift, Features::Least];

    fn target(self) -> Target {
        let least = || ["sse3", "ssse3", "sse4.1"].map(String::from);
        match self {
            Features::Widest => Target::host(&host_features()),
            Features::Avx2 => Target::host(&host_features()).with_emitter(Emitter::Avx2),
            Features::Cranelift => Target::host(&host_features()).with_emitter(Emitter::Cranelift),
            Features::Least => Target::host(&least()),
        }
    }
}

/// Whether this machine has what an emitter needs.
pub(crate) fn has_wide(emitter: Emitter) -> bool {
    let needed: &[&str] = match emitter {
        Emitter::Avx512 => &["avx512f", "avx512bw", "avx512dq", "avx512vl", "fma", "f16c", "bmi2"],
        Emitter::Avx2 => &["avx2", "fma", "bmi2"],
        Emitter::Widest | Emitter::Cranelift => &[],
    };
    let features = host_features();
    cfg!(unix) && needed.iter().all(|name| features.iter().any(|feature| feature == name))
}

/// Code for this machine.
pub(crate) fn compile_here(kernel: &Kernel, features: Features) -> Code {
    compile(kernel, &features.target()).unwrap_or_else(|error| panic!("{error}\n{}", kernel))
}

/// Executable memory that holds one kernel.
pub(crate) struct Function {
    memory: memmap2::Mmap,
}

impl Function {
    /// Copies code to executable memory; pages are aligned as any code asks.
    pub(crate) fn new(code: &Code) -> Function {
        let mut memory = memmap2::MmapMut::map_anon(code.bytes.len()).expect("memory for code");
        memory[..].copy_from_slice(&code.bytes);
        Function { memory: memory.make_exec().expect("executable memory") }
    }

    /// Calls it on buffers of bytes. Each starts off the alignment of vectors, to show that none is needed.
    pub(crate) fn call(&self, buffers: &mut [Vec<u8>], ranges: &[(usize, usize)]) {
        let helpers = helper_table();
        let mut addresses: Vec<*mut u8> = buffers.iter_mut().map(|buffer| buffer.as_mut_ptr()).collect();
        addresses.push(helpers.as_ptr().cast_mut().cast());
        let ranges: Vec<i64> = ranges.iter().flat_map(|(lo, hi)| [*lo as i64, *hi as i64]).collect();
        // SAFETY: the memory holds code that the compiler made for this signature, and stays mapped during the call;
        // buffers are as large as the kernel declares, which its verifier bounds accesses by.
        unsafe {
            let entry: extern "C" fn(*const *mut u8, *const i64) = std::mem::transmute(self.memory.as_ptr());
            entry(addresses.as_ptr(), ranges.as_ptr());
        }
    }
}

/// Runs a kernel on arrays.
pub(crate) fn run(kernel: &Kernel, buffers: &mut [Array], ranges: &[(usize, usize)], features: Features) {
    let function = Function::new(&compile_here(kernel, features));
    let mut bytes: Vec<Vec<u8>> = buffers.iter().map(|array| array.to_literal().bytes().to_vec()).collect();
    function.call(&mut bytes, ranges);
    for (array, bytes) in buffers.iter_mut().zip(bytes) {
        let literal =
            Literal::from_bytes(array.dtype, &[array.values.len()], bytes).expect("as many bytes as before");
        *array = Array::from_literal(&literal);
    }
}

/// Applies an `f32` function to many operands at once through compiled code.
pub(crate) fn apply_f32(
    function: PointwiseFn,
    operands: &[&[f32]],
    lanes: u32,
    features: Features,
) -> Vec<f32> {
    let count = operands[0].len();
    let mut b = KernelBuilder::new(function.name());
    let inputs: Vec<_> = operands.iter().map(|_| b.buffer(DType::F32, count, Access::Read)).collect();
    let output = b.buffer(DType::F32, count, Access::Write);
    let i = b.range(count, lanes);
    let values: Vec<_> = inputs.iter().map(|input| b.load(*input, Index::var(i))).collect();
    let result = b.apply(function, &values);
    b.store(output, Index::var(i), result);
    let code = Function::new(&compile_here(&b.finish(), features));
    let mut buffers: Vec<Vec<u8>> =
        operands.iter().map(|values| values.iter().flat_map(|value| value.to_ne_bytes()).collect()).collect();
    buffers.push(vec![0; 4 * count]);
    code.call(&mut buffers, &[(0, count)]);
    let output = buffers.pop().expect("the output");
    output.chunks_exact(4).map(|bytes| f32::from_ne_bytes(bytes.try_into().expect("four bytes"))).collect()
}
