//! Where values lie: results in the place of what they are made of, and next carries in the place of the present ones, only
//! when nothing reads those any more.

use crate::lowering::check;
use std::sync::Arc;
use thalweg_base::{DType, Literal, PointwiseFn as F};
use thalweg_tensor::eval::Environment;
use thalweg_tensor::ops::{LeafKind, Scan};
use thalweg_tensor::{Array, Graph, NodeId, TensorType};

fn ty(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape.iter().copied())
}

/// Values for a graph's inputs, all different and so small that repeated products of them stay small.
fn environment(graph: &Graph) -> Environment {
    let inputs = graph.leaves(LeafKind::Input).enumerate().map(|(seed, (id, leaf))| {
        let shape = graph.ty(id).sizes();
        let number = |position: usize| ((position * 37 + seed * 11) % 101) as f32 / 1000.0 - 0.05;
        let numbers: Vec<f32> = (0..shape.iter().product()).map(number).collect();
        ((LeafKind::Input, leaf.name.to_string()), Array::from_literal(&Literal::from_f32(&shape, &numbers)))
    });
    inputs.collect()
}

/// A product of a value with a matrix, to which the value itself is added: the sum must not be written over the value while
/// other columns of the product are still to come.
#[test]
fn epilogues_do_not_write_over_operands() {
    for rows in [1, 2, 5, 70] {
        let n = 300;
        let mut graph = Graph::new("residual");
        let (x, w) = (graph.input("x", ty(&[rows, n])), graph.input("w", ty(&[n, n])));
        let mut h = graph.pointwise(F::Exp, &[x]);
        for _ in 0..2 {
            let product = graph.contract("mk,kn->mn", h, w);
            h = graph.pointwise(F::Add, &[product, h]);
        }
        let y = graph.contract("mk,kn->mn", h, w);
        graph.output("y", y);
        check(&graph, &environment(&graph), 3 * n);
    }
}

/// What a turn makes of its carries `a` and `b`, which are squares of numbers, with the help of a matrix.
type Turn = fn(&mut Graph, a: NodeId, b: NodeId, w: NodeId) -> [NodeId; 2];

const TURNS: [(&str, Turn); 7] = [
    ("position by position", |graph, a, b, _| {
        let sum = graph.pointwise(F::Add, &[a, b]);
        [sum, graph.pointwise(F::Tanh, &[sum])]
    }),
    ("swapped", |_, a, b, _| [b, a]),
    ("swapped and changed", |graph, a, b, _| [graph.pointwise(F::Neg, &[b]), graph.pointwise(F::Exp, &[a])]),
    ("the same", |graph, a, b, _| [a, graph.pointwise(F::Mul, &[a, b])]),
    ("products", |graph, a, b, w| {
        let next = graph.contract("mk,kn->mn", a, w);
        [graph.pointwise(F::Add, &[next, a]), graph.pointwise(F::Sub, &[b, next])]
    }),
    ("products of both", |graph, a, b, w| {
        [graph.contract("mk,kn->mn", b, w), graph.contract("mk,nk->mn", w, a)]
    }),
    ("moved along", |graph, a, b, _| {
        let n = graph.ty(a).sizes()[1];
        let (first, rest) = (graph.slice_dim(a, 1, 0, 1), graph.slice_dim(a, 1, 1, n - 1));
        let turned = graph.concat(&[rest, first], 1);
        [turned, graph.pointwise(F::Sub, &[b, a])]
    }),
];

#[test]
fn carries_are_replaced_when_nothing_reads_them_any_more() {
    for (what, turn) in TURNS {
        for (n, reverse, histories) in [(5, false, false), (33, true, true)] {
            let mut body = Graph::new(what);
            let [a, b, x, w] = ["a", "b", "x", "w"].map(|name| body.input(name, ty(&[n, n])));
            let with = body.pointwise(F::Add, &[b, x]);
            let next = turn(&mut body, a, with, w);
            // What is yielded is the present carry, the next one, and both together.
            let both = body.pointwise(F::Sub, &[next[0], a]);
            for (name, node) in
                [("a'", next[0]), ("b'", next[1]), ("old", a), ("new", next[1]), ("both", both)]
            {
                body.output(name, node);
            }
            let mut graph = Graph::new("carries");
            let [a, b, w] = ["a", "b", "w"].map(|name| graph.input(name, ty(&[n, n])));
            let x = graph.input("x", ty(&[3, n, n]));
            let body = Arc::new(body);
            let scan = Scan { body, length: 3.into(), carries: 2, sequences: 1, reverse, histories };
            let results = graph.scan(scan, &[a, b, x, w]).expect("it fits");
            for (index, result) in results.into_iter().enumerate() {
                graph.output(format!("y{index}"), result);
            }
            check(&graph, &environment(&graph), 20 * n);
        }
    }
}
