//! Why each op is where it is.

use crate::layout::words;
use crate::problem::{Assignment, Problem};
use serde::Serialize;
use std::fmt;
use thalweg_base::Span;
use thalweg_tensor::NodeId;

/// The reasons of a split, one entry for each mesh axis of more than one device.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Explanation {
    /// In the order of the mesh.
    pub axes: Vec<AxisExplanation>,
}

/// The reasons along one mesh axis.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct AxisExplanation {
    /// The mesh axis.
    pub axis: String,
    /// The strategy that was taken.
    pub strategy: String,
    /// The strategies that were looked at, and the seconds of each.
    pub considered: Vec<(String, f64)>,
    /// What was asked for and could not be done, in words.
    pub notes: Vec<String>,
    /// For each node that had a choice.
    pub choices: Vec<Choice>,
}

/// What was chosen for a node, and what else there was.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Choice {
    /// The node of the graph that was given; absent for collectives of an earlier mesh axis.
    pub node: Option<NodeId>,
    /// The name of its op.
    pub op: String,
    /// Its module path.
    pub scope: String,
    /// Its place in the source.
    pub span: Option<Span>,
    /// What was chosen, in words.
    pub chosen: String,
    /// The seconds it takes, with the collectives around it.
    pub seconds: f64,
    /// The other candidates, and how many seconds more each would take with all else as it is; infinite where all else
    /// would have to change too.
    pub alternatives: Vec<(String, f64)>,
}

/// The choices of an assignment.
pub(crate) fn choices(problem: &Problem, assignment: &Assignment, origins: &[Option<NodeId>]) -> Vec<Choice> {
    let mut assignment = assignment.clone();
    let mut found = Vec::new();
    for id in problem.graph.ids() {
        let count = problem.candidates[id.index()].len();
        if count < 2 {
            continue;
        }
        let node = problem.graph.node(id);
        let chosen = assignment[id.index()];
        let seconds = problem.surroundings(&assignment, &[id]).seconds();
        let mut alternatives = Vec::new();
        for other in (0..count).filter(|other| *other != chosen) {
            assignment[id.index()] = other;
            let more = problem.surroundings(&assignment, &[id]).seconds() - seconds;
            alternatives.push((describe(problem, &assignment, id), more));
        }
        assignment[id.index()] = chosen;
        found.push(Choice {
            node: origins[id.index()],
            op: node.op.name().to_string(),
            scope: node.scope.to_string(),
            span: node.span,
            chosen: describe(problem, &assignment, id),
            seconds,
            alternatives,
        });
    }
    found
}

fn describe(problem: &Problem, assignment: &Assignment, id: NodeId) -> String {
    let candidate = problem.chosen(assignment, id);
    let needs: Vec<String> = candidate.needs.iter().map(|part| words(*part)).collect();
    match needs.is_empty() {
        true => words(candidate.gives),
        false => format!("{} -> {}", needs.join(", "), words(candidate.gives)),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for axis in &self.axes {
            writeln!(f, "along {}: {}", axis.axis, axis.strategy)?;
            for (name, seconds) in &axis.considered {
                writeln!(f, "  {name}: {:.3} ms", seconds * 1e3)?;
            }
            for note in &axis.notes {
                writeln!(f, "  note: {note}")?;
            }
            for choice in &axis.choices {
                let node = choice.node.map_or(String::new(), |node| format!("{node} "));
                let scope =
                    if choice.scope.is_empty() { String::new() } else { format!(" @{}", choice.scope) };
                writeln!(
                    f,
                    "  {node}{}{scope}: {} ({:.3} us)",
                    choice.op,
                    choice.chosen,
                    choice.seconds * 1e6
                )?;
                for (other, more) in &choice.alternatives {
                    writeln!(f, "    or {other}: {:+.3} us", more * 1e6)?;
                }
            }
        }
        Ok(())
    }
}
