//! What is exported as ONNX and imported again computes the same.

use std::collections::BTreeMap;
use thalweg_base::Literal;
use thalweg_onnx::{HostValue, Model, RunError, Tensors, encode, export, run};
use thalweg_tensor::eval::{Environment, evaluate};
use thalweg_tensor::ops::{Initializer, LeafKind};
use thalweg_tensor::{Array, Graph, Op};
use thalweg_tests::{compare, models, values};

fn reference(graph: &Graph, environment: &Environment) -> Vec<Array> {
    evaluate(graph, environment).expect("all leaves have values").outputs
}

/// The outputs of the graph's export, imported again, for the same values.
fn round_trip(graph: &Graph, environment: &Environment) -> Vec<Array> {
    let of_kind = |kind: LeafKind| {
        let of = move |((found, name), array): (&(LeafKind, String), &Array)| {
            (*found == kind).then(|| (name.clone(), array.to_literal()))
        };
        environment.iter().filter_map(of)
    };
    let weights: BTreeMap<String, Literal> =
        of_kind(LeafKind::Parameter).chain(of_kind(LeafKind::State)).collect();
    let bytes = encode(&export(graph, &weights).unwrap_or_else(|error| panic!("{}: {error}", graph.name)));
    let model =
        Model::read(bytes.into(), &|_| Err("nothing lies beside it".into())).expect("it was just written");
    let inputs: Vec<(String, HostValue)> =
        of_kind(LeafKind::Input).map(|(name, value)| (name, HostValue::Tensor(value, None))).collect();
    let ran = run(&model, &inputs, &mut |graph: &Graph, weights: &Tensors, tensors: &Tensors| {
        let leaf = |kind: LeafKind, from: &Tensors| -> Vec<_> {
            let value = |name: &str| Array::from_literal(&from[name]);
            graph.leaves(kind).map(|(_, leaf)| ((kind, leaf.name.to_string()), value(&leaf.name))).collect()
        };
        let all = [
            leaf(LeafKind::Input, tensors),
            leaf(LeafKind::Parameter, weights),
            leaf(LeafKind::State, weights),
        ];
        let environment: Environment = all.concat().into_iter().collect();
        let results = evaluate(graph, &environment)?;
        Ok(results.outputs.iter().map(Array::to_literal).collect())
    });
    let ran = ran.unwrap_or_else(|error: RunError<thalweg_tensor::eval::EvalError>| {
        panic!("{}: {error:?}", graph.name)
    });
    let array = |value: &HostValue| match value {
        HostValue::Tensor(literal, None) => Array::from_literal(literal),
        HostValue::Tensor(..) | HostValue::Sequence(_) | HostValue::Optional(_) => {
            panic!("{value:?} is no tensor of ours")
        }
    };
    ran.outputs.iter().take(graph.outputs.len()).map(|(_, value)| array(value)).collect()
}

/// The ops that the format has nothing for.
fn is_refused(op: &Op) -> bool {
    matches!(op, Op::Collective(_) | Op::Random(_))
}

#[test]
fn every_sample_of_every_op() {
    for (number, sample) in Op::all_samples().into_iter().enumerate() {
        let mut graph = Graph::new(format!("sample {number}: {:?}", sample.op));
        let operands: Vec<_> = sample
            .operands
            .iter()
            .enumerate()
            .map(|(at, (ty, _))| graph.input(&format!("x{at}"), ty.clone()))
            .collect();
        let node = graph.add(sample.op.clone(), &operands);
        for (at, id) in graph.picks(node).into_iter().enumerate() {
            graph.output(format!("y{at}"), id);
        }
        let arrays = values::operands(&sample, 3);
        let environment: Environment = arrays
            .into_iter()
            .enumerate()
            .map(|(at, array)| ((LeafKind::Input, format!("x{at}")), array))
            .collect();
        if is_refused(&sample.op) {
            assert!(export(&graph, &BTreeMap::new()).is_err(), "{}", graph.name);
            continue;
        }
        let expected = reference(&graph, &environment);
        let found = round_trip(&graph, &environment);
        let length: usize = sample.operands.iter().map(|(ty, _)| ty.elements().size()).max().unwrap_or(1);
        compare::assert_all_close(&graph.name, &expected, &found, length);
    }
}

#[test]
fn a_model_with_parameters() {
    let graph = models::perceptron(3, &[5, 7, 4]);
    let environment = values::environment(&graph, 5);
    let found = round_trip(&graph, &environment);
    compare::assert_all_close(&graph.name, &reference(&graph, &environment), &found, 64);
}

/// A size that is a symbol is computed from the inputs' shapes when the model runs.
#[test]
fn open_sizes_stay_open() {
    use thalweg_base::{DType, Dim, Scalar};
    use thalweg_tensor::TensorType;
    let mut graph = Graph::new("open");
    let n = Dim::symbol("n");
    let x = graph.input("x", TensorType { dtype: DType::F32, shape: vec![n.clone(), 4.into()] });
    let flat = graph.reshape(x, &[&n * &Dim::from(4)]);
    let w = graph.parameter("w", TensorType::new(DType::F32, [1]), Initializer::Constant(Scalar::Float(2.0)));
    let w = graph.reshape(w, &[]);
    let w = graph.broadcast(w, &[&n * &Dim::from(4)], &[]);
    let y = graph.pointwise(thalweg_base::PointwiseFn::Mul, &[flat, w]);
    graph.output("y", y);
    let weights = BTreeMap::from([("w".to_string(), Literal::from_f32(&[1], &[2.0]))]);
    let bytes = encode(&export(&graph, &weights).expect("it has nothing that the format lacks"));
    let model =
        Model::read(bytes.into(), &|_| Err("nothing lies beside it".into())).expect("it was just written");
    let mut import = thalweg_onnx::Import::new(&model, &Default::default()).expect("the inputs are tensors");
    let thalweg_onnx::Step::Done(imported) = import.advance().expect("it can be imported") else {
        panic!("no value of a run is needed")
    };
    let output = &imported.graph.outputs[0];
    assert_eq!(imported.graph.ty(output.node).to_string(), "f32[4*n]");
}
