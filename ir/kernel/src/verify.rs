//! The verifier: which kernels are well-formed.
//!
//! Checked:
//! - places exist; buffers are loaded and stored as their access allows; scratch fits [`Scratch::BYTES_MAX`];
//! - every variable and value is defined once, before its uses, in an enclosing scope; index terms are in canonical order;
//! - dtypes: [`expr_dtype`], constants of the kind of their dtype, stored values of the
//!   compute dtype of their place, `bool` guards, `i32` or `i64` dynamic positions, carried values of one dtype throughout;
//! - unguarded positions without dynamic part are within their place for all values of the loop variables;
//! - lanes are a power of two up to [`Stmt::LANES_MAX`]; of the ranges only the last has more than one; vector loops do
//!   not nest;
//! - in vector loops, carried values have an associative `combine` with an identity, and every store's position depends
//!   on the loop variable or is dynamic.
//!
//! Not checked, because it cannot be: the promises about dynamic positions, independent iterations and reassociation.

use crate::analysis::{ValueMap, expr_dtype};
use crate::ir::{Access, Carried, Expr, Index, Kernel, Place, Scratch, Stmt, ValueId, VarId, compute_dtype};
use std::collections::BTreeMap;
use std::fmt;
use thalweg_base::{DType, Scalar};

/// One thing that is wrong with a kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem(
    /// A clause that names the value, variable or place.
    pub String,
);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks a kernel; returns all that is wrong with it.
pub fn verify(kernel: &Kernel) -> Result<(), Vec<Problem>> {
    let mut verifier = Verifier {
        kernel,
        problems: Vec::new(),
        defined: ValueMap::default(),
        scope: Vec::new(),
        visible: ValueMap::default(),
        vars: BTreeMap::new(),
        ever: Vec::new(),
        vector: None,
        dead: false,
    };
    verifier.kernel();
    match verifier.problems.is_empty() {
        true => Ok(()),
        false => Err(verifier.problems),
    }
}

struct Verifier<'a> {
    kernel: &'a Kernel,
    problems: Vec<Problem>,
    /// The dtype of every value ever defined.
    defined: ValueMap<DType>,
    /// Values in scope, in the order of their definitions.
    scope: Vec<ValueId>,
    /// The same as a table.
    visible: ValueMap<bool>,
    /// Extents of the variables in scope.
    vars: BTreeMap<VarId, usize>,
    /// Every variable ever defined.
    ever: Vec<VarId>,
    vector: Option<VarId>,
    /// Inside a loop without iterations, whose positions do not matter.
    dead: bool,
}

impl Verifier<'_> {
    fn fail(&mut self, problem: String) {
        self.problems.push(Problem(problem));
    }

    fn kernel(&mut self) {
        let kernel = self.kernel;
        let bytes = kernel
            .scratch
            .iter()
            .fold(0usize, |sum, s| sum.saturating_add(s.elements.saturating_mul(s.dtype.size_bytes())));
        if bytes > Scratch::BYTES_MAX {
            self.fail(format!("scratch of {bytes} bytes is above {}", Scratch::BYTES_MAX));
        }
        for (position, range) in kernel.ranges.iter().enumerate() {
            self.define_var(range.var, range.extent);
            self.lanes(range.var, range.lanes);
            if range.lanes > 1 && position + 1 < kernel.ranges.len() {
                self.fail(format!("range {} has lanes but is not the last", range.var));
            }
            self.vector = (range.lanes > 1).then_some(range.var);
            self.dead |= range.extent == 0;
        }
        for stmt in &kernel.body {
            self.statement(stmt);
        }
    }

    fn define_var(&mut self, var: VarId, extent: usize) {
        if self.ever.contains(&var) {
            self.fail(format!("variable {var} is defined twice"));
        }
        self.ever.push(var);
        self.vars.insert(var, extent);
    }

    fn lanes(&mut self, var: VarId, lanes: u32) {
        if !lanes.is_power_of_two() || lanes > Stmt::LANES_MAX {
            self.fail(format!("{lanes} lanes of {var} are no power of two up to {}", Stmt::LANES_MAX));
        }
    }

    fn define(&mut self, value: ValueId, dtype: DType) {
        if self.defined.insert(value, dtype).is_some() {
            self.fail(format!("{value} is defined twice"));
        }
        self.scope.push(value);
        self.visible.insert(value, true);
    }

    /// The dtype of an operand, when it is in scope.
    fn operand(&mut self, value: ValueId, user: &dyn fmt::Display) -> Option<DType> {
        if self.visible.get(value) == Some(&true) {
            return self.defined.get(value).copied();
        }
        self.fail(format!("{user} uses {value}, which is not in scope"));
        None
    }

    fn definition(&mut self, value: ValueId, expr: &Expr) {
        let mut operands = Vec::new();
        expr.for_each_operand(|operand| operands.push(operand));
        let mut known = true;
        for operand in operands {
            known &= self.operand(operand, &value).is_some();
        }
        match expr {
            Expr::Constant(dtype, constant) => self.constant(value, *dtype, *constant),
            Expr::Index(_, index) => {
                self.terms(index, &value);
            }
            Expr::Load { place, index, guard, otherwise } => {
                if !self.access(*place, Access::Write, "loads") {
                    return;
                }
                self.constant(value, compute_dtype(self.kernel.place_dtype(*place)), *otherwise);
                self.position(*place, index, *guard, &value);
            }
            Expr::Pointwise(..) | Expr::Convert(..) | Expr::Bitcast(..) => {}
        }
        if !known {
            return;
        }
        let dtype =
            expr_dtype(self.kernel, expr, |operand| self.defined.get(operand).copied().unwrap_or(DType::F32));
        match dtype {
            Ok(dtype) => self.define(value, dtype),
            Err(why) => self.fail(format!("{value}: {why}")),
        }
    }

    fn constant(&mut self, value: ValueId, dtype: DType, constant: Scalar) {
        let fits = match constant {
            Scalar::Float(number) => {
                dtype.is_float() && (number.is_nan() || constant.convert(dtype) == constant)
            }
            Scalar::Int(_) => !dtype.is_float() && constant.convert(dtype) == constant,
        };
        if !fits {
            self.fail(format!("{value}: {constant:?} is no {dtype}"));
        }
    }

    fn store(&mut self, place: Place, index: &Index, value: ValueId, guard: Option<ValueId>) {
        if !self.access(place, Access::Read, "stores") {
            return;
        }
        let user = "a store";
        if let Some(dtype) = self.operand(value, &user) {
            let wanted = compute_dtype(self.kernel.place_dtype(place));
            if dtype != wanted {
                self.fail(format!("a store of {value} as {wanted}, but it is {dtype}"));
            }
        }
        if let Some(dynamic) = index.dynamic {
            self.operand(dynamic, &user);
        }
        if let Some(guard) = guard {
            self.operand(guard, &user);
        }
        if let Some(var) = self.vector
            && index.coefficient(var) == 0
            && index.dynamic.is_none()
        {
            self.fail(format!("a store of {value} in the vector loop over {var} goes to one place"));
        }
        self.position(place, index, guard, &user);
    }

    /// Whether the place exists; notes accesses that are not allowed.
    fn access(&mut self, place: Place, forbidden: Access, what: &str) -> bool {
        match place {
            Place::Buffer(id) => match self.kernel.buffers.get(id.index()) {
                Some(buffer) => {
                    if buffer.access == forbidden {
                        self.fail(format!("{what} of buffer {id} are not in its access"));
                    }
                    true
                }
                None => {
                    self.fail(format!("there is no buffer {id}"));
                    false
                }
            },
            Place::Scratch(id) => {
                let exists = id.index() < self.kernel.scratch.len();
                if !exists {
                    self.fail(format!("there is no scratch {id}"));
                }
                exists
            }
        }
    }

    /// Checks the form of a position; its least and greatest affine value where all variables are known.
    fn terms(&mut self, index: &Index, user: &dyn fmt::Display) -> Option<(i128, i128)> {
        if index.terms.windows(2).any(|pair| pair[0].0 >= pair[1].0)
            || index.terms.iter().any(|term| term.1 == 0)
        {
            self.fail(format!("{user}: index terms are not in canonical order"));
        }
        if let Some(dtype) = index.dynamic.and_then(|value| self.defined.get(value))
            && !matches!(dtype, DType::I32 | DType::I64)
        {
            let dtype = *dtype;
            self.fail(format!("{user}: a dynamic position is i32 or i64, not {dtype}"));
        }
        let (mut low, mut high) = (index.constant as i128, index.constant as i128);
        for (var, factor) in &index.terms {
            let Some(extent) = self.vars.get(var) else {
                self.fail(format!("{user} uses {var}, which is not in scope"));
                return None;
            };
            let reach = *factor as i128 * (*extent as i128 - 1);
            low += reach.min(0);
            high += reach.max(0);
        }
        Some((low, high))
    }

    fn position(&mut self, place: Place, index: &Index, guard: Option<ValueId>, user: &dyn fmt::Display) {
        if let Some(dtype) = guard.and_then(|guard| self.defined.get(guard)).copied()
            && dtype != DType::Bool
        {
            self.fail(format!("{user}: a guard is bool, not {dtype}"));
        }
        let bounds = self.terms(index, user);
        let elements = self.kernel.place_elements(place);
        if let (Some((low, high)), None, None, false) = (bounds, guard, index.dynamic, self.dead)
            && (low < 0 || high >= elements as i128)
        {
            self.fail(format!("{user} reaches {low}..={high} of {place:?} with {elements} elements"));
        }
    }

    fn inner_loop(&mut self, var: VarId, extent: usize, lanes: u32, carried: &[Carried], body: &[Stmt]) {
        self.lanes(var, lanes);
        if let (Some(outer), true) = (self.vector, lanes > 1) {
            self.fail(format!("the vector loop over {var} is inside that over {outer}"));
        }
        let dtypes: Vec<_> = carried.iter().map(|carry| self.operand(carry.init, &var)).collect();
        let outer = (self.scope.len(), self.vector, self.dead);
        self.define_var(var, extent);
        self.vector = self.vector.or((lanes > 1).then_some(var));
        self.dead |= extent == 0;
        for (carry, dtype) in carried.iter().zip(&dtypes) {
            if let Some(dtype) = *dtype {
                self.define(carry.phi, dtype);
                self.combine(carry, dtype, lanes);
            }
        }
        // The successors are visible at the end of the body, so its scope is left only after they were looked up.
        for stmt in body {
            self.statement(stmt);
        }
        for (carry, dtype) in carried.iter().zip(&dtypes) {
            let next = self.operand(carry.next, &var);
            if let (Some(next), Some(dtype)) = (next, *dtype)
                && next != dtype
            {
                self.fail(format!(
                    "{} carries {dtype} but its successor {} is {next}",
                    carry.phi, carry.next
                ));
            }
        }
        for value in self.scope.drain(outer.0..) {
            self.visible.insert(value, false);
        }
        (self.vector, self.dead) = (outer.1, outer.2);
        self.vars.remove(&var);
        for (carry, dtype) in carried.iter().zip(&dtypes) {
            if let Some(dtype) = *dtype {
                self.define(carry.result, dtype);
            }
        }
    }

    fn statement(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let { value, expr } => self.definition(*value, expr),
            Stmt::Store { place, index, value, guard } => self.store(*place, index, *value, *guard),
            Stmt::Loop { var, extent, lanes, carried, body } => {
                self.inner_loop(*var, *extent, *lanes, carried, body);
            }
        }
    }

    fn combine(&mut self, carry: &Carried, dtype: DType, lanes: u32) {
        let Some(combine) = carry.combine else {
            if lanes > 1 {
                self.fail(format!("{} is carried through a vector loop without a combiner", carry.phi));
            }
            return;
        };
        let typed = combine.arity() == 2 && combine.result(&[dtype, dtype]) == Ok(dtype);
        if !typed || !combine.is_associative() || combine.identity(dtype).is_none() {
            self.fail(format!("{}: `{combine}` does not combine {dtype}", carry.phi));
        }
    }
}
