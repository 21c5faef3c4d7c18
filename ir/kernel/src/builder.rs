//! Writes kernels: fresh ids, dtypes on the way, nested loops as closures.

use crate::ir::{
    Access, Buffer, BufferId, Carried, Expr, Index, Kernel, Place, Range, Scratch, ScratchId, Stmt, ValueId,
    VarId, compute_dtype,
};
use thalweg_base::{DType, PointwiseFn, Scalar};

/// One accumulator of a loop to be built: where it starts and how its lanes are combined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Carry {
    /// The value before the first iteration.
    pub init: ValueId,
    /// How lanes are combined; needed when the loop has more than one.
    pub combine: Option<PointwiseFn>,
}

impl Carry {
    /// An accumulator that `combine` reduces into.
    pub fn reduce(init: ValueId, combine: PointwiseFn) -> Carry {
        Carry { init, combine: Some(combine) }
    }
}

/// Builds one kernel. Methods panic on operands that do not fit: that is a bug of the caller.
#[derive(Clone, Debug)]
pub struct KernelBuilder {
    kernel: Kernel,
    dtypes: Vec<DType>,
    vars: u32,
    open: Vec<Vec<Stmt>>,
}

impl KernelBuilder {
    /// An empty kernel.
    pub fn new(name: impl Into<String>) -> KernelBuilder {
        let kernel = Kernel {
            name: name.into(),
            buffers: Vec::new(),
            scratch: Vec::new(),
            ranges: Vec::new(),
            body: Vec::new(),
        };
        KernelBuilder { kernel, dtypes: Vec::new(), vars: 0, open: vec![Vec::new()] }
    }

    /// Adds a buffer argument.
    pub fn buffer(&mut self, dtype: DType, elements: usize, access: Access) -> BufferId {
        self.kernel.buffers.push(Buffer { dtype, elements, access });
        BufferId::new(self.kernel.buffers.len() - 1)
    }

    /// Adds a thread-private array.
    pub fn scratch(&mut self, dtype: DType, elements: usize) -> ScratchId {
        self.kernel.scratch.push(Scratch { dtype, elements });
        ScratchId::new(self.kernel.scratch.len() - 1)
    }

    /// Adds a range inside those that are there.
    pub fn range(&mut self, extent: usize, lanes: u32) -> VarId {
        let var = self.fresh_var();
        self.kernel.ranges.push(Range { var, extent, lanes });
        var
    }

    /// The dtype of a value.
    pub fn dtype(&self, value: ValueId) -> DType {
        self.dtypes[value.index()]
    }

    /// A constant, converted to the compute dtype `dtype`.
    pub fn constant(&mut self, dtype: DType, value: Scalar) -> ValueId {
        assert_eq!(compute_dtype(dtype), dtype, "constants have a compute dtype");
        self.emit(dtype, Expr::Constant(dtype, value.convert(dtype)))
    }

    /// An `f32` constant.
    pub fn f32(&mut self, value: f32) -> ValueId {
        self.constant(DType::F32, Scalar::Float(value as f64))
    }

    /// An `i32` constant.
    pub fn i32(&mut self, value: i32) -> ValueId {
        self.constant(DType::I32, Scalar::Int(value as i128))
    }

    /// A position as a value of dtype `i32` or `i64`.
    pub fn index(&mut self, dtype: DType, index: Index) -> ValueId {
        self.emit(dtype, Expr::Index(dtype, index))
    }

    /// Loads one element.
    pub fn load(&mut self, place: impl Into<Place>, index: Index) -> ValueId {
        let place = place.into();
        let dtype = compute_dtype(self.kernel.place_dtype(place));
        self.emit(dtype, Expr::Load { place, index, guard: None, otherwise: Scalar::zero(dtype) })
    }

    /// Loads one element where `guard` holds; `otherwise` elsewhere.
    pub fn load_guarded(
        &mut self,
        place: impl Into<Place>,
        index: Index,
        guard: ValueId,
        otherwise: Scalar,
    ) -> ValueId {
        let place = place.into();
        let dtype = compute_dtype(self.kernel.place_dtype(place));
        self.emit(dtype, Expr::Load { place, index, guard: Some(guard), otherwise: otherwise.convert(dtype) })
    }

    /// Applies a scalar function.
    pub fn apply(&mut self, function: PointwiseFn, operands: &[ValueId]) -> ValueId {
        let dtypes: Vec<_> = operands.iter().map(|operand| self.dtype(*operand)).collect();
        let dtype = function.result(&dtypes).unwrap_or_else(|why| panic!("{}: {why}", self.kernel.name));
        self.emit(dtype, Expr::Pointwise(function, operands.to_vec()))
    }

    /// Converts; a storage dtype rounds to it and stays in its compute dtype. A conversion of a compute dtype to itself
    /// is the value itself.
    pub fn convert(&mut self, dtype: DType, value: ValueId) -> ValueId {
        match self.dtype(value) == dtype {
            true => value,
            false => self.emit(compute_dtype(dtype), Expr::Convert(dtype, value)),
        }
    }

    /// The same bits as another dtype of the same size.
    pub fn bitcast(&mut self, dtype: DType, value: ValueId) -> ValueId {
        self.emit(dtype, Expr::Bitcast(dtype, value))
    }

    /// Stores one element.
    pub fn store(&mut self, place: impl Into<Place>, index: Index, value: ValueId) {
        self.statement(Stmt::Store { place: place.into(), index, value, guard: None });
    }

    /// Stores one element where `guard` holds.
    pub fn store_guarded(&mut self, place: impl Into<Place>, index: Index, value: ValueId, guard: ValueId) {
        self.statement(Stmt::Store { place: place.into(), index, value, guard: Some(guard) });
    }

    /// A loop. `body` gets the loop variable and the carried values, and returns their successors; the results are
    /// returned.
    pub fn loop_(
        &mut self,
        extent: usize,
        lanes: u32,
        carried: &[Carry],
        body: impl FnOnce(&mut KernelBuilder, VarId, &[ValueId]) -> Vec<ValueId>,
    ) -> Vec<ValueId> {
        let var = self.fresh_var();
        let dtypes: Vec<_> = carried.iter().map(|carry| self.dtype(carry.init)).collect();
        let phis: Vec<_> = dtypes.iter().map(|dtype| self.fresh(*dtype)).collect();
        self.open.push(Vec::new());
        let nexts = body(self, var, &phis);
        assert_eq!(nexts.len(), phis.len(), "a loop body returns one value for each carried one");
        let body = self.open.pop().expect("the body just opened");
        let results: Vec<_> = dtypes.iter().map(|dtype| self.fresh(*dtype)).collect();
        let carried = carried
            .iter()
            .zip(phis.iter().zip(nexts.iter().zip(&results)))
            .map(|(carry, (&phi, (&next, &result)))| Carried {
                phi,
                init: carry.init,
                next,
                result,
                combine: carry.combine,
            })
            .collect();
        self.statement(Stmt::Loop { var, extent, lanes, carried, body });
        results
    }

    /// The kernel.
    pub fn finish(mut self) -> Kernel {
        assert_eq!(self.open.len(), 1, "every loop is closed");
        self.kernel.body = self.open.pop().expect("one body");
        self.kernel
    }

    fn fresh(&mut self, dtype: DType) -> ValueId {
        self.dtypes.push(dtype);
        ValueId::new(self.dtypes.len() - 1)
    }

    fn fresh_var(&mut self) -> VarId {
        self.vars += 1;
        VarId(self.vars - 1)
    }

    fn emit(&mut self, dtype: DType, expr: Expr) -> ValueId {
        let value = self.fresh(dtype);
        self.statement(Stmt::Let { value, expr });
        value
    }

    fn statement(&mut self, statement: Stmt) {
        self.open.last_mut().expect("one body is always open").push(statement);
    }
}
