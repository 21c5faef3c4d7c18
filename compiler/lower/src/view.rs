//! Movement without moving: transposes, slices, broadcasts and most reshapes of memory are other strides over it.

use crate::emit::Source;
use thalweg_base::DType;
use thalweg_tensor::ops::CollectiveKind;
use thalweg_tensor::{Graph, NodeId, Op};

/// A strided view of a node's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct View {
    /// Whose memory it is.
    pub base: NodeId,
    /// The first element.
    pub offset: i64,
    /// Elements between neighbours along each dim.
    pub strides: Vec<i64>,
}

/// Whether an op only moves, in a way that strides can express for some operands.
fn moves(op: &Op) -> bool {
    match op {
        Op::Transpose(_) | Op::Broadcast(_) | Op::Reshape(_) => true,
        Op::Slice(op) => op.ranges.iter().all(|range| range.stride > 0),
        Op::Collective(op) => matches!(op.kind, CollectiveKind::Shard { .. }),
        Op::Leaf(_)
        | Op::Constant(_)
        | Op::Iota(_)
        | Op::Random(_)
        | Op::Pointwise(_)
        | Op::Convert(_)
        | Op::Pad(_)
        | Op::Concat(_)
        | Op::Gather(_)
        | Op::Scatter(_)
        | Op::Reduce(_)
        | Op::Cumulative(_)
        | Op::Contract(_)
        | Op::Convolve(_)
        | Op::Unfold(_)
        | Op::Fold(_)
        | Op::ArgSort(_)
        | Op::DynamicSlice(_)
        | Op::DynamicUpdate(_)
        | Op::Scan(_)
        | Op::While(_)
        | Op::Branch(_)
        | Op::Pick(_) => false,
    }
}

/// The node that must lie in memory for `id` to be read through a view: as far down as strides reach.
pub(crate) fn base(graph: &Graph, id: NodeId) -> NodeId {
    deepest(graph, id, &|step| moves(&graph.node(step).op))
}

/// The deepest node that `id` is a strided view of, going down through the nodes that `passes` names.
fn deepest(graph: &Graph, id: NodeId, passes: &dyn Fn(NodeId) -> bool) -> NodeId {
    // From every node on the way down, try whether strides express the way back up.
    let mut chain = vec![id];
    while passes(*chain.last().expect("it begins with one")) {
        chain.push(graph.node(*chain.last().expect("it begins with one")).operands[0]);
    }
    let reaches = |at: usize| {
        let base = chain[at];
        let mut sizes = graph.ty(base).sizes();
        let mut strides = dense_strides(&sizes);
        chain[..at].iter().rev().all(|step| {
            let fits = step_strides(graph, *step, &sizes, &mut strides);
            sizes = graph.ty(*step).sizes();
            fits
        })
    };
    let at = (0..chain.len()).rev().find(|at| reaches(*at)).expect("a node is a view of itself");
    chain[at]
}

/// Whether products of elements of that dtype are those of the same elements converted to `i32`, and a routine has them.
fn is_narrow(dtype: DType) -> bool {
    match dtype {
        DType::I8 | DType::U8 | DType::I16 => true,
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::Bool => false,
        DType::U16 | DType::U32 | DType::U64 | DType::I32 | DType::I64 => false,
    }
}

/// Of a contraction in `i32` whose operands are both converted from narrower integers, the memory in front of the conversions:
/// the routine multiplies those, and nothing is converted.
pub(crate) fn narrow_bases(graph: &Graph, id: NodeId) -> Option<[NodeId; 2]> {
    let node = graph.node(id);
    let Op::Contract(_) = node.op else { return None };
    if graph.ty(id).dtype != DType::I32 {
        return None;
    }
    let widens = |step: NodeId| {
        let node = graph.node(step);
        matches!(node.op, Op::Convert(_)) && is_narrow(graph.ty(node.operands[0]).dtype)
    };
    let passes = |step| moves(&graph.node(step).op) || widens(step);
    let below = |operand| {
        let base = deepest(graph, operand, &passes);
        is_narrow(graph.ty(base).dtype).then_some(base)
    };
    Some([below(node.operands[0])?, below(node.operands[1])?])
}

/// The view of `id` over the memory of `base`, which `base()` gave.
pub(crate) fn view(source: Source, id: NodeId) -> View {
    view_until(source, id, &|node| source.stored[node.index()])
}

/// The view of `id` over `base`, which [`narrow_bases`] gave.
pub(crate) fn view_over(source: Source, id: NodeId, base: NodeId) -> View {
    view_until(source, id, &|node| node == base)
}

fn view_until(source: Source, id: NodeId, ends: &dyn Fn(NodeId) -> bool) -> View {
    let graph = source.graph;
    let mut chain = vec![id];
    while !ends(*chain.last().expect("it begins with one")) {
        chain.push(graph.node(*chain.last().expect("it begins with one")).operands[0]);
    }
    let base = *chain.last().expect("it begins with one");
    let mut sizes = source.sizes(base);
    let mut view = View { base, offset: 0, strides: dense_strides(&sizes) };
    for step in chain[..chain.len() - 1].iter().rev() {
        let starts = starts(source, *step);
        view.offset += starts.iter().zip(&view.strides).map(|(start, stride)| start * stride).sum::<i64>();
        assert!(step_strides(graph, *step, &sizes, &mut view.strides), "operands in memory have views");
        sizes = source.sizes(*step);
    }
    view
}

pub(crate) fn dense_strides(sizes: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; sizes.len()];
    for dim in (0..sizes.len().saturating_sub(1)).rev() {
        strides[dim] = strides[dim + 1] * sizes[dim + 1].max(1) as i64;
    }
    strides
}

/// The first position that a movement takes of each dim of its operand.
fn starts(source: Source, id: NodeId) -> Vec<i64> {
    let node = source.graph.node(id);
    let mut starts = vec![0; source.graph.ty(node.operands[0]).rank()];
    if let Op::Slice(op) = &node.op {
        op.ranges.iter().for_each(|range| starts[range.dim] = range.start.size() as i64);
    }
    if let Op::Collective(op) = &node.op
        && let CollectiveKind::Shard { dim } = op.kind
    {
        starts[dim] = source.shard_offset(&op.axis, source.sizes(id)[dim]) as i64;
    }
    starts
}

/// Turns the strides of an operand of those sizes into those of the movement's result, if there are any.
fn step_strides(graph: &Graph, id: NodeId, sizes: &[usize], strides: &mut Vec<i64>) -> bool {
    let op = &graph.node(id).op;
    if let Op::Transpose(op) = op {
        *strides = op.perm.iter().map(|dim| strides[*dim]).collect();
    } else if let Op::Broadcast(op) = op {
        let mut result = vec![0; op.shape.len()];
        for (dim, stride) in op.dims.iter().zip(strides.iter()) {
            result[*dim] = *stride;
        }
        *strides = result;
    } else if let Op::Slice(op) = op {
        op.ranges.iter().for_each(|range| strides[range.dim] *= range.stride);
    } else if let Op::Reshape(_) = op {
        let Some(result) = reshape_strides(sizes, strides, &graph.ty(id).sizes()) else { return false };
        *strides = result;
    }
    true
}

/// The strides under another shape: dims that are merged must follow each other evenly; dims may always be split.
fn reshape_strides(from: &[usize], strides: &[i64], to: &[usize]) -> Option<Vec<i64>> {
    if from.contains(&0) {
        return Some(dense_strides(to));
    }
    // Runs of dims that step evenly through memory, as (size, stride of the last), outermost first.
    let mut runs: Vec<(usize, i64)> = Vec::new();
    for (size, stride) in from.iter().zip(strides).filter(|(size, _)| **size != 1) {
        match runs.last_mut() {
            Some((count, last)) if *last == stride * *size as i64 => {
                *count *= size;
                *last = *stride;
            }
            Some(_) | None => runs.push((*size, *stride)),
        }
    }
    let mut result = vec![0; to.len()];
    let mut open: Option<(usize, i64)> = None;
    for dim in (0..to.len()).rev().filter(|dim| to[*dim] != 1) {
        let (count, stride) = open.or_else(|| runs.pop())?;
        if count % to[dim] != 0 {
            return None;
        }
        result[dim] = stride;
        let rest = count / to[dim];
        open = (rest > 1).then_some((rest, stride * to[dim] as i64));
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshapes_of_strided_memory() {
        assert_eq!(reshape_strides(&[4, 6], &[6, 1], &[24]), Some(vec![1]));
        assert_eq!(reshape_strides(&[4, 6], &[6, 1], &[4, 2, 3]), Some(vec![6, 3, 1]));
        assert_eq!(reshape_strides(&[4, 6], &[1, 4], &[24]), None);
        assert_eq!(reshape_strides(&[4, 6], &[1, 4], &[2, 2, 6]), Some(vec![2, 1, 4]));
        assert_eq!(reshape_strides(&[4, 1, 6], &[6, 77, 1], &[4, 6, 1]), Some(vec![6, 1, 0]));
        assert_eq!(reshape_strides(&[2, 3], &[0, 1], &[6]), None);
    }
}
