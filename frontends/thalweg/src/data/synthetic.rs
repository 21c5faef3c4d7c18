//! Made-up data that can be learnt: for speed measurements, and for programs whose data is not at hand.
//!
//! Floats are standard normal, integers uniform in `0..classes`. A column `y` of integers follows from the first column: for
//! floats, which of `classes` random directions the row points along most; for integers of as many elements, the next class in
//! a fixed random order; for other integers, that of their first element.

use super::{Read, Request, Table};
use crate::error::{Error, Result};
use thalweg_base::literal::write_scalar;
use thalweg_base::{Scalar, random};
use thalweg_lang::Column;

pub(super) fn read(request: &mut Request) -> Result<Read> {
    let rows = request.count("rows")?.ok_or_else(|| Error::Data("`rows` is not given".into()))?;
    let classes = request.count("classes")?.unwrap_or(2);
    let (seed, columns) = (request.seed, request.columns);
    let mut first: Option<(Vec<f64>, bool)> = None;
    let mut tables = Vec::new();
    for column in columns {
        let shape = sizes(request, column)?;
        let width: usize = shape.iter().product();
        let dtype = column.ty.dtype;
        let values = match &first {
            Some((x, floats)) if column.name == "y" && !dtype.is_float() => {
                derived(seed, x, *floats, rows, width, classes)
            }
            _ => drawn(seed, &column.name, rows * width, (!dtype.is_float()).then_some(classes)),
        };
        let mut bytes = Vec::with_capacity(values.len() * dtype.size_bytes());
        for value in &values {
            let scalar = match dtype.is_float() {
                true => Scalar::Float(*value),
                false => Scalar::Int(*value as i128),
            };
            write_scalar(dtype, scalar, &mut bytes);
        }
        tables.push(Table::plain(dtype, shape, bytes));
        first.get_or_insert((values, dtype.is_float()));
    }
    Ok(Read { tables, rows, test_rows: 0 })
}

fn sizes(request: &Request, column: &Column) -> Result<Vec<usize>> {
    let dims = column.ty.shape.get(1..).unwrap_or_default();
    let size = |dim: &thalweg_base::Dim| {
        let size =
            dim.substitute(&request.bindings).as_constant().and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| {
            let message = format!(
                "the size `{dim}` of `data.{}` has no value; give one with --set {dim}=…",
                column.name
            );
            Error::Data(message)
        })
    };
    dims.iter().map(size).collect()
}

/// Values by counter: classes, or standard normal.
fn drawn(seed: u64, name: &str, count: usize, classes: Option<usize>) -> Vec<f64> {
    let key = random::key_for(seed, &format!("data.synthetic.{name}"));
    let value = |index: usize| {
        let words = random::threefry2x32(key, [index as u32, (index as u64 >> 32) as u32]);
        match classes {
            Some(classes) => ((words[0] as u64 * classes as u64) >> 32) as f64,
            None => random::normal(words),
        }
    };
    (0..count).map(value).collect()
}

fn derived(seed: u64, x: &[f64], floats: bool, rows: usize, width: usize, classes: usize) -> Vec<f64> {
    let features = x.len() / rows;
    if floats {
        let directions = drawn(seed, "directions", classes * features, None);
        let class = |row: &[f64]| {
            let along = |class: usize| -> f64 {
                row.iter().zip(&directions[class * features..]).map(|(x, direction)| x * direction).sum()
            };
            (0..classes).max_by(|a, b| along(*a).total_cmp(&along(*b))).unwrap_or(0) as f64
        };
        return x.chunks_exact(features.max(1)).flat_map(|row| vec![class(row); width]).collect();
    }
    let mut next: Vec<f64> = (0..classes).map(|class| class as f64).collect();
    super::permute(&mut next, random::key_for(seed, "data.synthetic.next"));
    let of = |value: &f64| next[*value as usize];
    match features == width {
        true => x.iter().map(of).collect(),
        false => {
            x.chunks_exact(features.max(1)).flat_map(|row| vec![row.first().map_or(0.0, of); width]).collect()
        }
    }
}
