//! The programs under `examples/`: they check, their graphs verify, and they train.

use std::path::{Path, PathBuf};
use thalweg_lang::{Program, Settings, format_source, render};
use thalweg_tensor::verify::assert_valid;

fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut found = Vec::new();
    for folder in [root.clone(), root.join("models")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "tw") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn examples_check_and_verify() {
    let examples = examples();
    assert!(examples.len() >= 5, "{examples:?}");
    for path in examples {
        let text = std::fs::read_to_string(&path).unwrap();
        let (program, errors) = Program::parse(path.file_name().unwrap().to_str().unwrap(), &text);
        let shown = |errors: &[thalweg_base::Diagnostic]| render(errors, program.sources(), false);
        assert!(errors.is_empty(), "{}", shown(&errors));
        let settings = Settings::new();
        let errors = program.check(&settings);
        assert!(errors.is_empty(), "{}", shown(&errors));
        for name in program.models() {
            let model = program.elaborate_model(&name, &settings).unwrap();
            assert_valid(&model.graph);
        }
        for name in program.trains() {
            let train = program.elaborate_train(&name, &settings).unwrap();
            assert_valid(&train.step);
            assert_valid(&train.evaluation);
            assert!(train.step.updates.len() > 1 && train.evaluation.updates.is_empty());
        }
        assert_eq!(format_source(&text).unwrap(), text, "{} is not formatted", path.display());
    }
}
