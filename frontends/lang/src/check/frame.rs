//! The variables of one call.

use super::value::{DimInfo, Value};
use crate::modules::ModuleId;
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_base::{DType, Dim, Span};

/// What may be done to a variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum VarKind {
    /// `let`, a parameter of the function, a turn of a `for`
    Fixed,
    /// `var`, or carried by a scan
    Mutable,
    /// `state`: assigning it sets its next value; the full name is kept
    State(Arc<str>),
}

/// A variable.
#[derive(Clone)]
pub(crate) struct Var {
    pub(crate) value: Value,
    pub(crate) kind: VarKind,
    pub(crate) span: Span,
    /// The open graph in which it was declared; a scan's body cannot assign what is outside.
    pub(crate) level: usize,
}

/// A name of a dim with its size.
#[derive(Clone, Debug)]
pub(crate) struct DimBinding {
    pub(crate) size: Dim,
    /// Where the size comes from, as the caller sees it.
    pub(crate) outer: DimInfo,
}

/// The variables of one call of a function, or of a module's constants.
#[derive(Clone)]
pub(crate) struct Frame {
    pub(crate) module: ModuleId,
    /// What was called, for messages.
    pub(crate) function: String,
    /// From where it was called.
    pub(crate) call: Option<Span>,
    /// Blocks from the outside in.
    pub(crate) blocks: Vec<BTreeMap<Arc<str>, Var>>,
    /// Dims named in the signature and in annotations.
    pub(crate) dims: BTreeMap<Arc<str>, DimBinding>,
    /// What `..s` stands for.
    pub(crate) rests: BTreeMap<Arc<str>, Vec<DimBinding>>,
    /// What `float[…]`, `int[…]` and `any[…]` stand for.
    pub(crate) classes: BTreeMap<Arc<str>, (DType, Option<Span>)>,
    /// Whether `param` and `state` may be declared.
    pub(crate) owns: bool,
    /// Whether unknown names of dims in types become symbols (in a model's signature).
    pub(crate) symbolic: bool,
    /// Whether this is a `train` block.
    pub(crate) train: bool,
}

impl Frame {
    pub(crate) fn new(module: ModuleId, function: impl Into<String>, call: Option<Span>) -> Frame {
        Frame {
            module,
            function: function.into(),
            call,
            blocks: vec![BTreeMap::new()],
            dims: BTreeMap::new(),
            rests: BTreeMap::new(),
            classes: BTreeMap::new(),
            owns: false,
            symbolic: false,
            train: false,
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Var> {
        self.blocks.iter().rev().find_map(|block| block.get(name))
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Var> {
        self.blocks.iter_mut().rev().find_map(|block| block.get_mut(name))
    }

    pub(crate) fn declare(&mut self, name: Arc<str>, var: Var) {
        self.blocks.last_mut().expect("a frame has a block").insert(name, var);
    }

    /// Every name that can be used here.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let vars = self.blocks.iter().flat_map(|block| block.keys());
        vars.chain(self.dims.keys()).chain(self.rests.keys()).map(|name| &**name)
    }
}
