//! `bench`: how long a call of a model, or a step of its training, takes. Plans are compiled anew, as that is measured too.

use super::{open, profile, read_inputs};
use crate::Ended;
use crate::args::BenchArgs;
use crate::output::{Output, Scheduled, memory, process_mb};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::time::Instant;
use thalweg::{DType, Model, Plan, Signature, Tensor, Trace, TrainOptions};

/// Runs that are kept at most; more tell nothing new.
const RUNS_MAX: usize = 2000;

/// Runs whose steps are timed for a profile.
const PROFILE_RUNS: usize = 10;

/// The share of the time waited for cores from which on people are told of it.
const WAIT_SAID: f64 = 0.05;

/// What is measured.
struct Measured {
    timed: Timed,
    ready_s: f64,
    first_call_s: f64,
    rss_before_mb: Option<f64>,
    checksum: Vec<f64>,
    /// Of a training, the losses of the first steps.
    losses: Vec<f64>,
    plan: std::sync::Arc<Plan>,
    traces: Vec<Trace>,
}

/// Calls after the first.
struct Timed {
    milliseconds: Vec<f64>,
    second_call_s: f64,
    /// The share of the time that threads waited for a core, and how many cores were busy, while runs were measured.
    core_wait: Option<f64>,
    cores_busy: Option<f64>,
}

pub fn run(args: &BenchArgs, output: &Output) -> Result<Ended> {
    let measured = if args.train { measure_training(args, output)? } else { measure_calls(args, output)? };
    let mut sorted = measured.timed.milliseconds.clone();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len() - 1;
    // The mean of the two in the middle, as Python's statistics.median takes it.
    let median = (sorted[last / 2] + sorted[sorted.len() / 2]) / 2.0;
    let p90 = sorted[(0.9 * last as f64) as usize];
    let peak = process_mb("VmHWM");
    let first_result_s = measured.ready_s + measured.first_call_s;
    let threads = threads(args, &measured.plan);
    output.line(format!(
        "{}: median {median:.4} ms, least {:.4} ms, p90 {p90:.4} ms, {} runs on {threads} threads{}",
        measured.plan.name,
        sorted[0],
        sorted.len(),
        match measured.timed.core_wait {
            Some(wait) if wait >= WAIT_SAID => {
                format!(", which waited {:.0} % of the time for a core", wait * 100.0)
            }
            Some(_) | None => String::new(),
        }
    ))?;
    output.line(format!(
        "ready after {:.3} s, first call {:.3} s, first result after {first_result_s:.3} s, peak {} MB",
        measured.ready_s,
        measured.first_call_s,
        peak.map_or("?".into(), |peak| peak.to_string())
    ))?;
    if let Some(path) = &args.trace {
        profile::write(path, &measured.traces, output)?;
    }
    let mut object = json!({
        "peer": "ours", "version": env!("CARGO_PKG_VERSION"), "mode": if args.train { "train" } else { "infer" },
        "workload": measured.plan.name, "threads": threads, "devices": measured.plan.devices(),
        "median_ms": median, "min_ms": sorted[0], "p90_ms": p90, "runs": sorted.len(),
        "ready_s": measured.ready_s, "first_call_s": measured.first_call_s,
        "second_call_s": measured.timed.second_call_s, "first_result_s": first_result_s,
        "core_wait": measured.timed.core_wait, "cores_busy": measured.timed.cores_busy,
        "rss_before_mb": measured.rss_before_mb, "peak_rss_mb": peak,
        "arena_bytes": measured.plan.arena_bytes_max(), "checksum": measured.checksum,
    });
    if args.train {
        object["losses"] = json!(measured.losses);
    }
    if args.profile {
        let device = args.build.devices().measure();
        let rows = profile::rows(&measured.traces, &device);
        output.line(profile::table(&rows, &device))?;
        object["profile"] = json!(rows);
        object["roofline"] = profile::rates(&device);
    }
    output.object(&object)?;
    Ok(Ended::Done)
}

/// Times `call` until there are enough runs and enough seconds have passed; `threads` are those that it keeps busy.
fn time(args: &BenchArgs, threads: usize, mut call: impl FnMut() -> Result<()>) -> Result<Timed> {
    let start = Instant::now();
    call()?;
    let second_call_s = start.elapsed().as_secs_f64();
    for _ in 0..args.warm_up {
        call()?;
    }
    let before = Scheduled::so_far();
    let start = Instant::now();
    let mut milliseconds = Vec::new();
    let more = |runs: usize| {
        runs < args.runs as usize || (start.elapsed().as_secs_f64() < args.seconds && runs < RUNS_MAX)
    };
    while more(milliseconds.len()) {
        let start = Instant::now();
        call()?;
        milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let wall = start.elapsed().as_secs_f64();
    let passed = before.zip(Scheduled::so_far());
    Ok(Timed {
        milliseconds,
        second_call_s,
        core_wait: passed.map(|(before, after)| (after.waited_s - before.waited_s) / wall / threads as f64),
        cores_busy: passed.map(|(before, after)| (after.ran_s - before.ran_s) / wall),
    })
}

fn measure_calls(args: &BenchArgs, output: &Output) -> Result<Measured> {
    let start = Instant::now();
    let session = open(&args.file, &args.build.options(args.seed))?;
    if let Some(path) = &args.weights {
        session.load_weights(path)?;
    }
    let mut inputs = read_inputs(&args.inputs, session.signature())?;
    let made = random_inputs(args, session.signature())?;
    inputs.extend(made.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())));
    let ready_s = start.elapsed().as_secs_f64();
    let rss_before_mb = process_mb("VmHWM");
    let start = Instant::now();
    let outputs = session.run(&inputs)?;
    let first_call_s = start.elapsed().as_secs_f64();
    let (plan, _) = session.prepare(&inputs)?;
    output.note(memory(plan.arena_bytes_max(), plan.devices()));
    let timed = time(args, threads(args, &plan), || Ok(session.run(&inputs).map(drop)?))?;
    let mut traces = Vec::new();
    if args.profile || args.trace.is_some() {
        for _ in 0..PROFILE_RUNS {
            traces.push(session.run_traced(&inputs)?.1);
        }
    }
    let checksum = outputs.iter().next().map_or(Vec::new(), |(_, tensor)| checksum(&tensor.to_f64()));
    let losses = Vec::new();
    Ok(Measured { timed, ready_s, first_call_s, rss_before_mb, checksum, losses, plan, traces })
}

fn threads(args: &BenchArgs, plan: &Plan) -> usize {
    args.build.devices().threads() * plan.devices()
}

fn measure_training(args: &BenchArgs, output: &Output) -> Result<Measured> {
    if !args.inputs.is_empty() {
        bail!("a training takes its inputs from its data; --input is for calls of the model");
    }
    let start = Instant::now();
    let model = Model::from_file(&args.file)?;
    let mut trainer = model.trainer(&TrainOptions {
        model: args.build.model.clone(),
        settings: args.build.settings(),
        devices: args.build.devices(),
        split: args.build.split,
        seed: Some(args.seed),
        // As many as will be measured, whatever the program says; counts of steps are i32 in programs.
        steps: Some(i32::MAX as usize),
        precision: args.build.precision,
        no_rewrite: args.build.no_rewrite,
        verify: args.build.verify,
        cache: None,
        weights: args.weights.clone(),
    })?;
    let ready_s = start.elapsed().as_secs_f64();
    let plan = trainer.plan().clone();
    output.note(memory(plan.arena_bytes_max(), plan.devices()));
    let rss_before_mb = process_mb("VmHWM");
    let start = Instant::now();
    let first = trainer.step()?.context("there is no step to measure")?;
    let first_call_s = start.elapsed().as_secs_f64();
    let mut losses = vec![first.loss];
    let kept = 2 + args.warm_up as usize;
    let timed = time(args, threads(args, &plan), || {
        let report = trainer.step()?;
        if losses.len() < kept {
            losses.extend(report.map(|report| report.loss));
        }
        Ok(())
    })?;
    let mut traces = Vec::new();
    if args.profile || args.trace.is_some() {
        for _ in 0..PROFILE_RUNS {
            traces.push(trainer.step_traced()?.1);
        }
    }
    let checksum = checksum(&[first.loss]);
    Ok(Measured { timed, ready_s, first_call_s, rss_before_mb, checksum, losses, plan, traces })
}

/// The mean magnitude, the first and the middle value.
fn checksum(values: &[f64]) -> Vec<f64> {
    match values.first() {
        None => Vec::new(),
        Some(first) => {
            let mean = values.iter().map(|value| value.abs()).sum::<f64>() / values.len() as f64;
            vec![mean, *first, values[values.len() / 2]]
        }
    }
}

/// Inputs that are not given: floats uniform in [-1, 1), integers below the limit.
fn random_inputs(args: &BenchArgs, signature: &Signature) -> Result<Vec<(String, Tensor)>> {
    let mut made = Vec::new();
    for info in &signature.inputs {
        if args.inputs.iter().any(|input| input.name == info.name) {
            continue;
        }
        let sizes: Option<Vec<usize>> =
            info.ty.shape.iter().map(|dim| dim.as_constant().and_then(|size| size.try_into().ok())).collect();
        let Some(sizes) = sizes else {
            let open = info.ty.shape.iter().find(|dim| dim.as_constant().is_none()).map(ToString::to_string);
            let open = open.unwrap_or_default();
            bail!(
                "`{}` is {}; give its size with --set {open}=N, or a file with --input",
                info.name,
                info.ty
            );
        };
        // A linear congruential generator (Knuth, MMIX); any numbers will do.
        let mut state = args.seed.wrapping_mul(2).wrapping_add(made.len() as u64 + 1);
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        let count: usize = sizes.iter().product();
        let floats: Vec<f64> = (0..count).map(|_| next()).collect();
        made.push((info.name.clone(), tensor(info.ty.dtype, &sizes, &floats, args.integers as f64)?));
    }
    Ok(made)
}

/// Values in [0, 1) as elements of a dtype.
fn tensor(dtype: DType, sizes: &[usize], values: &[f64], integers: f64) -> Result<Tensor> {
    fn of<T: thalweg::Element>(
        sizes: &[usize],
        values: &[f64],
        element: impl Fn(f64) -> T,
    ) -> Result<Tensor> {
        let elements: Vec<T> = values.iter().map(|value| element(*value)).collect();
        Ok(Tensor::new(sizes, &elements)?)
    }
    let symmetric = |value: f64| 2.0 * value - 1.0;
    match dtype {
        DType::F32 => of(sizes, values, |value| symmetric(value) as f32),
        DType::F64 => of(sizes, values, symmetric),
        DType::F16 => of(sizes, values, |value| thalweg::f16::from_f64(symmetric(value))),
        DType::BF16 => of(sizes, values, |value| thalweg::bf16::from_f64(symmetric(value))),
        DType::I8 => of(sizes, values, |value| (value * integers.min(128.0)) as i8),
        DType::U8 => of(sizes, values, |value| (value * integers.min(256.0)) as u8),
        DType::I16 => of(sizes, values, |value| (value * integers) as i16),
        DType::U16 => of(sizes, values, |value| (value * integers) as u16),
        DType::U32 => of(sizes, values, |value| (value * integers) as u32),
        DType::U64 => of(sizes, values, |value| (value * integers) as u64),
        DType::I32 => of(sizes, values, |value| (value * integers) as i32),
        DType::I64 => of(sizes, values, |value| (value * integers) as i64),
        DType::Bool => of(sizes, values, |value| value < 0.5),
    }
}
