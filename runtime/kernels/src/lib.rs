//! CPU kernels written by hand: a thread pool, contractions over strided operands, and convolutions.
//!
//! A kernel is described by plain data ([`Contraction`], [`Convolution`]), prepared once for an instruction set and a
//! number of threads (which fixes blocking, offset tables and the size of the workspace), and then run any number of
//! times without allocating. An [`Epilogue`] is called on each finished tile of the result while it is still in cache,
//! so that what follows a product pointwise costs no pass over memory.

#![allow(
    clippy::needless_range_loop,
    reason = "loops over the lanes of several arrays at once read best by index"
)]

mod blocked;
mod contract;
mod convolve;
mod element;
mod epilogue;
mod isa;
mod offsets;
mod pack;
mod plan;
mod pool;
mod simd;
mod skinny;
mod tile;

pub use contract::{Axis, Contraction, Prepared};
pub use convolve::{Algorithm, Convolution, Direction, PreparedConvolution};
pub use element::DType;
pub use epilogue::Epilogue;
pub use isa::Isa;
pub use pool::ThreadPool;
