//! The search for the assignment that takes the least time.
//!
//! Dynamic programming along the topological order is exact on trees; where a value has several users, each bears an equal
//! share of what lies before it. The assignment is read off from the results back, then improved until neither a change of
//! one node nor of one region helps.

use crate::problem::{Assignment, Problem, Surroundings};
use std::collections::BTreeMap;
use thalweg_tensor::axes::Part;
use thalweg_tensor::{NodeId, Op};

/// Sweeps of improvement; the last few change little, and every one is linear in the graph.
const SWEEPS_MAX: usize = 8;

/// A change counts as better only beyond rounding.
const BETTER: f64 = 1.0 - 1e-9;

/// Dynamic programming over all candidates.
pub(crate) fn programmed(problem: &Problem) -> Assignment {
    let graph = problem.graph;
    // For each node and candidate, the least seconds of it and its share of all that lies before.
    let mut best: Vec<Vec<f64>> = Vec::with_capacity(graph.nodes().len());
    for id in graph.ids() {
        let node = graph.node(id);
        let of = |candidate: &crate::candidates::Candidate| {
            let slots = node.operands.iter().zip(&candidate.needs);
            let before = slots.map(|(operand, need)| {
                let share = problem.users[operand.index()].len().max(1) as f64;
                let options = problem.candidates[operand.index()].iter().zip(&best[operand.index()]);
                options
                    .map(|(own, seconds)| {
                        seconds / share + problem.reluctant_seconds(*operand, own.gives, *need)
                    })
                    .fold(f64::INFINITY, f64::min)
            });
            candidate.seconds + before.sum::<f64>()
        };
        let row = problem.candidates[id.index()].iter().map(of).collect();
        best.push(row);
    }
    let mut assignment: Assignment = vec![0; graph.nodes().len()];
    for id in graph.ids().rev() {
        // Leaves of later updates are not assigned yet; their side is counted when their turn comes.
        let users = problem.users[id.index()].iter();
        let mut targets: Vec<_> =
            users.map(|(user, slot)| problem.chosen(&assignment, *user).needs[*slot]).collect();
        if problem.is_output[id.index()] {
            targets.push(Part::Replicated);
        }
        targets.sort();
        targets.dedup();
        let seconds = |at: usize| {
            let gives = problem.candidates[id.index()][at].gives;
            let after: f64 = targets.iter().map(|to| problem.reluctant_seconds(id, gives, *to)).sum();
            let kept = problem.next[id.index()].map_or(0.0, |next| {
                problem.reluctant_seconds(next, problem.chosen(&assignment, next).gives, gives)
            });
            best[id.index()][at] + after + kept
        };
        assignment[id.index()] = least(problem.candidates[id.index()].len(), seconds);
    }
    assignment
}

/// The number below `count` with the least value, the first of equals.
fn least(count: usize, value: impl Fn(usize) -> f64) -> usize {
    (0..count).map(|at| (value(at), at)).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, at)| at)
}

/// Improves an assignment node by node, back and forth. With `keeping_messages`, only by changes that send nothing more: no
/// more messages, and no dearer ones.
pub(crate) fn improved(problem: &Problem, mut assignment: Assignment, keeping_messages: bool) -> Assignment {
    let better = |new: &Surroundings, old: &Surroundings| {
        let sends_more = new.messages > old.messages || new.communication > old.communication;
        new.seconds() < old.seconds() * BETTER && !(keeping_messages && sends_more)
    };
    for sweep in 0..SWEEPS_MAX {
        let mut changed = false;
        let mut visit = |id: NodeId| {
            let count = problem.candidates[id.index()].len();
            if count < 2 {
                return;
            }
            let mut chosen = assignment[id.index()];
            let mut price = problem.surroundings(&assignment, &[id]);
            for candidate in 0..count {
                assignment[id.index()] = candidate;
                let new = problem.surroundings(&assignment, &[id]);
                if better(&new, &price) {
                    (chosen, price, changed) = (candidate, new, true);
                }
            }
            assignment[id.index()] = chosen;
        };
        match sweep % 2 {
            0 => problem.graph.ids().rev().for_each(&mut visit),
            _ => problem.graph.ids().for_each(&mut visit),
        }
        if !changed {
            break;
        }
    }
    assignment
}

/// Improves an assignment by turns: node by node, then region by region, until neither helps.
pub(crate) fn searched(problem: &Problem, assignment: Assignment) -> Assignment {
    let regions = regions(problem);
    let mut assignment = improved(problem, assignment, false);
    for _ in 0..SWEEPS_MAX {
        let mut changed = false;
        for (region, placements) in &regions {
            changed |= move_region(problem, &mut assignment, region, placements);
        }
        if !changed {
            break;
        }
        assignment = improved(problem, assignment, false);
    }
    assignment
}

/// Regions of nodes that treat every position by itself and use each other's values, with the placements that each of
/// their nodes can take. Changing one of their nodes alone costs two collectives, so such a region moves as one.
fn regions(problem: &Problem) -> Vec<(Vec<NodeId>, Vec<Part>)> {
    let graph = problem.graph;
    let single = |id: NodeId| matches!(graph.node(id).op, Op::Pointwise(_) | Op::Convert(_) | Op::Random(_));
    let mut root: Vec<usize> = (0..graph.nodes().len()).collect();
    let find = |root: &[usize], mut at: usize| {
        while root[at] != at {
            at = root[at];
        }
        at
    };
    for id in graph.ids().filter(|id| single(*id)) {
        for operand in graph.node(id).operands.iter().filter(|operand| single(**operand)) {
            let (a, b) = (find(&root, id.index()), find(&root, operand.index()));
            if graph.ty(*operand).shape == graph.ty(id).shape {
                root[a.max(b)] = a.min(b);
            }
        }
    }
    let mut members: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
    for id in graph.ids().filter(|id| single(*id)) {
        members.entry(find(&root, id.index())).or_default().push(id);
    }
    let regions = members.into_values().filter(|region| region.len() > 1);
    regions
        .map(|region| {
            let mut placements: Vec<Part> =
                problem.candidates[region[0].index()].iter().map(|candidate| candidate.gives).collect();
            placements.retain(|part| !matches!(part, Part::Partial(_)));
            (region, placements)
        })
        .collect()
}

/// Lays a region out in the way that takes least; says whether that is another one.
fn move_region(
    problem: &Problem,
    assignment: &mut Assignment,
    region: &[NodeId],
    placements: &[Part],
) -> bool {
    let mut seconds = problem.surroundings(assignment, region).seconds();
    let mut changed = false;
    for placement in placements {
        let kept: Vec<usize> = region.iter().map(|id| assignment[id.index()]).collect();
        for id in region {
            let of_all = |candidate: &crate::candidates::Candidate| candidate.gives == *placement;
            if let Some(at) = problem.candidates[id.index()].iter().position(of_all) {
                assignment[id.index()] = at;
            }
        }
        let new = problem.surroundings(assignment, region).seconds();
        if new < seconds * BETTER {
            (seconds, changed) = (new, true);
        } else {
            for (id, at) in region.iter().zip(kept) {
                assignment[id.index()] = at;
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_base::{DType, PointwiseFn, Scalar};
    use thalweg_cost::{CostModel, presets};
    use thalweg_tensor::{Graph, TensorType, ops::Initializer};

    /// `tanh(x v) w`, with a residual where the widths allow it.
    fn two_layers([batch, input, hidden, output]: [usize; 4]) -> Graph {
        let mut graph = Graph::new("two_layers");
        let ty = |shape: [usize; 2]| TensorType::new(DType::F32, shape);
        let zero = Initializer::Constant(Scalar::Float(0.0));
        let x = graph.input("x", ty([batch, input]));
        let v = graph.parameter("v", ty([input, hidden]), zero.clone());
        let w = graph.parameter("w", ty([hidden, output]), zero);
        let product = graph.contract("mk,kn->mn", x, v);
        let tanh = graph.pointwise(PointwiseFn::Tanh, &[product]);
        let mut y = graph.contract("mk,kn->mn", tanh, w);
        if input == output {
            y = graph.pointwise(PointwiseFn::Add, &[x, y]);
        }
        graph.output("y", y);
        graph
    }

    /// The least seconds over every assignment.
    fn exhaustive(problem: &Problem) -> f64 {
        let counts: Vec<usize> = problem.candidates.iter().map(Vec::len).collect();
        let total: usize = counts.iter().product();
        let assignment = |mut number: usize| -> Assignment {
            let mut digit = |count: &usize| {
                let digit = number % count;
                number /= count;
                digit
            };
            counts.iter().map(&mut digit).collect()
        };
        (0..total).map(|number| problem.total(&assignment(number))).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn the_search_finds_the_optimum_of_small_graphs() {
        let cost = CostModel::new(&presets::cpu_default(1));
        let sizes =
            [[64, 256, 1024, 256], [1024, 64, 64, 64], [8, 1024, 1024, 8], [4, 4, 4, 4], [512, 512, 64, 512]];
        for sizes in sizes {
            let graph = two_layers(sizes);
            for parts in [2, 4] {
                let problem = Problem::new(&graph, "devices", parts, &cost);
                let found = problem.total(&searched(&problem, programmed(&problem)));
                let best = exhaustive(&problem);
                assert!(found <= best * (1.0 + 1e-9), "{sizes:?} on {parts}: {found} is not {best}");
            }
        }
    }
}
