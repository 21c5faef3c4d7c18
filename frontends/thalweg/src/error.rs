//! What can go wrong, as values.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_base::{Diagnostic, Severity, SourceMap};

/// Everything that this crate answers with.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be done.
///
/// [`Error::Program`] is about the user's own program and carries every message with its place in the source. All others
/// say in one text what was to be done, with what, and why it did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program has mistakes.
    #[error("{0}")]
    Program(Diagnostics),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}{}", path.display(), suffix(hint))]
    Io {
        /// What was to be done, such as `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What would help, if that is known.
        hint: Option<String>,
    },
    /// A file is damaged, or not of the format it should have.
    #[error("{}{}: {message}", path.display(), at_line(*line))]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1, in files that have lines.
        line: Option<usize>,
        /// What is wrong, as a clause.
        message: String,
    },
    /// An ONNX model cannot be imported; everything that is in the way is listed.
    #[error("{}: {source}", path.display())]
    Onnx {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: thalweg_onnx::ImportError,
    },
    /// A model cannot be written as a program.
    #[error("the model cannot be written as a program: {0}")]
    Write(#[from] thalweg_lang::WriteError),
    /// A model cannot be written in the ONNX format.
    #[error("the model cannot be exported: {0}")]
    Export(#[from] thalweg_onnx::ExportError),
    /// Weights do not fit the model; every misfit is listed.
    #[error("the weights in {} do not fit the model:{}", path.display(), listed(problems))]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong, each a clause.
        problems: Vec<String>,
    },
    /// The arrays that were given do not fit the signature; every misfit is listed.
    #[error("the inputs do not fit the model:{}", listed(problems))]
    Inputs {
        /// What is wrong, each a clause.
        problems: Vec<String>,
    },
    /// A checkpoint is of another training than the one that wants to go on from it.
    #[error("the checkpoint {} is of another training:{}", path.display(), listed(problems))]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What differs, each a clause.
        problems: Vec<String>,
    },
    /// The data does not fit the program.
    #[error("the data does not fit the program: {0}")]
    Data(String),
    /// There is nothing of the name that was asked for.
    #[error("there is no {what} `{name}`{}", suffix(hint))]
    Unknown {
        /// The kind of thing, such as `output`.
        what: &'static str,
        /// The name.
        name: String,
        /// What would help, if that is known.
        hint: Option<String>,
    },
    /// An array was asked for with elements of another type.
    #[error("the tensor has elements of type {found}, not {asked}")]
    Dtype {
        /// What was asked for.
        asked: thalweg_base::DType,
        /// What is there.
        found: thalweg_base::DType,
    },
    /// The text that names devices cannot be understood.
    #[error("`{text}` names no devices: {message}")]
    Devices {
        /// The text.
        text: String,
        /// What is wrong, as a clause.
        message: String,
    },
    /// An option has a value that cannot be used.
    #[error("{0}")]
    Option(String),
    /// Training has run into values that are not finite.
    #[error("the loss of step {step} is {loss}; a lower learning rate or clipped gradients may help")]
    NotFinite {
        /// The step, from 1.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// The model cannot be compiled so.
    #[error(transparent)]
    Compile(#[from] thalweg_driver::CompileError),
    /// A cluster cannot be read.
    #[error("{}{source}", place.as_ref().map_or(String::new(), |path| format!("{}: ", path.display())))]
    Cluster {
        /// The file, where it is one.
        place: Option<PathBuf>,
        /// What is wrong.
        source: thalweg_cost::library::LibraryError,
    },
    /// A training cannot be planned.
    #[error(transparent)]
    Planner(#[from] thalweg_partition::planner::PlannerError),
    /// The devices could not do what the plan says.
    #[error(transparent)]
    Execute(#[from] thalweg_executor::ExecutorError),
}

impl Error {
    /// What is wrong with a program or an ONNX model, as an array of objects. Of a program, as [`Diagnostics::to_json`]; of an
    /// ONNX model, with `severity`, `message`, `help`, `op`, `node`, `opset` and `operands`. Empty for other errors.
    pub fn to_json(&self) -> serde_json::Value {
        if let Error::Program(diagnostics) = self {
            return diagnostics.to_json();
        }
        let Error::Onnx { source: thalweg_onnx::ImportError::Model(problems), .. } = self else {
            return serde_json::json!([]);
        };
        let object = |found: &thalweg_onnx::NodeProblem| {
            serde_json::json!({
                "severity": "error", "message": found.problem.message, "help": found.problem.help,
                "op": found.op, "node": found.node, "opset": found.opset, "operands": found.operands,
            })
        };
        problems.iter().map(object).collect()
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path: path.clone(), source, hint: None }
    }

    pub(crate) fn file(path: &Path, message: impl Into<String>) -> Error {
        Error::File { path: path.to_path_buf(), line: None, message: message.into() }
    }

    pub(crate) fn line(path: &Path, line: usize, message: impl Into<String>) -> Error {
        Error::File { path: path.to_path_buf(), line: Some(line), message: message.into() }
    }
}

fn suffix(hint: &Option<String>) -> String {
    hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"))
}

fn at_line(line: Option<usize>) -> String {
    line.map_or(String::new(), |line| format!(":{line}"))
}

fn listed(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}

/// Messages about a program, with the sources that they point into. Displayed as compilers do, without colour.
#[derive(Clone)]
pub struct Diagnostics {
    /// The messages, in the order they were found.
    pub list: Vec<Diagnostic>,
    sources: Arc<SourceMap>,
}

impl Diagnostics {
    pub(crate) fn new(list: Vec<Diagnostic>, sources: &SourceMap) -> Diagnostics {
        Diagnostics { list, sources: Arc::new(sources.clone()) }
    }

    /// The messages with their source lines; with `color`, ANSI escapes are in the text.
    pub fn render(&self, color: bool) -> String {
        thalweg_lang::render(&self.list, &self.sources, color)
    }

    /// The messages as an array of objects: `severity`, `code`, `message`, `file`, `line`, `column`, `start`, `end`,
    /// `label`, `labels` and `help`.
    pub fn to_json(&self) -> serde_json::Value {
        thalweg_lang::to_json(&self.list, &self.sources)
    }

    /// The number of errors, warnings not counted.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.fmt(f)
    }
}
