//! thalweg-executor
