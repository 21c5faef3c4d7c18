//! Fewer, longer ranges and loops: two neighbouring ones become one where every position steps through both evenly.
//!
//! Assumes nothing; keeps the meaning of a kernel. It stands after emission, because only then is it known which dims are
//! walked in one go by all that is loaded and stored.

use thalweg_kernel::ir::{Carried, Expr, Index, Kernel, Range, Stmt};

/// Merges ranges as far as possible but not across the boundaries after the ranges in `keep`, and gives for each old
/// range the new one it went into. A merged range has the lanes of its last part.
pub(crate) fn coalesce(kernel: &mut Kernel, keep: &[usize]) -> Vec<usize> {
    let mut groups: Vec<usize> = (0..kernel.ranges.len()).collect();
    let mut outer = kernel.ranges.len().saturating_sub(1);
    while outer > 0 {
        outer -= 1;
        let (a, b) = (kernel.ranges[outer], kernel.ranges[outer + 1]);
        // Boundaries are between old ranges: the last old range of the outer group tells which one this is.
        let last_of_outer =
            groups.iter().rposition(|group| *group == outer).expect("every range has an origin");
        if keep.contains(&last_of_outer) || !mergeable(&kernel.body, a, b) {
            continue;
        }
        rename(&mut kernel.body, a, b);
        kernel.ranges[outer] = Range { extent: a.extent * b.extent, ..b };
        kernel.ranges.remove(outer + 1);
        for group in &mut groups {
            *group -= (*group > outer) as usize;
        }
    }
    groups
}

/// Merges loops that hold nothing but another loop with it, as far as possible.
pub(crate) fn merge_loops(kernel: &mut Kernel) {
    merge_in(&mut kernel.body);
}

fn merge_in(body: &mut [Stmt]) {
    for stmt in body {
        if let Stmt::Loop { body, .. } = stmt {
            merge_in(body);
        }
        if let Some(merged) = merged_loop(stmt) {
            *stmt = merged;
        }
    }
}

/// One loop for a loop and the only statement in it, another loop that hands on the same values.
fn merged_loop(stmt: &Stmt) -> Option<Stmt> {
    let Stmt::Loop { var, extent, lanes: 1, carried, body } = stmt else { return None };
    let [Stmt::Loop { var: inner_var, extent: inner_extent, lanes, carried: inner, body }] = &body[..] else {
        return None;
    };
    let a = Range { var: *var, extent: *extent, lanes: 1 };
    let b = Range { var: *inner_var, extent: *inner_extent, lanes: *lanes };
    let handed_on = carried.len() == inner.len()
        && carried.iter().zip(inner).all(|(outer, inner)| {
            inner.init == outer.phi && outer.next == inner.result && outer.combine == inner.combine
        });
    if !handed_on || !mergeable(body, a, b) {
        return None;
    }
    let mut body = body.clone();
    rename(&mut body, a, b);
    let carried = carried
        .iter()
        .zip(inner)
        .map(|(outer, inner)| Carried { init: outer.init, result: outer.result, ..*inner })
        .collect();
    Some(Stmt::Loop { var: b.var, extent: a.extent * b.extent, lanes: b.lanes, carried, body })
}

/// The step of the merged variable for an index that stepped by `outer` and `inner`; absent where there is none.
fn merged(a: Range, b: Range, outer: i64, inner: i64) -> Option<i64> {
    if a.extent == 1 {
        Some(inner)
    } else if b.extent == 1 {
        Some(outer)
    } else {
        (outer == inner * b.extent as i64).then_some(inner)
    }
}

fn mergeable(body: &[Stmt], a: Range, b: Range) -> bool {
    let mut fits = true;
    each_index(body, &mut |index| {
        fits &= merged(a, b, index.coefficient(a.var), index.coefficient(b.var)).is_some();
    });
    fits
}

fn each_index(body: &[Stmt], f: &mut impl FnMut(&Index)) {
    for stmt in body {
        match stmt {
            Stmt::Let { expr: Expr::Index(_, index) | Expr::Load { index, .. }, .. } => f(index),
            Stmt::Let {
                expr: Expr::Constant(..) | Expr::Pointwise(..) | Expr::Convert(..) | Expr::Bitcast(..),
                ..
            } => {}
            Stmt::Store { index, .. } => f(index),
            Stmt::Loop { body, .. } => each_index(body, f),
        }
    }
}

/// Lets the variable of `b` stand for the merged range.
fn rename(body: &mut [Stmt], a: Range, b: Range) {
    for stmt in body {
        match stmt {
            Stmt::Let { expr: Expr::Index(_, index) | Expr::Load { index, .. }, .. }
            | Stmt::Store { index, .. } => {
                let (outer, inner) = (index.coefficient(a.var), index.coefficient(b.var));
                let step = merged(a, b, outer, inner).expect("the ranges are mergeable");
                *index = index.clone().plus(a.var, -outer).plus(b.var, step - inner);
            }
            Stmt::Let {
                expr: Expr::Constant(..) | Expr::Pointwise(..) | Expr::Convert(..) | Expr::Bitcast(..),
                ..
            } => {}
            Stmt::Loop { body, .. } => rename(body, a, b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_base::{DType, PointwiseFn};
    use thalweg_kernel::{Access, Carry, KernelBuilder, verify};

    #[test]
    fn contiguous_ranges_merge_and_strided_ones_stay() {
        let mut b = KernelBuilder::new("copy");
        let (x, y) = (b.buffer(DType::F32, 24, Access::Read), b.buffer(DType::F32, 24, Access::Write));
        let vars = [b.range(2, 1), b.range(1, 1), b.range(3, 1), b.range(4, 4)];
        let dense = Index::default().plus(vars[0], 12).plus(vars[2], 4).plus(vars[3], 1);
        let swapped = Index::default().plus(vars[0], 4).plus(vars[2], 8).plus(vars[3], 1);
        let value = b.load(x, swapped);
        b.store(y, dense.clone(), value);
        let mut kernel = b.finish();
        assert_eq!(coalesce(&mut kernel, &[]), [0, 1, 1, 2]);
        assert_eq!(kernel.ranges.iter().map(|range| range.extent).collect::<Vec<_>>(), [2, 3, 4]);

        let mut b = KernelBuilder::new("copy");
        let (x, y) = (b.buffer(DType::F32, 24, Access::Read), b.buffer(DType::F32, 24, Access::Write));
        let vars = [b.range(2, 1), b.range(1, 1), b.range(3, 1), b.range(4, 4)];
        let dense = Index::default().plus(vars[0], 12).plus(vars[2], 4).plus(vars[3], 1);
        let value = b.load(x, dense.clone());
        b.store(y, dense, value);
        let mut kernel = b.finish();
        let mut split = kernel.clone();
        assert_eq!(coalesce(&mut kernel, &[]), [0, 0, 0, 0]);
        assert_eq!(coalesce(&mut split, &[1]), [0, 0, 1, 1]);
        assert_eq!(split.ranges.iter().map(|range| range.extent).collect::<Vec<_>>(), [2, 12]);
    }

    #[test]
    fn loops_over_contiguous_rows_merge() {
        for (stride, loops) in [(4, 1), (8, 2)] {
            let mut b = KernelBuilder::new("sum");
            let (x, y) = (b.buffer(DType::F32, 64, Access::Read), b.buffer(DType::F32, 1, Access::Write));
            let zero = b.f32(0.0);
            let sum = b.loop_(3, 1, &[Carry::reduce(zero, PointwiseFn::Add)], |b, i, outer| {
                b.loop_(4, 16, &[Carry::reduce(outer[0], PointwiseFn::Add)], |b, j, inner| {
                    let term = b.load(x, Index::default().plus(i, stride).plus(j, 1));
                    vec![b.apply(PointwiseFn::Add, &[inner[0], term])]
                })
            });
            b.store(y, Index::default(), sum[0]);
            let mut kernel = b.finish();
            merge_loops(&mut kernel);
            assert_eq!(verify::verify(&kernel), Ok(()), "{kernel}");
            assert_eq!(kernel.to_string().matches("loop").count(), loops, "{kernel}");
        }
    }
}
