//! The functions that combine many values into one: elements along a dim, operands of several devices.

use crate::{DType, PointwiseFn, Scalar};
use serde::{Deserialize, Serialize};

/// How values are combined along a dim.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReduceFn {
    /// The sum; 0 of nothing.
    Sum,
    /// The product; 1 of nothing.
    Prod,
    /// The largest; of nothing the smallest value there is. For `bool`: any.
    Max,
    /// The smallest; of nothing the largest value there is. For `bool`: all.
    Min,
}

impl ReduceFn {
    /// Every function.
    pub const ALL: [ReduceFn; 4] = [ReduceFn::Sum, ReduceFn::Prod, ReduceFn::Max, ReduceFn::Min];

    /// The scalar function that combines two values.
    pub fn pointwise(self) -> PointwiseFn {
        match self {
            ReduceFn::Sum => PointwiseFn::Add,
            ReduceFn::Prod => PointwiseFn::Mul,
            ReduceFn::Max => PointwiseFn::Max,
            ReduceFn::Min => PointwiseFn::Min,
        }
    }

    /// The value of an empty combination.
    pub fn identity(self, dtype: DType) -> Scalar {
        match (self, dtype) {
            (ReduceFn::Max, DType::Bool) => Scalar::Int(0),
            (ReduceFn::Min, DType::Bool) => Scalar::Int(1),
            (_, _) => self.pointwise().identity(dtype).expect("combining functions have an identity"),
        }
    }

    /// Combines two values of `dtype` without rounding in between; `bool` is combined as integers 0 and 1.
    pub fn combine(self, a: Scalar, b: Scalar) -> Scalar {
        match (a, b) {
            (Scalar::Int(a), Scalar::Int(b)) => Scalar::Int(match self {
                ReduceFn::Sum => a.wrapping_add(b),
                ReduceFn::Prod => a.wrapping_mul(b),
                ReduceFn::Max => a.max(b),
                ReduceFn::Min => a.min(b),
            }),
            (_, _) => self.pointwise().eval(DType::F64, &[a, b]),
        }
    }
}
