//! Parallel plans: how the training of a model is spread over the devices of a cluster, and what each part of it takes.
//!
//! A parallel plan says which blocks of a model run on which devices, how each block is cut there, and in which order
//! microbatches pass. It is made by the planner or by hand, read by people, and run on paper by the simulator, for clusters
//! that need not be there. The plan of a run (`Plan`) is another thing: buffers and kernels of devices that are there.

use serde::{Deserialize, Serialize};
use thalweg_base::DType;

/// The version of parallel plan files; another one is refused.
pub const PARALLEL_VERSION: u32 = 1;

/// The order in which a pipeline's stages work on microbatches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// All forward, then all backward (Huang et al. 2019).
    GPipe,
    /// One forward, one backward, as soon as the pipeline is full (Narayanan et al. 2019).
    OneForwardOneBackward,
    /// The same with several smaller stages on each device (Narayanan et al. 2021).
    Interleaved {
        /// Stages of each device.
        chunks: usize,
    },
}

/// What is computed again in the backward pass instead of being kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing: all that the backward pass reads is kept.
    None,
    /// Every block but the model's last: of each only the input is kept.
    Full,
}

/// What of the state of a training the replicas share instead of each having all (Rajbhandari et al. 2020).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Zero {
    /// Nothing.
    Off,
    /// The optimizer's state.
    Optimizer,
    /// And the gradients.
    Gradients,
    /// And the parameters.
    Parameters,
}

impl Zero {
    /// All, in the order of their stages 0 to 3.
    pub const ALL: [Zero; 4] = [Zero::Off, Zero::Optimizer, Zero::Gradients, Zero::Parameters];

    /// The number of the stage, 0 to 3.
    pub fn stage(self) -> usize {
        Zero::ALL.iter().position(|own| *own == self).expect("all are listed")
    }
}

/// The blocks of a pipeline's stage and the devices that have them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedStage {
    /// The first of its blocks.
    pub first_block: usize,
    /// How many blocks.
    pub blocks: usize,
    /// The rank of the first of its devices, of which there are `data * tensor`.
    pub first_device: usize,
}

/// How the training of a model is spread over a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ParallelPlan {
    /// The version of the format.
    pub version: u32,
    /// The model.
    pub model: String,
    /// A hash of what was planned: the model's blocks with all sizes.
    pub model_hash: String,
    /// The cluster's name.
    pub cluster: String,
    /// Samples of one step, of all replicas.
    pub global_batch: usize,
    /// What values of `f32` are kept and multiplied as, with a copy of each parameter in `f32` where it is another dtype.
    pub working: DType,
    /// Replicas of each stage, which take different samples.
    pub data: usize,
    /// Devices that share each block of a replica.
    pub tensor: usize,
    /// Microbatches of one replica in a step.
    pub microbatches: usize,
    /// Their order.
    pub schedule: Schedule,
    /// What replicas share.
    pub zero: Zero,
    /// What is computed again.
    pub recompute: Recompute,
    /// The stages in the order of the model. Interleaved ones go around the groups of devices.
    pub stages: Vec<PlannedStage>,
}

impl ParallelPlan {
    /// Samples of one microbatch on one replica.
    pub fn microbatch(&self) -> usize {
        self.global_batch / (self.data * self.microbatches)
    }

    /// The groups of devices that take turns, each with one stage, or several where stages are interleaved.
    pub fn pipeline(&self) -> usize {
        self.stages.len() / self.chunks()
    }

    /// Stages of each group of devices.
    pub fn chunks(&self) -> usize {
        match self.schedule {
            Schedule::GPipe | Schedule::OneForwardOneBackward => 1,
            Schedule::Interleaved { chunks } => chunks.max(1),
        }
    }

    /// The devices that the plan uses.
    pub fn devices(&self) -> usize {
        self.data * self.tensor * self.pipeline()
    }

    /// The mesh in short, such as `data 8 x tensor 4 x pipeline 2`; what is 1 is left out.
    pub fn mesh(&self) -> String {
        let axes = [("data", self.data), ("tensor", self.tensor), ("pipeline", self.pipeline())];
        let parts: Vec<String> =
            axes.iter().filter(|(_, size)| *size > 1).map(|(name, size)| format!("{name} {size}")).collect();
        if parts.is_empty() { "one device".into() } else { parts.join(" x ") }
    }
}

/// Bytes of one device, by what they are for.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Parameters as they are multiplied.
    pub parameters: f64,
    /// Their gradients.
    pub gradients: f64,
    /// The optimizer's state, and the parameters in `f32` where they are multiplied in another dtype.
    pub optimizer: f64,
    /// What the backward pass reads, for one microbatch.
    pub activations_of_one: f64,
    /// Microbatches under way at once, at most.
    pub microbatches: f64,
    /// What is needed for a while only: the block at work, and buffers of communication.
    pub workspace: f64,
}

impl MemoryUse {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.parameters
            + self.gradients
            + self.optimizer
            + self.activations_of_one * self.microbatches
            + self.workspace
    }
}

/// What one step asks of each device of a group: of its stage, or of its stages where they are interleaved.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StageWork {
    /// Seconds of the forward pass of one microbatch, without communication.
    pub forward_s: f64,
    /// Seconds of communication within it that nothing hides.
    pub forward_communication_s: f64,
    /// Seconds of the backward pass of one microbatch, what is computed again included.
    pub backward_s: f64,
    /// Seconds of communication within it that nothing hides.
    pub backward_communication_s: f64,
    /// Seconds until the next stage has what it needs of a microbatch, and as long again backwards.
    pub send_s: f64,
    /// Seconds to sum gradients among replicas once in a step, if nothing hid them.
    pub synchronize_s: f64,
    /// Seconds of the optimizer's step.
    pub optimizer_s: f64,
    /// How many times longer a step takes because replicas wait for the slowest of them, 1 where there is nobody to wait for.
    pub slower_by: f64,
    /// The bytes of each device.
    pub memory: MemoryUse,
    /// The bytes that a plan may use on each device.
    pub memory_limit: f64,
}

impl StageWork {
    /// Seconds of one microbatch both ways, with the communication inside of the stage.
    pub fn microbatch_s(&self) -> f64 {
        self.forward_s + self.forward_communication_s + self.backward_s + self.backward_communication_s
    }
}

/// What a step of a plan is predicted to take.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Prediction {
    /// Seconds of a step.
    pub step_s: f64,
    /// Of these, computing on the device that has most to do.
    pub compute_s: f64,
    /// Communication that nothing hides.
    pub exposed_communication_s: f64,
    /// Waiting for other stages.
    pub bubble_s: f64,
    /// Waiting for the slowest of the replicas, which differ from step to step.
    pub waiting_s: f64,
    /// The optimizer's step.
    pub optimizer_s: f64,
    /// Operations of the model's products for one step, forward and backward, nothing computed again.
    pub model_flops: f64,
    /// Whether every device has the memory that it needs.
    pub feasible: bool,
    /// Each group of devices, in the order of the pipeline.
    pub stages: Vec<StageWork>,
}

impl Prediction {
    /// The bytes of the device that needs most.
    pub fn memory_bytes_max(&self) -> f64 {
        self.stages.iter().map(|stage| stage.memory.total()).fold(0.0, f64::max)
    }

    /// Operations per second of each of so many devices, in units of 1e12.
    pub fn tflops_per_device(&self, devices: usize) -> f64 {
        self.model_flops / self.step_s / devices as f64 / 1e12
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meshes_are_told_in_words() {
        let stage = |at: usize| PlannedStage { first_block: at, blocks: 1, first_device: at * 8 };
        let mut plan = ParallelPlan {
            version: PARALLEL_VERSION,
            model: "m".into(),
            model_hash: String::new(),
            cluster: "c".into(),
            global_batch: 64,
            working: DType::F16,
            data: 2,
            tensor: 4,
            microbatches: 8,
            schedule: Schedule::OneForwardOneBackward,
            zero: Zero::Optimizer,
            recompute: Recompute::Full,
            stages: vec![stage(0), stage(1)],
        };
        assert_eq!(
            (plan.mesh().as_str(), plan.microbatch(), plan.devices()),
            ("data 2 x tensor 4 x pipeline 2", 4, 16)
        );
        plan.stages.truncate(1);
        (plan.data, plan.tensor) = (1, 1);
        assert_eq!(plan.mesh(), "one device");
    }
}
