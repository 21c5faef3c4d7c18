//! thalweg-codegen-cpu
