//! Tests of rules, of whole rewrites, and of what repeats.

mod random_graphs;
mod rows;
mod whole;

use crate::facts::TensorGraph;
use crate::lang::ENode;
use egg::Id;
use std::collections::BTreeMap;
use thalweg_base::{DType, Scalar, random, tolerance};
use thalweg_tensor::eval::{self, Environment};
use thalweg_tensor::ops::Leaf;
use thalweg_tensor::{Array, Graph, Mesh, Op};

/// The values of a leaf: normal, or between 0.5 and 2; small integers and the extremes of their range; truth values.
fn leaf_value(leaf: &Leaf, seed: u64, positive: bool) -> Array {
    let key = random::key_for(seed, &leaf.name);
    let sizes = leaf.ty.sizes();
    let count: usize = sizes.iter().product();
    let value = |index: usize| {
        let words = random::threefry2x32(key, [index as u32, 0]);
        let dtype = leaf.ty.dtype;
        match (dtype.is_float(), positive) {
            (true, true) => Scalar::Float(0.5 + 1.5 * random::uniform(words[0])),
            (true, false) => Scalar::Float(random::normal(words)),
            (false, _) if dtype == DType::Bool => Scalar::Int((words[0] & 1) as i128),
            (false, _) => match words[0] % 11 {
                9 => dtype.range().0,
                10 => dtype.range().1,
                small => Scalar::Int(small as i128 - 4),
            },
        }
    };
    let values = (0..count).map(|index| value(index).convert(leaf.ty.dtype)).collect();
    Array { dtype: leaf.ty.dtype, shape: sizes, values }
}

/// Values for all leaves of a graph.
fn environment(graph: &Graph, seed: u64, positive: bool) -> Environment {
    let leaves = graph.nodes().iter().filter_map(|node| node.op.as_leaf());
    leaves.map(|leaf| ((leaf.kind, leaf.name.to_string()), leaf_value(leaf, seed, positive))).collect()
}

/// The largest finite magnitude among values, and at least 1.
fn scale_of<'a>(values: impl IntoIterator<Item = &'a Array>) -> f64 {
    let all = values.into_iter().flat_map(|array| &array.values).map(|value| value.to_f64().abs());
    all.filter(|value| value.is_finite()).fold(1.0, f64::max)
}

/// Panics unless two arrays agree within the tolerance of their dtype, at that scale.
fn assert_agree(a: &Array, b: &Array, scale: f64, what: &dyn Fn() -> String) {
    assert_eq!((a.dtype, &a.shape), (b.dtype, &b.shape), "{}", what());
    for (x, y) in a.values.iter().zip(&b.values) {
        let (x, y) = (x.to_f64(), y.to_f64());
        let agree = tolerance::agree(x, y, scale, a.dtype, 64);
        assert!(agree, "{x} and {y} at scale {scale}: {}", what());
    }
}

/// Panics unless two graphs of one signature give the same on random inputs.
fn assert_same_results(a: &Graph, b: &Graph, seed: u64) {
    let environment = environment(a, seed, false);
    let evaluate = |graph: &Graph| {
        let results = eval::evaluate(graph, &environment).expect("every leaf has a value");
        [results.outputs, results.updates].concat()
    };
    let (before, after) = (evaluate(a), evaluate(b));
    let scale = scale_of(&before);
    assert_eq!(before.len(), after.len());
    for (x, y) in before.iter().zip(&after) {
        assert_agree(x, y, scale, &|| format!("before:\n{a}\nafter:\n{b}"));
    }
}

/// Panics unless the e-nodes of every class agree: whatever is extracted is then right.
fn assert_consistent(egraph: &TensorGraph, seed: u64, positive: bool) {
    let (values, others) = class_values(egraph, |leaf| leaf_value(leaf, seed, positive));
    let scale = scale_of(values.values().flatten());
    for (class, node, value) in others {
        for (own, other) in values[&class].iter().zip(&value) {
            assert_agree(own, other, scale, &|| format!("{node:?} in class {:?}", egraph[class].nodes));
        }
    }
}

/// A value of every class, and that of each e-node with its class.
#[allow(clippy::type_complexity, reason = "a pair of lists, which one test takes apart")]
fn class_values(
    egraph: &TensorGraph,
    leaf_value: impl Fn(&Leaf) -> Array,
) -> (BTreeMap<Id, Vec<Array>>, Vec<(Id, &ENode, Vec<Array>)>) {
    // The first e-node of a class that can be evaluated gives the value of the class.
    let mut values: BTreeMap<Id, Vec<Array>> = BTreeMap::new();
    let evaluate = |node: &ENode, values: &BTreeMap<Id, Vec<Array>>| -> Option<Vec<Array>> {
        if let Some(leaf) = node.op.as_leaf() {
            return Some(vec![leaf_value(leaf)]);
        }
        let all = matches!(&*node.op, Op::Pick(_));
        let mut operands = Vec::new();
        for operand in &node.operands {
            let results = values.get(&egraph.find(*operand))?;
            operands.extend(if all { results.clone() } else { vec![results[0].clone()] });
        }
        Some(node.op.def().eval(&Mesh::default(), &vec![operands]).remove(0))
    };
    loop {
        let known = values.len();
        for class in egraph.classes() {
            if !values.contains_key(&class.id)
                && let Some(value) = class.nodes.iter().find_map(|node| evaluate(node, &values))
            {
                values.insert(class.id, value);
            }
        }
        if values.len() == known {
            break;
        }
    }
    assert_eq!(values.len(), egraph.number_of_classes(), "some class cannot be computed");
    let mut others = Vec::new();
    for class in egraph.classes() {
        for node in &class.nodes {
            others.push((class.id, node, evaluate(node, &values).expect("all classes have values")));
        }
    }
    (values, others)
}
