//! What rewriting did.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why rewriting a region stopped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// No rule finds anything new.
    Saturated,
    /// As many rounds were made as may be.
    IterationLimit,
    /// The e-graph holds as many e-nodes as it may.
    NodeLimit,
    /// As many rules were applied as the fuel allows.
    FuelSpent,
}

/// What rewriting did to a graph, its sub-graphs included.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// How often each rule that fired found something new, by falling count, then name. What a repeated region replays
    /// is not counted again.
    pub rules: Vec<(String, usize)>,
    /// Why rewriting stopped, of all regions the reason furthest from saturation.
    pub stop: StopReason,
    /// The predicted time before, in seconds.
    pub cost_before: f64,
    /// The predicted time after, in seconds.
    pub cost_after: f64,
    /// E-nodes in all e-graphs.
    pub e_nodes: usize,
    /// E-classes in all e-graphs.
    pub e_classes: usize,
    /// Rounds of the longest saturation.
    pub iterations: usize,
    /// Regions the graph was cut into.
    pub regions: usize,
    /// How many of them were rewritten; the others were equal to one that had been.
    pub regions_unique: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.stop {
            StopReason::Saturated => "nothing more to find",
            StopReason::IterationLimit => "the limit of rounds",
            StopReason::NodeLimit => "the limit of e-nodes",
            StopReason::FuelSpent => "no fuel left",
        };
        writeln!(
            f,
            "predicted time: {:.3} us before, {:.3} us after",
            self.cost_before * 1e6,
            self.cost_after * 1e6
        )?;
        writeln!(
            f,
            "{} regions, {} of them unlike any other; {} e-nodes in {} classes; {} rounds; stopped by {reason}",
            self.regions, self.regions_unique, self.e_nodes, self.e_classes, self.iterations
        )?;
        for (name, times) in &self.rules {
            writeln!(f, "{times:>6}  {name}")?;
        }
        Ok(())
    }
}
