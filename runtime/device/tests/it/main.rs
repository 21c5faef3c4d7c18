//! Every kind of step on every device: what the processor leaves in its arena is what the reference device leaves.

mod kernels;
mod plans;
mod refusals;
mod steps;
