//! Random numbers inside kernels: the generator and the conversions of [`thalweg_base::random`] as kernel values.

use crate::builder::KernelBuilder;
use crate::ir::ValueId;
use thalweg_base::random::{PARITY, ROTATIONS, ROUNDS};
use thalweg_base::{DType, PointwiseFn as F};

impl KernelBuilder {
    /// Threefry-2x32-20 on `i32` values that hold the 32-bit words: the words of
    /// [`threefry2x32`](thalweg_base::random::threefry2x32), bit by bit.
    pub fn threefry(&mut self, key: [ValueId; 2], counter: [ValueId; 2]) -> [ValueId; 2] {
        let parity = self.i32(PARITY as i32);
        let mixed = self.apply(F::Xor, &[key[0], key[1]]);
        let schedule = [key[0], key[1], self.apply(F::Xor, &[mixed, parity])];
        let mut x = [0, 1].map(|word| self.apply(F::Add, &[counter[word], key[word]]));
        for round in 0..ROUNDS {
            x[0] = self.apply(F::Add, &[x[0], x[1]]);
            let turned = self.rotate_left(x[1], ROTATIONS[round % 8]);
            x[1] = self.apply(F::Xor, &[turned, x[0]]);
            if round % 4 == 3 {
                let step = round / 4 + 1;
                x[0] = self.apply(F::Add, &[x[0], schedule[step % 3]]);
                x[1] = self.apply(F::Add, &[x[1], schedule[(step + 1) % 3]]);
                let step = self.i32(step as i32);
                x[1] = self.apply(F::Add, &[x[1], step]);
            }
        }
        x
    }

    fn rotate_left(&mut self, x: ValueId, distance: u32) -> ValueId {
        let (left, right) = (self.i32(distance as i32), self.i32(32 - distance as i32));
        let high = self.apply(F::ShiftLeft, &[x, left]);
        let low = self.apply(F::ShiftRight, &[x, right]);
        self.apply(F::Or, &[high, low])
    }

    /// An `f32` in [0, 1) from a word: exactly [`uniform`](thalweg_base::random::uniform).
    pub fn uniform(&mut self, word: ValueId) -> ValueId {
        let eight = self.i32(8);
        let upper = self.apply(F::ShiftRight, &[word, eight]);
        let number = self.convert(DType::F32, upper);
        let scale = self.f32(2f32.powi(-24));
        self.apply(F::Mul, &[number, scale])
    }

    /// A standard normal `f32` from two words: [`normal`](thalweg_base::random::normal) to a few units in the last place.
    ///
    /// `cos(2 pi v)` is taken as `sin(2 pi t)` with t in [-1/4, 1/4], which is exact, so that results near 0 are as
    /// accurate as others.
    pub fn normal(&mut self, words: [ValueId; 2]) -> ValueId {
        let lower = self.uniform(words[0]);
        let step = self.f32(2f32.powi(-24));
        let u = self.apply(F::Add, &[lower, step]);
        let v = self.uniform(words[1]);
        let log = self.apply(F::Log, &[u]);
        let minus_two = self.f32(-2.0);
        let square = self.apply(F::Mul, &[log, minus_two]);
        let radius = self.apply(F::Sqrt, &[square]);

        let quarter = self.f32(0.25);
        let t = self.apply(F::Sub, &[quarter, v]);
        let (below, half) = (self.f32(-0.25), self.f32(-0.5));
        let mirrored = self.apply(F::Sub, &[half, t]);
        let is_below = self.apply(F::Lt, &[t, below]);
        let t = self.apply(F::Select, &[is_below, mirrored, t]);
        let turn = self.f32(std::f32::consts::TAU);
        let angle = self.apply(F::Mul, &[t, turn]);
        let sine = self.apply(F::Sin, &[angle]);
        self.apply(F::Mul, &[radius, sine])
    }
}
