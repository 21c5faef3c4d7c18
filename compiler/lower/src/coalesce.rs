//! Fewer, longer ranges: two neighbouring ranges become one where every position steps through both evenly.
//!
//! Assumes nothing; keeps the meaning of a kernel. It stands after emission, because only then is it known which dims are
//! walked in one go by all that is loaded and stored.

use thalweg_kernel::ir::{Expr, Index, Kernel, Range, Stmt};

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
        if keep.contains(&last_of_outer) || !mergeable(kernel, a, b) {
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

fn mergeable(kernel: &Kernel, a: Range, b: Range) -> bool {
    let mut fits = true;
    each_index(&kernel.body, &mut |index| {
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
    use thalweg_base::DType;
    use thalweg_kernel::{Access, KernelBuilder};

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
}
