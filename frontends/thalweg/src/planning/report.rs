//! Plans for people and for programs.

use super::{Planned, Subject};
use crate::error::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use thalweg_base::Cluster;
use thalweg_partition::planner::{Block, BlockCost, CollectiveUse};
use thalweg_plan::parallel::{MemoryUse, ParallelPlan, Recompute, Schedule};

/// Classes of plans that are told beside the one taken.
const ALTERNATIVES: usize = 8;

/// Groups of equal stages that are told one by one; of more, the first and the last.
const STAGES: usize = 12;

/// A plan as an engineer reads it: the mesh, the stages, how blocks are cut, what is communicated, memory, time, and what else was
/// looked at.
pub fn plan_text(subject: &Subject, cluster: &Cluster, planned: &Planned) -> Result<String> {
    let (plan, prediction) = (&planned.plan, &planned.prediction);
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("text grows");
    let count = subject.summary.parameters();
    line(format!(
        "{}: {} parameters in {} blocks of {} kinds, batch {}, {}",
        plan.model,
        short(count),
        subject.summary.blocks.len(),
        subject.summary.kinds.len(),
        plan.global_batch,
        plan.working
    ));
    let used = match plan.devices() == cluster.devices() {
        true => format!("all {} devices", plan.devices()),
        false => format!("{} of {} devices", plan.devices(), cluster.devices()),
    };
    line(format!("on {}: {used}, {} hosts", cluster.name, cluster.host_count()));
    line(String::new());
    line(format!("mesh        {}", plan.mesh()));
    line(format!("batch       {}", batch_words(plan)));
    line(format!("kept        {}", kept_words(plan)));
    line(String::new());
    let verdict = if prediction.feasible { "" } else { "  (does not fit into memory)" };
    line(format!(
        "step        {}, {:.1} TFLOP/s on each device{verdict}",
        seconds(prediction.step_s),
        prediction.tflops_per_device(plan.devices())
    ));
    for (name, part) in [
        ("compute", prediction.compute_s),
        ("exposed communication", prediction.exposed_communication_s),
        ("bubble", prediction.bubble_s),
        ("waiting for stragglers", prediction.waiting_s),
        ("optimizer", prediction.optimizer_s),
    ] {
        line(format!("  {name:<22} {:>10} {:>5.1} %", seconds(part), 100.0 * part / prediction.step_s));
    }
    line(String::new());
    stages(subject, planned, &mut line);
    line(String::new());
    cuts(subject, plan, &subject.block_costs(cluster, plan)?, &mut line);
    alternatives(planned, &mut line);
    Ok(text)
}

fn batch_words(plan: &ParallelPlan) -> String {
    let rounds =
        format!("{} microbatches of {} samples on each replica", plan.microbatches, plan.microbatch());
    let order = match plan.schedule {
        _ if plan.pipeline() == 1 => return rounds,
        Schedule::GPipe => "all forward, then all backward (GPipe)".into(),
        Schedule::OneForwardOneBackward => "one forward, one backward (1F1B)".into(),
        Schedule::Interleaved { chunks } => format!("1F1B over {chunks} interleaved stages of each device"),
    };
    format!("{rounds}, {order}")
}

fn kept_words(plan: &ParallelPlan) -> String {
    let kept = match plan.recompute {
        Recompute::None => "all that the backward pass reads",
        Recompute::Full => {
            "the input of each block, whose forward pass is done again before its backward pass"
        }
    };
    let shared = match plan.zero.stage() {
        _ if plan.data == 1 => return kept.into(),
        0 => "replicas share nothing",
        1 => "replicas share the optimizer's state (ZeRO 1)",
        2 => "replicas share the optimizer's state and gradients (ZeRO 2)",
        _ => "replicas share optimizer's state, gradients and parameters (ZeRO 3)",
    };
    format!("{kept}; {shared}")
}

fn stages(subject: &Subject, planned: &Planned, line: &mut impl FnMut(String)) {
    let plan = &planned.plan;
    line(
        "group  devices        blocks                                microbatch   memory of each device"
            .into(),
    );
    let groups = plan.pipeline();
    for group in 0..groups {
        if groups > STAGES && group >= STAGES - 2 && group + 2 < groups {
            if group == STAGES - 2 {
                line(format!("  …    {} groups", groups - STAGES));
            }
            continue;
        }
        let of_group: Vec<_> = plan.stages.iter().skip(group).step_by(groups).collect();
        let blocks: Vec<String> = of_group
            .iter()
            .map(|stage| {
                let scope = |at: usize| match subject.summary.blocks[at].scope.as_str() {
                    "" => format!("[{at}]"),
                    scope => scope.to_string(),
                };
                let (first, last) = (scope(stage.first_block), scope(stage.first_block + stage.blocks - 1));
                if stage.blocks == 1 { first } else { format!("{first}..{last}") }
            })
            .collect();
        let work = &planned.prediction.stages[group];
        let first = of_group[0].first_device;
        let devices = format!("{first}..{}", first + plan.data * plan.tensor);
        line(format!(
            "{group:>5}  {devices:<13}  {:<36}  {:>10}   {}",
            blocks.join(", "),
            seconds(work.microbatch_s()),
            memory_words(&work.memory, work.memory_limit)
        ));
    }
}

fn memory_words(memory: &MemoryUse, limit: f64) -> String {
    format!(
        "{} of {} (parameters {}, gradients {}, optimizer {}, activations {} x {:.0}, workspace {})",
        bytes(memory.total()),
        bytes(limit),
        bytes(memory.parameters),
        bytes(memory.gradients),
        bytes(memory.optimizer),
        bytes(memory.activations_of_one),
        memory.microbatches,
        bytes(memory.workspace)
    )
}

/// How each kind of block is cut, and what it communicates.
fn cuts(subject: &Subject, plan: &ParallelPlan, costs: &[BlockCost], line: &mut impl FnMut(String)) {
    // For each kind: how many, and the first of them.
    let mut told: BTreeMap<usize, (usize, &Block, &BlockCost)> = BTreeMap::new();
    for (block, cost) in subject.summary.blocks.iter().zip(costs) {
        told.entry(block.kind).or_insert((0, block, cost)).0 += 1;
    }
    for (count, block, cost) in told.values() {
        let scope = if block.scope.is_empty() { "the model's own" } else { &block.scope };
        let times = if *count > 1 { format!("{count} blocks like {scope}") } else { scope.to_string() };
        line(format!(
            "{times}: forward {}, backward {}",
            seconds(cost.forward.compute_s + cost.forward.communication_s()),
            seconds(cost.backward.compute_s + cost.backward.communication_s())
        ));
        if plan.tensor == 1 {
            continue;
        }
        for (name, (_, dim)) in block.parameters.iter().zip(&cost.parameters) {
            let how = dim.map_or("whole".into(), |dim| format!("cut along dim {dim}"));
            line(format!("    {name}: {how}"));
        }
        for (pass, collectives) in
            [("forward", &cost.forward.collectives), ("backward", &cost.backward.collectives)]
        {
            for (words, count, total) in gathered(collectives) {
                line(format!("    {pass}: {count} x {words}, {} together", seconds(total)));
            }
        }
    }
}

/// Equal collectives together: their words, how many, and their seconds.
fn gathered(collectives: &[CollectiveUse]) -> Vec<(String, usize, f64)> {
    let mut found: Vec<(String, usize, f64)> = Vec::new();
    for own in collectives {
        let words = format!("{} of {} by {}", lower(own.pattern), bytes(own.bytes), lower(own.algorithm));
        match found.iter_mut().find(|(known, _, _)| *known == words) {
            Some((_, count, total)) => (*count, *total) = (*count + 1, *total + own.seconds),
            None => found.push((words, 1, own.seconds)),
        }
    }
    found
}

/// A name of several words in lower case, with hyphens between them.
fn lower(name: impl std::fmt::Debug) -> String {
    let mut text = String::new();
    for (at, letter) in format!("{name:?}").chars().enumerate() {
        if letter.is_uppercase() && at > 0 {
            text.push('-');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

fn alternatives(planned: &Planned, line: &mut impl FnMut(String)) {
    let others: Vec<_> = planned.considered.iter().filter(|other| other.plan != planned.plan).collect();
    if others.is_empty() {
        return;
    }
    line(String::new());
    line(format!("{} plans were costed; the best of other kinds:", planned.evaluated));
    for other in others.iter().take(ALTERNATIVES) {
        let how = match other.prediction.feasible {
            true => {
                let more = other.prediction.step_s / planned.prediction.step_s - 1.0;
                format!("{} ({:+.1} %)", seconds(other.prediction.step_s), 100.0 * more)
            }
            false => {
                let lacks =
                    |stage: &thalweg_plan::parallel::StageWork| stage.memory.total() - stage.memory_limit;
                let most = other.prediction.stages.iter().map(lacks).fold(0.0, f64::max);
                format!("lacks {} of memory", bytes(most))
            }
        };
        let mesh = other.plan.mesh();
        line(format!("  {:<52} {:<34} {how}", other.class, mesh));
    }
}

/// A plan as an object: at least `step_s`, `tflops_per_device`, `memory_bytes_max` and `feasible`.
pub fn plan_json(subject: &Subject, cluster: &Cluster, planned: &Planned) -> Value {
    let (plan, prediction) = (&planned.plan, &planned.prediction);
    let other = |other: &super::Considered| {
        json!({
            "class": other.class, "mesh": other.plan.mesh(), "step_s": other.prediction.step_s,
            "feasible": other.prediction.feasible, "memory_bytes_max": other.prediction.memory_bytes_max(),
        })
    };
    json!({
        "model": plan.model, "cluster": cluster.name, "parameters": subject.summary.parameters(),
        "step_s": prediction.step_s, "tflops_per_device": prediction.tflops_per_device(plan.devices()),
        "memory_bytes_max": prediction.memory_bytes_max(), "feasible": prediction.feasible,
        "devices": plan.devices(), "data": plan.data, "tensor": plan.tensor, "pipeline": plan.pipeline(),
        "microbatches": plan.microbatches, "microbatch": plan.microbatch(), "zero": plan.zero.stage(),
        "recompute": plan.recompute, "schedule": plan.schedule, "compute_s": prediction.compute_s,
        "exposed_communication_s": prediction.exposed_communication_s, "bubble_s": prediction.bubble_s, "waiting_s": prediction.waiting_s,
        "optimizer_s": prediction.optimizer_s, "model_flops": prediction.model_flops,
        "price_per_step": cluster.price_per_hour().map(|price| price * prediction.step_s / 3600.0),
        "stages": prediction.stages, "evaluated": planned.evaluated,
        "alternatives": planned.considered.iter().map(other).collect::<Vec<_>>(),
    })
}

/// Seconds for people.
pub(super) fn seconds(value: f64) -> String {
    match value {
        _ if value >= 1.0 => format!("{value:.3} s"),
        _ if value >= 1e-3 => format!("{:.3} ms", value * 1e3),
        _ => format!("{:.1} us", value * 1e6),
    }
}

/// Bytes for people.
pub(super) fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.*} {}", usize::from(unit > 0), units[unit])
}

/// A count for people.
fn short(value: f64) -> String {
    match value {
        _ if value >= 1e12 => format!("{:.2} T", value / 1e12),
        _ if value >= 1e9 => format!("{:.2} G", value / 1e9),
        _ if value >= 1e6 => format!("{:.1} M", value / 1e6),
        _ => format!("{value}"),
    }
}
