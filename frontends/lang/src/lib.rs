//! thalweg-lang
