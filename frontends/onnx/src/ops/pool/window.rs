//! How windows slide over the spatial dims of an image batch, as the attributes of convolutions and pooling say it.

use crate::builder::{Build, known_size, problem};
use crate::call::Call;
use thalweg_base::Dim;
use thalweg_tensor::ops::Window;

/// The largest size, step or padding of a window; beyond it, arithmetic with them could overflow.
const EXTENT_MAX: i64 = 1 << 24;

/// How a window slides along one spatial dim.
#[derive(Clone, Copy, Debug)]
pub struct Slide {
    /// Positions in a window.
    pub size: usize,
    /// The step between windows.
    pub stride: usize,
    /// The step between positions in a window.
    pub dilation: usize,
    /// Pad positions before the first.
    pub low: usize,
    /// Pad positions after the last, as the attributes give them.
    pub high: usize,
    /// Pad positions that are added to those only so that the last window is whole.
    pub extra: usize,
}

impl Slide {
    /// How many positions a window spans.
    pub fn span(&self) -> usize {
        (self.size - 1) * self.dilation + 1
    }

    /// The window of the op.
    pub fn window(&self, dim: usize) -> Window {
        let Slide { size, stride, dilation, low, high, extra } = *self;
        Window { dim, size, stride, dilation, low, high: high + extra }
    }
}

/// The windows along dims, the first of which is `first`.
pub fn windows(slides: &[Slide], first: usize) -> Vec<Window> {
    slides.iter().enumerate().map(|(at, slide)| slide.window(first + at)).collect()
}

/// A list attribute of extents that are at least `least`, or the default for each of `count` dims.
pub fn extents(call: &Call, name: &str, count: usize, least: i64, default: usize) -> Build<Vec<usize>> {
    let Some(list) = call.int_list(name).filter(|list| !list.is_empty()) else {
        return Ok(vec![default; count]);
    };
    checked(&list, name, count, least)
}

/// Extents that are at least `least`, one for each of `count` dims.
pub fn checked(list: &[i64], name: &str, count: usize, least: i64) -> Build<Vec<usize>> {
    if list.len() != count {
        return problem(format!("`{name}` has {} entries instead of {count}", list.len()));
    }
    let fit = list.iter().all(|value| (least..=EXTENT_MAX).contains(value));
    match fit {
        true => Ok(list.iter().map(|value| *value as usize).collect()),
        false => problem(format!("`{name}` {list:?} is not within {least}..={EXTENT_MAX}")),
    }
}

/// The sizes of weights as the size of a window.
pub fn kernel_of(call: &Call, weights: &[Dim]) -> Build<Vec<usize>> {
    let sizes = weights.iter().map(known_size).collect::<Build<Vec<usize>>>()?;
    let listed: Vec<i64> = sizes.iter().map(|size| *size as i64).collect();
    let kernel = checked(&listed, "weights", listed.len(), 1)?;
    match call.int_list("kernel_shape") {
        Some(shape) if !shape.is_empty() && shape != listed => {
            problem(format!("`kernel_shape` {shape:?} is not that of the weights, {listed:?}"))
        }
        Some(_) | None => Ok(kernel),
    }
}

/// The attribute `kernel_shape` as the size of a window.
pub fn kernel_attribute(call: &Call, count: usize) -> Build<Vec<usize>> {
    match call.int_list("kernel_shape") {
        Some(shape) => checked(&shape, "kernel_shape", count, 1),
        None => problem("`kernel_shape` is missing"),
    }
}

/// How padding is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AutoPad {
    /// By the attribute `pads`.
    Given,
    /// As much as makes one output for each stride; an odd one is at the end.
    SameUpper,
    /// The same, but an odd one is at the start.
    SameLower,
    /// None.
    Valid,
}

/// Reads the attribute `auto_pad`.
pub fn auto_pad(call: &Call) -> Build<AutoPad> {
    Ok(match call.text_or("auto_pad", "NOTSET").as_str() {
        "NOTSET" | "" => AutoPad::Given,
        "SAME_UPPER" => AutoPad::SameUpper,
        "SAME_LOWER" => AutoPad::SameLower,
        "VALID" => AutoPad::Valid,
        other => return problem(format!("there is no padding by `{other}`")),
    })
}

/// How windows of those sizes slide over spatial dims of those sizes, by the node's attributes.
pub fn slides(call: &Call, sizes: &[Dim], kernel: &[usize]) -> Build<Vec<Slide>> {
    let count = sizes.len();
    let strides = extents(call, "strides", count, 1, 1)?;
    let dilations = extents(call, "dilations", count, 1, 1)?;
    let auto = auto_pad(call)?;
    let pads = match auto {
        AutoPad::Given => extents(call, "pads", 2 * count, 0, 0)?,
        AutoPad::SameUpper | AutoPad::SameLower | AutoPad::Valid => vec![0; 2 * count],
    };
    let whole = call.flag("ceil_mode", false);
    let slide = |at: usize| {
        let mut slide = Slide {
            size: kernel[at],
            stride: strides[at],
            dilation: dilations[at],
            low: pads[at],
            high: pads[at + count],
            extra: 0,
        };
        if matches!(auto, AutoPad::SameUpper | AutoPad::SameLower) {
            let total = match slide.stride {
                1 => slide.span() - 1,
                stride => {
                    let size = known_size(&sizes[at])?;
                    let last = size.div_ceil(stride).saturating_sub(1) * stride;
                    (last + slide.span()).saturating_sub(size)
                }
            };
            slide.low = if auto == AutoPad::SameUpper { total / 2 } else { total.div_ceil(2) };
            slide.high = total - slide.low;
        }
        if whole && slide.stride > 1 {
            (slide.high, slide.extra) = completed(&slide, known_size(&sizes[at])?);
        }
        Ok(slide)
    };
    (0..count).map(slide).collect()
}

/// The padding at the end, and what is added to it, with which the last window that begins before that padding is whole.
fn completed(slide: &Slide, size: usize) -> (usize, usize) {
    let padded = size + slide.low + slide.high;
    let Some(room) = padded.checked_sub(slide.span()) else { return (slide.high, 0) };
    let mut last = room.div_ceil(slide.stride) * slide.stride;
    if last >= size + slide.low {
        last = last.saturating_sub(slide.stride);
    }
    let needed = (last + slide.span()).saturating_sub(size + slide.low);
    (slide.high.min(needed), needed.saturating_sub(slide.high))
}
