//! Kernel IR to machine code for the processor at hand, by two emitters.
//!
//! Output is plain bytes: position-independent, without relocations, constants inline, so a plan can hold them and a
//! device can copy them to executable memory. How they are called is [`thalweg_kernel::cpu_abi`]. This is the only crate
//! that knows Cranelift; it knows no tensor op and never runs what it makes.
//!
//! On x86-64 with AVX2 or AVX-512 the wide emitter (`wide`) compiles the kernels that it covers; [`Code::emitter`] and
//! [`Code::refusal`] tell who made a kernel and why. [`Target::emitter`] forces one. Cranelift compiles the rest, and all
//! kernels of other processors:
//! vector loops become 128-bit vectors, several registers per value for more than 4 lanes, where every value that differs
//! between lanes is `f32`, `i32` or `bool` (memory may be narrower); loops with `f64` or `i64` lanes become scalar code.
//! `f32` transcendental functions are expanded by [`thalweg_kernel::expand`] first; those of `f64`, and remainders, are
//! calls to helpers. [`PointwiseFn::MulAdd`](thalweg_base::PointwiseFn::MulAdd) is one instruction where the target has
//! it; without, `f32` goes through `f64`, which rounds almost always the same, and `f64` is rounded twice.

#![forbid(unsafe_code)]

mod compile;
mod convert;
mod emit;
mod lanes;
mod memory;
mod pointwise;
mod target;
mod wide;

pub use compile::{Code, CodegenError, compile, compile_with_disassembly};
pub use target::{Emitter, Target};
pub use thalweg_kernel::cpu_abi::HELPERS;
pub use wide::Refusal;
