//! What devices refuse, and in which words.

use crate::kernels;
use crate::plans::{at, launch, matrices, plan, step};
use std::sync::Arc;
use thalweg_base::{DType, Layout, Mesh};
use thalweg_device::{CheckedPlan, CpuDevice, CpuFacts, Device, DeviceError, detect, features, measure};
use thalweg_plan::{Address, LoopId, Plan, Port, StepKind};

/// The message with which a device of two threads refuses the plan.
fn refusal(plan: &Plan) -> String {
    match CheckedPlan::new(Arc::new(plan.clone())).and_then(|plan| CpuDevice::new(2).load(&plan, 0)) {
        Ok(_) => panic!("the plan was accepted"),
        Err(error) => error.to_string(),
    }
}

fn doubling() -> Plan {
    let steps = vec![step("double", StepKind::Launch(launch(0, 1, vec![at(0), at(64)])))];
    plan(128, vec![kernels::double(16)], steps)
}

#[test]
fn damaged_plans() {
    let mut plan = doubling();
    plan.programs[0].arena_bytes = 100;
    assert!(refusal(&plan).contains("bytes 64..128 of an arena of 100"), "{}", refusal(&plan));
}

#[test]
fn layouts_that_do_not_fit() {
    let with = |axes: &[(&str, usize)], shape: &[usize], cuts: &[(&str, usize)]| {
        let owned = |pairs: &[(&str, usize)]| pairs.iter().map(|(name, n)| (name.to_string(), *n)).collect();
        let mut plan = doubling();
        plan.mesh = Mesh { axes: owned(axes) };
        plan.programs = vec![plan.programs[0].clone(); plan.mesh.devices()];
        let places = vec![0; plan.mesh.devices()];
        let (layout, shape) = (Layout { cuts: owned(cuts) }, shape.to_vec());
        plan.inputs =
            vec![Port { name: "x".into(), dtype: DType::F32, shape, layout, initial: None, places }];
        CheckedPlan::new(Arc::new(plan)).err().map(|error| error.to_string())
    };
    let square = &[("a", 2), ("b", 2)];
    assert_eq!(with(square, &[8, 4], &[("a", 0), ("b", 0)]), None);
    // 6 is even, but its halves are not.
    for cuts in [&[("a", 0), ("b", 0)][..], &[("c", 0)], &[("a", 2)], &[("a", 0), ("a", 0)]] {
        let message = with(square, &[6, 4], cuts).expect("the cuts do not fit");
        assert!(message.contains("which does not fit"), "{message}");
    }
    let message = with(&[("a", 2), ("a", 2)], &[8], &[]).expect("the names are the same");
    assert!(message.contains("two axes `a`"), "{message}");
}

#[test]
fn code_for_another_machine() {
    let mut plan = doubling();
    plan.target = vec!["quantum".into(), std::env::consts::ARCH.into()];
    let message = refusal(&plan);
    assert!(
        message.contains("a machine with quantum") && message.contains("compile the model here"),
        "{message}"
    );
    plan.programs[0].steps.clear();
    assert!(CheckedPlan::new(Arc::new(plan)).and_then(|plan| CpuDevice::new(1).load(&plan, 0)).is_ok());
}

#[test]
fn kernels_without_code() {
    let mut plan = doubling();
    plan.kernels[0].code = None;
    assert!(refusal(&plan).contains("kernel `double` has no machine code"));
}

#[test]
fn places_that_are_not_aligned() {
    let mut plan = doubling();
    plan.programs[0].arena_bytes = 256;
    plan.programs[0].steps = vec![step("double", StepKind::Launch(launch(0, 1, vec![at(2), at(128)])))];
    assert!(refusal(&plan).contains("step `double`: offset 2 is not aligned for f32"), "{}", refusal(&plan));
    let shifted = Address { offset: 0, per_turn: vec![(LoopId(0), 2)] };
    let body = vec![step("double", StepKind::Launch(launch(0, 1, vec![shifted, at(128)])))];
    plan.programs[0].steps = vec![step("loop", StepKind::Loop { id: LoopId(0), turns: 2, body })];
    assert!(refusal(&plan).contains("not aligned"));
}

#[test]
fn epilogues_over_other_ranges() {
    let contract = StepKind::Contract {
        contraction: matrices(1, 4, 4, 4, DType::F32),
        a: at(0),
        b: at(64),
        c: at(128),
        epilogue: Some(launch(0, 1, vec![at(128), at(192)])),
        b_constant: false,
    };
    let plan = plan(512, vec![kernels::bias_relu::<4, 3>(1)], vec![step("linear", contract)]);
    assert!(
        refusal(&plan).contains("the epilogue has ranges [1, 4, 3], not [1, 4, 4]"),
        "{}",
        refusal(&plan)
    );
}

#[test]
fn products_of_truth_values() {
    let contract = StepKind::Contract {
        contraction: matrices(1, 4, 4, 4, DType::Bool),
        a: at(0),
        b: at(64),
        c: at(128),
        epilogue: None,
        b_constant: false,
    };
    assert!(
        refusal(&plan(512, vec![], vec![step("linear", contract)])).contains("bool cannot be computed with")
    );
}

#[test]
fn ranks_and_offsets_that_do_not_exist() {
    let plan = CheckedPlan::new(Arc::new(doubling())).expect("a good plan");
    assert!(matches!(CpuDevice::new(1).load(&plan, 1), Err(DeviceError::Rank { rank: 1, devices: 1 })));
    let mut program = CpuDevice::new(1).load(&plan, 0).expect("a good plan");
    assert!(matches!(program.write(120, &[0; 9]), Err(DeviceError::OutsideArena { .. })));
    assert!(matches!(program.read(usize::MAX, &mut [0; 2]), Err(DeviceError::OutsideArena { .. })));
}

#[test]
fn the_processor_is_known() {
    let facts = CpuFacts::read();
    assert!(facts.threads >= 1 && !facts.model.is_empty());
    let description = detect(Some(1));
    assert_eq!(description.threads, 1);
    assert_eq!(description.features, features());
    assert!(description.features.contains(&std::env::consts::ARCH.to_string()));
    let measured = measure(Some(1));
    // No processor that can build this is slower than a gigaflop, none faster than ten teraflops on one thread.
    let rate = measured.flops_per_s[&DType::F32];
    assert!((1e8..1e13).contains(&rate), "{rate}");
    assert!((1e8..1e13).contains(&measured.bandwidth_bytes_per_s), "{}", measured.bandwidth_bytes_per_s);
}
