//! `compile`: a plan file.

use crate::Ended;
use crate::args::CompileArgs;
use crate::output::{Output, bytes, memory};
use anyhow::Result;
use serde_json::json;
use std::collections::BTreeMap;
use thalweg::Model;
use thalweg::weights::{self, TensorFile};

pub fn run(args: &CompileArgs, output: &Output) -> Result<Ended> {
    let model = Model::from_file(&args.file)?;
    let (plan, report) = model.plan(&args.build.options(0))?;
    let path = args.output.clone().unwrap_or_else(|| args.file.with_extension("plan"));
    // A plan has no values; those of the model's own file go beside it.
    let tensors = model.weights(&args.build.settings())?;
    let beside = (!tensors.is_empty()).then(|| path.with_extension("safetensors"));
    if let Some(beside) = &beside {
        weights::write(beside, &TensorFile { tensors, metadata: BTreeMap::new() })?;
    }
    thalweg::save_plan(&path, &plan)?;
    let file_bytes = std::fs::metadata(&path).map_or(0, |data| data.len() as usize);
    output.line(report.to_string())?;
    output.line(memory(plan.arena_bytes_max(), plan.devices()))?;
    output.line(format!("plan of {} -> {}", bytes(file_bytes), path.display()))?;
    if let Some(beside) = &beside {
        output.line(format!("weights -> {}; run the plan with --weights", beside.display()))?;
    }
    output.object(&json!({
        "file": path, "weights": beside, "bytes": file_bytes, "key": plan.key, "target": plan.target, "devices": plan.devices(),
        "arena_bytes": plan.arena_bytes_max(), "report": report,
    }))?;
    Ok(Ended::Done)
}
