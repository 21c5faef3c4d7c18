//! Shapes of the work that hand-written routines do.

use serde::{Deserialize, Serialize};
use thalweg_base::DType;

/// One axis of a contraction: its extent and its stride in each operand, in elements; 0 where an operand lacks it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ContractAxis {
    /// Positions.
    pub extent: usize,
    /// Elements between neighbours in `a`.
    pub stride_a: i64,
    /// Elements between neighbours in `b`.
    pub stride_b: i64,
    /// Elements between neighbours in `c`.
    pub stride_c: i64,
}

/// What may be done to operands of `f32` before they are multiplied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Nothing.
    #[default]
    Full,
    /// They may be rounded to bfloat16 (8 bits of significand, to nearest), where that is faster; sums stay of `f32`. Each
    /// product is then off by at most 2^-8 of itself.
    Bf16,
}

/// `c[batch, m, n] = sum over k of a[batch, m, k] b[batch, k, n]`, each group a row-major list of axes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Contraction {
    /// Axes of all three.
    pub batch: Vec<ContractAxis>,
    /// Axes of `a` and `c`.
    pub m: Vec<ContractAxis>,
    /// Axes of `b` and `c`.
    pub n: Vec<ContractAxis>,
    /// Axes of `a` and `b`, summed over.
    pub k: Vec<ContractAxis>,
    /// The element type of the result, and of `a` and `b` unless these are narrower.
    pub dtype: DType,
    /// The element types of `a` and `b` where they are narrower integers than a result of `i32`: `i8`, `u8` or `i16`. Each
    /// element is taken as the integer that it is, so the products are those of the operands converted to `i32`.
    pub operands: Option<[DType; 2]>,
    /// What may be done to operands of `f32`.
    pub precision: Precision,
}

impl Contraction {
    /// The element types of `a`, `b` and `c`.
    pub fn dtypes(&self) -> [DType; 3] {
        let [a, b] = self.operands.unwrap_or([self.dtype; 2]);
        [a, b, self.dtype]
    }
}

/// Which of the three of a convolution is computed from the other two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvolveDirection {
    /// `(x, w)` to `y`.
    Forward,
    /// `(w, y)` to `x`.
    InputGradient,
    /// `(x, y)` to `w`.
    WeightGradient,
}

/// A convolution over dense row-major `x[batch, groups * in, input...]`, `w[groups * out, in, kernel...]`,
/// `y[batch, groups * out, output...]`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Convolution {
    /// Which of the three is computed.
    pub direction: ConvolveDirection,
    /// The element type.
    pub dtype: DType,
    /// Batch size.
    pub batch: usize,
    /// Independent groups of channels.
    pub groups: usize,
    /// Input channels of one group.
    pub in_channels: usize,
    /// Output channels of one group.
    pub out_channels: usize,
    /// Spatial sizes of the input.
    pub input: Vec<usize>,
    /// Spatial sizes of the weights.
    pub kernel: Vec<usize>,
    /// Spatial sizes of the output.
    pub output: Vec<usize>,
    /// Steps between outputs.
    pub stride: Vec<usize>,
    /// Steps between weights.
    pub dilation: Vec<usize>,
    /// Zeros before the input.
    pub pad_low: Vec<usize>,
}

/// `result[b, p, n, s] = sum over q with indices[b, q] = n of updates[b, p, q, s]`, all dense; indices outside are dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scatter {
    /// The element type of updates and result.
    pub dtype: DType,
    /// The element type of the indices.
    pub index_dtype: DType,
    /// Size of `b`.
    pub batch: usize,
    /// Size of `p`.
    pub before: usize,
    /// Size of `n`.
    pub size: usize,
    /// Size of `q`.
    pub indices: usize,
    /// Size of `s`.
    pub after: usize,
}

/// The stable order that sorts the middle of `[outer, length, inner]`; NaN last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArgSort {
    /// The element type of what is sorted.
    pub dtype: DType,
    /// Size before.
    pub outer: usize,
    /// Size of the sorted dim.
    pub length: usize,
    /// Size after.
    pub inner: usize,
    /// Whether the largest comes first.
    pub descending: bool,
}
