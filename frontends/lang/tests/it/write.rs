//! Graphs written as programs: what is read back computes the same, bit by bit, and is laid out as it should be.

use std::collections::BTreeMap;
use std::path::Path;
use thalweg_base::{Bindings, DType, Dim, Initializer, Literal, PointwiseFn, Scalar, random};
use thalweg_lang::{Program, Settings, WriteError, WrittenProgram, format_source, render, write_program};
use thalweg_tensor::eval::{Environment, Results, evaluate};
use thalweg_tensor::op::Fill;
use thalweg_tensor::ops::*;
use thalweg_tensor::verify::assert_valid;
use thalweg_tensor::{Array, Graph, NodeId, Op, ReduceFn, TensorType};

/// A value that looks random, different for each position and name.
fn filled(ty: &TensorType, fill: Fill, name: &str) -> Array {
    let key = random::key_for(7, name);
    let sizes = ty.sizes();
    let count: usize = sizes.iter().product();
    let values = (0..count).map(|at| {
        let word = random::threefry2x32(key, [at as u32, 0])[0];
        let unit = random::uniform(word);
        let value = match fill {
            Fill::Normal if ty.dtype == DType::Bool => Scalar::Int((word & 1).into()),
            Fill::Normal if ty.dtype.is_float() => Scalar::Float(4.0 * unit - 2.0),
            Fill::Normal => Scalar::Int((word % 9) as i128 - 4),
            Fill::Positive if ty.dtype.is_float() => Scalar::Float(0.5 + 1.5 * unit),
            Fill::Positive => Scalar::Int(1 + (word % 5) as i128),
            Fill::Index(bound) => Scalar::Int((word as usize % bound) as i128),
            Fill::Distinct => Scalar::Int((at * 7 % count.max(1)) as i128 - 3),
        };
        value.convert(ty.dtype)
    });
    Array { dtype: ty.dtype, shape: sizes, values: values.collect() }
}

fn load(written: &WrittenProgram, name: &str) -> Graph {
    let shown = format_source(&written.text).unwrap();
    assert_eq!(shown, written.text, "not laid out");
    let (program, errors) = Program::load("written.tw", &written.text, &|_| None);
    let report = |errors: &[thalweg_base::Diagnostic]| {
        panic!("{}\n{}", render(errors, program.sources(), false), written.text)
    };
    if !errors.is_empty() {
        report(&errors);
    }
    let errors = program.check(&Settings::new());
    if !errors.is_empty() {
        report(&errors);
    }
    let name = program.models().into_iter().find(|own| own.starts_with(name)).unwrap();
    let model = program.elaborate_model(&name, &Settings::new()).unwrap_or_else(|errors| report(&errors));
    assert_valid(&model.graph);
    model.graph
}

/// Open sizes as different small numbers, those of the copy after the names they were given.
fn bound(graph: &Graph, written: Option<&WrittenProgram>) -> Graph {
    let mut bindings = Bindings::new();
    for (at, symbol) in graph.symbols().into_iter().enumerate() {
        let number = match written {
            None => at,
            Some(written) => {
                let own = written.sizes.iter().find(|(_, own)| **own == *symbol.name()).unwrap().0;
                written.sizes.keys().position(|name| name == own).unwrap()
            }
        };
        bindings.insert(symbol, Dim::from(number + 3));
    }
    graph.substitute(&bindings)
}

fn results(graph: &Graph, environment: &Environment) -> (BTreeMap<String, Array>, BTreeMap<String, Array>) {
    let Results { outputs, updates } = evaluate(graph, environment).unwrap();
    let outputs = graph.outputs.iter().map(|output| output.name.clone()).zip(outputs).collect();
    (outputs, graph.updates.iter().map(|update| update.name.clone()).zip(updates).collect())
}

fn same(found: &Array, wanted: &Array) -> bool {
    let bits = |array: &Array| -> Vec<Scalar> {
        let plain = |value: &Scalar| match value {
            Scalar::Float(value) if value.is_nan() => Scalar::Float(f64::NAN),
            value => *value,
        };
        array.values.iter().map(plain).collect()
    };
    (found.dtype, &found.shape, bits(found)) == (wanted.dtype, &wanted.shape, bits(wanted))
}

/// Writes a graph, reads it back, and compares what both compute.
fn check_with(graph: &Graph, fill: &dyn Fn(&Leaf) -> Fill) -> WrittenProgram {
    let written = write_program(graph, "Copy").unwrap_or_else(|error| panic!("{error}"));
    let copy = load(&written, "Copy");
    let (own, copy) = (bound(graph, None), bound(&copy, Some(&written)));
    let kinds = [LeafKind::Input, LeafKind::Parameter, LeafKind::State];
    let (mut before, mut after) = (Environment::new(), Environment::new());
    for kind in kinds {
        for (_, leaf) in own.leaves(kind) {
            let value = filled(&leaf.ty, fill(leaf), &leaf.name);
            let names = if kind == LeafKind::Input { &written.inputs } else { &written.names };
            after.insert((kind, names[&*leaf.name].clone()), value.clone());
            before.insert((kind, leaf.name.to_string()), value);
        }
    }
    for (name, value) in &written.constants {
        after.insert((LeafKind::State, name.clone()), Array::from_literal(value));
    }
    for kind in kinds {
        for (_, leaf) in copy.leaves(kind) {
            let value = after.get(&(kind, leaf.name.to_string()));
            let value = value.unwrap_or_else(|| panic!("`{}` is new\n{}", leaf.name, written.text));
            assert_eq!((value.dtype, &value.shape), (leaf.ty.dtype, &leaf.ty.sizes()), "{}", leaf.name);
            if let Some(Some(init)) = own
                .leaves(kind)
                .find(|(_, own)| written.names.get(&*own.name).is_some_and(|name| *name == *leaf.name))
                .map(|(_, own)| &own.init)
            {
                assert_eq!(leaf.init.as_ref(), Some(init), "{}\n{}", leaf.name, written.text);
            }
        }
    }
    let ((outputs, updates), (found, next)) = (results(&own, &before), results(&copy, &after));
    assert_eq!((outputs.len(), updates.len()), (found.len(), next.len()));
    for (name, wanted) in &outputs {
        let found = &found[&written.outputs[name]];
        assert!(same(found, wanted), "{name}: {found:?} instead of {wanted:?}\n{}", written.text);
    }
    for (name, wanted) in &updates {
        let found = &next[&written.names[name]];
        assert!(same(found, wanted), "{name}: {found:?} instead of {wanted:?}\n{}", written.text);
    }
    // What was read back is written the same way, up to names.
    let again = write_program(&copy, "Copy").unwrap_or_else(|error| panic!("{error}"));
    load(&again, "Copy");
    written
}

fn check(graph: &Graph) -> WrittenProgram {
    check_with(graph, &|_| Fill::Normal)
}

#[test]
fn every_op_is_written() {
    let samples = Op::all_samples();
    let mut seen = std::collections::BTreeSet::new();
    for (at, sample) in samples.iter().enumerate() {
        let mut graph = Graph::new("sample");
        let fills: Vec<Fill> = sample.operands.iter().map(|(_, fill)| *fill).collect();
        let operands: Vec<NodeId> = sample
            .operands
            .iter()
            .enumerate()
            .map(|(at, (ty, _))| graph.input(&format!("x{at}"), ty.clone()))
            .collect();
        let node = graph.add(sample.op.clone(), &operands);
        if graph.node(node).types.len() == 1 {
            graph.output("output", node);
        } else {
            for (at, pick) in graph.picks(node).into_iter().enumerate() {
                graph.output(format!("output.{at}"), pick);
            }
        }
        if matches!(sample.op, Op::Collective(_)) {
            assert_eq!(write_program(&graph, "Copy").unwrap_err(), WriteError::Split);
            continue;
        }
        let fill = |leaf: &Leaf| fills[leaf.name[1..].parse::<usize>().unwrap()];
        let written = check_with(&graph, &fill);
        assert!(written.text.len() < 1500, "sample {at}: {}", written.text);
        seen.insert(sample.op.name());
    }
    assert!(seen.len() >= 24, "{seen:?}");
}

fn examples() -> Vec<(String, Graph)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut found = Vec::new();
    for folder in [root.clone(), root.join("models")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "tw") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let (program, errors) = Program::parse("example.tw", &text);
            assert!(errors.is_empty());
            for name in program.models() {
                let model = program.elaborate_model(&name, &Settings::new()).unwrap();
                found.push((name, model.graph));
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Evaluating the larger ones takes long, so sizes are compared for all and values for those that are small.
#[test]
fn examples_are_written_and_read_back() {
    let mut evaluated = 0;
    let examples = examples();
    assert!(examples.len() >= 6);
    for (name, graph) in &examples {
        let written = write_program(graph, name).unwrap();
        let copy = load(&written, name);
        // What needed a name of its own kept the one it had.
        for (own, now) in &written.names {
            assert_eq!(own, now);
        }
        let types = |graph: &Graph| -> Vec<String> {
            graph.outputs.iter().map(|output| format!("{} {}", output.name, graph.ty(output.node))).collect()
        };
        assert_eq!(types(graph), types(&copy));
        let small = bound(graph, None).work().flops < 3e6;
        if small {
            let tokens = |leaf: &Leaf| if leaf.ty.dtype.is_float() { Fill::Normal } else { Fill::Index(3) };
            check_with(graph, &tokens);
            evaluated += 1;
        }
    }
    assert!(evaluated >= 3, "{evaluated}");
}
