//! `run`: one call of a model.

use super::{open, profile, read_inputs};
use crate::Ended;
use crate::args::RunArgs;
use crate::output::{Output, memory};
use anyhow::Result;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use thalweg::{CompileOptions, Tensor};

/// Values that are shown to people, and those that JSON holds; larger outputs want a file.
const SHOWN_MAX: usize = 16;
const JSON_MAX: usize = 4096;

pub fn run(args: &RunArgs, output: &Output) -> Result<Ended> {
    let cache = args.caching.cache(&args.build);
    let session = open(&args.file, &CompileOptions { cache, ..args.build.options(args.seed) })?;
    if let Some(path) = &args.weights {
        session.load_weights(path)?;
    }
    let inputs = read_inputs(&args.inputs, session.signature())?;
    let (plan, _) = session.prepare(&inputs)?;
    output.note(memory(plan.arena_bytes_max(), plan.devices()));
    let outputs = match &args.trace {
        None => session.run(&inputs)?,
        Some(path) => {
            let (outputs, trace) = session.run_traced(&inputs)?;
            profile::write(path, &[trace], output)?;
            outputs
        }
    };
    let several = outputs.iter().len() > 1;
    let mut objects = Vec::new();
    for (name, tensor) in outputs.iter() {
        let file =
            args.output.as_ref().map(|path| if several { with_name(path, name) } else { path.clone() });
        if let Some(file) = &file {
            thalweg::npy::write(file, tensor)?;
        }
        let written = file.as_ref().map_or(String::new(), |file| format!(" -> {}", file.display()));
        output.line(format!("{name}: {}{:?}{written}", tensor.dtype(), tensor.shape()))?;
        if file.is_none() {
            output.line(format!("  {}", preview(tensor)))?;
        }
        let mut object = json!({ "name": name, "dtype": tensor.dtype(), "shape": tensor.shape() });
        if let Some(file) = file {
            object["file"] = json!(file);
        }
        if tensor.len() <= JSON_MAX {
            object["values"] = values(tensor);
        }
        objects.push(object);
    }
    output.object(
        &json!({ "outputs": objects, "arena_bytes": plan.arena_bytes_max(), "devices": plan.devices() }),
    )?;
    Ok(Ended::Done)
}

/// `y.npy` and `logits` make `y.logits.npy`.
fn with_name(path: &Path, name: &str) -> PathBuf {
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = if ending.is_empty() { "npy".into() } else { ending };
    // Names of ONNX outputs may hold what names of files do not.
    let name: String =
        name.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    path.with_file_name(format!("{stem}.{name}.{ending}"))
}

fn preview(tensor: &Tensor) -> String {
    let all = tensor.to_f64();
    let mut shown: Vec<String> =
        all.iter().take(SHOWN_MAX).map(|value| format!("{}", *value as f32)).collect();
    if all.len() > SHOWN_MAX {
        shown.push(format!("… ({} values)", all.len()));
    }
    shown.join(" ")
}

fn values(tensor: &Tensor) -> Value {
    match tensor.dtype().is_float() {
        true => json!(tensor.to_f64()),
        false => json!(tensor.to_f64().iter().map(|value| *value as i64).collect::<Vec<_>>()),
    }
}
