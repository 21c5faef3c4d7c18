//! What a graph looks like at each stage of compilation, as text.

use crate::pipeline::{code, context, lower, tensor_passes};
use crate::{CompileError, Options};
use std::fmt::Write;
use std::str::FromStr;
use thalweg_base::Bindings;
use thalweg_codegen_cpu::Target;
use thalweg_tensor::Graph;

/// A stage that can be shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// The graph as it was given.
    Tensor,
    /// The graph with sizes bound, rewritten.
    Rewritten,
    /// One device's program, communication included.
    Partitioned,
    /// The kernels.
    Kernel,
    /// The kernels' code.
    Code,
    /// The whole plan.
    Plan,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [(&'static str, Stage); 6] = [
        ("tensor", Stage::Tensor),
        ("rewritten", Stage::Rewritten),
        ("partitioned", Stage::Partitioned),
        ("kernel", Stage::Kernel),
        ("code", Stage::Code),
        ("plan", Stage::Plan),
    ];
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Stage, String> {
        let found = Stage::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, stage)| *stage).ok_or_else(|| format!("there is no stage `{text}`"))
    }
}

/// The text of a graph at a stage.
pub fn dump(
    graph: &Graph,
    bindings: &Bindings,
    options: &Options,
    stage: Stage,
) -> Result<String, CompileError> {
    if stage == Stage::Tensor {
        return Ok(graph.to_string());
    }
    let mut context = context(bindings, options);
    let mut rewritten = String::new();
    let split = tensor_passes(graph, &mut context, &mut |pass, graph| {
        if pass.name == "rewrite" {
            rewritten = graph.to_string();
        }
    })?;
    if stage == Stage::Rewritten {
        return Ok(rewritten);
    }
    if stage == Stage::Partitioned {
        return Ok(split.to_string());
    }
    let plan = lower(&split, &mut context)?;
    let mut text = String::new();
    match stage {
        Stage::Kernel => {
            for kernel in &plan.kernels {
                writeln!(text, "{}", thalweg_kernel::text::print(&kernel.kernel))
                    .expect("writing to a string");
            }
        }
        Stage::Code => {
            let target = Target::host(&options.device.features).with_emitter(options.emitter);
            for kernel in &plan.kernels {
                let code = thalweg_codegen_cpu::compile_with_disassembly(&kernel.kernel, &target)?;
                let disassembly = code.disassembly.unwrap_or_default();
                let emitter = match code.refusal {
                    None => format!("{:?}", code.emitter),
                    Some(refusal) => format!("{:?}, because: {refusal}", code.emitter),
                };
                writeln!(text, "; {}: {emitter}\n{disassembly}", kernel.kernel.name)
                    .expect("writing to a string");
            }
        }
        Stage::Plan => text = code(plan, &mut context)?.to_text(),
        Stage::Tensor | Stage::Rewritten | Stage::Partitioned => unreachable!("these are shown before"),
    }
    Ok(text)
}
