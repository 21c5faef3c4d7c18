//! Runs a parallel plan on paper: a step as discrete events, and long trainings with faults.
//!
//! The planner's prediction is a formula; here every microbatch of every replica passes every stage, in the order that the
//! schedule gives, with the times that the prediction has for one microbatch. What the formula leaves out shows: who waits for
//! whom, when memory is full, and what times that differ from replica to replica do to all of them. The devices that share a
//! block work in step and are one worker, so a hundred thousand devices are some thousands of workers.
//!
//! This crate knows no graph, no cost model and no device. Nothing depends on a clock; random numbers come from a seed.

#![forbid(unsafe_code)]

mod faults;
mod order;
mod step;

pub use faults::{Faults, Goodput, goodput};
pub use order::{Task, order};
pub use step::{Event, GroupUse, Settings, Simulation, simulate};

/// A number in [0, 1) from a seed and a counter: SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) fn uniform(seed: u64, counter: u64) -> f64 {
    let mut z = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}
