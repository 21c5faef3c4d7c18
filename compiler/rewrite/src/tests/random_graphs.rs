//! Random graphs of ops that rules look at: whatever could be extracted is equal, and what is extracted gives the same.

use super::{assert_consistent, assert_same_results};
use crate::normalize::normalize;
use crate::plan::build;
use crate::regions::split;
use crate::rules::{self, Class, Table};
use crate::saturate::{Limits, saturate};
use crate::{Options, rewrite};
use proptest::prelude::*;
use thalweg_base::{DType, Dim, PointwiseFn as F, Scalar};
use thalweg_cost::{CostModel, presets};
use thalweg_tensor::ops::{
    Broadcast, Concat, Contract, Initializer, Pad, PadDim, Pointwise, Reduce, Reshape, Slice, SliceRange,
    Transpose,
};
use thalweg_tensor::verify::assert_valid;
use thalweg_tensor::{Graph, NodeId, Op, ReduceFn, TensorType};

/// Functions whose values stay within a few decades and whose steps are far apart, so that rounding stays small.
const FUNCTIONS: [F; 12] =
    [F::Neg, F::Abs, F::Tanh, F::Erf, F::Sin, F::Cos, F::Add, F::Sub, F::Mul, F::Max, F::Min, F::Mul];

/// A step as numbers, read by what there is to choose from.
type Step = (u8, [usize; 4]);

/// The graph of some steps; what does not fit is left out.
fn graph_of(steps: &[Step]) -> Graph {
    let mut graph = Graph::new("random");
    let ty = |shape: &[usize]| TensorType::new(DType::F32, shape.iter().copied());
    let init = Initializer::Constant(Scalar::Float(0.5));
    graph.input("x", ty(&[2, 3]));
    graph.input("y", ty(&[3, 2]));
    graph.input("z", ty(&[3]));
    graph.parameter("v", ty(&[3, 2]), init.clone());
    graph.parameter("w", ty(&[3, 2]), init);
    for (kind, numbers) in steps {
        let count = graph.nodes().len();
        let pick = |index: usize| NodeId::new(numbers[index] % count);
        let (a, b) = (pick(0), pick(1));
        let shape = graph.ty(a).shape.clone();
        let rank = shape.len();
        let dim = if rank == 0 { 0 } else { numbers[2] % rank };
        let (op, operands): (Op, Vec<NodeId>) = match kind % 12 {
            0..=2 => {
                let function = FUNCTIONS[numbers[2] % FUNCTIONS.len()];
                let same = graph.ids().filter(|id| graph.ty(*id) == graph.ty(a)).collect::<Vec<_>>();
                let b = same[numbers[1] % same.len()];
                (Pointwise { function }.into(), [a, b][..function.arity()].to_vec())
            }
            3 => {
                let values = [0.0, 1.0, -1.0, 0.5, 3.0];
                let value =
                    graph.full(&graph.ty(a).clone(), Scalar::Float(values[numbers[1] % values.len()]));
                let function = [F::Add, F::Sub, F::Mul, F::Max][numbers[2] % 4];
                let operands = if numbers[3] % 2 == 0 { vec![a, value] } else { vec![value, a] };
                (Pointwise { function }.into(), operands)
            }
            4 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                if rank > 1 {
                    perm.swap(dim, numbers[3] % rank);
                    perm.rotate_left(numbers[1] % rank);
                }
                (Transpose { perm }.into(), vec![a])
            }
            5 => {
                let mut shape = shape;
                match numbers[3] % 3 {
                    0 => shape = vec![thalweg_base::dim::product(&shape)],
                    1 => shape.insert(numbers[1] % (rank + 1), Dim::ONE),
                    _ => shape.reverse(),
                }
                (Reshape { shape }.into(), vec![a])
            }
            6 => {
                let at = numbers[1] % (rank + 1);
                let mut wide = shape;
                wide.insert(at, Dim::from([2, 3][numbers[3] % 2]));
                let dims = (0..=rank).filter(|dim| *dim != at).collect();
                (Broadcast { shape: wide, dims }.into(), vec![a])
            }
            7 => {
                let function = [ReduceFn::Sum, ReduceFn::Sum, ReduceFn::Max, ReduceFn::Min][numbers[3] % 4];
                let dims = if rank > 1 && numbers[1] % 3 == 0 { vec![0, 1] } else { vec![dim] };
                (Reduce { function, dims }.into(), vec![a])
            }
            8 => {
                let notations = [
                    "mk,kn->mn",
                    "mk,nk->nm",
                    "mk,k->m",
                    "m,n->mn",
                    "mn,mn->mn",
                    "bmk,bkn->bmn",
                    "km,kn->nm",
                ];
                (Contract::new(notations[numbers[2] % notations.len()]).into(), vec![a, b])
            }
            9 => {
                let size = shape.get(dim).map_or(1, Dim::size);
                let start = numbers[1] % size.max(1);
                let size = (size - start.min(size)).max(1);
                let range = SliceRange { dim, start: start.into(), size: size.into(), stride: 1 };
                (Slice { ranges: vec![range] }.into(), vec![a])
            }
            10 => {
                let pad =
                    PadDim { dim, low: (numbers[1] % 2).into(), high: (numbers[3] % 2).into(), interior: 0 };
                (Pad { dims: vec![pad], value: Scalar::Float(0.0) }.into(), vec![a])
            }
            _ => (Concat { dim }.into(), vec![a, b]),
        };
        // Values that are not small make the scale of all comparisons useless.
        let fits = op.def().infer(&graph.operand_types(&op, &operands).expect("all have one result"));
        if fits.is_ok_and(|types| types[0].elements().size() <= 64) {
            graph.add(op, &operands);
        }
    }
    let users = graph.users();
    let unused: Vec<NodeId> = graph.ids().filter(|id| users[id.index()].is_empty()).collect();
    for (index, id) in unused.into_iter().enumerate() {
        graph.output(format!("y{index}"), id);
    }
    graph
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rewriting_keeps_results(steps in prop::collection::vec((any::<u8>(), any::<[usize; 4]>()), 1..40), seed in 0u64..1000) {
        let graph = graph_of(&steps);
        let cost = CostModel::new(&presets::cpu_default(1));
        let (result, report) = rewrite(&graph, &Options::default(), &cost);
        assert_valid(&result);
        prop_assert!(report.cost_after <= report.cost_before);
        prop_assert_eq!(&rewrite(&graph, &Options::default(), &cost).0, &result);
        assert_same_results(&graph, &result, seed);
    }

    #[test]
    fn every_choice_is_equal(steps in prop::collection::vec((any::<u8>(), any::<[usize; 4]>()), 1..16), seed in 0u64..1000) {
        let graph = normalize(&graph_of(&steps));
        let table = Table::new(|rule| rule.class != Class::AssumesFinite);
        for region in split(&graph) {
            let (mut egraph, _) = build(&region.shape);
            let limits = Limits { iterations: 6, nodes: 600, fuel: &mut None };
            saturate(&mut egraph, &table, limits, &mut vec![0; rules::all().len()]);
            assert_consistent(&egraph, seed, false);
        }
    }
}
