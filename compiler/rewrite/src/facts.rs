//! What is known of each e-class: its types, its values where they are constant, and where it came from.
//!
//! Types are inferred by the op itself; two that differ in one class are a bug of a rule, and panic. Values are computed
//! by the op's own evaluator, so a folded constant is exactly what the graph would have computed.

use crate::lang::{ENode, OpRef};
use egg::{Analysis, DidMerge, EGraph, Id};
use thalweg_base::{DType, Dim, Literal, Scalar};
use thalweg_tensor::ops::Broadcast;
use thalweg_tensor::{Array, Mesh, Op, TensorType};

/// How many elements of uneven values are computed while rewriting: enough for shapes, strides, small tables and
/// schedules; more would move work from the run to the compilation, and memory into the plan.
pub(crate) const FOLDED_ELEMENTS_MAX: usize = 64;

/// An e-graph of tensor ops.
pub(crate) type TensorGraph = EGraph<ENode, FactsAnalysis>;

/// What is known of a class.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The types of the results.
    pub(crate) types: Vec<TensorType>,
    /// The value that every element has.
    pub(crate) uniform: Option<Scalar>,
    /// All values, where there are few.
    pub(crate) literal: Option<Literal>,
    /// The node of the region that the class came from: the first one.
    pub(crate) origin: u32,
    /// The round of saturation in which the class last changed.
    pub(crate) touched: u32,
    /// Whether the class holds the constant that its facts tell.
    constant_added: bool,
}

impl Facts {
    /// Whether the values are known.
    pub(crate) fn is_constant(&self) -> bool {
        self.uniform.is_some() || self.literal.is_some()
    }
}

/// Facts, and the marks that new classes get.
#[derive(Default)]
pub(crate) struct FactsAnalysis {
    /// The origin of new classes.
    pub(crate) origin: u32,
    /// The present round.
    pub(crate) round: u32,
}

impl Analysis<ENode> for FactsAnalysis {
    type Data = Facts;

    fn make(egraph: &mut TensorGraph, node: &ENode, _: Id) -> Facts {
        let all = matches!(&*node.op, Op::Pick(_));
        let operands: Vec<TensorType> = node
            .operands
            .iter()
            .flat_map(|id| {
                let types = &egraph[*id].data.types;
                if all { &types[..] } else { &types[..1] }
            })
            .cloned()
            .collect();
        let types = node.op.def().infer(&operands).unwrap_or_else(|error| {
            panic!("a rule made {:?} of {operands:?}: {error}", *node.op);
        });
        let known: Vec<&Facts> = node.operands.iter().map(|id| &egraph[*id].data).collect();
        let uniform = uniform_value(&node.op, &known, &types);
        let literal = if uniform.is_none() { fold(&node.op, &known, &types) } else { None };
        let uniform = uniform.or_else(|| literal.as_ref().and_then(Literal::uniform_value));
        let literal = if uniform.is_some() { None } else { literal };
        let (origin, touched) = (egraph.analysis.origin, egraph.analysis.round);
        Facts { types, uniform, literal, origin, touched, constant_added: false }
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        assert_eq!(a.types, b.types, "a rule put values of two types in one class");
        a.touched = self.round;
        a.origin = a.origin.min(b.origin);
        a.constant_added |= b.constant_added;
        let known = (a.is_constant(), b.is_constant());
        if known == (false, true) {
            (a.uniform, a.literal) = (b.uniform, b.literal);
        }
        DidMerge(known == (false, true), known == (true, false))
    }

    /// Adds the constant that the facts tell.
    fn modify(egraph: &mut TensorGraph, id: Id) {
        let id = egraph.find(id);
        let facts = &mut egraph[id].data;
        if facts.constant_added || !facts.is_constant() {
            return;
        }
        facts.constant_added = true;
        let facts = facts.clone();
        let origin = std::mem::replace(&mut egraph.analysis.origin, facts.origin);
        let constant = match (&facts.literal, facts.uniform) {
            (Some(literal), _) => add_constant(egraph, literal.clone()),
            (None, Some(value)) => add_uniform(egraph, &facts.types[0], value),
            (None, None) => unreachable!("the class is constant"),
        };
        egraph.analysis.origin = origin;
        if egraph.find(constant) != id {
            egraph.union(id, constant);
        }
    }
}

/// The class of a constant.
fn add_constant(egraph: &mut TensorGraph, value: Literal) -> Id {
    egraph.add(ENode::new(OpRef::new(Op::Constant(thalweg_tensor::ops::Constant { value })), []))
}

/// The class of one value at every position of a type.
pub(crate) fn add_uniform(egraph: &mut TensorGraph, ty: &TensorType, value: Scalar) -> Id {
    let scalar = add_constant(egraph, Literal::scalar(ty.dtype, value));
    match ty.rank() {
        0 => scalar,
        _ => {
            let op = Op::Broadcast(Broadcast { shape: ty.shape.clone(), dims: vec![] });
            egraph.add(ENode::new(OpRef::new(op), [scalar]))
        }
    }
}

/// The value that all elements of the result share, by a rule that needs no element.
fn uniform_value(op: &Op, operands: &[&Facts], types: &[TensorType]) -> Option<Scalar> {
    let of = |index: usize| operands[index].uniform;
    match op {
        Op::Constant(constant) => constant.value.uniform_value(),
        Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) => of(0),
        Op::Convert(convert) => Some(of(0)?.convert(convert.dtype)),
        Op::Pad(pad) => {
            let dtype = types[0].dtype;
            of(0).filter(|value| *value == pad.value.convert(dtype))
        }
        Op::Pointwise(pointwise) => {
            let values = operands.iter().map(|facts| facts.uniform).collect::<Option<Vec<Scalar>>>()?;
            let dtype: DType = operands.last()?.types[0].dtype;
            Some(pointwise.function.eval(dtype, &values).convert(types[0].dtype))
        }
        Op::Leaf(_) | Op::Iota(_) | Op::Random(_) | Op::Concat(_) | Op::Gather(_) | Op::Scatter(_) => None,
        Op::Reduce(_) | Op::Cumulative(_) | Op::Contract(_) | Op::Convolve(_) | Op::Unfold(_) => None,
        Op::Fold(_) | Op::ArgSort(_) | Op::DynamicSlice(_) | Op::DynamicUpdate(_) | Op::Scan(_) => None,
        Op::While(_) | Op::Branch(_) | Op::Pick(_) | Op::Collective(_) => None,
    }
}

/// The number of elements of a type without symbols, when it is small enough to fold.
fn small(ty: &TensorType) -> Option<usize> {
    let sizes = ty.shape.iter().map(Dim::as_constant).collect::<Option<Vec<i64>>>()?;
    let elements = sizes.iter().product::<i64>() as usize;
    (elements <= FOLDED_ELEMENTS_MAX).then_some(elements)
}

/// The values of a small result of known operands, by the op's own evaluator.
fn fold(op: &Op, operands: &[&Facts], types: &[TensorType]) -> Option<Literal> {
    if let Op::Constant(constant) = op {
        return (constant.value.len() <= FOLDED_ELEMENTS_MAX).then(|| constant.value.clone());
    }
    let computed_alone = match op {
        Op::Iota(_) | Op::Pointwise(_) | Op::Convert(_) | Op::Broadcast(_) | Op::Reshape(_) => true,
        Op::Transpose(_) | Op::Slice(_) | Op::Pad(_) | Op::Concat(_) | Op::Gather(_) | Op::Scatter(_) => true,
        Op::Reduce(_) | Op::Cumulative(_) | Op::Contract(_) | Op::Convolve(_) | Op::Unfold(_) => true,
        Op::Fold(_) | Op::ArgSort(_) | Op::DynamicSlice(_) | Op::DynamicUpdate(_) | Op::Random(_) => true,
        Op::Leaf(_) | Op::Constant(_) | Op::Scan(_) | Op::While(_) | Op::Branch(_) => false,
        Op::Pick(_) | Op::Collective(_) => false,
    };
    if !computed_alone || operands.iter().any(|facts| !facts.is_constant()) {
        return None;
    }
    small(&types[0])?;
    let array = |facts: &&Facts| -> Option<Array> {
        small(&facts.types[0])?;
        Some(match (&facts.literal, facts.uniform) {
            (Some(literal), _) => Array::from_literal(literal),
            (None, Some(value)) => Array::full(facts.types[0].dtype, &facts.types[0].sizes(), value),
            (None, None) => unreachable!("the operands are known"),
        })
    };
    let operands = operands.iter().map(array).collect::<Option<Vec<Array>>>()?;
    let results = op.def().eval(&Mesh::default(), &vec![operands]);
    Some(results[0][0].to_literal())
}
