//! The kernels against obvious loops, on every instruction set of this machine.

mod contract;
mod convolve;
mod pool;
mod support;
