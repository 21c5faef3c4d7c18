//! What a loop over a row computes dearly and a later loop over the same row computes again is kept in scratch memory: a
//! softmax takes each exponential once.
//!
//! Assumes a verified kernel; keeps its meaning and its values. It stands where kernels are finished, because groups are
//! built stage by stage, each from what is in memory.

use thalweg_base::{CostClass, DType, Scalar};
use thalweg_kernel::ir::{Access, Expr, Index, Kernel, Place, Scratch, Stmt, ValueId, VarId};
use thalweg_kernel::{ScratchId, analysis};

/// The most bytes of one row: a part of a second-level cache of 512 KiB that leaves room for the row itself.
const ROW_BYTES_MAX: usize = 128 * 1024;

/// Keeps dear values of earlier loops for later ones, unless vectors lie across the rows: scratch memory is for one point of
/// the ranges.
pub(crate) fn remember(kernel: &mut Kernel) {
    if kernel.ranges.iter().any(|range| range.lanes > 1) {
        return;
    }
    let dtypes = analysis::dtypes(kernel);
    let mut body = std::mem::take(&mut kernel.body);
    for later in 1..body.len() {
        for earlier in 0..later {
            if body[earlier..later].iter().any(writes) {
                continue;
            }
            let (before, rest) = body.split_at_mut(later);
            while let Some((kept, again)) = pair(kernel, &before[earlier], &rest[0]) {
                let dtype = *dtypes.get(kept).expect("every value has a dtype");
                let Some(id) = scratch(kernel, dtype, &before[earlier]) else { break };
                keep(&mut before[earlier], kept, id);
                reload(&mut rest[0], again, id, dtype);
            }
        }
    }
    kernel.body = body;
}

/// Whether a statement writes anything but scratch.
fn writes(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::Let { .. } => false,
        Stmt::Store { place, .. } => matches!(place, Place::Buffer(_)),
        Stmt::Loop { body, .. } => body.iter().any(writes),
    }
}

/// A dear value of the first loop and the same one of the second, the last such pair.
fn pair(kernel: &Kernel, first: &Stmt, second: &Stmt) -> Option<(ValueId, ValueId)> {
    let (
        Stmt::Loop { var: i, extent, lanes, body: a, .. },
        Stmt::Loop { var: j, extent: other, lanes: wide, body: b, .. },
    ) = (first, second)
    else {
        return None;
    };
    if (extent, lanes) != (other, wide) {
        return None;
    }
    let same = Same { kernel, loops: [(*i, a), (*j, b)] };
    b.iter().rev().filter_map(dear).find_map(|again| {
        let kept = a.iter().filter_map(dear).find(|kept| same.values(*kept, again))?;
        Some((kept, again))
    })
}

/// The value of a statement that calls a transcendental function.
fn dear(stmt: &Stmt) -> Option<ValueId> {
    match stmt {
        Stmt::Let { value, expr: Expr::Pointwise(function, _) } => {
            (function.cost() == CostClass::Transcendental).then_some(*value)
        }
        Stmt::Let { .. } | Stmt::Store { .. } | Stmt::Loop { .. } => None,
    }
}

/// Compares values of two loop bodies.
struct Same<'a> {
    kernel: &'a Kernel,
    loops: [(VarId, &'a [Stmt]); 2],
}

impl Same<'_> {
    fn definition(&self, side: usize, value: ValueId) -> Option<&Expr> {
        self.loops[side].1.iter().find_map(|stmt| match stmt {
            Stmt::Let { value: other, expr } if *other == value => Some(expr),
            Stmt::Let { .. } | Stmt::Store { .. } | Stmt::Loop { .. } => None,
        })
    }

    fn values(&self, a: ValueId, b: ValueId) -> bool {
        if a == b {
            return true;
        }
        let (Some(first), Some(second)) = (self.definition(0, a), self.definition(1, b)) else {
            return false;
        };
        match (first, second) {
            (Expr::Constant(dtype, value), Expr::Constant(other, constant)) => {
                dtype == other && value == constant
            }
            (Expr::Index(dtype, at), Expr::Index(other, to)) => dtype == other && self.positions(at, to),
            (
                Expr::Load { place, index, guard, otherwise },
                Expr::Load { place: from, index: at, guard: inside, otherwise: outside },
            ) => {
                let read_only = match place {
                    Place::Buffer(id) => self.kernel.buffers[id.index()].access == Access::Read,
                    Place::Scratch(_) => false,
                };
                read_only
                    && place == from
                    && otherwise == outside
                    && self.positions(index, at)
                    && self.options(*guard, *inside)
            }
            (Expr::Pointwise(f, operands), Expr::Pointwise(g, others)) => {
                f == g && operands.iter().zip(others).all(|(a, b)| self.values(*a, *b))
            }
            (Expr::Convert(dtype, a), Expr::Convert(other, b))
            | (Expr::Bitcast(dtype, a), Expr::Bitcast(other, b)) => dtype == other && self.values(*a, *b),
            (
                Expr::Constant(..)
                | Expr::Index(..)
                | Expr::Load { .. }
                | Expr::Pointwise(..)
                | Expr::Convert(..)
                | Expr::Bitcast(..),
                _,
            ) => false,
        }
    }

    fn options(&self, a: Option<ValueId>, b: Option<ValueId>) -> bool {
        match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => self.values(a, b),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    fn positions(&self, a: &Index, b: &Index) -> bool {
        let [(i, _), (j, _)] = self.loops;
        let renamed = b.clone().plus(j, -b.coefficient(j)).plus(i, b.coefficient(j));
        a.constant == b.constant && a.terms == renamed.terms && self.options(a.dynamic, b.dynamic)
    }
}

/// A new array for a row, unless it would be too large.
fn scratch(kernel: &mut Kernel, dtype: DType, row: &Stmt) -> Option<ScratchId> {
    let Stmt::Loop { extent, .. } = row else { return None };
    let bytes = |scratch: &Scratch| scratch.elements * scratch.dtype.size_bytes();
    let new = Scratch { dtype, elements: *extent };
    let all: usize = kernel.scratch.iter().map(bytes).sum();
    if bytes(&new) > ROW_BYTES_MAX || all + bytes(&new) > Scratch::BYTES_MAX {
        return None;
    }
    kernel.scratch.push(new);
    Some(ScratchId::new(kernel.scratch.len() - 1))
}

/// Stores a value right after it is computed.
fn keep(stmt: &mut Stmt, value: ValueId, id: ScratchId) {
    let Stmt::Loop { var, body, .. } = stmt else { panic!("values are kept in loops") };
    let at = body.iter().position(|stmt| dear(stmt) == Some(value)).expect("it was found there");
    let store = Stmt::Store { place: id.into(), index: Index::var(*var), value, guard: None };
    body.insert(at + 1, store);
}

/// Loads a value instead of computing it, and drops what nothing needs then.
fn reload(stmt: &mut Stmt, value: ValueId, id: ScratchId, dtype: DType) {
    let Stmt::Loop { var, body, carried, .. } = stmt else { panic!("values are kept in loops") };
    for stmt in body.iter_mut() {
        if let Stmt::Let { value: other, expr } = stmt
            && *other == value
        {
            let otherwise = Scalar::zero(dtype);
            *expr = Expr::Load { place: id.into(), index: Index::var(*var), guard: None, otherwise };
        }
    }
    loop {
        let mut used: Vec<ValueId> = carried.iter().map(|carry| carry.next).collect();
        uses(body, &mut used);
        let before = body.len();
        body.retain(|stmt| match stmt {
            Stmt::Let { value, .. } => used.contains(value),
            Stmt::Store { .. } | Stmt::Loop { .. } => true,
        });
        if body.len() == before {
            return;
        }
    }
}

fn uses(body: &[Stmt], used: &mut Vec<ValueId>) {
    for stmt in body {
        match stmt {
            Stmt::Let { expr, .. } => expr.for_each_operand(|operand| used.push(operand)),
            Stmt::Store { index, value, guard, .. } => {
                used.extend(index.dynamic.iter().chain([value]).chain(guard));
            }
            Stmt::Loop { carried, body, .. } => {
                used.extend(carried.iter().flat_map(|carry| [carry.init, carry.next]));
                uses(body, used);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_base::PointwiseFn as F;
    use thalweg_kernel::evaluate::{Array, evaluate};
    use thalweg_kernel::{Carry, KernelBuilder, verify};

    /// Rows of `exp(x - shift) / sum exp(x - shift)`; the second loop may have another shift.
    fn softmax(shifts: [f32; 2], [across, along]: [u32; 2]) -> Kernel {
        let mut b = KernelBuilder::new("softmax");
        let x = b.buffer(DType::F32, 60, Access::Read);
        let y = b.buffer(DType::F32, 60, Access::Write);
        let i = b.range(3, across);
        let zero = b.f32(0.0);
        let exponential = |b: &mut KernelBuilder, j: VarId, shift: f32| {
            let value = b.load(x, Index::var(j).plus(i, 20));
            let shift = b.f32(shift);
            let shifted = b.apply(F::Sub, &[value, shift]);
            b.apply(F::Exp, &[shifted])
        };
        let sum = b.loop_(20, along, &[Carry::reduce(zero, F::Add)], |b, j, phis| {
            let value = exponential(b, j, shifts[0]);
            vec![b.apply(F::Add, &[phis[0], value])]
        });
        b.loop_(20, along, &[], |b, j, _| {
            let value = exponential(b, j, shifts[1]);
            let share = b.apply(F::Div, &[value, sum[0]]);
            b.store(y, Index::var(j).plus(i, 20), share);
            Vec::new()
        });
        b.finish()
    }

    fn run(kernel: &Kernel) -> Array {
        let x = Array::new(DType::F32, (0..60).map(|k| Scalar::Float(k as f64 * 0.1 - 3.0)));
        let mut buffers = [x, Array::zeros(DType::F32, 60)];
        evaluate(kernel, &mut buffers, &kernel.full_ranges());
        buffers[1].clone()
    }

    #[test]
    fn an_exponential_is_taken_once() {
        for (shifts, lanes, kept) in
            [([1.0, 1.0], [1, 16], 1), ([1.0, 2.0], [1, 16], 0), ([1.0, 1.0], [16, 1], 0)]
        {
            let plain = softmax(shifts, lanes);
            let mut kernel = plain.clone();
            remember(&mut kernel);
            assert_eq!(verify::verify(&kernel), Ok(()));
            assert_eq!(kernel.scratch.len(), kept, "{kernel}");
            assert_eq!(kernel.to_string().matches("exp").count(), 2 - kept, "{kernel}");
            assert_eq!(run(&kernel), run(&plain));
        }
    }
}
