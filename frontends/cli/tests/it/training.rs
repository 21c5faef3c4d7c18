//! `train`.

use super::{Desk, Ran};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn losses(desk: &Desk, folder: &str) -> Vec<(u64, f64)> {
    let text = fs::read_to_string(desk.path(folder).join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            (object["step"].as_u64().unwrap(), object["loss"].as_f64().unwrap())
        })
        .collect()
}

#[test]
fn a_training_leaves_weights_metrics_and_checkpoints() {
    let desk = Desk::new();
    let ran = desk.run(&["train", "net.tw", "--out", "run"]);
    assert_eq!(ran.code, 0, "{}", ran.error);
    assert_eq!(ran.error, "");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("training Net on cpu: "), "{lines:?}");
    assert!(lines[1].starts_with("memory: ") && lines[2].starts_with("epoch 1  step 7  loss "), "{lines:?}");
    assert!(lines.last().unwrap().starts_with("weights -> "), "{lines:?}");
    let losses = losses(&desk, "run");
    assert_eq!(losses.iter().map(|(step, _)| *step).collect::<Vec<_>>(), (1..=28).collect::<Vec<_>>());
    for name in ["weights.safetensors", "checkpoint.safetensors", "checkpoint.previous.safetensors"] {
        assert!(desk.path("run").join(name).is_file(), "{name}");
    }
    let object = desk.json(&["train", "net.tw"]);
    assert_eq!((&object["steps"], &object["rows"]), (&28.into(), &50.into()));
    assert!(object["accuracy"].is_f64() && object["loss"].is_f64(), "{object}");
    super::write_npy(&desk.path("x.npy"), 2, 8);
    let used = desk.run(&["run", "net.tw", "--weights", "run/weights.safetensors", "--input", "x=x.npy"]);
    assert_eq!(used.code, 0, "{}", used.error);
}

#[test]
fn a_training_that_is_stopped_goes_on() {
    let desk = Desk::new();
    assert_eq!(desk.run(&["train", "net.tw", "--out", "whole", "--seed", "4"]).code, 0);
    let part = ["train", "net.tw", "--out", "part", "--seed", "4", "--checkpoint-every", "3"];
    assert_eq!(desk.run(&[&part[..], &["--steps", "10"]].concat()).code, 0);
    let ran = desk.run(&[&part[..], &["--resume"]].concat());
    assert!(ran.code == 0 && ran.error.contains("going on after step 10"), "{}", ran.error);
    assert_eq!(losses(&desk, "part"), losses(&desk, "whole"));
    let other = desk.run(&["train", "net.tw", "--out", "part", "--seed", "5", "--resume"]);
    assert!(other.code == 3 && other.error.contains("the seed is 4 in it, and 5 now"), "{}", other.error);
    assert_eq!(desk.run(&["train", "net.tw", "--resume"]).code, 2);
}

/// Waits until there are metrics of a step, so that signals come in the midst of a training.
#[cfg(unix)]
fn wait_for_step(desk: &Desk, folder: &str, step: usize) {
    let path = desk.path(folder).join("metrics.jsonl");
    let start = Instant::now();
    while fs::read_to_string(&path).map_or(0, |text| text.lines().count()) < step {
        assert!(start.elapsed() < Duration::from_secs(120), "no step was done");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(unix)]
fn signal(child: &std::process::Child, name: &str) {
    let status =
        std::process::Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[cfg(unix)]
#[test]
fn an_interrupt_writes_a_checkpoint_and_a_kill_loses_little() {
    let desk = Desk::new();
    let args = ["train", "net.tw", "--set", "epochs=300", "--out", "whole", "--checkpoint-every", "50"];
    assert_eq!(desk.run(&args).code, 0);
    let whole = losses(&desk, "whole");

    let mut args = args;
    args[5] = "run";
    let start = |extra: &[&str]| {
        let mut command = desk.command(&[&args[..], extra].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let child = start(&[]);
    wait_for_step(&desk, "run", 60);
    signal(&child, "INT");
    let ran = Ran::of(child.wait_with_output().unwrap());
    // A training that was over before the signal came has nothing to resume, but still ends well.
    assert!(ran.code == 130 || ran.code == 0, "{ran:?}");
    if ran.code == 130 {
        assert!(ran.error.contains("interrupted after step"), "{}", ran.error);
        let done = losses(&desk, "run").len();
        let ran = desk.run(&[&args[..], &["--steps", "1", "--resume"]].concat());
        assert!(ran.error.contains(&format!("going on after step {done}")), "{}", ran.error);
    }

    let mut child = start(&[]);
    wait_for_step(&desk, "run", 120);
    child.kill().unwrap();
    child.wait().unwrap();
    let ran = Ran::of(start(&["--resume"]).wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.error);
    assert_eq!(losses(&desk, "run"), whole);
}

#[test]
fn several_devices_train_alike() {
    let desk = Desk::new();
    for devices in ["cpu", "cpu:4"] {
        let ran = desk.run(&["train", "net.tw", "--devices", devices, "--out", devices]);
        assert_eq!(ran.code, 0, "{}", ran.error);
    }
    for (one, four) in losses(&desk, "cpu").iter().zip(losses(&desk, "cpu:4")) {
        assert!((one.1 - four.1).abs() < 1e-3, "{one:?} and {four:?}");
    }
}

#[test]
fn trainings_that_cannot_be_are_told() {
    let desk = Desk::new();
    let nan = desk.run(&["train", "net.tw", "--set", "batch=500"]);
    assert!(nan.code == 3 && nan.error.contains("fewer than one batch"), "{}", nan.error);
    fs::write(desk.path("file"), "").unwrap();
    let blocked = desk.run(&["train", "net.tw", "--out", "file"]);
    assert!(blocked.code == 3 && blocked.error.contains("cannot make file"), "{}", blocked.error);
    fs::write(
        desk.path("pictures.tw"),
        super::NET.replace(
            "synthetic(rows: 200, classes: 3, holdout: 0.25)",
            "idx(images: \"none-images-idx3-ubyte\", labels: \"none-labels-idx1-ubyte\")",
        ),
    )
    .unwrap();
    let missing = desk.run(&["train", "pictures.tw"]);
    assert_eq!(missing.code, 3);
    assert_eq!(
        missing.error,
        "error: cannot read none-images-idx3-ubyte: there is no such file; Fashion-MNIST is in Debian's package \
         `dataset-fashion-mnist` (`apt-get install dataset-fashion-mnist`), which puts it in \
         /usr/share/datasets/fashion-mnist, where it is found\n"
    );
    fs::write(desk.path("plain.tw"), "model A(x: f32[n]) -> f32[n] { x }\n").unwrap();
    let none = desk.run(&["train", "plain.tw"]);
    assert!(none.code == 3 && none.error.contains("the file has no `train` block"), "{}", none.error);
}
