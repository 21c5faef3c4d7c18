//! The search for the plan that takes least time within the memory there is.
//!
//! Every way to arrange the devices as data, tensor and pipeline parallel is looked at, with every size of microbatch,
//! schedule, kind of recomputation and sharing of state. Within a block, cuts are chosen by the labelling of `partition`, once
//! for each kind of block and number of devices; stages are cut exactly (`stages`). One device alone and pure data
//! parallelism are among what is looked at, so the answer is never slower than either where these fit. Nothing depends on clocks or
//! on the order of hashes.

use super::PlannerError;
use super::estimate::{KindCosts, Planner, under_way};
use super::stages;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use thalweg_base::DType;
use thalweg_plan::parallel::{
    PARALLEL_VERSION, ParallelPlan, PlannedStage, Prediction, Recompute, Schedule, Zero,
};

/// The most samples of one microbatch that are looked at; more make products no faster.
const SAMPLES_MAX: usize = 1024;

/// What a plan must be like; all that is none is free.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Replicas.
    pub data: Option<usize>,
    /// Devices that share a block.
    pub tensor: Option<usize>,
    /// Groups of devices that take turns.
    pub pipeline: Option<usize>,
    /// Microbatches of one replica.
    pub microbatches: Option<usize>,
    /// Their order.
    pub schedule: Option<Schedule>,
    /// What replicas share.
    pub zero: Option<Zero>,
    /// What is computed again.
    pub recompute: Option<Recompute>,
}

/// The best plan of a class.
#[derive(Clone, PartialEq, Debug)]
pub struct Considered {
    /// The class, such as `data and pipeline`.
    pub class: String,
    /// The best of it: the fastest that fits, or else the one that lacks the least memory.
    pub plan: ParallelPlan,
    /// What it takes.
    pub prediction: Prediction,
}

/// What a search found.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    /// The plan that takes least, or lacks the least memory where none fits.
    pub plan: ParallelPlan,
    /// What it takes.
    pub prediction: Prediction,
    /// The best of each class that was looked at, the fastest first, those that do not fit last.
    pub considered: Vec<Considered>,
    /// How many plans were costed.
    pub evaluated: usize,
}

/// Sizes of a plan before its stages are cut.
#[derive(Clone, Copy)]
struct Shape {
    data: usize,
    tensor: usize,
    pipeline: usize,
    samples: usize,
    microbatches: usize,
}

/// Sums over the blocks before each, on one run of devices.
struct Sums {
    seconds: Vec<f64>,
    kept: Vec<f64>,
    elements: Vec<f64>,
    /// At level `l` and block `b`: the largest workspace among the `2^l` blocks from `b` on.
    workspaces: Vec<Vec<f64>>,
    memory_limit: f64,
}

impl Sums {
    fn over(of: &[f64], range: &Range<usize>) -> f64 {
        of[range.end] - of[range.start]
    }

    /// The largest workspace of a range that is not empty: two overlapping powers of two cover it.
    fn workspace(&self, range: &Range<usize>) -> f64 {
        let level = range.len().ilog2() as usize;
        let largest = &self.workspaces[level];
        largest[range.start].max(largest[range.end - (1 << level)])
    }
}

/// The largest of every power of two of neighbours.
fn largest_of_neighbours(values: Vec<f64>) -> Vec<Vec<f64>> {
    let mut levels = vec![values];
    loop {
        let below = &levels[levels.len() - 1];
        let reach = 1 << (levels.len() - 1);
        if below.len() <= reach {
            return levels;
        }
        let level = (0..below.len() - reach).map(|at| below[at].max(below[at + reach])).collect();
        levels.push(level);
    }
}

impl Planner<'_> {
    /// The best plan within limits. Fails when no arrangement of devices meets them, or the model cannot be planned.
    pub fn search(&self, limits: &Limits) -> Result<Found, PlannerError> {
        let mut search =
            Search { planner: self, hash: self.summary.hash(), classes: BTreeMap::new(), evaluated: 0 };
        for devices in self.device_counts(limits) {
            for tensor in self.tensor_sizes(devices, limits) {
                search.with_tensor(devices, tensor, limits)?;
            }
        }
        let mut considered: Vec<Considered> = search.classes.into_values().collect();
        considered.sort_by(|a, b| {
            rank(&a.prediction).partial_cmp(&rank(&b.prediction)).expect("times are numbers")
        });
        let best = considered.first().ok_or_else(|| {
            PlannerError::Misfit(format!(
                "no arrangement of {} devices for a batch of {} meets what was asked for",
                self.cluster.devices(),
                self.options.global_batch
            ))
        })?;
        Ok(Found {
            plan: best.plan.clone(),
            prediction: best.prediction.clone(),
            evaluated: search.evaluated,
            considered,
        })
    }

    /// All devices, those of the first kinds only, and one alone; or just as many as limits give.
    fn device_counts(&self, limits: &Limits) -> Vec<usize> {
        if let (Some(data), Some(tensor), Some(pipeline)) = (limits.data, limits.tensor, limits.pipeline) {
            let devices = data.saturating_mul(tensor).saturating_mul(pipeline);
            return if devices <= self.cluster.devices() { vec![devices] } else { vec![] };
        }
        let mut counts: BTreeSet<usize> = self.runs.iter().map(|run| run.first + run.count).collect();
        counts.insert(1);
        counts.into_iter().collect()
    }

    /// Numbers of devices that may share a block: those that fit into a host, or into two.
    fn tensor_sizes(&self, devices: usize, limits: &Limits) -> Vec<usize> {
        if let Some(tensor) = limits.tensor {
            return if tensor > 0 && devices.is_multiple_of(tensor) { vec![tensor] } else { vec![] };
        }
        let per_host = self.runs.iter().map(|run| run.per_host).max().unwrap_or(1);
        let fits = |size: &usize| {
            devices.is_multiple_of(*size) && (per_host.is_multiple_of(*size) || *size == 2 * per_host)
        };
        (1..=2 * per_host).filter(fits).collect()
    }
}

/// Plans that fit come first, by their time; then the others, by the memory that they lack.
fn rank(prediction: &Prediction) -> (bool, f64) {
    let lacks = |stage: &thalweg_plan::parallel::StageWork| stage.memory.total() - stage.memory_limit;
    match prediction.feasible {
        true => (false, prediction.step_s),
        false => (true, prediction.stages.iter().map(lacks).fold(f64::NEG_INFINITY, f64::max)),
    }
}

struct Search<'p, 'a> {
    planner: &'p Planner<'a>,
    hash: String,
    classes: BTreeMap<String, Considered>,
    evaluated: usize,
}

impl Search<'_, '_> {
    fn with_tensor(&mut self, devices: usize, tensor: usize, limits: &Limits) -> Result<(), PlannerError> {
        let planner = self.planner;
        let batch = planner.options.global_batch;
        let groups = devices / tensor;
        let blocks = planner.summary.blocks.len();
        for pipeline in (1..=groups.min(blocks)).filter(|size| groups.is_multiple_of(*size)) {
            let data = groups / pipeline;
            let wanted = |limit: Option<usize>, own: usize| limit.is_none_or(|limit| limit == own);
            if !wanted(limits.pipeline, pipeline) || !wanted(limits.data, data) || !batch.is_multiple_of(data)
            {
                continue;
            }
            let local = batch / data;
            for samples in samples(local, limits.microbatches) {
                let shape = Shape { data, tensor, pipeline, samples, microbatches: local / samples };
                // More samples need more memory, whatever else is chosen.
                if !self.with_shape(&shape, limits)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Looks at all plans of a shape; says whether any fitted.
    fn with_shape(&mut self, shape: &Shape, limits: &Limits) -> Result<bool, PlannerError> {
        let planner = self.planner;
        let devices = shape.data * shape.tensor;
        let mut costs: BTreeMap<usize, KindCosts> = BTreeMap::new();
        for run in planner.runs_of(0, devices * shape.pipeline) {
            costs.insert(run, planner.kind_costs(shape.samples, shape.tensor, run)?);
        }
        let mut fitted = false;
        let recomputes = limits.recompute.map_or(vec![Recompute::None, Recompute::Full], |own| vec![own]);
        for recompute in recomputes {
            let sums: BTreeMap<usize, Sums> =
                costs.iter().map(|(run, costs)| (*run, self.sums(costs, recompute, *run))).collect();
            for zero in zeros(shape.data, limits.zero) {
                for schedule in schedules(shape, planner.summary.blocks.len(), limits.schedule) {
                    let Some(ranges) = self.cut(shape, schedule, recompute, zero, &sums) else { continue };
                    let plan = self.plan(shape, schedule, recompute, zero, &ranges);
                    let prediction = planner.predict(&plan)?;
                    self.evaluated += 1;
                    fitted |= prediction.feasible;
                    self.consider(plan, prediction);
                }
            }
        }
        Ok(fitted)
    }

    fn consider(&mut self, plan: ParallelPlan, prediction: Prediction) {
        let class = class(&plan);
        let better = match self.classes.get(&class) {
            Some(known) => rank(&prediction) < rank(&known.prediction),
            None => true,
        };
        if better {
            self.classes.insert(class.clone(), Considered { class, plan, prediction });
        }
    }

    fn sums(&self, costs: &KindCosts, recompute: Recompute, run: usize) -> Sums {
        let planner = self.planner;
        let blocks = &planner.summary.blocks;
        let mut sums = Sums {
            seconds: vec![0.0],
            kept: vec![0.0],
            elements: vec![0.0],
            workspaces: Vec::new(),
            memory_limit: planner.runs[run].device.memory_usable_bytes() as f64,
        };
        let mut workspaces = Vec::with_capacity(blocks.len());
        for (at, block) in blocks.iter().enumerate() {
            let cost = &costs[block.kind];
            let again = recompute == Recompute::Full && at + 1 != blocks.len();
            let both = cost.forward.compute_s + cost.forward.communication_s();
            let mut seconds = both + cost.backward.compute_s + cost.backward.communication_s();
            seconds += if again { both } else { 0.0 };
            let saved = if again { 0.0 } else { cost.saved_bytes };
            let elements: f64 = cost.parameters.iter().map(|(count, _)| count).sum();
            sums.seconds.push(sums.seconds[at] + seconds);
            sums.kept.push(sums.kept[at] + cost.before_bytes + saved);
            sums.elements.push(sums.elements[at] + elements);
            let workspace = cost.workspace_bytes + if again { cost.saved_bytes } else { 0.0 };
            workspaces.push(workspace);
        }
        sums.workspaces = largest_of_neighbours(workspaces);
        sums
    }

    /// The blocks of each stage; where nothing fits, as if there were memory enough.
    fn cut(
        &self,
        shape: &Shape,
        schedule: Schedule,
        recompute: Recompute,
        zero: Zero,
        sums: &BTreeMap<usize, Sums>,
    ) -> Option<Vec<Range<usize>>> {
        let planner = self.planner;
        let blocks = planner.summary.blocks.len();
        let devices = shape.data * shape.tensor;
        // Which group a stage is of matters for its memory and devices alone, so a plan with any stages will do.
        let sketch =
            self.plan(shape, schedule, recompute, zero, &vec![0..1; shape.pipeline * chunks(schedule)]);
        let group_of = |stage: usize| stage % shape.pipeline;
        let runs: Vec<Vec<usize>> =
            (0..shape.pipeline).map(|group| planner.runs_of(group * devices, devices)).collect();
        let under_way: Vec<f64> = (0..shape.pipeline).map(|group| under_way(&sketch, group)).collect();
        let seconds = |stage: usize, range: Range<usize>| {
            let of = |run: &usize| Sums::over(&sums[run].seconds, &range);
            runs[group_of(stage)].iter().map(of).fold(0.0, f64::max)
        };
        let width = planner.options.working.size_bytes() as f64;
        let copy = if planner.options.working == DType::F32 { 0.0 } else { 4.0 };
        let share = |from: Zero| if zero >= from { shape.data as f64 } else { 1.0 };
        let per_element = width / share(Zero::Parameters)
            + width / share(Zero::Gradients)
            + (planner.summary.state_bytes_per_element + copy) / share(Zero::Optimizer);
        let turns = chunks(schedule) as f64;
        let fits = |stage: usize, range: Range<usize>| {
            runs[group_of(stage)].iter().all(|run| {
                let sums = &sums[run];
                let state = Sums::over(&sums.elements, &range) * per_element;
                let kept = Sums::over(&sums.kept, &range) * under_way[group_of(stage)];
                // A group of several stages is filled by equal ones.
                turns * (state + kept) + sums.workspace(&range) <= sums.memory_limit
            })
        };
        let stages = shape.pipeline * chunks(schedule);
        stages::cut(blocks, stages, seconds, fits)
            .or_else(|| stages::cut(blocks, stages, seconds, |_, _| true))
    }

    fn plan(
        &self,
        shape: &Shape,
        schedule: Schedule,
        recompute: Recompute,
        zero: Zero,
        ranges: &[Range<usize>],
    ) -> ParallelPlan {
        let planner = self.planner;
        let devices = shape.data * shape.tensor;
        let stage = |(at, range): (usize, &Range<usize>)| PlannedStage {
            first_block: range.start,
            blocks: range.len(),
            first_device: at % shape.pipeline * devices,
        };
        ParallelPlan {
            version: PARALLEL_VERSION,
            model: planner.summary.model.clone(),
            model_hash: self.hash.clone(),
            cluster: planner.cluster.name.clone(),
            global_batch: planner.options.global_batch,
            working: planner.options.working,
            data: shape.data,
            tensor: shape.tensor,
            microbatches: shape.microbatches,
            schedule,
            zero,
            recompute,
            stages: ranges.iter().enumerate().map(stage).collect(),
        }
    }
}

fn chunks(schedule: Schedule) -> usize {
    match schedule {
        Schedule::GPipe | Schedule::OneForwardOneBackward => 1,
        Schedule::Interleaved { chunks } => chunks,
    }
}

/// Samples of a microbatch: powers of two that divide those of a replica, and all of them at once; or as limits say.
fn samples(local: usize, microbatches: Option<usize>) -> Vec<usize> {
    if let Some(count) = microbatches {
        return if count > 0 && local.is_multiple_of(count) { vec![local / count] } else { vec![] };
    }
    let mut sizes: Vec<usize> = std::iter::successors(Some(1), |size| Some(size * 2))
        .take_while(|size| *size <= local.min(SAMPLES_MAX))
        .filter(|size| local.is_multiple_of(*size))
        .collect();
    if local <= SAMPLES_MAX && !sizes.contains(&local) {
        sizes.push(local);
    }
    sizes
}

fn zeros(data: usize, limit: Option<Zero>) -> Vec<Zero> {
    match limit {
        Some(zero) => vec![zero],
        None if data == 1 => vec![Zero::Off],
        None => Zero::ALL.to_vec(),
    }
}

fn schedules(shape: &Shape, blocks: usize, limit: Option<Schedule>) -> Vec<Schedule> {
    let possible = |schedule: &Schedule| {
        let chunks = chunks(*schedule);
        let rounds = shape.microbatches.is_multiple_of(shape.pipeline) && shape.pipeline > 1;
        chunks == 1 || (rounds && chunks * shape.pipeline <= blocks)
    };
    let all = match limit {
        Some(schedule) => vec![schedule],
        None if shape.pipeline == 1 => vec![Schedule::OneForwardOneBackward],
        None => vec![
            Schedule::OneForwardOneBackward,
            Schedule::Interleaved { chunks: 2 },
            Schedule::Interleaved { chunks: 4 },
            Schedule::GPipe,
        ],
    };
    all.into_iter().filter(possible).collect()
}

/// The class of a plan: along which ways it is parallel.
fn class(plan: &ParallelPlan) -> String {
    let sharing = if plan.data == 1 { Zero::Off } else { plan.zero };
    let data = match sharing {
        Zero::Off => "data",
        Zero::Optimizer => "data with shared optimizer state",
        Zero::Gradients => "data with shared gradients",
        Zero::Parameters => "data with shared parameters",
    };
    let ways = [(plan.data, data), (plan.tensor, "tensor"), (plan.pipeline(), "pipeline")];
    let names: Vec<&str> = ways.iter().filter(|(size, _)| *size > 1).map(|(_, name)| *name).collect();
    if names.is_empty() { "one device".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_any_range_is_found() {
        let values = vec![3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0];
        let workspaces = largest_of_neighbours(values.clone());
        let sums = Sums { seconds: vec![], kept: vec![], elements: vec![], workspaces, memory_limit: 0.0 };
        for start in 0..values.len() {
            for end in start + 1..=values.len() {
                let largest = values[start..end].iter().copied().fold(0.0, f64::max);
                assert_eq!(sums.workspace(&(start..end)), largest, "{start}..{end}");
            }
        }
    }
}
