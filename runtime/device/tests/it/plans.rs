//! Plans by hand.

use thalweg_base::{DType, Literal, Mesh, Scalar};
use thalweg_plan::{
    Address, CompiledKernel, ContractAxis, Contraction, FORMAT_VERSION, KernelId, Launch, Origin, Plan,
    Precision, Program, Step, StepKind,
};

/// A plan for one device.
pub(crate) fn plan(arena_bytes: usize, kernels: Vec<CompiledKernel>, steps: Vec<Step>) -> Plan {
    Plan {
        version: FORMAT_VERSION,
        name: "test".into(),
        key: String::new(),
        target: vec![std::env::consts::ARCH.to_string()],
        mesh: Mesh::default(),
        inputs: Vec::new(),
        parameters: Vec::new(),
        states: Vec::new(),
        outputs: Vec::new(),
        kernels,
        programs: vec![Program { arena_bytes, kept_bytes: 0, constants: Vec::new(), steps }],
    }
}

pub(crate) fn step(label: &str, kind: StepKind) -> Step {
    Step { kind, origin: Origin { label: label.into(), ..Origin::default() } }
}

pub(crate) fn launch(kernel: u32, parts: u32, buffers: Vec<Address>) -> Launch {
    Launch { kernel: KernelId(kernel), buffers, parts }
}

pub(crate) fn at(offset: usize) -> Address {
    Address::at(offset)
}

/// The product of row-major matrices for each of `batch`.
pub(crate) fn matrices(batch: usize, m: usize, n: usize, k: usize, dtype: DType) -> Contraction {
    let axis = |extent: usize, a: usize, b: usize, c: usize| ContractAxis {
        extent,
        stride_a: a as i64,
        stride_b: b as i64,
        stride_c: c as i64,
    };
    Contraction {
        batch: vec![axis(batch, m * k, k * n, m * n)],
        m: vec![axis(m, k, 0, n)],
        n: vec![axis(n, 0, 1, 1)],
        k: vec![axis(k, 1, n, 0)],
        dtype,
        operands: None,
        precision: Precision::Full,
    }
}

/// Small numbers that are exact in every dtype, different from element to element.
pub(crate) fn numbers(dtype: DType, count: usize, seed: usize) -> Literal {
    let value = |i: usize| {
        ((i * 7 + seed * 5 + i / 3) % 11) as i64 - if dtype.range().0 == Scalar::Int(0) { 0 } else { 5 }
    };
    Literal::from_scalars(dtype, &[count], (0..count).map(|i| Scalar::Int(value(i).into())))
}
