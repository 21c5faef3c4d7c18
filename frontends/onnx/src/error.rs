//! What can be wrong with a model.

use std::fmt;

/// What cannot be taken, as a clause without a full stop, with what would help.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What would help, each a clause.
    pub help: Vec<String>,
}

impl Problem {
    /// A problem of that message.
    pub fn new(message: impl Into<String>) -> Problem {
        Problem { message: message.into(), help: Vec::new() }
    }

    /// Adds what would help.
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help.push(help.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.help.iter().try_for_each(|help| write!(f, "; {help}"))
    }
}

/// A problem, and the node that has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeProblem {
    /// The node's name, or its first output's where it has none; absent for what concerns the whole model.
    pub node: Option<String>,
    /// The op, with its domain unless that is the standard one.
    pub op: Option<String>,
    /// The version of the op set that the model asks for.
    pub opset: Option<i64>,
    /// The types of the operands, as far as they are known.
    pub operands: Vec<String>,
    /// What is wrong.
    pub problem: Problem,
}

impl NodeProblem {
    /// A problem of the whole model.
    pub fn of_model(problem: Problem) -> NodeProblem {
        NodeProblem { node: None, op: None, opset: None, operands: Vec::new(), problem }
    }
}

impl fmt::Display for NodeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(op) = &self.op {
            write!(f, "{op}")?;
            if let Some(opset) = self.opset {
                write!(f, " (op set {opset})")?;
            }
            if let Some(node) = &self.node {
                write!(f, " `{node}`")?;
            }
            if !self.operands.is_empty() {
                write!(f, " of {}", self.operands.join(", "))?;
            }
            f.write_str(": ")?;
        }
        self.problem.fmt(f)
    }
}

/// Why a model could not be imported.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file is not one of the format, or is damaged.
    #[error("this is no ONNX model: {0}")]
    Format(String),
    /// Parts of the model cannot be taken. All are listed.
    #[error("the model cannot be imported:{}", .0.iter().map(|problem| format!("\n  - {problem}")).collect::<String>())]
    Model(Vec<NodeProblem>),
}
