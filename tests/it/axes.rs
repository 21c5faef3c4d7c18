//! Axis signatures are well-formed: every dim is the product of its axes, and roles mean what they say.

use std::collections::BTreeSet;
use thalweg_base::dim::product;
use thalweg_tensor::axes::DimAxes;
use thalweg_tensor::{AxisId, Op, Role, Sample, TensorType};

fn check(sample: &Sample) {
    let what = format!("{:?}", sample.op);
    let types: Vec<TensorType> = sample.operands.iter().map(|(ty, _)| ty.clone()).collect();
    let results = sample.op.def().infer(&types).expect("samples fit");
    let signature = sample.op.def().axes(&types, &results);
    let sides = [(&signature.operands, &types), (&signature.results, &results)];
    for (dims, types) in sides {
        assert_eq!(dims.len(), types.len(), "{what}: number of tensors");
        for (dims, ty) in dims.iter().zip(types) {
            assert_eq!(dims.len(), ty.rank(), "{what}: rank of {ty}");
            let mut seen = BTreeSet::new();
            for (axes, size) in dims.iter().zip(&ty.shape) {
                let sizes: Vec<_> = axes.iter().map(|axis| &signature.axes[axis.index()].size).collect();
                assert_eq!(product(sizes), *size, "{what}: axes {axes:?} of a dim of {ty}");
                assert!(axes.iter().all(|axis| seen.insert(*axis)), "{what}: an axis stands twice in {ty}");
            }
        }
    }
    let within = |tensors: &[Vec<DimAxes>], axis| tensors.iter().flatten().flatten().any(|own| *own == axis);
    for (index, axis) in signature.axes.iter().enumerate() {
        let id = AxisId::new(index);
        let (read, written) = (within(&signature.operands, id), within(&signature.results, id));
        assert!(read || written, "{what}: axis {id} is nowhere");
        if let Role::Reduced(_) = axis.role {
            assert!(read && !written, "{what}: {id} is reduced, so operands have it and results do not");
        }
    }
}

#[test]
fn signatures_are_well_formed() {
    Op::all_samples().iter().for_each(check);
}
