//! Every rule of the verifier has a graph that breaks it, and only it.

use std::sync::Arc;
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_tensor::ops::{Initializer, Leaf, LeafKind, Pick, Pointwise, Scan};
use thalweg_tensor::verify::verify;
use thalweg_tensor::{Graph, Node, NodeId, Op, TensorType};

fn ty() -> TensorType {
    TensorType::new(DType::F32, [4, 2])
}

fn node(op: impl Into<Op>, operands: &[NodeId], types: &[TensorType]) -> Node {
    Node { op: op.into(), operands: operands.to_vec(), types: types.to_vec(), scope: "".into(), span: None }
}

fn negation() -> Pointwise {
    Pointwise { function: PointwiseFn::Neg }
}

fn zeros() -> Option<Initializer> {
    Some(Initializer::Constant(Scalar::Float(0.0)))
}

/// A sum over a sequence: one carry, one sequence.
fn body() -> Graph {
    let mut body = Graph::new("body");
    let row = TensorType::new(DType::F32, [2]);
    let (sum, x) = (body.input("sum", row.clone()), body.input("x", row));
    let next = body.pointwise(PointwiseFn::Add, &[sum, x]);
    body.output("sum", next);
    body
}

fn scan(body: Graph) -> Scan {
    Scan {
        body: Arc::new(body),
        length: 4.into(),
        carries: 1,
        sequences: 1,
        reverse: false,
        histories: false,
    }
}

/// A good graph with a parameter, a state, an input, a scan, an output and two updates.
fn good() -> Graph {
    let mut graph = Graph::new("good");
    let x = graph.input("x", ty());
    let w = graph.parameter("w", ty(), Initializer::Constant(Scalar::Float(0.0)));
    let s = graph.state("s", TensorType::new(DType::F32, [2]), Initializer::Constant(Scalar::Float(0.0)));
    let product = graph.pointwise(PointwiseFn::Mul, &[x, w]);
    let sums = graph.scan(scan(body()), &[s, product]).expect("the scan fits");
    graph.output("product", product);
    graph.update("w", product);
    graph.update("s", sums[0]);
    graph
}

/// Breaks the good graph and looks for a message.
fn check(rule: &str, message: &str, spoil: impl Fn(&mut Graph)) {
    let mut graph = good();
    assert_eq!(verify(&graph), []);
    spoil(&mut graph);
    let found = verify(&graph);
    assert!(!found.is_empty(), "rule {rule} is not checked");
    assert!(
        found.iter().all(|violation| violation.message.contains(message)),
        "rule {rule} says `{message}`, not {found:?}"
    );
}

#[test]
fn rules_are_checked() {
    let x = NodeId(0);
    let late = "does not stand before it";
    check("1, later operands", late, |graph| {
        let next = NodeId::new(graph.nodes().len() + 1);
        graph.push(node(negation(), &[next], &[ty()]));
    });
    check("1, operands that are no nodes", late, |graph| {
        graph.push(node(negation(), &[NodeId(1000)], &[ty()]));
    });
    check("2, wrong type", "but its op infers", |graph| {
        graph.push(node(negation(), &[x], &[TensorType::new(DType::F32, [2, 4])]));
    });
    check("2, wrong operands", "`neg` takes 1 operands, not 2", |graph| {
        graph.push(node(negation(), &[x, x], &[ty()]));
    });
    check("2 and 3, several results", "pick", |graph| {
        let s = graph.leaf(LeafKind::State, "s").expect("it is there");
        let scan = graph.add(Scan { histories: true, ..scan(body()) }, &[s, x]);
        graph.push(node(negation(), &[scan], &[ty()]));
    });
    check("2, a pick past the end", "there is no result 3", |graph| {
        let s = graph.leaf(LeafKind::State, "s").expect("it is there");
        let scan = graph.add(scan(body()), &[s, x]);
        graph.push(node(Pick { index: 3 }, &[scan], &[ty()]));
    });
    check("3, loops are picked", "without picking a result", |graph| {
        let s = graph.leaf(LeafKind::State, "s").expect("it is there");
        let scan = graph.add(scan(body()), &[s, x]);
        graph.push(node(negation(), &[scan], &[TensorType::new(DType::F32, [2])]));
    });
    check("4, names", "there is another Input called `x`", |graph| {
        graph.input("x", ty());
    });
    check("4, names of what is kept", "called `w`", |graph| {
        graph.state("w", ty(), Initializer::Constant(Scalar::Float(0.0)));
    });
    for (kind, init) in [(LeafKind::Input, zeros()), (LeafKind::Parameter, None), (LeafKind::State, None)] {
        check("4, beginnings", "for its beginning", |graph| {
            graph.add(Leaf { kind, name: "other".into(), ty: ty(), init: init.clone() }, &[]);
        });
    }
    let output = "is doubled or is no single value";
    check("5, names", output, |graph| graph.output("product", x));
    check("5, nodes", output, |graph| graph.output("none", NodeId(1000)));
    check("5, single results", output, |graph| {
        let s = graph.leaf(LeafKind::State, "s").expect("it is there");
        let scan = graph.add(Scan { histories: true, ..scan(body()) }, &[s, x]);
        graph.output("scan", scan);
    });
    let update = "is doubled, or of nothing, or of another type";
    check("6, once", update, |graph| graph.update("w", x));
    check("6, of something", update, |graph| graph.update("x", x));
    check("6, type", update, |graph| {
        graph.updates.clear();
        let s = graph.leaf(LeafKind::State, "s").expect("it is there");
        graph.update("w", s);
    });
    check("6, nodes", update, |graph| {
        graph.updates.clear();
        graph.update("w", NodeId(1000));
    });
    // A sub-graph cannot be added with `add` once it is broken, so the node is made by hand.
    let with_body = |graph: &mut Graph, body: Graph| {
        let s = graph.leaf(LeafKind::State, "s").expect("it is there");
        graph.push(node(scan(body), &[s, x], &[TensorType::new(DType::F32, [2])]));
    };
    check("7, sub-graphs verify", "in `body`: its operand", |graph| {
        let mut body = body();
        body.push(node(negation(), &[NodeId(1000)], &[ty()]));
        with_body(graph, body);
    });
    check("7, sub-graphs keep nothing", "of its own", |graph| {
        let mut body = body();
        body.parameter("w", ty(), Initializer::Constant(Scalar::Float(0.0)));
        with_body(graph, body);
    });
}

/// Symbols that are not bound are no reason to refuse a graph.
#[test]
fn symbolic_graphs_verify() {
    let mut graph = Graph::new("symbolic");
    let x = graph.input("x", TensorType::new(DType::F32, [thalweg_base::Dim::symbol("n"), 4.into()]));
    let sum = graph.reduce_sum(x, &[0, 1]);
    graph.output("sum", sum);
    assert_eq!(verify(&graph), []);
    let bound = graph.substitute(&[(thalweg_base::Symbol::new("n"), 3.into())].into());
    assert_eq!(verify(&bound), []);
    assert_eq!(bound.ty(x).sizes(), [3, 4]);
}
