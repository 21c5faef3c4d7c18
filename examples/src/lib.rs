//! Models in the `.tw` language (`*.tw`, `models/`), their data (`data/`), and Rust programs that embed the `thalweg` crate
//! (`rust/`):
//!
//! ```text
//! cargo run --release -p thalweg-examples --example embed
//! ```

#![forbid(unsafe_code)]
