//! What the benches share: programs in the `.tw` language, brought onto the processor with values in place.
//!
//! Run them with `cargo bench -p thalweg-benches`, or some with `cargo bench -p thalweg-benches -- softmax`. Nothing here is a
//! test: no time is asserted. A mistake in a bench panics.

#![forbid(unsafe_code)]

use std::sync::Arc;
use thalweg_base::{Bindings, DType, Dim, Literal, Symbol};
use thalweg_device::{Alone, CheckedPlan, CpuDevice, Device, LoadedProgram, RunContext};
use thalweg_driver::{Options, compile};
use thalweg_lang::{Program, Settings};
use thalweg_plan::{Plan, Port};
use thalweg_tensor::Graph;

/// The options for this machine, all cores as one device.
pub fn options() -> Options {
    Options::for_device(thalweg_device::detect(None))
}

/// The graph of the only model of a program.
pub fn model(text: &str) -> Graph {
    let (program, errors) = Program::parse("bench.tw", text);
    assert!(errors.is_empty(), "{errors:?}");
    let name = program.models().remove(0);
    program.elaborate_model(&name, &Settings::new()).unwrap_or_else(|errors| panic!("{errors:?}")).graph
}

/// The training step of an example, before its symbols have values.
pub fn example_step(file: &str) -> Graph {
    let path = format!("{}/../examples/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let (program, errors) = Program::parse(file, &text);
    assert!(errors.is_empty(), "{errors:?}");
    let name = program.trains().remove(0);
    program.elaborate_train(&name, &Settings::new()).unwrap_or_else(|errors| panic!("{errors:?}")).step
}

/// Values for symbols.
pub fn bindings(sizes: &[(&str, usize)]) -> Bindings {
    sizes.iter().map(|(name, size)| (Symbol::new(name), Dim::from(*size))).collect()
}

/// A graph compiled and loaded, its inputs filled with values in (-1, 1) and its integers with 0, so that only the steps
/// themselves are measured.
pub struct Loaded {
    program: Box<dyn LoadedProgram>,
}

impl Loaded {
    /// Compiles and loads a graph.
    pub fn new(graph: &Graph, bindings: &Bindings) -> Loaded {
        let options = options();
        let plan = compile(graph, bindings, &options).unwrap_or_else(|error| panic!("{error}")).plan;
        let plan = CheckedPlan::new(Arc::new(plan)).expect("the compiler makes valid plans");
        let device = CpuDevice::new(options.device.threads);
        let mut program = device.load(&plan, 0).expect("the plan is for this machine");
        fill(plan.plan(), program.as_mut());
        Loaded { program }
    }

    /// Runs all steps once.
    pub fn run(&mut self) {
        self.program.run(&mut RunContext::new(&mut Alone), &mut []).expect("nothing stops the run");
    }
}

fn fill(plan: &Plan, program: &mut dyn LoadedProgram) {
    let ports = plan.inputs.iter().chain(&plan.parameters).chain(&plan.states);
    for (seed, port) in ports.enumerate() {
        program.write(port.places[0], &bytes(port, seed as u32)).expect("ports lie in the arena");
    }
}

fn bytes(port: &Port, seed: u32) -> Vec<u8> {
    let elements: usize = port.shape.iter().product();
    if port.dtype != DType::F32 {
        return vec![0; elements * port.dtype.size_bytes()];
    }
    // Knuth's multiplicative hash: spread out, and the same each time.
    let value = |index: usize| {
        let bits = (index as u32).wrapping_add(seed).wrapping_mul(2_654_435_769) >> 8;
        bits as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..elements).map(value).collect();
    Literal::from_f32(&port.shape, &values).bytes().to_vec()
}
