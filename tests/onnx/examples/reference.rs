//! Runs conformance cases on the reference evaluator: `cargo run -p thalweg-onnx-suite --example reference -- FOLDER [FILTER]`. Prints what failed and a table.

#![allow(clippy::print_stdout, reason = "this is a command")]

use thalweg_onnx_suite::{Reference, case, run};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(folder) = arguments.first() else { return Err("which folder?".into()) };
    std::panic::set_hook(Box::new(|_| {}));
    let filter = arguments.get(1).map_or("", String::as_str);
    let report = run(&case::cases(folder.as_ref())?, filter, &Reference);
    for (case, error) in report.failures() {
        println!("{case}: {error}");
    }
    println!("{report}");
    Ok(())
}
