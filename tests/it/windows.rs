//! Windows of every size, step, dilation and padding: reductions over them, sums of them and their gradients, lowered and
//! compiled, against the evaluator.

use crate::lowering::check;
use proptest::prelude::*;
use thalweg_base::{DType, Dim, PointwiseFn, Scalar};
use thalweg_tensor::eval::Environment;
use thalweg_tensor::gradient::gradients;
use thalweg_tensor::op::Fill;
use thalweg_tensor::ops::{Fold, LeafKind, Unfold, Window};
use thalweg_tensor::{Graph, NodeId, ReduceFn, TensorType};
use thalweg_tests::values;

/// What slides over the last dims of a shape.
#[derive(Clone, Debug)]
struct Case {
    shape: Vec<usize>,
    windows: Vec<Window>,
    dtype: DType,
}

fn window(dim: usize, size: usize, stride: usize, dilation: usize, low: usize, high: usize) -> Window {
    Window { dim, size, stride, dilation, low, high }
}

fn case(shape: &[usize], windows: &[Window]) -> Case {
    Case { shape: shape.to_vec(), windows: windows.to_vec(), dtype: DType::F32 }
}

/// Largest values and sums of windows, the gradient of both, and a sum of windows that something follows.
fn graph(case: &Case) -> (Graph, Environment) {
    let Case { shape, windows, dtype } = case;
    let mut graph = Graph::new("windows");
    let x = graph.input("x", TensorType::new(*dtype, shape.iter().copied()));
    let over: Vec<usize> = (shape.len()..shape.len() + windows.len()).collect();
    let unfold = |graph: &mut Graph, value| {
        graph.add(Unfold { windows: windows.clone(), value: Scalar::Float(value) }, &[x])
    };
    let (entries, padded) = (unfold(&mut graph, -3.0e38), unfold(&mut graph, 0.0));
    let largest = graph.reduce(ReduceFn::Max, entries, &over);
    let sums = graph.reduce_sum(padded, &over);
    let both = graph.pointwise(PointwiseFn::Mul, &[largest, sums]);
    graph.output("largest", largest);
    graph.output("sums", sums);
    if dtype.is_float() {
        let all: Vec<usize> = (0..shape.len()).collect();
        let loss = graph.reduce_sum(both, &all);
        let slope = gradients(&mut graph, loss, &[x]).expect("the loss is a float")[0];
        graph.output("slope", slope);
    }
    let ty = graph.ty(entries).clone();
    let y = graph.input("y", ty);
    let sizes = windows.iter().map(|window| Dim::from(shape[window.dim])).collect();
    let folded = graph.add(Fold { windows: windows.clone(), sizes }, &[y]);
    let shifted = graph.pointwise(PointwiseFn::Add, &[folded, x]);
    graph.output("folded", folded);
    graph.output("shifted", shifted);
    let value = |name: &str, node: NodeId, seed| {
        ((LeafKind::Input, name.to_string()), values::filled(graph.ty(node), Fill::Normal, seed))
    };
    let environment = Environment::from_iter([value("x", x, 1), value("y", y, 2)]);
    (graph, environment)
}

fn run(case: &Case) {
    let entries: usize = case.windows.iter().map(|window| window.size).product();
    let (graph, environment) = graph(case);
    check(&graph, &environment, 2 * entries * entries);
}

#[test]
fn windows_that_models_have_are_computed() {
    let square =
        |size, stride, low| [window(2, size, stride, 1, low, low), window(3, size, stride, 1, low, low)];
    for (width, size, stride, low) in [
        (40, 3, 2, 1),
        (41, 3, 2, 1),
        (39, 2, 2, 0),
        (24, 3, 1, 1),
        (37, 5, 3, 2),
        (34, 7, 4, 3),
        (20, 9, 1, 4),
    ] {
        run(&case(&[1, 2, width / 2, width], &square(size, stride, low)));
    }
    // All of space, channels last, a long row with far steps, gaps between the windows.
    run(&case(&[2, 3, 7, 7], &square(7, 1, 0)));
    run(&case(&[2, 9, 11, 20], &[window(1, 3, 2, 1, 1, 1), window(2, 3, 2, 1, 1, 1)]));
    run(&case(&[2, 200], &[window(1, 25, 10, 1, 12, 12)]));
    run(&case(&[3, 70], &[window(1, 2, 3, 1, 0, 1)]));
    run(&case(&[2, 9, 10, 36], &[1, 2, 3].map(|dim| window(dim, 3, 2, 1, 1, 1))));
}

fn any_case() -> impl Strategy<Value = Case> {
    let own = (1..5usize, 1..5usize, 1..4usize, 0..4usize, 0..4usize);
    let dtypes = vec![DType::F32, DType::F32, DType::F32, DType::F64, DType::BF16, DType::I32];
    let sizes = (1..4usize, 1..9usize, 1..45usize, any::<bool>());
    (prop::collection::vec(own, 1..4), sizes, prop::sample::select(dtypes)).prop_map(
        |(own, (rows, height, width, last), dtype)| {
            let mut shape = vec![rows];
            let mut windows = Vec::new();
            for (position, (size, stride, dilation, low, high)) in own.iter().copied().enumerate() {
                let extent = if position + 1 == own.len() { width } else { height };
                // Windows reach no further than the dim with its padding.
                let least = (dilation * (size - 1) + 1).saturating_sub(low + high).max(1);
                windows.push(window(shape.len(), size, stride, dilation, low, high));
                shape.push(extent.max(least));
            }
            if !last {
                shape.push(3);
            }
            Case { shape, windows, dtype }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_windows_are_computed(case in any_case()) {
        run(&case);
    }
}
