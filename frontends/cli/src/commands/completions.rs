//! `completions`: a script for a shell.

use crate::Ended;
use crate::args::{Cli, CompletionsArgs};
use anyhow::Result;
use clap::CommandFactory;
use std::io::Write;

pub fn run(args: &CompletionsArgs) -> Result<Ended> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "thalweg", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Ended::Done)
}
