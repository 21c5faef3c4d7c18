//! The passes, in order.

use crate::report::{PassReport, Report};
use crate::{CompileError, Options};
use rayon::prelude::*;
use std::time::Instant;
use thalweg_base::Bindings;
use thalweg_codegen_cpu::Target;
use thalweg_cost::CostModel;
use thalweg_lower::Request;
use thalweg_partition::Partitioned;
use thalweg_plan::{Code, Plan};
use thalweg_tensor::{Graph, Node, verify};

/// What passes share.
pub struct Context<'a> {
    /// The values of sizes.
    pub bindings: &'a Bindings,
    /// What the compiler is told.
    pub options: &'a Options,
    /// What work costs.
    pub cost: CostModel,
    /// What has been done so far.
    pub report: Report,
    /// The split, once it is made.
    pub partitioned: Option<Partitioned>,
}

/// A pass over tensor graphs.
#[derive(Clone, Copy)]
pub struct Pass {
    /// What it is called in reports and dumps.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Graph, &mut Context) -> Result<Graph, CompileError>,
    /// What holds after it.
    pub gains: &'static str,
    /// Why it stands here.
    pub why_here: &'static str,
}

/// The passes over tensor graphs, in order.
pub const TENSOR_PASSES: &[Pass] = &[
    Pass {
        name: "bind",
        run: bind,
        gains: "no symbol is left",
        why_here: "costs, splits and memory need sizes; a plan is made for one set of them",
    },
    Pass {
        name: "settle",
        run: settle,
        gains: "no op but loops and branches takes or gives tensors without elements",
        why_here: "as soon as sizes are known: no later pass has to think of a dim of 0",
    },
    Pass {
        name: "prune",
        run: prune,
        gains: "every node is needed by a result",
        why_here: "differentiation leaves nodes that nothing uses, which the e-graph would carry along",
    },
    Pass {
        name: "rewrite",
        run: rewrite,
        gains: "no cheaper form is known of any region",
        why_here: "before the split, which then need not see through what cancels",
    },
    Pass {
        name: "partition",
        run: partition,
        gains: "one program for all devices, communication explicit",
        why_here: "last on tensors: what follows knows one device only",
    },
];

/// A compiled graph.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What to run.
    pub plan: Plan,
    /// How it came about.
    pub report: Report,
}

/// Compiles a graph for values of its symbols.
pub fn compile(graph: &Graph, bindings: &Bindings, options: &Options) -> Result<Compiled, CompileError> {
    let mut context = context(bindings, options);
    let split = tensor_passes(graph, &mut context, &mut |_, _| ())?;
    let plan = lower(&split, &mut context)?;
    let plan = if options.code { code(plan, &mut context)? } else { plan };
    Ok(Compiled { plan, report: context.report })
}

pub(crate) fn context<'a>(bindings: &'a Bindings, options: &'a Options) -> Context<'a> {
    Context {
        bindings,
        options,
        cost: CostModel::new(&options.device),
        report: Report::default(),
        partitioned: None,
    }
}

/// Runs the passes over tensor graphs; `after` sees the graph after each.
pub(crate) fn tensor_passes(
    graph: &Graph,
    context: &mut Context,
    after: &mut dyn FnMut(&Pass, &Graph),
) -> Result<Graph, CompileError> {
    let mut graph = graph.clone();
    for pass in TENSOR_PASSES {
        let start = Instant::now();
        let next = (pass.run)(&graph, context)?;
        let seconds = start.elapsed().as_secs_f64();
        if context.options.verify || cfg!(debug_assertions) {
            verify::assert_valid(&next);
        }
        let (nodes_before, nodes_after) = (graph.nodes().len(), next.nodes().len());
        context.report.passes.push(PassReport { name: pass.name.into(), seconds, nodes_before, nodes_after });
        after(pass, &next);
        graph = next;
    }
    Ok(graph)
}

/// Replaces symbols and infers every type again: a value may make shapes impossible that were fine as symbols.
fn bind(graph: &Graph, context: &mut Context) -> Result<Graph, CompileError> {
    let bound = graph.substitute(context.bindings);
    if let Some(symbol) = bound.symbols().first() {
        return Err(CompileError::Unbound(symbol.to_string()));
    }
    for id in bound.ids() {
        let node = bound.node(id);
        let inferred = bound
            .operand_types(&node.op, &node.operands)
            .and_then(|operands| node.op.def().infer(&operands))
            .and_then(|types| match types == node.types {
                true => Ok(()),
                false => Err(thalweg_tensor::InferError::new(format!("{:?} became {types:?}", node.types))),
            });
        if let Err(error) = inferred {
            let bindings: Vec<String> =
                context.bindings.iter().map(|(symbol, value)| format!("{symbol} = {value}")).collect();
            let scope = if node.scope.is_empty() { String::new() } else { format!(" (in `{}`)", node.scope) };
            let message = format!("{error}{scope}");
            return Err(CompileError::Binding { bindings: bindings.join(", "), message });
        }
    }
    Ok(bound)
}

fn settle(graph: &Graph, _: &mut Context) -> Result<Graph, CompileError> {
    Ok(thalweg_tensor::settle::settle(graph))
}

fn prune(graph: &Graph, _: &mut Context) -> Result<Graph, CompileError> {
    Ok(graph.prune().0)
}

fn rewrite(graph: &Graph, context: &mut Context) -> Result<Graph, CompileError> {
    let Some(options) = &context.options.rewrite else { return Ok(graph.clone()) };
    let (graph, report) = thalweg_rewrite::rewrite(graph, options, &context.cost);
    context.report.rewrite = Some(report);
    Ok(graph)
}

fn partition(graph: &Graph, context: &mut Context) -> Result<Graph, CompileError> {
    let Options { mesh, strategy, .. } = context.options;
    let split = thalweg_partition::partition(graph, mesh, strategy, &context.cost)?;
    let graph = split.graph.clone();
    context.report.reshards = split.reshards.clone();
    context.partitioned = Some(split);
    Ok(graph)
}

/// Lowers the split graph to a plan without code.
pub(crate) fn lower(graph: &Graph, context: &mut Context) -> Result<Plan, CompileError> {
    let start = Instant::now();
    let split = context.partitioned.as_ref().expect("lowering follows partitioning");
    let leaf_layout = |kind, name: &str| split.layout(kind, name).expect("a split keeps its leaves").clone();
    let output_layout = |index: usize| split.outputs[index].clone();
    let request = Request {
        name: &graph.name,
        graph,
        mesh: &split.mesh,
        leaf_layout: &leaf_layout,
        output_layout: &output_layout,
        threads: context.options.device.threads,
    };
    let mut plan = thalweg_lower::lower(&request)?;
    plan.set_precision(context.options.precision);
    plan.key = key(graph, context.options);
    let seconds = start.elapsed().as_secs_f64();
    if context.options.verify || cfg!(debug_assertions) {
        let violations = thalweg_plan::verify::verify(&plan);
        assert!(violations.is_empty(), "lowering made a plan that is not valid: {violations:#?}");
    }
    context.report.passes.push(PassReport {
        name: "lower".into(),
        seconds,
        nodes_before: graph.nodes().len(),
        nodes_after: plan.kernels.len(),
    });
    context.report.kernels = plan.kernels.len();
    context.report.arena_bytes = plan.arena_bytes_max();
    Ok(plan)
}

/// Makes machine code of every kernel.
pub(crate) fn code(mut plan: Plan, context: &mut Context) -> Result<Plan, CompileError> {
    let start = Instant::now();
    let target = Target::host(&context.options.device.features).with_emitter(context.options.emitter);
    let codes: Result<Vec<(Code, bool)>, _> = plan
        .kernels
        .par_iter()
        .map(|compiled| {
            let code = thalweg_codegen_cpu::compile(&compiled.kernel, &target)?;
            assert_eq!(code.entry, 0, "generated code begins with its function");
            let wide = code.refusal.is_none();
            let code = Code { bytes: code.bytes, alignment: code.alignment as u32 };
            Ok::<_, thalweg_codegen_cpu::CodegenError>((code, wide))
        })
        .collect();
    for (kernel, (code, wide)) in plan.kernels.iter_mut().zip(codes?) {
        context.report.wide_kernels += usize::from(wide);
        context.report.code_bytes += code.bytes.len();
        kernel.code = Some(code);
    }
    plan.target = context.options.device.features.clone();
    let kernels = plan.kernels.len();
    let seconds = start.elapsed().as_secs_f64();
    context.report.passes.push(PassReport {
        name: "code".into(),
        seconds,
        nodes_before: kernels,
        nodes_after: kernels,
    });
    Ok(plan)
}

/// A hash of all that a plan is made from: the graph without the places in its source, and the options.
fn key(graph: &Graph, options: &Options) -> String {
    let mut plain = Graph::new(graph.name.clone());
    for node in graph.nodes() {
        plain.push(Node { span: None, ..node.clone() });
    }
    plain.outputs = graph.outputs.clone();
    plain.updates = graph.updates.clone();
    let choices =
        format!("{:?}{:?}{:?}{:?}", options.mesh, options.device, options.precision, options.emitter);
    let text = format!("{plain}{choices}");
    // FNV-1a in 128 bits: enough to tell versions of a model apart; nobody attacks their own cache.
    let hash = text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ byte as u128).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    format!("{hash:032x}")
}
