//! thalweg-rewrite
