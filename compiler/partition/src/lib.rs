//! thalweg-partition
