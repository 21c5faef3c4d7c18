//! One step as discrete events.

use crate::order::{Task, order};
use crate::uniform;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use thalweg_plan::parallel::{ParallelPlan, Prediction, StageWork};

/// How a step is run on paper.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    /// The share of the backward pass behind which the summing of gradients can hide.
    pub overlap: f64,
    /// How much longer computing takes while it hides communication, as a share of what is hidden.
    pub overlap_cost: f64,
    /// How much the times of workers differ, as a standard deviation relative to them; 0 makes all alike.
    pub jitter: f64,
    /// The seed of these differences.
    pub seed: u64,
}

/// One pass on one worker.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Event {
    /// The group of devices.
    pub group: usize,
    /// The replica.
    pub replica: usize,
    /// `forward`, `backward`, `synchronize` or `optimizer`.
    pub name: &'static str,
    /// The microbatch, of passes.
    pub microbatch: Option<usize>,
    /// The stage, of passes.
    pub stage: Option<usize>,
    /// When it begins, in seconds from the step's beginning.
    pub start_s: f64,
    /// How long it takes.
    pub seconds: f64,
}

/// How a group of devices spends a step, on average over its replicas.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct GroupUse {
    /// The share of the step in which it computes.
    pub computing: f64,
    /// The share in which it communicates and does nothing else.
    pub communicating: f64,
    /// The share in which it waits.
    pub waiting: f64,
    /// The most microbatches that it holds the activations of, in units of all its stages.
    pub microbatches_max: f64,
    /// The most bytes on one of its devices.
    pub memory_bytes_max: f64,
    /// The bytes on one device of the first replica over time: seconds and bytes wherever they change.
    pub memory: Vec<(f64, f64)>,
}

/// A step as it went.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Simulation {
    /// Seconds of the step.
    pub step_s: f64,
    /// The share of all devices' time in which they compute.
    pub utilization: f64,
    /// The share in which they wait for each other.
    pub bubble: f64,
    /// The share in which they communicate and do nothing else.
    pub exposed_communication: f64,
    /// Passes that were run, of all replicas.
    pub passes: usize,
    /// The groups, in the order of the pipeline.
    pub groups: Vec<GroupUse>,
    /// What the first replica's workers did, in the order of time.
    pub events: Vec<Event>,
}

/// When a worker finishes its task; ordered by time, then by worker.
#[derive(PartialEq)]
struct Finish {
    time: f64,
    worker: usize,
}

impl Eq for Finish {}

impl Ord for Finish {
    fn cmp(&self, other: &Finish) -> std::cmp::Ordering {
        self.time.total_cmp(&other.time).then(self.worker.cmp(&other.worker))
    }
}

impl PartialOrd for Finish {
    fn partial_cmp(&self, other: &Finish) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// One replica's part of a group.
struct Worker {
    group: usize,
    replica: usize,
    /// The number of its next task.
    next: usize,
    running: bool,
    /// How many times longer it takes than it should.
    slower: f64,
    computed_s: f64,
    communicated_s: f64,
    finished_s: f64,
    last_backward_s: f64,
    held: f64,
    held_max: f64,
    memory: Vec<(f64, f64)>,
}

struct Run<'a> {
    plan: &'a ParallelPlan,
    works: &'a [StageWork],
    orders: Vec<Vec<Task>>,
    workers: Vec<Worker>,
    /// For each replica, direction, stage and microbatch: when what it needs has arrived; infinite until it has.
    arrived: Vec<f64>,
    queue: BinaryHeap<Reverse<Finish>>,
    events: Vec<Event>,
}

impl Run<'_> {
    fn slot(&self, replica: usize, task: Task) -> usize {
        let (stages, rounds) = (self.plan.stages.len(), self.plan.microbatches);
        ((replica * 2 + usize::from(task.backward)) * stages + task.stage) * rounds + task.microbatch
    }

    /// Starts a worker's next task if it is free and what the task needs has arrived.
    fn try_start(&mut self, worker: usize, now: f64) {
        let own = &self.workers[worker];
        let Some(task) = self.orders[own.group].get(own.next).copied() else { return };
        let ready = self.arrived[self.slot(own.replica, task)];
        if own.running || ready.is_infinite() {
            return;
        }
        let work = &self.works[own.group];
        let chunks = self.plan.chunks() as f64;
        let (compute, communication) = match task.backward {
            false => (work.forward_s, work.forward_communication_s),
            true => (work.backward_s, work.backward_communication_s),
        };
        let start = now.max(ready);
        // A worker sends what it made before it goes on.
        let send = match (task.backward, task.stage) {
            (false, stage) if stage + 1 == self.plan.stages.len() => 0.0,
            (false, _) => work.send_s,
            (true, 0) => 0.0,
            (true, stage) => self.works[(stage - 1) % self.plan.pipeline()].send_s,
        };
        let (compute, communication) = (compute * own.slower / chunks, (communication + send) / chunks);
        let (group, replica) = (own.group, own.replica);
        if replica == 0 {
            self.events.push(Event {
                group,
                replica,
                name: if task.backward { "backward" } else { "forward" },
                microbatch: Some(task.microbatch),
                stage: Some(task.stage),
                start_s: start,
                seconds: compute + communication,
            });
        }
        let end = start + compute + communication;
        let own = &mut self.workers[worker];
        own.running = true;
        own.computed_s += compute;
        own.communicated_s += communication;
        if task.backward {
            own.last_backward_s = start;
        } else {
            own.held += 1.0 / chunks;
            own.held_max = own.held_max.max(own.held);
            own.note(work, start);
        }
        self.queue.push(Reverse(Finish { time: end, worker }));
    }

    /// Ends a worker's task: tells the stage after it, and goes on.
    fn finish(&mut self, worker: usize, now: f64) {
        let (group, replica) = (self.workers[worker].group, self.workers[worker].replica);
        let task = self.orders[group][self.workers[worker].next];
        let work = &self.works[group];
        let chunks = self.plan.chunks() as f64;
        let own = &mut self.workers[worker];
        own.running = false;
        own.next += 1;
        own.finished_s = now;
        if task.backward {
            own.held -= 1.0 / chunks;
            own.note(work, now);
        }
        let stages = self.plan.stages.len();
        let groups = self.plan.pipeline();
        // The last forward pass is followed by its own backward pass.
        let following = match (task.backward, task.stage) {
            (false, stage) if stage + 1 == stages => Some(Task { backward: true, ..task }),
            (false, stage) => Some(Task { stage: stage + 1, ..task }),
            (true, 0) => None,
            (true, stage) => Some(Task { stage: stage - 1, ..task }),
        };
        if let Some(next) = following {
            let slot = self.slot(replica, next);
            self.arrived[slot] = now;
            self.try_start(replica * groups + next.stage % groups, now);
        }
        self.try_start(worker, now);
    }
}

impl Worker {
    fn note(&mut self, work: &StageWork, now: f64) {
        if self.replica == 0 {
            let memory = &work.memory;
            let fixed = memory.total() - memory.activations_of_one * memory.microbatches;
            self.memory.push((now, fixed + memory.activations_of_one * self.held));
        }
    }
}

/// Runs one step of a plan with the times of its prediction.
pub fn simulate(plan: &ParallelPlan, prediction: &Prediction, settings: &Settings) -> Simulation {
    let groups = plan.pipeline();
    let worker = |at: usize| Worker {
        group: at % groups,
        replica: at / groups,
        next: 0,
        running: false,
        slower: 1.0 + settings.jitter * normal(settings.seed, at as u64).max(-3.0),
        computed_s: 0.0,
        communicated_s: 0.0,
        finished_s: 0.0,
        last_backward_s: 0.0,
        held: 0.0,
        held_max: 0.0,
        memory: Vec::new(),
    };
    let mut run = Run {
        plan,
        works: &prediction.stages,
        orders: (0..groups).map(|group| order(plan, group)).collect(),
        workers: (0..plan.data * groups).map(worker).collect(),
        arrived: vec![f64::INFINITY; plan.data * 2 * plan.stages.len() * plan.microbatches],
        queue: BinaryHeap::new(),
        events: Vec::new(),
    };
    for replica in 0..plan.data {
        for microbatch in 0..plan.microbatches {
            let slot = run.slot(replica, Task { backward: false, microbatch, stage: 0 });
            run.arrived[slot] = 0.0;
        }
    }
    (0..run.workers.len()).for_each(|worker| run.try_start(worker, 0.0));
    while let Some(Reverse(Finish { time, worker })) = run.queue.pop() {
        run.finish(worker, time);
    }
    finish_step(run, settings)
}

/// Sums gradients among replicas, lets the optimizer step, and counts what all did.
fn finish_step(mut run: Run, settings: &Settings) -> Simulation {
    let groups = run.plan.pipeline();
    let data = run.plan.data;
    let mut step_s: f64 = 0.0;
    let mut ends = Vec::new();
    for group in 0..groups {
        let work = &run.works[group];
        let members = || run.workers.iter().filter(|own| own.group == group);
        let computed = members().map(|own| own.finished_s).fold(0.0, f64::max);
        // Gradients of the last microbatch come one after the other; summing begins with the first that all replicas have.
        let chunks = run.plan.chunks() as f64;
        let hides = work.backward_s / chunks * settings.overlap;
        let begin = members().map(|own| own.finished_s - hides).fold(0.0, f64::max);
        let hidden = work.synchronize_s.min(hides);
        let summed = computed.max(begin + work.synchronize_s) + hidden * settings.overlap_cost;
        if work.synchronize_s > 0.0 {
            run.events.push(Event {
                group,
                replica: 0,
                name: "synchronize",
                microbatch: None,
                stage: None,
                start_s: begin,
                seconds: summed - begin,
            });
        }
        run.events.push(Event {
            group,
            replica: 0,
            name: "optimizer",
            microbatch: None,
            stage: None,
            start_s: summed,
            seconds: work.optimizer_s,
        });
        ends.push((computed, summed));
        step_s = step_s.max(summed + work.optimizer_s);
    }
    let uses: Vec<GroupUse> = (0..groups)
        .map(|group| {
            let work = &run.works[group];
            let members: Vec<&Worker> = run.workers.iter().filter(|own| own.group == group).collect();
            let mean =
                |of: &dyn Fn(&Worker) -> f64| members.iter().map(|own| of(own)).sum::<f64>() / data as f64;
            let computing = (mean(&|own| own.computed_s) + work.optimizer_s) / step_s;
            let exposed = ends[group].1 - ends[group].0;
            let communicating = (mean(&|own| own.communicated_s) + exposed) / step_s;
            let held = members.iter().map(|own| own.held_max).fold(0.0, f64::max);
            let memory = &work.memory;
            let fixed = memory.total() - memory.activations_of_one * memory.microbatches;
            GroupUse {
                computing,
                communicating,
                waiting: (1.0 - computing - communicating).max(0.0),
                microbatches_max: held,
                memory_bytes_max: fixed + memory.activations_of_one * held,
                memory: members[0].memory.clone(),
            }
        })
        .collect();
    let mean = |of: &dyn Fn(&GroupUse) -> f64| uses.iter().map(of).sum::<f64>() / groups as f64;
    run.events.sort_by(|a, b| a.start_s.total_cmp(&b.start_s).then(a.group.cmp(&b.group)));
    Simulation {
        step_s,
        utilization: mean(&|own| own.computing),
        bubble: mean(&|own| own.waiting),
        exposed_communication: mean(&|own| own.communicating),
        passes: run.orders.iter().map(Vec::len).sum::<usize>() * data,
        groups: uses,
        events: run.events,
    }
}

/// A standard normal number, by Box and Muller's transform.
fn normal(seed: u64, counter: u64) -> f64 {
    let (a, b) = (uniform(seed, 2 * counter), uniform(seed, 2 * counter + 1));
    (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::tests::plan;
    use thalweg_plan::parallel::{MemoryUse, Schedule};

    const QUIET: Settings = Settings { overlap: 0.8, overlap_cost: 0.0, jitter: 0.0, seed: 1 };

    fn prediction(groups: usize, forward_s: f64, send_s: f64) -> Prediction {
        let memory = MemoryUse {
            parameters: 10.0,
            activations_of_one: 2.0,
            microbatches: 1.0,
            ..MemoryUse::default()
        };
        let work = |group: usize| StageWork {
            forward_s,
            backward_s: 2.0 * forward_s,
            send_s: if group + 1 < groups { send_s } else { 0.0 },
            slower_by: 1.0,
            memory,
            ..StageWork::default()
        };
        Prediction { stages: (0..groups).map(work).collect(), ..Prediction::default() }
    }

    #[test]
    fn sends_are_waited_for() {
        let run = simulate(&plan(1, 2, 4, Schedule::OneForwardOneBackward), &prediction(2, 1.0, 0.5), &QUIET);
        // Each of two groups sends once for each microbatch: five slots of 3.5 s, as the planner has it.
        assert!((run.step_s - 17.5).abs() < 1e-9, "{}", run.step_s);
    }

    #[test]
    fn pipelines_take_what_the_formulas_say() {
        for (groups, rounds) in [(1, 4), (2, 2), (4, 8), (8, 32)] {
            let (p, m) = (groups as f64, rounds as f64);
            for schedule in [Schedule::GPipe, Schedule::OneForwardOneBackward] {
                let run = simulate(&plan(1, groups, rounds, schedule), &prediction(groups, 1.0, 0.0), &QUIET);
                let expected = (m + p - 1.0) * 3.0;
                assert!(
                    (run.step_s - expected).abs() < 1e-9,
                    "{schedule:?} {groups} {rounds}: {}",
                    run.step_s
                );
                assert!((run.bubble - (p - 1.0) / (m + p - 1.0)).abs() < 1e-9);
                let held = if schedule == Schedule::GPipe { m } else { m.min(p) };
                assert_eq!(run.groups[0].microbatches_max, held, "{schedule:?}");
                assert_eq!(run.groups[0].memory_bytes_max, 10.0 + 2.0 * held);
            }
        }
    }

    #[test]
    fn interleaving_shortens_the_bubble_by_the_number_of_chunks() {
        for chunks in [2, 4] {
            let schedule = Schedule::Interleaved { chunks };
            let run = simulate(&plan(1, 4, 16, schedule), &prediction(4, 1.0, 0.0), &QUIET);
            let expected = 16.0 * 3.0 + 3.0 * 3.0 / chunks as f64;
            assert!((run.step_s - expected).abs() < 1e-9, "{chunks}: {} {expected}", run.step_s);
        }
    }

    #[test]
    fn replicas_wait_for_the_slowest_and_gradients_hide_behind_the_backward_pass() {
        let mut prediction = prediction(1, 1.0, 0.0);
        prediction.stages[0].synchronize_s = 1.0;
        let plan = plan(64, 1, 2, Schedule::OneForwardOneBackward);
        let quiet = simulate(&plan, &prediction, &QUIET);
        assert!((quiet.step_s - 6.0).abs() < 1e-9, "{}", quiet.step_s);
        prediction.stages[0].synchronize_s = 3.0;
        // 1.6 s of the last backward pass can hide a part of it.
        assert!((simulate(&plan, &prediction, &QUIET).step_s - 7.4).abs() < 1e-9);
        let jitter = Settings { jitter: 0.05, ..QUIET };
        let uneven = simulate(&plan, &prediction, &jitter);
        assert!(uneven.step_s > 7.4 + 0.3 && uneven.bubble > quiet.bubble);
        assert_eq!(uneven, simulate(&plan, &prediction, &jitter));
    }

    #[test]
    fn a_hundred_thousand_devices_are_run() {
        let mut plan = plan(781, 16, 32, Schedule::OneForwardOneBackward);
        plan.tensor = 8;
        assert_eq!(plan.devices(), 99_968);
        let run = simulate(&plan, &prediction(16, 1.0, 0.01), &Settings { jitter: 0.02, ..QUIET });
        assert_eq!(run.passes, 781 * 16 * 64);
        assert!(run.step_s > 47.0 * 3.0 && run.utilization > 0.5);
    }
}
