//! Planning of trainings for clusters, present or absent.
//!
//! ```
//! use thalweg::Model;
//! use thalweg::planning::{self, Limits, PlanOptions};
//! let text = "use nn
//! model Net(x: f32[batch, 256]) -> f32[batch, 16] { nn.linear(relu(nn.linear(x, 512) as up), 16) as down }
//! train Net {
//!     data = synthetic(rows: 4096, classes: 16)
//!     logits = Net(data.x)
//!     loss = nn.cross_entropy(logits, data.y)
//!     optimizer = optim.adam(lr: 1e-3)
//!     batch = 1024
//! }";
//! let model = Model::from_source("net.tw", text)?;
//! let cluster = planning::cluster("v100-16gb:8")?;
//! let subject = model.plan_subject(&PlanOptions::default())?;
//! let planned = subject.search(&cluster, &Limits::default())?;
//! assert!(planned.prediction.feasible && planned.plan.devices() <= 8);
//! # Ok::<(), thalweg::Error>(())
//! ```

mod manual;
mod report;
mod simulation;

pub use manual::parse as manual;
pub use report::{plan_json, plan_text};
pub use simulation::{
    Faults, Goodput, JITTER, Simulation, SweepRow, chrome_json, goodput, goodput_text, simulation_json,
    simulation_text, sweep_csv, sweep_sizes, sweep_svg, sweep_text,
};
pub use thalweg_base::{Accelerator, Cluster};
pub use thalweg_cost::library::device_names;
pub use thalweg_partition::planner::{Considered, Constants, Limits, PlannerError, Summary};
pub use thalweg_plan::parallel::{ParallelPlan, Prediction, Recompute, Schedule, StageWork, Zero};

use crate::error::{Error, Result};
use crate::model::Model;
use std::path::Path;
use thalweg_base::{Bindings, DType, Dim};
use thalweg_cost::library::{self, LibraryError};
use thalweg_lang::{Settings, StaticValue};
use thalweg_partition::planner::{BlockCost, Planner, PlannerOptions, Training};

/// What is planned.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Which `train` block of the file, by its model; may be absent when the file has just one.
    pub model: Option<String>,
    /// Values for constants, static parameters, sizes and the field `batch`, by name.
    pub settings: Settings,
    /// What values of `f32` are kept and multiplied as: `f32`, or `f16` or `bf16` with a copy of each parameter in `f32`.
    pub working: DType,
}

impl Default for PlanOptions {
    fn default() -> PlanOptions {
        PlanOptions { model: None, settings: Settings::new(), working: DType::F32 }
    }
}

/// A training as planners see it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The model's blocks.
    pub summary: Summary,
    /// Samples of one step.
    pub global_batch: usize,
    /// What values of `f32` are kept and multiplied as.
    pub working: DType,
    /// Constants of the cost model that hold for all machines.
    pub constants: Constants,
}

/// A plan, what it takes, and what else there was.
#[derive(Clone, PartialEq, Debug)]
pub struct Planned {
    /// The plan.
    pub plan: ParallelPlan,
    /// What it takes.
    pub prediction: Prediction,
    /// The best of each class of plans that was looked at, the plan itself among them.
    pub considered: Vec<Considered>,
    /// How many plans were costed.
    pub evaluated: usize,
}

impl Model {
    /// What a planner needs to know of a training. Fails for mistakes in the program, and for a model whose batch is fixed.
    pub fn plan_subject(&self, options: &PlanOptions) -> Result<Subject> {
        if !matches!(options.working, DType::F32 | DType::F16 | DType::BF16) {
            let message = format!("trainings are planned in f32, f16 or bf16, not {}", options.working);
            return Err(Error::Option(message));
        }
        let train = self.train_program(options.model.as_deref(), &options.settings)?;
        let columns = &train.data.columns;
        let batch = columns.iter().find_map(|column| column.ty.shape.first()?.as_symbol().cloned());
        let Some(batch) = batch else {
            let message = "the model fixes the size of its batch, which a planner divides; write `batch` as its first dim";
            return Err(Error::Option(message.into()));
        };
        let mut bindings = Bindings::new();
        // The window of a text is the length of its columns.
        if let Some(StaticValue::Int(window)) = train.data.options.get("window") {
            let open = columns.iter().filter_map(|column| column.ty.shape.get(1)?.as_symbol());
            bindings.extend(open.map(|symbol| (symbol.clone(), Dim::from(*window as usize))));
        }
        let training =
            Training { model: &train.model, step: &train.step, batch: &batch, bindings: &bindings };
        let summary = Summary::new(&training)?;
        let (global_batch, working) = (train.batch, options.working);
        Ok(Subject { summary, global_batch, working, constants: Constants::default() })
    }
}

impl Subject {
    fn planner<'a>(&'a self, cluster: &'a Cluster) -> Planner<'a> {
        let options = PlannerOptions {
            global_batch: self.global_batch,
            working: self.working,
            constants: self.constants,
        };
        Planner::new(&self.summary, cluster, options)
    }

    /// The best plan for a cluster within limits. Where nothing fits into its memory, the plan that lacks least, which says so.
    pub fn search(&self, cluster: &Cluster, limits: &Limits) -> Result<Planned> {
        let found = self.planner(cluster).search(limits)?;
        Ok(Planned {
            plan: found.plan,
            prediction: found.prediction,
            considered: found.considered,
            evaluated: found.evaluated,
        })
    }

    /// What a plan takes that was made before, for this model and cluster.
    pub fn predict(&self, cluster: &Cluster, plan: &ParallelPlan) -> Result<Planned> {
        let planner = self.planner(cluster);
        planner.check(plan)?;
        let prediction = planner.predict(plan)?;
        Ok(Planned { plan: plan.clone(), prediction, considered: Vec::new(), evaluated: 1 })
    }

    /// What each block of the model takes in a plan, on the devices that have it.
    pub fn block_costs(&self, cluster: &Cluster, plan: &ParallelPlan) -> Result<Vec<BlockCost>> {
        let planner = self.planner(cluster);
        let costs = (0..self.summary.blocks.len()).map(|block| planner.block_cost(plan, block));
        Ok(costs.collect::<std::result::Result<_, _>>()?)
    }
}

/// A cluster by its short form, such as `a100-80gb:4x8`; see [`thalweg_cost::library::short`].
pub fn cluster(text: &str) -> Result<Cluster> {
    library::short(text).map_err(|error| Error::Cluster { place: None, source: error })
}

/// A cluster from a file, or by its short form where there is no file of that name.
pub fn cluster_of(name: &str) -> Result<Cluster> {
    let path = Path::new(name);
    if !path.exists() && path.extension().is_none_or(|ending| ending != "ron") {
        return cluster(name);
    }
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    library::parse(&text)
        .map_err(|source: LibraryError| Error::Cluster { place: Some(path.to_path_buf()), source })
}

/// The text of a plan file.
pub fn write_plan(plan: &ParallelPlan) -> String {
    let pretty = ron::ser::PrettyConfig::default();
    ron::ser::to_string_pretty(plan, pretty).expect("a plan is plain data") + "\n"
}

/// Reads a plan file.
pub fn read_plan(path: &Path) -> Result<ParallelPlan> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let plan: ParallelPlan = ron::from_str(&text).map_err(|error| {
        Error::line(path, error.span.start.line, format!("this is no plan of a training: {}", error.code))
    })?;
    match plan.version == thalweg_plan::parallel::PARALLEL_VERSION {
        true => Ok(plan),
        false => {
            let message = format!(
                "the plan has version {}, and this program reads {}; plan again",
                plan.version,
                thalweg_plan::parallel::PARALLEL_VERSION
            );
            Err(Error::file(path, message))
        }
    }
}
