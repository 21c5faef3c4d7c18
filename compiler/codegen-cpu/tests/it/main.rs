//! Compiled kernels against the evaluator.

mod accuracy;
mod emitters;
mod functions;
mod harness;
mod nested;
mod random_kernels;
mod strided;
