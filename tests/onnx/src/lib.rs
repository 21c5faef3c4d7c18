//! The conformance tests of the PyPI package `onnx` (`onnx/backend/test/data`): loading, running, comparing.
//!
//! A case is a folder with a model and sets of inputs and outputs. [`run`] gives every case to a [`Runner`] and collects what
//! came of it; [`Report`] prints a table with a line for each op.

#![forbid(unsafe_code)]

pub mod case;
pub mod compare;
pub mod reference;
pub mod report;

pub use case::Case;
pub use reference::Reference;
pub use report::{Outcome, Report};

use thalweg_onnx::{HostValue, Model};

/// Something that runs models.
pub trait Runner {
    /// The outputs of a model for inputs by name, or why there are none.
    fn run(&self, model: &Model, inputs: &[(String, HostValue)]) -> Result<Vec<HostValue>, String>;
}

/// Runs cases whose name contains `filter`.
pub fn run(cases: &[Case], filter: &str, runner: &dyn Runner) -> Report {
    let chosen = cases.iter().filter(|case| case.name.contains(filter));
    let outcome = |case: &Case| {
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case.check(runner)));
        let result = tried.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Err(format!("PANIC: {}", text.unwrap_or_default()))
        });
        Outcome { case: case.name.clone(), ops: case.ops(), result }
    };
    Report { outcomes: chosen.map(outcome).collect() }
}
