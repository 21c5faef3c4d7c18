//! `export`: a model for other tools.

use crate::Ended;
use crate::args::ExportArgs;
use crate::output::{Output, bytes};
use anyhow::Result;
use serde_json::json;
use thalweg::{CompileOptions, Model};

pub fn run(args: &ExportArgs, output: &Output) -> Result<Ended> {
    let settings = args.set.settings();
    let options =
        CompileOptions { model: args.model.clone(), settings, seed: args.seed, ..CompileOptions::default() };
    let session = Model::from_file(&args.file)?.compile(&options)?;
    if let Some(path) = &args.weights {
        session.load_weights(path)?;
    }
    let path = args.output.clone().unwrap_or_else(|| args.file.with_extension("onnx"));
    session.export_onnx(&path)?;
    let file_bytes = std::fs::metadata(&path).map_or(0, |data| data.len() as usize);
    let name = &session.signature().name;
    output.line(format!("{name}: {} -> {}", bytes(file_bytes), path.display()))?;
    output.object(&json!({ "file": path, "bytes": file_bytes, "model": name }))?;
    Ok(Ended::Done)
}
