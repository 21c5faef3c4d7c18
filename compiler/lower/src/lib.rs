//! thalweg-lower
