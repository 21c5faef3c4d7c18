//! Text form, verifier, evaluator, expansion and random numbers.

mod expansion;
mod random;
mod text;
mod verifier;
