//! One region: built as an e-graph, saturated, extracted.

use crate::extract::{Choices, RELATIVE_GAIN_MIN};
use crate::facts::{FactsAnalysis, TensorGraph};
use crate::lang::{ENode, OpRef};
use crate::regions::Shape;
use crate::rules::Table;
use crate::saturate::{Limits, Outcome, saturate};
use egg::{Id, Language};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use thalweg_base::{Bindings, Dim};
use thalweg_cost::CostModel;
use thalweg_tensor::{Op, TensorType};

/// What a region is replaced by: ops, their operands as earlier positions, and the position in the region that each came
/// from. Inputs of the region stand as its leaves.
pub(crate) struct Replacement {
    pub(crate) nodes: Vec<(OpRef, Vec<u32>, u32)>,
    pub(crate) outputs: Vec<u32>,
}

/// What became of a region.
pub(crate) struct Rewritten {
    /// Absent where nothing cheaper was found.
    pub(crate) replacement: Option<Replacement>,
    pub(crate) outcome: Outcome,
    pub(crate) e_nodes: usize,
    pub(crate) e_classes: usize,
}

/// The size that stands for a symbol when costs are compared: sizes are bound before anything runs, but rewriting may
/// come first.
const SYMBOL_SIZE: i64 = 128;

/// Seconds of an op, with symbols bound to a common size.
pub(crate) fn op_seconds(cost: &CostModel, op: &Op, operands: &[TensorType], results: &[TensorType]) -> f64 {
    let constant = |ty: &TensorType| ty.shape.iter().all(|dim| dim.as_constant().is_some());
    if operands.iter().chain(results).all(constant) && op.subgraphs().is_empty() {
        return cost.op_seconds(op, operands, results);
    }
    let mut symbols = std::collections::BTreeSet::new();
    let mut op = op.clone();
    for dim in operands.iter().chain(results).flat_map(|ty| &ty.shape) {
        dim.symbols(&mut symbols);
    }
    for graph in op.subgraphs() {
        symbols.extend(graph.symbols());
    }
    for dim in op.dims_mut() {
        dim.symbols(&mut symbols);
    }
    let bindings: Bindings = symbols.into_iter().map(|symbol| (symbol, Dim::constant(SYMBOL_SIZE))).collect();
    let bind = |types: &[TensorType]| types.iter().map(|ty| ty.substitute(&bindings)).collect::<Vec<_>>();
    cost.op_seconds(&op.substitute(&bindings), &bind(operands), &bind(results))
}

/// The e-graph of a region, and the class of each position.
pub(crate) fn build(shape: &Shape) -> (TensorGraph, Vec<Id>) {
    let mut egraph = TensorGraph::new(FactsAnalysis::default());
    let mut classes: Vec<Id> = Vec::with_capacity(shape.nodes.len());
    for (at, (op, operands)) in shape.nodes.iter().enumerate() {
        egraph.analysis.origin = at as u32;
        let operands = operands.iter().map(|operand| classes[*operand as usize]);
        classes.push(egraph.add(ENode::new(op.clone(), operands)));
    }
    (egraph, classes)
}

fn operand_types(egraph: &TensorGraph, node: &ENode) -> Vec<TensorType> {
    let all = matches!(&*node.op, Op::Pick(_));
    let of = |id: &Id| {
        let types = &egraph[*id].data.types;
        if all { types.clone() } else { vec![types[0].clone()] }
    };
    node.operands.iter().flat_map(of).collect()
}

/// Saturates a region and extracts what is cheapest.
pub(crate) fn rewrite_region(
    shape: &Shape,
    table: &Table,
    limits: Limits,
    fired: &mut [usize],
    cost: &CostModel,
) -> Rewritten {
    let (mut egraph, classes) = build(shape);
    let outcome = saturate(&mut egraph, table, limits, fired);
    let choices = Choices::new(&egraph, |node| {
        let results = &egraph[egraph.lookup(node.clone()).expect("e-nodes are in the e-graph")].data.types;
        op_seconds(cost, &node.op, &operand_types(&egraph, node), results)
    });
    let roots: Vec<Id> = shape.outputs.iter().map(|output| egraph.find(classes[*output as usize])).collect();
    let extraction = choices.extract(&egraph, &roots);
    let before = original_seconds(shape, &classes, &egraph, cost);
    let cheaper = extraction.filter(|found| found.seconds < before * (1.0 - RELATIVE_GAIN_MIN));
    Rewritten {
        replacement: cheaper.map(|extraction| replacement(&egraph, &extraction.nodes, &roots)),
        outcome,
        e_nodes: egraph.total_number_of_nodes(),
        e_classes: egraph.number_of_classes(),
    }
}

/// What the nodes of a region cost as they are.
fn original_seconds(shape: &Shape, classes: &[Id], egraph: &TensorGraph, cost: &CostModel) -> f64 {
    let types = |at: usize| &egraph[egraph.find(classes[at])].data.types;
    let of = |(at, (op, operands)): (usize, &(OpRef, Vec<u32>))| {
        let all = matches!(&**op, Op::Pick(_));
        let of = |operand: &u32| {
            let types = types(*operand as usize);
            if all { types.clone() } else { vec![types[0].clone()] }
        };
        let operands: Vec<TensorType> = operands.iter().flat_map(of).collect();
        op_seconds(cost, op, &operands, types(at))
    };
    shape.nodes.iter().enumerate().map(of).sum()
}

/// The extracted nodes in an order that keeps to that of the region where operands allow: what comes from an earlier node
/// stands earlier.
fn replacement(egraph: &TensorGraph, nodes: &[(Id, ENode)], roots: &[Id]) -> Replacement {
    let place: BTreeMap<Id, usize> = nodes.iter().enumerate().map(|(at, (id, _))| (*id, at)).collect();
    let operands: Vec<Vec<usize>> = nodes
        .iter()
        .map(|(_, node)| node.children().iter().map(|child| place[&egraph.find(*child)]).collect())
        .collect();
    let origin = |at: usize| egraph[nodes[at].0].data.origin;
    let mut users = vec![Vec::new(); nodes.len()];
    let mut missing = vec![0; nodes.len()];
    for (at, operands) in operands.iter().enumerate() {
        missing[at] = operands.len();
        for operand in operands {
            users[*operand].push(at);
        }
    }
    let ready = (0..nodes.len()).filter(|at| missing[*at] == 0);
    let mut heap: BinaryHeap<Reverse<(u32, usize)>> = ready.map(|at| Reverse((origin(at), at))).collect();
    let mut position = vec![0u32; nodes.len()];
    let mut result = Vec::with_capacity(nodes.len());
    while let Some(Reverse((origin_of, at))) = heap.pop() {
        position[at] = result.len() as u32;
        let operands = operands[at].iter().map(|operand| position[*operand]).collect();
        result.push((nodes[at].1.op.clone(), operands, origin_of));
        for user in &users[at] {
            missing[*user] -= 1;
            if missing[*user] == 0 {
                heap.push(Reverse((origin(*user), *user)));
            }
        }
    }
    assert_eq!(result.len(), nodes.len(), "an extraction has no cycle");
    Replacement { nodes: result, outputs: roots.iter().map(|root| position[place[root]]).collect() }
}
