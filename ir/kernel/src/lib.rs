//! The kernel IR: what one generated function computes, as loops, loads, stores and scalar expressions.
//!
//! It sits between tensor programs and machine code. Lowering writes it, each code generator reads it, and nothing here
//! is of one machine: the number of lanes is a parameter of a loop, transcendental functions are ordinary scalar
//! functions until [`expand::expand`] replaces them by polynomials, and what a kernel means is what
//! [`evaluate::evaluate`] computes. It knows no tensor op and no instruction set.
//!
//! Invariants, which [`verify::verify`] checks: every value is defined once, before its uses and in an enclosing scope;
//! values are `f32`, `f64`, `i32`, `i64` or `bool`, other dtypes exist in memory only; unguarded affine accesses stay
//! within their arrays; vector loops do not nest.
//!
//! ```
//! use thalweg_base::{DType, PointwiseFn};
//! use thalweg_kernel::{Access, Index, KernelBuilder};
//!
//! let mut b = KernelBuilder::new("double");
//! let x = b.buffer(DType::F32, 100, Access::Read);
//! let y = b.buffer(DType::F32, 100, Access::Write);
//! let i = b.range(100, 8);
//! let value = b.load(x, Index::var(i));
//! let sum = b.apply(PointwiseFn::Add, &[value, value]);
//! b.store(y, Index::var(i), sum);
//! let kernel = b.finish();
//! assert_eq!(kernel.ranges.len(), 1);
//! ```

#![forbid(unsafe_code)]

pub mod analysis;
pub mod builder;
pub mod cpu_abi;
pub mod evaluate;
pub mod expand;
mod formulas;
pub mod ir;
pub mod random;
pub mod text;
pub mod verify;

pub use builder::{Carry, KernelBuilder};
pub use formulas::Exponential;
pub use ir::{
    Access, Buffer, BufferId, Carried, Expr, Index, Kernel, Place, Range, Scratch, ScratchId, Stmt, ValueId,
    VarId, compute_dtype,
};
