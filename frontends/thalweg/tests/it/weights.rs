//! Files of tensors.

use std::collections::BTreeMap;
use std::fs;
use thalweg::{CompileOptions, Error, Model, Session, Tensor, npy, weights};

const NET: &str = "use nn\nmodel Net(x: f32[batch, 4]) -> f32[batch, 2] {\n    let h = nn.linear(x, 3) as hidden\n    nn.linear(relu(h), 2) as out\n}";

fn session(text: &str, seed: u64) -> Session {
    let options = CompileOptions { seed, ..CompileOptions::default() };
    Model::from_source("net.tw", text).unwrap().compile(&options).unwrap()
}

#[test]
fn weights_are_saved_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let (a, b) = (session(NET, 1), session(NET, 2));
    assert_ne!(a.get("out.weight").unwrap(), b.get("out.weight").unwrap());
    a.save_weights(&path).unwrap();
    b.load_weights(&path).unwrap();
    let x = ndarray::Array2::from_shape_fn((5, 4), |(row, column)| (row + column) as f32 / 9.0);
    let run =
        |session: &Session| session.run(&[("x", x.view().into())]).unwrap().array::<f32>("output").unwrap();
    assert_eq!(run(&a), run(&b));
    // Once there is a plan, weights go into it.
    b.set("out.bias", &Tensor::new(&[2], &[9f32, 9.]).unwrap()).unwrap();
    assert_ne!(run(&a), run(&b));
    b.load_weights(&path).unwrap();
    assert_eq!(run(&a), run(&b));
}

#[test]
fn the_format_is_that_of_the_reference_implementation() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    let session = session(NET, 1);
    session.save_weights(&ours).unwrap();
    let bytes = fs::read(&ours).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<String> = read.names().iter().map(ToString::to_string).collect();
    names.sort();
    assert_eq!(names, ["hidden.bias", "hidden.weight", "out.bias", "out.weight"]);
    for name in &names {
        let (found, own) = (read.tensor(name).unwrap(), session.get(name).unwrap());
        assert_eq!((found.shape(), found.data()), (own.shape(), own.bytes()));
    }
    safetensors::serialize_to_file(read.tensors(), None, &theirs).unwrap();
    assert_eq!(weights::read(&theirs).unwrap(), weights::read(&ours).unwrap());
}

#[test]
fn every_misfit_is_listed_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    session("use nn\nmodel Net(x: f32[batch, 4]) -> f32[batch, 5] {\n    let h = nn.linear(x, 3) as hidden\n    nn.linear(h, 5) as last\n}", 1)
        .save_weights(&path)
        .unwrap();
    let session = session(&NET.replace("nn.linear(x, 3)", "nn.linear(x, 7)"), 2);
    let before = session.get("hidden.weight").unwrap();
    let Error::Weights { problems, .. } = session.load_weights(&path).unwrap_err() else {
        panic!("another error")
    };
    assert_eq!(
        problems,
        [
            "`hidden.weight` is f32[4, 3], but f32[4, 7] is needed",
            "`hidden.bias` is f32[3], but f32[7] is needed",
            "`out.weight` is not there",
            "`out.bias` is not there",
            "`last.bias` is no parameter or state of the model",
            "`last.weight` is no parameter or state of the model",
        ]
    );
    assert_eq!(session.get("hidden.weight").unwrap(), before);
}

#[test]
fn damaged_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let session = session(NET, 1);
    session.save_weights(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    for end in 0..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(matches!(weights::read(&path), Err(Error::File { .. })), "cut at {end}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(whole[8..8 + header].to_vec()).unwrap();
    let changed = |from: &str, to: &str| {
        let text = text.replacen(from, to, 1);
        [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &whole[8 + header..]].concat()
    };
    let overlapping = changed("\"data_offsets\":[0,", "\"data_offsets\":[4,");
    let strange = changed("F32", "C64");
    for damaged in [longer, huge, overlapping, strange, b"not weights".to_vec()] {
        fs::write(&path, damaged).unwrap();
        assert!(matches!(weights::read(&path), Err(Error::File { .. })));
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(weights::read(&path), Err(Error::Io { action: "read", .. })));
}

#[test]
fn arrays_survive_npy_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npy");
    let tensors = [
        Tensor::new(&[2, 3], &[1f32, -0.0, f32::INFINITY, 4., 5., 6.]).unwrap(),
        Tensor::new(&[], &[7i64]).unwrap(),
        Tensor::new(&[3], &[true, false, true]).unwrap(),
        Tensor::new::<f64>(&[0, 2], &[]).unwrap(),
    ];
    for tensor in tensors {
        npy::write(&path, &tensor).unwrap();
        assert_eq!(npy::read(&path).unwrap(), tensor);
    }
    let narrow = Tensor::new(&[2], &[thalweg::bf16::from_f32(1.5), thalweg::bf16::from_f32(-2.0)]).unwrap();
    npy::write(&path, &narrow).unwrap();
    assert_eq!(npy::read(&path).unwrap().to_vec::<f32>().unwrap(), [1.5, -2.0]);
    fs::write(&path, "text").unwrap();
    assert!(matches!(npy::read(&path), Err(Error::File { .. })));
}

#[test]
fn every_dtype_survives_files() {
    use thalweg::DType;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all");
    let mut file = weights::TensorFile::default();
    for dtype in DType::ALL {
        // The highest bit is set in every element but those of truth values.
        let bytes: Vec<u8> = match dtype == DType::Bool {
            true => vec![1, 0, 1],
            false => (0..3 * dtype.size_bytes()).map(|at| 0x80 | at as u8).collect(),
        };
        let literal = thalweg_base::Literal::from_bytes(dtype, &[3], bytes).unwrap();
        let tensor = Tensor::from(literal.clone());
        npy::write(&path, &tensor).unwrap();
        let found = npy::read(&path).unwrap();
        // The format has no bfloat16.
        let expected = if dtype == DType::BF16 { DType::F32 } else { dtype };
        assert_eq!((found.dtype(), found.to_f64()), (expected, tensor.to_f64()));
        file.tensors.insert(dtype.name().to_string(), literal);
    }
    weights::write(&path, &file).unwrap();
    assert_eq!(weights::read(&path).unwrap(), file);
    let bytes = fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, tensor) in &file.tensors {
        assert_eq!(theirs.tensor(name).unwrap().data(), tensor.bytes(), "{name}");
    }
}

#[test]
fn texts_beside_tensors_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let metadata = BTreeMap::from([("licence".to_string(), "\"MIT\"\n".to_string())]);
    let file = weights::TensorFile { tensors: BTreeMap::new(), metadata };
    weights::write(&path, &file).unwrap();
    assert_eq!(weights::read(&path).unwrap(), file);
}
