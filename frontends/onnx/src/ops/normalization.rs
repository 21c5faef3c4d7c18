//! Values brought to a common mean and scale.

use super::Row;

/// The rows of this family.
pub const OPS: &[Row] = &[];
