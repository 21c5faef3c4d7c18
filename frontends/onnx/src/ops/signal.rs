//! Spectra and windows.

use super::Row;

/// The rows of this family.
pub const OPS: &[Row] = &[];
