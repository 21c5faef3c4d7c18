//! A kernel as loops within loops, each value as far out as it can be.
//!
//! Ranges become loops like those of the body. A value moves out of every loop that it does not depend on: constants,
//! positions, functions, and loads from buffers that the kernel does not write. A load may move before a store to memory
//! that its buffer shares, because points of a kernel read what they write before they write it.

use thalweg_kernel::analysis::ValueMap;
use thalweg_kernel::ir::{Access, Carried, Index};
use thalweg_kernel::{Expr, Kernel, Place, Stmt, ValueId, VarId};

/// How often a loop runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bounds {
    /// The part of this range that a call asks for.
    Range(usize),
    Known(usize),
}

/// A loop with what it contains.
#[derive(Clone, Debug)]
pub(crate) struct Nest<'a> {
    pub var: VarId,
    pub bounds: Bounds,
    /// The range's or loop's extent.
    pub extent: usize,
    pub lanes: u32,
    pub carried: &'a [Carried],
    /// The statements as the kernel has them, for analyses.
    pub stmts: &'a [Stmt],
    pub items: Vec<Item<'a>>,
}

/// One step of a body.
#[derive(Clone, Debug)]
pub(crate) enum Item<'a> {
    Let(ValueId, &'a Expr),
    Store(&'a Stmt),
    Loop(Nest<'a>),
}

/// Builds the loops of a verified kernel: what is outside of all of them, with the outermost loops in it.
pub(crate) fn nest(kernel: &Kernel) -> Vec<Item<'_>> {
    let mut builder =
        Builder { kernel, depths: ValueMap::default(), vars: Vec::new(), open: vec![Vec::new()] };
    builder.ranges(0);
    builder.open.pop().expect("the outermost body")
}

struct Builder<'a> {
    kernel: &'a Kernel,
    /// How many loops each value is inside of.
    depths: ValueMap<usize>,
    /// The open loops' variables, outermost first.
    vars: Vec<VarId>,
    /// The bodies of the open loops; the first is outside of all.
    open: Vec<Vec<Item<'a>>>,
}

impl<'a> Builder<'a> {
    fn ranges(&mut self, dim: usize) {
        let kernel = self.kernel;
        let Some(range) = kernel.ranges.get(dim) else {
            self.body(&kernel.body);
            return;
        };
        self.vars.push(range.var);
        self.open.push(Vec::new());
        self.ranges(dim + 1);
        self.vars.pop();
        let items = self.open.pop().expect("just opened");
        let nest = Nest {
            var: range.var,
            bounds: Bounds::Range(dim),
            extent: range.extent,
            lanes: range.lanes,
            carried: &[],
            stmts: &kernel.body,
            items,
        };
        self.push(Item::Loop(nest));
    }

    fn push(&mut self, item: Item<'a>) {
        self.open.last_mut().expect("one body is open").push(item);
    }

    fn body(&mut self, stmts: &'a [Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::Let { value, expr } => {
                    let depth = self.depth(expr);
                    self.depths.insert(*value, depth);
                    self.open[depth].push(Item::Let(*value, expr));
                }
                Stmt::Store { .. } => self.push(Item::Store(stmt)),
                Stmt::Loop { var, extent, lanes, carried, body } => {
                    self.vars.push(*var);
                    self.open.push(Vec::new());
                    let depth = self.vars.len();
                    for carry in carried {
                        self.depths.insert(carry.phi, depth);
                    }
                    self.body(body);
                    self.vars.pop();
                    let items = self.open.pop().expect("just opened");
                    for carry in carried {
                        self.depths.insert(carry.result, depth - 1);
                    }
                    self.push(Item::Loop(Nest {
                        var: *var,
                        bounds: Bounds::Known(*extent),
                        extent: *extent,
                        lanes: *lanes,
                        carried,
                        stmts: body,
                        items,
                    }));
                }
            }
        }
    }

    /// In how many loops an expression must be.
    fn depth(&self, expr: &Expr) -> usize {
        let mut depth = 0;
        expr.for_each_operand(|operand| {
            depth = depth.max(*self.depths.get(operand).expect("defined before its use"));
        });
        match expr {
            Expr::Index(_, index) => depth.max(self.index_depth(index)),
            Expr::Load { place, index, .. } => match place {
                Place::Buffer(id) if self.kernel.buffers[id.index()].access == Access::Read => {
                    depth.max(self.index_depth(index))
                }
                Place::Buffer(_) | Place::Scratch(_) => self.vars.len(),
            },
            Expr::Constant(..) | Expr::Pointwise(..) | Expr::Convert(..) | Expr::Bitcast(..) => depth,
        }
    }

    fn index_depth(&self, index: &Index) -> usize {
        let of = |var: VarId| self.vars.iter().position(|open| *open == var).expect("in scope") + 1;
        index.terms.iter().map(|(var, _)| of(*var)).max().unwrap_or(0)
    }
}

/// Calls `f` with the position of every access in a body and all bodies within.
pub(crate) fn each_access<'a>(items: &[Item<'a>], f: &mut impl FnMut(Place, &'a Index)) {
    for item in items {
        match item {
            Item::Let(_, Expr::Load { place, index, .. }) => f(*place, index),
            Item::Let(..) => {}
            Item::Store(Stmt::Store { place, index, .. }) => f(*place, index),
            Item::Store(_) => panic!("only stores are stored"),
            Item::Loop(nest) => each_access(&nest.items, f),
        }
    }
}

/// How many values a body computes, loops within it counted once.
pub(crate) fn size(items: &[Item]) -> usize {
    items
        .iter()
        .map(|item| match item {
            Item::Let(_, Expr::Constant(..)) => 0,
            Item::Let(..) | Item::Store(_) => 1,
            Item::Loop(nest) => size(&nest.items),
        })
        .sum()
}

/// Whether a body holds a loop that hands values on.
pub(crate) fn accumulates(items: &[Item]) -> bool {
    items.iter().any(|item| match item {
        Item::Let(..) | Item::Store(_) => false,
        Item::Loop(nest) => !nest.carried.is_empty() || accumulates(&nest.items),
    })
}
