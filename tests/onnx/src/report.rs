//! What came of the cases.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What came of one case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case.
    pub case: String,
    /// The ops of its model.
    pub ops: BTreeSet<String>,
    /// Whether it passed, or what was wrong.
    pub result: Result<(), String>,
}

/// What came of all cases.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One for each case, in order.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// How many cases passed.
    pub fn passed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.result.is_ok()).count()
    }

    /// The cases that did not pass, with what was wrong.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.outcomes.iter().filter_map(|outcome| Some((&*outcome.case, &**outcome.result.as_ref().err()?)))
    }

    /// Passed and all cases that use each op.
    pub fn by_op(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut table = BTreeMap::new();
        for outcome in &self.outcomes {
            for op in &outcome.ops {
                let (passed, all) = table.entry(op.as_str()).or_insert((0, 0));
                *passed += outcome.result.is_ok() as usize;
                *all += 1;
            }
        }
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<28} {:>6} {:>6}", "op", "passed", "of")?;
        for (op, (passed, all)) in self.by_op() {
            writeln!(f, "{op:<28} {passed:>6} {all:>6}")?;
        }
        writeln!(f, "{:<28} {:>6} {:>6}", "cases", self.passed(), self.outcomes.len())
    }
}
