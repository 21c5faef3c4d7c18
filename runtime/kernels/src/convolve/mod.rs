//! Convolution and its two gradients, as products whose right operand is gathered while it is packed.
//!
//! All three come from one relation between the input x, the weights w and the output y:
//! `y[b, o, p] = sum over c and t of x[b, c, p * stride + t * dilation - pad_low] * w[o, c, t]`, positions outside of x being
//! zero. With x of shape `[batch, groups * in_channels, input..]`, w `[groups * out_channels, in_channels, kernel..]` and y
//! `[batch, groups * out_channels, output..]`, all contiguous row-major, group g takes the channels `g * in_channels ..` of x to
//! the channels `g * out_channels ..` of y.

mod depthwise;
mod direct;
mod gather;
mod grid;
mod padded;
mod products;
mod reorder;
mod rows;
mod spread;
mod weights;
mod winograd;

use serde::{Deserialize, Serialize};

use crate::blocked::{Operand, Product, parallel};
use crate::contract::Prepared;
use crate::element::DType;
use crate::epilogue::{self, Epilogue};
use crate::isa::Isa;
use crate::pool::ThreadPool;
use depthwise::Depthwise;
use direct::Direct;
pub(crate) use gather::{Gather, GatherPanel, OVERRUN};
pub(crate) use padded::{Compact, Fill, Padded};
use weights::WeightGradient;
use winograd::Winograd;

/// Evaluates an expression with a type bound to the storage type of a float that is summed in `f32`.
macro_rules! with_float {
    ($dtype:expr, $s:ident => $body:expr) => {
        match $dtype {
            $crate::element::DType::F32 => {
                type $s = f32;
                $body
            }
            $crate::element::DType::F16 => {
                type $s = half::f16;
                $body
            }
            $crate::element::DType::Bf16 => {
                type $s = half::bf16;
                $body
            }
            other => panic!("{other:?} is not summed in f32"),
        }
    };
}
use with_float;

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

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// As products over planes as they lie, gathered where there are windows, or row by row where channels do not mix.
    Planes,
    /// As sums over a padded copy of the source in blocks of channels.
    Blocks,
    /// By transforms, for windows of 3 by 3 without strides. Another order of operations: its error is some four times that
    /// of the others.
    Winograd,
}

/// A convolution prepared for an instruction set and a number of threads.
#[derive(Clone, Debug)]
pub struct PreparedConvolution {
    form: Form,
    direction: Direction,
    flops: u64,
    /// Bytes of an element, and the extents of c as the epilogue sees it.
    element: usize,
    extents: [usize; 3],
}

#[derive(Clone, Debug)]
enum Form {
    /// A window of one element: a contraction; its A is w, or the gradient of y.
    Contraction(Box<Prepared>),
    Gathered(Box<Product>),
    /// The gradient of the input under strides: a product for each remainder of positions, and where its part of c begins.
    Phases(Vec<(isize, Product)>),
    /// The same in blocks, also for y or for the gradient of the input without strides: then it is but one.
    Direct(Vec<(isize, Direct)>),
    Winograd(Box<Winograd>),
    Weights(Box<WeightGradient>),
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

/// The indices i below `len` for which `from + i * step` lies in `0..extent`.
#[inline(always)]
fn range(from: i32, step: i32, extent: usize, len: usize) -> (usize, usize) {
    let up = |distance: i32| if distance <= 0 { 0 } else { (distance - 1) / step + 1 };
    let end = (up(extent as i32 - from) as usize).min(len);
    ((up(-from) as usize).min(end), end)
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
        let algorithm = match self.suits_blocks() {
            true if self.transformed(&window, isa, threads).is_some_and(|parts| winograd::pays(&parts)) => {
                Algorithm::Winograd
            }
            true if !(self.is_pointwise() && self.fills_vectors()) => Algorithm::Blocks,
            true | false => Algorithm::Planes,
        };
        self.prepare_as(algorithm, window, isa, threads)
    }

    /// The same by a given algorithm, if it can compute this convolution.
    ///
    /// # Panics
    /// As [`prepare`](Self::prepare).
    pub fn prepare_with(
        &self,
        algorithm: Algorithm,
        isa: Isa,
        threads: usize,
    ) -> Option<PreparedConvolution> {
        let (isa, window) = (isa.or_detected(), self.window());
        let possible = match algorithm {
            Algorithm::Planes => true,
            Algorithm::Blocks => self.dtype.compute_is_f32(),
            Algorithm::Winograd => self.transformed(&window, isa, threads).is_some(),
        };
        possible.then(|| self.prepare_as(algorithm, window, isa, threads))
    }

    fn prepare_as(
        &self,
        algorithm: Algorithm,
        window: Window,
        isa: Isa,
        threads: usize,
    ) -> PreparedConvolution {
        let strided = self.stride.iter().any(|&stride| stride > 1);
        let form = if algorithm == Algorithm::Winograd {
            let parts = self.transformed(&window, isa, threads).expect("the caller asked whether it can");
            Form::Winograd(Box::new(Winograd::new(parts)))
        } else if algorithm == Algorithm::Blocks && self.direction == Direction::WeightGradient {
            let taps = Self::tap_positions(&window);
            Form::Weights(Box::new(WeightGradient::new(self, &window, &taps, isa, threads)))
        } else if algorithm == Algorithm::Blocks {
            let parts = self.blocked_parts(&window, isa, threads);
            Form::Direct(parts.into_iter().map(|(start, parts)| (start, Direct::new(parts))).collect())
        } else if self.is_pointwise() && self.merged().is_none() {
            Form::Contraction(Box::new(self.contraction().prepare(isa, threads)))
        } else if self.in_channels == 1 && self.out_channels == 1 {
            Form::Depthwise(Box::new(Depthwise::new(self, window, isa, threads)))
        } else {
            match self.direction {
                Direction::Forward => Form::Gathered(Box::new(self.forward(window, isa, threads))),
                Direction::WeightGradient => {
                    Form::Gathered(Box::new(self.weight_gradient(window, isa, threads)))
                }
                Direction::InputGradient => {
                    let mut phases = self.input_gradient(window, isa, threads);
                    match phases.pop() {
                        Some((0, product)) if !strided => Form::Gathered(Box::new(product)),
                        last => {
                            phases.extend(last);
                            Form::Phases(phases)
                        }
                    }
                }
            }
        };
        let (x_size, y_size, taps) = self.sizes();
        let extents = match self.direction {
            Direction::Forward => [self.batch * self.groups, self.out_channels, y_size],
            Direction::InputGradient => [self.batch * self.groups, self.in_channels, x_size],
            Direction::WeightGradient => [self.groups, self.out_channels, self.in_channels * taps],
        };
        let (direction, flops, element) = (self.direction, self.flops(), self.dtype.bytes());
        PreparedConvolution { form, direction, flops, element, extents }
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
}

impl PreparedConvolution {
    /// Bytes of workspace that a run needs; of any alignment, its contents do not matter before or after.
    pub fn workspace_bytes(&self) -> usize {
        match &self.form {
            Form::Contraction(prepared) => prepared.workspace_bytes(),
            Form::Gathered(product) => product.workspace_bytes(),
            Form::Phases(phases) => phases.iter().map(|phase| phase.1.workspace_bytes()).max().unwrap_or(0),
            Form::Direct(parts) => parts.iter().map(|part| part.1.workspace_bytes()).max().unwrap_or(0),
            Form::Winograd(winograd) => winograd.workspace_bytes(),
            Form::Weights(gradient) => gradient.workspace_bytes(),
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
            Form::Phases(phases) => phases.iter().map(|phase| phase.1.packed_left_bytes()).sum(),
            Form::Direct(parts) => parts.iter().map(|part| part.1.packed_bytes()).sum(),
            Form::Winograd(winograd) => winograd.packed_bytes(),
            Form::Weights(_) => return None,
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
    pub unsafe fn pack_weights(&self, pool: &ThreadPool, weights: *const u8, out: *mut u8) {
        assert!(
            self.direction != Direction::WeightGradient,
            "the gradient of the weights has no weights to pack"
        );
        // SAFETY: passed on to the caller.
        unsafe {
            match &self.form {
                Form::Contraction(prepared) => prepared.pack_a(weights, out),
                Form::Gathered(product) => product.pack_left(weights, out),
                Form::Phases(phases) => {
                    let mut out = out;
                    for (_, product) in phases {
                        product.pack_left(weights, out);
                        out = out.add(product.packed_left_bytes());
                    }
                }
                Form::Direct(parts) => {
                    let mut out = out;
                    for (_, direct) in parts {
                        direct.pack(pool, weights, out);
                        out = out.add(direct.packed_bytes());
                    }
                }
                Form::Winograd(winograd) => winograd.pack(pool, weights, out),
                Form::Weights(_) => unreachable!("refused above"),
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

    /// Of the operands of a run, the one that [`pack_weights`](Self::pack_weights) takes and the other; for the gradient of
    /// the weights, y and x.
    pub fn sides(&self, a: *const u8, b: *const u8) -> (*const u8, *const u8) {
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
                Form::Phases(phases) => {
                    let mut left = left;
                    for (start, product) in phases {
                        let c = c.offset(*start * self.element as isize);
                        product.run(pool, left, right, c, workspace, None);
                        if let Operand::Packed(at) = left {
                            left = Operand::Packed(at.add(product.packed_left_bytes()));
                        }
                    }
                    self.epilogue_afterwards(pool, epilogue);
                }
                Form::Direct(parts) => {
                    let (whole, mut left) = (parts.iter().all(|part| part.1.covers()), left);
                    for (start, direct) in parts {
                        let c = c.offset(*start * self.element as isize);
                        direct.run(pool, left, right, c, workspace, epilogue.filter(|_| whole));
                        if let Operand::Packed(at) = left {
                            left = Operand::Packed(at.add(direct.packed_bytes()));
                        }
                    }
                    if !whole {
                        self.epilogue_afterwards(pool, epilogue);
                    }
                }
                Form::Winograd(winograd) => winograd.run(pool, left, right, c, workspace, epilogue),
                Form::Weights(gradient) => gradient.run(pool, left, right, c, workspace, epilogue),
                Form::Depthwise(depthwise) => depthwise.run(pool, left, right, c, workspace, epilogue),
            }
        }
    }

    /// Calls the epilogue where no part of c was finished before the others.
    unsafe fn epilogue_afterwards(&self, pool: &ThreadPool, epilogue: Option<&Epilogue>) {
        let [batch, m, n] = self.extents;
        if epilogue.is_none() || batch * m * n == 0 {
            return;
        }
        let rows = (epilogue::TILE_ELEMENTS / n).clamp(1, m);
        let pieces = m.div_ceil(rows);
        parallel(pool, batch * pieces, &|piece| {
            let (batch, first) = (piece / pieces, piece % pieces * rows);
            // SAFETY: passed on to the caller; pieces are disjoint.
            unsafe { epilogue::call(epilogue, batch, (first, (first + rows).min(m)), (0, n)) };
        });
    }
}
