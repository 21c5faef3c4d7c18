//! Executors: values by name over one and several devices, pieces, failures, traces.

#[path = "../../../device/tests/it/kernels.rs"]
#[allow(dead_code, reason = "not every kernel is used here")]
mod kernels;
#[path = "../../../device/tests/it/plans.rs"]
#[allow(dead_code, reason = "not every plan is used here")]
mod plans;

mod faults;
mod layouts;
mod models;
mod values;
