//! Devices: what runs the program that a plan has for one of them.
//!
//! A [`Device`] loads a program of a [`CheckedPlan`] into a [`LoadedProgram`], which owns the arena and runs the steps. Two
//! devices are here: [`CpuDevice`], which runs machine code and hand-written kernels on a pool of threads, and
//! [`ReferenceDevice`], which evaluates kernel IR and obvious loops, slowly, so that any plan can be checked without machine
//! code. A device knows no tensor op and no other device: what crosses devices goes through [`Exchange`], which whoever
//! runs several of them supplies.
//!
//! Loading does everything that takes time or memory; running allocates nothing. This crate and `thalweg-kernels` are the
//! only ones with `unsafe` code: places in an arena are checked once, by the plan's verifier, and then used without checks.
//!
//! Running another program's machine code can never be made safe by checks alone: [`CpuDevice`] trusts the code in a plan
//! as it trusts the compiler that wrote it. Do not load plans from people whose programs you would not run.

mod context;
mod cpu;
mod detect;
mod error;
mod features;
mod held;
mod map;
mod memory;
mod place;
mod prepare;
mod reference;
mod routines;
mod windows;

pub use context::{Alone, CollectiveCall, Exchange, ExchangeError, RunContext, StepTime};
pub use cpu::CpuDevice;
pub use detect::{CpuFacts, detect, measure};
pub use error::{DeviceError, RunError};
pub use features::features;
pub use map::MappedFile;
pub use reference::ReferenceDevice;
pub use windows::Lent;

use bytes::Bytes;
use std::sync::Arc;
use thalweg_base::DeviceDescription;
use thalweg_plan::{Plan, Step, StepKind};

/// A plan whose invariants have been checked, so that devices may rely on them.
#[derive(Clone, Debug)]
pub struct CheckedPlan(Arc<Plan>);

impl CheckedPlan {
    /// Verifies a plan.
    pub fn new(plan: Arc<Plan>) -> Result<CheckedPlan, DeviceError> {
        match thalweg_plan::verify::verify(&plan).into_iter().next() {
            None => Ok(CheckedPlan(plan)),
            Some(violation) => Err(DeviceError::Invalid { violation }),
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.0
    }
}

/// Something that programs can be loaded on.
pub trait Device: Send + Sync {
    /// What it is.
    fn describe(&self) -> DeviceDescription;

    /// Brings the program for the device of that rank onto this device: an arena with the program's constants in it and
    /// zeros elsewhere.
    fn load(&self, plan: &CheckedPlan, rank: usize) -> Result<Box<dyn LoadedProgram>, DeviceError>;
}

/// A program on a device, with its arena.
pub trait LoadedProgram: Send {
    /// Bytes of the arena.
    fn arena_bytes(&self) -> usize;

    /// Bytes that steps need beside the arena, packed copies of constant operands included.
    fn workspace_bytes(&self) -> usize;

    /// Writes bytes into the arena.
    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), DeviceError>;

    /// The same as [`write`](Self::write) of bytes that do not change any more. The program may keep them instead of a copy:
    /// constant operands that every step reads in packed form are packed at once, and take no memory in the arena.
    fn write_shared(&mut self, offset: usize, bytes: &Bytes) -> Result<(), DeviceError>;

    /// The bytes that were kept instead of exactly this part of the arena.
    fn shared(&self, offset: usize, bytes: usize) -> Option<Bytes>;

    /// Reads bytes from the arena.
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), DeviceError>;

    /// Runs all steps once. Inputs that are lent are read where they are, and outputs written, as far as the device can;
    /// what the arena holds in their place is then undefined. After an error the arena, and what was lent for outputs, hold
    /// whatever the steps before it left.
    fn run(&mut self, context: &mut RunContext<'_>, lent: &mut [Lent<'_>]) -> Result<(), RunError>;
}

/// Every step of a program with its depth of nesting, in the order that positions and [`StepTime`]s count them: a step
/// comes before the steps inside it.
pub fn steps_in_order(steps: &[Step]) -> Vec<(usize, &Step)> {
    fn visit<'a>(steps: &'a [Step], depth: usize, all: &mut Vec<(usize, &'a Step)>) {
        for step in steps {
            all.push((depth, step));
            match &step.kind {
                StepKind::Loop { body, .. } => visit(body, depth + 1, all),
                StepKind::While { condition, body, .. } => {
                    visit(condition, depth + 1, all);
                    visit(body, depth + 1, all);
                }
                StepKind::Branch { then, otherwise, .. } => {
                    visit(then, depth + 1, all);
                    visit(otherwise, depth + 1, all);
                }
                StepKind::Launch(_)
                | StepKind::Contract { .. }
                | StepKind::Convolve { .. }
                | StepKind::Scatter { .. }
                | StepKind::ArgSort { .. }
                | StepKind::Copy { .. }
                | StepKind::Collective(_) => {}
            }
        }
    }
    let mut all = Vec::new();
    visit(steps, 0, &mut all);
    all
}
