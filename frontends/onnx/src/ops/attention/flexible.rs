//! Attention whose scores and weights are modified by graphs that the node holds.

use super::{Heads, scale_or_default, softmax, softmax_precision};
use crate::builder::{Build, Stop, problem};
use crate::call::{Call, Lower, Results};
use crate::error::Problem;
use crate::ops;
use crate::proto::GraphProto;
use crate::value::{Content, Tensor, Value};
use std::collections::{BTreeMap, BTreeSet};
use thalweg_tensor::{NodeId, eval};

/// The op set whose ops a modifier of scores is made of: the first that the op came with.
const MODIFIER_OPSET: i64 = 26;

/// The most elements of a tensor that is computed at import.
const FOLD_ELEMENTS_MAX: i64 = 1 << 16;

pub fn flex_attention(call: &mut Call) -> Results {
    let (q, k, v) = (call.x(0)?, call.x(1)?, call.x(2)?);
    let heads = Heads::new(call.b, q, k, v)?;
    let scale = scale_or_default(call, q)?;
    let dtype = call.b.dtype(q);
    let precision = softmax_precision(call, dtype)?;
    let scores = heads.products(call.b, scale)?;
    let scores = call.b.convert(scores, precision)?;
    let scores = modified(call, "score_mod", scores)?;
    let weights = softmax(call.b, scores)?;
    let weights = modified(call, "prob_mod", weights)?;
    let weights = call.b.convert(weights, dtype)?;
    let y = heads.weighted(call.b, weights)?;
    call.one(y)
}

/// What the graph of an attribute makes of a tensor. Its nodes are built in place; they see nothing of the outer graph.
fn modified(call: &mut Call, name: &str, x: NodeId) -> Build<NodeId> {
    let attribute = call.node.attribute.iter().find(|attribute| attribute.name == name);
    let Some(graph) = attribute.and_then(|attribute| attribute.g.as_ref()) else { return Ok(x) };
    let result = match inlined(call, graph, x) {
        // Values of a run would be asked for again after every run, as the scores are built anew.
        Err(Stop::Needs(_)) => return problem(format!("shapes within `{name}` depend on computed values")),
        result => result?,
    };
    match call.b.ty(result) == call.b.ty(x) {
        true => Ok(result),
        false => problem(format!("`{name}` makes {} of {}", call.b.ty(result), call.b.ty(x))),
    }
}

fn inlined(call: &mut Call, graph: &GraphProto, x: NodeId) -> Build<NodeId> {
    let ([input], [output]) = (&graph.input[..], &graph.output[..]) else {
        return problem("a modifier has one input and one output");
    };
    let mut scope: BTreeMap<&str, Value> = crate::inputs::stored(graph)?.into_iter().collect();
    scope.insert(&input.name, call.b.value(x));
    for node in &graph.node {
        let operand = |name: &String| match (name.as_str(), scope.get(name.as_str())) {
            ("", _) => Ok(None),
            (_, Some(value)) => Ok(Some(value.clone())),
            (name, None) => problem(format!("`{name}` is used in a modifier that does not compute it")),
        };
        let inputs = node.input.iter().map(operand).collect::<Build<Vec<Option<Value>>>>()?;
        let Some(entry) = ops::find(&node.domain, &node.op_type) else {
            return Err(ops::unknown(&node.domain, &node.op_type).into());
        };
        let outer = call.outer;
        let mut own = Call { b: &mut *call.b, node, opset: MODIFIER_OPSET, inputs: &inputs, outer };
        let known = |value: &Value| value.as_tensor().is_some_and(|tensor| tensor.literal().is_some());
        let values = match ops::sizes_or_none(&own)? {
            Some(value) => vec![value],
            None if entry.folds && inputs.iter().flatten().all(known) => computed(&mut own, entry.lower)?,
            None => (entry.lower)(&mut own)?,
        };
        scope.extend(node.output.iter().map(String::as_str).zip(values));
    }
    match scope.get(output.name.as_str()).and_then(Value::as_tensor) {
        Some(tensor) => call.b.node(tensor),
        None => problem(format!("a modifier does not compute its output `{}`", output.name)),
    }
}

/// The results of a node whose operands are known, as known values if they are small: shapes may depend on them.
fn computed(call: &mut Call, lower: Lower) -> Results {
    call.b.push_level();
    let lowered = lower(call);
    let mut level = call.b.pop_level();
    let mut values = lowered?;
    let sizes = level.graph.nodes().iter().flat_map(|node| &node.types).map(|ty| ty.elements().as_constant());
    if sizes.into_iter().any(|elements| elements.is_none_or(|elements| elements > FOLD_ELEMENTS_MAX)) {
        return lower(call);
    }
    assert!(level.captures.is_empty(), "constants are part of the graph");
    let mut ids = BTreeSet::new();
    let mut collect = |tensor: &mut Tensor| {
        if let Content::Node { id, .. } = tensor.content {
            ids.insert(id);
        }
    };
    values.iter_mut().for_each(|value| value.tensors_mut(&mut collect));
    ids.iter().for_each(|id| level.graph.output("", *id));
    let results = eval::evaluate(&level.graph, &eval::Environment::new())
        .map_err(|error| Stop::Problem(Problem::new(error.to_string())))?;
    let literals = results.outputs.iter().map(|array| Tensor::known(array.to_literal()));
    let places: BTreeMap<NodeId, Tensor> = ids.into_iter().zip(literals).collect();
    let mut place = |tensor: &mut Tensor| {
        if let Content::Node { id, .. } = tensor.content {
            *tensor = Tensor { narrow: tensor.narrow, ..places[&id].clone() };
        }
    };
    values.iter_mut().for_each(|value| value.tensors_mut(&mut place));
    Ok(values)
}
