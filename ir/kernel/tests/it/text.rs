//! The text form reads back, and says where it does not.

use thalweg_base::DType;
use thalweg_kernel::text::{parse, print};
use thalweg_kernel::verify::verify;

/// Every construct once.
const EVERYTHING: &str = r#"kernel "every \"thing\"" {
  buffer b0: f16[640] read
  buffer b1: i64[64] read
  buffer b2: f32[64] read_write
  buffer b3: bool[64] write
  scratch s0: bf16[16]
  range i0: 4
  range i1: 8 lanes 8
  v0 = constant f32 -0.0
  v1 = constant f64 inf
  v2 = constant i32 -3
  v3 = constant bool 1
  v4 = index i32 [-5 + 8*i0 + -1*i1]
  v5 = load b0[0]
  v6 = load b1[8*i0 + i1]
  v7 = load b0[7 + i0 + v6] if v3 else -1.5
  v8 = mul_add v5, v7, v0
  v9 = convert i8 v8
  v10 = bitcast i32 v8
  store s0[2*i1] v8
  loop i2: 16 carry (v11: v0 -> v14, v15 by add; v12: v2 -> v12, v16) {
    v13 = load s0[i2]
    v14 = add v11, v13
    store b3[8*i0 + i1] v3 if v3
  }
  store b2[8*i0 + i1] v15
  v17 = exp v15
}
"#;

#[test]
fn everything_reads_back() {
    let kernel = parse(EVERYTHING).unwrap();
    assert_eq!(verify(&kernel), Ok(()));
    assert_eq!(print(&kernel), EVERYTHING);
    let ron = ron::to_string(&kernel).unwrap();
    assert_eq!(ron::from_str::<thalweg_kernel::Kernel>(&ron).unwrap(), kernel);
    assert_eq!(thalweg_kernel::analysis::dtypes(&kernel).get(thalweg_kernel::ValueId(9)), Some(&DType::I32));
}

#[test]
fn errors_say_what() {
    let check = |from: &str, to: &str, reason: &str| {
        let error = parse(&EVERYTHING.replacen(from, to, 1)).unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
    };
    check("f16[640]", "f17[640]", "no dtype `f17`");
    check("buffer b1", "buffer b5", "`b5` where `b1` comes next");
    check("mul_add v5", "mul_sub v5", "no function `mul_sub`");
    check("load s0", "load s4", "no `s4`");
    check("= exp v15\n}", "= exp v15", "ends early");
    check("constant i32 -3", "constant i32 -3.5", "`-3.5` is not the number");
    check("\"every \\\"thing\\\"\"", "every", "quoted");
}
