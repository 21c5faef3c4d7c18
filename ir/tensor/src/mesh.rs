//! Named axes of devices.

use serde::{Deserialize, Serialize};

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

    /// The number of devices.
    pub fn devices(&self) -> usize {
        self.axes.iter().map(|(_, size)| size).product()
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
}
