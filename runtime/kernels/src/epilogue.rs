//! What is called on each finished tile of a result.

/// A function to call on each tile of C once the whole sum is in it.
///
/// `ranges` holds `[batch_lo, batch_hi, m_lo, m_hi, n_lo, n_hi]`, half open, in the flattened batch, m and n indices of
/// the product. The tiles of one run cover every element of C exactly once; the calls may come from several threads at
/// the same time, always for disjoint tiles.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    /// The function: the first argument is `buffers`, the second points to the six bounds.
    pub function: unsafe extern "C" fn(buffers: *const *mut u8, ranges: *const i64),
    /// Handed to the function as it is.
    pub buffers: *const *mut u8,
}

// SAFETY: the pointer is only handed to the function, whose author is told that calls come from several threads; that
// obligation is stated where an epilogue is passed to a run.
unsafe impl Send for Epilogue {}
// SAFETY: as for `Send`.
unsafe impl Sync for Epilogue {}

/// Elements that a tile should have at least, where the product is large enough, so that the call costs nothing.
pub(crate) const TILE_ELEMENTS: usize = 8192;

/// Calls the epilogue for one batch element, rows `m` and columns `n`.
///
/// # Safety
/// The function must be sound for these ranges, and nothing else may touch that tile meanwhile.
#[inline]
pub(crate) unsafe fn call(epilogue: Option<&Epilogue>, batch: usize, m: (usize, usize), n: (usize, usize)) {
    if let Some(epilogue) = epilogue {
        let ranges = [batch, batch + 1, m.0, m.1, n.0, n.1].map(|bound| bound as i64);
        // SAFETY: passed on to the caller.
        unsafe { (epilogue.function)(epilogue.buffers, ranges.as_ptr()) }
    }
}
