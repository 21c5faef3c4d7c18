//! How values of the kernel IR lie in registers.

use cranelift_codegen::ir::{Type, Value, types};
use thalweg_base::DType;

/// Elements of a 128-bit register of 32-bit lanes.
pub(crate) const REGISTER_LANES: u32 = 4;

/// The most lanes that are kept apart: four registers a value is what 16 registers bear.
pub(crate) const LANES_MAX: u32 = 16;

/// A value while code is emitted.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    /// One scalar for all lanes. `bool` is an `i8` of 0 or 1.
    Uniform(Value),
    /// Four lanes in each register. `bool` is an `i32` of 0 or -1.
    Lanes(Vec<Value>),
}

/// Whether one register holds a scalar or four lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    Scalar,
    Vector,
}

/// The register type of a compute dtype.
pub(crate) fn register_type(dtype: DType, shape: Shape) -> Type {
    match (dtype, shape) {
        (DType::F32, Shape::Scalar) => types::F32,
        (DType::F64, Shape::Scalar) => types::F64,
        (DType::I32, Shape::Scalar) => types::I32,
        (DType::I64 | DType::U64, Shape::Scalar) => types::I64,
        (DType::Bool, Shape::Scalar) => types::I8,
        (DType::F32, Shape::Vector) => types::F32X4,
        (DType::I32 | DType::Bool, Shape::Vector) => types::I32X4,
        (DType::F64 | DType::I64 | DType::U64, Shape::Vector) => panic!("64-bit values have no lanes here"),
        (DType::F16 | DType::BF16 | DType::I8 | DType::I16 | DType::U8 | DType::U16 | DType::U32, _) => {
            panic!("{dtype} exists in memory only")
        }
    }
}

/// Whether a compute dtype can have lanes here.
pub(crate) fn has_lanes(dtype: DType) -> bool {
    match dtype {
        DType::F32 | DType::I32 | DType::Bool => true,
        DType::F64 | DType::I64 | DType::U64 => false,
        DType::F16 | DType::BF16 | DType::I8 | DType::I16 | DType::U8 | DType::U16 | DType::U32 => false,
    }
}
