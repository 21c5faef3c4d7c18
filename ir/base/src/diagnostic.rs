//! Messages about the user's own program or file. They are collected, never thrown, and all are shown.

use crate::Span;
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing can be built.
    Error,
    /// It builds, but the user should look.
    Warning,
}

/// A place in the source and what is to say of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What holds there, as a clause without a full stop.
    pub message: String,
}

/// One message about the user's program, with the place it is about and the places that explain it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A stable code such as `E0203`.
    pub code: &'static str,
    /// The message, as a clause without a full stop.
    pub message: String,
    /// The main place; absent where the message is about no place in a source.
    pub primary: Option<Label>,
    /// Other places, such as the two origins of a clash.
    pub labels: Vec<Label>,
    /// What would help, each a clause.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error with its code and message.
    pub fn error(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            message: message.into(),
            primary: None,
            labels: Vec::new(),
            help: Vec::new(),
        }
    }

    /// A warning with its code and message.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, message) }
    }

    /// Sets the main place and what is wrong there.
    pub fn at(mut self, span: Span, message: impl Into<String>) -> Diagnostic {
        self.primary = Some(Label { span, message: message.into() });
        self
    }

    /// Adds a place that explains.
    pub fn label(mut self, span: Span, message: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { span, message: message.into() });
        self
    }

    /// Adds what would help.
    pub fn help(mut self, message: impl Into<String>) -> Diagnostic {
        self.help.push(message.into());
        self
    }
}
