//! The roofline: an op takes as long as its arithmetic at the rate that its class reaches, or as its traffic, whichever
//! is longer, and at least a launch.

use crate::collective::collective_seconds;
use crate::presets;
use serde::{Deserialize, Serialize};
use thalweg_base::{DType, DeviceDescription, LinkDescription, ProductCurve};
use thalweg_tensor::ops::{Contract, Convolve};
use thalweg_tensor::{Graph, Op, TensorType, Work};

/// What a node costs that does no work of its own, in seconds: enough that of two equal choices the one with fewer nodes
/// is cheaper, and too little to outweigh any work.
const VIEW_SECONDS: f64 = 1e-9;

/// The share of its traffic that an op pays which will run in one loop with its neighbours. A chain of four, the usual
/// length between products and reductions in transformers and convolutional networks, reads and writes memory once.
const FUSED_TRAFFIC: f64 = 0.25;

/// The share of a launch that such an op pays, for the same reason much less than a quarter: most chains of small
/// tensors are longer.
const FUSED_LAUNCH: f64 = 1.0 / 32.0;

/// The curve of devices that nobody has measured: the half-sizes are the register tile of blocked kernels (Goto and van de Geijn,
/// "Anatomy of High-Performance Matrix Multiplication", 2008) for `m` and `n`, and for `k` the length over which writing the
/// tile back is hidden.
pub const USUAL_PRODUCTS: ProductCurve = ProductCurve { top: 0.8, half_m: 6.0, half_n: 16.0, half_k: 16.0 };

/// What ops cost on one device.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CostModel {
    /// The device.
    pub device: DeviceDescription,
    /// The link to the devices that collectives reach.
    pub link: LinkDescription,
    /// The least time of a collective beside its messages, in seconds: devices wait for each other.
    pub meeting_s: f64,
    /// How fast products are.
    pub products: ProductCurve,
}

impl CostModel {
    /// The model of a device whose collectives stay within one process.
    pub fn new(device: &DeviceDescription) -> CostModel {
        CostModel {
            device: device.clone(),
            link: presets::shared_memory_link(device),
            meeting_s: device.launch_s,
            products: USUAL_PRODUCTS,
        }
    }

    /// The seconds that an op takes. Sizes must be bound.
    ///
    /// - Leaves, constants, iotas, picks and views (reshape, broadcast, slice) cost next to nothing, as their users read
    ///   through them.
    /// - Pointwise ops, conversions, random values, pads and transposes run in one loop with their neighbours. They pay all
    ///   their arithmetic, a quarter of the traffic of their result and largest operand (the other operands are usually
    ///   made in the same loop or broadcast), and a small share of a launch.
    /// - Products pay a launch and the longer of arithmetic at the curve's efficiency, and traffic.
    /// - Other ops pay a launch and the longer of scalar arithmetic and traffic.
    /// - A scan pays its body for every turn, a loop once, a branch its longer side.
    pub fn op_seconds(&self, op: &Op, operands: &[TensorType], results: &[TensorType]) -> f64 {
        let work = || op.def().work(operands, results);
        match op {
            Op::Leaf(_) | Op::Iota(_) | Op::Pick(_) => VIEW_SECONDS,
            Op::Reshape(_) | Op::Broadcast(_) | Op::Slice(_) => VIEW_SECONDS,
            Op::Constant(constant) => VIEW_SECONDS + self.traffic(constant.value.bytes().len() as f64),
            Op::Pointwise(_) | Op::Convert(_) | Op::Random(_) | Op::Pad(_) | Op::Transpose(_) => {
                let largest = operands.iter().map(bytes).fold(0.0, f64::max);
                let traffic = FUSED_TRAFFIC * self.traffic(largest + bytes(&results[0]));
                let arithmetic = work().flops / self.scalar_rate(results[0].dtype);
                FUSED_LAUNCH * self.device.launch_s + arithmetic + traffic
            }
            Op::Contract(contract) => {
                let [m, n, k] = contract_sizes(contract, operands);
                self.product(work(), operands[0].dtype, [m, n, k])
            }
            Op::Convolve(convolve) => {
                self.product(work(), operands[0].dtype, convolve_sizes(convolve, operands, results))
            }
            Op::Concat(_) | Op::Gather(_) | Op::Scatter(_) | Op::Reduce(_) | Op::Cumulative(_) => {
                self.kernel(work(), results[0].dtype)
            }
            Op::Unfold(_) | Op::Fold(_) | Op::ArgSort(_) | Op::DynamicSlice(_) | Op::DynamicUpdate(_) => {
                self.kernel(work(), results[0].dtype)
            }
            Op::Scan(scan) => {
                self.device.launch_s + scan.length.size() as f64 * self.graph_seconds(&scan.body)
            }
            Op::While(op) => {
                self.device.launch_s + self.graph_seconds(&op.condition) + self.graph_seconds(&op.body)
            }
            Op::Branch(op) => {
                let sides = [&op.then, &op.otherwise].map(|side| self.graph_seconds(side));
                self.device.launch_s + sides[0].max(sides[1])
            }
            Op::Collective(op) => {
                collective_seconds(op.kind, bytes(&operands[0]), op.size, &self.link) + VIEW_SECONDS
            }
        }
    }

    /// The seconds that all nodes of a graph take one after the other. Sizes must be bound.
    pub fn graph_seconds(&self, graph: &Graph) -> f64 {
        let of = |id| {
            let node = graph.node(id);
            self.op_seconds(&node.op, &graph.operand_types_of(id), &node.types)
        };
        graph.ids().map(of).sum()
    }

    /// The seconds that memory takes to move these bytes.
    pub fn traffic(&self, bytes: f64) -> f64 {
        bytes / self.device.bandwidth_bytes_per_s
    }

    /// Product arithmetic per second in `dtype`; that of f32 where nothing is known.
    pub fn product_rate(&self, dtype: DType) -> f64 {
        let rates = &self.device.flops_per_s;
        let known = rates.get(&dtype).or_else(|| rates.get(&DType::F32));
        *known.expect("a device knows its f32 rate")
    }

    /// Other arithmetic per second: half of the products', as few operations are fused multiply-adds.
    fn scalar_rate(&self, dtype: DType) -> f64 {
        self.product_rate(dtype) / 2.0
    }

    fn kernel(&self, work: Work, dtype: DType) -> f64 {
        let arithmetic = work.flops / self.scalar_rate(dtype);
        self.device.launch_s + arithmetic.max(self.traffic(work.bytes_read + work.bytes_written))
    }

    fn product(&self, work: Work, dtype: DType, [m, n, k]: [f64; 3]) -> f64 {
        let rate = self.product_rate(dtype) * self.products.efficiency(m, n, k);
        self.device.launch_s + (work.flops / rate).max(self.traffic(work.bytes_read + work.bytes_written))
    }
}

fn bytes(ty: &TensorType) -> f64 {
    ty.elements().size() as f64 * ty.dtype.size_bytes() as f64
}

/// The products of the sizes of the letters that only the left operand has, that only the right one has, and that are
/// summed. Letters of all three places make separate products.
pub(crate) fn contract_sizes(op: &Contract, operands: &[TensorType]) -> [f64; 3] {
    let [mut m, mut n, mut k] = [1.0; 3];
    for (letter, size) in op.lhs.chars().zip(&operands[0].shape) {
        match (op.rhs.contains(letter), op.out.contains(letter)) {
            (true, true) => {}
            (true, false) => k *= size.size() as f64,
            (false, _) => m *= size.size() as f64,
        }
    }
    for (letter, size) in op.rhs.chars().zip(&operands[1].shape) {
        if !op.lhs.contains(letter) {
            n *= size.size() as f64;
        }
    }
    [m, n, k]
}

/// A convolution as a product: its arithmetic is `2 m n k`, its result has `m n` elements, and the smallest channel
/// count stands for `n`.
pub(crate) fn convolve_sizes(op: &Convolve, operands: &[TensorType], results: &[TensorType]) -> [f64; 3] {
    let work = Op::from(op.clone()).def().work(operands, results);
    let elements = results[0].elements().size().max(1) as f64;
    let channels = |ty: &TensorType| ty.shape.get(1).map_or(1.0, |size| size.size() as f64);
    let n = operands.iter().chain(results).map(channels).fold(f64::INFINITY, f64::min);
    [elements / n.max(1.0), n, work.flops / (2.0 * elements)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_base::PointwiseFn;
    use thalweg_tensor::ops::{Pointwise, Transpose};

    fn product_seconds(model: &CostModel, size: usize) -> f64 {
        let ty = TensorType::new(DType::F32, [size, size]);
        let op = Op::from(Contract::new("mk,kn->mn"));
        model.op_seconds(&op, &[ty.clone(), ty.clone()], &[ty])
    }

    #[test]
    fn small_products_reach_a_smaller_share_of_the_peak() {
        let model = CostModel::new(&presets::cpu_default(2));
        let rate = |size: usize| 2.0 * (size as f64).powi(3) / product_seconds(&model, size);
        assert!(rate(8) < rate(32) && rate(32) < rate(128) && rate(128) < rate(1024));
        let peak = model.product_rate(DType::F32);
        assert!(rate(8) < 0.02 * peak, "{}", rate(8) / peak);
        assert!(rate(1024) > 0.7 * peak && rate(1024) <= peak, "{}", rate(1024) / peak);
    }

    #[test]
    fn arithmetic_orders_pointwise_functions_and_views_are_free() {
        let model = CostModel::new(&presets::cpu_default(2));
        let ty = TensorType::new(DType::F32, [64, 64]);
        let seconds = |op: Op, arity: usize| model.op_seconds(&op, &vec![ty.clone(); arity], &[ty.clone()]);
        let of = |function: PointwiseFn| seconds(Op::from(Pointwise { function }), function.arity());
        assert!(of(PointwiseFn::Mul) < of(PointwiseFn::Div) && of(PointwiseFn::Div) < of(PointwiseFn::Exp));
        let reshape = thalweg_tensor::ops::Reshape { shape: ty.shape.clone() };
        assert!(seconds(Op::from(reshape), 1) < 0.01 * of(PointwiseFn::Neg));
        assert!(seconds(Op::from(Transpose { perm: vec![1, 0] }), 1) > 0.0);
    }

    #[test]
    fn every_sample_of_every_op_costs_a_finite_positive_time() {
        let model = CostModel::new(&presets::cpu_default(1));
        for sample in Op::all_samples() {
            let operands: Vec<TensorType> = sample.operands.iter().map(|(ty, _)| ty.clone()).collect();
            let results = sample.op.def().infer(&operands).unwrap();
            let seconds = model.op_seconds(&sample.op, &operands, &results);
            assert!(seconds > 0.0 && seconds < 1.0, "{:?}: {seconds}", sample.op);
        }
    }
}
