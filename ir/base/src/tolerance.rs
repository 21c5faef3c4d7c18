//! How far two correct results may lie apart: one function of dtype and reduction length, used by every comparison.

use crate::DType;

/// Relative tolerance for comparing two computations of the same value in `dtype` whose longest sum has
/// `reduction_length` terms.
///
/// Rounding errors of a sum grow like a random walk, by the square root of its length (Higham, "Accuracy and
/// Stability of Numerical Algorithms", section 4.2); 16 units allow for a chain of pointwise functions around it.
/// Exact dtypes compare exactly.
pub fn relative(dtype: DType, reduction_length: usize) -> f64 {
    dtype.epsilon() * 4.0 * (16.0 + (reduction_length.max(1) as f64).sqrt())
}

/// Whether `a` and `b` agree within `relative(dtype, reduction_length)` of `scale`, the largest magnitude among the
/// values that were combined (at least of `a` and `b`). NaN agrees with NaN, an infinity with itself.
pub fn agree(a: f64, b: f64, scale: f64, dtype: DType, reduction_length: usize) -> bool {
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    if !a.is_finite() || !b.is_finite() {
        return false;
    }
    let scale = scale.max(a.abs()).max(b.abs());
    (a - b).abs() <= relative(dtype, reduction_length) * scale
}
