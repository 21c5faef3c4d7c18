//! The verifier of plans. It checks that
//!
//! 1. there is a program for each device of the mesh, and a place for each port on each device;
//! 2. every address lies within its arena, in every turn of its loops, with all the elements that are used there;
//! 3. every kernel that is named exists and is given as many buffers as it takes;
//! 4. addresses are shifted only by loops around them, and loops have different ids;
//! 5. cuts divide shapes evenly, each by another axis of the mesh, and the names of axes differ.
//!
//! What a kernel does inside is checked by the kernel IR's own verifier.

use crate::{Address, CollectiveKind, Contraction, Launch, LoopId, Plan, Port, Program, Step, StepKind};
use std::collections::{BTreeMap, BTreeSet};

/// Every broken rule; empty for a good plan.
pub fn verify(plan: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    let devices = plan.mesh.devices();
    if devices != plan.programs.len() || devices == 0 {
        found.push(format!("a mesh of {devices} devices has {} programs", plan.programs.len()));
        return found;
    }
    let mut names = BTreeSet::new();
    if let Some((axis, _)) = plan.mesh.axes.iter().find(|(axis, _)| !names.insert(axis)) {
        found.push(format!("the mesh has two axes `{axis}`"));
        return found;
    }
    let ports = [&plan.inputs, &plan.parameters, &plan.states, &plan.outputs];
    for port in ports.into_iter().flatten() {
        check_port(plan, port, &mut found);
    }
    for kernel in &plan.kernels {
        found.extend(
            thalweg_kernel::verify::verify(&kernel.kernel)
                .err()
                .into_iter()
                .flatten()
                .map(|violation| format!("kernel `{}`: {violation}", kernel.kernel.name)),
        );
    }
    for program in &plan.programs {
        for (offset, value) in &program.constants {
            if offset.checked_add(value.bytes().len()).is_none_or(|end| end > program.arena_bytes) {
                found.push(format!("a constant at {offset} is outside of the arena"));
            }
        }
        Checker { plan, program, loops: BTreeMap::new(), found: &mut found }.steps(&program.steps);
    }
    found
}

fn check_port(plan: &Plan, port: &Port, found: &mut Vec<String>) {
    let (mut rest, mut by) = (port.shape.clone(), BTreeSet::new());
    for (axis, dim) in &port.layout.cuts {
        // No axis has size 0, as there are devices; a later cut is of what the earlier ones left.
        let fits = plan.mesh.axes.iter().any(|(name, _)| name == axis)
            && by.insert(axis)
            && rest.get(*dim).is_some_and(|extent| extent % plan.mesh.size(axis) == 0);
        if !fits {
            found.push(format!("`{}` is cut along dim {dim} by `{axis}`, which does not fit", port.name));
            return;
        }
        rest[*dim] /= plan.mesh.size(axis);
    }
    if port.places.len() != plan.programs.len() {
        found.push(format!("`{}` has {} places", port.name, port.places.len()));
        return;
    }
    let elements = rest.iter().try_fold(port.dtype.size_bytes(), |n, d| n.checked_mul(*d));
    for (place, program) in port.places.iter().zip(&plan.programs) {
        if elements.and_then(|bytes| bytes.checked_add(*place)).is_none_or(|end| end > program.arena_bytes) {
            found.push(format!("`{}` is outside of the arena", port.name));
        }
    }
}

struct Checker<'a> {
    plan: &'a Plan,
    program: &'a Program,
    loops: BTreeMap<LoopId, usize>,
    found: &'a mut Vec<String>,
}

impl Checker<'_> {
    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step);
        }
    }

    fn address(&mut self, what: &str, address: &Address, bytes: usize) {
        let mut low = address.offset as i128;
        let mut high = low + bytes as i128;
        for (id, stride) in &address.per_turn {
            let Some(turns) = self.loops.get(id) else {
                self.found.push(format!("{what}: shifted by loop {id}, which is not around it"));
                return;
            };
            let reach = (*stride as i128).saturating_mul(turns.saturating_sub(1) as i128);
            low = low.saturating_add(reach.min(0));
            high = high.saturating_add(reach.max(0));
        }
        if low < 0 || high > self.program.arena_bytes as i128 {
            self.found
                .push(format!("{what}: bytes {low}..{high} of an arena of {}", self.program.arena_bytes));
        }
    }

    fn launch(&mut self, what: &str, launch: &Launch) {
        let Some(kernel) = self.plan.kernels.get(launch.kernel.index()) else {
            self.found.push(format!("{what}: there is no kernel {}", launch.kernel));
            return;
        };
        let buffers = &kernel.kernel.buffers;
        if buffers.len() != launch.buffers.len() {
            self.found.push(format!("{what}: {} buffers for {}", launch.buffers.len(), buffers.len()));
        }
        for (buffer, address) in buffers.iter().zip(&launch.buffers) {
            self.address(what, address, times(&[buffer.elements, buffer.dtype.size_bytes()]));
        }
    }

    fn step(&mut self, step: &Step) {
        let what = format!("step `{}`", step.origin.label);
        match &step.kind {
            StepKind::Launch(launch) => self.launch(&what, launch),
            StepKind::Contract { contraction, a, b, c, epilogue, .. } => {
                let bytes =
                    extents(contraction).map(|elements| times(&[elements, contraction.dtype.size_bytes()]));
                for (address, bytes) in [a, b, c].into_iter().zip(bytes) {
                    self.address(&what, address, bytes);
                }
                if let Some(epilogue) = epilogue {
                    self.launch(&what, epilogue);
                }
            }
            StepKind::Convolve { convolution, a, b, c, epilogue } => {
                let size = convolution.dtype.size_bytes();
                let (ci, co) = (convolution.in_channels, convolution.out_channels);
                let (batch, groups) = (convolution.batch, convolution.groups);
                let x = times(&[batch, groups, ci, times(&convolution.input), size]);
                let w = times(&[groups, co, ci, times(&convolution.kernel), size]);
                let y = times(&[batch, groups, co, times(&convolution.output), size]);
                let roles = match convolution.direction {
                    crate::ConvolveDirection::Forward => [x, w, y],
                    crate::ConvolveDirection::InputGradient => [w, y, x],
                    crate::ConvolveDirection::WeightGradient => [x, y, w],
                };
                for (address, bytes) in [a, b, c].into_iter().zip(roles) {
                    self.address(&what, address, bytes);
                }
                if let Some(epilogue) = epilogue {
                    self.launch(&what, epilogue);
                }
            }
            StepKind::Scatter { scatter, indices, updates, result } => {
                let size = scatter.dtype.size_bytes();
                let outer = times(&[scatter.batch, scatter.before, scatter.after, size]);
                let index_bytes = scatter.index_dtype.size_bytes();
                self.address(&what, indices, times(&[scatter.batch, scatter.indices, index_bytes]));
                self.address(&what, updates, times(&[outer, scatter.indices]));
                self.address(&what, result, times(&[outer, scatter.size]));
            }
            StepKind::ArgSort { sort, operand, result } => {
                let elements = times(&[sort.outer, sort.length, sort.inner]);
                self.address(&what, operand, times(&[elements, sort.dtype.size_bytes()]));
                self.address(&what, result, times(&[elements, 4]));
            }
            StepKind::Copy { from, to, bytes } => {
                self.address(&what, from, *bytes);
                self.address(&what, to, *bytes);
            }
            StepKind::Collective(collective) => {
                if !self.plan.mesh.axes.iter().any(|(axis, _)| *axis == collective.axis) {
                    self.found.push(format!("{what}: the mesh has no axis `{}`", collective.axis));
                    return;
                }
                let size = self.plan.mesh.size(&collective.axis);
                let bytes = times(&[collective.elements, collective.dtype.size_bytes()]);
                let result = match collective.kind {
                    CollectiveKind::AllReduce(_) | CollectiveKind::AllToAll { .. } => bytes,
                    CollectiveKind::AllGather { .. } => times(&[bytes, size]),
                    CollectiveKind::ReduceScatter { .. } => bytes / size,
                };
                self.address(&what, &collective.operand, bytes);
                self.address(&what, &collective.result, result);
            }
            StepKind::Loop { id, turns, body } => {
                if self.loops.insert(*id, *turns).is_some() {
                    self.found.push(format!("{what}: loop {id} is inside itself"));
                }
                self.steps(body);
                self.loops.remove(id);
            }
            StepKind::While { condition, flag, body } => {
                self.address(&what, flag, 1);
                self.steps(condition);
                self.steps(body);
            }
            StepKind::Branch { flag, then, otherwise } => {
                self.address(&what, flag, 1);
                self.steps(then);
                self.steps(otherwise);
            }
        }
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
