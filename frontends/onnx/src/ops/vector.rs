//! The format's classical models: features in rows, and linear functions and trees of them.

mod trees;

use super::Row;
use super::activation::{logistic, shifted};
use super::reduce::first_extreme;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results};
use crate::value::Tensor;
use thalweg_base::{DType, Dim, Literal, PointwiseFn as F, Scalar};
use thalweg_tensor::{NodeId, ReduceFn};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("ArrayFeatureExtractor", array_feature_extractor),
    ("Binarizer", binarizer),
    ("FeatureVectorizer", feature_vectorizer),
    ("Imputer", imputer),
    ("LabelEncoder", label_encoder),
    ("LinearClassifier", linear_classifier),
    ("LinearRegressor", linear_regressor),
    ("Normalizer", normalizer),
    ("OneHotEncoder", one_hot_encoder),
    ("Scaler", scaler),
    ("TreeEnsemble", trees::ensemble),
    ("TreeEnsembleClassifier", trees::classifier),
    ("TreeEnsembleRegressor", trees::regressor),
];

fn strings<T>() -> Build<T> {
    problem("labels and keys that are strings are not computed with: tensors hold numbers")
}

/// Numbers of an attribute, as given for all features or one for each.
fn per_feature(b: &mut Builder, x: NodeId, values: &[f64]) -> Build<NodeId> {
    let dtype = b.dtype(x);
    match values {
        [value] => Ok(b.number(dtype, *value)),
        values => Ok(b.numbers(dtype, values)),
    }
}

/// Operands as rows of floats: a single row for rank 1.
fn rows(b: &mut Builder, x: NodeId) -> Build<NodeId> {
    let x = if b.dtype(x) == DType::F64 { x } else { b.convert(x, DType::F32)? };
    match b.rank(x) {
        1 => b.unsqueeze(x, &[0]),
        2 => Ok(x),
        rank => problem(format!("rows of features have 2 dims, not {rank}")),
    }
}

fn array_feature_extractor(call: &mut Call) -> Results {
    let (x, indices) = (call.x(0)?, call.x(1)?);
    let b = &mut *call.b;
    let Some(last) = b.rank(x).checked_sub(1) else { return problem("a scalar has no features") };
    let count = b.ty(indices).elements();
    let indices = b.reshape(indices, &[count])?;
    let y = b.gather(x, indices, last, 0)?;
    let y = if last == 0 { b.unsqueeze(y, &[0])? } else { y };
    call.one(y)
}

fn binarizer(call: &mut Call) -> Results {
    let (x, threshold) = (call.x(0)?, call.float_or("threshold", 0.0));
    let b = &mut *call.b;
    let dtype = b.dtype(x);
    // The threshold need not be a value of an integer dtype.
    let wide = if dtype.is_float() { x } else { b.convert(x, DType::F64)? };
    let above = b.with_scalar(F::Gt, wide, threshold)?;
    let y = b.convert(above, dtype)?;
    call.one(y)
}

fn feature_vectorizer(call: &mut Call) -> Results {
    let operands = call.all()?;
    let b = &mut *call.b;
    let operands = operands.into_iter().map(|x| rows(b, x)).collect::<Build<Vec<NodeId>>>()?;
    let parts = operands.into_iter().map(|x| b.convert(x, DType::F32)).collect::<Build<Vec<NodeId>>>()?;
    let y = b.concat(&parts, 1)?;
    call.one(y)
}

fn imputer(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let (floats, ints) = (call.float_list("imputed_value_floats"), call.int_list("imputed_value_int64s"));
    let is_float = call.b.dtype(x).is_float();
    let values = match (floats.filter(|_| is_float), ints) {
        (Some(values), _) => values,
        (None, Some(values)) => values.into_iter().map(|value| value as f64).collect(),
        (None, None) => return problem("what is put in is not given"),
    };
    let replaced = match is_float {
        true => call.float_or("replaced_value_float", 0.0),
        false => call.int_or("replaced_value_int64", 0) as f64,
    };
    let b = &mut *call.b;
    let holds = match replaced.is_nan() {
        true => b.pointwise(F::Ne, &[x, x])?,
        false => b.with_scalar(F::Eq, x, replaced)?,
    };
    let values = per_feature(b, x, &values)?;
    let y = b.select(holds, values, x)?;
    call.one(y)
}

/// `(x - offset) * scale`.
fn scaler(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let (offset, scale) = (call.float_list("offset"), call.float_list("scale"));
    let b = &mut *call.b;
    let mut y = b.convert(x, DType::F32)?;
    if let Some(offset) = offset {
        let offset = per_feature(b, y, &offset)?;
        y = b.binary(F::Sub, y, offset)?;
    }
    if let Some(scale) = scale {
        let scale = per_feature(b, y, &scale)?;
        y = b.binary(F::Mul, y, scale)?;
    }
    call.one(y)
}

fn normalizer(call: &mut Call) -> Results {
    let (x, norm) = (call.x(0)?, call.text_or("norm", "MAX"));
    let b = &mut *call.b;
    let x = b.convert(x, DType::F32)?;
    let Some(last) = b.rank(x).checked_sub(1) else { return problem("a scalar has no features") };
    let divisor = match norm.as_str() {
        "MAX" => b.reduce(ReduceFn::Max, x, &[last], true)?,
        "L1" => {
            let magnitude = b.unary(F::Abs, x)?;
            b.reduce(ReduceFn::Sum, magnitude, &[last], true)?
        }
        "L2" => {
            let square = b.pointwise(F::Mul, &[x, x])?;
            let sum = b.reduce(ReduceFn::Sum, square, &[last], true)?;
            b.unary(F::Sqrt, sum)?
        }
        other => return problem(format!("there is no norm `{other}`")),
    };
    // What has no length stays as it is.
    let (none, one) = (b.with_scalar(F::Eq, divisor, 0.0)?, b.number(DType::F32, 1.0));
    let divisor = b.select(none, one, divisor)?;
    let y = b.binary(F::Div, x, divisor)?;
    call.one(y)
}

/// Ones where a value is the category of a new last dim.
fn one_hot_encoder(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let Some(categories) = call.int_list("cats_int64s") else { return strings() };
    let b = &mut *call.b;
    let x = b.convert(x, DType::I64)?;
    let last = b.rank(x);
    let x = b.unsqueeze(x, &[last])?;
    let scalars = categories.iter().map(|category| Scalar::Int((*category).into()));
    let categories = Literal::from_scalars(DType::I64, &[categories.len()], scalars);
    let categories = b.graph().constant(categories);
    let holds = b.binary(F::Eq, x, categories)?;
    let y = b.convert(holds, DType::F32)?;
    call.one(y)
}

/// The numbers of one of three attributes: a list of integers, a list of floats or a tensor.
fn listed(call: &Call, name: &str) -> Build<Literal> {
    if call.text_list(&format!("{name}_strings")).is_some() {
        return strings();
    }
    if let Some(values) = call.int_list(&format!("{name}_int64s")) {
        let scalars = values.iter().map(|value| Scalar::Int((*value).into()));
        return Ok(Literal::from_scalars(DType::I64, &[values.len()], scalars));
    }
    if let Some(values) = call.float_list(&format!("{name}_floats")) {
        let scalars = values.iter().map(|value| Scalar::Float(*value));
        return Ok(Literal::from_scalars(DType::F32, &[values.len()], scalars));
    }
    match call.tensor_attribute(&format!("{name}_tensor"))?.as_ref().and_then(Tensor::literal) {
        Some(literal) => Ok(literal),
        None => problem(format!("the {name} are not given")),
    }
}

/// Each value replaced by that of its key: of the last one, should a key be repeated.
fn label_encoder(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let (keys, values) = (listed(call, "keys")?, listed(call, "values")?);
    if keys.len() != values.len() {
        return problem(format!("{} keys have {} values", keys.len(), values.len()));
    }
    let dtype = values.dtype();
    let default = match call.tensor_attribute("default_tensor")?.as_ref().and_then(Tensor::literal) {
        Some(literal) => literal.scalars().next().unwrap_or(Scalar::Int(-1)),
        None if dtype.is_float() => Scalar::Float(call.float_or("default_float", -0.0)),
        None => Scalar::Int(call.int_or("default_int64", -1).into()),
    };
    let b = &mut *call.b;
    let shape = b.shape(x);
    let rank = shape.len();
    let (own, count) = (b.dtype(x), keys.len());
    let scalars = keys.scalars().map(|key| key.convert(own));
    let keys = b.graph().constant(Literal::from_scalars(own, &[count], scalars));
    let wide = b.unsqueeze(x, &[rank])?;
    let operands = b.broadcast_all(&[wide, keys])?;
    let mut holds = b.pointwise(F::Eq, &operands)?;
    if own.is_float() {
        // A key that is no number stands for all that are none.
        let x_nan = b.pointwise(F::Ne, &[operands[0], operands[0]])?;
        let key_nan = b.pointwise(F::Ne, &[operands[1], operands[1]])?;
        let both = b.pointwise(F::And, &[x_nan, key_nan])?;
        holds = b.pointwise(F::Or, &[holds, both])?;
    }
    // Position 0 of the table is the default.
    let table = [default.convert(dtype)].into_iter().chain(values.scalars());
    let table = b.graph().constant(Literal::from_scalars(dtype, &[count + 1], table));
    let wide_shape = b.shape(holds);
    let position = b.iota_along(DType::I32, &wide_shape, rank)?;
    let position = b.with_scalar(F::Add, position, 1.0)?;
    let none = b.number(DType::I32, 0.0);
    let found = b.select(holds, position, none)?;
    let found = b.reduce(ReduceFn::Max, found, &[rank], false)?;
    let y = b.gather(table, found, 0, 0)?;
    call.one(y)
}

/// The scores as the attribute `post_transform` wants them.
fn transformed(b: &mut Builder, scores: NodeId, transform: &str) -> Build<NodeId> {
    match transform {
        "NONE" => Ok(scores),
        "LOGISTIC" => logistic(b, scores),
        "SOFTMAX" => {
            let (_, exp, sum) = shifted(b, scores, &[1])?;
            b.binary(F::Div, exp, sum)
        }
        // Scores of 0 stay and do not count.
        "SOFTMAX_ZERO" => {
            let (_, exp, _) = shifted(b, scores, &[1])?;
            let (some, zero) = (b.with_scalar(F::Ne, scores, 0.0)?, b.number_like(scores, 0.0));
            let exp = b.select(some, exp, zero)?;
            let sum = b.reduce(ReduceFn::Sum, exp, &[1], true)?;
            let y = b.binary(F::Div, exp, sum)?;
            b.select(some, y, zero)
        }
        "PROBIT" => probit(b, scores),
        other => problem(format!("there is no transform `{other}`")),
    }
}

/// The inverse of the normal distribution, by Winitzki's approximation of the inverse error function (2008, "A handy
/// approximation for the error function and its inverse"), which is what the format's own runtime has.
fn probit(b: &mut Builder, p: NodeId) -> Build<NodeId> {
    const A: f64 = 0.147;
    let twice = b.with_scalar(F::Mul, p, 2.0)?;
    let x = b.with_scalar(F::Sub, twice, 1.0)?;
    let square = b.pointwise(F::Mul, &[x, x])?;
    let one = b.number_like(x, 1.0);
    let rest = b.binary(F::Sub, one, square)?;
    let log = b.unary(F::Log, rest)?;
    let half = b.with_scalar(F::Mul, log, 0.5)?;
    let v = b.with_scalar(F::Add, half, 2.0 / (std::f64::consts::PI * A))?;
    let product = b.pointwise(F::Mul, &[v, v])?;
    let scaled = b.with_scalar(F::Div, log, A)?;
    let inner = b.pointwise(F::Sub, &[product, scaled])?;
    let root = b.unary(F::Sqrt, inner)?;
    let difference = b.pointwise(F::Sub, &[root, v])?;
    let magnitude = b.unary(F::Sqrt, difference)?;
    let sign = b.unary(F::Sign, x)?;
    let signed = b.pointwise(F::Mul, &[sign, magnitude])?;
    b.with_scalar(F::Mul, signed, std::f64::consts::SQRT_2)
}

/// `x w^T + c` of rows, where the weights of an output follow each other.
fn linear(call: &mut Call, outputs: usize) -> Build<NodeId> {
    let x = call.x(0)?;
    let weights = call.float_list("coefficients").unwrap_or_default();
    let offsets = call.float_list("intercepts");
    let b = &mut *call.b;
    let x = rows(b, x)?;
    let x = b.convert(x, DType::F32)?;
    if outputs == 0 || !weights.len().is_multiple_of(outputs) {
        return problem(format!("{} weights are given for {outputs} outputs", weights.len()));
    }
    let features = weights.len() / outputs;
    let weights = b.numbers(DType::F32, &weights);
    let weights = b.reshape(weights, &[Dim::from(outputs), Dim::from(features)])?;
    let scores = b.contract("nf,ef->ne", x, weights)?;
    match offsets {
        Some(offsets) if !offsets.is_empty() => {
            let offsets = b.numbers(DType::F32, &offsets);
            b.binary(F::Add, scores, offsets)
        }
        Some(_) | None => Ok(scores),
    }
}

fn linear_regressor(call: &mut Call) -> Results {
    let targets = usize::try_from(call.int_or("targets", 1)).unwrap_or(0);
    let transform = call.text_or("post_transform", "NONE");
    let scores = linear(call, targets)?;
    let y = transformed(call.b, scores, &transform)?;
    call.one(y)
}

/// The position of the largest score of each row.
fn first_largest(b: &mut Builder, scores: NodeId) -> Build<NodeId> {
    let best = first_extreme(b, ReduceFn::Max, scores, 1, false)?;
    let rows = b.shape(scores)[0].clone();
    b.reshape(best, &[rows])
}

/// The labels at positions.
fn labelled(b: &mut Builder, positions: NodeId, labels: &[i64]) -> Build<NodeId> {
    if labels.is_empty() {
        return problem("there are no labels");
    }
    let scalars = labels.iter().map(|label| Scalar::Int((*label).into()));
    let labels = b.graph().constant(Literal::from_scalars(DType::I64, &[labels.len()], scalars));
    b.gather(labels, positions, 0, 0)
}

/// The labels and the scores of both classes where there is a score of the second alone: it is chosen above a threshold. The
/// first has what is left to 1, or else the negative.
fn two_classes(
    b: &mut Builder,
    score: NodeId,
    labels: &[i64],
    transform: &str,
    threshold: f64,
    complement: bool,
) -> Build<[NodeId; 2]> {
    let above = b.with_scalar(F::Gt, score, threshold)?;
    let chosen = b.convert(above, DType::I32)?;
    let count = b.ty(chosen).elements();
    let chosen = b.reshape(chosen, &[count])?;
    let label = labelled(b, chosen, labels)?;
    let negated = b.unary(F::Neg, score)?;
    let scores = match (transform, complement) {
        ("LOGISTIC", _) => {
            let (first, second) = (logistic(b, negated)?, logistic(b, score)?);
            b.concat(&[first, second], 1)?
        }
        (_, true) => {
            let first = b.with_scalar(F::Add, negated, 1.0)?;
            b.concat(&[first, score], 1)?
        }
        (_, false) => b.concat(&[negated, score], 1)?,
    };
    Ok([label, scores])
}

fn linear_classifier(call: &mut Call) -> Results {
    let Some(labels) = call.int_list("classlabels_ints") else { return strings() };
    let transform = call.text_or("post_transform", "NONE");
    let outputs = call.float_list("intercepts").map_or(labels.len(), |offsets| offsets.len());
    let scores = linear(call, outputs)?;
    let b = &mut *call.b;
    if outputs == 1 && labels.len() == 2 {
        let results = two_classes(b, scores, &labels, &transform, 0.0, true)?;
        return call.several(&results);
    }
    let best = first_largest(b, scores)?;
    let label = labelled(b, best, &labels)?;
    let scores = transformed(b, scores, &transform)?;
    call.several(&[label, scores])
}
