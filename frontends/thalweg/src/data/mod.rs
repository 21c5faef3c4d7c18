//! Data for training: readers, the split into training and test rows, and batches.
//!
//! A reader gives one table per column that the program uses. All rows are in memory, in the narrowest form that the file
//! has: pictures stay bytes until a batch needs them as floats.
//!
//! Paths are relative to the folder of the program; a file that is not there is looked for in the folder `data` beside it,
//! then with `.gz` appended to its name.

mod arrays;
mod csv;
mod idx;
mod synthetic;
mod text;

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use thalweg_base::{Bindings, DType, Dim, random};
use thalweg_lang::{Column, DataSpec, StaticValue};

/// The values of one column.
pub(crate) struct Table {
    dtype: DType,
    row_shape: Vec<usize>,
    source: Source,
}

/// How the values are held.
enum Source {
    /// The storage bytes of all rows.
    Plain(Vec<u8>),
    /// One byte for each element, and what each byte stands for.
    Coded { codes: Vec<u8>, meaning: Vec<u8> },
    /// Row `r` is the bytes from `r * window + shift` on, as codes.
    Windows { codes: std::sync::Arc<[u8]>, window: usize, shift: usize, meaning: Vec<u8> },
}

/// Data that has been read and split.
pub(crate) struct Dataset {
    /// The columns, in the order of the specification.
    pub names: Vec<String>,
    pub tables: Vec<Table>,
    /// Rows to train on.
    pub train: Vec<usize>,
    /// Rows to test on.
    pub test: Vec<usize>,
    /// Whether each epoch has its own order.
    pub shuffle: bool,
    /// Sizes that the data fixes, those of batches not among them.
    pub bindings: Bindings,
}

/// What a reader gives: tables for the columns asked for, and how many rows are set apart for testing by the data itself.
pub(crate) struct Read {
    tables: Vec<Table>,
    rows: usize,
    /// The last of the rows, where there are test files.
    test_rows: usize,
}

/// What readers are given.
pub(crate) struct Request<'a> {
    columns: &'a [Column],
    options: &'a BTreeMap<String, StaticValue>,
    folder: &'a Path,
    seed: u64,
    bindings: Bindings,
}

impl Dataset {
    /// Reads the data that a program asks for. `folder` is that of the program. The same rows are held out whatever the seed,
    /// so that trainings of different seeds are tested alike; the seed is for data that is made up.
    pub fn load(spec: &DataSpec, folder: &Path, seed: u64) -> Result<Dataset> {
        let mut request = Request {
            columns: &spec.columns,
            options: &spec.options,
            folder,
            seed,
            bindings: Bindings::new(),
        };
        let read = match spec.reader.as_str() {
            "csv" => csv::read(&mut request),
            "idx" => idx::read(&mut request),
            "npy" => arrays::read(&mut request),
            "text" => text::read(&mut request),
            "synthetic" => synthetic::read(&mut request),
            other => Err(Error::Data(format!("there is no reader `{other}`"))),
        }?;
        let shuffle = request.truth("shuffle")?.unwrap_or(true);
        let holdout = request.number("holdout")?.unwrap_or(0.0);
        if !(0.0..1.0).contains(&holdout) {
            return Err(Error::Data(format!(
                "`holdout` is the share of test rows, from 0 to below 1, not {holdout}"
            )));
        }
        let given = read.rows - read.test_rows;
        let mut train: Vec<usize> = (0..given).collect();
        let mut test: Vec<usize> = (given..read.rows).collect();
        let held = (given as f64 * holdout).round() as usize;
        if held > 0 {
            // Rows in an order that matters are not mixed: the last ones are held out.
            if shuffle {
                permute(&mut train, random::key_for(0, "data.holdout"));
            }
            let mut chosen = train.split_off(given - held);
            chosen.sort_unstable();
            train.sort_unstable();
            chosen.append(&mut test);
            test = chosen;
        }
        if train.is_empty() {
            return Err(Error::Data("there are no rows to train on".into()));
        }
        Ok(Dataset {
            names: spec.columns.iter().map(|column| column.name.clone()).collect(),
            tables: read.tables,
            train,
            test,
            shuffle,
            bindings: request.bindings,
        })
    }

    /// The rows of an epoch (from 0) in the order in which they are trained on.
    pub fn order(&self, seed: u64, epoch: usize) -> Vec<usize> {
        let mut rows = self.train.clone();
        if self.shuffle {
            permute(&mut rows, random::key_for(seed, &format!("data.epoch.{epoch}")));
        }
        rows
    }

    /// The table of a column.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.names.iter().position(|own| own == name).map(|at| &self.tables[at])
    }
}

/// Brings values into an order that depends on the key only: Fisher and Yates, drawing by counter. The place drawn is
/// uniform up to `len / 2^64`.
fn permute<T>(values: &mut [T], key: [u32; 2]) {
    for last in (1..values.len()).rev() {
        let words = random::threefry2x32(key, [last as u32, (last as u64 >> 32) as u32]);
        let word = words[0] as u128 | (words[1] as u128) << 32;
        let at = (word * (last as u128 + 1)) >> 64;
        values.swap(last, at as usize);
    }
}

impl Table {
    fn plain(dtype: DType, row_shape: Vec<usize>, bytes: Vec<u8>) -> Table {
        Table { dtype, row_shape, source: Source::Plain(bytes) }
    }

    fn coded(dtype: DType, row_shape: Vec<usize>, codes: Vec<u8>, meaning: Vec<u8>) -> Table {
        Table { dtype, row_shape, source: Source::Coded { codes, meaning } }
    }

    /// The dtype of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape of a batch of that many rows.
    pub fn batch_shape(&self, rows: usize) -> Vec<usize> {
        [&[rows], &self.row_shape[..]].concat()
    }

    /// The storage bytes of the given rows, one below the other, in place of what was in `bytes`.
    pub fn gather(&self, rows: &[usize], bytes: &mut Vec<u8>) {
        let width: usize = self.row_shape.iter().product();
        let size = self.dtype.size_bytes();
        bytes.clear();
        bytes.reserve(rows.len() * width * size);
        for row in rows {
            match &self.source {
                Source::Plain(all) => {
                    bytes.extend_from_slice(&all[row * width * size..(row + 1) * width * size])
                }
                Source::Coded { codes, meaning } => {
                    decode(&codes[row * width..(row + 1) * width], meaning, size, bytes);
                }
                Source::Windows { codes, window, shift, meaning } => {
                    let start = row * window + shift;
                    decode(&codes[start..start + window], meaning, size, bytes);
                }
            }
        }
    }
}

/// Appends what codes mean, each `size` bytes.
fn decode(codes: &[u8], meaning: &[u8], size: usize, bytes: &mut Vec<u8>) {
    match size {
        // The usual width as a constant, which makes the copy one instruction.
        4 => codes.iter().for_each(|code| bytes.extend_from_slice(&meaning[*code as usize * 4..][..4])),
        _ => codes.iter().for_each(|code| bytes.extend_from_slice(&meaning[*code as usize * size..][..size])),
    }
}

impl Request<'_> {
    /// The shape of one row of a column whose file has rows of `found`. The same elements under another shape fit too; sizes
    /// that the program leaves open are taken from the data.
    fn row_shape(&mut self, column: &Column, found: &[usize]) -> Result<Vec<usize>> {
        let dims = column.ty.shape.get(1..).unwrap_or_default();
        let wanted = crate::signature::bind_dims(dims, found, &mut self.bindings);
        match wanted {
            true => Ok(found.to_vec()),
            false => {
                let sizes: Option<Vec<usize>> = dims
                    .iter()
                    .map(|dim| {
                        dim.substitute(&self.bindings).as_constant().and_then(|size| size.try_into().ok())
                    })
                    .collect();
                let count: usize = found.iter().product();
                sizes.filter(|sizes| sizes.iter().product::<usize>() == count).ok_or_else(|| {
                    let wanted: Vec<String> = dims.iter().map(Dim::to_string).collect();
                    Error::Data(format!(
                        "a row of `data.{}` is [{}], but the data has rows of {found:?}",
                        column.name,
                        wanted.join(", ")
                    ))
                })
            }
        }
    }

    fn option(&self, name: &str) -> Option<&StaticValue> {
        self.options.get(name)
    }

    fn wrong<T>(&self, name: &str, wanted: &str) -> Result<T> {
        Err(Error::Data(format!("`{name}` is {wanted}")))
    }

    fn string(&self, name: &str) -> Result<Option<&str>> {
        match self.option(name) {
            None => Ok(None),
            Some(StaticValue::Str(text)) => Ok(Some(text)),
            Some(_) => self.wrong(name, "a string"),
        }
    }

    fn needed_string(&self, name: &str) -> Result<&str> {
        self.string(name)?.ok_or_else(|| Error::Data(format!("`{name}` is not given")))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        match self.option(name) {
            None => Ok(None),
            Some(StaticValue::Int(value)) => Ok(Some(*value as f64)),
            Some(StaticValue::Float(value)) => Ok(Some(*value)),
            Some(_) => self.wrong(name, "a number"),
        }
    }

    fn count(&self, name: &str) -> Result<Option<usize>> {
        match self.option(name) {
            None => Ok(None),
            Some(StaticValue::Int(value)) if *value > 0 => Ok(Some(*value as usize)),
            Some(_) => self.wrong(name, "an integer, at least 1"),
        }
    }

    fn truth(&self, name: &str) -> Result<Option<bool>> {
        match self.option(name) {
            None => Ok(None),
            Some(StaticValue::Bool(value)) => Ok(Some(*value)),
            Some(_) => self.wrong(name, "true or false"),
        }
    }

    /// Where a file of that name is: beside the program, in `data` beside it, or in `also`; as it is or compressed.
    fn find(&self, name: &str, also: &[&str]) -> Option<PathBuf> {
        let folders = [self.folder.to_path_buf(), self.folder.join("data")];
        let folders = folders.into_iter().chain(also.iter().map(PathBuf::from));
        folders
            .flat_map(|folder| [folder.join(name), folder.join(format!("{name}.gz"))])
            .find(|path| path.is_file())
    }

    /// As [`find`](Self::find); a file that is nowhere is an error that says where it should be.
    fn locate(&self, name: &str, also: &[&str], hint: Option<String>) -> Result<PathBuf> {
        self.find(name, also).ok_or_else(|| Error::Io {
            action: "read",
            path: self.folder.join(name),
            source: std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such file"),
            hint,
        })
    }
}

/// The contents of a file, decompressed when its name ends in `.gz`.
fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(&bytes[..])
            .read_to_end(&mut plain)
            .map_err(|error| Error::file(path, format!("the compressed file is damaged ({error})")))?;
        bytes = plain;
    }
    Ok(bytes)
}

/// What each of 256 byte values is, times `scale`, in storage bytes of a dtype.
fn meanings(dtype: DType, scale: Option<f64>) -> Vec<u8> {
    let mut meaning = Vec::with_capacity(256 * dtype.size_bytes());
    for code in 0..256 {
        thalweg_base::literal::write_scalar(dtype, scaled(code as f64, dtype, scale), &mut meaning);
    }
    meaning
}

/// A value of the data as a scalar of a dtype; `scale` is for floats.
fn scaled(value: f64, dtype: DType, scale: Option<f64>) -> thalweg_base::Scalar {
    match dtype.is_float() {
        true => thalweg_base::Scalar::Float(value * scale.unwrap_or(1.0)),
        false => thalweg_base::Scalar::Int(value as i128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_complete_and_differ_by_key() {
        let of = |key| {
            let mut values: Vec<usize> = (0..100).collect();
            permute(&mut values, key);
            values
        };
        let (a, b) = (of([1, 2]), of([1, 3]));
        assert_ne!(a, b);
        assert_eq!(a, of([1, 2]));
        let mut sorted = a.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        // Of 100 values of a random permutation one stays in place on average; more than ten would be no accident.
        assert!(a.iter().enumerate().filter(|(at, value)| at == *value).count() < 10);
    }
}
