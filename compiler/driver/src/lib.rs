//! thalweg-driver
