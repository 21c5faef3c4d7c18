//! Windows combined to one value: pooling.

use super::Row;

/// The rows of this family.
pub const OPS: &[Row] = &[];
