//! Which buffers of a kernel may be the same memory.
//!
//! A buffer that is read may be the one that is written when every load from it is at the very position of the store, in a
//! body without loops: then each point reads only what it will overwrite itself, and all values are computed before the
//! first is stored.

use thalweg_kernel::ir::{Access, Expr, Index, Kernel, Place, Stmt};

/// Pairs of a read and a written buffer, of elements of one size, that may share memory.
pub(crate) fn candidates(kernel: &Kernel) -> Vec<(usize, usize)> {
    let mut loads: Vec<Vec<&Index>> = vec![Vec::new(); kernel.buffers.len()];
    let mut stores: Vec<Vec<&Index>> = vec![Vec::new(); kernel.buffers.len()];
    for stmt in &kernel.body {
        match stmt {
            Stmt::Let { expr: Expr::Load { place: Place::Buffer(id), index, .. }, .. } => {
                loads[id.index()].push(index)
            }
            Stmt::Store { place: Place::Buffer(id), index, .. } => stores[id.index()].push(index),
            Stmt::Let { .. } | Stmt::Store { .. } => {}
            Stmt::Loop { .. } => return Vec::new(),
        }
    }
    let mut pairs = Vec::new();
    for (read, buffer) in
        kernel.buffers.iter().enumerate().filter(|(_, buffer)| buffer.access == Access::Read)
    {
        for (write, other) in
            kernel.buffers.iter().enumerate().filter(|(_, other)| other.access == Access::Write)
        {
            let [to] = stores[write][..] else { continue };
            let same =
                buffer.dtype.size_bytes() == other.dtype.size_bytes() && buffer.elements == other.elements;
            if same && to.dynamic.is_none() && loads[read].iter().all(|from| *from == to) {
                pairs.push((read, write));
            }
        }
    }
    pairs
}
