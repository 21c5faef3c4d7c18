//! The devices of an executor and the threads that run them. The caller's thread runs the first device; every other has a
//! thread of its own that sleeps between calls.

use crate::ExecutorError;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use thalweg_collective::{
    CollectiveError, Communicator, ThreadCommunicator, ThreadOptions, perform, threads,
};
use thalweg_device::{
    CollectiveCall, Exchange, ExchangeError, Lent, LoadedProgram, RunContext, RunError, StepTime,
    steps_in_order,
};
use thalweg_plan::Plan;

/// Ends runs of one executor from another thread.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Ends the run under way, or the next one when there is none, before its next step.
    pub fn interrupt(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One device with its program.
pub(crate) struct Station {
    pub(crate) program: Box<dyn LoadedProgram>,
    communicator: ThreadCommunicator,
    /// One entry for each step.
    pub(crate) times: Vec<StepTime>,
}

/// How a device's run ended badly.
#[derive(Debug)]
enum Failure {
    Run(RunError),
    Panic(String),
}

/// What the caller asks of the threads.
struct Orders {
    /// The number of the call.
    call: u64,
    /// Threads that have not finished it.
    remaining: usize,
    /// The epoch of its times, when it is timed.
    epoch: Option<Instant>,
    stop: bool,
    failures: Vec<Option<Failure>>,
}

struct Shared {
    stations: Vec<Mutex<Station>>,
    /// At which step each device is.
    positions: Vec<AtomicUsize>,
    /// Labels of the steps of each device.
    labels: Vec<Vec<String>>,
    interrupt: Arc<AtomicBool>,
    orders: Mutex<Orders>,
    begun: Condvar,
    finished: Condvar,
}

/// All devices of an executor.
pub(crate) struct Crew {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    plan: Arc<Plan>,
    options: ThreadOptions,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The exchange of one device among threads.
struct Link<'a>(&'a mut ThreadCommunicator);

impl Exchange for Link<'_> {
    fn exchange(
        &mut self,
        call: CollectiveCall<'_>,
        operand: &[u8],
        result: &mut [u8],
    ) -> Result<(), ExchangeError> {
        perform(self.0, call.step, call.label, operand, result).map_err(ExchangeError::from)
    }
}

impl Crew {
    pub(crate) fn new(
        plan: &Arc<Plan>,
        programs: Vec<Box<dyn LoadedProgram>>,
        options: ThreadOptions,
    ) -> Result<Crew, ExecutorError> {
        let labels: Vec<Vec<String>> = plan
            .programs
            .iter()
            .map(|program| {
                let steps = steps_in_order(&program.steps);
                steps.into_iter().map(|(_, step)| step.origin.label.clone()).collect()
            })
            .collect();
        let devices = programs.len();
        let stations = programs.into_iter().zip(threads(&plan.mesh, options)).zip(&labels);
        let stations = stations.map(|((program, communicator), labels)| {
            Mutex::new(Station { program, communicator, times: vec![StepTime::default(); labels.len()] })
        });
        let orders = Orders {
            call: 0,
            remaining: 0,
            epoch: None,
            stop: false,
            failures: (0..devices).map(|_| None).collect(),
        };
        let shared = Arc::new(Shared {
            stations: stations.collect(),
            positions: (0..devices).map(|_| AtomicUsize::new(0)).collect(),
            labels,
            interrupt: Arc::new(AtomicBool::new(false)),
            orders: Mutex::new(orders),
            begun: Condvar::new(),
            finished: Condvar::new(),
        });
        let mut crew = Crew { shared, workers: Vec::new(), plan: Arc::clone(plan), options };
        for rank in 1..devices {
            let shared = Arc::clone(&crew.shared);
            let thread = std::thread::Builder::new().name(format!("thalweg-device-{rank}"));
            let worker = thread.spawn(move || shared.serve(rank)).map_err(|error| ExecutorError::Failed {
                rank,
                step: String::new(),
                reason: format!("the system refuses a thread: {error}"),
            })?;
            crew.workers.push(worker);
        }
        Ok(crew)
    }

    /// The device of that rank, between runs.
    pub(crate) fn station(&self, rank: usize) -> MutexGuard<'_, Station> {
        lock(&self.shared.stations[rank])
    }

    /// How many devices there are.
    pub(crate) fn devices(&self) -> usize {
        self.shared.stations.len()
    }

    /// What ends runs from other threads.
    pub(crate) fn interrupt(&self) -> Interrupt {
        Interrupt(Arc::clone(&self.shared.interrupt))
    }

    /// Runs all devices once, the first with what is lent to it. With an epoch, the times of all steps are in the stations
    /// afterwards.
    pub(crate) fn run(&mut self, epoch: Option<Instant>, lent: &mut [Lent<'_>]) -> Result<(), ExecutorError> {
        let mut orders = lock(&self.shared.orders);
        orders.call += 1;
        orders.remaining = self.workers.len();
        orders.epoch = epoch;
        drop(orders);
        self.shared.begun.notify_all();
        let first = self.shared.run(0, epoch, lent);
        let mut orders = lock(&self.shared.orders);
        orders.failures[0] = first;
        while orders.remaining > 0 {
            orders = self.shared.finished.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
        if orders.failures.iter().all(Option::is_none) {
            return Ok(());
        }
        let failures: Vec<_> = orders.failures.iter_mut().map(Option::take).collect();
        drop(orders);
        Err(self.recover(failures))
    }

    /// After a failure: gives every device a communicator that has not failed, and says what happened first.
    fn recover(&self, failures: Vec<Option<Failure>>) -> ExecutorError {
        self.shared.interrupt.store(false, Ordering::Relaxed);
        for (rank, communicator) in threads(&self.plan.mesh, self.options).into_iter().enumerate() {
            self.station(rank).communicator = communicator;
        }
        let failures = failures.into_iter().enumerate().filter_map(|(rank, failure)| Some((rank, failure?)));
        let errors = failures.map(|(rank, failure)| self.shared.error(rank, failure));
        errors.min_by_key(|error| error.1).expect("there is a failure").0
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        lock(&self.shared.orders).stop = true;
        self.shared.begun.notify_all();
        for worker in self.workers.drain(..) {
            // What a worker runs is caught, so it does not panic.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// The life of a device's thread.
    fn serve(&self, rank: usize) {
        let mut seen = 0;
        loop {
            let mut orders = lock(&self.orders);
            while !orders.stop && orders.call == seen {
                orders = self.begun.wait(orders).unwrap_or_else(PoisonError::into_inner);
            }
            if orders.stop {
                return;
            }
            seen = orders.call;
            let epoch = orders.epoch;
            drop(orders);
            let failure = self.run(rank, epoch, &mut []);
            let mut orders = lock(&self.orders);
            orders.failures[rank] = failure;
            orders.remaining -= 1;
            if orders.remaining == 0 {
                self.finished.notify_all();
            }
        }
    }

    /// Runs one device. When it fails, the others are told.
    fn run(&self, rank: usize, epoch: Option<Instant>, lent: &mut [Lent<'_>]) -> Option<Failure> {
        let mut station = lock(&self.stations[rank]);
        let Station { program, communicator, times } = &mut *station;
        let position = &self.positions[rank];
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut link = Link(communicator);
            let context = RunContext::new(&mut link).with_cancel(&self.interrupt).with_position(position);
            let mut context = match epoch {
                Some(epoch) => context.with_clock(epoch, times),
                None => context,
            };
            program.run(&mut context, lent)
        }));
        let failure = match outcome {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => Failure::Run(error),
            Err(panic) => Failure::Panic(message(&*panic)),
        };
        let reason = match &failure {
            Failure::Run(error) => error.to_string(),
            Failure::Panic(message) => message.clone(),
        };
        communicator.abort(self.label(rank), &reason);
        Some(failure)
    }

    /// The label of the step at which a device is.
    fn label(&self, rank: usize) -> &str {
        self.labels[rank].get(self.positions[rank].load(Ordering::Relaxed)).map_or("", String::as_str)
    }

    /// A failure as the caller's error, and how far it is from the cause: what failed by itself comes before what only
    /// failed because others did.
    fn error(&self, rank: usize, failure: Failure) -> (ExecutorError, usize) {
        let failed = |reason| ExecutorError::Failed { rank, step: self.label(rank).to_string(), reason };
        match failure {
            Failure::Panic(message) => (failed(message), 0),
            Failure::Run(RunError::Cancelled { step }) => (ExecutorError::Interrupted { step }, 1),
            Failure::Run(RunError::Collective { step, source }) => match source.downcast::<CollectiveError>()
            {
                Ok(source) => {
                    let missing = if let CollectiveError::Stalled { missing, .. } = &*source {
                        missing.clone()
                    } else if let CollectiveError::Mismatch { other, .. } = &*source {
                        vec![*other]
                    } else {
                        Vec::new()
                    };
                    let secondary = matches!(&*source, CollectiveError::Aborted { .. });
                    let at = missing.into_iter().map(|rank| (rank, self.label(rank).to_string())).collect();
                    (ExecutorError::Collective { rank, source: *source, at }, 2 + secondary as usize)
                }
                Err(source) => (ExecutorError::Failed { rank, step, reason: source.to_string() }, 1),
            },
            Failure::Run(other) => (failed(other.to_string()), 1),
        }
    }
}

/// What a panic says.
fn message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_string()
}
