//! Small models, built from Rust: a perceptron, a convolutional net, a transformer block, and their training steps.

use std::sync::Arc;
use thalweg_base::{DType, Dim, PointwiseFn, Scalar};
use thalweg_tensor::ops::*;
use thalweg_tensor::verify::assert_valid;
use thalweg_tensor::{Graph, NodeId, Op, ReduceFn, TensorType, gradients};

/// The epsilon of layer norms.
const EPSILON: f64 = 1e-5;

fn f32s(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape.iter().copied())
}

fn parameter(graph: &mut Graph, name: &str, shape: &[usize]) -> NodeId {
    let normal = Initializer::Normal { mean: Scalar::Float(0.0), deviation: Scalar::Float(0.1) };
    graph.parameter(name, f32s(shape), normal)
}

fn scope(graph: &mut Graph, name: &str) {
    graph.current_scope = Arc::from(name);
}

/// `x + b` along the last dim.
fn add_bias(graph: &mut Graph, x: NodeId, bias: NodeId) -> NodeId {
    let shape = graph.ty(x).shape.clone();
    let bias = graph.broadcast(bias, &shape, &[shape.len() - 1]);
    graph.pointwise(PointwiseFn::Add, &[x, bias])
}

fn scaled(graph: &mut Graph, x: NodeId, by: f64) -> NodeId {
    let ty = graph.ty(x).clone();
    let factor = graph.full(&ty, Scalar::Float(by));
    graph.pointwise(PointwiseFn::Mul, &[x, factor])
}

/// `x / 2 (1 + erf(x / sqrt 2))`.
fn gelu(graph: &mut Graph, x: NodeId) -> NodeId {
    let ty = graph.ty(x).clone();
    let inner = scaled(graph, x, std::f64::consts::FRAC_1_SQRT_2);
    let erf = graph.pointwise(PointwiseFn::Erf, &[inner]);
    let one = graph.full(&ty, Scalar::Float(1.0));
    let sum = graph.pointwise(PointwiseFn::Add, &[erf, one]);
    let half = scaled(graph, x, 0.5);
    graph.pointwise(PointwiseFn::Mul, &[half, sum])
}

/// Softmax over the last dim.
fn softmax(graph: &mut Graph, x: NodeId) -> NodeId {
    let shape = graph.ty(x).shape.clone();
    let last = [shape.len() - 1];
    let most = graph.reduce(ReduceFn::Max, x, &last);
    let most = graph.unreduce(most, &shape, &last);
    let shifted = graph.pointwise(PointwiseFn::Sub, &[x, most]);
    let exp = graph.pointwise(PointwiseFn::Exp, &[shifted]);
    let sum = graph.reduce_sum(exp, &last);
    let sum = graph.unreduce(sum, &shape, &last);
    graph.pointwise(PointwiseFn::Div, &[exp, sum])
}

/// Layer norm over the last dim.
fn layer_norm(graph: &mut Graph, x: NodeId, scale: NodeId) -> NodeId {
    let shape = graph.ty(x).shape.clone();
    let last = [shape.len() - 1];
    let count = 1.0 / shape[last[0]].size() as f64;
    let sum = graph.reduce_sum(x, &last);
    let mean = scaled(graph, sum, count);
    let mean = graph.unreduce(mean, &shape, &last);
    let centred = graph.pointwise(PointwiseFn::Sub, &[x, mean]);
    let square = graph.pointwise(PointwiseFn::Mul, &[centred, centred]);
    let sum = graph.reduce_sum(square, &last);
    let variance = scaled(graph, sum, count);
    let ty = graph.ty(variance).clone();
    let epsilon = graph.full(&ty, Scalar::Float(EPSILON));
    let variance = graph.pointwise(PointwiseFn::Add, &[variance, epsilon]);
    let inverse = graph.pointwise(PointwiseFn::Rsqrt, &[variance]);
    let inverse = graph.unreduce(inverse, &shape, &last);
    let normal = graph.pointwise(PointwiseFn::Mul, &[centred, inverse]);
    let scale = graph.broadcast(scale, &shape, &last);
    graph.pointwise(PointwiseFn::Mul, &[normal, scale])
}

/// The mean of squared differences, of rank 0.
fn mean_square(graph: &mut Graph, x: NodeId, y: NodeId) -> NodeId {
    scope(graph, "loss");
    let difference = graph.pointwise(PointwiseFn::Sub, &[x, y]);
    let square = graph.pointwise(PointwiseFn::Mul, &[difference, difference]);
    let count = graph.ty(square).elements().size() as f64;
    let all: Vec<usize> = (0..graph.ty(square).rank()).collect();
    let sum = graph.reduce_sum(square, &all);
    scaled(graph, sum, 1.0 / count)
}

/// The mean cross entropy of logits `[n, classes]` with labels `i32[n]`.
fn cross_entropy(graph: &mut Graph, logits: NodeId, labels: NodeId) -> NodeId {
    scope(graph, "loss");
    let chances = softmax(graph, logits);
    let log = graph.pointwise(PointwiseFn::Log, &[chances]);
    let shape = [graph.ty(labels).shape[0].clone(), Dim::ONE];
    let labels = graph.reshape(labels, &shape);
    let picked = graph.add(Gather { dim: 1, batch: 1 }, &[log, labels]);
    let sum = graph.reduce_sum(picked, &[0, 1]);
    scaled(graph, sum, -1.0 / shape[0].size() as f64)
}

/// Adds the update of every parameter by descent with momentum, and names the loss and the global norm of the gradient.
fn train(graph: &mut Graph, loss: NodeId) {
    let leaves: Vec<(NodeId, String)> =
        graph.leaves(LeafKind::Parameter).map(|(id, leaf)| (id, leaf.name.to_string())).collect();
    let ids: Vec<NodeId> = leaves.iter().map(|(id, _)| *id).collect();
    let grads = gradients(graph, loss, &ids).expect("models are differentiable");
    let mut norm = graph.scalar(DType::F32, Scalar::Float(0.0));
    for ((leaf, name), grad) in leaves.iter().zip(grads) {
        scope(graph, &format!("optimizer.{name}"));
        let ty = graph.ty(*leaf).clone();
        let velocity = format!("{name}.velocity");
        let state = graph.state(&velocity, ty.clone(), Initializer::Constant(Scalar::Float(0.0)));
        let kept = scaled(graph, state, 0.9);
        let next = graph.pointwise(PointwiseFn::Add, &[kept, grad]);
        let step = scaled(graph, next, -0.01);
        let moved = graph.pointwise(PointwiseFn::Add, &[*leaf, step]);
        graph.update(name.clone(), moved);
        graph.update(velocity, next);
        let square = graph.pointwise(PointwiseFn::Mul, &[grad, grad]);
        let all: Vec<usize> = (0..ty.rank()).collect();
        let sum = graph.reduce_sum(square, &all);
        norm = graph.pointwise(PointwiseFn::Add, &[norm, sum]);
    }
    scope(graph, "");
    graph.output("loss", loss);
    graph.output("gradient_norm", norm);
    assert_valid(graph);
}

/// Products of input `x: [batch, sizes[0]]` with a weight and a bias for each further size, with gelu in between.
pub fn perceptron(batch: usize, sizes: &[usize]) -> Graph {
    let mut graph = Graph::new("perceptron");
    let y = layers(&mut graph, batch, sizes);
    scope(&mut graph, "");
    graph.output("y", y);
    assert_valid(&graph);
    graph
}

fn layers(graph: &mut Graph, batch: usize, sizes: &[usize]) -> NodeId {
    let mut x = graph.input("x", f32s(&[batch, sizes[0]]));
    for (index, pair) in sizes.windows(2).enumerate() {
        scope(graph, &format!("layer.{index}"));
        if index > 0 {
            x = gelu(graph, x);
        }
        let weight = parameter(graph, &format!("layer.{index}.weight"), pair);
        let bias = parameter(graph, &format!("layer.{index}.bias"), &pair[1..]);
        let product = graph.contract("mk,kn->mn", x, weight);
        x = add_bias(graph, product, bias);
    }
    x
}

/// A training step of the perceptron, to targets `t`.
pub fn perceptron_step(batch: usize, sizes: &[usize]) -> Graph {
    let mut graph = Graph::new("perceptron_step");
    let y = layers(&mut graph, batch, sizes);
    let target = graph.input("t", f32s(&[batch, sizes[sizes.len() - 1]]));
    let loss = mean_square(&mut graph, y, target);
    train(&mut graph, loss);
    graph
}

/// A training step of a convolution, batch norm without memory, pooling, and a classifier of ten classes, on images
/// `x: [batch, 3, size, size]` with `labels: i32[batch]`.
pub fn convolutional_step(batch: usize, size: usize, channels: usize) -> Graph {
    let mut graph = Graph::new("convolutional_step");
    let x = graph.input("x", f32s(&[batch, 3, size, size]));
    let labels = graph.input("labels", TensorType::new(DType::I32, [batch]));
    scope(&mut graph, "conv");
    let weight = parameter(&mut graph, "conv.weight", &[channels, 3, 3, 3]);
    let convolve = Convolve {
        direction: Direction::Forward,
        stride: vec![1, 1],
        dilation: vec![1, 1],
        pad_low: vec![1, 1],
        pad_high: vec![1, 1],
        groups: 1,
        sizes: vec![],
    };
    let mut y = graph.add(convolve, &[x, weight]);
    scope(&mut graph, "norm");
    let shape = graph.ty(y).shape.clone();
    let over = [0, 2, 3];
    let count = 1.0 / (batch * size * size) as f64;
    let sum = graph.reduce_sum(y, &over);
    let mean = scaled(&mut graph, sum, count);
    let mean = graph.unreduce(mean, &shape, &over);
    let centred = graph.pointwise(PointwiseFn::Sub, &[y, mean]);
    let square = graph.pointwise(PointwiseFn::Mul, &[centred, centred]);
    let sum = graph.reduce_sum(square, &over);
    let variance = scaled(&mut graph, sum, count);
    let ty = graph.ty(variance).clone();
    let epsilon = graph.full(&ty, Scalar::Float(EPSILON));
    let variance = graph.pointwise(PointwiseFn::Add, &[variance, epsilon]);
    let inverse = graph.pointwise(PointwiseFn::Rsqrt, &[variance]);
    let inverse = graph.unreduce(inverse, &shape, &over);
    y = graph.pointwise(PointwiseFn::Mul, &[centred, inverse]);
    let ty = graph.ty(y).clone();
    let zero = graph.full(&ty, Scalar::Float(0.0));
    y = graph.pointwise(PointwiseFn::Max, &[y, zero]);
    scope(&mut graph, "pool");
    let window = |dim| Window { dim, size: 2, stride: 2, dilation: 1, low: 0, high: 0 };
    let value = Scalar::Float(f64::NEG_INFINITY);
    y = graph.add(Unfold { windows: vec![window(2), window(3)], value }, &[y]);
    y = graph.reduce(ReduceFn::Max, y, &[4, 5]);
    scope(&mut graph, "classifier");
    let features = channels * (size / 2) * (size / 2);
    y = graph.reshape(y, &[batch.into(), features.into()]);
    let weight = parameter(&mut graph, "classifier.weight", &[features, 10]);
    let logits = graph.contract("mk,kn->mn", y, weight);
    let loss = cross_entropy(&mut graph, logits, labels);
    train(&mut graph, loss);
    graph
}

/// Sizes of a transformer.
#[derive(Clone, Copy, Debug)]
pub struct Transformer {
    /// Sequences in a batch.
    pub batch: usize,
    /// Positions in a sequence.
    pub sequence: usize,
    /// Attention heads.
    pub heads: usize,
    /// Features of each head.
    pub head: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Blocks.
    pub blocks: usize,
}

impl Transformer {
    /// The logits `[batch * sequence, vocabulary]` of a decoder with tied embeddings, for `tokens: i32[batch, sequence]`.
    pub fn logits(&self, graph: &mut Graph) -> NodeId {
        let Transformer { batch, sequence, heads, head, vocabulary, blocks } = *self;
        let width = heads * head;
        let tokens = graph.input("tokens", TensorType::new(DType::I32, [batch, sequence]));
        scope(graph, "embed");
        let table = parameter(graph, "embed.table", &[vocabulary, width]);
        let mut x = graph.add(Gather { dim: 0, batch: 0 }, &[table, tokens]);
        for block in 0..blocks {
            let name = |part: &str| format!("block.{block}.{part}");
            scope(graph, &name("attention"));
            let scale = parameter(graph, &name("attention.scale"), &[width]);
            let normal = layer_norm(graph, x, scale);
            let project = |graph: &mut Graph, part: &str| {
                let weight = parameter(graph, &name(part), &[width, width]);
                let product = graph.contract("bsk,kn->bsn", normal, weight);
                graph.reshape(product, &[batch.into(), sequence.into(), heads.into(), head.into()])
            };
            let [q, k, v] = ["query", "key", "value"].map(|part| project(graph, part));
            let scores = graph.contract("bshe,bthe->bhst", q, k);
            let scores = scaled(graph, scores, 1.0 / (head as f64).sqrt());
            let shape = graph.ty(scores).shape.clone();
            let (from, to) =
                (graph.iota_along(DType::I32, &shape, 2), graph.iota_along(DType::I32, &shape, 3));
            let visible = graph.pointwise(PointwiseFn::Ge, &[from, to]);
            let ty = graph.ty(scores).clone();
            let hidden = graph.full(&ty, Scalar::Float(-1e9));
            let scores = graph.pointwise(PointwiseFn::Select, &[visible, scores, hidden]);
            let chances = softmax(graph, scores);
            let mixed = graph.contract("bhst,bthe->bshe", chances, v);
            let mixed = graph.reshape(mixed, &[batch.into(), sequence.into(), width.into()]);
            let weight = parameter(graph, &name("output"), &[width, width]);
            let out = graph.contract("bsk,kn->bsn", mixed, weight);
            x = graph.pointwise(PointwiseFn::Add, &[x, out]);
            scope(graph, &name("mlp"));
            let scale = parameter(graph, &name("mlp.scale"), &[width]);
            let normal = layer_norm(graph, x, scale);
            let up = parameter(graph, &name("mlp.up"), &[width, 4 * width]);
            let hidden = graph.contract("bsk,kn->bsn", normal, up);
            let hidden = gelu(graph, hidden);
            let down = parameter(graph, &name("mlp.down"), &[4 * width, width]);
            let out = graph.contract("bsk,kn->bsn", hidden, down);
            x = graph.pointwise(PointwiseFn::Add, &[x, out]);
        }
        scope(graph, "head");
        let x = graph.reshape(x, &[(batch * sequence).into(), width.into()]);
        graph.contract("mk,nk->mn", x, table)
    }

    /// A forward pass.
    pub fn forward(&self) -> Graph {
        let mut graph = Graph::new("transformer");
        let logits = self.logits(&mut graph);
        scope(&mut graph, "");
        graph.output("logits", logits);
        assert_valid(&graph);
        graph
    }

    /// A training step to `labels: i32[batch, sequence]`.
    pub fn step(&self) -> Graph {
        let mut graph = Graph::new("transformer_step");
        let logits = self.logits(&mut graph);
        let labels = graph.input("labels", TensorType::new(DType::I32, [self.batch, self.sequence]));
        let flat = graph.reshape(labels, &[(self.batch * self.sequence).into()]);
        let loss = cross_entropy(&mut graph, logits, flat);
        train(&mut graph, loss);
        graph
    }
}

/// A training step of a recurrent cell over `x: [sequence, batch, features]`, with dropout on its last state, so that there
/// are a scan and random values.
pub fn recurrent_step(sequence: usize, batch: usize, features: usize) -> Graph {
    let mut body = Graph::new("cell");
    let state = f32s(&[batch, features]);
    let (h, x) = (body.input("h", state.clone()), body.input("x", state.clone()));
    let weight = body.input("w", f32s(&[features, features]));
    let product = body.contract("bn,nm->bm", h, weight);
    let sum = body.pointwise(PointwiseFn::Add, &[product, x]);
    let next = body.pointwise(PointwiseFn::Tanh, &[sum]);
    body.output("h", next);

    let mut graph = Graph::new("recurrent_step");
    let x = graph.input("x", f32s(&[sequence, batch, features]));
    let target = graph.input("t", state.clone());
    scope(&mut graph, "cell");
    let weight = parameter(&mut graph, "cell.weight", &[features, features]);
    let start = graph.full(&state, Scalar::Float(0.0));
    let scan = Scan {
        body: Arc::new(body),
        length: sequence.into(),
        carries: 1,
        sequences: 1,
        reverse: false,
        histories: false,
    };
    let last = graph.scan(scan, &[start, x, weight]).expect("the scan fits")[0];
    scope(&mut graph, "dropout");
    let seed = graph.scalar(DType::I32, Scalar::Int(17));
    let counter = graph.linear_index(&state.shape);
    let drawn = graph.add(Random { distribution: Distribution::Uniform }, &[seed, seed, counter]);
    let half = graph.full(&state, Scalar::Float(0.5));
    let drawn = graph.pointwise(PointwiseFn::Lt, &[drawn, half]);
    let zero = graph.full(&state, Scalar::Float(0.0));
    let kept = graph.pointwise(PointwiseFn::Select, &[drawn, last, zero]);
    let loss = mean_square(&mut graph, kept, target);
    train(&mut graph, loss);
    graph
}

/// How many nodes of a graph have this op.
pub fn count(graph: &Graph, is: impl Fn(&Op) -> bool) -> usize {
    graph.nodes().iter().filter(|node| is(&node.op)).count()
}
