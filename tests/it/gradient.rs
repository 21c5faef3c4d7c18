//! Gradients of every differentiable op against central finite differences in f64, and gradients of those gradients.

use std::collections::BTreeSet;
use std::sync::Arc;
use thalweg_base::{DType, PointwiseFn};
use thalweg_tensor::eval::{Environment, evaluate};
use thalweg_tensor::gradient::GradientError;
use thalweg_tensor::op::Fill;
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::verify::assert_valid;
use thalweg_tensor::{Array, Graph, NodeId, Op, Sample, gradients};
use thalweg_tests::{values, widen};

/// Half the distance between the two points of a central difference: its error is near 1e-10 in f64.
const STEP: f64 = 1e-5;

/// The largest error of a difference quotient, relative to 1 and to the derivative.
const TOLERANCE: f64 = 1e-6;

/// A graph of one op in f64, with a scalar that weighs all its results, and values for its inputs.
pub(crate) struct Probe {
    pub(crate) graph: Graph,
    pub(crate) scalar: NodeId,
    /// The inputs that a derivative may be taken by.
    pub(crate) inputs: Vec<NodeId>,
    pub(crate) environment: Environment,
}

impl Probe {
    pub(crate) fn new(sample: &Sample) -> Probe {
        let sample = widen::sample(sample);
        let mut graph = Graph::new(sample.op.name());
        let mut environment = Environment::new();
        let mut operands = Vec::new();
        for (index, value) in values::operands(&sample, 1).into_iter().enumerate() {
            let name = format!("x{index}");
            operands.push(graph.input(&name, sample.operands[index].0.clone()));
            environment.insert((LeafKind::Input, name), value);
        }
        let inputs = operands.iter().copied().filter(|id| graph.ty(*id).dtype.is_float()).collect();
        graph.current_scope = Arc::from("layer.0");
        let node = graph.add(sample.op.clone(), &operands);
        let single = graph.node(node).types.len() == 1 && sample.op.subgraphs().is_empty();
        let results = if single { vec![node] } else { graph.picks(node) };
        let scalar = weighted_sum(&mut graph, &results, 7);
        graph.current_scope = Arc::from("");
        Probe { graph, scalar, inputs, environment }
    }

    /// Adds the gradients of the scalar, and gives the probe of their weighted sum.
    pub(crate) fn derivative(&self) -> Result<(Probe, Vec<NodeId>), GradientError> {
        let mut graph = self.graph.clone();
        let grads = gradients(&mut graph, self.scalar, &self.inputs)?;
        assert_valid(&graph);
        let scalar = weighted_sum(&mut graph, &grads, 11);
        let (inputs, environment) = (self.inputs.clone(), self.environment.clone());
        Ok((Probe { graph, scalar, inputs, environment }, grads))
    }

    fn value(&self, of: &[NodeId], environment: &Environment) -> Vec<Array> {
        let mut graph = self.graph.clone();
        for (index, node) in of.iter().enumerate() {
            graph.output(format!("{index}"), *node);
        }
        evaluate(&graph.prune().0, environment).expect("every leaf has a value").outputs
    }

    /// Compares the gradients with difference quotients along one direction in each input.
    fn check(&self, derivative: &Probe, grads: &[NodeId]) {
        let grads = derivative.value(grads, &self.environment);
        for (index, (input, grad)) in self.inputs.iter().zip(&grads).enumerate() {
            let leaf = self.graph.node(*input).op.as_leaf().expect("inputs are leaves");
            let key = (LeafKind::Input, leaf.name.to_string());
            let direction = values::filled(&leaf.ty, Fill::Normal, 100 + index as u64);
            let moved = |step: f64| {
                let mut environment = self.environment.clone();
                let value = environment.get_mut(&key).expect("it has a value");
                for (value, along) in value.values.iter_mut().zip(&direction.values) {
                    *value = thalweg_base::Scalar::Float(value.to_f64() + step * along.to_f64());
                }
                self.value(&[self.scalar], &environment)[0].item().to_f64()
            };
            let quotient = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let products = grad.values.iter().zip(&direction.values).map(|(a, b)| a.to_f64() * b.to_f64());
            let slope: f64 = products.sum();
            let error = (quotient - slope).abs();
            assert!(
                error <= TOLERANCE * (1.0 + slope.abs()),
                "{}: the slope by {} is {slope}, but differences give {quotient}\n{}",
                self.graph.name,
                leaf.name,
                self.graph
            );
        }
    }
}

/// The sum of all elements of all nodes, each with a weight of its own.
fn weighted_sum(graph: &mut Graph, nodes: &[NodeId], seed: u64) -> NodeId {
    let mut sum = graph.scalar(DType::F64, thalweg_base::Scalar::Float(0.0));
    for (index, node) in nodes.iter().enumerate() {
        let ty = widen::ty(&graph.ty(*node).with_dtype(DType::F64));
        let weights = graph.constant(values::filled(&ty, Fill::Normal, seed + index as u64).to_literal());
        let wide = graph.convert(*node, DType::F64);
        let product = graph.pointwise(PointwiseFn::Mul, &[weights, wide]);
        let all: Vec<usize> = (0..ty.rank()).collect();
        let part = graph.reduce_sum(product, &all);
        sum = graph.pointwise(PointwiseFn::Add, &[sum, part]);
    }
    sum
}

/// The samples in f64, each once.
pub(crate) fn wide_samples() -> Vec<Sample> {
    let mut seen = BTreeSet::new();
    let samples = Op::all_samples().into_iter();
    samples.filter(|sample| seen.insert(format!("{:?}", widen::sample(sample)))).collect()
}

#[test]
fn gradients_are_the_slopes() {
    let mut refused = BTreeSet::new();
    let mut checked = BTreeSet::new();
    for sample in wide_samples() {
        let probe = Probe::new(&sample);
        let (first, grads) = match probe.derivative() {
            Ok(derivative) => derivative,
            Err(error) => {
                refused.insert((error.op, error.reason));
                continue;
            }
        };
        probe.check(&first, &grads);
        let (second, grads) = first.derivative().expect("what has a gradient has a second one");
        first.check(&second, &grads);
        if !probe.inputs.is_empty() {
            checked.insert(sample.op.name());
        }
    }
    assert_eq!(
        refused.into_iter().collect::<Vec<_>>(),
        [
            ("Collective", "graphs are differentiated before they are split over devices"),
            ("Cumulative", "only the cumulative sum has a derivative here"),
            ("While", "a loop of unknown length keeps no history; use a scan"),
        ]
    );
    // Only ops without a float operand are not among those that were checked, besides the ones above.
    let all: BTreeSet<&str> = Op::all_samples().iter().map(|sample| sample.op.name()).collect();
    let rest: Vec<&str> = all.difference(&checked).copied().collect();
    assert_eq!(rest, ["Collective", "Constant", "Iota", "Random", "While"]);
}

#[test]
fn only_float_scalars_are_differentiated() {
    let mut graph = Graph::new("vector");
    let x = graph.input("x", thalweg_tensor::TensorType::new(DType::F32, [3]));
    let error = gradients(&mut graph, x, &[x]).expect_err("a vector is no scalar");
    assert_eq!(error.reason, "only a floating-point scalar is differentiated");
}

/// What the scalar does not depend on has a gradient of zeros.
#[test]
fn independent_nodes_have_zero_gradients() {
    let mut graph = Graph::new("independent");
    let ty = thalweg_tensor::TensorType::new(DType::F32, [3]);
    let (x, y) = (graph.input("x", ty.clone()), graph.input("y", ty));
    let square = graph.contract("a,a->", x, x);
    let grads = gradients(&mut graph, square, &[x, y]).expect("it is differentiable");
    graph.output("dx", grads[0]);
    graph.output("dy", grads[1]);
    let environment = values::environment(&graph, 3);
    let results = evaluate(&graph, &environment).expect("every leaf has a value");
    let x = &environment[&(LeafKind::Input, "x".to_string())];
    let twice: Vec<f64> = x.values.iter().map(|value| 2.0 * value.to_f64()).collect();
    assert_eq!(results.outputs[0].values.iter().map(|v| v.to_f64()).collect::<Vec<_>>(), twice);
    assert!(results.outputs[1].values.iter().all(|value| value.to_f64() == 0.0));
}
