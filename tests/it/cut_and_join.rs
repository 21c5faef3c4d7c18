//! For every way to cut an op that its axis signature allows: the op on the pieces, joined as the signature says, is the op
//! on the whole.

use super::conformance::{SAMPLE_DEVICES, sample_mesh};
use std::collections::BTreeMap;
use thalweg_tensor::axes::{Cut, Part};
use thalweg_tensor::op::PerDevice;
use thalweg_tensor::{Array, Op, Sample, TensorType};
use thalweg_tests::{compare, values};

fn pieces(whole: &Array, part: Part, parts: usize) -> Vec<Array> {
    match part {
        Part::Replicated => vec![whole.clone(); parts],
        Part::Cut(dim) => whole.split(dim, parts),
        Part::Partial(function) => panic!("no operand is partial, not even by {function:?}"),
    }
}

fn join(pieces: &[Array], part: Part) -> Array {
    match part {
        Part::Replicated => pieces[0].clone(),
        Part::Cut(dim) => Array::concat(pieces, dim),
        Part::Partial(function) => Array::combine(pieces, function),
    }
}

/// Evaluates the pieces one after the other, each on the devices that the op itself may communicate with.
fn check(sample: &Sample, cut: &Cut, parts: usize, devices: &PerDevice<Array>, whole: &PerDevice<Array>) {
    let what = format!("{:?} with {cut:?} in {parts}", sample.op);
    let op = cut.localize(&sample.op, parts);
    let local: Vec<PerDevice<Array>> = (0..parts)
        .map(|piece| {
            let of = |operands: &Vec<Array>| {
                let cuts = operands.iter().zip(&cut.operands);
                cuts.map(|(array, part)| pieces(array, *part, parts).remove(piece)).collect()
            };
            devices.iter().map(of).collect()
        })
        .collect();
    let ty = |array: &Array| TensorType::new(array.dtype, array.shape.iter().copied());
    let types: Vec<TensorType> = local[0][0].iter().map(ty).collect();
    let inferred = op.def().infer(&types).unwrap_or_else(|error| panic!("{what}: {error}"));
    let results: Vec<PerDevice<Array>> =
        local.iter().map(|operands| op.def().eval(&sample_mesh(), operands)).collect();
    for device in 0..devices.len() {
        for (index, part) in cut.results.iter().enumerate() {
            let pieces: Vec<Array> = results.iter().map(|piece| piece[device][index].clone()).collect();
            assert_eq!(inferred[index].sizes(), pieces[0].shape, "{what}: type of a piece");
            let terms = sample.operands.iter().map(|(ty, _)| ty.elements().size()).max().unwrap_or(1);
            compare::assert_close(&what, &whole[device][index], &join(&pieces, *part), terms, 1.0);
        }
    }
}

#[test]
fn pieces_make_the_whole() {
    let mut cuts_of: BTreeMap<&str, usize> = BTreeMap::new();
    for sample in Op::all_samples() {
        let types: Vec<TensorType> = sample.operands.iter().map(|(ty, _)| ty.clone()).collect();
        let results = sample.op.def().infer(&types).expect("samples fit");
        let signature = sample.op.def().axes(&types, &results);
        // Devices that communicate hold different values.
        let count = if matches!(sample.op, Op::Collective(_)) { SAMPLE_DEVICES } else { 1 };
        let devices: PerDevice<Array> = (0..count).map(|d| values::operands(&sample, d as u64)).collect();
        let whole = sample.op.def().eval(&sample_mesh(), &devices);
        let count = cuts_of.entry(sample.op.name()).or_default();
        for parts in [2, 3] {
            for cut in signature.cuts(parts) {
                check(&sample, &cut, parts, &devices, &whole);
                *count += 1;
            }
        }
    }
    // Constants and iotas differ from piece to piece; sub-graphs are not looked into.
    let uncut: Vec<&str> = cuts_of.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    assert_eq!(uncut, ["Branch", "Constant", "Iota", "Scan", "While"]);
}

/// What a cut saves: the pieces of a mapped or reduced axis share the arithmetic, unless every device does it all.
#[test]
fn pieces_share_the_work() {
    for sample in Op::all_samples() {
        let types: Vec<TensorType> = sample.operands.iter().map(|(ty, _)| ty.clone()).collect();
        let results = sample.op.def().infer(&types).expect("samples fit");
        let whole = sample.op.def().work(&types, &results).flops;
        for cut in sample.op.def().axes(&types, &results).cuts(2) {
            let local: Vec<TensorType> = types
                .iter()
                .zip(&cut.operands)
                .map(|(ty, part)| {
                    let mut ty = ty.clone();
                    if let Part::Cut(dim) = part {
                        ty.shape[*dim] = ty.shape[*dim].exact_div(&2.into()).expect("it is cut");
                    }
                    ty
                })
                .collect();
            let op = cut.localize(&sample.op, 2);
            let results = op.def().infer(&local).expect("pieces fit");
            let piece = op.def().work(&local, &results).flops;
            assert_eq!(2.0 * piece, whole, "{:?} with {cut:?}", sample.op);
        }
    }
}
