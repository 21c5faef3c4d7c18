//! `view`: a picture of a graph.

use crate::Ended;
use crate::args::ViewArgs;
use crate::output::Output;
use anyhow::{Context, Result, bail};
use serde_json::json;
use thalweg::{CompileOptions, Model, view};

pub fn run(args: &ViewArgs, output: &Output) -> Result<Ended> {
    let draw = match args.output.extension().and_then(|ending| ending.to_str()) {
        Some("svg") => view::svg,
        Some("dot" | "gv") => view::dot,
        Some(_) | None => bail!("{} ends neither in .svg nor in .dot", args.output.display()),
    };
    let model = Model::from_file(&args.file)?;
    let settings = args.set.settings();
    let graph = match args.train {
        true => model.train_program(args.model.as_deref(), &settings)?.step,
        false => {
            let options = CompileOptions { model: args.model.clone(), settings, ..CompileOptions::default() };
            model.graph(&options)?.graph
        }
    };
    std::fs::write(&args.output, draw(&graph))
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    let nodes = graph.nodes().len();
    output.line(format!("{nodes} nodes -> {}", args.output.display()))?;
    output.object(&json!({ "file": args.output, "nodes": nodes }))?;
    Ok(Ended::Done)
}
