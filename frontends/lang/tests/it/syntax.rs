//! Lexer, parser, formatter and the layout of messages.

use insta::assert_snapshot;
use proptest::prelude::*;
use thalweg_base::SourceMap;
use thalweg_lang::{format_source, parse, render, to_json};

fn errors(text: &str) -> String {
    let mut sources = SourceMap::default();
    let source = sources.add("bad.tw", text);
    let (_, errors) = parse(source, text);
    render(&errors, &sources, false)
}

const MESSY: &str = r#"
use   nn
// a comment
const width=128   // overridable


/// Ten classes.
model Digits(x:f32[batch,64])->f32[batch,10]{

  let h=nn.linear(x,width)as hidden
      let q = [ -1,2*-3 , x[.., 0] ]; var z = - 1
  let y = a
      - b * c[ 1 .. 3 ]
      // inside
  -y
  if causal{ relu( -x ) }else{ x }
  let m = einsum(
  "a b -> b a",   // letters
    x,
  ) #shard( out : model )
}
train Digits{
  data=csv("digits.csv",target:"digit",scale:1/16)
  batch=64
  loss = 0.5

  metrics={ accuracy:nn.accuracy(logits,data.y) }
}
"#;

#[test]
fn formats_to_canonical_layout() {
    let once = format_source(MESSY).unwrap();
    assert_snapshot!(once);
    assert_eq!(format_source(&once).unwrap(), once);
}

#[test]
fn all_syntax_errors_in_one_run() {
    let text = r#"
use nn
def f(x)
fn g(x: f32[n] -> f32[n] { x }
model Net(x: f32[b, 4]) -> f32[b, 4] {
    let = 3
    let y = (x + 
    let z = x @ 
    a < b < c
    x[0] = 3
    let s = "open
    let n = 12abc
    let ok = 1 and 2
    relu(x)
}
train Net { loss 3
    batch = 4 5
    $
}
model Open(x: f32) {
    x
fn next(x: f32) { x }
"#;
    assert_snapshot!(errors(text));
}

#[test]
fn hostile_nesting_is_an_error_and_no_overflow() {
    for (open, close) in
        [("(", ")"), ("[", "]"), ("-", ""), ("if a { ", "}"), ("f(", ")"), ("{a: ", "}"), ("scope a { ", "}")]
    {
        let text = format!("fn f(x: f32) {{ {}1{} }}", open.repeat(100_000), close.repeat(100_000));
        assert!(errors(&text).contains("E0012"), "{open}");
    }
    for chain in ["+ 1 ", ".a", "(1)", "[0]", " as a", "** 2", " #h", " if a { } else"] {
        let text = format!("fn f(x: f32) {{ x{} }}", chain.repeat(100_000));
        assert!(!errors(&text).is_empty(), "{chain}");
    }
    let types = format!("fn f(x: {}) {{ x }}", "[".repeat(100_000));
    assert!(errors(&types).contains("E0012"));
}

#[test]
fn json_names_place_and_code() {
    let mut sources = SourceMap::default();
    let text = "fn f(x: f32) {\n    let é = )\n}\n";
    let source = sources.add("bad.tw", text);
    let json = to_json(&parse(source, text).1, &sources);
    assert_eq!(json[0]["code"], "E0010");
    assert_eq!((json[0]["line"].as_u64(), json[0]["column"].as_u64()), (Some(2), Some(13)));
    assert_eq!(json[0]["file"], "bad.tw");
}

/// Text that resembles programs more than noise does, so that the parser is reached.
fn tokens() -> impl Strategy<Value = String> {
    let words = [
        "model", "fn", "layer", "train", "let", "var", "if", "else", "for", "in", "scan", "carry", "along",
        "scope", "as", "use", "const", "param", "state", "yield", "last", "x", "n", "f32", "1", "0.5",
        "\"s\"", "(", ")", "[", "]", "{", "}", ",", ":", ";", "=", "+", "-", "- ", "*", "@", "..", "->",
        "==", "<", "!", ".", "#", "// c\n", "/// d\n", "\n", "\n\n", " ", "é", "$",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..60)
        .prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        errors(&text);
    }

    #[test]
    fn token_soup_never_panics(text in tokens()) {
        errors(&text);
        errors(&format!("fn f(x: f32) {{\n{text}\n}}\n"));
        errors(&format!("train M {{\n{text}\n}}\n"));
    }

    #[test]
    fn formatting_is_idempotent_and_keeps_the_program(text in tokens()) {
        let text = format!("fn f(x: f32) {{\n{text}\n}}\n");
        if let Ok(once) = format_source(&text) {
            let twice = format_source(&once).unwrap_or_else(|errors| panic!("{once}\n{errors:?}"));
            prop_assert_eq!(&twice, &once);
        }
    }
}
