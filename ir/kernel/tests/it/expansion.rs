//! Expanded functions mean what they stood for. (The accuracy over millions of arguments is tested where kernels are
//! compiled; here special values and a coarse walk go through the evaluator.)

use thalweg_base::{DType, PointwiseFn as F, Scalar};
use thalweg_kernel::evaluate::{Array, evaluate};
use thalweg_kernel::expand::expand;
use thalweg_kernel::verify::verify;
use thalweg_kernel::{Access, Expr, Index, Kernel, KernelBuilder, Stmt};

const EXPANDED: [F; 10] =
    [F::Exp, F::Expm1, F::Log, F::Log1p, F::Sin, F::Cos, F::Tanh, F::Erf, F::Rsqrt, F::Pow];

fn arguments() -> Vec<Scalar> {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        -3.0,
        0.5,
        -0.5,
        1e-45,
        -1e-40,
        1.2e-38,
        3.4e38,
        -3.4e38,
        88.72,
        88.73,
        -87.4,
        -103.9,
        -104.5,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    let walk = (-200..200).map(|k| k as f64 * 0.0731);
    special.into_iter().chain(walk).map(|x| Scalar::Float(x).convert(DType::F32)).collect()
}

fn kernel(function: F, dtype: DType, count: usize) -> Kernel {
    let mut b = KernelBuilder::new(function.name());
    let x = b.buffer(dtype, count, Access::Read);
    let y = b.buffer(dtype, count, Access::Read);
    let z = b.buffer(dtype, count * count, Access::Write);
    let (i, j) = (b.range(count, 1), b.range(count, 4));
    let operands = [b.load(x, Index::var(j)), b.load(y, Index::var(i))];
    let value = b.apply(function, &operands[..function.arity()]);
    b.store(z, Index::var(j).plus(i, count as i64), value);
    b.finish()
}

fn calls(kernel: &Kernel) -> usize {
    kernel
        .body
        .iter()
        .filter(|stmt| matches!(stmt, Stmt::Let { expr: Expr::Pointwise(f, _), .. } if EXPANDED.contains(f)))
        .count()
}

#[test]
fn the_same_results() {
    for function in EXPANDED {
        let arguments = arguments();
        let count = arguments.len();
        let plain = kernel(function, DType::F32, count);
        let expanded = expand(&plain);
        assert_eq!(verify(&expanded), Ok(()), "{expanded}");
        assert_eq!((calls(&plain), calls(&expanded)), (1, 0), "{expanded}");
        assert_eq!(expand(&expanded), expanded);
        let rows = if function.arity() == 2 { count.min(60) } else { 1 };
        let inputs = Array::new(DType::F32, arguments.iter().copied());
        let mut expected = [inputs.clone(), inputs, Array::zeros(DType::F32, count * count)];
        let mut got = expected.clone();
        evaluate(&plain, &mut expected, &[(0, rows), (0, count)]);
        evaluate(&expanded, &mut got, &[(0, rows), (0, count)]);
        for position in 0..rows * count {
            let (x, y) = (arguments[position % count].to_f64(), arguments[position / count].to_f64());
            let circular = matches!(function, F::Sin | F::Cos);
            if circular && x.is_finite() && x.abs() > 1e4 {
                continue;
            }
            let [a, b] = [&expected, &got].map(|buffers| buffers[2].values[position].to_f64());
            let unit = (a.abs() * f32::EPSILON as f64).max(2f64.powi(-149));
            let near = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 4.5 * unit;
            assert!(near, "{function} of {x:e}, {y:e}: {a:e} plain, {b:e} expanded");
        }
    }
}

#[test]
fn double_precision_stays() {
    for function in EXPANDED {
        let plain = kernel(function, DType::F64, 4);
        assert_eq!(expand(&plain), plain);
    }
}
