//! DOT, the language of Graphviz, with a cluster for each scope.

use super::Picture;
use std::fmt::Write;
use thalweg_tensor::Graph;

/// The graph as DOT text.
pub fn dot(graph: &Graph) -> String {
    let picture = Picture::of(graph);
    let mut text = String::new();
    let mut line = |depth: usize, content: String| {
        writeln!(text, "{}{content}", "  ".repeat(depth)).expect("writing to a string");
    };
    line(0, format!("digraph {} {{", quoted(&picture.name)));
    line(1, "node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\", fontsize=10];".into());
    line(1, "graph [style=rounded, color=\"#999999\", fontname=\"Helvetica\", fontsize=10];".into());
    let scopes = picture.scopes();
    let mut open: Vec<String> = Vec::new();
    // Paths are sorted, so a scope comes right before the scopes inside it.
    for (number, (path, boxes)) in scopes.iter().enumerate() {
        while !path.starts_with(&open) {
            line(open.len(), "}".into());
            open.pop();
        }
        if let Some(name) = path.last() {
            line(path.len(), format!("subgraph cluster_{number} {{"));
            line(path.len() + 1, format!("label={};", quoted(name)));
            open = path.clone();
        }
        for at in boxes {
            let shown = &picture.boxes[*at];
            let label = quoted(&format!("{}\n{}", shown.title, shown.detail));
            line(path.len() + 1, format!("n{at} [label={label}, fillcolor=\"{}\"];", shown.kind.color()));
        }
    }
    while !open.is_empty() {
        line(open.len(), "}".into());
        open.pop();
    }
    for (from, to) in &picture.arrows {
        line(1, format!("n{from} -> n{to};"));
    }
    line(0, "}".into());
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
