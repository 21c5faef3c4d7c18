//! The text form of kernels: for dumps, and read back to an equal kernel.
//!
//! ```text
//! kernel "scale" {
//!   buffer b0: f32[64] read
//!   buffer b1: f32[64] write
//!   range i0: 8
//!   v0 = constant f32 0.5
//!   loop i1: 8 lanes 4 {
//!     v1 = load b0[8*i0 + i1]
//!     v2 = mul v1, v0
//!     store b1[8*i0 + i1] v2
//!   }
//! }
//! ```
//!
//! A guarded access ends in `if v3`, a guarded load in `if v3 else 0.0`; a loop with carried values says
//! `carry (v4: v0 -> v5, v6 by add)`: phi, initial value, successor, result and combiner.

use crate::ir::{
    Access, Buffer, BufferId, Carried, Expr, Index, Kernel, Place, Range, Scratch, ScratchId, Stmt, ValueId,
    VarId, compute_dtype,
};
use std::fmt::{self, Write};
use thalweg_base::{DType, PointwiseFn, Scalar};

/// Prints a kernel.
pub fn print(kernel: &Kernel) -> String {
    let mut text = String::new();
    write_kernel(kernel, &mut text).expect("writing to a string succeeds");
    text
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self))
    }
}

fn write_kernel(kernel: &Kernel, text: &mut String) -> fmt::Result {
    writeln!(text, "kernel {:?} {{", kernel.name)?;
    for (position, Buffer { dtype, elements, access }) in kernel.buffers.iter().enumerate() {
        let access = match access {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "read_write",
        };
        writeln!(text, "  buffer {}: {dtype}[{elements}] {access}", BufferId::new(position))?;
    }
    for (position, Scratch { dtype, elements }) in kernel.scratch.iter().enumerate() {
        writeln!(text, "  scratch {}: {dtype}[{elements}]", ScratchId::new(position))?;
    }
    for Range { var, extent, lanes } in &kernel.ranges {
        writeln!(text, "  range {var}: {extent}{}", Lanes(*lanes))?;
    }
    write_body(&kernel.body, 1, text)?;
    writeln!(text, "}}")
}

struct Lanes(u32);

impl fmt::Display for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => Ok(()),
            lanes => write!(f, " lanes {lanes}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Buffer(id) => id.fmt(f),
            Place::Scratch(id) => id.fmt(f),
        }
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.constant != 0 || (self.terms.is_empty() && self.dynamic.is_none()) {
            parts.push(self.constant.to_string());
        }
        parts.extend(self.terms.iter().map(|(var, factor)| match factor {
            1 => var.to_string(),
            factor => format!("{factor}*{var}"),
        }));
        parts.extend(self.dynamic.map(|value| value.to_string()));
        write!(f, "[{}]", parts.join(" + "))
    }
}

struct Number(Scalar);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Scalar::Float(value) => write!(f, "{value:?}"),
            Scalar::Int(value) => write!(f, "{value}"),
        }
    }
}

fn write_body(body: &[Stmt], depth: usize, text: &mut String) -> fmt::Result {
    let indent = "  ".repeat(depth);
    for stmt in body {
        text.push_str(&indent);
        match stmt {
            Stmt::Let { value, expr } => {
                write!(text, "{value} = ")?;
                write_expr(expr, text)?;
                writeln!(text)?;
            }
            Stmt::Store { place, index, value, guard } => {
                write!(text, "store {place}{index} {value}")?;
                if let Some(guard) = guard {
                    write!(text, " if {guard}")?;
                }
                writeln!(text)?;
            }
            Stmt::Loop { var, extent, lanes, carried, body } => {
                write!(text, "loop {var}: {extent}{}", Lanes(*lanes))?;
                if !carried.is_empty() {
                    let parts: Vec<_> = carried.iter().map(carry).collect();
                    write!(text, " carry ({})", parts.join("; "))?;
                }
                writeln!(text, " {{")?;
                write_body(body, depth + 1, text)?;
                writeln!(text, "{indent}}}")?;
            }
        }
    }
    Ok(())
}

fn carry(carry: &Carried) -> String {
    let Carried { phi, init, next, result, combine } = carry;
    let by = combine.map_or(String::new(), |combine| format!(" by {combine}"));
    format!("{phi}: {init} -> {next}, {result}{by}")
}

fn write_expr(expr: &Expr, text: &mut String) -> fmt::Result {
    match expr {
        Expr::Constant(dtype, value) => write!(text, "constant {dtype} {}", Number(*value)),
        Expr::Index(dtype, index) => write!(text, "index {dtype} {index}"),
        Expr::Load { place, index, guard: None, .. } => write!(text, "load {place}{index}"),
        Expr::Load { place, index, guard: Some(guard), otherwise } => {
            write!(text, "load {place}{index} if {guard} else {}", Number(*otherwise))
        }
        Expr::Pointwise(function, operands) => {
            let operands: Vec<_> = operands.iter().map(ToString::to_string).collect();
            write!(text, "{function} {}", operands.join(", "))
        }
        Expr::Convert(dtype, value) => write!(text, "convert {dtype} {value}"),
        Expr::Bitcast(dtype, value) => write!(text, "bitcast {dtype} {value}"),
    }
}

/// Why a text is no kernel.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("token {position}: {reason}")]
pub struct ParseError {
    /// How many tokens were read.
    pub position: usize,
    /// What was expected, or what is wrong.
    pub reason: String,
}

/// Reads what [`print()`] wrote.
pub fn parse(text: &str) -> Result<Kernel, ParseError> {
    let mut parser = Parser { tokens: tokens(text)?, position: 0 };
    let kernel = parser.kernel()?;
    match parser.peek() {
        None => Ok(kernel),
        Some(more) => parser.fail(format!("`{more}` after the kernel")),
    }
}

/// Words, quoted strings and single marks.
fn tokens(text: &str) -> Result<Vec<String>, ParseError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => {
                let mut escaped = false;
                let end = rest.char_indices().skip(1).find(|(_, c)| {
                    let ends = *c == '"' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    ends
                });
                match end {
                    Some((at, _)) => at + 1,
                    None => {
                        return Err(ParseError {
                            position: tokens.len(),
                            reason: "a string without end".into(),
                        });
                    }
                }
            }
            '{' | '}' | '(' | ')' | '[' | ']' | ',' | ';' | ':' | '*' | '=' => 1,
            _ => rest.find(|c: char| c.is_whitespace() || "{}()[],;:*=\"".contains(c)).unwrap_or(rest.len()),
        };
        tokens.push(rest[..length].to_string());
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<String>,
    position: usize,
}

impl Parser {
    fn fail<T>(&self, reason: String) -> Result<T, ParseError> {
        Err(ParseError { position: self.position, reason })
    }

    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.position).map(String::as_str)
    }

    fn next(&mut self) -> Result<String, ParseError> {
        match self.tokens.get(self.position).cloned() {
            Some(token) => {
                self.position += 1;
                Ok(token)
            }
            None => self.fail("the text ends early".into()),
        }
    }

    /// Takes the token if it is that one.
    fn accept(&mut self, token: &str) -> bool {
        let found = self.peek() == Some(token);
        self.position += found as usize;
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), ParseError> {
        match self.accept(token) {
            true => Ok(()),
            false => self.fail(format!("expected `{token}`, not `{}`", self.peek().unwrap_or("the end"))),
        }
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, ParseError> {
        let token = self.next()?;
        token.parse().or_else(|_| self.fail(format!("`{token}` is not the number expected here")))
    }

    fn named<T: std::str::FromStr<Err = String>>(&mut self) -> Result<T, ParseError> {
        let token = self.next()?;
        token.parse().or_else(|reason| self.fail(reason))
    }

    fn id(&mut self, prefix: &str) -> Result<u32, ParseError> {
        let token = self.next()?;
        match token.strip_prefix(prefix).and_then(|digits| digits.parse().ok()) {
            Some(id) => Ok(id),
            None => self.fail(format!("`{token}` is not an id that starts with `{prefix}`")),
        }
    }

    fn value(&mut self) -> Result<ValueId, ParseError> {
        self.id("v").map(ValueId)
    }

    fn scalar(&mut self, dtype: DType) -> Result<Scalar, ParseError> {
        match dtype.is_float() {
            true => self.number().map(Scalar::Float),
            false => self.number().map(Scalar::Int),
        }
    }

    fn array(&mut self, prefix: &str, expected: usize) -> Result<(DType, usize), ParseError> {
        let id = self.id(prefix)?;
        if id as usize != expected {
            return self.fail(format!("`{prefix}{id}` where `{prefix}{expected}` comes next"));
        }
        self.expect(":")?;
        let dtype = self.named()?;
        self.expect("[")?;
        let elements = self.number()?;
        self.expect("]")?;
        Ok((dtype, elements))
    }

    fn kernel(&mut self) -> Result<Kernel, ParseError> {
        self.expect("kernel")?;
        let name = self.next()?;
        let Ok(name) = ron::from_str::<String>(&name) else {
            return self.fail(format!("{name} is not a quoted name"));
        };
        let mut kernel =
            Kernel { name, buffers: Vec::new(), scratch: Vec::new(), ranges: Vec::new(), body: Vec::new() };
        self.expect("{")?;
        while self.accept("buffer") {
            let (dtype, elements) = self.array("b", kernel.buffers.len())?;
            let word = self.next()?;
            let access = match word.as_str() {
                "read" => Access::Read,
                "write" => Access::Write,
                "read_write" => Access::ReadWrite,
                other => return self.fail(format!("`{other}` is no access")),
            };
            kernel.buffers.push(Buffer { dtype, elements, access });
        }
        while self.accept("scratch") {
            let (dtype, elements) = self.array("s", kernel.scratch.len())?;
            kernel.scratch.push(Scratch { dtype, elements });
        }
        while self.accept("range") {
            let (var, extent, lanes) = self.loop_head()?;
            kernel.ranges.push(Range { var, extent, lanes });
        }
        kernel.body = self.body(&kernel)?;
        Ok(kernel)
    }

    fn loop_head(&mut self) -> Result<(VarId, usize, u32), ParseError> {
        let var = VarId(self.id("i")?);
        self.expect(":")?;
        let extent = self.number()?;
        let lanes = if self.accept("lanes") { self.number()? } else { 1 };
        Ok((var, extent, lanes))
    }

    /// Statements up to and with the closing brace.
    fn body(&mut self, kernel: &Kernel) -> Result<Vec<Stmt>, ParseError> {
        let mut body = Vec::new();
        while !self.accept("}") {
            let stmt = match self.peek() {
                Some("store") => self.store()?,
                Some("loop") => self.inner_loop(kernel)?,
                Some(_) | None => {
                    let value = self.value()?;
                    self.expect("=")?;
                    Stmt::Let { value, expr: self.expr(kernel)? }
                }
            };
            body.push(stmt);
        }
        Ok(body)
    }

    fn place(&mut self) -> Result<Place, ParseError> {
        match self.peek().is_some_and(|token| token.starts_with('s')) {
            true => Ok(Place::Scratch(ScratchId(self.id("s")?))),
            false => Ok(Place::Buffer(BufferId(self.id("b")?))),
        }
    }

    fn index(&mut self) -> Result<Index, ParseError> {
        self.expect("[")?;
        let mut index = Index::default();
        loop {
            let token = self.peek().unwrap_or_default().to_string();
            match token.chars().next() {
                Some('i') => index.terms.push((VarId(self.id("i")?), 1)),
                Some('v') => index.dynamic = Some(self.value()?),
                Some(_) | None => {
                    let number = self.number()?;
                    match self.accept("*") {
                        true => index.terms.push((VarId(self.id("i")?), number)),
                        false => index.constant = number,
                    }
                }
            }
            if !self.accept("+") {
                self.expect("]")?;
                return Ok(index);
            }
        }
    }

    fn store(&mut self) -> Result<Stmt, ParseError> {
        self.expect("store")?;
        let place = self.place()?;
        let index = self.index()?;
        let value = self.value()?;
        let guard = if self.accept("if") { Some(self.value()?) } else { None };
        Ok(Stmt::Store { place, index, value, guard })
    }

    fn inner_loop(&mut self, kernel: &Kernel) -> Result<Stmt, ParseError> {
        self.expect("loop")?;
        let (var, extent, lanes) = self.loop_head()?;
        let mut carried = Vec::new();
        if self.accept("carry") {
            self.expect("(")?;
            loop {
                let phi = self.value()?;
                self.expect(":")?;
                let init = self.value()?;
                self.expect("->")?;
                let next = self.value()?;
                self.expect(",")?;
                let result = self.value()?;
                let combine = if self.accept("by") { Some(self.named::<PointwiseFn>()?) } else { None };
                carried.push(Carried { phi, init, next, result, combine });
                if !self.accept(";") {
                    self.expect(")")?;
                    break;
                }
            }
        }
        self.expect("{")?;
        let body = self.body(kernel)?;
        Ok(Stmt::Loop { var, extent, lanes, carried, body })
    }

    fn expr(&mut self, kernel: &Kernel) -> Result<Expr, ParseError> {
        let word = self.next()?;
        match word.as_str() {
            "constant" => {
                let dtype = self.named()?;
                Ok(Expr::Constant(dtype, self.scalar(dtype)?))
            }
            "index" => Ok(Expr::Index(self.named()?, self.index()?)),
            "load" => {
                let place = self.place()?;
                let known = match place {
                    Place::Buffer(id) => kernel.buffers.get(id.index()).map(|buffer| buffer.dtype),
                    Place::Scratch(id) => kernel.scratch.get(id.index()).map(|scratch| scratch.dtype),
                };
                let Some(dtype) = known.map(compute_dtype) else {
                    return self.fail(format!("there is no `{place}`"));
                };
                let index = self.index()?;
                if !self.accept("if") {
                    return Ok(Expr::Load { place, index, guard: None, otherwise: Scalar::zero(dtype) });
                }
                let guard = Some(self.value()?);
                self.expect("else")?;
                Ok(Expr::Load { place, index, guard, otherwise: self.scalar(dtype)? })
            }
            "convert" => Ok(Expr::Convert(self.named()?, self.value()?)),
            "bitcast" => Ok(Expr::Bitcast(self.named()?, self.value()?)),
            name => {
                let function = name.parse::<PointwiseFn>().or_else(|reason| self.fail(reason))?;
                let mut operands = vec![self.value()?];
                while self.accept(",") {
                    operands.push(self.value()?);
                }
                Ok(Expr::Pointwise(function, operands))
            }
        }
    }
}
