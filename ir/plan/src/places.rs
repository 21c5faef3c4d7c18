//! Which bytes of its arena a program uses.

use crate::{
    Address, CollectiveKind, Contraction, Convolution, ConvolveDirection, Launch, LoopId, Plan, Program,
    Step, StepKind,
};
use std::collections::BTreeMap;
use std::ops::Range;
use thalweg_kernel::Access;

/// One use of the arena by a step.
#[derive(Clone, Debug)]
pub struct Use<'a> {
    /// The step.
    pub step: &'a Step,
    /// The place in the first turn of the loops around it.
    pub address: &'a Address,
    /// What is done there.
    pub access: Access,
    /// The bytes from the first to past the last that may be used, over all turns; beyond every arena, or before its start,
    /// where sizes in a file make it so.
    pub bytes: Range<i128>,
}

/// Why the uses of a program cannot be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UseError {
    /// The label of the step.
    pub step: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Every use of the arena by the steps of `program`, in their order, the steps inside others included. What is wrong with
/// a step is an error of its own.
pub fn uses<'a>(plan: &'a Plan, program: &'a Program) -> Vec<Result<Use<'a>, UseError>> {
    let mut visitor = Visitor { plan, loops: BTreeMap::new(), found: Vec::new() };
    visitor.steps(&program.steps);
    visitor.found
}

struct Visitor<'a> {
    plan: &'a Plan,
    loops: BTreeMap<LoopId, usize>,
    found: Vec<Result<Use<'a>, UseError>>,
}

impl<'a> Visitor<'a> {
    fn steps(&mut self, steps: &'a [Step]) {
        for step in steps {
            self.step(step);
        }
    }

    fn wrong(&mut self, step: &Step, reason: String) {
        self.found.push(Err(UseError { step: step.origin.label.clone(), reason }));
    }

    fn place(&mut self, step: &'a Step, address: &'a Address, bytes: usize, access: Access) {
        let mut low = address.offset as i128;
        let mut high = low + bytes as i128;
        for (id, stride) in &address.per_turn {
            let Some(turns) = self.loops.get(id) else {
                return self.wrong(step, format!("shifted by loop {id}, which is not around it"));
            };
            let reach = (*stride as i128).saturating_mul(turns.saturating_sub(1) as i128);
            low = low.saturating_add(reach.min(0));
            high = high.saturating_add(reach.max(0));
        }
        self.found.push(Ok(Use { step, address, access, bytes: low..high }));
    }

    fn launch(&mut self, step: &'a Step, launch: &'a Launch) {
        let Some(kernel) = self.plan.kernels.get(launch.kernel.index()) else {
            return self.wrong(step, format!("there is no kernel {}", launch.kernel));
        };
        let buffers = &kernel.kernel.buffers;
        if buffers.len() != launch.buffers.len() {
            self.wrong(step, format!("{} buffers for {}", launch.buffers.len(), buffers.len()));
        }
        for (buffer, address) in buffers.iter().zip(&launch.buffers) {
            self.place(step, address, times(&[buffer.elements, buffer.dtype.size_bytes()]), buffer.access);
        }
    }

    /// The operands of a routine, of which the last is its result.
    fn routine<const N: usize>(&mut self, step: &'a Step, addresses: [&'a Address; N], bytes: [usize; N]) {
        for (at, (address, bytes)) in addresses.into_iter().zip(bytes).enumerate() {
            self.place(step, address, bytes, if at + 1 == N { Access::Write } else { Access::Read });
        }
    }

    fn step(&mut self, step: &'a Step) {
        match &step.kind {
            StepKind::Launch(launch) => self.launch(step, launch),
            StepKind::Contract { contraction, a, b, c, epilogue, .. } => {
                let (elements, dtypes) = (extents(contraction), contraction.dtypes());
                let bytes = |at: usize| times(&[elements[at], dtypes[at].size_bytes()]);
                self.routine(step, [a, b, c], [bytes(0), bytes(1), bytes(2)]);
                if let Some(epilogue) = epilogue {
                    self.launch(step, epilogue);
                }
            }
            StepKind::Convolve { convolution, a, b, c, epilogue, .. } => {
                self.routine(step, [a, b, c], convolution_bytes(convolution));
                if let Some(epilogue) = epilogue {
                    self.launch(step, epilogue);
                }
            }
            StepKind::Scatter { scatter, indices, updates, result } => {
                let size = scatter.dtype.size_bytes();
                let outer = times(&[scatter.batch, scatter.before, scatter.after, size]);
                let index_bytes = times(&[scatter.batch, scatter.indices, scatter.index_dtype.size_bytes()]);
                let bytes = [index_bytes, times(&[outer, scatter.indices]), times(&[outer, scatter.size])];
                self.routine(step, [indices, updates, result], bytes);
            }
            StepKind::ArgSort { sort, operand, result } => {
                let elements = times(&[sort.outer, sort.length, sort.inner]);
                let bytes = [times(&[elements, sort.dtype.size_bytes()]), times(&[elements, 4])];
                self.routine(step, [operand, result], bytes);
            }
            StepKind::Copy { from, to, bytes } => self.routine(step, [from, to], [*bytes; 2]),
            StepKind::Collective(collective) => {
                if !self.plan.mesh.axes.iter().any(|(axis, _)| *axis == collective.axis) {
                    return self.wrong(step, format!("the mesh has no axis `{}`", collective.axis));
                }
                let size = self.plan.mesh.size(&collective.axis);
                let bytes = times(&[collective.elements, collective.dtype.size_bytes()]);
                let result = match collective.kind {
                    CollectiveKind::AllReduce(_) | CollectiveKind::AllToAll { .. } => bytes,
                    CollectiveKind::AllGather { .. } => times(&[bytes, size]),
                    CollectiveKind::ReduceScatter { .. } => bytes / size,
                };
                self.routine(step, [&collective.operand, &collective.result], [bytes, result]);
            }
            StepKind::Loop { id, turns, body } => {
                if self.loops.insert(*id, *turns).is_some() {
                    self.wrong(step, format!("loop {id} is inside itself"));
                }
                self.steps(body);
                self.loops.remove(id);
            }
            StepKind::While { condition, flag, body } => {
                self.place(step, flag, 1, Access::Read);
                self.steps(condition);
                self.steps(body);
            }
            StepKind::Branch { flag, then, otherwise } => {
                self.place(step, flag, 1, Access::Read);
                self.steps(then);
                self.steps(otherwise);
            }
        }
    }
}

/// Bytes of the operands of a convolution and of its result.
fn convolution_bytes(convolution: &Convolution) -> [usize; 3] {
    let size = convolution.dtype.size_bytes();
    let (ci, co) = (convolution.in_channels, convolution.out_channels);
    let (batch, groups) = (convolution.batch, convolution.groups);
    let x = times(&[batch, groups, ci, times(&convolution.input), size]);
    let w = times(&[groups, co, ci, times(&convolution.kernel), size]);
    let y = times(&[batch, groups, co, times(&convolution.output), size]);
    match convolution.direction {
        ConvolveDirection::Forward => [x, w, y],
        ConvolveDirection::InputGradient => [w, y, x],
        ConvolveDirection::WeightGradient => [x, y, w],
    }
}

/// A product that ends at the largest number, which is outside of every arena: sizes in a file may be anything.
fn times(sizes: &[usize]) -> usize {
    match sizes.contains(&0) {
        true => 0,
        false => sizes.iter().fold(1, |product: usize, size| product.saturating_mul(*size)),
    }
}

/// Elements from the first to the last that a contraction touches in `a`, `b` and `c`. Negative strides make the span
/// reach before the address, which the planner never does, so they count as outside.
fn extents(contraction: &Contraction) -> [usize; 3] {
    let groups = [&contraction.batch, &contraction.m, &contraction.n, &contraction.k];
    let mut last = [0i64; 3];
    for axis in groups.into_iter().flatten() {
        for (last, stride) in last.iter_mut().zip([axis.stride_a, axis.stride_b, axis.stride_c]) {
            match stride >= 0 {
                true => {
                    *last = last.saturating_add(stride.saturating_mul(axis.extent.saturating_sub(1) as i64))
                }
                false => *last = i64::MAX / 16,
            }
        }
    }
    last.map(|last| last as usize + 1)
}
