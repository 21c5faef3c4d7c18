//! What a run is given besides the program: other devices, a way to stop it, a clock.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use thalweg_plan::CollectiveStep;

/// Why a collective failed, in the communicator's words.
pub type ExchangeError = Box<dyn std::error::Error + Send + Sync>;

/// One collective of one device.
#[derive(Clone, Copy, Debug)]
pub struct CollectiveCall<'a> {
    /// What is communicated, over which mesh axis.
    pub step: &'a CollectiveStep,
    /// The step's label, for messages.
    pub label: &'a str,
}

/// How a device reaches the others.
pub trait Exchange {
    /// Does one collective: `operand` is this device's operand, `result` where its result goes.
    fn exchange(
        &mut self,
        call: CollectiveCall<'_>,
        operand: &[u8],
        result: &mut [u8],
    ) -> Result<(), ExchangeError>;
}

/// The exchange of a device that has no others: every collective among one device is a copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Exchange for Alone {
    fn exchange(
        &mut self,
        _: CollectiveCall<'_>,
        operand: &[u8],
        result: &mut [u8],
    ) -> Result<(), ExchangeError> {
        if operand.len() != result.len() {
            return Err("a device that runs alone was to communicate".into());
        }
        result.copy_from_slice(operand);
        Ok(())
    }
}

/// What one step took, all its runs of one call together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StepTime {
    /// Nanoseconds from the epoch to the first beginning.
    pub start_ns: u64,
    /// Nanoseconds spent in it.
    pub total_ns: u64,
    /// How often it ran; 0 for a step of a branch that was not taken.
    pub runs: u64,
}

/// What a run is given.
pub struct RunContext<'a> {
    exchange: &'a mut dyn Exchange,
    cancel: Option<&'a AtomicBool>,
    position: Option<&'a AtomicUsize>,
    clock: Option<(Instant, &'a mut [StepTime])>,
}

impl<'a> RunContext<'a> {
    /// A run that nobody watches.
    pub fn new(exchange: &'a mut dyn Exchange) -> RunContext<'a> {
        RunContext { exchange, cancel: None, position: None, clock: None }
    }

    /// The run ends before the next step once this is true.
    pub fn with_cancel(mut self, cancel: &'a AtomicBool) -> RunContext<'a> {
        self.cancel = Some(cancel);
        self
    }

    /// The number of the step that runs, in the order of [`steps_in_order`](crate::steps_in_order), is kept here: where a
    /// program is, for others to see.
    pub fn with_position(mut self, position: &'a AtomicUsize) -> RunContext<'a> {
        self.position = Some(position);
        self
    }

    /// Times are written here, one entry for each step in the order of [`steps_in_order`](crate::steps_in_order), counted
    /// from `epoch`. Steps beyond the end of the slice are not timed.
    pub fn with_clock(mut self, epoch: Instant, times: &'a mut [StepTime]) -> RunContext<'a> {
        times.fill(StepTime::default());
        self.clock = Some((epoch, times));
        self
    }

    /// The way to the other devices.
    pub fn exchange(&mut self) -> &mut dyn Exchange {
        self.exchange
    }

    /// To be called before a step: false when the run is to end.
    #[inline]
    pub fn begin(&self, step: usize) -> bool {
        if let Some(position) = self.position {
            position.store(step, Ordering::Relaxed);
        }
        self.cancel.is_none_or(|cancel| !cancel.load(Ordering::Relaxed))
    }

    /// The time now, when steps are timed.
    #[inline]
    pub fn now(&self) -> Option<Instant> {
        self.clock.as_ref().map(|_| Instant::now())
    }

    /// To be called after a step, with what [`now`](Self::now) said before it.
    #[inline]
    pub fn end(&mut self, step: usize, began: Option<Instant>) {
        if let (Some(began), Some((epoch, times))) = (began, &mut self.clock)
            && let Some(time) = times.get_mut(step)
        {
            if time.runs == 0 {
                time.start_ns = began.saturating_duration_since(*epoch).as_nanos() as u64;
            }
            time.total_ns += began.elapsed().as_nanos() as u64;
            time.runs += 1;
        }
    }
}
