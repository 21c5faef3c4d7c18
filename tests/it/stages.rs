//! What each stage makes of small programs, kept as snapshots: a change of any pass shows here, line by line.

use std::fmt::Write;
use thalweg_base::{Bindings, Dim, Symbol};
use thalweg_cost::presets;
use thalweg_driver::{Options, Stage, compile, dump};
use thalweg_lang::{Program, Settings};
use thalweg_tensor::{Graph, Mesh};

const PROGRAM: &str = r#"
use nn

/// A product with its epilogue, and a softmax over its rows.
model Classes(x: f32[batch, 8]) -> f32[batch, 6] {
    softmax(nn.linear(gelu(nn.linear(x, 16) as hidden), 6) as out)
}
"#;

/// The model for two rows, on a described processor that is the same wherever the test runs.
fn given() -> (Graph, Bindings) {
    let (program, errors) = Program::parse("classes.tw", PROGRAM);
    assert!(errors.is_empty(), "{errors:?}");
    let model = program.elaborate_model("Classes", &Settings::new()).expect("the program is right");
    (model.graph, [(Symbol::new("batch"), Dim::from(4usize))].into())
}

fn check(name: &str, stage: Stage, options: &Options) {
    let (graph, bindings) = given();
    let text = dump(&graph, &bindings, options, stage).expect("it compiles");
    assert_eq!(text, dump(&graph, &bindings, options, stage).expect("it compiles"), "the same twice");
    insta::assert_snapshot!(name, text);
}

fn devices(count: usize) -> Options {
    let mesh = if count == 1 { Mesh::default() } else { Mesh::line("devices", count) };
    Options { mesh, code: false, ..Options::for_device(presets::cpu_default(1)) }
}

#[test]
fn tensor_graph() {
    check("tensor", Stage::Tensor, &devices(1));
}

#[test]
fn rewritten_graph() {
    check("rewritten", Stage::Rewritten, &devices(1));
}

#[test]
fn partitioned_graph() {
    check("partitioned", Stage::Partitioned, &devices(2));
}

#[test]
fn kernels() {
    check("kernels", Stage::Kernel, &devices(1));
}

/// The plan without machine code, which differs from processor to processor.
#[test]
fn plan() {
    let (graph, bindings) = given();
    let mut text = String::new();
    for count in [1, 2] {
        let plan = compile(&graph, &bindings, &devices(count)).expect("it compiles").plan;
        for program in &plan.programs {
            writeln!(text, "arena {} kept {}", program.arena_bytes, program.kept_bytes)
                .expect("it is a string");
            for step in &program.steps {
                writeln!(text, "{} @{}: {:?}", step.origin.label, step.origin.scope, step.kind)
                    .expect("it is a string");
            }
        }
        let again = thalweg_plan::Plan::from_text(&plan.to_text()).expect("a plan reads back");
        assert_eq!(again, plan);
    }
    insta::assert_snapshot!("plan", text);
}
