//! thalweg-tensor
