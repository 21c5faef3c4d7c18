//! How things are printed: colours, units, JSON, errors.

use crate::args::{Color, Format};
use anyhow::Result;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write, stderr, stdout};

/// Where and how to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    /// Whether standard error may be coloured.
    color: bool,
}

impl Output {
    /// Colour is used on a terminal only, and not where NO_COLOR is set (no-color.org) or the terminal is dumb.
    pub fn new(format: Format, color: Color) -> Output {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => stderr().is_terminal() && !set("NO_COLOR") && !dumb,
        };
        Output { format, color }
    }

    /// Whether results are JSON.
    pub fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether standard error may be coloured.
    pub fn color(&self) -> bool {
        self.color
    }

    /// A result on standard output, for people. Nothing when results are JSON.
    pub fn line(&self, text: impl AsRef<str>) -> Result<()> {
        if !self.json() {
            writeln!(stdout(), "{}", text.as_ref())?;
        }
        Ok(())
    }

    /// A result on standard output, as it is.
    pub fn raw(&self, text: &str) -> Result<()> {
        stdout().write_all(text.as_bytes())?;
        Ok(())
    }

    /// A result on standard output as one line of JSON. Nothing when results are for people.
    pub fn object(&self, value: &Value) -> Result<()> {
        if self.json() {
            writeln!(stdout(), "{value}")?;
        }
        Ok(())
    }

    /// A remark on standard error.
    pub fn note(&self, text: impl AsRef<str>) {
        // There is nobody to tell when standard error is closed.
        let _ = writeln!(stderr(), "{}", text.as_ref());
    }

    /// A line about progress: on standard output for people, on standard error when results are JSON.
    pub fn progress(&self, text: impl AsRef<str>) -> Result<()> {
        match self.json() {
            true => {
                self.note(text);
                Ok(())
            }
            false => self.line(text),
        }
    }

    /// What went wrong: for people on standard error; also as an object on standard output when results are JSON.
    pub fn error(&self, error: &anyhow::Error) {
        let own = error.downcast_ref::<thalweg::Error>();
        if let Some(thalweg::Error::Program(diagnostics)) = own {
            self.note(diagnostics.render(self.color).trim_end());
            let count = diagnostics.errors();
            self.note(format!("\n{count} {}", if count == 1 { "mistake" } else { "mistakes" }));
        } else {
            let head = if self.color { "\x1b[1;31merror\x1b[0m" } else { "error" };
            self.note(format!("{head}: {}", chain(error)));
        }
        if self.json() {
            let diagnostics = own.map_or(json!([]), thalweg::Error::to_json);
            let message = match own {
                Some(thalweg::Error::Program(diagnostics)) => format!("{} mistakes", diagnostics.errors()),
                Some(_) | None => chain(error),
            };
            let object = json!({ "error": { "message": message, "diagnostics": diagnostics } });
            // Standard error has it too, when standard output is closed.
            let _ = writeln!(stdout(), "{object}");
        }
    }
}

/// An error and its causes; a cause that a text before it has told already is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Bytes for people: `1.5 MiB`.
pub fn bytes(count: usize) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

/// A count for people: `12.3 k`.
pub fn count(value: f64) -> String {
    match value {
        value if value >= 1e12 => format!("{:.1} T", value / 1e12),
        value if value >= 1e9 => format!("{:.1} G", value / 1e9),
        value if value >= 1e6 => format!("{:.1} M", value / 1e6),
        value if value >= 1e3 => format!("{:.1} k", value / 1e3),
        value => format!("{value:.0} "),
    }
}

/// A count with its unit's prefix right behind it: `12.3k`.
pub fn short(value: f64) -> String {
    count(value).replace(' ', "")
}

/// The memory that a plan needs, before it runs.
pub fn memory(arena_bytes: usize, devices: usize) -> String {
    match devices {
        1 => format!("memory: {} in one arena, planned before running", bytes(arena_bytes)),
        devices => {
            format!("memory: {} in each of {devices} arenas, planned before running", bytes(arena_bytes))
        }
    }
}

/// A megabyte count of this process from `/proc/self/status`, such as `VmHWM`; absent where the system has no such file.
pub fn process_mb(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some((kilobytes / 1024.0 * 10.0).round() / 10.0)
}

/// What the system's scheduler says of the threads of this process.
#[derive(Clone, Copy, Debug)]
pub struct Scheduled {
    /// Seconds that they ran, added up.
    pub ran_s: f64,
    /// Seconds that they could have run and waited for a core, added up.
    pub waited_s: f64,
}

impl Scheduled {
    /// Since the process began, by `/proc/self/task/*/schedstat`; absent where the system has no such files.
    pub fn so_far() -> Option<Scheduled> {
        let mut sum = Scheduled { ran_s: 0.0, waited_s: 0.0 };
        for thread in std::fs::read_dir("/proc/self/task").ok()? {
            // A thread may have ended since the folder was read.
            let Ok(text) = std::fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
            let mut nanoseconds = text.split_whitespace().map(|field| field.parse::<f64>().ok());
            sum.ran_s += nanoseconds.next()?? * 1e-9;
            sum.waited_s += nanoseconds.next()?? * 1e-9;
        }
        Some(sum)
    }
}
