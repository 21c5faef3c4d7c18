//! Generated kernels: pointwise chains, reductions, and rows that are normalized. The throughput is that of the tensors that
//! go in and out, each counted once.

use criterion::{Criterion, Throughput};
use thalweg_base::Bindings;
use thalweg_benches::{Loaded, model};

/// What is measured, as a program and the bytes that it reads and writes.
const CASES: [(&str, &str, u64); 5] = [
    (
        "gelu(x * w + b) [4096, 3072]",
        "model M(x: f32[4096, 3072], w: f32[3072], b: f32[3072]) -> f32[4096, 3072] { gelu(x * w + b) }",
        2 * 4 * 4096 * 3072,
    ),
    (
        "softmax [12288, 128]",
        "model M(x: f32[12288, 128]) -> f32[12288, 128] { softmax(x) }",
        2 * 4 * 12288 * 128,
    ),
    (
        "layer norm [4096, 768]",
        "use nn\nmodel M(x: f32[4096, 768]) -> f32[4096, 768] { nn.layer_norm(x) as norm }",
        2 * 4 * 4096 * 768,
    ),
    ("sum [16777216]", "model M(x: f32[16777216]) -> f32[] { sum(x) }", 4 << 24),
    (
        "column sums [4096, 4096]",
        "model M(x: f32[4096, 4096]) -> f32[4096] { sum(x, over: 0) }",
        4 * 4096 * 4096,
    ),
];

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernels");
    for (name, text, bytes) in CASES {
        let mut loaded = Loaded::new(&model(text), &Bindings::new());
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(name, |b| b.iter(|| loaded.run()));
    }
}
