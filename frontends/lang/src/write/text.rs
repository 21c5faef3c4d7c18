//! Pieces of text with their binding powers, numbers, sizes, and lines that are not too long.

use thalweg_base::{DType, Dim, Scalar};

/// Columns of a line.
pub(super) const COLUMNS: usize = 100;

/// Binding powers, as the parser has them.
pub(super) const COMPARE: u8 = 3;
pub(super) const SUM: u8 = 5;
pub(super) const PRODUCT: u8 = 6;
pub(super) const PREFIX: u8 = 7;
/// Names, calls, numbers and whatever else needs no parentheses.
pub(super) const WHOLE: u8 = 9;

/// An expression as text, and how tight its outermost operator binds.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) power: u8,
}

impl Text {
    pub(super) fn whole(text: impl Into<String>) -> Text {
        Text { text: text.into(), power: WHOLE }
    }

    /// The text where at least this binding power is needed.
    pub(super) fn at(&self, power: u8) -> String {
        if self.power >= power { self.text.clone() } else { format!("({})", self.text) }
    }

    /// Whether it is one name.
    pub(super) fn is_name(&self) -> bool {
        self.text.chars().all(|c| c.is_alphanumeric() || c == '_')
            && self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }

    /// Whether the name stands somewhere in the text.
    pub(super) fn mentions(&self, name: &str) -> bool {
        self.text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == name)
    }
}

/// `name(a, b)`
pub(super) fn call(name: &str, args: &[String]) -> Text {
    Text::whole(format!("{name}({})", args.join(", ")))
}

/// `[a, b]`
pub(super) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("[{}]", items.join(", "))
}

/// One item by itself, several as a list.
pub(super) fn one_or_list<T: ToString>(items: &[T]) -> String {
    match items {
        [one] => one.to_string(),
        items => list(items.iter().map(T::to_string)),
    }
}

/// A value of a dtype as a literal that adapts to the dtype around it; none for integers that no literal can say.
pub(super) fn number(value: Scalar, dtype: DType) -> Option<Text> {
    let value = value.convert(dtype);
    let signed = |text: String| {
        let power = if text.starts_with('-') { PREFIX } else { WHOLE };
        Text { text, power }
    };
    match value {
        Scalar::Int(value) if dtype == DType::Bool => {
            Some(Text::whole(if value == 0 { "false" } else { "true" }))
        }
        Scalar::Int(value) if value == i64::MIN.into() => {
            Some(Text { text: format!("{} - 1", i64::MIN + 1), power: SUM })
        }
        Scalar::Int(value) => i64::try_from(value).ok().map(|value| signed(value.to_string())),
        Scalar::Float(value) if value.is_nan() => Some(Text::whole("nan")),
        Scalar::Float(value) if value.is_infinite() => {
            Some(signed(if value > 0.0 { "infinity" } else { "-infinity" }.into()))
        }
        Scalar::Float(value) if value == 0.0 && value.is_sign_negative() => Some(signed("-0.0".into())),
        Scalar::Float(value) => {
            let text = shortest(value, dtype);
            Some(signed(text.strip_suffix(".0").map_or(text.clone(), str::to_string)))
        }
    }
}

/// The shortest decimal number that becomes this value in the dtype.
fn shortest(value: f64, dtype: DType) -> String {
    for digits in 0..9 {
        let text = format!("{value:.digits$e}");
        let read: f64 = text.parse().expect("what is printed can be read");
        if Scalar::Float(read).convert(dtype) == Scalar::Float(value) {
            return format!("{read:?}");
        }
    }
    format!("{value:?}")
}

/// A size as an expression over the names of its symbols.
pub(super) fn size(dim: &Dim) -> Text {
    size_text(&dim.to_string())
}

/// What a size displays, `2*n + ((m)//4)`, in the language's words.
fn size_text(text: &str) -> Text {
    let mut out = String::new();
    let mut power = WHOLE;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(inner) = rest.strip_prefix("((") {
            let mut depth = 1;
            let end = inner.char_indices().find_map(|(at, c)| {
                depth += match c {
                    '(' => 1,
                    ')' => -1,
                    _ => 0,
                };
                (depth == 0).then_some(at)
            });
            let end = end.expect("parentheses of a size are closed");
            let divided = size_text(&inner[..end]).text;
            let after = inner[end + 1..].strip_prefix("//").expect("a size divides in parentheses only");
            let close = after.find(')').expect("parentheses of a size are closed");
            out.push_str(&format!("floor_div({divided}, {})", &after[..close]));
            rest = &after[close + 1..];
            continue;
        }
        match c {
            '*' => {
                out.push_str(" * ");
                power = power.min(PRODUCT);
            }
            '+' | '-' => {
                power = power.min(if out.is_empty() { PREFIX } else { SUM });
                out.push(c);
            }
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    Text { text: out, power }
}

/// `[batch, 64]`
pub(super) fn shape(dims: &[Dim]) -> String {
    list(dims.iter().map(|dim| size(dim).text))
}

/// A statement, broken at the commas of its brackets where it is too long for a line.
pub(super) fn wrapped(line: &str, indent: usize) -> Vec<String> {
    let pad = " ".repeat(indent);
    if indent + line.chars().count() <= COLUMNS {
        return vec![format!("{pad}{line}")];
    }
    let Some((open, close)) = widest_bracket(line) else { return vec![format!("{pad}{line}")] };
    let mut lines = vec![format!("{pad}{}", &line[..open + 1])];
    let inner = " ".repeat(indent + 4);
    let mut current = String::new();
    let items = split_commas(&line[open + 1..close]);
    let count = items.len();
    for (at, item) in items.into_iter().enumerate() {
        let item = format!("{}{}", item.trim(), if at + 1 < count { "," } else { "" });
        let width = indent + 4 + current.chars().count() + 1 + item.chars().count();
        if !current.is_empty() && width > COLUMNS {
            lines.push(format!("{inner}{current}"));
            current.clear();
        }
        if indent + 4 + item.chars().count() > COLUMNS {
            lines.extend(wrapped(&item, indent + 4));
            continue;
        }
        if !current.is_empty() {
            current.push(' ');
        }
        current.push_str(&item);
    }
    if !current.is_empty() {
        lines.push(format!("{inner}{current}"));
    }
    lines.push(format!("{pad}{}", &line[close..]));
    lines
}

/// The pair of brackets with the most between them, of those that stand in no other.
fn widest_bracket(line: &str) -> Option<(usize, usize)> {
    let (mut depth, mut start) = (0usize, 0);
    let mut best: Option<(usize, usize)> = None;
    for (at, c) in line.char_indices() {
        match c {
            '(' | '[' | '{' => {
                if depth == 0 {
                    start = at;
                }
                depth += 1;
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && best.is_none_or(|(from, to)| at - start > to - from) {
                    best = Some((start, at));
                }
            }
            _ => {}
        }
    }
    best.filter(|(from, to)| to - from > 1)
}

fn split_commas(text: &str) -> Vec<&str> {
    let (mut depth, mut start) = (0usize, 0);
    let mut parts = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_the_words_of_the_language() {
        let check = |dim: &str, wanted: &str| {
            assert_eq!(size(&dim.parse().unwrap()).text, wanted);
        };
        check("12", "12");
        check("2*seq + 1", "2 * seq + 1");
        check("n*m - 3", "m * n - 3");
        check("((n + 1)//2)", "floor_div(n + 1, 2)");
        check("3*((((n)//2) + 1)//4) + n", "n + 3 * floor_div(floor_div(n, 2) + 1, 4)");
    }

    #[test]
    fn numbers_are_short_and_exact() {
        let check = |value: f64, dtype: DType, wanted: &str| {
            let value = Scalar::Float(value).convert(dtype);
            let text = number(value, dtype).unwrap().text;
            assert_eq!(text, wanted);
        };
        check(0.1, DType::F32, "0.1");
        check(0.1, DType::F64, "0.1");
        check(1.0 / 3.0, DType::F32, "0.33333334");
        check(1.0 / 3.0, DType::F64, "0.3333333333333333");
        check(1e-5, DType::F32, "1e-5");
        check(-2.0, DType::F16, "-2");
        check(1.0 / 3.0, DType::BF16, "0.334");
        check(f64::NEG_INFINITY, DType::F32, "-infinity");
        check(-0.0, DType::F32, "-0.0");
        assert!(number(Scalar::Int(u64::MAX.into()), DType::U64).is_none());
        assert_eq!(
            number(Scalar::Int(i64::MIN.into()), DType::I64).unwrap().text,
            "-9223372036854775807 - 1"
        );
    }
}
