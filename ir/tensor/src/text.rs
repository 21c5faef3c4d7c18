//! The text form of graphs: one line for each node, which parses back to the same graph.
//!
//! ```text
//! graph "Digits" {
//!   %0: f32[batch, 64] = () Leaf((kind:input,name:"x",...))
//!   %1: f32[batch, 10] @hidden #0:120-145 = (%0, %3) Contract("ab,bc->ac")
//!   output "logits" = %1
//!   update "count" = %2
//! }
//! ```
//!
//! A line holds the node, its types, its scope after `@`, its span after `#`, its operands, and its op in RON. Sub-graphs
//! follow their node in braces.

use crate::graph::{Graph, Node, NodeId};
use crate::op::Op;
use crate::types::TensorType;
use std::fmt::{self, Write};
use std::str::FromStr;
use std::sync::Arc;
use thalweg_base::{SourceId, Span};

/// Nesting of sub-graphs that a text may have.
const DEPTH_MAX: usize = 32;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        print(self, 0, &mut text);
        f.write_str(&text)
    }
}

fn print(graph: &Graph, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    let mut line = |content: String| writeln!(text, "{indent}{content}").expect("writing to a string");
    line(format!("graph {:?} {{", graph.name));
    for id in graph.ids() {
        let node = graph.node(id);
        let types: Vec<String> = node.types.iter().map(TensorType::to_string).collect();
        let operands: Vec<String> = node.operands.iter().map(NodeId::to_string).collect();
        let scope = if node.scope.is_empty() { String::new() } else { format!(" @{}", node.scope) };
        let span = match node.span {
            Some(span) => format!(" #{}:{}-{}", span.source.0, span.start, span.end),
            None => String::new(),
        };
        let op = ron::to_string(&node.op).expect("ops are plain data");
        line(format!("  {id}: {}{scope}{span} = ({}) {op}", types.join("; "), operands.join(", ")));
        for subgraph in node.op.subgraphs() {
            let mut inner = String::new();
            print(subgraph, depth + 2, &mut inner);
            line(inner.trim_end()[indent.len()..].to_string());
        }
    }
    for output in &graph.outputs {
        line(format!("  output {:?} = {}", output.name, output.node));
    }
    for update in &graph.updates {
        line(format!("  update {:?} = {}", update.name, update.node));
    }
    line("}".into());
}

/// Why a text is no graph.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, as a clause.
    pub message: String,
}

impl FromStr for Graph {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Graph, ParseError> {
        let mut lines = Lines { rest: text.lines().enumerate().collect(), at: 0 };
        let graph = lines.graph(0)?;
        match lines.next() {
            None => Ok(graph),
            Some((line, text)) => {
                Err(ParseError { line, message: format!("`{text}` after the graph's end") })
            }
        }
    }
}

struct Lines<'a> {
    rest: Vec<(usize, &'a str)>,
    at: usize,
}

impl<'a> Lines<'a> {
    fn peek(&mut self) -> Option<(usize, &'a str)> {
        loop {
            let (number, text) = *self.rest.get(self.at)?;
            match text.trim() {
                "" => self.at += 1,
                text => return Some((number + 1, text)),
            }
        }
    }

    fn next(&mut self) -> Option<(usize, &'a str)> {
        let line = self.peek();
        self.at += 1;
        line
    }

    fn graph(&mut self, depth: usize) -> Result<Graph, ParseError> {
        let end = ParseError { line: self.rest.len(), message: "the text ends within a graph".into() };
        let (number, header) = self.next().ok_or(end.clone())?;
        let error = |line: usize, message: String| ParseError { line, message };
        if depth > DEPTH_MAX {
            return Err(error(number, format!("sub-graphs nest deeper than {DEPTH_MAX}")));
        }
        let name = header.strip_prefix("graph ").and_then(|rest| rest.strip_suffix('{'));
        let name = name.ok_or_else(|| error(number, format!("`{header}` does not begin a graph")))?;
        let mut graph = Graph::new(unquote(name).map_err(|message| error(number, message))?);
        loop {
            let (number, text) = self.next().ok_or(end.clone())?;
            let fail = |message: String| error(number, message);
            if text == "}" {
                return Ok(graph);
            }
            // A name may hold ` = ` itself; what follows the name of a root does not.
            let root = text.starts_with("output ") || text.starts_with("update ");
            let halves = if root { text.rsplit_once(" = ") } else { text.split_once(" = ") };
            let (head, rest) = halves.ok_or_else(|| fail(format!("`{text}` has no ` = `")))?;
            if let Some(name) = head.strip_prefix("output ") {
                graph.output(unquote(name).map_err(fail)?, self.node(&graph, rest).map_err(fail)?);
            } else if let Some(name) = head.strip_prefix("update ") {
                graph.update(unquote(name).map_err(fail)?, self.node(&graph, rest).map_err(fail)?);
            } else {
                let mut node = parse_node(&graph, head, rest).map_err(fail)?;
                let count = node.op.subgraphs().len();
                let mut subgraphs = Vec::new();
                for _ in 0..count {
                    subgraphs.push(Arc::new(self.graph(depth + 1)?));
                }
                node.op = node.op.with_subgraphs(&subgraphs);
                graph.push(node);
            }
        }
    }

    fn node(&self, graph: &Graph, text: &str) -> Result<NodeId, String> {
        parse_id(text, graph.nodes().len())
    }
}

fn unquote(text: &str) -> Result<String, String> {
    ron::from_str(text.trim()).map_err(|error| format!("{text} is no quoted name: {error}"))
}

fn parse_id(text: &str, nodes: usize) -> Result<NodeId, String> {
    let index = text.trim().strip_prefix('%').and_then(|digits| digits.parse::<usize>().ok());
    match index {
        Some(index) if index < nodes => Ok(NodeId::new(index)),
        Some(_) | None => Err(format!("`{text}` is no node above this line")),
    }
}

fn parse_node(graph: &Graph, head: &str, rest: &str) -> Result<Node, String> {
    let (id, mut head) = head.split_once(": ").ok_or_else(|| format!("`{head}` names no node and type"))?;
    if parse_id(id, graph.nodes().len() + 1)? != NodeId::new(graph.nodes().len()) {
        return Err(format!("`{id}` is out of order"));
    }
    let mut span = None;
    if let Some((before, text)) = head.rsplit_once(" #") {
        let parts = text.split_once(':').and_then(|(source, range)| {
            let (start, end) = range.split_once('-')?;
            Some(Span {
                source: SourceId(source.parse().ok()?),
                start: start.parse().ok()?,
                end: end.parse().ok()?,
            })
        });
        span = Some(parts.ok_or_else(|| format!("`{text}` is no span"))?);
        head = before;
    }
    let mut scope: Arc<str> = "".into();
    if let Some((before, text)) = head.split_once(" @") {
        scope = text.into();
        head = before;
    }
    let types = head.split(';').map(|ty| ty.trim().parse()).collect::<Result<Vec<TensorType>, String>>()?;
    let (operands, op) = rest
        .strip_prefix('(')
        .and_then(|rest| rest.split_once(')'))
        .ok_or_else(|| format!("`{rest}` has no operands in parentheses"))?;
    let operands = operands.split(',').filter(|text| !text.trim().is_empty());
    let operands = operands.map(|text| parse_id(text, graph.nodes().len())).collect::<Result<Vec<_>, _>>()?;
    let op: Op = ron::from_str(op.trim()).map_err(|error| format!("`{op}` is no op: {error}"))?;
    Ok(Node { op, operands, types, scope, span })
}
