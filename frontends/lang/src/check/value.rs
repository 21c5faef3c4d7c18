//! What expressions evaluate to when a program is elaborated.

use super::builtins::Builtin;
use super::frame::Frame;
use crate::modules::ModuleId;
use crate::syntax::ast::Function;
use std::sync::Arc;
use thalweg_base::{DType, Dim, Span};
use thalweg_tensor::ops::Initializer;
use thalweg_tensor::{NodeId, TensorType};

/// What is known of one dim of a tensor besides its size.
#[derive(Clone, Debug, Default)]
pub(crate) struct DimInfo {
    /// The name that `over:` and `along:` find it by.
    pub(crate) name: Option<Arc<str>>,
    /// Where its size was decided.
    pub(crate) origin: Option<Span>,
}

/// A tensor: a node of one of the open graphs.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) node: NodeId,
    /// Which open graph the node is in: 0 is the model, others are bodies of scans.
    pub(crate) level: usize,
    pub(crate) ty: TensorType,
    /// As many as the type has dims.
    pub(crate) dims: Vec<DimInfo>,
}

/// A dim asked for by `over:` or `along:`.
#[derive(Clone, Debug)]
pub(crate) enum AxisRef {
    /// By name, or by the number that a variable of this name holds if no dim has the name.
    Name(Arc<str>, Option<i64>),
    /// By position; negative ones count from the end.
    Index(i64),
}

/// A column of the data of a `train` block, whose type is that of the parameter it is first given to.
#[derive(Clone, Debug)]
pub(crate) struct DataField {
    pub(crate) name: Arc<str>,
}

/// Something that can be called.
#[derive(Clone)]
pub(crate) enum Callable {
    /// A `fn`, `layer` or `model`; with the frame of its first list of arguments if it has had that.
    User { function: Arc<Function>, module: ModuleId, bound: Option<Arc<Frame>> },
    /// A primitive.
    Builtin(&'static Builtin),
    /// A number where a function was asked for: it gives the number whatever it is called with.
    Constant(f64),
}

/// The value of an expression.
#[derive(Clone)]
pub(crate) enum Value {
    /// Of something that was reported already; whoever uses it stays silent.
    Poison,
    /// Of a block without a value.
    Unit,
    /// An integer or a size.
    Int(Dim),
    /// A static float.
    Float(f64),
    /// A static truth value.
    Bool(bool),
    /// Text.
    Str(Arc<str>),
    /// An element type.
    DType(DType),
    /// A list.
    List(Arc<[Value]>),
    /// Named values, in order.
    Record(Arc<[(Arc<str>, Value)]>),
    /// A tensor.
    Tensor(Tensor),
    /// A function.
    Function(Callable),
    /// How a parameter begins.
    Initializer(Initializer),
    /// A module.
    Module(ModuleId),
    /// A dim to work along.
    Axis(AxisRef),
    /// The data of a `train` block.
    Data,
    /// One column of it.
    DataField(DataField),
}

impl Value {
    pub(crate) fn int(value: i64) -> Value {
        Value::Int(Dim::constant(value))
    }

    pub(crate) fn list(values: impl IntoIterator<Item = Value>) -> Value {
        Value::List(values.into_iter().collect())
    }

    /// The integer, when it is a known one.
    pub(crate) fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(dim) => dim.as_constant(),
            _ => None,
        }
    }

    /// What it is, with an article: for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Value::Poison => "a value with an error".into(),
            Value::Unit => "nothing".into(),
            Value::Int(dim) if dim.as_constant().is_some() => format!("the integer {dim}"),
            Value::Int(dim) => format!("the size `{dim}`"),
            Value::Float(value) => format!("the float {value}"),
            Value::Bool(value) => format!("the bool {value}"),
            Value::Str(value) => format!("the string {value:?}"),
            Value::DType(dtype) => format!("the dtype {dtype}"),
            Value::List(values) => format!("a list of {}", values.len()),
            Value::Record(_) => "a record".into(),
            Value::Tensor(tensor) => format!("a tensor {}", tensor.describe()),
            Value::Function(_) => "a function".into(),
            Value::Initializer(_) => "an initializer".into(),
            Value::Module(_) => "a module".into(),
            Value::Axis(_) => "a dim".into(),
            Value::Data => "the data".into(),
            Value::DataField(field) => format!("the data column `{}`", field.name),
        }
    }
}

impl Tensor {
    pub(crate) fn rank(&self) -> usize {
        self.ty.shape.len()
    }

    /// The type with the names of dims where their sizes do not say them: `f32[batch, n: 64]`.
    pub(crate) fn describe(&self) -> String {
        let dims: Vec<String> = self
            .ty
            .shape
            .iter()
            .zip(&self.dims)
            .map(|(size, info)| match &info.name {
                Some(name) if size.as_symbol().is_none_or(|symbol| symbol.name() != &**name) => {
                    format!("{name}: {size}")
                }
                Some(_) | None => size.to_string(),
            })
            .collect();
        format!("{}[{}]", self.ty.dtype, dims.join(", "))
    }
}
