//! All benches: `cargo bench -p thalweg-benches`, about two minutes on two cores.

mod compile;
mod contractions;
mod kernels;
mod training;

use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;

/// Short measurements: what is looked for is a step of ten percent, not of one.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
}

criterion_group! {
    name = suite;
    config = settings();
    targets = compile::benches, kernels::benches, contractions::benches, training::benches
}
criterion_main!(suite);
