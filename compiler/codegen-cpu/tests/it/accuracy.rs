//! The accuracy that the expanded functions state, in units in the last place, over millions of arguments.

use crate::harness::{Features, apply_f32};
use thalweg_base::{PointwiseFn, function::erf};

/// The distance of a result from the exact value, in units in the last place of the rounded exact value.
fn units(result: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if result == rounded || (result.is_nan() && rounded.is_nan()) {
        return 0.0;
    }
    if !result.is_finite() || !rounded.is_finite() {
        // An overflow that just begins is one unit away from the largest number.
        let largest = f32::MAX as f64;
        return match (result as f64).clamp(-largest * 1.001, largest * 1.001)
            - exact.clamp(-largest * 1.001, largest * 1.001)
        {
            difference if difference.abs() <= largest * 1.001e-3 => 1.0,
            _ => f64::INFINITY,
        };
    }
    let unit = (rounded.abs().next_up() as f64 - rounded.abs() as f64).max(2f64.powi(-149));
    (result as f64 - exact).abs() / unit
}

/// Every `step`-th float of either sign with a magnitude up to `limit`, and special values.
fn samples(limit: f32, step: usize) -> Vec<f32> {
    let special =
        [0.0, 1.0, f32::MIN_POSITIVE, 1e-45, 1e-40, f32::MAX, f32::INFINITY, f32::NAN, 0.5, 2.0, limit];
    let dense = (0..limit.to_bits()).step_by(step).map(f32::from_bits);
    special.into_iter().chain(dense).flat_map(|value| [value, -value]).collect()
}

fn check(function: PointwiseFn, values: &[f32], bound: f64, exact: impl Fn(f64) -> f64) {
    let forms = [
        (16, Features::Widest),
        (16, Features::Avx2),
        (8, Features::Cranelift),
        (1, Features::Widest),
        (1, Features::Cranelift),
        (4, Features::Least),
        (1, Features::Least),
    ];
    for (lanes, features) in forms {
        let values = if lanes == 1 { &values[..values.len().min(100_000)] } else { values };
        let results = apply_f32(function, &[values], lanes, features);
        let (worst, at) = values
            .iter()
            .zip(&results)
            .map(|(value, result)| (units(*result, exact(*value as f64)), *value))
            .fold((0.0, 0.0), |worst, next| if next.0 > worst.0 { next } else { worst });
        assert!(worst <= bound, "{function} with {lanes} lanes, {features:?}: {worst} units at {at:e}");
    }
}

#[test]
fn exponentials() {
    check(PointwiseFn::Exp, &samples(120.0, 701), 1.5, f64::exp);
    check(PointwiseFn::Expm1, &samples(120.0, 701), 2.0, f64::exp_m1);
}

#[test]
fn logarithms() {
    check(PointwiseFn::Log, &samples(f32::MAX, 1501), 1.0, f64::ln);
    let near_one: Vec<f32> = (0..1_000_000).map(|k| f32::from_bits(0x3f00_0000 + 17 * k)).collect();
    check(PointwiseFn::Log, &near_one, 1.0, f64::ln);
    check(PointwiseFn::Log1p, &samples(f32::MAX, 1501), 2.0, f64::ln_1p);
}

#[test]
fn hyperbolic_tangent() {
    check(PointwiseFn::Tanh, &samples(20.0, 701), 4.5, f64::tanh);
}

#[test]
fn error_function() {
    check(PointwiseFn::Erf, &samples(6.0, 701), 4.5, erf);
}

#[test]
fn circular_functions() {
    let values: Vec<f32> =
        samples(10_000.0, 701).into_iter().filter(|x| !(x.abs() > 10_000.0 && x.is_finite())).collect();
    check(PointwiseFn::Sin, &values, 2.0, f64::sin);
    check(PointwiseFn::Cos, &values, 2.0, f64::cos);
}

#[test]
fn reciprocal_root() {
    check(PointwiseFn::Rsqrt, &samples(f32::MAX, 1501), 1.5, |x| 1.0 / x.sqrt());
}

#[test]
fn powers() {
    let exponents = [
        -2.0,
        -1.0,
        -0.5,
        0.0,
        0.1,
        0.33,
        0.5,
        0.75,
        1.0,
        1.5,
        2.0,
        2.2,
        3.0,
        5.0,
        7.3,
        10.0,
        31.0,
        100.5,
        -37.7,
        1e-3,
        1e9,
        -1e9,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        16_777_217.0,
        0.99999,
        300.0,
        177.3,
        -211.9,
        254.0,
        600.0,
    ];
    let mut bases = samples(f32::MAX, 40_009);
    bases.extend((0..100_000).map(|k| f32::from_bits(0x3f00_0000 + 167 * k)));
    for exponent in exponents {
        let ys = vec![exponent; bases.len()];
        let results = apply_f32(PointwiseFn::Pow, &[&bases, &ys], 16, Features::Widest);
        let (worst, at) = bases
            .iter()
            .zip(&results)
            .map(|(base, result)| (units(*result, (*base as f64).powf(exponent as f64)), *base))
            .fold((0.0, 0.0), |worst, next| if next.0 > worst.0 { next } else { worst });
        assert!(worst <= 4.0, "pow(x, {exponent}): {worst} units at {at:e}");
    }
}
