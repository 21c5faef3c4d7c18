//! Recurrent layers: LSTM, GRU and the plain one.
//!
//! What the gates take from the input is one contraction for all times; the rest is a scan over time for each direction.

use super::Row;
use super::activation;
use crate::builder::{Build, Builder, known_size, problem};
use crate::call::{Call, Results};
use std::sync::Arc;
use thalweg_base::{DType, Dim, PointwiseFn as F};
use thalweg_tensor::ops::Scan;
use thalweg_tensor::{NodeId, TensorType};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("GRU", |call| layer(call, Kind::Gru)),
    ("LSTM", |call| layer(call, Kind::Lstm)),
    ("RNN", |call| layer(call, Kind::Plain)),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Gru,
    Lstm,
}

impl Kind {
    /// How many matrices are stacked in each weight.
    fn gates(self) -> usize {
        match self {
            Kind::Plain => 1,
            Kind::Gru => 3,
            Kind::Lstm => 4,
        }
    }

    /// The activations unless others are asked for.
    fn activations(self) -> &'static [&'static str] {
        match self {
            Kind::Plain => &["Tanh"],
            Kind::Gru => &["Sigmoid", "Tanh"],
            Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }

    /// How many values are carried from one time to the next.
    fn states(self) -> usize {
        if self == Kind::Lstm { 2 } else { 1 }
    }
}

/// An activation with its parameters.
struct Activation {
    name: String,
    alpha: Option<f64>,
    beta: Option<f64>,
}

/// One direction of a layer, without its weights.
struct Cell<'a> {
    kind: Kind,
    activations: &'a [Activation],
    clip: Option<f64>,
    input_forget: bool,
    linear_before_reset: bool,
    hidden: Dim,
}

/// The values of a layer that stay the same over time: present where the model gives them.
#[derive(Clone, Copy)]
struct Invariants<T> {
    recurrence: T,
    /// The bias of a GRU's hidden gate that is reset with what it is added to.
    reset_bias: Option<T>,
    peepholes: Option<T>,
    lengths: Option<T>,
}

impl Invariants<NodeId> {
    fn list(&self) -> Vec<NodeId> {
        let optional = [self.reset_bias, self.peepholes, self.lengths];
        [Some(self.recurrence)].into_iter().chain(optional).flatten().collect()
    }

    /// The same with other nodes, made from these in the order of the list.
    fn map(&self, mut make: impl FnMut(NodeId) -> NodeId) -> Invariants<NodeId> {
        Invariants {
            recurrence: make(self.recurrence),
            reset_bias: self.reset_bias.map(&mut make),
            peepholes: self.peepholes.map(&mut make),
            lengths: self.lengths.map(&mut make),
        }
    }
}

/// The activations of all directions. Their parameters are listed for those that take some, in order.
fn activations(call: &Call, kind: Kind, directions: usize) -> Build<Vec<Activation>> {
    let defaults = || kind.activations().repeat(directions).iter().map(|name| name.to_string()).collect();
    let names: Vec<String> = call.text_list("activations").unwrap_or_else(defaults);
    if names.len() != directions * kind.activations().len() {
        return problem(format!("{} activations are given for {directions} directions", names.len()));
    }
    let mut alphas = call.float_list("activation_alpha").unwrap_or_default().into_iter();
    let mut betas = call.float_list("activation_beta").unwrap_or_default().into_iter();
    let parameters = |name: String| {
        let (takes_alpha, takes_beta) = match name.to_ascii_lowercase().as_str() {
            "affine" | "scaledtanh" | "hardsigmoid" => (true, true),
            "leakyrelu" | "thresholdedrelu" | "elu" => (true, false),
            _ => (false, false),
        };
        let alpha = if takes_alpha { alphas.next() } else { None };
        let beta = if takes_beta { betas.next() } else { None };
        Activation { name, alpha, beta }
    };
    Ok(names.into_iter().map(parameters).collect())
}

fn layer(call: &mut Call, kind: Kind) -> Results {
    let (x, w, r) = (call.x(0)?, call.x(1)?, call.x(2)?);
    let (bias, lengths, first_h) = (call.optional(3)?, lengths(call, x)?, call.optional(5)?);
    let (first_c, peepholes) = match kind {
        Kind::Lstm => (call.optional(6)?, call.optional(7)?),
        Kind::Plain | Kind::Gru => (None, None),
    };
    let batch_first = call.flag("layout", false);
    let direction = call.text_or("direction", "forward").to_ascii_lowercase();
    let [directions, _, hidden] = &call.b.shape(r)[..] else {
        return problem("the recurrence weights do not have 3 dims");
    };
    let (directions, hidden) = (known_size(directions)?, hidden.clone());
    let expected = match direction.as_str() {
        "forward" | "reverse" => 1,
        "bidirectional" => 2,
        other => return problem(format!("there is no direction `{other}`")),
    };
    if directions != expected {
        return problem(format!(
            "weights for {directions} directions are given for the direction `{direction}`"
        ));
    }
    if call.b.rank(x) != 3 || call.b.rank(w) != 3 {
        return problem("the input and its weights have 3 dims");
    }
    let activations = activations(call, kind, directions)?;
    let mut cell = Cell {
        kind,
        activations: &activations,
        clip: call.float("clip"),
        input_forget: call.flag("input_forget", false),
        linear_before_reset: kind == Kind::Gru && call.flag("linear_before_reset", false),
        hidden,
    };
    let b = &mut *call.b;
    // Inside, time comes first.
    let x = if batch_first { b.transpose(x, &[1, 0, 2])? } else { x };
    let batch = b.shape(x)[1].clone();
    let mut first = Vec::new();
    for state in [first_h, first_c].into_iter().take(kind.states()) {
        let shape = [Dim::from(directions), batch.clone(), cell.hidden.clone()];
        let dtype = b.dtype(x);
        first.push(match state {
            Some(state) if b.rank(state) != 3 => return problem("a first state does not have 3 dims"),
            Some(state) if batch_first => b.transpose(state, &[1, 0, 2])?,
            Some(state) => state,
            None => b.full(dtype, &shape, 0.0)?,
        });
    }
    let mut outputs: Vec<Vec<NodeId>> = vec![vec![]; 1 + kind.states()];
    let per_direction = kind.activations().len();
    for at in 0..directions {
        cell.activations = &activations[at * per_direction..][..per_direction];
        let (w, r) = (b.pick(w, 0, at)?, b.pick(r, 0, at)?);
        let of = |b: &mut Builder, stacked: NodeId| match b.rank(stacked) {
            2 => b.pick(stacked, 0, at),
            rank => problem(format!("a bias or the peepholes have {rank} dims instead of 2")),
        };
        let bias = bias.map(|bias| of(b, bias)).transpose()?;
        let peepholes = peepholes.map(|peepholes| of(b, peepholes)).transpose()?;
        let mut projected = b.contract("tbi,gi->tbg", x, w)?;
        let mut reset_bias = None;
        if let Some(bias) = bias {
            let (added, reset) = cell.biases(b, bias)?;
            projected = b.binary(F::Add, projected, added)?;
            reset_bias = reset;
        }
        let invariants = Invariants { recurrence: r, reset_bias, peepholes, lengths };
        let first = first.iter().map(|state| b.pick(*state, 0, at)).collect::<Build<Vec<NodeId>>>()?;
        let reverse = direction == "reverse" || at == 1;
        let results = cell.scan(b, projected, first, &invariants, reverse)?;
        outputs.iter_mut().zip(results).for_each(|(list, result)| list.push(result));
    }
    let mut stack = |list: &[NodeId], dim: usize| -> Build<NodeId> {
        let wide = list.iter().map(|id| b.unsqueeze(*id, &[dim])).collect::<Build<Vec<NodeId>>>()?;
        b.concat(&wide, dim)
    };
    // The states come first, then what was collected over time.
    let all = stack(&outputs[kind.states()], 1)?;
    let mut results = vec![if batch_first { b.transpose(all, &[2, 0, 1, 3])? } else { all }];
    for state in &outputs[..kind.states()] {
        let wide = state.iter().map(|id| b.unsqueeze(*id, &[0])).collect::<Build<Vec<NodeId>>>()?;
        let last = b.concat(&wide, 0)?;
        results.push(if batch_first { b.transpose(last, &[1, 0, 2])? } else { last });
    }
    call.several(&results)
}

/// How long each sequence is, unless all are as long as the longest.
fn lengths(call: &mut Call, x: NodeId) -> Build<Option<NodeId>> {
    if !call.has(4) {
        return Ok(None);
    }
    let time = call.b.shape(x).get(if call.flag("layout", false) { 1 } else { 0 }).and_then(Dim::as_constant);
    let known = call.tensor(4)?.literal();
    if known.is_some_and(|known| known.scalars().all(|length| Some(length.to_i64()) == time)) {
        return Ok(None);
    }
    let lengths = call.x(4)?;
    call.b.convert(lengths, DType::I32).map(Some)
}

/// A scan over the first dim of sequences. Operands are the first carries, the sequences and the invariants; one turn is built
/// from their parts in that order and gives the next carries and what is stacked.
pub fn scan(
    b: &mut Builder,
    operands: [&[NodeId]; 3],
    reverse: bool,
    turn: impl FnOnce(&mut Builder, &[NodeId], &[NodeId], &[NodeId]) -> Build<Vec<NodeId>>,
) -> Build<Vec<NodeId>> {
    let [carries, sequences, invariants] = operands;
    let Some(length) = sequences.first().and_then(|first| b.ty(*first).shape.first()).cloned() else {
        return problem("a scan goes over one tensor of rank 1 at least");
    };
    let whole =
        |b: &Builder, ids: &[NodeId]| ids.iter().map(|id| b.ty(*id).clone()).collect::<Vec<TensorType>>();
    let rows = whole(b, sequences).into_iter().map(|ty| {
        let shape = ty.shape.iter().skip(1).cloned().collect();
        TensorType { dtype: ty.dtype, shape }
    });
    let types = [whole(b, carries), rows.collect(), whole(b, invariants)].concat();
    b.push_level();
    let named = types.into_iter().enumerate();
    let inputs: Vec<NodeId> = named.map(|(at, ty)| b.graph().input(&format!("input.{at}"), ty)).collect();
    let (own, rest) = inputs.split_at(carries.len());
    let (rows, rest) = rest.split_at(sequences.len());
    let built = turn(b, own, rows, rest);
    let mut level = b.pop_level();
    let outputs = built?;
    assert!(level.captures.is_empty(), "a turn is given all that it uses");
    for (at, id) in outputs.into_iter().enumerate() {
        level.graph.output(format!("output.{at}"), id);
    }
    let op = Scan {
        body: Arc::new(level.graph),
        length,
        carries: carries.len(),
        sequences: sequences.len(),
        reverse,
        histories: false,
    };
    let op = b.add(op, &operands.concat())?;
    Ok(b.graph().picks(op))
}

impl Cell<'_> {
    /// The sum of both biases, and what of the second must be added within the loop.
    fn biases(&self, b: &mut Builder, bias: NodeId) -> Build<(NodeId, Option<NodeId>)> {
        let size = &Dim::from(self.kind.gates()) * &self.hidden;
        let (own, recurrent) =
            (b.slice_dim(bias, 0, 0, size.clone())?, b.slice_dim(bias, 0, size.clone(), size)?);
        if !self.linear_before_reset {
            return Ok((b.pointwise(F::Add, &[own, recurrent])?, None));
        }
        let two = &Dim::from(2) * &self.hidden;
        let (own_gates, own_hidden) = (b.slice_dim(own, 0, 0, two.clone())?, self.gate(b, own, 0, 2)?);
        let (gates, hidden) = (b.slice_dim(recurrent, 0, 0, two)?, self.gate(b, recurrent, 0, 2)?);
        let gates = b.pointwise(F::Add, &[own_gates, gates])?;
        Ok((b.concat(&[gates, own_hidden], 0)?, Some(hidden)))
    }

    /// The part of a gate in what is stacked along a dim.
    fn gate(&self, b: &mut Builder, stacked: NodeId, dim: usize, gate: usize) -> Build<NodeId> {
        b.slice_dim(stacked, dim, &Dim::from(gate) * &self.hidden, self.hidden.clone())
    }

    /// The last states and the outputs of all times.
    fn scan(
        &self,
        b: &mut Builder,
        projected: NodeId,
        first: Vec<NodeId>,
        invariants: &Invariants<NodeId>,
        reverse: bool,
    ) -> Build<Vec<NodeId>> {
        let mut sequences = vec![projected];
        if invariants.lengths.is_some() {
            let time = b.shape(projected)[0].clone();
            sequences.push(b.iota(DType::I32, time)?);
        }
        scan(b, [&first, &sequences, &invariants.list()], reverse, |b, carried, rows, rest| {
            let mut rest = rest.iter();
            let invariants = invariants.map(|_| *rest.next().expect("every invariant is an input"));
            self.turn(b, carried, rows, &invariants)
        })
    }

    /// The states after one time and its output. What lies behind the end of a sequence leaves the states as they are and
    /// gives 0, so that in the other direction a sequence begins at its own end.
    fn turn(
        &self,
        b: &mut Builder,
        before: &[NodeId],
        rows: &[NodeId],
        invariants: &Invariants<NodeId>,
    ) -> Build<Vec<NodeId>> {
        let (x, h) = (rows[0], before[0]);
        let mut after = match self.kind {
            Kind::Plain => vec![self.plain(b, x, h, invariants)?],
            Kind::Gru => vec![self.gru(b, x, h, invariants)?],
            Kind::Lstm => self.lstm(b, x, h, before[1], invariants)?.to_vec(),
        };
        let mut y = after[0];
        if let Some(lengths) = invariants.lengths {
            let alive = b.binary(F::Lt, rows[1], lengths)?;
            let alive = b.unsqueeze(alive, &[1])?;
            let zero = b.number_like(y, 0.0);
            y = b.select(alive, y, zero)?;
            for (after, before) in after.iter_mut().zip(before) {
                *after = b.select(alive, *after, *before)?;
            }
        }
        after.push(y);
        Ok(after)
    }

    /// An activation of what is cut to the range that the model asks for.
    fn activate(&self, b: &mut Builder, index: usize, x: NodeId) -> Build<NodeId> {
        let mut x = x;
        if let Some(clip) = self.clip {
            x = b.with_scalar(F::Max, x, -clip)?;
            x = b.with_scalar(F::Min, x, clip)?;
        }
        let Activation { name, alpha, beta } = &self.activations[index];
        activation::named(b, name, *alpha, *beta, x)
    }

    /// `f(x + h R^T)`.
    fn plain(&self, b: &mut Builder, x: NodeId, h: NodeId, invariants: &Invariants<NodeId>) -> Build<NodeId> {
        let recurrent = b.contract("bh,gh->bg", h, invariants.recurrence)?;
        let sum = b.binary(F::Add, x, recurrent)?;
        self.activate(b, 0, sum)
    }

    /// `z h + (1 - z) g(x + (r h) R^T)`, or with `g(x + r (h R^T + b))` (Cho et al., arXiv 1406.1078).
    fn gru(&self, b: &mut Builder, x: NodeId, h: NodeId, invariants: &Invariants<NodeId>) -> Build<NodeId> {
        let r = invariants.recurrence;
        let two = &Dim::from(2) * &self.hidden;
        let (x_gates, x_hidden) = (b.slice_dim(x, 1, 0, two.clone())?, self.gate(b, x, 1, 2)?);
        let (gates, linear) = match self.linear_before_reset {
            true => {
                let all = b.contract("bh,gh->bg", h, r)?;
                (b.slice_dim(all, 1, 0, two)?, Some(self.gate(b, all, 1, 2)?))
            }
            false => {
                let r = b.slice_dim(r, 0, 0, two)?;
                (b.contract("bh,gh->bg", h, r)?, None)
            }
        };
        let gates = b.binary(F::Add, x_gates, gates)?;
        let gates = self.activate(b, 0, gates)?;
        let (update, reset) = (self.gate(b, gates, 1, 0)?, self.gate(b, gates, 1, 1)?);
        let recurrent = match linear {
            Some(mut linear) => {
                if let Some(bias) = invariants.reset_bias {
                    linear = b.binary(F::Add, linear, bias)?;
                }
                b.binary(F::Mul, reset, linear)?
            }
            None => {
                let kept = b.binary(F::Mul, reset, h)?;
                let r = self.gate(b, r, 0, 2)?;
                b.contract("bh,gh->bg", kept, r)?
            }
        };
        let candidate = b.binary(F::Add, x_hidden, recurrent)?;
        let candidate = self.activate(b, 1, candidate)?;
        let one = b.number_like(update, 1.0);
        let rest = b.binary(F::Sub, one, update)?;
        let (new, old) = (b.binary(F::Mul, rest, candidate)?, b.binary(F::Mul, update, h)?);
        b.binary(F::Add, new, old)
    }

    /// The hidden state and the cell (Hochreiter and Schmidhuber 1997, with the forget gate and peepholes of Gers et al.).
    /// Gates are stacked as input, output, forget, cell; peepholes as input, output, forget.
    fn lstm(
        &self,
        b: &mut Builder,
        x: NodeId,
        h: NodeId,
        c: NodeId,
        invariants: &Invariants<NodeId>,
    ) -> Build<[NodeId; 2]> {
        let recurrent = b.contract("bh,gh->bg", h, invariants.recurrence)?;
        let sums = b.binary(F::Add, x, recurrent)?;
        let looked = |b: &mut Builder, gate: usize, c: NodeId| -> Build<NodeId> {
            let sum = self.gate(b, sums, 1, gate)?;
            let Some(peepholes) = invariants.peepholes else { return Ok(sum) };
            let weights = self.gate(b, peepholes, 0, gate)?;
            let seen = b.binary(F::Mul, c, weights)?;
            b.binary(F::Add, sum, seen)
        };
        let input = looked(b, 0, c)?;
        let input = self.activate(b, 0, input)?;
        let forget = match self.input_forget {
            true => {
                let one = b.number_like(input, 1.0);
                b.binary(F::Sub, one, input)?
            }
            false => {
                let forget = looked(b, 2, c)?;
                self.activate(b, 0, forget)?
            }
        };
        let candidate = self.gate(b, sums, 1, 3)?;
        let candidate = self.activate(b, 1, candidate)?;
        let (old, new) = (b.binary(F::Mul, forget, c)?, b.binary(F::Mul, input, candidate)?);
        let next = b.binary(F::Add, old, new)?;
        let output = looked(b, 1, next)?;
        let output = self.activate(b, 0, output)?;
        let shown = self.activate(b, 2, next)?;
        Ok([b.binary(F::Mul, output, shown)?, next])
    }
}
