//! Nodes of known operands, which are computed while a model is imported.

use crate::builder::Stop;
use crate::call::{Attributes, Call, Lower};
use crate::error::Problem;
use crate::import::Import;
use crate::proto::NodeProto;
use crate::stage;
use crate::value::{Content, Tensor, Value};
use std::collections::{BTreeMap, BTreeSet};
use thalweg_base::{Dim, Literal};
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Array, Graph, Node, NodeId, Op, TensorType, eval};

/// The most elements of an operand that a node is folded away with.
const FOLD_ELEMENTS_MAX: usize = 1 << 16;

/// The most elements that the reference evaluator looks at to fold a node away.
const FOLD_WORK_MAX: usize = 1 << 20;

impl<'m> Import<'m> {
    /// Lowers a node of known operands into a graph of its own, which is evaluated if that is little work.
    pub(crate) fn folded(
        &mut self,
        lower: Lower,
        node: &NodeProto,
        inputs: &[Option<Value>],
        opset: i64,
        outer: &Attributes<'m>,
    ) -> Result<Vec<Value>, Stop> {
        let depth = self.builder.depth() + 1;
        self.builder.push_level();
        let b = &mut self.builder;
        let lowered = lower(&mut Call { b, node, opset, inputs, outer });
        let mut level = self.builder.pop_level();
        let mut values = lowered?;
        assert!(level.captures.is_empty(), "constants are part of the graph");
        let mut ids = BTreeSet::new();
        let mut collect = |tensor: &mut Tensor| {
            if let Content::Node { level, id } = tensor.content {
                assert_eq!(level, depth, "the node was lowered into its own graph");
                ids.insert(id);
            }
        };
        values.iter_mut().for_each(|value| value.tensors_mut(&mut collect));
        let nodes = level.graph.nodes().iter();
        let work = nodes.fold(0usize, |sum, node| sum.saturating_add(evaluation_work(&level.graph, node)));
        let places: BTreeMap<NodeId, Tensor> = match work <= FOLD_WORK_MAX {
            true => {
                ids.iter().for_each(|id| level.graph.output("", *id));
                let results = eval::evaluate(&level.graph, &eval::Environment::new())
                    .map_err(|error| Stop::Problem(Problem::new(error.to_string())))?;
                ids.iter()
                    .copied()
                    .zip(results.outputs.iter().map(|array| Tensor::known(array.to_literal())))
                    .collect()
            }
            false => {
                let moved = self.builder.graph().inline(&level.graph, &[]);
                ids.iter().map(|id| (*id, self.builder.tensor(moved[id.index()]))).collect()
            }
        };
        let mut place = |tensor: &mut Tensor| {
            if let Content::Node { id, .. } = tensor.content {
                *tensor = Tensor { narrow: tensor.narrow, ..places[&id].clone() };
            }
        };
        values.iter_mut().for_each(|value| value.tensors_mut(&mut place));
        Ok(values)
    }
}

/// The most elements of an input that values are computed from at import.
const INPUT_ELEMENTS_MAX: usize = 64;

/// The inputs of the model that a node comes from, when it comes from small ones alone and by little work. An input itself comes
/// from itself, however large it is.
pub(crate) fn small_inputs(graph: &Graph, id: NodeId) -> Option<Vec<String>> {
    let mut reached = vec![false; graph.nodes().len()];
    reached[id.index()] = true;
    let (mut names, mut work) = (Vec::new(), 0usize);
    for at in graph.ids().rev().filter(|at| at.index() <= id.index()) {
        if !reached[at.index()] {
            continue;
        }
        let node = graph.node(at);
        node.operands.iter().for_each(|operand| reached[operand.index()] = true);
        match node.op.as_leaf() {
            Some(leaf) => {
                let elements =
                    leaf.ty.elements().as_constant().map_or(usize::MAX, |count| count.max(0) as usize);
                let own = leaf.kind == LeafKind::Input && !leaf.name.starts_with(stage::PREFIX);
                if !own || (at != id && elements > INPUT_ELEMENTS_MAX) {
                    return None;
                }
                names.push(leaf.name.to_string());
            }
            None => work = work.saturating_add(evaluation_work(graph, node)),
        }
    }
    (work <= FOLD_WORK_MAX).then_some(names)
}

/// The value of a node that comes from inputs of these values alone.
pub(crate) fn of_inputs(graph: &Graph, id: NodeId, given: &BTreeMap<String, Literal>) -> Literal {
    let mut part = graph.clone();
    part.outputs.clear();
    part.output("", id);
    let part = stage::trim(&part);
    let value = |(name, literal): (&String, &Literal)| {
        ((LeafKind::Input, name.clone()), Array::from_literal(literal))
    };
    let results = eval::evaluate(&part, &given.iter().map(value).collect());
    results.expect("every input of it is given").outputs[0].to_literal()
}

/// About how many elements the reference evaluator looks at for a node.
fn evaluation_work(graph: &Graph, node: &Node) -> usize {
    let known = |size: &Dim| size.as_constant().map_or(usize::MAX, |size| size.max(0) as usize);
    let elements = |ty: &TensorType| known(&ty.elements());
    let results = node.types.iter().fold(0usize, |sum, ty| sum.saturating_add(elements(ty)));
    let operand = node.operands.first().map_or(0, |operand| elements(graph.ty(*operand)));
    match &node.op {
        // Each element of these looks at all along its dim, and each of a product at all that is summed.
        Op::ArgSort(op) => results.saturating_mul(known(&node.types[0].shape[op.dim])),
        Op::Cumulative(op) => results.saturating_mul(known(&node.types[0].shape[op.dim])),
        Op::Contract(_) | Op::Convolve(_) => results.saturating_mul(operand.max(1)),
        Op::Scan(op) => op.body.nodes().iter().fold(results, |sum, inner| {
            let turn = evaluation_work(&op.body, inner);
            sum.saturating_add(known(&op.length).saturating_mul(turn))
        }),
        // Nobody knows how many turns these take.
        Op::While(_) => usize::MAX,
        Op::Leaf(_) | Op::Constant(_) | Op::Iota(_) | Op::Random(_) | Op::Pointwise(_) | Op::Convert(_) => {
            results
        }
        Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Pad(_) => results,
        Op::Concat(_) | Op::Gather(_) | Op::Unfold(_) | Op::Pick(_) | Op::Collective(_) => results,
        Op::Reduce(_) | Op::Scatter(_) | Op::Fold(_) | Op::DynamicSlice(_) | Op::DynamicUpdate(_) => {
            results.max(operand)
        }
        Op::Branch(op) => {
            let sides = op.then.nodes().iter().map(|inner| evaluation_work(&op.then, inner));
            let other = op.otherwise.nodes().iter().map(|inner| evaluation_work(&op.otherwise, inner));
            sides.chain(other).fold(results, usize::saturating_add)
        }
    }
}

/// Whether a value is a constant of the program rather than a weight or something that is computed.
pub(crate) fn is_constant(value: &Value) -> bool {
    match value {
        Value::Tensor(Tensor { content: content @ Content::Known { literal, .. }, .. }) => {
            content.weight().is_none() && literal.len() <= FOLD_ELEMENTS_MAX
        }
        Value::Tensor(Tensor { content: Content::Sizes(sizes), .. }) => {
            sizes.iter().all(|size| size.as_constant().is_some())
        }
        Value::Tensor(Tensor { content: Content::Node { .. }, .. }) => false,
        Value::Sequence(values) => values.iter().all(is_constant),
        Value::Optional(value) => value.as_ref().is_none_or(|value| is_constant(value)),
        Value::Poisoned => false,
    }
}

/// A tensor that has no elements is known, however it is computed.
pub(crate) fn without_elements(mut value: Value) -> Value {
    value.tensors_mut(&mut |tensor| {
        let sizes: Option<Vec<usize>> = tensor
            .ty
            .shape
            .iter()
            .map(|size| size.as_constant().and_then(|size| size.try_into().ok()))
            .collect();
        if let (Some(sizes), Content::Node { .. }) = (sizes, &tensor.content)
            && sizes.contains(&0)
        {
            let literal = Literal::from_scalars(tensor.ty.dtype, &sizes, []);
            tensor.content = Content::Known { literal, name: None };
        }
    });
    value
}
