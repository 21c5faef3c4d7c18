//! `import`: an ONNX model as a program.

use crate::Ended;
use crate::args::ImportArgs;
use crate::output::{Output, bytes};
use anyhow::Result;
use serde_json::json;
use std::collections::BTreeMap;
use thalweg::weights::{self, TensorFile};
use thalweg::{CompileOptions, Model};

pub fn run(args: &ImportArgs, output: &Output) -> Result<Ended> {
    let options = CompileOptions { settings: args.set.settings(), ..CompileOptions::default() };
    let (program, tensors) = Model::from_file(&args.file)?.write_program(&options, &args.trainable)?;
    // Nothing is written before all that can fail for the model has succeeded.
    let path = args.output.clone().unwrap_or_else(|| args.file.with_extension("tw"));
    let beside = path.with_extension("safetensors");
    let count = tensors.len();
    weights::write(&beside, &TensorFile { tensors, metadata: BTreeMap::new() })?;
    thalweg::save_text(&path, &program.text)?;
    let size = std::fs::metadata(&beside).map_or(0, |data| data.len() as usize);
    let lines = program.text.lines().count();
    output.line(format!("{lines} lines -> {}", path.display()))?;
    output.line(format!("{count} tensors, {} -> {}", bytes(size), beside.display()))?;
    output.object(&json!({
        "file": path, "lines": lines, "weights": beside, "tensors": count, "bytes": size,
        "names": program.names, "inputs": program.inputs, "outputs": program.outputs,
    }))?;
    Ok(Ended::Done)
}
