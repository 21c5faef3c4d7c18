//! Integers that stand for scaled numbers.

use super::Row;

/// The rows of this family.
pub const OPS: &[Row] = &[];
