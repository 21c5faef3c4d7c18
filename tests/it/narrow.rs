//! Products of narrow integers: what is converted to `i32` to be multiplied is multiplied as it lies.

use crate::lowering::{check, plan};
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_plan::StepKind;
use thalweg_tensor::eval::Environment;
use thalweg_tensor::op::Fill;
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Graph, NodeId, TensorType};
use thalweg_tests::values;

/// A product of operands of those types, both converted; the right one turned on its way, before or after the conversion.
struct Case {
    types: [DType; 2],
    turned_first: bool,
    /// Whether the converted left operand is wanted as well.
    seen: bool,
}

fn graph(case: &Case) -> (Graph, Environment) {
    let mut graph = Graph::new("narrow");
    let types = [([9, 37], case.types[0]), ([11, 37], case.types[1])];
    let [a, b] = types.map(|(shape, dtype)| TensorType::new(dtype, shape));
    let (a, b) = (graph.input("a", a), graph.input("b", b));
    let left = graph.convert(a, DType::I32);
    let right = match case.turned_first {
        true => {
            let turned = graph.transpose(b, &[1, 0]);
            graph.convert(turned, DType::I32)
        }
        false => {
            let wide = graph.convert(b, DType::I32);
            graph.transpose(wide, &[1, 0])
        }
    };
    let product = graph.contract("mk,kn->mn", left, right);
    let sums = graph.convert(product, DType::F32);
    let scale = graph.scalar(DType::F32, Scalar::Float(0.125));
    let scale = graph.broadcast(scale, &[9.into(), 11.into()], &[]);
    let scaled = graph.pointwise(PointwiseFn::Mul, &[sums, scale]);
    graph.output("product", product);
    graph.output("scaled", scaled);
    if case.seen {
        graph.output("left", left);
    }
    // All bits: the smallest and the largest of each type are among so many.
    let value = |name: &str, node: NodeId, seed| {
        let mut value = values::filled(graph.ty(node), Fill::Distinct, seed);
        for (index, value) in value.values.iter_mut().enumerate() {
            let bits = (index as i128 * 2_654_435_761 + seed as i128) >> 7;
            *value = Scalar::Int(bits).convert(graph.ty(node).dtype);
        }
        ((LeafKind::Input, name.to_string()), value)
    };
    let environment = Environment::from_iter([value("a", a, 1), value("b", b, 2)]);
    (graph, environment)
}

/// The operand types of the product in a plan, and how many kernels run before it.
fn steps(graph: &Graph) -> (Option<[DType; 2]>, usize) {
    let program = &plan(graph).programs[0];
    let product = program.steps.iter().enumerate().find_map(|(before, step)| {
        if let StepKind::Contract { contraction, .. } = &step.kind {
            return Some((contraction.operands, before));
        }
        None
    });
    product.expect("there is a product")
}

#[test]
fn products_of_narrow_integers_convert_nothing() {
    let narrow = [DType::U8, DType::I8, DType::I16];
    for a in narrow {
        for b in narrow {
            for (turned_first, seen) in [(false, false), (true, false), (false, true)] {
                let (graph, environment) = graph(&Case { types: [a, b], turned_first, seen });
                let (operands, before) = steps(&graph);
                assert_eq!(operands, Some([a, b]), "{graph}");
                assert!(seen || before == 0, "{before} steps before the product of\n{graph}");
                check(&graph, &environment, 37);
            }
        }
    }
}

#[test]
fn products_with_a_wider_integer_are_of_wide_ones() {
    let (graph, environment) =
        graph(&Case { types: [DType::U8, DType::U16], turned_first: false, seen: false });
    assert_eq!(steps(&graph).0, None, "{graph}");
    check(&graph, &environment, 37);
}
