//! Programs with mistakes: what is said of each, as snapshots, and that every code is said somewhere.

use std::collections::BTreeSet;
use thalweg_base::Diagnostic;
use thalweg_lang::{Program, Settings, render};

/// Everything that is wrong with a program.
fn diagnose(text: &str, settings: &[(&str, &str)]) -> (Vec<Diagnostic>, String) {
    let (program, mut errors) = Program::parse("net.tw", text);
    if errors.is_empty() {
        let settings: Settings =
            settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        errors = program.check(&settings);
        if let Some(model) = settings.get("model") {
            errors = program.elaborate_model(model, &Settings::new()).err().unwrap_or_default();
        }
    }
    let shown = render(&errors, program.sources(), false);
    (errors, shown)
}

/// A model around a body.
fn body(body: &str) -> String {
    format!("use nn\n\nmodel Net(x: f32[batch, 784], t: i32[batch]) -> f32[batch, 10] {{\n{body}\n}}\n")
}

/// A training around fields.
fn train(fields: &str) -> String {
    format!(
        "use nn\n\nmodel Net(x: f32[batch, 4]) -> f32[batch, 3] {{\n    nn.linear(x, 3)\n}}\n\ntrain Net {{\n{fields}\n}}\n"
    )
}

const GOOD_FIELDS: &str = "    data = csv(\"a.csv\", target: \"y\")\n    logits = Net(data.x)\n    loss = nn.cross_entropy(logits, data.y)\n    optimizer = optim.sgd(lr: 0.1)\n    batch = 8";

/// Mistakes by theme: a name for the snapshot, and programs.
fn cases() -> Vec<(&'static str, Vec<String>)> {
    let trains = |list: &[&str]| list.iter().map(|text| train(text)).collect::<Vec<_>>();
    vec![
        (
            "syntax",
            vec![
                "model Net(x: f32[n]) -> f32[n] {\n    let a = $ 3x\n    let b = \"open\n    x\n}\n".into(),
                "model Net(x: f32[n]) -> f32[n] {\n    let = 3\n    let y = (x\n    a < b < c\n    x[0] = 1\n    x y\n}\nwhat\n".into(),
                format!("model Net(x: f32[n]) {{ {}x }}", "-".repeat(500)),
            ],
        ),
        (
            "names",
            vec![
                body("    let y = linear(x, 10)\n    let z = nn.liner(x, 10)\n    rleu(x)"),
                body("    let y = nn.linear(x, 10)\n    y = y + 1\n    yy = y\n    x.relu()"),
                body("    let y = nn.linear(x, 10, bais: false)\n    let z = nn.linear(x)\n    let w = nn.linear(x, 1, true, init.zeros, 3)\n    sum(x, ovre: 1)\n    x(3)"),
                "use nm\nuse other.layers\nconst a = b\nconst b = a\nconst a = 3\nmodel Net(x: f32[a]) -> f32[a] { x }\n".into(),
                "fn again(x: float[..s]) -> float[..s] { again(x) }\nmodel Net(x: f32[n]) -> f32[n] { again(x) }\n".into(),
                "const a = b\nconst b = a\nmodel Net(x: f32[4]) -> f32[4] { x + a }\n".into(),
                "model Net(x: f23[n], m: itn = 3) -> f32[n] {\n    let r = { loss: x }\n    r.lost\n}\n".into(),
                body("    abs(x, y: 1)"),
                body("    abs()"),
                body("    abs(x, x)"),
                // Nothing uses these functions.
                "fn lonely(x: float[..s, n], m: int) -> float[..s, m] { rleu(x @ zeros([n, m])) }\nlayer odd(x: f32[n, 3]) -> f32[n, 3] {\n    param w: f32[m, k] = init.zeros()\n    lonly(x, 2)\n}\nmodel Net(x: f32[n]) -> f32[n] { x }\n".into(),
            ],
        ),
        (
            "shapes",
            vec![
                format!("use nn\n\nmodel Net(x: f32[batch, 784]) -> f32[batch, 10] {{\n    param w: f32[768, 128] = init.glorot()\n    let h = x @ w\n    nn.linear(relu(h), 10)\n}}\n"),
                body("    let h = nn.linear(x, 20) as a\n    let g = nn.linear(x, 30) as b\n    h + g"),
                body("    let h = nn.linear(x, 20) as a\n    h + sum(x, over: batch)"),
                body("    nn.mse(x, nn.linear(x, 10))"),
                body("    nn.linear(x, 20)"),
                body("    let y = rearrange(x, \"b (h e) -> b h e\", h: 5)\n    let z = einsum(\"b n, b m -> n m\", x, t)\n    rearrange(x, \"b n c -> b c n\")"),
                body("    let y = einsum(\"b n, n m -> b m\", x, zeros([700, 10]))\n    y"),
                body("    let a = softmax(sum(x))\n    let b = sum(x, over: chanel)\n    let c = sum(x, over: 5)\n    let d = x[0, 800]\n    let e = x[.., 3..1000]\n    let f = [1, 2][4]\n    a"),
                body("    let [a, b, c] = split(x, into: 3, along: -1)\n    let d = reshape(x, [batch, 700])\n    let e = concat([x, zeros([3, 784])], along: 1)\n    let f = nn.max_pool(zeros([1, 1, 1, 1]))\n    a"),
                body("    param w: f32[batch, 3] = init.zeros()\n    let y: f32[batch, 10] = x\n    y"),
                "fn double(x: float[b, 2 * n]) -> float[b, n] { x[.., 0..n] }\nmodel Net(x: f32[batch, 7]) -> f32[batch, 3] { double(x) }\n".into(),
                "model Net(a: f32[n, 4], b: f32[m, 4]) -> f32[n, 4] { a + b }\n".into(),
                "model Net(x: f32[..s]) -> f32[2] { x }\n".into(),
                body("    let y = convolve(rearrange(x, \"b (h w) -> b 1 h w\", h: 28), zeros([8, 3, 3, 3]))\n    y"),
                body("    let y = dynamic_slice(x, 0, 1000, along: 1)\n    y"),
            ],
        ),
        (
            "kinds",
            vec![
                body("    let a = x + t\n    let b = if x { 1 } else { 2 }\n    let c = \"a\" * 2\n    let d = t + 0.5\n    let e = !x\n    let f = 7 / 0\n    let [p, q] = x\n    x"),
                body("    let a = nn.linear(x, 2.5)\n    let b = nn.linear(t, 10)\n    let c = nn.embedding(x, 3, 4)\n    for i in x { }\n    let d = floor_div(batch, 0)\n    let e = batch / 3\n    let f = sqrt(batch)\n    x"),
                body("    check(1 > 2, \"heads must divide d\")\n    let a = 9000000000000000000 * 3\n    let big = batch * 3000000000\n    x"),
                body("    for i in 0..2000000 { }\n    x"),
                "model Net(x: f32[n]) -> f32[n] { for i in 0..10 { }\n    \"text\"\n}\nmodel Lost(x: f32[n]) -> f32[n] { let y = x\n}\nmodel Text(x: f32[n]) { \"text\" }\n".into(),
            ],
        ),
        (
            "ownership",
            vec![
                body("    let a = nn.linear(x, 10) as out\n    nn.linear(x, 10) as out"),
                body("    var h = x\n    for i in 0..2 {\n        h = nn.linear(h, 784) as layer\n    }\n    nn.linear(h, 10)"),
                "fn f(x: float[n]) -> float[n] {\n    param w: f32[n] = init.zeros()\n    x\n}\nmodel Net(x: f32[4]) -> f32[4] { f(x) }\n".into(),
                body("    state seen: f32[4] = init.zeros()\n    seen = zeros([5])\n    param w: f32[4]\n    param v: i32[4] = init.normal()\n    nn.linear(x, 10)"),
                body("    (x + x) as sum\n    nn.linear(x, 10) as out #shrad(out: model)"),
                body("    x + 1\n    nn.linear(x, 10)"),
            ],
        ),
        (
            "scans",
            vec![
                body("    var total = 0.0\n    let y = scan xt in x along 1, carry h = zeros([batch]) {\n        total = h\n        h = h + xt\n        yield h\n    }\n    y"),
                body("    let y = scan xt in x along 1, carry h = zeros([3]) {\n        h = xt\n        yield h\n    }\n    y"),
                body("    let y = scan xt in x along 1 { let z = xt\n }\n    let z = scan i in 3 { yield x }\n    yield x\n    y"),
                body("    let y = scan xt in x along 1, carry h = zeros([batch]) {\n        h = h + xt\n        last h + 1\n    }\n    y"),
                body("    let y = while true { last x }\n    let z = while sum(h) < 3, carry h = x { yield h }\n    let v = while h, carry h = x { last h }\n    y"),
            ],
        ),
        (
            "training",
            {
                let mut list = trains(&[
                    "    lose = 3",
                    "    data = csv(\"a.csv\")\n    loss = 1",
                    "    data = cvs(\"a.csv\", target: \"y\")",
                    "    data = csv(\"a.csv\", target: \"y\")\n    logits = Net(data.x)\n    loss = logits\n    optimizer = 3\n    batch = 0",
                    "    data = csv(\"a.csv\", target: \"y\")\n    logits = Net(data.x)\n    loss = mean(floor(logits)) + sum(cumprod(logits))\n    optimizer = optim.sgd(lr: 0.1)\n    batch = 8",
                    "    data = csv(\"a.csv\", target: \"y\")\n    loss = nn.mse(Net(zeros([8, 4])), data.y)\n    optimizer = optim.sgd(lr: 0.1)\n    batch = 9\n    batch = 9",
                ]);
                list.push(train(&GOOD_FIELDS.replace("batch = 8", "batch = 8\n    freeze = [\"linaer\"]")));
                list.push(train(&GOOD_FIELDS.replace("Net(data.x)", "Net(zeros([8, 4]))").replace("batch = 8", "batch = 9")));
                list
            },
        ),
    ]
}

#[test]
fn mistakes_are_explained() {
    for (theme, programs) in cases() {
        let shown: Vec<String> = programs.iter().map(|text| diagnose(text, &[]).1).collect();
        assert!(shown.iter().all(|text| !text.is_empty()), "{theme}: a program without a mistake");
        insta::assert_snapshot!(format!("mistakes_{theme}"), shown.join("----\n\n"));
    }
}

#[test]
fn settings_that_do_not_fit_are_explained() {
    let text = "const width = 4\nmodel Net(x: f32[batch, width], depth: int) -> f32[batch, width] { x }\n";
    let shown: Vec<String> = [
        vec![("width", "wide"), ("depth", "1")],
        vec![("widht", "3"), ("depth", "1")],
        vec![("depth", "1.5")],
        vec![("model", "Ne")],
        vec![("model", "Net")],
    ]
    .iter()
    .map(|settings| diagnose(text, settings).1)
    .collect();
    insta::assert_snapshot!("mistakes_settings", shown.join("----\n\n"));
}

#[test]
fn good_programs_have_no_mistakes() {
    assert_eq!(diagnose(&train(GOOD_FIELDS), &[]).1, "");
    assert_eq!(diagnose(&body("    nn.linear(x, 10)"), &[]).1, "");
    // What the library needs only sometimes is good by itself too.
    for text in [
        include_str!("../../std/nn.tw"),
        include_str!("../../std/optim.tw"),
        include_str!("../../std/prelude.tw"),
    ] {
        assert_eq!(diagnose(text, &[]).1, "");
    }
}

/// Every code in the sources of the crate is produced by some program here.
#[test]
fn every_code_is_tested() {
    let mut said: BTreeSet<&str> = BTreeSet::new();
    for text in cases().iter().flat_map(|(_, programs)| programs) {
        said.extend(diagnose(text, &[]).0.iter().map(|error| error.code));
    }
    for setting in [("width", "3"), ("model", "Nt")] {
        said.extend(diagnose(&body("    nn.linear(x, 10)"), &[setting]).0.iter().map(|error| error.code));
    }
    let mut written = BTreeSet::new();
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            written.extend(text.match_indices("\"E0").map(|(at, _)| text[at + 1..at + 6].to_string()));
        }
    }
    let silent: Vec<&String> = written.iter().filter(|code| !said.contains(code.as_str())).collect();
    assert!(silent.is_empty(), "no program here is told {silent:?}");
    assert!(written.len() > 40);
}
