//! The shape of the workspace: which crate may import which, and what no source file may have.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a crate may import of ours, by the names of their folders. Its own layer's assembler stands last.
const ARROWS: &[(&str, &[&str])] = &[
    ("ir/base", &[]),
    ("ir/tensor", &["base"]),
    ("ir/kernel", &["base"]),
    ("ir/plan", &["base", "kernel"]),
    ("compiler/cost", &["base", "tensor"]),
    ("compiler/rewrite", &["base", "tensor", "cost"]),
    ("compiler/partition", &["base", "tensor", "plan", "cost"]),
    ("compiler/simulate", &["base", "tensor", "plan", "cost"]),
    ("compiler/lower", &["base", "tensor", "kernel", "plan", "cost"]),
    ("compiler/codegen-cpu", &["base", "kernel"]),
    ("compiler/codegen-cuda", &["base", "kernel"]),
    ("compiler/codegen-wgsl", &["base", "kernel"]),
    (
        "compiler/driver",
        &[
            "base",
            "tensor",
            "kernel",
            "plan",
            "cost",
            "rewrite",
            "partition",
            "simulate",
            "lower",
            "codegen-cpu",
            "codegen-cuda",
            "codegen-wgsl",
        ],
    ),
    ("runtime/kernels", &["base"]),
    ("runtime/collective", &["base", "plan"]),
    ("runtime/device", &["base", "kernel", "plan", "kernels"]),
    ("runtime/executor", &["base", "tensor", "kernel", "plan", "device", "kernels", "collective"]),
    ("frontends/lang", &["base", "tensor"]),
    ("frontends/onnx", &["base", "tensor"]),
    ("frontends/thalweg", &["*"]),
    ("frontends/cli", &["thalweg"]),
    ("examples", &["thalweg"]),
    ("tests", &["*"]),
    ("benches", &["*"]),
];

/// Crates of others that one of ours alone may name, by the beginnings of their names.
const OWNED: &[(&str, &str)] = &[
    ("egg", "compiler/rewrite"),
    ("cranelift", "compiler/codegen-cpu"),
    ("regalloc2", "compiler/codegen-cpu"),
    ("iced-x86", "compiler/codegen-cpu"),
    ("anyhow", "frontends/cli"),
];

/// The only crates that may read the environment or print.
const SPEAKERS: &[&str] = &["frontends/cli", "benches", "examples"];

/// The longest source file, in lines.
const LINES_MAX: usize = 700;

struct Package {
    /// The folder, from the root of the workspace.
    folder: String,
    /// The names of dependencies that are not for tests alone.
    dependencies: Vec<String>,
    sources: Vec<(PathBuf, String)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above").to_path_buf()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn packages() -> Vec<Package> {
    let root = root();
    let mut packages = Vec::new();
    for (folder, _) in ARROWS {
        let path = root.join(folder);
        let Ok(manifest) = fs::read_to_string(path.join("Cargo.toml")) else { continue };
        let mut section = String::new();
        let mut dependencies = Vec::new();
        for line in manifest.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').to_string();
            } else if (section == "dependencies"
                || section.ends_with(".dependencies")
                || section == "build-dependencies")
                && let Some((name, _)) = line.split_once(['.', ' ', '='])
                && !name.starts_with('#')
            {
                dependencies.push(name.to_string());
            }
        }
        let mut files = Vec::new();
        rust_files(&path, &mut files);
        let read = |file: PathBuf| (file.clone(), fs::read_to_string(file).expect("a readable source"));
        let sources = files.into_iter().map(read).collect();
        packages.push(Package { folder: folder.to_string(), dependencies, sources });
    }
    packages
}

/// Panics with every broken rule at once.
fn check(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_crate_is_in_the_table() {
    let root = root();
    let mut missing = Vec::new();
    for layer in ["ir", "compiler", "runtime", "frontends"] {
        for entry in fs::read_dir(root.join(layer)).expect("a layer") {
            let path = entry.expect("a readable folder").path();
            let folder = format!("{layer}/{}", path.file_name().expect("a name").to_string_lossy());
            if path.join("Cargo.toml").exists() && !ARROWS.iter().any(|(own, _)| *own == folder) {
                missing.push(format!("{folder} is not in the table of arrows"));
            }
        }
    }
    check(missing);
}

#[test]
fn arrows_hold() {
    let mut broken = Vec::new();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for package in packages() {
        for name in &package.dependencies {
            let ours = match name.strip_prefix("thalweg-") {
                Some(short) => short,
                None if name == "thalweg" => "thalweg",
                None => continue,
            };
            let allowed = allowed[package.folder.as_str()];
            if allowed != ["*"] && !allowed.contains(&ours) {
                broken.push(format!("{} may not import {name}", package.folder));
            }
        }
        for (begin, owner) in OWNED {
            let others = package.dependencies.iter().filter(|name| name.starts_with(begin));
            let excused = package.folder == *owner || ["tests", "benches"].contains(&package.folder.as_str());
            broken.extend(
                others.filter(|_| !excused).map(|name| format!("{} may not import {name}", package.folder)),
            );
        }
    }
    check(broken);
}

#[test]
fn sources_are_tidy() {
    // Spelled in two parts, so that this file does not break its own rule.
    let leftovers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let speaking = ["std::env::var", "env::args", "println!(", "eprintln!(", "print!(", "dbg!("];
    let mut broken = Vec::new();
    for package in packages() {
        let speaks = SPEAKERS.contains(&package.folder.as_str());
        for (path, text) in &package.sources {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            let lines = text.lines().count();
            if lines > LINES_MAX {
                broken.push(format!("{name} has {lines} lines, more than {LINES_MAX}"));
            }
            let library = name.contains("/src/") && !name.contains("/src/tests");
            for (number, line) in text.lines().enumerate() {
                let code = line.trim_start();
                let place = format!("{name}:{}", number + 1);
                broken.extend(
                    leftovers
                        .iter()
                        .filter(|word| line.contains(*word))
                        .map(|word| format!("{place} has `{word}`")),
                );
                if library && !speaks && !code.starts_with("//") && !name.starts_with("tests/") {
                    broken.extend(
                        speaking
                            .iter()
                            .filter(|word| code.contains(*word))
                            .map(|word| format!("{place} has `{word}`, but only the command line speaks")),
                    );
                }
            }
            if (name.ends_with("src/lib.rs") || name.ends_with("src/main.rs")) && !text.starts_with("//!") {
                broken.push(format!("{name} does not begin with docs"));
            }
        }
    }
    check(broken);
}

/// The table says what is built: every arrow it allows goes to a crate of the table, and no two crates import each other.
#[test]
fn the_table_has_no_cycle() {
    let short = |folder: &str| folder.rsplit('/').next().unwrap_or(folder).to_string();
    let mut done: Vec<String> = vec!["*".into()];
    let mut left: Vec<(&str, &[&str])> = ARROWS.to_vec();
    while !left.is_empty() {
        let ready =
            left.iter().position(|(_, imports)| imports.iter().all(|own| done.contains(&own.to_string())));
        let ready = ready.unwrap_or_else(|| panic!("arrows run in a circle, or to nowhere, among {left:?}"));
        done.push(short(left.remove(ready).0));
    }
}
