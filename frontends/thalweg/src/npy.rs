//! NumPy's `.npy` files (format versions 1 to 3, numpy.lib.format), read and written.
//!
//! Booleans, integers and floats of either byte order and either memory order are read. `bf16` has no name in the format and
//! is written as `f32`, which holds its values exactly.

use crate::error::{Error, Result};
use crate::storage::write_atomically;
use crate::tensor::Tensor;
use std::fs;
use std::path::Path;
use thalweg_base::{Buffer, DType, Literal};

const MAGIC: &[u8] = b"\x93NUMPY";

/// What the header of a file says.
#[derive(PartialEq, Debug)]
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Reads a file. Fails when it is not there, damaged, or holds elements of a type that tensors do not have.
pub fn read(path: impl AsRef<Path>) -> Result<Tensor> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    parse(&bytes).map_err(|message| Error::file(path, message))
}

/// Writes a file, whole or not at all.
pub fn write(path: impl AsRef<Path>, tensor: &Tensor) -> Result<()> {
    let literal = match tensor.dtype() == DType::BF16 {
        true => Literal::from_scalars(DType::F32, tensor.shape(), tensor.0.scalars()),
        false => tensor.0.clone(),
    };
    write_atomically(path.as_ref(), |file| {
        file.write_all(&header(literal.dtype(), literal.shape()))?;
        file.write_all(literal.bytes())
    })
}

/// The name of a dtype in the format.
fn descr(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::BF16 => "<f4",
        DType::F64 => "<f8",
        DType::F16 => "<f2",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I16 => "<i2",
        DType::U16 => "<u2",
        DType::I32 => "<i4",
        DType::U32 => "<u4",
        DType::I64 => "<i8",
        DType::U64 => "<u8",
        DType::Bool => "|b1",
    }
}

fn header(dtype: DType, shape: &[usize]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let sizes = match shape.len() {
        0 | 1 => sizes.trim_end(),
        _ => sizes.trim_end_matches(", "),
    };
    let mut text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({sizes}), }}", descr(dtype));
    // The data begins at a multiple of 64 bytes, and the header ends in a line feed.
    let before = MAGIC.len() + 4;
    while !(before + text.len() + 1).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> std::result::Result<Tensor, String> {
    let damaged = || "the file ends within its header".to_string();
    let rest = bytes.strip_prefix(MAGIC).ok_or("this is no .npy file")?;
    let [major, _minor, rest @ ..] = rest else { return Err(damaged()) };
    let (length, rest) = match (major, rest) {
        (1, [a, b, rest @ ..]) => (u16::from_le_bytes([*a, *b]) as usize, rest),
        (2 | 3, [a, b, c, d, rest @ ..]) => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        (1..=3, _) => return Err(damaged()),
        _ => return Err(format!("version {major} of the format is not known")),
    };
    let text = rest.get(..length).ok_or_else(damaged)?;
    let text = std::str::from_utf8(text).map_err(|_| "the header is not text")?;
    let header =
        Reader { text }.header().ok_or_else(|| format!("the header cannot be read: {}", text.trim()))?;
    let (dtype, element) = element(&header.descr)?;
    let data = &rest[length..];
    let count = header.shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
    let expected = count.and_then(|count| count.checked_mul(element.width));
    let Some(expected) = expected else {
        return Err("the shape is too large".into());
    };
    if data.len() != expected {
        return Err(format!(
            "{} bytes of data are there, but shape {:?} of {} needs {expected}",
            data.len(),
            header.shape,
            header.descr
        ));
    }
    let position = |index: usize| match header.fortran_order {
        true => fortran(index, &header.shape),
        false => index,
    };
    let plain = !header.fortran_order && !element.swap;
    let mut values = Buffer::zeroed(expected);
    match plain {
        true => values.as_mut().copy_from_slice(data),
        false => {
            for (index, value) in values.as_mut().chunks_exact_mut(element.width).enumerate() {
                let at = position(index) * element.width;
                value.copy_from_slice(&data[at..at + element.width]);
                if element.swap {
                    value.reverse();
                }
            }
        }
    }
    if dtype == DType::Bool {
        values.as_mut().iter_mut().for_each(|byte| *byte = (*byte != 0) as u8);
    }
    Ok(Tensor(Literal::from_bytes(dtype, &header.shape, values).map_err(|error| error.to_string())?))
}

/// How an element lies in a file.
struct FileElement {
    /// Bytes of one element.
    width: usize,
    /// Whether the bytes are in the other order.
    swap: bool,
}

fn element(descr: &str) -> std::result::Result<(DType, FileElement), String> {
    let (order, kind) = descr.split_at(descr.len().min(1));
    let swap = order == ">";
    let dtype = match kind {
        "f4" => DType::F32,
        "f8" => DType::F64,
        "f2" => DType::F16,
        "i1" => DType::I8,
        "u1" => DType::U8,
        "i2" => DType::I16,
        "u2" => DType::U16,
        "i4" => DType::I32,
        "u4" => DType::U32,
        "i8" => DType::I64,
        "u8" => DType::U64,
        "b1" => DType::Bool,
        _ => {
            let known = "f2, f4, f8, i1, i2, i4, i8, u1, u2, u4, u8 and b1";
            return Err(format!(
                "elements of type `{descr}` cannot be read; convert the array to one of {known}"
            ));
        }
    };
    let width = dtype.size_bytes();
    Ok((dtype, FileElement { width, swap }))
}

/// The position in column-major order of what is at `index` in row-major order.
fn fortran(mut index: usize, shape: &[usize]) -> usize {
    let mut at = vec![0; shape.len()];
    for (dim, size) in shape.iter().enumerate().rev() {
        at[dim] = index % size;
        index /= size;
    }
    at.iter().zip(shape).rev().fold(0, |flat, (at, size)| flat * size + at)
}

/// Reads the Python dictionary of a header.
struct Reader<'a> {
    text: &'a str,
}

impl<'a> Reader<'a> {
    fn header(mut self) -> Option<Header> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect("{")?;
        while self.expect("}").is_none() {
            let key = self.string()?;
            self.expect(":")?;
            match key {
                "descr" => descr = Some(self.string()?.to_string()),
                "fortran_order" => fortran_order = Some(self.truth()?),
                "shape" => shape = Some(self.tuple()?),
                _ => return None,
            }
            if self.expect(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        Some(Header { descr: descr?, fortran_order: fortran_order?, shape: shape? })
    }

    fn expect(&mut self, what: &str) -> Option<()> {
        self.text = self.text.trim_start().strip_prefix(what)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let text = self.text.trim_start();
        let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
        let (inner, rest) = text[1..].split_once(quote)?;
        self.text = rest;
        Some(inner)
    }

    fn truth(&mut self) -> Option<bool> {
        if self.expect("True").is_some() {
            return Some(true);
        }
        self.expect("False").map(|()| false)
    }

    fn tuple(&mut self) -> Option<Vec<usize>> {
        self.expect("(")?;
        let (inner, rest) = self.text.split_once(')')?;
        self.text = rest;
        let sizes = inner.split(',').map(str::trim).filter(|size| !size.is_empty());
        // Python 2 wrote long integers as `3L`.
        sizes.map(|size| size.trim_end_matches('L').parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn headers_are_as_numpy_writes_them() {
        for shape in [&[][..], &[3], &[2, 3], &[0, 4]] {
            let bytes = header(DType::F32, shape);
            assert_eq!(bytes.len() % 64, 0);
            assert_eq!(bytes.last(), Some(&b'\n'));
        }
        let text =
            |shape: &[usize]| String::from_utf8_lossy(&header(DType::I64, shape)[10..]).trim().to_string();
        assert_eq!(text(&[]), "{'descr': '<i8', 'fortran_order': False, 'shape': (), }");
        assert_eq!(text(&[3]), "{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }");
        assert_eq!(text(&[2, 3]), "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3), }");
    }

    #[test]
    fn both_orders_of_bytes_and_dims_are_read() {
        let head = "{'descr': '>i4', 'fortran_order': True, 'shape': (2, 3), }";
        // Column-major [[1, 2, 3], [4, 5, 6]].
        let data: Vec<u8> = [1i32, 4, 2, 5, 3, 6].iter().flat_map(|value| value.to_be_bytes()).collect();
        for version in [1, 2, 3] {
            let tensor = parse(&file(version, head, &data)).unwrap();
            assert_eq!(
                (tensor.shape(), tensor.to_vec::<i32>().unwrap()),
                (&[2, 3][..], vec![1, 2, 3, 4, 5, 6])
            );
        }
    }

    #[test]
    fn damage_is_told() {
        let head = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        let whole = file(1, head, &[0; 8]);
        assert!(parse(&whole).is_ok());
        for end in 0..whole.len() {
            parse(&whole[..end]).unwrap_err();
        }
        let strange = [
            "{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '', 'fortran_order': False, 'shape': (2,), }",
            "{'descr': '<f4', 'shape': (2,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }",
        ];
        for head in strange {
            parse(&file(1, head, &[0; 8])).unwrap_err();
        }
    }
}
