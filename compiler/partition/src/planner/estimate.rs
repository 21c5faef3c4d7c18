//! What a plan takes: seconds of a step and bytes of each device.

use super::PlannerError;
use super::block::{self, BlockCost, Setting};
use super::summary::Summary;
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use thalweg_base::cluster::Run;
use thalweg_base::{Cluster, DType};
use thalweg_cost::{Pattern, Topology, send_seconds};
use thalweg_plan::parallel::{MemoryUse, ParallelPlan, Prediction, Recompute, Schedule, StageWork, Zero};

/// Constants of the model that hold for all machines.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Constants {
    /// The share of the backward pass that can hide the summing of gradients: they come one after the other, and the first of
    /// them late.
    pub overlap: f64,
    /// How much longer computing takes while it hides communication, as a share of what is hidden: both use the memory
    /// (published searches put it between 0.1 and 0.3).
    pub overlap_cost: f64,
    /// How much the times of hosts differ from step to step, as a share of them: replicas wait for the slowest.
    pub jitter: f64,
    /// The bytes of gradients that are summed at once (as PyTorch's distributed data parallel does).
    pub bucket_bytes: f64,
}

impl Default for Constants {
    fn default() -> Constants {
        Constants { overlap: 0.8, overlap_cost: 0.1, jitter: 0.025, bucket_bytes: 25e6 }
    }
}

/// What is planned for.
#[derive(Clone, Debug)]
pub struct PlannerOptions {
    /// Samples of one step.
    pub global_batch: usize,
    /// What values of `f32` are kept and multiplied as: `f32`, `f16` or `bf16`.
    pub working: DType,
    /// The model's constants.
    pub constants: Constants,
}

/// Costs of every kind of block, for one number of samples, one number of devices and one kind of device.
pub(crate) type KindCosts = Rc<Vec<BlockCost>>;

/// Samples, devices that share a block, and the run of devices.
type CostKey = (usize, usize, usize);

/// Costs plans of one model on one cluster.
pub struct Planner<'a> {
    pub(crate) summary: &'a Summary,
    pub(crate) cluster: &'a Cluster,
    pub(crate) options: PlannerOptions,
    pub(crate) runs: Vec<Run<'a>>,
    /// For each run, the first of equal ones.
    alike: Vec<usize>,
    costs: RefCell<BTreeMap<CostKey, Result<KindCosts, PlannerError>>>,
}

impl<'a> Planner<'a> {
    /// A planner for a model and a cluster.
    pub fn new(summary: &'a Summary, cluster: &'a Cluster, options: PlannerOptions) -> Planner<'a> {
        let runs = cluster.runs();
        let same = |a: &Run, b: &Run| a.device == b.device && a.per_host == b.per_host && a.link == b.link;
        let alike = runs
            .iter()
            .map(|run| runs.iter().position(|other| same(run, other)).expect("a run is like itself"))
            .collect();
        Planner { summary, cluster, options, runs, alike, costs: RefCell::default() }
    }

    /// What each kind of block takes for so many samples over so many devices of a run.
    pub(crate) fn kind_costs(
        &self,
        samples: usize,
        tensor: usize,
        run: usize,
    ) -> Result<KindCosts, PlannerError> {
        let key = (samples, tensor, self.alike[run]);
        if let Some(known) = self.costs.borrow().get(&key) {
            return known.clone();
        }
        let own = &self.runs[run];
        let topology = Topology::group(tensor, 1, own.per_host, own.link, &self.cluster.network);
        let setting = Setting { device: own.device, topology, working: self.options.working };
        // Kinds are costed side by side; results, and the first mistake, stand in the order of the kinds.
        let (kinds, batch) = (&self.summary.kinds, &self.summary.batch);
        let each: Vec<Result<BlockCost, PlannerError>> =
            kinds.par_iter().map(|kind| block::cost(kind, batch, samples, &setting)).collect();
        let costs: Result<Vec<BlockCost>, PlannerError> = each.into_iter().collect();
        let costs = costs.map(Rc::new);
        self.costs.borrow_mut().insert(key, costs.clone());
        costs
    }

    /// What a block takes on the devices of a plan's stage that has it; on the first of them where they are unlike.
    pub fn block_cost(&self, plan: &ParallelPlan, block: usize) -> Result<BlockCost, PlannerError> {
        let stage = plan
            .stages
            .iter()
            .find(|stage| (stage.first_block..stage.first_block + stage.blocks).contains(&block))
            .ok_or_else(|| PlannerError::Misfit(format!("no stage has block {block}")))?;
        let run = self.runs_of(stage.first_device, 1)[0];
        let costs = self.kind_costs(plan.microbatch(), plan.tensor, run)?;
        Ok(costs[self.summary.blocks[block].kind].clone())
    }

    /// The runs that devices belong to.
    pub(crate) fn runs_of(&self, first: usize, count: usize) -> Vec<usize> {
        let meets = |run: &Run| run.first < first + count && first < run.first + run.count;
        (0..self.runs.len()).filter(|at| meets(&self.runs[*at])).collect()
    }

    /// Operations of the products of one step, nothing computed again.
    pub fn model_flops(&self) -> Result<f64, PlannerError> {
        let costs = self.kind_costs(1, 1, 0)?;
        let of = |kind: usize| costs[kind].forward.flops + costs[kind].backward.flops;
        let sum: f64 = self.summary.blocks.iter().map(|block| of(block.kind)).sum();
        Ok(sum * self.options.global_batch as f64)
    }

    /// Whether a plan is one for this model and this cluster.
    pub fn check(&self, plan: &ParallelPlan) -> Result<(), PlannerError> {
        let misfit = |message: String| Err(PlannerError::Misfit(message));
        let hash = self.summary.hash();
        if plan.model_hash != hash {
            return Err(PlannerError::OtherModel { expected: hash, found: plan.model_hash.clone() });
        }
        let chunks = plan.chunks();
        if plan.data == 0 || plan.tensor == 0 || plan.microbatches == 0 || plan.stages.is_empty() {
            return misfit("every size is 1 at least".into());
        }
        if !plan.stages.len().is_multiple_of(chunks) {
            return misfit(format!("{} stages do not go around in {chunks} turns", plan.stages.len()));
        }
        if plan.devices() > self.cluster.devices() {
            let (needs, has) = (plan.devices(), self.cluster.devices());
            return misfit(format!("it needs {needs} devices and the cluster has {has}"));
        }
        if !plan.global_batch.is_multiple_of(plan.data * plan.microbatches) {
            return misfit(format!(
                "a batch of {} is not made of {} microbatches on each of {} replicas",
                plan.global_batch, plan.microbatches, plan.data
            ));
        }
        let pipeline = plan.pipeline();
        if chunks > 1 && (pipeline == 1 || !plan.microbatches.is_multiple_of(pipeline)) {
            return misfit(
                "interleaved stages need a pipeline, and microbatches in multiples of its length".into(),
            );
        }
        let mut next = 0;
        for (at, stage) in plan.stages.iter().enumerate() {
            let first_device = at % pipeline * plan.data * plan.tensor;
            if stage.first_block != next || stage.blocks == 0 || stage.first_device != first_device {
                return misfit(format!("stage {at} does not follow the one before"));
            }
            next += stage.blocks;
        }
        match next == self.summary.blocks.len() {
            true => Ok(()),
            false => {
                misfit(format!("its stages have {next} blocks and the model {}", self.summary.blocks.len()))
            }
        }
    }

    /// What a step of a plan takes. The plan must be one for this model and this cluster.
    pub fn predict(&self, plan: &ParallelPlan) -> Result<Prediction, PlannerError> {
        let mut groups = Vec::with_capacity(plan.pipeline());
        for group in 0..plan.pipeline() {
            groups.push(self.group_work(plan, group)?);
        }
        let mut prediction = schedule(plan, groups, &self.options.constants);
        prediction.model_flops = self.model_flops()?;
        Ok(prediction)
    }

    /// What a step asks of each device of a group; of the slowest where they are unlike.
    fn group_work(&self, plan: &ParallelPlan, group: usize) -> Result<StageWork, PlannerError> {
        let devices = plan.data * plan.tensor;
        let mut work: Option<StageWork> = None;
        for run in self.runs_of(group * devices, devices) {
            let own = self.work_on(plan, group, run)?;
            work = Some(match work {
                None => own,
                Some(other) => slower(other, own),
            });
        }
        work.ok_or_else(|| PlannerError::Misfit("it needs more devices than the cluster has".into()))
    }

    fn work_on(&self, plan: &ParallelPlan, group: usize, run: usize) -> Result<StageWork, PlannerError> {
        let own = &self.runs[run];
        let network = &self.cluster.network;
        let costs = self.kind_costs(plan.microbatch(), plan.tensor, run)?;
        let last_block = self.summary.blocks.len() - 1;
        let mut work =
            StageWork { memory_limit: own.device.memory_usable_bytes() as f64, ..StageWork::default() };
        let mut elements = 0.0;
        let mut largest_block: f64 = 0.0;
        let mut seen = BTreeSet::new();
        let mut sent_bytes = 0.0;
        let mut sends = 0;
        for (at, stage) in plan.stages.iter().enumerate() {
            if at % plan.pipeline() != group {
                continue;
            }
            let blocks = stage.first_block..stage.first_block + stage.blocks;
            for at in blocks.clone() {
                let block = &self.summary.blocks[at];
                let cost = &costs[block.kind];
                let again = plan.recompute == Recompute::Full && at != last_block;
                add_block(&mut work, cost, again);
                let mut of_block = 0.0;
                for (name, (count, _)) in block.parameters.iter().zip(&cost.parameters) {
                    if seen.insert(name) {
                        of_block += count;
                    }
                }
                elements += of_block;
                largest_block = largest_block.max(of_block);
            }
            if at + 1 < plan.stages.len() {
                sent_bytes = costs[self.summary.blocks[blocks.end - 1].kind].after_bytes;
                sends += 1;
            }
        }
        let stage_devices = plan.data * plan.tensor;
        let one =
            send_seconds(sent_bytes / plan.tensor as f64, own.per_host, stage_devices, own.link, network);
        work.send_s = f64::from(sends) * one;
        work.memory.microbatches = under_way(plan, group);
        let replicas = Topology::group(plan.data, plan.tensor, own.per_host, own.link, network);
        work.slower_by = 1.0 + self.options.constants.jitter * expected_largest(replicas.hosts());
        self.add_state(&mut work, plan, elements, largest_block, &replicas, own);
        Ok(work)
    }

    /// Adds what parameters, gradients and the optimizer take, and how replicas share them.
    fn add_state(
        &self,
        work: &mut StageWork,
        plan: &ParallelPlan,
        elements: f64,
        largest_block: f64,
        replicas: &Topology,
        run: &Run,
    ) {
        let constants = &self.options.constants;
        let width = plan.working.size_bytes() as f64;
        let copy = if plan.working == DType::F32 { 0.0 } else { 4.0 };
        let state = self.summary.state_bytes_per_element + copy;
        let share = |from: Zero| if plan.zero >= from { plan.data as f64 } else { 1.0 };
        let bytes = elements * width;
        work.memory.parameters = bytes / share(Zero::Parameters);
        work.memory.gradients = bytes / share(Zero::Gradients);
        work.memory.optimizer = elements * state / share(Zero::Optimizer);
        let updated = elements / share(Zero::Optimizer);
        // Gradients are read, parameters and states read and written.
        work.optimizer_s = updated * (3.0 * width + 2.0 * state) / run.device.traffic_rate();
        if plan.data == 1 {
            return;
        }
        let buckets = (bytes / constants.bucket_bytes).ceil().max(1.0);
        let of = |pattern: Pattern| buckets * replicas.seconds(pattern, bytes / buckets).0;
        work.memory.workspace += constants.bucket_bytes.min(bytes) * 2.0;
        let exposed = |seconds: f64, compute: f64| {
            let hidden = seconds.min(compute * constants.overlap);
            seconds - hidden + hidden * constants.overlap_cost
        };
        match plan.zero {
            Zero::Off => work.synchronize_s = of(Pattern::AllReduce),
            Zero::Optimizer => work.synchronize_s = of(Pattern::ReduceScatter) + of(Pattern::AllGather),
            Zero::Gradients => {
                work.backward_communication_s += exposed(of(Pattern::ReduceScatter), work.backward_s);
                work.synchronize_s = of(Pattern::AllGather);
            }
            Zero::Parameters => {
                let gather = of(Pattern::AllGather);
                work.forward_communication_s += exposed(gather, work.forward_s);
                work.backward_communication_s +=
                    exposed(gather + of(Pattern::ReduceScatter), work.backward_s);
                // The block at work and the next are whole.
                work.memory.workspace += 2.0 * largest_block * width * 2.0;
            }
        }
    }
}

fn add_block(work: &mut StageWork, cost: &BlockCost, again: bool) {
    work.forward_s += cost.forward.compute_s;
    work.forward_communication_s += cost.forward.communication_s();
    work.backward_s += cost.backward.compute_s;
    work.backward_communication_s += cost.backward.communication_s();
    let mut workspace = cost.workspace_bytes;
    let mut kept = cost.before_bytes;
    if again {
        work.backward_s += cost.forward.compute_s;
        work.backward_communication_s += cost.forward.communication_s();
        workspace += cost.saved_bytes;
    } else {
        kept += cost.saved_bytes;
    }
    work.memory.activations_of_one += kept;
    work.memory.workspace = work.memory.workspace.max(workspace);
}

/// How many standard deviations the largest of so many times lies above their mean, about: `sqrt(2 ln n)`.
fn expected_largest(count: usize) -> f64 {
    (2.0 * (count.max(1) as f64).ln()).sqrt()
}

/// Of two kinds of device that work together, the slower time and the scarcer memory.
fn slower(a: StageWork, b: StageWork) -> StageWork {
    let scarcer = |own: &StageWork| own.memory.total() - own.memory_limit;
    let (memory, memory_limit): (MemoryUse, f64) = match scarcer(&a) >= scarcer(&b) {
        true => (a.memory, a.memory_limit),
        false => (b.memory, b.memory_limit),
    };
    StageWork {
        forward_s: a.forward_s.max(b.forward_s),
        forward_communication_s: a.forward_communication_s.max(b.forward_communication_s),
        backward_s: a.backward_s.max(b.backward_s),
        backward_communication_s: a.backward_communication_s.max(b.backward_communication_s),
        send_s: a.send_s.max(b.send_s),
        synchronize_s: a.synchronize_s.max(b.synchronize_s),
        optimizer_s: a.optimizer_s.max(b.optimizer_s),
        slower_by: a.slower_by.max(b.slower_by),
        memory,
        memory_limit,
    }
}

/// Microbatches whose activations a group of devices holds at once, at most, in units of all its stages.
pub(crate) fn under_way(plan: &ParallelPlan, group: usize) -> f64 {
    let (p, m) = (plan.pipeline() as f64, plan.microbatches as f64);
    match plan.schedule {
        Schedule::GPipe => m,
        Schedule::OneForwardOneBackward => m.min(p - group as f64),
        // Narayanan et al. 2021, section 2.2: as much as without interleaving on the first device, and a part more.
        Schedule::Interleaved { chunks } => {
            m.min(p * (1.0 + (p - 1.0) / (p * chunks as f64)) - group as f64 / chunks as f64)
        }
    }
}

/// What a step takes from what its groups of devices do.
///
/// A pipeline of `p` groups needs the time of one microbatch through all of them, and then the slowest group's time for each
/// of the others; interleaved stages shorten the first part by their number (Narayanan et al. 2021, section 2.2). Sends are
/// waited for. The summing of gradients hides behind the last backward pass, and behind what later groups still do while
/// earlier ones have not finished.
pub fn schedule(plan: &ParallelPlan, groups: Vec<StageWork>, constants: &Constants) -> Prediction {
    // Each group sends forward to the next and backward to the one before.
    let sends = |at: usize| groups[at].send_s + if at > 0 { groups[at - 1].send_s } else { 0.0 };
    let slots: Vec<f64> = (0..groups.len()).map(|at| groups[at].microbatch_s() + sends(at)).collect();
    let all: f64 = slots.iter().sum();
    let at = (0..slots.len()).max_by(|a, b| slots[*a].total_cmp(&slots[*b])).expect("a plan has stages");
    let (slowest, slot) = (&groups[at], slots[at]);
    let chunks = plan.chunks() as f64;
    let rounds = plan.microbatches as f64;
    let pipeline_s = rounds * slot + (all - slot) / chunks;
    let mut exposed_sync: f64 = 0.0;
    let mut slack = 0.0;
    for work in &groups {
        let backward = work.backward_s + work.backward_communication_s;
        let hidden = work.synchronize_s.min(work.backward_s * constants.overlap);
        // Later groups finish earlier by the backward passes of those before them.
        let shown = work.synchronize_s - hidden + hidden * constants.overlap_cost - slack;
        exposed_sync = exposed_sync.max(shown);
        slack += (backward + work.send_s) / chunks;
    }
    let slower_by = groups.iter().map(|work| work.slower_by).fold(1.0, f64::max);
    let waiting_s = (slower_by - 1.0) * pipeline_s;
    let optimizer_s = groups.iter().map(|work| work.optimizer_s).fold(0.0, f64::max);
    let compute_s = rounds * (slowest.forward_s + slowest.backward_s);
    let communication = slowest.forward_communication_s + slowest.backward_communication_s + sends(at);
    Prediction {
        step_s: pipeline_s + waiting_s + exposed_sync + optimizer_s,
        compute_s,
        exposed_communication_s: rounds * communication + exposed_sync,
        bubble_s: pipeline_s - rounds * slot,
        waiting_s,
        optimizer_s,
        model_flops: 0.0,
        feasible: groups.iter().all(|work| work.memory.total() <= work.memory_limit),
        stages: groups,
    }
}
