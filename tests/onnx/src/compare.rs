//! Comparing with what a case expects, by the tolerance of the package's own runner.

use thalweg_onnx::HostValue;

/// Relative and absolute tolerance of `onnx.backend.test.runner` for floats; all else is compared exactly.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-7;

/// Says where two values differ.
pub fn equal(found: &HostValue, expected: &HostValue) -> Result<(), String> {
    match (found, expected) {
        (HostValue::Tensor(a, narrow_a), HostValue::Tensor(b, narrow_b)) => {
            if (a.dtype(), a.shape(), narrow_a) != (b.dtype(), b.shape(), narrow_b) {
                return Err(format!(
                    "{}{:?}{narrow_a:?} instead of {}{:?}{narrow_b:?}",
                    a.dtype(),
                    a.shape(),
                    b.dtype(),
                    b.shape()
                ));
            }
            for (at, (x, y)) in a.scalars().zip(b.scalars()).enumerate() {
                let same = match a.dtype().is_float() {
                    false => x == y,
                    true => {
                        let (x, y) = (x.to_f64(), y.to_f64());
                        let close = (x - y).abs() <= ABSOLUTE + RELATIVE * y.abs();
                        x == y || close || (x.is_nan() && y.is_nan())
                    }
                };
                if !same {
                    return Err(format!("{x:?} instead of {y:?} at {at} of {:?}", a.shape()));
                }
            }
            Ok(())
        }
        (HostValue::Sequence(a), HostValue::Sequence(b)) if a.len() == b.len() => {
            a.iter().zip(b).try_for_each(|(a, b)| equal(a, b))
        }
        (HostValue::Optional(None), HostValue::Optional(None)) => Ok(()),
        (HostValue::Optional(Some(a)), HostValue::Optional(Some(b))) => equal(a, b),
        (HostValue::Optional(Some(a)), b) => equal(a, b),
        (a, HostValue::Optional(Some(b))) => equal(a, b),
        (a, b) => Err(format!("{a:?} instead of {b:?}")),
    }
}
