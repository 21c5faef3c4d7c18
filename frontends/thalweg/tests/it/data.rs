//! Readers of data, through trainings.

use std::fs;
use std::io::Write;
use std::path::Path;
use thalweg::{Error, Model, Tensor, TrainOptions, Trainer};

/// A training of a linear model of `features` in a folder, with data given so.
fn trainer(folder: &Path, x: &str, data: &str) -> Result<Trainer, Error> {
    let text = format!(
        "use nn\n\nmodel Net(x: {x}) -> f32[batch, 3] {{ nn.linear(nn.flatten(x), 3) as out }}\n\n\
         train Net {{\n    data = {data}\n    logits = Net(data.x)\n    loss = nn.cross_entropy(logits, data.y)\n    \
         optimizer = optim.sgd(lr: 0.1)\n    batch = 2\n}}\n"
    );
    let path = folder.join("net.tw");
    fs::write(&path, text).unwrap();
    Model::from_file(path)?.trainer(&TrainOptions::default())
}

fn csv(content: &str, options: &str) -> Result<Trainer, Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("d.csv"), content).unwrap();
    trainer(folder.path(), "f32[batch, 2]", &format!("csv(\"d.csv\", target: \"class\"{options})"))
}

fn message(result: Result<Trainer, Error>) -> String {
    let text = result.unwrap_err().to_string();
    // Folders of tests have names of their own.
    text.split_once("d.csv").map_or(text.clone(), |(_, rest)| format!("d.csv{rest}"))
}

#[test]
fn tables_are_read_and_split() {
    let mut trainer = csv("a,class,b\n1,0,2\n3,2,4\n5,1,6\n7,0,8\n", ", scale: 0.5, holdout: 0.5").unwrap();
    assert_eq!((trainer.rows(), trainer.steps_total()), ((2, 2), 1));
    assert!(trainer.step().unwrap().is_some() && trainer.step().unwrap().is_none());
    assert_eq!(trainer.evaluate().unwrap().rows, 2);
    let words = csv("a,class,b\n1,red,2\n3,\"blue\",4\n5,green,6\n", "").unwrap();
    assert_eq!(words.rows(), (3, 0));
    csv("a;class;b\n1;0;2\n3;2;4\n", ", separator: \";\"").unwrap();
}

#[test]
fn mistakes_in_tables_have_lines() {
    insta::assert_snapshot!(
        [
            message(csv("a,class,b\n1,0,2\n3,x,4\n5,1,6\n", "")),
            message(csv("a,class,b\n1,0,2\n3,2.5,4\n5,1,6\n", "")),
            message(csv("a,class,b\n1,0,2\n,2,4\n5,1,6\n", "")),
            message(csv("a,class,b\n1,0,2\n3,2\n", "")),
            message(csv("a,b,c\n1,0,2\n", "")),
            message(csv("a,class\n1,0\n3,1\n", "")),
            message(csv("a,class,b\n1,0,2\n", "")),
            message(csv("a,class,b\n1,0,2\n", ", holdout: 1.5")),
            message(csv("", "")),
        ]
        .join("\n")
    );
    let folder = tempfile::tempdir().unwrap();
    let missing = trainer(folder.path(), "f32[batch, 2]", "csv(\"none.csv\", target: \"y\")");
    assert!(matches!(missing, Err(Error::Io { action: "read", .. })));
}

fn idx(sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| file.extend(size.to_be_bytes()));
    file.extend(bytes);
    file
}

#[test]
fn pictures_are_read_plain_and_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let pixels: Vec<u8> = (0..16).collect();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&idx(&[4, 2, 2], &pixels)).unwrap();
    fs::write(folder.path().join("pictures.gz"), encoder.finish().unwrap()).unwrap();
    fs::write(folder.path().join("labels"), idx(&[4], &[0, 1, 2, 1])).unwrap();
    let of = |data: &str| trainer(folder.path(), "f32[batch, 2, 2]", data);
    let mut trainer = of("idx(images: \"pictures\", labels: \"labels\", scale: 1 / 255)").unwrap();
    assert_eq!(trainer.rows(), (4, 0));
    assert_eq!(trainer.evaluate().unwrap().split, "train");
    let split = of(
        "idx(images: \"pictures\", labels: \"labels\", test_images: \"pictures\", test_labels: \"labels\")",
    );
    assert_eq!(split.unwrap().rows(), (4, 4));
    fs::write(folder.path().join("labels"), idx(&[3], &[0, 1, 2])).unwrap();
    let error = of("idx(images: \"pictures\", labels: \"labels\")").unwrap_err();
    assert!(error.to_string().contains("one label for each picture"), "{error}");
    let error = of("idx(images: \"pictures\", labels: \"nothing-idx1-ubyte\")").unwrap_err();
    assert!(error.to_string().contains("apt-get install dataset-fashion-mnist"), "{error}");
}

#[test]
fn data_that_does_not_fit_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("d.csv"), "a,class,b\n1,0,2\n3,2,4\n").unwrap();
    let data = "csv(\"d.csv\", target: \"class\")";
    let error = trainer(folder.path(), "f32[batch, 7]", data).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the data does not fit the program: a row of `data.x` is [7], but the data has rows of [2]"
    );
    let reshaped = trainer(folder.path(), "f32[batch, 1, 2]", data).unwrap();
    assert_eq!(reshaped.rows(), (2, 0));
}

#[test]
fn arrays_give_the_column_of_their_name() {
    let write = |folder: &Path, name: &str, tensor: Tensor| {
        thalweg::npy::write(folder.join(name), &tensor).unwrap();
    };
    let rows = |folder: &Path| trainer(folder, "f32[batch, 2]", "npy(\"arrays\", shuffle: false)");
    let folder = tempfile::tempdir().unwrap();
    let arrays = folder.path().join("arrays");
    fs::create_dir(&arrays).unwrap();
    let missing = message(rows(folder.path()));
    assert!(missing.contains("x.npy") && missing.contains("data.x"), "{missing}");
    write(&arrays, "x.npy", Tensor::new(&[3, 2], &[1f64, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());
    write(&arrays, "y.npy", Tensor::new(&[3], &[0i64, 1, 1]).unwrap());
    let from_wide = rows(folder.path()).unwrap().step().unwrap().unwrap().loss;
    write(&arrays, "x.npy", Tensor::new(&[3, 2], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());
    assert_eq!(rows(folder.path()).unwrap().step().unwrap().unwrap().loss, from_wide);
    // The first two rows alone decide the first loss, as the order is that of the file.
    write(&arrays, "x.npy", Tensor::new(&[3, 2], &[1f32, 2.0, 3.0, 4.0, -9.0, 0.5]).unwrap());
    assert_eq!(rows(folder.path()).unwrap().step().unwrap().unwrap().loss, from_wide);
    write(&arrays, "y.npy", Tensor::new(&[2], &[0i64, 1]).unwrap());
    let uneven = message(rows(folder.path()));
    assert!(uneven.contains("3 rows") && uneven.contains("2"), "{uneven}");
    write(&arrays, "y.npy", Tensor::new(&[3], &[0f32, 1.0, 1.0]).unwrap());
    let floats = message(rows(folder.path()));
    assert!(floats.contains("f32") && floats.contains("data.y"), "{floats}");
}
