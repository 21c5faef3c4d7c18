//! Replaces transcendental functions of `f32` values by polynomials over functions that every device has.
//!
//! Assumes a verified kernel; guarantees one that computes the same within the accuracy stated there for each function (`formulas.rs`),
//! holds no `exp`, `expm1`, `log`, `log1p`, `sin`, `cos`, `tanh`, `erf`, `pow` or `rsqrt` of `f32` values, and has no
//! branches where there were none, so that vector loops stay vector loops. Functions of `f64` values stay. Expanding
//! twice changes nothing. Code generators run it when their device has no instruction or library for these functions.

use crate::analysis::{ValueMap, dtypes};
use crate::formulas::Formulas;
use crate::ir::{Expr, Kernel, Stmt};
use thalweg_base::{DType, PointwiseFn};

/// Expands all transcendental functions of `f32` values.
pub fn expand(kernel: &Kernel) -> Kernel {
    expand_except(kernel, &[])
}

/// Expands all but the functions that a device has instructions for.
pub fn expand_except(kernel: &Kernel, native: &[PointwiseFn]) -> Kernel {
    let dtypes = dtypes(kernel);
    let mut formulas = Formulas::new(dtypes.end());
    let rest = expand_body(&kernel.body, &dtypes, native, &mut formulas);
    let mut body = formulas.take_constants();
    body.extend(rest);
    Kernel { body, ..kernel.clone() }
}

fn expand_body(
    body: &[Stmt],
    dtypes: &ValueMap<DType>,
    native: &[PointwiseFn],
    formulas: &mut Formulas,
) -> Vec<Stmt> {
    let mut expanded = Vec::with_capacity(body.len());
    for stmt in body {
        match stmt {
            Stmt::Let { value, expr: Expr::Pointwise(function, operands) }
                if dtypes.get(*value) == Some(&DType::F32) && !native.contains(function) =>
            {
                match formulas.expand(*value, *function, operands) {
                    Some(formula) => expanded.extend(formula),
                    None => expanded.push(stmt.clone()),
                }
            }
            Stmt::Loop { var, extent, lanes, carried, body } => {
                let body = expand_body(body, dtypes, native, formulas);
                expanded.push(Stmt::Loop {
                    var: *var,
                    extent: *extent,
                    lanes: *lanes,
                    carried: carried.clone(),
                    body,
                });
            }
            Stmt::Let { .. } | Stmt::Store { .. } => expanded.push(stmt.clone()),
        }
    }
    expanded
}
