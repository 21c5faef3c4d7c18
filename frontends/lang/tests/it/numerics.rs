//! What programs compute, by the reference evaluator, against formulas written out here.

use std::collections::BTreeMap;
use thalweg_base::{Bindings, DType, Dim, Scalar, Symbol, random};
use thalweg_lang::{Program, Settings, TrainProgram, render};
use thalweg_tensor::eval::{Environment, evaluate};
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Array, Graph, Op};

fn program(text: &str) -> Program {
    let (program, errors) = Program::parse("net.tw", text);
    assert!(errors.is_empty(), "{}", render(&errors, program.sources(), false));
    program
}

/// Leaves of a graph at their first values.
fn initial(graph: &Graph, seed: u64) -> Environment {
    let kinds = [LeafKind::Parameter, LeafKind::State];
    let leaves = kinds.into_iter().flat_map(|kind| graph.leaves(kind));
    leaves
        .map(|(_, leaf)| {
            let init = leaf.init.as_ref().expect("parameters and states have initializers");
            let value = init.literal(seed, &leaf.name, leaf.ty.dtype, &leaf.ty.sizes());
            ((leaf.kind, leaf.name.to_string()), Array::from_literal(&value))
        })
        .collect()
}

pub(crate) fn floats(shape: &[usize], values: &[f64]) -> Array {
    assert_eq!(shape.iter().product::<usize>(), values.len());
    Array {
        dtype: DType::F32,
        shape: shape.to_vec(),
        values: values.iter().map(|v| Scalar::Float(*v as f32 as f64)).collect(),
    }
}

pub(crate) fn ints(shape: &[usize], values: &[i64]) -> Array {
    Array {
        dtype: DType::I32,
        shape: shape.to_vec(),
        values: values.iter().map(|v| Scalar::Int((*v).into())).collect(),
    }
}

/// Values between -1 and 1 that look random.
pub(crate) fn noise(shape: &[usize], name: &str) -> Array {
    let key = random::key_for(1, name);
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count)
        .map(|i| 2.0 * random::uniform(random::threefry2x32(key, [i as u32, 0])[0]) - 1.0)
        .collect();
    floats(shape, &values)
}

/// Binds symbols of inputs to the sizes of the values given for them.
fn bind(graph: &Graph, inputs: &[(&str, Array)]) -> Graph {
    let mut bindings = Bindings::new();
    for (name, value) in inputs {
        let id = graph.leaf(LeafKind::Input, name).unwrap_or_else(|| panic!("no input `{name}`"));
        for (dim, size) in graph.ty(id).shape.iter().zip(&value.shape) {
            if let Some(symbol) = dim.as_symbol() {
                bindings.insert(Symbol::new(symbol.name()), Dim::from(*size));
            }
        }
    }
    graph.substitute(&bindings)
}

/// The outputs and updates of the model `M` of a program.
pub(crate) fn run(text: &str, inputs: &[(&str, Array)]) -> BTreeMap<String, Array> {
    let program = program(text);
    let model = program.elaborate_model("M", &Settings::new());
    let model = model.unwrap_or_else(|errors| panic!("{}", render(&errors, program.sources(), false)));
    let graph = bind(&model.graph, inputs);
    let mut environment = initial(&graph, 3);
    environment
        .extend(inputs.iter().map(|(name, value)| ((LeafKind::Input, name.to_string()), value.clone())));
    let results = evaluate(&graph, &environment).unwrap();
    let outputs = graph.outputs.iter().map(|output| output.name.clone()).zip(results.outputs);
    let updates = graph.updates.iter().map(|update| update.name.clone()).zip(results.updates);
    let leaves = environment.into_iter().map(|((_, name), value)| (name, value));
    leaves.chain(outputs).chain(updates).collect()
}

/// The only output of a model whose body is an expression of `x`.
pub(crate) fn of(expr: &str, x: Array) -> Array {
    let dims = (0..x.shape.len()).map(|at| x.shape[at].to_string()).collect::<Vec<_>>().join(", ");
    let text = format!("use nn\nmodel M(x: {}[{dims}]) {{\n{expr}\n}}\n", x.dtype);
    run(&text, &[("x", x)]).remove("output").unwrap()
}

pub(crate) fn close(found: &Array, wanted: &[f64]) {
    assert_eq!(found.values.len(), wanted.len(), "{found:?}");
    for (found, wanted) in found.values.iter().zip(wanted) {
        let error = (found.to_f64() - wanted).abs();
        assert!(error <= 2e-5 * wanted.abs().max(1.0), "{} instead of {wanted}", found.to_f64());
    }
}

#[test]
fn functions_of_scalars() {
    let x: [f64; 5] = [-30.0, -1.5, 0.0, 0.7, 40.0];
    let check = |expr: &str, f: &dyn Fn(f64) -> f64| close(&of(expr, floats(&[5], &x)), &x.map(f));
    check("relu(x)", &|x| x.max(0.0));
    check("sigmoid(x)", &|x| 1.0 / (1.0 + (-x).exp()));
    check("silu(x)", &|x| x / (1.0 + (-x).exp()));
    check("softplus(x)", &|x| x.max(0.0) + (-x.abs()).exp().ln_1p());
    check("log_sigmoid(x)", &|x| -((-x).max(0.0) + (-x.abs()).exp().ln_1p()));
    check("leaky_relu(0.1)(x)", &|x| if x > 0.0 { x } else { 0.1 * x });
    check("elu()(x)", &|x| if x > 0.0 { x } else { x.exp_m1() });
    check("clamp(x, -1, 2) ** 2", &|x| x.clamp(-1.0, 2.0).powi(2));
    // gelu(0.7) and gelu(-1.5) from the erf of an independent table.
    close(&of("gelu(x)", floats(&[2], &[0.7, -1.5])), &[0.530_625_4, -0.100_210_8]);
    close(&of("gelu_tanh(x)", floats(&[1], &[0.7])), &[0.530_570_1]);
}

#[test]
fn softmax_and_friends() {
    let x: [f64; 6] = [1.0, 2.0, 4.0, -1.0, 0.0, 90.0];
    let mut wanted = Vec::new();
    for row in x.chunks(3) {
        let total: f64 = row.iter().map(|v| (v - row[2]).exp()).sum();
        wanted.extend(row.iter().map(|v| (v - row[2]).exp() / total));
    }
    close(&of("softmax(x)", floats(&[2, 3], &x)), &wanted);
    close(&of("exp(log_softmax(x))", floats(&[2, 3], &x)), &wanted);
    let logs: Vec<f64> =
        x.chunks(3).map(|row| row.iter().map(|v| (v - row[2]).exp()).sum::<f64>().ln() + row[2]).collect();
    close(&of("logsumexp(x)", floats(&[2, 3], &x)), &logs);
    close(&of("argmax(x)", floats(&[2, 3], &[1.0, 5.0, 5.0, 3.0, 0.0, 2.0])), &[1.0, 0.0]);
    close(&of("variance(x)", floats(&[4], &[1.0, 2.0, 3.0, 6.0])), &[3.5]);
}

#[test]
fn shapes_and_indices() {
    let x = || floats(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    close(&of("x[1]", x()), &[4.0, 5.0, 6.0]);
    close(&of("x[.., -1]", x()), &[3.0, 6.0]);
    close(&of("x[0..1, 1..]", x()), &[2.0, 3.0]);
    close(&of("x[.., iota(2) + 1]", x()), &[2.0, 3.0, 5.0, 6.0]);
    close(&of("x[min(iota(2)) + 1, 1]", x()), &[5.0]);
    close(&of("rearrange(x, \"a b -> (b a)\")", x()), &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    close(&of("rearrange(x[0], \"b -> b r\", r: 2)", x()), &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    close(&of("einsum(\"a b -> b\", x)", x()), &[5.0, 7.0, 9.0]);
    close(&of("einsum(\"a b, c b -> a c\", x, x)", x()), &[14.0, 32.0, 32.0, 77.0]);
    close(&of("einsum(\"..s b, c b -> ..s\", x, x)", x()), &[46.0, 109.0]);
    close(&of("x @ transpose(x)", x()), &[14.0, 32.0, 32.0, 77.0]);
    close(&of("x[0] @ transpose(x)", x()), &[14.0, 32.0]);
    close(&of("x @ x[0]", x()), &[14.0, 32.0]);
    close(&of("flip(x, along: 1)[0]", x()), &[3.0, 2.0, 1.0]);
    close(&of("stack([x[0], x[1]], at: 1)", x()), &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    close(
        &of("let [a, b] = split(x, sizes: [1, 2], along: -1)\nconcat([b, a], along: 1)", x()),
        &[2.0, 3.0, 1.0, 5.0, 6.0, 4.0],
    );
    close(&of("x + reshape(iota(2, f32), [2, 1]) * 10 - x[0]", x()), &[0.0, 0.0, 0.0, 13.0, 13.0, 13.0]);
    close(&of("cumsum(x, along: 1)", x()), &[1.0, 3.0, 6.0, 4.0, 9.0, 15.0]);
    close(
        &of("scatter(iota(2) + 1, x, 4)", x()),
        &[0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0, 0.0],
    );
    close(&of("[x * y for y in [1, 10]][1][0]", x()), &[10.0, 20.0, 30.0]);
    close(
        &of("nn.one_hot(convert(x[0], i32), 4)", x()),
        &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    );
}

#[test]
fn norms_pools_and_convolution() {
    let x = floats(&[1, 4], &[1.0, 2.0, 3.0, 6.0]);
    let deviation = (3.5f64 + 1e-5).sqrt();
    close(&of("nn.layer_norm(x)", x.clone()), &[-2.0, -1.0, 0.0, 3.0].map(|v| v / deviation));
    let square = (50.0f64 / 4.0 + 1e-6).sqrt();
    close(&of("nn.rms_norm(x)", x), &[1.0, 2.0, 3.0, 6.0].map(|v| v / square));
    let image = floats(&[1, 1, 4, 4], &(0..16).map(f64::from).collect::<Vec<_>>());
    close(&of("nn.max_pool(x)", image.clone()), &[5.0, 7.0, 13.0, 15.0]);
    close(&of("nn.avg_pool(x)", image.clone()), &[2.5, 4.5, 10.5, 12.5]);
    close(&of("nn.global_pool(x)", image.clone()), &[7.5]);
    close(
        &of("convolve(x, ones([1, 1, 3, 3]), low: 1, high: 1)[0, 0, 0]", image.clone()),
        &[10.0, 18.0, 24.0, 18.0],
    );
    let results = run(
        "use nn\nmodel M(x: f32[b, 1, 4, 4]) -> f32[b, 2, 2, 2] { nn.conv(x, 2, stride: 2, padding: 1) as c }",
        &[("x", image.clone())],
    );
    let (w, x) = (&results["c.weight"], &image);
    assert_eq!(w.shape, [2, 1, 3, 3]);
    let mut wanted = Vec::new();
    for (out, row, column) in (0..8).map(|i| (i / 4, i / 2 % 2, i % 2)) {
        let mut sum = 0.0;
        for (i, j) in (0..9).map(|k| (k / 3, k % 3)) {
            let (r, c) = ((2 * row + i) as i64 - 1, (2 * column + j) as i64 - 1);
            if (0..4).contains(&r) && (0..4).contains(&c) {
                sum += x.at(&[0, 0, r as usize, c as usize]).to_f64() * w.at(&[out, 0, i, j]).to_f64();
            }
        }
        wanted.push(sum);
    }
    close(&results["output"], &wanted);
}

/// Attention head by head, place by place.
#[test]
fn attention_is_weighted_values() {
    let (s, d, heads) = (4, 6, 2);
    let x = noise(&[1, s, d], "x");
    let text = "use nn\nmodel M(x: f32[b, s, 6]) -> f32[b, s, 6] { nn.attention(x, 2, causal: true) as a }";
    let results = run(text, &[("x", x.clone())]);
    let (qkv, out) = (&results["a.qkv.weight"], &results["a.out.weight"]);
    let project = |place: usize, column: usize| -> f64 {
        (0..d).map(|k| x.at(&[0, place, k]).to_f64() * qkv.at(&[k, column]).to_f64()).sum()
    };
    let e = d / heads;
    let mut mixed = vec![vec![0.0; d]; s];
    for (head, at) in (0..heads * s).map(|i| (i / s, i % s)) {
        let score = |to: usize| -> f64 {
            (0..e).map(|i| project(at, head * e + i) * project(to, d + head * e + i)).sum::<f64>()
                / (e as f64).sqrt()
        };
        let weights: Vec<f64> = (0..=at).map(|to| score(to).exp()).collect();
        let total: f64 = weights.iter().sum();
        for i in 0..e {
            mixed[at][head * e + i] =
                (0..=at).map(|to| weights[to] / total * project(to, 2 * d + head * e + i)).sum();
        }
    }
    let wanted: Vec<f64> =
        (0..s * d).map(|i| (0..d).map(|k| mixed[i / d][k] * out.at(&[k, i % d]).to_f64()).sum()).collect();
    close(&results["output"], &wanted);
}

/// The recurrence step by step.
#[test]
fn lstm_runs_along_the_sequence() {
    let (b, s, n, m) = (2, 3, 2, 2);
    let x = noise(&[b, s, n], "x");
    let results =
        run("use nn\nmodel M(x: f32[b, s, 2]) -> f32[b, s, 2] { nn.lstm(x, 2) as l }", &[("x", x.clone())]);
    let w = &results["l.w"];
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    let mut wanted = Vec::new();
    for row in 0..b {
        let (mut h, mut c) = (vec![0.0; m], vec![0.0; m]);
        for t in 0..s {
            let input: Vec<f64> = (0..n).map(|k| x.at(&[row, t, k]).to_f64()).chain(h.clone()).collect();
            let gate = |at: usize| -> f64 {
                input.iter().enumerate().map(|(k, v)| v * w.at(&[k, at]).to_f64()).sum()
            };
            for j in 0..m {
                let (i, f, g, o) = (gate(j), gate(m + j), gate(2 * m + j), gate(3 * m + j));
                c[j] = sigmoid(f) * c[j] + sigmoid(i) * g.tanh();
                h[j] = sigmoid(o) * c[j].tanh();
            }
            wanted.extend(h.clone());
        }
    }
    assert_eq!(results["output"].shape, [b, s, m]);
    close(&results["output"], &wanted);
}

#[test]
fn scans_carry_yield_and_end() {
    let x = || floats(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let sums = "let [y, h] = scan xt in x along 1, carry h = zeros([2]) {\n    h += xt\n    yield h\n    last h\n}\n";
    close(&of(&format!("{sums}y"), x()), &[1.0, 3.0, 6.0, 4.0, 9.0, 15.0]);
    close(&of(&format!("{sums}h"), x()), &[6.0, 15.0]);
    close(
        &of("scan reverse xt in x along 1, carry h = zeros([2]) {\n    h += xt\n    yield h\n}", x()),
        &[6.0, 5.0, 3.0, 15.0, 11.0, 6.0],
    );
    close(
        &of("scan i in 2..5, carry h = 1.0 {\n    h = h * convert(i, f32) + x[0, 0]\n    last h\n}", x()),
        &[41.0],
    );
}

/// Newton's iteration for square roots, and a loop that turns no time.
#[test]
fn while_goes_on_as_long_as_it_holds() {
    let root = "let [r, n] = while max(abs(r * r - x)) > 1e-4, carry r = ones([3]), n = 0 {\n    r = 0.5 * (r + x / r)\n    n += 1\n    last r, n\n}\n";
    let x = || floats(&[3], &[1.0, 2.0, 9.0]);
    close(&of(&format!("{root}r"), x()), &[1.0, 2f64.sqrt(), 3.0]);
    close(&of(&format!("{root}n"), x()), &[5.0]);
    close(&of("while min(y) < 0, carry y = x { y += 1\n last y }", x()), &[1.0, 2.0, 9.0]);
    close(&of("while min(y) < 5, carry y = x { y += x\n last y }", x()), &[5.0, 10.0, 45.0]);
}

#[test]
fn state_is_updated() {
    let text = "model M(x: f32[n]) -> f32[n] {\n    state seen: f32[n] = init.ones()\n    seen += x\n    seen * 2\n}";
    let results = run(text, &[("x", floats(&[2], &[1.0, 2.0]))]);
    close(&results["seen"], &[2.0, 3.0]);
    close(&results["output"], &[4.0, 6.0]);
}

#[test]
fn batch_norm_learns_statistics_in_training_only() {
    let text = "use nn\nmodel M(x: f32[batch, 2]) -> f32[batch, 2] { nn.batch_norm(x, momentum: 0.5) as n }\ntrain M {\n    data = csv(\"a.csv\", target: \"y\")\n    loss = nn.mse(M(data.x), data.y)\n    optimizer = optim.sgd(lr: 0.0)\n    batch = 4\n}\n";
    let train = elaborate(text);
    let x = floats(&[4, 2], &[1.0, 0.0, 3.0, 0.0, 5.0, 0.0, 7.0, 8.0]);
    let results =
        step(&train, &train.step, &mut initial_of(&train), &[("x", x.clone()), ("y", x.clone())], 0);
    close(&results["n.mean"], &[2.0, 1.0]);
    close(&results["n.var"], &[3.0, 6.5]);
    assert!(train.evaluation.updates.is_empty());
    let evaluated =
        step(&train, &train.evaluation, &mut initial_of(&train), &[("x", x.clone()), ("y", x)], 0);
    // With mean 0 and variance 1 kept, nothing changes but for eps.
    assert!(evaluated["loss"].item().to_f64() < 1e-6);
}

fn elaborate(text: &str) -> TrainProgram {
    let program = program(text);
    let train = program.elaborate_train("M", &Settings::new());
    train.unwrap_or_else(|errors| panic!("{}", render(&errors, program.sources(), false)))
}

fn initial_of(train: &TrainProgram) -> Environment {
    initial(&train.step, train.seed)
}

/// Runs a graph of a training once; what it updates goes into the environment.
fn step(
    _: &TrainProgram,
    graph: &Graph,
    environment: &mut Environment,
    inputs: &[(&str, Array)],
    at: i64,
) -> BTreeMap<String, Array> {
    let graph = bind(graph, inputs);
    for (name, value) in inputs {
        environment.insert((LeafKind::Input, name.to_string()), value.clone());
    }
    for (name, value) in [("step", at), ("total_steps", 60)] {
        environment.insert((LeafKind::Input, name.into()), ints(&[], &[value]));
    }
    let results = evaluate(&graph, environment).unwrap();
    for (update, value) in graph.updates.iter().zip(&results.updates) {
        let kind = if graph.leaf(LeafKind::Parameter, &update.name).is_some() {
            LeafKind::Parameter
        } else {
            LeafKind::State
        };
        environment.insert((kind, update.name.clone()), value.clone());
    }
    let outputs = graph.outputs.iter().map(|output| output.name.clone()).zip(results.outputs);
    outputs.chain(graph.updates.iter().map(|update| update.name.clone()).zip(results.updates)).collect()
}

/// A call of every layer and function that models use, and the shape of what it gives for x of [2, 3, 4].
#[test]
fn every_library_function_elaborates_and_runs() {
    let calls = [
        ("relu", "relu(x)", "[2, 3, 4]"),
        ("sigmoid", "sigmoid(x)", "[2, 3, 4]"),
        ("leaky_relu", "leaky_relu()(x)", "[2, 3, 4]"),
        ("elu", "elu()(x)", "[2, 3, 4]"),
        ("gelu", "gelu(x)", "[2, 3, 4]"),
        ("gelu_tanh", "gelu_tanh(x)", "[2, 3, 4]"),
        ("silu", "silu(x)", "[2, 3, 4]"),
        ("softplus", "softplus(x)", "[2, 3, 4]"),
        ("log_sigmoid", "log_sigmoid(x)", "[2, 3, 4]"),
        ("identity", "identity(x)", "[2, 3, 4]"),
        ("square", "square(x)", "[2, 3, 4]"),
        ("clamp", "clamp(x, 0, 1)", "[2, 3, 4]"),
        ("softmax", "softmax(x)", "[2, 3, 4]"),
        ("log_softmax", "log_softmax(x)", "[2, 3, 4]"),
        ("logsumexp", "logsumexp(x)", "[2, 3]"),
        ("variance", "variance(x)", "[2, 3]"),
        ("argmax", "argmax(x)", "[2, 3]"),
        ("any_of", "any_of(x > 0)", "[2, 3]"),
        ("all_of", "all_of(x > 0)", "[2, 3]"),
        ("linear", "nn.linear(x, 5, initial: init.he_uniform())", "[2, 3, 5]"),
        ("embedding", "nn.embedding(argmax(x), 4, 6)", "[2, 3, 6]"),
        ("position", "x + nn.position(3, 4)", "[2, 3, 4]"),
        ("sinusoids", "x + nn.sinusoids(3, 4)", "[2, 3, 4]"),
        ("rotary", "nn.rotary(x)", "[2, 3, 4]"),
        ("layer_norm", "nn.layer_norm(x)", "[2, 3, 4]"),
        ("rms_norm", "nn.rms_norm(x)", "[2, 3, 4]"),
        ("batch_norm", "nn.batch_norm(x)", "[2, 3, 4]"),
        ("dropout", "nn.dropout(x)", "[2, 3, 4]"),
        ("conv", "nn.conv(x, 6, groups: 3, dilation: 2, padding: 2)", "[2, 6, 4]"),
        ("max_pool", "nn.max_pool(x, 3, 1, padding: 1)", "[2, 3, 4]"),
        ("avg_pool", "nn.avg_pool(x)", "[2, 3, 2]"),
        ("global_pool", "nn.global_pool(x)", "[2, 3]"),
        ("flatten", "nn.flatten(x)", "[2, 12]"),
        ("mlp", "nn.mlp(x, 8, out: 2, act: silu)", "[2, 3, 2]"),
        ("causal_mask", "nn.causal_mask(x)", "[2, 3, 4]"),
        ("attend", "nn.attend(x, x, x, causal: true)", "[2, 3, 4]"),
        ("attention", "nn.attention(x, 2, rotate: true)", "[2, 3, 4]"),
        ("lstm", "nn.lstm(x, 5)", "[2, 3, 5]"),
        ("gru", "nn.gru(x, 5)", "[2, 3, 5]"),
        ("one_hot", "nn.one_hot(argmax(x), 4)", "[2, 3, 4]"),
        ("cross_entropy", "nn.cross_entropy(x, argmax(x), smoothing: 0.1)", "[]"),
        ("binary_cross_entropy", "nn.binary_cross_entropy(x, sigmoid(x))", "[]"),
        ("mse", "nn.mse(x, 2 * x)", "[]"),
        ("mae", "nn.mae(x, 2 * x)", "[]"),
        ("huber", "nn.huber(x, 2 * x)", "[]"),
        ("accuracy", "nn.accuracy(x, argmax(x))", "[]"),
        ("uniform", "x + random.uniform([3, 4], -1, 1)", "[2, 3, 4]"),
        ("normal", "x + random.normal([3, 4])", "[2, 3, 4]"),
        ("bernoulli", "select(random.bernoulli([3, 4]), x, 0)", "[2, 3, 4]"),
    ];
    let x = noise(&[2, 3, 4], "library");
    for (name, call, shape) in calls {
        let text = format!("use nn\nmodel M(x: f32[b, 3, 4]) {{ {call} }}");
        let mut inputs = vec![("x", x.clone())];
        if call.contains("random.") {
            inputs.push(("step", ints(&[], &[5])));
        }
        let output = run(&text, &inputs).remove("output").unwrap();
        assert_eq!(format!("{:?}", output.shape), shape, "{name}");
        assert!(output.values.iter().all(|value| value.to_f64().is_finite()), "{name}");
        assert!(call.contains(name), "{name}");
    }
    let library = thalweg_lang::library();
    let used = |name: &str| calls.iter().any(|(own, _, _)| *own == name);
    let models = library
        .iter()
        .filter(|item| ["prelude", "nn", "random"].contains(&item.module) && !item.doc.is_empty());
    let missing: Vec<&str> = models.map(|item| item.name.as_str()).filter(|name| !used(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn initializers_have_the_spread_they_promise() {
    for (init, deviation) in [
        ("init.glorot()", (2.0f64 / 300.0).sqrt()),
        ("init.glorot_normal()", (2.0f64 / 300.0).sqrt()),
        ("init.he()", (2.0f64 / 100.0).sqrt()),
        ("init.he_uniform()", (2.0f64 / 100.0).sqrt()),
        ("init.lecun()", (1.0f64 / 300.0).sqrt()),
        ("init.normal(0.3)", 0.3),
        ("init.uniform(-1, 1)", (1.0f64 / 3.0).sqrt()),
    ] {
        let text = format!(
            "model M(x: f32[b, 100]) -> f32[b, 200] {{\n    param w: f32[100, 200] = {init}\n    x @ w\n}}"
        );
        let results = run(&text, &[("x", floats(&[1, 100], &[0.0; 100]))]);
        let values: Vec<f64> = results["w"].values.iter().map(|value| value.to_f64()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let found = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        assert!(mean.abs() < 0.02 * deviation.max(0.2), "{init}: mean {mean}");
        assert!((found / deviation - 1.0).abs() < 0.03, "{init}: {found} instead of {deviation}");
    }
}

/// Three classes by the largest of three sums; every optimizer and schedule learns them.
#[test]
fn every_optimizer_learns() {
    let optimizers = [
        "optim.sgd(lr: 0.5)",
        "optim.sgd(lr: optim.linear(peak: 0.3), momentum: 0.9)",
        "optim.sgd(lr: optim.stairs(peak: 0.3, every: 40), momentum: 0.9, nesterov: true, weight_decay: 1e-4)",
        "optim.adam(lr: optim.constant(peak: 0.05, warmup: 5))",
        "optim.adamw(lr: optim.cosine(peak: 0.05, warmup: 5), matrices_only: true)",
        "optim.rmsprop(lr: 0.02)",
        "optim.lion(lr: 0.02)",
    ];
    let x = noise(&[24, 6], "data");
    let sums =
        |row: usize| [0, 1, 2].map(|c| x.at(&[row, 2 * c]).to_f64() + x.at(&[row, 2 * c + 1]).to_f64());
    let classes: Vec<i64> = (0..24)
        .map(|row| {
            let sums = sums(row);
            (0..3).max_by(|a, b| sums[*a].total_cmp(&sums[*b])).expect("three classes") as i64
        })
        .collect();
    let y = ints(&[24], &classes);
    for optimizer in optimizers {
        let train = elaborate(&format!(
            "use nn\nmodel M(x: f32[batch, 6]) -> f32[batch, 3] {{\n    let h = nn.dropout(relu(nn.linear(x, 16) as hidden), 0.1)\n    nn.linear(h, 3) as out\n}}\ntrain M {{\n    data = csv(\"a.csv\", target: \"y\")\n    logits = M(data.x)\n    loss = nn.cross_entropy(logits, data.y)\n    metrics = {{ accuracy: nn.accuracy(logits, data.y) }}\n    optimizer = {optimizer}\n    gradients = optim.clip_by_norm(5.0)\n    batch = 24\n}}\n"
        ));
        let mut environment = initial_of(&train);
        let inputs = [("x", x.clone()), ("y", y.clone())];
        let before = step(&train, &train.evaluation, &mut environment, &inputs, 0)["loss"].item().to_f64();
        assert!((0.8..1.6).contains(&before), "{optimizer}: an untrained loss of {before}");
        for at in 0..60 {
            step(&train, &train.step, &mut environment, &inputs, at);
        }
        let after = step(&train, &train.evaluation, &mut environment, &inputs, 60);
        let (loss, accuracy) = (after["loss"].item().to_f64(), after["accuracy"].item().to_f64());
        assert!(
            loss < 0.5 * before && accuracy > 0.85,
            "{optimizer}: {before} to {loss}, accuracy {accuracy}"
        );
    }
}

/// One step of Adam from zero moments moves each weight by the rate against the sign of its gradient.
#[test]
fn adam_steps_as_published() {
    let train = elaborate(
        "model M(x: f32[batch, 2]) -> f32[batch] {\n    param w: f32[2] = init.constant(0.5)\n    x @ w\n}\ntrain M {\n    data = csv(\"a.csv\", target: \"y\")\n    loss = mean(M(data.x))\n    optimizer = optim.adam(lr: 0.1)\n    batch = 1\n}\n",
    );
    let mut environment = initial_of(&train);
    let results = step(&train, &train.step, &mut environment, &[("x", floats(&[1, 2], &[3.0, -2.0]))], 0);
    close(&results["w"], &[0.4, 0.6]);
    close(&results["optimizer.w.m"], &[0.3, -0.2]);
    close(&results["optimizer.w.v"], &[0.009, 0.004]);
}

/// Dropout keeps the mean, drops about as many as asked, and differs from step to step.
#[test]
fn dropout_depends_on_the_step() {
    let train = elaborate(
        "use nn\nmodel M(x: f32[batch, 200]) -> f32[batch, 200] {\n    param w: f32[200] = init.ones()\n    nn.dropout(x * w, 0.25)\n}\ntrain M {\n    data = csv(\"a.csv\", target: \"y\")\n    y = M(data.x)\n    loss = mean(y)\n    metrics = { kept: mean(convert(y != 0, f32)) }\n    optimizer = optim.sgd(lr: 0)\n    batch = 4\n}\n",
    );
    let x = floats(&[4, 200], &[1.0; 800]);
    let mut kept = Vec::new();
    for at in 0..3 {
        let results = step(&train, &train.step, &mut initial_of(&train), &[("x", x.clone())], at);
        kept.push(results["kept"].item().to_f64());
        assert!((results["loss"].item().to_f64() - kept[at as usize] / 0.75).abs() < 1e-5);
    }
    assert!(kept.iter().all(|kept| (0.68..0.82).contains(kept)), "{kept:?}");
    assert!(kept[0] != kept[1] || kept[1] != kept[2], "{kept:?}");
    let evaluated = step(&train, &train.evaluation, &mut initial_of(&train), &[("x", x)], 0);
    close(&evaluated["loss"], &[1.0]);
}

/// Names, shapes and places of what a graph takes: what weights are loaded by.
#[test]
fn parameters_are_named_by_scope() {
    let text = "use nn\nconst width = 8\nmodel M(tokens: i32[batch, seq]) -> f32[batch, seq, width] {\n    var h = nn.embedding(tokens, 10, width)\n    for i in 0..2 {\n        scope block[i] {\n            h = nn.layer_norm(h + nn.attention(h, 2) as attention)\n        }\n    }\n    h = nn.linear(nn.linear(h, width), width)\n    nn.linear(h, width) as head.last[3]\n}";
    let program = program(text);
    let model = program.elaborate_model("M", &Settings::from([("width".into(), "4".into())])).unwrap();
    let names: Vec<String> = model
        .graph
        .leaves(LeafKind::Parameter)
        .map(|(_, leaf)| format!("{} {}", leaf.name, leaf.ty))
        .collect();
    insta::assert_snapshot!(names.join("\n"));
    let spans = model.graph.nodes().iter().filter(|node| !matches!(node.op, Op::Leaf(_)));
    for node in spans {
        let source = node.span.expect("every node comes from somewhere").source;
        assert_eq!(
            program.sources().file(source).name,
            "net.tw",
            "nodes of library layers point at the user's call"
        );
    }
}

/// A setting replaces a constant, a static parameter, or a size that is open.
#[test]
fn settings_replace_values() {
    let text = "const width = 8\nmodel M(x: f32[batch, width], depth: int = 1) -> f32[batch, width] {\n    var y = x\n    for i in 0..depth {\n        y = y + 1\n    }\n    y\n}";
    let program = program(text);
    let settings =
        Settings::from([("width", "3"), ("depth", "2"), ("batch", "5")].map(|(a, b)| (a.into(), b.into())));
    let graph = program.elaborate_model("M", &settings).unwrap().graph;
    assert!(graph.symbols().is_empty());
    let input = graph.leaf(LeafKind::Input, "x").unwrap();
    assert_eq!(graph.ty(input).to_string(), "f32[5, 3]");
    assert_eq!(graph.nodes().iter().filter(|node| matches!(node.op, Op::Pointwise(_))).count(), 2);
}
