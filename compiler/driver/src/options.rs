//! All options of the compiler, in one struct that is passed explicitly.

use thalweg_base::DeviceDescription;
use thalweg_codegen_cpu::Emitter;
use thalweg_cost::presets;
use thalweg_partition::Strategy;
use thalweg_plan::Precision;
use thalweg_tensor::Mesh;

/// What the compiler is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The devices, along named axes; empty for one.
    pub mesh: Mesh,
    /// How to split over them.
    pub strategy: Strategy,
    /// What each of them is.
    pub device: DeviceDescription,
    /// Whether and how graphs are rewritten; absent for not at all.
    pub rewrite: Option<thalweg_rewrite::Options>,
    /// What may be done to operands of `f32` in matrix products.
    pub precision: Precision,
    /// Whether machine code is made. Without it a plan runs on the reference device only.
    pub code: bool,
    /// Which emitter makes it, as far as the device has what that needs.
    pub emitter: Emitter,
    /// Whether every pass is verified. Always so in debug builds.
    pub verify: bool,
}

impl Options {
    /// One device of that description, everything on.
    pub fn for_device(device: DeviceDescription) -> Options {
        Options {
            mesh: Mesh::default(),
            strategy: Strategy::data(),
            device,
            rewrite: Some(thalweg_rewrite::Options::default()),
            precision: Precision::Full,
            code: true,
            emitter: Emitter::default(),
            verify: cfg!(debug_assertions),
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options::for_device(presets::cpu_default(1))
    }
}
