//! Trains the digits example from Rust, saves the weights, and uses them from several threads.
//!
//! Run it with `cargo run --release -p thalweg-examples --example embed`.

use ndarray::Array2;
use std::path::Path;
use std::thread;
use thalweg::{CompileOptions, Model, Session, TrainOptions};

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> anyhow::Result<()> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("digits.tw");
    let model = Model::from_file(&program)?;

    // Step by step: the caller decides what is shown, and when to stop.
    let mut trainer = model.trainer(&TrainOptions { seed: Some(1), ..TrainOptions::default() })?;
    while let Some(report) = trainer.step()? {
        if report.step % trainer.steps_per_epoch() == 0 && report.epoch % 5 == 0 {
            println!("epoch {:2}: loss {:.4}", report.epoch, report.loss);
        }
    }
    let evaluation = trainer.evaluate()?;
    println!("{} test rows: accuracy {:.4}", evaluation.rows, evaluation.metrics["accuracy"]);
    let weights = std::env::temp_dir().join(format!("digits-{}.safetensors", std::process::id()));
    trainer.save_weights(&weights)?;

    // A session runs the model alone. The batch is whatever the arrays have; each size is compiled once.
    let session = model.compile(&CompileOptions::default())?;
    session.load_weights(&weights)?;
    std::fs::remove_file(&weights)?;
    println!("{:?}", session.signature().inputs);
    let first = classify(&session, ones())?;
    println!("a grey square looks like a {}", first[0]);

    // Clones of a session share it and wait for each other; forks run at the same time.
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let fork = session.fork()?;
            Ok(thread::spawn(move || classify(&fork, ones())))
        })
        .collect::<Result<_, thalweg::Error>>()?;
    for thread in threads {
        let classes = thread.join().expect("classifying does not panic")?;
        anyhow::ensure!(classes == first, "threads disagree");
    }
    Ok(())
}

/// Eight grey squares as pictures of 64 pixels.
fn ones() -> Array2<f32> {
    Array2::from_elem((8, 64), 0.5)
}

/// The most likely class of each row of pixels.
fn classify(session: &Session, pixels: Array2<f32>) -> Result<Vec<usize>, thalweg::Error> {
    let outputs = session.run(&[("x", pixels.view().into())])?;
    let logits = outputs.array::<f32>("output")?;
    let best = |row: ndarray::ArrayViewD<'_, f32>| {
        row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(class, _)| class)
    };
    Ok(logits.outer_iter().map(best).collect())
}
