//! Counts of sequences of tokens.

use super::Row;
use crate::builder::{Build, problem};
use crate::call::{Call, Results};
use crate::value::Value;
use std::collections::BTreeMap;
use thalweg_base::{DType, Literal, Scalar};

/// The rows of this family.
pub const OPS: &[Row] = &[("TfIdfVectorizer", tf_idf_vectorizer)];

/// The most columns of the result.
const COLUMNS_MAX: usize = 1 << 26;

/// What is counted.
struct Grams {
    /// The column of each sequence of tokens.
    columns: BTreeMap<Vec<i64>, usize>,
    shortest: usize,
    longest: usize,
    /// How many tokens are left out at most between two of a sequence.
    skips: usize,
}

/// The sequences lie one after the other in a pool, the shorter ones first; `ngram_counts` says where each length begins.
fn grams(call: &Call) -> Build<(Grams, usize)> {
    let list = |name: &str| call.int_list(name).unwrap_or_default();
    let (pool, starts, indexes) = (list("pool_int64s"), list("ngram_counts"), list("ngram_indexes"));
    if pool.is_empty() && call.attribute("pool_strings").is_some() {
        return problem("tokens are counted only as numbers");
    }
    let count = |name: &str| usize::try_from(call.int_or(name, 0)).unwrap_or(0);
    let (shortest, longest) = (count("min_gram_length").max(1), count("max_gram_length"));
    let size = indexes.iter().max().map_or(0, |last| last.saturating_add(1).max(0) as usize);
    if size == 0 || size > COLUMNS_MAX {
        return problem(format!("sequences are counted in {size} columns"));
    }
    let mut columns = BTreeMap::new();
    let mut next = 0;
    for (at, start) in starts.iter().enumerate() {
        let end = starts.get(at + 1).copied().unwrap_or(pool.len() as i64);
        let (Ok(start), Ok(end)) = (usize::try_from(*start), usize::try_from(end)) else {
            return problem("the pool has no such place");
        };
        let Some(part) = pool.get(start..end) else { return problem("the pool has no such place") };
        for tokens in part.chunks_exact(at + 1) {
            let column = indexes.get(next).and_then(|column| usize::try_from(*column).ok());
            let Some(column) = column else { return problem(format!("sequence {next} has no column")) };
            columns.insert(tokens.to_vec(), column);
            next += 1;
        }
    }
    Ok((Grams { columns, shortest, longest, skips: count("max_skip_count") }, size))
}

impl Grams {
    fn count(&self, tokens: &[i64], counts: &mut [f64]) {
        for step in 1..=self.skips.saturating_add(1).min(tokens.len()) {
            // A single token is the same at every step.
            for length in self.shortest.max(if step > 1 { 2 } else { 1 })..=self.longest.min(tokens.len()) {
                let span = (length - 1) * step;
                for start in 0..tokens.len().saturating_sub(span) {
                    let gram: Vec<i64> = tokens[start..=start + span].iter().step_by(step).copied().collect();
                    if let Some(column) = self.columns.get(&gram) {
                        counts[*column] += 1.0;
                    }
                }
            }
        }
    }
}

fn tf_idf_vectorizer(call: &mut Call) -> Results {
    let x = call.literal(0)?;
    let (grams, size) = grams(call)?;
    let weights = call.float_list("weights").filter(|weights| !weights.is_empty());
    let (rows, shape) = match *x.shape() {
        [] | [_] => (1, vec![size]),
        [rows, _] => (rows, vec![rows, size]),
        _ => return problem("tokens are a list or a list for each row"),
    };
    if weights.as_ref().is_some_and(|weights| weights.len() < size) || rows.saturating_mul(size) > COLUMNS_MAX
    {
        return problem(format!("the weights do not fit {rows} rows of {size} columns"));
    }
    let tokens: Vec<i64> = x.scalars().map(|token| token.to_i64()).collect();
    let mut counts = vec![0.0; rows * size];
    for (tokens, counts) in
        tokens.chunks_exact((x.len() / rows.max(1)).max(1)).zip(counts.chunks_exact_mut(size))
    {
        grams.count(tokens, counts);
    }
    let weight = |at: usize| weights.as_ref().map_or(1.0, |weights| weights[at % size]);
    let value = |count: f64, at: usize, mode: &str| match mode {
        "TF" => Some(count),
        "IDF" => Some(if count > 0.0 { weight(at) } else { 0.0 }),
        "TFIDF" => Some(count * weight(at)),
        _ => None,
    };
    let mode = call.text_or("mode", "");
    let values: Option<Vec<Scalar>> =
        counts.iter().enumerate().map(|(at, count)| value(*count, at, &mode).map(Scalar::Float)).collect();
    match values {
        Some(values) => Ok(vec![Value::known(Literal::from_scalars(DType::F32, &shape, values))]),
        None => problem(format!("there is no mode `{mode}`")),
    }
}
