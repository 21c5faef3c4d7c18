//! What a model takes, keeps and gives.

use crate::error::{Error, Result};
use crate::tensor::Tensor;
use serde::Serialize;
use thalweg_base::{Bindings, Dim, Symbol};
use thalweg_plan::{Plan, Port};
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Graph, TensorType};

/// One tensor of a signature.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TensorInfo {
    /// What it is called.
    pub name: String,
    /// Its dtype and the sizes of its dims, which may be symbols.
    #[serde(flatten, serialize_with = "as_text")]
    pub ty: TensorType,
}

/// What a model takes, keeps and gives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Signature {
    /// The name of the model.
    pub name: String,
    /// What its doc comment says.
    pub doc: String,
    /// What each call is given.
    pub inputs: Vec<TensorInfo>,
    /// What is trained, and what weight files hold.
    pub parameters: Vec<TensorInfo>,
    /// What is kept from call to call besides.
    pub states: Vec<TensorInfo>,
    /// What each call gives.
    pub outputs: Vec<TensorInfo>,
}

fn as_text<S: serde::Serializer>(ty: &TensorType, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let shape: Vec<serde_json::Value> = ty
        .shape
        .iter()
        .map(|dim| dim.as_constant().map_or_else(|| dim.to_string().into(), serde_json::Value::from))
        .collect();
    let mut map = serializer.serialize_map(Some(2))?;
    map.serialize_entry("dtype", &ty.dtype)?;
    map.serialize_entry("shape", &shape)?;
    map.end()
}

impl Signature {
    pub(crate) fn of_graph(graph: &Graph, name: &str, doc: &str) -> Signature {
        let leaves = |kind| {
            let info = |leaf: &thalweg_tensor::ops::Leaf| TensorInfo {
                name: leaf.name.to_string(),
                ty: leaf.ty.clone(),
            };
            graph.leaves(kind).map(|(_, leaf)| info(leaf)).collect()
        };
        Signature {
            name: name.to_string(),
            doc: doc.to_string(),
            inputs: leaves(LeafKind::Input),
            parameters: leaves(LeafKind::Parameter),
            states: leaves(LeafKind::State),
            outputs: graph
                .outputs
                .iter()
                .map(|output| TensorInfo { name: output.name.clone(), ty: graph.ty(output.node).clone() })
                .collect(),
        }
    }

    pub(crate) fn of_plan(plan: &Plan) -> Signature {
        let infos = |ports: &[Port]| {
            let ty = |port: &Port| TensorType::new(port.dtype, port.shape.iter().map(|size| *size as i64));
            ports.iter().map(|port| TensorInfo { name: port.name.clone(), ty: ty(port) }).collect()
        };
        Signature {
            name: plan.name.clone(),
            doc: String::new(),
            inputs: infos(&plan.inputs),
            parameters: infos(&plan.parameters),
            states: infos(&plan.states),
            outputs: infos(&plan.outputs),
        }
    }

    /// The values of all sizes that the given inputs decide. Fails when they do not fit, saying of each what is wrong.
    pub fn bind(&self, inputs: &[(&str, Tensor)]) -> Result<Bindings> {
        let mut bindings = Bindings::new();
        let mut problems = Vec::new();
        for (at, (name, _)) in inputs.iter().enumerate() {
            if !self.inputs.iter().any(|input| input.name == *name) {
                let known: Vec<&str> = self.inputs.iter().map(|input| input.name.as_str()).collect();
                problems.push(format!("there is no input `{name}`; the inputs are {}", known.join(", ")));
            }
            if inputs[..at].iter().any(|(earlier, _)| earlier == name) {
                problems.push(format!("`{name}` is given twice"));
            }
        }
        // Dims that are a symbol alone first, whatever input they are of, so that sums and products of symbols can be compared.
        let mut rest = Vec::new();
        for input in &self.inputs {
            let Some((_, tensor)) = inputs.iter().find(|(name, _)| *name == input.name) else {
                problems.push(format!("`{}: {}` is not given", input.name, input.ty));
                continue;
            };
            if tensor.dtype() != input.ty.dtype || tensor.shape().len() != input.ty.rank() {
                problems.push(misfit(input, tensor, ""));
                continue;
            }
            rest.push((input, tensor));
        }
        for pass in [Pass::Symbols, Pass::All] {
            for (input, tensor) in &rest {
                for (dim, size) in input.ty.shape.iter().zip(tensor.shape()) {
                    if pass == Pass::Symbols && dim.as_symbol().is_none() {
                        continue;
                    }
                    if !bind_dim(dim, *size, &mut bindings) {
                        let known = dim.substitute(&bindings);
                        let because = match dim.as_constant() {
                            Some(_) => String::new(),
                            None => format!(" (`{dim}` is {known} by another dim)"),
                        };
                        let problem = misfit(input, tensor, &because);
                        if !problems.contains(&problem) {
                            problems.push(problem);
                        }
                    }
                }
            }
        }
        let none = bindings.iter().filter(|(_, value)| value.as_constant() == Some(0));
        problems.extend(none.map(|(symbol, _)| format!("the size `{symbol}` is 0; it is at least 1")));
        match problems.is_empty() {
            true => Ok(bindings),
            false => Err(Error::Inputs { problems }),
        }
    }
}

fn misfit(input: &TensorInfo, tensor: &Tensor, because: &str) -> String {
    format!("`{}` is {}, but {}{:?} was given{because}", input.name, input.ty, tensor.dtype(), tensor.shape())
}

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Symbols,
    All,
}

/// Makes all dims equal to sizes, binding symbols that have no value yet; false where that is impossible.
pub(crate) fn bind_dims(dims: &[Dim], sizes: &[usize], bindings: &mut Bindings) -> bool {
    dims.len() == sizes.len() && dims.iter().zip(sizes).all(|(dim, size)| bind_dim(dim, *size, bindings))
}

fn bind_dim(dim: &Dim, size: usize, bindings: &mut Bindings) -> bool {
    let known = dim.substitute(bindings);
    let size = size as i64;
    if let Some(value) = known.as_constant() {
        return value == size;
    }
    if let Some(symbol) = known.as_symbol() {
        bindings.insert(symbol.clone(), Dim::constant(size));
        return true;
    }
    let mut symbols = std::collections::BTreeSet::new();
    known.symbols(&mut symbols);
    let [symbol] = &symbols.into_iter().collect::<Vec<Symbol>>()[..] else { return false };
    // Linear in one symbol: two values tell the slope, and the result is tried.
    let at = |value: i64| {
        let bindings = Bindings::from([(symbol.clone(), Dim::constant(value))]);
        known.substitute(&bindings).as_constant()
    };
    let (Some(zero), Some(one)) = (at(0), at(1)) else { return false };
    let (rise, slope) = (size - zero, one - zero);
    let solution = (slope != 0 && rise % slope == 0).then(|| rise / slope);
    match solution.filter(|value| *value >= 0 && at(*value) == Some(size)) {
        Some(value) => {
            bindings.insert(symbol.clone(), Dim::constant(value));
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_base::DType;

    fn signature(inputs: &[(&str, &str)]) -> Signature {
        let info = |(name, ty): &(&str, &str)| TensorInfo { name: name.to_string(), ty: ty.parse().unwrap() };
        Signature {
            name: "t".into(),
            doc: String::new(),
            inputs: inputs.iter().map(info).collect(),
            parameters: vec![],
            states: vec![],
            outputs: vec![],
        }
    }

    fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
        Tensor(thalweg_base::Literal::full(dtype, shape, thalweg_base::Scalar::Int(0)))
    }

    #[test]
    fn sizes_follow_from_the_inputs() {
        let signature = signature(&[("x", "f32[2*n + 1, b]"), ("y", "f32[b, n]")]);
        let bindings =
            signature.bind(&[("x", zeros(DType::F32, &[9, 3])), ("y", zeros(DType::F32, &[3, 4]))]).unwrap();
        assert_eq!(
            format!("{bindings:?}"),
            format!(
                "{:?}",
                Bindings::from([(Symbol::new("b"), Dim::constant(3)), (Symbol::new("n"), Dim::constant(4)),])
            )
        );
        let alone = self::signature(&[("x", "f32[2*n + 1]")]);
        assert_eq!(alone.bind(&[("x", zeros(DType::F32, &[9]))]).unwrap().len(), 1);
        alone.bind(&[("x", zeros(DType::F32, &[8]))]).unwrap_err();
    }

    #[test]
    fn every_misfit_is_listed() {
        let signature = signature(&[("x", "f32[b, 4]"), ("y", "i32[b]"), ("z", "f32[]")]);
        let given = [
            ("x", zeros(DType::F32, &[3, 5])),
            ("y", zeros(DType::F32, &[3])),
            ("w", zeros(DType::F32, &[])),
        ];
        let Error::Inputs { problems } = signature.bind(&given).unwrap_err() else { panic!("another error") };
        assert_eq!(
            problems,
            [
                "there is no input `w`; the inputs are x, y, z",
                "`y` is i32[b], but f32[3] was given",
                "`z: f32[]` is not given",
                "`x` is f32[b, 4], but f32[3, 5] was given",
            ]
        );
        let given = [
            ("x", zeros(DType::F32, &[3, 4])),
            ("y", zeros(DType::I32, &[2])),
            ("z", zeros(DType::F32, &[])),
        ];
        let Error::Inputs { problems } = signature.bind(&given).unwrap_err() else { panic!("another error") };
        assert_eq!(problems, ["`y` is i32[b], but i32[2] was given (`b` is 3 by another dim)"]);
    }
}
