//! Tables of text: a header line, then rows of fields between separators.
//!
//! `data.y` is the column that `target` names, `data.x` all columns that no other name takes, and any other name is the column
//! with this header. `scale` is a factor for `x` where it is a float. Fields may be quoted by `"`, doubled within.
//! Targets that are words are numbered in the order of the alphabet.

use super::{Read, Request, Table, read_bytes, scaled};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::path::Path;
use thalweg_base::DType;
use thalweg_base::literal::write_scalar;
use thalweg_lang::Column;

/// The fields of a file.
struct Sheet<'a> {
    path: &'a Path,
    header: Vec<String>,
    /// The line of each row, and its fields.
    rows: Vec<(usize, Vec<String>)>,
}

pub(super) fn read(request: &mut Request) -> Result<Read> {
    let path = request.locate(request.needed_string("path")?, &[], None)?;
    let separator = match request.string("separator")?.unwrap_or(",").as_bytes() {
        [one] if !matches!(one, b'"' | b'\n' | b'\r') => *one,
        _ => return Err(Error::Data("`separator` is one character, such as `;`".into())),
    };
    let bytes = read_bytes(&path)?;
    let sheet = parse(&path, &bytes, separator)?;
    let target = sheet.column(request.needed_string("target")?)?;
    let scale = request.number("scale")?;
    let mut named = BTreeSet::from([target]);
    for column in request.columns.iter().filter(|column| column.name != "x" && column.name != "y") {
        named.insert(sheet.column(&column.name)?);
    }
    let features: Vec<usize> = (0..sheet.header.len()).filter(|at| !named.contains(at)).collect();
    let mut tables = Vec::new();
    for column in request.columns {
        let (places, scale, found) = match column.name.as_str() {
            "x" if features.is_empty() => {
                return Err(Error::file(&path, "there are no columns besides the target"));
            }
            "x" => (features.clone(), scale, vec![features.len()]),
            "y" => (vec![target], None, vec![]),
            name => (vec![sheet.column(name)?], None, vec![]),
        };
        let row_shape = request.row_shape(column, &found)?;
        let bytes = sheet.values(column, &places, scale)?;
        tables.push(Table::plain(column.ty.dtype, row_shape, bytes));
    }
    Ok(Read { tables, rows: sheet.rows.len(), test_rows: 0 })
}

impl Sheet<'_> {
    fn column(&self, name: &str) -> Result<usize> {
        let at = self.header.iter().position(|own| own == name);
        at.ok_or_else(|| {
            let columns = match self.header.len() {
                0..=12 => self.header.join(", "),
                count => format!("{}, … {} ({count})", self.header[..8].join(", "), self.header[count - 1]),
            };
            Error::file(self.path, format!("there is no column `{name}`; the columns are {columns}"))
        })
    }

    /// The storage bytes of some columns, row by row.
    fn values(&self, column: &Column, places: &[usize], scale: Option<f64>) -> Result<Vec<u8>> {
        let dtype = column.ty.dtype;
        let words = match column.name.as_str() {
            "x" => None,
            _ => self.classes(places[0]),
        };
        let mut bytes = Vec::with_capacity(self.rows.len() * places.len() * dtype.size_bytes());
        for (line, fields) in &self.rows {
            for place in places {
                let field = fields[*place].trim();
                let value = match &words {
                    Some(words) => words.binary_search(&field).expect("every field was collected") as f64,
                    None => field.parse().map_err(|_| {
                        let name = &self.header[*place];
                        Error::line(
                            self.path,
                            *line,
                            format!("`{field}` in the column `{name}` is no number"),
                        )
                    })?,
                };
                if !dtype.is_float() && (value.fract() != 0.0 || !fits(value, dtype)) {
                    let name = &self.header[*place];
                    let message = format!("`{field}` in the column `{name}` is not of type {dtype}");
                    return Err(Error::line(self.path, *line, message));
                }
                write_scalar(dtype, scaled(value, dtype, scale), &mut bytes);
            }
        }
        Ok(bytes)
    }

    /// The words of a column none of whose fields is a number, sorted.
    fn classes(&self, place: usize) -> Option<Vec<&str>> {
        let fields = || self.rows.iter().map(|(_, fields)| fields[place].trim());
        if self.rows.is_empty() || fields().any(|field| field.is_empty() || field.parse::<f64>().is_ok()) {
            return None;
        }
        Some(fields().collect::<BTreeSet<_>>().into_iter().collect())
    }
}

/// Whether a whole number can be held by an integer dtype.
fn fits(value: f64, dtype: DType) -> bool {
    let (low, high) = match dtype {
        DType::I8 => (i8::MIN as f64, i8::MAX as f64),
        DType::U8 => (0.0, u8::MAX as f64),
        DType::I16 => (i16::MIN as f64, i16::MAX as f64),
        DType::U16 => (0.0, u16::MAX as f64),
        DType::I32 => (i32::MIN as f64, i32::MAX as f64),
        DType::U32 => (0.0, u32::MAX as f64),
        DType::Bool => (0.0, 1.0),
        // Integers beyond 2^53 are not read exactly.
        DType::U64 => (0.0, 2f64.powi(53)),
        DType::I64 | DType::F32 | DType::F64 | DType::F16 | DType::BF16 => (-(2f64.powi(53)), 2f64.powi(53)),
    };
    (low..=high).contains(&value)
}

fn parse<'a>(path: &'a Path, bytes: &[u8], separator: u8) -> Result<Sheet<'a>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut records = Records { path, bytes, at: 0, line: 1, separator };
    let header = match records.next()? {
        Some((_, fields)) => fields.iter().map(|field| field.trim().to_string()).collect::<Vec<_>>(),
        None => return Err(Error::file(path, "the file is empty; a header line was expected")),
    };
    let mut rows = Vec::new();
    while let Some((line, fields)) = records.next()? {
        if fields.len() != header.len() {
            let message = format!("the row has {} fields, the header {}", fields.len(), header.len());
            return Err(Error::line(path, line, message));
        }
        rows.push((line, fields));
    }
    if rows.is_empty() {
        return Err(Error::file(path, "there is a header but no row"));
    }
    Ok(Sheet { path, header, rows })
}

/// Splits text into records. A line without any character is skipped.
struct Records<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    line: usize,
    separator: u8,
}

impl Records<'_> {
    /// The next record and the line it begins at.
    fn next(&mut self) -> Result<Option<(usize, Vec<String>)>> {
        while let Some(b'\n' | b'\r') = self.peek() {
            self.end_of_line();
        }
        if self.peek().is_none() {
            return Ok(None);
        }
        let line = self.line;
        let mut fields = vec![self.field()?];
        loop {
            match self.peek() {
                Some(byte) if byte == self.separator => {
                    self.at += 1;
                    fields.push(self.field()?);
                }
                Some(b'\n' | b'\r') => {
                    self.end_of_line();
                    break;
                }
                Some(_) => {
                    let message = "text follows a quoted field; a separator was expected";
                    return Err(Error::line(self.path, self.line, message));
                }
                None => break,
            }
        }
        Ok(Some((line, fields)))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn end_of_line(&mut self) {
        if self.bytes[self.at..].starts_with(b"\r\n") {
            self.at += 1;
        }
        self.at += 1;
        self.line += 1;
    }

    fn field(&mut self) -> Result<String> {
        let line = self.line;
        let mut field = Vec::new();
        if self.peek() == Some(b'"') {
            self.at += 1;
            loop {
                match self.peek() {
                    Some(b'"') if self.bytes.get(self.at + 1) == Some(&b'"') => {
                        field.push(b'"');
                        self.at += 2;
                    }
                    Some(b'"') => {
                        self.at += 1;
                        break;
                    }
                    Some(byte) => {
                        self.line += (byte == b'\n') as usize;
                        field.push(byte);
                        self.at += 1;
                    }
                    None => return Err(Error::line(self.path, line, "a quote is opened and never closed")),
                }
            }
        } else {
            while let Some(byte) = self.peek().filter(|byte| !matches!(byte, b'\n' | b'\r')) {
                if byte == self.separator {
                    break;
                }
                field.push(byte);
                self.at += 1;
            }
        }
        String::from_utf8(field).map_err(|_| Error::line(self.path, line, "this is not UTF-8 text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(text: &str) -> Result<Vec<(usize, Vec<String>)>> {
        parse(Path::new("t.csv"), text.as_bytes(), b',').map(|sheet| sheet.rows)
    }

    #[test]
    fn quotes_and_line_ends() {
        let rows = sheet("a,b\r\n1,\"x, \"\"y\"\"\r\nz\"\r\n\r\n3,4").unwrap();
        assert_eq!(rows[0], (2, vec!["1".into(), "x, \"y\"\r\nz".into()]));
        assert_eq!(rows[1], (5, vec!["3".into(), "4".into()]));
    }

    #[test]
    fn mistakes_have_lines() {
        let message = |text: &str| sheet(text).unwrap_err().to_string();
        assert_eq!(message("a,b\n1,2\n3\n"), "t.csv:3: the row has 1 fields, the header 2");
        assert_eq!(message("a,b\n1,\"2\n3\n"), "t.csv:2: a quote is opened and never closed");
        assert_eq!(message(""), "t.csv: the file is empty; a header line was expected");
        assert_eq!(message("a,b\n"), "t.csv: there is a header but no row");
        assert_eq!(message("a\n\"b\"c\n"), "t.csv:2: text follows a quoted field; a separator was expected");
    }
}
