//! Sizes of dims: integers and named symbols under exact arithmetic.
//!
//! A dim is a polynomial with integer coefficients over *atoms*: named symbols, and floor divisions that do not come
//! out evenly. Affine arithmetic is the common case; products appear where dims are merged (`batch * seq`). The form is
//! canonical (terms sorted, like terms added), so equal polynomials are equal values. Arithmetic saturates: a size that no
//! machine could hold stays one, and is refused where memory is planned.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::str::FromStr;
use std::sync::Arc;

/// The name of a size that is not known yet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// The symbol of that name.
    pub fn new(name: &str) -> Symbol {
        Symbol(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Values of symbols.
pub type Bindings = BTreeMap<Symbol, Dim>;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Atom {
    Symbol(Symbol),
    FloorDiv(Dim, i64),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Term {
    factors: Vec<Atom>,
    coefficient: i64,
}

/// The size of a dim.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Dim {
    constant: i64,
    /// Sorted by factors, none with coefficient 0; absent for a constant.
    terms: Option<Arc<[Term]>>,
}

impl Dim {
    /// The size 1.
    pub const ONE: Dim = Dim { constant: 1, terms: None };

    /// A known size.
    pub fn constant(value: i64) -> Dim {
        Dim { constant: value, terms: None }
    }

    /// A named size.
    pub fn symbol(name: &str) -> Dim {
        Dim::from_atom(Atom::Symbol(Symbol::new(name)))
    }

    fn from_atom(atom: Atom) -> Dim {
        Dim { constant: 0, terms: Some([Term { factors: vec![atom], coefficient: 1 }].into()) }
    }

    fn terms(&self) -> &[Term] {
        self.terms.as_deref().unwrap_or(&[])
    }

    fn from_map(constant: i64, map: BTreeMap<Vec<Atom>, i64>) -> Dim {
        let terms: Vec<Term> = map
            .into_iter()
            .filter(|(_, coefficient)| *coefficient != 0)
            .map(|(factors, coefficient)| Term { factors, coefficient })
            .collect();
        Dim { constant, terms: (!terms.is_empty()).then(|| terms.into()) }
    }

    /// The value, when no symbol is in it.
    pub fn as_constant(&self) -> Option<i64> {
        self.terms.is_none().then_some(self.constant)
    }

    /// The value as a count. Panics when a symbol is left or the value is negative: sizes are bound before that.
    pub fn size(&self) -> usize {
        let value = self.as_constant().unwrap_or_else(|| panic!("the size `{self}` is not bound"));
        usize::try_from(value).unwrap_or_else(|_| panic!("the size {value} is negative"))
    }

    /// The symbol, when the dim is exactly one.
    pub fn as_symbol(&self) -> Option<&Symbol> {
        match self.terms() {
            [Term { factors, coefficient: 1 }] if self.constant == 0 => match &factors[..] {
                [Atom::Symbol(symbol)] => Some(symbol),
                _ => None,
            },
            _ => None,
        }
    }

    /// Adds every symbol in the dim to `found`.
    pub fn symbols(&self, found: &mut std::collections::BTreeSet<Symbol>) {
        for term in self.terms() {
            for factor in &term.factors {
                match factor {
                    Atom::Symbol(symbol) => {
                        found.insert(symbol.clone());
                    }
                    Atom::FloorDiv(dim, _) => dim.symbols(found),
                }
            }
        }
    }

    /// The dim with symbols replaced by their bindings; unbound ones stay.
    pub fn substitute(&self, bindings: &Bindings) -> Dim {
        let mut sum = Dim::constant(self.constant);
        for term in self.terms() {
            let mut product = Dim::constant(term.coefficient);
            for factor in &term.factors {
                let value = match factor {
                    Atom::Symbol(symbol) => match bindings.get(symbol) {
                        Some(value) => value.clone(),
                        None => Dim::from_atom(factor.clone()),
                    },
                    Atom::FloorDiv(dim, divisor) => dim.substitute(bindings).floor_div(*divisor),
                };
                product = &product * &value;
            }
            sum = &sum + &product;
        }
        sum
    }

    /// The quotient when `divisor` divides the dim for every value of its symbols: by a constant, or by a product of
    /// symbols that is in every term.
    pub fn exact_div(&self, divisor: &Dim) -> Option<Dim> {
        if self == divisor {
            return (*self != Dim::default()).then_some(Dim::ONE);
        }
        if let Some(divisor) = divisor.as_constant() {
            let divides = divisor != 0
                && self.constant.checked_rem(divisor) == Some(0)
                && self.terms().iter().all(|term| term.coefficient.checked_rem(divisor) == Some(0));
            return divides.then(|| {
                let map = self.terms().iter().map(|t| (t.factors.clone(), t.coefficient / divisor)).collect();
                Dim::from_map(self.constant / divisor, map)
            });
        }
        let [by] = divisor.terms() else { return None };
        if divisor.constant != 0 || self.constant != 0 {
            return None;
        }
        let mut sum = Dim::default();
        for term in self.terms() {
            let mut factors = term.factors.clone();
            for factor in &by.factors {
                let at = factors.iter().position(|own| own == factor)?;
                factors.remove(at);
            }
            if term.coefficient % by.coefficient != 0 {
                return None;
            }
            let coefficient = term.coefficient / by.coefficient;
            let part = match factors.is_empty() {
                true => Dim::constant(coefficient),
                false => Dim::from_map(0, [(factors, coefficient)].into()),
            };
            sum = &sum + &part;
        }
        (*self != Dim::default()).then_some(sum)
    }

    /// `floor(self / divisor)` for a positive divisor; stays symbolic when it does not come out evenly.
    pub fn floor_div(&self, divisor: i64) -> Dim {
        assert!(divisor > 0, "a floor division by {divisor}");
        match (self.as_constant(), self.exact_div(&Dim::constant(divisor))) {
            (Some(value), _) => Dim::constant(value.div_euclid(divisor)),
            (None, Some(quotient)) => quotient,
            (None, None) => Dim::from_atom(Atom::FloorDiv(self.clone(), divisor)),
        }
    }
}

/// What each part of a dim becomes when it is taken apart, see [`Dim::fold`].
pub trait DimFold {
    /// What a dim becomes.
    type Value;

    /// A known size.
    fn constant(&mut self, value: i64) -> Self::Value;

    /// A named size.
    fn symbol(&mut self, symbol: &Symbol) -> Self::Value;

    /// A sum.
    fn add(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;

    /// A product.
    fn mul(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;

    /// A floor division by a positive number.
    fn floor_div(&mut self, a: Self::Value, divisor: i64) -> Self::Value;
}

impl Dim {
    /// What the dim becomes when its parts do.
    pub fn fold<F: DimFold>(&self, to: &mut F) -> F::Value {
        let mut sum = (self.constant != 0 || self.terms().is_empty()).then(|| to.constant(self.constant));
        for term in self.terms() {
            let mut product = (term.coefficient != 1).then(|| to.constant(term.coefficient));
            for factor in &term.factors {
                let value = match factor {
                    Atom::Symbol(symbol) => to.symbol(symbol),
                    Atom::FloorDiv(dim, divisor) => {
                        let inner = dim.fold(to);
                        to.floor_div(inner, *divisor)
                    }
                };
                product = Some(match product {
                    Some(product) => to.mul(product, value),
                    None => value,
                });
            }
            let product = product.expect("a term has factors");
            sum = Some(match sum {
                Some(sum) => to.add(sum, product),
                None => product,
            });
        }
        sum.expect("a dim has a constant or a term")
    }
}

impl From<usize> for Dim {
    fn from(value: usize) -> Dim {
        Dim::constant(value as i64)
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Dim {
        Dim::constant(value)
    }
}

impl From<i32> for Dim {
    fn from(value: i32) -> Dim {
        Dim::constant(value as i64)
    }
}

impl Add for &Dim {
    type Output = Dim;

    fn add(self, other: &Dim) -> Dim {
        let mut map = BTreeMap::new();
        for term in self.terms().iter().chain(other.terms()) {
            let sum = map.entry(term.factors.clone()).or_insert(0i64);
            *sum = sum.saturating_add(term.coefficient);
        }
        Dim::from_map(self.constant.saturating_add(other.constant), map)
    }
}

impl Sub for &Dim {
    type Output = Dim;

    fn sub(self, other: &Dim) -> Dim {
        self + &(&Dim::constant(-1) * other)
    }
}

impl Mul for &Dim {
    type Output = Dim;

    fn mul(self, other: &Dim) -> Dim {
        if let (Some(a), Some(b)) = (self.as_constant(), other.as_constant()) {
            return Dim::constant(a.saturating_mul(b));
        }
        let all = |dim: &Dim| -> Vec<(Vec<Atom>, i64)> {
            let constant = (dim.constant != 0).then_some((Vec::new(), dim.constant));
            constant
                .into_iter()
                .chain(dim.terms().iter().map(|t| (t.factors.clone(), t.coefficient)))
                .collect()
        };
        let mut map = BTreeMap::new();
        for (left, a) in all(self) {
            for (right, b) in all(other) {
                let mut factors: Vec<Atom> = left.iter().chain(&right).cloned().collect();
                factors.sort();
                let sum = map.entry(factors).or_insert(0i64);
                *sum = sum.saturating_add(a.saturating_mul(b));
            }
        }
        let constant = map.remove(&Vec::new()).unwrap_or(0);
        Dim::from_map(constant, map)
    }
}

macro_rules! owned_operators {
    ($($operator:ident :: $method:ident),*) => {$(
        impl $operator for Dim {
            type Output = Dim;

            fn $method(self, other: Dim) -> Dim {
                (&self).$method(&other)
            }
        }
    )*};
}
owned_operators!(Add::add, Sub::sub, Mul::mul);

/// The product of sizes, 1 for none.
pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    dims.into_iter().fold(Dim::ONE, |product, dim| &product * dim)
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for term in self.terms() {
            let sign = match (first, term.coefficient < 0) {
                (true, true) => "-",
                (true, false) => "",
                (false, true) => " - ",
                (false, false) => " + ",
            };
            first = false;
            f.write_str(sign)?;
            if term.coefficient.abs() != 1 {
                write!(f, "{}*", term.coefficient.abs())?;
            }
            for (index, factor) in term.factors.iter().enumerate() {
                if index > 0 {
                    f.write_str("*")?;
                }
                match factor {
                    Atom::Symbol(symbol) => write!(f, "{symbol}")?,
                    Atom::FloorDiv(dim, divisor) => write!(f, "(({dim})//{divisor})")?,
                }
            }
        }
        match (first, self.constant) {
            (true, constant) => write!(f, "{constant}"),
            (false, 0) => Ok(()),
            (false, constant) if constant < 0 => write!(f, " - {}", -constant),
            (false, constant) => write!(f, " + {constant}"),
        }
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Dim {
    type Err = String;

    /// Parses what `Display` writes: sums and products of integers and names, `//` for floor division, parentheses.
    fn from_str(text: &str) -> Result<Dim, String> {
        let mut parser = Parser { rest: text, depth: 0 };
        let dim = parser.sum()?;
        match parser.peek() {
            None => Ok(dim),
            Some(other) => Err(format!("`{other}` is not expected in the dim `{text}`")),
        }
    }
}

/// Nesting of parentheses that a dim's text may have; the printed form of real models stays below ten.
const DEPTH_MAX: usize = 64;

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn eat(&mut self, token: &str) -> bool {
        self.peek();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Result<Dim, String> {
        let mut sum = if self.eat("-") { &Dim::default() - &self.product()? } else { self.product()? };
        loop {
            sum = match self.peek() {
                Some('+') if self.eat("+") => &sum + &self.product()?,
                Some('-') if self.eat("-") => &sum - &self.product()?,
                Some(_) | None => return Ok(sum),
            };
        }
    }

    fn product(&mut self) -> Result<Dim, String> {
        let mut product = self.atom()?;
        loop {
            if self.eat("//") {
                let divisor = self.atom()?.as_constant().filter(|divisor| *divisor > 0);
                product = product.floor_div(divisor.ok_or("a floor division needs a positive constant")?);
            } else if self.eat("*") {
                product = &product * &self.atom()?;
            } else {
                return Ok(product);
            }
        }
    }

    fn atom(&mut self) -> Result<Dim, String> {
        if self.eat("(") {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return Err(format!("a dim nests deeper than {DEPTH_MAX} parentheses"));
            }
            let inner = self.sum()?;
            self.depth -= 1;
            return if self.eat(")") { Ok(inner) } else { Err("`)` is missing in a dim".into()) };
        }
        self.peek();
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word.chars().next() {
            None => Err("a dim ends too early".into()),
            Some(first) if first.is_ascii_digit() => {
                word.parse().map(Dim::constant).map_err(|_| format!("`{word}` is not a size"))
            }
            Some(_) => Ok(Dim::symbol(word)),
        }
    }
}

impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_canonical() {
        let (b, s) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let sum = &(&b * &s) + &Dim::constant(3);
        assert_eq!(sum, &(&Dim::constant(3) + &(&s * &b)) - &Dim::default());
        assert_eq!(sum.to_string(), "batch*seq + 3");
        assert_eq!((&sum - &sum).as_constant(), Some(0));
        assert_eq!((&b * &s).exact_div(&s), Some(b.clone()));
        assert_eq!((&b + &s).exact_div(&s), None);
        let half = (&b + &Dim::ONE).floor_div(2);
        assert_eq!(half.to_string(), "((batch + 1)//2)");
        assert_eq!(
            half.substitute(&[(Symbol::new("batch"), Dim::constant(8))].into()).as_constant(),
            Some(4)
        );
    }

    #[test]
    fn text_round_trips() {
        for text in ["0", "-4", "batch", "2*batch*seq - 1", "3*((h + 1)//2) + w", "-a - 2*b"] {
            let dim: Dim = text.parse().unwrap();
            assert_eq!(dim.to_string().parse::<Dim>().unwrap(), dim, "{text}");
        }
        assert!("2*".parse::<Dim>().is_err());
        assert!("(a".parse::<Dim>().is_err());
        assert!("(".repeat(1000).parse::<Dim>().is_err());
    }
}
