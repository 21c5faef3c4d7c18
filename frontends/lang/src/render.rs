//! Diagnostics for people, in the style of rustc, and for machines, as JSON.

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};
use std::ops::Range;
use thalweg_base::{Diagnostic, Label, Severity, SourceMap, Span};

/// Lays out diagnostics with their source lines. With `color`, ANSI escapes are in the text.
pub fn render(diagnostics: &[Diagnostic], sources: &SourceMap, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for diagnostic in diagnostics {
        text.push_str(&renderer.render(&[group(diagnostic, sources)]));
        text.push_str("\n\n");
    }
    text
}

/// Files of a diagnostic: that of the main place first, then the others as they come.
fn files(diagnostic: &Diagnostic) -> Vec<thalweg_base::SourceId> {
    let mut files = Vec::new();
    for label in diagnostic.primary.iter().chain(&diagnostic.labels) {
        if !files.contains(&label.span.source) {
            files.push(label.span.source);
        }
    }
    files
}

fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a SourceMap) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(&diagnostic.message).id(diagnostic.code);
    let mut elements = Vec::new();
    for file in files(diagnostic) {
        let source = sources.file(file);
        let here = |label: &&Label| label.span.source == file;
        let annotate = |kind: AnnotationKind, label: &'a Label| -> Annotation<'a> {
            kind.span(range(label.span, &source.text)).label(&label.message)
        };
        let primary =
            diagnostic.primary.iter().filter(here).map(|label| annotate(AnnotationKind::Primary, label));
        let context =
            diagnostic.labels.iter().filter(here).map(|label| annotate(AnnotationKind::Context, label));
        elements.push(Snippet::source(&source.text).path(&source.name).annotations(primary.chain(context)));
    }
    let help = diagnostic.help.iter().map(|help| Level::HELP.message(help));
    match elements.is_empty() {
        false => title.elements(elements).elements(help),
        true => Group::with_title(title).elements(help),
    }
}

/// The bytes of a span, kept inside of the text and on the boundaries of characters.
fn range(span: Span, text: &str) -> Range<usize> {
    let within = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = within(span.start as usize);
    start..within(span.end as usize).max(start)
}

/// The diagnostics as an array of objects: `severity`, `code`, `message`, `file`, `line`, `column` (from 1), `start` and
/// `end` (bytes), `label`, `labels` (each with the same place keys and `message`) and `help`.
pub fn to_json(diagnostics: &[Diagnostic], sources: &SourceMap) -> Value {
    diagnostics.iter().map(|diagnostic| diagnostic_json(diagnostic, sources)).collect()
}

fn diagnostic_json(diagnostic: &Diagnostic, sources: &SourceMap) -> Value {
    let labels: Vec<Value> = diagnostic
        .labels
        .iter()
        .map(|label| {
            let mut place = place_json(label.span, sources);
            place["message"] = json!(label.message);
            place
        })
        .collect();
    let mut object = match &diagnostic.primary {
        Some(primary) => {
            let mut place = place_json(primary.span, sources);
            place["label"] = json!(primary.message);
            place
        }
        None => json!({}),
    };
    object["severity"] = json!(diagnostic.severity);
    object["code"] = json!(diagnostic.code);
    object["message"] = json!(diagnostic.message);
    object["labels"] = json!(labels);
    object["help"] = json!(diagnostic.help);
    object
}

fn place_json(span: Span, sources: &SourceMap) -> Value {
    let file = sources.file(span.source);
    let bytes = range(span, &file.text);
    let (line, column) = sources.line_column(Span::new(span.source, bytes.start, bytes.end));
    json!({ "file": file.name, "line": line, "column": column, "start": bytes.start, "end": bytes.end })
}
