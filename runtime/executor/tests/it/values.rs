//! Values in and out, by name, on one device and several, on the processor and the reference device.

use crate::models::linear;
use std::sync::Arc;
use thalweg_base::{DType, Literal, Scalar};
use thalweg_executor::{Executor, ExecutorError, Options, TensorView};
use thalweg_plan::Plan;
use thalweg_tensor::ops::Initializer;

fn executor(plan: Plan, reference: bool) -> Executor {
    let options = Options { threads_per_device: 2, reference, timeout: None };
    Executor::new(Arc::new(plan), &options).unwrap_or_else(|error| panic!("{error}"))
}

fn x() -> Literal {
    let values: Vec<f32> = (0..96).map(|i| ((i * 5) % 9) as f32 - 4.0).collect();
    Literal::from_f32(&[12, 8], &values)
}

fn run(executor: &mut Executor, x: &Literal) -> Vec<Literal> {
    executor.run(&[("x", x.into())]).unwrap_or_else(|error| panic!("{error}"))
}

fn close(a: &Literal, b: &Literal) {
    assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
    for (a, b) in a.scalars().zip(b.scalars()) {
        assert!((a.to_f64() - b.to_f64()).abs() <= 1e-4, "{a:?} {b:?}");
    }
}

/// The definition, in plain loops.
fn expected(x: &Literal, w: &Literal, bias: &Literal) -> Vec<f64> {
    let at = |value: &Literal, index: usize| value.get(index).to_f64();
    let h =
        |i: usize, j: usize| (0..8).map(|k| at(x, i * 8 + k) * at(w, k * 6 + j)).sum::<f64>() + at(bias, j);
    (0..72).map(|at| h(at / 6, at % 6).max(0.0)).collect()
}

#[test]
fn every_number_of_devices_computes_the_same() {
    for devices in [1, 2, 4] {
        for reference in [true, false] {
            let mut executor = executor(linear(devices), reference);
            executor.initialize(3).expect("it has places");
            let found = run(&mut executor, &x());
            let (w, bias) = (executor.get("w").expect("w"), executor.get("bias").expect("bias"));
            let h = expected(&x(), &w, &bias);
            close(
                &found[0],
                &Literal::from_scalars(DType::F32, &[12, 6], h.iter().map(|v| Scalar::Float(*v))),
            );
            let rows = 12 / devices;
            let total = |at: usize| (0..devices).map(|rank| h[rank * rows * 6 + at]).sum::<f64>();
            let total = (0..rows * 6).map(|at| Scalar::Float(total(at)));
            close(&found[1], &Literal::from_scalars(DType::F32, &[rows, 6], total));
        }
    }
}

#[test]
fn runs_are_identical_bit_by_bit() {
    let mut first = executor(linear(4), false);
    first.initialize(11).expect("it has places");
    let expected = run(&mut first, &x());
    for _ in 0..20 {
        assert_eq!(run(&mut first, &x()), expected);
    }
}

#[test]
fn values_begin_as_initializers_say() {
    let mut executor = executor(linear(2), false);
    for seed in [0, 1, u64::MAX] {
        executor.initialize(seed).expect("it has places");
        let normal = Initializer::Normal { mean: Scalar::Float(0.0), deviation: Scalar::Float(0.5) };
        assert_eq!(executor.get("w").expect("w"), normal.literal(seed, "w", DType::F32, &[8, 6]));
        let uniform = Initializer::Uniform { low: Scalar::Float(-1.0), high: Scalar::Float(1.0) };
        assert_eq!(executor.get("bias").expect("bias"), uniform.literal(seed, "bias", DType::F32, &[6]));
        let counter = Literal::scalar(DType::I32, Scalar::Int(7));
        assert_eq!(executor.get("counter").expect("counter"), counter);
    }
}

#[test]
fn first_values_do_not_depend_on_threads() {
    let init = Initializer::Normal { mean: Scalar::Float(1.0), deviation: Scalar::Float(2.0) };
    for dtype in [DType::F32, DType::BF16, DType::F64] {
        for elements in [0, 1, 100_003] {
            let expected = init.literal(5, "p", dtype, &[elements]);
            for threads in [1, 3, 7] {
                let found = thalweg_executor::initial_bytes(&init, 5, "p", dtype, elements, threads);
                assert!(found == expected.bytes(), "{dtype} {elements} {threads}");
            }
        }
    }
}

#[test]
fn states_are_kept_between_runs() {
    let mut executor = executor(linear(2), false);
    executor.initialize(0).expect("it has places");
    for _ in 0..5 {
        run(&mut executor, &x());
    }
    assert_eq!(executor.get("counter").expect("counter").get(0), Scalar::Int(12));
    executor.set("counter", &Literal::scalar(DType::I32, Scalar::Int(100))).expect("its type");
    run(&mut executor, &x());
    assert_eq!(executor.get("counter").expect("counter").get(0), Scalar::Int(101));
}

/// Weights are packed once: a new value must be used by the next run.
#[test]
fn new_weights_are_used() {
    let mut executor = executor(linear(1), false);
    executor.initialize(0).expect("it has places");
    let before = run(&mut executor, &x());
    executor.set("w", &Literal::full(DType::F32, &[8, 6], Scalar::Float(0.25))).expect("its type");
    let after = run(&mut executor, &x());
    assert_ne!(before, after);
    let h = expected(&x(), &executor.get("w").expect("w"), &executor.get("bias").expect("bias"));
    close(&after[0], &Literal::from_scalars(DType::F32, &[12, 6], h.into_iter().map(Scalar::Float)));
}

/// Values that are shared give the same results, are read back, and are shared with other executors; pieces of several devices
/// are copies.
#[test]
fn shared_values_are_those_that_were_set() {
    let w = Literal::from_f32(&[8, 6], &(0..48).map(|at| at as f32 / 16.0 - 1.0).collect::<Vec<_>>());
    for (devices, reference) in [(1, false), (2, false), (1, true)] {
        let (mut set, mut shared) =
            (executor(linear(devices), reference), executor(linear(devices), reference));
        for executor in [&mut set, &mut shared] {
            executor.initialize(4).expect("it has places");
        }
        set.set("w", &w).expect("its type");
        shared.set_shared("w", &w).expect("its type");
        assert_eq!(shared.get("w").expect("w"), w);
        let results = run(&mut set, &x());
        assert_eq!(run(&mut shared, &x()), results);
        let mut other = executor(linear(devices), reference);
        assert_eq!(shared.copy_kept_to(&mut other).expect("they fit"), 3);
        drop(shared);
        assert_eq!(other.get("w").expect("w"), w);
        // The counter went on in the run before the copy, and nothing else depends on it.
        assert_eq!(run(&mut other, &x())[0], results[0]);
        let error = other.set_shared("w", &Literal::from_f32(&[6], &[0.0; 6])).expect_err("another shape");
        assert_eq!(error.to_string(), "`w` is f32[8, 6], not f32[6]");
    }
}

#[test]
fn kept_values_are_copied_by_name() {
    let (mut from, mut to) = (executor(linear(2), false), executor(linear(4), true));
    from.initialize(9).expect("it has places");
    assert_eq!(from.copy_kept_to(&mut to).expect("they fit"), 3);
    for name in ["w", "bias", "counter"] {
        assert_eq!(from.get(name).expect(name), to.get(name).expect(name));
    }
    let mut same = executor(linear(2), false);
    assert_eq!(from.copy_kept_to(&mut same).expect("they fit"), 3);
    assert_eq!(run(&mut from, &x()), run(&mut same, &x()));
    let mut plan = linear(2);
    plan.parameters[1].dtype = DType::I32;
    let error = from.copy_kept_to(&mut executor(plan, false)).expect_err("another dtype");
    assert_eq!(error.to_string(), "`bias` is i32[6], not f32[6]");
}

#[test]
fn buffers_of_the_caller_are_filled() {
    let mut executor = executor(linear(2), false);
    executor.initialize(0).expect("it has places");
    let expected = run(&mut executor, &x());
    let (mut h, mut total) = (vec![0; 12 * 6 * 4], vec![0; 6 * 6 * 4]);
    executor.run_into(&[(&x()).into()], &mut [&mut h, &mut total]).expect("it runs");
    assert!(h == expected[0].bytes() && total == expected[1].bytes());
}

#[test]
fn mistakes_of_the_caller_are_named() {
    let mut executor = executor(linear(1), false);
    let message = |result: Result<Vec<Literal>, ExecutorError>| result.expect_err("a mistake").to_string();
    assert_eq!(message(executor.run(&[])), "the input `x` (f32[12, 8]) is not given");
    let (good, bad) = (x(), Literal::from_f32(&[2], &[0.0; 2]));
    assert_eq!(message(executor.run(&[("x", (&bad).into())])), "`x` is f32[12, 8], not f32[2]");
    assert_eq!(
        message(executor.run(&[("x", (&good).into()), ("y", (&good).into())])),
        "there is no input `y`; there is only `x`"
    );
    let short = TensorView { bytes: &good.bytes()[..8], ..(&good).into() };
    assert_eq!(message(executor.run(&[("x", short)])), "`x` has 384 bytes; the buffer has 8");
    let error = executor.get("v").expect_err("no such value").to_string();
    assert_eq!(error, "there is no parameter or state `v`; there are `w`, `bias`, `counter`");
    assert!(matches!(executor.set("w", &bad), Err(ExecutorError::Type { .. })));
    let error = executor.run_into(&[], &mut []).expect_err("a mistake").to_string();
    assert_eq!(error, "the plan has 1 inputs; 0 are given");
    let mut small = [0; 3];
    let error = executor.run_into(&[(&good).into()], &mut [&mut small, &mut []]).expect_err("a mistake");
    assert_eq!(error.to_string(), "`h` has 288 bytes; the buffer has 3");
    let error = Executor::on(Arc::new(linear(2)), vec![], None).expect_err("no devices").to_string();
    assert_eq!(error, "the plan `test` is for 2 devices; 0 are given");
}

#[test]
fn traces_tell_every_step_of_every_call() {
    for devices in [1, 2] {
        let mut plan = linear(devices);
        for program in &mut plan.programs {
            program.steps[0].origin.flops = 96.0;
            program.steps[0].origin.scope = "model / \"first\"".into();
        }
        let mut executor = executor(plan, false);
        run(&mut executor, &x());
        assert!(executor.take_trace().is_none());
        executor.start_trace();
        run(&mut executor, &x());
        run(&mut executor, &x());
        let trace = executor.take_trace().expect("it was recording");
        assert_eq!(trace.events.len(), 2 * devices * 3);
        let names: Vec<&str> = trace.events[..3].iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["linear", "total", "count"]);
        for pair in trace.events.windows(2).filter(|pair| pair[0].device == pair[1].device) {
            assert!(pair[1].start_ns >= pair[0].start_ns + pair[0].duration_ns, "steps follow each other");
        }
        let json: serde_json::Value = serde_json::from_str(&trace.to_chrome_json()).expect("it is JSON");
        let events = json["traceEvents"].as_array().expect("a list");
        assert_eq!(events.len(), 1 + devices + 2 * devices * 3);
        let event = &events[1 + devices];
        assert_eq!((&event["ph"], &event["args"]["flops"]), (&"X".into(), &96.0.into()));
        assert_eq!(event["cat"], "model / \"first\"");
        let summary = trace.summary();
        assert_eq!(summary.len(), 3);
        assert!(summary.iter().all(|row| row.3 == 2 * devices as u64));
    }
}

#[test]
fn memory_is_told() {
    let executor = executor(linear(2), false);
    assert!(executor.memory_bytes() >= 2 * 2176);
}
