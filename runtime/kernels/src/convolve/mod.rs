//! Convolution and its two gradients, as products whose right operand is gathered while it is packed.
//!
//! All three come from one relation between the input x, the weights w and the output y:
//! `y[b, o, p] = sum over c and t of x[b, c, p * stride + t * dilation - pad_low] * w[o, c, t]`, positions outside of x being
//! zero. With x of shape `[batch, groups * in_channels, input..]`, w `[groups * out_channels, in_channels, kernel..]` and y
//! `[batch, groups * out_channels, output..]`, all contiguous row-major, group g takes the channels `g * in_channels ..` of x to
//! the channels `g * out_channels ..` of y.

mod depthwise;
mod gather;

use serde::{Deserialize, Serialize};

use crate::blocked::{Operand, Parts, Product, Right};
use crate::contract::{Axis, Contraction, Prepared};
use crate::element::DType;
use crate::epilogue::Epilogue;
use crate::isa::Isa;
use crate::offsets::Offsets;
use crate::pack::Strided;
use crate::pool::ThreadPool;
use depthwise::Depthwise;
pub(crate) use gather::{Gather, GatherPanel};
use gather::{Place, Side};

/// Which of the three tensors is computed from the other two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// y from x and w.
    Forward,
    /// The gradient of x from w and the gradient of y.
    InputGradient,
    /// The gradient of w from x and the gradient of y.
    WeightGradient,
}

/// A convolution over one to three spatial axes.
///
/// The operands of a run and the indices that its epilogue sees; the result is always row-major `[batch, m, n]` in them:
///
/// | direction | a | b | c | batch | m | n |
/// |---|---|---|---|---|---|---|
/// | `Forward` | x | w | y | batch * groups | out_channels | output, flattened |
/// | `InputGradient` | w | y | x | batch * groups | in_channels | input, flattened |
/// | `WeightGradient` | x | y | w | groups | out_channels | in_channels and kernel, flattened |
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Convolution {
    /// What is computed.
    pub direction: Direction,
    /// Independent inputs.
    pub batch: usize,
    /// Groups of channels that do not mix.
    pub groups: usize,
    /// Channels of x in one group.
    pub in_channels: usize,
    /// Channels of y in one group.
    pub out_channels: usize,
    /// Spatial extents of x.
    pub input: Vec<usize>,
    /// Spatial extents of w.
    pub kernel: Vec<usize>,
    /// Spatial extents of y; what they leave of the padded input is not read, what they reach beyond it is zero.
    pub output: Vec<usize>,
    /// Steps of the window, at least one.
    pub stride: Vec<usize>,
    /// Distances between the taps of the window, at least one.
    pub dilation: Vec<usize>,
    /// Zeros before the first element of each axis (those after the last follow from `output`); negative to cut off.
    pub pad_low: Vec<isize>,
    /// The element type of x, w and y.
    pub dtype: DType,
}

/// A convolution prepared for an instruction set and a number of threads.
#[derive(Clone, Debug)]
pub struct PreparedConvolution {
    form: Form,
    direction: Direction,
    flops: u64,
}

#[derive(Clone, Debug)]
enum Form {
    /// A window of one element: a contraction; its A is w, or the gradient of y.
    Contraction(Box<Prepared>),
    Gathered(Box<Product>),
    Depthwise(Box<Depthwise>),
}

/// Brings a list for one to three axes to three, filled up in front.
fn three<T: Copy, U>(values: &[T], fill: U, convert: impl Fn(T) -> U) -> [U; 3]
where
    U: Copy,
{
    let mut all = [fill; 3];
    for (to, &from) in all.iter_mut().rev().zip(values.iter().rev()) {
        *to = convert(from);
    }
    all
}

/// The row-major indices of three extents.
fn indices(extents: [usize; 3]) -> impl Iterator<Item = [i32; 3]> {
    let [d, h, w] = extents.map(|extent| i32::try_from(extent).expect("a spatial extent below 2^31"));
    (0..d).flat_map(move |z| (0..h).flat_map(move |y| (0..w).map(move |x| [z, y, x])))
}

/// The spatial description with always three axes.
#[derive(Clone, Copy, Debug)]
struct Window {
    input: [usize; 3],
    kernel: [usize; 3],
    output: [usize; 3],
    stride: [i32; 3],
    dilation: [i32; 3],
    pad: [i32; 3],
}

impl Convolution {
    /// Multiplications and additions, those with padding included.
    pub fn flops(&self) -> u64 {
        let extents = [&self.output[..], &self.kernel].concat();
        let channels = [self.batch, self.groups, self.in_channels, self.out_channels];
        2 * channels.iter().chain(&extents).map(|&extent| extent as u64).product::<u64>()
    }

    fn window(&self) -> Window {
        let axes = self.input.len();
        assert!((1..=3).contains(&axes), "a convolution has one to three spatial axes, not {axes}");
        let lengths = [
            self.kernel.len(),
            self.output.len(),
            self.stride.len(),
            self.dilation.len(),
            self.pad_low.len(),
        ];
        assert!(
            lengths.iter().all(|&len| len == axes),
            "every list of {self:?} has an entry for each spatial axis"
        );
        let small = |value: usize| i32::try_from(value).expect("strides and dilations below 2^31");
        let window = Window {
            input: three(&self.input, 1, |extent| extent),
            kernel: three(&self.kernel, 1, |extent| extent),
            output: three(&self.output, 1, |extent| extent),
            stride: three(&self.stride, 1, small),
            dilation: three(&self.dilation, 1, small),
            pad: three(&self.pad_low, 0, |pad| i32::try_from(pad).expect("padding below 2^31")),
        };
        assert!(
            window.stride.iter().chain(&window.dilation).all(|&step| step > 0),
            "steps of {self:?} are positive"
        );
        window
    }

    /// Fixes offsets, blocking and the kind of kernel, for `threads` threads.
    ///
    /// An instruction set that this machine lacks is replaced by the widest that it has.
    ///
    /// # Panics
    /// When the lists are not of one length between 1 and 3, a stride or dilation is zero, or an extent exceeds 2^31.
    pub fn prepare(&self, isa: Isa, threads: usize) -> PreparedConvolution {
        let isa = isa.or_detected();
        let window = self.window();
        let form = if self.is_pointwise() {
            Form::Contraction(Box::new(self.contraction().prepare(isa, threads)))
        } else if self.in_channels == 1 && self.out_channels == 1 {
            Form::Depthwise(Box::new(Depthwise::new(self, window, isa, threads)))
        } else {
            Form::Gathered(Box::new(self.gathered(window, isa, threads)))
        };
        PreparedConvolution { form, direction: self.direction, flops: self.flops() }
    }

    /// Whether the window is one element that visits each position once.
    fn is_pointwise(&self) -> bool {
        self.kernel.iter().chain(&self.stride).all(|&extent| extent == 1)
            && self.pad_low.iter().all(|&pad| pad == 0)
            && self.input == self.output
    }

    /// Elements of x's, y's and w's spatial parts.
    fn sizes(&self) -> (usize, usize, usize) {
        (self.input.iter().product(), self.output.iter().product(), self.kernel.iter().product())
    }

    /// The contraction that a pointwise convolution is.
    fn contraction(&self) -> Contraction {
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

    /// The product with a gathered right operand.
    fn gathered(&self, window: Window, isa: Isa, threads: usize) -> Product {
        let (x_size, y_size, taps) = self.sizes();
        let (ci, co, groups) = (self.in_channels, self.out_channels, self.groups);
        let Window { input, kernel, output, stride, dilation, pad } = window;
        let int = |extents: [usize; 3]| extents.map(|extent| extent as i32);
        let strides = |extents: [usize; 3]| [(extents[1] * extents[2]) as isize, extents[2] as isize, 1];
        let steps = |index: [i32; 3], step: [i32; 3]| std::array::from_fn(|axis| index[axis] * step[axis]);
        let less = |index: [i32; 3], by: [i32; 3]| std::array::from_fn(|axis| index[axis] - by[axis]);
        let side = |outer: usize, distance: usize, positions: &[[i32; 3]], run: usize, rise: i32| Side {
            places: (0..outer)
                .flat_map(|i| {
                    positions.iter().map(move |&position| Place { offset: (i * distance) as isize, position })
                })
                .collect(),
            run: run.max(1),
            rise,
        };
        let signed = |extent: usize, stride: usize| (extent, stride as isize);
        let (x_batch, y_batch, w_group) = (groups * ci * x_size, groups * co * y_size, co * ci * taps);
        // A tap's share in the position of x, padding included.
        let tap_positions: Vec<[i32; 3]> =
            indices(kernel).map(|tap| less(steps(tap, dilation), pad)).collect();
        let y_positions: Vec<[i32; 3]> = indices(output).map(|p| steps(p, stride)).collect();
        let weights_batch = Offsets::new([signed(self.batch, 0), signed(groups, w_group)]);
        let x_matrices = Offsets::new([signed(self.batch, x_batch), signed(groups, ci * x_size)]);
        let y_matrices = Offsets::new([signed(self.batch, y_batch), signed(groups, co * y_size)]);
        let (left, left_batch, gather, right_batch, c_batch, c_rows, c_columns) = match self.direction {
            Direction::Forward => (
                Strided { wide: Offsets::even(co, (ci * taps) as isize), deep: Offsets::even(ci * taps, 1) },
                weights_batch,
                Gather {
                    wide: side(1, 0, &y_positions, output[2], stride[2]),
                    deep: side(ci, x_size, &tap_positions, 1, 0),
                    extent: int(input),
                    step: [1; 3],
                    stride: strides(input),
                    wide_runs: true,
                },
                x_matrices,
                y_matrices,
                Offsets::even(co, y_size as isize),
                Offsets::even(y_size, 1),
            ),
            Direction::InputGradient => {
                let x_positions: Vec<[i32; 3]> = indices(input).collect();
                let back: Vec<[i32; 3]> =
                    tap_positions.iter().map(|tap| tap.map(|position| -position)).collect();
                (
                    Strided {
                        wide: Offsets::even(ci, taps as isize),
                        deep: Offsets::new([signed(co, ci * taps), signed(taps, 1)]),
                    },
                    weights_batch,
                    Gather {
                        wide: side(1, 0, &x_positions, input[2], 1),
                        deep: side(co, y_size, &back, 1, 0),
                        extent: int(output),
                        step: stride,
                        stride: strides(output),
                        wide_runs: true,
                    },
                    y_matrices,
                    x_matrices,
                    Offsets::even(ci, x_size as isize),
                    Offsets::even(x_size, 1),
                )
            }
            Direction::WeightGradient => (
                Strided {
                    wide: Offsets::even(co, y_size as isize),
                    deep: Offsets::new([signed(self.batch, y_batch), signed(y_size, 1)]),
                },
                Offsets::new([signed(groups, co * y_size)]),
                Gather {
                    wide: side(ci, x_size, &tap_positions, 1, 0),
                    deep: side(self.batch, x_batch, &y_positions, output[2], stride[2]),
                    extent: int(input),
                    step: [1; 3],
                    stride: strides(input),
                    wide_runs: false,
                },
                Offsets::new([signed(groups, ci * x_size)]),
                Offsets::new([signed(groups, w_group)]),
                Offsets::even(co, (ci * taps) as isize),
                Offsets::even(ci * taps, 1),
            ),
        };
        Product::new(Parts {
            isa,
            threads,
            dtype: self.dtype,
            left,
            left_batch,
            right: Right::Gather(gather),
            right_batch,
            c_batch,
            c_rows,
            c_columns,
            swapped: false,
        })
    }
}

impl PreparedConvolution {
    /// Bytes of workspace that a run needs; of any alignment, its contents do not matter before or after.
    pub fn workspace_bytes(&self) -> usize {
        match &self.form {
            Form::Contraction(prepared) => prepared.workspace_bytes(),
            Form::Gathered(product) => product.workspace_bytes(),
            Form::Depthwise(depthwise) => depthwise.workspace_bytes(),
        }
    }

    /// Operations of one run, those with padding included.
    pub fn flops(&self) -> u64 {
        self.flops
    }

    /// Computes c from a and b, which tensors these are being said at [`Convolution`]. Allocates nothing.
    ///
    /// # Safety
    /// - `a`, `b` and `c` point to the tensors described, aligned for their element type; c overlaps neither the others nor the
    ///   workspace, and nobody else uses it meanwhile.
    /// - `workspace` has `workspace_bytes()` bytes, used by nobody else meanwhile.
    /// - The epilogue's function is sound for its buffers and for every tile of c, from any thread of the pool, in parallel.
    pub unsafe fn run(
        &self,
        pool: &ThreadPool,
        a: *const u8,
        b: *const u8,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<Epilogue>,
    ) {
        let (left, right) = self.sides(a, b);
        let epilogue = epilogue.as_ref();
        // SAFETY: passed on to the caller.
        unsafe { self.run_sides(pool, Operand::Plain(left), Operand::Plain(right), c, workspace, epilogue) }
    }

    /// Bytes of packed weights; nothing for the gradient of the weights, which has none.
    pub fn packed_weights_bytes(&self) -> Option<usize> {
        if self.direction == Direction::WeightGradient {
            return None;
        }
        Some(match &self.form {
            Form::Contraction(prepared) => prepared.packed_a_bytes(),
            Form::Gathered(product) => product.packed_left_bytes(),
            Form::Depthwise(depthwise) => depthwise.weights_bytes(),
        })
    }

    /// Brings constant weights into the order that the kernels read, once for many runs.
    ///
    /// # Safety
    /// `weights` is a valid w; `out` has `packed_weights_bytes()` bytes and is aligned to 8 bytes, better to 64.
    ///
    /// # Panics
    /// For the gradient of the weights.
    pub unsafe fn pack_weights(&self, weights: *const u8, out: *mut u8) {
        assert!(
            self.direction != Direction::WeightGradient,
            "the gradient of the weights has no weights to pack"
        );
        // SAFETY: passed on to the caller.
        unsafe {
            match &self.form {
                Form::Contraction(prepared) => prepared.pack_a(weights, out),
                Form::Gathered(product) => product.pack_left(weights, out),
                Form::Depthwise(depthwise) => {
                    out.copy_from_nonoverlapping(weights, depthwise.weights_bytes())
                }
            }
        }
    }

    /// Computes c from weights that were packed by [`pack_weights`](Self::pack_weights) of this very preparation, and `other`:
    /// x for `Forward`, y for `InputGradient`.
    ///
    /// # Safety
    /// As for [`run`](Self::run), with `packed` (aligned to 8 bytes) what `pack_weights` wrote.
    ///
    /// # Panics
    /// For the gradient of the weights.
    pub unsafe fn run_packed(
        &self,
        pool: &ThreadPool,
        packed: *const u8,
        other: *const u8,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<Epilogue>,
    ) {
        assert!(
            self.direction != Direction::WeightGradient,
            "the gradient of the weights has no weights to pack"
        );
        let epilogue = epilogue.as_ref();
        // SAFETY: passed on to the caller.
        unsafe {
            self.run_sides(pool, Operand::Packed(packed), Operand::Plain(other), c, workspace, epilogue)
        }
    }

    /// The left and the right operand of the product.
    fn sides(&self, a: *const u8, b: *const u8) -> (*const u8, *const u8) {
        match self.direction {
            Direction::Forward | Direction::WeightGradient => (b, a),
            Direction::InputGradient => (a, b),
        }
    }

    unsafe fn run_sides(
        &self,
        pool: &ThreadPool,
        left: Operand,
        right: Operand,
        c: *mut u8,
        workspace: *mut u8,
        epilogue: Option<&Epilogue>,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            match &self.form {
                Form::Contraction(prepared) => {
                    prepared.run_operands(pool, left, right, c, workspace, epilogue);
                }
                Form::Gathered(product) => product.run(pool, left, right, c, workspace, epilogue),
                Form::Depthwise(depthwise) => depthwise.run(pool, left, right, c, workspace, epilogue),
            }
        }
    }
}
