//! Which piece of a tensor each device of a mesh holds.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use thalweg_base::Dim;
use thalweg_tensor::axes::Part;
use thalweg_tensor::{Array, Mesh, TensorType};

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

    /// The type of each device's piece of a tensor of that global type.
    pub fn local_type(&self, ty: &TensorType, mesh: &Mesh) -> TensorType {
        self.cuts.iter().fold(ty.clone(), |ty, (axis, dim)| local(&ty, Part::Cut(*dim), mesh.size(axis)))
    }

    /// A device's piece of a value.
    pub fn piece(&self, value: &Array, mesh: &Mesh, device: usize) -> Array {
        let ranges = self.ranges(&value.shape, mesh, device);
        let shape: Vec<usize> = ranges.iter().map(Range::len).collect();
        Array::from_fn(value.dtype, &shape, |index| {
            let global: Vec<usize> = ranges.iter().zip(index).map(|(range, at)| range.start + at).collect();
            value.at(&global)
        })
    }

    /// The whole of a value from the pieces of all devices.
    pub fn join(&self, pieces: &[Array], mesh: &Mesh) -> Array {
        let mut shape = pieces[0].shape.clone();
        for (axis, dim) in &self.cuts {
            shape[*dim] *= mesh.size(axis);
        }
        let ranges: Vec<_> = (0..pieces.len()).map(|device| self.ranges(&shape, mesh, device)).collect();
        Array::from_fn(pieces[0].dtype, &shape, |index| {
            let holds =
                |ranges: &Vec<Range<usize>>| ranges.iter().zip(index).all(|(own, at)| own.contains(at));
            let device = ranges.iter().position(holds).expect("the pieces cover the whole");
            let own: Vec<usize> =
                ranges[device].iter().zip(index).map(|(range, at)| at - range.start).collect();
            pieces[device].at(&own)
        })
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

/// The type of a piece along one mesh axis.
pub(crate) fn local(ty: &TensorType, part: Part, parts: usize) -> TensorType {
    let mut ty = ty.clone();
    if let Part::Cut(dim) = part {
        ty.shape[dim] = ty.shape[dim].exact_div(&Dim::from(parts)).expect("a cut divides its dim");
    }
    ty
}

/// A placement along one mesh axis, in words.
pub(crate) fn words(part: Part) -> String {
    match part {
        Part::Replicated => "whole".into(),
        Part::Cut(dim) => format!("cut along dim {dim}"),
        Part::Partial(function) => format!("parts of a {}", function.pointwise()),
    }
}
