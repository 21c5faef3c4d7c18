//! The plan: everything a run needs, as plain data. The compiler writes it, the runtime reads it, neither knows the other.
//!
//! A plan has one program for each device. A program is a static list of steps over fixed places in one arena; running it
//! allocates nothing and looks nothing up by name. Kernels are held once and shared, as IR and, where a code generator has
//! been at work, as machine code. The compiler never meets a device here and the runtime never meets a tensor op.

#![forbid(unsafe_code)]

pub mod file;
pub mod parallel;
pub mod places;
pub mod routine;
pub mod step;
pub mod verify;

pub use file::{FORMAT_VERSION, PlanFileError};
pub use routine::{ArgSort, ContractAxis, Contraction, Convolution, ConvolveDirection, Precision, Scatter};
pub use step::{Address, CollectiveKind, CollectiveStep, Launch, LoopId, Origin, Step, StepKind};

use serde::{Deserialize, Serialize};
use thalweg_base::{DType, Initializer, Layout, Literal, Mesh, define_id};
use thalweg_kernel::Kernel;

define_id! {
    /// A kernel of a plan.
    KernelId, "k"
}

/// A value that the caller gives or takes, or that is kept between calls.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Port {
    /// What the caller knows it by.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The global shape.
    pub shape: Vec<usize>,
    /// How it is spread over the devices.
    pub layout: Layout,
    /// For parameters and states: how it begins.
    pub initial: Option<Initializer>,
    /// Where each device holds its piece: byte offset into its arena.
    pub places: Vec<usize>,
}

impl Port {
    /// The shape of one device's piece.
    pub fn local_shape(&self, mesh: &Mesh) -> Vec<usize> {
        self.layout.local_shape(&self.shape, mesh)
    }
}

/// A kernel with the code that was made of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CompiledKernel {
    /// What it does.
    pub kernel: Kernel,
    /// Machine code for the plan's target; absent when the device evaluates or compiles the kernel itself.
    pub code: Option<Code>,
}

/// Position-independent machine code without relocations, entered at its first byte.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// The bytes.
    #[serde(with = "file::hex")]
    pub bytes: Vec<u8>,
    /// The alignment that the first byte needs.
    pub alignment: u32,
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Code({} bytes)", self.bytes.len())
    }
}

/// What one device does.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Program {
    /// Bytes of the arena; kept values, ports, constants and temporaries all lie in it. Steps may need a workspace beside.
    pub arena_bytes: usize,
    /// Of them, bytes for parameters, states, inputs, outputs and constants.
    pub kept_bytes: usize,
    /// Values written into the arena when the program is loaded.
    pub constants: Vec<(usize, Literal)>,
    /// The steps of one call, in order.
    pub steps: Vec<Step>,
}

/// Everything a run needs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The format that this was written in.
    pub version: u32,
    /// What it is a plan of.
    pub name: String,
    /// The hash of the model and the options that it was made of, as hexadecimal digits.
    pub key: String,
    /// The code target: architecture and features that the machine code needs, sorted.
    pub target: Vec<String>,
    /// The devices.
    pub mesh: Mesh,
    /// Inputs, in the order of the signature.
    pub inputs: Vec<Port>,
    /// Parameters.
    pub parameters: Vec<Port>,
    /// States.
    pub states: Vec<Port>,
    /// Outputs, in the order of the signature.
    pub outputs: Vec<Port>,
    /// The kernels of all programs.
    pub kernels: Vec<CompiledKernel>,
    /// One program for each device.
    pub programs: Vec<Program>,
}

impl Plan {
    /// The number of devices.
    pub fn devices(&self) -> usize {
        self.programs.len()
    }

    /// A kernel.
    pub fn kernel(&self, id: KernelId) -> &CompiledKernel {
        &self.kernels[id.index()]
    }

    /// Lets the operands of every contraction be rounded as `precision` says.
    pub fn set_precision(&mut self, precision: Precision) {
        fn visit(steps: &mut [Step], precision: Precision) {
            for step in steps {
                match &mut step.kind {
                    StepKind::Contract { contraction, .. } => contraction.precision = precision,
                    StepKind::Loop { body, .. } => visit(body, precision),
                    StepKind::While { condition, body, .. } => {
                        visit(condition, precision);
                        visit(body, precision);
                    }
                    StepKind::Branch { then, otherwise, .. } => {
                        visit(then, precision);
                        visit(otherwise, precision);
                    }
                    StepKind::Launch(_)
                    | StepKind::Convolve { .. }
                    | StepKind::Scatter { .. }
                    | StepKind::ArgSort { .. }
                    | StepKind::Copy { .. }
                    | StepKind::Collective(_) => {}
                }
            }
        }
        for program in &mut self.programs {
            visit(&mut program.steps, precision);
        }
    }

    /// The largest arena in bytes.
    pub fn arena_bytes_max(&self) -> usize {
        self.programs.iter().map(|program| program.arena_bytes).max().unwrap_or(0)
    }
}
