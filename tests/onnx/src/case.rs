//! Cases in their folders.

use crate::{Runner, compare};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use thalweg_onnx::element::literal;
use thalweg_onnx::proto::{GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto, type_proto};
use thalweg_onnx::{HostValue, Model};

/// A model with data to try it on.
#[derive(Clone, Debug)]
pub struct Case {
    /// The name of the folder.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
}

/// A list, as the files of data hold it (`onnx-data.proto`).
#[derive(Clone, PartialEq, Message)]
struct SequenceProto {
    #[prost(message, repeated, tag = "3")]
    tensors: Vec<TensorProto>,
    #[prost(message, repeated, tag = "5")]
    sequences: Vec<SequenceProto>,
    #[prost(message, repeated, tag = "7")]
    optionals: Vec<OptionalProto>,
}

/// A value that may be missing.
#[derive(Clone, PartialEq, Message)]
struct OptionalProto {
    #[prost(int32, tag = "2")]
    element_type: i32,
    #[prost(message, optional, tag = "3")]
    tensor: Option<TensorProto>,
    #[prost(message, optional, tag = "5")]
    sequence: Option<SequenceProto>,
    #[prost(message, optional, boxed, tag = "7")]
    optional: Option<Box<OptionalProto>>,
}

/// The cases of a folder such as `node`, sorted by name.
pub fn cases(root: &Path) -> std::io::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let folder = entry?.path();
        if folder.join("model.onnx").is_file() {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            cases.push(Case { name, folder });
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

impl Case {
    /// The ops of the model's main graph.
    pub fn ops(&self) -> BTreeSet<String> {
        let model = std::fs::read(self.folder.join("model.onnx"))
            .ok()
            .and_then(|bytes| ModelProto::decode(&bytes[..]).ok());
        let nodes = model.and_then(|model| model.graph).map(|graph| graph.node).unwrap_or_default();
        nodes.into_iter().map(|node| node.op_type).collect()
    }

    /// Runs every set of data and compares; says what differs.
    pub fn check(&self, runner: &dyn Runner) -> Result<(), String> {
        let bytes = std::fs::read(self.folder.join("model.onnx")).map_err(|error| error.to_string())?;
        let beside = |name: &str| {
            std::fs::read(self.folder.join(name)).map(Bytes::from).map_err(|error| error.to_string())
        };
        let model = Model::read(bytes.into(), &beside).map_err(|error| error.to_string())?;
        let mut sets = 0;
        while let Some(folder) = self.set(sets) {
            self.check_set(&model, &folder, runner)?;
            sets += 1;
        }
        if sets == 0 { Err("there is no data".into()) } else { Ok(()) }
    }

    fn set(&self, number: usize) -> Option<PathBuf> {
        let folder = self.folder.join(format!("test_data_set_{number}"));
        folder.is_dir().then_some(folder)
    }

    fn check_set(&self, model: &Model, folder: &Path, runner: &dyn Runner) -> Result<(), String> {
        let graph: &GraphProto = model.graph();
        let mut inputs = Vec::new();
        for (at, info) in graph.input.iter().enumerate() {
            let path = folder.join(format!("input_{at}.pb"));
            if path.is_file() {
                inputs.push((info.name.clone(), read(&path, info)?));
            }
        }
        let outputs = runner.run(model, &inputs)?;
        for (at, info) in graph.output.iter().enumerate() {
            let path = folder.join(format!("output_{at}.pb"));
            if !path.is_file() {
                continue;
            }
            let expected = read(&path, info)?;
            let found = outputs.get(at).ok_or_else(|| format!("there is no output {at}"))?;
            compare::equal(found, &expected).map_err(|error| format!("output `{}`: {error}", info.name))?;
        }
        Ok(())
    }
}

fn read(path: &Path, info: &ValueInfoProto) -> Result<HostValue, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    value(&bytes, info.r#type.as_ref())
}

fn decoded<T: Message + Default>(bytes: &[u8]) -> Result<T, String> {
    T::decode(bytes).map_err(|error| error.to_string())
}

fn value(bytes: &[u8], ty: Option<&TypeProto>) -> Result<HostValue, String> {
    match ty.and_then(|ty| ty.value.as_ref()) {
        Some(type_proto::Value::SequenceType(_)) => sequence(&decoded(bytes)?),
        Some(type_proto::Value::OptionalType(_)) => optional(&decoded(bytes)?),
        Some(_) | None => tensor(&decoded(bytes)?),
    }
}

fn tensor(proto: &TensorProto) -> Result<HostValue, String> {
    let (literal, element) = literal(proto).map_err(|error| error.to_string())?;
    Ok(HostValue::Tensor(literal, element.narrow()))
}

fn sequence(proto: &SequenceProto) -> Result<HostValue, String> {
    let tensors = proto.tensors.iter().map(tensor);
    let sequences = proto.sequences.iter().map(sequence);
    let optionals = proto.optionals.iter().map(optional);
    Ok(HostValue::Sequence(tensors.chain(sequences).chain(optionals).collect::<Result<_, _>>()?))
}

fn optional(proto: &OptionalProto) -> Result<HostValue, String> {
    let value = match (&proto.tensor, &proto.sequence, &proto.optional) {
        (Some(value), _, _) => Some(tensor(value)?),
        (None, Some(value), _) => Some(sequence(value)?),
        (None, None, Some(value)) => Some(optional(value)?),
        (None, None, None) => None,
    };
    Ok(HostValue::Optional(value.map(Box::new)))
}
