//! Blocks for kernels that read across what they write: a transpose walks a small square at a time, so that each cache line
//! that it reads is used whole while it is near.
//!
//! Assumes coalesced ranges; keeps the meaning of a kernel, whose ranges may be covered in any order. It stands after
//! coalescing, which leaves such ranges apart.

use thalweg_kernel::ir::{Expr, Index, Kernel, Range, Stmt, VarId};

/// Sides of a block that are tried, best first: 32 lines of 64 bytes are a twentieth of a first-level cache of 32 KiB.
const SIDES: [usize; 6] = [32, 24, 16, 64, 48, 8];

/// Splits the last range, and the one that steps by single elements where the last one jumps, into blocks.
pub(crate) fn tile(kernel: &mut Kernel) {
    let Some(inner) = kernel.ranges.last().copied() else { return };
    let mut loads = Vec::new();
    each_load(&kernel.body, &mut |index| loads.push(index.clone()));
    let jumps = |index: &&Index| index.coefficient(inner.var).unsigned_abs() > 8;
    let across = loads.iter().filter(jumps).find_map(|index| {
        let outer = &kernel.ranges[..kernel.ranges.len() - 1];
        outer.iter().position(|range| index.coefficient(range.var) == 1)
    });
    let Some(at) = across else { return };
    let outer = kernel.ranges[at];
    let side = |extent: usize| SIDES.into_iter().find(|side| extent.is_multiple_of(*side) && extent > *side);
    let (Some(rows), Some(columns)) = (side(outer.extent), side(inner.extent)) else { return };
    let fresh =
        1 + kernel.ranges.iter().map(|range| range.var.0).max().unwrap_or(0).max(largest(&kernel.body));
    let (row_block, column_block) = (VarId(fresh), VarId(fresh + 1));
    split(&mut kernel.body, outer.var, row_block, rows as i64);
    split(&mut kernel.body, inner.var, column_block, columns as i64);
    kernel.ranges.pop();
    kernel.ranges.remove(at);
    kernel.ranges.insert(at, Range { var: row_block, extent: outer.extent / rows, lanes: 1 });
    kernel.ranges.push(Range { var: column_block, extent: inner.extent / columns, lanes: 1 });
    kernel.ranges.push(Range { extent: rows, ..outer });
    kernel.ranges.push(Range { extent: columns, ..inner });
}

fn each_load(body: &[Stmt], f: &mut impl FnMut(&Index)) {
    for stmt in body {
        match stmt {
            Stmt::Let { expr: Expr::Load { index, .. }, .. } => f(index),
            Stmt::Let { .. } | Stmt::Store { .. } => {}
            Stmt::Loop { body, .. } => each_load(body, f),
        }
    }
}

fn largest(body: &[Stmt]) -> u32 {
    let of = |stmt: &Stmt| match stmt {
        Stmt::Loop { var, body, .. } => var.0.max(largest(body)),
        Stmt::Let { .. } | Stmt::Store { .. } => 0,
    };
    body.iter().map(of).max().unwrap_or(0)
}

/// Lets `var` count within a block of `size`, and `block` count the blocks.
fn split(body: &mut [Stmt], var: VarId, block: VarId, size: i64) {
    for stmt in body {
        match stmt {
            Stmt::Let { expr: Expr::Index(_, index) | Expr::Load { index, .. }, .. }
            | Stmt::Store { index, .. } => {
                *index = index.clone().plus(block, index.coefficient(var) * size);
            }
            Stmt::Let {
                expr: Expr::Constant(..) | Expr::Pointwise(..) | Expr::Convert(..) | Expr::Bitcast(..),
                ..
            } => {}
            Stmt::Loop { body, .. } => split(body, var, block, size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_base::DType;
    use thalweg_kernel::{Access, KernelBuilder, verify};

    #[test]
    fn a_transpose_is_blocked_and_a_copy_is_not() {
        for (row, column, ranges) in [(1, 64, vec![2, 2, 32, 32]), (64, 1, vec![64, 64])] {
            let mut b = KernelBuilder::new("move");
            let (x, y) =
                (b.buffer(DType::F32, 4096, Access::Read), b.buffer(DType::F32, 4096, Access::Write));
            let (i, j) = (b.range(64, 1), b.range(64, 16));
            let value = b.load(x, Index::default().plus(i, row).plus(j, column));
            b.store(y, Index::default().plus(i, 64).plus(j, 1), value);
            let mut kernel = b.finish();
            tile(&mut kernel);
            assert_eq!(kernel.ranges.iter().map(|range| range.extent).collect::<Vec<_>>(), ranges);
            assert_eq!(verify::verify(&kernel), Ok(()));
        }
    }
}
