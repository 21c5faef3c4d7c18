//! From a kernel to bytes.

use crate::emit;
use crate::target::{Emitter, Target};
use crate::wide::{self, Level, Refusal};
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{AbiParam, Function, Signature, UserFuncName, types};
use cranelift_codegen::{CodegenError as CraneliftError, Context};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use thalweg_kernel::{Kernel, expand::expand, verify::verify};

/// Machine code of one kernel, to be called as [`thalweg_kernel::cpu_abi`] says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Code {
    /// The code with its constants; free of relocations.
    pub bytes: Vec<u8>,
    /// Where in `bytes` the function begins.
    pub entry: usize,
    /// The alignment in bytes that the address of `bytes` must have.
    pub alignment: usize,
    /// The instructions as text, where asked for.
    pub disassembly: Option<String>,
    /// Which emitter made it: never [`Emitter::Widest`].
    pub emitter: Emitter,
    /// Why it was not the wide emitter, where Cranelift made it.
    pub refusal: Option<Refusal>,
}

/// Why there is no code.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodegenError {
    /// The target is not one that code can be made for.
    #[error("no code for this target: {0}")]
    Target(String),
    /// The kernel does not verify.
    #[error("kernel `{kernel}` is not valid: {}", problems.join("; "))]
    Invalid {
        /// Its name.
        kernel: String,
        /// What the verifier found.
        problems: Vec<String>,
    },
    /// The function exceeds a limit of the code generator.
    #[error("kernel `{kernel}` is too large: {reason}")]
    TooLarge {
        /// Its name.
        kernel: String,
        /// Which limit.
        reason: String,
    },
}

/// Compiles a kernel. Verifies it first, and expands `f32` transcendental functions.
///
/// ```
/// use thalweg_base::DType;
/// use thalweg_codegen_cpu::{Target, compile};
/// use thalweg_kernel::{Access, Index, KernelBuilder};
///
/// let mut b = KernelBuilder::new("copy");
/// let (x, y) = (b.buffer(DType::F32, 64, Access::Read), b.buffer(DType::F32, 64, Access::Write));
/// let i = b.range(64, 8);
/// let value = b.load(x, Index::var(i));
/// b.store(y, Index::var(i), value);
/// let code = compile(&b.finish(), &Target::host(&["sse4.1".to_string()])).unwrap();
/// assert!(!code.bytes.is_empty());
/// ```
pub fn compile(kernel: &Kernel, target: &Target) -> Result<Code, CodegenError> {
    generate(kernel, target, false)
}

/// As [`compile`], with the instructions as text.
pub fn compile_with_disassembly(kernel: &Kernel, target: &Target) -> Result<Code, CodegenError> {
    generate(kernel, target, true)
}

fn generate(kernel: &Kernel, target: &Target, disassemble: bool) -> Result<Code, CodegenError> {
    verify(kernel).map_err(|problems| CodegenError::Invalid {
        kernel: kernel.name.clone(),
        problems: problems.iter().map(ToString::to_string).collect(),
    })?;
    let refusal = match target.level() {
        None => Refusal::Target,
        Some(level) => match wide::compile(kernel, level, disassemble) {
            Ok(assembled) => {
                return Ok(Code {
                    bytes: assembled.bytes,
                    entry: 0,
                    alignment: 64,
                    disassembly: assembled.listing,
                    emitter: match level {
                        Level::Avx512 => Emitter::Avx512,
                        Level::Avx2 => Emitter::Avx2,
                    },
                    refusal: None,
                });
            }
            Err(refusal) => refusal,
        },
    };
    let kernel = expand(kernel);
    let isa = target.isa()?;
    let mut signature = Signature::new(isa.default_call_conv());
    signature.params = vec![AbiParam::new(types::I64); 2];
    let mut context =
        Context::for_function(Function::with_name_signature(UserFuncName::user(0, 0), signature));
    let mut builder_context = FunctionBuilderContext::new();
    let builder = FunctionBuilder::new(&mut context.func, &mut builder_context);
    emit::Emitter::new(builder, &kernel, target, isa.frontend_config()).emit();

    context.set_disasm(disassemble);
    let too_large = |reason: String| CodegenError::TooLarge { kernel: kernel.name.clone(), reason };
    let code = match context.compile(isa.as_ref(), &mut ControlPlane::default()) {
        Ok(code) => code,
        Err(error)
            if matches!(error.inner, CraneliftError::CodeTooLarge | CraneliftError::ImplLimitExceeded) =>
        {
            return Err(too_large(error.inner.to_string()));
        }
        Err(error) => {
            panic!("code generation of kernel `{}`: {:?}\n{}", kernel.name, error.inner, error.func.display())
        }
    };
    assert!(
        code.buffer.relocs().is_empty(),
        "kernel `{}` has relocations: {:?}",
        kernel.name,
        code.buffer.relocs()
    );
    Ok(Code {
        bytes: code.code_buffer().to_vec(),
        entry: 0,
        alignment: (code.buffer.alignment as usize).max(isa.function_alignment().preferred as usize),
        disassembly: code.vcode.clone(),
        emitter: Emitter::Cranelift,
        refusal: Some(refusal),
    })
}
