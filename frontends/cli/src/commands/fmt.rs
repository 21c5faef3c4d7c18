//! `fmt`: the one layout of programs.

use crate::Ended;
use crate::args::FmtArgs;
use crate::output::Output;
use anyhow::{Context, Result, bail};
use serde_json::json;

pub fn run(args: &FmtArgs, output: &Output) -> Result<Ended> {
    let mut changed = Vec::new();
    for path in &args.files {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let formatted = thalweg::format(&path.to_string_lossy(), &text)?;
        if formatted == text {
            continue;
        }
        changed.push(path.display().to_string());
        if !args.check {
            std::fs::write(path, formatted).with_context(|| format!("cannot write {}", path.display()))?;
            output.line(format!("laid out {}", path.display()))?;
        }
    }
    output.object(&json!({ "changed": changed }))?;
    match args.check && !changed.is_empty() {
        true => bail!("laid out otherwise: {}", changed.join(", ")),
        false => Ok(Ended::Done),
    }
}
