//! Compiled kernels against the evaluator.

mod accuracy;
mod functions;
mod harness;
mod random_kernels;
