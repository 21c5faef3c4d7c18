//! Where the threads of one group meet: a barrier that can fail, and two slots of bytes for each member.

use crate::CollectiveError;
use std::fmt;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// How long a member looks for the others before it sleeps: longer than waking takes, shorter than a scheduler's slice.
const SPIN: Duration = Duration::from_micros(30);

/// What a member calls; all members of a group must call the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    pub(crate) dtype: thalweg_base::DType,
    pub(crate) bytes: usize,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes of {}", self.name, self.bytes, self.dtype)
    }
}

/// All groups of all devices: a failure of one is one of all, for who waits for whom crosses groups.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) groups: Vec<Rendezvous>,
    pub(crate) timeout: Option<Duration>,
    failed: AtomicBool,
    failure: Mutex<Option<CollectiveError>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(groups: Vec<Rendezvous>, timeout: Option<Duration>) -> World {
        World { groups, timeout, failed: AtomicBool::new(false), failure: Mutex::new(None) }
    }

    /// Makes everybody's calls fail; the first failure is the one that is told. Returns it.
    pub(crate) fn fail(&self, error: CollectiveError) -> CollectiveError {
        let first = lock(&self.failure).get_or_insert(error).clone();
        self.failed.store(true, Ordering::Release);
        for group in &self.groups {
            // Who is about to sleep holds this lock and has seen no failure: taking it means that it sleeps by now.
            drop(lock(&group.state));
            group.wake.notify_all();
        }
        first
    }

    /// The failure, if there is one.
    pub(crate) fn check(&self) -> Result<(), CollectiveError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(lock(&self.failure).clone().expect("a failure is stored before it is announced"))
    }
}

/// One group.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    /// Ranks of the members.
    pub(crate) ranks: Vec<usize>,
    state: Mutex<State>,
    wake: Condvar,
    /// How often all have come; also in the state, here for those that spin.
    generation: AtomicU64,
    /// Two for each member, used in turn: one may be written while others still read the other.
    slots: Vec<[RwLock<Box<[u8]>>; 2]>,
}

#[derive(Debug)]
struct State {
    arrived: Vec<bool>,
    count: usize,
    generation: u64,
    first: Option<(usize, Signature)>,
    /// The rank of a member that will not come again.
    departed: Option<usize>,
}

impl Rendezvous {
    pub(crate) fn new(ranks: Vec<usize>, slot_bytes: usize) -> Rendezvous {
        let members = ranks.len();
        // A group of one copies and needs no slots.
        let bytes = if members > 1 { slot_bytes } else { 0 };
        let slot = || RwLock::new(vec![0; bytes].into_boxed_slice());
        Rendezvous {
            state: Mutex::new(State {
                arrived: vec![false; members],
                count: 0,
                generation: 0,
                first: None,
                departed: None,
            }),
            wake: Condvar::new(),
            generation: AtomicU64::new(0),
            slots: (0..members).map(|_| [slot(), slot()]).collect(),
            ranks,
        }
    }

    /// A slot to write.
    pub(crate) fn slot_mut(&self, member: usize, turn: usize) -> RwLockWriteGuard<'_, Box<[u8]>> {
        self.slots[member][turn].write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot to read.
    pub(crate) fn slot(&self, member: usize, turn: usize) -> RwLockReadGuard<'_, Box<[u8]>> {
        self.slots[member][turn].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a member will not come again: whoever waits for it fails, now or later.
    pub(crate) fn depart(&self, rank: usize) {
        lock(&self.state).departed.get_or_insert(rank);
        self.wake.notify_all();
    }

    /// The failure of a meeting to which a member that has departed cannot come.
    fn check(&self, world: &World, state: &State) -> Result<(), CollectiveError> {
        world.check()?;
        match state.departed {
            None => Ok(()),
            Some(rank) => Err(CollectiveError::Aborted {
                rank,
                label: String::new(),
                reason: "it has ended".to_string(),
            }),
        }
    }

    /// Waits until all members are here with the same signature.
    pub(crate) fn meet(
        &self,
        world: &World,
        member: usize,
        signature: Signature,
        label: &str,
    ) -> Result<(), CollectiveError> {
        let mut state = lock(&self.state);
        self.check(world, &state)?;
        let (other, expected) = *state.first.get_or_insert((member, signature));
        if expected != signature {
            drop(state);
            let (rank, other) = (self.ranks[member], self.ranks[other]);
            let call = signature.to_string();
            return Err(world.fail(CollectiveError::Mismatch {
                rank,
                label: label.to_string(),
                call,
                other,
            }));
        }
        state.arrived[member] = true;
        state.count += 1;
        let goal = state.generation + 1;
        if state.count == self.ranks.len() {
            state.arrived.fill(false);
            state.count = 0;
            state.first = None;
            state.generation = goal;
            self.generation.store(goal, Ordering::Release);
            drop(state);
            self.wake.notify_all();
            return Ok(());
        }
        drop(state);
        let began = Instant::now();
        while began.elapsed() < SPIN {
            for _ in 0..64 {
                if self.generation.load(Ordering::Acquire) >= goal {
                    return Ok(());
                }
                spin_loop();
            }
            // There may be more devices than cores.
            std::thread::yield_now();
        }
        self.sleep(world, goal, began, label)
    }

    fn sleep(&self, world: &World, goal: u64, began: Instant, label: &str) -> Result<(), CollectiveError> {
        let mut state = lock(&self.state);
        loop {
            if state.generation >= goal {
                return Ok(());
            }
            self.check(world, &state)?;
            let Some(timeout) = world.timeout else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Some(left) = timeout.checked_sub(began.elapsed()) else {
                let missing = self.ranks.iter().zip(&state.arrived).filter(|(_, arrived)| !**arrived);
                let missing = missing.map(|(rank, _)| *rank).collect();
                drop(state);
                let waited = began.elapsed();
                return Err(world.fail(CollectiveError::Stalled {
                    label: label.to_string(),
                    waited,
                    missing,
                }));
            };
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
