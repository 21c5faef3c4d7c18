//! The commands, one file each.

pub mod bench;
pub mod cache;
pub mod check;
pub mod compile;
pub mod completions;
pub mod devices;
pub mod dump;
pub mod export;
pub mod fmt;
pub mod import;
pub mod plan;
pub mod profile;
pub mod run;
pub mod simulate;
pub mod train;
pub mod view;

use crate::args::Input;
use anyhow::{Context, Result, bail};
use std::path::Path;
use thalweg::{CompileOptions, DType, Session, Signature, Tensor};

/// Whether a file is a plan and no program: plans begin with a parenthesis.
fn is_plan(path: &Path) -> bool {
    use std::io::Read;
    let mut start = [0; 64];
    let count = std::fs::File::open(path).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    start[..count].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'(')
}

/// A session of a program or a plan.
fn open(path: &Path, options: &CompileOptions) -> Result<Session> {
    match is_plan(path) {
        true if !options.settings.is_empty() => {
            bail!("{} is a plan, whose sizes are fixed; --set is for programs", path.display())
        }
        true => Ok(Session::from_plan_file(path, options)?),
        false => Ok(thalweg::Model::from_file(path)?.compile(options)?),
    }
}

/// The values of inputs: a number where the input is a scalar, else a file.
fn read_inputs<'a>(inputs: &'a [Input], signature: &Signature) -> Result<Vec<(&'a str, Tensor)>> {
    let read = |input: &'a Input| {
        let scalar = signature
            .inputs
            .iter()
            .find(|info| info.name == input.name)
            .filter(|info| info.ty.rank() == 0)
            .and_then(|info| number(&input.value, info.ty.dtype));
        let tensor = match scalar {
            Some(tensor) => tensor,
            None => thalweg::npy::read(&input.value).with_context(|| format!("--input {}", input.name))?,
        };
        Ok((input.name.as_str(), tensor))
    };
    inputs.iter().map(read).collect()
}

fn number(text: &str, dtype: DType) -> Option<Tensor> {
    Some(match dtype {
        DType::F32 => text.parse::<f32>().ok()?.into(),
        DType::F64 => text.parse::<f64>().ok()?.into(),
        DType::F16 => thalweg::f16::from_f64(text.parse().ok()?).into(),
        DType::BF16 => thalweg::bf16::from_f64(text.parse().ok()?).into(),
        DType::I8 => text.parse::<i8>().ok()?.into(),
        DType::U8 => text.parse::<u8>().ok()?.into(),
        DType::I16 => text.parse::<i16>().ok()?.into(),
        DType::U16 => text.parse::<u16>().ok()?.into(),
        DType::U32 => text.parse::<u32>().ok()?.into(),
        DType::U64 => text.parse::<u64>().ok()?.into(),
        DType::I32 => text.parse::<i32>().ok()?.into(),
        DType::I64 => text.parse::<i64>().ok()?.into(),
        DType::Bool => text.parse::<bool>().ok()?.into(),
    })
}
