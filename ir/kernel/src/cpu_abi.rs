//! What generated CPU code expects of whoever calls it: the signature and the table of helper functions.
//!
//! A compiled kernel is `extern "C" fn(buffers: *const *mut u8, ranges: *const i64)`. `buffers` holds the base address of
//! each of the kernel's buffers in order, then one more entry: the address of a table with the address of each of
//! [`HELPERS`], in order ([`helper_table`] makes it). `ranges` holds `lo, hi` for each range. The code contains no
//! relocation and may be copied to any executable address that is aligned as it asks.

use thalweg_base::{PointwiseFn, Scalar, function};

/// The C signature of a helper.
#[derive(Clone, Copy, Debug)]
pub enum Signature {
    /// `extern "C" fn(f64) -> f64`.
    Float1(extern "C" fn(f64) -> f64),
    /// `extern "C" fn(f64, f64) -> f64`.
    Float2(extern "C" fn(f64, f64) -> f64),
    /// `extern "C" fn(i64, i64) -> i64`.
    Int2(extern "C" fn(i64, i64) -> i64),
}

/// One function that generated code calls because it has no instructions for it.
#[derive(Clone, Copy, Debug)]
pub struct Helper {
    /// A name for dumps.
    pub name: &'static str,
    /// What it computes, on `f64` or `i64`.
    pub function: PointwiseFn,
    /// Its address and type.
    pub signature: Signature,
}

macro_rules! float1 {
    ($($name:ident = |$a:ident| $value:expr;)*) => {
        $(extern "C" fn $name($a: f64) -> f64 { $value })*
    };
}

float1! {
    exp_f64 = |a| a.exp();
    expm1_f64 = |a| a.exp_m1();
    log_f64 = |a| a.ln();
    log1p_f64 = |a| a.ln_1p();
    sin_f64 = |a| a.sin();
    cos_f64 = |a| a.cos();
    tanh_f64 = |a| a.tanh();
    erf_f64 = |a| function::erf(a);
}

extern "C" fn rem_f64(a: f64, b: f64) -> f64 {
    a % b
}

extern "C" fn pow_f64(a: f64, b: f64) -> f64 {
    a.powf(b)
}

extern "C" fn pow_i64(a: i64, b: i64) -> i64 {
    PointwiseFn::Pow.eval(thalweg_base::DType::I64, &[Scalar::Int(a.into()), Scalar::Int(b.into())]).to_i64()
}

/// Every helper, in the order of the table.
pub const HELPERS: &[Helper] = &[
    Helper { name: "exp_f64", function: PointwiseFn::Exp, signature: Signature::Float1(exp_f64) },
    Helper { name: "expm1_f64", function: PointwiseFn::Expm1, signature: Signature::Float1(expm1_f64) },
    Helper { name: "log_f64", function: PointwiseFn::Log, signature: Signature::Float1(log_f64) },
    Helper { name: "log1p_f64", function: PointwiseFn::Log1p, signature: Signature::Float1(log1p_f64) },
    Helper { name: "sin_f64", function: PointwiseFn::Sin, signature: Signature::Float1(sin_f64) },
    Helper { name: "cos_f64", function: PointwiseFn::Cos, signature: Signature::Float1(cos_f64) },
    Helper { name: "tanh_f64", function: PointwiseFn::Tanh, signature: Signature::Float1(tanh_f64) },
    Helper { name: "erf_f64", function: PointwiseFn::Erf, signature: Signature::Float1(erf_f64) },
    Helper { name: "rem_f64", function: PointwiseFn::Rem, signature: Signature::Float2(rem_f64) },
    Helper { name: "pow_f64", function: PointwiseFn::Pow, signature: Signature::Float2(pow_f64) },
    Helper { name: "pow_i64", function: PointwiseFn::Pow, signature: Signature::Int2(pow_i64) },
];

/// The table that the last entry of `buffers` points to.
pub fn helper_table() -> Vec<usize> {
    HELPERS
        .iter()
        .map(|helper| match helper.signature {
            Signature::Float1(address) => address as usize,
            Signature::Float2(address) => address as usize,
            Signature::Int2(address) => address as usize,
        })
        .collect()
}
