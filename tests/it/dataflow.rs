//! petgraph's algorithms on our graphs, through the view.

use petgraph::algo::{dominators, is_cyclic_directed, toposort};
use petgraph::visit::{Dfs, Reversed};
use proptest::prelude::*;
use thalweg_tensor::{Graph, NodeId, view::Dataflow};
use thalweg_tests::random_graph;

fn check(graph: &Graph) {
    let flow = Dataflow::new(graph);
    assert!(!is_cyclic_directed(&flow));
    let order = toposort(&flow, None).expect("a dataflow graph has no cycle");
    let mut position = vec![usize::MAX; graph.nodes().len()];
    for (at, id) in order.iter().enumerate() {
        position[id.index()] = at;
    }
    for id in graph.ids() {
        for operand in &graph.node(id).operands {
            assert!(position[operand.index()] < position[id.index()], "{operand} before {id}");
        }
    }
}

proptest! {
    #![proptest_config(random_graph::cases(256))]

    #[test]
    fn graphs_sort_and_have_no_cycle(random in random_graph::strategy()) {
        check(&random.graph);
    }
}

/// In a diamond `x -> (a, b) -> y -> z`, each of `a` and `b` is passed by, so `y` is dominated by `x` alone.
#[test]
fn dominators_of_a_diamond() {
    use thalweg_base::{DType, PointwiseFn};
    let mut graph = Graph::new("diamond");
    let x = graph.input("x", thalweg_tensor::TensorType::new(DType::F32, [2]));
    let a = graph.pointwise(PointwiseFn::Sin, &[x]);
    let b = graph.pointwise(PointwiseFn::Cos, &[x]);
    let y = graph.pointwise(PointwiseFn::Add, &[a, b]);
    graph.pointwise(PointwiseFn::Neg, &[y]);
    let flow = Dataflow::new(&graph);
    let found = dominators::simple_fast(&flow, x);
    let immediate: Vec<Option<NodeId>> = graph.ids().map(|id| found.immediate_dominator(id)).collect();
    assert_eq!(immediate, [None, Some(x), Some(x), Some(x), Some(y)]);
    let mut reached = Vec::new();
    let reversed = Reversed(&flow);
    let mut walk = Dfs::new(reversed, b);
    while let Some(id) = walk.next(reversed) {
        reached.push(id);
    }
    assert_eq!(reached, [b, x]);
}
