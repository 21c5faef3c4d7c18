//! Threefry-2x32-20 as kernel expressions: the same bits as `thalweg_base::random`.

use thalweg_base::random::{PARITY, ROTATIONS, ROUNDS};
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_kernel::{KernelBuilder, ValueId};

fn rotate_left(b: &mut KernelBuilder, x: ValueId, by: u32) -> ValueId {
    let (left, right) = (b.i32(by as i32), b.i32(32 - by as i32));
    let high = b.apply(PointwiseFn::ShiftLeft, &[x, left]);
    let low = b.apply(PointwiseFn::ShiftRight, &[x, right]);
    b.apply(PointwiseFn::Or, &[high, low])
}

/// Two random words for a key and the counter `[counter, 0]`, all `i32` values with the bits of `u32`.
fn threefry(b: &mut KernelBuilder, key: [ValueId; 2], counter: ValueId) -> [ValueId; 2] {
    let parity = b.i32(PARITY as i32);
    let mixed = b.apply(PointwiseFn::Xor, &[key[0], key[1]]);
    let schedule = [key[0], key[1], b.apply(PointwiseFn::Xor, &[mixed, parity])];
    let mut x = [b.apply(PointwiseFn::Add, &[counter, key[0]]), key[1]];
    for round in 0..ROUNDS {
        x[0] = b.apply(PointwiseFn::Add, &[x[0], x[1]]);
        let rotated = rotate_left(b, x[1], ROTATIONS[round % 8]);
        x[1] = b.apply(PointwiseFn::Xor, &[rotated, x[0]]);
        if round % 4 == 3 {
            let step = round / 4 + 1;
            let number = b.i32(step as i32);
            let second = b.apply(PointwiseFn::Add, &[schedule[(step + 1) % 3], number]);
            x[0] = b.apply(PointwiseFn::Add, &[x[0], schedule[step % 3]]);
            x[1] = b.apply(PointwiseFn::Add, &[x[1], second]);
        }
    }
    x
}

/// The upper 24 bits of a word as a multiple of 2^-24.
fn unit(b: &mut KernelBuilder, word: ValueId) -> ValueId {
    let eight = b.i32(8);
    let bits = b.apply(PointwiseFn::ShiftRight, &[word, eight]);
    let value = b.convert(DType::F32, bits);
    let scale = b.constant(DType::F32, Scalar::Float(2f64.powi(-24)));
    b.apply(PointwiseFn::Mul, &[value, scale])
}

/// A uniform value in [0, 1).
pub(crate) fn uniform(b: &mut KernelBuilder, key: [ValueId; 2], counter: ValueId) -> ValueId {
    let words = threefry(b, key, counter);
    unit(b, words[0])
}

/// A standard normal value: `sqrt(-2 ln u) cos(2 pi v)`.
pub(crate) fn normal(b: &mut KernelBuilder, key: [ValueId; 2], counter: ValueId) -> ValueId {
    let words = threefry(b, key, counter);
    let tiny = b.constant(DType::F32, Scalar::Float(2f64.powi(-24)));
    let below = unit(b, words[0]);
    let u = b.apply(PointwiseFn::Add, &[below, tiny]);
    let log = b.apply(PointwiseFn::Log, &[u]);
    let minus_two = b.f32(-2.0);
    let square = b.apply(PointwiseFn::Mul, &[minus_two, log]);
    let radius = b.apply(PointwiseFn::Sqrt, &[square]);
    let v = unit(b, words[1]);
    let turn = b.constant(DType::F32, Scalar::Float(std::f64::consts::TAU));
    let angle = b.apply(PointwiseFn::Mul, &[turn, v]);
    let cosine = b.apply(PointwiseFn::Cos, &[angle]);
    b.apply(PointwiseFn::Mul, &[radius, cosine])
}
