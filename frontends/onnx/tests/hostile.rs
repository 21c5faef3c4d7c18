//! Files that lie: each is told what is wrong with it, and none is a panic, a hang or a heap of memory.

use proptest::prelude::*;
use prost::Message;
use thalweg_onnx::proto::attribute_proto::AttributeType;
use thalweg_onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto,
    type_proto,
};
use thalweg_onnx::{Import, ImportOptions, Model};

const FLOAT: i32 = 1;
const INT64: i32 = 7;

fn value(name: &str, element: i32, sizes: &[i64]) -> ValueInfoProto {
    let dim = |size: &i64| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(*size)),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: sizes.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: element, shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), r#type: Some(ty), ..Default::default() }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        input: inputs.iter().map(|name| name.to_string()).collect(),
        output: outputs.iter().map(|name| name.to_string()).collect(),
        attribute: attributes,
        ..Default::default()
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..Default::default()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i: value, ..Default::default() }
}

fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Graph as i32,
        g: Some(graph),
        ..Default::default()
    }
}

fn stored(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: INT64,
        dims: vec![values.len() as i64],
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn model(graph: GraphProto) -> ModelProto {
    let opset = OperatorSetIdProto { domain: String::new(), version: 20 };
    ModelProto { ir_version: 10, opset_import: vec![opset], graph: Some(graph), ..Default::default() }
}

/// What reading and importing say; nothing when all is well.
fn verdict(bytes: Vec<u8>) -> Option<String> {
    let model = match Model::read(bytes.into(), &|name| Err(format!("there is no `{name}`"))) {
        Ok(model) => model,
        Err(error) => return Some(error.to_string()),
    };
    let mut import = match Import::new(&model, &ImportOptions::default()) {
        Ok(import) => import,
        Err(error) => return Some(error.to_string()),
    };
    import.advance().err().map(|error| error.to_string())
}

fn complains(graph: GraphProto, about: &str) {
    let said = verdict(model(graph).encode_to_vec()).expect("it is wrong");
    assert!(said.contains(about), "`{said}` says nothing of `{about}`");
}

/// A model that uses many ways to give shapes.
fn sound() -> GraphProto {
    let turn = GraphProto {
        node: vec![
            node("Add", &["state", "state"], &["next"], vec![]),
            node("Identity", &["go"], &["go_on"], vec![]),
        ],
        input: vec![value("i", INT64, &[]), value("go", 9, &[]), value("state", FLOAT, &[2, 8])],
        output: vec![value("go_on", 9, &[]), value("next", FLOAT, &[2, 8])],
        ..Default::default()
    };
    GraphProto {
        name: "sound".into(),
        node: vec![
            node("Reshape", &["x", "shape"], &["a"], vec![]),
            node("Transpose", &["a"], &["b"], vec![ints("perm", &[0, 2, 1])]),
            node("Slice", &["b", "starts", "ends", "axes"], &["c"], vec![]),
            node("Pad", &["c", "pads"], &["d"], vec![]),
            node("MaxPool", &["d"], &["e"], vec![ints("kernel_shape", &[2]), ints("strides", &[2])]),
            node("Conv", &["e", "w"], &["f"], vec![ints("pads", &[1, 1]), ints("dilations", &[1])]),
            node("Flatten", &["f"], &["g"], vec![int("axis", 1)]),
            node("Softmax", &["g"], &["h"], vec![int("axis", -1)]),
            node("Loop", &["turns", "", "h"], &["y"], vec![body("body", turn)]),
        ],
        initializer: vec![
            stored("shape", &[2, 4, 3]),
            stored("starts", &[0]),
            stored("ends", &[3]),
            stored("axes", &[1]),
            stored("pads", &[0, 0, 0, 0, 0, 0]),
            stored("turns", &[3]),
            TensorProto {
                name: "w".into(),
                data_type: FLOAT,
                dims: vec![4, 3, 3],
                float_data: (0..36).map(|i| i as f32 / 36.0).collect(),
                ..Default::default()
            },
        ],
        input: vec![value("x", FLOAT, &[24])],
        output: vec![value("y", FLOAT, &[2, 8])],
        ..Default::default()
    }
}

#[test]
fn a_sound_model_is_taken() {
    assert_eq!(verdict(model(sound()).encode_to_vec()), None);
}

#[test]
fn sizes_that_lie() {
    let stores = |tensor: TensorProto| GraphProto {
        node: vec![node("Identity", &["t"], &["y"], vec![])],
        initializer: vec![tensor],
        output: vec![value("y", FLOAT, &[1])],
        ..Default::default()
    };
    let tensor = |dims: &[i64]| TensorProto {
        name: "t".into(),
        data_type: FLOAT,
        dims: dims.to_vec(),
        raw_data: vec![0u8; 8].into(),
        ..Default::default()
    };
    complains(stores(tensor(&[3])), "12 bytes");
    complains(stores(tensor(&[-1])), "not all sizes");
    complains(stores(tensor(&[i64::MAX, i64::MAX])), "does not fit any memory");
    complains(stores(TensorProto { data_type: 99, ..tensor(&[2]) }), "element type 99");
    let huge = GraphProto {
        node: vec![node("ConstantOfShape", &["s"], &["y"], vec![])],
        initializer: vec![stored("s", &[1 << 40, 1 << 40])],
        output: vec![value("y", FLOAT, &[1])],
        ..Default::default()
    };
    complains(huge, "does not fit any memory");
}

#[test]
fn graphs_that_turn_in_circles() {
    let circle = GraphProto {
        node: vec![node("Neg", &["b"], &["a"], vec![]), node("Neg", &["a"], &["b"], vec![])],
        output: vec![value("b", FLOAT, &[1])],
        ..Default::default()
    };
    complains(circle, "no node before computes it");
    let function = FunctionProto {
        name: "Again".into(),
        domain: "own".into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        node: vec![NodeProto { domain: "own".into(), ..node("Again", &["x"], &["y"], vec![]) }],
        ..Default::default()
    };
    let graph = GraphProto {
        node: vec![NodeProto { domain: "own".into(), ..node("Again", &["x"], &["y"], vec![]) }],
        input: vec![value("x", FLOAT, &[1])],
        output: vec![value("y", FLOAT, &[1])],
        ..Default::default()
    };
    let again = ModelProto { functions: vec![function], ..model(graph) };
    let said = verdict(again.encode_to_vec()).expect("it never ends");
    assert!(said.contains("nested"), "{said}");
}

#[test]
fn files_outside_of_the_folder() {
    for location in ["../secret", "/etc/passwd", "a/../../b", "a//b", "", "c:\\x"] {
        let tensor = TensorProto {
            name: "t".into(),
            data_type: FLOAT,
            dims: vec![1],
            data_location: 1,
            external_data: vec![StringStringEntryProto { key: "location".into(), value: location.into() }],
            ..Default::default()
        };
        let graph = GraphProto { initializer: vec![tensor], ..Default::default() };
        complains(graph, "not below the model's folder");
    }
}

/// Every op without a row is told, with its name, not only the first.
#[test]
fn all_that_cannot_be_taken_is_told_at_once() {
    let graph = GraphProto {
        node: vec![
            node("Frobnicate", &["x"], &["a"], vec![]),
            NodeProto {
                domain: "com.example".into(),
                name: "second".into(),
                ..node("Twist", &["x"], &["b"], vec![])
            },
        ],
        input: vec![value("x", FLOAT, &[1])],
        output: vec![value("a", FLOAT, &[1]), value("b", FLOAT, &[1])],
        ..Default::default()
    };
    complains(graph.clone(), "Frobnicate");
    complains(graph, "com.example.Twist `second`");
}

/// A loop of more turns than anybody can wait for is one op, or an error where its turns must be built one by one.
#[test]
fn endless_turns() {
    let mut graph = sound();
    graph.initializer[5] = stored("turns", &[i64::MAX]);
    assert_eq!(verdict(model(graph).encode_to_vec()), None);
    let turn = GraphProto {
        node: vec![
            node("SequenceInsert", &["list", "x"], &["longer"], vec![]),
            node("Identity", &["go"], &["go_on"], vec![]),
        ],
        input: vec![value("i", INT64, &[]), value("go", 9, &[]), value("list", FLOAT, &[])],
        output: vec![value("go_on", 9, &[]), value("longer", FLOAT, &[])],
        ..Default::default()
    };
    let graph = GraphProto {
        node: vec![
            node("SequenceEmpty", &[], &["empty"], vec![]),
            node("Loop", &["turns", "", "empty"], &["lists"], vec![body("body", turn)]),
            node("SequenceLength", &["lists"], &["y"], vec![]),
        ],
        initializer: vec![stored("turns", &[i64::MAX])],
        input: vec![value("x", FLOAT, &[1])],
        output: vec![value("y", INT64, &[])],
        ..Default::default()
    };
    complains(graph, "a list gets more than");
}

/// Functions that call the next one twice double at each level.
#[test]
fn functions_that_double() {
    let own = |op: &str, inputs: &[&str], outputs: &[&str]| NodeProto {
        domain: "own".into(),
        ..node(op, inputs, outputs, vec![])
    };
    let names: Vec<String> = (0..50).map(|level| format!("f{level}")).collect();
    let function = |level: usize| FunctionProto {
        name: names[level].clone(),
        domain: "own".into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        node: match names.get(level + 1) {
            Some(next) => vec![own(next, &["x"], &["z"]), own(next, &["z"], &["y"])],
            None => vec![node("Identity", &["x"], &["y"], vec![])],
        },
        ..Default::default()
    };
    let graph = GraphProto {
        node: vec![own("f0", &["x"], &["y"])],
        input: vec![value("x", FLOAT, &[1])],
        output: vec![value("y", FLOAT, &[1])],
        ..Default::default()
    };
    let doubling = ModelProto { functions: (0..50).map(function).collect(), ..model(graph) };
    let said = verdict(doubling.encode_to_vec()).expect("nobody can wait for it");
    assert!(said.contains("one after the other"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes changed, cut off and put in anywhere.
    #[test]
    fn damaged_bytes(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<Option<prop::sample::Index>>()) {
        let mut bytes = model(sound()).encode_to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = verdict(bytes);
    }

    /// Numbers replaced by extreme ones: shapes, axes, pads, sizes.
    #[test]
    fn extreme_numbers(which in 0usize..9, at in 0usize..3, number in prop::sample::select(vec![i64::MIN, i64::MIN + 1, -7, -1, 0, 1, 5, 1 << 31, 1 << 40, i64::MAX - 1, i64::MAX])) {
        let mut graph = sound();
        match which {
            0..=5 => {
                let values = &mut graph.initializer[which].int64_data;
                let length = values.len();
                values[at % length] = number;
            }
            6 => graph.node[1].attribute[0].ints[at] = number,
            7 => graph.node[4].attribute[at % 2].ints[0] = number,
            _ => graph.node[5].attribute[at % 2].ints[0] = number,
        }
        let _ = verdict(model(graph).encode_to_vec());
    }
}
