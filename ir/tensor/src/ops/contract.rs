//! Sum of products over shared axes, in Einstein's notation: `y[out] = sum over letters not in out of l[lhs] r[rhs]`.
//!
//! Matrix products, batched products, outer products and their transposes are all this op. Every letter is in two of the
//! three places at least, so the gradient for an operand is again a contraction, of the cotangent with the other operand.

use crate::Mesh;
use crate::ReduceFn;
use crate::axes::{AxisSignature, Role};
use crate::op::{Grad, InferError, OpDef, PerDevice, Sample, VjpContext, Work, ensure, on_each};
use crate::types::TensorType;
use crate::value::Array;
use crate::value::indices;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thalweg_base::{DType, Dim, Scalar};

/// Sum of products over shared axes. Each dim has a letter; a letter stands once in each place.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Contract {
    /// The letters of the left operand's dims.
    pub lhs: String,
    /// The letters of the right operand's dims.
    pub rhs: String,
    /// The letters of the result's dims.
    pub out: String,
}

/// Reads `"ab,bc->ac"`.
pub fn parse_einsum(text: &str) -> Option<Contract> {
    let (operands, out) = text.split_once("->")?;
    let (lhs, rhs) = operands.split_once(',')?;
    let letters =
        |text: &str| text.trim().chars().all(|c| c.is_ascii_alphabetic()).then(|| text.trim().to_string());
    Some(Contract { lhs: letters(lhs)?, rhs: letters(rhs)?, out: letters(out)? })
}

impl From<Contract> for String {
    fn from(op: Contract) -> String {
        format!("{},{}->{}", op.lhs, op.rhs, op.out)
    }
}

impl TryFrom<String> for Contract {
    type Error = String;

    fn try_from(text: String) -> Result<Contract, String> {
        parse_einsum(&text).ok_or_else(|| format!("`{text}` is no contraction"))
    }
}

impl Contract {
    /// The contraction of that notation. Panics when it is not one.
    pub fn new(notation: &str) -> Contract {
        parse_einsum(notation).unwrap_or_else(|| panic!("`{notation}` is no contraction"))
    }

    /// The letters that are summed over, in the order of the left operand.
    pub fn summed(&self) -> String {
        self.lhs.chars().filter(|letter| !self.out.contains(*letter)).collect()
    }

    fn sizes(&self, operands: &[TensorType]) -> Result<BTreeMap<char, Dim>, InferError> {
        let mut sizes: BTreeMap<char, Dim> = BTreeMap::new();
        for (letters, operand) in [(&self.lhs, &operands[0]), (&self.rhs, &operands[1])] {
            ensure!(letters.len() == operand.rank(), "`{letters}` does not name the dims of {operand}");
            for (letter, size) in letters.chars().zip(&operand.shape) {
                match sizes.insert(letter, size.clone()) {
                    Some(other) if other != *size => {
                        return Err(InferError(format!(
                            "`{letter}` is {other} in one operand and {size} in the other"
                        )));
                    }
                    Some(_) | None => {}
                }
            }
        }
        Ok(sizes)
    }
}

impl OpDef for Contract {
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        ensure!(operands.len() == 2, "a contraction takes two operands");
        let dtype = operands[0].dtype;
        ensure!(dtype == operands[1].dtype, "a contraction of {dtype} with {}", operands[1].dtype);
        ensure!(dtype != DType::Bool, "a contraction takes numbers, not bool");
        let sizes = self.sizes(operands)?;
        for letters in [&self.lhs, &self.rhs, &self.out] {
            let repeated = letters.chars().enumerate().find(|(at, letter)| letters[..*at].contains(*letter));
            ensure!(repeated.is_none(), "`{letters}` repeats a letter");
        }
        for letter in self.out.chars() {
            ensure!(sizes.contains_key(&letter), "`{letter}` of the result is in no operand");
        }
        for (own, other) in [(&self.lhs, &self.rhs), (&self.rhs, &self.lhs)] {
            let lonely = own.chars().find(|letter| !other.contains(*letter) && !self.out.contains(*letter));
            ensure!(lonely.is_none(), "a letter of `{own}` is neither in `{other}` nor in `{}`", self.out);
        }
        Ok(vec![TensorType { dtype, shape: self.out.chars().map(|letter| sizes[&letter].clone()).collect() }])
    }

    fn axes(&self, operands: &[TensorType], _: &[TensorType]) -> AxisSignature {
        let mut signature = AxisSignature::default();
        let sizes = self.sizes(operands).expect("operands were inferred");
        let mut axes = BTreeMap::new();
        for (letter, size) in &sizes {
            let mapped = self.out.contains(*letter);
            let role = if mapped { Role::Mapped } else { Role::Reduced(ReduceFn::Sum) };
            axes.insert(*letter, signature.axis(size, role));
        }
        let dims = |letters: &str| letters.chars().map(|letter| vec![axes[&letter]]).collect::<Vec<_>>();
        signature.operands = vec![dims(&self.lhs), dims(&self.rhs)];
        signature.results = vec![dims(&self.out)];
        signature
    }

    fn eval(&self, _: &Mesh, operands: &PerDevice<Array>) -> PerDevice<Array> {
        on_each(operands, |operands| {
            let mut sizes = BTreeMap::new();
            for (letters, operand) in [(&self.lhs, &operands[0]), (&self.rhs, &operands[1])] {
                sizes.extend(letters.chars().zip(operand.shape.iter().copied()));
            }
            let shape_of =
                |letters: &str| letters.chars().map(|letter| sizes[&letter]).collect::<Vec<usize>>();
            let summed = self.summed();
            let names: Vec<char> = self.out.chars().chain(summed.chars()).collect();
            let place = |letters: &str| -> Vec<usize> {
                let at =
                    |letter| names.iter().position(|name| *name == letter).expect("every letter is placed");
                letters.chars().map(at).collect()
            };
            let (lhs, rhs, over) = (place(&self.lhs), place(&self.rhs), shape_of(&summed));
            Array::from_fn(operands[0].dtype, &shape_of(&self.out), |out| {
                let zero = Scalar::zero(operands[0].dtype);
                indices(&over).fold(zero, |sum, inner| {
                    let all = [out, &inner[..]].concat();
                    let pick = |places: &[usize]| places.iter().map(|place| all[*place]).collect::<Vec<_>>();
                    let (a, b) = (operands[0].at(&pick(&lhs)), operands[1].at(&pick(&rhs)));
                    let product = ReduceFn::Prod.combine(a, b);
                    ReduceFn::Sum.combine(sum, product)
                })
            })
        })
    }

    fn vjp(&self, context: &mut VjpContext) -> Vec<Grad> {
        let ct = context.ct();
        let [lhs, rhs] = [context.operands[0], context.operands[1]];
        let for_lhs = Contract { lhs: self.out.clone(), rhs: self.rhs.clone(), out: self.lhs.clone() };
        let for_rhs = Contract { lhs: self.lhs.clone(), rhs: self.out.clone(), out: self.rhs.clone() };
        vec![
            Grad::Value(context.graph.add(for_lhs, &[ct, rhs])),
            Grad::Value(context.graph.add(for_rhs, &[lhs, ct])),
        ]
    }

    fn work(&self, operands: &[TensorType], results: &[TensorType]) -> Work {
        let sizes = self.sizes(operands).expect("operands were inferred");
        let products: f64 = sizes.values().map(|size| size.size() as f64).product();
        Work::streaming(2.0 * products, operands, results)
    }

    fn samples() -> Vec<Sample> {
        let sample = |notation, lhs: &[usize], rhs: &[usize], dtype| {
            let ty = |shape: &[usize]| TensorType::new(dtype, shape.iter().copied());
            Sample::new(Contract::new(notation), &[ty(lhs), ty(rhs)])
        };
        let mut samples = vec![
            sample("mk,kn->mn", &[4, 6], &[6, 2], DType::F32),
            sample("km,nk->mn", &[6, 4], &[2, 6], DType::F32),
            sample("bmk,bkn->bmn", &[2, 4, 6], &[2, 6, 4], DType::F32),
            sample("bshe,bthe->bhst", &[2, 4, 2, 6], &[2, 4, 2, 6], DType::F32),
            sample("mk,k->m", &[4, 6], &[6], DType::F32),
            sample("m,n->nm", &[4], &[6], DType::F32),
            sample("k,k->", &[6], &[6], DType::F32),
            sample("ab,ab->ab", &[4, 6], &[4, 6], DType::F32),
        ];
        let others = DType::ALL.into_iter().filter(|dtype| !matches!(dtype, DType::F32 | DType::Bool));
        samples.extend(others.map(|dtype| sample("mk,kn->mn", &[4, 6], &[6, 2], dtype)));
        samples
    }
}
