//! Pieces: what a layout says each device holds, seen through gathers that put them together.

use crate::models::{collective, port};
use crate::plans::{plan, step};
use std::sync::Arc;
use thalweg_base::{DType, Literal, Mesh};
use thalweg_executor::{Executor, Options};
use thalweg_plan::{CollectiveKind, Plan, Port, StepKind};

fn counting(shape: &[usize]) -> Literal {
    let count: usize = shape.iter().product();
    Literal::from_f32(shape, &(0..count).map(|i| i as f32).collect::<Vec<_>>())
}

fn run(plan: Plan, x: &Literal) -> Vec<Literal> {
    let options = Options { threads_per_device: 1, reference: true, timeout: None };
    let mut executor = Executor::new(Arc::new(plan), &options).unwrap_or_else(|error| panic!("{error}"));
    executor.run(&[("x", x.into())]).unwrap_or_else(|error| panic!("{error}"))
}

fn mesh() -> Mesh {
    Mesh { axes: vec![("a".to_string(), 2), ("b".to_string(), 3)] }
}

/// A mesh of 2 by 3 devices on which `x`, cut so, is gathered by those collectives and put out whole.
fn gathering(shape: &[usize], cuts: &[(&str, usize)], gathers: &[(&str, usize, usize)]) -> Plan {
    let mut steps = Vec::new();
    let mut from = 0;
    for (axis, outer, inner) in gathers {
        let kind = CollectiveKind::AllGather { outer: *outer, inner: *inner };
        steps.push(collective(axis, kind, axis, outer * inner, from, from + 4096));
        from += 4096;
    }
    let mut plan = plan(from + 4096, vec![], steps);
    plan.mesh = mesh();
    plan.programs = vec![plan.programs[0].clone(); 6];
    plan.inputs = vec![port("x", shape, cuts, vec![0; 6])];
    plan.outputs = vec![port("y", shape, &[], vec![from; 6])];
    plan
}

#[test]
fn gathered_pieces_are_the_whole() {
    let x = counting(&[6, 12]);
    let plans = [
        gathering(&[6, 12], &[("a", 0)], &[("a", 1, 36)]),
        gathering(&[6, 12], &[("b", 0)], &[("b", 1, 24)]),
        gathering(&[6, 12], &[("b", 1)], &[("b", 6, 4)]),
        // Both dims, in either order of the cuts.
        gathering(&[6, 12], &[("a", 0), ("b", 1)], &[("b", 3, 4), ("a", 1, 36)]),
        gathering(&[6, 12], &[("b", 1), ("a", 0)], &[("b", 3, 4), ("a", 1, 36)]),
        // The same dim twice: the later cut is within the pieces of the earlier one.
        gathering(&[6, 12], &[("a", 1), ("b", 1)], &[("b", 6, 2), ("a", 6, 6)]),
        gathering(&[6, 12], &[("b", 1), ("a", 1)], &[("a", 6, 2), ("b", 6, 4)]),
    ];
    for (number, plan) in plans.into_iter().enumerate() {
        assert_eq!(run(plan, &x), [x.clone()], "plan {number}");
    }
}

#[test]
fn outputs_and_kept_values_are_put_together() {
    let cuts: [&[(&str, usize)]; 6] =
        [&[], &[("a", 0)], &[("b", 2)], &[("a", 2), ("b", 1)], &[("b", 0), ("a", 1)], &[("a", 1), ("b", 1)]];
    for cuts in cuts {
        let x = counting(&[6, 6, 6]);
        let local = port("x", &[6, 6, 6], cuts, vec![]).local_shape(&mesh());
        let bytes = 4 * local.iter().product::<usize>();
        let mut plan = gathering(&[6, 6, 6], cuts, &[]);
        let copy = step(
            "copy",
            StepKind::Copy { from: thalweg_plan::Address::at(0), to: thalweg_plan::Address::at(1024), bytes },
        );
        for program in &mut plan.programs {
            program.arena_bytes = 8192;
            program.steps = vec![copy.clone()];
        }
        // Places differ from device to device only where the plan says so.
        plan.outputs = vec![port("y", &[6, 6, 6], cuts, vec![1024; 6])];
        plan.parameters = vec![Port { dtype: DType::F32, ..port("w", &[6, 6, 6], cuts, vec![4096; 6]) }];
        assert_eq!(run(plan.clone(), &x), [x.clone()], "{cuts:?}");
        let mut executor = Executor::new(Arc::new(plan), &Options { reference: true, ..Options::default() })
            .expect("a good plan");
        executor.set("w", &x).expect("its type");
        assert_eq!(executor.get("w").expect("w"), x, "{cuts:?}");
    }
}

#[test]
fn scalars_and_empty_tensors_have_pieces() {
    for shape in [&[][..], &[0, 3][..], &[1][..]] {
        let x = counting(shape);
        let mut plan = gathering(shape, &[], &[]);
        plan.outputs = vec![port("y", shape, &[], vec![0; 6])];
        assert_eq!(run(plan, &x), [x]);
    }
}
