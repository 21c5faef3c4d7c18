//! Whole programs: the training step of each example, compiled and run on one and several devices, against the reference
//! evaluator.

use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_base::{Bindings, Dim, Literal};
use thalweg_driver::{Options, compile};
use thalweg_executor::{Executor, TensorView};
use thalweg_lang::{Program, Settings};
use thalweg_tensor::eval::{Environment, evaluate};
use thalweg_tensor::op::Fill;
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Array, Graph, Mesh};
use thalweg_tests::compare::assert_close;
use thalweg_tests::values;

/// What a value may differ by between two ways of computing a training step, in units of one long sum: updates divide
/// gradients by their own size, which magnifies rounding.
const REDUCTION_LENGTH: usize = 1 << 20;

/// A graph with the values of its leaves.
pub(crate) struct Case {
    pub(crate) graph: Graph,
    pub(crate) environment: Environment,
}

/// The training step of an example with fixed inputs, made small by other texts for some of its own.
fn case(file: &str, smaller: &[(&str, &str)], bindings: &[(&str, usize)]) -> Case {
    let path = format!("{}/../examples/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(&path).expect("examples are part of the repository");
    for (from, to) in smaller {
        assert!(text.contains(from), "{file} has no `{from}`");
        text = text.replace(from, to);
    }
    let (program, errors) = Program::parse(file, &text);
    assert!(errors.is_empty(), "{errors:?}");
    let name = program.trains().remove(0);
    let train =
        program.elaborate_train(&name, &Settings::new()).unwrap_or_else(|errors| panic!("{errors:?}"));
    let bindings: Bindings =
        bindings.iter().map(|(name, value)| (thalweg_base::Symbol::new(name), Dim::from(*value))).collect();
    let graph = train.step.substitute(&bindings);
    assert!(graph.symbols().is_empty(), "{file}: {:?} are not bound", graph.symbols());
    let mut environment = Environment::new();
    for (seed, node) in graph.nodes().iter().enumerate() {
        let Some(leaf) = node.op.as_leaf() else { continue };
        let value = match (&leaf.init, leaf.ty.dtype.is_float()) {
            (Some(init), _) => {
                let literal = init.literal(7, &leaf.name, leaf.ty.dtype, &leaf.ty.sizes());
                Array::from_literal(&literal)
            }
            (None, true) => values::filled(&leaf.ty, Fill::Normal, seed as u64),
            (None, false) => values::filled(&leaf.ty, Fill::Index(10), seed as u64),
        };
        environment.insert((leaf.kind, leaf.name.to_string()), value);
    }
    Case { graph, environment }
}

/// Outputs and next values by name, after one call.
fn run(case: &Case, options: &Options) -> BTreeMap<String, Array> {
    let compiled = compile(&case.graph, &Bindings::new(), options).unwrap_or_else(|error| panic!("{error}"));
    let plan = Arc::new(compiled.plan);
    let settings = thalweg_executor::Options { threads_per_device: 1, ..Default::default() };
    let mut executor = Executor::new(plan.clone(), &settings).unwrap_or_else(|error| panic!("{error}"));
    let literals: BTreeMap<&(LeafKind, String), Literal> =
        case.environment.iter().map(|(key, value)| (key, value.to_literal())).collect();
    let mut inputs: Vec<(&str, TensorView)> = Vec::new();
    for ((kind, name), literal) in &literals {
        match kind {
            LeafKind::Input => inputs.push((name, literal.into())),
            LeafKind::Parameter | LeafKind::State => {
                executor.set(name, literal).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
    let outputs = executor.run(&inputs).unwrap_or_else(|error| panic!("{error}"));
    let mut results = BTreeMap::new();
    for (port, value) in plan.outputs.iter().zip(outputs) {
        results.insert(format!("output {}", port.name), Array::from_literal(&value));
    }
    for port in plan.parameters.iter().chain(&plan.states) {
        let value = executor.get(&port.name).unwrap_or_else(|error| panic!("{error}"));
        results.insert(format!("kept {}", port.name), Array::from_literal(&value));
    }
    results
}

fn device_options(devices: usize, strategy: thalweg_partition::Strategy) -> Options {
    let mut device = thalweg_device::detect(Some(1));
    device.threads = 1;
    let mesh = if devices == 1 { Mesh::default() } else { Mesh::line("devices", devices) };
    Options { mesh, strategy, ..Options::for_device(device) }
}

fn check(file: &str, smaller: &[(&str, &str)]) {
    check_case(&case(file, smaller, &[("batch", 4), ("seq", 6)]), file);
}

/// Compiles and runs a graph on one and several devices, against the evaluator.
pub(crate) fn check_case(case: &Case, what: &str) {
    let expected = evaluate(&case.graph, &case.environment).expect("every leaf has a value");
    let data = thalweg_partition::Strategy::data;
    let tensor = thalweg_partition::Strategy::tensor;
    let ways = [
        ("one device", device_options(1, data())),
        ("one device, not rewritten", Options { rewrite: None, ..device_options(1, data()) }),
        ("two devices, data parallel", device_options(2, data())),
        ("four devices, data parallel", device_options(4, data())),
        ("two devices, tensor parallel", device_options(2, tensor())),
    ];
    for (how, options) in ways {
        let found = run(case, &options);
        let all = case.graph.outputs.iter().map(|output| format!("output {}", output.name));
        let all = all.chain(case.graph.updates.iter().map(|update| format!("kept {}", update.name)));
        for (name, value) in all.zip(expected.outputs.iter().chain(&expected.updates)) {
            assert_close(&format!("{what}, {how}, `{name}`"), value, &found[&name], REDUCTION_LENGTH, 1.0);
        }
    }
}

#[test]
fn digits() {
    check("digits.tw", &[("width = 128", "width = 16")]);
}

#[test]
fn fashion() {
    check("fashion_mnist.tw", &[("width = 256", "width = 12"), ("28, 28", "4, 4")]);
}

#[test]
fn convolutions() {
    check("models/fashion_cnn.tw", &[("width = 32", "width = 2")]);
}

#[test]
fn lstm() {
    check(
        "models/lstm.tw",
        &[("hidden = 64", "hidden = 8"), ("int = 128", "int = 12"), ("window: 64", "window: 6")],
    );
}

#[test]
fn residual_network() {
    check("models/resnet.tw", &[("width: int = 16", "width: int = 2"), ("3, 32, 32", "3, 8, 8")]);
}

#[test]
fn transformer() {
    let smaller = [
        ("d: int = 64", "d: int = 16"),
        ("heads: int = 4", "heads: int = 2"),
        ("int = 128", "int = 12"),
        ("window: 64", "window: 6"),
    ];
    check("models/transformer.tw", &smaller);
}
