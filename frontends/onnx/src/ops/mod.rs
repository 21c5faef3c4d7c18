//! The table of ops: how each becomes nodes of ours. A family is a file with its rows.

mod activation;
mod attention;
mod cast;
mod contrib;
mod conv;
mod elementwise;
mod grid;
mod indexing;
mod loss;
mod matmul;
mod movement;
mod normalization;
mod optimizer;
mod pool;
mod quantize;
mod random;
mod recurrent;
mod reduce;
mod resize;
mod selection;
mod sequence;
mod shape;
mod signal;
mod sizes;
mod tfidf;
mod vector;

use crate::builder::Build;
use crate::call::{Call, Lower};
use crate::error::{NodeProblem, Problem};
use crate::file::Model;
use crate::proto::NodeProto;
use crate::value::Value;
use std::collections::BTreeSet;

/// The name of an op and how it is lowered.
pub type Row = (&'static str, Lower);

/// How an op is lowered.
pub struct Entry {
    /// How.
    pub lower: Lower,
    /// Whether a node of known operands may be computed at import.
    pub folds: bool,
}

/// Families of ops of one domain that fold alike.
struct Family {
    domain: &'static str,
    folds: bool,
    rows: &'static [Row],
}

const fn standard(rows: &'static [Row]) -> Family {
    Family { domain: "", folds: true, rows }
}

const FAMILIES: &[Family] = &[
    standard(activation::OPS),
    standard(attention::OPS),
    Family { domain: "ai.onnx.preview", folds: true, rows: attention::PREVIEW },
    standard(cast::OPS),
    Family { domain: "com.microsoft", folds: true, rows: contrib::OPS },
    standard(contrib::STANDARD),
    standard(conv::OPS),
    standard(elementwise::OPS),
    standard(grid::OPS),
    standard(indexing::OPS),
    standard(loss::OPS),
    standard(matmul::OPS),
    standard(movement::OPS),
    standard(normalization::OPS),
    Family { domain: "ai.onnx.preview.training", folds: true, rows: optimizer::OPS },
    standard(pool::OPS),
    standard(quantize::OPS),
    Family { domain: "", folds: false, rows: random::OPS },
    standard(recurrent::OPS),
    standard(reduce::OPS),
    standard(resize::OPS),
    standard(selection::OPS),
    standard(sequence::OPS),
    standard(shape::OPS),
    standard(signal::OPS),
    standard(tfidf::OPS),
    Family { domain: "ai.onnx.ml", folds: true, rows: vector::OPS },
];

/// Ops that run graphs of their own; the walk builds them itself.
const CONTROL: &[&str] = &["If", "Loop", "Scan", "SequenceMap"];

/// The result of a node that computes with sizes alone; none when it is lowered as any other.
pub fn sizes_or_none(call: &Call) -> Build<Option<Value>> {
    sizes::needs_only(sizes::lower(call))
}

/// A domain by its short name: the standard one has none.
pub fn domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// An op with its domain, unless that is the standard one.
pub fn qualified(of: &str, op: &str) -> String {
    match domain(of) {
        "" => op.to_string(),
        domain => format!("{domain}.{op}"),
    }
}

/// How an op is lowered.
pub fn find(of: &str, op: &str) -> Option<Entry> {
    let families = FAMILIES.iter().filter(|family| family.domain == domain(of));
    families
        .filter_map(|family| {
            let (_, lower) = family.rows.iter().find(|(name, _)| *name == op)?;
            Some(Entry { lower: *lower, folds: family.folds })
        })
        .next()
}

/// Every op that is taken, with its domain unless that is the standard one, sorted.
pub fn supported() -> Vec<String> {
    let rows =
        FAMILIES.iter().flat_map(|family| family.rows.iter().map(|(name, _)| qualified(family.domain, name)));
    let mut names: Vec<String> = rows.chain(CONTROL.iter().map(|name| name.to_string())).collect();
    names.sort();
    names
}

/// What is wrong with an op that there is no row for.
pub fn unknown(of: &str, op: &str) -> Problem {
    let similar = supported().into_iter().find(|name| name.eq_ignore_ascii_case(op));
    let problem = Problem::new(format!("there is no way to import `{}`", qualified(of, op)));
    match (similar, domain(of)) {
        (Some(similar), _) => problem.help(format!("there is one for `{similar}`")),
        (None, "") => {
            problem.help("an op of its own would be needed, or a function of the model that defines it")
        }
        (None, domain) => {
            problem.help(format!("the domain `{domain}` is not known; a function of the model may define it"))
        }
    }
}

/// Every op of a model that there is no way to import, each once.
pub fn unsupported(model: &Model) -> Vec<NodeProblem> {
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    let graphs = model.graph().node.iter().map(|node| (node, &model.proto.opset_import));
    let functions = model.proto.functions.iter();
    let bodies =
        functions.flat_map(|function| function.node.iter().map(move |node| (node, &function.opset_import)));
    for (node, imports) in graphs.chain(bodies) {
        visit(node, &mut |node| {
            let known = find(&node.domain, &node.op_type).is_some()
                || (domain(&node.domain).is_empty() && CONTROL.contains(&node.op_type.as_str()))
                || model.function(&node.domain, &node.op_type, &node.overload).is_some();
            if !known && seen.insert((domain(&node.domain).to_string(), node.op_type.clone())) {
                let import = imports.iter().find(|import| domain(&import.domain) == domain(&node.domain));
                problems.push(NodeProblem {
                    node: Some(if node.name.is_empty() { node.output.concat() } else { node.name.clone() }),
                    op: Some(qualified(&node.domain, &node.op_type)),
                    opset: import.map(|import| import.version),
                    operands: Vec::new(),
                    problem: unknown(&node.domain, &node.op_type),
                });
            }
        });
    }
    problems
}

fn visit(node: &NodeProto, see: &mut dyn FnMut(&NodeProto)) {
    see(node);
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            graph.node.iter().for_each(|node| visit(node, see));
        }
    }
}
