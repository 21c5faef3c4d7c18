//! Combining the operands of several members, in the order of the members.

use half::{bf16, f16};
use thalweg_base::{DType, ReduceFn};

/// Elements that are combined at a time: their sums stay in the first-level cache while all operands pass by.
const BLOCK: usize = 2048;

/// An element in storage format and the type in which several are combined.
trait Element {
    type Wide: Copy + Default;
    const BYTES: usize;
    fn read(bytes: &[u8]) -> Self::Wide;
    fn write(value: Self::Wide, bytes: &mut [u8]);
    fn combine(combine: ReduceFn, a: Self::Wide, b: Self::Wide) -> Self::Wide;
}

/// The larger of two; NaN when one is, as the scalar function `max` has it.
#[inline(always)]
#[allow(clippy::eq_op, reason = "the idiom for NaN in every type")]
fn larger<T: PartialOrd + Copy>(a: T, b: T) -> T {
    if a != a || a > b { a } else { b }
}

/// The smaller of two; NaN when one is, as the scalar function `min` has it.
#[inline(always)]
#[allow(clippy::eq_op, reason = "the idiom for NaN in every type")]
fn smaller<T: PartialOrd + Copy>(a: T, b: T) -> T {
    if a != a || a < b { a } else { b }
}

macro_rules! element {
    ($($name:ident: $storage:ty, $wide:ty, |$value:ident| $widen:expr, |$sum:ident| $narrow:expr,
        $add:expr, $mul:expr;)*) => {
        $(
            struct $name;

            impl Element for $name {
                type Wide = $wide;
                const BYTES: usize = size_of::<$storage>();
                #[inline(always)]
                fn read(bytes: &[u8]) -> $wide {
                    let $value = <$storage>::from_le_bytes(bytes.try_into().expect("as many bytes as the type has"));
                    $widen
                }
                #[inline(always)]
                fn write($sum: $wide, bytes: &mut [u8]) {
                    bytes.copy_from_slice(&<$storage>::to_le_bytes($narrow));
                }
                #[inline(always)]
                fn combine(combine: ReduceFn, a: $wide, b: $wide) -> $wide {
                    match combine {
                        ReduceFn::Sum => $add(a, b),
                        ReduceFn::Prod => $mul(a, b),
                        ReduceFn::Max => larger(a, b),
                        ReduceFn::Min => smaller(a, b),
                    }
                }
            }
        )*
    };
}

element! {
    F32: f32, f32, |value| value, |sum| sum, |a, b| a + b, |a, b| a * b;
    F64: f64, f64, |value| value, |sum| sum, |a, b| a + b, |a, b| a * b;
    F16: f16, f32, |value| value.to_f32(), |sum| f16::from_f32(sum), |a, b| a + b, |a, b| a * b;
    Bf16: bf16, f32, |value| value.to_f32(), |sum| bf16::from_f32(sum), |a, b| a + b, |a, b| a * b;
    I8: i8, i8, |value| value, |sum| sum, i8::wrapping_add, i8::wrapping_mul;
    U8: u8, u8, |value| value, |sum| sum, u8::wrapping_add, u8::wrapping_mul;
    I16: i16, i16, |value| value, |sum| sum, i16::wrapping_add, i16::wrapping_mul;
    U16: u16, u16, |value| value, |sum| sum, u16::wrapping_add, u16::wrapping_mul;
    I32: i32, i32, |value| value, |sum| sum, i32::wrapping_add, i32::wrapping_mul;
    U32: u32, u32, |value| value, |sum| sum, u32::wrapping_add, u32::wrapping_mul;
    I64: i64, i64, |value| value, |sum| sum, i64::wrapping_add, i64::wrapping_mul;
    U64: u64, u64, |value| value, |sum| sum, u64::wrapping_add, u64::wrapping_mul;
    // The sum of truth values is whether one of them holds, their product whether all do.
    Bool: u8, u8, |value| (value != 0) as u8, |sum| sum, |a, b| a | b, |a, b| a & b;
}

/// Hands the bytes of one member's operand to a function.
type Operands<'a> = &'a dyn Fn(usize, &mut dyn FnMut(&[u8]));

/// Writes to `out` the combination of `members` operands. `operand(member, f)` hands the bytes of one to `f`; all are as
/// long as `out`, a multiple of the element size.
pub(crate) fn combine(
    dtype: DType,
    function: ReduceFn,
    members: usize,
    operand: Operands<'_>,
    out: &mut [u8],
) {
    match dtype {
        DType::F32 => typed::<F32>(function, members, operand, out),
        DType::F64 => typed::<F64>(function, members, operand, out),
        DType::F16 => typed::<F16>(function, members, operand, out),
        DType::BF16 => typed::<Bf16>(function, members, operand, out),
        DType::I8 => typed::<I8>(function, members, operand, out),
        DType::U8 => typed::<U8>(function, members, operand, out),
        DType::I16 => typed::<I16>(function, members, operand, out),
        DType::U16 => typed::<U16>(function, members, operand, out),
        DType::U32 => typed::<U32>(function, members, operand, out),
        DType::U64 => typed::<U64>(function, members, operand, out),
        DType::I32 => typed::<I32>(function, members, operand, out),
        DType::I64 => typed::<I64>(function, members, operand, out),
        DType::Bool => typed::<Bool>(function, members, operand, out),
    }
}

fn typed<E: Element>(function: ReduceFn, members: usize, operand: Operands<'_>, out: &mut [u8]) {
    let mut wide = [E::Wide::default(); BLOCK];
    for (block, out) in out.chunks_mut(BLOCK * E::BYTES).enumerate() {
        let bytes = block * BLOCK * E::BYTES..block * BLOCK * E::BYTES + out.len();
        let wide = &mut wide[..out.len() / E::BYTES];
        for member in 0..members {
            operand(member, &mut |operand| {
                let values = operand[bytes.clone()].chunks_exact(E::BYTES).map(E::read);
                let pairs = wide.iter_mut().zip(values);
                // One loop for each function, so that each is vectorized.
                match (member, function) {
                    (0, _) => pairs.for_each(|(sum, value)| *sum = value),
                    (_, ReduceFn::Sum) => {
                        pairs.for_each(|(sum, value)| *sum = E::combine(ReduceFn::Sum, *sum, value));
                    }
                    (_, ReduceFn::Prod) => {
                        pairs.for_each(|(sum, value)| *sum = E::combine(ReduceFn::Prod, *sum, value));
                    }
                    (_, ReduceFn::Max) => {
                        pairs.for_each(|(sum, value)| *sum = E::combine(ReduceFn::Max, *sum, value));
                    }
                    (_, ReduceFn::Min) => {
                        pairs.for_each(|(sum, value)| *sum = E::combine(ReduceFn::Min, *sum, value));
                    }
                }
            });
        }
        for (bytes, sum) in out.chunks_exact_mut(E::BYTES).zip(wide) {
            E::write(*sum, bytes);
        }
    }
}
