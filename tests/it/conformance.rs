//! For every sample of every op: what `infer` says is what `eval` gives, and `work` is a sane number.

use std::collections::BTreeSet;
use thalweg_tensor::{Mesh, Op, Sample, TensorType};
use thalweg_tests::values;

/// How many devices the collectives of the samples run on.
pub(crate) const SAMPLE_DEVICES: usize = 2;

/// The mesh that samples of collectives name.
pub(crate) fn sample_mesh() -> Mesh {
    Mesh::line("devices", SAMPLE_DEVICES)
}

fn check(sample: &Sample) {
    let what = format!("{:?}", sample.op);
    let types: Vec<TensorType> = sample.operands.iter().map(|(ty, _)| ty.clone()).collect();
    let results = sample.op.def().infer(&types).unwrap_or_else(|error| panic!("{what}: {error}"));
    let operands = values::operands(sample, 1);
    let devices = vec![operands; SAMPLE_DEVICES];
    let values = sample.op.def().eval(&sample_mesh(), &devices);
    assert_eq!(values.len(), SAMPLE_DEVICES, "{what}");
    for device in values {
        assert_eq!(device.len(), results.len(), "{what}: number of results");
        for (ty, array) in results.iter().zip(device) {
            assert_eq!((ty.dtype, ty.sizes()), (array.dtype, array.shape.clone()), "{what}: type");
            assert_eq!(array.values.len(), ty.elements().size(), "{what}: number of elements");
            for value in &array.values {
                assert_eq!(*value, value.convert(array.dtype), "{what}: a value is no {}", array.dtype);
            }
        }
    }
    let work = sample.op.def().work(&types, &results);
    for amount in [work.flops, work.bytes_read, work.bytes_written] {
        assert!(amount.is_finite() && amount >= 0.0, "{what}: {work:?}");
    }
}

#[test]
fn infer_agrees_with_eval() {
    Op::all_samples().iter().for_each(check);
}

/// Ops whose own files explain that they have nothing to try: leaves have no value, picks belong to what they pick from.
#[test]
fn every_op_has_samples() {
    let sampled: BTreeSet<&str> = Op::all_samples().iter().map(|sample| sample.op.name()).collect();
    let source = include_str!("../../ir/tensor/src/op.rs");
    let list = &source[source.rfind("\nops! {").expect("the list of ops")..];
    let declared = list[..list.find("\n}").expect("its end")].lines().filter_map(|line| {
        let name = line.trim().strip_suffix(',')?;
        name.chars().all(|c| c.is_ascii_alphanumeric()).then_some(name)
    });
    let missing: Vec<&str> = declared.filter(|name| !sampled.contains(name)).collect();
    assert_eq!(missing, ["Leaf", "Pick"]);
}

/// A wrong number of operands is an error of `infer`, never a panic.
#[test]
fn a_missing_operand_is_an_error() {
    for sample in Op::all_samples() {
        let types: Vec<TensorType> = sample.operands.iter().map(|(ty, _)| ty.clone()).collect();
        if let Some((_, fewer)) = types.split_last()
            && !matches!(sample.op, Op::Concat(_))
        {
            assert!(sample.op.def().infer(fewer).is_err(), "{:?} of {fewer:?}", sample.op);
        }
    }
}
