//! Which products the three directions of a convolution are.

use super::gather::{Place, Side};
use super::{Convolution, Direction, Gather, Padded, Window};
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
        Contraction { batch, m: vec![m], n: vec![n], k, dtype: self.dtype }
    }

    /// A tap's share in the position of x, padding included.
    fn tap_positions(window: &Window) -> Vec<[i32; 3]> {
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
        let all = Self::tap_positions(&window);
        let remainders = indices(window.stride.map(|stride| stride as usize));
        let product = |remainder: [i32; 3]| {
            // Position i of x is q * stride + remainder and meets tap t at position (i - tap) / stride of y.
            let extent: [usize; 3] = std::array::from_fn(|axis| {
                let (size, step) = (window.input[axis], window.stride[axis] as usize);
                (size + step - 1 - (remainder[axis] as usize).min(size + step - 1)) / step
            });
            let mut back = Vec::new();
            let mut met = Vec::new();
            for (tap, position) in all.iter().enumerate() {
                let distance: [i32; 3] = std::array::from_fn(|axis| remainder[axis] - position[axis]);
                if (0..3).all(|axis| distance[axis] % window.stride[axis] == 0) {
                    back.push(std::array::from_fn(|axis| distance[axis] / window.stride[axis]));
                    met.push(tap);
                }
            }
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
            let start = (0..3).map(|axis| remainder[axis] as isize * x_strides[axis]).sum();
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
        remainders.map(product).filter(|(_, product)| product.n > 0).collect()
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
