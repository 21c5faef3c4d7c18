//! A divisor that is the same all along a loop is inverted once, and the loop multiplies: a division takes as long as ten
//! products.
//!
//! Assumes a verified kernel; keeps its meaning up to rounding: a product with a rounded reciprocal is within two units in
//! the last place of the quotient. Divisors so small that their reciprocal would be infinite are scaled first, and the
//! dividends with them, so that infinities, zeros and NaN come out as by division. It stands where kernels are finished.

use std::collections::{BTreeMap, BTreeSet};
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_kernel::analysis::{ValueMap, dtypes, varying};
use thalweg_kernel::ir::{Expr, Kernel, Stmt, ValueId};

/// Iterations from which the reciprocal pays.
const TURNS_MIN: usize = 8;
/// What small divisors are multiplied by: `2^64`. Divisors are small below its inverse.
const SCALE: f64 = 18_446_744_073_709_551_616.0;

/// Takes divisions by values that do not vary out of loops.
pub(crate) fn reciprocals(kernel: &mut Kernel) {
    let dtypes = dtypes(kernel);
    let mut divisors = BTreeSet::new();
    if let Some(range) = kernel.ranges.last().filter(|range| range.lanes > 1 && range.extent >= TURNS_MIN) {
        let varying = varying(range.var, &[], &kernel.body);
        each_division(&kernel.body, &varying, &dtypes, &mut |divisor| {
            divisors.insert(divisor);
        });
    }
    in_loops(&kernel.body, &dtypes, &mut divisors);
    if divisors.is_empty() {
        return;
    }
    let mut inverting = Inverting { fresh: dtypes.end(), divisors, inverted: BTreeMap::new() };
    inverting.body(&mut kernel.body);
}

fn in_loops(body: &[Stmt], dtypes: &ValueMap<DType>, divisors: &mut BTreeSet<ValueId>) {
    for stmt in body {
        if let Stmt::Loop { var, extent, carried, body, .. } = stmt {
            if *extent >= TURNS_MIN {
                let varying = varying(*var, carried, body);
                each_division(body, &varying, dtypes, &mut |divisor| {
                    divisors.insert(divisor);
                });
            }
            in_loops(body, dtypes, divisors);
        }
    }
}

/// Calls `f` with the divisors of `f32` that do not vary where their dividends do.
fn each_division(
    body: &[Stmt],
    varying: &ValueMap<()>,
    dtypes: &ValueMap<DType>,
    f: &mut impl FnMut(ValueId),
) {
    for stmt in body {
        match stmt {
            Stmt::Let { expr: Expr::Pointwise(PointwiseFn::Div, operands), .. } => {
                let [dividend, divisor] = operands[..] else { continue };
                let float = dtypes.get(divisor) == Some(&DType::F32);
                if float && varying.get(dividend).is_some() && varying.get(divisor).is_none() {
                    f(divisor);
                }
            }
            Stmt::Let { .. } | Stmt::Store { .. } => {}
            Stmt::Loop { body, .. } => each_division(body, varying, dtypes, f),
        }
    }
}

struct Inverting {
    fresh: ValueId,
    divisors: BTreeSet<ValueId>,
    /// For each divisor, what the dividend is multiplied by before and by.
    inverted: BTreeMap<ValueId, (ValueId, ValueId)>,
}

impl Inverting {
    fn body(&mut self, body: &mut Vec<Stmt>) {
        for mut stmt in std::mem::take(body) {
            let mut defined = Vec::new();
            match &mut stmt {
                Stmt::Let { value, expr } => {
                    defined.push(*value);
                    if let Expr::Pointwise(function @ PointwiseFn::Div, operands) = expr
                        && let Some((scale, factor)) = self.inverted.get(&operands[1]).copied()
                    {
                        let scaled = Expr::Pointwise(PointwiseFn::Mul, vec![operands[0], scale]);
                        operands[0] = self.define(body, scaled);
                        operands[1] = factor;
                        *function = PointwiseFn::Mul;
                    }
                }
                Stmt::Store { .. } => {}
                Stmt::Loop { carried, body, .. } => {
                    self.body(body);
                    defined.extend(carried.iter().map(|carry| carry.result));
                }
            }
            body.push(stmt);
            for divisor in defined {
                if self.divisors.contains(&divisor) {
                    self.invert(body, divisor);
                }
            }
        }
    }

    fn define(&mut self, body: &mut Vec<Stmt>, expr: Expr) -> ValueId {
        let value = self.fresh;
        self.fresh = ValueId::new(value.index() + 1);
        body.push(Stmt::Let { value, expr });
        value
    }

    fn invert(&mut self, body: &mut Vec<Stmt>, divisor: ValueId) {
        let constant = |number: f64| Expr::Constant(DType::F32, Scalar::Float(number));
        let apply = |function, operands: &[ValueId]| Expr::Pointwise(function, operands.to_vec());
        let size = self.define(body, apply(PointwiseFn::Abs, &[divisor]));
        let [least, scale, one] = [1.0 / SCALE, SCALE, 1.0].map(|number| self.define(body, constant(number)));
        let small = self.define(body, apply(PointwiseFn::Lt, &[size, least]));
        let scale = self.define(body, apply(PointwiseFn::Select, &[small, scale, one]));
        let scaled = self.define(body, apply(PointwiseFn::Mul, &[divisor, scale]));
        let factor = self.define(body, apply(PointwiseFn::Div, &[one, scaled]));
        self.inverted.insert(divisor, (scale, factor));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_kernel::evaluate::{Array, evaluate};
    use thalweg_kernel::{Access, Index, KernelBuilder, VarId, verify};

    /// `y[i, j] = x[j] / z[i]`, the rows as a range, the columns as a loop or as vectors of a range.
    fn quotients(x: &[f32], z: &[f32], ranged: bool) -> Kernel {
        let mut b = KernelBuilder::new("quotients");
        let (rows, columns) = (z.len(), x.len());
        let dividends = b.buffer(DType::F32, columns, Access::Read);
        let divisors = b.buffer(DType::F32, rows, Access::Read);
        let y = b.buffer(DType::F32, rows * columns, Access::Write);
        let i = b.range(rows, 1);
        let row = |b: &mut KernelBuilder, j: VarId| {
            let (a, c) = (b.load(dividends, Index::var(j)), b.load(divisors, Index::var(i)));
            let quotient = b.apply(PointwiseFn::Div, &[a, c]);
            b.store(y, Index::var(j).plus(i, columns as i64), quotient);
        };
        if ranged {
            let j = b.range(columns, 16);
            row(&mut b, j);
        } else {
            b.loop_(columns, 16, &[], |b, j, _| {
                row(b, j);
                Vec::new()
            });
        }
        b.finish()
    }

    #[test]
    fn quotients_are_products_with_reciprocals() {
        let numbers = [
            1.0,
            -3.0,
            7.5e-12,
            6.1e30,
            f32::MAX,
            f32::MIN_POSITIVE,
            3.0e-45,
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        let array =
            |values: &[f32]| Array::new(DType::F32, values.iter().map(|v| Scalar::Float(f64::from(*v))));
        for ranged in [false, true] {
            let plain = quotients(&numbers, &numbers, ranged);
            let mut kernel = plain.clone();
            reciprocals(&mut kernel);
            assert_eq!(verify::verify(&kernel), Ok(()), "{kernel}");
            let text = kernel.to_string();
            assert!(text.matches("div").count() == 1 && text.contains("= select"), "{text}");
            let run = |kernel: &Kernel| {
                let all = numbers.len() * numbers.len();
                let mut buffers = [array(&numbers), array(&numbers), Array::zeros(DType::F32, all)];
                evaluate(kernel, &mut buffers, &kernel.full_ranges());
                buffers[2].values.iter().map(|value| value.to_f64()).collect::<Vec<_>>()
            };
            for (at, (exact, found)) in run(&plain).into_iter().zip(run(&kernel)).enumerate() {
                let same = exact == found || exact.is_nan() && found.is_nan();
                // Results below the least normal number have fewer digits.
                let near = (exact - found).abs() <= exact.abs() * 2f64.powi(-22) + 2f64.powi(-148);
                assert!(same || near, "{} / {}: {exact} {found}", numbers[at % 12], numbers[at / 12]);
            }
        }
    }
}
