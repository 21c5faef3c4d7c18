//! Rewrites that only lowering wants: reductions with too few results are split so that threads can share them, windows
//! that lie side by side are folded by moving alone, and an exchange of pieces becomes an exchange of contiguous blocks.
//!
//! Assumes a graph without symbols; keeps its meaning up to the order of sums. It stands first, because grouping sees
//! the split reductions as what they are.

use thalweg_base::{DType, Dim, Scalar};
use thalweg_tensor::ops::{Collective, CollectiveKind, Fold, PadDim, Reduce, Window};
use thalweg_tensor::{Graph, Node, NodeId, Op};

/// Elements from which a reduction is worth splitting: below, one thread takes a few microseconds.
const SPLIT_ELEMENTS_MIN: usize = 1 << 16;
/// A reduction with as many results keeps every thread busy by itself.
const SPLIT_RESULTS_MAX: usize = 64;
/// Rows that are read side by side: as many streams as common processors fetch ahead.
const ROWS: usize = 16;
/// Bytes from which a row is longer than what is fetched ahead of one access: a page.
const LONG_ROW_BYTES: usize = 4096;
/// Results of all parts together with which no thread waits for long.
const ENOUGH: usize = 256;
/// Parts of a split reduction, at most.
const PARTS_MAX: usize = 64;

/// The graph as lowering wants it, and where each node went.
pub(crate) fn prepare(graph: &Graph) -> (Graph, Vec<NodeId>) {
    let mut result = Graph::new(graph.name.clone());
    let mut map: Vec<NodeId> = Vec::new();
    for id in graph.ids() {
        let node = graph.node(id);
        let operands: Vec<NodeId> = node.operands.iter().map(|operand| map[operand.index()]).collect();
        result.current_scope = node.scope.clone();
        result.current_span = node.span;
        let done = if let Op::Reduce(op) = &node.op {
            split_reduction(&mut result, op, operands[0]).or_else(|| block_rows(&mut result, op, operands[0]))
        } else if let Op::Fold(op) = &node.op {
            fold_side_by_side(&mut result, op, operands[0])
        } else if let Op::Collective(op) = &node.op {
            exchange_blocks(&mut result, op, operands[0])
        } else {
            None
        };
        map.push(done.unwrap_or_else(|| result.push(Node { operands, ..node.clone() })));
    }
    for output in &graph.outputs {
        result.output(output.name.clone(), map[output.node.index()]);
    }
    for update in &graph.updates {
        result.update(update.name.clone(), map[update.node.index()]);
    }
    (result, map)
}

/// `reduce(x)` as `reduce(reduce(x as parts))` when there are many elements and few results.
fn split_reduction(graph: &mut Graph, op: &Reduce, x: NodeId) -> Option<NodeId> {
    let ty = graph.ty(x).clone();
    let sizes = ty.sizes();
    let elements: usize = sizes.iter().product();
    let over: usize = op.dims.iter().map(|dim| sizes[*dim]).product();
    // Narrow floats would be rounded once more in between.
    let exact = !matches!(ty.dtype, DType::F16 | DType::BF16);
    if elements < SPLIT_ELEMENTS_MIN || elements / over.max(1) > SPLIT_RESULTS_MAX || !exact {
        return None;
    }
    let results = elements / over.max(1);
    // The outermost dim that gives work enough leaves the longest rows to read in one go; else the one of most parts.
    let (dim, parts) = op
        .dims
        .iter()
        .map(|dim| {
            let parts = (1..=PARTS_MAX).rev().find(|parts| sizes[*dim].is_multiple_of(*parts)).unwrap_or(1);
            (*dim, parts)
        })
        .max_by_key(|(dim, parts)| ((*parts).min(ENOUGH.div_ceil(results)), std::cmp::Reverse(*dim)))?;
    if parts < 2 {
        return None;
    }
    let mut shape = ty.shape.clone();
    shape.splice(dim..=dim, [Dim::from(parts), Dim::from(sizes[dim] / parts)]);
    let split = graph.reshape(x, &shape);
    let dims: Vec<usize> = op.dims.iter().map(|own| if *own >= dim { own + 1 } else { *own }).collect();
    let partial = graph.reduce(op.function, split, &dims);
    let at = (0..dim).filter(|own| !op.dims.contains(own)).count();
    Some(graph.reduce(op.function, partial, &[at]))
}

/// A sum over many long rows as one over blocks of rows: within a block the rows are read side by side, from their
/// beginning to their end, which the processor fetches ahead; jumping down one column after the other it does not.
fn block_rows(graph: &mut Graph, op: &Reduce, x: NodeId) -> Option<NodeId> {
    let ty = graph.ty(x).clone();
    let sizes = ty.sizes();
    let dim = *op.dims.last()?;
    let long = dim + 2 == sizes.len() && sizes[dim + 1] * ty.dtype.size_bytes() >= LONG_ROW_BYTES;
    let many = sizes[dim] >= 16 * ROWS && sizes[dim].is_multiple_of(ROWS);
    if !long || !many || matches!(ty.dtype, DType::F16 | DType::BF16 | DType::Bool) {
        return None;
    }
    let mut shape = ty.shape.clone();
    shape.splice(dim..=dim, [Dim::from(sizes[dim] / ROWS), Dim::from(ROWS)]);
    let blocks = graph.reshape(x, &shape);
    let partial = graph.reduce(op.function, blocks, &[dim + 1]);
    Some(graph.reduce(op.function, partial, &op.dims))
}

/// A fold of windows that neither overlap nor leave gaps: each position is in one window, so the windows' dims only move
/// next to the dims they came from.
fn fold_side_by_side(graph: &mut Graph, op: &Fold, x: NodeId) -> Option<NodeId> {
    let adjoin = |window: &Window| window.stride == window.size && window.dilation == 1 && window.low == 0;
    if !op.windows.iter().all(adjoin) {
        return None;
    }
    let shape = graph.ty(x).shape.clone();
    let rank = shape.len() - op.windows.len();
    let (mut perm, mut merged, mut pads) = (Vec::new(), Vec::new(), Vec::new());
    for (dim, count) in shape[..rank].iter().enumerate() {
        perm.push(dim);
        let Some(at) = op.windows.iter().position(|window| window.dim == dim) else {
            merged.push(count.clone());
            continue;
        };
        perm.push(rank + at);
        let covered = count * &Dim::from(op.windows[at].size);
        let rest = &op.sizes[at] - &covered;
        if rest.as_constant() != Some(0) {
            pads.push(PadDim { dim, low: Dim::default(), high: rest, interior: 0 });
        }
        merged.push(covered);
    }
    // Padding after the last window may reach beyond the dim: then positions would have to be cut off instead.
    if pads.iter().any(|pad| pad.high.as_constant().is_none_or(|rest| rest < 0)) {
        return None;
    }
    let moved = graph.transpose(x, &perm);
    let folded = graph.reshape(moved, &merged);
    let zero = Scalar::zero(graph.ty(x).dtype);
    Some(if pads.is_empty() { folded } else { graph.pad(folded, pads, zero) })
}

/// All-to-all over any dims as one over contiguous blocks: the cut dim's pieces go outermost, and after the exchange the
/// devices' pieces go where they are joined.
fn exchange_blocks(graph: &mut Graph, op: &Collective, x: NodeId) -> Option<NodeId> {
    let CollectiveKind::AllToAll { split, concat } = op.kind else { return None };
    if split == 0 && concat == 0 {
        return None;
    }
    let parts = Dim::from(op.size);
    let shape = graph.ty(x).shape.clone();
    let piece = shape[split].exact_div(&parts).expect("the op was inferred");
    let mut cut = shape.clone();
    cut.splice(split..=split, [parts.clone(), piece]);
    let x = graph.reshape(x, &cut);
    let front: Vec<usize> =
        std::iter::once(split).chain((0..cut.len()).filter(|dim| *dim != split)).collect();
    let x = graph.transpose(x, &front);
    let kind = CollectiveKind::AllToAll { split: 0, concat: 0 };
    let x = graph.add(Collective { kind, ..op.clone() }, &[x]);
    // Dim 0 now counts devices; dim d of the piece is dim d + 1. It goes before the dim that grows.
    let perm: Vec<usize> = (1..concat + 1).chain([0]).chain(concat + 1..cut.len()).collect();
    let x = graph.transpose(x, &perm);
    let mut joined: Vec<Dim> = graph.ty(x).shape.clone();
    let grown = &joined[concat] * &joined[concat + 1];
    joined.splice(concat..concat + 2, [grown]);
    Some(graph.reshape(x, &joined))
}
