//! Random numbers, typed buffers, and an epilogue that counts.

use std::sync::atomic::{AtomicU32, Ordering};

use half::{bf16, f16};
use thalweg_kernels::{DType, Epilogue};

/// A small generator (splitmix64), so that every run sees the same cases.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Elements of some type, in memory of 8-byte alignment.
pub(crate) struct Buffer {
    words: Vec<u64>,
    dtype: DType,
}

/// What an element is, exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    Float(f64),
    Int(i64),
}

impl Value {
    /// The value of a float.
    pub(crate) fn float(self) -> f64 {
        match self {
            Value::Float(value) => value,
            Value::Int(value) => panic!("{value} is no float"),
        }
    }
}

impl Buffer {
    pub(crate) fn random(dtype: DType, len: usize, random: &mut Random) -> Buffer {
        let mut buffer = Buffer::poison(dtype, len);
        for i in 0..len {
            let bits = random.next();
            let x = (bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
            let at = buffer.ptr();
            // SAFETY: the buffer has `len` elements of this type.
            unsafe {
                match dtype {
                    DType::F32 => *at.cast::<f32>().add(i) = x as f32,
                    DType::F64 => *at.cast::<f64>().add(i) = x,
                    DType::F16 => *at.cast::<f16>().add(i) = f16::from_f64(x),
                    DType::Bf16 => *at.cast::<bf16>().add(i) = bf16::from_f64(x),
                    DType::I32 => *at.cast::<i32>().add(i) = bits as i32,
                    DType::I64 => *at.cast::<i64>().add(i) = bits as i64,
                    DType::I16 => *at.cast::<i16>().add(i) = bits as i16,
                    DType::I8 => *at.cast::<i8>().add(i) = bits as i8,
                    DType::U8 => *at.add(i) = bits as u8,
                }
            }
        }
        buffer
    }

    /// Elements that no sum produces: not a number, or an odd pattern.
    pub(crate) fn poison(dtype: DType, len: usize) -> Buffer {
        Buffer { words: vec![0xFFFF_FFFF_FFFF_FFFF; (len * dtype.bytes()).div_ceil(8) + 1], dtype }
    }

    /// Rounds every `f32` to what a bfloat16 can hold.
    pub(crate) fn round(&mut self) {
        for word in &mut self.words {
            let round = |half: u64| u64::from(bf16::from_f32(f32::from_bits(half as u32)).to_f32().to_bits());
            *word = round(*word & 0xFFFF_FFFF) | round(*word >> 32) << 32;
        }
    }

    pub(crate) fn ptr(&mut self) -> *mut u8 {
        self.words.as_mut_ptr().cast()
    }

    pub(crate) fn get(&self, i: usize) -> Value {
        assert!((i + 1) * self.dtype.bytes() <= self.words.len() * 8);
        let at = self.words.as_ptr().cast::<u8>();
        // SAFETY: the index was checked.
        unsafe {
            match self.dtype {
                DType::F32 => Value::Float(f64::from(*at.cast::<f32>().add(i))),
                DType::F64 => Value::Float(*at.cast::<f64>().add(i)),
                DType::F16 => Value::Float((*at.cast::<f16>().add(i)).to_f64()),
                DType::Bf16 => Value::Float((*at.cast::<bf16>().add(i)).to_f64()),
                DType::I32 => Value::Int(i64::from(*at.cast::<i32>().add(i))),
                DType::I64 => Value::Int(*at.cast::<i64>().add(i)),
                DType::I16 => Value::Int(i64::from(*at.cast::<i16>().add(i))),
                DType::I8 => Value::Int(i64::from(*at.cast::<i8>().add(i))),
                DType::U8 => Value::Int(i64::from(*at.add(i))),
            }
        }
    }
}

/// The sum so far plus a product.
pub(crate) fn accumulate(sum: Value, a: Value, b: Value) -> Value {
    match (sum, a, b) {
        (Value::Float(sum), Value::Float(a), Value::Float(b)) => Value::Float(sum + a * b),
        (Value::Int(sum), Value::Int(a), Value::Int(b)) => Value::Int(sum.wrapping_add(a.wrapping_mul(b))),
        _ => panic!("floats and integers in one product"),
    }
}

pub(crate) fn zero(dtype: DType) -> Value {
    match dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => Value::Float(0.0),
        DType::I32 | DType::I64 | DType::I16 | DType::I8 | DType::U8 => Value::Int(0),
    }
}

/// Whether `got` is the sum `want` of `k` products of numbers below one, in the arithmetic of `dtype`.
pub(crate) fn close(dtype: DType, k: usize, got: Value, want: Value) -> bool {
    match (got, want) {
        (Value::Float(got), Value::Float(want)) => {
            let (sum, store) = match dtype {
                DType::F64 => (f64::EPSILON, 0.0),
                DType::F16 => (f64::from(f32::EPSILON), f64::from(f16::EPSILON)),
                DType::Bf16 => (f64::from(f32::EPSILON), f64::from(bf16::EPSILON)),
                DType::F32 | DType::I32 | DType::I64 | DType::I16 | DType::I8 | DType::U8 => {
                    (f64::from(f32::EPSILON), 0.0)
                }
            };
            (got - want).abs() <= sum * (k as f64 + 1.0) * (want.abs() + 1.0) + store * want.abs()
        }
        (Value::Int(got), Value::Int(want)) => match dtype {
            DType::I32 => got == i64::from(want as i32),
            DType::I16 => got == i64::from(want as i16),
            DType::I8 => got == i64::from(want as i8),
            DType::U8 => got == i64::from(want as u8),
            DType::I64 | DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => got == want,
        },
        _ => false,
    }
}

/// How often an epilogue was given each element, and whether its tiles lay within C.
pub(crate) struct Coverage {
    extents: [usize; 3],
    counts: Vec<AtomicU32>,
    outside: AtomicU32,
    buffers: [*mut u8; 1],
}

impl Coverage {
    pub(crate) fn new(batch: usize, m: usize, n: usize) -> Box<Coverage> {
        let counts = (0..batch * m * n).map(|_| AtomicU32::new(0)).collect();
        let mut coverage = Box::new(Coverage {
            extents: [batch, m, n],
            counts,
            outside: AtomicU32::new(0),
            buffers: [std::ptr::null_mut()],
        });
        coverage.buffers[0] = (&raw mut *coverage).cast();
        coverage
    }

    pub(crate) fn epilogue(&self) -> Epilogue {
        Epilogue { function: count, buffers: self.buffers.as_ptr() }
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.outside.load(Ordering::Relaxed), 0, "a tile lies outside of C");
        for (i, count) in self.counts.iter().enumerate() {
            assert_eq!(count.load(Ordering::Relaxed), 1, "element {i} of {:?}", self.extents);
        }
    }
}

unsafe extern "C" fn count(buffers: *const *mut u8, ranges: *const i64) {
    // SAFETY: `Coverage::epilogue` passes itself, and its fields are only read here (the counts are atomic).
    let (coverage, ranges) =
        unsafe { (&*(*buffers).cast::<Coverage>().cast_const(), *ranges.cast::<[i64; 6]>()) };
    let [batch, m, n] = coverage.extents;
    let inside = |axis: usize, extent: usize| {
        0 <= ranges[2 * axis]
            && ranges[2 * axis] < ranges[2 * axis + 1]
            && ranges[2 * axis + 1] <= extent as i64
    };
    if !(inside(0, batch) && inside(1, m) && inside(2, n)) {
        coverage.outside.fetch_add(1, Ordering::Relaxed);
        return;
    }
    for b in ranges[0]..ranges[1] {
        for i in ranges[2]..ranges[3] {
            for j in ranges[4]..ranges[5] {
                let at = (b as usize * m + i as usize) * n + j as usize;
                coverage.counts[at].fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
