//! The verifier finds each thing that its documentation lists.

use thalweg_kernel::text::parse;
use thalweg_kernel::verify::verify;

const SOUND: &str = r#"kernel "sound" {
  buffer b0: f32[64] read
  buffer b1: f32[64] write
  buffer b2: i32[64] read
  scratch s0: f32[8]
  range i0: 8
  v0 = constant f32 0.0
  v1 = constant bool 1
  loop i1: 8 lanes 8 carry (v2: v0 -> v4, v5 by add) {
    v3 = load b0[8*i0 + i1]
    v4 = add v2, v3
    store s0[i1] v4
  }
  v6 = load b2[0]
  v7 = load b0[v6]
  store b1[i0] v5 if v1
}
"#;

/// Replaces a piece of the sound kernel; a problem that says this must be found.
#[track_caller]
fn finds(from: &str, to: &str, problem: &str) {
    let text = SOUND.replacen(from, to, 1);
    assert_ne!(text, SOUND, "`{from}` occurs");
    let problems = verify(&parse(&text).unwrap()).expect_err(&text);
    assert!(problems.iter().any(|found| found.0.contains(problem)), "{problems:?}");
}

#[test]
fn a_sound_kernel_passes() {
    assert_eq!(verify(&parse(SOUND).unwrap()), Ok(()));
}

#[test]
fn places() {
    finds("store b1[i0]", "store b7[i0]", "no buffer b7");
    finds("store b1[i0]", "store b0[i0]", "not in its access");
    finds("load b2[0]", "load b1[0]", "not in its access");
    finds("scratch s0: f32[8]", "scratch s0: f32[200000]", "is above");
}

#[test]
fn scopes() {
    finds("store b1[i0] v5", "store b1[i0] v4", "v4, which is not in scope");
    finds("v3 = load", "v0 = load", "v0 is defined twice");
    finds("loop i1", "loop i0", "i0 is defined twice");
    finds("store b1[i0]", "store b1[i1]", "i1, which is not in scope");
    finds("v7 = load b0[v6]", "v7 = load b0[v8]", "v8, which is not in scope");
}

#[test]
fn dtypes() {
    finds("v4 = add v2, v3", "v4 = add v2, v1", "one dtype");
    finds("constant f32 0.0", "constant f16 0.0", "cannot be f16");
    finds("constant bool 1", "constant bool 2", "is no bool");
    finds("store b1[i0] v5 if v1", "store b1[i0] v5 if v0", "a guard is bool");
    finds("store b1[i0] v5", "store b1[i0] v6", "is i32");
    finds("v0 -> v4, v5", "v0 -> v1, v5", "its successor v1 is bool");
    finds("load b0[v6]", "load b0[v5]", "i32 or i64, not f32");
    finds("v7 = load b0[v6]", "v7 = bitcast f64 v6", "are not those of");
}

#[test]
fn bounds() {
    finds("load b0[8*i0 + i1]", "load b0[8*i0 + i1 + 1*i0]", "canonical order");
    finds("load b0[8*i0 + i1]", "load b0[1 + 8*i0 + i1]", "reaches 1..=64");
    finds("load b0[8*i0 + i1]", "load b0[8*i0 + -1*i1]", "reaches -7..=56");
    finds("store s0[i1]", "store s0[2*i1]", "reaches 0..=14");
}

#[test]
fn lanes() {
    finds("lanes 8", "lanes 6", "no power of two");
    finds("range i0: 8", "range i0: 8 lanes 4", "is inside that over i0");
    finds(" by add", "", "without a combiner");
    finds("by add", "by sub", "does not combine");
    finds("store s0[i1] v4", "store s0[0] v4", "goes to one place");
}
