//! Names: what may be called what, each once, and the paths that parameters have.

use crate::check::builtins;
use crate::modules::{ALWAYS, STANDARD, library};
use crate::syntax::keywords;
use std::collections::BTreeSet;
use thalweg_base::DType;

/// Words that mean something where they fit; a name that is one of them would be hard to read.
const WORDS: [&str; 27] = [
    "scan", "scope", "param", "state", "var", "last", "branch", "reverse", "along", "carry", "training",
    "layer", "model", "train", "int", "float", "any", "str", "dims", "list", "axis", "record", "infinity",
    "nan", "over", "_", "false",
];

/// Names that are taken.
pub(super) struct Names {
    taken: BTreeSet<String>,
}

impl Names {
    /// With every name that the language has a meaning for.
    pub(super) fn new() -> Names {
        let mut taken: BTreeSet<String> = builtins::names().map(str::to_string).collect();
        taken.extend(library().into_iter().filter(|item| item.module == "prelude").map(|item| item.name));
        taken.extend(STANDARD.iter().map(|row| row.0.to_string()));
        let words = ALWAYS.iter().chain(&WORDS).copied().chain(keywords());
        taken.extend(words.chain(DType::ALL.iter().map(|dtype| dtype.name())).map(str::to_string));
        Names { taken }
    }

    /// A name like the one wished for, which nothing else has.
    pub(super) fn unique(&mut self, wish: &str) -> String {
        let base = identifier(wish);
        let mut name = base.clone();
        let mut count = 1;
        while !self.taken.insert(name.clone()) {
            count += 1;
            name = format!("{base}_{count}");
        }
        name
    }
}

/// A name with every character that names lack replaced.
pub(super) fn identifier(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        match c.is_alphanumeric() {
            true => text.push(c),
            false if text.is_empty() || text.ends_with('_') => {}
            false => text.push('_'),
        }
    }
    let text = text.trim_end_matches('_');
    match text.chars().next() {
        Some(first) if first.is_alphabetic() => text.to_string(),
        Some(_) => format!("n{text}"),
        None => "unnamed".to_string(),
    }
}

/// The path of a parameter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Path {
    /// What it is called in the program: `block.0.weight`.
    pub(super) name: String,
    /// How that is written: `block[0].weight`.
    pub(super) written: String,
}

/// The path for a name such as `block/0.attention/weight`, which no other has.
pub(super) fn path(name: &str, taken: &mut BTreeSet<String>) -> Path {
    let mut segments: Vec<String> = Vec::new();
    for part in name.split(['.', '/', ':']).filter(|part| !part.is_empty()) {
        let number = part.parse::<u32>().is_ok_and(|number| number.to_string() == part);
        match number && !segments.is_empty() {
            true => segments.push(part.to_string()),
            false => {
                let kept: String =
                    part.chars().map(|c| if c.is_alphanumeric() || c == '_' { c } else { '_' }).collect();
                let word = if kept.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                    kept
                } else {
                    format!("n{kept}")
                };
                let reserved = keywords().any(|keyword| keyword == word);
                segments.push(if reserved { format!("{word}_") } else { word });
            }
        }
    }
    if segments.is_empty() {
        segments.push("unnamed".into());
    }
    let own = segments.clone();
    let mut count = 1;
    while !taken.insert(segments.join(".")) {
        count += 1;
        segments = own.clone();
        let last = segments.last_mut().expect("a path has a segment");
        match last.starts_with(|c: char| c.is_ascii_digit()) {
            true => segments.push(format!("n{count}")),
            false => last.push_str(&format!("_{count}")),
        }
    }
    let mut written = String::new();
    for segment in &segments {
        if segment.starts_with(|c: char| c.is_ascii_digit()) {
            written.push_str(&format!("[{segment}]"));
        } else {
            written.push_str(if written.is_empty() { "" } else { "." });
            written.push_str(segment);
        }
    }
    Path { name: segments.join("."), written }
}

/// A name for what a path or scope is of: its last two parts that are words.
pub(super) fn short(path: &str) -> String {
    let words: Vec<String> = path
        .split(['.', '/', ':'])
        .filter(|part| part.chars().any(char::is_alphabetic))
        .map(|part| snake(&identifier(part)))
        .collect();
    words[words.len().saturating_sub(2)..].join("_")
}

/// `MatMul_12` as `mat_mul_12`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    let mut before = '_';
    for c in name.chars() {
        if c.is_uppercase() && (before.is_lowercase() || before.is_numeric()) {
            text.push('_');
        }
        text.extend(c.to_lowercase());
        before = c;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_unique_and_can_be_written() {
        let mut taken = BTreeSet::new();
        let mut check = |name: &str, wanted: &str, written: &str| {
            let path = path(name, &mut taken);
            assert_eq!((path.name.as_str(), path.written.as_str()), (wanted, written));
        };
        check(
            "encoder/layer.0/attention/weight",
            "encoder.layer.0.attention.weight",
            "encoder.layer[0].attention.weight",
        );
        check("onnx::MatMul_123", "onnx.MatMul_123", "onnx.MatMul_123");
        check("onnx/MatMul_123", "onnx.MatMul_123_2", "onnx.MatMul_123_2");
        check("0.for.1-a", "n0.for_.n1_a", "n0.for_.n1_a");
        check("a.0", "a.0", "a[0]");
        check("a/0", "a.0.n2", "a[0].n2");
        check("..", "unnamed", "unnamed");
    }

    #[test]
    fn names_are_never_words_of_the_language() {
        let mut names = Names::new();
        assert_eq!(names.unique("max"), "max_2");
        assert_eq!(names.unique("x"), "x");
        assert_eq!(names.unique("x"), "x_2");
        assert_eq!(names.unique("input.1"), "input_1");
        assert_eq!(names.unique("3d"), "n3d");
        assert_eq!(short("encoder.layer.0.attention.query.MatMul"), "query_mat_mul");
    }
}
