//! From a graph to a plan with code, and from text to a graph.

use criterion::Criterion;
use std::hint::black_box;
use thalweg_benches::{bindings, example_step, options};
use thalweg_driver::compile;

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.bench_function("digits, text to graph", |b| b.iter(|| black_box(example_step("digits.tw"))));
    let options = options();
    let steps = [
        ("digits.tw", bindings(&[("batch", 64)])),
        ("models/transformer.tw", bindings(&[("batch", 16), ("seq", 64)])),
    ];
    for (file, sizes) in steps {
        let step = example_step(file);
        let name = format!("{file}, training step to code");
        group.bench_function(name, |b| {
            b.iter(|| compile(black_box(&step), &sizes, &options).unwrap_or_else(|error| panic!("{error}")))
        });
    }
}
