//! Checking and lowering in one walk: the program is run over static values and tensors that are nodes of a graph.
//!
//! Every call is elaborated in its place, with the sizes it is given, so shapes are checked as types without a separate
//! type system, and what reaches the graph is free of names and calls. A value with an error poisons what uses it, which
//! stays silent, so several independent mistakes show in one run.

pub(crate) mod annotation;
mod arithmetic;
mod assign;
mod block;
mod branch;
pub(crate) mod builtins;
pub(crate) mod call;
mod element;
mod emit;
mod expression;
pub(crate) mod frame;
mod index;
mod kinds;
mod operators;
mod parameters;
mod scan;
mod sketch;
pub(crate) mod value;
mod while_loop;

use crate::modules::ModuleId;
use crate::program::{Pin, Program, Settings};
use emit::Level;
use frame::Frame;
use indexmap::IndexMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use thalweg_base::{Diagnostic, Label, Span};
use thalweg_tensor::Graph;
use value::{Tensor, Value};

/// The error was recorded; nothing more is to be said.
#[derive(Debug)]
pub(crate) struct Reported;

pub(crate) type Checked<T> = Result<T, Reported>;

/// Calls within calls. Real models stay below twenty.
const CALLS_MAX: usize = 100;

/// Nodes that one graph may have; the largest models we know of have some ten thousand.
const NODES_MAX: usize = 1_000_000;

/// Turns of static loops, all together.
const TURNS_MAX: usize = 1_000_000;

/// Diagnostics after which elaboration tells no more.
const ERRORS_MAX: usize = 40;

/// A parameter or state of the model under elaboration.
pub(crate) struct Declared {
    pub(crate) tensor: Tensor,
    /// The user's line that it comes from: its own, or the call that led into the library.
    pub(crate) span: Span,
}

pub(crate) struct Elaborator<'p> {
    pub(crate) program: &'p Program,
    pub(crate) settings: &'p Settings,
    /// Settings that were looked at.
    pub(crate) used_settings: BTreeSet<String>,
    pub(crate) errors: Vec<Diagnostic>,
    /// Open graphs: the model's, then the bodies of scans from the outside in.
    pub(crate) levels: Vec<Level>,
    pub(crate) frames: Vec<Frame>,
    /// The scope path, part by part.
    pub(crate) path: Vec<String>,
    /// How often a default scope name was taken, by full path.
    pub(crate) taken: BTreeMap<String, usize>,
    pub(crate) declared: IndexMap<String, Declared>,
    /// The next values of states, by name.
    pub(crate) updates: IndexMap<String, Tensor>,
    /// Scopes of which it was said that two calls share them.
    pub(crate) shared_scopes: BTreeSet<String>,
    pub(crate) constants: BTreeMap<(ModuleId, Arc<str>), Option<Value>>,
    pub(crate) constants_open: Vec<(ModuleId, Arc<str>)>,
    pub(crate) pins: Vec<Pin>,
    /// The scope of the call that was elaborated last, for hints.
    pub(crate) last_scope: String,
    /// What `training` is.
    pub(crate) training: bool,
    /// The seed of random numbers at run time.
    pub(crate) seed: u64,
    /// The columns of data that got a type.
    pub(crate) data: IndexMap<Arc<str>, Tensor>,
    /// The step counter's input node, when something random or scheduled asked for it.
    pub(crate) step: Option<Tensor>,
    pub(crate) random_calls: BTreeMap<String, usize>,
    /// The functions that were run.
    pub(crate) reached: BTreeSet<Span>,
    pub(crate) turns: usize,
    pub(crate) span: Option<Span>,
}

impl<'p> Elaborator<'p> {
    pub(crate) fn new(program: &'p Program, settings: &'p Settings, name: &str, training: bool) -> Self {
        Elaborator {
            program,
            settings,
            used_settings: BTreeSet::new(),
            errors: Vec::new(),
            levels: vec![Level::new(Graph::new(name))],
            frames: Vec::new(),
            path: Vec::new(),
            taken: BTreeMap::new(),
            declared: IndexMap::new(),
            updates: IndexMap::new(),
            shared_scopes: BTreeSet::new(),
            constants: BTreeMap::new(),
            constants_open: Vec::new(),
            pins: Vec::new(),
            last_scope: String::new(),
            training,
            seed: 0,
            data: IndexMap::new(),
            step: None,
            random_calls: BTreeMap::new(),
            reached: BTreeSet::new(),
            turns: 0,
            span: None,
        }
    }

    pub(crate) fn frame(&self) -> &Frame {
        self.frames.last().expect("something is being called")
    }

    pub(crate) fn frame_mut(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("something is being called")
    }

    /// Records an error. One inside of a called function also shows the calls that led there; one inside of the standard
    /// library is shown at the user's call first.
    pub(crate) fn fail(&mut self, mut error: Diagnostic) -> Reported {
        let within = |inner: Span, outer: Span| {
            inner.source == outer.source && outer.start <= inner.start && inner.end <= outer.end
        };
        let evident = |error: &Diagnostic, call: Span| {
            error.primary.iter().any(|label| within(label.span, call))
                || error.labels.iter().any(|label| label.span == call)
        };
        for frame in self.frames.iter().rev() {
            if let Some(call) = frame.call
                && !evident(&error, call)
            {
                error
                    .labels
                    .push(Label { span: call, message: format!("in this call of `{}`", frame.function) });
            }
        }
        let modules = &self.program.modules;
        if let Some(primary) =
            error.primary.as_mut().filter(|primary| modules.is_standard(primary.span.source))
            && let Some(call) = self
                .frames
                .iter()
                .rev()
                .filter_map(|frame| frame.call)
                .find(|call| !modules.is_standard(call.source))
            && let Some(label) = error.labels.iter_mut().find(|label| label.span == call)
        {
            std::mem::swap(primary, label);
        }
        let same = |other: &Diagnostic| {
            other.code == error.code && other.message == error.message && other.primary == error.primary
        };
        if self.errors.len() < ERRORS_MAX && !self.errors.iter().any(same) {
            self.errors.push(error);
        }
        Reported
    }

    pub(crate) fn error<T>(
        &mut self,
        code: &'static str,
        message: impl Into<String>,
        span: Span,
        label: impl Into<String>,
    ) -> Checked<T> {
        Err(self.fail(Diagnostic::error(code, message).at(span, label)))
    }

    /// The place that the user should look at for code that is elaborated now: that of the code itself, or the call that
    /// led into the standard library.
    pub(crate) fn user_span(&self) -> Option<Span> {
        let modules = &self.program.modules;
        let mut span = self.span?;
        for frame in self.frames.iter().rev() {
            if !modules.is_standard(span.source) {
                break;
            }
            span = frame.call?;
        }
        Some(span)
    }
}
