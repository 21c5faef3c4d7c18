//! Whole graphs: what training an MLP and a transformer make, what repeats, what is kept.

use super::assert_same_results;
use crate::{Class, Options, Report, StopReason, rewrite};
use thalweg_base::{DType, Dim, PointwiseFn as F, Scalar};
use thalweg_cost::{CostModel, presets};
use thalweg_tensor::ops::{Initializer, LeafKind, Scan};
use thalweg_tensor::verify::assert_valid;
use thalweg_tensor::{Graph, NodeId, Op, ReduceFn, TensorType, gradients};

fn cost() -> CostModel {
    CostModel::new(&presets::cpu_default(2))
}

fn f32s(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape.iter().copied())
}

fn dims(sizes: &[usize]) -> Vec<Dim> {
    sizes.iter().map(|size| Dim::from(*size)).collect()
}

fn normal() -> Initializer {
    Initializer::Normal { mean: Scalar::Float(0.0), deviation: Scalar::Float(0.1) }
}

/// One value like another.
fn like(graph: &mut Graph, x: NodeId, value: f64) -> NodeId {
    let ty = graph.ty(x).clone();
    graph.full(&ty, Scalar::Float(value))
}

/// A vector repeated along all dims but the last of `x`.
fn along_last(graph: &mut Graph, vector: NodeId, x: NodeId) -> NodeId {
    let shape = graph.ty(x).shape.clone();
    graph.broadcast(vector, &shape, &[shape.len() - 1])
}

/// `log softmax` along the last dim, written as the exponential normalized and its logarithm.
fn log_softmax(graph: &mut Graph, x: NodeId) -> NodeId {
    let softmax = softmax(graph, x);
    graph.pointwise(F::Log, &[softmax])
}

fn softmax(graph: &mut Graph, x: NodeId) -> NodeId {
    let shape = graph.ty(x).shape.clone();
    let last = shape.len() - 1;
    let most = graph.reduce(ReduceFn::Max, x, &[last]);
    let most = graph.unreduce(most, &shape, &[last]);
    let shifted = graph.pointwise(F::Sub, &[x, most]);
    let exp = graph.pointwise(F::Exp, &[shifted]);
    let sum = graph.reduce_sum(exp, &[last]);
    let sum = graph.unreduce(sum, &shape, &[last]);
    graph.pointwise(F::Div, &[exp, sum])
}

/// Adds an AdamW step for every parameter.
fn adam(graph: &mut Graph, loss: NodeId) {
    let parameters: Vec<(NodeId, String)> =
        graph.leaves(LeafKind::Parameter).map(|(id, leaf)| (id, leaf.name.to_string())).collect();
    let ids: Vec<NodeId> = parameters.iter().map(|(id, _)| *id).collect();
    let grads = gradients(graph, loss, &ids).unwrap();
    for ((parameter, name), grad) in parameters.into_iter().zip(grads) {
        graph.current_scope = format!("adam.{name}").into();
        let ty = graph.ty(parameter).clone();
        let zero = || Initializer::Constant(Scalar::Float(0.0));
        let m = graph.state(&format!("{name}.m"), ty.clone(), zero());
        let v = graph.state(&format!("{name}.v"), ty, zero());
        let decayed = |graph: &mut Graph, old: NodeId, new: NodeId, rate: f64| {
            let keep = like(graph, old, rate);
            let take = like(graph, old, 1.0 - rate);
            let kept = graph.pointwise(F::Mul, &[old, keep]);
            let taken = graph.pointwise(F::Mul, &[new, take]);
            graph.pointwise(F::Add, &[kept, taken])
        };
        let m_new = decayed(graph, m, grad, 0.9);
        let square = graph.pointwise(F::Mul, &[grad, grad]);
        let v_new = decayed(graph, v, square, 0.99);
        let root = graph.pointwise(F::Sqrt, &[v_new]);
        let small = like(graph, root, 1e-4);
        let root = graph.pointwise(F::Add, &[root, small]);
        let step = graph.pointwise(F::Div, &[m_new, root]);
        let rate = like(graph, step, 0.125);
        let step = graph.pointwise(F::Mul, &[step, rate]);
        let new = graph.pointwise(F::Sub, &[parameter, step]);
        graph.update(name.clone(), new);
        graph.update(format!("{name}.m"), m_new);
        graph.update(format!("{name}.v"), v_new);
    }
}

/// Training of a classifier with hidden layers of these sizes.
fn mlp(batch: usize, sizes: &[usize]) -> Graph {
    let mut graph = Graph::new("mlp");
    let mut x = graph.input("x", f32s(&[batch, sizes[0]]));
    let classes = sizes[sizes.len() - 1];
    let labels = graph.input("labels", f32s(&[batch, classes]));
    for (layer, pair) in sizes.windows(2).enumerate() {
        graph.current_scope = format!("layer.{layer}").into();
        let w = graph.parameter(&format!("w{layer}"), f32s(&[pair[0], pair[1]]), normal());
        let b = graph.parameter(&format!("b{layer}"), f32s(&[pair[1]]), normal());
        let y = graph.contract("mk,kn->mn", x, w);
        let b = along_last(&mut graph, b, y);
        x = graph.pointwise(F::Add, &[y, b]);
        if layer + 2 < sizes.len() {
            let zero = like(&mut graph, x, 0.0);
            x = graph.pointwise(F::Max, &[x, zero]);
        }
    }
    graph.current_scope = "loss".into();
    let logs = log_softmax(&mut graph, x);
    let picked = graph.pointwise(F::Mul, &[logs, labels]);
    let sum = graph.reduce_sum(picked, &[0, 1]);
    let count = graph.scalar(DType::F32, Scalar::Float(batch as f64));
    let mean = graph.pointwise(F::Div, &[sum, count]);
    let loss = graph.pointwise(F::Neg, &[mean]);
    graph.output("loss", loss);
    adam(&mut graph, loss);
    graph
}

fn layer_norm(graph: &mut Graph, x: NodeId, name: &str) -> NodeId {
    let shape = graph.ty(x).shape.clone();
    let last = shape.len() - 1;
    let width = shape[last].size() as f64;
    let mean_over = |graph: &mut Graph, x: NodeId| {
        let sum = graph.reduce_sum(x, &[last]);
        let count = like(graph, sum, width);
        let mean = graph.pointwise(F::Div, &[sum, count]);
        graph.unreduce(mean, &shape, &[last])
    };
    let mean = mean_over(graph, x);
    let centred = graph.pointwise(F::Sub, &[x, mean]);
    let two = like(graph, centred, 2.0);
    let square = graph.pointwise(F::Pow, &[centred, two]);
    let variance = mean_over(graph, square);
    let small = like(graph, variance, 1e-5);
    let variance = graph.pointwise(F::Add, &[variance, small]);
    let deviation = graph.pointwise(F::Sqrt, &[variance]);
    let scaled = graph.pointwise(F::Div, &[centred, deviation]);
    let vector = f32s(&[shape[last].size()]);
    let gain = graph.parameter(&format!("{name}.gain"), vector.clone(), normal());
    let bias = graph.parameter(&format!("{name}.bias"), vector, normal());
    let gain = along_last(graph, gain, scaled);
    let y = graph.pointwise(F::Mul, &[scaled, gain]);
    let bias = along_last(graph, bias, y);
    graph.pointwise(F::Add, &[y, bias])
}

/// A transformer of that many blocks; its training where `train`.
fn transformer(blocks: usize, [batch, length, heads, width]: [usize; 4], train: bool) -> Graph {
    let mut graph = Graph::new("transformer");
    let model = heads * width;
    let mut x = graph.input("x", f32s(&[batch, length, model]));
    let target = graph.input("target", f32s(&[batch, length, model]));
    for block in 0..blocks {
        graph.current_scope = format!("block.{block}.attention").into();
        let name = |part: &str| format!("block.{block}.{part}");
        let normed = layer_norm(&mut graph, x, &name("norm1"));
        let [q, k, v] = ["q", "k", "v"].map(|part| {
            let w = graph.parameter(&name(part), f32s(&[model, heads, width]), normal());
            let y = graph.contract("bsd,dhe->bshe", normed, w);
            graph.transpose(y, &[0, 2, 1, 3])
        });
        let scale = like(&mut graph, q, 1.0 / (width as f64).sqrt());
        let q = graph.pointwise(F::Mul, &[q, scale]);
        let scores = graph.contract("bhse,bhte->bhst", q, k);
        let weights = softmax(&mut graph, scores);
        let mixed = graph.contract("bhst,bhte->bhse", weights, v);
        let mixed = graph.transpose(mixed, &[0, 2, 1, 3]);
        let mixed = graph.reshape(mixed, &dims(&[batch, length, model]));
        let w = graph.parameter(&name("out"), f32s(&[model, model]), normal());
        let y = graph.contract("bsd,de->bse", mixed, w);
        x = graph.pointwise(F::Add, &[x, y]);
        graph.current_scope = format!("block.{block}.mlp").into();
        let normed = layer_norm(&mut graph, x, &name("norm2"));
        let up = graph.parameter(&name("up"), f32s(&[model, 4 * model]), normal());
        let down = graph.parameter(&name("down"), f32s(&[4 * model, model]), normal());
        let hidden = graph.contract("bsd,de->bse", normed, up);
        let root = like(&mut graph, hidden, std::f64::consts::FRAC_1_SQRT_2);
        let inner = graph.pointwise(F::Mul, &[hidden, root]);
        let erf = graph.pointwise(F::Erf, &[inner]);
        let one = like(&mut graph, erf, 1.0);
        let gate = graph.pointwise(F::Add, &[erf, one]);
        let half = like(&mut graph, gate, 0.5);
        let gate = graph.pointwise(F::Mul, &[gate, half]);
        let hidden = graph.pointwise(F::Mul, &[hidden, gate]);
        let y = graph.contract("bsd,de->bse", hidden, down);
        x = graph.pointwise(F::Add, &[x, y]);
    }
    graph.current_scope = "loss".into();
    let error = graph.pointwise(F::Sub, &[x, target]);
    let square = graph.pointwise(F::Mul, &[error, error]);
    let loss = graph.reduce_sum(square, &[0, 1, 2]);
    graph.output("loss", loss);
    if train {
        adam(&mut graph, loss);
    }
    graph
}

fn check(graph: &Graph) -> (Graph, Report) {
    let (result, report) = rewrite(graph, &Options::default(), &cost());
    assert_valid(&result);
    for kind in [LeafKind::Input, LeafKind::Parameter, LeafKind::State] {
        let leaves = |graph: &Graph| graph.leaves(kind).map(|(_, leaf)| leaf.clone()).collect::<Vec<_>>();
        assert_eq!(leaves(graph), leaves(&result));
    }
    let names = |graph: &Graph| graph.outputs.iter().map(|output| output.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(graph), names(&result));
    assert!(report.cost_after <= report.cost_before, "{report}");
    let again = rewrite(graph, &Options::default(), &cost());
    assert_eq!((&result, &report), (&again.0, &again.1), "the same input gives the same output");
    (result, report)
}

#[test]
fn training_an_mlp_gives_the_same_and_is_cheaper() {
    let graph = mlp(5, &[6, 7, 4, 3]);
    let (result, report) = check(&graph);
    for seed in 0..3 {
        assert_same_results(&graph, &result, seed);
    }
    assert!(report.cost_after < 0.95 * report.cost_before, "{report}");
    let divisions = |graph: &Graph| {
        let is_division = |op: &Op| matches!(op, Op::Pointwise(op) if op.function == F::Div);
        graph.nodes().iter().filter(|node| is_division(&node.op)).count()
    };
    assert!(divisions(&result) < divisions(&graph));
}

#[test]
fn a_transformer_gives_the_same_and_blocks_are_rewritten_once() {
    let graph = transformer(2, [1, 3, 2, 2], true);
    let (result, _) = check(&graph);
    assert_same_results(&graph, &result, 1);
    let deep = transformer(24, [2, 64, 4, 16], true);
    let (result, report) = check(&deep);
    assert!(report.regions >= 72 && report.regions_unique <= 14, "{report}");
    assert!(result.nodes().len() < deep.nodes().len());
    assert!(report.cost_after < 0.95 * report.cost_before, "{report}");
}

#[test]
fn nodes_keep_scopes_of_what_they_came_from() {
    let graph = transformer(24, [2, 16, 2, 8], false);
    let (result, _) = check(&graph);
    for block in 0..24 {
        for part in ["attention", "mlp"] {
            let scope = format!("block.{block}.{part}");
            let count = |graph: &Graph| graph.nodes().iter().filter(|node| *node.scope == *scope).count();
            assert!(count(&result) > 0 && count(&result) <= count(&graph), "{scope}");
        }
    }
}

/// Many small products of one operand become one: what they share pays only when all of them switch.
#[test]
fn products_of_one_operand_are_merged_where_that_is_cheaper() {
    let build = |count: usize| {
        let mut graph = Graph::new("heads");
        let x = graph.input("x", f32s(&[2048, 64]));
        for index in 0..count {
            let w = graph.parameter(&format!("w{index}"), f32s(&[64, 4]), normal());
            let y = graph.contract("mk,kn->mn", x, w);
            graph.output(format!("y{index}"), y);
        }
        graph
    };
    let products =
        |graph: &Graph| graph.nodes().iter().filter(|node| matches!(node.op, Op::Contract(_))).count();
    let (many, report) = check(&build(8));
    assert_eq!(products(&many), 1, "{report}\n{many}");
    let (one, _) = check(&build(1));
    assert_eq!(products(&one), 1);
}

#[test]
fn symbols_and_sub_graphs_are_rewritten() {
    let mut graph = Graph::new("symbolic");
    let rows = Dim::symbol("rows");
    let x = graph.input("x", TensorType::new(DType::F32, [rows.clone(), 8.into()]));
    let w = graph.parameter("w", f32s(&[8, 4]), normal());
    let turned = graph.transpose(x, &[1, 0]);
    let back = graph.transpose(turned, &[1, 0]);
    let y = graph.contract("mk,kn->mn", back, w);
    let flat = graph.reshape(y, &[&rows * &Dim::from(4)]);
    let again = graph.reshape(flat, &[rows.clone(), 4.into()]);
    graph.output("y", again);
    let (result, _) = check(&graph);
    assert_eq!(result.nodes().len(), 3);

    let mut body = Graph::new("body");
    let carry = body.input("carry", f32s(&[3]));
    let item = body.input("item", f32s(&[3]));
    let negated = body.pointwise(F::Neg, &[item]);
    let twice = body.pointwise(F::Neg, &[negated]);
    let next = body.pointwise(F::Add, &[carry, twice]);
    body.output("carry", next);
    let sample = <Scan as thalweg_tensor::OpDef>::samples();
    let Op::Scan(scan) = &sample[0].op else { panic!("samples of scan are scans") };
    let scan = Scan { body: std::sync::Arc::new(body), ..scan.clone() };
    let mut graph = Graph::new("loop");
    let start = graph.input("start", f32s(&[3]));
    let items = graph.input("items", f32s(&[scan.length.size(), 3]));
    let results = graph.scan(scan, &[start, items]).unwrap();
    graph.output("sum", results[0]);
    let (result, report) = check(&graph);
    assert_same_results(&graph, &result, 3);
    let body = result.nodes().iter().flat_map(|node| node.op.subgraphs()).next().unwrap();
    assert_eq!(body.nodes().len(), 3, "{report}");
}

#[test]
fn fuel_and_classes_bound_what_is_done() {
    let graph = mlp(5, &[6, 7, 3]);
    let with = |options: Options| rewrite(&graph, &options, &cost());
    let fired = |report: &Report| report.rules.iter().map(|(_, times)| times).sum::<usize>();
    for fuel in [0, 1, 4, 9] {
        let (result, report) = with(Options { fuel: Some(fuel), ..Options::default() });
        assert_eq!(fired(&report), fuel);
        assert_eq!(report.stop, StopReason::FuelSpent);
        assert_same_results(&graph, &result, 5);
    }
    let (result, report) = with(Options { classes: vec![Class::Exact], ..Options::default() });
    assert_same_results(&graph, &result, 6);
    let class = |name: &String| {
        crate::rules::all().iter().find(|rule| rule.name == name).expect("reports name rules").class
    };
    assert!(report.rules.iter().all(|(name, _)| class(name) == Class::Exact));
    let (_, report) = with(Options { node_limit: 150, ..Options::default() });
    assert_eq!(report.stop, StopReason::NodeLimit);
    let json = serde_json::to_string(&report).unwrap();
    let read = serde_json::from_str::<Report>(&json).unwrap();
    assert_eq!((read.to_string(), read.rules), (report.to_string(), report.rules));
}

/// The e-graphs of a graph in which nothing repeats grow with the graph, and no faster.
#[test]
fn layers_that_differ_cost_what_they_are() {
    let sizes = |count: usize| (0..count).map(|n| (n * 37) % 201 + 3).collect::<Vec<_>>();
    let of = |count: usize| rewrite(&mlp(64, &sizes(count)), &Options::default(), &cost()).1;
    let (few, many) = (of(10), of(40));
    assert!(many.regions_unique > few.regions_unique, "{many}");
    assert!(many.e_nodes < 5 * few.e_nodes, "{few}{many}");
    assert_eq!(many.stop, StopReason::Saturated);
}
