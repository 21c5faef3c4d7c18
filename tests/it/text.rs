//! The text form of a graph parses back to the same graph.

use super::gradient::{Probe, wide_samples};
use std::sync::Arc;
use thalweg_base::{DType, PointwiseFn, Scalar, SourceId, Span};
use thalweg_tensor::ops::Initializer;
use thalweg_tensor::verify::assert_valid;
use thalweg_tensor::{Graph, Op, TensorType};

pub(crate) fn check(graph: &Graph) {
    let text = graph.to_string();
    let parsed: Graph = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(parsed, *graph, "{text}");
    assert_eq!(parsed.to_string(), text);
}

#[test]
fn one_node_graphs() {
    for (index, sample) in Op::all_samples().into_iter().enumerate() {
        let mut graph = Graph::new(format!("{} \"{index}\"", sample.op.name()));
        let operands: Vec<_> = (0..sample.operands.len())
            .map(|operand| graph.input(&format!("x = {operand}"), sample.operands[operand].0.clone()))
            .collect();
        graph.current_scope = Arc::from("block.0.attention");
        graph.current_span = Some(Span::new(SourceId(3), index, index + 17));
        let node = graph.add(sample.op, &operands);
        graph.current_span = None;
        for (result, node) in graph.picks(node).into_iter().enumerate() {
            graph.output(format!("y \\ = {result}"), node);
        }
        graph.current_scope = Arc::from("");
        assert_valid(&graph);
        check(&graph);
    }
}

#[test]
fn gradient_graphs() {
    for sample in wide_samples() {
        if let Ok((first, _)) = Probe::new(&sample).derivative() {
            check(&first.graph);
        }
    }
}

#[test]
fn symbols_initializers_and_odd_values() {
    let mut graph = Graph::new("");
    let batch = thalweg_base::Dim::symbol("batch");
    let ty = TensorType::new(DType::F32, [&batch + &1.into(), batch.floor_div(2)]);
    let x = graph.input("x", ty.clone());
    let normal = Initializer::Normal { mean: Scalar::Float(-0.0), deviation: Scalar::Float(0.1) };
    graph.parameter("w", TensorType::new(DType::BF16, [3]), normal);
    graph.state("steps", TensorType::scalar(DType::I64), Initializer::Constant(Scalar::Int(i64::MIN.into())));
    graph.state("mask", TensorType::scalar(DType::U64), Initializer::Constant(Scalar::Int(u64::MAX.into())));
    for value in [f64::NAN, f64::NEG_INFINITY, f64::MIN_POSITIVE, 0.1, -0.0, 1e300] {
        let full = graph.full(&ty, Scalar::Float(value));
        graph.pad(x, vec![], Scalar::Float(value));
        graph.pointwise(PointwiseFn::Mul, &[x, full]);
    }
    assert_valid(&graph);
    check(&graph);
}

#[test]
fn errors_name_their_line() {
    let good = "graph \"g\" {\n  %0: f32[2] = () Iota((dtype:f32,size:\"2\"))\n  output \"y\" = %0\n}\n";
    assert!(good.parse::<Graph>().is_ok(), "{:?}", good.parse::<Graph>());
    let cases = [
        ("graph \"g\" {", "grph \"g\" {", 1),
        ("%0: f32[2]", "%1: f32[2]", 2),
        ("f32[2]", "f31[2]", 2),
        ("f32[2]", "f32[2", 2),
        ("Iota", "Jota", 2),
        ("() ", "(%0) ", 2),
        ("output \"y\" = %0", "output \"y\" = %1", 3),
        ("output \"y\" = %0", "output y = %0", 3),
        ("\n}\n", "\n}\nmore", 5),
    ];
    for (from, to, line) in cases {
        let text = good.replace(from, to);
        let error = text.parse::<Graph>().expect_err(&text);
        assert_eq!(error.line, line, "{text}{error}");
    }
}
