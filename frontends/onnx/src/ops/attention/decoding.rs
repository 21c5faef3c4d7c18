//! What generating models use beside attention: rotary positions, linear attention, caches.

use super::split_heads;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results, normalize};
use crate::ops::recurrent::scan;
use thalweg_base::{DType, Dim, PointwiseFn as F};
use thalweg_tensor::NodeId;
use thalweg_tensor::ops::{DynamicUpdate, SliceRange};

/// Pairs of a vector's numbers, turned by angles that grow with the position (Su et al., arXiv 2104.09864).
pub fn rotary_embedding(call: &mut Call) -> Results {
    let (x, cos, sin) = (call.x(0)?, call.x(1)?, call.x(2)?);
    let positions = call.optional(3)?;
    let heads = call.int("num_heads");
    let turned = call.int_or("rotary_embedding_dim", 0);
    let interleaved = call.flag("interleaved", false);
    let b = &mut *call.b;
    let (cos, sin) = match positions {
        Some(positions) => (b.gather(cos, positions, 0, 0)?, b.gather(sin, positions, 0, 0)?),
        None => (cos, sin),
    };
    let shape = b.shape(x);
    // The angles are the same for all heads, which are the dim after time or before it.
    let (split, head_dim) = match &shape[..] {
        [_, _, _, _] => (x, 1),
        [batch, time, width] => {
            let heads = Dim::constant(heads.unwrap_or(0));
            let Some(size) = width.exact_div(&heads).filter(|_| heads != Dim::default()) else {
                return problem(format!("a width of {width} is not {heads} heads"));
            };
            (b.reshape(x, &[batch.clone(), time.clone(), heads, size])?, 2)
        }
        _ => return problem(format!("rotary positions take tensors of rank 3 or 4, not {}", shape.len())),
    };
    let angles = |b: &mut Builder, cache: NodeId| match b.rank(cache) {
        3 => b.unsqueeze(cache, &[head_dim]),
        2 if head_dim == 2 => b.unsqueeze(cache, &[1]),
        2 => Ok(cache),
        rank => problem(format!("a cache of angles has {rank} dims instead of 3")),
    };
    let (cos, sin) = (angles(b, cos)?, angles(b, sin)?);
    let y = rotated(b, split, cos, sin, turned, interleaved)?;
    let y = b.reshape(y, &shape)?;
    call.one(y)
}

/// The first `turned` numbers (0 for all) of the last dim turned by angles, the others as they are.
pub fn rotated(
    b: &mut Builder,
    x: NodeId,
    cos: NodeId,
    sin: NodeId,
    turned: i64,
    interleaved: bool,
) -> Build<NodeId> {
    let shape = b.shape(x);
    let last = shape.len() - 1;
    let size = b.size(x, last)?;
    let turned = match usize::try_from(turned) {
        Ok(0) => size,
        Ok(turned) if turned <= size => turned,
        Ok(_) | Err(_) => return problem(format!("{turned} numbers of {size} are to be turned")),
    };
    if turned % 2 == 1 {
        return problem(format!("{turned} numbers are not pairs"));
    }
    let half = turned / 2;
    let every = |b: &mut Builder, start: usize, stride: i64| {
        b.slice(x, vec![SliceRange { dim: last, start: start.into(), size: half.into(), stride }])
    };
    let (first, second) = match interleaved {
        true => (every(b, 0, 2)?, every(b, 1, 2)?),
        false => (every(b, 0, 1)?, every(b, half, 1)?),
    };
    let product = |b: &mut Builder, x: NodeId, y: NodeId| b.binary(F::Mul, x, y);
    let (a, c) = (product(b, first, cos)?, product(b, second, sin)?);
    let real = b.pointwise(F::Sub, &[a, c])?;
    let (a, c) = (product(b, first, sin)?, product(b, second, cos)?);
    let imaginary = b.pointwise(F::Add, &[a, c])?;
    let pairs = match interleaved {
        true => {
            let (real, imaginary) = (b.unsqueeze(real, &[last + 1])?, b.unsqueeze(imaginary, &[last + 1])?);
            let pairs = b.concat(&[real, imaginary], last + 1)?;
            b.merge_dims(pairs, last, last + 2)?
        }
        false => b.concat(&[real, imaginary], last)?,
    };
    let rest = b.slice_dim(x, last, turned, size - turned)?;
    b.concat(&[pairs, rest], last)
}

/// A state of `[batch, heads, size of keys, size of values]` that every time decays and adds to: Yang et al., arXiv
/// 2312.06635 and 2412.06464.
pub fn linear_attention(call: &mut Call) -> Results {
    let (q, k, v) = (call.x(0)?, call.x(1)?, call.x(2)?);
    let (past, decay, beta) = (call.optional(3)?, call.optional(4)?, call.optional(5)?);
    let rule = call.text_or("update_rule", "gated_delta");
    let (gated, corrected) = match rule.as_str() {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return problem(format!("there is no update rule `{other}`")),
    };
    if gated != decay.is_some() || corrected != beta.is_some() {
        return problem(format!("the decay or the rate does not fit the update rule `{rule}`"));
    }
    let (heads, key_heads) = (call.int_or("q_num_heads", 0), call.int_or("kv_num_heads", 0));
    if heads <= 0 || key_heads <= 0 || heads % key_heads != 0 {
        return problem(format!("{heads} heads do not share {key_heads}"));
    }
    let asked = call.float_or("scale", 0.0);
    let b = &mut *call.b;
    let (dtype, ranks) = (b.dtype(q), [q, k, v].map(|id| b.rank(id)));
    if ranks != [3; 3] {
        return problem("queries, keys and values of linear attention do not all have 3 dims");
    }
    let by_time = |b: &mut Builder, x: NodeId, heads: i64| -> Build<NodeId> {
        let x = b.convert(x, DType::F32)?;
        let x = split_heads(b, x, Some(heads))?;
        b.transpose(x, &[2, 0, 1, 3])
    };
    let (q, k, v) = (by_time(b, q, heads)?, by_time(b, k, key_heads)?, by_time(b, v, key_heads)?);
    let (q_shape, k_shape, v_shape) = (b.shape(q), b.shape(k), b.shape(v));
    let scale = if asked == 0.0 { 1.0 / (b.size(q, 3)? as f64).sqrt() } else { asked };
    // Queries that share a state are a dim of their own.
    let groups = [Dim::constant(key_heads), Dim::constant(heads / key_heads)];
    let q = b.with_scalar(F::Mul, q, scale)?;
    let q = b.reshape(q, &[&q_shape[..2], &groups, &q_shape[3..]].concat())?;
    let mut sequences = vec![q, k, v];
    if let Some(decay) = decay {
        // One number for each head, or for each of its keys' numbers.
        let decay = by_time(b, decay, key_heads)?;
        sequences.push(b.unary(F::Exp, decay)?);
    }
    if let Some(beta) = beta {
        let heads = if b.shape(beta).last() == Some(&Dim::ONE) { 1 } else { key_heads };
        sequences.push(by_time(b, beta, heads)?);
    }
    let state_shape = [k_shape[1].clone(), groups[0].clone(), k_shape[3].clone(), v_shape[3].clone()];
    let (first, state_dtype) = match past {
        Some(past) => (b.convert(past, DType::F32)?, b.dtype(past)),
        None => (b.full(DType::F32, &state_shape, 0.0)?, dtype),
    };
    let results = scan(b, [&[first], &sequences, &[]], false, |b, states, rows, _| {
        let (mut state, q, k, mut v) = (states[0], rows[0], rows[1], rows[2]);
        let mut rest = rows[3..].iter().copied();
        if gated && let Some(decay) = rest.next() {
            let decay = b.unsqueeze(decay, &[3])?;
            state = b.binary(F::Mul, state, decay)?;
        }
        if corrected && let Some(beta) = rest.next() {
            let known = b.contract("bhd,bhdm->bhm", k, state)?;
            let new = b.binary(F::Sub, v, known)?;
            v = b.binary(F::Mul, new, beta)?;
        }
        let added = b.contract("bhd,bhm->bhdm", k, v)?;
        let next = b.binary(F::Add, state, added)?;
        let y = b.contract("bhgd,bhdm->bhgm", q, next)?;
        Ok(vec![next, y])
    })?;
    let [state, y] = results[..] else { return problem("the scan gives a state and an output") };
    let y = b.transpose(y, &[1, 0, 2, 3, 4])?;
    let y = b.merge_dims(y, 2, 5)?;
    let (y, state) = (b.convert(y, dtype)?, b.convert(state, state_dtype)?);
    call.several(&[y, state])
}

/// A cache in which an update is written at a position for each row of the batch.
pub fn tensor_scatter(call: &mut Call) -> Results {
    let (cache, update, starts) = (call.x(0)?, call.x(1)?, call.optional(2)?);
    let rank = call.b.rank(cache);
    let axis = normalize(call.int_or("axis", -2), rank)?;
    let circular = match call.text_or("mode", "linear").as_str() {
        "linear" => false,
        "circular" => true,
        other => return problem(format!("there is no mode `{other}`")),
    };
    if axis == 0 || call.b.rank(update) != rank {
        return problem(format!("an update along dim {axis} of rank {}", call.b.rank(update)));
    }
    let b = &mut *call.b;
    let batch = b.shape(cache)[0].clone();
    let start = match starts {
        None => Some(b.number(DType::I64, 0.0)),
        Some(starts) if batch == Dim::ONE && !circular => Some(b.reshape(starts, &[])?),
        Some(_) => None,
    };
    if let Some(start) = start {
        let y = b.add(DynamicUpdate { dims: vec![axis] }, &[cache, update, start])?;
        return call.one(y);
    }
    let Some(starts) = starts else { return problem("the positions are missing") };
    let y = written(b, cache, update, starts, axis, circular)?;
    call.one(y)
}

/// A cache with an update written along `axis` from a position on that each row of the batch has its own of; it may go round
/// the end to the begin.
pub fn written(
    b: &mut Builder,
    cache: NodeId,
    update: NodeId,
    starts: NodeId,
    axis: usize,
    circular: bool,
) -> Build<NodeId> {
    let rank = b.rank(cache);
    let (batch, size) = (b.shape(cache)[0].clone(), b.shape(cache)[axis].clone());
    // Every position of the cache looks for the one of the update that lands on it.
    let perm: Vec<usize> = [0, axis].into_iter().chain((1..rank).filter(|dim| *dim != axis)).collect();
    let (old, new) = (b.transpose(cache, &perm)?, b.transpose(update, &perm)?);
    let written = b.shape(new)[1].clone();
    let starts = b.convert(starts, DType::I64)?;
    let starts = b.reshape(starts, &[batch.clone(), Dim::ONE])?;
    let position = b.iota_along(DType::I64, &[batch, size.clone()], 1)?;
    let mut source = b.binary(F::Sub, position, starts)?;
    if circular {
        let size = b.size_like(source, &size)?;
        let wrapped = b.binary(F::Rem, source, size)?;
        let moved = b.binary(F::Add, wrapped, size)?;
        let below = b.with_scalar(F::Lt, wrapped, 0.0)?;
        source = b.select(below, moved, wrapped)?;
    }
    let written = b.size_like(source, &written)?;
    let (after, before) = (b.with_scalar(F::Ge, source, 0.0)?, b.binary(F::Lt, source, written)?);
    let inside = b.pointwise(F::And, &[after, before])?;
    let shape = b.shape(old);
    let inside = b.broadcast(inside, &shape, &[0, 1])?;
    let found = b.gather(new, source, 1, 1)?;
    let y = b.pointwise(F::Select, &[inside, found, old])?;
    let mut back = vec![0; rank];
    perm.iter().enumerate().for_each(|(to, from)| back[*from] = to);
    b.transpose(y, &back)
}
