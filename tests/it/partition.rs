//! Partitioned graphs give what the graph gives on one device.

use proptest::prelude::*;
use thalweg_base::{Layout, Symbol};
use thalweg_cost::{CostModel, presets};
use thalweg_partition::{PartitionError, Partitioned, Strategy, partition};
use thalweg_tensor::eval::{Environment, Results, evaluate, evaluate_on};
use thalweg_tensor::ops::{CollectiveKind, LeafKind};
use thalweg_tensor::verify::verify;
use thalweg_tensor::{Array, Graph, Mesh, NodeId, Op, ReduceFn, gradients};
use thalweg_tests::models::{self, Transformer, count};
use thalweg_tests::random_graph::{self, RandomGraph};
use thalweg_tests::{compare, pieces, values, widen};

/// Terms of the longest chain of sums and products that a test compares across: a step of training has thousands of
/// roundings between an input and an update.
const CHAIN: usize = 1 << 20;

fn cost() -> CostModel {
    CostModel::new(&presets::cpu_default(1))
}

fn line(size: usize) -> Mesh {
    Mesh::line("devices", size)
}

fn square() -> Mesh {
    Mesh { axes: vec![("data".into(), 2), ("model".into(), 2)] }
}

fn strategies() -> [Strategy; 3] {
    [Strategy::data(), Strategy::tensor(), Strategy::Auto]
}

/// Runs a split graph: every device gets its pieces of the leaves, and what all devices give is put together.
fn run(split: &Partitioned, environment: &Environment) -> Results {
    let devices = split.mesh.devices();
    let pieces = |device: usize| -> Environment {
        let piece = |((kind, name), value): (&(LeafKind, String), &Array)| {
            let layout = split.layout(*kind, name).expect("every leaf is laid out");
            ((*kind, name.clone()), pieces::piece(layout, value, &split.mesh, device))
        };
        environment.iter().map(piece).collect()
    };
    let environments: Vec<Environment> = (0..devices).map(pieces).collect();
    let results = evaluate_on(&split.graph, &split.mesh, &environments).expect("the pieces fit");
    let join = |layouts: &[Layout], of: &dyn Fn(&Results) -> &Vec<Array>| -> Vec<Array> {
        layouts
            .iter()
            .enumerate()
            .map(|(index, layout)| {
                let pieces: Vec<Array> = results.iter().map(|own| of(own)[index].clone()).collect();
                let whole = pieces::join(layout, &pieces, &split.mesh);
                for (device, piece) in pieces.iter().enumerate() {
                    assert_eq!(
                        *piece,
                        pieces::piece(layout, &whole, &split.mesh, device),
                        "devices agree on what they share"
                    );
                }
                whole
            })
            .collect()
    };
    Results {
        outputs: join(&split.outputs, &|own| &own.outputs),
        updates: join(&split.updates, &|own| &own.updates),
    }
}

/// Splits a graph, checks what is promised of the result, and compares it with one device. In f64, so that a wrong split
/// cannot hide behind rounding.
fn check(graph: &Graph, environment: &Environment, mesh: &Mesh, strategy: &Strategy) -> Partitioned {
    let graph = widen::graph(graph);
    let environment: Environment =
        environment.iter().map(|(key, value)| (key.clone(), widen::array(value))).collect();
    let what = format!("{} over {mesh:?} by {}", graph.name, strategy.name());
    let split = partition(&graph, mesh, strategy, &cost()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(verify(&split.graph), [], "{what}");
    assert!(split.outputs.iter().all(Layout::is_replicated), "{what}");
    for reshard in &split.reshards {
        let node = split.graph.node(reshard.node);
        assert!(matches!(&node.op, Op::Collective(own) if own.kind == reshard.kind), "{what}: {reshard:?}");
        assert!(!reshard.scope.is_empty(), "{what}: {reshard:?}");
        assert!(reshard.seconds.is_finite() && reshard.bytes >= 0.0, "{what}: {reshard:?}");
    }
    let collectives = count(&split.graph, |op| matches!(op, Op::Collective(_)));
    assert_eq!(collectives, split.reshards.len(), "{what}: every collective is named");
    for leaf in &split.leaves {
        let id = graph.leaf(leaf.kind, &leaf.name).expect("the leaves are the same");
        let local = split.graph.leaf(leaf.kind, &leaf.name).expect("the leaves are the same");
        let (whole, piece) = (graph.ty(id), split.graph.ty(local));
        let expected = (whole.dtype, leaf.layout.local_shape(&whole.sizes(), mesh));
        assert_eq!((piece.dtype, piece.sizes()), expected, "{what}: {}", leaf.name);
    }
    let expected = evaluate(&graph, &environment).expect("every leaf has a value");
    let found = run(&split, &environment);
    for (part, expected, found) in
        [("outputs", &expected.outputs, &found.outputs), ("updates", &expected.updates, &found.updates)]
    {
        for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
            compare::assert_close(&format!("{what}: {part} {index}"), expected, found, CHAIN, 1e3);
        }
    }
    split
}

fn check_model(graph: &Graph) {
    let environment = values::environment(graph, 5);
    for strategy in strategies() {
        for mesh in [line(1), line(2), line(3), line(4), square()] {
            check(graph, &environment, &mesh, &strategy);
        }
    }
    let hybrid = Strategy::PerAxis(vec![Strategy::data(), Strategy::tensor()]);
    check(graph, &environment, &square(), &hybrid);
    let hybrid = Strategy::PerAxis(vec![Strategy::tensor(), Strategy::data()]);
    check(graph, &environment, &square(), &hybrid);
}

const SMALL: Transformer = Transformer { batch: 4, sequence: 3, heads: 4, head: 2, vocabulary: 8, blocks: 1 };

#[test]
fn perceptrons() {
    check_model(&models::perceptron(12, &[8, 12, 4]));
    check_model(&models::perceptron_step(12, &[8, 12, 6]));
    // Neither the batch nor most of the layers make equal pieces.
    check_model(&models::perceptron_step(5, &[7, 4, 3]));
}

#[test]
fn convolutional_nets() {
    check_model(&models::convolutional_step(4, 4, 4));
}

#[test]
fn transformers() {
    check_model(&SMALL.forward());
    check_model(&SMALL.step());
}

#[test]
fn scans_and_random_values() {
    check_model(&models::recurrent_step(3, 4, 4));
}

/// A random graph whose values stay moderate: in all splits it gives the same.
fn check_random(random: &RandomGraph, mesh: &Mesh, strategy: &Strategy) {
    check(&random.graph, &random.environment, mesh, strategy);
    let Some(graph) = differentiated(random) else { return };
    check(&graph, &random.environment, mesh, strategy);
}

/// The graph with the gradient of the sum of its float outputs as further outputs; none where there is no gradient, or
/// where it is not moderate.
fn differentiated(random: &RandomGraph) -> Option<Graph> {
    let mut graph = random.graph.clone();
    let wrt: Vec<NodeId> = graph
        .ids()
        .filter(|id| matches!(graph.node(*id).op, Op::Leaf(_)) && graph.ty(*id).dtype.is_float())
        .collect();
    let end = graph.roots().find(|id| graph.ty(*id).dtype.is_float())?;
    let all: Vec<usize> = (0..graph.ty(end).rank()).collect();
    let sum = graph.reduce_sum(end, &all);
    let grads = gradients(&mut graph, sum, &wrt).ok()?;
    for (index, grad) in grads.into_iter().enumerate() {
        graph.output(format!("gradient{index}"), grad);
    }
    let results = evaluate(&widen::graph(&graph), &wide(&random.environment)).ok()?;
    let mut values = results.outputs.iter().flat_map(|array| &array.values);
    values.all(|value| value.to_f64().abs() < 1e3).then_some(graph)
}

fn wide(environment: &Environment) -> Environment {
    environment.iter().map(|(key, value)| (key.clone(), widen::array(value))).collect()
}

proptest! {
    #![proptest_config(random_graph::cases(128))]

    #[test]
    fn random_graphs_split(random in random_graph::strategy(), mesh in 0..4usize, strategy in 0..3usize) {
        let meshes = [line(2), line(3), line(4), square()];
        check_random(&random, &meshes[mesh], &strategies()[strategy]);
    }
}

fn kinds(split: &Partitioned) -> Vec<CollectiveKind> {
    let sends = |kind: &CollectiveKind| !matches!(kind, CollectiveKind::Shard { .. });
    split.reshards.iter().map(|reshard| reshard.kind).filter(sends).collect()
}

/// Data parallel training is the textbook's: one all-reduce for each parameter's gradient, one for the loss, no more.
#[test]
fn data_parallel_all_reduces_gradients() {
    let graph = models::perceptron_step(64, &[32, 48, 16]);
    let split = partition(&graph, &line(4), &Strategy::data(), &cost()).expect("it splits");
    let sum = CollectiveKind::AllReduce { function: ReduceFn::Sum };
    assert_eq!(kinds(&split), [sum; 5]);
    assert_eq!(split.layout(LeafKind::Input, "x"), Some(&Layout { cuts: vec![("devices".into(), 0)] }));
    let whole = split.leaves.iter().filter(|leaf| leaf.kind != LeafKind::Input);
    assert!(whole.into_iter().all(|leaf| leaf.layout.is_replicated()));
    let products = |graph: &Graph| graph.work().flops;
    assert!(products(&split.graph) < 0.3 * products(&graph), "the work is shared");
}

/// The seconds of all that is sent in a scope.
fn sent_seconds(split: &Partitioned, scope: &str) -> f64 {
    let within = split.reshards.iter().filter(|own| own.scope.starts_with(scope));
    within.map(|own| own.seconds).sum()
}

/// The seconds of an all-reduce of that many f32 on four devices.
fn all_reduce_seconds(elements: usize) -> f64 {
    let kind = CollectiveKind::AllReduce { function: ReduceFn::Sum };
    thalweg_cost::collective_seconds(kind, 4.0 * elements as f64, 4, &cost().link)
}

/// Tensor parallel layers are Megatron's (Shoeybi et al., 2019): the first weight cut by columns, the second by rows, and
/// one all-reduce after both, or a reduce-scatter and an all-gather, which send as much.
#[test]
fn tensor_parallel_pairs_columns_with_rows() {
    let graph = models::perceptron(64, &[256, 1024, 256]);
    let split = partition(&graph, &line(4), &Strategy::tensor(), &cost()).expect("it splits");
    let cut = |dim| Some(Layout { cuts: vec![("devices".into(), dim)] });
    assert_eq!(split.layout(LeafKind::Parameter, "layer.0.weight").cloned(), cut(1));
    assert_eq!(split.layout(LeafKind::Parameter, "layer.0.bias").cloned(), cut(0));
    assert_eq!(split.layout(LeafKind::Parameter, "layer.1.weight").cloned(), cut(0));
    let (sent, expected) = (sent_seconds(&split, ""), all_reduce_seconds(64 * 256));
    assert!(sent < 1.1 * expected, "{sent} is more than {expected}: {:#?}", split.reshards);
}

/// Attention splits by heads, and each block sends about as much as two all-reduces.
#[test]
fn tensor_parallel_attention_splits_heads() {
    let model = Transformer { batch: 2, sequence: 64, heads: 8, head: 32, vocabulary: 512, blocks: 2 };
    let split = partition(&model.forward(), &line(4), &Strategy::tensor(), &cost()).expect("it splits");
    let cut = |name: &str| {
        let layout = split.layout(LeafKind::Parameter, name).expect("it is a parameter");
        layout.cuts.first().map(|(_, dim)| *dim)
    };
    for block in ["block.0", "block.1"] {
        for (name, dim) in
            [("query", 1), ("key", 1), ("value", 1), ("output", 0), ("mlp.up", 1), ("mlp.down", 0)]
        {
            assert_eq!(cut(&format!("{block}.{name}")), Some(dim), "{block}.{name}\n{:#?}", split.reshards);
        }
        let (sent, expected) = (sent_seconds(&split, block), 2.0 * all_reduce_seconds(2 * 64 * 256));
        assert!(sent < 1.3 * expected, "{block}: {sent} is more than {expected}: {:#?}", split.reshards);
    }
}

/// Over a mesh of two axes the batch goes along one and the weights along the other.
#[test]
fn hybrid_cuts_batch_and_weights() {
    let graph = models::perceptron_step(64, &[32, 48, 16]);
    let hybrid = Strategy::PerAxis(vec![Strategy::data(), Strategy::tensor()]);
    let split = partition(&graph, &square(), &hybrid, &cost()).expect("it splits");
    let cuts = |kind, name| split.layout(kind, name).expect("it is a leaf").cuts.clone();
    assert_eq!(cuts(LeafKind::Input, "x"), [("data".to_string(), 0)]);
    assert_eq!(cuts(LeafKind::Parameter, "layer.0.weight"), [("model".to_string(), 1)]);
    assert_eq!(cuts(LeafKind::Parameter, "layer.1.weight"), [("model".to_string(), 0)]);
    assert_eq!(
        split.layout(LeafKind::State, "layer.0.weight.velocity").expect("it is a leaf").cuts,
        [("model".to_string(), 1)]
    );
}

/// The search may leave a graph on one device, and never returns what it thinks slower.
#[test]
fn auto_is_never_worse() {
    let large = Transformer { batch: 8, sequence: 64, heads: 8, head: 32, vocabulary: 512, blocks: 1 };
    let graphs = [
        models::perceptron_step(4, &[4, 4]),
        models::perceptron_step(512, &[256, 1024, 256]),
        large.step(),
        models::convolutional_step(8, 16, 16),
    ];
    for graph in graphs {
        for size in [2, 4] {
            let auto = partition(&graph, &line(size), &Strategy::Auto, &cost()).expect("it splits");
            let explained = &auto.explanation.axes[0];
            for (name, seconds) in &explained.considered {
                assert!(
                    auto.seconds <= seconds * (1.0 + 1e-9),
                    "{} on {size}: {name} {seconds} beats {}",
                    graph.name,
                    auto.seconds
                );
            }
            for strategy in [Strategy::data(), Strategy::tensor()] {
                let other = partition(&graph, &line(size), &strategy, &cost()).expect("it splits");
                assert!(
                    auto.seconds <= other.seconds * (1.0 + 1e-9),
                    "{} on {size} {}",
                    graph.name,
                    strategy.name()
                );
            }
            assert!(auto.seconds <= cost().graph_seconds(&graph) * (1.0 + 1e-9), "{} on {size}", graph.name);
        }
    }
}

/// A large product is worth splitting, a small one is not.
#[test]
fn auto_splits_what_is_worth_it() {
    let sends = |split: &Partitioned| !kinds(split).is_empty();
    let small = partition(&models::perceptron_step(4, &[4, 4]), &line(4), &Strategy::Auto, &cost());
    assert!(!sends(&small.expect("it splits")));
    let graph = models::perceptron_step(512, &[256, 1024, 256]);
    let large = partition(&graph, &line(4), &Strategy::Auto, &cost()).expect("it splits");
    assert!(
        large.seconds < 0.5 * cost().graph_seconds(&graph),
        "{} of {}",
        large.seconds,
        cost().graph_seconds(&graph)
    );
}

#[test]
fn splitting_is_deterministic_and_explained() {
    let graph = SMALL.step();
    let split = || partition(&graph, &square(), &Strategy::Auto, &cost()).expect("it splits");
    let (one, two) = (split(), split());
    assert_eq!(one.graph, two.graph);
    assert_eq!(one.explanation.to_string(), two.explanation.to_string());
    assert_eq!(one.explanation.axes.len(), 2);
    let first = &one.explanation.axes[0];
    assert!(first.choices.iter().all(|choice| choice.node.is_some() && !choice.alternatives.is_empty()));
    let odd = partition(&models::perceptron_step(5, &[7, 4, 3]), &line(2), &Strategy::data(), &cost());
    let notes = odd.expect("it splits").explanation.axes.remove(0).notes;
    assert_eq!(notes[0], "`x` stays whole: dim 0 of f32[5, 7] makes no 2 equal pieces");
}

#[test]
fn the_batch_may_be_a_symbol() {
    use thalweg_base::{DType, Dim};
    let mut graph = Graph::new("symbolic");
    let batch = Dim::symbol("batch");
    let ty = thalweg_tensor::TensorType::new(DType::F32, [Dim::from(3), batch]);
    let x = graph.input("x", ty.clone());
    let mask = graph.input("mask", thalweg_tensor::TensorType::new(DType::F32, [3]));
    let mask = graph.broadcast(mask, &ty.shape, &[0]);
    let y = graph.pointwise(thalweg_base::PointwiseFn::Mul, &[x, mask]);
    graph.output("y", y);
    let strategy = Strategy::data_along(&graph, &Symbol::new("batch"));
    assert_eq!(
        partition(&graph, &line(2), &strategy, &cost()).err(),
        Some(PartitionError::Symbol("batch".into()))
    );
    let bound = graph.substitute(&[(Symbol::new("batch"), Dim::from(4))].into());
    let split = check(&bound, &values::environment(&bound, 1), &line(2), &strategy);
    assert_eq!(split.layout(LeafKind::Input, "x"), Some(&Layout { cuts: vec![("devices".into(), 1)] }));
    assert_eq!(split.layout(LeafKind::Input, "mask"), Some(&Layout::default()));
}

#[test]
fn what_cannot_be_split_is_an_error() {
    let graph = models::perceptron(4, &[4, 4]);
    let of = |mesh: &Mesh, strategy: &Strategy| partition(&graph, mesh, strategy, &cost()).err();
    let named = |name: &str, dim| Strategy::Data { dims: [(name.to_string(), dim)].into() };
    let leaf = |name: &str, dim| Some(PartitionError::Leaf { name: name.into(), dim });
    assert_eq!(of(&line(2), &named("z", 0)), leaf("z", 0));
    assert_eq!(of(&line(2), &named("x", 2)), leaf("x", 2));
    assert_eq!(of(&line(2), &named("layer.0.weight", 0)), leaf("layer.0.weight", 0));
    assert_eq!(of(&line(0), &Strategy::Auto), Some(PartitionError::Mesh("devices".into())));
    let one = Strategy::PerAxis(vec![Strategy::Auto]);
    assert_eq!(of(&square(), &one), Some(PartitionError::Axes { expected: 2, found: 1 }));
    let split = partition(&graph, &line(2), &Strategy::data(), &cost()).expect("it splits");
    let again = partition(&split.graph, &line(2), &Strategy::data(), &cost()).err();
    assert_eq!(again, Some(PartitionError::Split("devices".into())));
}

/// Random splits reach every kind of collective, so that none goes untested.
#[test]
fn random_splits_reach_every_collective() {
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..200u32 {
        let words = |i: u32| thalweg_base::random::threefry2x32([seed, 9], [i, 0])[0];
        let random = random_graph::random_graph(&(0..160).map(words).collect::<Vec<_>>());
        for strategy in strategies() {
            let split = partition(&random.graph, &line(2), &strategy, &cost()).expect("it splits");
            for reshard in split.reshards {
                let name = format!("{:?}", reshard.kind);
                *seen.entry(name.split(' ').next().unwrap_or("").to_string()).or_insert(0) += 1;
            }
        }
    }
    let kinds: Vec<&str> = seen.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["AllGather", "AllReduce", "AllToAll", "ReduceScatter", "Shard"], "{seen:?}");
}
