//! Values for operands and leaves, from a seed.

use thalweg_base::{DType, Scalar, random};
use thalweg_tensor::op::Fill;
use thalweg_tensor::ops::Leaf;
use thalweg_tensor::{Array, Graph, Sample, TensorType, eval::Environment};

/// The step between neighbours of [`Fill::Distinct`]: far more than a finite difference, and with the offset no value is near an integer.
const DISTINCT_STEP: f64 = 0.3717;

/// An array of a type without symbols, drawn as told. Another seed gives other values, for `Distinct` too: the same
/// spacing at another offset, so that operands of one op do not meet.
pub fn filled(ty: &TensorType, fill: Fill, seed: u64) -> Array {
    let key = random::key_for(seed, "sample");
    let shape = ty.sizes();
    let count: usize = shape.iter().product();
    let words = |index: usize| random::threefry2x32(key, [index as u32, 0]);
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|index| words(*index));
    let mut rank = vec![0; count];
    for (position, index) in order.into_iter().enumerate() {
        rank[index] = position;
    }
    let element = |index: usize| {
        let word = words(index)[0] as usize;
        match (fill, ty.dtype.is_float()) {
            (Fill::Normal, true) => Scalar::Float(random::normal(words(index))),
            (Fill::Normal, false) if ty.dtype == DType::Bool => Scalar::Int((word % 2) as i128),
            (Fill::Normal, false) => Scalar::Int((word % 9) as i128 - 4),
            (Fill::Positive, true) => Scalar::Float(0.5 + 1.5 * random::uniform(words(index)[0])),
            (Fill::Positive, false) => Scalar::Int((word % 4) as i128 + 1),
            (Fill::Index(bound), _) => Scalar::Int((word % bound.max(1)) as i128),
            (Fill::Distinct, true) => {
                let centred = rank[index] as f64 - count as f64 / 2.0;
                Scalar::Float(DISTINCT_STEP * centred + 0.1137 + 0.083 * (seed % 4) as f64)
            }
            (Fill::Distinct, false) => Scalar::Int(rank[index] as i128 - count as i128 / 2),
        }
    };
    Array {
        dtype: ty.dtype,
        shape,
        values: (0..count).map(|index| element(index).convert(ty.dtype)).collect(),
    }
}

/// A value for every operand of a sample.
pub fn operands(sample: &Sample, seed: u64) -> Vec<Array> {
    let operands = sample.operands.iter().enumerate();
    operands.map(|(index, (ty, fill))| filled(ty, *fill, 4 * seed + index as u64)).collect()
}

/// The value of a leaf: normal values from its name.
pub fn leaf(leaf: &Leaf, seed: u64) -> Array {
    let key = random::key_for(seed, &leaf.name);
    filled(&leaf.ty, Fill::Normal, u64::from(key[0]) << 32 | u64::from(key[1]))
}

/// A value for every leaf of a graph without symbols.
pub fn environment(graph: &Graph, seed: u64) -> Environment {
    let leaves = graph.nodes().iter().filter_map(|node| node.op.as_leaf());
    leaves.map(|own| ((own.kind, own.name.to_string()), leaf(own, seed))).collect()
}
