//! Graphs of ours as models of the format.
//!
//! Every op becomes standard ops of op set 21, which a widely used version of the format has, with sizes that are symbols
//! computed from the shapes of inputs. Parameters and states become stored values; what a graph keeps from call to call
//! becomes further outputs, `next.NAME`, as a model of the format keeps nothing.

mod control;
mod movement;
mod nodes;
mod sizes;
mod writer;

use crate::element::number;
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::{
    GraphProto, ModelProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};
use prost::Message;
use std::collections::BTreeMap;
use thalweg_base::Literal;
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Graph, TensorType};
use writer::Writer;

/// The version of the standard op set that models are written for, of ONNX 1.16.
const OPSET: i64 = 21;

/// The version of the format that goes with it.
const IR_VERSION: i64 = 10;

/// The most bytes that a file of protocol buffers may have.
const BYTES_MAX: usize = i32::MAX as usize;

/// Why a graph cannot be written as a model of the format.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The format has nothing that an op could become.
    #[error("{op} `{scope}` cannot be exported: {reason}")]
    Op {
        /// The op.
        op: &'static str,
        /// The scope that it belongs to.
        scope: String,
        /// Why not, as a clause.
        reason: String,
    },
    /// A parameter or state has no value.
    #[error("`{0}` has no value to export")]
    Missing(String),
    /// The model is too large for one file.
    #[error("the model has {0} bytes, but a file of the format has at most 2147483647")]
    TooLarge(usize),
}

/// A graph as a model. `weights` has the value of every parameter and state.
pub fn export(graph: &Graph, weights: &BTreeMap<String, Literal>) -> Result<ModelProto, ExportError> {
    let mut writer = Writer::new(graph);
    let mut inputs = Vec::new();
    for (id, leaf) in graph.leaves(LeafKind::Input) {
        let name = writer.leaf(id, &leaf.name);
        inputs.push(value_info(&name, &leaf.ty));
    }
    for kind in [LeafKind::Parameter, LeafKind::State] {
        for (id, leaf) in graph.leaves(kind) {
            let value =
                weights.get(&*leaf.name).ok_or_else(|| ExportError::Missing(leaf.name.to_string()))?;
            let name = writer.leaf(id, &leaf.name);
            writer.initializers.push(tensor(&name, value));
        }
    }
    writer.graph(graph)?;
    let updates = graph.updates.iter().map(|update| (format!("next.{}", update.name), update.node));
    let outputs = graph.outputs.iter().map(|output| (output.name.clone(), output.node)).chain(updates);
    let mut infos = Vec::new();
    for (name, id) in outputs.collect::<Vec<_>>() {
        let name = writer.output(&name, id);
        infos.push(value_info(&name, graph.ty(id)));
    }
    let name = if graph.name.is_empty() { "model".to_string() } else { graph.name.clone() };
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "thalweg".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        graph: Some(GraphProto {
            name,
            node: writer.nodes,
            initializer: writer.initializers,
            input: inputs,
            output: infos,
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    match model.encoded_len() {
        bytes if bytes <= BYTES_MAX => Ok(model),
        bytes => Err(ExportError::TooLarge(bytes)),
    }
}

/// The bytes of a model's file.
pub fn encode(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// A literal as a stored value.
fn tensor(name: &str, literal: &Literal) -> TensorProto {
    TensorProto {
        name: name.to_string(),
        data_type: number(literal.dtype()),
        dims: literal.shape().iter().map(|size| *size as i64).collect(),
        raw_data: literal.bytes().to_vec().into(),
        ..TensorProto::default()
    }
}

/// A name with its type.
fn value_info(name: &str, ty: &TensorType) -> ValueInfoProto {
    let size = |dim: &thalweg_base::Dim| {
        let value = match dim.as_constant() {
            Some(size) => dimension::Value::DimValue(size),
            None => dimension::Value::DimParam(dim.to_string()),
        };
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = TensorShapeProto { dim: ty.shape.iter().map(size).collect() };
    let tensor = type_proto::Tensor { elem_type: number(ty.dtype), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_string(), r#type: Some(ty), ..ValueInfoProto::default() }
}
