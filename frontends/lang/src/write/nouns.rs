//! Words for what values are, by their ops.

use thalweg_base::{PointwiseFn, ReduceFn};
use thalweg_tensor::Op;

/// What a value is called for want of anything better.
pub(super) fn noun(op: &Op) -> Option<&'static str> {
    let noun = match op {
        Op::Contract(_) => "product",
        Op::Convolve(_) => "features",
        Op::Concat(_) => "joined",
        Op::Gather(_) => "rows",
        Op::Slice(_) | Op::DynamicSlice(_) => "part",
        Op::Pad(_) => "padded",
        Op::Iota(_) => "positions",
        Op::Random(_) => "noise",
        Op::ArgSort(_) => "order",
        Op::Scan(_) | Op::While(_) => "looped",
        Op::Branch(_) => "chosen",
        Op::Constant(_) => "table",
        Op::Reshape(_) | Op::Broadcast(_) | Op::Transpose(_) => "shaped",
        Op::Unfold(_) => "windows",
        Op::Reduce(op) => reduced(op.function),
        Op::Pointwise(op) => return function_noun(op.function),
        Op::Leaf(_) | Op::Convert(_) | Op::Scatter(_) | Op::Cumulative(_) | Op::Fold(_) => return None,
        Op::DynamicUpdate(_) | Op::Pick(_) | Op::Collective(_) => return None,
    };
    Some(noun)
}

pub(super) fn reduced(function: ReduceFn) -> &'static str {
    match function {
        ReduceFn::Sum => "total",
        ReduceFn::Prod => "product",
        ReduceFn::Max => "largest",
        ReduceFn::Min => "smallest",
    }
}

fn function_noun(function: PointwiseFn) -> Option<&'static str> {
    match function {
        PointwiseFn::Add | PointwiseFn::Sub => Some("shifted"),
        PointwiseFn::Mul | PointwiseFn::Div => Some("scaled"),
        PointwiseFn::Max | PointwiseFn::Min => Some("clipped"),
        PointwiseFn::Select => Some("chosen"),
        PointwiseFn::Eq | PointwiseFn::Ne | PointwiseFn::Lt | PointwiseFn::Le | PointwiseFn::Gt => {
            Some("mask")
        }
        PointwiseFn::Ge | PointwiseFn::Not | PointwiseFn::And | PointwiseFn::Or | PointwiseFn::Xor => {
            Some("mask")
        }
        PointwiseFn::Exp | PointwiseFn::Expm1 | PointwiseFn::Log | PointwiseFn::Log1p => None,
        PointwiseFn::Neg | PointwiseFn::Abs | PointwiseFn::Sign | PointwiseFn::Sqrt | PointwiseFn::Rsqrt => {
            None
        }
        PointwiseFn::Sin | PointwiseFn::Cos | PointwiseFn::Tanh | PointwiseFn::Erf => Some("curve"),
        PointwiseFn::Floor | PointwiseFn::Ceil | PointwiseFn::Round | PointwiseFn::Rem | PointwiseFn::Pow => {
            None
        }
        PointwiseFn::ShiftLeft | PointwiseFn::ShiftRight | PointwiseFn::MulAdd => None,
    }
}
