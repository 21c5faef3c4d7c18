//! Facts about kernels that code generators share: dtypes of values, and which values differ between lanes.

use crate::ir::{Carried, Expr, Index, Kernel, Stmt, ValueId, VarId, compute_dtype};
use thalweg_base::DType;

/// A dense table over the values of one kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValueMap<T> {
    entries: Vec<Option<T>>,
}

impl<T> Default for ValueMap<T> {
    fn default() -> Self {
        ValueMap { entries: Vec::new() }
    }
}

impl<T> ValueMap<T> {
    /// The entry of a value.
    pub fn get(&self, value: ValueId) -> Option<&T> {
        self.entries.get(value.index()).and_then(Option::as_ref)
    }

    /// Sets the entry of a value; returns the one that was there.
    pub fn insert(&mut self, value: ValueId, entry: T) -> Option<T> {
        if self.entries.len() <= value.index() {
            self.entries.resize_with(value.index() + 1, || None);
        }
        self.entries[value.index()].replace(entry)
    }

    /// The first value id past all entries.
    pub fn end(&self) -> ValueId {
        ValueId::new(self.entries.len())
    }
}

/// The dtype of every value of a verified kernel. Panics on one that is not well-typed.
pub fn dtypes(kernel: &Kernel) -> ValueMap<DType> {
    let mut dtypes = ValueMap::default();
    dtypes_of_body(kernel, &kernel.body, &mut dtypes);
    dtypes
}

fn dtypes_of_body(kernel: &Kernel, body: &[Stmt], dtypes: &mut ValueMap<DType>) {
    for stmt in body {
        match stmt {
            Stmt::Let { value, expr } => {
                let dtype =
                    expr_dtype(kernel, expr, |operand| *dtypes.get(operand).expect("defined before its use"))
                        .unwrap_or_else(|why| panic!("{}: {value}: {why}", kernel.name));
                dtypes.insert(*value, dtype);
            }
            Stmt::Store { .. } => {}
            Stmt::Loop { carried, body, .. } => {
                for carry in carried {
                    let dtype = *dtypes.get(carry.init).expect("defined before its use");
                    dtypes.insert(carry.phi, dtype);
                    dtypes.insert(carry.result, dtype);
                }
                dtypes_of_body(kernel, body, dtypes);
            }
        }
    }
}

/// The dtype of an expression, given those of its operands, or why it has none.
pub fn expr_dtype(
    kernel: &Kernel,
    expr: &Expr,
    dtype_of: impl Fn(ValueId) -> DType,
) -> Result<DType, String> {
    match expr {
        Expr::Constant(dtype, _) if compute_dtype(*dtype) == *dtype => Ok(*dtype),
        Expr::Constant(dtype, _) => Err(format!("a value cannot be {dtype}")),
        Expr::Index(dtype @ (DType::I32 | DType::I64), _) => Ok(*dtype),
        Expr::Index(dtype, _) => Err(format!("a position is i32 or i64, not {dtype}")),
        Expr::Load { place, .. } => Ok(compute_dtype(kernel.place_dtype(*place))),
        Expr::Pointwise(function, operands) => {
            function.result(&operands.iter().map(|operand| dtype_of(*operand)).collect::<Vec<_>>())
        }
        Expr::Convert(dtype, _) => Ok(compute_dtype(*dtype)),
        Expr::Bitcast(dtype, value) => {
            let from = dtype_of(*value);
            match (from, *dtype) {
                (DType::F32, DType::I32)
                | (DType::I32, DType::F32)
                | (DType::F64, DType::I64)
                | (DType::I64, DType::F64) => Ok(*dtype),
                (_, _) => Err(format!("the bits of {from} are not those of {dtype}")),
            }
        }
    }
}

/// Which values of a loop's body differ between iterations: those that a vector loop holds one of per lane.
///
/// A value varies when it depends on `var`, on one of `carried`'s phis, on a guard or index that varies, or on a carried
/// value of an inner loop that varies. Loads at a position that does not vary are taken to give the same element in all
/// iterations, which the promise of [`Stmt::Loop`] allows.
pub fn varying(var: VarId, carried: &[Carried], body: &[Stmt]) -> ValueMap<()> {
    let mut varying = ValueMap::default();
    for carry in carried {
        varying.insert(carry.phi, ());
    }
    while grow(var, body, &mut varying) {}
    varying
}

/// Whether a position differs between iterations of the loop over `var`.
pub fn index_varies(index: &Index, var: VarId, varying: &ValueMap<()>) -> bool {
    index.coefficient(var) != 0 || index.dynamic.is_some_and(|value| varying.get(value).is_some())
}

/// One pass; whether anything was added. Carried values of inner loops feed back, so passes repeat.
fn grow(var: VarId, body: &[Stmt], varying: &mut ValueMap<()>) -> bool {
    let mut grew = false;
    for stmt in body {
        match stmt {
            Stmt::Let { value, expr } => {
                let mut varies = match expr {
                    Expr::Index(_, index) | Expr::Load { index, .. } => index.coefficient(var) != 0,
                    Expr::Constant(..) | Expr::Pointwise(..) | Expr::Convert(..) | Expr::Bitcast(..) => false,
                };
                expr.for_each_operand(|operand| varies |= varying.get(operand).is_some());
                grew |= varies && varying.insert(*value, ()).is_none();
            }
            Stmt::Store { .. } => {}
            Stmt::Loop { carried, body, .. } => {
                for carry in carried {
                    let varies =
                        [carry.init, carry.next, carry.phi].iter().any(|v| varying.get(*v).is_some());
                    grew |= varies && varying.insert(carry.phi, ()).is_none();
                    grew |= varies && varying.insert(carry.result, ()).is_none();
                }
                grew |= grow(var, body, varying);
            }
        }
    }
    grew
}
