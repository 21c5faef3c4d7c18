//! A node as its lowering sees it: operands, attributes, and the graph to build in.

use crate::builder::{Build, Builder, Stop, problem};
use crate::element::{Element, literal};
use crate::error::Problem;
use crate::proto::{AttributeProto, NodeProto, TensorProto};
use crate::value::{Content, Tensor, Value};
use std::collections::BTreeMap;
use thalweg_base::{DType, Dim, Literal, Scalar};
use thalweg_tensor::NodeId;

/// What a lowering gives: the values of the node's outputs.
pub type Results = Result<Vec<Value>, Stop>;

/// How a node of one op becomes nodes of ours.
pub type Lower = fn(&mut Call) -> Results;

/// Attributes that a function's body refers to by name.
pub type Attributes<'m> = BTreeMap<&'m str, &'m AttributeProto>;

/// A node with its operands.
pub struct Call<'a> {
    /// The graphs that are built.
    pub b: &'a mut Builder,
    /// The node.
    pub node: &'a NodeProto,
    /// The version of the op set that the model asks for.
    pub opset: i64,
    /// The operands; absent where the model leaves one out.
    pub inputs: &'a [Option<Value>],
    /// The attributes of the function that the node is in the body of.
    pub outer: &'a Attributes<'a>,
}

impl Call<'_> {
    /// Whether an operand is given.
    pub fn has(&self, index: usize) -> bool {
        !matches!(self.inputs.get(index), None | Some(None) | Some(Some(Value::Optional(None))))
    }

    /// How many operands there are.
    pub fn count(&self) -> usize {
        self.inputs.len()
    }

    /// Whether an output is asked for.
    pub fn wants(&self, index: usize) -> bool {
        self.node.output.get(index).is_some_and(|name| !name.is_empty())
    }

    /// An operand of any kind.
    pub fn value(&self, index: usize) -> Build<&Value> {
        match self.inputs.get(index) {
            Some(Some(value)) => Ok(value),
            Some(None) | None => problem(format!("operand {index} is missing")),
        }
    }

    /// An operand that is a tensor.
    pub fn tensor(&self, index: usize) -> Build<Tensor> {
        match self.value(index)?.as_tensor() {
            Some(tensor) => Ok(tensor.clone()),
            None => problem(format!("operand {index} is no tensor")),
        }
    }

    /// An operand as a node of the current graph.
    pub fn x(&mut self, index: usize) -> Build<NodeId> {
        let tensor = self.tensor(index)?;
        if let Some(narrow) = tensor.narrow {
            return problem(format!(
                "operand {index} has elements of {narrow:?}, which are only converted and moved"
            ));
        }
        self.b.node(&tensor)
    }

    /// An operand as a node, if it is given.
    pub fn optional(&mut self, index: usize) -> Build<Option<NodeId>> {
        if self.has(index) { self.x(index).map(Some) } else { Ok(None) }
    }

    /// Every operand as a node.
    pub fn all(&mut self) -> Build<Vec<NodeId>> {
        (0..self.count()).map(|index| self.x(index)).collect()
    }

    /// The values of an operand that shapes depend on.
    pub fn literal(&self, index: usize) -> Build<Literal> {
        let tensor = self.tensor(index)?;
        match (tensor.literal(), &tensor.content) {
            (Some(literal), _) => Ok(literal),
            (None, Content::Sizes(sizes)) => Err(Stop::Problem(
                Problem::new(format!("the sizes {sizes:?} must be known here"))
                    .help("bind them with `--set`"),
            )),
            (None, _) => Err(Stop::Needs(Box::new(tensor))),
        }
    }

    /// The integers of an operand that shapes depend on, in row-major order.
    pub fn ints(&self, index: usize) -> Build<Vec<i64>> {
        Ok(self.literal(index)?.scalars().map(|scalar| scalar.to_i64()).collect())
    }

    /// The numbers of an operand that shapes depend on, in row-major order.
    pub fn floats(&self, index: usize) -> Build<Vec<f64>> {
        Ok(self.literal(index)?.scalars().map(Scalar::to_f64).collect())
    }

    /// The sizes of an operand that shapes depend on; they may hold symbols.
    pub fn dims(&self, index: usize) -> Build<Vec<Dim>> {
        match self.tensor(index)?.content {
            Content::Sizes(sizes) => Ok(sizes.to_vec()),
            Content::Known { .. } | Content::Node { .. } => {
                Ok(self.ints(index)?.into_iter().map(Dim::constant).collect())
            }
        }
    }

    /// The only number of an operand that shapes depend on.
    pub fn number(&self, index: usize) -> Build<Scalar> {
        let literal = self.literal(index)?;
        match literal.len() {
            1 => Ok(literal.get(0)),
            _ => problem(format!("operand {index} has {} elements instead of one", literal.len())),
        }
    }

    /// An attribute.
    pub fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        let found = self.node.attribute.iter().find(|attribute| attribute.name == name)?;
        match found.ref_attr_name.as_str() {
            "" => Some(found),
            outer => self.outer.get(outer).copied(),
        }
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(|attribute| attribute.i)
    }

    /// An integer attribute or its default.
    pub fn int_or(&self, name: &str, default: i64) -> i64 {
        self.int(name).unwrap_or(default)
    }

    /// Whether an integer attribute, or its default, is not 0.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.int(name).map_or(default, |value| value != 0)
    }

    /// A number attribute.
    pub fn float(&self, name: &str) -> Option<f64> {
        self.attribute(name).map(|attribute| attribute.f as f64)
    }

    /// A number attribute or its default.
    pub fn float_or(&self, name: &str, default: f64) -> f64 {
        self.float(name).unwrap_or(default)
    }

    /// A list of integers.
    pub fn int_list(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name).map(|attribute| attribute.ints.clone())
    }

    /// A list of numbers.
    pub fn float_list(&self, name: &str) -> Option<Vec<f64>> {
        self.attribute(name).map(|attribute| attribute.floats.iter().map(|value| *value as f64).collect())
    }

    /// A text attribute or its default.
    pub fn text_or(&self, name: &str, default: &str) -> String {
        match self.attribute(name) {
            Some(attribute) => String::from_utf8_lossy(&attribute.s).into_owned(),
            None => default.to_string(),
        }
    }

    /// A list of texts.
    pub fn text_list(&self, name: &str) -> Option<Vec<String>> {
        let texts = |attribute: &AttributeProto| {
            attribute.strings.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
        };
        self.attribute(name).map(texts)
    }

    /// A tensor attribute.
    pub fn tensor_attribute(&self, name: &str) -> Build<Option<Tensor>> {
        let read = |tensor: &TensorProto| -> Build<Tensor> {
            let (literal, element) = literal(tensor)?;
            Ok(Tensor { narrow: element.narrow(), ..Tensor::known(literal) })
        };
        self.attribute(name).and_then(|attribute| attribute.t.as_ref()).map(read).transpose()
    }

    /// An element type attribute.
    pub fn element(&self, name: &str) -> Build<Option<Element>> {
        let read = |number: i64| -> Build<Element> {
            Ok(crate::element::element(i32::try_from(number).unwrap_or(i32::MAX))?)
        };
        self.int(name).map(read).transpose()
    }

    /// An element type attribute that must be a dtype of ours.
    pub fn dtype_or(&self, name: &str, default: DType) -> Build<DType> {
        match self.element(name)? {
            None => Ok(default),
            Some(Element::Plain(dtype)) => Ok(dtype),
            Some(Element::Narrow(narrow)) => problem(format!("{narrow:?} is not computed with")),
        }
    }

    /// The dims of the attribute or, since an op set that depends on the op, of the operand `axes`; absent when not given.
    pub fn axes(&self, operand: usize, rank: usize) -> Build<Option<Vec<usize>>> {
        let listed = match self.int_list("axes") {
            Some(axes) => Some(axes),
            None if self.has(operand) => Some(self.ints(operand)?),
            None => None,
        };
        listed.map(|axes| axes.into_iter().map(|axis| normalize(axis, rank)).collect()).transpose()
    }

    /// The dim of the attribute `axis`, counted from the end if negative.
    pub fn axis_or(&self, default: i64, rank: usize) -> Build<usize> {
        normalize(self.int_or("axis", default), rank)
    }

    /// One result.
    pub fn one(&self, id: NodeId) -> Results {
        Ok(vec![self.b.value(id)])
    }

    /// Several results.
    pub fn several(&self, ids: &[NodeId]) -> Results {
        Ok(ids.iter().map(|id| self.b.value(*id)).collect())
    }
}

/// A dim that is counted from the end if negative.
pub fn normalize(axis: i64, rank: usize) -> Build<usize> {
    let from_start = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    match usize::try_from(from_start) {
        Ok(dim) if dim < rank => Ok(dim),
        Ok(_) | Err(_) => problem(format!("there is no dim {axis} among {rank}")),
    }
}
