//! What a graph runs as on a device for which it is only planned: kernels, what each computes, reads and writes.
//!
//! Pointwise work and movement run where they are used, as compilers for accelerators fuse them; their results are in memory
//! only where a product, another routine or the caller wants them there, or where computing them again in each of their uses
//! would read more than keeping them. Reductions take in what leads to them. Everything else is a kernel of its own.
//!
//! Assumes: sizes are bound. Guarantees: every value that a kernel reads is a leaf, a constant, or written by an earlier one.

use crate::model::{contract_sizes, convolve_sizes};
use crate::topology::Pattern;
use std::collections::BTreeMap;
use thalweg_base::{Accelerator, DType};
use thalweg_tensor::ops::{CollectiveKind, Convolve, Direction};
use thalweg_tensor::{Graph, NodeId, Op, TensorType};

/// The class of a kernel's work.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Work {
    /// A product of `batch` times `m` by `k` by `n`.
    Product {
        /// Sizes `m`, `n`, `k`.
        sizes: [f64; 3],
    },
    /// A convolution, as the product of the same number of operations.
    Convolution {
        /// Sizes `m`, `n`, `k`.
        sizes: [f64; 3],
        /// Whether fast transforms apply: windows of 3 or 5 in each dim at stride 1 over several channels.
        transformable: bool,
    },
    /// Anything else, which takes as long as its traffic.
    Stream,
    /// Communication along the axis that the graph was split along.
    Collective {
        /// What is done.
        pattern: Pattern,
        /// Its bytes, as the pattern counts them.
        bytes: f64,
    },
}

/// One kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct Kernel {
    /// The node whose value it writes.
    pub node: NodeId,
    /// The class of its work.
    pub work: Work,
    /// The dtype that it computes in.
    pub dtype: DType,
    /// Arithmetic operations, of products and convolutions alone.
    pub flops: f64,
    /// The values that it reads from memory, and the bytes of each.
    pub reads: Vec<(NodeId, f64)>,
    /// The bytes that it writes.
    pub written: f64,
}

impl Kernel {
    /// The seconds on a device; 0 for collectives, whose time depends on links.
    pub fn seconds(&self, device: &Accelerator) -> f64 {
        let read: f64 = self.reads.iter().map(|(_, bytes)| bytes).sum();
        let traffic = (read + self.written) / device.traffic_rate();
        let arithmetic = match self.work {
            Work::Product { sizes: [m, n, k] } => {
                self.flops / (device.product_rate(self.dtype) * device.products.efficiency(m, n, k))
            }
            Work::Convolution { sizes: [m, n, k], transformable } => {
                let fewer =
                    if transformable && self.dtype == DType::F32 { device.fast_convolution } else { 1.0 };
                let rate = device.product_rate(self.dtype) * device.convolutions.efficiency(m, n, k);
                self.flops / fewer / rate
            }
            Work::Stream => 0.0,
            Work::Collective { .. } => return 0.0,
        };
        device.launch_s + arithmetic.max(traffic)
    }
}

/// The bytes of a value when values of `f32` are kept as `working`.
pub fn bytes(ty: &TensorType, working: DType) -> f64 {
    ty.elements().size() as f64 * kept(ty.dtype, working).size_bytes() as f64
}

fn kept(dtype: DType, working: DType) -> DType {
    if dtype == DType::F32 { working } else { dtype }
}

/// How a node takes part in fusion.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// In memory before anything runs.
    Source,
    /// Made where it is used, from nothing.
    Free,
    /// Another way to look at its operand.
    View,
    /// Computed where it is used.
    Fused,
    /// A kernel that takes in what leads to its operands.
    Reduction,
    /// A kernel that wants its operands in memory.
    Routine,
}

fn role(op: &Op) -> Role {
    match op {
        Op::Leaf(_) => Role::Source,
        Op::Constant(constant) if constant.value.len() > 1 => Role::Source,
        Op::Constant(_) | Op::Iota(_) => Role::Free,
        Op::Reshape(_) | Op::Broadcast(_) | Op::Pick(_) => Role::View,
        Op::Pointwise(_) | Op::Convert(_) | Op::Random(_) | Op::Pad(_) | Op::Transpose(_) => Role::Fused,
        Op::Slice(_) | Op::Concat(_) | Op::Unfold(_) => Role::Fused,
        Op::Reduce(_) => Role::Reduction,
        Op::Contract(_) | Op::Convolve(_) | Op::Gather(_) | Op::Scatter(_) | Op::Cumulative(_) => {
            Role::Routine
        }
        Op::Fold(_) | Op::ArgSort(_) | Op::DynamicSlice(_) | Op::DynamicUpdate(_) => Role::Routine,
        Op::Scan(_) | Op::While(_) | Op::Branch(_) | Op::Collective(_) => Role::Routine,
    }
}

/// What is read to compute a value where it is used: values in memory, and elements of each.
type Cone = BTreeMap<NodeId, f64>;

struct Analysis<'a> {
    graph: &'a Graph,
    working: DType,
    /// Values that are in memory.
    held: Vec<bool>,
    /// For values that are not.
    cones: Vec<Cone>,
}

impl Analysis<'_> {
    fn width(&self, id: NodeId) -> f64 {
        kept(self.graph.ty(id).dtype, self.working).size_bytes() as f64
    }

    fn elements(&self, id: NodeId) -> f64 {
        self.graph.ty(id).elements().size() as f64
    }

    /// Adds what reading `elements` of an operand at most takes.
    fn read(&self, operand: NodeId, elements: f64, cone: &mut Cone) {
        let mut add = |source: NodeId, count: f64| {
            let own = cone.entry(source).or_insert(0.0);
            *own = own.max(count.min(elements));
        };
        match self.held[operand.index()] {
            true => add(operand, self.elements(operand)),
            false => self.cones[operand.index()].iter().for_each(|(source, count)| add(*source, *count)),
        }
    }

    fn bytes_of(&self, cone: &Cone) -> f64 {
        cone.iter().map(|(source, count)| count * self.width(*source)).sum()
    }

    /// The value that a chain of views looks at.
    fn behind(&self, mut id: NodeId) -> NodeId {
        while role(&self.graph.node(id).op) == Role::View {
            id = self.graph.node(id).operands[0];
        }
        id
    }

    fn kernel(&self, id: NodeId, cone: Cone) -> Kernel {
        let reads = cone.iter().map(|(source, count)| (*source, count * self.width(*source))).collect();
        let written = self.graph.node(id).types.iter().map(|ty| bytes(ty, self.working)).sum();
        let dtype = kept(self.graph.ty(id).dtype, self.working);
        Kernel { node: id, work: Work::Stream, dtype, flops: 0.0, reads, written }
    }
}

/// The kernels of a graph in the order of its nodes. Values of `f32` are kept and multiplied as `working`.
pub fn kernels(graph: &Graph, working: DType) -> Vec<Kernel> {
    let count = graph.nodes().len();
    let mut analysis = Analysis { graph, working, held: vec![false; count], cones: vec![Cone::new(); count] };
    let (uses, wanted) = uses(&analysis);
    let mut kernels = Vec::new();
    for id in graph.ids() {
        let node = graph.node(id);
        let size = analysis.elements(id);
        let mut cone = Cone::new();
        match role(&node.op) {
            Role::Source => analysis.held[id.index()] = true,
            Role::Free => {}
            // Several results lie beside each other; one of them is in memory if all are.
            Role::View if matches!(node.op, Op::Pick(_)) => analysis.held[id.index()] = true,
            Role::View => {
                analysis.read(node.operands[0], size, &mut cone);
                analysis.cones[id.index()] = cone;
            }
            Role::Fused => {
                node.operands.iter().for_each(|operand| analysis.read(*operand, size, &mut cone));
                let own = size * analysis.width(id);
                let users = f64::from(uses[id.index()]);
                let again = users * analysis.bytes_of(&cone);
                let kept = analysis.bytes_of(&cone) + own + users * own;
                if wanted[id.index()] || (users > 1.0 && kept < again) {
                    kernels.push(analysis.kernel(id, cone));
                    analysis.held[id.index()] = true;
                } else {
                    analysis.cones[id.index()] = cone;
                }
            }
            Role::Reduction => {
                analysis.read(node.operands[0], f64::INFINITY, &mut cone);
                kernels.push(analysis.kernel(id, cone));
                analysis.held[id.index()] = true;
            }
            Role::Routine => {
                node.operands.iter().for_each(|operand| analysis.read(*operand, f64::INFINITY, &mut cone));
                let kernel = analysis.kernel(id, cone);
                kernels.push(routine(graph, id, kernel, working));
                analysis.held[id.index()] = true;
            }
        }
    }
    kernels
}

/// For each node, how many nodes that are no views use it, and whether one of them, or the caller, wants it in memory.
fn uses(analysis: &Analysis) -> (Vec<u32>, Vec<bool>) {
    let graph = analysis.graph;
    let mut uses = vec![0; graph.nodes().len()];
    let mut wanted = vec![false; graph.nodes().len()];
    for id in graph.ids() {
        let node = graph.node(id);
        let own = role(&node.op);
        if own == Role::View {
            continue;
        }
        let mut operands: Vec<NodeId> =
            node.operands.iter().map(|operand| analysis.behind(*operand)).collect();
        operands.sort();
        operands.dedup();
        for operand in operands {
            uses[operand.index()] += 1;
            wanted[operand.index()] |= own == Role::Routine;
        }
    }
    for root in graph.roots() {
        wanted[analysis.behind(root).index()] = true;
    }
    (uses, wanted)
}

fn routine(graph: &Graph, id: NodeId, mut kernel: Kernel, working: DType) -> Kernel {
    let node = graph.node(id);
    let types = graph.operand_types_of(id);
    match &node.op {
        Op::Contract(contract) => {
            kernel.flops = node.op.def().work(&types, &node.types).flops;
            kernel.work = Work::Product { sizes: contract_sizes(contract, &types) };
        }
        Op::Convolve(convolve) => {
            kernel.flops = node.op.def().work(&types, &node.types).flops;
            kernel.work = Work::Convolution {
                sizes: convolve_sizes(convolve, &types, &node.types),
                transformable: transformable(convolve, &types, &node.types[0]),
            };
        }
        // Of a table, only the rows that are asked for are read.
        Op::Gather(_) | Op::DynamicSlice(_) => {
            let source = kernel.reads.iter_mut().find(|(source, _)| *source == node.operands[0]);
            if let Some((_, read)) = source {
                *read = read.min(kernel.written);
            }
        }
        // A loop's body runs once for each position.
        Op::Scan(scan) => {
            let turns = scan.length.size() as f64;
            let body = kernels(&scan.body, working);
            kernel.flops = turns * body.iter().map(|own| own.flops).sum::<f64>();
            let traffic = |own: &Kernel| own.written + own.reads.iter().map(|(_, bytes)| bytes).sum::<f64>();
            kernel.written += turns * body.iter().map(traffic).sum::<f64>();
            let largest =
                body.iter().filter(|own| own.flops > 0.0).max_by(|a, b| a.flops.total_cmp(&b.flops));
            if let Some(Work::Product { sizes }) = largest.map(|own| own.work) {
                kernel.work = Work::Product { sizes };
            }
        }
        Op::Collective(collective) => {
            let (before, after) = (bytes(&types[0], working), bytes(&node.types[0], working));
            let (pattern, bytes) = match collective.kind {
                CollectiveKind::AllReduce { .. } => (Pattern::AllReduce, before),
                CollectiveKind::AllGather { .. } => (Pattern::AllGather, after),
                CollectiveKind::ReduceScatter { .. } => (Pattern::ReduceScatter, before),
                CollectiveKind::AllToAll { .. } => (Pattern::AllToAll, before),
                CollectiveKind::Shard { .. } => return kernel,
            };
            kernel.work = Work::Collective { pattern, bytes };
        }
        Op::Scatter(_) | Op::Cumulative(_) | Op::Fold(_) | Op::ArgSort(_) | Op::DynamicUpdate(_) => {}
        Op::While(_) | Op::Branch(_) | Op::Leaf(_) | Op::Constant(_) | Op::Iota(_) | Op::Random(_) => {}
        Op::Pointwise(_) | Op::Convert(_) | Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) => {}
        Op::Slice(_) | Op::Pad(_) | Op::Concat(_) | Op::Reduce(_) | Op::Unfold(_) | Op::Pick(_) => {}
    }
    kernel
}

fn transformable(convolve: &Convolve, operands: &[TensorType], result: &TensorType) -> bool {
    let weights = match convolve.direction {
        Direction::Forward => &operands[1],
        Direction::InputGradient => &operands[0],
        Direction::WeightGradient => result,
    };
    let square = weights.shape[2..].iter().all(|size| matches!(size.size(), 3 | 5));
    let channels = weights.shape[1].size() >= 16;
    square && channels && convolve.groups == 1 && convolve.stride.iter().all(|step| *step == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library;
    use thalweg_base::PointwiseFn;
    use thalweg_tensor::ReduceFn;

    fn ty(shape: [usize; 2]) -> TensorType {
        TensorType::new(DType::F32, shape)
    }

    #[test]
    fn a_softmax_reads_its_row_three_times_and_writes_it_once() {
        let mut graph = Graph::new("softmax");
        let x = graph.input("x", ty([64, 128]));
        let wide = |graph: &mut Graph, id| graph.broadcast(id, &[64.into(), 128.into()], &[0]);
        let largest = graph.reduce(ReduceFn::Max, x, &[1]);
        let largest = wide(&mut graph, largest);
        let centred = graph.pointwise(PointwiseFn::Sub, &[x, largest]);
        let e = graph.pointwise(PointwiseFn::Exp, &[centred]);
        let sum = graph.reduce(ReduceFn::Sum, e, &[1]);
        let sum = wide(&mut graph, sum);
        let y = graph.pointwise(PointwiseFn::Div, &[e, sum]);
        graph.output("y", y);
        let kernels = kernels(&graph, DType::F16);
        assert_eq!(kernels.len(), 3);
        let read_of_x: f64 = kernels
            .iter()
            .flat_map(|kernel| &kernel.reads)
            .filter(|(source, _)| *source == x)
            .map(|(_, bytes)| bytes)
            .sum();
        assert_eq!(read_of_x, 3.0 * 64.0 * 128.0 * 2.0);
        assert_eq!(kernels[2].written, 64.0 * 128.0 * 2.0);
    }

    #[test]
    fn an_activation_between_products_is_written_once() {
        let mut graph = Graph::new("mlp");
        let x = graph.input("x", ty([256, 64]));
        let up = graph.input("up", ty([64, 512]));
        let down = graph.input("down", ty([512, 64]));
        let h = graph.contract("mk,kn->mn", x, up);
        let scaled = graph.pointwise(PointwiseFn::Mul, &[h, h]);
        let a = graph.pointwise(PointwiseFn::Tanh, &[scaled]);
        let y = graph.contract("mk,kn->mn", a, down);
        graph.output("y", y);
        let kernels = kernels(&graph, DType::F32);
        assert_eq!(kernels.iter().map(|kernel| kernel.node).collect::<Vec<_>>(), [h, a, y]);
        assert_eq!(kernels[1].reads, [(h, 256.0 * 512.0 * 4.0)]);
        assert_eq!(kernels[0].flops, 2.0 * 256.0 * 512.0 * 64.0);
    }

    #[test]
    fn large_products_come_near_the_peak_and_small_ones_cost_a_launch() {
        let device = library::device("v100-16gb").unwrap();
        let seconds = |size: usize| {
            let mut graph = Graph::new("product");
            let x = graph.input("x", ty([size, size]));
            let y = graph.contract("mk,kn->mn", x, x);
            graph.output("y", y);
            kernels(&graph, DType::F16)[0].seconds(device)
        };
        let rate = |size: usize| 2.0 * (size as f64).powi(3) / seconds(size);
        assert!(rate(8192) > 0.7 * 125e12 && rate(8192) < 125e12);
        assert!(rate(64) < 0.01 * 125e12);
        assert!(seconds(8) < 1.01 * device.launch_s);
    }
}
