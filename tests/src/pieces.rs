//! Values of a mesh of devices: each one's piece, and the whole from all pieces.

use std::ops::Range;
use thalweg_base::{Layout, Mesh};
use thalweg_tensor::Array;

/// A device's piece of a value.
pub fn piece(layout: &Layout, value: &Array, mesh: &Mesh, device: usize) -> Array {
    let ranges = layout.ranges(&value.shape, mesh, device);
    let shape: Vec<usize> = ranges.iter().map(Range::len).collect();
    Array::from_fn(value.dtype, &shape, |index| {
        let global: Vec<usize> = ranges.iter().zip(index).map(|(range, at)| range.start + at).collect();
        value.at(&global)
    })
}

/// The whole of a value from the pieces of all devices.
pub fn join(layout: &Layout, pieces: &[Array], mesh: &Mesh) -> Array {
    let shape = layout.global_shape(&pieces[0].shape, mesh);
    let ranges: Vec<_> = (0..pieces.len()).map(|device| layout.ranges(&shape, mesh, device)).collect();
    Array::from_fn(pieces[0].dtype, &shape, |index| {
        let holds = |ranges: &Vec<Range<usize>>| ranges.iter().zip(index).all(|(own, at)| own.contains(at));
        let device = ranges.iter().position(holds).expect("the pieces cover the whole");
        let own: Vec<usize> = ranges[device].iter().zip(index).map(|(range, at)| at - range.start).collect();
        pieces[device].at(&own)
    })
}
