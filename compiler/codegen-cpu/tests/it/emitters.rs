//! Which emitter makes which kernel.

use crate::harness::{Features, compile_here, has_wide};
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_codegen_cpu::{Emitter, Refusal};
use thalweg_kernel::{Access, Carry, Index, Kernel, KernelBuilder};

/// `y[i, j] = f(x[i, j], x[i, j], …)`, and the sums of its rows.
fn rows(function: PointwiseFn, dtype: DType) -> Kernel {
    let mut b = KernelBuilder::new("rows");
    let x = b.buffer(dtype, 7 * 100, Access::Read);
    let y = b.buffer(dtype, 7 * 100, Access::Write);
    let sums = b.buffer(dtype, 7, Access::Write);
    let i = b.range(7, 1);
    let zero = b.constant(dtype, Scalar::zero(dtype));
    let total = b.loop_(100, 64, &[Carry::reduce(zero, PointwiseFn::Add)], |b, j, phis| {
        let at = Index::var(j).plus(i, 100);
        let value = b.load(x, at.clone());
        let result = b.apply(function, &vec![value; function.arity()]);
        b.store(y, at, result);
        vec![b.apply(PointwiseFn::Add, &[phis[0], result])]
    });
    b.store(sums, Index::var(i), total[0]);
    b.finish()
}

#[test]
fn the_wide_emitter_takes_what_it_covers_and_says_why_not() {
    use PointwiseFn as F;
    let numbers = [F::Exp, F::Tanh, F::Erf, F::Log, F::Sin, F::Pow, F::Rsqrt, F::MulAdd, F::Max, F::Floor];
    for (features, emitter) in [(Features::Widest, Emitter::Avx512), (Features::Avx2, Emitter::Avx2)] {
        if !has_wide(emitter) {
            continue;
        }
        for function in numbers {
            let code = compile_here(&rows(function, DType::F32), features);
            assert_eq!((code.emitter, code.refusal), (emitter, None), "{function}");
        }
        let code = compile_here(&rows(F::Rem, DType::F32), features);
        assert_eq!(code.emitter, Emitter::Cranelift);
        assert_eq!(code.refusal, Some(Refusal::Function(F::Rem, DType::F32)));
        let code = compile_here(&rows(F::Div, DType::I32), features);
        assert_eq!(code.emitter, emitter);
        let code = compile_here(&rows(F::Mul, DType::F64), features);
        let refusal = (emitter == Emitter::Avx2).then_some(Refusal::Width(DType::F64));
        assert_eq!(code.refusal, refusal);
    }
    for features in [Features::Cranelift, Features::Least] {
        let code = compile_here(&rows(F::Exp, DType::F32), features);
        assert_eq!((code.emitter, code.refusal), (Emitter::Cranelift, Some(Refusal::Target)));
    }
}
