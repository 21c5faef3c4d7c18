//! A member that fails, panics, leaves, does not come or calls something else: the others get errors, in time.

use crate::values::{on_each, step};
use std::time::{Duration, Instant};
use thalweg_base::{DType, Mesh, ReduceFn};
use thalweg_collective::{
    CollectiveError, Communicator, ThreadCommunicator, ThreadOptions, perform, threads,
};
use thalweg_plan::CollectiveKind;

fn sum(
    device: &mut ThreadCommunicator,
    axis: &str,
    label: &str,
    elements: usize,
) -> Result<(), CollectiveError> {
    let step = step(CollectiveKind::AllReduce(ReduceFn::Sum), axis, DType::F32, elements);
    perform(device, &step, label, &vec![0; 4 * elements], &mut vec![0; 4 * elements])
}

fn mesh(sizes: &[(&str, usize)]) -> Mesh {
    Mesh { axes: sizes.iter().map(|(name, size)| (name.to_string(), *size)).collect() }
}

#[test]
fn an_abort_reaches_every_group() {
    // Device 3 fails; device 0 waits for 1 along `model` and 1 for 3 along `data`: no wait of 0 is for 3 itself.
    let results = on_each(
        &mesh(&[("data", 2), ("model", 2)]),
        ThreadOptions::default(),
        |rank, mut device| match rank {
            3 => {
                std::thread::sleep(Duration::from_millis(20));
                device.abort("head / loss", "no memory");
                Ok(())
            }
            0 => sum(&mut device, "model", "norm", 4),
            _ => sum(&mut device, "data", "gradient", 4),
        },
    );
    let expected =
        CollectiveError::Aborted { rank: 3, label: "head / loss".into(), reason: "no memory".into() };
    assert_eq!(results[0], Err(expected.clone()));
    assert_eq!(results[1], Err(expected.clone()));
    assert_eq!(expected.to_string(), "device 3 failed at step `head / loss`: no memory");
}

#[test]
fn a_panic_is_an_abort() {
    let mut devices = threads(&mesh(&[("data", 2)]), ThreadOptions::default()).into_iter();
    let (mut first, second) = (devices.next().expect("two"), devices.next().expect("two"));
    let thread = std::thread::spawn(move || {
        let _second = second;
        std::panic::resume_unwind(Box::new("as a failing kernel would"));
    });
    let error = sum(&mut first, "data", "gradient", 4).expect_err("the other panicked");
    assert!(matches!(error, CollectiveError::Aborted { rank: 1, .. }), "{error}");
    assert!(error.to_string().contains("it panicked"), "{error}");
    assert!(thread.join().is_err());
    assert!(sum(&mut first, "data", "later", 4).is_err(), "later calls fail too");
}

#[test]
fn who_leaves_is_not_waited_for() {
    let mut devices = threads(&mesh(&[("data", 2)]), ThreadOptions::default()).into_iter();
    let mut first = devices.next().expect("two");
    drop(devices);
    let error = sum(&mut first, "data", "gradient", 4).expect_err("the other has ended");
    assert!(error.to_string().contains("device 1") && error.to_string().contains("it has ended"), "{error}");
}

#[test]
fn a_stall_names_who_is_missing() {
    let options = ThreadOptions { timeout: Some(Duration::from_millis(50)), ..ThreadOptions::default() };
    let began = Instant::now();
    let results = on_each(&mesh(&[("data", 4)]), options, |rank, mut device| match rank {
        1 | 2 => {
            std::thread::sleep(Duration::from_millis(400));
            sum(&mut device, "data", "gradient", 4)
        }
        _ => sum(&mut device, "data", "gradient", 4),
    });
    for result in &results {
        let error = result.as_ref().expect_err("two did not come in time");
        assert!(matches!(error, CollectiveError::Stalled { missing, .. } if *missing == [1, 2]), "{error}");
        assert!(
            error.to_string().contains("step `gradient` waited")
                && error.to_string().ends_with("devices 1, 2")
        );
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn different_calls_are_noticed() {
    let results = on_each(&mesh(&[("data", 2)]), ThreadOptions::default(), |rank, mut device| {
        sum(&mut device, "data", &format!("step {rank}"), 4 + rank)
    });
    for result in &results {
        let error = result.as_ref().expect_err("sizes differ");
        assert!(matches!(error, CollectiveError::Mismatch { .. }), "{error}");
        assert!(error.to_string().contains("all-reduce by sum of"), "{error}");
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let mut devices = threads(&mesh(&[("data", 2)]), ThreadOptions::default());
    let gather = step(CollectiveKind::AllGather { outer: 2, inner: 3 }, "data", DType::F32, 6);
    let error = perform(&mut devices[0], &gather, "gather", &[0; 24], &mut [0; 24]).expect_err("too small");
    assert_eq!(error, CollectiveError::Size { label: "gather".into(), found: 24, expected: 48 });
    assert_eq!(devices[1].group("data"), [0, 1]);
    assert_eq!(devices[1].group("model"), [1]);
}
