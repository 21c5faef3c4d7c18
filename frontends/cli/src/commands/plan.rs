//! `plan`: how a training is spread over a cluster.

use crate::Ended;
use crate::args::{PlanArgs, Subject};
use crate::output::Output;
use anyhow::{Context, Result};
use std::time::Instant;
use thalweg::Model;
use thalweg::planning::{self, Cluster, Limits, PlanOptions};

/// Reads what is planned, and for what.
pub fn read(args: &Subject) -> Result<(planning::Subject, Cluster)> {
    let cluster = planning::cluster_of(&args.cluster)?;
    let model = Model::from_file(&args.file)?;
    let options =
        PlanOptions { model: args.model.clone(), settings: args.set.settings(), working: args.keep };
    Ok((model.plan_subject(&options)?, cluster))
}

pub fn run(args: &PlanArgs, output: &Output) -> Result<Ended> {
    let start = Instant::now();
    let (subject, cluster) = read(&args.subject)?;
    let limits = args.manual.as_deref().map_or(Ok(Limits::default()), planning::manual)?;
    let planned = subject.search(&cluster, &limits)?;
    let planning_s = start.elapsed().as_secs_f64();
    if let Some(path) = &args.output {
        std::fs::write(path, planning::write_plan(&planned.plan))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    output.line(planning::plan_text(&subject, &cluster, &planned)?.trim_end())?;
    output.line(format!("\nplanned in {planning_s:.3} s"))?;
    if output.json() {
        let mut object = planning::plan_json(&subject, &cluster, &planned);
        object["planning_s"] = planning_s.into();
        output.object(&object)?;
    }
    Ok(Ended::Done)
}
