//! `check`: all mistakes of a program, or what its models take and give.

use crate::Ended;
use crate::args::CheckArgs;
use crate::output::Output;
use anyhow::Result;
use serde_json::json;
use thalweg::{CompileOptions, Model, Signature};

pub fn run(args: &CheckArgs, output: &Output) -> Result<Ended> {
    let model = Model::from_file(&args.file)?;
    let settings = args.set.settings();
    model.check(&settings)?;
    let mut signatures = Vec::new();
    for name in model.models() {
        let options = CompileOptions {
            model: Some(name.clone()),
            settings: settings.clone(),
            ..CompileOptions::default()
        };
        // A model whose static parameters have no value has no signature of its own; it is checked where it is used.
        match model.signature(&options) {
            Ok(signature) => signatures.push(signature),
            Err(thalweg::Error::Program(_)) => {
                output.line(format!("model {name}: needs values for its parameters (--set)"))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    for signature in &signatures {
        output.line(describe(signature))?;
    }
    for name in model.trains() {
        output.line(format!("train {name}"))?;
    }
    output.object(&json!({ "diagnostics": [], "models": signatures, "trains": model.trains() }))?;
    Ok(Ended::Done)
}

fn describe(signature: &Signature) -> String {
    let mut text = format!("model {}", signature.name);
    let doc = signature.doc.lines().next().unwrap_or_default().trim();
    if !doc.is_empty() {
        text.push_str(&format!(": {doc}"));
    }
    let parts = [
        ("input", &signature.inputs),
        ("parameter", &signature.parameters),
        ("state", &signature.states),
        ("output", &signature.outputs),
    ];
    for (what, infos) in parts {
        for info in infos {
            text.push_str(&format!("\n  {what:<10} {}: {}", info.name, info.ty));
        }
    }
    let elements: Option<i64> =
        signature.parameters.iter().map(|info| info.ty.elements().as_constant()).sum::<Option<i64>>();
    if let Some(elements) = elements.filter(|elements| *elements > 0) {
        text.push_str(&format!("\n  {elements} trainable values"));
    }
    text
}
