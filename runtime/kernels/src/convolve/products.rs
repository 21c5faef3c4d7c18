//! Which products the three directions of a convolution are.

use super::direct::{self, Planes, Weights};
use super::gather::{Place, Side};
use super::spread::Around;
use super::{Convolution, Direction, Gather, Padded, Window, winograd};
use crate::blocked::{Parts, Product, Right};
use crate::contract::{Axis, Contraction};
use crate::isa::Isa;
use crate::offsets::Offsets;
use crate::pack::Strided;

/// The row-major indices of three extents.
fn indices(extents: [usize; 3]) -> impl Iterator<Item = [i32; 3]> {
    let [d, h, w] = extents.map(|extent| i32::try_from(extent).expect("a spatial extent below 2^31"));
    (0..d).flat_map(move |z| (0..h).flat_map(move |y| (0..w).map(move |x| [z, y, x])))
}

/// A side whose places are `outer` matrices, `distance` elements apart, times the positions.
fn side(outer: usize, distance: usize, positions: &[[i32; 3]], run: usize, rise: i32) -> Side {
    let matrix =
        |i: usize| positions.iter().map(move |&position| Place { offset: (i * distance) as isize, position });
    Side { places: (0..outer).flat_map(matrix).collect(), run: run.max(1), rise }
}

fn int(extents: [usize; 3]) -> [i32; 3] {
    extents.map(|extent| extent as i32)
}

fn strides(extents: [usize; 3]) -> [isize; 3] {
    [(extents[1] * extents[2]) as isize, extents[2] as isize, 1]
}

fn times(index: [i32; 3], step: [i32; 3]) -> [i32; 3] {
    std::array::from_fn(|axis| index[axis] * step[axis])
}

fn signed(extent: usize, stride: usize) -> (usize, isize) {
    (extent, stride as isize)
}

/// Planes below this many elements waste much of their last tile, so those of a whole batch are put side by side.
const SMALL_PLANE: usize = 512;

/// Cycles to gather and pack a vector, against one for each row that is multiplied with it.
const GATHER_COST: f64 = 10.0;
/// Elements of the largest padded copy of a source.
const PADDED_LIMIT: usize = 64 << 20;

/// Channels of the result from which the blocked form is used: fewer would leave most of a vector empty.
const BLOCKED_CHANNELS: usize = 12;

/// The positions of x with one remainder of division by the strides, which all meet the same taps.
struct Phase {
    /// How many there are along each axis.
    extent: [usize; 3],
    /// For each tap that is met, the share in the position of y, and its number.
    back: Vec<[i32; 3]>,
    met: Vec<usize>,
    /// Where the first of them lies in x.
    start: isize,
}

/// Whether to compute the columns that padding adds rather than to gather: `rows` rows of the left operand, `planes` result
/// planes of `size` elements as columns of one product.
fn pays(padded: &Padded, matrices: usize, rows: usize, (planes, size): (usize, usize)) -> bool {
    let vectors = |columns: usize| columns.next_multiple_of(32) as f64;
    let in_place = vectors(padded.columns()) * planes as f64 * rows as f64;
    let gathered = vectors(planes * size) * (rows as f64 + GATHER_COST);
    in_place < gathered && padded.elements() * matrices <= PADDED_LIMIT
}

impl Convolution {
    /// Elements of one plane of the result, where the planes of the batch are to be the columns of one product.
    pub(super) fn merged(&self) -> Option<usize> {
        let (x_size, y_size, _) = self.sizes();
        let plane = match self.direction {
            Direction::Forward => y_size,
            Direction::InputGradient => x_size,
            Direction::WeightGradient => return None,
        };
        let strided =
            self.direction == Direction::InputGradient && self.stride.iter().any(|&stride| stride > 1);
        let useful = plane % 32 != 0 && (1..SMALL_PLANE).contains(&plane);
        let depthwise = self.in_channels == 1 && self.out_channels == 1;
        (self.groups == 1 && self.batch > 1 && useful && !strided && !depthwise).then_some(plane)
    }

    /// The contraction that a pointwise convolution is.
    pub(super) fn contraction(&self) -> Contraction {
        let axis = |extent: usize, stride_a: usize, stride_b: usize, stride_c: usize| Axis {
            extent,
            stride_a: stride_a as isize,
            stride_b: stride_b as isize,
            stride_c: stride_c as isize,
        };
        let (size, _, _) = self.sizes();
        let (ci, co, groups) = (self.in_channels, self.out_channels, self.groups);
        let (batch, m, n, k) = match self.direction {
            Direction::Forward => (
                vec![
                    axis(self.batch, 0, groups * ci * size, groups * co * size),
                    axis(groups, co * ci, ci * size, co * size),
                ],
                axis(co, ci, 0, size),
                axis(size, 0, 1, 1),
                vec![axis(ci, 1, size, 0)],
            ),
            Direction::InputGradient => (
                vec![
                    axis(self.batch, 0, groups * co * size, groups * ci * size),
                    axis(groups, co * ci, co * size, ci * size),
                ],
                axis(ci, 1, 0, size),
                axis(size, 0, 1, 1),
                vec![axis(co, ci, size, 0)],
            ),
            Direction::WeightGradient => (
                vec![axis(groups, co * size, ci * size, co * ci)],
                axis(co, size, 0, ci),
                axis(ci, 0, size, 1),
                vec![axis(self.batch, groups * co * size, groups * ci * size, 0), axis(size, 1, 1, 0)],
            ),
        };
        Contraction { batch, m: vec![m], n: vec![n], k, dtype: self.dtype, operands: None }
    }

    /// Whether the blocked form fits: one that vectorizes the channels of the result.
    pub(super) fn suits_blocks(&self) -> bool {
        let channels = match self.direction {
            Direction::Forward | Direction::WeightGradient => self.out_channels,
            Direction::InputGradient => self.in_channels,
        };
        self.dtype.compute_is_f32() && channels >= BLOCKED_CHANNELS
    }

    /// Whether the positions of a pointwise convolution's plane fill vectors of sixteen well enough for the product over
    /// planes as they are, which has nothing to copy. Measured at one thread of AVX-512, against the blocked form: planes of
    /// 56 x 56 and 28 x 28 gain 7 to 20 %, those of 14 x 14 lose 2 to 4 %, those of 7 x 7 24 to 30 %.
    /// The gradient of the weights sums over positions, and has channels in its vectors either way.
    pub(super) fn fills_vectors(&self) -> bool {
        let (size, _, _) = self.sizes();
        self.direction == Direction::WeightGradient || size * 25 >= size.next_multiple_of(16) * 24
    }

    /// y in blocks.
    fn forward_parts(&self, window: &Window, isa: Isa, threads: usize) -> direct::Parts {
        let (_, y_size, taps) = self.sizes();
        let (ci, co) = (self.in_channels, self.out_channels);
        direct::Parts {
            isa,
            threads,
            dtype: self.dtype,
            batch: self.batch,
            groups: self.groups,
            channels: ci,
            source: window.input,
            result: window.output,
            step: window.stride,
            taps: Self::tap_positions(window),
            weights: Weights {
                group: co * ci * taps,
                row: ci * taps,
                channel: taps,
                taps: (0..taps).collect(),
            },
            planes: Planes {
                image: co * y_size,
                channels: co,
                channel: y_size,
                positions: Offsets::even(y_size, 1),
                around: None,
            },
        }
    }

    /// x in blocks: a part for each remainder of positions divided by the strides, and where it begins.
    fn input_gradient_parts(&self, window: &Window, isa: Isa, threads: usize) -> Vec<(isize, direct::Parts)> {
        let (x_size, _, taps) = self.sizes();
        let (ci, co) = (self.in_channels, self.out_channels);
        let x_strides = strides(window.input);
        let mut phases = self.phases(window);
        // Where but the first remainder meets a tap, its part writes the zeros around it too.
        let alone = phases.iter().all(|phase| phase.met.is_empty() != (phase.start == 0));
        if alone {
            phases.retain(|phase| phase.start == 0);
        }
        let part = |phase: Phase| {
            let spaced = |axis: usize| (phase.extent[axis], x_strides[axis] * window.stride[axis] as isize);
            let around = alone.then(|| Around {
                plane: window.input,
                positions: phase.extent,
                step: window.stride.map(|stride| stride as usize),
            });
            let parts = direct::Parts {
                isa,
                threads,
                dtype: self.dtype,
                batch: self.batch,
                groups: self.groups,
                channels: co,
                source: window.output,
                result: phase.extent,
                step: [1; 3],
                taps: phase.back,
                weights: Weights {
                    group: co * ci * taps,
                    row: taps,
                    channel: ci * taps,
                    taps: phase.met.into(),
                },
                planes: Planes {
                    image: ci * x_size,
                    channels: ci,
                    channel: x_size,
                    positions: Offsets::new([spaced(0), spaced(1), spaced(2)]),
                    around: around.filter(|_| window.stride != [1; 3]),
                },
            };
            (phase.start, parts)
        };
        phases.into_iter().map(part).collect()
    }

    /// The parts of the blocked form, and where each begins in the result.
    pub(super) fn blocked_parts(
        &self,
        window: &Window,
        isa: Isa,
        threads: usize,
    ) -> Vec<(isize, direct::Parts)> {
        match self.direction {
            Direction::Forward => vec![(0, self.forward_parts(window, isa, threads))],
            Direction::InputGradient => self.input_gradient_parts(window, isa, threads),
            Direction::WeightGradient => panic!("the gradient of the weights has no blocked form"),
        }
    }

    /// What Winograd's algorithm needs to know, if it can compute this.
    pub(super) fn transformed(&self, window: &Window, isa: Isa, threads: usize) -> Option<direct::Parts> {
        let possible = self.dtype.compute_is_f32()
            && self.direction != Direction::WeightGradient
            && self.kernel.iter().product::<usize>() == 9;
        let mut parts = if possible { self.blocked_parts(window, isa, threads) } else { vec![] };
        let (_, only) = parts.pop().filter(|_| parts.is_empty())?;
        winograd::fits(&only).then_some(only)
    }

    /// The remainders of positions of x divided by the strides that there are.
    fn phases(&self, window: &Window) -> Vec<Phase> {
        let all = Self::tap_positions(window);
        let x_strides = strides(window.input);
        let phase = |remainder: [i32; 3]| {
            // Position i of x is q * stride + remainder and meets tap t at position (i - tap) / stride of y.
            let extent: [usize; 3] = std::array::from_fn(|axis| {
                let (size, step) = (window.input[axis], window.stride[axis] as usize);
                (size + step - 1 - (remainder[axis] as usize).min(size + step - 1)) / step
            });
            let (mut back, mut met) = (Vec::new(), Vec::new());
            for (tap, position) in all.iter().enumerate() {
                let distance: [i32; 3] = std::array::from_fn(|axis| remainder[axis] - position[axis]);
                if (0..3).all(|axis| distance[axis] % window.stride[axis] == 0) {
                    back.push(std::array::from_fn(|axis| distance[axis] / window.stride[axis]));
                    met.push(tap);
                }
            }
            let start = (0..3).map(|axis| remainder[axis] as isize * x_strides[axis]).sum();
            Phase { extent, back, met, start }
        };
        let remainders = indices(window.stride.map(|stride| stride as usize));
        remainders.map(phase).filter(|phase| phase.extent.iter().all(|&extent| extent > 0)).collect()
    }

    /// A tap's share in the position of x, padding included.
    pub(super) fn tap_positions(window: &Window) -> Vec<[i32; 3]> {
        let position =
            |tap: [i32; 3]| std::array::from_fn(|axis| tap[axis] * window.dilation[axis] - window.pad[axis]);
        indices(window.kernel).map(position).collect()
    }

    /// y from the weights and the gathered x.
    pub(super) fn forward(&self, window: Window, isa: Isa, threads: usize) -> Product {
        let (x_size, y_size, taps) = self.sizes();
        let (ci, co, groups) = (self.in_channels, self.out_channels, self.groups);
        let (x_batch, y_batch) = (groups * ci * x_size, groups * co * y_size);
        let y_positions: Vec<[i32; 3]> = indices(window.output).map(|p| times(p, window.stride)).collect();
        let taps_at = Self::tap_positions(&window);
        let padded = Padded::new(ci, window.input, window.output, window.stride, &taps_at);
        let beside = if self.merged().is_some() { self.batch } else { 1 };
        let padded = Some(padded).filter(|padded| pays(padded, self.batch * groups, co, (beside, y_size)));
        let merged = if padded.is_some() { None } else { self.merged() };
        let (batch, beside) = if merged.is_some() { (1, self.batch) } else { (self.batch, 1) };
        Product::new(Parts {
            isa,
            threads,
            dtype: self.dtype,
            left: Strided {
                wide: Offsets::even(co, (ci * taps) as isize),
                deep: Offsets::even(ci * taps, 1),
            },
            left_batch: Offsets::new([signed(batch, 0), signed(groups, co * ci * taps)]),
            right: padded.map(Right::Padded).unwrap_or_else(|| {
                Right::Gather(Gather {
                    wide: side(beside, x_batch, &y_positions, window.output[2], window.stride[2]),
                    deep: side(ci, x_size, &taps_at, 1, 0),
                    extent: int(window.input),
                    stride: strides(window.input),
                    total: self.batch * x_batch,
                    wide_runs: true,
                })
            }),
            right_batch: Offsets::new([signed(batch, x_batch), signed(groups, ci * x_size)]),
            c_batch: Offsets::new([signed(batch, y_batch), signed(groups, co * y_size)]),
            c_rows: Offsets::even(co, y_size as isize),
            c_columns: Offsets::new([signed(beside, y_batch), signed(y_size, 1)]),
            swapped: false,
            merged,
        })
    }

    /// x from the weights and the gathered y: one product for each remainder of positions divided by the strides, since each of
    /// them meets its own taps; and where the remainder's first position lies.
    pub(super) fn input_gradient(&self, window: Window, isa: Isa, threads: usize) -> Vec<(isize, Product)> {
        let (x_size, y_size, taps) = self.sizes();
        let (ci, co, groups) = (self.in_channels, self.out_channels, self.groups);
        let (x_batch, y_batch) = (groups * ci * x_size, groups * co * y_size);
        let x_strides = strides(window.input);
        let product = |phase: Phase| {
            let Phase { extent, back, met, start } = phase;
            let deep = if met.len() == taps {
                Offsets::new([signed(co, ci * taps), signed(taps, 1)])
            } else {
                let offset = |o: usize| met.iter().map(move |tap| (o * ci * taps + tap) as isize);
                Offsets::listed((0..co).flat_map(offset).collect())
            };
            let positions: Vec<[i32; 3]> = indices(extent).collect();
            let beside = if self.merged().is_some() { self.batch } else { 1 };
            let padded = Padded::new(co, window.output, extent, [1; 3], &back);
            let padded = Some(padded)
                .filter(|padded| pays(padded, self.batch * groups, ci, (beside, positions.len())));
            let merged = if padded.is_some() { None } else { self.merged() };
            let (batch, beside) = if merged.is_some() { (1, self.batch) } else { (self.batch, 1) };
            let spaced = |axis: usize| (extent[axis], x_strides[axis] * window.stride[axis] as isize);
            let product = Product::new(Parts {
                isa,
                threads,
                dtype: self.dtype,
                left: Strided { wide: Offsets::even(ci, taps as isize), deep },
                left_batch: Offsets::new([signed(batch, 0), signed(groups, co * ci * taps)]),
                right: padded.map(Right::Padded).unwrap_or_else(|| {
                    Right::Gather(Gather {
                        wide: side(beside, y_batch, &positions, extent[2], 1),
                        deep: side(co, y_size, &back, 1, 0),
                        extent: int(window.output),
                        stride: strides(window.output),
                        total: self.batch * y_batch,
                        wide_runs: true,
                    })
                }),
                right_batch: Offsets::new([signed(batch, y_batch), signed(groups, co * y_size)]),
                c_batch: Offsets::new([signed(batch, x_batch), signed(groups, ci * x_size)]),
                c_rows: Offsets::even(ci, x_size as isize),
                c_columns: Offsets::new([signed(beside, x_batch), spaced(0), spaced(1), spaced(2)]),
                swapped: false,
                merged,
            });
            (start, product)
        };
        self.phases(&window).into_iter().map(product).collect()
    }

    /// w from y and the gathered x.
    pub(super) fn weight_gradient(&self, window: Window, isa: Isa, threads: usize) -> Product {
        let (x_size, y_size, taps) = self.sizes();
        let (ci, co, groups) = (self.in_channels, self.out_channels, self.groups);
        let (x_batch, y_batch) = (groups * ci * x_size, groups * co * y_size);
        let y_positions: Vec<[i32; 3]> = indices(window.output).map(|p| times(p, window.stride)).collect();
        Product::new(Parts {
            isa,
            threads,
            dtype: self.dtype,
            left: Strided {
                wide: Offsets::even(co, y_size as isize),
                deep: Offsets::new([signed(self.batch, y_batch), signed(y_size, 1)]),
            },
            left_batch: Offsets::new([signed(groups, co * y_size)]),
            right: Right::Gather(Gather {
                wide: side(ci, x_size, &Self::tap_positions(&window), 1, 0),
                deep: side(self.batch, x_batch, &y_positions, window.output[2], window.stride[2]),
                extent: int(window.input),
                stride: strides(window.input),
                total: self.batch * x_batch,
                wide_runs: false,
            }),
            right_batch: Offsets::new([signed(groups, ci * x_size)]),
            c_batch: Offsets::new([signed(groups, co * ci * taps)]),
            c_rows: Offsets::even(co, (ci * taps) as isize),
            c_columns: Offsets::even(ci * taps, 1),
            swapped: false,
            merged: None,
        })
    }
}
