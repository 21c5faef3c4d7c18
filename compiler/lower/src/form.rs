//! Which loops a group's kernel has.
//!
//! Vectors lie along the last dim, and where a reduction combines that one, across it. A window is too short for that: its
//! few entries leave most lanes empty and have to be combined for each position. There vectors lie across the positions, and
//! the window's loops are written out, so that what entries share (rows, conditions, elements) is computed once. A sum of
//! windows (`Fold`) is computed for as many neighbouring positions at a time as the windows' stride: then it is known for
//! each of them which entries cover it, and positions in the windows follow from the loops' variables without division.
//! Short rows are computed two at a time.
//!
//! Assumes a group that can be built; guarantees a kernel of the same meaning. It stands where groups are final, because a
//! group's members decide nothing here but the loops.

use crate::build::{self, Built, Form, GroupSpec, Space};
use crate::coalesce::{coalesce, merge_loops};
use crate::emit::Source;
use crate::reciprocal::reciprocals;
use crate::remember::remember;
use crate::share::share;
use crate::tile::tile;
use thalweg_kernel::ir::{Expr, Index, Kernel, Stmt, VarId};
use thalweg_tensor::Op;

/// Entries of a reduction that are written out, at most: a window of 8 by 8.
const ENTRIES_MAX: usize = 64;
/// Extents of innermost loops from which vectors along them are full: the lanes of 512 bits.
const FULL_LANES: usize = 16;
/// The largest distance of elements that a vector is put together from contiguous ones for.
const DISTANCE_MAX: i64 = 4;
/// Elements of a row up to which combining its lanes takes a good part of its time.
const SHORT_ROW: usize = 512;
/// Rows from which two are computed at a time.
const ROWS_MIN: usize = 64;
/// Neighbouring positions that one body computes, at most.
const SHIFTS_MAX: usize = 16;

/// The finished kernel of a group.
pub(crate) fn build(source: Source, spec: &GroupSpec, name: String) -> Built {
    let mut plain = build::build(source, spec, name.clone()).expect("the group was built before");
    finish(&mut plain.kernel);
    let windows = windows(source, spec, &plain.kernel);
    let form = windows.clone().or_else(|| pairs(spec, &plain.kernel));
    match form.and_then(|form| build::build_as(source, spec, name, &form)) {
        Some(mut built) => {
            finish(&mut built.kernel);
            if windows.is_none() || near(&built.kernel) { built } else { plain }
        }
        None => plain,
    }
}

/// A form that computes two rows at a time, where rows are short and their values are combined more than once: lanes are
/// combined, and what comes next waits for it; another row fills the time.
fn pairs(spec: &GroupSpec, plain: &Kernel) -> Option<Form> {
    let space = &spec.space;
    let loops = plain.body.iter().filter(|stmt| matches!(stmt, Stmt::Loop { .. })).count();
    let dim = *space.kept().last()?;
    let form = Form::plain(space);
    let row: usize = space.reduced.iter().map(|dim| space.shape[*dim]).product();
    let fits = !form.across && loops > 1 && row <= SHORT_ROW;
    // Threads share the rows: there are enough of them.
    if !fits || !space.shape[dim].is_multiple_of(2) || space.kept_shape().iter().product::<usize>() < ROWS_MIN
    {
        return None;
    }
    let mut steps = form.steps;
    steps[dim] = 2;
    Some(Form { steps, ..form })
}

fn finish(kernel: &mut Kernel) {
    share(kernel);
    merge_loops(kernel);
    coalesce(kernel, &[]);
    tile(kernel);
    remember(kernel);
    reciprocals(kernel);
    share(kernel);
}

/// A form with vectors across positions, for groups that reduce over short dims.
fn windows(source: Source, spec: &GroupSpec, plain: &Kernel) -> Option<Form> {
    let space = &spec.space;
    let entries: usize = space.reduced.iter().map(|dim| space.shape[*dim]).product();
    let steps = steps(source, spec);
    let folds = steps.iter().any(|step| *step > 1);
    let last = space.shape.len().checked_sub(1)?;
    let wide = space.kept_shape().last().copied().unwrap_or(1);
    let short = space.reduced.contains(&last) && longest(&plain.body) < FULL_LANES.min(wide);
    if space.reduced.is_empty() || !folds && !short {
        return None;
    }
    if folds && (entries > ENTRIES_MAX || steps.iter().product::<usize>() > SHIFTS_MAX) {
        return None;
    }
    // The stages of a group repeat its entries.
    let written_out = entries * spec.roots.len() <= 2 * ENTRIES_MAX && entries <= ENTRIES_MAX;
    Some(Form { steps, across: true, written_out: written_out || folds })
}

/// For each dim of a group's space, a number of neighbouring positions after which the windows of its folds repeat.
fn steps(source: Source, spec: &GroupSpec) -> Vec<usize> {
    let Space { shape, .. } = &spec.space;
    let mut steps = vec![1; shape.len()];
    for id in &spec.roots {
        if let Op::Fold(op) = &source.graph.node(*id).op {
            for window in &op.windows {
                steps[window.dim] = least_common_multiple(steps[window.dim], window.stride);
            }
        }
    }
    // Positions beyond the dim's end need no expressions.
    steps.iter().zip(shape).map(|(step, size)| if step > size { 1 } else { *step }).collect()
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    a / divisor * b
}

/// The longest innermost loop of a body; 0 without loops.
fn longest(body: &[Stmt]) -> usize {
    let of = |stmt: &Stmt| match stmt {
        Stmt::Loop { extent, body, .. } => match longest(body) {
            0 => *extent,
            inner => inner,
        },
        Stmt::Let { .. } | Stmt::Store { .. } => 0,
    };
    body.iter().map(of).max().unwrap_or(0)
}

/// Whether neighbours along the last range read and write elements that are near each other.
fn near(kernel: &Kernel) -> bool {
    let Some(last) = kernel.ranges.last() else { return false };
    all_near(&kernel.body, last.var)
}

fn all_near(body: &[Stmt], var: VarId) -> bool {
    let near =
        |index: &Index| index.dynamic.is_none() && (0..=DISTANCE_MAX).contains(&index.coefficient(var));
    body.iter().all(|stmt| match stmt {
        Stmt::Let { expr: Expr::Load { index, .. }, .. } | Stmt::Store { index, .. } => near(index),
        Stmt::Let { .. } => true,
        Stmt::Loop { body, .. } => all_near(body, var),
    })
}
