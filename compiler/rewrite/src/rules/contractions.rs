//! Contractions among themselves: of reshapes, summed, and added.

use super::Class::{Exact, Reassociates};
use super::movement::{dims, sample};
use super::{Rule, search, search_function};
use crate::term::Term;
use crate::view::{Site, View};
use egg::Id;
use thalweg_base::{Dim, PointwiseFn};
use thalweg_tensor::ops::Contract;
use thalweg_tensor::{Graph, Op, ReduceFn};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        search("contract-of-reshape", Exact, "Contract", contract_reshape, reshape_samples),
        search("sum-of-contract", Reassociates, "Reduce", sum_contract, sum_samples),
        search_function("add-of-contracts", Reassociates, PointwiseFn::Add, add_contracts, || {
            add_samples(PointwiseFn::Add)
        }),
        search_function("sub-of-contracts", Reassociates, PointwiseFn::Sub, add_contracts, || {
            add_samples(PointwiseFn::Sub)
        }),
    ]
}

/// The contractions in a class.
fn contracts(view: View<'_>, id: Id) -> impl Iterator<Item = (&'_ Contract, Id, Id)> {
    view.nodes(id).filter_map(|node| {
        if let Op::Contract(op) = &*node.op { Some((op, node.operands[0], node.operands[1])) } else { None }
    })
}

/// For each dim of `merged` the dims of `split` that it is the product of, one after the other.
fn groups(split: &[Dim], merged: &[Dim]) -> Option<Vec<Vec<usize>>> {
    let mut groups = Vec::with_capacity(merged.len());
    let mut next = 0;
    for size in merged {
        let mut group = Vec::new();
        let mut product = Dim::ONE;
        while product != *size || group.is_empty() {
            product = &product * split.get(next)?;
            group.push(next);
            next += 1;
            if group.len() > 4 {
                return None;
            }
        }
        groups.push(group);
    }
    (next == split.len()).then_some(groups)
}

/// A contraction of an operand whose dims were merged works on the separate dims: the other operand's dim of a merged letter
/// is split, and dims of the result are merged after. Then transposes before the merging can be absorbed.
fn contract_reshape(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Contract(op) = &*site.node.op else { return };
    for turned in [false, true] {
        let (own_letters, other_letters) = if turned { (&op.rhs, &op.lhs) } else { (&op.lhs, &op.rhs) };
        let (own, other) = (site.operand(turned as usize), site.operand(1 - turned as usize));
        for (_, x) in view.reshapes(own) {
            let split = &view.ty(x).shape;
            let Some(groups) = groups(split, &view.ty(own).shape) else { continue };
            if groups.iter().all(|group| group.len() == 1) {
                continue;
            }
            let used = |letter: &char| own_letters.contains(*letter) || other_letters.contains(*letter);
            let mut fresh = ('a'..='z').chain('A'..='Z').filter(|letter| !used(letter));
            // What stands for each letter of the operand, and the sizes.
            let mut parts: Vec<(char, String, Vec<Dim>)> = Vec::new();
            for (letter, group) in own_letters.chars().zip(&groups) {
                let names: Option<String> = match group.len() {
                    1 => Some(letter.to_string()),
                    count => (0..count).map(|_| fresh.next()).collect(),
                };
                let Some(names) = names else { return };
                parts.push((letter, names, group.iter().map(|dim| split[*dim].clone()).collect()));
            }
            let part = |letter: char| parts.iter().find(|(own, _, _)| *own == letter);
            let rename = |letters: &str| -> String {
                letters
                    .chars()
                    .map(|own| part(own).map_or(own.to_string(), |(_, names, _)| names.clone()))
                    .collect()
            };
            let other_shape: Vec<Dim> = other_letters
                .chars()
                .zip(&view.ty(other).shape)
                .flat_map(|(own, size)| part(own).map_or(vec![size.clone()], |(_, _, sizes)| sizes.clone()))
                .collect();
            let own_term = (rename(own_letters), Term::from(x));
            let other_term = (rename(other_letters), Term::from(other).reshape(&other_shape));
            let ((lhs, a), (rhs, b)) = if turned { (other_term, own_term) } else { (own_term, other_term) };
            let product = Term::node(Contract { lhs, rhs, out: rename(&op.out) }, [a, b]);
            found.push(product.reshape(&view.ty(site.class).shape));
        }
    }
}

fn reshape_samples() -> Vec<Graph> {
    vec![
        sample(&[&[2, 3, 2, 4], &[8, 5]], |graph, x| {
            let merged = graph.reshape(x[0], &dims(&[2, 3, 8]));
            graph.contract("bsd,de->bse", merged, x[1])
        }),
        sample(&[&[2, 3, 4], &[4, 5]], |graph, x| {
            let merged = graph.reshape(x[0], &dims(&[6, 4]));
            graph.contract("kn,mk->mn", x[1], merged)
        }),
        sample(&[&[2, 3, 4], &[4, 5]], |graph, x| {
            let merged = graph.reshape(x[0], &dims(&[6, 4]));
            graph.contract("mk,kn->nm", merged, x[1])
        }),
    ]
}

/// A sum over dims of a product: a dim that only one operand has is summed in that operand first; one that both have is
/// summed by the contraction.
fn sum_contract(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Reduce(op) = &*site.node.op else { return };
    if op.function != ReduceFn::Sum {
        return;
    }
    for (contract, x, y) in contracts(view, site.operand(0)) {
        let gone: Vec<char> = contract
            .out
            .chars()
            .enumerate()
            .filter(|(dim, _)| op.dims.contains(dim))
            .map(|(_, own)| own)
            .collect();
        let summed = |letters: &str, others: &str, id: Id| {
            let first = |own: &char| gone.contains(own) && !others.contains(*own);
            let over =
                letters.chars().enumerate().filter(|(_, own)| first(own)).map(|(dim, _)| dim).collect();
            let left: String = letters.chars().filter(|own| !first(own)).collect();
            (left, Term::from(id).reduce(ReduceFn::Sum, over))
        };
        let (lhs, a) = summed(&contract.lhs, &contract.rhs, x);
        let (rhs, b) = summed(&contract.rhs, &contract.lhs, y);
        let out = contract.out.chars().filter(|own| !gone.contains(own)).collect();
        found.push(Term::node(Contract { lhs, rhs, out }, [a, b]));
    }
}

fn sum_samples() -> Vec<Graph> {
    let of = |notation: &'static str, over: &'static [usize]| {
        sample(&[&[2, 4, 6], &[2, 6, 3]], move |graph, x| {
            let y = graph.contract(notation, x[0], x[1]);
            graph.reduce_sum(y, over)
        })
    };
    vec![of("bmk,bkn->bmn", &[1]), of("bmk,bkn->bmn", &[0]), of("bmk,bkn->nbm", &[0, 1, 2])]
}

/// Products with one operand in common, added or subtracted, are one product with the sum of the others.
fn add_contracts(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Pointwise(op) = &*site.node.op else { return };
    let [left, right] = site.node.operands[..] else { return };
    for (first, a, b) in contracts(view, left) {
        for (second, c, d) in contracts(view, right) {
            if first != second || (a == c && b == d) {
                continue;
            }
            if a == c {
                let sum = Term::pointwise(op.function, [b, d]);
                found.push(Term::node(first.clone(), [Term::from(a), sum]));
            } else if b == d {
                let sum = Term::pointwise(op.function, [a, c]);
                found.push(Term::node(first.clone(), [sum, Term::from(b)]));
            }
        }
    }
}

fn add_samples(function: PointwiseFn) -> Vec<Graph> {
    vec![
        sample(&[&[4, 6], &[6, 3], &[6, 3]], move |graph, x| {
            let products = [1, 2].map(|index| graph.contract("mk,kn->mn", x[0], x[index]));
            graph.pointwise(function, &products)
        }),
        sample(&[&[6, 3], &[4, 6], &[4, 6]], move |graph, x| {
            let products = [1, 2].map(|index| graph.contract("mk,kn->mn", x[index], x[0]));
            graph.pointwise(function, &products)
        }),
    ]
}
