//! All commands but `train`.

use super::{Desk, write_npy};
use std::fs;

#[test]
fn help_names_commands_examples_and_exit_codes() {
    let desk = Desk::new();
    let help = desk.run(&["--help"]);
    assert_eq!(help.code, 0);
    insta::assert_snapshot!(help.out);
    for command in [
        "check",
        "run",
        "train",
        "compile",
        "dump",
        "bench",
        "devices",
        "view",
        "import",
        "export",
        "plan",
        "simulate",
        "fmt",
        "completions",
    ] {
        let help = desk.run(&[command, "--help"]);
        assert!(help.code == 0 && help.out.contains("Example"), "{command}: {}", help.out);
    }
    assert_eq!(desk.run(&[]).code, 2);
    assert_eq!(desk.run(&["train"]).code, 2);
    assert_eq!(desk.run(&["run", "net.tw", "--devices", "gpu"]).code, 2);
    assert_eq!(desk.run(&["run", "net.tw", "--set", "batch"]).code, 2);
    let nowhere = desk.run(&["check", "nowhere.tw"]);
    assert_eq!((nowhere.code, nowhere.out.as_str()), (3, ""));
    assert!(nowhere.error.starts_with("error: cannot read nowhere.tw: "), "{}", nowhere.error);
}

#[test]
fn check_shows_signatures_or_mistakes() {
    let desk = Desk::new();
    insta::assert_snapshot!(desk.run(&["check", "net.tw"]).out);
    let object = desk.json(&["check", "net.tw"]);
    assert_eq!(object["models"][0]["inputs"][0]["shape"], serde_json::json!(["batch", 8]));
    assert_eq!(object["trains"][0], "Net");

    fs::write(
        desk.path("wrong.tw"),
        "model A(x: f32[n, 4]) -> f32[n, 2] {\n    y + x\n}\nmodel B(x: f32[n]) -> f32[m] { z }\n",
    )
    .unwrap();
    let wrong = desk.run(&["check", "wrong.tw"]);
    assert_eq!((wrong.code, wrong.out.as_str()), (1, ""));
    insta::assert_snapshot!(wrong.error);
    let wrong = desk.run(&["check", "wrong.tw", "--format", "json"]);
    assert_eq!(wrong.code, 1);
    let object: serde_json::Value = serde_json::from_str(&wrong.out).unwrap();
    let found = object["error"]["diagnostics"].as_array().unwrap();
    assert!(
        found.len() >= 2 && found.iter().all(|one| one["line"].is_u64() && one["code"].is_string()),
        "{object}"
    );
}

#[test]
fn colour_is_used_when_asked_for_only() {
    let desk = Desk::new();
    fs::write(desk.path("wrong.tw"), "model A(x: f32[n]) -> f32[n] { y }\n").unwrap();
    let escapes = |args: &[&str]| desk.run(args).error.contains("\x1b[");
    assert!(!escapes(&["check", "wrong.tw"]));
    assert!(escapes(&["check", "wrong.tw", "--color", "always"]));
    assert!(!escapes(&["check", "wrong.tw", "--color", "never"]));
}

#[test]
fn run_reads_and_writes_arrays() {
    let desk = Desk::new();
    write_npy(&desk.path("x.npy"), 4, 8);
    let ran = desk.run(&["run", "net.tw", "--input", "x=x.npy", "-o", "y.npy", "--seed", "3"]);
    assert_eq!(ran.code, 0, "{}", ran.error);
    assert!(ran.error.starts_with("memory: "), "{}", ran.error);
    assert_eq!(ran.out, "output: f32[4, 3] -> y.npy\n");
    let y = thalweg::npy::read(desk.path("y.npy")).unwrap();
    assert_eq!(y.shape(), [4, 3]);

    let object = desk.json(&["run", "net.tw", "--input", "x=x.npy", "--seed", "3"]);
    let values: Vec<f32> = object["outputs"][0]["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap() as f32)
        .collect();
    assert_eq!(values, y.to_vec::<f32>().unwrap());

    // A plan gives the same, on several devices nearly so.
    let compiled = desk.run(&["compile", "net.tw", "--set", "batch=4"]);
    assert_eq!(compiled.code, 0, "{}", compiled.error);
    assert!(compiled.out.contains("net.plan"), "{}", compiled.out);
    let plan = desk.json(&["run", "net.plan", "--input", "x=x.npy", "--seed", "3"]);
    assert_eq!(plan["outputs"], object["outputs"]);
    let two = desk.json(&["run", "net.tw", "--input", "x=x.npy", "--seed", "3", "--devices", "cpu:2"]);
    assert_eq!(two["devices"], 2);
    for (a, b) in two["outputs"][0]["values"].as_array().unwrap().iter().zip(&values) {
        assert!((a.as_f64().unwrap() - *b as f64).abs() < 1e-5);
    }

    let missing = desk.run(&["run", "net.tw"]);
    assert_eq!(missing.code, 3);
    assert!(missing.error.contains("`x: f32[batch, 8]` is not given"), "{}", missing.error);
    let unbound = desk.run(&["compile", "net.tw"]);
    assert_eq!(unbound.code, 3);
    assert!(unbound.error.contains("--set batch="), "{}", unbound.error);
    let unknown = desk.run(&["run", "net.tw", "--set", "bach=4", "--input", "x=x.npy"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.error.contains("bach"), "{}", unknown.error);
}

#[test]
fn numbers_are_scalar_inputs_and_outputs_have_names() {
    let desk = Desk::new();
    fs::write(desk.path("two.tw"), "model Two(a: f32[], b: i32[]) -> { sum: f32[], twice: i32[] } {\n    { sum: a + 1.0, twice: b + b }\n}\n").unwrap();
    let ran = desk.run(&["run", "two.tw", "--input", "a=1.5", "--input", "b=4", "-o", "y.npy"]);
    assert_eq!(ran.code, 0, "{}", ran.error);
    assert_eq!(thalweg::npy::read(desk.path("y.sum.npy")).unwrap().item(), Some(2.5));
    assert_eq!(thalweg::npy::read(desk.path("y.twice.npy")).unwrap().item(), Some(8.0));
}

#[test]
fn every_stage_is_shown() {
    let desk = Desk::new();
    for stage in ["tensor", "gradient", "rewritten", "partitioned", "kernel", "code", "plan"] {
        let ran = desk.run(&["dump", "net.tw", "--stage", stage, "--set", "batch=20"]);
        assert!(ran.code == 0 && ran.out.lines().count() > 3, "{stage}: {}{}", ran.out, ran.error);
        if matches!(stage, "tensor" | "gradient" | "rewritten" | "partitioned") {
            ran.out.parse::<thalweg::Graph>().unwrap_or_else(|error| panic!("{stage}: {error}"));
        }
    }
    let step = desk.run(&["dump", "net.tw", "--stage", "kernel", "--train"]);
    assert_eq!(step.code, 0, "{}", step.error);
    assert_eq!(desk.run(&["dump", "net.tw", "--stage", "soup"]).code, 2);
}

#[test]
fn bench_has_the_fields_of_the_peers() {
    let desk = Desk::new();
    for mode in [&["--set", "batch=16"][..], &["--train"]] {
        let args = [&["bench", "net.tw", "--runs", "3", "--seconds", "0", "--profile"], mode].concat();
        let object = desk.json(&args);
        for field in ["median_ms", "min_ms", "p90_ms", "ready_s", "first_call_s", "first_result_s"] {
            assert!(object[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {object}");
        }
        assert_eq!(object["runs"], 3);
        // Where the system tells of it: the thread that measures ran all the time, or waited for a core.
        if object["cores_busy"].is_number() {
            let number = |field: &str| object[field].as_f64().unwrap_or_else(|| panic!("{field}: {object}"));
            assert!(number("core_wait") >= 0.0 && number("cores_busy") >= 0.0, "{object}");
        }
        // Steps of a training are not alike: the losses of the first, the second and those of warming up.
        assert_eq!(
            object["losses"].as_array().map(Vec::len),
            mode.contains(&"--train").then_some(5),
            "{object}"
        );
        let share: f64 =
            object["profile"].as_array().unwrap().iter().map(|row| row["share"].as_f64().unwrap()).sum();
        assert!((share - 1.0).abs() < 1e-9, "{object}");
    }
    let open = desk.run(&["bench", "net.tw"]);
    assert!(open.code == 3 && open.error.contains("--set batch=N"), "{}", open.error);
}

#[test]
fn traces_have_events_of_every_call() {
    let desk = Desk::new();
    let calls = |args: &[&str]| {
        let ran = desk.run(&[args, &["--trace", "trace.json"]].concat());
        assert_eq!(ran.code, 0, "{}", ran.error);
        let text = fs::read_to_string(desk.path("trace.json")).unwrap();
        let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let steps: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert!(
            steps.iter().all(|step| step["dur"].is_number() && step["args"]["flops"].is_number()),
            "{trace}"
        );
        steps.iter().filter_map(|step| step["args"]["call"].as_u64()).max().expect("there are steps") + 1
    };
    assert_eq!(calls(&["bench", "net.tw", "--set", "batch=4", "--runs", "2", "--seconds", "0"]), 10);
    assert_eq!(calls(&["train", "net.tw", "--steps", "12"]), 10);
    assert_eq!(calls(&["train", "net.tw", "--steps", "4"]), 4);
    write_npy(&desk.path("x.npy"), 4, 8);
    assert_eq!(calls(&["run", "net.tw", "--input", "x=x.npy"]), 1);
}

#[test]
fn pictures_layouts_devices_and_completions() {
    let desk = Desk::new();
    assert_eq!(desk.run(&["view", "net.tw", "-o", "net.svg"]).code, 0);
    assert!(fs::read_to_string(desk.path("net.svg")).unwrap().starts_with("<svg "));
    assert_eq!(desk.run(&["view", "net.tw", "--train", "-o", "net.dot"]).code, 0);
    assert!(fs::read_to_string(desk.path("net.dot")).unwrap().starts_with("digraph "));
    assert_eq!(desk.run(&["view", "net.tw", "-o", "net.png"]).code, 3);

    assert_eq!(desk.run(&["fmt", "--check", "net.tw"]).code, 0);
    fs::write(desk.path("loose.tw"), "model A(x:f32[n])->f32[n]{x+x}").unwrap();
    assert_eq!(desk.run(&["fmt", "--check", "loose.tw"]).code, 3);
    assert_eq!(desk.run(&["fmt", "loose.tw"]).code, 0);
    assert_eq!(desk.run(&["fmt", "--check", "loose.tw"]).code, 0);

    let devices = desk.json(&["devices", "--devices", "cpu:2"]);
    assert_eq!(devices["count"], 2);
    assert!(devices["description"]["memory_bytes"].as_u64().unwrap() > 0);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = desk.run(&["completions", shell]);
        assert!(script.code == 0 && script.out.contains("thalweg"), "{shell}");
    }
}

#[test]
fn models_go_to_onnx_and_come_back() {
    let desk = Desk::new();
    write_npy(&desk.path("x.npy"), 4, 8);
    let values =
        |args: &[&str]| desk.json(&[args, &["--input", "x=x.npy"]].concat())["outputs"][0]["values"].clone();
    let expected = values(&["run", "net.tw", "--seed", "3"]);
    let exported = desk.json(&["export", "net.tw", "--seed", "3"]);
    assert_eq!(exported["file"], "net.onnx");
    let checked = desk.json(&["check", "net.onnx"]);
    assert_eq!(checked["models"][0]["inputs"][0]["shape"], serde_json::json!(["batch", 8]));
    assert_eq!(values(&["run", "net.onnx"]), expected);
    assert_eq!(values(&["run", "net.onnx", "--devices", "cpu:2"]), expected);

    let imported = desk.json(&["import", "net.onnx", "-o", "back.tw", "--trainable", "out.*"]);
    assert_eq!((&imported["weights"], &imported["tensors"]), (&"back.safetensors".into(), &4.into()));
    assert_eq!(values(&["run", "back.tw", "--weights", "back.safetensors"]), expected);
    let model = &desk.json(&["check", "back.tw"])["models"][0];
    assert_eq!(model["parameters"].as_array().unwrap().len(), 2, "{model}");
    assert_eq!(desk.run(&["fmt", "--check", "back.tw"]).code, 0);

    let compiled = desk.json(&["compile", "net.onnx", "--set", "batch=4", "-o", "net.plan"]);
    assert_eq!(compiled["weights"], "net.safetensors");
    assert_eq!(values(&["run", "net.plan", "--weights", "net.safetensors"]), expected);
    assert!(
        desk.json(&["bench", "net.onnx", "--set", "batch=2", "--runs", "2", "--seconds", "0"])["median_ms"]
            .is_number()
    );

    let none = desk.run(&["import", "net.onnx", "-o", "none.tw", "--trainable", "head.*"]);
    assert!(
        none.code == 3 && none.error.contains("head.*") && !desk.path("none.tw").exists(),
        "{}",
        none.error
    );
    fs::write(desk.path("broken.onnx"), "no model at all").unwrap();
    let broken = desk.run(&["import", "broken.onnx"]);
    assert!(broken.code == 1 && broken.error.contains("no ONNX model"), "{}", broken.error);
    assert!(!desk.path("broken.tw").exists() && !desk.path("broken.safetensors").exists());
    let size = desk.run(&["run", "net.onnx", "--set", "rows=2", "--input", "x=x.npy"]);
    assert!(size.code == 3 && size.error.contains("batch"), "{}", size.error);
}

#[test]
fn plans_are_kept_and_cleared() {
    let desk = Desk::new();
    write_npy(&desk.path("x.npy"), 2, 8);
    write_npy(&desk.path("more.npy"), 3, 8);
    let run = ["run", "net.tw", "--input", "x=x.npy"];
    let plans = |args: &[&str]| desk.json(args)["plans"].as_u64().unwrap();
    assert_eq!(plans(&["cache"]), 0);
    let first = desk.json(&run);
    assert_eq!(plans(&["cache"]), 1);
    assert_eq!(desk.json(&run), first, "the plan that was kept computes the same");
    assert_eq!(plans(&["cache"]), 1);
    assert_eq!(desk.run(&["run", "net.tw", "--input", "x=more.npy", "--no-cache"]).code, 0);
    assert_eq!(plans(&["cache"]), 1);
    assert_eq!(plans(&["cache", "--clear"]), 1);
    assert_eq!(plans(&["cache"]), 0);
    // Without a cache everything works the same.
    let off = desk.command(&["cache", "--format", "json"]).env("THALWEG_CACHE", "off").output().unwrap();
    assert!(String::from_utf8(off.stdout).unwrap().contains("null"));
    let off = desk.command(&run).env("THALWEG_CACHE", "off").output().unwrap();
    assert!(off.status.success());
    let nowhere = desk.path("net.tw").join("below");
    let unusable = desk.command(&run).env("THALWEG_CACHE", &nowhere).output().unwrap();
    assert!(unusable.status.success());
    assert_eq!(
        desk.command(&["cache"]).env("THALWEG_CACHE", &nowhere).output().unwrap().status.code(),
        Some(3)
    );
}

/// A program whose training can be planned.
const PLANNED: &str = "use nn
const width = 512
model Net(x: f32[batch, 256]) -> f32[batch, 16] {
    let h = relu(nn.linear(x, width) as first)
    let h = relu(nn.linear(h, width) as second)
    nn.linear(h, 16) as out
}
train Net {
    data      = synthetic(rows: 4096, classes: 16)
    logits    = Net(data.x)
    loss      = nn.cross_entropy(logits, data.y)
    optimizer = optim.adam(lr: 1e-3)
    batch     = 4096
}
";

#[test]
fn plan_searches_or_costs_what_is_given() {
    let desk = Desk::new();
    fs::write(desk.path("planned.tw"), PLANNED).unwrap();
    let found = desk.json(&["plan", "planned.tw", "--cluster", "v100-16gb:1x4", "-o", "plan.ron"]);
    for field in ["step_s", "tflops_per_device", "memory_bytes_max", "planning_s"] {
        assert!(found[field].as_f64().unwrap() > 0.0, "{field}: {found}");
    }
    assert_eq!(found["feasible"], true);
    assert!(fs::read_to_string(desk.path("plan.ron")).unwrap().contains("model_hash"));
    let text = desk.run(&["plan", "planned.tw", "--cluster", "v100-16gb:1x4"]);
    for part in ["mesh", "microbatch", "compute", "bubble", "optimizer", "plans were costed", "planned in"] {
        assert!(text.out.contains(part), "{part}: {}", text.out);
    }
    let manual =
        |plan: &str| desk.json(&["plan", "planned.tw", "--cluster", "v100-16gb:1x4", "--manual", plan]);
    let alone = manual("dp=1");
    let replicas = manual("dp=4");
    let cut = manual("tp=4,microbatches=2");
    let pipeline = manual("pp=2,microbatches=8,recompute=full");
    assert_eq!(
        (replicas["data"].as_u64(), cut["tensor"].as_u64(), pipeline["pipeline"].as_u64()),
        (Some(4), Some(4), Some(2))
    );
    let step = |object: &serde_json::Value| object["step_s"].as_f64().unwrap();
    for other in [&alone, &replicas, &cut, &pipeline] {
        assert!(step(&found) <= step(other) * (1.0 + 1e-9), "{found} {other}");
    }

    for (cluster, plan, message) in [
        ("v100-17gb:8", "dp=1", "there is no device `v100-17gb`"),
        ("v100-16gb:4x", "dp=1", "is no cluster"),
        ("nowhere.ron", "dp=1", "cannot read nowhere.ron"),
        ("v100-16gb:4", "dp=3,sp=2", "there is no `sp`"),
        ("v100-16gb:4", "dp=8", "no arrangement of 4 devices"),
        ("v100-16gb:4", "dp=4,microbatches=3", "no arrangement of 4 devices"),
    ] {
        let failed = desk.run(&["plan", "planned.tw", "--cluster", cluster, "--manual", plan]);
        assert!(failed.code == 3 && failed.error.contains(message), "{cluster} {plan}: {}", failed.error);
    }
    fs::write(desk.path("untrained.tw"), "model Twice(x: f32[n]) -> f32[n] { x + x }\n").unwrap();
    let untrained = desk.run(&["plan", "untrained.tw", "--cluster", "k80"]);
    assert_eq!(untrained.code, 3, "{}", untrained.error);
}

#[test]
fn a_plan_file_is_run_on_paper_and_refused_for_another_model() {
    let desk = Desk::new();
    fs::write(desk.path("planned.tw"), PLANNED).unwrap();
    let plan = [
        "plan",
        "planned.tw",
        "--cluster",
        "v100-16gb:2x2",
        "--manual",
        "dp=2,pp=2,microbatches=4",
        "-o",
        "plan.ron",
    ];
    let planned = desk.json(&plan);
    let simulated = desk.json(&[
        "simulate",
        "planned.tw",
        "--cluster",
        "v100-16gb:2x2",
        "--plan",
        "plan.ron",
        "--trace",
        "t.json",
    ]);
    let ratio = simulated["step_s"].as_f64().unwrap() / planned["step_s"].as_f64().unwrap();
    assert!((0.9..1.1).contains(&ratio), "{ratio}");
    let trace: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(desk.path("t.json")).unwrap()).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().len() > 16);
    let other = desk.run(&[
        "simulate",
        "planned.tw",
        "--cluster",
        "v100-16gb:2x2",
        "--plan",
        "plan.ron",
        "--set",
        "width=1024",
    ]);
    assert!(other.code == 3 && other.error.contains("another model"), "{}", other.error);

    let sweep = [
        "simulate",
        "planned.tw",
        "--cluster",
        "v100-16gb:2x2",
        "--sweep",
        "devices=1..4",
        "--svg",
        "s.svg",
        "--csv",
        "s.csv",
    ];
    let object = desk.json(&sweep);
    assert_eq!(object["sweep"].as_array().unwrap().len(), 3);
    assert!(fs::read_to_string(desk.path("s.svg")).unwrap().starts_with("<svg"));
    assert_eq!(fs::read_to_string(desk.path("s.csv")).unwrap().lines().count(), 4);
    let faults = desk.json(&["simulate", "planned.tw", "--cluster", "v100-16gb:2x2", "--mtbf-hours", "1000"]);
    let goodput = faults["goodput"]["share"].as_f64().unwrap();
    assert!(goodput > 0.5 && goodput < 1.0, "{faults}");
}
