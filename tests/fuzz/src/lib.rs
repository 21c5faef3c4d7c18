//! What fuzzers call: for each text form that Thalweg reads, and for ONNX files, a function that takes anything, and panics where
//! reading it shows a mistake of ours. A text that is refused is fine; one that is accepted must come back the same from its printed form.
//!
//! The fuzz targets of this crate and the tests in `tests/it/fuzz.rs` share these functions.

#![forbid(unsafe_code)]

use thalweg_kernel::Kernel;
use thalweg_lang::{Program, Settings, format_source, render};
use thalweg_onnx::{Import, ImportOptions, Model, Step};
use thalweg_plan::Plan;
use thalweg_tensor::Graph;

/// Reads and checks a `.tw` program. Its mistakes can be shown; if it has none of syntax, its layout is one that stays.
pub fn program(text: &str) {
    let (program, mut found) = Program::parse("fuzz.tw", text);
    let readable = found.is_empty();
    found.extend(program.check(&Settings::new()));
    render::render(&found, program.sources(), true);
    if readable {
        let laid_out = format_source(text).expect("a program without mistakes of syntax is laid out");
        let again = format_source(&laid_out).expect("a program that was laid out is one still");
        assert_eq!(laid_out, again, "a second layout differs");
    }
}

/// Reads a graph's text form.
pub fn graph(text: &str) {
    let Ok(graph) = text.parse::<Graph>() else { return };
    let printed = graph.to_string();
    let again: Graph = printed.parse().unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(graph.to_string(), again.to_string());
    thalweg_tensor::verify::verify(&graph);
}

/// Reads a kernel's text form. What the verifier accepts is valid when expanded, too.
pub fn kernel(text: &str) {
    let Ok(kernel) = thalweg_kernel::text::parse(text) else { return };
    let printed = thalweg_kernel::text::print(&kernel);
    let again: Kernel =
        thalweg_kernel::text::parse(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    // As texts, because a NaN is not equal to itself.
    assert_eq!(printed, thalweg_kernel::text::print(&again));
    if thalweg_kernel::verify::verify(&kernel).is_ok() {
        let expanded = thalweg_kernel::expand::expand(&kernel);
        let problems = thalweg_kernel::verify::verify(&expanded);
        assert!(problems.is_ok(), "expanded: {problems:?}\n{printed}");
    }
}

/// Reads a plan file, which is verified on the way. Nothing of it is run: code in a plan is trusted as a program is.
pub fn plan(text: &str) {
    let Ok(plan) = Plan::from_text(text) else { return };
    let printed = plan.to_text();
    let again = Plan::from_text(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(printed, again.to_text());
}

/// Reads and imports an ONNX file without other files beside it. What is imported is a graph that holds together.
pub fn onnx(bytes: &[u8]) {
    let Ok(model) = Model::read(bytes.to_vec().into(), &|_| Err("nothing lies beside it".into())) else {
        return;
    };
    let Ok(mut import) = Import::new(&model, &ImportOptions::default()) else { return };
    if let Ok(Step::Done(imported)) = import.advance() {
        let problems = thalweg_tensor::verify::verify(&imported.graph);
        assert!(problems.is_empty(), "{problems:?}");
    }
}
