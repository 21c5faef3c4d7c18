//! Sizes as values of a model: known ones are stored, symbols are read off the shapes of inputs.

use super::writer::{Attribute, Write, Writer};
use thalweg_base::{DType, Dim, Symbol, dim::DimFold};

/// Writes a size as a list of one integer.
struct SizeWriter<'a> {
    writer: &'a mut Writer,
    missing: Option<Symbol>,
}

impl DimFold for SizeWriter<'_> {
    type Value = String;

    fn constant(&mut self, value: i64) -> String {
        self.writer.ints(&[value])
    }

    fn symbol(&mut self, symbol: &Symbol) -> String {
        match self.writer.symbol(symbol) {
            Some((input, at)) => {
                let bounds = [("start", Attribute::Int(at as i64)), ("end", Attribute::Int(at as i64 + 1))];
                self.writer.add_with("Shape", &[&input], &bounds)
            }
            None => {
                self.missing = Some(symbol.clone());
                String::new()
            }
        }
    }

    fn add(&mut self, a: String, b: String) -> String {
        self.writer.add("Add", &[&a, &b])
    }

    fn mul(&mut self, a: String, b: String) -> String {
        self.writer.add("Mul", &[&a, &b])
    }

    /// The format's division truncates; sizes are not negative, so that is the same.
    fn floor_div(&mut self, a: String, divisor: i64) -> String {
        let divisor = self.writer.ints(&[divisor]);
        self.writer.add("Div", &[&a, &divisor])
    }
}

impl Writer {
    /// A size as a list of one integer.
    pub fn size(&mut self, dim: &Dim) -> Write<String> {
        let mut sizes = SizeWriter { writer: self, missing: None };
        let name = dim.fold(&mut sizes);
        match sizes.missing {
            None => Ok(name),
            Some(symbol) => self.unable(format!("no input has the size `{symbol}` as a dim of its own")),
        }
    }

    /// Sizes as a list of integers.
    pub fn shape(&mut self, dims: &[Dim]) -> Write<String> {
        let known: Option<Vec<i64>> = dims.iter().map(Dim::as_constant).collect();
        if let Some(known) = known {
            return Ok(self.ints(&known));
        }
        let parts: Vec<String> = dims.iter().map(|dim| self.size(dim)).collect::<Write<_>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts[..] {
            [one] => Ok(one.to_string()),
            _ => Ok(self.add_with("Concat", &parts, &[("axis", Attribute::Int(0))])),
        }
    }

    /// 0, 1, 2, ... of a size, as i64.
    pub fn positions(&mut self, size: &Dim) -> Write<String> {
        if let Some(size) = size.as_constant() {
            return Ok(self.ints(&(0..size).collect::<Vec<i64>>()));
        }
        let end = self.size(size)?;
        let scalar = self.ints(&[]);
        let end = self.add("Reshape", &[&end, &scalar]);
        let zero = self.number(DType::I64, thalweg_base::Scalar::Int(0));
        let one = self.number(DType::I64, thalweg_base::Scalar::Int(1));
        Ok(self.add("Range", &[&zero, &end, &one]))
    }
}
