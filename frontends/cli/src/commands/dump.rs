//! `dump`: the text of a stage of compilation.

use crate::Ended;
use crate::args::{DumpArgs, DumpStage};
use crate::output::Output;
use anyhow::{Context, Result};
use serde_json::json;
use thalweg::{Bindings, Dim, Model, Stage};

pub fn run(args: &DumpArgs, output: &Output) -> Result<Ended> {
    let model = Model::from_file(&args.file)?;
    let options = args.build.options(0);
    let mut bindings = Bindings::new();
    let graph = match args.train || args.stage == DumpStage::Gradient {
        true => {
            let train = model.train_program(args.build.model.as_deref(), &options.settings)?;
            for column in &train.data.columns {
                if let Some(symbol) = column.ty.shape.first().and_then(Dim::as_symbol) {
                    bindings.insert(symbol.clone(), Dim::constant(train.batch as i64));
                }
            }
            train.step
        }
        false => model.graph(&options)?.graph,
    };
    let stage = match args.stage {
        DumpStage::Gradient => Stage::Tensor,
        DumpStage::Of(stage) => stage,
    };
    let text = Model::dump(&graph, &bindings, &options, stage)?;
    if let Some(path) = &args.output {
        std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        output.object(&json!({ "file": path }))?;
        return Ok(Ended::Done);
    }
    match output.json() {
        true => output.object(&json!({ "text": text }))?,
        false => output.raw(&text)?,
    }
    Ok(Ended::Done)
}
