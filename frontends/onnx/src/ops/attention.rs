//! Attention, with what models put into it.

pub mod decoding;
mod flexible;

use super::Row;
use super::activation::shifted;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results};
use thalweg_base::{DType, Dim, PointwiseFn as F, Scalar};
use thalweg_tensor::NodeId;
use thalweg_tensor::ops::PadDim;

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("Attention", attention),
    ("LinearAttention", decoding::linear_attention),
    ("RotaryEmbedding", decoding::rotary_embedding),
    ("TensorScatter", decoding::tensor_scatter),
];

/// The rows of ops that are tried out by the format.
pub const PREVIEW: &[Row] = &[("FlexAttention", flexible::flex_attention)];

/// Queries of `[batch, heads, time, size]`, and keys and values of as many heads or fewer, each of which is shared by equally
/// many queries that follow each other.
pub struct Heads {
    q: NodeId,
    k: NodeId,
    v: NodeId,
    /// The size of `[batch, heads, time of queries, time of keys]`.
    scores: [Dim; 4],
    /// How many heads keys have, and how many queries share one.
    groups: Option<[Dim; 2]>,
}

/// The parts of heads that lie next to each other in the last of three dims, with heads before time. What has four dims stays.
pub fn split_heads(b: &mut Builder, x: NodeId, heads: Option<i64>) -> Build<NodeId> {
    let [batch, time, width] = &b.shape(x)[..] else {
        return match b.rank(x) {
            4 => Ok(x),
            rank => problem(format!("attention takes tensors of rank 3 or 4, not {rank}")),
        };
    };
    let Some(heads) = heads.filter(|heads| *heads > 0) else {
        return problem("the number of heads is not given");
    };
    let heads = Dim::constant(heads);
    let Some(size) = width.exact_div(&heads) else {
        return problem(format!("a width of {width} is not {heads} heads"));
    };
    let split = b.reshape(x, &[batch.clone(), time.clone(), heads, size])?;
    b.transpose(split, &[0, 2, 1, 3])
}

/// `[batch, heads, time, size]` with heads next to each other in the last of three dims.
pub fn join_heads(b: &mut Builder, x: NodeId) -> Build<NodeId> {
    let x = b.transpose(x, &[0, 2, 1, 3])?;
    b.merge_dims(x, 2, 4)
}

impl Heads {
    /// Checks that the sizes fit each other.
    pub fn new(b: &Builder, q: NodeId, k: NodeId, v: NodeId) -> Build<Heads> {
        let ([batch, heads, time, _], [_, key_heads, key_time, _]) = (&b.shape(q)[..], &b.shape(k)[..])
        else {
            return problem("queries and keys of attention do not both have 4 dims");
        };
        let scores = [batch.clone(), heads.clone(), time.clone(), key_time.clone()];
        let groups = match heads == key_heads {
            true => None,
            false => match heads.exact_div(key_heads) {
                Some(shared) => Some([key_heads.clone(), shared]),
                None => return problem(format!("{heads} heads do not share {key_heads}")),
            },
        };
        Ok(Heads { q, k, v, scores, groups })
    }

    /// Dims of queries or scores with the heads that share keys in a dim of their own.
    fn grouped(&self, b: &mut Builder, x: NodeId) -> Build<NodeId> {
        let Some([key_heads, shared]) = &self.groups else { return Ok(x) };
        let shape = b.shape(x);
        b.reshape(x, &[&shape[..1], &[key_heads.clone(), shared.clone()], &shape[2..]].concat())
    }

    /// `q k^T` of each head, times a scale. In half precision both sides get its root, which keeps products in range.
    pub fn products(&self, b: &mut Builder, scale: f64) -> Build<NodeId> {
        let halves = matches!(b.dtype(self.q), DType::F16 | DType::BF16);
        let (q, k) = match halves {
            true => {
                (b.with_scalar(F::Mul, self.q, scale.sqrt())?, b.with_scalar(F::Mul, self.k, scale.sqrt())?)
            }
            false => (b.with_scalar(F::Mul, self.q, scale)?, self.k),
        };
        let q = self.grouped(b, q)?;
        let notation = if self.groups.is_some() { "bkgsh,bkth->bkgst" } else { "bnsh,bnth->bnst" };
        let products = b.contract(notation, q, k)?;
        b.reshape(products, &self.scores)
    }

    /// The values weighted by what each query takes of each key.
    pub fn weighted(&self, b: &mut Builder, weights: NodeId) -> Build<NodeId> {
        let weights = self.grouped(b, weights)?;
        let notation = if self.groups.is_some() { "bkgst,bkth->bkgsh" } else { "bnst,bnth->bnsh" };
        let y = b.contract(notation, weights, self.v)?;
        match self.groups {
            Some(_) => b.merge_dims(y, 1, 3),
            None => Ok(y),
        }
    }
}

/// The scale of products unless another is asked for: `1 / sqrt(size of a head)`.
pub fn scale_or_default(call: &Call, q: NodeId) -> Build<f64> {
    match call.float("scale") {
        Some(scale) => Ok(scale),
        None => Ok(1.0 / (call.b.size(q, 3)? as f64).sqrt()),
    }
}

/// The dtype that a softmax is computed in: sums of exponentials are never left to half precision unless that is asked for.
fn softmax_precision(call: &Call, dtype: DType) -> Build<DType> {
    let default = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    match call.int_or("softmax_precision", 0) {
        0 => Ok(default),
        _ => call.dtype_or("softmax_precision", default),
    }
}

/// Scores where a condition holds, else -infinity, which no query takes anything of.
pub fn keep_where(b: &mut Builder, condition: NodeId, scores: NodeId) -> Build<NodeId> {
    let never = b.number_like(scores, f64::NEG_INFINITY);
    b.select(condition, scores, never)
}

/// Whether query `s` may see key `t`: `t <= s + past`.
pub fn causal(b: &mut Builder, queries: &Dim, keys: &Dim, past: &Dim) -> Build<NodeId> {
    let shape = [queries.clone(), keys.clone()];
    let (row, column) = (b.iota_along(DType::I64, &shape, 0)?, b.iota_along(DType::I64, &shape, 1)?);
    let past = b.size_like(row, past)?;
    let last = b.binary(F::Add, row, past)?;
    b.pointwise(F::Le, &[column, last])
}

/// The softmax over the last dim.
pub fn softmax(b: &mut Builder, x: NodeId) -> Build<NodeId> {
    let last = b.rank(x).saturating_sub(1);
    let (_, exp, sum) = shifted(b, x, &[last])?;
    b.binary(F::Div, exp, sum)
}

/// A mask for all keys: those beyond the ones it names are not seen.
fn padded_mask(b: &mut Builder, mask: NodeId, keys: &Dim) -> Build<NodeId> {
    let Some(last) = b.rank(mask).checked_sub(1) else { return Ok(mask) };
    let missing = keys - &b.shape(mask)[last];
    if missing == Dim::default() {
        return Ok(mask);
    }
    let dtype = b.dtype(mask);
    let never =
        if dtype == DType::Bool { Scalar::Int(0) } else { Scalar::Float(f64::NEG_INFINITY).convert(dtype) };
    b.pad(mask, vec![PadDim { dim: last, low: Dim::default(), high: missing, interior: 0 }], never)
}

fn attention(call: &mut Call) -> Results {
    let (q, k, v) = (call.x(0)?, call.x(1)?, call.x(2)?);
    let (mask, past_k, past_v) = (call.optional(3)?, call.optional(4)?, call.optional(5)?);
    let filled = call.optional(6)?;
    let joined = call.b.rank(q) == 3;
    let (q_heads, kv_heads) = (call.int("q_num_heads"), call.int("kv_num_heads"));
    let q = split_heads(call.b, q, q_heads)?;
    let (k, v) = (split_heads(call.b, k, kv_heads)?, split_heads(call.b, v, kv_heads)?);
    let scale = scale_or_default(call, q)?;
    let softcap = call.float_or("softcap", 0.0);
    let mode = call.int_or("qk_matmul_output_mode", 0);
    let is_causal = call.flag("is_causal", false);
    let dtype = call.b.dtype(q);
    let precision = softmax_precision(call, dtype)?;
    let b = &mut *call.b;
    let past = match past_k {
        Some(past_k) if b.rank(past_k) == 4 => b.shape(past_k)[2].clone(),
        Some(_) => return problem("past keys do not have 4 dims"),
        None => Dim::default(),
    };
    let k = past_k.map_or(Ok(k), |past| b.concat(&[past, k], 2))?;
    let v = past_v.map_or(Ok(v), |past| b.concat(&[past, v], 2))?;
    let heads = Heads::new(b, q, k, v)?;
    let [batch, _, queries, keys] = heads.scores.clone();
    let products = heads.products(b, scale)?;
    let mut scores = products;
    if softcap > 0.0 {
        let part = b.with_scalar(F::Div, scores, softcap)?;
        let curve = b.unary(F::Tanh, part)?;
        scores = b.with_scalar(F::Mul, curve, softcap)?;
    }
    let capped = scores;
    if let Some(mask) = mask {
        let mask = padded_mask(b, mask, &keys)?;
        scores = match b.dtype(mask) == DType::Bool {
            true => keep_where(b, mask, scores)?,
            false => {
                let mask = b.convert(mask, dtype)?;
                b.binary(F::Add, scores, mask)?
            }
        };
    }
    if is_causal {
        let seen = causal(b, &queries, &keys, &past)?;
        scores = keep_where(b, seen, scores)?;
    }
    if let Some(filled) = filled {
        let position = b.iota_along(DType::I64, &[batch.clone(), keys], 1)?;
        let filled = b.convert(filled, DType::I64)?;
        let filled = b.reshape(filled, &[batch, Dim::ONE])?;
        let holds = b.binary(F::Lt, position, filled)?;
        let holds = b.unsqueeze(holds, &[1, 2])?;
        scores = keep_where(b, holds, scores)?;
    }
    let wide = b.convert(scores, precision)?;
    let weights = softmax(b, wide)?;
    let weights = b.convert(weights, dtype)?;
    let mut y = heads.weighted(b, weights)?;
    if joined {
        y = join_heads(b, y)?;
    }
    let shown = match mode {
        0 => products,
        1 => capped,
        2 => scores,
        3 => weights,
        other => return problem(format!("there is no output mode {other}")),
    };
    call.several(&[y, k, v, shown])
}
