//! Models that run.

use ndarray::{Array1, array};
use std::thread;
use thalweg::{CompileOptions, DType, Element, Error, Model, Session, Stage, Tensor, bf16, f16};

const LINEAR: &str = "use nn\nmodel Net(x: f32[batch, 4]) -> f32[batch, 2] { nn.linear(x, 2) as out }";

fn session(text: &str) -> Session {
    Model::from_source("test.tw", text).unwrap().compile(&CompileOptions::default()).unwrap()
}

fn error(text: &str) -> String {
    Model::from_source("test.tw", text)
        .and_then(|model| model.check(&thalweg::Settings::new()))
        .unwrap_err()
        .to_string()
}

#[test]
fn one_session_serves_every_size() {
    let session = session(LINEAR);
    let weight = Tensor::new(&[4, 2], &[1f32, 0., 0., 1., 1., 0., 0., 1.]).unwrap();
    session.set("out.weight", &weight).unwrap();
    for rows in [1usize, 5, 3, 5, 1] {
        let x = ndarray::Array2::from_shape_fn((rows, 4), |(row, column)| (row * 4 + column) as f32);
        let outputs = session.run(&[("x", x.view().into())]).unwrap();
        let expected = ndarray::Array2::from_shape_fn((rows, 2), |(row, column)| {
            x[[row, column]] + x[[row, column + 2]]
        });
        assert_eq!(outputs.array::<f32>("output").unwrap(), expected.into_dyn());
    }
    assert_eq!(session.get("out.weight").unwrap(), weight);
}

#[test]
fn states_go_from_call_to_call_whatever_the_size() {
    let session = session(
        "model Count(x: f32[n]) -> f32[] {\n    state total: f32[] = init.zeros()\n    total = total + sum(x)\n    total\n}",
    );
    let mut total = 0.0;
    for length in [2usize, 3, 2, 4] {
        let outputs = session.run(&[("x", Array1::<f32>::ones(length).into())]).unwrap();
        total += length as f64;
        assert_eq!(outputs.get("output").unwrap().item(), Some(total));
    }
    let fork = session.fork().unwrap();
    fork.run(&[("x", array![1f32].into())]).unwrap();
    assert_eq!(fork.get("total").unwrap().item(), Some(total + 1.0));
    assert_eq!(session.get("total").unwrap().item(), Some(total));
}

#[test]
fn threads_share_a_session() {
    let session = session(LINEAR);
    let run = |session: &Session, rows: usize| {
        let x = ndarray::Array2::<f32>::from_elem((rows, 4), rows as f32);
        session.run(&[("x", x.into())]).unwrap().array::<f32>("output").unwrap()
    };
    let expected: Vec<_> = (1..4).map(|rows| run(&session, rows)).collect();
    let threads: Vec<_> = (0..6)
        .map(|at| {
            let session = session.clone();
            thread::spawn(move || (0..20).map(|_| run(&session, at % 3 + 1)).collect::<Vec<_>>())
        })
        .collect();
    for (at, thread) in threads.into_iter().enumerate() {
        assert!(thread.join().unwrap().iter().all(|found| *found == expected[at % 3]));
    }
}

#[test]
fn every_dtype_goes_in_and_out() {
    fn check<T: Element + PartialEq + std::fmt::Debug>(values: &[T]) {
        let text = format!("model Same(x: {0}[n]) -> {0}[n] {{ x }}", T::DTYPE);
        let given = Tensor::new(&[values.len()], values).unwrap();
        let outputs = session(&text).run(&[("x", given.clone())]).unwrap();
        let found = outputs.get("output").unwrap();
        assert_eq!(found.to_vec::<T>().unwrap(), values);
        assert_eq!(found.bytes(), given.bytes());
        let other =
            if T::DTYPE == DType::F32 { found.to_vec::<f64>().err() } else { found.to_vec::<f32>().err() };
        assert!(matches!(other, Some(Error::Dtype { .. })), "{other:?}");
    }
    check(&[1.5f32, f32::NEG_INFINITY, -0.0]);
    check(&[1e300f64, -2.25]);
    check(&[f16::from_f32(0.5), f16::MAX]);
    check(&[bf16::from_f32(-3.0), bf16::MIN_POSITIVE]);
    check(&[i8::MIN, 0, i8::MAX]);
    check(&[0u8, 255]);
    check(&[i16::MIN, -1, i16::MAX]);
    check(&[0u16, u16::MAX]);
    check(&[i32::MIN, 7, i32::MAX]);
    check(&[1u32, u32::MAX]);
    check(&[1u64, u64::MAX]);
    check(&[i64::MIN, i64::MAX]);
    check(&[true, false, true]);
}

#[test]
fn unsigned_numbers_stay_unsigned() {
    let text = "model M(x: u64[n], y: u32[n]) -> { halves: u64[n], ratio: f64[n], above: bool[n], wide: u64[n], largest: u32[] } {
        { halves: x / 2, ratio: convert(x, f64) / convert(y, f64), above: x > convert(y, u64), wide: x + convert(y, u64), largest: max(y) }
    }";
    let x = Tensor::new(&[3], &[u64::MAX, 1 << 63, 5]).unwrap();
    let y = Tensor::new(&[3], &[1u32, u32::MAX, 6]).unwrap();
    let outputs = session(text).run(&[("x", x), ("y", y)]).unwrap();
    let halves = outputs.get("halves").unwrap().to_vec::<u64>().unwrap();
    assert_eq!(halves, [i64::MAX as u64, 1 << 62, 2]);
    let ratio = outputs.get("ratio").unwrap().to_vec::<f64>().unwrap();
    assert_eq!(ratio, [2f64.powi(64), 2f64.powi(63) / u32::MAX as f64, 5.0 / 6.0]);
    assert_eq!(outputs.get("above").unwrap().to_vec::<bool>().unwrap(), [true, true, false]);
    let wide = outputs.get("wide").unwrap().to_vec::<u64>().unwrap();
    assert_eq!(wide, [0, (1 << 63) + u32::MAX as u64, 11]);
    assert_eq!(outputs.get("largest").unwrap().to_vec::<u32>().unwrap(), [u32::MAX]);
}

#[test]
fn arrays_of_any_layout_are_taken() {
    let session = session("model Double(x: f32[n, m]) -> f32[n, m] { x + x }");
    let x = array![[1f32, 2., 3.], [4., 5., 6.]];
    let outputs = session.run(&[("x", x.t().into())]).unwrap();
    assert_eq!(outputs.array::<f32>("output").unwrap(), (x.t().to_owned() * 2.0).into_dyn());
}

#[test]
fn mistakes_of_the_caller_are_told() {
    let session = session(LINEAR);
    let x = ndarray::Array2::<f32>::ones((3, 5));
    let error = session.run(&[("x", x.into())]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the inputs do not fit the model:\n  - `x` is f32[batch, 4], but f32[3, 5] was given"
    );
    let outputs = session.run(&[("x", ndarray::Array2::<f32>::ones((3, 4)).into())]).unwrap();
    assert_eq!(
        outputs.get("logits").unwrap_err().to_string(),
        "there is no output `logits`; the outputs are output"
    );
    assert!(matches!(session.get("nothing"), Err(Error::Execute(_) | Error::Unknown { .. })));
    let wrong = session.set("out.bias", &Tensor::new(&[3], &[0f32; 3]).unwrap()).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "the inputs do not fit the model:\n  - `out.bias` is f32[3], but f32[2] is needed"
    );
    let empty = session.run(&[("x", ndarray::Array2::<f32>::ones((0, 4)).into())]).unwrap_err();
    assert_eq!(
        empty.to_string(),
        "the inputs do not fit the model:\n  - the size `batch` is 0; it is at least 1"
    );
}

#[test]
fn mistakes_of_the_program_are_told_with_their_places() {
    insta::assert_snapshot!(error(
        "model Net(x: f32[n, 4]) -> f32[n, 2] {\n    param w: f32[5, 2] = init.zeros()\n    x @ w\n}"
    ));
    insta::assert_snapshot!(error("model Net(x: f32[n, 4] -> f32[n, 2] { x }"));
    let model = Model::from_source(
        "two.tw",
        "model A(x: f32[n]) -> f32[n] { x }\nmodel B(x: f32[n]) -> f32[n] { x }",
    )
    .unwrap();
    let ambiguous = model.compile(&CompileOptions::default()).unwrap_err();
    assert_eq!(ambiguous.to_string(), "the file has more than one model; choose one of A, B");
    let missing = Model::from_file("/nowhere/net.tw").unwrap_err();
    assert!(matches!(missing, Error::Io { action: "read", .. }), "{missing}");
}

#[test]
fn plans_are_saved_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.plan");
    let model = Model::from_source("net.tw", LINEAR).unwrap();
    let options = CompileOptions {
        settings: [("batch".to_string(), "3".to_string())].into(),
        seed: 5,
        ..CompileOptions::default()
    };
    let (plan, report) = model.plan(&options).unwrap();
    assert!(report.arena_bytes > 0 && report.kernels == plan.kernels.len());
    thalweg::save_plan(&path, &plan).unwrap();
    let loaded = Session::from_plan_file(&path, &options).unwrap();
    let x = ndarray::Array2::from_shape_fn((3, 4), |(row, column)| row as f32 - column as f32 * 0.5);
    let direct = model.compile(&options).unwrap();
    let run =
        |session: &Session| session.run(&[("x", x.view().into())]).unwrap().array::<f32>("output").unwrap();
    assert_eq!(run(&loaded), run(&direct));
    assert_eq!(loaded.get("out.weight").unwrap(), direct.get("out.weight").unwrap());

    let text = std::fs::read_to_string(&path).unwrap();
    for damaged in [&text[..text.len() / 2], "", "(version: 99)", "PNG"] {
        std::fs::write(&path, damaged).unwrap();
        let error = Session::from_plan_file(&path, &options).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
    }
    let open = model.plan(&CompileOptions::default()).unwrap_err();
    assert!(open.to_string().contains("--set batch="), "{open}");
}

#[test]
fn every_stage_has_a_text() {
    let model = Model::from_source("net.tw", LINEAR).unwrap();
    let options = CompileOptions {
        settings: [("batch".to_string(), "3".to_string())].into(),
        ..CompileOptions::default()
    };
    let graph = model.graph(&options).unwrap().graph;
    for (name, stage) in Stage::ALL {
        let text = Model::dump(&graph, &thalweg::Bindings::new(), &options, stage).unwrap();
        assert!(text.len() > 20, "{name}: {text}");
    }
}
