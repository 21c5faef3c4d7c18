//! The closed list of ops and what each must answer.

use crate::axes::AxisSignature;
use crate::graph::{Graph, NodeId};
use crate::ops::*;
use crate::types::TensorType;
use crate::value::Array;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thalweg_base::{Bindings, DType, Dim, Literal, Mesh, Scalar};

/// Why an op does not fit its operands, as a clause without a full stop.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct InferError(pub String);

impl InferError {
    /// An error with that clause.
    pub fn new(message: impl Into<String>) -> InferError {
        InferError(message.into())
    }
}

/// Returns an [`InferError`] unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::op::InferError(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;

/// The gradient that passes to one operand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grad {
    /// It is this node, of the operand's type.
    Value(NodeId),
    /// It is zero everywhere.
    Zero,
    /// It does not exist, for this reason.
    NotDifferentiable(&'static str),
}

/// What an op's `vjp` works with.
pub struct VjpContext<'a> {
    /// The graph that the gradient's nodes are added to; it holds the op's own node.
    pub graph: &'a mut Graph,
    /// The op's node.
    pub node: NodeId,
    /// The op's operands.
    pub operands: Vec<NodeId>,
    /// The cotangent of each result; absent where it is zero.
    pub cotangents: Vec<Option<NodeId>>,
}

impl VjpContext<'_> {
    /// The cotangent of the only result.
    pub fn ct(&self) -> NodeId {
        self.cotangents[0].expect("a node of one result is visited only with its cotangent")
    }

    /// The type of an operand.
    pub fn operand_type(&self, index: usize) -> TensorType {
        self.graph.ty(self.operands[index]).clone()
    }
}

/// Arithmetic and traffic of an op, whatever the machine.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Work {
    /// Arithmetic operations, a fused multiply-add counted as two.
    pub flops: f64,
    /// Bytes read from operands.
    pub bytes_read: f64,
    /// Bytes written to results.
    pub bytes_written: f64,
}

impl Work {
    /// The work of an op that reads all operands and writes all results once, with `flops` operations.
    pub fn streaming(flops: f64, operands: &[TensorType], results: &[TensorType]) -> Work {
        let bytes = |types: &[TensorType]| types.iter().map(|ty| ty.bytes() as f64).sum();
        Work { flops, bytes_read: bytes(operands), bytes_written: bytes(results) }
    }
}

/// How sample values of an operand are drawn.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fill {
    /// Standard normal values (integers: -4 to 4; `bool`: both).
    Normal,
    /// Values in [0.5, 2), for functions with a singularity at 0.
    Positive,
    /// Integers below this bound.
    Index(usize),
    /// All different, far enough apart that a small step does not change their order.
    Distinct,
}

/// An op with operand types to try it on.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The op.
    pub op: Op,
    /// Types and values of its operands; all sizes are constants.
    pub operands: Vec<(TensorType, Fill)>,
}

impl Sample {
    /// A sample whose operands are filled with normal values.
    pub fn new(op: impl Into<Op>, operands: &[TensorType]) -> Sample {
        Sample::filled(op, &operands.iter().map(|ty| (ty.clone(), Fill::Normal)).collect::<Vec<_>>())
    }

    /// A sample whose operands are filled as told.
    pub fn filled(op: impl Into<Op>, operands: &[(TensorType, Fill)]) -> Sample {
        Sample { op: op.into(), operands: operands.to_vec() }
    }
}

/// Operands or results of an op on each of the devices that run it together.
pub type PerDevice<T> = Vec<Vec<T>>;

/// What every op answers. All methods are required, so that a gap is visible in the op's own file.
pub trait OpDef {
    /// The result types for operand types, or why they do not fit.
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError>;

    /// The axis signature for operand and result types that fit.
    fn axes(&self, operands: &[TensorType], results: &[TensorType]) -> AxisSignature;

    /// The values of the results on every device of the mesh, from those of the operands, slowly and obviously.
    fn eval(&self, mesh: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array>;

    /// The gradient of each operand.
    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad>;

    /// Arithmetic and traffic, for types without symbols.
    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work;

    /// Instances to try in tests.
    fn samples() -> Vec<Sample>
    where
        Self: Sized;
}

/// Evaluates an op that needs no other device, on each.
pub(crate) fn on_each(operands: &PerDevice<Array>, evaluate: impl Fn(&[Array]) -> Array) -> PerDevice<Array> {
    operands.iter().map(|operands| vec![evaluate(operands)]).collect()
}

macro_rules! ops {
    ($($(#[$doc:meta])* $variant:ident,)*) => {
        /// An op with its attributes. Operands are held by the node.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum Op {
            $($(#[$doc])* $variant($variant),)*
        }

        impl Op {
            /// What this op answers.
            pub fn def(&self) -> &dyn OpDef {
                match self { $(Op::$variant(op) => op,)* }
            }

            /// The name of the op without its attributes.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$variant(_) => stringify!($variant),)* }
            }

            /// The samples of every op, in declaration order.
            pub fn all_samples() -> Vec<Sample> {
                [$($variant::samples(),)*].concat()
            }
        }

        $(impl From<$variant> for Op {
            fn from(op: $variant) -> Op {
                Op::$variant(op)
            }
        })*
    };
}

ops! {
    /// A value from outside: an input of the call, a parameter, or state kept between calls.
    Leaf,
    /// Known values.
    Constant,
    /// 0, 1, 2, ...
    Iota,
    /// Counter-based random values.
    Random,
    /// A scalar function of each position.
    Pointwise,
    /// The same values in another dtype.
    Convert,
    /// New dims, along which values repeat.
    Broadcast,
    /// The same elements in row-major order under another shape.
    Reshape,
    /// Dims in another order.
    Transpose,
    /// Every so many-th position from a start.
    Slice,
    /// Positions added around and between, filled with one value.
    Pad,
    /// Operands one after the other along a dim.
    Concat,
    /// Positions chosen by an index tensor.
    Gather,
    /// Sums at positions chosen by an index tensor.
    Scatter,
    /// Dims combined by a function.
    Reduce,
    /// Running combination along a dim.
    Cumulative,
    /// Sum of products over shared axes.
    Contract,
    /// Convolution and its two gradients.
    Convolve,
    /// Sliding windows as new dims.
    Unfold,
    /// Sums of overlapping windows, the transpose of `Unfold`.
    Fold,
    /// The order that sorts a dim.
    ArgSort,
    /// A slice whose start is computed.
    DynamicSlice,
    /// A slice replaced at a computed start.
    DynamicUpdate,
    /// A loop over positions of a dim, with carried values.
    Scan,
    /// A loop while a condition holds.
    While,
    /// One of two sub-graphs.
    Branch,
    /// One result of an op that has several.
    Pick,
    /// Communication among the devices of a mesh axis.
    Collective,
}

impl Op {
    /// The leaf, when it is one.
    pub fn as_leaf(&self) -> Option<&Leaf> {
        if let Op::Leaf(leaf) = self { Some(leaf) } else { None }
    }

    /// The shape attribute that runs parallel to the dims of the only result, for ops that have one. Cutting such an op
    /// divides it.
    pub fn result_shape_mut(&mut self) -> Option<&mut Vec<Dim>> {
        match self {
            Op::Leaf(op) => Some(&mut op.ty.shape),
            Op::Broadcast(op) => Some(&mut op.shape),
            Op::Reshape(op) => Some(&mut op.shape),
            Op::Constant(_) | Op::Iota(_) | Op::Random(_) | Op::Pointwise(_) | Op::Convert(_) => None,
            Op::Transpose(_) | Op::Slice(_) | Op::Pad(_) | Op::Concat(_) | Op::Gather(_) | Op::Scatter(_) => {
                None
            }
            Op::Reduce(_) | Op::Cumulative(_) | Op::Contract(_) | Op::Convolve(_) | Op::Unfold(_) => None,
            Op::Fold(_) | Op::ArgSort(_) | Op::DynamicSlice(_) | Op::DynamicUpdate(_) | Op::Scan(_) => None,
            Op::While(_) | Op::Branch(_) | Op::Pick(_) | Op::Collective(_) => None,
        }
    }

    /// Every size among the attributes, for substitution; sub-graphs not included.
    pub fn dims_mut(&mut self) -> Vec<&mut Dim> {
        match self {
            Op::Leaf(op) => op.ty.shape.iter_mut().collect(),
            Op::Iota(op) => vec![&mut op.size],
            Op::Broadcast(op) => op.shape.iter_mut().collect(),
            Op::Reshape(op) => op.shape.iter_mut().collect(),
            Op::Slice(op) => op.ranges.iter_mut().flat_map(|r| [&mut r.start, &mut r.size]).collect(),
            Op::Pad(op) => op.dims.iter_mut().flat_map(|d| [&mut d.low, &mut d.high]).collect(),
            Op::Scatter(op) => vec![&mut op.size],
            Op::Convolve(op) => op.sizes.iter_mut().collect(),
            Op::Fold(op) => op.sizes.iter_mut().collect(),
            Op::DynamicSlice(op) => op.sizes.iter_mut().collect(),
            Op::Scan(op) => vec![&mut op.length],
            Op::Constant(_) | Op::Random(_) | Op::Pointwise(_) | Op::Convert(_) | Op::Transpose(_) => vec![],
            Op::Concat(_) | Op::Gather(_) | Op::Reduce(_) | Op::Cumulative(_) | Op::Contract(_) => vec![],
            Op::Unfold(_) | Op::ArgSort(_) | Op::DynamicUpdate(_) | Op::While(_) | Op::Branch(_) => vec![],
            Op::Pick(_) | Op::Collective(_) => vec![],
        }
    }

    /// The sub-graphs that the op runs.
    pub fn subgraphs(&self) -> Vec<&Arc<Graph>> {
        match self {
            Op::Scan(op) => vec![&op.body],
            Op::While(op) => vec![&op.condition, &op.body],
            Op::Branch(op) => vec![&op.then, &op.otherwise],
            Op::Leaf(_) | Op::Constant(_) | Op::Iota(_) | Op::Random(_) | Op::Pointwise(_) => vec![],
            Op::Convert(_) | Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) => vec![],
            Op::Pad(_) | Op::Concat(_) | Op::Gather(_) | Op::Scatter(_) | Op::Reduce(_) => vec![],
            Op::Cumulative(_) | Op::Contract(_) | Op::Convolve(_) | Op::Unfold(_) | Op::Fold(_) => vec![],
            Op::ArgSort(_) | Op::DynamicSlice(_) | Op::DynamicUpdate(_) | Op::Pick(_) => vec![],
            Op::Collective(_) => vec![],
        }
    }

    /// The same op with other sub-graphs, as many as `subgraphs` gave.
    pub fn with_subgraphs(&self, graphs: &[Arc<Graph>]) -> Op {
        let mut op = self.clone();
        match (&mut op, graphs) {
            (Op::Scan(op), [body]) => op.body = body.clone(),
            (Op::While(op), [condition, body]) => {
                op.condition = condition.clone();
                op.body = body.clone();
            }
            (Op::Branch(op), [then, otherwise]) => {
                op.then = then.clone();
                op.otherwise = otherwise.clone();
            }
            (_, graphs) => assert!(graphs.is_empty(), "`{}` has other sub-graphs", self.name()),
        }
        op
    }

    /// The op with symbols replaced in attributes and sub-graphs.
    pub fn substitute(&self, bindings: &Bindings) -> Op {
        let graphs: Vec<_> =
            self.subgraphs().iter().map(|graph| Arc::new(graph.substitute(bindings))).collect();
        let mut op = self.with_subgraphs(&graphs);
        for dim in op.dims_mut() {
            *dim = dim.substitute(bindings);
        }
        op
    }

    /// A constant of rank 0.
    pub fn scalar(dtype: DType, value: Scalar) -> Op {
        Op::Constant(Constant { value: Literal::scalar(dtype, value) })
    }
}
