//! Where the time of a plan goes, step by step, as a table and as a file for trace viewers.

use crate::output::{Output, count};
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use thalweg::{DType, DeviceDescription, Trace};

/// One step of a plan, or several of one kind in one scope: means over calls.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// What is done.
    pub label: String,
    /// The scope it came from.
    pub scope: String,
    /// Runs in one call.
    pub runs: f64,
    /// Milliseconds in one call, devices added up.
    pub ms: f64,
    /// The share of the time of all steps.
    pub share: f64,
    /// Arithmetic operations in one call.
    pub flops: f64,
    /// Bytes read and written in one call.
    pub bytes: f64,
    /// The least time that the device's measured rates allow, divided by the time taken; above 1 where operands were in cache,
    /// which is faster than memory.
    pub roofline: f64,
}

/// The rows of a profile, those that take longest first.
pub fn rows(traces: &[Trace], device: &DeviceDescription) -> Vec<Row> {
    let calls = traces.len().max(1) as f64;
    let mut sums = BTreeMap::<(String, String), (f64, f64, f64, f64)>::new();
    // Steps within loops are part of the loop's time; only what is outermost is counted.
    for event in traces.iter().flat_map(|trace| &trace.events).filter(|event| event.depth == 0) {
        let sum = sums.entry((event.name.clone(), event.scope.clone())).or_default();
        sum.0 += event.runs as f64;
        sum.1 += event.duration_ns as f64 * 1e-6;
        sum.2 += event.flops;
        sum.3 += event.bytes;
    }
    let total: f64 = sums.values().map(|sum| sum.1).sum();
    let flops_per_s = device.flops_per_s.get(&DType::F32).copied().unwrap_or(f64::INFINITY);
    let mut rows: Vec<Row> = sums
        .into_iter()
        .map(|((label, scope), (runs, ms, flops, bytes))| {
            let least = (flops / flops_per_s).max(bytes / device.bandwidth_bytes_per_s) * 1e3;
            Row {
                label,
                scope,
                runs: runs / calls,
                ms: ms / calls,
                share: ms / total.max(f64::MIN_POSITIVE),
                flops: flops / calls,
                bytes: bytes / calls,
                roofline: least / ms.max(f64::MIN_POSITIVE),
            }
        })
        .collect();
    rows.sort_by(|a, b| b.ms.total_cmp(&a.ms).then_with(|| (&a.label, &a.scope).cmp(&(&b.label, &b.scope))));
    rows
}

/// The profile as a table, with what all steps take together and the rates that the roofline is drawn from.
pub fn table(rows: &[Row], device: &DeviceDescription) -> String {
    let mut text = format!(
        "{:>9} {:>6} {:>6} {:>10} {:>10} {:>9}  {:<32} {}",
        "ms", "share", "runs", "Gflop/s", "GB/s", "roofline", "step", "scope"
    );
    let mut line = |ms: f64, share: f64, runs: f64, amounts: [f64; 2], roofline: f64, names: [&str; 2]| {
        let [flops, bytes] = amounts.map(|amount| amount / ms.max(f64::MIN_POSITIVE) * 1e-6);
        let label: String = names[0].chars().take(32).collect();
        let (share, roofline) = (share * 100.0, roofline * 100.0);
        text.push_str(&format!(
            "\n{ms:>9.4} {share:>5.1}% {runs:>6} {flops:>10.1} {bytes:>10.1} {roofline:>8.0}%  {label:<32} {}",
            names[1]
        ));
    };
    for row in rows {
        let names = [row.label.as_str(), row.scope.as_str()];
        line(row.ms, row.share, row.runs, [row.flops, row.bytes], row.roofline, names);
    }
    let sum = |of: fn(&Row) -> f64| rows.iter().map(of).sum::<f64>();
    let (ms, least) = (sum(|row| row.ms), sum(|row| row.roofline * row.ms));
    let amounts = [sum(|row| row.flops), sum(|row| row.bytes)];
    let share = sum(|row| row.share);
    line(ms, share, sum(|row| row.runs), amounts, least / ms.max(f64::MIN_POSITIVE), ["all steps", ""]);
    text.push_str(&format!(
        "\nmeasured before: {}flop/s of f32 in a product, {}B/s in a copy",
        count(device.flops_per_s.get(&DType::F32).copied().unwrap_or(0.0)),
        count(device.bandwidth_bytes_per_s)
    ));
    text
}

/// The rates that a roofline is drawn from, for JSON.
pub fn rates(device: &DeviceDescription) -> serde_json::Value {
    serde_json::json!({
        "flops_per_s": device.flops_per_s.get(&DType::F32), "bytes_per_s": device.bandwidth_bytes_per_s,
    })
}

/// Traces of one call each as one trace, call after call.
fn joined(traces: &[Trace]) -> Trace {
    let mut all =
        Trace { plan: traces.first().map_or(String::new(), |trace| trace.plan.clone()), events: Vec::new() };
    let mut start_ns = 0;
    for (call, trace) in traces.iter().enumerate() {
        let end = trace.events.iter().map(|event| event.start_ns + event.duration_ns).max().unwrap_or(0);
        all.events.extend(trace.events.iter().cloned().map(|mut event| {
            event.start_ns += start_ns;
            event.call = call;
            event
        }));
        start_ns += end;
    }
    all
}

/// Writes traces of one call each as a file that `chrome://tracing` and ui.perfetto.dev open.
pub fn write(path: &Path, traces: &[Trace], output: &Output) -> Result<()> {
    thalweg::save_text(path, &joined(traces).to_chrome_json()).context("--trace")?;
    output.note(format!("trace of {} calls -> {}", traces.len(), path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, start_ns: u64, duration_ns: u64) -> thalweg::TraceEvent {
        thalweg::TraceEvent {
            name: name.into(),
            scope: "net".into(),
            device: 0,
            call: 0,
            depth: 0,
            start_ns,
            duration_ns,
            runs: 1,
            flops: 1e6,
            bytes: 0.0,
        }
    }

    #[test]
    fn calls_follow_each_other_and_shares_add_up() {
        let trace =
            |long| Trace { plan: "net".into(), events: vec![event("a", 5, 10), event("b", 15, long)] };
        let traces = [trace(30), trace(50)];
        let all = joined(&traces);
        let starts: Vec<(usize, u64)> = all.events.iter().map(|event| (event.call, event.start_ns)).collect();
        assert_eq!(starts, [(0, 5), (0, 15), (1, 50), (1, 60)]);
        let mut device = thalweg::Devices::default().describe();
        device.flops_per_s.insert(DType::F32, 1e12);
        let rows = rows(&traces, &device);
        assert_eq!(rows.iter().map(|row| row.label.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert!((rows[0].ms - 40e-6).abs() < 1e-12 && (rows[0].share - 0.8).abs() < 1e-12, "{rows:?}");
        // 1e6 operations at 1e12 in a second take 1 microsecond.
        assert!((rows[0].roofline - 1e3 / 40.0).abs() < 1e-9, "{rows:?}");
        let table = table(&rows, &device);
        assert!(table.contains("100.0%") && table.contains("all steps"), "{table}");
    }
}
