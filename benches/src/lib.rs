//! thalweg-benches
