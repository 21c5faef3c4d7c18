//! Compiled kernels against the evaluator.

mod accuracy;
mod harness;
mod random_kernels;
