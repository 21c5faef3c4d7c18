//! Primitives that programs written from graphs need: strides, interior padding, transposed convolution, choices at run time.

use crate::numerics::{close, floats, ints, noise, of, run};
use thalweg_base::Scalar;
use thalweg_lang::{Program, Settings, render};

fn counting(shape: &[usize]) -> thalweg_tensor::Array {
    let count: usize = shape.iter().product();
    floats(shape, &(0..count).map(|at| at as f64).collect::<Vec<_>>())
}

#[test]
fn slices_at_strides_and_backwards() {
    close(&of("slice(x, 1, 3, 2)", counting(&[7])), &[1.0, 3.0, 5.0]);
    close(&of("slice(x, -1, 3, -2)", counting(&[7])), &[6.0, 4.0, 2.0]);
}

#[test]
fn slices_of_several_dims_in_any_order() {
    let one = of("slice(x, [2, 1], [2, 2], [-1, 2], along: [1, 0])", counting(&[4, 3]));
    assert_eq!(one.shape, [2, 2]);
    close(&one, &[5.0, 4.0, 11.0, 10.0]);
}

#[test]
fn pads_between_positions_and_with_infinity() {
    let padded = of("pad(x, low: 1, high: 2, between: 1, value: -infinity)", counting(&[3]));
    let low = f64::NEG_INFINITY;
    let found: Vec<f64> = padded.values.iter().map(|value| value.to_f64()).collect();
    assert_eq!(found, [low, 0.0, low, 1.0, low, 2.0, low, low]);
    let both = of("pad(x, along: [1, 0], low: [0, 1], high: [1, 0])", counting(&[1, 2]));
    close(&both, &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    assert!(of("x * nan", counting(&[1])).values[0].to_f64().is_nan());
}

#[test]
fn a_broadcast_says_where_dims_go() {
    close(&of("broadcast(x, [2, 3], at: 0)", counting(&[2])), &[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
}

#[test]
fn known_numbers_as_tensors() {
    close(&of("x + tensor([[1, 2.5], [-3, 0]])", floats(&[2], &[10.0, 20.0])), &[11.0, 22.5, 7.0, 20.0]);
    close(&of("select(tensor([true, false], bool), x, 0)", floats(&[2], &[1.0, 2.0])), &[1.0, 0.0]);
}

#[test]
fn windows_along_any_dim_and_their_sums() {
    let windows = of("windows(x, 2, along: 0)", counting(&[3, 2]));
    assert_eq!(windows.shape, [2, 2, 2]);
    close(&windows, &[0.0, 2.0, 1.0, 3.0, 2.0, 4.0, 3.0, 5.0]);
    // Each position is summed as often as windows have it.
    close(&of("fold(windows(x, 2), 2, 4)", floats(&[4], &[1.0, 2.0, 3.0, 4.0])), &[1.0, 4.0, 6.0, 4.0]);
}

/// Both transposes of a convolution against its own sums: <conv(x, w), y> = <x, conv_input(w, y)> = <w, conv_weight(x, y)>.
#[test]
fn transposed_convolutions() {
    let text = r#"
model M(x: f32[2, 4, 7, 6], w: f32[6, 2, 3, 2], y: f32[2, 6, 4, 4]) -> list {
    let f = convolve(x, w, stride: [2, 1], dilation: [1, 2], low: [1, 0], high: [1, 0], groups: 2)
    let back = convolve_input(w, y, [7, 6], stride: [2, 1], dilation: [1, 2], low: [1, 0], high: [1, 0], groups: 2)
    let weights = convolve_weight(x, y, [3, 2], stride: [2, 1], dilation: [1, 2], low: [1, 0], high: [1, 0], groups: 2)
    [sum(f * y), sum(x * back), sum(w * weights)]
}
"#;
    let inputs = [
        ("x", noise(&[2, 4, 7, 6], "x")),
        ("w", noise(&[6, 2, 3, 2], "w")),
        ("y", noise(&[2, 6, 4, 4], "y")),
    ];
    let found = run(text, &inputs);
    let value = |name: &str| found[name].item().to_f64();
    assert!(value("output.0").abs() > 1e-3);
    for other in ["output.1", "output.2"] {
        assert!((value("output.0") - value(other)).abs() < 1e-3, "{} {}", value("output.0"), value(other));
    }
}

#[test]
fn several_computed_starts() {
    let text = "
model M(x: f32[3, 4], p: f32[2, 1], i: i32[], j: i32[]) {
    [dynamic_slice(x, [j, i], [2, 2], along: [1, 0]), dynamic_update(x, p, [i, j], along: [0, 1])]
}
";
    let inputs = [
        ("x", counting(&[3, 4])),
        ("p", floats(&[2, 1], &[-1.0, -2.0])),
        ("i", ints(&[], &[1])),
        ("j", ints(&[], &[2])),
    ];
    let found = run(text, &inputs);
    close(&found["output.0"], &[6.0, 7.0, 10.0, 11.0]);
    close(&found["output.1"], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, -1.0, 7.0, 8.0, 9.0, -2.0, 11.0]);
}

#[test]
fn random_values_of_a_key_are_the_same_each_time() {
    let of_key = |key: &str| of(&format!("x * 0 + draw_uniform([{key}], iota(8))"), counting(&[8]));
    assert_eq!(of_key("1, 2"), of_key("1, 2"));
    assert_ne!(of_key("1, 2"), of_key("1, 3"));
}

#[test]
fn branches_choose_when_the_model_runs() {
    let text = "
model M(x: f32[2], on: bool[]) {
    let [a, b] = branch on {
        let double = x + x
        [double, double + 1]
    } else {
        [x, 0]
    }
    let c = branch !on { -x } else { x * 10 }
    [a, b, c]
}
";
    let of = |on: i64| {
        let on = thalweg_tensor::Array {
            dtype: thalweg_base::DType::Bool,
            shape: vec![],
            values: vec![Scalar::Int(on.into())],
        };
        run(text, &[("x", floats(&[2], &[1.0, 2.0])), ("on", on)])
    };
    let (yes, no) = (of(1), of(0));
    close(&yes["output.0"], &[2.0, 4.0]);
    close(&yes["output.1"], &[3.0, 5.0]);
    close(&yes["output.2"], &[10.0, 20.0]);
    close(&no["output.0"], &[1.0, 2.0]);
    close(&no["output.1"], &[0.0, 0.0]);
    close(&no["output.2"], &[-1.0, -2.0]);
}

#[test]
fn sides_of_a_branch_agree() {
    let errors = |body: &str| {
        let text = format!("model M(x: f32[2], on: bool[]) {{ {body} }}");
        let (program, errors) = Program::parse("net.tw", &text);
        let errors = if errors.is_empty() { program.check(&Settings::new()) } else { errors };
        render(&errors, program.sources(), false)
    };
    assert!(errors("branch on { x } else { x[0..1] }").contains("E0202"));
    assert!(errors("branch on { x } else { [x, x] }").contains("E0307"));
    assert!(errors("branch x { x } else { x }").contains("E0302"));
    assert!(errors("branch on { x }").contains("else"));
    assert!(errors("branch on { 1 } else { 2 }").contains("E0303"));
    assert!(errors("var y = x\n branch on { y = x + 1 } else { x }").contains("E0405"));
    assert_eq!(errors("let branch = x\n branch + 1"), "");
}

#[test]
fn the_condition_of_a_while_may_be_a_block() {
    let text = "
model M(x: f32[2]) {
    while {
        let square = y * y
        sum(square) < 100
    }, carry y = x {
        y = y * 2
        last y
    }
}
";
    close(&run(text, &[("x", floats(&[2], &[1.0, 2.0]))])["output"], &[8.0, 16.0]);
}

#[test]
fn parameters_may_be_called_otherwise_in_the_model() {
    let text = "
model M(x: f32[2]) {
    param w: f32[2] = 2 as block[0].weight
    param v: f32[2] = 3 as block[1].weight
    state n: f32[2] = -1 as seen
    n = n + x
    x * w * v
}
";
    let found = run(text, &[("x", floats(&[2], &[1.0, 2.0]))]);
    close(&found["block.0.weight"], &[2.0, 2.0]);
    close(&found["block.1.weight"], &[3.0, 3.0]);
    close(&found["seen"], &[0.0, 1.0]);
    close(&found["output"], &[6.0, 12.0]);
}

/// A column's rows are the batch, whatever a function calls them, and whether or not the model saw it first.
#[test]
fn columns_of_data_go_to_functions_that_name_the_batch() {
    for (name, order) in [("batch", false), ("batch", true), ("rows", false), ("rows", true)] {
        let (first, second) = match order {
            false => ("logits = M(data.x)", "wanted = target(data.y)"),
            true => ("wanted = target(data.y)", "logits = M(data.x)"),
        };
        let text = format!(
            "use nn
model M(x: f32[batch, 4]) -> f32[batch, 3] {{ nn.linear(x, 3) }}
fn target(y: i32[{name}]) -> i32[{name}] {{ y }}
train M {{
    data      = synthetic(rows: 64, classes: 3)
    {first}
    {second}
    loss      = nn.cross_entropy(logits, wanted)
    optimizer = optim.sgd(lr: 0.1)
    batch     = 8
}}
"
        );
        let (program, errors) = Program::parse("net.tw", &text);
        assert!(errors.is_empty(), "{}", render(&errors, program.sources(), false));
        let train = program.elaborate_train("M", &Settings::new());
        let train = train.unwrap_or_else(|errors| panic!("{}", render(&errors, program.sources(), false)));
        let rows: Vec<String> =
            train.data.columns.iter().map(|column| column.ty.shape[0].to_string()).collect();
        assert_eq!(rows[0], rows[1]);
    }
}
