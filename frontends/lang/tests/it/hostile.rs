//! Programs that nobody would write: the checker answers with diagnostics, whatever comes.

use proptest::prelude::*;
use thalweg_lang::{Program, Settings, render};

const PROGRAMS: [&str; 8] = [
    include_str!("../../../../examples/digits.tw"),
    include_str!("../../../../examples/fashion_mnist.tw"),
    include_str!("../../../../examples/models/lstm.tw"),
    include_str!("../../../../examples/models/transformer.tw"),
    include_str!("../../../../examples/models/resnet.tw"),
    include_str!("../../../../examples/models/decode.tw"),
    r#"use nn
model M(x: f32[b, 12, 8], t: i32[b, 12], on: bool[b]) -> [f32[b], i32[b, 12], f32[b, 12, 8]] {
    let y = scan reverse xt in x along 1, it in t along 1, carry h = zeros([b, 8]), n = 0 {
        let [p, q] = split(xt, into: 2, along: -1)
        h = concat([q, p], along: -1) + h * 0.5
        n += 1
        yield h
    }
    let w = windows(x, [3, 2], stride: [2, 1], low: 1, high: 0)
    let z = reshape(w, [b, -1, 6])[.., 0..4, 2]
    let g = take(x, t, along: 1, batch: 1) + pad(x, along: 1, low: 0, high: 0)
    let s = select(reshape(on, [b, 1]), z, 0.0) ** 2 - floor_div(12, 5) % 3
    let v = rearrange(y, "b s (h e) -> (b h) s e", h: 2)
    let u = dynamic_update(x, x[.., 0..1], 3, along: 1) + dynamic_slice(x, min(t), 12, along: 1)
    let m = max(s, over: -1) + mean(v) + sum(g, over: [1, 2]) / 3 + einsum("b s d, b s d -> b", u, y)
    [m, argsort(t, along: 1, descending: true), nn.causal_mask(x) @ transpose(x, [0, 2, 1]) @ x]
}
"#,
    r#"model M(x: f32[b, 6, 8], w: f32[4, 3, 2], i: i32[], on: bool[]) {
    param weight: f32[4] = -1 as block[0].weight
    state seen: i32[2] = 3 as block[1].seen
    seen = seen + tensor([[1, -2]], i32)[0] + shape(w)[1]
    let c = convolve(x, w, stride: 2, low: [1], groups: 2)
    let d = convolve_input(w, c, [8], stride: 2, low: 1, groups: 2) - infinity
    let e = convolve_weight(x, c, 2, stride: 2, low: 1, groups: 2)
    let f = fold(windows(x, [2, 3], along: [1, 2], low: 1, high: [0, 1]), [2, 3], [6, 8], low: 1, high: [0, 1])
    let g = slice(x, [1, -1], [2, 3], [2, -2], along: [1, 2])
    let h = pad(g, along: [2, 0], low: [0, 1], high: b, between: [1, 0], value: nan)
    let k = dynamic_slice(x, [i, 2], [1, 3], along: [2, 1]) + broadcast(weight[..3], [b, 3, 1], at: 1)
    let [p, q] = branch on && i > 0 {
        let n = cummin(x, along: 1, reverse: true)
        [mul_add(n, n, x), draw_normal([i, 1], iota(5))]
    } else {
        [x, 0]
    }
    let r = while {
        let t = sum(z * z)
        t < 100 || i < 3
    }, carry z = q {
        z = z * 2 + 1
        last z
    }
    { d: d, e: e, f: f, h: h, k: k, p: p, r: r }
}
"#,
];

/// Pieces of programs, so that changed programs get far before they fail.
const PIECES: [&str; 48] = [
    "0",
    "1",
    "-1",
    "2",
    "7",
    "1000000000",
    "9223372036854775807",
    "0.5",
    "1e300",
    "x",
    "h",
    "batch",
    "b",
    "seq",
    "..s",
    "s",
    "n",
    "d",
    "_",
    "f32",
    "i32",
    "bool",
    "int",
    "float",
    "fn",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ",",
    ":",
    "=",
    "+",
    "-",
    "*",
    "/",
    "@",
    "**",
    "%",
    "..",
    "\"b s -> s b\"",
    "true",
    "zeros([3])",
    "x[0]",
    "let a = x",
    "nn.linear",
];

#[derive(Clone, Debug)]
enum Change {
    Remove(usize),
    Replace(usize, usize),
    Insert(usize, usize),
    Swap(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0usize..100_000;
    let piece = 0..PIECES.len();
    prop_oneof![
        at.clone().prop_map(Change::Remove),
        (at.clone(), piece.clone()).prop_map(|(at, piece)| Change::Replace(at, piece)),
        (at.clone(), piece).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (at.clone(), at).prop_map(|(a, b)| Change::Swap(a, b)),
    ]
}

/// Words, numbers and marks of a program; blanks stay with what is before them.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut word = false;
    for c in text.chars() {
        let part = c.is_alphanumeric() || c == '_';
        match tokens.last_mut() {
            Some(last) if c.is_whitespace() || (part && word && !last.ends_with(char::is_whitespace)) => {
                last.push(c)
            }
            _ => tokens.push(c.to_string()),
        }
        word = part;
    }
    tokens
}

fn changed(text: &str, changes: &[Change]) -> String {
    let mut tokens = tokens(text);
    for change in changes {
        let count = tokens.len().max(1);
        match change {
            Change::Remove(at) if count > 1 => {
                tokens.remove(at % count);
            }
            Change::Remove(_) => {}
            Change::Replace(at, piece) => tokens[at % count] = format!("{} ", PIECES[*piece]),
            Change::Insert(at, piece) => tokens.insert(at % count, format!("{} ", PIECES[*piece])),
            Change::Swap(a, b) => tokens.swap(a % count, b % count),
        }
    }
    tokens.concat()
}

/// Checks a program, lays the diagnostics out, and says how many there were.
fn survive(text: &str) -> usize {
    let (program, mut errors) = Program::parse("hostile.tw", text);
    errors.extend(program.check(&Settings::new()));
    render(&errors, program.sources(), true);
    errors.len()
}

#[test]
fn the_programs_are_good_before_they_are_changed() {
    for text in PROGRAMS {
        let (program, errors) = Program::parse("good.tw", text);
        let errors = [errors, program.check(&Settings::new())].concat();
        assert!(errors.is_empty(), "{}", render(&errors, program.sources(), false));
    }
}

#[test]
fn sizes_at_the_edge_are_errors_and_no_panic() {
    for body in [
        "x + 9223372036854775807",
        "zeros([9223372036854775807, 9223372036854775807])",
        "reshape(x, [0, -1])",
        "reshape(x, [])",
        "iota(0 - 1)",
        "x[.., 9223372036854775807]",
        "x[-9223372036854775807 - 1]",
        "split(x, into: 0, along: 1)",
        "split(x, into: 1000000000000, along: 1)",
        "windows(x, 0)",
        "windows(x, 2, stride: 0)",
        "windows(x, 9223372036854775807)",
        "pad(x, low: 9223372036854775807)",
        "b * b * b * b * 2147483647 * 2147483647 * 2147483647 * 2147483647",
        "nn.max_pool(zeros([1, 1, b, 2]), 2, 0)",
        "nn.conv(zeros([1, 1, 4, 4]), 2, groups: 0)",
        "nn.conv(zeros([1, 1, 4, 4]), 2, size: 0)",
        "nn.conv(zeros([0, 3, 4, 4]), 0, groups: 3)",
        "rearrange(x, \"b (h e) -> b h e\", h: 0)",
        "rearrange(x, \"() (a b) -> a\")",
        "sum(x, over: [])",
        "concat([], along: 0)",
        "[x][9223372036854775807]",
        "full([2], 1e308 * 10, f16)",
        "shift_left(1, 100)",
        "2 ** 70",
        "-9223372036854775807 - 2",
        "(0 - 9223372036854775807 - 1) / -1",
        "(0 - 9223372036854775807 - 1) % -1",
        "abs(0 - 9223372036854775807 - 1)",
        "floor_div(0 - 9223372036854775807 - 1, 1)",
        "ceil_div(9223372036854775807, 2)",
        "scan i in 0..(0 - 5) { yield i }",
        "scan i in b..0 { yield i }",
        "nn.embedding(convert(x, i32), 0, 0)",
        "take(x, iota(3), along: 1, batch: 7)",
        "nn.causal_mask(zeros([b, 4]))",
        "dynamic_slice(x, 0, b * b, along: 0)",
        "transpose(x, [])",
        "einsum(\"->\", x)",
        "einsum(\"a b, c d -> a b c d\", x, x)",
        "einsum(\"a a -> a\", x)",
    ] {
        survive(&format!("use nn\nmodel M(x: f32[b, 4]) {{\n    let y = {body}\n    x\n}}\n"));
        survive(&format!("use nn\nmodel M(x: f32[b, 4]) {{\n    {body}\n}}\n"));
    }
}

#[test]
fn long_programs_do_not_exhaust_the_stack() {
    // As many calls within calls as there may be, each at the bottom of an expression as deep as there may be.
    for (open, close, deep) in [
        ("-", "", 150),
        ("if true { ", " } else { x }", 50),
        ("[", "][0]", 70),
        ("scope a { ", " }", 70),
        ("identity(", ")", 70),
        ("(x + ", ")", 70),
    ] {
        let nest = |inner: String| format!("{}{inner}{}", open.repeat(deep), close.repeat(deep));
        let calls: String = (0..95)
            .map(|i| {
                format!("layer f{i}(x: float[n]) -> float[n] {{ {} }}\n", nest(format!("f{}(x)", i + 1)))
            })
            .collect();
        let text = format!(
            "{calls}fn f95(x: float[n]) -> float[n] {{ x }}\nmodel M(x: f32[b]) -> f32[b] {{ f0(x) }}\n"
        );
        assert_eq!(survive(&text), 0, "{open}");
    }
    let wide = format!("model M(x: f32[b]) -> f32[b] {{\n{}    x\n}}\n", "    let x = x + 1\n".repeat(5000));
    assert_eq!(survive(&wide), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn changed_programs_never_panic(which in 0..PROGRAMS.len(), changes in proptest::collection::vec(change(), 1..4)) {
        survive(&changed(PROGRAMS[which], &changes));
    }
}

/// Whatever has a name may be given where a training wants a function: the compiler calls it with values of its own, not with
/// arguments that were written. Found by the fuzzer, with a function of too many parameters.
#[test]
fn any_function_may_stand_where_one_is_called_by_the_compiler() {
    let mut names: Vec<String> = thalweg_lang::primitives().map(|builtin| builtin.name.to_string()).collect();
    names.extend(thalweg_lang::library().into_iter().map(|item| format!("{}.{}", item.module, item.name)));
    for name in names {
        for (gradients, optimizer) in [(&*name, "optim.sgd(lr: 0.1)"), ("optim.clip_by_norm(1.0)", &*name)] {
            let text = format!(
                "use nn\nuse optim\n\nmodel Net(x: f32[batch, 4]) -> f32[batch, 3] {{\n    nn.linear(x, 3, init: {name})\n}}\n\n\
                 train Net {{\n    data = csv(\"a.csv\", target: \"y\")\n    logits = Net(data.x)\n    \
                 loss = nn.cross_entropy(logits, data.y)\n    gradients = {gradients}\n    optimizer = {optimizer}\n    batch = 8\n}}\n"
            );
            survive(&text);
            survive(&text.replace(&format!(", init: {name}"), ""));
        }
    }
}
