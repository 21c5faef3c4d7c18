//! Spectra and windows.
//!
//! A spectrum is a contraction with the matrix of its sines and cosines: `X[k] = sum over j of x[j] e^(-2 pi i jk / n)`. Real
//! and imaginary parts are positions of a last dim, which takes part in the contraction.

use super::Row;
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results, normalize};
use crate::value::Value;
use std::f64::consts::TAU;
use thalweg_base::{DType, Dim, Literal, PointwiseFn as F, Scalar};
use thalweg_tensor::NodeId;
use thalweg_tensor::ops::{PadDim, Unfold, Window};

/// The rows of this family.
pub const OPS: &[Row] = &[
    ("BlackmanWindow", |c| window(c, &[0.42, -0.5, 0.08])),
    ("DFT", dft),
    // The first coefficient that cancels the first side lobe, rather than the rounded one of Hamming.
    ("HammingWindow", |c| window(c, &[25.0 / 46.0, -21.0 / 46.0])),
    ("HannWindow", |c| window(c, &[0.5, -0.5])),
    ("MelWeightMatrix", mel_weight_matrix),
    ("STFT", stft),
];

/// The most elements of a matrix of sines and cosines that are a constant of the program; larger ones are computed by it.
const CONSTANT_MAX: usize = 1 << 20;

/// The most elements of a window or of a matrix of filters.
const KNOWN_MAX: usize = 1 << 26;

/// The longest signal that is transformed: the matrix grows with the square.
const LENGTH_MAX: usize = 1 << 20;

/// What a spectrum is taken of and how.
#[derive(Clone, Copy)]
struct Transform {
    /// The length `n` of the signal.
    length: usize,
    /// From a spectrum to the signal.
    inverse: bool,
    /// Only the first `n / 2 + 1` frequencies: the others mirror them when the signal is real.
    onesided: bool,
    /// Whether what is transformed has an imaginary part.
    complex: bool,
}

impl Transform {
    fn frequencies(&self) -> usize {
        if self.onesided { self.length / 2 + 1 } else { self.length }
    }

    /// How many positions are transformed.
    fn from(&self) -> usize {
        if self.inverse { self.frequencies() } else { self.length }
    }

    /// How many positions there are then.
    fn to(&self) -> usize {
        if self.inverse { self.length } else { self.frequencies() }
    }

    /// Of a signal whose spectrum is known on one side, only the real part is asked for.
    fn parts_to(&self) -> usize {
        if self.inverse && self.onesided { 1 } else { 2 }
    }

    fn parts_from(&self) -> usize {
        1 + self.complex as usize
    }

    /// The factor of position `at` of what is transformed: frequencies of one side stand for those of the other too.
    fn factor(&self, at: usize) -> f64 {
        let mirrored = self.onesided && at > 0 && 2 * at != self.length;
        if self.inverse { (1.0 + mirrored as u8 as f64) / self.length as f64 } else { 1.0 }
    }

    /// The element of the matrix `[from, parts, to, parts]` for an angle, without the factor: whether it is its cosine, and
    /// its sign. These are the parts of `(c + i s)` times 1 and times `i`, with the sine's sign turned unless inverse.
    fn entry(&self, from: usize, to: usize) -> (bool, f64) {
        let forward = if self.inverse { -1.0 } else { 1.0 };
        match (from, to) {
            (0, 0) | (1, 1) => (true, 1.0),
            (0, _) => (false, -forward),
            (_, _) => (false, forward),
        }
    }

    fn shape(&self) -> [usize; 4] {
        [self.from(), self.parts_from(), self.to(), self.parts_to()]
    }

    fn literal(&self, dtype: DType) -> Literal {
        let shape @ [from, parts, to, parts_to] = self.shape();
        let mut values = Vec::with_capacity(from * parts * to * parts_to);
        for at in 0..from {
            for part in 0..parts {
                for into in 0..to {
                    // The angle is brought into one turn first, as a whole number.
                    let angle = TAU * (at * into % self.length) as f64 / self.length as f64;
                    for part_to in 0..parts_to {
                        let (cosine, sign) = self.entry(part, part_to);
                        values.push(self.factor(at) * sign * if cosine { angle.cos() } else { angle.sin() });
                    }
                }
            }
        }
        Literal::from_scalars(dtype, &shape, values.into_iter().map(Scalar::Float))
    }

    /// The same matrix, computed when the model runs.
    fn computed(&self, b: &mut Builder, dtype: DType) -> Build<NodeId> {
        let [from, parts, to, parts_to] = self.shape();
        let small = from.saturating_mul(to) <= i32::MAX as usize;
        let whole = if small { DType::I32 } else { DType::I64 };
        let shape = [Dim::from(from), Dim::from(to)];
        let (at, into) = (b.iota_along(whole, &shape, 0)?, b.iota_along(whole, &shape, 1)?);
        let product = b.pointwise(F::Mul, &[at, into])?;
        let turn = b.with_scalar(F::Rem, product, self.length as f64)?;
        let turn = b.convert(turn, dtype)?;
        let angle = b.with_scalar(F::Mul, turn, TAU / self.length as f64)?;
        let factors: Vec<f64> = (0..from).map(|at| self.factor(at)).collect();
        let factors = b.numbers(dtype, &factors);
        let factors = b.broadcast(factors, &shape, &[0])?;
        let mut rows = Vec::new();
        for part in 0..parts {
            let mut row = Vec::new();
            for part_to in 0..parts_to {
                let (cosine, sign) = self.entry(part, part_to);
                let value = b.unary(if cosine { F::Cos } else { F::Sin }, angle)?;
                let value = b.pointwise(F::Mul, &[value, factors])?;
                let value = b.with_scalar(F::Mul, value, sign)?;
                row.push(b.unsqueeze(value, &[1, 3])?);
            }
            rows.push(b.concat(&row, 3)?);
        }
        b.concat(&rows, 1)
    }

    fn matrix(&self, b: &mut Builder, dtype: DType) -> Build<NodeId> {
        let elements = self.shape().iter().fold(1usize, |product, size| product.saturating_mul(*size));
        match elements <= CONSTANT_MAX {
            true => Ok(b.graph().constant(self.literal(dtype))),
            false => self.computed(b, dtype),
        }
    }
}

/// A dim cut or extended by zeros to a size.
fn resized(b: &mut Builder, x: NodeId, dim: usize, size: usize) -> Build<NodeId> {
    let own = b.size(x, dim)?;
    let x = b.slice_dim(x, dim, 0, own.min(size))?;
    let high = Dim::from(size.saturating_sub(own));
    let zero = Scalar::zero(b.dtype(x));
    b.pad(x, vec![PadDim { dim, low: Dim::default(), high, interior: 0 }], zero)
}

/// Whether the last dim of a signal has an imaginary part.
fn is_complex(b: &Builder, x: NodeId) -> Build<bool> {
    match b.shape(x).last().and_then(Dim::as_constant) {
        Some(1) => Ok(false),
        Some(2) => Ok(true),
        Some(_) | None => {
            problem("the last dim of a signal has its real part, or that and the imaginary one")
        }
    }
}

/// A length that an operand gives.
fn length(call: &Call, operand: usize) -> Build<usize> {
    match call.number(operand)?.to_i64() {
        length @ 1.. => Ok(length as usize),
        length => problem(format!("{length} is no length")),
    }
}

/// Since op set 20 the axis is an operand.
fn dft(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let rank = call.b.rank(x);
    let axis = match call.opset {
        ..20 => call.int_or("axis", 1),
        _ if call.has(2) => call.number(2)?.to_i64(),
        _ => -2,
    };
    let dim = normalize(axis, rank)?;
    if dim + 1 == rank {
        return problem("the last dim has the parts of the numbers");
    }
    let (inverse, onesided) = (call.flag("inverse", false), call.flag("onesided", false));
    let length = match call.has(1) {
        true => length(call, 1)?,
        false => match call.b.size(x, dim)? {
            size if inverse && onesided => 2 * size.saturating_sub(1),
            size => size,
        },
    };
    if length == 0 || length > LENGTH_MAX {
        return problem(format!("a signal of {length} elements is transformed"));
    }
    let b = &mut *call.b;
    let transform = Transform { length, inverse, onesided, complex: is_complex(b, x)? };
    let dtype = b.dtype(x);
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let x = b.convert(x, wide)?;
    let x = resized(b, x, dim, transform.from())?;
    let matrix = transform.matrix(b, wide)?;
    let others = rank - 2;
    let letters: String = ('a'..='z').take(others).collect();
    let with = |position: &str, part: &str| format!("{}{position}{}{part}", &letters[..dim], &letters[dim..]);
    let y = b.contract(&format!("{},JCKO->{}", with("J", "C"), with("K", "O")), x, matrix)?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// The spectra of frames of a signal, each weighted by the window.
fn stft(call: &mut Call) -> Results {
    let x = call.x(0)?;
    let step = length(call, 1)?;
    let weights = call.optional(2)?;
    let x = if call.b.rank(x) == 2 { call.b.unsqueeze(x, &[2])? } else { x };
    if call.b.rank(x) != 3 {
        return problem("a signal has the dims batch, time and part");
    }
    let length = match (call.has(3), weights) {
        (true, _) => length(call, 3)?,
        (false, Some(weights)) => call.b.shape(weights).first().map_or(Ok(0), crate::builder::known_size)?,
        (false, None) => call.b.size(x, 1)?,
    };
    let fits = call.b.shape(x)[1].as_constant().is_none_or(|size| length as i64 <= size);
    if length == 0 || length > LENGTH_MAX || !fits {
        return problem(format!("frames of {length} are taken of a signal {:?}", call.b.shape(x)));
    }
    let onesided = call.flag("onesided", true);
    let b = &mut *call.b;
    let transform = Transform { length, inverse: false, onesided, complex: is_complex(b, x)? };
    let dtype = b.dtype(x);
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let x = b.convert(x, wide)?;
    let window = Window { dim: 1, size: length, stride: step, dilation: 1, low: 0, high: 0 };
    let mut frames = b.add(Unfold { windows: vec![window], value: Scalar::zero(wide) }, &[x])?;
    if let Some(weights) = weights {
        let shape = b.shape(frames);
        if b.shape(weights) != shape[3..] {
            return problem(format!("a window {:?} does not fit frames of {length}", b.shape(weights)));
        }
        let weights = b.convert(weights, wide)?;
        let weights = b.broadcast(weights, &shape, &[3])?;
        frames = b.pointwise(F::Mul, &[frames, weights])?;
    }
    let matrix = transform.matrix(b, wide)?;
    let y = b.contract("bfCJ,JCKO->bfKO", frames, matrix)?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}

/// A sum of cosines over a window: `sum over m of c[m] cos(2 pi m i / n)`.
fn window(call: &mut Call, coefficients: &[f64]) -> Results {
    let size = call.number(0)?.to_i64();
    let dtype = call.dtype_or("output_datatype", DType::F32)?;
    let Some(size) = usize::try_from(size).ok().filter(|size| *size <= KNOWN_MAX) else {
        return problem(format!("{size} is no size of a window"));
    };
    // One that is no period of a longer signal ends as it begins.
    let period = if call.flag("periodic", true) { size } else { size.saturating_sub(1).max(1) };
    let turn = |at: usize| TAU * at as f64 / period as f64;
    let value = |at: usize| match size {
        1 => 1.0,
        _ => (0..).zip(coefficients).map(|(m, c)| c * (f64::from(m) * turn(at)).cos()).sum(),
    };
    let values = (0..size).map(|at| Scalar::Float(value(at)));
    Ok(vec![Value::known(Literal::from_scalars(dtype, &[size], values))])
}

/// Triangles over the frequencies of a spectrum, whose corners are evenly apart on the mel scale:
/// `mel = 2595 log10(1 + hertz / 700)`.
fn mel_weight_matrix(call: &mut Call) -> Results {
    let (filters, length) = (call.number(0)?.to_i64(), call.number(1)?.to_i64());
    let (rate, low, high) = (call.number(2)?.to_f64(), call.number(3)?.to_f64(), call.number(4)?.to_f64());
    let dtype = call.dtype_or("output_datatype", DType::F32)?;
    let bins = length.max(0) / 2 + 1;
    if filters < 0 || length < 0 || bins.saturating_mul(filters) > KNOWN_MAX as i64 {
        return problem(format!("a matrix of {filters} filters over {length} samples"));
    }
    let (filters, bins) = (filters as usize, bins as usize);
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (mel(high) - mel(low)) / (filters + 2) as f64;
    let corner = |at: usize| {
        let hertz = 700.0 * (10f64.powf((at as f64 * step + mel(low)) / 2595.0) - 1.0);
        ((length as f64 + 1.0) * hertz / rate).floor() as i64
    };
    let mut values = vec![0.0; bins * filters];
    for filter in 0..filters {
        let [left, center, right] = [0, 1, 2].map(|corner_at| corner(filter + corner_at));
        for bin in 0..bins {
            let at = bin as i64;
            values[bin * filters + filter] = match () {
                () if at == center => 1.0,
                () if at > left && at < center => (at - left) as f64 / (center - left) as f64,
                () if at > center && at < right => (right - at) as f64 / (right - center) as f64,
                () => 0.0,
            };
        }
    }
    let values = values.into_iter().map(Scalar::Float);
    Ok(vec![Value::known(Literal::from_scalars(dtype, &[bins, filters], values))])
}
