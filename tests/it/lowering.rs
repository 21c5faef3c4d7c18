//! Lowering: plans compute what graphs mean, evaluated on the reference device and compiled on the processor.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_base::{DType, Layout, PointwiseFn};
use thalweg_codegen_cpu::{Emitter, Target};
use thalweg_device::{Alone, CheckedPlan, CpuDevice, Device, ReferenceDevice, RunContext};
use thalweg_lower::{Request, lower};
use thalweg_plan::{Code, Plan, Port};
use thalweg_tensor::eval::{Environment, evaluate};
use thalweg_tensor::op::Fill;
use thalweg_tensor::ops::{Cumulative, LeafKind};
use thalweg_tensor::{Array, Graph, Mesh, Op, ReduceFn, Sample, TensorType};
use thalweg_tests::compare::assert_close;
use thalweg_tests::{random_graph, values};

/// Threads of the compiled run: two, so that kernels are split.
const THREADS: usize = 2;

pub(crate) fn plan(graph: &Graph) -> Plan {
    let whole = |_, _: &str| Layout::default();
    let request = Request {
        name: &graph.name,
        graph,
        mesh: &Mesh::default(),
        leaf_layout: &whole,
        output_layout: &|_| Layout::default(),
        threads: THREADS,
    };
    lower(&request).expect("graphs without symbols are lowered")
}

fn with_code(mut plan: Plan, emitter: Emitter) -> Plan {
    let features = thalweg_device::features();
    let target = Target::host(&features).with_emitter(emitter);
    for compiled in &mut plan.kernels {
        let code = thalweg_codegen_cpu::compile(&compiled.kernel, &target)
            .unwrap_or_else(|error| panic!("{error}\n{}", thalweg_kernel::text::print(&compiled.kernel)));
        assert_eq!(code.entry, 0);
        compiled.code = Some(Code { bytes: code.bytes, alignment: code.alignment as u32 });
    }
    plan.target = features;
    plan
}

/// Outputs and then updates, by name, of one call; and of a second one, which must not differ in what it is given again.
fn run(plan: Plan, device: &dyn Device, environment: &Environment) -> BTreeMap<String, Array> {
    let checked = CheckedPlan::new(Arc::new(plan)).expect("lowering makes valid plans");
    let plan = checked.plan().clone();
    let mut program = device.load(&checked, 0).expect("the plan is for this machine");
    let given = [
        (LeafKind::Input, &plan.inputs),
        (LeafKind::Parameter, &plan.parameters),
        (LeafKind::State, &plan.states),
    ];
    let mut results = BTreeMap::new();
    for _call in 0..2 {
        for (kind, ports) in given {
            for port in ports {
                let value = environment[&(kind, port.name.clone())].to_literal();
                program.write(port.places[0], value.bytes()).expect("ports lie in the arena");
            }
        }
        program.run(&mut RunContext::new(&mut Alone), &mut []).expect("nothing stops the run");
        let mut read = |prefix: &str, port: &Port| {
            let count: usize = port.shape.iter().product();
            let mut bytes = vec![0; count * port.dtype.size_bytes()];
            program.read(port.places[0], &mut bytes).expect("ports lie in the arena");
            let literal = thalweg_base::Literal::from_bytes(port.dtype, &port.shape, bytes).expect("it fits");
            let value = Array::from_literal(&literal);
            let name = format!("{prefix}{}", port.name);
            if let Some(before) = results.insert(name.clone(), value.clone()) {
                assert_eq!(before.to_literal(), value.to_literal(), "`{name}` differs in a second call");
            }
        };
        plan.outputs.iter().for_each(|port| read("output ", port));
        plan.parameters.iter().chain(&plan.states).for_each(|port| read("kept ", port));
    }
    results
}

/// The same values under the coarsest float dtype that the graph computes in: what was rounded once stays rounded.
fn coarse(graph: &Graph, value: &Array) -> Array {
    let dtypes = graph.nodes().iter().flat_map(|node| &node.types).map(|ty| ty.dtype);
    let coarsest = dtypes.filter(|dtype| dtype.is_float()).max_by(|a, b| a.epsilon().total_cmp(&b.epsilon()));
    match coarsest.filter(|_| value.dtype.is_float()) {
        Some(dtype) => Array { dtype, ..value.clone() },
        None => value.clone(),
    }
}

/// Evaluates the plan of a graph on the reference device and runs it compiled, against the evaluator.
pub(crate) fn check(graph: &Graph, environment: &Environment, reduction_length: usize) {
    let expected = evaluate(graph, environment).expect("every leaf has a value");
    let plan = plan(graph);
    let compiled = |emitter| {
        let plan = with_code(plan.clone(), emitter);
        run(plan, &CpuDevice::new(THREADS), environment)
    };
    let runs: [(&str, BTreeMap<String, Array>); 4] = [
        ("compiled to the widest vectors", compiled(Emitter::Widest)),
        ("compiled to AVX2 where there is that", compiled(Emitter::Avx2)),
        ("compiled by Cranelift", compiled(Emitter::Cranelift)),
        ("evaluated", run(plan, &ReferenceDevice, environment)),
    ];
    for (how, results) in runs {
        let what = |name: &str| format!("{how}, `{name}` of\n{graph}");
        for (output, value) in graph.outputs.iter().zip(&expected.outputs) {
            let found = &results[&format!("output {}", output.name)];
            assert_close(
                &what(&output.name),
                &coarse(graph, value),
                &coarse(graph, found),
                reduction_length,
                1.0,
            );
        }
        for (update, value) in graph.updates.iter().zip(&expected.updates) {
            let found = &results[&format!("kept {}", update.name)];
            assert_close(
                &what(&update.name),
                &coarse(graph, value),
                &coarse(graph, found),
                reduction_length,
                1.0,
            );
        }
    }
}

/// A graph of one op, all results of which are outputs.
fn sample_graph(sample: &Sample, seed: u64) -> (Graph, Environment) {
    let mut graph = Graph::new("sample");
    let mut environment = Environment::new();
    let mut operands = Vec::new();
    for (index, value) in values::operands(sample, seed).into_iter().enumerate() {
        let name = format!("x{index}");
        operands.push(graph.input(&name, sample.operands[index].0.clone()));
        environment.insert((LeafKind::Input, name), value);
    }
    let node = graph.add(sample.op.clone(), &operands);
    let several = matches!(sample.op, Op::Scan(_) | Op::While(_)) || graph.node(node).types.len() > 1;
    let results = if several { graph.picks(node) } else { vec![node] };
    for (index, result) in results.into_iter().enumerate() {
        graph.output(format!("y{index}"), result);
    }
    (graph, environment)
}

#[test]
fn every_sample_is_computed() {
    for sample in Op::all_samples().iter().filter(|sample| !matches!(sample.op, Op::Collective(_))) {
        let (graph, environment) = sample_graph(sample, 3);
        check(&graph, &environment, 64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_graphs_are_computed(random in random_graph::strategy()) {
        check(&random.graph, &random.environment, 256);
    }
}

/// A product reads a slice that lies in memory for another's sake, long after it was written.
#[test]
fn operands_live_until_they_are_read() {
    let mut graph = Graph::new("late");
    let ty = |shape: &[usize]| TensorType::new(DType::F32, shape.iter().copied());
    let (x, y) = (graph.input("x", ty(&[3, 6, 2])), graph.input("y", ty(&[6, 4])));
    let slice = graph.slice_dim(x, 1, 2, 3);
    let rows = graph.reshape(slice, &[3.into(), 6.into()]);
    let mut busy = x;
    for _ in 0..3 {
        busy = graph.add(Cumulative { function: ReduceFn::Sum, dim: 1, reverse: false }, &[busy]);
    }
    let product = graph.contract("mk,kn->mn", rows, y);
    graph.output("busy", busy);
    graph.output("product", product);
    let value = |name: &str, node, seed| {
        ((LeafKind::Input, name.to_string()), values::filled(graph.ty(node), Fill::Normal, seed))
    };
    let environment = Environment::from_iter([value("x", x, 1), value("y", y, 2)]);
    check(&graph, &environment, 6);
}

/// Sums that lowering takes apart: many long rows, and one long row.
#[test]
fn long_sums_are_computed() {
    for (shape, dims) in
        [(vec![256, 1024], vec![0]), (vec![2, 256, 1024], vec![0, 1]), (vec![1 << 17], vec![0])]
    {
        let ty = TensorType::new(DType::F32, shape.clone());
        let op = thalweg_tensor::ops::Reduce { function: ReduceFn::Sum, dims };
        let (graph, environment) = sample_graph(&Sample::new(op, &[ty]), 5);
        check(&graph, &environment, shape.iter().product());
    }
}

/// Softmaxes along every dim: vectors lie along the rows or across them, and rows may be short.
#[test]
fn softmaxes_along_any_dim_are_computed() {
    for shape in [[5, 7, 9], [3, 40, 33], [2, 130, 1], [1, 3, 200]] {
        for dim in 0..3 {
            let mut graph = Graph::new("softmax");
            let sizes = shape.map(thalweg_base::Dim::from);
            let x = graph.input("x", TensorType::new(DType::F32, shape));
            let kept: Vec<usize> = (0..3).filter(|other| *other != dim).collect();
            let largest = graph.reduce(ReduceFn::Max, x, &[dim]);
            let largest = graph.broadcast(largest, &sizes, &kept);
            let shifted = graph.pointwise(PointwiseFn::Sub, &[x, largest]);
            let exponentials = graph.pointwise(PointwiseFn::Exp, &[shifted]);
            let sum = graph.reduce_sum(exponentials, &[dim]);
            let sum = graph.broadcast(sum, &sizes, &kept);
            let shares = graph.pointwise(PointwiseFn::Div, &[exponentials, sum]);
            graph.output("y", shares);
            let value = values::filled(graph.ty(x), Fill::Normal, dim as u64);
            let environment = Environment::from_iter([((LeafKind::Input, "x".to_string()), value)]);
            check(&graph, &environment, shape[dim]);
        }
    }
}
