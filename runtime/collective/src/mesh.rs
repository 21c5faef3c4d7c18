//! Where a rank is in the mesh: axes with their sizes, the last varying fastest.

/// The position of a rank along an axis; 0 when the mesh does not have it.
pub fn coordinate(mesh: &[(String, usize)], rank: usize, axis: &str) -> usize {
    let mut rest = rank;
    for (name, size) in mesh.iter().rev() {
        if name == axis {
            return rest % size;
        }
        rest /= size;
    }
    0
}

/// The ranks that differ from `rank` only along `axis`, in the order of their coordinates on it.
pub fn group(mesh: &[(String, usize)], rank: usize, axis: &str) -> Vec<usize> {
    let Some(at) = mesh.iter().position(|(name, _)| name == axis) else { return vec![rank] };
    let stride: usize = mesh[at + 1..].iter().map(|(_, size)| size).product();
    let first = rank - coordinate(mesh, rank, axis) * stride;
    (0..mesh[at].1).map(|i| first + i * stride).collect()
}
