//! Attention and what models put around it.

use super::Row;

/// The rows of this family.
pub const OPS: &[Row] = &[];

/// The rows of ops that are tried out by the format.
pub const PREVIEW: &[Row] = &[];
