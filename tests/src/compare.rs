//! Comparison of arrays within the tolerance of their dtype.

use thalweg_base::tolerance;
use thalweg_tensor::Array;

/// Panics unless two arrays have one type and agree element by element, for sums of `reduction_length` terms. Magnitudes
/// are measured against the largest finite one among the expected values, and `scale`.
pub fn assert_close(what: &str, expected: &Array, found: &Array, reduction_length: usize, scale: f64) {
    assert_eq!((expected.dtype, &expected.shape), (found.dtype, &found.shape), "{what}: type");
    let finite = expected.values.iter().map(|value| value.to_f64().abs()).filter(|value| value.is_finite());
    let scale = finite.fold(scale, f64::max);
    for (index, (a, b)) in expected.values.iter().zip(&found.values).enumerate() {
        let agree = tolerance::agree(a.to_f64(), b.to_f64(), scale, expected.dtype, reduction_length);
        assert!(agree, "{what}: {a:?} is expected at position {index} of {:?}, not {b:?}", expected.shape);
    }
}

/// Panics unless two lists of arrays agree one by one.
pub fn assert_all_close(what: &str, expected: &[Array], found: &[Array], reduction_length: usize) {
    assert_eq!(expected.len(), found.len(), "{what}: how many");
    for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_close(&format!("{what}, {index}"), expected, found, reduction_length, 1.0);
    }
}
