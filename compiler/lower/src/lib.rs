//! Lowering: a tensor graph to the steps of a plan.
//!
//! Assumes one program's graph without symbols, valid and pruned, in which communication is already an op. Guarantees a
//! plan that computes what the graph means, whose every buffer has a fixed place. The way is: `prepare` for lowering's own
//! rewrites, `group` for what lies in memory and what shares a kernel, `form`, `build` and `emit` for the kernels, `memory` for
//! the arena, `assemble` for the steps.
//!
//! This crate never makes code and never sees a device; it must not know what a kernel costs beyond rough counts.

#![forbid(unsafe_code)]

mod assemble;
mod build;
mod coalesce;
mod control;
mod emit;
mod form;
mod group;
mod in_place;
mod memory;
mod prepare;
mod reciprocal;
mod remember;
mod routine;
mod share;
mod tile;
mod view;

use assemble::{Interface, KernelTable, Planner, Slot};
use memory::aligned;
use std::collections::BTreeMap;
use thalweg_base::{DType, Initializer, Layout, Symbol};
use thalweg_plan::{CompiledKernel, FORMAT_VERSION, Plan, Port, Program};
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::settle::settle;
use thalweg_tensor::{Graph, Mesh, Op};

/// Why a graph cannot be lowered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// A size is not known.
    #[error("the size `{0}` has no value; give one with --set {0}=...")]
    Unbound(Symbol),
    /// Elements of a tensor are asked for that has none.
    #[error("`{scope}` takes elements of a tensor of shape {shape:?}, which has none")]
    Empty {
        /// The scope of what asks.
        scope: String,
        /// The tensor's shape.
        shape: Vec<usize>,
    },
    /// A tensor has more elements than positions can count.
    #[error("`{scope}` holds a tensor of {elements} elements; at most 2^31 - 1 can be addressed")]
    TooLarge {
        /// The scope of the tensor.
        scope: String,
        /// Its elements.
        elements: usize,
    },
}

/// What is to be lowered.
pub struct Request<'a> {
    /// What the plan is called.
    pub name: &'a str,
    /// The program of every device, with the shapes that one device sees.
    pub graph: &'a Graph,
    /// The devices.
    pub mesh: &'a Mesh,
    /// How each leaf is spread.
    pub leaf_layout: &'a dyn Fn(LeafKind, &str) -> Layout,
    /// How each output is spread, by position.
    pub output_layout: &'a dyn Fn(usize) -> Layout,
    /// Threads of one device.
    pub threads: usize,
}

/// The plan of a graph, its kernels without code.
pub fn lower(request: &Request) -> Result<Plan, LowerError> {
    let graph = &settle(request.graph);
    check(graph)?;
    let request = &Request { graph, ..*request };
    let mut table = KernelTable::default();
    let mut ports: BTreeMap<Role, Vec<Port>> = BTreeMap::new();
    let mut programs = Vec::new();
    for device in 0..request.mesh.devices() {
        programs.push(program(request, device, &mut table, &mut ports));
    }
    let mut take = |role| ports.remove(&role).unwrap_or_default();
    Ok(Plan {
        version: FORMAT_VERSION,
        name: request.name.to_string(),
        key: String::new(),
        target: Vec::new(),
        mesh: request.mesh.clone(),
        inputs: take(Role::Input),
        parameters: take(Role::Parameter),
        states: take(Role::State),
        outputs: take(Role::Output),
        kernels: table.kernels.into_iter().map(|kernel| CompiledKernel { kernel, code: None }).collect(),
        programs,
    })
}

fn check(graph: &Graph) -> Result<(), LowerError> {
    if let Some(symbol) = graph.symbols().into_iter().next() {
        return Err(LowerError::Unbound(symbol));
    }
    for node in graph.nodes() {
        if let Op::Gather(op) = &node.op
            && let x = graph.ty(node.operands[0])
            && x.shape[op.dim].size() == 0
        {
            return Err(LowerError::Empty { scope: node.scope.to_string(), shape: x.sizes() });
        }
        for ty in &node.types {
            let elements = ty.elements().size();
            if i32::try_from(elements).is_err() {
                return Err(LowerError::TooLarge { scope: node.scope.to_string(), elements });
            }
        }
        for subgraph in node.op.subgraphs() {
            check(subgraph)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Role {
    Parameter,
    State,
    Input,
    Output,
}

fn role(kind: LeafKind) -> Role {
    match kind {
        LeafKind::Input => Role::Input,
        LeafKind::Parameter => Role::Parameter,
        LeafKind::State => Role::State,
    }
}

/// Lays out one device: kept values first, then constants, then what lives within a call.
fn program(
    request: &Request,
    device: usize,
    table: &mut KernelTable,
    ports: &mut BTreeMap<Role, Vec<Port>>,
) -> Program {
    let Request { graph, mesh, .. } = request;
    let mut planner = Planner::new(mesh, device, request.threads, table);
    let mut end = 0;
    let mut keep = |planner: &mut Planner, bytes: usize| {
        let place = end;
        end += aligned(bytes);
        (place, Slot { buffer: planner.kept(bytes, place), offset: 0, per_turn: vec![] })
    };
    let mut leaves = BTreeMap::new();
    let mut by_name: BTreeMap<(LeafKind, &str), Slot> = BTreeMap::new();
    for kind in [LeafKind::Parameter, LeafKind::State, LeafKind::Input] {
        for (index, (id, leaf)) in graph.leaves(kind).enumerate() {
            let (place, slot) = keep(&mut planner, graph.ty(id).bytes());
            if kind == LeafKind::Parameter && graph.updates.iter().all(|update| *update.name != *leaf.name) {
                planner.unwritten.insert(slot.buffer);
            }
            leaves.insert(id, slot.clone());
            by_name.insert((kind, &leaf.name), slot);
            let layout = (request.leaf_layout)(kind, &leaf.name);
            add_place(ports.entry(role(kind)).or_default(), index, place, || {
                port(&leaf.name, leaf.ty.dtype, &leaf.ty.sizes(), layout, mesh, leaf.init.clone())
            });
        }
    }
    let mut outputs = Vec::new();
    for (index, output) in graph.outputs.iter().enumerate() {
        let ty = graph.ty(output.node);
        let (place, slot) = keep(&mut planner, ty.bytes());
        outputs.push(slot);
        let layout = (request.output_layout)(index);
        add_place(ports.entry(Role::Output).or_default(), index, place, || {
            port(&output.name, ty.dtype, &ty.sizes(), layout, mesh, None)
        });
    }
    let updates = graph
        .updates
        .iter()
        .map(|update| {
            let of = |kind| by_name.get(&(kind, &*update.name));
            of(LeafKind::Parameter).or_else(|| of(LeafKind::State)).expect("updates are of leaves").clone()
        })
        .collect();
    let mut steps = planner.plan(graph, &Interface { leaves, outputs, updates });
    let mut constants = Vec::new();
    for (buffer, value) in std::mem::take(&mut planner.constants) {
        planner.buffers[buffer].fixed = Some(end);
        constants.push((end, value.clone()));
        end += aligned(value.bytes().len());
    }
    let arena_bytes = planner.link(&mut steps, end);
    Program { arena_bytes, kept_bytes: end, constants, steps }
}

fn add_place(ports: &mut Vec<Port>, index: usize, place: usize, new: impl FnOnce() -> Port) {
    if ports.len() == index {
        ports.push(new());
    }
    ports[index].places.push(place);
}

/// A port for a piece of that shape on each device.
fn port(
    name: &str,
    dtype: DType,
    piece: &[usize],
    layout: Layout,
    mesh: &Mesh,
    initial: Option<Initializer>,
) -> Port {
    let shape = layout.global_shape(piece, mesh);
    Port { name: name.to_string(), dtype, shape, layout, initial, places: Vec::new() }
}
