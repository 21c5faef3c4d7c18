//! Where the time of a plan goes, step by step.

use serde::Serialize;
use std::collections::BTreeMap;
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
    /// The least time that the device's rates allow, divided by the time taken; above 1 where operands were in cache or the
    /// rates, which are estimates, are low.
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

/// The profile as a table.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:>9} {:>6} {:>6} {:>10} {:>10} {:>9}  {:<32} {}",
        "ms", "share", "runs", "Gflop/s", "GB/s", "roofline", "step", "scope"
    );
    for row in rows {
        let per_s = |amount: f64| amount / row.ms.max(f64::MIN_POSITIVE) * 1e-6;
        let label: String = row.label.chars().take(32).collect();
        text.push_str(&format!(
            "\n{:>9.4} {:>5.1}% {:>6} {:>10.1} {:>10.1} {:>8.0}%  {label:<32} {}",
            row.ms,
            row.share * 100.0,
            row.runs,
            per_s(row.flops),
            per_s(row.bytes),
            row.roofline * 100.0,
            row.scope
        ));
    }
    text
}
