//! Pictures.

use thalweg::{CompileOptions, Model, view};

#[test]
fn pictures_of_a_small_model() {
    let text = "use nn\nmodel Net(x: f32[batch, 4]) -> f32[batch, 2] {\n    let h = nn.linear(x, 3) as hidden\n    nn.linear(relu(h) * 2, 2) as out\n}";
    let model = Model::from_source("net.tw", text).unwrap();
    let graph = model.graph(&CompileOptions::default()).unwrap().graph;
    insta::assert_snapshot!(view::dot(&graph));
    insta::assert_snapshot!(view::svg(&graph));
}

/// Boxes lie within the picture, and no two overlap.
#[test]
fn boxes_do_not_overlap() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/models/encoder.tw");
    let model = Model::from_file(path).unwrap();
    let options =
        CompileOptions { settings: [("layers".to_string(), "2".to_string())].into(), ..Default::default() };
    let graph = model.graph(&options).or_else(|_| model.graph(&CompileOptions::default())).unwrap().graph;
    let svg = view::svg(&graph);
    let attribute = |line: &str, name: &str| -> f64 {
        let rest = &line[line.find(&format!(" {name}=\"")).unwrap() + name.len() + 3..];
        rest[..rest.find('"').unwrap()].parse().unwrap()
    };
    let head = svg.lines().next().unwrap();
    let (width, height) = (attribute(head, "width"), attribute(head, "height"));
    let boxes: Vec<[f64; 4]> = svg
        .lines()
        .filter(|line| line.starts_with("<rect x=") && line.contains("rx=\"5\""))
        .map(|line| ["x", "y", "width", "height"].map(|name| attribute(line, name)))
        .collect();
    assert!(boxes.len() > 20, "{}", boxes.len());
    for (at, a) in boxes.iter().enumerate() {
        assert!(a[0] >= 0.0 && a[1] >= 0.0 && a[0] + a[2] <= width && a[1] + a[3] <= height, "{a:?}");
        for b in &boxes[..at] {
            let apart =
                a[0] + a[2] <= b[0] || b[0] + b[2] <= a[0] || a[1] + a[3] <= b[1] || b[1] + b[3] <= a[1];
            assert!(apart, "{a:?} and {b:?}");
        }
    }
}
