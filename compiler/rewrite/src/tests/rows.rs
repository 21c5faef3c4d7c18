//! Every row on its own samples: it fires, and all that it puts in a class is equal.

use super::{assert_agree, assert_consistent, class_values};
use crate::normalize::normalize;
use crate::plan::build;
use crate::regions::split;
use crate::report::StopReason;
use crate::rules::{self, Class, Rule, Table};
use crate::saturate::{Limits, saturate};
use std::collections::BTreeSet;
use thalweg_base::{Scalar, random};
use thalweg_tensor::Array;
use thalweg_tensor::ops::Leaf;

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
    let table = Table::new(|rule| rule.class != Class::AssumesFinite);
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

/// Values at the edges of floating point, and between. Integers are left to the other tests.
fn special(leaf: &Leaf, values: &[f64], seed: u64) -> Array {
    let key = random::key_for(seed, &leaf.name);
    let sizes = leaf.ty.sizes();
    let value = |index: usize| {
        let word = random::threefry2x32(key, [index as u32, 1])[0];
        Scalar::Float(values[word as usize % values.len()]).convert(leaf.ty.dtype)
    };
    let values = (0..sizes.iter().product()).map(value).collect();
    Array { dtype: leaf.ty.dtype, shape: sizes, values }
}

/// The value of each output as it was and of what else is in its class after the rule alone has fired.
fn pairs(rule: &Rule, values: &[f64], seed: u64) -> Vec<(Array, Array)> {
    let table = Table::new(|other| other.name == rule.name);
    let mut pairs = Vec::new();
    for (graph, _) in rule.samples() {
        for region in split(&graph) {
            let (mut egraph, classes) = build(&region.shape);
            let (before, _) = class_values(&egraph, |leaf| special(leaf, values, seed));
            let outputs = region.shape.outputs.iter().map(|output| classes[*output as usize]);
            let before: Vec<_> = outputs.map(|class| (class, before[&egraph.find(class)].clone())).collect();
            let limits = Limits { iterations: 8, nodes: 1000, fuel: &mut None };
            saturate(&mut egraph, &table, limits, &mut vec![0; rules::all().len()]);
            let (_, others) = class_values(&egraph, |leaf| special(leaf, values, seed));
            for (class, own) in before {
                let same = others.iter().filter(|(other, _, _)| *other == egraph.find(class));
                pairs.extend(same.map(|(_, _, value)| (own[0].clone(), value[0].clone())));
            }
        }
    }
    pairs
}

#[test]
fn exact_rules_hold_for_nan_and_infinities() {
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, 1.0, -2.5, 0.75];
    for rule in rules::all().iter().filter(|rule| rule.class == Class::Exact) {
        for seed in 0..20 {
            for (own, other) in pairs(rule, &values, seed) {
                assert_agree(&own, &other, 0.0, &|| format!("`{}`", rule.name));
            }
        }
    }
}

#[test]
fn reassociating_rules_keep_nan_and_finite_numbers() {
    let finite = [0.0, 1.0, -2.5, 0.75, 1e12, -1e12, 1e-12, -1e-12, 60.0];
    for rule in rules::all().iter().filter(|rule| rule.class == Class::Reassociates) {
        for seed in 0..20 {
            for (own, other) in pairs(rule, &finite, seed) {
                for (own, other) in own.values.iter().zip(&other.values) {
                    let lost = own.to_f64().is_finite() && !other.to_f64().is_finite();
                    assert!(!lost, "`{}` makes {other:?} of {own:?}", rule.name);
                }
            }
        }
        for (own, other) in pairs(rule, &[f64::NAN], 0) {
            for (own, other) in own.values.iter().zip(&other.values) {
                assert_eq!(own.to_f64().is_nan(), other.to_f64().is_nan(), "`{}`", rule.name);
            }
        }
    }
}
