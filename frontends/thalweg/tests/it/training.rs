//! Trainings on real and made-up data.

use std::path::{Path, PathBuf};
use thalweg::{Model, TrainOptions};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

#[test]
fn digits_are_learnt() {
    let model = Model::from_file(example("digits.tw")).unwrap();
    let mut trainer = model.trainer(&TrainOptions::default()).unwrap();
    while trainer.step().unwrap().is_some() {}
    let evaluation = trainer.evaluate().unwrap();
    assert_eq!((evaluation.split, evaluation.rows, evaluation.rows_left_out), ("test", 359, 0));
    assert!(evaluation.metrics["accuracy"] >= 0.97, "{evaluation:?}");
}
