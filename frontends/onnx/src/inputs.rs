//! What a model's names stand for at its beginning: inputs and stored values.

use crate::builder::{Builder, check_elements};
use crate::element::{element, literal};
use crate::error::{NodeProblem, Problem};
use crate::file::Model;
use crate::import::ImportOptions;
use crate::proto::tensor_shape_proto::dimension::Value as Size;
use crate::proto::type_proto::Value as Kind;
use crate::proto::{GraphProto, SparseTensorProto, TypeProto, ValueInfoProto, tensor_shape_proto::Dimension};
use crate::value::{Content, HostValue, Tensor, Value};
use std::collections::BTreeMap;
use thalweg_base::{Dim, Literal, Scalar};
use thalweg_tensor::TensorType;

/// An input or output of a model.
#[derive(Clone, PartialEq, Debug)]
pub struct InputInfo {
    /// Its name.
    pub name: String,
    /// Its type; absent for lists and optional values.
    pub ty: Option<TensorType>,
}

impl Model {
    /// The inputs that a call is given: those without a stored value. Sizes that the model leaves open are symbols. Fails with
    /// everything that is no tensor of ours.
    pub fn inputs(&self) -> Result<Vec<InputInfo>, Vec<NodeProblem>> {
        let mut problems = Vec::new();
        let mut infos = Vec::new();
        for input in self.given() {
            match info(input) {
                Ok(info) => infos.push(info),
                Err(problem) => {
                    let problem =
                        Problem { message: format!("the input `{}`: {problem}", input.name), ..problem };
                    problems.push(NodeProblem::of_model(problem));
                }
            }
        }
        if problems.is_empty() { Ok(infos) } else { Err(problems) }
    }

    /// The outputs, with the types that the model says they have; those whose type is not told have none.
    pub fn outputs(&self) -> Vec<InputInfo> {
        let one = |output: &ValueInfoProto| {
            info(output).unwrap_or_else(|_| InputInfo { name: output.name.clone(), ty: None })
        };
        self.graph().output.iter().map(one).collect()
    }

    /// The values that the model stores and that are weights rather than constants of the program.
    pub fn weights(&self) -> Result<BTreeMap<String, Literal>, Problem> {
        let weight = |(name, value): &(String, Value)| {
            let (_, literal) = value.as_tensor()?.content.weight()?;
            Some((name.clone(), literal.clone()))
        };
        Ok(self.stored()?.iter().filter_map(weight).collect())
    }

    /// Inputs without a stored value.
    fn given(&self) -> impl Iterator<Item = &ValueInfoProto> {
        let graph = self.graph();
        let stored = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
        graph.input.iter().filter(move |input| !stored(&input.name))
    }
}

fn info(value: &ValueInfoProto) -> Result<InputInfo, Problem> {
    match &value.r#type {
        Some(TypeProto { value: Some(Kind::TensorType(tensor)), .. }) => {
            let shape = tensor.shape.as_ref().map(|shape| shape.dim.as_slice());
            let dtype = element(tensor.elem_type)?.storage();
            let ty = TensorType { dtype, shape: dims(&value.name, shape.unwrap_or(&[])) };
            Ok(InputInfo { name: value.name.clone(), ty: Some(ty) })
        }
        Some(TypeProto { value: Some(Kind::SequenceType(_) | Kind::OptionalType(_)), .. }) => {
            Ok(InputInfo { name: value.name.clone(), ty: None })
        }
        Some(_) | None => Err(Problem::new("it is neither a tensor nor a list nor optional")),
    }
}

/// Values for the names that are known before the first node.
pub(crate) fn bind<'m>(
    model: &'m Model,
    options: &ImportOptions,
    builder: &mut Builder,
    problems: &mut Vec<NodeProblem>,
) -> BTreeMap<&'m str, Value> {
    let mut scope = BTreeMap::new();
    match model.stored() {
        Ok(values) => scope.extend(values.iter().map(|(name, value)| (name.as_str(), value.clone()))),
        Err(problem) => problems.push(NodeProblem::of_model(problem)),
    }
    let infos = match model.inputs() {
        Ok(infos) => infos,
        Err(found) => {
            problems.extend(found);
            return scope;
        }
    };
    for (input, info) in model.given().zip(infos) {
        let mut add = |problem: Problem| {
            let problem = Problem { message: format!("the input `{}`: {problem}", input.name), ..problem };
            problems.push(NodeProblem::of_model(problem));
        };
        if let Some(value) = options.values.get(&input.name) {
            scope.insert(&*input.name, from_host(value));
            continue;
        }
        let Some(ty) = info.ty else {
            add(Problem::new("the value of a list must be known").help("give it when the model is run"));
            continue;
        };
        let shape = match options.shapes.get(&input.name) {
            Some(shape) => shape.iter().map(|size| Dim::from(*size)).collect(),
            None if has_rank(input) => ty.substitute(&options.sizes).shape,
            None => {
                add(Problem::new("its rank is not given").help("give it when the model is run"));
                continue;
            }
        };
        if has_rank(input) && shape.len() != ty.rank() {
            add(Problem::new(format!("{} sizes are given for {ty}", shape.len())));
            continue;
        }
        if check_elements(&shape).is_err() {
            add(Problem::new(format!("a tensor of shape {shape:?} does not fit any memory")));
            continue;
        }
        let narrow = narrow(input);
        if shape.contains(&Dim::default()) && shape.iter().all(|size| size.as_constant().is_some()) {
            let sizes: Vec<usize> = shape.iter().map(Dim::size).collect();
            let empty = Tensor::known(Literal::from_scalars(ty.dtype, &sizes, []));
            scope.insert(&*input.name, Value::Tensor(Tensor { narrow, ..empty }));
            continue;
        }
        let id = builder.graph().input(&input.name, TensorType { dtype: ty.dtype, shape });
        scope.insert(&*input.name, Value::Tensor(Tensor { narrow, ..builder.tensor(id) }));
    }
    scope
}

fn has_rank(input: &ValueInfoProto) -> bool {
    let kind = input.r#type.as_ref().and_then(|ty| ty.value.as_ref());
    matches!(kind, Some(Kind::TensorType(tensor)) if tensor.shape.is_some())
}

fn narrow(input: &ValueInfoProto) -> Option<crate::element::Narrow> {
    match input.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
        Some(Kind::TensorType(tensor)) => element(tensor.elem_type).ok().and_then(|element| element.narrow()),
        Some(_) | None => None,
    }
}

/// A value from outside as one of an import.
fn from_host(value: &HostValue) -> Value {
    match value {
        HostValue::Tensor(literal, narrow) => {
            Value::Tensor(Tensor { narrow: *narrow, ..Tensor::known(literal.clone()) })
        }
        HostValue::Sequence(values) => Value::Sequence(values.iter().map(from_host).collect()),
        HostValue::Optional(value) => Value::Optional(value.as_ref().map(|value| Box::new(from_host(value)))),
    }
}

/// The values that a graph stores.
pub(crate) fn stored(graph: &GraphProto) -> Result<Vec<(&str, Value)>, Problem> {
    let mut values = Vec::new();
    for tensor in &graph.initializer {
        let named =
            |problem: Problem| Problem { message: format!("`{}`: {problem}", tensor.name), ..problem };
        let (literal, element) = literal(tensor).map_err(named)?;
        let known = Tensor::known(literal.clone());
        let content = Content::Known { literal, name: Some(tensor.name.as_str().into()) };
        values.push((&*tensor.name, Value::Tensor(Tensor { narrow: element.narrow(), content, ..known })));
    }
    for sparse in &graph.sparse_initializer {
        let name = sparse.values.as_ref().map_or("", |values| &values.name);
        values.push((name, Value::known(dense(sparse)?)));
    }
    Ok(values)
}

/// A tensor with all elements that a sparse one leaves out as 0.
pub(crate) fn dense(sparse: &SparseTensorProto) -> Result<Literal, Problem> {
    let (Some(values), Some(indices)) = (&sparse.values, &sparse.indices) else {
        return Err(Problem::new("a sparse tensor has values and indices"));
    };
    let (values, _) = literal(values)?;
    let (indices, _) = literal(indices)?;
    let shape: Option<Vec<usize>> = sparse.dims.iter().map(|size| usize::try_from(*size).ok()).collect();
    let count =
        shape.as_ref().and_then(|shape| shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size)));
    let (Some(shape), Some(count)) = (shape, count.filter(|count| *count <= 1 << 32)) else {
        return Err(Problem::new(format!(
            "a sparse tensor of shape {:?} does not fit any memory",
            sparse.dims
        )));
    };
    let mut elements = vec![Scalar::zero(values.dtype()); count];
    let rank = if indices.shape().len() == 2 { shape.len() } else { 1 };
    if indices.len() != values.len() * rank {
        return Err(Problem::new("a sparse tensor has an index for each value"));
    }
    for (at, value) in values.scalars().enumerate() {
        let index: Vec<i64> = (0..rank).map(|d| indices.get(at * rank + d).to_i64()).collect();
        let flat = match rank == shape.len() && indices.shape().len() == 2 {
            false => usize::try_from(index[0]).ok(),
            true => index.iter().zip(&shape).try_fold(0usize, |flat, (i, size)| {
                let i = usize::try_from(*i).ok().filter(|i| i < size)?;
                Some(flat * size + i)
            }),
        };
        match flat.filter(|flat| *flat < count) {
            Some(flat) => elements[flat] = value,
            None => {
                return Err(Problem::new(format!("{index:?} is outside of a sparse tensor of {shape:?}")));
            }
        }
    }
    Ok(Literal::from_scalars(values.dtype(), &shape, elements))
}

/// The sizes of an input; those that are open become symbols.
fn dims(input: &str, sizes: &[Dimension]) -> Vec<Dim> {
    let open = |at: usize| Dim::symbol(&identifier(&format!("{input}_{at}")));
    let one = |(at, size): (usize, &Dimension)| match &size.value {
        Some(Size::DimValue(value)) if *value >= 0 => Dim::constant(*value),
        // A name without letters, such as `?`, says only that the size is open.
        Some(Size::DimParam(name)) if name.chars().any(char::is_alphanumeric) => named(name),
        Some(Size::DimValue(_) | Size::DimParam(_)) | None => open(at),
    };
    sizes.iter().enumerate().map(one).collect()
}

/// The size of a name, which may be an expression such as `2 * seq`.
fn named(name: &str) -> Dim {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let looks_computed = name.chars().any(|c| "+*/ (".contains(c)) && name.len() < 256;
    match !name.chars().all(plain) && looks_computed {
        true => name.parse().unwrap_or_else(|_| Dim::symbol(&identifier(name))),
        false => Dim::symbol(&identifier(name)),
    }
}

/// A name with every character that names of ours lack replaced.
pub(crate) fn identifier(name: &str) -> String {
    let one = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let text: String = name.chars().map(one).collect();
    match text.chars().next() {
        Some(first) if first.is_ascii_digit() => format!("n{text}"),
        Some(_) => text,
        None => "size".to_string(),
    }
}
