//! Trainings on real and made-up data, stopped and resumed.

use std::fs;
use std::path::{Path, PathBuf};
use thalweg::{Devices, Error, Model, RunFolder, StepReport, TrainOptions, Trainer};

const NET: &str = "\
use nn

const lr = 0.01
const fixed = false

model Net(x: f32[batch, 8]) -> f32[batch, 3] {
    let h = nn.dropout(relu(nn.linear(x, 16) as hidden), 0.2)
    nn.linear(h, 3) as out
}

train Net {
    data      = synthetic(rows: 200, classes: 3, holdout: 0.25)
    logits    = Net(data.x)
    loss      = nn.cross_entropy(logits, data.y)
    metrics   = { accuracy: nn.accuracy(logits, data.y) }
    optimizer = optim.adamw(lr: optim.cosine(peak: lr, warmup: 5))
    batch     = 20
    epochs    = 6
}
";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

fn trainer(options: &TrainOptions) -> Trainer {
    Model::from_source("net.tw", NET).unwrap().trainer(options).unwrap()
}

fn rest(trainer: &mut Trainer) -> Vec<StepReport> {
    let mut reports = Vec::new();
    while let Some(report) = trainer.step().unwrap() {
        reports.push(report);
    }
    reports
}

fn set(name: &str, value: &str) -> thalweg::Settings {
    [(name.to_string(), value.to_string())].into()
}

#[test]
fn digits_are_learnt() {
    let model = Model::from_file(example("digits.tw")).unwrap();
    let mut trainer = model.trainer(&TrainOptions::default()).unwrap();
    rest(&mut trainer);
    let evaluation = trainer.evaluate().unwrap();
    assert_eq!((evaluation.split, evaluation.rows, evaluation.rows_left_out), ("test", 359, 0));
    assert!(evaluation.metrics["accuracy"] >= 0.97, "{evaluation:?}");
}

#[test]
fn a_training_is_the_same_every_time_and_learns() {
    let options = TrainOptions { settings: set("epochs", "30"), ..TrainOptions::default() };
    let (mut a, mut b) = (trainer(&options), trainer(&options));
    let (reports, again) = (rest(&mut a), rest(&mut b));
    assert_eq!(reports, again);
    assert_eq!(reports.len(), 30 * 7);
    assert_eq!((reports[0].step, reports[0].epoch, reports[7].epoch), (1, 1, 2));
    let mean = |reports: &[StepReport]| reports.iter().map(|report| report.loss).sum::<f64>() / 7.0;
    assert!(mean(&reports[203..]) < 0.6 * mean(&reports[..7]), "{reports:?}");
    let other = rest(&mut trainer(&TrainOptions { seed: Some(1), ..options }));
    assert_ne!(reports[0].loss, other[0].loss);
}

#[test]
fn evaluation_counts_every_test_row_once() {
    // 50 rows to test on: batches of 20, 20 and 10, or of 7 and a last one of 1, or one of 50.
    let evaluations = ["20", "7", "50", "60"].map(|batch| {
        let mut trainer = trainer(&TrainOptions { settings: set("batch", batch), ..TrainOptions::default() });
        let before = trainer.get("out.weight").unwrap();
        let evaluation = trainer.evaluate().unwrap();
        assert_eq!(trainer.get("out.weight").unwrap(), before);
        evaluation
    });
    for evaluation in &evaluations {
        assert_eq!(evaluation.rows, 50);
        assert!((evaluation.loss - evaluations[0].loss).abs() < 1e-5, "{evaluations:?}");
        let difference = evaluation.metrics["accuracy"] - evaluations[0].metrics["accuracy"];
        assert!(difference.abs() < 1e-6, "{evaluations:?}");
    }
}

#[test]
fn a_stopped_training_goes_on_to_the_same_losses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let whole = rest(&mut trainer(&TrainOptions::default()));
    // Within an epoch, at its end, before the first step and after the last.
    for stop in [0, 1, 6, 7, 8, 30, whole.len()] {
        let mut first = trainer(&TrainOptions { steps: Some(stop), ..TrainOptions::default() });
        let mut reports = rest(&mut first);
        first.save_checkpoint(&path).unwrap();
        let mut second = trainer(&TrainOptions::default());
        second.resume(&path).unwrap();
        assert_eq!(second.steps_done(), stop);
        reports.extend(rest(&mut second));
        assert_eq!(reports, whole, "stopped after {stop}");
    }
}

#[test]
fn checkpoints_do_not_depend_on_devices() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let whole = rest(&mut trainer(&TrainOptions::default()));
    let two = TrainOptions { devices: Devices::cpu(2).unwrap(), steps: Some(10), ..TrainOptions::default() };
    let mut first = trainer(&two);
    let mut reports = rest(&mut first);
    first.save_checkpoint(&path).unwrap();
    let mut second = trainer(&TrainOptions::default());
    second.resume(&path).unwrap();
    reports.extend(rest(&mut second));
    assert_eq!(reports.len(), whole.len());
    for (a, b) in reports.iter().zip(&whole) {
        assert!((a.loss - b.loss).abs() < 1e-3 * b.loss.max(1.0), "{a:?} and {b:?}");
    }
}

#[test]
fn a_run_that_was_killed_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let metrics = || fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    let mut whole = trainer(&TrainOptions::default());
    let mut run = RunFolder::create(&path).unwrap();
    while let Some(report) = whole.step().unwrap() {
        run.record(&report).unwrap();
    }
    run.finish(&whole).unwrap();
    let (expected, weights) = (metrics(), fs::read(path.join("weights.safetensors")).unwrap());
    assert_eq!(expected.lines().count(), 42);

    // Killed after 17 steps; the checkpoints are of 10 and 15.
    let mut killed = trainer(&TrainOptions::default());
    let mut run = RunFolder::create(&path).unwrap();
    for step in 1..=17 {
        run.record(&killed.step().unwrap().unwrap()).unwrap();
        if step == 10 || step == 15 {
            run.checkpoint(&killed).unwrap();
        }
    }
    drop(run);
    // The last line was not written to its end, nor was a checkpoint that was being written.
    let text = metrics();
    fs::write(path.join("metrics.jsonl"), &text[..text.len() - 20]).unwrap();
    fs::write(path.join("checkpoint.safetensors.1.tmp"), "half").unwrap();
    let whole_checkpoint = fs::read(path.join("checkpoint.safetensors")).unwrap();

    let go_on = |step: usize, damaged: usize| {
        let mut trainer = trainer(&TrainOptions::default());
        let (mut run, resumed) = RunFolder::resume(&path, &mut trainer).unwrap();
        assert_eq!((resumed.step, resumed.damaged.len()), (step, damaged));
        while let Some(report) = trainer.step().unwrap() {
            run.record(&report).unwrap();
        }
        assert_eq!(metrics(), expected);
        (run, trainer)
    };
    go_on(15, 0);
    assert!(!path.join("checkpoint.safetensors.1.tmp").exists());
    // One bit is enough to make a checkpoint unfit; the one before is used.
    let mut flipped = whole_checkpoint.clone();
    let at = flipped.len() - 3;
    flipped[at] ^= 1;
    fs::write(path.join("checkpoint.safetensors"), &flipped).unwrap();
    go_on(10, 1);
    fs::write(path.join("checkpoint.safetensors"), &whole_checkpoint[..100]).unwrap();
    go_on(10, 1);
    // Killed between the two renames.
    fs::remove_file(path.join("checkpoint.safetensors")).unwrap();
    let (mut run, trained) = go_on(10, 0);
    run.finish(&trained).unwrap();
    assert_eq!(fs::read(path.join("weights.safetensors")).unwrap(), weights);

    for name in ["checkpoint.safetensors", "checkpoint.previous.safetensors"] {
        fs::write(path.join(name), &flipped).unwrap();
    }
    let error = RunFolder::resume(&path, &mut trainer(&TrainOptions::default())).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
}

#[test]
fn checkpoints_of_other_trainings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    trainer(&TrainOptions::default()).save_checkpoint(&path).unwrap();
    let settings = set("batch", "10");
    let mut other = trainer(&TrainOptions { seed: Some(3), settings, ..TrainOptions::default() });
    let Error::Checkpoint { problems, .. } = other.resume(&path).unwrap_err() else {
        panic!("another error")
    };
    assert_eq!(problems, ["the seed is 0 in it, and 3 now", "the batch is 20 in it, and 10 now"]);
    let weights = folder.path().join("w.safetensors");
    other.save_weights(&weights).unwrap();
    let error = other.resume(&weights).unwrap_err();
    assert!(error.to_string().contains("this is no checkpoint"), "{error}");
    trainer(&TrainOptions::default()).load_weights(&weights).unwrap();
}

#[test]
fn a_training_begins_with_given_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let mut first = trainer(&TrainOptions::default());
    rest(&mut first);
    first.save_weights(&path).unwrap();
    let mut loaded = trainer(&TrainOptions { seed: Some(7), ..TrainOptions::default() });
    loaded.load_weights(&path).unwrap();
    let mut given =
        trainer(&TrainOptions { seed: Some(7), weights: Some(path.clone()), ..TrainOptions::default() });
    assert_eq!(given.get("out.weight").unwrap(), first.get("out.weight").unwrap());
    assert_eq!(rest(&mut given), rest(&mut loaded));

    let mut file = thalweg::weights::read(&path).unwrap();
    file.tensors.remove("out.bias").unwrap();
    thalweg::weights::write(&path, &file).unwrap();
    let options = TrainOptions { weights: Some(path), ..TrainOptions::default() };
    let Error::Weights { problems, .. } =
        Model::from_source("net.tw", NET).unwrap().trainer(&options).unwrap_err()
    else {
        panic!("another error")
    };
    assert!(problems[0].contains("out.bias"), "{problems:?}");
}

#[test]
fn a_loss_that_is_not_finite_ends_a_training() {
    let mut trainer = trainer(&TrainOptions { settings: set("lr", "1e38"), ..TrainOptions::default() });
    let error = loop {
        match trainer.step() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the training ended with finite losses"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::NotFinite { step, .. } if step > 1 && step == trainer.steps_done()),
        "{error}"
    );
}

#[test]
fn weights_of_a_training_fit_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let mut trained = trainer(&TrainOptions::default());
    rest(&mut trained);
    trained.save_weights(&path).unwrap();
    let session =
        Model::from_source("net.tw", NET).unwrap().compile(&thalweg::CompileOptions::default()).unwrap();
    session.load_weights(&path).unwrap();
    assert_eq!(session.get("out.weight").unwrap(), trained.get("out.weight").unwrap());
    assert_eq!(thalweg::weights::read(&path).unwrap().tensors.len(), 4);
}

#[test]
fn steps_that_are_asked_for_are_done() {
    let mut short = trainer(&TrainOptions { steps: Some(3), ..TrainOptions::default() });
    assert_eq!((rest(&mut short).len(), short.steps_total(), short.finished()), (3, 3, true));
    let mut long = trainer(&TrainOptions { steps: Some(50), ..TrainOptions::default() });
    assert_eq!(rest(&mut long).last().unwrap().epoch, 8);
    let error = Model::from_source("net.tw", NET)
        .unwrap()
        .trainer(&TrainOptions { settings: set("batch", "1000"), ..TrainOptions::default() })
        .unwrap_err();
    assert!(error.to_string().contains("fewer than one batch"), "{error}");
}
