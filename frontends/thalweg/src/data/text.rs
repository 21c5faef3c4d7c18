//! Text as a sequence of bytes, for models that predict the next one.
//!
//! Row `r` is the window of bytes from `r * window` on: `data.x` these bytes as numbers from 0 to 255, `data.y` the byte after
//! each. What is left at the end, less than a window, is not used.

use super::{Read, Request, Source, Table, meanings, read_bytes};
use crate::error::{Error, Result};
use std::sync::Arc;

pub(super) fn read(request: &mut Request) -> Result<Read> {
    let path = request.locate(request.needed_string("path")?, &[], None)?;
    let window = request.count("window")?.ok_or_else(|| Error::Data("`window` is not given".into()))?;
    let codes: Arc<[u8]> = read_bytes(&path)?.into();
    let rows = codes.len().saturating_sub(1) / window;
    if rows == 0 {
        let message = format!(
            "the text has {} bytes, too few for a window of {window} and the byte after",
            codes.len()
        );
        return Err(Error::file(&path, message));
    }
    let mut tables = Vec::new();
    for column in request.columns {
        let shift = match column.name.as_str() {
            "x" => 0,
            "y" => 1,
            name => {
                return Err(Error::Data(format!(
                    "`text` gives `data.x` and `data.y`; there is no `data.{name}`"
                )));
            }
        };
        let row_shape = request.row_shape(column, &[window])?;
        let dtype = column.ty.dtype;
        let source = Source::Windows { codes: codes.clone(), window, shift, meaning: meanings(dtype, None) };
        tables.push(Table { dtype, row_shape, source });
    }
    Ok(Read { tables, rows, test_rows: 0 })
}
