//! Named axes of devices, and which piece of a tensor each device holds.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// Devices arranged along named axes, the last varying fastest. One device without axes is the empty mesh.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Mesh {
    /// Name and size of each axis.
    pub axes: Vec<(String, usize)>,
}

impl Mesh {
    /// A mesh with one axis.
    pub fn line(name: &str, size: usize) -> Mesh {
        Mesh { axes: vec![(name.to_string(), size)] }
    }

    /// The number of devices; the largest number where it is beyond, as sizes in a file may be anything.
    pub fn devices(&self) -> usize {
        self.axes.iter().fold(1, |devices: usize, (_, size)| devices.saturating_mul(*size))
    }

    /// The size of a named axis; 1 when the mesh does not have it.
    pub fn size(&self, axis: &str) -> usize {
        self.axes.iter().find(|(name, _)| name == axis).map_or(1, |(_, size)| *size)
    }

    /// The device's position along a named axis; 0 when the mesh does not have it.
    pub fn coordinate(&self, device: usize, axis: &str) -> usize {
        let mut rest = device;
        for (name, size) in self.axes.iter().rev() {
            if name == axis {
                return rest % size;
            }
            rest /= size;
        }
        0
    }

    /// The devices that differ from `device` only along `axis`, in the order of their coordinate on it.
    pub fn group(&self, device: usize, axis: &str) -> Vec<usize> {
        let Some(at) = self.axes.iter().position(|(name, _)| name == axis) else { return vec![device] };
        let stride: usize = self.axes[at + 1..].iter().map(|(_, size)| size).product();
        let first = device - self.coordinate(device, axis) * stride;
        (0..self.axes[at].1).map(|i| first + i * stride).collect()
    }
}

/// The cuts of a tensor over a mesh. Along axes that are not named, every device holds the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Layout {
    /// Mesh axis and dim of each cut. Where a dim is cut more than once, later cuts are within the pieces of earlier ones.
    pub cuts: Vec<(String, usize)>,
}

impl Layout {
    /// Whether every device holds all of it.
    pub fn is_replicated(&self) -> bool {
        self.cuts.is_empty()
    }

    /// The positions of each dim that a device holds, for a tensor of that global shape.
    pub fn ranges(&self, shape: &[usize], mesh: &Mesh, device: usize) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = shape.iter().map(|size| 0..*size).collect();
        for (axis, dim) in &self.cuts {
            let (own, parts) = (&mut ranges[*dim], mesh.size(axis));
            let piece = own.len() / parts;
            let start = own.start + piece * mesh.coordinate(device, axis);
            *own = start..start + piece;
        }
        ranges
    }

    /// The sizes of a device's piece of a tensor of that global shape.
    pub fn local_shape(&self, shape: &[usize], mesh: &Mesh) -> Vec<usize> {
        let mut local = shape.to_vec();
        for (axis, dim) in &self.cuts {
            local[*dim] /= mesh.size(axis);
        }
        local
    }

    /// The global shape of a tensor whose pieces have that shape.
    pub fn global_shape(&self, local: &[usize], mesh: &Mesh) -> Vec<usize> {
        let mut shape = local.to_vec();
        for (axis, dim) in &self.cuts {
            shape[*dim] *= mesh.size(axis);
        }
        shape
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_replicated() {
            return f.write_str("replicated");
        }
        let cuts: Vec<String> =
            self.cuts.iter().map(|(axis, dim)| format!("dim {dim} over {axis}")).collect();
        f.write_str(&cuts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_partition_the_mesh() {
        let mesh = Mesh { axes: vec![("data".into(), 2), ("model".into(), 3)] };
        assert_eq!(mesh.group(4, "model"), [3, 4, 5]);
        assert_eq!(mesh.group(4, "data"), [1, 4]);
        assert_eq!(mesh.group(4, "pipe"), [4]);
        assert_eq!(mesh.coordinate(5, "model"), 2);
    }

    #[test]
    fn pieces_cover_a_tensor() {
        let mesh = Mesh { axes: vec![("data".into(), 2), ("model".into(), 3)] };
        let layout = Layout { cuts: vec![("model".into(), 1), ("data".into(), 1)] };
        assert_eq!(layout.local_shape(&[5, 12], &mesh), [5, 2]);
        assert_eq!(layout.global_shape(&[5, 2], &mesh), [5, 12]);
        let starts: Vec<usize> =
            (0..6).map(|device| layout.ranges(&[5, 12], &mesh, device)[1].start).collect();
        assert_eq!(starts, [0, 4, 8, 2, 6, 10]);
    }
}
