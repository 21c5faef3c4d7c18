//! Cutting a model where the rest of it depends on values of a run.

use crate::import::{End, Frame, Import, Stage};
use crate::proto::NodeProto;
use crate::value::{Content, Tensor, Value};
use std::collections::{BTreeMap, BTreeSet};
use thalweg_base::Literal;
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Graph, NodeId};

/// What the names of values that go from stage to stage begin with.
pub(crate) const PREFIX: &str = "stage.";

/// Integers of at most so many elements are made constants of the next stage, as shapes may depend on them.
const KNOWN_ELEMENTS_MAX: usize = 64;

/// Hands out the graph so far, with `needed` first and all else that later nodes use as its outputs.
pub(crate) fn cut(import: &mut Import, needed: NodeId) -> Stage {
    forget_unused(&mut import.frames);
    let mut live = vec![needed];
    let mut seen = BTreeSet::from([needed]);
    let mut known = false;
    let mut collect = |tensor: &mut Tensor| {
        if let Content::Node { level: 0, id } = tensor.content {
            known |= id == needed;
            if seen.insert(id) {
                live.push(id);
            }
        }
    };
    for frame in &mut import.frames {
        frame.scope.values_mut().for_each(|value| value.tensors_mut(&mut collect));
        if let End::Turn(state) = &mut frame.end {
            state.values_mut().for_each(|value| value.tensors_mut(&mut collect));
        }
    }
    // What no name stands for would be built, and asked for, again and again.
    assert!(known, "a lowering asks for the value of a node that it has built itself");
    let mut graph = import.builder.take_graph();
    // Inputs and what earlier stages gave are at hand in the next stage too.
    let mut places = BTreeMap::new();
    let mut names = Vec::new();
    for id in live {
        let ty = graph.ty(id).clone();
        match graph.node(id).op.as_leaf() {
            Some(leaf) if id != needed => {
                let own = import.builder.graph().add_leaf(leaf.kind, &leaf.name, ty, leaf.init.clone());
                places.insert(id, import.builder.tensor(own));
            }
            Some(_) | None => {
                let name = format!("{PREFIX}{}.{}", import.stages, names.len());
                let own = import.builder.graph().input(&name, ty);
                places.insert(id, import.builder.tensor(own));
                graph.output(&name, id);
                names.push(name);
            }
        }
    }
    import.replace(&places);
    import.stages += 1;
    let graph = trim(&graph);
    let mut weights = import.builder.weights.clone();
    weights.retain(|name, _| is_used(&graph, name));
    Stage { graph, weights, names }
}

/// Goes on with what a stage gave: the first output, which was asked for, and small integers are constants from here.
pub(crate) fn resume(import: &mut Import, stage: &Stage, outputs: &[Literal]) {
    assert_eq!(stage.names.len(), outputs.len(), "a value for each output of the stage");
    let mut places = BTreeMap::new();
    for (at, (name, value)) in stage.names.iter().zip(outputs).enumerate() {
        let small = !value.dtype().is_float() && value.len() <= KNOWN_ELEMENTS_MAX;
        if (at == 0 || small || value.is_empty())
            && let Some(id) = import.builder.graph().leaf(LeafKind::Input, name)
        {
            places.insert(id, Tensor::known(value.clone()));
        }
    }
    import.replace(&places);
}

/// Drops names that no node still to come uses.
fn forget_unused(frames: &mut [Frame]) {
    let mut used: BTreeSet<String> = BTreeSet::new();
    for frame in frames.iter_mut().rev() {
        if let End::Turn(state) = &frame.end {
            state.names(&mut used);
        }
        used.extend(frame.outputs.iter().map(|name| name.to_string()));
        frame.nodes[frame.next..].iter().for_each(|node| names_of(node, &mut used));
        frame.scope.retain(|name, value| used.contains(*name) && !matches!(value, Value::Poisoned));
    }
}

/// Every name that a node or a body of it uses.
pub(crate) fn names_of(node: &NodeProto, used: &mut BTreeSet<String>) {
    used.extend(node.input.iter().cloned());
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            used.extend(graph.output.iter().map(|output| output.name.clone()));
            graph.node.iter().for_each(|node| names_of(node, used));
        }
    }
}

/// The graph without nodes, inputs and weights that no output needs.
pub(crate) fn trim(graph: &Graph) -> Graph {
    let mut live = vec![false; graph.nodes().len()];
    graph.roots().for_each(|root| live[root.index()] = true);
    for id in graph.ids().rev() {
        if live[id.index()] {
            graph.node(id).operands.iter().for_each(|operand| live[operand.index()] = true);
        }
    }
    let mut trimmed = Graph::new(graph.name.clone());
    let mut places = vec![None; live.len()];
    for id in graph.ids().filter(|id| live[id.index()]) {
        let mut node = graph.node(id).clone();
        for operand in &mut node.operands {
            *operand = places[operand.index()].expect("operands of live nodes are live");
        }
        places[id.index()] = Some(trimmed.push(node));
    }
    for output in &graph.outputs {
        trimmed.output(output.name.clone(), places[output.node.index()].expect("outputs are live"));
    }
    trimmed
}

/// Whether a graph has a parameter or state of that name.
pub(crate) fn is_used(graph: &Graph, name: &str) -> bool {
    graph.leaf(LeafKind::Parameter, name).is_some() || graph.leaf(LeafKind::State, name).is_some()
}
