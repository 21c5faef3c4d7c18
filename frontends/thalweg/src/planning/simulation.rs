//! Steps of plans run on paper, and what they look like: text, objects, traces, scaling curves.

use super::{Limits, Planned, Subject, report};
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use thalweg_base::Cluster;
pub use thalweg_simulate::{Faults, Goodput, Simulation, goodput};

/// Replicas' times differ by this share of them, as a standard deviation, where nothing else is asked for: what the planner takes
/// for hosts.
pub const JITTER: f64 = 0.025;

impl Subject {
    /// Runs one step of a plan on paper. Where the plan uses several hosts, replicas' times differ by `jitter`.
    pub fn simulate(&self, planned: &Planned, jitter: f64, seed: u64) -> Simulation {
        let settings = thalweg_simulate::Settings {
            overlap: self.constants.overlap,
            overlap_cost: self.constants.overlap_cost,
            jitter: if planned.prediction.waiting_s > 0.0 { jitter } else { 0.0 },
            seed,
        };
        thalweg_simulate::simulate(&planned.plan, &planned.prediction, &settings)
    }

    /// The best plan of each size of a uniform cluster, run on paper. Sizes that have none are left out.
    pub fn sweep(
        &self,
        cluster: &Cluster,
        sizes: &[usize],
        limits: &Limits,
        seed: u64,
    ) -> Result<Vec<SweepRow>> {
        let mut rows = Vec::new();
        for devices in sizes {
            let own = cluster
                .resized(*devices)
                .map_err(|source| Error::Cluster { place: None, source: source.into() })?;
            let planned = match self.search(&own, limits) {
                Ok(planned) => planned,
                Err(Error::Planner(super::PlannerError::Misfit(_))) => continue,
                Err(other) => return Err(other),
            };
            let simulation = self.simulate(&planned, JITTER, seed);
            rows.push(SweepRow {
                devices: *devices,
                mesh: planned.plan.mesh(),
                step_s: simulation.step_s,
                samples_per_s: self.global_batch as f64 / simulation.step_s,
                tflops_per_device: planned.prediction.model_flops
                    / simulation.step_s
                    / *devices as f64
                    / 1e12,
                memory_bytes_max: planned.prediction.memory_bytes_max(),
                feasible: planned.prediction.feasible,
            });
        }
        Ok(rows)
    }
}

/// One size of a scaling curve.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct SweepRow {
    /// The devices.
    pub devices: usize,
    /// The plan's mesh.
    pub mesh: String,
    /// Seconds of a step.
    pub step_s: f64,
    /// Samples in a second.
    pub samples_per_s: f64,
    /// Operations of the model in a second on each device, in units of 1e12.
    pub tflops_per_device: f64,
    /// The bytes of the device that needs most.
    pub memory_bytes_max: f64,
    /// Whether every device has the memory that it needs.
    pub feasible: bool,
}

/// The sizes of a sweep: `devices=8..4096` doubles from the first to the last.
pub fn sweep_sizes(text: &str) -> Result<Vec<usize>> {
    let wrong =
        || Error::Option(format!("`{text}` is no sweep; write `devices=8..4096`, which doubles from 8 on"));
    let (first, last) =
        text.strip_prefix("devices=").and_then(|range| range.split_once("..")).ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0).ok_or_else(wrong);
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(wrong());
    }
    Ok(std::iter::successors(Some(first), |size| size.checked_mul(2))
        .take_while(|size| *size <= last)
        .collect())
}

/// A simulation for people.
pub fn simulation_text(cluster: &Cluster, planned: &Planned, simulation: &Simulation) -> String {
    let plan = &planned.plan;
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("text grows");
    line(format!("{} on {}: {}, {} passes", plan.model, cluster.name, plan.mesh(), simulation.passes));
    let fits = if planned.prediction.feasible { "" } else { "  (does not fit into memory)" };
    line(format!(
        "step        {} (planned {}){fits}",
        report::seconds(simulation.step_s),
        report::seconds(planned.prediction.step_s)
    ));
    for (name, share) in [
        ("computing", simulation.utilization),
        ("communicating", simulation.exposed_communication),
        ("waiting", simulation.bubble),
    ] {
        line(format!("  {name:<14} {:>5.1} %", 100.0 * share));
    }
    if let Some(price) = cluster.price_per_hour() {
        let of_a_million = price * simulation.step_s / 3600.0 / plan.global_batch as f64 * 1e6;
        line(format!("price       {price:.2} an hour, {of_a_million:.2} for a million samples"));
    }
    line("group   computing  communicating  waiting   memory at most".into());
    for (at, own) in simulation.groups.iter().enumerate() {
        line(format!(
            "{at:>5}   {:>7.1} %      {:>7.1} %  {:>5.1} %   {} with {:.1} microbatches under way",
            100.0 * own.computing,
            100.0 * own.communicating,
            100.0 * own.waiting,
            report::bytes(own.memory_bytes_max),
            own.microbatches_max
        ));
    }
    text
}

/// A simulation as an object, with what `plan` gives of the plan.
pub fn simulation_json(
    subject: &Subject,
    cluster: &Cluster,
    planned: &Planned,
    simulation: &Simulation,
) -> Value {
    let mut object = report::plan_json(subject, cluster, planned);
    let devices = planned.plan.devices();
    object["planned_step_s"] = object["step_s"].take();
    object["step_s"] = simulation.step_s.into();
    object["tflops_per_device"] =
        (planned.prediction.model_flops / simulation.step_s / devices as f64 / 1e12).into();
    object["utilization"] = simulation.utilization.into();
    object["bubble"] = simulation.bubble.into();
    object["exposed_communication"] = simulation.exposed_communication.into();
    object["passes"] = simulation.passes.into();
    object["groups"] = json!(simulation.groups);
    let price = cluster.price_per_hour();
    object["price_per_step"] = price.map(|price| price * simulation.step_s / 3600.0).into();
    object
}

/// What trainings with faults get done, for people.
pub fn goodput_text(goodput: &Goodput, step_s: f64) -> String {
    format!(
        "goodput     {:.1} % of the time counts, {} a step: checkpoints {:.1} %, done again {:.1} %, restarts {:.1} %; a failure \
         every {:.1} hours, a checkpoint every {:.0} s",
        100.0 * goodput.share,
        report::seconds(step_s / goodput.share),
        100.0 * goodput.checkpoints,
        100.0 * goodput.lost,
        100.0 * goodput.restarts,
        goodput.mtbf_s / 3600.0,
        goodput.interval_s
    )
}

/// The passes of the first replica in the Trace Event Format, which `chrome://tracing` and ui.perfetto.dev open: a row for each
/// group of devices, with its memory as a counter; times in microseconds.
pub fn chrome_json(planned: &Planned, simulation: &Simulation) -> String {
    let mut events = vec![json!({
        "name": "process_name", "ph": "M", "pid": 0, "args": { "name": planned.plan.model }
    })];
    for (group, own) in simulation.groups.iter().enumerate() {
        events.push(json!({
            "name": "thread_name", "ph": "M", "pid": 0, "tid": group, "args": { "name": format!("group {group}") }
        }));
        for (seconds, bytes) in &own.memory {
            events.push(json!({
                "name": format!("memory of group {group}"), "ph": "C", "ts": seconds * 1e6, "pid": 0,
                "args": { "bytes": bytes }
            }));
        }
    }
    for event in &simulation.events {
        let name =
            event.microbatch.map_or(event.name.to_string(), |number| format!("{} {number}", event.name));
        events.push(json!({
            "name": name, "cat": event.name, "ph": "X", "ts": event.start_s * 1e6, "dur": event.seconds * 1e6, "pid": 0,
            "tid": event.group, "args": { "microbatch": event.microbatch, "stage": event.stage }
        }));
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events }).to_string()
}

/// A scaling curve for people.
pub fn sweep_text(rows: &[SweepRow]) -> String {
    let mut text =
        String::from("devices  step          samples/s   TFLOP/s each  efficiency  memory      mesh\n");
    for row in rows {
        let efficiency = row.tflops_per_device / rows[0].tflops_per_device;
        writeln!(
            text,
            "{:>7}  {:<12}  {:>9.1}   {:>12.1}  {:>8.1} %  {:<10}  {}{}",
            row.devices,
            report::seconds(row.step_s),
            row.samples_per_s,
            row.tflops_per_device,
            100.0 * efficiency,
            report::bytes(row.memory_bytes_max),
            row.mesh,
            if row.feasible { "" } else { " (does not fit)" }
        )
        .expect("text grows");
    }
    text
}

/// A scaling curve as comma-separated values.
pub fn sweep_csv(rows: &[SweepRow]) -> String {
    let mut text =
        String::from("devices,mesh,step_s,samples_per_s,tflops_per_device,memory_bytes_max,feasible\n");
    for row in rows {
        let SweepRow { devices, mesh, step_s, samples_per_s, tflops_per_device, memory_bytes_max, feasible } =
            row;
        writeln!(
            text,
            "{devices},{mesh},{step_s},{samples_per_s},{tflops_per_device},{memory_bytes_max:.0},{feasible}"
        )
        .expect("text grows");
    }
    text
}

/// A scaling curve as a picture: samples in a second over devices, both as logarithms, beside what the first row promises.
pub fn sweep_svg(rows: &[SweepRow]) -> String {
    let (width, height, margin) = (640.0, 400.0, 60.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n"
    );
    let mut line = |line: String| writeln!(text, "{line}").expect("text grows");
    if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
        let ideal = |devices: usize| first.samples_per_s * devices as f64 / first.devices as f64;
        let ends = |of: &dyn Fn(&SweepRow) -> f64| {
            let logs = rows.iter().map(|row| of(row).log2());
            let (low, high) =
                logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), own| (a.min(own), b.max(own)));
            (low, high.max(low + 1.0))
        };
        let across = ends(&|row| row.devices as f64);
        let up = ends(&|row| row.samples_per_s.max(ideal(row.devices)));
        let up = (up.0.min(first.samples_per_s.log2()), up.1);
        let x = |devices: usize| {
            margin + (width - 2.0 * margin) * ((devices as f64).log2() - across.0) / (across.1 - across.0)
        };
        let y = |rate: f64| height - margin - (height - 2.0 * margin) * (rate.log2() - up.0) / (up.1 - up.0);
        let points = |of: &dyn Fn(&SweepRow) -> f64| -> String {
            rows.iter().map(|row| format!("{:.1},{:.1} ", x(row.devices), y(of(row)))).collect()
        };
        line(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#999\" stroke-dasharray=\"4\"/>",
            points(&|row| ideal(row.devices)).trim_end()
        ));
        line(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#1f6feb\" stroke-width=\"2\"/>",
            points(&|row| row.samples_per_s).trim_end()
        ));
        for row in rows {
            let (x, y) = (x(row.devices), y(row.samples_per_s));
            let title = format!("{} devices, {}: {:.1} samples/s", row.devices, row.mesh, row.samples_per_s);
            line(format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#1f6feb\"><title>{title}</title></circle>"
            ));
            let below = height - margin + 18.0;
            line(format!(
                "<text x=\"{x:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{}</text>",
                row.devices
            ));
        }
        let label = |text: &mut dyn FnMut(String), rate: f64| {
            text(format!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{rate:.0}</text>",
                margin - 8.0,
                y(rate) + 4.0
            ));
        };
        label(&mut line, first.samples_per_s);
        if rows.len() > 1 {
            label(&mut line, last.samples_per_s);
        }
    }
    line(format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">devices</text>",
        width / 2.0,
        height - 16.0
    ));
    line(format!(
        "<text x=\"16\" y=\"{}\">samples in a second (dashed: as the first row promises)</text>",
        margin / 2.0
    ));
    text + "</svg>\n"
}
