//! Whole training steps: that of digits with its data and its bookkeeping, and the steps of two models by themselves.

use criterion::{Criterion, Throughput};
use thalweg::{Model, TrainOptions};
use thalweg_benches::{Loaded, bindings, example_step};

/// Enough that a bench never comes to the end.
const STEPS: usize = 100_000_000;

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("training step");
    let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/digits.tw");
    let options = TrainOptions { steps: Some(STEPS), ..TrainOptions::default() };
    let mut trainer = Model::from_file(digits)
        .and_then(|model| model.trainer(&options))
        .unwrap_or_else(|error| panic!("{error}"));
    group.throughput(Throughput::Elements(trainer.batch() as u64));
    group.bench_function("digits, with its data", |b| {
        b.iter(|| trainer.step().unwrap_or_else(|error| panic!("{error}")))
    });
    let steps = [
        ("digits, steps alone", "digits.tw", 64, bindings(&[("batch", 64)])),
        ("transformer, steps alone", "models/transformer.tw", 16, bindings(&[("batch", 16), ("seq", 64)])),
    ];
    for (name, file, batch, sizes) in steps {
        let mut loaded = Loaded::new(&example_step(file), &sizes);
        group.throughput(Throughput::Elements(batch));
        group.bench_function(name, |b| b.iter(|| loaded.run()));
    }
}
