//! Products through the micro-kernels, as steps of a plan. The throughput counts a multiplication and an addition as two
//! elements, so `Gelem/s` are Gflop/s. `cargo run --release -p thalweg-kernels --example peak` compares with what the processor
//! could do.

use criterion::{Criterion, Throughput};
use thalweg_base::Bindings;
use thalweg_benches::{Loaded, model};

/// Name, rows, columns, depth, and whether the right operand is a parameter, which is packed once.
const PRODUCTS: [(&str, u64, u64, u64, bool); 7] = [
    ("square 128", 128, 128, 128, false),
    ("square 512", 512, 512, 512, false),
    ("square 1024", 1024, 1024, 1024, false),
    ("BERT projection 128x768x768", 128, 768, 768, true),
    ("BERT expansion 128x3072x768", 128, 3072, 768, true),
    ("BERT contraction 128x768x3072", 128, 768, 3072, true),
    ("one row 1x3072x768", 1, 3072, 768, true),
];

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("contractions");
    for (name, m, n, k, parameter) in PRODUCTS {
        let text = if parameter {
            format!(
                "model M(x: f32[{m}, {k}]) -> f32[{m}, {n}] {{ param w: f32[{k}, {n}] = init.normal()\nx @ w }}"
            )
        } else {
            format!("model M(x: f32[{m}, {k}], w: f32[{k}, {n}]) -> f32[{m}, {n}] {{ x @ w }}")
        };
        let mut loaded = Loaded::new(&model(&text), &Bindings::new());
        group.throughput(Throughput::Elements(2 * m * n * k));
        group.bench_function(name, |b| b.iter(|| loaded.run()));
    }
    // Attention scores and weighted values: eight sequences of twelve heads.
    let batched = [
        (
            "96 scores",
            "model M(q: f32[96, 128, 64], k: f32[96, 128, 64]) { einsum(\"b t e, b u e -> b t u\", q, k) }",
        ),
        (
            "96 values",
            "model M(p: f32[96, 128, 128], v: f32[96, 128, 64]) { einsum(\"b t u, b u e -> b t e\", p, v) }",
        ),
    ];
    for (name, text) in batched {
        let mut loaded = Loaded::new(&model(text), &Bindings::new());
        group.throughput(Throughput::Elements(2 * 96 * 128 * 128 * 64));
        group.bench_function(name, |b| b.iter(|| loaded.run()));
    }
}
