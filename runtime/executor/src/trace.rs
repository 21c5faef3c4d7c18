//! What steps took, for people and for the trace viewers of Chrome and Perfetto.

use serde::Serialize;
use thalweg_device::{StepTime, steps_in_order};
use thalweg_plan::Plan;

/// One step of one call on one device. Steps inside of loops run often: their runs of a call are one event.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TraceEvent {
    /// The step's label.
    pub name: String,
    /// The scope that the step came from.
    pub scope: String,
    /// The rank of the device.
    pub device: usize,
    /// The number of the call since tracing began.
    pub call: usize,
    /// How deep it is nested in loops and branches.
    pub depth: usize,
    /// Nanoseconds since tracing began. Events inside of a loop are laid one after the other from its beginning, as their
    /// runs alternate in truth.
    pub start_ns: u64,
    /// Nanoseconds that all runs of the call took.
    pub duration_ns: u64,
    /// How often it ran.
    pub runs: u64,
    /// Arithmetic operations of all runs.
    pub flops: f64,
    /// Bytes read and written in all runs.
    pub bytes: f64,
}

/// What was recorded while tracing.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Trace {
    /// What the plan is called.
    pub plan: String,
    /// Events, by call, device and step.
    pub events: Vec<TraceEvent>,
}

impl Trace {
    /// Appends what one device took in one call.
    pub(crate) fn record(&mut self, plan: &Plan, device: usize, call: usize, times: &[StepTime]) {
        // For each depth, where the next event of that depth begins.
        let mut next = vec![0u64];
        for ((depth, step), time) in steps_in_order(&plan.programs[device].steps).into_iter().zip(times) {
            if time.runs == 0 {
                continue;
            }
            next.resize(depth + 1, 0);
            let start_ns = if depth == 0 { time.start_ns } else { next[depth] };
            next[depth] = start_ns + time.total_ns;
            next.push(start_ns);
            self.events.push(TraceEvent {
                name: step.origin.label.clone(),
                scope: step.origin.scope.clone(),
                device,
                call,
                depth,
                start_ns,
                duration_ns: time.total_ns,
                runs: time.runs,
                flops: step.origin.flops * time.runs as f64,
                bytes: step.origin.bytes * time.runs as f64,
            });
        }
    }

    /// The trace as JSON in the Trace Event Format, which `chrome://tracing` and ui.perfetto.dev open: one row for each
    /// device, times in microseconds.
    pub fn to_chrome_json(&self) -> String {
        let mut events: Vec<serde_json::Value> = Vec::new();
        let devices = self.events.iter().map(|event| event.device + 1).max().unwrap_or(0);
        events.push(serde_json::json!({
            "name": "process_name", "ph": "M", "pid": 0, "args": { "name": self.plan }
        }));
        for device in 0..devices {
            events.push(serde_json::json!({
                "name": "thread_name", "ph": "M", "pid": 0, "tid": device,
                "args": { "name": format!("device {device}") }
            }));
        }
        for event in &self.events {
            let seconds = event.duration_ns.max(1) as f64 * 1e-9;
            events.push(serde_json::json!({
                "name": event.name,
                "cat": event.scope,
                "ph": "X",
                "ts": event.start_ns as f64 / 1e3,
                "dur": event.duration_ns as f64 / 1e3,
                "pid": 0,
                "tid": event.device,
                "args": {
                    "scope": event.scope,
                    "call": event.call,
                    "runs": event.runs,
                    "flops": event.flops,
                    "bytes": event.bytes,
                    "gflop_per_s": event.flops / seconds / 1e9,
                    "gbyte_per_s": event.bytes / seconds / 1e9,
                },
            }));
        }
        serde_json::json!({ "displayTimeUnit": "ms", "traceEvents": events }).to_string()
    }

    /// Steps that took most, all calls and devices together: label, scope, nanoseconds, runs.
    pub fn summary(&self) -> Vec<(String, String, u64, u64)> {
        let mut sums = std::collections::BTreeMap::<(&str, &str), (u64, u64)>::new();
        for event in &self.events {
            let sum = sums.entry((&event.name, &event.scope)).or_default();
            sum.0 += event.duration_ns;
            sum.1 += event.runs;
        }
        let mut rows: Vec<_> = sums
            .into_iter()
            .map(|((name, scope), (ns, runs))| (name.into(), scope.into(), ns, runs))
            .collect();
        rows.sort_by_key(|row: &(String, String, u64, u64)| std::cmp::Reverse(row.2));
        rows
    }
}
