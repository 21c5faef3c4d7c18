//! A smoke of the fuzz targets in `tests/fuzz`: texts that are read, changed at random. `PROPTEST_CASES=10000` looks longer.

use proptest::prelude::*;
use std::sync::LazyLock;
use thalweg_base::{Bindings, Dim, Symbol};
use thalweg_driver::{Options, compile};
use thalweg_lang::{Program, Settings};
use thalweg_tensor::{Graph, Op};

#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Tokens that change what the text around them means.
const PIECES: [&str; 20] = [
    "",
    "0",
    "1",
    "-1",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "0.5",
    "1e999",
    "NaN",
    "\"",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    "batch",
    "é",
];

/// One change of a text, at positions counted in tokens.
#[derive(Clone, Debug)]
enum Change {
    Remove(usize, usize),
    Repeat(usize, usize),
    /// Writes a token of the same text over another.
    Copy(usize, usize),
    Replace(usize, usize),
    Cut(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0usize..1_000_000;
    prop_oneof![
        2 => (at.clone(), 1..8usize).prop_map(|(at, count)| Change::Remove(at, count)),
        2 => (at.clone(), 1..8usize).prop_map(|(at, count)| Change::Repeat(at, count)),
        6 => (at.clone(), at.clone()).prop_map(|(from, to)| Change::Copy(from, to)),
        6 => (at.clone(), 0..PIECES.len()).prop_map(|(at, piece)| Change::Replace(at, piece)),
        1 => at.prop_map(Change::Cut),
    ]
}

/// Words, numbers, blanks and marks.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut start = 0;
    let class = |c: char| match c {
        _ if c.is_alphanumeric() || c == '_' => 0,
        _ if c.is_whitespace() => 1,
        _ => 2,
    };
    let mut last = None;
    for (at, c) in text.char_indices() {
        if last.is_some_and(|last| last != class(c) || last == 2) {
            tokens.push(&text[start..at]);
            start = at;
        }
        last = Some(class(c));
    }
    tokens.push(&text[start..]);
    tokens
}

fn changed(text: &str, changes: &[Change]) -> String {
    let mut tokens = tokens(text);
    for change in changes {
        let count = tokens.len();
        if count == 0 {
            break;
        }
        match *change {
            Change::Remove(at, length) => {
                tokens.drain(at % count..(at % count + length).min(count));
            }
            Change::Repeat(at, length) => {
                let part = tokens[at % count..(at % count + length).min(count)].to_vec();
                tokens.splice(at % count..at % count, part);
            }
            Change::Copy(from, to) => tokens[to % count] = tokens[from % count],
            Change::Replace(at, piece) => tokens[at % count] = PIECES[piece],
            Change::Cut(at) => tokens.truncate(at % count),
        }
    }
    tokens.concat()
}

/// Real texts of each form.
struct Texts {
    programs: Vec<String>,
    graphs: Vec<String>,
    kernels: Vec<String>,
    plans: Vec<String>,
}

/// What is small and has something of everything: the examples, each op's samples, the kernels and the plan of a training
/// step, with a loop in one of them.
static TEXTS: LazyLock<Texts> = LazyLock::new(|| {
    let read = |file: &str| {
        let path = format!("{}/../examples/{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).expect("examples are part of the repository")
    };
    let files =
        ["digits.tw", "fashion_mnist.tw", "models/lstm.tw", "models/transformer.tw", "models/decode.tw"];
    let mut texts =
        Texts { programs: files.map(read).to_vec(), graphs: vec![], kernels: vec![], plans: vec![] };
    let smaller = [("hidden = 64", "hidden = 4"), ("int = 128", "int = 6"), ("width = 128", "width = 4")];
    for file in ["digits.tw", "models/lstm.tw"] {
        let text = smaller.iter().fold(read(file), |text, (from, to)| text.replace(from, to));
        let (program, _) = Program::parse(file, &text);
        let train =
            program.elaborate_train(&program.trains()[0], &Settings::new()).expect("examples are correct");
        texts.graphs.push(train.step.to_string());
        let sizes: Bindings =
            [("batch", 4), ("seq", 3)].map(|(name, size)| (Symbol::new(name), Dim::from(size))).into();
        let options = Options::for_device(thalweg_device::detect(Some(1)));
        let compiled = compile(&train.step, &sizes, &options).expect("examples are compiled");
        let print = |kernel: &thalweg_plan::CompiledKernel| thalweg_kernel::text::print(&kernel.kernel);
        texts.kernels.extend(compiled.plan.kernels.iter().map(print));
        texts.plans.push(compiled.plan.to_text());
    }
    for sample in Op::all_samples() {
        let mut graph = Graph::new("sample");
        let inputs: Vec<_> = (sample.operands.iter().enumerate())
            .map(|(index, (ty, _))| graph.input(&format!("x{index}"), ty.clone()))
            .collect();
        let node = graph.add(sample.op, &inputs);
        for (index, node) in graph.picks(node).into_iter().enumerate() {
            graph.output(format!("y{index}"), node);
        }
        texts.graphs.push(graph.to_string());
    }
    texts
});

#[test]
fn texts_that_are_not_changed_are_read() {
    for text in &TEXTS.programs {
        targets::program(text);
    }
    for text in &TEXTS.graphs {
        text.parse::<Graph>().unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
    for text in &TEXTS.kernels {
        thalweg_kernel::text::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
    for text in &TEXTS.plans {
        thalweg_plan::Plan::from_text(text).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn texts_that_are_nothing_are_refused() {
    for text in [
        "",
        "\0",
        "\u{feff}",
        "{",
        "graph",
        "kernel",
        "(version:1)",
        "(version:99)",
        "model",
        "use",
        "\"\\u{",
    ] {
        targets::program(text);
        targets::graph(text);
        targets::kernel(text);
        targets::plan(text);
        assert!(text.parse::<Graph>().is_err(), "{text:?}");
        assert!(thalweg_kernel::text::parse(text).is_err(), "{text:?}");
        assert!(thalweg_plan::Plan::from_text(text).is_err(), "{text:?}");
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    proptest::collection::vec(change(), 1..5)
}

proptest! {
    #[test]
    fn changed_programs(which in 0usize..1000, changes in changes()) {
        targets::program(&changed(&TEXTS.programs[which % TEXTS.programs.len()], &changes));
    }

    #[test]
    fn changed_graphs(which in 0usize..100_000, changes in changes()) {
        targets::graph(&changed(&TEXTS.graphs[which % TEXTS.graphs.len()], &changes));
    }

    #[test]
    fn changed_kernels(which in 0usize..1000, changes in changes()) {
        targets::kernel(&changed(&TEXTS.kernels[which % TEXTS.kernels.len()], &changes));
    }
}

proptest! {
    // Plans are long, with all their code.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 6, ..ProptestConfig::default() })]

    #[test]
    fn changed_plans(which in 0usize..1000, changes in changes()) {
        targets::plan(&changed(&TEXTS.plans[which % TEXTS.plans.len()], &changes));
    }
}

/// A small ONNX file for each sample of an op that the format has.
static ONNX: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let exported = |sample: thalweg_tensor::Sample| {
        let mut graph = Graph::new("sample");
        let operands: Vec<_> = sample.operands.iter().map(|(ty, _)| ty.clone()).collect();
        let inputs: Vec<_> =
            operands.into_iter().enumerate().map(|(at, ty)| graph.input(&format!("x{at}"), ty)).collect();
        let node = graph.add(sample.op, &inputs);
        let first = graph.picks(node)[0];
        graph.output("y", first);
        let model = thalweg_onnx::export(&graph, &Default::default()).ok()?;
        Some(thalweg_onnx::encode(&model))
    };
    Op::all_samples().into_iter().filter_map(exported).collect()
});

proptest! {
    #[test]
    fn changed_onnx(which in 0usize..100_000, bytes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut file = ONNX[which % ONNX.len()].clone();
        for (at, byte) in bytes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        targets::onnx(&file);
    }
}

/// Found by `changed_plans`: products of sizes overflowed in the verifier.
#[test]
fn plans_with_huge_sizes_are_refused() {
    let text = &TEXTS.plans[0];
    for field in ["extent: ", "extent:"] {
        let step = text.find("Contract(").expect("the plan has a contraction");
        let Some(at) = text[step..].find(field).map(|at| step + at + field.len()) else { continue };
        let end = at + text[at..].find(',').expect("a field ends");
        let changed = format!("{}9223372036854775807{}", &text[..at], &text[end..]);
        let error = thalweg_plan::Plan::from_text(&changed).expect_err("the operand would not fit in memory");
        assert!(matches!(error, thalweg_plan::PlanFileError::Invalid(_)), "{error}");
        return;
    }
    panic!("a contraction has extents");
}

/// Found by `changed_programs`: sizes of joined pieces were added with overflow.
#[test]
fn programs_with_huge_sizes_are_checked() {
    let huge = "9223372036854775807";
    for body in [
        format!("concat([broadcast(x, [{huge}, 4]), broadcast(x, [{huge}, 4])], along: 0)"),
        format!("nn.lstm(nn.embedding(convert(x, i32), 8, {huge}) as words, 4) as memory"),
    ] {
        targets::program(&format!("use nn\nmodel M(x: f32[b, 4]) {{\n    {body}\n}}\n"));
    }
}
