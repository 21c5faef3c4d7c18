//! Placements along one mesh axis: what they make of a type, and what people call them.

use thalweg_base::Dim;
use thalweg_tensor::TensorType;
use thalweg_tensor::axes::Part;

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
