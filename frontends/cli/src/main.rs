//! The `thalweg` command.
//!
//! The library does the work; this crate reads arguments and the environment, and prints. Results go to standard output,
//! everything else to standard error, so that a result can be piped.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod output;

use args::{Cli, Command};
use clap::Parser;
use output::Output;
use std::process::ExitCode;

/// Exit codes, as the help documents them. Usage errors (2) are clap's.
mod exit {
    pub const PROGRAM: u8 = 1;
    pub const FAILED: u8 = 3;
    pub const INTERRUPTED: u8 = 130;
}

/// How a command ended when nothing failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    Done,
    Interrupted,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.format, cli.color);
    let result = match cli.command {
        Command::Check(args) => commands::check::run(&args, &output),
        Command::Run(args) => commands::run::run(&args, &output),
        Command::Train(args) => commands::train::run(&args, &output),
        Command::Compile(args) => commands::compile::run(&args, &output),
        Command::Dump(args) => commands::dump::run(&args, &output),
        Command::Import(args) => commands::import::run(&args, &output),
        Command::Export(args) => commands::export::run(&args, &output),
        Command::Bench(args) => commands::bench::run(&args, &output),
        Command::Devices(args) => commands::devices::run(&args, &output),
        Command::View(args) => commands::view::run(&args, &output),
        Command::Plan(args) => commands::plan::run(&args, &output),
        Command::Simulate(args) => commands::simulate::run(&args, &output),
        Command::Cache(args) => commands::cache::run(&args, &output),
        Command::Fmt(args) => commands::fmt::run(&args, &output),
        Command::Completions(args) => commands::completions::run(&args),
    };
    match result {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::from(exit::INTERRUPTED),
        Err(error) => {
            // A reader that closed the pipe has seen enough.
            let closed = error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe);
            if closed {
                return ExitCode::SUCCESS;
            }
            output.error(&error);
            match error.downcast_ref::<thalweg::Error>() {
                Some(thalweg::Error::Program(_) | thalweg::Error::Onnx { .. }) => {
                    ExitCode::from(exit::PROGRAM)
                }
                Some(_) | None => ExitCode::from(exit::FAILED),
            }
        }
    }
}
