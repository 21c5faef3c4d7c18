//! What each strategy makes of a problem: which placements leaves may take, and how nodes follow them.

use crate::PartitionError;
use crate::problem::{Assignment, Problem};
use crate::search::{improved, programmed, searched};
use crate::strategy::Strategy;
use std::collections::{BTreeMap, BTreeSet};
use thalweg_tensor::NodeId;
use thalweg_tensor::axes::Part;
use thalweg_tensor::ops::{Leaf, LeafKind};

/// How much dearer it is to gather a parameter that a user asked to be cut: beyond any saving.
const RELUCTANCE: f64 = 1e4;

/// A decision along one mesh axis.
pub(crate) struct Decision<'a> {
    pub problem: Problem<'a>,
    pub assignment: Assignment,
    /// The strategy that it came from.
    pub strategy: String,
    /// Every strategy that was looked at, and its seconds.
    pub considered: Vec<(String, f64)>,
    /// What could not be done, in words.
    pub notes: Vec<String>,
}

/// Decides along one mesh axis.
pub(crate) fn decide<'a>(base: Problem<'a>, strategy: &Strategy) -> Result<Decision<'a>, PartitionError> {
    let alone = ("not split".to_string(), base.total(&vec![0; base.graph.nodes().len()]));
    match strategy {
        Strategy::Data { dims } => {
            let mut notes = Vec::new();
            let problem = data_parallel(&base, dims, &mut notes)?;
            let assignment = improved(&problem, follow(&problem), true);
            let own = ("data".to_string(), problem.total(&assignment));
            let strategy = own.0.clone();
            Ok(Decision { problem, assignment, strategy, considered: vec![alone, own], notes })
        }
        Strategy::Tensor { dims } => {
            let mut notes = Vec::new();
            let problem = tensor_parallel(&base, dims, &mut notes)?;
            let assignment = searched(&problem, programmed(&problem));
            let own = ("tensor".to_string(), problem.total(&assignment));
            let strategy = own.0.clone();
            Ok(Decision { problem, assignment, strategy, considered: vec![alone, own], notes })
        }
        // The strategies of the axes were told apart before.
        Strategy::Auto | Strategy::PerAxis(_) => {
            let mut options: Vec<(String, Assignment)> = vec![
                (alone.0, vec![0; base.graph.nodes().len()]),
                ("free".into(), searched(&base, programmed(&base))),
            ];
            for strategy in [Strategy::data(), Strategy::tensor()] {
                let Decision { problem, assignment, .. } = decide(base.clone(), &strategy)?;
                let moved = transferred(&problem, &assignment, &base);
                let further = searched(&base, moved.clone());
                options.push((strategy.name().to_string(), moved));
                options.push((format!("free, from {}", strategy.name()), further));
            }
            let considered: Vec<(String, f64)> =
                options.iter().map(|(name, assignment)| (name.clone(), base.total(assignment))).collect();
            let best = (0..options.len()).min_by(|a, b| considered[*a].1.total_cmp(&considered[*b].1));
            let (strategy, assignment) = options.swap_remove(best.expect("there are options"));
            Ok(Decision { problem: base, assignment, strategy, considered, notes: Vec::new() })
        }
    }
}

/// The same choices among the candidates of another problem, which has at least those.
fn transferred(from: &Problem, assignment: &Assignment, to: &Problem) -> Assignment {
    let ids = from.graph.ids();
    ids.map(|id| {
        let own = from.chosen(assignment, id);
        let same = to.candidates[id.index()]
            .iter()
            .position(|other| other.needs == own.needs && other.gives == own.gives);
        same.expect("the other problem has the candidate too")
    })
    .collect()
}

fn leaves<'a>(problem: &Problem<'a>) -> Vec<(NodeId, &'a Leaf)> {
    let graph = problem.graph;
    graph.ids().filter_map(|id| Some((id, graph.node(id).op.as_leaf()?))).collect()
}

fn check_names(
    leaves: &[(NodeId, &Leaf)],
    dims: &BTreeMap<String, usize>,
    fits: impl Fn(&Leaf) -> bool,
) -> Result<(), PartitionError> {
    for (name, dim) in dims {
        let found =
            leaves.iter().any(|(_, leaf)| *leaf.name == **name && fits(leaf) && *dim < leaf.ty.rank());
        if !found {
            return Err(PartitionError::Leaf { name: name.clone(), dim: *dim });
        }
    }
    Ok(())
}

/// Why a leaf stays whole.
fn indivisible(problem: &Problem, leaf: &Leaf, dim: usize) -> String {
    format!("`{}` stays whole: dim {dim} of {} makes no {} equal pieces", leaf.name, leaf.ty, problem.parts)
}

/// Inputs are cut along the batch, all else is whole.
fn data_parallel<'a>(
    base: &Problem<'a>,
    dims: &BTreeMap<String, usize>,
    notes: &mut Vec<String>,
) -> Result<Problem<'a>, PartitionError> {
    let mut problem = base.clone();
    let leaves = leaves(base);
    check_names(&leaves, dims, |leaf| leaf.kind != LeafKind::Parameter)?;
    let inputs = leaves.iter().filter(|(_, leaf)| leaf.kind == LeafKind::Input);
    let batch = inputs.filter_map(|(_, leaf)| leaf.ty.shape.first()).next();
    for (id, leaf) in &leaves {
        let dim = match dims.is_empty() {
            true => (leaf.kind == LeafKind::Input && batch.is_some() && leaf.ty.shape.first() == batch)
                .then_some(0),
            false => dims.get(&*leaf.name).copied().filter(|_| leaf.kind != LeafKind::Parameter),
        };
        let possible = |dim: &usize| problem.conversion(*id, Part::Replicated, Part::Cut(*dim)).is_ok();
        let to = match dim {
            Some(dim) if possible(&dim) => Part::Cut(dim),
            Some(dim) => {
                notes.push(indivisible(base, leaf, dim));
                Part::Replicated
            }
            None => Part::Replicated,
        };
        problem.restrict(*id, &[to]);
    }
    Ok(problem)
}

/// Parameters of rank 2 and above are cut, inputs are whole, the rest is free.
fn tensor_parallel<'a>(
    base: &Problem<'a>,
    dims: &BTreeMap<String, usize>,
    notes: &mut Vec<String>,
) -> Result<Problem<'a>, PartitionError> {
    let mut problem = base.clone();
    let leaves = leaves(base);
    check_names(&leaves, dims, |leaf| leaf.kind == LeafKind::Parameter)?;
    for (id, leaf) in &leaves {
        let possible: Vec<Part> = (0..leaf.ty.rank())
            .map(Part::Cut)
            .filter(|to| base.conversion(*id, Part::Replicated, *to).is_ok())
            .collect();
        let pinned = dims.get(&*leaf.name).filter(|_| leaf.kind == LeafKind::Parameter);
        match (leaf.kind, pinned) {
            (LeafKind::Input, _) => problem.restrict(*id, &[Part::Replicated]),
            (LeafKind::Parameter, Some(dim)) if possible.contains(&Part::Cut(*dim)) => {
                problem.restrict(*id, &[Part::Cut(*dim)]);
                problem.reluctance[id.index()] = RELUCTANCE;
            }
            (LeafKind::Parameter, None) if leaf.ty.rank() >= 2 && !possible.is_empty() => {
                problem.restrict(*id, &possible);
                problem.reluctance[id.index()] = RELUCTANCE;
            }
            (LeafKind::Parameter, Some(dim)) => {
                notes.push(indivisible(base, leaf, *dim));
                problem.restrict(*id, &[Part::Replicated]);
            }
            (LeafKind::Parameter, None) if leaf.ty.rank() >= 2 => {
                notes.push(format!(
                    "`{}` stays whole: no dim of {} makes {} equal pieces",
                    leaf.name, leaf.ty, base.parts
                ));
            }
            (LeafKind::Parameter | LeafKind::State, _) => {}
        }
    }
    Ok(problem)
}

/// Each node in order takes the candidate that leaves cut operands as they are: what the batch is cut along stays cut, and
/// what does not depend on the batch stays whole.
fn follow(problem: &Problem) -> Assignment {
    let graph = problem.graph;
    let mut assignment: Assignment = vec![0; graph.nodes().len()];
    // What nodes so far have had laid out anew is there for others too.
    let mut converted: BTreeSet<(NodeId, Part)> = BTreeSet::new();
    for id in graph.ids() {
        let operands = &graph.node(id).operands;
        let given: Vec<Part> =
            operands.iter().map(|operand| problem.chosen(&assignment, *operand).gives).collect();
        let any_cut = given.iter().any(|part| matches!(part, Part::Cut(_)));
        let price = |needs: &[Part]| {
            let mut moved = 0;
            let mut seconds = 0.0;
            let mut here = BTreeSet::new();
            for ((operand, from), to) in operands.iter().zip(&given).zip(needs) {
                // Without a cut operand, cutting a whole or summed one would only have to be undone.
                let undone = !any_cut && matches!(to, Part::Cut(_));
                moved += usize::from(undone || (matches!(from, Part::Cut(_)) && from != to));
                if !converted.contains(&(*operand, *to)) && here.insert((*operand, *to)) {
                    seconds += problem.conversion_seconds(*operand, *from, *to);
                }
            }
            (moved, seconds)
        };
        let prices = problem.candidates[id.index()].iter().map(|candidate| {
            let (moved, seconds) = price(&candidate.needs);
            (if seconds.is_finite() { moved } else { usize::MAX }, seconds + candidate.seconds)
        });
        let least = prices.enumerate().min_by(|(_, a), (_, b)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        assignment[id.index()] = least.map_or(0, |(at, _)| at);
        let needs = &problem.chosen(&assignment, id).needs;
        converted.extend(operands.iter().copied().zip(needs.iter().copied()));
    }
    assignment
}
