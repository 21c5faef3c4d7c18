//! The verifier of plans. It checks that
//!
//! 1. there is a program for each device of the mesh, and a place for each port on each device;
//! 2. every address lies within its arena, in every turn of its loops, with all the elements that are used there;
//! 3. every kernel that is named exists and is given as many buffers as it takes;
//! 4. addresses are shifted only by loops around them, and loops have different ids;
//! 5. cuts divide shapes evenly, each by another axis of the mesh, and the names of axes differ.
//!
//! What a kernel does inside is checked by the kernel IR's own verifier.

use crate::places::{Use, uses};
use crate::{Plan, Port};
use std::collections::BTreeSet;
use std::ops::Range;

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
        for found_use in uses(plan, program) {
            match found_use {
                Ok(Use { step, bytes, .. }) if bytes.start < 0 || bytes.end > program.arena_bytes as i128 => {
                    let (label, arena) = (&step.origin.label, program.arena_bytes);
                    let Range { start, end } = bytes;
                    found.push(format!("step `{label}`: bytes {start}..{end} of an arena of {arena}"));
                }
                Ok(_) => {}
                Err(error) => found.push(format!("step `{}`: {}", error.step, error.reason)),
            }
        }
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
