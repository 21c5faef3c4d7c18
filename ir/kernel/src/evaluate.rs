//! What kernels mean: a slow, obvious evaluator that code generators are checked against.

use crate::analysis::{ValueMap, dtypes};
use crate::ir::{Expr, Index, Kernel, Place, Range, Stmt, ValueId, VarId};
use std::collections::BTreeMap;
use thalweg_base::{DType, Literal, Scalar};

/// The memory behind one buffer.
#[derive(Clone, PartialEq, Debug)]
pub struct Array {
    /// The storage dtype.
    pub dtype: DType,
    /// The elements, each a value of `dtype`.
    pub values: Vec<Scalar>,
}

impl Array {
    /// An array of values, each converted to `dtype`.
    pub fn new(dtype: DType, values: impl IntoIterator<Item = Scalar>) -> Array {
        Array { dtype, values: values.into_iter().map(|value| value.convert(dtype)).collect() }
    }

    /// An array of zeros.
    pub fn zeros(dtype: DType, elements: usize) -> Array {
        Array { dtype, values: vec![Scalar::zero(dtype); elements] }
    }

    /// The elements of a literal.
    pub fn from_literal(literal: &Literal) -> Array {
        Array { dtype: literal.dtype(), values: literal.scalars().collect() }
    }

    /// A literal of rank 1.
    pub fn to_literal(&self) -> Literal {
        Literal::from_scalars(self.dtype, &[self.values.len()], self.values.iter().copied())
    }
}

/// Runs a verified kernel on one box of its index space, `(lo, hi)` for each range, one point after the other. Panics
/// where buffers do not fit the kernel or a dynamic position is outside its place.
///
/// ```
/// use thalweg_base::{DType, Scalar};
/// use thalweg_kernel::{Access, Index, KernelBuilder, evaluate::{Array, evaluate}};
///
/// let mut b = KernelBuilder::new("reverse");
/// let (x, y) = (b.buffer(DType::I32, 3, Access::Read), b.buffer(DType::I32, 3, Access::Write));
/// let i = b.range(3, 1);
/// let value = b.load(x, Index::constant(2).plus(i, -1));
/// b.store(y, Index::var(i), value);
/// let mut buffers = [Array::new(DType::I32, [1, 2, 3].map(Scalar::Int)), Array::zeros(DType::I32, 3)];
/// evaluate(&b.finish(), &mut buffers, &[(0, 3)]);
/// assert_eq!(buffers[1].values, [3, 2, 1].map(Scalar::Int));
/// ```
pub fn evaluate(kernel: &Kernel, buffers: &mut [Array], ranges: &[(usize, usize)]) {
    assert_eq!(buffers.len(), kernel.buffers.len(), "one array for each buffer");
    assert_eq!(ranges.len(), kernel.ranges.len(), "one part for each range");
    for (array, buffer) in buffers.iter().zip(&kernel.buffers) {
        assert_eq!(
            (array.dtype, array.values.len()),
            (buffer.dtype, buffer.elements),
            "arrays are as declared"
        );
    }
    let scratch =
        kernel.scratch.iter().map(|scratch| Array::zeros(scratch.dtype, scratch.elements)).collect();
    let mut evaluator = Evaluator {
        kernel,
        dtypes: dtypes(kernel),
        buffers,
        scratch,
        values: ValueMap::default(),
        vars: BTreeMap::new(),
    };
    evaluator.ranges(&kernel.ranges, ranges);
}

struct Evaluator<'a> {
    kernel: &'a Kernel,
    dtypes: ValueMap<DType>,
    buffers: &'a mut [Array],
    scratch: Vec<Array>,
    values: ValueMap<Scalar>,
    vars: BTreeMap<VarId, i64>,
}

impl<'a> Evaluator<'a> {
    fn ranges(&mut self, ranges: &[Range], parts: &[(usize, usize)]) {
        match ranges.split_first() {
            None => self.body(&self.kernel.body),
            Some((range, inner)) => {
                for position in parts[0].0..parts[0].1 {
                    self.vars.insert(range.var, position as i64);
                    self.ranges(inner, &parts[1..]);
                }
            }
        }
    }

    fn value(&self, value: ValueId) -> Scalar {
        *self.values.get(value).expect("verified: values are defined before their uses")
    }

    fn holds(&self, guard: Option<ValueId>) -> bool {
        guard.is_none_or(|guard| self.value(guard) != Scalar::Int(0))
    }

    fn position(&self, index: &Index) -> i64 {
        let affine: i64 = index.terms.iter().map(|(var, factor)| factor * self.vars[var]).sum();
        index.constant + affine + index.dynamic.map_or(0, |value| self.value(value).to_i64())
    }

    fn element(&mut self, place: Place, index: &Index) -> &mut Scalar {
        let position = self.position(index);
        let array = match place {
            Place::Buffer(id) => &mut self.buffers[id.index()],
            Place::Scratch(id) => &mut self.scratch[id.index()],
        };
        usize::try_from(position)
            .ok()
            .and_then(|position| array.values.get_mut(position))
            .unwrap_or_else(|| panic!("{}: element {position} of {place:?}", self.kernel.name))
    }

    fn body(&mut self, body: &'a [Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Let { value, expr } => {
                    let result = self.expr(expr);
                    self.values.insert(*value, result);
                }
                Stmt::Store { place, index, value, guard } => {
                    if self.holds(*guard) {
                        let converted = self.value(*value).convert(self.kernel.place_dtype(*place));
                        *self.element(*place, index) = converted;
                    }
                }
                Stmt::Loop { var, extent, carried, body, .. } => {
                    let mut values: Vec<_> = carried.iter().map(|carry| self.value(carry.init)).collect();
                    for position in 0..*extent {
                        self.vars.insert(*var, position as i64);
                        for (carry, value) in carried.iter().zip(&values) {
                            self.values.insert(carry.phi, *value);
                        }
                        self.body(body);
                        values = carried.iter().map(|carry| self.value(carry.next)).collect();
                    }
                    for (carry, value) in carried.iter().zip(values) {
                        self.values.insert(carry.result, value);
                    }
                }
            }
        }
    }

    fn expr(&mut self, expr: &Expr) -> Scalar {
        match expr {
            Expr::Constant(_, value) => *value,
            Expr::Index(dtype, index) => Scalar::Int(self.position(index).into()).convert(*dtype),
            Expr::Load { place, index, guard, otherwise } => match self.holds(*guard) {
                true => *self.element(*place, index),
                false => *otherwise,
            },
            Expr::Pointwise(function, operands) => {
                let last = operands.last().expect("functions have operands");
                let dtype = *self.dtypes.get(*last).expect("every value has a dtype");
                let arguments: Vec<_> = operands.iter().map(|operand| self.value(*operand)).collect();
                function.eval(dtype, &arguments)
            }
            Expr::Convert(dtype, value) => self.value(*value).convert(*dtype),
            Expr::Bitcast(dtype, value) => bitcast(*dtype, self.value(*value)),
        }
    }
}

/// The same bits as the dtype of that size.
pub(crate) fn bitcast(dtype: DType, value: Scalar) -> Scalar {
    match dtype {
        DType::I32 => Scalar::Int((value.to_f64() as f32).to_bits() as i32 as i128),
        DType::F32 => Scalar::Float(f32::from_bits(value.to_i64() as u32) as f64),
        DType::I64 => Scalar::Int((value.to_f64().to_bits() as i64).into()),
        DType::F64 => Scalar::Float(f64::from_bits(value.to_i64() as u64)),
        DType::F16
        | DType::BF16
        | DType::I8
        | DType::I16
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64
        | DType::Bool => {
            panic!("no bits are cast to {dtype}")
        }
    }
}
