//! Graphs written as programs: what is read back computes the same, bit by bit, and is laid out as it should be.

use std::collections::BTreeMap;
use std::path::Path;
use thalweg_base::{Bindings, DType, Dim, Initializer, Literal, PointwiseFn, Scalar, random};
use thalweg_lang::{Program, Settings, WriteError, WrittenProgram, format_source, render, write_program};
use thalweg_tensor::eval::{Environment, Results, evaluate};
use thalweg_tensor::op::Fill;
use thalweg_tensor::ops::*;
use thalweg_tensor::verify::assert_valid;
use thalweg_tensor::{Array, Graph, NodeId, Op, ReduceFn, TensorType};

/// A value that looks random, different for each position and name.
fn filled(ty: &TensorType, fill: Fill, name: &str) -> Array {
    let key = random::key_for(7, name);
    let sizes = ty.sizes();
    let count: usize = sizes.iter().product();
    let values = (0..count).map(|at| {
        let word = random::threefry2x32(key, [at as u32, 0])[0];
        let unit = random::uniform(word);
        let value = match fill {
            Fill::Normal if ty.dtype == DType::Bool => Scalar::Int((word & 1).into()),
            Fill::Normal if ty.dtype.is_float() => Scalar::Float(4.0 * unit - 2.0),
            Fill::Normal => Scalar::Int((word % 9) as i128 - 4),
            Fill::Positive if ty.dtype.is_float() => Scalar::Float(0.5 + 1.5 * unit),
            Fill::Positive => Scalar::Int(1 + (word % 5) as i128),
            Fill::Index(bound) => Scalar::Int((word as usize % bound) as i128),
            Fill::Distinct => Scalar::Int((at * 7 % count.max(1)) as i128 - 3),
        };
        value.convert(ty.dtype)
    });
    Array { dtype: ty.dtype, shape: sizes, values: values.collect() }
}

fn load(written: &WrittenProgram, name: &str) -> Graph {
    let shown = format_source(&written.text).unwrap();
    assert_eq!(shown, written.text, "not laid out");
    let (program, errors) = Program::load("written.tw", &written.text, &|_| None);
    let report = |errors: &[thalweg_base::Diagnostic]| {
        panic!("{}\n{}", render(errors, program.sources(), false), written.text)
    };
    if !errors.is_empty() {
        report(&errors);
    }
    let errors = program.check(&Settings::new());
    if !errors.is_empty() {
        report(&errors);
    }
    let name = program.models().into_iter().find(|own| own.starts_with(name)).unwrap();
    let model = program.elaborate_model(&name, &Settings::new()).unwrap_or_else(|errors| report(&errors));
    assert_valid(&model.graph);
    model.graph
}

/// Open sizes as different small numbers, those of the copy after the names they were given.
fn bound(graph: &Graph, written: Option<&WrittenProgram>) -> Graph {
    let mut bindings = Bindings::new();
    for (at, symbol) in graph.symbols().into_iter().enumerate() {
        let number = match written {
            None => at,
            Some(written) => {
                let own = written.sizes.iter().find(|(_, own)| **own == *symbol.name()).unwrap().0;
                written.sizes.keys().position(|name| name == own).unwrap()
            }
        };
        bindings.insert(symbol, Dim::from(number + 3));
    }
    graph.substitute(&bindings)
}

fn results(graph: &Graph, environment: &Environment) -> (BTreeMap<String, Array>, BTreeMap<String, Array>) {
    let Results { outputs, updates } = evaluate(graph, environment).unwrap();
    let outputs = graph.outputs.iter().map(|output| output.name.clone()).zip(outputs).collect();
    (outputs, graph.updates.iter().map(|update| update.name.clone()).zip(updates).collect())
}

fn same(found: &Array, wanted: &Array) -> bool {
    let bits = |array: &Array| -> Vec<Scalar> {
        let plain = |value: &Scalar| match value {
            Scalar::Float(value) if value.is_nan() => Scalar::Float(f64::NAN),
            Scalar::Float(_) | Scalar::Int(_) => *value,
        };
        array.values.iter().map(plain).collect()
    };
    (found.dtype, &found.shape, bits(found)) == (wanted.dtype, &wanted.shape, bits(wanted))
}

/// Writes a graph, reads it back, and compares what both compute.
fn check_with(graph: &Graph, fill: &dyn Fn(&Leaf) -> Fill) -> WrittenProgram {
    let written = write_program(graph, "Copy").unwrap_or_else(|error| panic!("{error}"));
    let copy = load(&written, "Copy");
    let (own, copy) = (bound(graph, None), bound(&copy, Some(&written)));
    let kinds = [LeafKind::Input, LeafKind::Parameter, LeafKind::State];
    let (mut before, mut after) = (Environment::new(), Environment::new());
    for kind in kinds {
        for (_, leaf) in own.leaves(kind) {
            let value = filled(&leaf.ty, fill(leaf), &leaf.name);
            let names = if kind == LeafKind::Input { &written.inputs } else { &written.names };
            after.insert((kind, names[&*leaf.name].clone()), value.clone());
            before.insert((kind, leaf.name.to_string()), value);
        }
    }
    for (name, value) in &written.constants {
        after.insert((LeafKind::State, name.clone()), Array::from_literal(value));
    }
    for kind in kinds {
        for (_, leaf) in copy.leaves(kind) {
            let value = after.get(&(kind, leaf.name.to_string()));
            let value = value.unwrap_or_else(|| panic!("`{}` is new\n{}", leaf.name, written.text));
            assert_eq!((value.dtype, &value.shape), (leaf.ty.dtype, &leaf.ty.sizes()), "{}", leaf.name);
            if let Some(Some(init)) = own
                .leaves(kind)
                .find(|(_, own)| written.names.get(&*own.name).is_some_and(|name| *name == *leaf.name))
                .map(|(_, own)| &own.init)
            {
                assert_eq!(leaf.init.as_ref(), Some(init), "{}\n{}", leaf.name, written.text);
            }
        }
    }
    let ((outputs, updates), (found, next)) = (results(&own, &before), results(&copy, &after));
    assert_eq!((outputs.len(), updates.len()), (found.len(), next.len()));
    for (name, wanted) in &outputs {
        let found = &found[&written.outputs[name]];
        assert!(same(found, wanted), "{name}: {found:?} instead of {wanted:?}\n{}", written.text);
    }
    for (name, wanted) in &updates {
        let found = &next[&written.names[name]];
        assert!(same(found, wanted), "{name}: {found:?} instead of {wanted:?}\n{}", written.text);
    }
    // What was read back is written the same way, up to names.
    let again = write_program(&copy, "Copy").unwrap_or_else(|error| panic!("{error}"));
    load(&again, "Copy");
    written
}

fn check(graph: &Graph) -> WrittenProgram {
    check_with(graph, &|_| Fill::Normal)
}

#[test]
fn every_op_is_written() {
    let samples = Op::all_samples();
    let mut seen = std::collections::BTreeSet::new();
    for (at, sample) in samples.iter().enumerate() {
        let mut graph = Graph::new("sample");
        let fills: Vec<Fill> = sample.operands.iter().map(|(_, fill)| *fill).collect();
        let operands: Vec<NodeId> = sample
            .operands
            .iter()
            .enumerate()
            .map(|(at, (ty, _))| graph.input(&format!("x{at}"), ty.clone()))
            .collect();
        let node = graph.add(sample.op.clone(), &operands);
        if graph.node(node).types.len() == 1 {
            graph.output("output", node);
        } else {
            for (at, pick) in graph.picks(node).into_iter().enumerate() {
                graph.output(format!("output.{at}"), pick);
            }
        }
        if matches!(sample.op, Op::Collective(_)) {
            assert_eq!(write_program(&graph, "Copy").unwrap_err(), WriteError::Split);
            continue;
        }
        let fill = |leaf: &Leaf| fills[leaf.name[1..].parse::<usize>().unwrap()];
        let written = check_with(&graph, &fill);
        assert!(written.text.len() < 1500, "sample {at}: {}", written.text);
        seen.insert(sample.op.name());
    }
    assert!(seen.len() >= 24, "{seen:?}");
}

fn examples() -> Vec<(String, Graph)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut found = Vec::new();
    for folder in [root.clone(), root.join("models")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "tw") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let (program, errors) = Program::parse("example.tw", &text);
            assert!(errors.is_empty());
            for name in program.models() {
                let model = program.elaborate_model(&name, &Settings::new()).unwrap();
                found.push((name, model.graph));
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Evaluating the larger ones takes long, so sizes are compared for all and values for those that are small.
#[test]
fn examples_are_written_and_read_back() {
    let mut evaluated = 0;
    let examples = examples();
    assert!(examples.len() >= 6);
    for (name, graph) in &examples {
        let written = write_program(graph, name).unwrap();
        let copy = load(&written, name);
        // What needed a name of its own kept the one it had.
        for (own, now) in &written.names {
            assert_eq!(own, now);
        }
        let types = |graph: &Graph| -> Vec<String> {
            graph.outputs.iter().map(|output| format!("{} {}", output.name, graph.ty(output.node))).collect()
        };
        assert_eq!(types(graph), types(&copy));
        let small = bound(graph, None).work().flops < 3e6;
        if small {
            let tokens = |leaf: &Leaf| if leaf.ty.dtype.is_float() { Fill::Normal } else { Fill::Index(3) };
            check_with(graph, &tokens);
            evaluated += 1;
        }
    }
    assert!(evaluated >= 3, "{evaluated}");
}

/// A graph that has nothing in it that could be written as it is.
fn awkward() -> Graph {
    let ty = |dtype, shape: &[usize]| TensorType::new(dtype, shape.iter().copied());
    let mut graph = Graph::new("");
    let (n, m) = (Dim::symbol("max"), Dim::symbol("batch.size"));
    let half = (&n + &Dim::ONE).floor_div(2);
    let one = |dtype, dim: &Dim| TensorType { dtype, shape: vec![dim.clone(), Dim::from(3)] };
    let x = graph.input("input.1", one(DType::F32, &n));
    let double = graph.input("for", one(DType::F32, &(&n + &n)));
    let quarter = graph.input("3", one(DType::F32, &half));
    graph.input("sum", TensorType { dtype: DType::F32, shape: vec![m.clone()] });
    graph.current_scope = "encoder.layer.0.attention.MatMul_7".into();
    let init = || Initializer::Constant(Scalar::Float(-0.5));
    let w = graph.parameter("encoder/layer.0/attention/weight", ty(DType::F32, &[3, 3]), init());
    let anonymous = graph.parameter("onnx::MatMul_123", ty(DType::F32, &[3, 3]), init());
    let y = graph.contract("ab,bc->ac", x, w);
    let y = graph.contract("cb,ab->ac", anonymous, y);
    graph.current_scope = "encoder.layer.0.attention.Add 8".into();
    let bias = graph.parameter("encoder.layer.0.attention.bias", ty(DType::F32, &[3]), init());
    let wide = graph.broadcast(bias, &[n.clone(), Dim::from(3)], &[1]);
    let y = graph.pointwise(PointwiseFn::Add, &[y, wide]);
    let rest =
        graph.slice(double, vec![SliceRange { dim: 0, start: half.clone(), size: n.clone(), stride: 1 }]);
    let y = graph.pointwise(PointwiseFn::Mul, &[y, rest]);
    let table: Vec<f32> = (0..60).map(|at| at as f32 * 0.37 - 4.0).collect();
    let table = graph.constant(Literal::from_f32(&[20, 3], &table));
    let rows = graph.reduce(ReduceFn::Max, table, &[0]);
    let rows = graph.broadcast(rows, &[n.clone(), Dim::from(3)], &[1]);
    let y = graph.pointwise(PointwiseFn::Sub, &[y, rows]);
    let few = Literal::from_scalars(DType::I8, &[1, 3], [-128, 0, 127].map(Scalar::Int));
    let few = graph.constant(few);
    let few = graph.convert(few, DType::F32);
    let all = graph.concat(&[y, few, quarter], 0);
    graph.output("output.result", all);
    // Numbers that no literal says, as values and as what padding holds.
    let large = graph.constant(Literal::from_scalars(
        DType::U64,
        &[2],
        [u64::MAX, 1 << 63].map(|v| Scalar::Int(v.into())),
    ));
    graph.output("in", large);
    let least =
        graph.constant(Literal::from_scalars(DType::I64, &[2], [i64::MIN, 5].map(|v| Scalar::Int(v.into()))));
    graph.output("output result", least);
    // States that take each other's values, and one that is only read.
    let (a, b) = (
        graph.state("state.a", ty(DType::I32, &[2]), Initializer::Constant(Scalar::Int(1))),
        graph.state("state.b", ty(DType::I32, &[2]), Initializer::Constant(Scalar::Int(-2))),
    );
    let integers = graph.state("indices", ty(DType::I64, &[4]), Initializer::Constant(Scalar::Int(3)));
    let sum = graph.pointwise(PointwiseFn::Add, &[a, b]);
    graph.update("state.a", b);
    graph.update("state.b", sum);
    graph.output("before", a);
    graph.output("indices", integers);
    // A value that is nowhere near 0 in a dtype of few bits, and what is no number.
    let short = graph.full(&ty(DType::BF16, &[2]), Scalar::Float(1.0 / 3.0));
    graph.output("short", short);
    let least = graph.pad(
        y,
        vec![PadDim { dim: 1, low: 1.into(), high: half, interior: 2 }],
        Scalar::Float(f64::NEG_INFINITY),
    );
    graph.output("least", least);
    let mask = (0..20).map(|at| Scalar::Int(i128::from(at % 3 == 0)));
    let mask = graph.constant(Literal::from_scalars(DType::Bool, &[20], mask));
    graph.output("mask", mask);
    graph
}

#[test]
fn awkward_names_numbers_and_sizes() {
    let written = check(&awkward());
    insta::assert_snapshot!("written_awkward", written.text);
    assert_eq!(written.names["encoder/layer.0/attention/weight"], "encoder.layer.0.attention.weight");
    assert_eq!(written.names["onnx::MatMul_123"], "encoder.layer.0.attention.weight_2");
    assert_eq!(written.constants.len(), 3);
    assert!(written.inputs["for"] != "for" && written.outputs["in"] != "in");
}

/// Loops in loops, with captured values, histories, swapped carries, and results that nothing reads.
#[test]
fn loops_and_branches_are_nested() {
    let vector = TensorType::new(DType::F32, [3]);
    let flag = TensorType::scalar(DType::Bool);
    let mut side = Graph::new("then");
    let (p, q) = (side.input("p", vector.clone()), side.input("q", vector.clone()));
    let r = side.pointwise(PointwiseFn::Mul, &[p, q]);
    let s = side.pointwise(PointwiseFn::Add, &[r, p]);
    side.output("r", r);
    side.output("s", s);
    let mut other = Graph::new("otherwise");
    let (p, q) = (other.input("p", vector.clone()), other.input("q", vector.clone()));
    other.output("q", q);
    other.output("p", p);
    let branch = Branch { then: side.into(), otherwise: other.into() };

    let mut body = Graph::new("body");
    let (a, b) = (body.input("carry.a", vector.clone()), body.input("carry.b", vector.clone()));
    let x = body.input("step.x", vector.clone());
    let (w, on) = (body.input("captured.0", vector.clone()), body.input("captured.1", flag.clone()));
    let node = body.add(branch, &[on, x, w]);
    let picks = body.picks(node);
    let next = body.pointwise(PointwiseFn::Add, &[a, picks[0]]);
    let table: Vec<f32> = (0..18).map(|at| at as f32).collect();
    let table = body.constant(Literal::from_f32(&[6, 3], &table));
    let largest = body.reduce(ReduceFn::Max, table, &[0]);
    let yielded = body.pointwise(PointwiseFn::Sub, &[picks[1], largest]);
    // The carries trade places.
    body.output("a", b);
    body.output("b", next);
    body.output("y", yielded);
    body.output("unread", x);
    let scan = Scan {
        body: body.into(),
        length: 4.into(),
        carries: 2,
        sequences: 1,
        reverse: true,
        histories: true,
    };

    let mut condition = Graph::new("condition");
    let (v, limit) = (condition.input("v", vector.clone()), condition.input("limit", vector.clone()));
    condition.input("count", TensorType::scalar(DType::I32));
    let square = condition.pointwise(PointwiseFn::Mul, &[v, v]);
    let sums = [ReduceFn::Sum, ReduceFn::Max].map(|function| condition.reduce(function, square, &[0]));
    let both = condition.pointwise(PointwiseFn::Add, &sums);
    let bound = condition.reduce(ReduceFn::Max, limit, &[0]);
    let holds = condition.pointwise(PointwiseFn::Lt, &[both, bound]);
    condition.output("holds", holds);
    let mut turn = Graph::new("turn");
    let (v, limit) = (turn.input("v", vector.clone()), turn.input("limit", vector.clone()));
    let count = turn.input("count", TensorType::scalar(DType::I32));
    let double = turn.pointwise(PointwiseFn::Add, &[v, v]);
    let one = turn.scalar(DType::F32, Scalar::Float(0.5));
    let one = turn.broadcast(one, &[3.into()], &[]);
    let double = turn.pointwise(PointwiseFn::Add, &[double, one]);
    let _ = count;
    turn.output("v", double);
    turn.output("limit", limit);
    let repeat = While { condition: condition.into(), body: turn.into(), carries: 2 };

    let mut graph = Graph::new("nested");
    let start = graph.input("x", vector.clone());
    let rows = graph.input("rows", TensorType::new(DType::F32, [4, 3]));
    let on = graph.input("on", flag);
    let w = graph.parameter("w", vector.clone(), Initializer::Constant(Scalar::Float(1.0)));
    let zero = graph.full(&vector, Scalar::Float(0.0));
    let curve = graph.pointwise(PointwiseFn::Tanh, &[w]);
    let node = graph.add(scan, &[start, zero, rows, curve, on]);
    let picks = graph.picks(node);
    assert_eq!(picks.len(), 6);
    let limit = graph.full(&vector, Scalar::Float(50.0));
    let count = graph.scalar(DType::I32, Scalar::Int(2));
    let size = graph.pointwise(PointwiseFn::Abs, &[picks[0]]);
    let node = graph.add(repeat, &[size, limit, count]);
    let last = graph.picks(node);
    for (name, node) in [("b", picks[1]), ("y", picks[2]), ("before", picks[5]), ("v", last[0])] {
        graph.output(name, node);
    }
    let written = check(&graph);
    insta::assert_snapshot!("written_loops", written.text);
}

/// The library's functions are found where they are, and only there.
#[test]
fn functions_of_the_library_are_found_again() {
    let of = |body: &str| {
        let text = format!("use nn\nmodel M(x: f32[b, 8]) -> f32[b, 8] {{\n{body}\n}}\n");
        let (program, errors) = Program::parse("net.tw", &text);
        assert!(errors.is_empty());
        let model = program.elaborate_model("M", &Settings::new()).unwrap();
        let written = check(&model.graph);
        written.text.lines().nth(1).unwrap().trim().to_string()
    };
    for function in ["relu", "sigmoid", "silu", "gelu", "gelu_tanh", "softmax", "log_softmax"] {
        assert_eq!(of(&format!("{function}(x)")), format!("{function}(x)"));
    }
    for expr in [
        "mean(x, over: 1, keep: true) * x",
        "max(x, over: 0, keep: true) + x",
        "x[.., 2..] @ ones([6, 8])",
        "x - (x - 1) - -x ** 2",
        "select(x > 0 && !(x > 1), x, -infinity)",
        "minimum(-(x * x), 0.1)",
        "x * (1 + erf(x * 0.5)) * 0.5",
        "x * b",
    ] {
        assert_eq!(of(expr), expr);
    }
    assert_eq!(of("maximum(x, -0.0)"), "maximum(x, -0.0)");
}

#[test]
fn what_is_no_program_is_said() {
    let vector = TensorType::new(DType::F32, [2]);
    let mut graph = Graph::new("update");
    let w = graph.parameter("w", vector.clone(), Initializer::Constant(Scalar::Float(0.0)));
    graph.update("w", w);
    assert_eq!(write_program(&graph, "M").unwrap_err(), WriteError::ParameterUpdate("w".into()));
    let mut graph = Graph::new("size");
    let n = graph.add(Iota { dtype: DType::I32, size: Dim::symbol("n") }, &[]);
    graph.output("output", n);
    assert_eq!(write_program(&graph, "M").unwrap_err(), WriteError::UnknownSize("n".into()));
    let mut graph = Graph::new("open");
    let open = TensorType { dtype: DType::F32, shape: vec![Dim::symbol("n")] };
    graph.input("x", open.clone());
    graph.parameter("w", open, Initializer::Constant(Scalar::Float(0.0)));
    assert_eq!(write_program(&graph, "M").unwrap_err(), WriteError::OpenParameter("w".into()));
}
