//! thalweg-cost
