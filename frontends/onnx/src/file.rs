//! Files of the format: decoding, and bytes that lie in other files.

use crate::error::{ImportError, Problem};
use crate::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
};
use crate::value::Value;
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A decoded model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The model as the file has it; tensors of other files have their bytes in place.
    pub proto: ModelProto,
    /// The values that the main graph stores, once they were asked for.
    stored: OnceLock<Result<Vec<(String, Value)>, Problem>>,
}

/// Gives the bytes of another file in the model's folder, by its name in the model.
pub type Files<'a> = &'a dyn Fn(&str) -> Result<Bytes, String>;

impl Model {
    /// Decodes a model. `files` gives files with tensors that lie beside it; only plain names below the model's folder are
    /// asked for. The bytes of tensors are shared with `bytes`, not copied.
    pub fn read(bytes: Bytes, files: Files) -> Result<Model, ImportError> {
        let mut proto = ModelProto::decode(bytes).map_err(|error| ImportError::Format(error.to_string()))?;
        if proto.graph.is_none() {
            return Err(ImportError::Format("it has no graph".into()));
        }
        let mut loader = External { files, loaded: BTreeMap::new() };
        let mut result = proto.graph.iter_mut().try_for_each(|graph| loader.graph(graph));
        for function in &mut proto.functions {
            result = result.and_then(|()| loader.nodes(&mut function.node));
        }
        match result {
            Ok(()) => Ok(Model { proto, stored: OnceLock::new() }),
            Err(problem) => Err(ImportError::Format(problem.to_string())),
        }
    }

    /// The graph.
    pub fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("reading made sure that there is one")
    }

    /// The model's own name, or `model`.
    pub fn name(&self) -> &str {
        match self.graph().name.as_str() {
            "" => "model",
            name => name,
        }
    }

    /// The version of an op set that the model asks for.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let standard = |domain: &str| domain.is_empty() || domain == "ai.onnx";
        let same = |found: &str| found == domain || (standard(found) && standard(domain));
        self.proto.opset_import.iter().find(|import| same(&import.domain)).map(|import| import.version)
    }
}

impl Model {
    /// The values that the main graph stores. They are decoded once, whatever is imported how often.
    pub(crate) fn stored(&self) -> Result<&[(String, Value)], Problem> {
        let decode = || {
            let values = crate::inputs::stored(self.graph())?;
            Ok(values.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
        };
        match self.stored.get_or_init(decode) {
            Ok(values) => Ok(values),
            Err(problem) => Err(problem.clone()),
        }
    }

    /// The function of that name that the model brings along.
    pub(crate) fn function(&self, domain: &str, name: &str, overload: &str) -> Option<&FunctionProto> {
        let same = |function: &&FunctionProto| {
            let domains = crate::ops::domain(&function.domain) == crate::ops::domain(domain);
            domains && function.name == name && function.overload == overload
        };
        self.proto.functions.iter().find(same)
    }
}

/// Puts the bytes of other files where the tensors are.
struct External<'a> {
    files: Files<'a>,
    loaded: BTreeMap<String, Bytes>,
}

impl External<'_> {
    fn graph(&mut self, graph: &mut GraphProto) -> Result<(), Problem> {
        graph.initializer.iter_mut().try_for_each(|tensor| self.tensor(tensor))?;
        for sparse in &mut graph.sparse_initializer {
            sparse.values.iter_mut().try_for_each(|tensor| self.tensor(tensor))?;
            sparse.indices.iter_mut().try_for_each(|tensor| self.tensor(tensor))?;
        }
        self.nodes(&mut graph.node)
    }

    fn nodes(&mut self, nodes: &mut [NodeProto]) -> Result<(), Problem> {
        nodes
            .iter_mut()
            .flat_map(|node| &mut node.attribute)
            .try_for_each(|attribute| self.attribute(attribute))
    }

    fn attribute(&mut self, attribute: &mut AttributeProto) -> Result<(), Problem> {
        let AttributeProto { t, tensors, g, graphs, .. } = attribute;
        t.iter_mut().chain(tensors).try_for_each(|tensor| self.tensor(tensor))?;
        g.iter_mut().chain(graphs).try_for_each(|graph| self.graph(graph))
    }

    fn tensor(&mut self, tensor: &mut TensorProto) -> Result<(), Problem> {
        if tensor.data_location != 1 {
            return Ok(());
        }
        let entry = |key: &str| {
            let found = tensor.external_data.iter().find(|entry: &&StringStringEntryProto| entry.key == key);
            found.map(|entry| entry.value.as_str())
        };
        let number = |key: &str| -> Result<Option<usize>, Problem> {
            let parse = |text: &str| {
                text.parse()
                    .map_err(|_| Problem::new(format!("`{}`: the {key} `{text}` is no number", tensor.name)))
            };
            entry(key).map(parse).transpose()
        };
        let location = entry("location").unwrap_or_default().to_string();
        let plain = |part: &str| !part.is_empty() && part != ".." && !part.contains([':', '\\', '\0']);
        if !location.split('/').all(plain) {
            let message =
                format!("`{}` lies in `{location}`, which is not below the model's folder", tensor.name);
            return Err(Problem::new(message));
        }
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let file = match self.loaded.get(&location) {
            Some(file) => file.clone(),
            None => {
                let file = (self.files)(&location).map_err(|error| {
                    Problem::new(format!("`{}` lies in `{location}`: {error}", tensor.name))
                })?;
                self.loaded.insert(location.clone(), file.clone());
                file
            }
        };
        let end = length.map_or(Some(file.len()), |length| offset.checked_add(length));
        match end {
            Some(end) if offset <= end && end <= file.len() => tensor.raw_data = file.slice(offset..end),
            Some(_) | None => {
                return Err(Problem::new(format!("`{}` lies beyond the end of `{location}`", tensor.name)));
            }
        }
        tensor.data_location = 0;
        Ok(())
    }
}
