//! Features for classical models.

use super::Row;

/// The rows of this family.
pub const OPS: &[Row] = &[];
