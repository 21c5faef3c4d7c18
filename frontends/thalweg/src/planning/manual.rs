//! Plans given by hand, as text.

use crate::error::{Error, Result};
use thalweg_partition::planner::Limits;
use thalweg_plan::parallel::{Recompute, Schedule, Zero};

/// The limits that leave one plan: `dp=8,tp=4,pp=2,microbatches=16,zero=1,recompute=full,schedule=interleaved:2`. What is not
/// named is 1, or off; the schedule is `1f1b`. Which blocks make each stage is still chosen, as evenly as they allow.
///
/// ```
/// let limits = thalweg::planning::manual("dp=8,tp=4,zero=1").unwrap();
/// assert_eq!((limits.data, limits.tensor, limits.pipeline), (Some(8), Some(4), Some(1)));
/// assert!(thalweg::planning::manual("dp=8,qp=2").is_err());
/// ```
pub fn parse(text: &str) -> Result<Limits> {
    let wrong = |message: String| Error::Option(format!("`{text}` is no plan: {message}"));
    let mut limits = Limits {
        data: Some(1),
        tensor: Some(1),
        pipeline: Some(1),
        microbatches: Some(1),
        schedule: Some(Schedule::OneForwardOneBackward),
        zero: Some(Zero::Off),
        recompute: Some(Recompute::None),
    };
    let mut seen = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) =
            part.split_once('=').ok_or_else(|| wrong(format!("`{part}` is not of the form NAME=VALUE")))?;
        if seen.contains(&name) {
            return Err(wrong(format!("`{name}` is given twice")));
        }
        seen.push(name);
        let number = || {
            let number = value.parse::<usize>().ok().filter(|number| *number > 0);
            number.ok_or_else(|| wrong(format!("`{name}` is a number from 1 up, not `{value}`")))
        };
        match name {
            "dp" => limits.data = Some(number()?),
            "tp" => limits.tensor = Some(number()?),
            "pp" => limits.pipeline = Some(number()?),
            "microbatches" => limits.microbatches = Some(number()?),
            "zero" => {
                let stage = value.parse::<usize>().ok().and_then(|stage| Zero::ALL.get(stage));
                limits.zero =
                    Some(*stage.ok_or_else(|| wrong(format!("`zero` is 0, 1, 2 or 3, not `{value}`")))?);
            }
            "recompute" => {
                limits.recompute = Some(match value {
                    "none" => Recompute::None,
                    "full" => Recompute::Full,
                    _ => return Err(wrong(format!("`recompute` is none or full, not `{value}`"))),
                });
            }
            "schedule" => {
                let chunks = value.strip_prefix("interleaved:").and_then(|chunks| chunks.parse().ok());
                limits.schedule = Some(match (value, chunks) {
                    ("1f1b", _) => Schedule::OneForwardOneBackward,
                    ("gpipe", _) => Schedule::GPipe,
                    (_, Some(chunks)) if chunks > 1 => Schedule::Interleaved { chunks },
                    (_, _) => {
                        let message =
                            format!("`schedule` is 1f1b, gpipe or interleaved:2 (and more), not `{value}`");
                        return Err(wrong(message));
                    }
                });
            }
            _ => {
                let known = "dp, tp, pp, microbatches, zero, recompute and schedule";
                return Err(wrong(format!("there is no `{name}`; plans have {known}")));
            }
        }
    }
    Ok(limits)
}
