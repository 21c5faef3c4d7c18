//! The reference lists the whole library and every primitive, and its programs are good.

use std::fmt::Write;
use std::path::Path;
use thalweg_lang::{Program, library, parse, primitives};

fn library_tables() -> String {
    let mut text = String::new();
    let items = library();
    for module in ["prelude", "nn", "optim", "init", "random"] {
        writeln!(text, "\n`{module}`\n").unwrap();
        for item in items.iter().filter(|item| item.module == module && !item.doc.is_empty()) {
            writeln!(text, "- `{}`: {}", item.signature, item.doc.replace('\n', " ")).unwrap();
        }
    }
    text + "\n"
}

fn primitive_table() -> String {
    let mut text = String::from("\n");
    for builtin in primitives() {
        let params: Vec<String> = builtin.params.iter().map(|param| param.replace(['@', '*'], "")).collect();
        writeln!(text, "- `{}({})`: {}", builtin.name, params.join(", "), builtin.doc).unwrap();
    }
    text + "\n"
}

/// With `INSTA_UPDATE=always` the lists are written anew.
#[test]
fn the_reference_lists_what_there_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/language.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut wanted = text.clone();
    for (name, list) in [("library", library_tables()), ("primitives", primitive_table())] {
        let begin = format!("<!-- {name} -->\n");
        let (before, rest) = wanted.split_once(&begin).unwrap();
        let (_, after) = rest.split_once("<!-- end -->").unwrap();
        wanted = format!("{before}{begin}{list}<!-- end -->{after}");
    }
    if text != wanted && std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "docs/language.md lists another library; run the test with INSTA_UPDATE=always"
        );
    }
}

#[test]
fn names_are_not_taken_twice() {
    let mut names: Vec<&str> = primitives().map(|builtin| builtin.name).collect();
    let prelude = library();
    names.extend(prelude.iter().filter(|item| item.module == "prelude").map(|item| item.name.as_str()));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// Whole programs in the reference check, and other code in it is at least well formed in a body.
#[test]
fn programs_of_the_reference_are_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/language.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let blocks: Vec<&str> = text.split("```\n").skip(1).step_by(2).collect();
    assert!(blocks.len() >= 5);
    let mut programs = 0;
    for block in blocks {
        if block.contains('…') {
            continue;
        }
        programs += 1;
        let (program, errors) = Program::parse("language.md", block);
        assert!(errors.is_empty(), "{}", thalweg_lang::render(&errors, program.sources(), false));
        let errors = program.check(&Default::default());
        assert!(errors.is_empty(), "{}", thalweg_lang::render(&errors, program.sources(), false));
    }
    assert!(programs >= 2, "{programs}");
    let (_, errors) = parse(
        thalweg_base::SourceId::new(0),
        "fn half(peak: float)(step: f32, total: f32) -> f32 { peak / 2 }",
    );
    assert!(errors.is_empty());
}
