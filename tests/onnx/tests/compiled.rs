//! The format's conformance cases, compiled and run as any model is.
//!
//! The cases are those of the PyPI package `onnx` 1.22.0, which `.ci/fetch-onnx` puts under `target/onnx`; where they are
//! not, the test says so and ends. The cases that fail are listed in `failing.txt`, each with its reason. A case that is not
//! listed must pass, and one that is listed must fail, so the list can only shrink.

#![allow(clippy::print_stderr, reason = "the table is what the test is read for")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use thalweg::{CompileOptions, Devices, Session, Tensor};
use thalweg_base::Literal;
use thalweg_onnx::{HostValue, Model, Tensors, run};
use thalweg_onnx_suite::{Case, Runner, case, reference::text};
use thalweg_tensor::Graph;
use thalweg_tensor::ops::LeafKind;

/// Compiles every graph for one thread.
struct Compiled;

impl Runner for Compiled {
    fn run(&self, model: &Model, inputs: &[(String, HostValue)]) -> Result<Vec<HostValue>, String> {
        let ran = run(model, inputs, &mut compile_and_run).map_err(text)?;
        Ok(ran.outputs.into_iter().map(|(_, value)| value).collect())
    }
}

fn compile_and_run(graph: &Graph, weights: &Tensors, tensors: &Tensors) -> Result<Vec<Literal>, String> {
    if graph.outputs.is_empty() {
        return Ok(vec![]);
    }
    // Outputs may have any names; these are told apart.
    let mut graph = graph.clone();
    graph.outputs.iter_mut().enumerate().for_each(|(at, output)| output.name = format!("output.{at}"));
    let devices = Devices::cpu(1).map_err(|error| error.to_string())?.with_threads(1);
    let options = CompileOptions { devices, ..CompileOptions::default() };
    let session = Session::from_graph(&graph, &options);
    for (name, value) in weights {
        session.set(name, &Tensor::from(value.clone())).map_err(|error| error.to_string())?;
    }
    let names: Vec<String> = graph.leaves(LeafKind::Input).map(|(_, leaf)| leaf.name.to_string()).collect();
    let inputs: Vec<(&str, Tensor)> =
        names.iter().map(|name| (name.as_str(), Tensor::from(tensors[name].clone()))).collect();
    let outputs = session.run(&inputs).map_err(|error| error.to_string())?;
    let literal = |(_, tensor): (&str, &Tensor)| {
        Literal::from_bytes(tensor.dtype(), tensor.shape(), tensor.bytes().to_vec())
            .map_err(|error| error.to_string())
    };
    outputs.iter().map(literal).collect()
}

/// The cases that are known to fail, with their reasons.
fn listed() -> BTreeMap<String, String> {
    let lines = include_str!("../failing.txt").lines();
    let lines = lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, reason) = line.split_once(':').unwrap_or_else(|| panic!("`{line}` gives no reason"));
        (name.trim().to_string(), reason.trim().to_string())
    };
    lines.map(pair).collect()
}

#[test]
fn every_case_that_is_not_listed_passes() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/onnx/onnx/backend/test/data");
    if !root.is_dir() {
        eprintln!("skipped: the cases are not there; `.ci/fetch-onnx` fetches them into target/onnx");
        return;
    }
    let folders = ["node", "pytorch-converted", "pytorch-operator", "simple"];
    let cases: Vec<Case> = folders
        .iter()
        .flat_map(|folder| case::cases(&root.join(folder)).expect("a folder of cases"))
        .collect();
    let report = thalweg_onnx_suite::run(&cases, "", &Compiled);
    eprintln!("{report}");
    let listed = listed();
    let failed: BTreeMap<&str, &str> = report.failures().collect();
    let mut wrong = Vec::new();
    for (case, error) in &failed {
        if !listed.contains_key(*case) {
            wrong.push(format!("{case} fails: {error}"));
        }
    }
    for outcome in report.outcomes.iter().filter(|outcome| outcome.result.is_ok()) {
        if listed.contains_key(&outcome.case) {
            wrong.push(format!("{} passes and must leave failing.txt", outcome.case));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
