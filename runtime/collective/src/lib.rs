//! thalweg-collective
