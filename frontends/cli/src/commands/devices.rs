//! `devices`: what there is to run on.

use crate::Ended;
use crate::args::DevicesArgs;
use crate::output::{Output, bytes, count};
use anyhow::Result;
use serde_json::json;

pub fn run(args: &DevicesArgs, output: &Output) -> Result<Ended> {
    let description = if args.measure { args.devices.measure() } else { args.devices.describe() };
    let how = if args.measure { "measured" } else { "estimated; --measure measures" };
    output.line(format!("{}: {}", args.devices, description.name))?;
    output.line(format!(
        "  threads     {} for each of {} devices",
        description.threads,
        args.devices.count()
    ))?;
    output.line(format!("  features    {}", description.features.join(" ")))?;
    output.line(format!("  memory      {} for each", bytes(description.memory_bytes as usize)))?;
    for (dtype, rate) in &description.flops_per_s {
        output.line(format!("  {:<11} {}flop/s ({how})", dtype.to_string(), count(*rate)))?;
    }
    output.line(format!("  bandwidth   {}B/s ({how})", count(description.bandwidth_bytes_per_s)))?;
    output.object(&json!({
        "devices": args.devices.to_string(), "count": args.devices.count(), "measured": args.measure,
        "description": description,
    }))?;
    Ok(Ended::Done)
}
