//! Every row on its own samples: it fires, and all that it puts in a class is equal.

use super::assert_consistent;
use crate::normalize::normalize;
use crate::plan::build;
use crate::regions::split;
use crate::report::StopReason;
use crate::rules::{self, Table};
use crate::saturate::{Limits, saturate};
use std::collections::BTreeSet;

#[test]
fn every_rule_fires_on_its_samples_and_both_sides_agree() {
    for (index, rule) in rules::all().iter().enumerate() {
        let table = Table::new(|other| other.name == rule.name);
        let samples = rule.samples();
        assert!(!samples.is_empty(), "`{}` has no sample", rule.name);
        for (graph, positive) in samples {
            thalweg_tensor::verify::assert_valid(&graph);
            let mut fired = vec![0; rules::all().len()];
            for region in split(&graph) {
                let (mut egraph, _) = build(&region.shape);
                let limits = Limits { iterations: 8, nodes: 1000, fuel: &mut None };
                let outcome = saturate(&mut egraph, &table, limits, &mut fired);
                assert_eq!(outcome.stop, StopReason::Saturated, "`{}`", rule.name);
                for seed in 0..3 {
                    assert_consistent(&egraph, seed, positive);
                }
            }
            assert!(fired[index] > 0, "`{}` does not fire on\n{graph}", rule.name);
        }
    }
}

#[test]
fn names_are_unique_and_rules_many() {
    let names: BTreeSet<&str> = rules::all().iter().map(|rule| rule.name).collect();
    assert_eq!(names.len(), rules::all().len());
    assert!(names.len() >= 36, "{} rules", names.len());
}

/// All rules together on every sample: rules that are right alone may still meet.
#[test]
fn all_rules_together_agree_on_all_samples() {
    let table = Table::new(|rule| rule.class != rules::Class::AssumesFinite);
    for rule in rules::all() {
        for (graph, positive) in rule.samples() {
            for region in split(&normalize(&graph)) {
                let (mut egraph, _) = build(&region.shape);
                let limits = Limits { iterations: 8, nodes: 2000, fuel: &mut None };
                saturate(&mut egraph, &table, limits, &mut vec![0; rules::all().len()]);
                assert_consistent(&egraph, 7, positive);
            }
        }
    }
}
