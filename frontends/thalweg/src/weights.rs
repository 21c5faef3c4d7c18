//! Named tensors in safetensors files (huggingface.co/docs/safetensors: a header of JSON, then the bytes).
//!
//! Tensors are read one after the other straight into their memory, so a file is never in memory twice, and a file that is
//! cut short or vanishes while it is read is an error as any other. Names are the scope paths of parameters and states, such
//! as `block.0.attention.qkv.weight`.

use crate::error::{Error, Result};
use crate::storage::write_atomically;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use thalweg_base::{DType, Literal};

/// Tensors by name.
pub type Weights = BTreeMap<String, Literal>;

/// The longest header that is read: that of the reference implementation.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// What a header says of one tensor.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// A safetensors file: tensors by name, and texts by key.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TensorFile {
    /// The tensors.
    pub tensors: Weights,
    /// The texts.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a file. Fails when it is not there or damaged, or has elements of a type that tensors do not have.
pub fn read(path: impl AsRef<Path>) -> Result<TensorFile> {
    let path = path.as_ref();
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let damaged = |message: &str| Error::file(path, format!("this is no whole safetensors file: {message}"));
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).map_err(|_| damaged("it has no header"))?;
    let header_bytes = u64::from_le_bytes(prefix);
    if header_bytes > HEADER_BYTES_MAX || header_bytes > length - 8 {
        return Err(damaged("the header would be longer than the file"));
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_exact(&mut header).map_err(Error::io("read", path))?;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&header)
        .map_err(|error| damaged(&format!("its header is damaged ({error})")))?;
    let mut result = TensorFile::default();
    let data_start = 8 + header_bytes;
    let mut entries = Vec::new();
    for (name, value) in header {
        if name == "__metadata__" {
            result.metadata = serde_json::from_value(value)
                .map_err(|error| damaged(&format!("its metadata is damaged ({error})")))?;
            continue;
        }
        let entry: Entry = serde_json::from_value(value)
            .map_err(|error| damaged(&format!("the entry of `{name}` is damaged ({error})")))?;
        entries.push((name, entry));
    }
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut end = 0;
    for (name, entry) in entries {
        let dtype = dtype_of(&entry.dtype).ok_or_else(|| {
            Error::file(
                path,
                format!("`{name}` has elements of type {}, which tensors do not have", entry.dtype),
            )
        })?;
        let [from, to] = entry.data_offsets;
        let expected = entry
            .shape
            .iter()
            .try_fold(dtype.size_bytes() as u64, |bytes, size| bytes.checked_mul(*size as u64));
        if from != end || to < from || expected != Some(to - from) {
            return Err(damaged(&format!("the place of `{name}` does not fit its shape {:?}", entry.shape)));
        }
        if data_start.checked_add(to).is_none_or(|to| to > length) {
            return Err(damaged(&format!("it ends before `{name}` does")));
        }
        end = to;
        let mut bytes = vec![0; (to - from) as usize];
        file.seek(SeekFrom::Start(data_start + from)).map_err(Error::io("read", path))?;
        file.read_exact(&mut bytes).map_err(Error::io("read", path))?;
        if dtype == DType::Bool && bytes.iter().any(|byte| *byte > 1) {
            return Err(damaged(&format!("`{name}` has truth values other than 0 and 1")));
        }
        let literal = Literal::from_bytes(dtype, &entry.shape, bytes).expect("the length was compared");
        result.tensors.insert(name, literal);
    }
    if data_start + end != length {
        return Err(damaged("bytes follow the last tensor"));
    }
    Ok(result)
}

/// Writes a file, whole or not at all.
pub fn write(path: impl AsRef<Path>, file: &TensorFile) -> Result<()> {
    write_atomically(path.as_ref(), |to| write_to(to, file))
}

pub(crate) fn write_to(to: &mut dyn Write, file: &TensorFile) -> io::Result<()> {
    // As the reference implementation does: the widest elements first, so that every tensor is aligned, then by name.
    let mut order: Vec<(&String, &Literal)> = file.tensors.iter().collect();
    order.sort_by_key(|(name, literal)| (std::cmp::Reverse(literal.dtype().size_bytes()), *name));
    let mut header = serde_json::Map::new();
    if !file.metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::to_value(&file.metadata)?);
    }
    let mut offset = 0;
    for (name, literal) in &order {
        let end = offset + literal.bytes().len() as u64;
        let dtype = dtype_name(literal.dtype()).to_string();
        let entry = Entry { dtype, shape: literal.shape().to_vec(), data_offsets: [offset, end] };
        header.insert((*name).clone(), serde_json::to_value(entry)?);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    while header.len() % 8 != 0 {
        header.push(b' ');
    }
    to.write_all(&(header.len() as u64).to_le_bytes())?;
    to.write_all(&header)?;
    order.iter().try_for_each(|(_, literal)| to.write_all(literal.bytes()))
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F64 => "F64",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::I8 => "I8",
        DType::U8 => "U8",
        DType::I16 => "I16",
        DType::U16 => "U16",
        DType::I32 => "I32",
        DType::U32 => "U32",
        DType::I64 => "I64",
        DType::U64 => "U64",
        DType::Bool => "BOOL",
    }
}

fn dtype_of(name: &str) -> Option<DType> {
    DType::ALL.into_iter().find(|dtype| dtype_name(*dtype) == name)
}

/// One parameter or state as weights must have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Expected<'a> {
    pub name: &'a str,
    pub dtype: DType,
    /// Sizes that are not known yet are `None` and fit any.
    pub shape: Vec<Option<usize>>,
    /// Parameters must be given; states begin anew where they are not.
    pub required: bool,
}

/// Compares weights with what a model expects, and lists everything that does not fit.
pub(crate) fn misfits<'a>(
    weights: &Weights,
    expected: impl IntoIterator<Item = Expected<'a>>,
) -> Vec<String> {
    let mut problems = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    for Expected { name, dtype, shape, required } in expected {
        known.insert(name.to_string());
        let Some(found) = weights.get(name) else {
            if required {
                problems.push(format!("`{name}` is not there"));
            }
            continue;
        };
        let same = found.shape().len() == shape.len()
            && found.shape().iter().zip(&shape).all(|(found, size)| size.is_none_or(|size| size == *found));
        if found.dtype() != dtype || !same {
            let sizes: Vec<String> =
                shape.iter().map(|size| size.map_or("_".into(), |size| size.to_string())).collect();
            let sizes = sizes.join(", ");
            problems.push(format!(
                "`{name}` is {}{:?}, but {dtype}[{sizes}] is needed",
                found.dtype(),
                found.shape()
            ));
        }
    }
    problems.extend(
        weights
            .keys()
            .filter(|name| !known.contains(*name))
            .map(|name| format!("`{name}` is no parameter or state of the model")),
    );
    problems
}
