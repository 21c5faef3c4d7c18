//! Equal expressions of a kernel become one value, and what nothing uses goes.
//!
//! Assumes a verified kernel; keeps its meaning and its values. It stands where kernels are finished: bodies that are
//! written out several times, and reductions in stages, ask for the same positions, conditions and elements again.

use std::collections::{BTreeMap, BTreeSet};
use thalweg_kernel::ir::{Access, Expr, Index, Kernel, Place, Stmt, ValueId};

/// Shares equal values and drops unused ones.
pub(crate) fn share(kernel: &mut Kernel) {
    let mut body = std::mem::take(&mut kernel.body);
    let mut sharing = Sharing { kernel, names: BTreeMap::new(), known: vec![BTreeMap::new()] };
    sharing.body(&mut body);
    let mut used = BTreeSet::new();
    prune(&mut body, &mut used);
    kernel.body = body;
}

struct Sharing<'a> {
    kernel: &'a Kernel,
    /// What stands for a value that was dropped.
    names: BTreeMap<ValueId, ValueId>,
    /// Expressions of the open bodies, outermost first.
    known: Vec<BTreeMap<Expr, ValueId>>,
}

impl Sharing<'_> {
    fn body(&mut self, body: &mut Vec<Stmt>) {
        body.retain_mut(|stmt| match stmt {
            Stmt::Let { value, expr } => {
                self.rename(expr);
                if !self.lasts(expr) {
                    return true;
                }
                if let Some(same) = self.known.iter().rev().find_map(|scope| scope.get(expr)) {
                    self.names.insert(*value, *same);
                    return false;
                }
                self.known.last_mut().expect("a body is open").insert(expr.clone(), *value);
                true
            }
            Stmt::Store { index, value, guard, .. } => {
                self.rename_index(index);
                *value = self.name(*value);
                *guard = guard.map(|guard| self.name(guard));
                true
            }
            Stmt::Loop { carried, body, .. } => {
                for carry in carried.iter_mut() {
                    carry.init = self.name(carry.init);
                }
                self.known.push(BTreeMap::new());
                self.body(body);
                self.known.pop();
                for carry in carried {
                    carry.next = self.name(carry.next);
                }
                true
            }
        });
    }

    /// Whether an expression gives the same value later: all but loads from what the kernel writes.
    fn lasts(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Load { place: Place::Buffer(id), .. } => {
                self.kernel.buffers[id.index()].access == Access::Read
            }
            Expr::Load { place: Place::Scratch(_), .. } => false,
            Expr::Constant(..)
            | Expr::Index(..)
            | Expr::Pointwise(..)
            | Expr::Convert(..)
            | Expr::Bitcast(..) => true,
        }
    }

    fn name(&self, value: ValueId) -> ValueId {
        self.names.get(&value).copied().unwrap_or(value)
    }

    fn rename_index(&self, index: &mut Index) {
        index.dynamic = index.dynamic.map(|value| self.name(value));
    }

    fn rename(&self, expr: &mut Expr) {
        match expr {
            Expr::Constant(..) => {}
            Expr::Index(_, index) => self.rename_index(index),
            Expr::Load { index, guard, .. } => {
                self.rename_index(index);
                *guard = guard.map(|guard| self.name(guard));
            }
            Expr::Pointwise(_, operands) => {
                operands.iter_mut().for_each(|operand| *operand = self.name(*operand));
            }
            Expr::Convert(_, value) | Expr::Bitcast(_, value) => *value = self.name(*value),
        }
    }
}

/// Drops values that nothing after them uses, last first, and adds to `used` what the rest uses.
fn prune(body: &mut Vec<Stmt>, used: &mut BTreeSet<ValueId>) {
    let mut kept = Vec::with_capacity(body.len());
    while let Some(mut stmt) = body.pop() {
        match &mut stmt {
            Stmt::Let { value, expr } => {
                if !used.contains(value) {
                    continue;
                }
                expr.for_each_operand(|operand| {
                    used.insert(operand);
                });
            }
            Stmt::Store { index, value, guard, .. } => {
                used.extend(index.dynamic.iter().chain([&*value]).chain(guard.as_ref()));
            }
            Stmt::Loop { carried, body, .. } => {
                used.extend(carried.iter().flat_map(|carry| [carry.init, carry.next]));
                prune(body, used);
            }
        }
        kept.push(stmt);
    }
    kept.reverse();
    *body = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_base::{DType, PointwiseFn};
    use thalweg_kernel::{Carry, KernelBuilder, verify};

    #[test]
    fn equal_values_are_shared_and_loads_of_what_is_written_are_not() {
        let mut b = KernelBuilder::new("twice");
        let (x, y) = (b.buffer(DType::F32, 8, Access::Read), b.buffer(DType::F32, 8, Access::ReadWrite));
        let i = b.range(8, 1);
        let mut sums = Vec::new();
        for _ in 0..2 {
            let (a, old) = (b.load(x, Index::var(i)), b.load(y, Index::var(i)));
            b.f32(7.0);
            let sum = b.apply(PointwiseFn::Add, &[a, a]);
            b.store(y, Index::var(i), sum);
            sums.push((sum, old));
        }
        let init = sums[0].1;
        let total = b.loop_(3, 1, &[Carry::reduce(init, PointwiseFn::Add)], |b, _, phis| {
            let again = b.load(x, Index::var(i));
            let next = b.apply(PointwiseFn::Add, &[phis[0], again]);
            vec![b.apply(PointwiseFn::Add, &[next, sums[1].1])]
        });
        b.store(y, Index::var(i), total[0]);
        let mut kernel = b.finish();
        share(&mut kernel);
        assert_eq!(verify::verify(&kernel), Ok(()), "{kernel}");
        let text = kernel.to_string();
        assert_eq!((text.matches("load b0").count(), text.matches("load b1").count()), (1, 2), "{text}");
        assert_eq!((text.matches("add").count(), text.contains("7.0")), (4, false), "{text}");
    }
}
