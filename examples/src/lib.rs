//! Models in the `.tw` language (`*.tw`, `models/`), their data (`data/`), and Rust programs that embed the `thalweg` crate
//! (`rust/`):
//!
//! ```text
//! cargo run --release -p thalweg-examples --example embed
//! cargo run --release -p thalweg-examples --features image --example classify -- MODEL.onnx PHOTO [LABELS.txt]
//! cargo run --release -p thalweg-examples --features text --example similarity -- MODEL TOKENIZER.json SENTENCE SENTENCE…
//! ```
//!
//! The features bring readers of pictures and tokenizers, which nothing else needs. Each program says in its first lines where
//! to get models for it.

#![forbid(unsafe_code)]
