//! `einsum` and `rearrange`: patterns of named dims.

use super::{Builtin, Call};
use crate::check::annotation::dim_words;
use crate::check::value::{DimInfo, Tensor, Value};
use crate::check::{Checked, Elaborator, Reported};
use std::collections::BTreeMap;
use thalweg_base::{Diagnostic, Dim, Span, dim};
use thalweg_tensor::ReduceFn;
use thalweg_tensor::ops::{Broadcast, Contract, Reduce, Transpose};

pub(super) const TABLE: &[Builtin] = &[
    Builtin {
        name: "einsum",
        params: &["pattern", "a", "b?"],
        doc: "sums of products over named dims: \"i k, k j -> i j\"",
        run: einsum,
    },
    Builtin {
        name: "rearrange",
        params: &["x", "pattern", "..."],
        doc: "dims split, merged, reordered and repeated: \"b (h e) -> h b e\"; sizes that do not follow are given by name",
        run: rearrange,
    },
];

/// The dims of one side: each a list of names, more than one where they stand in parentheses.
type Side = Vec<Vec<String>>;

fn bad<T>(elab: &mut Elaborator<'_>, span: Span, message: impl Into<String>) -> Checked<T> {
    elab.error("E0204", message, span, "in this pattern")
}

/// Reads one side of a pattern. `rank` is how many dims `..name` makes up for.
fn side(
    elab: &mut Elaborator<'_>,
    text: &str,
    rests: &mut BTreeMap<String, usize>,
    rank: Option<usize>,
    span: Span,
) -> Checked<Side> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (mut dims, mut open) = (Side::new(), false);
    for word in &words {
        match *word {
            "(" if open => return bad(elab, span, "parentheses do not nest in a pattern"),
            "(" => {
                open = true;
                dims.push(Vec::new());
            }
            ")" if !open => return bad(elab, span, "a `)` without `(`"),
            ")" => open = false,
            "1" if open => {}
            "1" => dims.push(Vec::new()),
            word => {
                let name = word.strip_prefix("..").unwrap_or(word);
                let valid = name.starts_with(|c: char| c.is_alphabetic() || c == '_')
                    && name.chars().all(|c| c.is_alphanumeric() || c == '_');
                if !valid {
                    return bad(elab, span, format!("`{word}` is no name of a dim"));
                }
                if word.starts_with("..") {
                    let fixed = fixed_dims(&words);
                    let count = match (rests.get(name), rank) {
                        (Some(count), _) => *count,
                        (None, Some(rank)) if rank >= fixed => rank - fixed,
                        (None, _) => {
                            return bad(
                                elab,
                                span,
                                format!("`{word}` does not stand for any number of dims here"),
                            );
                        }
                    };
                    rests.insert(name.to_string(), count);
                    let parts = (0..count).map(|at| format!("..{name}.{at}"));
                    match open {
                        true => dims.last_mut().expect("a parenthesis is open").extend(parts),
                        false => dims.extend(parts.map(|part| vec![part])),
                    }
                } else if open {
                    dims.last_mut().expect("a parenthesis is open").push(name.to_string());
                } else {
                    dims.push(vec![name.to_string()]);
                }
            }
        }
    }
    if open {
        return bad(elab, span, "a `(` is not closed");
    }
    let mut seen = Vec::new();
    for name in dims.iter().flatten() {
        if seen.contains(&name) {
            return bad(elab, span, format!("`{name}` stands twice on one side"));
        }
        seen.push(name);
    }
    Ok(dims)
}

fn fixed_dims(words: &[&str]) -> usize {
    let (mut count, mut open) = (0, false);
    for word in words {
        match *word {
            "(" => {
                open = true;
                count += 1;
            }
            ")" => open = false,
            word if word.starts_with("..") || open => {}
            _ => count += 1,
        }
    }
    count
}

/// A tensor whose dims have names.
struct Named {
    tensor: Tensor,
    names: Vec<String>,
}

/// Names as dims of a result know them.
fn info(name: &str, origin: Option<Span>) -> DimInfo {
    DimInfo { name: (!name.starts_with("..")).then(|| name.into()), origin }
}

fn rank_clash(elab: &mut Elaborator<'_>, x: &Tensor, names: usize, at: Span, pattern: Span) -> Reported {
    let error =
        Diagnostic::error("E0204", format!("a pattern of {names} dims does not fit {}", x.describe()))
            .at(at, format!("this has {} dims", x.rank()))
            .label(pattern, format!("the pattern names {names}"));
    elab.fail(error)
}

fn einsum(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let (text, span) = call.text(elab, "pattern")?;
    let Some((inputs, output)) = text.split_once("->") else {
        return bad(elab, span, "a pattern of `einsum` has `->` before the result's dims");
    };
    let mut operands = vec![(call.tensor(elab, "a")?, call.place("a"))];
    if call.value("b").is_some() {
        operands.push((call.tensor(elab, "b")?, call.place("b")));
    }
    let parts: Vec<&str> = inputs.split(',').collect();
    if parts.len() != operands.len() {
        return bad(
            elab,
            span,
            format!("the pattern is for {} tensors, {} are given", parts.len(), operands.len()),
        );
    }
    let mut rests = BTreeMap::new();
    let mut named: Vec<Named> = Vec::new();
    for (part, (tensor, at)) in parts.iter().zip(operands) {
        let dims = side(elab, part, &mut rests, Some(tensor.rank()), span)?;
        if dims.iter().any(|names| names.len() != 1) {
            return bad(elab, span, "`einsum` names dims one by one; `rearrange` splits and merges them");
        }
        if dims.len() != tensor.rank() {
            return Err(rank_clash(elab, &tensor, dims.len(), at, span));
        }
        named.push(Named { tensor, names: dims.into_iter().flatten().collect() });
    }
    let out: Vec<String> = side(elab, output, &mut rests, None, span)?.into_iter().flatten().collect();
    agree(elab, &named, span)?;
    if let Some(name) = out.iter().find(|name| !named.iter().any(|operand| operand.names.contains(name))) {
        return bad(elab, span, format!("`{name}` of the result is a dim of no operand"));
    }
    for index in 0..named.len() {
        let others: Vec<String> = named
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != index)
            .flat_map(|(_, other)| other.names.clone())
            .collect();
        let lonely: Vec<usize> = (0..named[index].names.len())
            .filter(|at| {
                !out.contains(&named[index].names[*at]) && !others.contains(&named[index].names[*at])
            })
            .collect();
        drop_dims(elab, &mut named[index], &lonely, call.span)?;
    }
    match &named[..] {
        [x] => {
            let perm: Vec<usize> = out
                .iter()
                .map(|name| x.names.iter().position(|own| own == name).expect("checked above"))
                .collect();
            let dims = perm.iter().map(|at| info(&x.names[*at], x.tensor.dims[*at].origin)).collect();
            Ok(Value::Tensor(elab.tensor(Transpose { perm }, &[&x.tensor], dims, call.span)?))
        }
        [x, y] => contract(elab, x, y, &out, call.span),
        _ => panic!("`einsum` takes one or two tensors"),
    }
}

/// Equal names are equal sizes.
fn agree(elab: &mut Elaborator<'_>, named: &[Named], span: Span) -> Checked<()> {
    let mut seen: BTreeMap<&str, (&Tensor, usize)> = BTreeMap::new();
    for operand in named {
        for (at, name) in operand.names.iter().enumerate() {
            let Some((first, dim)) = seen.insert(name, (&operand.tensor, at)) else { continue };
            let (a, b) = (&first.ty.shape[dim], &operand.tensor.ty.shape[at]);
            if a == b {
                continue;
            }
            let mut error = Diagnostic::error("E0204", format!("`{name}` is {a} and {b} in one pattern"))
                .at(span, "in this pattern");
            for (tensor, dim, size) in [(first, dim, a), (&operand.tensor, at, b)] {
                if let Some(origin) = tensor.dims[dim].origin {
                    error = error.label(origin, format!("{} is {size} here", dim_words(dim, tensor.rank())));
                }
            }
            return Err(elab.fail(error));
        }
    }
    Ok(())
}

fn drop_dims(elab: &mut Elaborator<'_>, x: &mut Named, dims: &[usize], span: Span) -> Checked<()> {
    if dims.is_empty() {
        return Ok(());
    }
    let kept: Vec<usize> = (0..x.names.len()).filter(|at| !dims.contains(at)).collect();
    let infos = kept.iter().map(|at| x.tensor.dims[*at].clone()).collect();
    let op = Reduce { function: ReduceFn::Sum, dims: dims.to_vec() };
    x.tensor = elab.tensor(op, &[&x.tensor], infos, span)?;
    x.names = kept.iter().map(|at| x.names[*at].clone()).collect();
    Ok(())
}

fn contract(elab: &mut Elaborator<'_>, x: &Named, y: &Named, out: &[String], span: Span) -> Checked<Value> {
    if x.tensor.ty.dtype != y.tensor.ty.dtype {
        let label = format!("between {} and {}", x.tensor.ty.dtype, y.tensor.ty.dtype);
        return elab.error("E0301", "dtypes do not agree in `einsum`", span, label);
    }
    let mut letters: BTreeMap<&str, char> = BTreeMap::new();
    let mut free = ('a'..='z').chain('A'..='Z');
    for name in x.names.iter().chain(&y.names) {
        if !letters.contains_key(name.as_str()) {
            let Some(letter) = free.next() else {
                return bad(elab, span, "more than 52 dims in one pattern");
            };
            letters.insert(name, letter);
        }
    }
    let spell = |names: &[String]| names.iter().map(|name| letters[name.as_str()]).collect::<String>();
    let op = Contract { lhs: spell(&x.names), rhs: spell(&y.names), out: spell(out) };
    let dims = out
        .iter()
        .map(|name| {
            let of = |named: &Named| {
                named.names.iter().position(|own| own == name).map(|at| named.tensor.dims[at].origin)
            };
            info(name, of(x).or(of(y)).flatten())
        })
        .collect();
    Ok(Value::Tensor(elab.tensor(op, &[&x.tensor, &y.tensor], dims, span)?))
}

fn rearrange(elab: &mut Elaborator<'_>, call: &Call) -> Checked<Value> {
    let x = call.tensor(elab, "x")?;
    let (text, span) = call.text(elab, "pattern")?;
    let Some((from, to)) = text.split_once("->") else {
        return bad(elab, span, "a pattern of `rearrange` has `->` between before and after");
    };
    let mut rests = BTreeMap::new();
    let from = side(elab, from, &mut rests, Some(x.rank()), span)?;
    let to = side(elab, to, &mut rests, None, span)?;
    if from.len() != x.rank() {
        return Err(rank_clash(elab, &x, from.len(), call.place("x"), span));
    }
    let mut sizes: BTreeMap<String, Dim> = BTreeMap::new();
    for (name, given) in &call.extra {
        let Value::Int(size) = &given.value else {
            let message =
                format!("the size of `{}` is an integer, not {}", name.name, given.value.describe());
            return elab.error("E0303", message, given.span, "not a size");
        };
        if !from.iter().chain(&to).flatten().any(|own| **own == *name.name) {
            return elab.error(
                "E0105",
                format!("`{}` is no dim of the pattern", name.name),
                name.span,
                "not in the pattern",
            );
        }
        sizes.insert(name.name.to_string(), size.clone());
    }
    let mut origins: BTreeMap<String, Option<Span>> = BTreeMap::new();
    for (at, names) in from.iter().enumerate() {
        solve(elab, names, &x, at, &mut sizes, span)?;
        if let [name] = &names[..] {
            origins.insert(name.clone(), x.dims[at].origin);
        }
    }
    let atoms: Vec<String> = from.iter().flatten().cloned().collect();
    if let Some(name) = atoms.iter().find(|name| !to.iter().flatten().any(|own| own == *name)) {
        return bad(elab, span, format!("`{name}` is lost; `sum(…, over: {name})` or `mean` combines a dim"));
    }
    let targets: Vec<String> = to.iter().flatten().cloned().collect();
    if let Some(name) = targets.iter().find(|name| !sizes.contains_key(*name)) {
        return bad(elab, span, format!("the size of `{name}` is not known; give it: `{name}: 2`"));
    }
    let known = |names: &[String]| {
        names.iter().map(|name| info(name, origins.get(name).copied().flatten())).collect::<Vec<_>>()
    };
    let shape = |names: &[String]| names.iter().map(|name| sizes[name].clone()).collect::<Vec<_>>();
    let mut y = elab.reshape(&x, shape(&atoms), known(&atoms), call.span)?;
    let kept: Vec<String> = targets.iter().filter(|name| atoms.contains(name)).cloned().collect();
    let perm: Vec<usize> =
        kept.iter().map(|name| atoms.iter().position(|own| own == name).expect("kept")).collect();
    if perm.iter().enumerate().any(|(to, from)| to != *from) {
        y = elab.tensor(Transpose { perm }, &[&y], known(&kept), call.span)?;
    }
    if kept.len() < targets.len() {
        let dims =
            kept.iter().map(|name| targets.iter().position(|own| own == name).expect("kept")).collect();
        y = elab.tensor(Broadcast { shape: shape(&targets), dims }, &[&y], known(&targets), call.span)?;
    }
    let merged: Vec<Dim> = to.iter().map(|names| dim::product(&shape(names))).collect();
    let infos: Vec<DimInfo> = to
        .iter()
        .map(|names| match &names[..] {
            [name] => info(name, origins.get(name).copied().flatten().or(Some(span))),
            _ => DimInfo { name: None, origin: Some(span) },
        })
        .collect();
    let y = elab.reshape(&y, merged, infos.clone(), call.span)?;
    Ok(Value::Tensor(Tensor { dims: infos, ..y }))
}

/// Finds the sizes of the names that one dim is made of; at most one of them is not known yet.
fn solve(
    elab: &mut Elaborator<'_>,
    names: &[String],
    x: &Tensor,
    at: usize,
    sizes: &mut BTreeMap<String, Dim>,
    span: Span,
) -> Checked<()> {
    let whole = &x.ty.shape[at];
    let unknown: Vec<&String> = names.iter().filter(|name| !sizes.contains_key(*name)).collect();
    let known = dim::product(names.iter().filter_map(|name| sizes.get(name)));
    let clash = |elab: &mut Elaborator<'_>, message: String| {
        let mut error = Diagnostic::error("E0204", message).at(span, "in this pattern");
        if let Some(origin) = x.dims[at].origin {
            error = error.label(origin, format!("{} is {whole} here", dim_words(at, x.rank())));
        }
        Err(elab.fail(error))
    };
    match unknown[..] {
        [] if known == *whole => Ok(()),
        [] => clash(elab, format!("`{}` is {known}, but the dim is {whole}", names.join(" "))),
        [name] => match whole.exact_div(&known) {
            Some(size) => {
                sizes.insert(name.clone(), size);
                Ok(())
            }
            None => clash(elab, format!("{whole} does not come in parts of {known}")),
        },
        [first, ..] => clash(elab, format!("the size of `{first}` is not known; give it: `{first}: 2`")),
    }
}
