//! Random graphs: they verify, their text parses back, they evaluate, and what is all float has gradients.

use super::text;
use proptest::prelude::*;
use std::collections::BTreeSet;
use thalweg_tensor::eval::evaluate;
use thalweg_tensor::verify::assert_valid;
use thalweg_tensor::{Graph, NodeId, Op, gradients};
use thalweg_tests::random_graph::{self, RandomGraph};

fn check(random: &RandomGraph) {
    let RandomGraph { graph, environment } = random;
    text::check(graph);
    let results = evaluate(graph, environment).expect("every leaf has a value");
    assert_eq!(results.outputs.len() + results.updates.len(), graph.roots().count());
    let (pruned, _) = graph.prune();
    assert_eq!(evaluate(&pruned, environment).expect("leaves stay"), results, "pruning changes nothing");
    let wrt: Vec<NodeId> = graph
        .ids()
        .filter(|id| matches!(graph.node(*id).op, Op::Leaf(_)) && graph.ty(*id).dtype.is_float())
        .collect();
    let mut whole = graph.clone();
    let ends: Vec<NodeId> = graph.roots().filter(|id| graph.ty(*id).dtype.is_float()).collect();
    for end in ends {
        let all: Vec<usize> = (0..whole.ty(end).rank()).collect();
        let sum = whole.reduce_sum(end, &all);
        match gradients(&mut whole, sum, &wrt) {
            Ok(grads) => {
                for (leaf, grad) in wrt.iter().zip(grads) {
                    assert_eq!(whole.ty(*leaf), whole.ty(grad));
                }
            }
            Err(error) => assert!(["While", "Cumulative"].contains(&error.op), "{error}"),
        }
    }
    assert_valid(&whole);
    text::check(&whole);
}

proptest! {
    #![proptest_config(random_graph::cases(256))]

    #[test]
    fn graphs_are_good(random in random_graph::strategy()) {
        check(&random);
    }
}

/// The generator reaches every op that a graph on one device may hold, so no test passes for want of cases.
#[test]
fn the_generator_reaches_every_op() {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut sizes = Vec::new();
    for seed in 0..600u32 {
        let words = |i: u32| thalweg_base::random::threefry2x32([seed, 5], [i, 0])[0];
        let random = random_graph::random_graph(&(0..200).map(words).collect::<Vec<_>>());
        let graph: &Graph = &random.graph;
        seen.extend(graph.nodes().iter().map(|node| node.op.name()));
        sizes.push(graph.nodes().len());
    }
    let all: BTreeSet<&str> = Op::all_samples().iter().map(|sample| sample.op.name()).collect();
    let missed: Vec<&str> = all.difference(&seen).copied().collect();
    assert_eq!(missed, ["Collective"]);
    sizes.sort();
    assert!(
        (5..=60).contains(&sizes[sizes.len() / 2]),
        "the median graph has {} nodes",
        sizes[sizes.len() / 2]
    );
}
