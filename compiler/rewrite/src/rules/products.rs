//! Contractions: movement absorbed into letters, factors taken out, products that share an operand merged.

use super::Class::{Exact, Reassociates};
use super::movement::{dims, sample};
use super::reductions::{functions, letter, scales_safely};
use super::{Rule, search};
use crate::term::Term;
use crate::view::{Site, View};
use egg::Id;
use thalweg_base::{DType, Dim, PointwiseFn, Scalar};
use thalweg_tensor::ops::{Concat, Contract, Initializer, SliceRange};
use thalweg_tensor::{Graph, NodeId, Op, ReduceFn, TensorType};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        search("contract-letters", Exact, "Contract", canonical_letters, letter_samples),
        search("contract-of-transpose", Exact, "Contract", contract_transpose, transpose_samples),
        search("transpose-of-contract", Exact, "Transpose", transpose_contract, transposed_samples),
        search("contract-of-scaled", Reassociates, "Contract", contract_scaled, scaled_samples),
        search("contract-of-neg", Exact, "Contract", contract_neg, neg_samples),
        search("contract-of-broadcast", Reassociates, "Contract", contract_broadcast, broadcast_samples),
        search("contract-of-uniform", Reassociates, "Contract", contract_uniform, uniform_samples),
        search("contract-without-sum", Exact, "Contract", contract_product, product_samples),
        search("products-sharing-operand", Exact, "Contract", merge, merge_samples),
    ]
}

/// The letters and class of each operand, the other way round for `turned`.
fn sides(op: &Contract, site: &Site, turned: bool) -> [(String, Id); 2] {
    let sides = [(op.lhs.clone(), site.operand(0)), (op.rhs.clone(), site.operand(1))];
    let [lhs, rhs] = sides;
    if turned { [rhs, lhs] } else { [lhs, rhs] }
}

/// The contraction of two sides that `sides` gave.
fn joined(turned: bool, own: (String, Term), other: (String, Term), out: String) -> Term {
    let ((lhs, x), (rhs, y)) = if turned { (other, own) } else { (own, other) };
    Term::node(Contract { lhs, rhs, out }, [x, y])
}

/// A contraction with letters in the order of their appearance, so that equal ones are equal.
fn canonical(op: &Contract) -> Option<Contract> {
    let mut order: Vec<char> = Vec::new();
    for letter in op.lhs.chars().chain(op.rhs.chars()) {
        if !order.contains(&letter) {
            order.push(letter);
        }
    }
    let rename = |text: &str| {
        let place = |own| order.iter().position(|letter| *letter == own).expect("operands have every letter");
        text.chars().map(|own| letter(place(own))).collect::<Option<String>>()
    };
    Some(Contract { lhs: rename(&op.lhs)?, rhs: rename(&op.rhs)?, out: rename(&op.out)? })
}

fn canonical_letters(_: View, site: Site, found: &mut Vec<Term>) {
    let Op::Contract(op) = &*site.node.op else { return };
    if let Some(renamed) = canonical(op).filter(|renamed| renamed != op) {
        found.push(Term::node(renamed, [site.operand(0), site.operand(1)]));
    }
}

fn letter_samples() -> Vec<Graph> {
    vec![sample(&[&[4, 6], &[6, 3]], |graph, x| graph.contract("mk,kn->mn", x[0], x[1]))]
}

/// A transposed operand is the operand with its letters in the other order.
fn contract_transpose(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Contract(op) = &*site.node.op else { return };
    for turned in [false, true] {
        let [(letters, own), (other_letters, other)] = sides(op, &site, turned);
        for (inner, x) in view.transposes(own) {
            let mut before = vec!['?'; inner.perm.len()];
            for (letter, dim) in letters.chars().zip(&inner.perm) {
                before[*dim] = letter;
            }
            let own = (before.into_iter().collect(), x.into());
            found.push(joined(turned, own, (other_letters.clone(), other.into()), op.out.clone()));
        }
    }
}

fn transpose_samples() -> Vec<Graph> {
    vec![
        sample(&[&[6, 4], &[6, 3]], |graph, x| {
            let turned = graph.transpose(x[0], &[1, 0]);
            graph.contract("mk,kn->mn", turned, x[1])
        }),
        sample(&[&[4, 6], &[6, 2, 3]], |graph, x| {
            let turned = graph.transpose(x[1], &[1, 2, 0]);
            graph.contract("mk,abk->mab", x[0], turned)
        }),
    ]
}

/// A transposed contraction is the contraction with the letters of its result in the other order.
fn transpose_contract(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Transpose(outer) = &*site.node.op else { return };
    for node in view.nodes(site.operand(0)) {
        let Op::Contract(op) = &*node.op else { continue };
        let letters: Vec<char> = op.out.chars().collect();
        let out = outer.perm.iter().map(|dim| letters[*dim]).collect();
        found.push(Term::node(Contract { out, ..op.clone() }, [node.operands[0], node.operands[1]]));
    }
}

fn transposed_samples() -> Vec<Graph> {
    vec![sample(&[&[2, 4, 6], &[6, 3]], |graph, x| {
        let y = graph.contract("bmk,kn->bmn", x[0], x[1]);
        graph.transpose(y, &[2, 0, 1])
    })]
}

/// A factor that repeats along every summed dim of an operand scales the result instead.
fn contract_scaled(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Contract(op) = &*site.node.op else { return };
    let ty = view.ty(site.class);
    if !scales_safely(ty.dtype) {
        return;
    }
    for turned in [false, true] {
        let [(letters, own), (other_letters, other)] = sides(op, &site, turned);
        let letters_of: Vec<char> = letters.chars().collect();
        for operands in functions(view, own, PointwiseFn::Mul) {
            for (x, factor) in [(operands[0], operands[1]), (operands[1], operands[0])] {
                if view.uniform(x).is_some() {
                    continue;
                }
                for (inner, scale) in view.broadcasts(factor) {
                    let place = |dim: &usize| op.out.find(letters_of[*dim]);
                    let Some(places) = inner.dims.iter().map(place).collect::<Option<Vec<usize>>>() else {
                        continue;
                    };
                    if places.windows(2).all(|pair| pair[0] < pair[1]) {
                        let own = (letters.clone(), x.into());
                        let product =
                            joined(turned, own, (other_letters.clone(), other.into()), op.out.clone());
                        let scale = Term::from(scale).broadcast(&ty.shape, places);
                        found.push(Term::pointwise(PointwiseFn::Mul, [product, scale]));
                    }
                }
            }
        }
    }
}

fn scaled_samples() -> Vec<Graph> {
    vec![
        sample(&[&[4, 6], &[6, 3]], |graph, x| {
            let scale = graph.full(&TensorType::new(DType::F32, [4, 6]), Scalar::Float(0.3));
            let scaled = graph.pointwise(PointwiseFn::Mul, &[x[0], scale]);
            graph.contract("mk,kn->mn", scaled, x[1])
        }),
        sample(&[&[4, 6], &[6, 3], &[4]], |graph, x| {
            let scale = graph.broadcast(x[2], &dims(&[4, 6]), &[0]);
            let scaled = graph.pointwise(PointwiseFn::Mul, &[x[0], scale]);
            graph.contract("kn,mk->nm", x[1], scaled)
        }),
    ]
}

fn contract_neg(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Contract(op) = &*site.node.op else { return };
    for turned in [false, true] {
        let [(letters, own), (other_letters, other)] = sides(op, &site, turned);
        for x in functions(view, own, PointwiseFn::Neg) {
            let own = (letters.clone(), x[0].into());
            let product = joined(turned, own, (other_letters.clone(), other.into()), op.out.clone());
            found.push(Term::pointwise(PointwiseFn::Neg, [product]));
        }
    }
}

fn neg_samples() -> Vec<Graph> {
    vec![sample(&[&[4, 6], &[6, 3]], |graph, x| {
        let negated = graph.pointwise(PointwiseFn::Neg, &[x[1]]);
        graph.contract("mk,kn->mn", x[0], negated)
    })]
}

/// A broadcast operand loses a new dim: one that only it and the result have is repeated after the product; one that all
/// three have is left to the other operand; one that is summed is summed in the other operand first.
fn contract_broadcast(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Contract(op) = &*site.node.op else { return };
    for turned in [false, true] {
        let [(letters, own), (other_letters, other)] = sides(op, &site, turned);
        if view.uniform(own).is_some() {
            continue;
        }
        let letters_of: Vec<char> = letters.chars().collect();
        for (inner, x) in view.broadcasts(own) {
            let own_letters: String = inner.dims.iter().map(|dim| letters_of[*dim]).collect();
            let gone = |letter: char| letters.contains(letter) && !own_letters.contains(letter);
            let repeated = |letter: char| gone(letter) && !other_letters.contains(letter);
            let summed: Vec<usize> = (other_letters.chars().enumerate())
                .filter(|(_, letter)| gone(*letter) && !op.out.contains(*letter))
                .map(|(dim, _)| dim)
                .collect();
            let rest: String = (other_letters.chars().enumerate())
                .filter(|(dim, _)| !summed.contains(dim))
                .map(|(_, letter)| letter)
                .collect();
            let out: String = op.out.chars().filter(|letter| !repeated(*letter)).collect();
            let kept = (op.out.chars().enumerate())
                .filter(|(_, letter)| !repeated(*letter))
                .map(|(dim, _)| dim)
                .collect();
            let other = Term::from(other).reduce(ReduceFn::Sum, summed);
            let product = joined(turned, (own_letters, x.into()), (rest, other), out);
            found.push(product.broadcast(&view.ty(site.class).shape, kept));
        }
    }
}

fn broadcast_samples() -> Vec<Graph> {
    let of = |notation: &'static str, to: &'static [usize], operand: &'static [usize]| {
        sample(&[operand, &[2, 6, 3]], move |graph, x| {
            let wide = graph.broadcast(x[0], &dims(&[2, 4, 6]), to);
            graph.contract(notation, wide, x[1])
        })
    };
    vec![
        of("bmk,bkn->bmn", &[0, 2], &[2, 6]),
        of("bmk,bkn->bmn", &[1, 2], &[4, 6]),
        of("bmk,bkn->bmn", &[0, 1], &[2, 4]),
        of("bmk,bkn->nmb", &[1], &[4]),
    ]
}

/// A contraction with one value everywhere is a sum of the other operand, scaled and repeated.
fn contract_uniform(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Contract(op) = &*site.node.op else { return };
    let ty = view.ty(site.class);
    for turned in [false, true] {
        let [(_, own), (letters, x)] = sides(op, &site, turned);
        let Some(value) = view.uniform(own) else { continue };
        let summed: Vec<usize> = (letters.chars().enumerate())
            .filter(|(_, letter)| !op.out.contains(*letter))
            .map(|(dim, _)| dim)
            .collect();
        let left: Vec<char> = letters.chars().filter(|letter| op.out.contains(*letter)).collect();
        let (places, perm) = placed(&left, &op.out);
        let sum = Term::from(x).reduce(ReduceFn::Sum, summed).transpose(perm).broadcast(&ty.shape, places);
        let scale = Term::Uniform(ty.clone(), value);
        found.push(Term::pointwise(PointwiseFn::Mul, [sum, scale]));
    }
}

/// Where a tensor with these letters stands in a result: the places of its dims, rising, and the order that puts its dims
/// in the order of those places.
fn placed(letters: &[char], out: &str) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<(usize, usize)> = letters
        .iter()
        .enumerate()
        .map(|(dim, letter)| (out.chars().position(|own| own == *letter).expect("it is in the result"), dim))
        .collect();
    order.sort_unstable();
    order.into_iter().unzip()
}

fn uniform_samples() -> Vec<Graph> {
    let of = |notation: &'static str, value: f64| {
        sample(&[&[2, 4, 6]], move |graph, x| {
            let uniform = graph.full(&TensorType::new(DType::F32, [6, 3]), Scalar::Float(value));
            graph.contract(notation, x[0], uniform)
        })
    };
    vec![of("bmk,kn->bmn", 1.0), of("bmk,kn->nmb", 0.25)]
}

/// A contraction that sums nothing is a product of broadcasts.
fn contract_product(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Contract(op) = &*site.node.op else { return };
    if !op.summed().is_empty() {
        return;
    }
    let shape = &view.ty(site.class).shape;
    let wide = |letters: &str, x: Id| {
        let letters: Vec<char> = letters.chars().collect();
        let (places, perm) = placed(&letters, &op.out);
        Term::from(x).transpose(perm).broadcast(shape, places)
    };
    let operands = [wide(&op.lhs, site.operand(0)), wide(&op.rhs, site.operand(1))];
    found.push(Term::pointwise(PointwiseFn::Mul, operands));
}

fn product_samples() -> Vec<Graph> {
    vec![
        sample(&[&[4], &[6]], |graph, x| graph.contract("m,n->nm", x[0], x[1])),
        sample(&[&[4, 6], &[6, 4]], |graph, x| graph.contract("mn,nm->mn", x[0], x[1])),
    ]
}

/// Products of one operand with several parameters are slices of one product with the parameters side by side, along a
/// dim that only they and the result have. Parameters depend on nothing, so no choice of slices makes a cycle.
fn merge(view: View, site: Site, found: &mut Vec<Term>) {
    let Op::Contract(op) = &*site.node.op else { return };
    if canonical(op).as_ref() != Some(op) {
        return;
    }
    for turned in [false, true] {
        let [(shared_letters, shared), (letters, own)] = sides(op, &site, turned);
        if !view.is_parameter(own) {
            continue;
        }
        let own_at = if turned { 0 } else { 1 };
        let mut partners: Vec<Id> = view.egraph[shared]
            .parents()
            .flat_map(|parent| view.nodes(view.egraph.find(parent)))
            .filter(|node| *node.op == *site.node.op && node.operands[1 - own_at] == shared)
            .map(|node| node.operands[own_at])
            .filter(|id| view.is_parameter(*id))
            .collect();
        partners.sort_by_key(|id| (view.facts(*id).origin, *id));
        partners.dedup();
        for (dim, free) in letters.chars().enumerate() {
            if shared_letters.contains(free) {
                continue;
            }
            let mut group = partners.clone();
            group.retain(|id| same_but(&view.ty(*id).shape, &view.ty(own).shape, dim));
            if group.len() < 2 {
                continue;
            }
            let mut start = Dim::default();
            for partner in group.iter().take_while(|id| **id != own) {
                start = &start + &view.ty(*partner).shape[dim];
            }
            let both = Term::node(Concat { dim }, group);
            let product = joined(
                turned,
                (shared_letters.clone(), shared.into()),
                (letters.clone(), both),
                op.out.clone(),
            );
            let out_dim = op.out.find(free).expect("a letter of one operand is in the result");
            let size = view.ty(own).shape[dim].clone();
            found.push(product.slice(vec![SliceRange { dim: out_dim, start, size, stride: 1 }]));
            break;
        }
    }
}

/// Whether two shapes differ in one dim at most.
fn same_but(a: &[Dim], b: &[Dim], dim: usize) -> bool {
    a.len() == b.len() && a.iter().zip(b).enumerate().all(|(at, (a, b))| at == dim || a == b)
}

fn merge_samples() -> Vec<Graph> {
    let ty = |shape: &[usize]| TensorType::new(DType::F32, shape.iter().copied());
    let init = Initializer::Normal { mean: Scalar::Float(0.0), deviation: Scalar::Float(1.0) };
    let build = |products: &dyn Fn(&mut Graph, [NodeId; 4]) -> [NodeId; 3], shapes: [&[usize]; 4]| {
        let mut graph = Graph::new("sample");
        let x = graph.input("x", ty(shapes[0]));
        let weights =
            [1, 2, 3].map(|index| graph.parameter(&format!("w{index}"), ty(shapes[index]), init.clone()));
        let results = products(&mut graph, [x, weights[0], weights[1], weights[2]]);
        for (index, result) in results.into_iter().enumerate() {
            graph.output(format!("y{index}"), result);
        }
        graph
    };
    vec![
        build(
            &|graph, [x, a, b, c]| [a, b, c].map(|weight| graph.contract("ab,bc->ac", x, weight)),
            [&[4, 6], &[6, 3], &[6, 2], &[6, 3]],
        ),
        build(
            &|graph, [x, a, b, c]| [a, b, c].map(|weight| graph.contract("abc,bd->cad", weight, x)),
            [&[4, 6], &[2, 4, 3], &[2, 4, 3], &[1, 4, 3]],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::movement::compose;
    use super::*;

    #[test]
    fn orders_compose_from_the_inside() {
        assert_eq!(compose(&[1, 0, 2], &[2, 0, 1]), [0, 2, 1]);
        assert_eq!(placed(&['a', 'b'], "bca"), (vec![0, 2], vec![1, 0]));
    }
}
