//! Addresses and positions.
//!
//! The address of an access is its place's base, plus a term for each loop variable, plus a constant. The sum of the terms
//! of outer loops is made before the inner loop is entered and kept in a register; the innermost variable is the index of
//! the x86 address, scaled by 1, 2, 4 or 8, or a running product where it is multiplied by anything else.

use super::Refusal;
use super::emit::{Emitter, Registers, Value, Var};
use super::machine::{Mem, View};
use super::nest::{Item, Nest, each_access};
use super::ops::{Src, V};
use regalloc2::VReg;
use smallvec::smallvec;
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_kernel::ir::Index;
use thalweg_kernel::{Place, VarId};

/// Bytes that registers of one access lie apart at most; displacements leave room for them.
const ROOM: i64 = 4096;
/// Products that one loop keeps running, at most; others are multiplied anew.
const PRODUCTS_MAX: usize = 4;

type Terms = Vec<(VarId, i64)>;

/// Base addresses and what has been added to them.
#[derive(Debug, Default)]
pub(crate) struct Bases {
    pub buffers: Vec<VReg>,
    pub scratch: Vec<VReg>,
    /// Bases plus terms in bytes of outer variables.
    sums: Vec<(Place, Terms, VReg)>,
    /// Variables times bytes.
    products: Vec<(VarId, i64, VReg)>,
}

/// What is forgotten when a loop is left.
pub(crate) struct Scope {
    sums: usize,
    products: usize,
    depth: usize,
}

fn scales(bytes: i64) -> bool {
    matches!(bytes, 1 | 2 | 4 | 8)
}

impl<'a> Emitter<'a> {
    /// Opens a loop whose variable, and products of it, are in registers.
    pub(crate) fn enter(&mut self, var: VarId, counter: VReg, strides: &[i64], products: &[VReg]) -> Scope {
        let scope = self.enter_at(var, Var::Reg(counter, self.depth + 1));
        self.depth += 1;
        for (stride, product) in strides.iter().zip(products) {
            self.bases.products.push((var, *stride, *product));
        }
        scope
    }

    /// Opens one round of a loop whose variable is known or set already.
    pub(crate) fn enter_at(&mut self, var: VarId, at: Var) -> Scope {
        let scope =
            Scope { sums: self.bases.sums.len(), products: self.bases.products.len(), depth: self.depth };
        if self.vars.len() <= var.index() {
            self.vars.resize(var.index() + 1, None);
        }
        self.vars[var.index()] = Some(at);
        scope
    }

    pub(crate) fn leave(&mut self, scope: Scope) {
        self.bases.sums.truncate(scope.sums);
        self.bases.products.truncate(scope.products);
        self.depth = scope.depth;
    }

    fn var(&self, var: VarId) -> Option<Var> {
        self.vars.get(var.index()).copied().flatten()
    }

    /// The products in bytes of a loop's variable that addresses in it need and x86 does not scale.
    pub(crate) fn strides(&self, nest: &Nest<'a>) -> Vec<i64> {
        let mut strides = Vec::new();
        each_access(&nest.items, &mut |place, index| {
            let bytes = index.coefficient(nest.var) * self.kernel.place_dtype(place).size_bytes() as i64;
            if bytes != 0 && !scales(bytes) && !strides.contains(&bytes) && strides.len() < PRODUCTS_MAX {
                strides.push(bytes);
            }
        });
        strides
    }

    /// Makes the sums that accesses in the loops of a body start from.
    pub(crate) fn prepare(&mut self, items: &[Item<'a>]) -> Result<(), Refusal> {
        let mut accesses = Vec::new();
        for item in items {
            match item {
                Item::Loop(nest) => {
                    each_access(&nest.items, &mut |place, index| accesses.push((place, index)))
                }
                Item::Let(..) | Item::Store(_) => {}
            }
        }
        for (place, index) in accesses {
            let (terms, _) = self.terms(place, index);
            self.sum(place, &terms)?;
        }
        Ok(())
    }

    fn base(&self, place: Place) -> VReg {
        match place {
            Place::Buffer(id) => self.bases.buffers[id.index()],
            Place::Scratch(id) => self.bases.scratch[id.index()],
        }
    }

    /// The terms in bytes of variables in registers, outermost first, and the constant part in bytes. Variables of loops that
    /// are not open yet are left out.
    fn terms(&self, place: Place, index: &Index) -> (Terms, i64) {
        let size = self.kernel.place_dtype(place).size_bytes() as i64;
        let mut constant = index.constant * size;
        let mut terms: Vec<(usize, VarId, i64)> = Vec::new();
        for (var, factor) in &index.terms {
            match self.var(*var) {
                Some(Var::Known(value)) => constant += value * factor * size,
                Some(Var::Reg(_, depth)) if depth <= self.depth => terms.push((depth, *var, factor * size)),
                Some(Var::Reg(..)) | None => {}
            }
        }
        terms.sort();
        (terms.into_iter().map(|(_, var, bytes)| (var, bytes)).collect(), constant)
    }

    fn counter(&self, var: VarId) -> (VReg, usize) {
        match self.var(var) {
            Some(Var::Reg(reg, depth)) => (reg, depth),
            Some(Var::Known(_)) | None => panic!("a term's variable is in a register"),
        }
    }

    /// A variable times bytes, as what an address adds: a register and its scale.
    fn product(&mut self, var: VarId, bytes: i64) -> Result<(VReg, u8), Refusal> {
        if scales(bytes) {
            return Ok((self.counter(var).0, bytes as u8));
        }
        let known = self.bases.products.iter().find(|(other, by, _)| (*other, *by) == (var, bytes));
        if let Some((_, _, product)) = known {
            return Ok((*product, 1));
        }
        let product = self.multiply_int(self.counter(var).0, bytes)?;
        self.bases.products.push((var, bytes, product));
        Ok((product, 1))
    }

    /// A place's base plus terms.
    fn sum(&mut self, place: Place, terms: &[(VarId, i64)]) -> Result<VReg, Refusal> {
        let Some(((var, bytes), outer)) = terms.split_last() else { return Ok(self.base(place)) };
        if let Some((_, _, sum)) =
            self.bases.sums.iter().find(|(other, known, _)| *other == place && known == terms)
        {
            return Ok(*sum);
        }
        let start = self.sum(place, outer)?;
        let (product, scale) = self.product(*var, *bytes)?;
        let sum = self.lea(Mem { index: Some((View::R64, product, scale)), ..Mem::at(start) });
        self.bases.sums.push((place, terms.to_vec(), sum));
        Ok(sum)
    }

    /// The address of an element, in lane 0 of a vector loop. A dynamic part must be the same in all lanes.
    pub(crate) fn address(&mut self, place: Place, index: &Index) -> Result<Mem, Refusal> {
        let (terms, constant) = self.terms(place, index);
        let own = terms.last().filter(|(var, _)| self.counter(*var).1 == self.depth).copied();
        let outer = if own.is_some() { &terms[..terms.len() - 1] } else { &terms[..] };
        let mut mem = Mem::at(self.sum(place, outer)?);
        if let Some((var, bytes)) = own {
            let (product, scale) = self.product(var, bytes)?;
            mem.index = Some((View::R64, product, scale));
        }
        if let Some(value) = index.dynamic {
            let size = self.kernel.place_dtype(place).size_bytes() as u8;
            let element = self.extract_int(value)?;
            if mem.index.is_some() {
                mem = Mem::at(self.lea(mem));
            }
            mem.index = Some((View::R64, element, size));
        }
        if constant.abs() > i64::from(i32::MAX) - ROOM {
            let far = self.int_constant(constant);
            let base = self.lea(mem);
            return Ok(Mem { index: Some((View::R64, far, 1)), ..Mem::at(base) });
        }
        mem.disp = constant as i32;
        Ok(mem)
    }

    /// A position as a value.
    pub(crate) fn position(&mut self, dtype: DType, index: &Index) -> Result<Value, Refusal> {
        let affine = self.affine(dtype, index)?;
        let Some(dynamic) = index.dynamic else { return Ok(affine) };
        let from = self.dtype(dynamic);
        let dynamic = self.value(dynamic);
        let dynamic = self.convert(&dynamic, from, dtype)?;
        if affine == Value::Constant(Scalar::Int(0)) {
            return Ok(dynamic);
        }
        self.function(PointwiseFn::Add, dtype, &[dynamic, affine], &[0, 0])
    }

    /// A position's constant and terms.
    fn affine(&mut self, dtype: DType, index: &Index) -> Result<Value, Refusal> {
        let mut constant = index.constant;
        let mut sum: Option<VReg> = None;
        for (var, factor) in &index.terms {
            let reg = match self.var(*var) {
                Some(Var::Known(value)) => {
                    constant = constant.wrapping_add(value.wrapping_mul(*factor));
                    continue;
                }
                Some(Var::Reg(reg, _)) => reg,
                None => panic!("verified: loop variables are in scope"),
            };
            let term = if *factor == 1 { reg } else { self.multiply_int(reg, *factor)? };
            sum = Some(match sum {
                None => term,
                Some(sum) => self.lea(Mem { index: Some((View::R64, term, 1)), ..Mem::at(sum) }),
            });
        }
        let double = dtype == DType::I64;
        let step = self.vector.map_or(0, |vector| index.coefficient(vector.var));
        let spread = match sum {
            None if step == 0 => return Ok(Value::Constant(Scalar::Int(constant.into()).convert(dtype))),
            None => self.uniform(&Value::Constant(Scalar::Int(constant.into()).convert(dtype)), dtype),
            Some(sum) => {
                let disp = i32::try_from(constant).map_err(|_| Refusal::Offset)?;
                let whole = if disp == 0 { sum } else { self.lea(Mem::at(sum).plus(disp)) };
                self.spread_int(whole, double)
            }
        };
        let Some(vector) = self.vector.filter(|_| step != 0) else { return Ok(Value::Uniform(spread)) };
        let mut registers: Registers = smallvec![];
        for group in 0..vector.groups {
            let first = group * self.level.lanes();
            if !double {
                let lanes = self.lane_numbers(step, first);
                registers.push(self.apply(V::AddD, spread, lanes));
                continue;
            }
            for part in 0..2 {
                let bytes: Vec<u8> = (0..8)
                    .flat_map(|lane| step.wrapping_mul((first + 8 * part + lane) as i64).to_le_bytes())
                    .collect();
                let lanes = self.load_vector(&bytes);
                registers.push(self.apply(V::AddQ, spread, Src::Reg(lanes)));
            }
        }
        Ok(Value::Lanes(registers))
    }
}
