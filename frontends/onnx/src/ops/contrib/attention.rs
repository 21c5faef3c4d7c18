//! Attention as ONNX Runtime's fusions and model builders write it.

use crate::builder::{Build, Builder, known_size, problem};
use crate::call::{Call, Results};
use crate::ops::attention::decoding::{rotated, written};
use crate::ops::attention::{Heads, causal, join_heads, keep_where, softmax, split_heads};
use crate::ops::quantize::centered;
use thalweg_base::{DType, Dim, PointwiseFn as F};
use thalweg_tensor::NodeId;

/// What is added to the scores of keys that a mask leaves out, unless the model says otherwise.
const FILTER: f64 = -10_000.0;

/// The scale that an attribute asks for; 0 stands for the default.
fn scale(call: &Call, q: NodeId) -> Build<f64> {
    match call.float_or("scale", 0.0) {
        0.0 => Ok(1.0 / (call.b.size(q, 3)? as f64).sqrt()),
        scale => Ok(scale),
    }
}

/// The number of an attribute that must be there.
fn heads(call: &Call, name: &str) -> Build<i64> {
    match call.int_or(name, 0) {
        heads if heads > 0 => Ok(heads),
        heads => problem(format!("`{name}` is {heads}")),
    }
}

/// What a mask adds to scores `[batch, heads, queries, keys]`. A list has, for each row of the batch, the end of the keys that
/// count, and then perhaps their begins; others have 1 where a key counts.
fn added(b: &mut Builder, mask: NodeId, scores: NodeId, filter: f64) -> Build<NodeId> {
    let [batch, _, _, keys] = &b.shape(scores)[..] else { return problem("scores have 4 dims") };
    let (batch, keys, dtype) = (batch.clone(), keys.clone(), b.dtype(scores));
    let mask = b.convert(mask, DType::I64)?;
    let shape = b.shape(mask);
    let counts = match &shape[..] {
        [count] => {
            let position = b.iota_along(DType::I64, &[batch.clone(), keys], 1)?;
            let column = [batch.clone(), Dim::ONE];
            let ends = b.slice_dim(mask, 0, 0, batch.clone())?;
            let ends = b.reshape(ends, &column)?;
            let mut counts = b.binary(F::Lt, position, ends)?;
            if *count == &Dim::from(2) * &batch {
                let begins = b.slice_dim(mask, 0, batch.clone(), batch)?;
                let begins = b.reshape(begins, &column)?;
                let begun = b.binary(F::Ge, position, begins)?;
                counts = b.pointwise(F::And, &[counts, begun])?;
            }
            b.unsqueeze(counts, &[1, 2])?
        }
        [_, _] | [_, _, _] | [_, _, _, _] => {
            let counts = b.with_scalar(F::Ne, mask, 0.0)?;
            match shape.len() {
                2 => b.unsqueeze(counts, &[1, 2])?,
                3 => b.unsqueeze(counts, &[1])?,
                _ => counts,
            }
        }
        other => return problem(format!("a mask of shape {other:?}")),
    };
    let (none, filter) = (b.number(dtype, 0.0), b.number(dtype, filter));
    b.select(counts, none, filter)
}

/// What goes into attention beside queries, keys and values.
struct Extras {
    mask: Option<NodeId>,
    bias: Option<NodeId>,
    past: Dim,
    causal: bool,
    filter: f64,
    scale: f64,
}

/// The result of attention with heads side by side, `[batch, queries, width]`.
fn attended(b: &mut Builder, q: NodeId, k: NodeId, v: NodeId, extras: &Extras) -> Build<NodeId> {
    let heads = Heads::new(b, q, k, v)?;
    let dtype = b.dtype(q);
    let scores = heads.products(b, extras.scale)?;
    let mut scores = b.convert(scores, if dtype == DType::F64 { DType::F64 } else { DType::F32 })?;
    if let Some(mask) = extras.mask {
        let mask = added(b, mask, scores, extras.filter)?;
        scores = b.binary(F::Add, scores, mask)?;
    }
    if let Some(bias) = extras.bias {
        let wide = b.dtype(scores);
        let bias = b.convert(bias, wide)?;
        scores = b.binary(F::Add, scores, bias)?;
    }
    if extras.causal {
        let (queries, keys) = (b.shape(scores)[2].clone(), b.shape(scores)[3].clone());
        let seen = causal(b, &queries, &keys, &extras.past)?;
        scores = keep_where(b, seen, scores)?;
    }
    let weights = softmax(b, scores)?;
    let weights = b.convert(weights, dtype)?;
    let y = heads.weighted(b, weights)?;
    join_heads(b, y)
}

/// Keys and values of before and now, and how many were before.
fn extended(b: &mut Builder, past: Option<NodeId>, now: NodeId) -> Build<(NodeId, Dim)> {
    let Some(past) = past else { return Ok((now, Dim::default())) };
    let before = match &b.shape(past)[..] {
        [_, _, before, _] => before.clone(),
        other => return problem(format!("past keys or values have the shape {other:?}")),
    };
    Ok((b.concat(&[past, now], 2)?, before))
}

/// Attention of what one product gives: `qkv` holds queries, keys and values side by side.
fn fused(call: &mut Call, qkv: NodeId, at: [usize; 3]) -> Results {
    let [mask, past, bias] = at.map(|at| call.optional(at));
    let (mask, past, bias) = (mask?, past?, bias?);
    let count = heads(call, "num_heads")?;
    if call.flag("do_rotary", false) {
        return problem("rotary positions within `Attention` are not taken");
    }
    let listed = call.int_list("qkv_hidden_sizes").filter(|sizes| sizes.len() == 3);
    if let Some(size) = listed.iter().flatten().find(|size| **size <= 0) {
        return problem(format!("a part of the width is {size}"));
    }
    let b = &mut *call.b;
    let Some(width) = b.shape(qkv).get(2).cloned() else { return problem("the input does not have 3 dims") };
    let sizes: Vec<Dim> = match listed {
        Some(sizes) => sizes.into_iter().map(Dim::constant).collect(),
        None => match width.exact_div(&Dim::from(3)) {
            Some(third) => vec![third; 3],
            None => return problem(format!("a width of {width} is not three times one")),
        },
    };
    let mut start = Dim::default();
    let mut parts = Vec::new();
    for size in &sizes {
        let part = b.slice_dim(qkv, 2, start.clone(), size.clone())?;
        parts.push(split_heads(b, part, Some(count))?);
        start = &start + size;
    }
    let [q, k, v] = parts[..] else { return problem("there are three parts") };
    let (past_k, past_v) = match past {
        Some(past) => (Some(b.pick(past, 0, 0)?), Some(b.pick(past, 0, 1)?)),
        None => (None, None),
    };
    let ((k, before), (v, _)) = (extended(b, past_k, k)?, extended(b, past_v, v)?);
    let extras = Extras {
        mask,
        bias,
        past: before,
        causal: call.flag("unidirectional", false),
        filter: call.float_or("mask_filter_value", FILTER),
        scale: scale(call, q)?,
    };
    let y = attended(call.b, q, k, v, &extras)?;
    let mut results = vec![call.b.value(y)];
    if call.wants(1) {
        let (k, v) = (call.b.unsqueeze(k, &[0])?, call.b.unsqueeze(v, &[0])?);
        let present = call.b.concat(&[k, v], 0)?;
        results.push(call.b.value(present));
    }
    Ok(results)
}

pub fn attention(call: &mut Call) -> Results {
    let (x, weights, bias) = (call.x(0)?, call.x(1)?, call.optional(2)?);
    let qkv = call.b.contract("bti,io->bto", x, weights)?;
    let qkv = bias.map_or(Ok(qkv), |bias| call.b.binary(F::Add, qkv, bias))?;
    fused(call, qkv, [3, 4, 5])
}

/// The same with the product of quantized values.
pub fn quantized_attention(call: &mut Call) -> Results {
    let (x, weights, bias, x_scale, w_scale) = (call.x(0)?, call.x(1)?, call.x(2)?, call.x(3)?, call.x(4)?);
    let (x_zero, w_zero) = (call.optional(6)?, call.optional(7)?);
    let b = &mut *call.b;
    let (x, weights) = (centered(b, x, x_zero)?, centered(b, weights, w_zero)?);
    let sums = b.contract("bti,io->bto", x, weights)?;
    let dtype = b.dtype(bias);
    let sums = b.convert(sums, dtype)?;
    let scale = b.binary(F::Mul, x_scale, w_scale)?;
    let qkv = b.binary(F::Mul, sums, scale)?;
    let qkv = b.binary(F::Add, qkv, bias)?;
    // There is no operand for a bias of scores; one beyond all is none.
    fused(call, qkv, [5, 8, usize::MAX])
}

pub fn multi_head_attention(call: &mut Call) -> Results {
    let (q, k, v, bias) = (call.x(0)?, call.optional(1)?, call.optional(2)?, call.optional(3)?);
    let (mask, score_bias) = (call.optional(4)?, call.optional(5)?);
    let (past_k, past_v) = (call.optional(6)?, call.optional(7)?);
    let count = heads(call, "num_heads")?;
    let b = &mut *call.b;
    let (mut q, mut k, mut v) = match (k, v) {
        (Some(k), Some(v)) => (q, k, v),
        (None, None) if b.rank(q) == 5 => {
            // `[batch, time, heads, 3, size]`.
            let parts = (0..3).map(|part| {
                let part = b.pick(q, 3, part)?;
                b.merge_dims(part, 2, 4)
            });
            let parts = parts.collect::<Build<Vec<NodeId>>>()?;
            (parts[0], parts[1], parts[2])
        }
        _ => return problem("keys and values packed together are not taken"),
    };
    if let Some(bias) = bias {
        let mut start = Dim::default();
        for part in [&mut q, &mut k, &mut v] {
            // Keys of four dims come from elsewhere and have had their bias.
            if b.rank(*part) != 3 {
                continue;
            }
            let width = b.shape(*part)[2].clone();
            let own = b.slice_dim(bias, 0, start.clone(), width.clone())?;
            *part = b.binary(F::Add, *part, own)?;
            start = &start + &width;
        }
    }
    let q = split_heads(b, q, Some(count))?;
    let (k, v) = (split_heads(b, k, Some(count))?, split_heads(b, v, Some(count))?);
    let ((k, before), (v, _)) = (extended(b, past_k, k)?, extended(b, past_v, v)?);
    let extras = Extras {
        mask,
        bias: score_bias,
        past: before,
        causal: call.flag("unidirectional", false),
        filter: call.float_or("mask_filter_value", FILTER),
        scale: scale(call, q)?,
    };
    let y = attended(call.b, q, k, v, &extras)?;
    call.several(&[y, k, v])
}

/// Pairs of numbers turned by the angles of positions: given for all, or the first of each row of the batch.
fn turned(
    b: &mut Builder,
    x: NodeId,
    caches: [NodeId; 2],
    positions: NodeId,
    interleaved: bool,
) -> Build<NodeId> {
    let mut angles = Vec::new();
    if b.rank(caches[0]) != 2 {
        return problem("a cache of angles does not have 2 dims");
    }
    for cache in caches {
        let rows = b.gather(cache, positions, 0, 0)?;
        angles.push(b.unsqueeze(rows, &[1])?);
    }
    let width = b.size(caches[0], 1)?.saturating_mul(2);
    rotated(b, x, angles[0], angles[1], width.min(1 << 30) as i64, interleaved)
}

/// The positions of `time` tokens that begin at `first`, `[batch]`: `[batch, time]`.
fn positions_from(b: &mut Builder, first: NodeId, time: &Dim) -> Build<NodeId> {
    let batch = b.shape(first)[0].clone();
    let first = b.reshape(first, &[batch.clone(), Dim::ONE])?;
    let step = b.iota_along(DType::I64, &[batch, time.clone()], 1)?;
    b.binary(F::Add, step, first)
}

pub fn rotary_embedding(call: &mut Call) -> Results {
    let (x, positions, cos, sin) = (call.x(0)?, call.x(1)?, call.x(2)?, call.x(3)?);
    let interleaved = call.flag("interleaved", false);
    let count = call.int_or("num_heads", 0);
    let turned_size = call.int_or("rotary_embedding_dim", 0);
    let b = &mut *call.b;
    let shape = b.shape(x);
    let split = match &shape[..] {
        // Without a number of heads, the angles are for whole heads.
        [_, _, width] if count == 0 && b.rank(cos) == 2 => {
            let size = b.size(cos, 1)?.saturating_mul(2);
            let size = if turned_size > 0 { turned_size } else { size.min(1 << 30) as i64 };
            match width.exact_div(&Dim::constant(size)) {
                Some(heads) => split_heads(b, x, Some(known_size(&heads)? as i64))?,
                None => return problem(format!("a width of {width} is not heads of {size}")),
            }
        }
        _ => split_heads(b, x, Some(count))?,
    };
    let (batch, time) = (b.shape(split)[0].clone(), b.shape(split)[2].clone());
    let positions = b.convert(positions, DType::I64)?;
    let positions = match b.rank(positions) {
        1 => {
            let first = b.reshape(positions, &[])?;
            let first = b.broadcast(first, &[batch], &[])?;
            positions_from(b, first, &time)?
        }
        _ => positions,
    };
    let y = turned(b, split, [cos, sin], positions, interleaved)?;
    let y = if shape.len() == 3 { join_heads(b, y)? } else { y };
    call.one(y)
}

/// Attention of models that generate: queries share keys, positions may be turned, keys and values are written into caches
/// that may have room for more.
pub fn group_query_attention(call: &mut Call) -> Results {
    let (count, key_count) = (heads(call, "num_heads")?, heads(call, "kv_num_heads")?);
    let (q, k, v) = (call.x(0)?, call.optional(1)?, call.optional(2)?);
    let (past_k, past_v, lengths) = (call.optional(3)?, call.optional(4)?, call.x(5)?);
    let total = usize::try_from(call.number(6)?.to_i64()).unwrap_or(0);
    let (cos, sin, positions) = (call.optional(7)?, call.optional(8)?, call.optional(9)?);
    let bias = call.optional(10)?;
    if call.flag("smooth_softmax", false) || call.has(11) {
        return problem("a softmax with a sink is not taken");
    }
    let b = &mut *call.b;
    let (q, k, v) = match (k, v) {
        (Some(k), Some(v)) => (q, k, v),
        _ => {
            let all = Dim::constant(count.saturating_add(key_count.saturating_mul(2)));
            let Some(size) = b.shape(q).get(2).and_then(|width| width.exact_div(&all)) else {
                return problem(format!("the packed input is not {all} heads"));
            };
            let (own, other) = (&Dim::constant(count) * &size, &Dim::constant(key_count) * &size);
            let k = b.slice_dim(q, 2, own.clone(), other.clone())?;
            let v = b.slice_dim(q, 2, &own + &other, other)?;
            (b.slice_dim(q, 2, 0, own)?, k, v)
        }
    };
    let q = split_heads(b, q, Some(count))?;
    let (k, v) = (split_heads(b, k, Some(key_count))?, split_heads(b, v, Some(key_count))?);
    let (batch, time) = (b.shape(q)[0].clone(), b.size(q, 2)?);
    // How many tokens each row of the batch has had: none at the first call, whose rows may be padded behind.
    let first = match time == total {
        true => b.full(DType::I64, std::slice::from_ref(&batch), 0.0)?,
        false => {
            let lengths = b.convert(lengths, DType::I64)?;
            let lengths = b.reshape(lengths, std::slice::from_ref(&batch))?;
            b.with_scalar(F::Add, lengths, 1.0 - time as f64)?
        }
    };
    let rows = positions_from(b, first, &Dim::from(time))?;
    let interleaved = call.flag("rotary_interleaved", false);
    let (mut q, mut k) = (q, k);
    if call.flag("do_rotary", false) {
        let (Some(cos), Some(sin)) = (cos, sin) else {
            return problem("the angles of positions are missing");
        };
        let positions = match positions {
            Some(positions) => call.b.convert(positions, DType::I64)?,
            None => rows,
        };
        q = turned(call.b, q, [cos, sin], positions, interleaved)?;
        k = turned(call.b, k, [cos, sin], positions, interleaved)?;
    }
    let b = &mut *call.b;
    let (k, v) = (cached(b, past_k, k, first, total)?, cached(b, past_v, v, first, total)?);
    let asked = scale(call, q)?;
    let (softcap, window) = (call.float_or("softcap", 0.0), call.int_or("local_window_size", -1));
    let b = &mut *call.b;
    let heads = Heads::new(b, q, k, v)?;
    let dtype = b.dtype(q);
    let scores = heads.products(b, asked)?;
    let mut scores = b.convert(scores, DType::F32)?;
    if softcap > 0.0 {
        let part = b.with_scalar(F::Div, scores, softcap)?;
        let curve = b.unary(F::Tanh, part)?;
        scores = b.with_scalar(F::Mul, curve, softcap)?;
    }
    if let Some(bias) = bias {
        let bias = b.convert(bias, DType::F32)?;
        scores = b.binary(F::Add, scores, bias)?;
    }
    let size = b.shape(k)[2].clone();
    let shape = [batch, Dim::from(time), size];
    let (row, column) = (b.broadcast(rows, &shape, &[0, 1])?, b.iota_along(DType::I64, &shape, 2)?);
    let mut seen = b.pointwise(F::Le, &[column, row])?;
    if window > 0 {
        let low = b.with_scalar(F::Sub, row, window as f64)?;
        let near = b.pointwise(F::Gt, &[column, low])?;
        seen = b.pointwise(F::And, &[seen, near])?;
    }
    let seen = b.unsqueeze(seen, &[1])?;
    let scores = keep_where(b, seen, scores)?;
    let weights = softmax(b, scores)?;
    let weights = b.convert(weights, dtype)?;
    let y = heads.weighted(b, weights)?;
    let y = join_heads(b, y)?;
    Ok(vec![b.value(y), b.value(k), b.value(v)])
}

/// A cache of keys or values in which those of now stand behind those that each row has had. It grows to `total` when it has
/// less room.
fn cached(b: &mut Builder, past: Option<NodeId>, now: NodeId, first: NodeId, total: usize) -> Build<NodeId> {
    let time = b.size(now, 2)?;
    let Some(past) = past else { return Ok(now) };
    if b.rank(past) != 4 {
        return problem("a cache does not have 4 dims");
    }
    let room = b.size(past, 2)?;
    match room + time == total && b.shape(past)[0] == Dim::ONE {
        true => b.concat(&[past, now], 2),
        false => {
            let missing = total.saturating_sub(room);
            let mut shape = b.shape(past);
            shape[2] = Dim::from(missing);
            let dtype = b.dtype(past);
            let more = b.full(dtype, &shape, 0.0)?;
            let cache = b.concat(&[past, more], 2)?;
            written(b, cache, now, first, 2, false)
        }
    }
}
