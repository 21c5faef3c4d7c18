//! The transforms: of weights once for many runs, of tiles of the source and of the result on their way.
//!
//! With s = sqrt 2 and d a row or column of a tile, the transforms along one axis are
//!
//! | source | weights | result |
//! |---|---|---|
//! | d0 - 5/2 d2 + d4 | g0 | m0 + m1 + m2 + m3 + m4 |
//! | (d4 - 2 d2) +- (s/2 d3 - s d1) | -2/3 g0 -+ s/3 g1 - 1/3 g2 | s/2 (m1 - m2) + s (m3 - m4) |
//! | (d4 - 1/2 d2) +- (s d3 - s/2 d1) | 1/6 g0 +- s/6 g1 + 1/3 g2 | 1/2 (m1 + m2) + 2 (m3 + m4) |
//! | d1 - 5/2 d3 + d5 | g2 | s/4 (m1 - m2) + 2 s (m3 - m4) + m5 |
//!
//! each of the middle rows standing for two, with the upper and the lower sign.

use std::f32::consts::SQRT_2;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::direct::Weights;
use super::super::grid::BLOCK;
use super::{FROM, TO};
use crate::element::Storage;
use crate::isa::Work;
use crate::simd::Vector;
use crate::tile::prefetch_l2;

/// Evaluates an expression with a type bound to the widest vector of floats of an instruction set.
macro_rules! with_vector {
    ($isa:expr, $v:ident => $body:expr) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Isa::Avx512Bf16 | $crate::isa::Isa::Avx512Vnni | $crate::isa::Isa::Avx512 => {
                type $v = $crate::simd::x86::F32x16;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Isa::Avx2 => {
                type $v = $crate::simd::x86::F32x8;
                $body
            }
            _ => {
                type $v = $crate::simd::Lanes<f32, 4>;
                $body
            }
        }
    };
}
pub(super) use with_vector;

/// Transforms the weights between some source channels and a chunk of result channels, to `to[point * step + channel * width + row]`.
pub(super) struct PackChunk<'a, S, V> {
    /// The weights of the chunk's first row.
    pub from: *const S,
    pub weights: &'a Weights,
    pub channels: Range<usize>,
    /// Rows that there are, and rows with those that are filled up with zeros.
    pub rows: usize,
    pub width: usize,
    pub to: *mut f32,
    pub step: usize,
    pub vector: PhantomData<V>,
}

/// The widest chunk.
const WIDEST: usize = 32;
/// Channels by which w is asked for ahead.
const AHEAD: usize = 4;

impl<S: Storage<Compute = f32>, V: Vector<T = f32>> Work for PackChunk<'_, S, V> {
    /// # Safety
    /// `from` has the weights of the rows and channels, `to` room for the chunk.
    #[inline(always)]
    unsafe fn go(self) {
        let Weights { row, channel, taps, .. } = self.weights;
        for at in self.channels.clone() {
            // The nine weights as they lie, then by tap.
            let mut lying = [[0.0_f32; WIDEST]; 9];
            let fours = self.rows / 4 * 4;
            for lane in (0..fours).step_by(4) {
                // SAFETY: nine weights lie from each of these places on; four lanes fit behind each other.
                unsafe {
                    let from = self.from.add(lane * row + at * channel);
                    let rows: [*const S; 4] = std::array::from_fn(|i| from.add(i * row));
                    for first in [0, 4] {
                        let to = lying.as_mut_ptr().cast::<f32>().add(first * WIDEST + lane);
                        S::transpose4(rows.map(|row| row.add(first)), to, WIDEST);
                    }
                    for (i, row) in rows.iter().enumerate() {
                        lying[8][lane + i] = (*row.add(8)).widen();
                        prefetch_l2(row.wrapping_add(AHEAD * channel).cast());
                    }
                }
            }
            for lane in fours..self.rows {
                for (tap, weights) in lying.iter_mut().enumerate() {
                    // SAFETY: the weight is one of w.
                    weights[lane] = unsafe { (*self.from.add(lane * row + at * channel + tap)).widen() };
                }
            }
            let taken: [&[f32; WIDEST]; 9] = std::array::from_fn(|tap| &lying[taps[tap]]);
            for lane in (0..self.width).step_by(V::LANES) {
                // SAFETY: the lanes are those of the arrays, and the places lie within the chunk.
                unsafe {
                    let mut half = [[V::zero(); 3]; FROM];
                    for x in 0..3 {
                        let column = std::array::from_fn(|y| V::load(taken[3 * y + x].as_ptr().add(lane)));
                        let made = weights(column);
                        for i in 0..FROM {
                            half[i][x] = made[i];
                        }
                    }
                    for i in 0..FROM {
                        let made = weights(half[i]);
                        for (j, made) in made.iter().enumerate() {
                            made.store(self.to.add((i * FROM + j) * self.step + at * self.width + lane));
                        }
                    }
                }
            }
        }
    }
}

/// The transform of three weights along one axis.
#[inline(always)]
unsafe fn weights<V: Vector<T = f32>>(g: [V; 3]) -> [V; FROM] {
    // SAFETY: passed on to the caller, who has the instruction set.
    unsafe {
        let scaled = |by: f32, value: V| splat::<V>(by).mul_add(value, V::zero());
        let one = splat::<V>(-1.0);
        let outer = splat::<V>(-2.0 / 3.0).mul_add(g[0], scaled(-1.0 / 3.0, g[2]));
        let inner = scaled(SQRT_2 / 3.0, g[1]);
        let far = splat::<V>(1.0 / 6.0).mul_add(g[0], scaled(1.0 / 3.0, g[2]));
        let near = scaled(SQRT_2 / 6.0, g[1]);
        [g[0], one.mul_add(inner, outer), outer.add(inner), far.add(near), one.mul_add(near, far), g[2]]
    }
}

/// Transforms a row of tiles of one block of channels: the part of point p of tile t is at `to[p * step + t * BLOCK]`.
pub(super) struct TransformInput<V> {
    from: *const f32,
    /// Elements of a row of the source.
    pitch: usize,
    tiles: usize,
    to: *mut f32,
    step: usize,
    vector: PhantomData<V>,
}

impl<V> TransformInput<V> {
    pub(super) fn new(from: *const f32, pitch: usize, tiles: usize, to: *mut f32, step: usize) -> Self {
        TransformInput { from, pitch, tiles, to, step, vector: PhantomData }
    }
}

impl<V: Vector<T = f32>> Work for TransformInput<V> {
    /// # Safety
    /// `from` has six rows of `pitch` elements, `to` room for every point of every tile.
    #[inline(always)]
    unsafe fn go(self) {
        // SAFETY: passed on to the caller.
        unsafe {
            for tile in 0..self.tiles {
                for lane in (0..BLOCK).step_by(V::LANES) {
                    let from = self.from.add(tile * TO * BLOCK + lane);
                    let to = self.to.add(tile * BLOCK + lane);
                    let mut half = [[V::zero(); FROM]; FROM];
                    for x in 0..FROM {
                        let column = std::array::from_fn(|y| V::load(from.add(y * self.pitch + x * BLOCK)));
                        let made = source(column);
                        for i in 0..FROM {
                            half[i][x] = made[i];
                        }
                    }
                    for i in 0..FROM {
                        let made = source(half[i]);
                        for j in 0..FROM {
                            made[j].store(to.add((i * FROM + j) * self.step));
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn splat<V: Vector<T = f32>>(value: f32) -> V {
    // SAFETY: passed on to the caller, who has the instruction set; one element is there.
    unsafe { V::splat(&value) }
}

/// The transform of six elements of the source along one axis.
#[inline(always)]
unsafe fn source<V: Vector<T = f32>>(d: [V; FROM]) -> [V; FROM] {
    // SAFETY: passed on to the caller, who has the instruction set.
    unsafe {
        let (one, root, half) = (splat::<V>(-1.0), splat::<V>(SQRT_2), splat::<V>(SQRT_2 / 2.0));
        let (minus_root, minus_half) = (splat::<V>(-SQRT_2), splat::<V>(-SQRT_2 / 2.0));
        let middle = splat::<V>(-2.5);
        let near = splat::<V>(-2.0).mul_add(d[2], d[4]);
        let near_odd = half.mul_add(d[3], minus_root.mul_add(d[1], V::zero()));
        let far = splat::<V>(-0.5).mul_add(d[2], d[4]);
        let far_odd = root.mul_add(d[3], minus_half.mul_add(d[1], V::zero()));
        [
            middle.mul_add(d[2], d[0]).add(d[4]),
            near.add(near_odd),
            one.mul_add(near_odd, near),
            far.add(far_odd),
            one.mul_add(far_odd, far),
            middle.mul_add(d[3], d[1]).add(d[5]),
        ]
    }
}

/// Transforms the sums of a row of tiles back: result position (y, x) of the row is at `to[(y * tiles * 4 + x) * width]`.
pub(super) struct TransformOutput<V> {
    /// The sums of the first tile at point 0, and the distance to the next point.
    from: *const f32,
    step: usize,
    width: usize,
    tiles: usize,
    to: *mut f32,
    vector: PhantomData<V>,
}

impl<V> TransformOutput<V> {
    pub(super) fn new(from: *const f32, step: usize, width: usize, tiles: usize, to: *mut f32) -> Self {
        TransformOutput { from, step, width, tiles, to, vector: PhantomData }
    }
}

impl<V: Vector<T = f32>> Work for TransformOutput<V> {
    /// # Safety
    /// `from` has every point of every tile, `to` room for four rows of positions.
    #[inline(always)]
    unsafe fn go(self) {
        let pitch = self.tiles * TO * self.width;
        // SAFETY: passed on to the caller.
        unsafe {
            for tile in 0..self.tiles {
                for lane in (0..self.width).step_by(V::LANES) {
                    let from = self.from.add(tile * self.width + lane);
                    let to = self.to.add(tile * TO * self.width + lane);
                    let mut half = [[V::zero(); FROM]; TO];
                    for x in 0..FROM {
                        let column = std::array::from_fn(|y| V::load(from.add((y * FROM + x) * self.step)));
                        let made = result(column);
                        for i in 0..TO {
                            half[i][x] = made[i];
                        }
                    }
                    for i in 0..TO {
                        let made = result(half[i]);
                        for j in 0..TO {
                            made[j].store(to.add(i * pitch + j * self.width));
                        }
                    }
                }
            }
        }
    }
}

/// The transform of six sums along one axis to four results.
#[inline(always)]
unsafe fn result<V: Vector<T = f32>>(m: [V; FROM]) -> [V; TO] {
    // SAFETY: passed on to the caller, who has the instruction set.
    unsafe {
        let one = splat::<V>(-1.0);
        let (near, near_odd) = (m[1].add(m[2]), one.mul_add(m[2], m[1]));
        let (far, far_odd) = (m[3].add(m[4]), one.mul_add(m[4], m[3]));
        let scaled = |by: f32, value: V| splat::<V>(by).mul_add(value, V::zero());
        [
            m[0].add(near).add(far),
            splat::<V>(SQRT_2).mul_add(far_odd, scaled(SQRT_2 / 2.0, near_odd)),
            splat::<V>(2.0).mul_add(far, scaled(0.5, near)),
            splat::<V>(2.0 * SQRT_2).mul_add(far_odd, splat::<V>(SQRT_2 / 4.0).mul_add(near_odd, m[5])),
        ]
    }
}
