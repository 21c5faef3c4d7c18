//! A pool of threads for parallel loops of a few microseconds and more.
//!
//! One job is open at a time. A single word holds the job's number, whether it may still be joined, and how many workers
//! are inside: a worker enters by compare-and-swap, so that none can touch a job after its caller has closed it, and a
//! caller never has to wait for a worker that is asleep. Workers spin for some tens of microseconds after a job, then park.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The job may be joined.
const OPEN: u64 = 1 << 31;
/// The workers that are inside the job.
const INSIDE: u64 = OPEN - 1;
/// One in the job's number.
const NUMBER: u64 = 1 << 32;
/// How long a worker looks for the next job before it sleeps: longer than the gaps between the kernels of one model,
/// shorter than a scheduler's slice.
const SPIN: Duration = Duration::from_micros(50);

type Task = dyn Fn(usize) + Sync;

/// What the workers of a job share; written only while no job is open and no worker is inside.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task,
    parts: usize,
}

/// A word on a cache line of its own, so that counting does not disturb those who wait.
#[repr(align(128))]
struct Apart<T>(T);

struct Shared {
    state: Apart<AtomicU64>,
    next: Apart<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    sleepers: AtomicUsize,
    stop: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only by the caller that holds `busy`, while the state is closed and nobody inside, and read only
// between entering and leaving; the release and acquire operations on `state` order these. Its pointer is to a `Sync` closure.
unsafe impl Sync for Shared {}
// SAFETY: as for `Sync`; nothing in it belongs to a particular thread.
unsafe impl Send for Shared {}

/// Threads that share the parts of a loop with the thread that calls [`ThreadPool::run`].
pub struct ThreadPool {
    shared: Arc<Shared>,
    busy: AtomicBool,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl ThreadPool {
    /// A pool of `threads` threads, of which the caller of [`run`](Self::run) is one; 0 counts as 1. Where the system
    /// refuses a thread, the pool has as many as it was given.
    pub fn new(threads: usize) -> ThreadPool {
        let shared = Arc::new(Shared {
            state: Apart(AtomicU64::new(0)),
            next: Apart(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        });
        let spawn = |index: usize| {
            let shared = Arc::clone(&shared);
            let name = format!("thalweg-{index}");
            std::thread::Builder::new().name(name).spawn(move || shared.serve()).ok()
        };
        let workers = (1..threads).map_while(spawn).collect();
        ThreadPool { shared, busy: AtomicBool::new(false), workers }
    }

    /// How many threads work on a run, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)` to `task(parts - 1)`, each once, in any order and on any of the threads; returns when all are done.
    ///
    /// A call from within a task, or while another thread's call is under way, does its parts on the calling thread.
    ///
    /// # Panics
    /// With the panic of a task, after the others have ended; parts that had not begun may then be left out. The pool
    /// stays usable.
    pub fn run(&self, parts: usize, task: &(dyn Fn(usize) + Sync)) {
        let alone = parts <= 1 || self.workers.is_empty();
        if alone || self.busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            (0..parts).for_each(task);
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; the pointer is not used after this call, which ends when nobody is inside.
        let task = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Task>(task) };
        let job = Job { task, parts };
        // SAFETY: `busy` is held, and the previous run ended with the state closed and nobody inside.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.0.store(0, Ordering::Relaxed);
        let number = (shared.state.0.load(Ordering::Relaxed) & !(OPEN | INSIDE)).wrapping_add(NUMBER);
        // Sequentially consistent with the count of sleepers: either this sees a sleeper or the sleeper sees the job.
        shared.state.0.store(number | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let guard = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
            drop(guard);
        }
        shared.work(job);
        shared.state.0.fetch_and(!OPEN, Ordering::AcqRel);
        let mut turns = 0_u32;
        while shared.state.0.load(Ordering::Acquire) & INSIDE != 0 {
            turns += 1;
            // A worker that lost its core needs ours more than we do.
            if turns.is_multiple_of(4096) { std::thread::yield_now() } else { spin_loop() }
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.wake.notify_all();
        drop(guard);
        for worker in self.workers.drain(..) {
            // A worker cannot panic outside of a task, and a task's panic was given to its caller.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Does parts of the job until none is left.
    fn work(&self, job: Job) {
        let parts = || {
            loop {
                let part = self.next.0.fetch_add(1, Ordering::Relaxed);
                if part >= job.parts {
                    break;
                }
                // SAFETY: the job is open or this thread is inside it, so `run` has not returned and the closure lives.
                unsafe { (*job.task)(part) };
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(parts)) {
            self.next.0.store(job.parts, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }

    /// Whether the state shows a job that this worker has not yet seen.
    fn fresh(state: u64, seen: u64) -> bool {
        state & OPEN != 0 && state / NUMBER != seen
    }

    /// The life of a worker.
    fn serve(&self) {
        let mut seen = 0;
        while let Some(state) = self.next_job(seen) {
            let entered = self
                .state
                .0
                .compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
            if entered {
                seen = state / NUMBER;
                // SAFETY: this worker is counted as inside, so the job is neither rewritten nor ended.
                if let Some(job) = unsafe { *self.job.get() } {
                    self.work(job);
                }
                self.state.0.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// Waits for a job that is not `seen`, first spinning, then asleep; nothing when the pool ends.
    fn next_job(&self, seen: u64) -> Option<u64> {
        let started = Instant::now();
        loop {
            for _ in 0..256 {
                let state = self.state.0.load(Ordering::Acquire);
                if Self::fresh(state, seen) {
                    return Some(state);
                }
                spin_loop();
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if started.elapsed() > SPIN {
                break;
            }
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            let state = self.state.0.load(Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) {
                break None;
            }
            if Self::fresh(state, seen) {
                break Some(state);
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
        found
    }
}
