//! The order in which a worker does its forward and backward passes.

use thalweg_plan::parallel::{ParallelPlan, Schedule};

/// One pass of one microbatch through one stage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Task {
    /// Whether it is the backward pass.
    pub backward: bool,
    /// The microbatch.
    pub microbatch: usize,
    /// The stage, in the order of the model.
    pub stage: usize,
}

/// The tasks of each worker of a group, in their order.
pub fn order(plan: &ParallelPlan, group: usize) -> Vec<Task> {
    let groups = plan.pipeline();
    let chunks = plan.chunks();
    let rounds = plan.microbatches;
    let total = rounds * chunks;
    // Microbatches pass a chunk in rounds of as many as there are groups (Narayanan et al. 2021, figure 4).
    let forward = |k: usize| -> Task {
        let (round, within) = (k / (groups * chunks), k % (groups * chunks));
        let (chunk, microbatch) = match chunks {
            1 => (0, k),
            _ => (within / groups, round * groups + within % groups),
        };
        Task { backward: false, microbatch, stage: chunk * groups + group }
    };
    let backward = |k: usize| -> Task {
        let task = forward(k);
        let chunk = chunks - 1 - task.stage / groups;
        Task { backward: true, microbatch: task.microbatch, stage: chunk * groups + group }
    };
    let ahead = match plan.schedule {
        Schedule::GPipe => total,
        Schedule::OneForwardOneBackward => groups - 1 - group,
        Schedule::Interleaved { .. } => 2 * (groups - 1 - group) + (chunks - 1) * groups,
    };
    let ahead = ahead.min(total);
    let mut tasks: Vec<Task> = (0..ahead).map(forward).collect();
    for k in ahead..total {
        tasks.push(forward(k));
        tasks.push(backward(k - ahead));
    }
    tasks.extend((total - ahead..total).map(backward));
    tasks
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use thalweg_base::DType;
    use thalweg_plan::parallel::{PARALLEL_VERSION, PlannedStage, Recompute, Zero};

    pub(crate) fn plan(
        data: usize,
        pipeline: usize,
        microbatches: usize,
        schedule: Schedule,
    ) -> ParallelPlan {
        let chunks = if let Schedule::Interleaved { chunks } = schedule { chunks } else { 1 };
        let stage =
            |at: usize| PlannedStage { first_block: at, blocks: 1, first_device: at % pipeline * data };
        ParallelPlan {
            version: PARALLEL_VERSION,
            model: "m".into(),
            model_hash: String::new(),
            cluster: "c".into(),
            global_batch: data * microbatches,
            working: DType::F32,
            data,
            tensor: 1,
            microbatches,
            schedule,
            zero: Zero::Off,
            recompute: Recompute::None,
            stages: (0..pipeline * chunks).map(stage).collect(),
        }
    }

    #[test]
    fn every_worker_does_every_pass_once_and_forward_before_backward() {
        for schedule in [
            Schedule::GPipe,
            Schedule::OneForwardOneBackward,
            Schedule::Interleaved { chunks: 2 },
            Schedule::Interleaved { chunks: 3 },
        ] {
            let plan = plan(1, 4, 8, schedule);
            for group in 0..4 {
                let tasks = order(&plan, group);
                assert_eq!(tasks.len(), 2 * 8 * plan.chunks());
                let mut done = BTreeSet::new();
                for task in tasks {
                    assert_eq!(task.stage % 4, group);
                    if task.backward {
                        assert!(done.contains(&Task { backward: false, ..task }), "{schedule:?}: {task:?}");
                    }
                    assert!(done.insert(task), "{schedule:?}: {task:?} twice");
                }
            }
        }
    }
}
