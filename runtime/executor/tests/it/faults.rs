//! Devices that fail, stall or are interrupted.

use crate::kernels;
use crate::models::{linear, port};
use crate::plans::{at, launch, plan, step};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use thalweg_base::{DType, DeviceDescription, Initializer, Literal, Mesh, Scalar};
use thalweg_device::{
    CheckedPlan, CpuDevice, Device, DeviceError, Lent, LoadedProgram, RunContext, RunError,
};
use thalweg_executor::{Executor, ExecutorError, Options};
use thalweg_plan::{Plan, Port, StepKind};

/// What goes wrong on a device, in its run of that number.
#[derive(Clone, Copy)]
enum Fault {
    Panic(usize),
    Delay(usize, Duration),
}

/// A processor on which something goes wrong.
struct Faulty {
    fault: Fault,
}

struct FaultyProgram {
    program: Box<dyn LoadedProgram>,
    fault: Fault,
    runs: AtomicUsize,
}

impl Device for Faulty {
    fn describe(&self) -> DeviceDescription {
        CpuDevice::new(1).describe()
    }

    fn load(&self, plan: &CheckedPlan, rank: usize) -> Result<Box<dyn LoadedProgram>, DeviceError> {
        let program = CpuDevice::new(1).load(plan, rank)?;
        Ok(Box::new(FaultyProgram { program, fault: self.fault, runs: AtomicUsize::new(0) }))
    }
}

impl LoadedProgram for FaultyProgram {
    fn arena_bytes(&self) -> usize {
        self.program.arena_bytes()
    }

    fn workspace_bytes(&self) -> usize {
        self.program.workspace_bytes()
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.program.write(offset, bytes)
    }

    fn write_shared(&mut self, offset: usize, bytes: &Bytes) -> Result<(), DeviceError> {
        self.program.write_shared(offset, bytes)
    }

    fn shared(&self, offset: usize, bytes: usize) -> Option<Bytes> {
        self.program.shared(offset, bytes)
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), DeviceError> {
        self.program.read(offset, into)
    }

    fn run(&mut self, context: &mut RunContext<'_>, lent: &mut [Lent<'_>]) -> Result<(), RunError> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            // Unwinds as a panic does, without printing one.
            Fault::Panic(at) if run == at => {
                context.begin(0);
                std::panic::resume_unwind(Box::new("a tile is out of bounds"));
            }
            Fault::Delay(at, time) if run == at => {
                context.begin(0);
                std::thread::sleep(time);
            }
            Fault::Panic(_) | Fault::Delay(..) => {}
        }
        self.program.run(context, lent)
    }
}

fn with_fault(devices: usize, faulty: usize, fault: Fault, timeout: Option<Duration>) -> Executor {
    let device = |rank: usize| -> Arc<dyn Device> {
        if rank == faulty { Arc::new(Faulty { fault }) } else { Arc::new(CpuDevice::new(1)) }
    };
    Executor::on(Arc::new(linear(devices)), (0..devices).map(device).collect(), timeout)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn x() -> Literal {
    Literal::full(DType::F32, &[12, 8], Scalar::Float(1.0))
}

#[test]
fn a_panic_names_its_device_and_the_next_run_is_good() {
    for faulty in 0..4 {
        let mut executor = with_fault(4, faulty, Fault::Panic(1), None);
        executor.initialize(1).expect("it has places");
        let before = executor.run(&[("x", (&x()).into())]).expect("the first run");
        let error = executor.run(&[("x", (&x()).into())]).expect_err("the second panics");
        assert_eq!(
            error.to_string(),
            format!("device {faulty} failed at step `linear`: a tile is out of bounds")
        );
        let after = executor.run(&[("x", (&x()).into())]).expect("the third run");
        assert_eq!(before, after);
    }
}

#[test]
fn a_stall_names_who_is_waited_for_and_where_it_is() {
    let fault = Fault::Delay(0, Duration::from_millis(500));
    let mut executor = with_fault(2, 1, fault, Some(Duration::from_millis(50)));
    let error = executor.run(&[("x", (&x()).into())]).expect_err("device 1 sleeps");
    let message = error.to_string();
    assert!(message.starts_with("device 0: step `total` waited"), "{message}");
    assert!(message.contains("for device 1;"), "{message}");
    assert!(message.contains("device 1 was at step `"), "{message}");
    executor.run(&[("x", (&x()).into())]).expect("the next run");
}

/// A loop that never ends.
fn endless(devices: usize) -> Plan {
    let less = step("condition", StepKind::Launch(launch(0, 1, vec![at(0), at(4), at(8)])));
    let body = vec![step("pause", StepKind::Copy { from: at(0), to: at(16), bytes: 4 })];
    let mut plan = plan(
        64,
        vec![kernels::less()],
        vec![step("forever", StepKind::While { condition: vec![less], flag: at(8), body })],
    );
    plan.programs[0].constants = vec![(4, Literal::scalar(DType::I32, Scalar::Int(1)))];
    plan.programs = vec![plan.programs[0].clone(); devices];
    plan.mesh = Mesh::line("data", devices);
    let initial = Some(Initializer::Constant(Scalar::Int(0)));
    plan.states = vec![Port { dtype: DType::I32, initial, ..port("x", &[], &[], vec![0; devices]) }];
    plan
}

#[test]
fn endless_runs_are_interrupted() {
    for devices in [1, 2] {
        for reference in [false, true] {
            let options = Options { threads_per_device: 1, reference, timeout: None };
            let mut executor = Executor::new(Arc::new(endless(devices)), &options).expect("a good plan");
            let interrupt = executor.interrupt();
            let began = Instant::now();
            let thread = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(30));
                interrupt.interrupt();
            });
            let error = executor.run(&[]).expect_err("it was interrupted");
            assert!(matches!(error, ExecutorError::Interrupted { .. }), "{error}");
            assert!(began.elapsed() < Duration::from_secs(20));
            thread.join().expect("it does not panic");
            // With the condition false it ends by itself: the interruption is forgotten.
            executor.set("x", &Literal::scalar(DType::I32, Scalar::Int(5))).expect("its type");
            executor.run(&[]).expect("it ends");
        }
    }
}
