//! What one block takes on one device: its forward and backward pass for so many samples, cut over so many devices.

use super::PlannerError;
use super::summary::{BEFORE, BlockKind, bound};
use crate::{Partitioned, Strategy, partition};
use std::collections::BTreeSet;
use thalweg_base::{Accelerator, DType, DeviceDescription, LinkDescription, Symbol};
use thalweg_cost::kernels::{Kernel, Work, bytes, kernels};
use thalweg_cost::{Algorithm, CostModel, Pattern, Topology};
use thalweg_tensor::gradient::backward;
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Graph, Mesh, NodeId, TensorType};

/// The mesh axis along which a block is cut.
pub(crate) const AXIS: &str = "tensor";

/// What a pass of a block takes on one device.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Pass {
    /// Seconds of kernels.
    pub compute_s: f64,
    /// Of these, products and convolutions.
    pub product_s: f64,
    /// Operations of products and convolutions.
    pub flops: f64,
    /// Collectives within the block.
    pub collectives: Vec<CollectiveUse>,
}

impl Pass {
    /// Seconds of communication, none of it hidden: the block waits for it.
    pub fn communication_s(&self) -> f64 {
        self.collectives.iter().map(|own| own.seconds).sum()
    }
}

/// One collective within a block.
#[derive(Clone, PartialEq, Debug)]
pub struct CollectiveUse {
    /// What is done.
    pub pattern: Pattern,
    /// Its bytes, as the pattern counts them.
    pub bytes: f64,
    /// How.
    pub algorithm: Algorithm,
    /// What it takes.
    pub seconds: f64,
}

/// What a block takes on one device.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct BlockCost {
    /// Forward.
    pub forward: Pass,
    /// Backward, nothing computed again.
    pub backward: Pass,
    /// For each parameter, in order: its elements on one device, and the dim that it is cut along.
    pub parameters: Vec<(f64, Option<usize>)>,
    /// Bytes that the backward pass reads beside parameters and the block's input.
    pub saved_bytes: f64,
    /// Bytes that are in memory at once at most while the block is at work, beside what is saved.
    pub workspace_bytes: f64,
    /// Bytes of what comes from the block before, and of what goes on to the next.
    pub before_bytes: f64,
    /// See above.
    pub after_bytes: f64,
}

/// What blocks are costed for.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// The device.
    pub device: &'a Accelerator,
    /// The devices that share a block.
    pub topology: Topology,
    /// What values of `f32` are kept and multiplied as.
    pub working: DType,
}

/// The graph of both passes of a block: its output first, its gradients as updates of its parameters.
fn both_passes(kind: &BlockKind, batch: &Symbol, samples: usize) -> Result<Graph, PlannerError> {
    let mut graph = bound(&kind.graph, batch, samples);
    let after = graph.outputs[0].node;
    let parameters: Vec<(NodeId, String)> =
        graph.leaves(LeafKind::Parameter).map(|(id, leaf)| (id, leaf.name.to_string())).collect();
    let mut wanted: Vec<NodeId> = parameters.iter().map(|(id, _)| *id).collect();
    wanted.extend(graph.leaf(LeafKind::Input, BEFORE));
    let ty = graph.ty(after).clone();
    let seed = match ty.rank() {
        0 => graph.scalar(ty.dtype, thalweg_base::Scalar::Float(1.0)),
        _ => graph.input("cotangent", ty),
    };
    let gradients = backward(&mut graph, &[(after, seed)], &wanted).map_err(|error| {
        PlannerError::Gradient { op: error.op.to_string(), reason: error.reason.to_string() }
    })?;
    for ((_, name), gradient) in parameters.iter().zip(&gradients) {
        graph.update(name.clone(), *gradient);
    }
    if kind.follows {
        graph.output("cotangent", gradients[parameters.len()]);
    }
    Ok(graph.prune().0)
}

/// The cost model that cuts are searched with: the device as it runs values of `f32` when they are kept as `working`.
fn model(setting: &Setting) -> CostModel {
    let device = setting.device;
    let wider = f64::from(DType::F32.size_bytes() as u32) / f64::from(setting.working.size_bytes() as u32);
    let description = device.description();
    let mut rates = description.flops_per_s.clone();
    rates.insert(DType::F32, device.product_rate(setting.working));
    let (bandwidth, latency) = setting.topology.ring_link();
    let link = LinkDescription { latency_s: latency, bandwidth_bytes_per_s: bandwidth * wider };
    let description = DeviceDescription {
        flops_per_s: rates,
        bandwidth_bytes_per_s: description.bandwidth_bytes_per_s * wider,
        ..description
    };
    let meeting_s = setting.topology.start_s();
    CostModel { device: description, link, meeting_s, products: device.products }
}

/// What a block of this kind takes for so many samples. Fails when it cannot be cut, or has no gradient.
pub fn cost(
    kind: &BlockKind,
    batch: &Symbol,
    samples: usize,
    setting: &Setting,
) -> Result<BlockCost, PlannerError> {
    let whole = both_passes(kind, batch, samples)?;
    let parts = setting.topology.size();
    let split = match parts {
        1 => None,
        _ => Some(cut(&whole, parts, setting)?),
    };
    let graph = split.as_ref().map_or(&whole, |split| &split.graph);
    let mut cost = measured(graph, setting);
    for leaf in graph.leaves(LeafKind::Parameter) {
        let dim = split.as_ref().and_then(|split| {
            let layout = split.layout(LeafKind::Parameter, &leaf.1.name)?;
            layout.cuts.first().map(|(_, dim)| *dim)
        });
        cost.parameters.push((leaf.1.ty.elements().size() as f64, dim));
    }
    let input = whole.leaf(LeafKind::Input, BEFORE);
    cost.before_bytes = input.map_or(0.0, |id| bytes(whole.ty(id), setting.working));
    cost.after_bytes = bytes(whole.ty(whole.outputs[0].node), setting.working);
    Ok(cost)
}

fn cut(graph: &Graph, parts: usize, setting: &Setting) -> Result<Partitioned, PlannerError> {
    let split = partition(graph, &Mesh::line(AXIS, parts), &Strategy::tensor(), &model(setting))?;
    Ok(split)
}

/// Kernels, collectives and memory of both passes of a graph whose first output is the forward pass's.
fn measured(graph: &Graph, setting: &Setting) -> BlockCost {
    let after = graph.outputs[0].node;
    let forward = ancestors(graph, after);
    let all = kernels(graph, setting.working);
    let mut cost = BlockCost::default();
    for kernel in &all {
        let pass = if forward[kernel.node.index()] { &mut cost.forward } else { &mut cost.backward };
        match kernel.work {
            Work::Collective { pattern, bytes } => {
                let (seconds, algorithm) = setting.topology.seconds(pattern, bytes);
                pass.collectives.push(CollectiveUse { pattern, bytes, algorithm, seconds });
            }
            Work::Product { .. } | Work::Convolution { .. } => {
                let seconds = kernel.seconds(setting.device);
                pass.compute_s += seconds;
                pass.product_s += seconds;
                pass.flops += kernel.flops;
            }
            Work::Stream => pass.compute_s += kernel.seconds(setting.device),
        }
    }
    let saved = saved(graph, &forward, &all);
    cost.saved_bytes = saved.iter().map(|id| bytes(graph.ty(*id), setting.working)).sum();
    cost.workspace_bytes = workspace(graph, &all, &saved, setting.working);
    cost
}

fn ancestors(graph: &Graph, of: NodeId) -> Vec<bool> {
    let mut found = vec![false; graph.nodes().len()];
    found[of.index()] = true;
    for id in graph.ids().rev() {
        if found[id.index()] {
            graph.node(id).operands.iter().for_each(|operand| found[operand.index()] = true);
        }
    }
    found
}

/// The values that the forward pass writes and the backward pass reads. What both could make alike is counted as kept.
fn saved(graph: &Graph, forward: &[bool], all: &[Kernel]) -> BTreeSet<NodeId> {
    let written: BTreeSet<NodeId> =
        all.iter().filter(|kernel| forward[kernel.node.index()]).map(|kernel| kernel.node).collect();
    let backward = all.iter().filter(|kernel| !forward[kernel.node.index()]);
    let read = backward.flat_map(|kernel| kernel.reads.iter().map(|(source, _)| *source));
    // The block's own output is the next block's input and kept there.
    let after = graph.outputs[0].node;
    read.filter(|source| written.contains(source) && *source != after).collect()
}

/// The most bytes of values at once, kernel by kernel, that are neither leaves nor saved.
fn workspace(graph: &Graph, all: &[Kernel], saved: &BTreeSet<NodeId>, working: DType) -> f64 {
    let size = |id: NodeId| -> f64 {
        let ty: &TensorType = graph.ty(id);
        if saved.contains(&id) { 0.0 } else { bytes(ty, working) }
    };
    let mut last = vec![usize::MAX; graph.nodes().len()];
    for (at, kernel) in all.iter().enumerate() {
        last[kernel.node.index()] = at;
        kernel.reads.iter().for_each(|(source, _)| last[source.index()] = at);
    }
    // Gradients of parameters are counted as gradients.
    let updates: BTreeSet<NodeId> = graph.updates.iter().map(|update| update.node).collect();
    let mut held = 0.0;
    let mut peak: f64 = 0.0;
    for (at, kernel) in all.iter().enumerate() {
        if updates.contains(&kernel.node) {
            continue;
        }
        held += size(kernel.node);
        peak = peak.max(held);
        let leaf = |id: NodeId| graph.node(id).op.as_leaf().is_some();
        let ends = kernel.reads.iter().map(|(source, _)| *source).chain([kernel.node]);
        held -= ends.filter(|id| last[id.index()] == at && !leaf(*id)).map(size).sum::<f64>();
    }
    peak
}
