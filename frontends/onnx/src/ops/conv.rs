//! Convolutions.

use super::Row;
use super::activation::named;
use super::matmul::centered;
use super::pool::window::{AutoPad, Slide, auto_pad, checked, extents, kernel_of, slides};
use crate::builder::{Build, Builder, known_size, problem};
use crate::call::{Call, Results};
use thalweg_base::{DType, Dim, PointwiseFn as F, Scalar, dim::product};
use thalweg_tensor::NodeId;
use thalweg_tensor::ops::{Convolve, Direction, Fold, PadDim};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("CausalConvWithState", causal_conv),
    ("Col2Im", col_to_im),
    ("Conv", conv),
    ("ConvInteger", conv_integer),
    ("ConvTranspose", conv_transpose),
    ("DeformConv", deform_conv),
];

/// The most groups.
const GROUPS_MAX: i64 = 1 << 24;

fn groups(call: &Call, name: &str) -> Build<usize> {
    match call.int_or(name, 1) {
        groups @ 1..=GROUPS_MAX => Ok(groups as usize),
        other => problem(format!("there are no {other} groups")),
    }
}

/// The op whose windows slide like that.
fn convolve(slides: &[Slide], groups: usize) -> Convolve {
    Convolve {
        direction: Direction::Forward,
        stride: slides.iter().map(|slide| slide.stride).collect(),
        dilation: slides.iter().map(|slide| slide.dilation).collect(),
        pad_low: slides.iter().map(|slide| slide.low).collect(),
        pad_high: slides.iter().map(|slide| slide.high + slide.extra).collect(),
        groups,
        sizes: vec![],
    }
}

/// A number for each channel added to an image batch.
fn with_bias(b: &mut Builder, y: NodeId, bias: Option<NodeId>) -> Build<NodeId> {
    let Some(bias) = bias else { return Ok(y) };
    let shape = b.shape(y);
    let bias = b.broadcast(bias, &shape, &[1])?;
    b.pointwise(F::Add, &[y, bias])
}

/// Fails unless both have two dims and then the same number of spatial ones, one to three.
fn check_ranks(x: &[Dim], weights: &[Dim]) -> Build<()> {
    match x.len() == weights.len() && (3..=5).contains(&x.len()) {
        true => Ok(()),
        false => problem(format!("weights of shape {weights:?} do not slide over {x:?}")),
    }
}

/// The convolution of nodes by the node's attributes.
fn convolved(call: &mut Call, x: NodeId, weights: NodeId) -> Build<NodeId> {
    let (x_shape, w_shape) = (call.b.shape(x), call.b.shape(weights));
    check_ranks(&x_shape, &w_shape)?;
    let kernel = kernel_of(call, &w_shape[2..])?;
    let slides = slides(call, &x_shape[2..], &kernel)?;
    let op = convolve(&slides, groups(call, "group")?);
    call.b.add(op, &[x, weights])
}

fn conv(call: &mut Call) -> Results {
    let (x, weights, bias) = (call.x(0)?, call.x(1)?, call.optional(2)?);
    let y = convolved(call, x, weights)?;
    let y = with_bias(call.b, y, bias)?;
    call.one(y)
}

/// Padding is 0 after the zero point is taken away, as it should be.
fn conv_integer(call: &mut Call) -> Results {
    let (x, weights) = (call.x(0)?, call.x(1)?);
    let (x_zero, w_zero) = (call.optional(2)?, call.optional(3)?);
    let rank = call.b.rank(weights);
    let x = centered(call.b, x, x_zero, 1)?;
    let weights = centered(call.b, weights, w_zero, rank.max(1))?;
    let y = convolved(call, x, weights)?;
    call.one(y)
}

/// What of the whole transposed convolution is the result, along one dim.
struct Cut {
    /// The size of the result.
    size: Dim,
    /// Positions of the whole before the result; the result begins before the whole when negative.
    low: i64,
    /// Positions of the whole after the result.
    high: i64,
}

fn cuts(call: &Call, sizes: &[Dim], slides: &[Slide]) -> Build<Vec<Cut>> {
    let count = sizes.len();
    let more = extents(call, "output_padding", count, 0, 0)?;
    // The format once had the batch and the channels in this list too.
    let wanted = match call.int_list("output_shape").filter(|shape| !shape.is_empty()) {
        Some(shape) => {
            let shape = &shape[shape.len().saturating_sub(count)..];
            Some(checked(shape, "output_shape", count, 0)?)
        }
        None => None,
    };
    let auto = auto_pad(call)?;
    let cut = |at: usize| {
        let Slide { stride, low, high, .. } = slides[at];
        let strided = &sizes[at] * &Dim::from(stride);
        // The whole, `stride (size - 1) + span`, is so much longer than the strided input.
        let (excess, more) = (slides[at].span() as i64 - stride as i64, more[at] as i64);
        let total = match &wanted {
            Some(shape) => known_size(&strided)? as i64 + excess + more - shape[at] as i64,
            None if matches!(auto, AutoPad::SameUpper | AutoPad::SameLower) => excess + more,
            None => low as i64 + high as i64,
        };
        let low = match auto {
            AutoPad::Given | AutoPad::Valid if wanted.is_none() => low as i64,
            // A result longer than the whole goes on with zeros at its end.
            AutoPad::Given | AutoPad::Valid | AutoPad::SameUpper | AutoPad::SameLower if total < 0 => 0,
            AutoPad::SameUpper => total / 2,
            AutoPad::Given | AutoPad::Valid | AutoPad::SameLower => total - total / 2,
        };
        Ok(Cut { size: &strided + &Dim::constant(excess + more - total), low, high: total - low - more })
    };
    (0..count).map(cut).collect()
}

/// The gradient of a convolution for its input. Where the result reaches beyond it, there are zeros.
fn conv_transpose(call: &mut Call) -> Results {
    let (x, weights, bias) = (call.x(0)?, call.x(1)?, call.optional(2)?);
    let (x_shape, w_shape) = (call.b.shape(x), call.b.shape(weights));
    check_ranks(&x_shape, &w_shape)?;
    let kernel = kernel_of(call, &w_shape[2..])?;
    let count = kernel.len();
    let (strides, dilations) =
        (extents(call, "strides", count, 1, 1)?, extents(call, "dilations", count, 1, 1)?);
    let pads = match auto_pad(call)? {
        AutoPad::Given => extents(call, "pads", 2 * count, 0, 0)?,
        AutoPad::SameUpper | AutoPad::SameLower | AutoPad::Valid => vec![0; 2 * count],
    };
    let mut slides: Vec<Slide> = (0..count)
        .map(|at| Slide {
            size: kernel[at],
            stride: strides[at],
            dilation: dilations[at],
            low: pads[at],
            high: pads[at + count],
            extra: 0,
        })
        .collect();
    let cuts = cuts(call, &x_shape[2..], &slides)?;
    let mut sizes = Vec::new();
    let mut around = Vec::new();
    for (at, (cut, slide)) in cuts.iter().zip(&mut slides).enumerate() {
        // Positions beyond the last that an output comes from may be part of the input as long as they give no output more;
        // that they do not cannot be seen of a symbol.
        let few = -cut.high < slide.stride as i64 && cut.size.as_constant().is_some();
        let within = if few { cut.high.min(0) } else { 0 };
        let (before, after) = ((-cut.low).max(0), (within - cut.high).max(0));
        slide.low = cut.low.max(0) as usize;
        slide.high = cut.high.max(0) as usize;
        sizes.push(&cut.size - &Dim::constant(before + after));
        around.push(PadDim { dim: 2 + at, low: before.into(), high: after.into(), interior: 0 });
    }
    let groups = groups(call, "group")?;
    let b = &mut *call.b;
    let op = Convolve { direction: Direction::InputGradient, sizes, ..convolve(&slides, groups) };
    let y = b.add(op, &[weights, x])?;
    let zero = Scalar::zero(b.dtype(y));
    let y = b.pad(y, around, zero)?;
    let y = with_bias(b, y, bias)?;
    call.one(y)
}

/// Columns, each a window, summed where they overlap.
fn col_to_im(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let (image, block) = (call.dims(1)?, call.ints(2)?);
    let count = block.len();
    let kernel = checked(&block, "block_shape", count, 1)?;
    if image.len() != count {
        return problem(format!("a block of {count} dims is not of an image of {}", image.len()));
    }
    let slides = slides(call, &image, &kernel)?;
    let windows = super::pool::window::windows(&slides, 2);
    let b = &mut *call.b;
    let shape = b.shape(x);
    let [n, columns, _] = &shape[..] else { return problem("columns have 3 dims") };
    let block: Vec<Dim> = kernel.iter().map(|size| Dim::from(*size)).collect();
    let Some(channels) = columns.exact_div(&product(&block)) else {
        return problem(format!("{columns} rows are not blocks of {kernel:?}"));
    };
    let counts: Vec<Dim> = windows.iter().zip(&image).map(|(window, size)| window.count(size)).collect();
    let y = b.reshape(x, &[&[n.clone(), channels], &block[..], &counts[..]].concat())?;
    let perm: Vec<usize> = [0, 1].into_iter().chain(2 + count..2 + 2 * count).chain(2..2 + count).collect();
    let y = b.transpose(y, &perm)?;
    let y = b.add(Fold { windows, sizes: image }, &[y])?;
    call.one(y)
}

/// One filter for each channel, over the positions up to its own; the first see the state of a call before.
fn causal_conv(call: &mut Call) -> Results {
    let (x, weights) = (call.x(0)?, call.x(1)?);
    let (bias, past) = (call.optional(2)?, call.optional(3)?);
    let activation = call.text_or("activation", "none");
    let b = &mut *call.b;
    let (x_shape, w_shape) = (b.shape(x), b.shape(weights));
    let ([n, _, _], [channels, _, kernel]) = (&x_shape[..], &w_shape[..]) else {
        return problem("a causal convolution is of tensors of 3 dims");
    };
    let Some(before @ 0..) = kernel.as_constant().map(|size| size - 1) else {
        return problem(format!("there is no filter of {kernel} positions"));
    };
    let groups = known_size(channels)?.max(1);
    let past = match past {
        Some(past) => past,
        None => b.full(b.dtype(x), &[n.clone(), channels.clone(), Dim::constant(before)], 0.0)?,
    };
    let all = b.concat(&[past, x], 2)?;
    let length = b.shape(all)[2].clone();
    let state = b.slice_dim(all, 2, &length - &Dim::constant(before), before)?;
    let op = Convolve {
        direction: Direction::Forward,
        stride: vec![1],
        dilation: vec![1],
        pad_low: vec![0],
        pad_high: vec![0],
        groups,
        sizes: vec![],
    };
    let y = b.add(op, &[all, weights])?;
    let mut y = with_bias(b, y, bias)?;
    y = match activation.as_str() {
        "none" => y,
        "silu" | "swish" => {
            let gate = named(b, "sigmoid", None, None, y)?;
            b.pointwise(F::Mul, &[y, gate])?
        }
        other => return problem(format!("there is no activation `{other}` here")),
    };
    call.several(&[y, state])
}

/// Windows whose positions are moved by offsets (Dai et al., arXiv 1703.06211) and weighted by a mask (arXiv 1811.11168).
///
/// With `p` a position of the kernel and `o` one of the output, the columns `x[n, c, o s + p d - low + offset[n, g, p, :, o]]`,
/// interpolated linearly between neighbours and 0 beyond the image, are contracted with the weights.
fn deform_conv(call: &mut Call) -> Results {
    let (x, weights, offset) = (call.x(0)?, call.x(1)?, call.x(2)?);
    let (bias, mask) = (call.optional(3)?, call.optional(4)?);
    let (x_shape, w_shape, o_shape) = (call.b.shape(x), call.b.shape(weights), call.b.shape(offset));
    check_ranks(&x_shape, &w_shape)?;
    let kernel = kernel_of(call, &w_shape[2..])?;
    let slides = slides(call, &x_shape[2..], &kernel)?;
    let (groups, sharing) = (Dim::from(groups(call, "group")?), Dim::from(groups(call, "offset_group")?));
    let (n, spatial) = (x_shape[0].clone(), kernel.len());
    let split = |size: &Dim, parts: &Dim| match size.exact_div(parts) {
        Some(each) => Ok(each),
        None => problem(format!("{size} channels make no {parts} groups")),
    };
    let (own, inputs, outputs) =
        (split(&x_shape[1], &sharing)?, split(&x_shape[1], &groups)?, split(&w_shape[0], &groups)?);
    let taps: Dim = product(&w_shape[2..]);
    if o_shape.len() != x_shape.len() || inputs != w_shape[1] {
        return problem(format!("weights {w_shape:?} and offsets {o_shape:?} are not for {x_shape:?}"));
    }
    let out = &o_shape[2..];
    let expected: Vec<Dim> =
        slides.iter().zip(&x_shape[2..]).map(|(slide, size)| slide.window(0).count(size)).collect();
    if out != expected {
        return problem(format!("offsets are given for {out:?} windows instead of {expected:?}"));
    }

    let b = &mut *call.b;
    let dtype = b.dtype(x);
    // Shapes of everything below begin with the batch, the groups of offsets, and the taps; then come output positions.
    let places = [&[n.clone(), sharing.clone(), taps.clone()], out].concat();
    let split = [&[n.clone(), sharing.clone()], &w_shape[2..], &[Dim::from(spatial)], out].concat();
    let offset = b.reshape(offset, &split)?;
    let mut lower = Vec::new();
    for (at, slide) in slides.iter().enumerate() {
        let moved = b.pick(offset, 2 + spatial, at)?;
        let start = along(b, dtype, &b.shape(moved), 2 + spatial + at, slide.stride, -(slide.low as f64))?;
        let tap = along(b, dtype, &b.shape(moved), 2 + at, slide.dilation, 0.0)?;
        let place = b.pointwise(F::Add, &[start, tap])?;
        let place = b.pointwise(F::Add, &[place, moved])?;
        let place = b.reshape(place, &places)?;
        let floor = b.unary(F::Floor, place)?;
        let fraction = b.pointwise(F::Sub, &[place, floor])?;
        lower.push((floor, fraction));
    }
    let flat = b.reshape(x, &[n.clone(), sharing.clone(), own.clone(), product(&x_shape[2..])])?;
    let sampled = [&[n.clone(), sharing.clone(), own], &places[2..]].concat();
    let repeated: Vec<usize> = (0..sampled.len()).filter(|dim| *dim != 2).collect();
    let mut columns = None;
    for corner in 0..1usize << spatial {
        let mut index = b.full(DType::I32, &places, 0.0)?;
        let mut weight = None;
        for (at, (floor, fraction)) in lower.iter().enumerate() {
            let upper = corner >> at & 1 == 1;
            let position = if upper { b.with_scalar(F::Add, *floor, 1.0)? } else { *floor };
            let share = match upper {
                true => *fraction,
                false => {
                    let one = b.number_like(*fraction, 1.0);
                    b.binary(F::Sub, one, *fraction)?
                }
            };
            let share = within(b, position, share, &x_shape[2 + at])?;
            weight = Some(match weight {
                None => share,
                Some(weight) => b.pointwise(F::Mul, &[weight, share])?,
            });
            let position = b.convert(position, DType::I32)?;
            let size = b.size_like(index, &x_shape[2 + at])?;
            let rows = b.binary(F::Mul, index, size)?;
            index = b.pointwise(F::Add, &[rows, position])?;
        }
        let Some(weight) = weight else { return problem("an image has a spatial dim at least") };
        let taken = b.gather(flat, index, 3, 2)?;
        let weight = b.broadcast(weight, &sampled, &repeated)?;
        let part = b.pointwise(F::Mul, &[taken, weight])?;
        columns = Some(match columns {
            None => part,
            Some(sum) => b.pointwise(F::Add, &[sum, part])?,
        });
    }
    let Some(mut columns) = columns else { return problem("an image has a spatial dim at least") };
    if let Some(mask) = mask {
        let mask = b.reshape(mask, &places)?;
        let mask = b.broadcast(mask, &sampled, &repeated)?;
        columns = b.pointwise(F::Mul, &[columns, mask])?;
    }
    let columns =
        b.reshape(columns, &[n.clone(), groups.clone(), inputs.clone(), taps.clone(), product(out)])?;
    let weights = b.reshape(weights, &[groups, outputs, inputs, taps])?;
    let y = b.contract("ngckp,gmck->ngmp", columns, weights)?;
    let y = b.reshape(y, &[&[n, w_shape[0].clone()], out].concat())?;
    let y = with_bias(b, y, bias)?;
    call.one(y)
}

/// `i step + start` for the positions `i` of one dim of a shape.
fn along(b: &mut Builder, dtype: DType, shape: &[Dim], dim: usize, step: usize, start: f64) -> Build<NodeId> {
    let mut line = b.iota(dtype, shape[dim].clone())?;
    if step != 1 {
        line = b.with_scalar(F::Mul, line, step as f64)?;
    }
    if start != 0.0 {
        line = b.with_scalar(F::Add, line, start)?;
    }
    b.broadcast(line, shape, &[dim])
}

/// The share of a position, or 0 where it is not one of a dim.
fn within(b: &mut Builder, position: NodeId, share: NodeId, size: &Dim) -> Build<NodeId> {
    let size = b.size_like(position, size)?;
    let (above, below) = (b.with_scalar(F::Ge, position, 0.0)?, b.binary(F::Lt, position, size)?);
    let inside = b.pointwise(F::And, &[above, below])?;
    let zero = b.number_like(share, 0.0);
    b.select(inside, share, zero)
}
