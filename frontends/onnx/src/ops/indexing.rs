//! Elements chosen and replaced by index tensors.

use super::Row;

/// The rows of this family.
pub const OPS: &[Row] = &[];
