//! After the first runs, a run allocates nothing, on any thread.

#[path = "../../../device/tests/it/kernels.rs"]
#[allow(dead_code, reason = "not every kernel is used here")]
mod kernels;
#[path = "../it/models.rs"]
mod models;
#[path = "../../../device/tests/it/plans.rs"]
#[allow(dead_code, reason = "not every plan is used here")]
mod plans;

use plans::{at, launch, matrices, plan, step};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use thalweg_base::{DType, Literal, Scalar};
use thalweg_executor::{Executor, Options};
use thalweg_plan::{Address, ArgSort, LoopId, Plan, Scatter, StepKind};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Loops with shifted launches and products, a while loop, a branch, a sort, a scatter, copies and fills.
fn everything() -> Plan {
    let id = LoopId(0);
    let shifted = |offset: usize, stride: i64| Address { offset, per_turn: vec![(id, stride)] };
    let contract = StepKind::Contract {
        contraction: matrices(1, 16, 16, 16, DType::F32),
        a: at(0),
        b: shifted(4096, 1024),
        c: shifted(16384, 1024),
        epilogue: None,
        b_constant: false,
    };
    let body = vec![
        step("double", StepKind::Launch(launch(0, 2, vec![shifted(0, 64), shifted(8192, 64)]))),
        step("contract", contract),
    ];
    let sort = ArgSort { dtype: DType::F32, outer: 1, length: 16, inner: 1, descending: true };
    let scatter = Scatter {
        dtype: DType::BF16,
        index_dtype: DType::I32,
        batch: 1,
        before: 1,
        size: 16,
        indices: 16,
        after: 4,
    };
    let less = |limit: usize| step("less", StepKind::Launch(launch(2, 1, vec![at(128), at(limit), at(140)])));
    let set = |from: usize| vec![step("set", StepKind::Copy { from: at(from), to: at(3072), bytes: 36 })];
    let advance = step("advance", StepKind::Launch(launch(1, 1, vec![at(128), at(136)])));
    let steps = vec![
        step("layers", StepKind::Loop { id, turns: 3, body }),
        step("sort", StepKind::ArgSort { sort, operand: at(0), result: at(2048) }),
        step(
            "scatter",
            StepKind::Scatter { scatter, indices: at(2048), updates: at(8192), result: at(2560) },
        ),
        step("copy", StepKind::Copy { from: at(0), to: at(20480), bytes: 64 }),
        step("while", StepKind::While { condition: vec![less(132)], flag: at(140), body: vec![advance] }),
        step("branch", StepKind::Branch { flag: at(140), then: set(0), otherwise: set(64) }),
    ];
    let kernels = vec![kernels::double(16), kernels::advance(), kernels::less()];
    let mut plan = plan(32768, kernels, steps);
    let constant = |at: usize, value: i128| (at, Literal::scalar(DType::I32, Scalar::Int(value)));
    plan.programs[0].constants = vec![constant(132, 10), constant(136, 3)];
    plan.inputs = vec![models::port("x", &[16], &[], vec![0])];
    plan.outputs = vec![models::port("y", &[16], &[], vec![20480])];
    plan
}

/// The least allocations of several runs after some to warm up: what other threads of the test harness do is not ours.
fn allocations(plan: Plan, x: &Literal) -> usize {
    let options = Options { threads_per_device: 2, reference: false, timeout: None };
    let mut executor = Executor::new(Arc::new(plan), &options).unwrap_or_else(|error| panic!("{error}"));
    executor.initialize(1).expect("it has places");
    let sizes: Vec<usize> = executor
        .plan()
        .outputs
        .iter()
        .map(|port| port.shape.iter().product::<usize>() * port.dtype.size_bytes())
        .collect();
    let mut buffers: Vec<Vec<u8>> = sizes.into_iter().map(|size| vec![0; size]).collect();
    let mut outputs: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    let mut run = || {
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        executor.run_into(&[x.into()], &mut outputs).unwrap_or_else(|error| panic!("{error}"));
        ALLOCATIONS.load(Ordering::SeqCst) - before
    };
    let first = run();
    let later = (0..5).map(|_| run()).min().expect("five runs");
    later.min(first)
}

#[test]
fn runs_allocate_nothing() {
    let x = Literal::from_f32(&[16], &(0..16).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(allocations(everything(), &x), 0, "every kind of step on one device");
    let x = Literal::full(DType::F32, &[12, 8], Scalar::Float(1.0));
    for devices in [1, 2, 4] {
        assert_eq!(allocations(models::linear(devices), &x), 0, "{devices} devices");
    }
    // The counter counts.
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    drop(std::hint::black_box(vec![0u8; 100]));
    assert!(ALLOCATIONS.load(Ordering::SeqCst) > before);
}
