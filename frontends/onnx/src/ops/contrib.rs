//! Ops of ONNX Runtime that exported and optimized models hold, in the domain `com.microsoft` (`ContribOperators.md` there).

mod attention;
mod quantized;

use super::Row;
use super::activation::logistic;
use super::matmul::product;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results};
use crate::value::Value;
use thalweg_base::{DType, PointwiseFn as F};
use thalweg_tensor::{NodeId, ReduceFn};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("Attention", attention::attention),
    ("BiasGelu", bias_gelu),
    ("DequantizeLinear", super::quantize::dequantize_linear),
    ("DynamicQuantizeMatMul", quantized::dynamic_quantize_mat_mul),
    ("EmbedLayerNormalization", embed_layer_normalization),
    ("FastGelu", fast_gelu),
    ("FusedMatMul", fused_mat_mul),
    ("Gelu", bias_gelu),
    ("GroupQueryAttention", attention::group_query_attention),
    ("MatMulIntegerToFloat", quantized::mat_mul_integer_to_float),
    ("MatMulNBits", quantized::mat_mul_n_bits),
    ("MultiHeadAttention", attention::multi_head_attention),
    ("QAttention", attention::quantized_attention),
    ("QGemm", quantized::q_gemm),
    ("QLinearAdd", |call| quantized::q_linear(call, F::Add)),
    ("QLinearConcat", quantized::q_linear_concat),
    ("QLinearLeakyRelu", quantized::q_linear_leaky_relu),
    ("QLinearMul", |call| quantized::q_linear(call, F::Mul)),
    ("QLinearSigmoid", quantized::q_linear_sigmoid),
    ("QuantizeLinear", super::quantize::quantize_linear),
    ("QuickGelu", quick_gelu),
    ("RotaryEmbedding", attention::rotary_embedding),
    ("SimplifiedLayerNormalization", simplified_layer_normalization),
    ("SkipLayerNormalization", |call| skip_layer_normalization(call, false)),
    ("SkipSimplifiedLayerNormalization", |call| skip_layer_normalization(call, true)),
];

/// The rows of ops that the same runtime puts into the standard domain.
pub const STANDARD: &[Row] = &[("SimplifiedLayerNormalization", simplified_layer_normalization)];

/// The default of an `epsilon` that the runtime's own fusions leave out.
const EPSILON: f64 = 1e-12;

/// The sum of two operands, the second of which may be missing.
fn with_bias(call: &mut Call, x: usize, bias: usize) -> Build<NodeId> {
    let x = call.x(x)?;
    match call.optional(bias)? {
        Some(bias) => call.b.binary(F::Add, x, bias),
        None => Ok(x),
    }
}

/// `x (1 + erf(x / sqrt 2)) / 2`.
fn bias_gelu(call: &mut Call) -> Results {
    let x = with_bias(call, 0, 1)?;
    let b = &mut *call.b;
    let scaled = b.with_scalar(F::Mul, x, std::f64::consts::FRAC_1_SQRT_2)?;
    let curve = b.unary(F::Erf, scaled)?;
    let y = gated(b, x, curve)?;
    call.one(y)
}

/// `x (1 + curve) / 2`.
fn gated(b: &mut Builder, x: NodeId, curve: NodeId) -> Build<NodeId> {
    let gate = b.with_scalar(F::Add, curve, 1.0)?;
    let half = b.with_scalar(F::Mul, x, 0.5)?;
    b.pointwise(F::Mul, &[half, gate])
}

/// The approximation by tanh of Hendrycks and Gimpel, arXiv 1606.08415.
fn fast_gelu(call: &mut Call) -> Results {
    let x = with_bias(call, 0, 1)?;
    let b = &mut *call.b;
    let square = b.pointwise(F::Mul, &[x, x])?;
    let cubic = b.with_scalar(F::Mul, square, 0.044_715)?;
    let more = b.with_scalar(F::Add, cubic, 1.0)?;
    let inner = b.pointwise(F::Mul, &[x, more])?;
    let scaled = b.with_scalar(F::Mul, inner, (2.0 / std::f64::consts::PI).sqrt())?;
    let curve = b.unary(F::Tanh, scaled)?;
    let y = gated(b, x, curve)?;
    call.one(y)
}

/// `x / (1 + e^(-alpha x))`.
fn quick_gelu(call: &mut Call) -> Results {
    let (x, alpha) = (call.x(0)?, call.float_or("alpha", 1.702));
    let scaled = call.b.with_scalar(F::Mul, x, alpha)?;
    let gate = logistic(call.b, scaled)?;
    let y = call.b.pointwise(F::Mul, &[x, gate])?;
    call.one(y)
}

fn fused_mat_mul(call: &mut Call) -> Results {
    let (lhs, rhs) = (call.x(0)?, call.x(1)?);
    if call.flag("transBatchA", false) || call.flag("transBatchB", false) {
        return problem("matrices whose batches lie between rows and columns are not taken");
    }
    let turns = [(lhs, call.flag("transA", false)), (rhs, call.flag("transB", false))];
    let alpha = call.float_or("alpha", 1.0);
    let b = &mut *call.b;
    let turned = turns.map(|(x, turn)| {
        let rank = b.rank(x);
        // A single row or column has nothing to turn.
        if !turn || rank < 2 {
            return Ok(x);
        }
        let perm: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
        b.transpose(x, &perm)
    });
    let [lhs, rhs] = turned;
    let y = product(b, lhs?, rhs?)?;
    let y = if alpha == 1.0 { y } else { b.with_scalar(F::Mul, y, alpha)? };
    call.one(y)
}

/// A normalization over the last dim: the result, the mean (absent when only squares count) and the inverse deviation.
struct Normalized {
    y: NodeId,
    mean: Option<NodeId>,
    inverse: NodeId,
}

/// Computed in f32 at least.
fn normalized(
    b: &mut Builder,
    x: NodeId,
    scale: NodeId,
    bias: Option<NodeId>,
    simplified: bool,
    epsilon: f64,
) -> Build<Normalized> {
    let dtype = b.dtype(x);
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let Some(last) = b.rank(x).checked_sub(1) else { return problem("a scalar is not normalized") };
    let mut x = b.convert(x, wide)?;
    let mut mean = None;
    if !simplified {
        let of_all = b.mean(x, &[last], true)?;
        x = b.binary(F::Sub, x, of_all)?;
        mean = Some(of_all);
    }
    let square = b.pointwise(F::Mul, &[x, x])?;
    let variance = b.mean(square, &[last], true)?;
    let more = b.with_scalar(F::Add, variance, epsilon)?;
    let inverse = b.unary(F::Rsqrt, more)?;
    let y = b.binary(F::Mul, x, inverse)?;
    let scale = b.convert(scale, wide)?;
    let mut y = b.binary(F::Mul, y, scale)?;
    if let Some(bias) = bias {
        let bias = b.convert(bias, wide)?;
        y = b.binary(F::Add, y, bias)?;
    }
    Ok(Normalized { y: b.convert(y, dtype)?, mean, inverse })
}

fn simplified_layer_normalization(call: &mut Call) -> Results {
    let (x, scale) = (call.x(0)?, call.x(1)?);
    if call.axis_or(-1, call.b.rank(x))? + 1 != call.b.rank(x) {
        return problem("only the last dim is normalized");
    }
    let epsilon = call.float_or("epsilon", f64::from(1e-5f32));
    let Normalized { y, inverse, .. } = normalized(call.b, x, scale, None, true, epsilon)?;
    call.several(&[y, inverse])
}

/// The normalization of the sum of a layer's input and output.
fn skip_layer_normalization(call: &mut Call, simplified: bool) -> Results {
    let x = with_bias(call, 0, 1)?;
    let scale = call.x(2)?;
    let (bias, added) = match simplified {
        true => (None, call.optional(3)?),
        false => (call.optional(3)?, call.optional(4)?),
    };
    let epsilon = call.float_or("epsilon", EPSILON);
    let b = &mut *call.b;
    let x = added.map_or(Ok(x), |added| b.binary(F::Add, x, added))?;
    let Normalized { y, mean, inverse } = normalized(b, x, scale, bias, simplified, epsilon)?;
    let mean = mean.map_or(Value::Optional(None), |mean| b.value(mean));
    Ok(vec![b.value(y), mean, b.value(inverse), b.value(x)])
}

/// The normalized sum of what words, positions and segments stand for.
fn embed_layer_normalization(call: &mut Call) -> Results {
    let (words, segments) = (call.x(0)?, call.optional(1)?);
    let (word_table, position_table, segment_table) = (call.x(2)?, call.x(3)?, call.optional(4)?);
    let (scale, bias, mask, positions) = (call.x(5)?, call.x(6)?, call.optional(7)?, call.optional(8)?);
    let epsilon = call.float_or("epsilon", EPSILON);
    let b = &mut *call.b;
    let [batch, time] = &b.shape(words)[..] else { return problem("words have a batch and a time") };
    let (batch, time) = (batch.clone(), time.clone());
    let of_words = b.gather(word_table, words, 0, 0)?;
    let of_positions = match positions {
        Some(positions) => b.gather(position_table, positions, 0, 0)?,
        None => b.slice_dim(position_table, 0, 0, time)?,
    };
    let mut sum = b.binary(F::Add, of_words, of_positions)?;
    if let (Some(segments), Some(table)) = (segments, segment_table) {
        let of_segments = b.gather(table, segments, 0, 0)?;
        sum = b.binary(F::Add, sum, of_segments)?;
    }
    let y = normalized(b, sum, scale, Some(bias), false, epsilon)?.y;
    let count = match mask {
        Some(mask) => b.reduce(ReduceFn::Sum, mask, &[1], false)?,
        None => b.full(DType::I32, &[batch], 0.0)?,
    };
    call.several(&[y, count, sum])
}
