//! The pass: sub-graphs first, then the regions of the graph, each once, and the result put together.

use crate::normalize::normalize;
use crate::plan::{Rewritten, op_seconds, rewrite_region};
use crate::regions::{Region, Shape, split};
use crate::report::{Report, StopReason};
use crate::rules::{self, Class, Table};
use crate::saturate::Limits;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_cost::CostModel;
use thalweg_tensor::{Graph, Node, NodeId, Op};

/// What rewriting may do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// The classes of rules that are allowed.
    pub classes: Vec<Class>,
    /// The most e-nodes that one region's e-graph may have.
    pub node_limit: usize,
    /// The most rounds of rules that one region gets.
    pub iteration_limit: usize,
    /// How many applications of rules are allowed over all regions, to find by bisection the one that breaks something.
    pub fuel: Option<usize>,
}

impl Default for Options {
    /// Rules that hold for every input, in real arithmetic; twenty e-nodes for each node of the largest region; and more
    /// rounds than the longest chain of rules needs.
    fn default() -> Options {
        Options {
            classes: vec![Class::Exact, Class::Reassociates],
            node_limit: 20 * crate::regions::REGION_NODES_MAX,
            iteration_limit: 12,
            fuel: None,
        }
    }
}

/// What is collected on the way.
struct Progress {
    fired: Vec<usize>,
    stop: StopReason,
    fuel: Option<usize>,
    e_nodes: usize,
    e_classes: usize,
    iterations: usize,
    regions: usize,
    regions_unique: usize,
}

/// Rewrites a graph into an equal one that is predicted to be faster, or gives it back without double and unused nodes.
///
/// The graph must verify. Leaves, outputs and updates stay as they are. Sub-graphs of loops and branches are rewritten too.
/// Symbols count as a common size when costs are compared.
pub fn rewrite(graph: &Graph, options: &Options, cost: &CostModel) -> (Graph, Report) {
    let table = Table::new(|rule| options.classes.contains(&rule.class));
    let mut progress = Progress {
        fired: vec![0; rules::all().len()],
        stop: StopReason::Saturated,
        fuel: options.fuel,
        e_nodes: 0,
        e_classes: 0,
        iterations: 0,
        regions: 0,
        regions_unique: 0,
    };
    let result = rewrite_graph(graph, options, cost, &table, &mut progress);
    let named = rules::all().iter().zip(&progress.fired).filter(|(_, times)| **times > 0);
    let mut rules: Vec<(String, usize)> =
        named.map(|(rule, times)| (rule.name.to_string(), *times)).collect();
    rules.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let report = Report {
        rules,
        stop: progress.stop,
        cost_before: graph_seconds(cost, graph),
        cost_after: graph_seconds(cost, &result),
        e_nodes: progress.e_nodes,
        e_classes: progress.e_classes,
        iterations: progress.iterations,
        regions: progress.regions,
        regions_unique: progress.regions_unique,
    };
    (result, report)
}

/// The seconds of all nodes, symbols bound to a common size.
fn graph_seconds(cost: &CostModel, graph: &Graph) -> f64 {
    let of = |id: NodeId| {
        let node = graph.node(id);
        op_seconds(cost, &node.op, &graph.operand_types_of(id), &node.types)
    };
    graph.ids().map(of).sum()
}

fn rewrite_graph(
    graph: &Graph,
    options: &Options,
    cost: &CostModel,
    table: &Table,
    progress: &mut Progress,
) -> Graph {
    let graph = &normalize(&with_rewritten_subgraphs(graph, options, cost, table, progress));
    let regions = split(graph);
    let mut known: FxHashMap<&Shape, Rewritten> = FxHashMap::default();
    let mut builder = Builder::new(graph);
    progress.regions += regions.len();
    for region in &regions {
        if !known.contains_key(&region.shape) {
            let limits = Limits {
                iterations: options.iteration_limit,
                nodes: options.node_limit,
                fuel: &mut progress.fuel,
            };
            let rewritten = rewrite_region(&region.shape, table, limits, &mut progress.fired, cost);
            progress.regions_unique += 1;
            progress.stop = progress.stop.max(rewritten.outcome.stop);
            progress.iterations = progress.iterations.max(rewritten.outcome.iterations);
            progress.e_nodes += rewritten.e_nodes;
            progress.e_classes += rewritten.e_classes;
            known.insert(&region.shape, rewritten);
        }
        builder.append(region, &known[&region.shape]);
    }
    // Regions that were not replaced come out in another order at most, and then the graph stays as it was.
    let result = normalize(&builder.finish());
    if graph_seconds(cost, &result) < graph_seconds(cost, graph) { result } else { graph.clone() }
}

/// The graph with the sub-graphs of its loops and branches rewritten, equal ones once.
fn with_rewritten_subgraphs(
    graph: &Graph,
    options: &Options,
    cost: &CostModel,
    table: &Table,
    progress: &mut Progress,
) -> Graph {
    if graph.nodes().iter().all(|node| node.op.subgraphs().is_empty()) {
        return graph.clone();
    }
    let mut known: BTreeMap<Arc<Graph>, Arc<Graph>> = BTreeMap::new();
    let mut result = graph.clone();
    for id in graph.ids() {
        let op = &graph.node(id).op;
        let bodies: Vec<Arc<Graph>> = op
            .subgraphs()
            .into_iter()
            .map(|body| {
                if let Some(done) = known.get(body) {
                    return done.clone();
                }
                let done = Arc::new(rewrite_graph(body, options, cost, table, progress));
                known.insert(body.clone(), done.clone());
                done
            })
            .collect();
        if !bodies.is_empty() {
            result.replace_op(id, op.with_subgraphs(&bodies));
        }
    }
    result
}

/// Puts a graph together from the regions of another.
struct Builder<'g> {
    source: &'g Graph,
    result: Graph,
    /// Where the values of the source are in the result.
    map: Vec<Option<NodeId>>,
}

impl<'g> Builder<'g> {
    /// A graph with the leaves of the source, in their order.
    fn new(source: &'g Graph) -> Builder<'g> {
        let mut builder = Builder {
            source,
            result: Graph::new(source.name.clone()),
            map: vec![None; source.nodes().len()],
        };
        for id in source.ids().filter(|id| matches!(source.node(*id).op, Op::Leaf(_))) {
            builder.copy(id);
        }
        builder
    }

    /// Copies a node of the source with what it needs: those of no region.
    fn copy(&mut self, id: NodeId) -> NodeId {
        if let Some(done) = self.map[id.index()] {
            return done;
        }
        let node = self.source.node(id);
        let operands = node.operands.iter().map(|operand| self.copy(*operand)).collect();
        let new = self.result.push(Node { operands, ..node.clone() });
        self.map[id.index()] = Some(new);
        new
    }

    /// Adds a region, rewritten or as it is.
    fn append(&mut self, region: &Region, rewritten: &Rewritten) {
        let Some(replacement) = &rewritten.replacement else {
            for id in &region.ids {
                self.copy(*id);
            }
            return;
        };
        let mut inputs = region
            .shape
            .nodes
            .iter()
            .zip(&region.ids)
            .filter_map(|((op, _), id)| op.as_leaf().map(|leaf| (leaf.name.clone(), *id)));
        let inputs: BTreeMap<Arc<str>, NodeId> = inputs.by_ref().collect();
        let mut places: Vec<NodeId> = Vec::with_capacity(replacement.nodes.len());
        for (op, operands, origin) in &replacement.nodes {
            if let Some(leaf) = op.as_leaf() {
                let id = self.copy(inputs[&leaf.name]);
                places.push(id);
                continue;
            }
            let from = self.source.node(region.ids[*origin as usize]);
            self.result.current_scope = from.scope.clone();
            self.result.current_span = from.span;
            let operands: Vec<NodeId> = operands.iter().map(|operand| places[*operand as usize]).collect();
            places.push(self.result.add((**op).clone(), &operands));
        }
        for (output, place) in region.shape.outputs.iter().zip(&replacement.outputs) {
            self.map[region.ids[*output as usize].index()] = Some(places[*place as usize]);
        }
    }

    /// The graph with the outputs and updates of the source.
    fn finish(mut self) -> Graph {
        for output in &self.source.outputs {
            let node = self.copy(output.node);
            self.result.output(output.name.clone(), node);
        }
        for update in &self.source.updates {
            let node = self.copy(update.node);
            self.result.update(update.name.clone(), node);
        }
        self.result.current_scope = Arc::from("");
        self.result.current_span = None;
        self.result
    }
}
