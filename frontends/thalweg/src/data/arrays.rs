//! Arrays of NumPy: a folder with a file for each column, whose first dim counts the rows.
//!
//! `data.x` is the file `x.npy`, and so for every column that the program names. Values of another type than the column's are
//! converted: floats are rounded, integers become floats; of floats no integers are made.

use super::{Read, Request, Table};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use std::io::{Error as IoError, ErrorKind};
use std::path::PathBuf;
use thalweg_base::literal::write_scalar;
use thalweg_lang::Column;

pub(super) fn read(request: &mut Request) -> Result<Read> {
    let mut tables = Vec::new();
    let mut rows: Option<(usize, &str)> = None;
    let columns = request.columns;
    for column in columns {
        let path = locate(request, &column.name)?;
        let array = crate::npy::read(&path)?;
        let [count, row_shape @ ..] = array.shape() else {
            return Err(Error::file(&path, "a scalar has no rows"));
        };
        match rows {
            Some((others, name)) if others != *count => {
                let own = &column.name;
                let message = format!("`{name}.npy` has {others} rows, `{own}.npy` has {count}");
                return Err(Error::Data(message));
            }
            Some(_) | None => rows = Some((*count, &column.name)),
        }
        let row_shape = request.row_shape(column, row_shape)?;
        tables.push(Table::plain(column.ty.dtype, row_shape, converted(&array, column)?));
    }
    Ok(Read { tables, rows: rows.map_or(0, |(count, _)| count), test_rows: 0 })
}

fn locate(request: &Request, column: &str) -> Result<PathBuf> {
    let folder = request.needed_string("path")?;
    let path = request.folder.join(folder).join(format!("{column}.npy"));
    match path.is_file() {
        true => Ok(path),
        false => Err(Error::Io {
            action: "read",
            path,
            source: IoError::new(ErrorKind::NotFound, "there is no such file"),
            hint: Some(format!("`npy` takes `data.{column}` from a file of that name")),
        }),
    }
}

/// The storage bytes of an array as elements of a column.
fn converted(array: &Tensor, column: &Column) -> Result<Vec<u8>> {
    let (from, to) = (array.dtype(), column.ty.dtype);
    if from == to {
        return Ok(array.bytes().to_vec());
    }
    if from.is_float() && !to.is_float() {
        let name = &column.name;
        return Err(Error::Data(format!(
            "`{name}.npy` has elements of type {from}, but `data.{name}` is {to}"
        )));
    }
    let mut bytes = Vec::with_capacity(array.len() * to.size_bytes());
    for scalar in array.0.scalars() {
        let scalar = match to.is_float() {
            true => thalweg_base::Scalar::Float(scalar.to_f64()),
            false => scalar,
        };
        write_scalar(to, scalar, &mut bytes);
    }
    Ok(bytes)
}
