//! `simulate`: a step of a training, run on paper.

use super::plan::read;
use crate::Ended;
use crate::args::SimulateArgs;
use crate::output::Output;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::Path;
use std::time::Instant;
use thalweg::planning::{self, Cluster, Faults, Limits, Planned, Subject};

pub fn run(args: &SimulateArgs, output: &Output) -> Result<Ended> {
    let start = Instant::now();
    let (subject, cluster) = read(&args.subject)?;
    if let Some(sizes) = &args.sweep {
        return sweep(args, output, &subject, &cluster, &planning::sweep_sizes(sizes)?);
    }
    let planned = planned(args, &subject, &cluster)?;
    let planning_s = start.elapsed().as_secs_f64();
    let simulation = subject.simulate(&planned, args.jitter, args.seed);
    output.line(planning::simulation_text(&cluster, &planned, &simulation).trim_end())?;
    let mut object = planning::simulation_json(&subject, &cluster, &planned, &simulation);
    object["planning_s"] = planning_s.into();
    if let Some(hours) = args.mtbf_hours {
        let faults = Faults {
            device_mtbf_s: hours * 3600.0,
            devices: planned.plan.devices(),
            checkpoint_s: args.checkpoint_s,
            interval_s: args.checkpoint_every,
            restart_s: args.restart_s,
        };
        let goodput = planning::goodput(&faults, args.seed);
        output.line(planning::goodput_text(&goodput, simulation.step_s))?;
        object["goodput"] = json!(goodput);
    }
    if let Some(path) = &args.trace {
        write(path, &planning::chrome_json(&planned, &simulation))?;
    }
    output.object(&object)?;
    Ok(Ended::Done)
}

fn planned(args: &SimulateArgs, subject: &Subject, cluster: &Cluster) -> Result<Planned> {
    if let Some(path) = &args.plan {
        return Ok(subject.predict(cluster, &planning::read_plan(path)?)?);
    }
    let limits = args.manual.as_deref().map_or(Ok(Limits::default()), planning::manual)?;
    Ok(subject.search(cluster, &limits)?)
}

fn sweep(
    args: &SimulateArgs,
    output: &Output,
    subject: &Subject,
    cluster: &Cluster,
    sizes: &[usize],
) -> Result<Ended> {
    let rows = subject.sweep(cluster, sizes, &Limits::default(), args.seed)?;
    if rows.is_empty() {
        output.note("no size of the sweep has a plan for this batch");
    } else {
        output.line(planning::sweep_text(&rows).trim_end())?;
    }
    if let Some(path) = &args.csv {
        write(path, &planning::sweep_csv(&rows))?;
    }
    if let Some(path) = &args.svg {
        write(path, &planning::sweep_svg(&rows))?;
    }
    output.object(&json!({ "cluster": cluster.name, "sweep": rows }))?;
    Ok(Ended::Done)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
