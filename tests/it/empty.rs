//! Tensors without elements: whatever is made of them is what the evaluator says, through every pass and on every device.

use super::{lowering, programs};
use std::sync::Arc;
use thalweg_base::{DType, Literal, PointwiseFn as F, Scalar};
use thalweg_driver::{Options, compile};
use thalweg_tensor::eval::{Environment, evaluate};
use thalweg_tensor::op::Fill;
use thalweg_tensor::ops::{
    Branch, Cumulative, DynamicSlice, DynamicUpdate, Fold, Gather, Initializer, Iota, LeafKind, PadDim, Scan,
    Scatter, Unfold, While, Window,
};
use thalweg_tensor::settle::{is_empty, settle};
use thalweg_tensor::verify::assert_valid;
use thalweg_tensor::{Graph, NodeId, Op, ReduceFn, TensorType};
use thalweg_tests::{compare, values};

fn ty(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape.iter().copied())
}

/// Settled, lowered, and compiled whole, rewritten and not, for one device and for several.
fn check(graph: &Graph) {
    let mut environment = Environment::new();
    for (seed, id) in graph.ids().enumerate() {
        if let Some(leaf) = graph.node(id).op.as_leaf() {
            let fill = if leaf.ty.dtype.is_float() { Fill::Normal } else { Fill::Index(2) };
            let value = values::filled(&leaf.ty, fill, seed as u64);
            environment.insert((leaf.kind, leaf.name.to_string()), value);
        }
    }
    let settled = settle(graph);
    assert_valid(&settled);
    for id in settled.ids() {
        let node = settled.node(id);
        let may = matches!(node.op, Op::Leaf(_) | Op::Constant(_) | Op::Pick(_));
        let computed = !may && node.op.subgraphs().is_empty();
        let touched = node.types.iter().chain(&settled.operand_types_of(id)).any(is_empty);
        assert!(!computed || !touched, "{id} is left in\n{settled}");
    }
    let expected = evaluate(graph, &environment).expect("every leaf has a value");
    let found = evaluate(&settled, &environment).expect("every leaf has a value");
    compare::assert_all_close(&format!("{graph}"), &expected.outputs, &found.outputs, 8);
    compare::assert_all_close(&format!("{graph}"), &expected.updates, &found.updates, 8);
    lowering::check(graph, &environment, 8);
    let case = programs::Case { graph: graph.clone(), environment };
    programs::check_case(&case, &graph.to_string());
}

/// Every sample with each of its dims 0, wherever the op still fits.
#[test]
fn every_sample_with_a_dim_of_nothing() {
    let mut found = std::collections::BTreeMap::<&str, usize>::new();
    for sample in Op::all_samples().iter().filter(|sample| !matches!(sample.op, Op::Collective(_))) {
        let types: Vec<TensorType> = sample.operands.iter().map(|(ty, _)| ty.clone()).collect();
        let signature = sample.op.def().axes(&types, &sample.op.def().infer(&types).expect("samples fit"));
        for axis in 0..signature.axes.len() {
            let mut operands = types.clone();
            for (operand, dims) in operands.iter_mut().zip(&signature.operands) {
                for (size, axes) in operand.shape.iter_mut().zip(dims) {
                    if axes.iter().any(|own| own.index() == axis) {
                        *size = 0.into();
                    }
                }
            }
            let misses = |op: &Gather| operands[0].shape[op.dim].size() == 0;
            let fits = operands != types
                && sample.op.def().infer(&operands).is_ok()
                && !matches!(&sample.op, Op::Gather(op) if misses(op));
            if fits {
                let mut graph = Graph::new(sample.op.name());
                let operands: Vec<NodeId> = operands
                    .into_iter()
                    .enumerate()
                    .map(|(index, ty)| graph.input(&format!("x{index}"), ty))
                    .collect();
                let node = graph.add(sample.op.clone(), &operands);
                let results = match graph.node(node).types.len() {
                    1 => vec![node],
                    _ => graph.picks(node),
                };
                for (index, result) in results.into_iter().enumerate() {
                    graph.output(format!("y{index}"), result);
                }
                let environment = Environment::from_iter(operands.iter().enumerate().map(|(index, id)| {
                    let fill = sample.operands[index].1;
                    ((LeafKind::Input, format!("x{index}")), values::filled(graph.ty(*id), fill, 3))
                }));
                lowering::check(&graph, &environment, 8);
                *found.entry(sample.op.name()).or_default() += 1;
            }
        }
    }
    for name in ["Pointwise", "Reduce", "Contract", "Convolve", "Concat", "Scatter", "Cumulative", "ArgSort"]
    {
        assert!(found.contains_key(name), "{name}: {found:?}");
    }
}

#[test]
fn ports_of_no_bytes() {
    let mut graph = Graph::new("ports");
    let x = graph.input("x", ty(&[0, 4]));
    let w = graph.parameter("w", ty(&[4, 0]), Initializer::Constant(Scalar::Float(1.0)));
    let n = graph.state("n", ty(&[0]), Initializer::Constant(Scalar::Float(0.0)));
    let y = graph.pointwise(F::Tanh, &[x]);
    let sums = graph.reduce_sum(y, &[1]);
    let next = graph.pointwise(F::Add, &[n, sums]);
    let product = graph.contract("mk,kn->mn", x, w);
    for (name, node) in [("x", x), ("y", y), ("sums", sums), ("w", w), ("product", product)] {
        graph.output(name, node);
    }
    graph.update("n", next);
    let scaled = graph.pointwise(F::Mul, &[w, w]);
    graph.update("w", scaled);
    check(&graph);
}

#[test]
fn reductions_give_their_identity() {
    let mut graph = Graph::new("reductions");
    let x = graph.input("x", ty(&[3, 0, 2]));
    let y = graph.input("y", ty(&[3, 2]));
    for function in ReduceFn::ALL {
        for dtype in [DType::F32, DType::I16, DType::U64, DType::Bool] {
            if dtype == DType::Bool && matches!(function, ReduceFn::Sum | ReduceFn::Prod) {
                continue;
            }
            let converted = graph.convert(x, dtype);
            let reduced = graph.reduce(function, converted, &[1]);
            graph.output(format!("{}_{dtype}", function.pointwise()), reduced);
        }
    }
    // Along with what follows: a mean of nothing is not a number, and a product of nothing is 0.
    let sum = graph.reduce_sum(x, &[1]);
    let count = graph.full(&ty(&[3, 2]), Scalar::Float(0.0));
    let mean = graph.pointwise(F::Div, &[sum, count]);
    graph.output("mean", mean);
    let product = graph.contract("akb,akc->bc", x, x);
    let biased = graph.pointwise(F::Add, &[product, product]);
    graph.output("biased", biased);
    let shifted = graph.pointwise(F::Add, &[sum, y]);
    graph.output("shifted", shifted);
    check(&graph);
}

#[test]
fn moved_and_joined() {
    let mut graph = Graph::new("moves");
    let x = graph.input("x", ty(&[0, 3]));
    let y = graph.input("y", ty(&[2, 3]));
    let none = graph.constant(Literal::from_f32(&[0, 3], &[]));
    for (name, operands) in
        [("all", vec![x, y, none, y]), ("one", vec![none, y]), ("none", vec![x, none]), ("last", vec![y, x])]
    {
        let joined = graph.concat(&operands, 0);
        graph.output(name, joined);
        let used = graph.pointwise(F::Exp, &[joined]);
        graph.output(format!("{name}_used"), used);
    }
    let pad = |low: usize| PadDim { dim: 0, low: low.into(), high: 1.into(), interior: 0 };
    let padded = graph.pad(x, vec![pad(2)], Scalar::Float(7.0));
    let transposed = graph.transpose(padded, &[1, 0]);
    graph.output("padded", transposed);
    let reshaped = graph.reshape(x, &[3.into(), 0.into(), 5.into()]);
    graph.output("reshaped", reshaped);
    let empty = graph.slice_dim(y, 0, 1, 0);
    let spread = graph.broadcast(empty, &[2.into(), 0.into(), 3.into()], &[1, 2]);
    graph.output("spread", spread);
    let window = Window { dim: 0, size: 2, stride: 1, dilation: 1, low: 2, high: 2 };
    let windows = graph.add(Unfold { windows: vec![window], value: Scalar::Float(-1.0) }, &[x]);
    let largest = graph.reduce(ReduceFn::Max, windows, &[2]);
    graph.output("largest", largest);
    let folds = graph.input("folds", ty(&[0, 3, 2]));
    let window = Window { dim: 0, size: 2, stride: 1, dilation: 1, low: 1, high: 0 };
    let folded = Fold { windows: vec![window], sizes: vec![0.into()] };
    if let Ok(folded) = graph.try_add(folded, &[folds]) {
        graph.output("folded", folded);
    }
    check(&graph);
}

#[test]
fn indexed() {
    let mut graph = Graph::new("indexed");
    let x = graph.input("x", ty(&[5, 3]));
    let none = graph.input("none", TensorType::new(DType::I32, [0usize]));
    let start = graph.input("start", TensorType::scalar(DType::I32));
    let gathered = graph.add(Gather { dim: 0, batch: 0 }, &[x, none]);
    graph.output("gathered", gathered);
    let scattered = graph.add(Scatter { dim: 0, batch: 0, size: 4.into() }, &[none, gathered]);
    graph.output("scattered", scattered);
    let slice = graph.add(DynamicSlice { dims: vec![0], sizes: vec![0.into()] }, &[x, start]);
    graph.output("slice", slice);
    let updated = graph.add(DynamicUpdate { dims: vec![0] }, &[x, slice, start]);
    let updated = graph.pointwise(F::Neg, &[updated]);
    graph.output("updated", updated);
    let iota = graph.add(Iota { dtype: DType::I32, size: 0.into() }, &[]);
    graph.output("iota", iota);
    let running = graph.add(Cumulative { function: ReduceFn::Sum, dim: 0, reverse: false }, &[gathered]);
    graph.output("running", running);
    check(&graph);
    // There is nothing to take: a mistake that is told, not a value.
    let mut graph = Graph::new("missing");
    let x = graph.input("x", ty(&[0, 3]));
    let index = graph.input("index", TensorType::new(DType::I32, [2usize]));
    let taken = graph.add(Gather { dim: 0, batch: 0 }, &[x, index]);
    graph.output("taken", taken);
    let options = Options::for_device(thalweg_cost::presets::cpu_default(1));
    let error = compile(&graph, &Default::default(), &options).expect_err("nothing is there").to_string();
    assert!(error.contains("[0, 3], which has none"), "{error}");
}

/// A body that adds what it is given to a carry, and yields the sum; `wide` columns of a sequence.
fn body(columns: usize) -> Arc<Graph> {
    let mut body = Graph::new("body");
    let (carry, x) = (body.input("carry", ty(&[2])), body.input("x", ty(&[2, columns])));
    let nothing = body.input("nothing", ty(&[0]));
    let sum = body.reduce_sum(x, &[1]);
    let next = body.pointwise(F::Add, &[carry, sum]);
    let twice = body.pointwise(F::Add, &[nothing, nothing]);
    body.output("carry", next);
    body.output("yield", next);
    body.output("twice", twice);
    Arc::new(body)
}

#[test]
fn loops_and_branches() {
    for (turns, columns) in [(0, 3), (4, 0), (0, 0), (3, 2)] {
        let mut graph = Graph::new("scan");
        let operands = [
            graph.input("begin", ty(&[2])),
            graph.input("x", ty(&[turns, 2, columns])),
            graph.input("nothing", ty(&[0])),
        ];
        for reverse in [false, true] {
            let scan = Scan {
                body: body(columns),
                length: turns.into(),
                carries: 1,
                sequences: 1,
                reverse,
                histories: true,
            };
            let results = graph.scan(scan, &operands).expect("it fits");
            for (index, result) in results.into_iter().enumerate() {
                let used = graph.pointwise(F::Neg, &[result]);
                graph.output(format!("{reverse}_{index}"), result);
                graph.output(format!("{reverse}_{index}_used"), used);
            }
        }
        check(&graph);
    }
    let side = |function: F| {
        let mut side = Graph::new("side");
        let (x, nothing) = (side.input("x", ty(&[3])), side.input("nothing", ty(&[0, 2])));
        let result = side.pointwise(function, &[x]);
        let rest = side.pointwise(function, &[nothing]);
        side.output("result", result);
        side.output("rest", rest);
        Arc::new(side)
    };
    let mut graph = Graph::new("branch");
    let flag = graph.input("flag", TensorType::scalar(DType::Bool));
    let (x, nothing) = (graph.input("x", ty(&[3])), graph.input("nothing", ty(&[0, 2])));
    let branch = graph.add(Branch { then: side(F::Neg), otherwise: side(F::Tanh) }, &[flag, x, nothing]);
    for (index, result) in graph.picks(branch).into_iter().enumerate() {
        graph.output(format!("y{index}"), result);
    }
    check(&graph);
    // Doubled until above 100, with an empty carry along.
    let mut condition = Graph::new("condition");
    let (x, _) = (condition.input("x", ty(&[3])), condition.input("nothing", ty(&[0])));
    let magnitude = condition.pointwise(F::Abs, &[x]);
    let largest = condition.reduce(ReduceFn::Max, magnitude, &[0]);
    let limit = condition.scalar(DType::F32, Scalar::Float(100.0));
    let holds = condition.pointwise(F::Lt, &[largest, limit]);
    condition.output("holds", holds);
    let mut body = Graph::new("body");
    let (x, nothing) = (body.input("x", ty(&[3])), body.input("nothing", ty(&[0])));
    let (next, rest) = (body.pointwise(F::Add, &[x, x]), body.pointwise(F::Neg, &[nothing]));
    body.output("x", next);
    body.output("nothing", rest);
    let mut graph = Graph::new("while");
    let operands = [graph.input("x", ty(&[3])), graph.input("nothing", ty(&[0]))];
    let op = While { condition: Arc::new(condition), body: Arc::new(body), carries: 2 };
    let node = graph.add(op, &operands);
    for (index, result) in graph.picks(node).into_iter().enumerate() {
        graph.output(format!("y{index}"), result);
    }
    check(&graph);
}

/// Nothing at all, in and out.
#[test]
fn an_arena_of_no_bytes() {
    let mut graph = Graph::new("nothing");
    let x = graph.input("x", ty(&[0]));
    let y = graph.pointwise(F::Exp, &[x]);
    graph.output("y", y);
    check(&graph);
}
