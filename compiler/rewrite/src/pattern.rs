//! Rules over pointwise functions, written as text: `add(x, neg(y))` becomes `sub(x, y)`.
//!
//! A name is a variable; `c` and `d` match classes whose elements all have one known value; a number matches that value
//! at every position, and on the right stands for it in the type of the result. Operands of commutative functions match in
//! both orders.

use crate::term::Term;
use crate::view::{Site, View};
use egg::Id;
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_tensor::Op;

/// One side of a rule.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Pattern {
    /// Any class; the same one wherever the name stands.
    Variable(u8),
    /// A class of one known value, which may differ from place to place of the program but not of the rule.
    Constant(u8),
    /// That value.
    Number(f64),
    /// A function of patterns.
    Apply(PointwiseFn, Vec<Pattern>),
}

/// The names that a pattern may use.
const NAMES: [&str; 6] = ["x", "y", "z", "p", "c", "d"];

/// The first name that stands for a constant.
const FIRST_CONSTANT: usize = 4;

/// The class of each name.
pub(crate) type Bindings = [Option<Id>; NAMES.len()];

impl Pattern {
    /// Reads a pattern. Panics when it is none, which is a bug in a rule.
    pub(crate) fn parse(text: &str) -> Pattern {
        let mut rest = text;
        let pattern = parse(&mut rest);
        assert!(rest.trim().is_empty(), "`{text}` goes on after a pattern");
        pattern
    }

    /// Every way in which a node matches.
    pub(crate) fn matches(&self, view: View, site: Site) -> Vec<Bindings> {
        let Pattern::Apply(function, arguments) = self else { panic!("a left side is a function") };
        let mut found = Vec::new();
        match_node(view, *function, arguments, &site, [None; NAMES.len()], &mut |bindings| {
            if !found.contains(&bindings) {
                found.push(bindings);
            }
        });
        found
    }

    /// The term that this right side is, with numbers in the type of the class `like`.
    pub(crate) fn term(&self, view: View, bindings: &Bindings, like: Id) -> Term {
        match self {
            Pattern::Variable(name) | Pattern::Constant(name) => {
                bindings[*name as usize].expect("the right side uses names of the left").into()
            }
            Pattern::Number(value) => {
                let ty = view.ty(like);
                Term::Uniform(ty.clone(), Scalar::Float(*value).convert(ty.dtype))
            }
            Pattern::Apply(function, arguments) => Term::pointwise(
                *function,
                arguments.iter().map(|argument| argument.term(view, bindings, like)),
            ),
        }
    }
}

/// The value of the constant `c` (0) or `d` (1) of a match.
pub(crate) fn constant(view: View, bindings: &Bindings, index: usize) -> f64 {
    let id = bindings[FIRST_CONSTANT + index].expect("the left side has the constant");
    view.uniform(id).expect("constants match known values").to_f64()
}

fn parse(rest: &mut &str) -> Pattern {
    let text = rest.trim_start();
    let end = text.find([',', '(', ')']).unwrap_or(text.len());
    let (word, after) = (text[..end].trim(), &text[end..]);
    let Some(mut inner) = after.strip_prefix('(') else {
        *rest = after;
        return match NAMES.iter().position(|name| *name == word) {
            Some(at) if at >= FIRST_CONSTANT => Pattern::Constant(at as u8),
            Some(at) => Pattern::Variable(at as u8),
            None => Pattern::Number(word.parse().unwrap_or_else(|_| panic!("`{word}` is no name or number"))),
        };
    };
    let function: PointwiseFn = word.parse().unwrap_or_else(|error| panic!("{error}"));
    let mut arguments = Vec::new();
    loop {
        arguments.push(parse(&mut inner));
        inner = inner.trim_start();
        match inner.strip_prefix(',') {
            Some(next) => inner = next,
            None => break,
        }
    }
    *rest = inner.strip_prefix(')').expect("a function's operands end in `)`");
    assert_eq!(arguments.len(), function.arity(), "`{function}` takes as many operands");
    Pattern::Apply(function, arguments)
}

fn match_node(
    view: View,
    function: PointwiseFn,
    arguments: &[Pattern],
    site: &Site,
    bindings: Bindings,
    found: &mut dyn FnMut(Bindings),
) {
    if !matches!(&*site.node.op, Op::Pointwise(op) if op.function == function) {
        return;
    }
    match_all(view, arguments, &site.node.operands, bindings, found);
    if function.is_commutative() && site.node.operands[0] != site.node.operands[1] {
        let swapped = [site.node.operands[1], site.node.operands[0]];
        match_all(view, arguments, &swapped, bindings, found);
    }
}

fn match_all(
    view: View,
    patterns: &[Pattern],
    classes: &[Id],
    bindings: Bindings,
    found: &mut dyn FnMut(Bindings),
) {
    match (patterns, classes) {
        ([pattern, patterns @ ..], [class, classes @ ..]) => {
            match_class(view, pattern, *class, bindings, &mut |bindings| {
                match_all(view, patterns, classes, bindings, found);
            });
        }
        (_, _) => found(bindings),
    }
}

fn match_class(
    view: View,
    pattern: &Pattern,
    class: Id,
    mut bindings: Bindings,
    found: &mut dyn FnMut(Bindings),
) {
    match pattern {
        Pattern::Variable(name) | Pattern::Constant(name) => {
            let known = !matches!(pattern, Pattern::Constant(_)) || view.uniform(class).is_some();
            let bound = bindings[*name as usize].get_or_insert(class);
            if known && *bound == class {
                found(bindings);
            }
        }
        Pattern::Number(number) => {
            if view.uniform(class).is_some_and(|value| is_number(value, *number, view.ty(class).dtype)) {
                found(bindings);
            }
        }
        Pattern::Apply(function, arguments) => {
            for node in view.nodes(class) {
                match_node(view, *function, arguments, &Site { class, node }, bindings, found);
            }
        }
    }
}

/// Whether a value is the number, which the dtype can hold.
fn is_number(value: Scalar, number: f64, dtype: DType) -> bool {
    value.to_f64() == number && Scalar::Float(number).convert(dtype).to_f64() == number
}
