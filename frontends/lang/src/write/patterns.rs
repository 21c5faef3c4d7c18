//! Functions of the library, where a graph computes exactly what they do.

use super::form::{Form, View};
use thalweg_base::{PointwiseFn as F, ReduceFn};
use thalweg_tensor::{NodeId, Op};

/// Gives what the function is of, and adds the nodes within it.
type Matcher = fn(&View, NodeId, &mut Vec<NodeId>) -> Option<NodeId>;

/// What the node is as a function of the library.
pub(super) fn library(view: &View, id: NodeId) -> Option<Form> {
    let dtype = view.dtype(id);
    if !dtype.is_float() || view.graph.node(id).types.len() != 1 {
        return None;
    }
    let matchers: [(&'static str, Matcher); 7] = [
        ("relu", relu),
        ("silu", silu),
        ("sigmoid", sigmoid),
        ("gelu", gelu),
        ("gelu_tanh", gelu_tanh),
        ("softmax", softmax),
        ("log_softmax", log_softmax),
    ];
    matchers.into_iter().find_map(|(name, matches)| {
        let mut inner = Vec::new();
        let x = matches(view, id, &mut inner)?;
        let all: Vec<NodeId> = inner.iter().copied().chain([id]).collect();
        // What else reads a part of it would compute that part again.
        inner.iter().all(|node| view.only_within(*node, &all)).then_some(Form::Library(name, x))
    })
}

/// The operands of a scalar function.
fn of(view: &View, id: NodeId, function: F) -> Option<(NodeId, NodeId)> {
    match view.pointwise(id)? {
        (own, [a]) if own == function => Some((*a, *a)),
        (own, [a, b]) if own == function => Some((*a, *b)),
        _ => None,
    }
}

/// Like `of`, for a node that belongs to what is matched.
fn inside(view: &View, id: NodeId, function: F, inner: &mut Vec<NodeId>) -> Option<(NodeId, NodeId)> {
    inner.push(id);
    of(view, id, function)
}

/// Whether a node is everywhere what `value` is in its dtype.
fn is(view: &View, id: NodeId, value: f64) -> Option<()> {
    let dtype = view.dtype(id);
    let wanted = thalweg_base::Scalar::Float(value).convert(dtype).to_f64();
    (view.number(id)? == wanted && (value != 0.0 || view.number(id)?.is_sign_positive())).then_some(())
}

fn relu(view: &View, id: NodeId, _: &mut Vec<NodeId>) -> Option<NodeId> {
    let (x, zero) = of(view, id, F::Max)?;
    is(view, zero, 0.0)?;
    view.known(x).is_none().then_some(x)
}

/// 0.5 * tanh(0.5 * x) + 0.5
fn sigmoid(view: &View, id: NodeId, inner: &mut Vec<NodeId>) -> Option<NodeId> {
    let (product, half) = of(view, id, F::Add)?;
    is(view, half, 0.5)?;
    let (half, tanh) = inside(view, product, F::Mul, inner)?;
    is(view, half, 0.5)?;
    let (argument, _) = inside(view, tanh, F::Tanh, inner)?;
    let (half, x) = inside(view, argument, F::Mul, inner)?;
    is(view, half, 0.5)?;
    view.known(x).is_none().then_some(x)
}

/// x * sigmoid(x)
fn silu(view: &View, id: NodeId, inner: &mut Vec<NodeId>) -> Option<NodeId> {
    let (x, gate) = of(view, id, F::Mul)?;
    inner.push(gate);
    (sigmoid(view, gate, inner)? == x).then_some(x)
}

/// 0.5 * x * (1 + f)
fn half_one_plus(view: &View, id: NodeId, inner: &mut Vec<NodeId>) -> Option<(NodeId, NodeId)> {
    let (scaled, factor) = of(view, id, F::Mul)?;
    let (half, x) = inside(view, scaled, F::Mul, inner)?;
    is(view, half, 0.5)?;
    let (one, f) = inside(view, factor, F::Add, inner)?;
    is(view, one, 1.0)?;
    view.known(x).is_none().then_some((x, f))
}

/// 0.5 * x * (1 + erf(x * 0.7071067811865476))
fn gelu(view: &View, id: NodeId, inner: &mut Vec<NodeId>) -> Option<NodeId> {
    let (x, erf) = half_one_plus(view, id, inner)?;
    let (argument, _) = inside(view, erf, F::Erf, inner)?;
    let (own, factor) = inside(view, argument, F::Mul, inner)?;
    is(view, factor, std::f64::consts::FRAC_1_SQRT_2)?;
    (own == x).then_some(x)
}

/// 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
fn gelu_tanh(view: &View, id: NodeId, inner: &mut Vec<NodeId>) -> Option<NodeId> {
    let (x, tanh) = half_one_plus(view, id, inner)?;
    let (argument, _) = inside(view, tanh, F::Tanh, inner)?;
    let (factor, sum) = inside(view, argument, F::Mul, inner)?;
    is(view, factor, 0.7978845608028654)?;
    let (own, cubic) = inside(view, sum, F::Add, inner)?;
    let (square, last) = inside(view, cubic, F::Mul, inner)?;
    let (scaled, middle) = inside(view, square, F::Mul, inner)?;
    let (factor, first) = inside(view, scaled, F::Mul, inner)?;
    is(view, factor, 0.044715)?;
    [own, first, middle, last].iter().all(|node| *node == x).then_some(x)
}

/// The reduction of `x` over its last dim, repeated over its shape.
fn over_last(view: &View, id: NodeId, function: ReduceFn, x: NodeId, inner: &mut Vec<NodeId>) -> Option<()> {
    let (reduced, kept) = match view.op(id) {
        Op::Broadcast(_) => (view.peel(id), true),
        _ => return None,
    };
    let source = view.operand(id, 0);
    let Op::Reshape(_) = view.op(reduced) else { return None };
    let reduce = view.operand(reduced, 0);
    let Op::Reduce(op) = view.op(reduce) else { return None };
    let last = view.shape(x).len().checked_sub(1)?;
    inner.extend([id, source, reduced, reduce]);
    let fits = kept
        && op.function == function
        && op.dims == [last]
        && view.operand(reduce, 0) == x
        && view.keeps(reduced, x, &op.dims);
    fits.then_some(())
}

/// `let e = exp(x - max(x)); e / sum(e)`
fn softmax(view: &View, id: NodeId, inner: &mut Vec<NodeId>) -> Option<NodeId> {
    let (e, total) = of(view, id, F::Div)?;
    let (shifted, _) = inside(view, e, F::Exp, inner)?;
    over_last(view, total, ReduceFn::Sum, e, inner)?;
    let (x, largest) = inside(view, shifted, F::Sub, inner)?;
    over_last(view, largest, ReduceFn::Max, x, inner)?;
    Some(x)
}

/// `let shifted = x - max(x); shifted - log(sum(exp(shifted)))`
fn log_softmax(view: &View, id: NodeId, inner: &mut Vec<NodeId>) -> Option<NodeId> {
    let (shifted, wide) = of(view, id, F::Sub)?;
    let (x, largest) = inside(view, shifted, F::Sub, inner)?;
    over_last(view, largest, ReduceFn::Max, x, inner)?;
    let Op::Broadcast(_) = view.op(wide) else { return None };
    let log = view.peel(wide);
    let (sum, _) = inside(view, log, F::Log, inner)?;
    let Op::Reshape(_) = view.op(sum) else { return None };
    let reduce = view.operand(sum, 0);
    let Op::Reduce(op) = view.op(reduce) else { return None };
    let exp = view.operand(reduce, 0);
    let (own, _) = inside(view, exp, F::Exp, inner)?;
    inner.extend([wide, view.operand(wide, 0), sum, reduce]);
    let last = view.shape(x).len().checked_sub(1)?;
    let fits = own == shifted
        && op.function == ReduceFn::Sum
        && op.dims == [last]
        && view.keeps(sum, shifted, &op.dims);
    fits.then_some(x)
}
