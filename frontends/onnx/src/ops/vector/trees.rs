//! Ensembles of decision trees.
//!
//! All trees are walked at once: every row of features stands at one node of each tree, and a step moves each to the next. A
//! leaf leads to itself, so that after as many steps as the deepest tree has, all have arrived.

use super::{first_largest, labelled, rows, strings, transformed, two_classes};
use crate::builder::{Build, Builder, problem};
use crate::call::{Call, Results};
use crate::value::Tensor;
use std::collections::BTreeMap;
use thalweg_base::{DType, Dim, PointwiseFn as F};
use thalweg_tensor::{NodeId, ReduceFn};

/// The deepest tree that is taken; every level is a step of the graph.
const DEPTH_MAX: usize = 256;

/// The most numbers in the table of what leaves give to targets.
const TABLE_MAX: usize = 1 << 26;

/// How a node compares the feature with its threshold; leaves compare nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    AtMost,
    Below,
    AtLeast,
    Above,
    Equal,
    Unequal,
    Member,
    Leaf,
}

const MODES: [(Mode, &str); 8] = [
    (Mode::AtMost, "BRANCH_LEQ"),
    (Mode::Below, "BRANCH_LT"),
    (Mode::AtLeast, "BRANCH_GTE"),
    (Mode::Above, "BRANCH_GT"),
    (Mode::Equal, "BRANCH_EQ"),
    (Mode::Unequal, "BRANCH_NEQ"),
    (Mode::Member, "BRANCH_MEMBER"),
    (Mode::Leaf, "LEAF"),
];

struct TreeNode {
    mode: Mode,
    feature: i64,
    threshold: f64,
    /// What a feature is compared with by `Member`.
    members: Vec<f64>,
    /// Where it goes on when the comparison holds, and when not.
    next: [usize; 2],
    /// Whether a feature that is no number counts as holding.
    missing_holds: bool,
}

/// Trees whose nodes are in one list.
struct Forest {
    nodes: Vec<TreeNode>,
    roots: Vec<usize>,
    /// What leaves give: node, target, weight.
    weights: Vec<(usize, usize, f64)>,
    targets: usize,
    base: Vec<f64>,
    aggregate: String,
}

fn position(value: i64, count: usize) -> Build<usize> {
    match usize::try_from(value).ok().filter(|position| *position < count) {
        Some(position) => Ok(position),
        None => problem(format!("there is no {value} among {count}")),
    }
}

/// A value of a list that may be shorter, or not given at all.
fn at<T: Copy>(list: &Option<Vec<T>>, index: usize, default: T) -> T {
    list.as_ref().and_then(|list| list.get(index)).copied().unwrap_or(default)
}

/// The numbers of an attribute, which may be a tensor under a longer name.
fn reals(call: &Call, name: &str) -> Build<Option<Vec<f64>>> {
    for name in [name.to_string(), format!("{name}_as_tensor")] {
        if let Some(tensor) = call.tensor_attribute(&name)?.as_ref().and_then(Tensor::literal) {
            return Ok(Some(tensor.scalars().map(|value| value.to_f64()).collect()));
        }
    }
    Ok(call.float_list(name))
}

impl Forest {
    /// The most steps from a root to a leaf. Fails when nodes lead back to themselves.
    fn depth(&self) -> Build<usize> {
        let mut level = self.roots.clone();
        for depth in 0..=DEPTH_MAX {
            let inner = level.iter().filter(|node| self.nodes[**node].mode != Mode::Leaf);
            let mut next: Vec<usize> = inner.flat_map(|node| self.nodes[*node].next).collect();
            next.sort_unstable();
            next.dedup();
            if next.is_empty() {
                return Ok(depth);
            }
            level = next;
        }
        problem(format!("a tree is deeper than {DEPTH_MAX}"))
    }

    /// The sums (or what else is asked for) of what the leaves give, `[rows, targets]`.
    fn scores(&self, b: &mut Builder, x: NodeId) -> Build<NodeId> {
        let depth = self.depth()?;
        let (nodes, trees) = (self.nodes.len(), self.roots.len());
        if nodes.saturating_mul(self.targets) > TABLE_MAX {
            return problem(format!("{nodes} nodes with {} targets are too many", self.targets));
        }
        let dtype = b.dtype(x);
        let batch = b.shape(x)[0].clone();
        let features = b.size(x, 1)? as i64;
        if self
            .nodes
            .iter()
            .any(|node| node.feature < 0 || (node.mode != Mode::Leaf && node.feature >= features))
        {
            return problem(format!("a tree compares a feature that is not among {features}"));
        }
        let list = |b: &mut Builder, dtype: DType, value: &dyn Fn(&TreeNode) -> f64| {
            let values: Vec<f64> = self.nodes.iter().map(value).collect();
            b.numbers(dtype, &values)
        };
        let feature = list(b, DType::I32, &|node| node.feature as f64);
        let threshold = list(b, dtype, &|node| node.threshold);
        let holds_next = list(b, DType::I32, &|node| node.next[0] as f64);
        let fails_next = list(b, DType::I32, &|node| node.next[1] as f64);
        let mode = list(b, DType::I32, &|node| f64::from(node.mode as u8));
        let missing = match self.nodes.iter().any(|node| node.missing_holds) {
            true => Some(list(b, DType::Bool, &|node| node.missing_holds as u8 as f64)),
            false => None,
        };
        let mut modes: Vec<Mode> =
            self.nodes.iter().map(|node| node.mode).filter(|mode| *mode != Mode::Leaf).collect();
        modes.sort_unstable();
        modes.dedup();
        let members = self.members(b, dtype)?;
        let roots: Vec<f64> = self.roots.iter().map(|root| *root as f64).collect();
        let roots = b.numbers(DType::I32, &roots);
        let mut here = b.broadcast(roots, &[batch, Dim::from(trees)], &[1])?;
        for _ in 0..depth {
            let compared = b.gather(feature, here, 0, 0)?;
            let value = b.gather(x, compared, 1, 1)?;
            let bound = b.gather(threshold, here, 0, 0)?;
            let own_mode = b.gather(mode, here, 0, 0)?;
            let mut holds: Option<NodeId> = None;
            for mode in &modes {
                let this = match mode {
                    Mode::AtMost => b.pointwise(F::Le, &[value, bound])?,
                    Mode::Below => b.pointwise(F::Lt, &[value, bound])?,
                    Mode::AtLeast => b.pointwise(F::Ge, &[value, bound])?,
                    Mode::Above => b.pointwise(F::Gt, &[value, bound])?,
                    Mode::Equal => b.pointwise(F::Eq, &[value, bound])?,
                    Mode::Unequal => b.pointwise(F::Ne, &[value, bound])?,
                    Mode::Member => {
                        let row = b.gather(members, here, 0, 0)?;
                        let wide = b.unsqueeze(value, &[2])?;
                        let equal = b.binary(F::Eq, row, wide)?;
                        let equal = b.convert(equal, DType::I32)?;
                        let some = b.reduce(ReduceFn::Max, equal, &[2], false)?;
                        b.with_scalar(F::Gt, some, 0.0)?
                    }
                    Mode::Leaf => continue,
                };
                holds = Some(match holds {
                    None => this,
                    Some(others) => {
                        let chosen = b.with_scalar(F::Eq, own_mode, f64::from(*mode as u8))?;
                        b.select(chosen, this, others)?
                    }
                });
            }
            let Some(mut holds) = holds else { break };
            if let Some(missing) = missing {
                let is_missing = b.pointwise(F::Ne, &[value, value])?;
                let counts = b.gather(missing, here, 0, 0)?;
                let both = b.pointwise(F::And, &[is_missing, counts])?;
                holds = b.pointwise(F::Or, &[holds, both])?;
            }
            let (yes, no) = (b.gather(holds_next, here, 0, 0)?, b.gather(fails_next, here, 0, 0)?);
            here = b.select(holds, yes, no)?;
        }
        self.gathered(b, here, dtype)
    }

    /// The members that nodes compare with: a row for each node, filled up with what equals nothing.
    fn members(&self, b: &mut Builder, dtype: DType) -> Build<NodeId> {
        let width = self.nodes.iter().map(|node| node.members.len()).max().unwrap_or(0).max(1);
        if self.nodes.len().saturating_mul(width) > TABLE_MAX {
            return problem("too many members are compared with");
        }
        let row = |node: &TreeNode| {
            let rest = width - node.members.len();
            node.members.iter().copied().chain(std::iter::repeat_n(f64::NAN, rest)).collect::<Vec<f64>>()
        };
        let values: Vec<f64> = self.nodes.iter().flat_map(row).collect();
        let table = b.numbers(dtype, &values);
        b.reshape(table, &[Dim::from(self.nodes.len()), Dim::from(width)])
    }

    /// What the leaves that were reached give to each target.
    fn gathered(&self, b: &mut Builder, leaves: NodeId, dtype: DType) -> Build<NodeId> {
        let (function, absent) = match self.aggregate.as_str() {
            "SUM" | "AVERAGE" => (ReduceFn::Sum, 0.0),
            "MIN" => (ReduceFn::Min, f64::INFINITY),
            "MAX" => (ReduceFn::Max, f64::NEG_INFINITY),
            other => return problem(format!("there is no aggregate `{other}`")),
        };
        let mut table = vec![absent; self.nodes.len() * self.targets];
        for (node, target, weight) in &self.weights {
            let cell = &mut table[node * self.targets + target];
            *cell = match function {
                ReduceFn::Min => cell.min(*weight),
                ReduceFn::Max => cell.max(*weight),
                ReduceFn::Sum | ReduceFn::Prod => *cell + weight,
            };
        }
        let table = b.numbers(dtype, &table);
        let table = b.reshape(table, &[Dim::from(self.nodes.len()), Dim::from(self.targets)])?;
        let given = b.gather(table, leaves, 0, 0)?;
        let mut scores = b.reduce(function, given, &[1], false)?;
        if absent != 0.0 {
            // A target that no leaf gives anything to has 0.
            let none = b.with_scalar(F::Eq, scores, absent)?;
            let zero = b.number_like(scores, 0.0);
            scores = b.select(none, zero, scores)?;
        }
        if self.aggregate == "AVERAGE" {
            scores = b.with_scalar(F::Div, scores, self.roots.len() as f64)?;
        }
        match self.base.is_empty() {
            true => Ok(scores),
            false => {
                let base = b.numbers(dtype, &self.base);
                b.binary(F::Add, scores, base)
            }
        }
    }
}

/// Trees whose nodes are numbered within each tree; `votes` names the attributes of what leaves give.
fn numbered(call: &Call, votes: &str, targets: usize) -> Build<Forest> {
    let ids = |name: &str| call.int_list(name).unwrap_or_default();
    let (trees, numbers) = (ids("nodes_treeids"), ids("nodes_nodeids"));
    let names = call.text_list("nodes_modes").unwrap_or_default();
    let count = numbers.len();
    if trees.len() != count || names.len() != count || count == 0 {
        return problem(format!("{count} nodes have {} trees and {} modes", trees.len(), names.len()));
    }
    let keys = trees.iter().copied().zip(numbers.iter().copied());
    let places: BTreeMap<(i64, i64), usize> = keys.enumerate().map(|(place, key)| (key, place)).collect();
    let place = |tree: i64, number: i64| match places.get(&(tree, number)) {
        Some(place) => Ok(*place),
        None => problem(format!("tree {tree} has no node {number}")),
    };
    let (yes, no) = (call.int_list("nodes_truenodeids"), call.int_list("nodes_falsenodeids"));
    let (features, thresholds) = (call.int_list("nodes_featureids"), reals(call, "nodes_values")?);
    let missing = call.int_list("nodes_missing_value_tracks_true");
    let mut nodes = Vec::new();
    let mut is_root = vec![true; count];
    for index in 0..count {
        let Some((mode, _)) =
            MODES.iter().find(|(_, name)| *name == names[index] && *name != "BRANCH_MEMBER")
        else {
            return problem(format!("there is no mode `{}`", names[index]));
        };
        let next = match *mode == Mode::Leaf {
            true => [index, index],
            false => [place(trees[index], at(&yes, index, -1))?, place(trees[index], at(&no, index, -1))?],
        };
        if *mode != Mode::Leaf {
            next.iter().for_each(|place| is_root[*place] = false);
        }
        nodes.push(TreeNode {
            mode: *mode,
            feature: if *mode == Mode::Leaf { 0 } else { at(&features, index, 0) },
            threshold: at(&thresholds, index, 0.0),
            members: vec![],
            next,
            missing_holds: *mode != Mode::Leaf && at(&missing, index, 0) != 0,
        });
    }
    let roots = (0..count).filter(|index| is_root[*index]).collect();
    let (of_trees, of_nodes) = (ids(&format!("{votes}_treeids")), ids(&format!("{votes}_nodeids")));
    let (to, amounts) =
        (ids(&format!("{votes}_ids")), reals(call, &format!("{votes}_weights"))?.unwrap_or_default());
    let mut weights = Vec::new();
    for (((tree, node), target), weight) in of_trees.into_iter().zip(of_nodes).zip(to).zip(amounts) {
        weights.push((place(tree, node)?, position(target, targets)?, weight));
    }
    let base = reals(call, "base_values")?.unwrap_or_default();
    let aggregate = call.text_or("aggregate_function", "SUM");
    Ok(Forest { nodes, roots, weights, targets, base, aggregate })
}

pub fn regressor(call: &mut Call) -> Results {
    let targets = usize::try_from(call.int_or("n_targets", 1)).unwrap_or(0).clamp(1, TABLE_MAX);
    let forest = numbered(call, "target", targets)?;
    let transform = call.text_or("post_transform", "NONE");
    let x = call.x(0)?;
    let b = &mut *call.b;
    let x = rows(b, x)?;
    let scores = forest.scores(b, x)?;
    let y = transformed(b, scores, &transform)?;
    let y = b.convert(y, DType::F32)?;
    call.one(y)
}

pub fn classifier(call: &mut Call) -> Results {
    let Some(labels) = call.int_list("classlabels_int64s") else { return strings() };
    let mut forest = numbered(call, "class", labels.len().max(1))?;
    let transform = call.text_or("post_transform", "NONE");
    let x = call.x(0)?;
    let b = &mut *call.b;
    let x = rows(b, x)?;
    // Votes for the first of two classes alone are, by an old custom, a single score of the second.
    if labels.len() == 2 && forest.weights.iter().all(|(_, target, _)| *target == 0) {
        let is_probability = forest.weights.iter().all(|(_, _, weight)| *weight >= 0.0);
        let threshold = if is_probability { 0.5 } else { 0.0 };
        forest.targets = 1;
        // Of two base values the second is that of the score.
        forest.base = forest.base.split_off(forest.base.len().saturating_sub(1));
        let score = forest.scores(b, x)?;
        let score = b.convert(score, DType::F32)?;
        let results = two_classes(b, score, &labels, &transform, threshold, is_probability)?;
        return call.several(&results);
    }
    let scores = forest.scores(b, x)?;
    let scores = b.convert(scores, DType::F32)?;
    let best = first_largest(b, scores)?;
    let label = labelled(b, best, &labels)?;
    let scores = transformed(b, scores, &transform)?;
    call.several(&[label, scores])
}

/// Trees whose inner nodes and leaves are in lists of their own.
pub fn ensemble(call: &mut Call) -> Results {
    let ids = |name: &str| call.int_list(name).unwrap_or_default();
    let Some(modes) = reals(call, "nodes_modes")? else {
        return problem("the modes of the nodes are missing");
    };
    let (inner, leaf_weights) = (modes.len(), reals(call, "leaf_weights")?.unwrap_or_default());
    let leaf_targets = ids("leaf_targetids");
    let (yes, no) = (ids("nodes_truenodeids"), ids("nodes_falsenodeids"));
    let (yes_leaf, no_leaf) = (ids("nodes_trueleafs"), ids("nodes_falseleafs"));
    let features = ids("nodes_featureids");
    let thresholds = reals(call, "nodes_splits")?;
    let missing = call.int_list("nodes_missing_value_tracks_true");
    let targets = usize::try_from(call.int_or("n_targets", 1)).unwrap_or(0).clamp(1, TABLE_MAX);
    if [yes.len(), no.len(), yes_leaf.len(), no_leaf.len(), features.len()] != [inner; 5]
        || leaf_targets.len() != leaf_weights.len()
    {
        return problem("the lists of nodes or of leaves are not equally long");
    }
    // Sets of members end with what is no number, and belong to the nodes that compare with one, in order.
    let members = reals(call, "membership_values")?.unwrap_or_default();
    let mut sets = members.split(|value| value.is_nan()).map(<[f64]>::to_vec);
    let mut nodes = Vec::new();
    for index in 0..inner {
        let Some((mode, _)) = MODES.get(modes[index] as usize).filter(|(mode, _)| *mode != Mode::Leaf) else {
            return problem(format!("there is no mode {}", modes[index]));
        };
        // Leaves stand behind all inner nodes.
        let next = |to: i64, is_leaf: i64| match is_leaf {
            0 => position(to, inner),
            _ => position(to, leaf_weights.len()).map(|leaf| inner + leaf),
        };
        nodes.push(TreeNode {
            mode: *mode,
            feature: features[index],
            threshold: at(&thresholds, index, 0.0),
            members: if *mode == Mode::Member { sets.next().unwrap_or_default() } else { vec![] },
            next: [next(yes[index], yes_leaf[index])?, next(no[index], no_leaf[index])?],
            missing_holds: at(&missing, index, 0) != 0,
        });
    }
    let mut weights = Vec::new();
    for (leaf, (weight, target)) in leaf_weights.iter().zip(&leaf_targets).enumerate() {
        let node = inner + leaf;
        let (mode, next) = (Mode::Leaf, [node, node]);
        nodes.push(TreeNode {
            mode,
            feature: 0,
            threshold: 0.0,
            members: vec![],
            next,
            missing_holds: false,
        });
        weights.push((node, position(*target, targets)?, *weight));
    }
    let roots =
        ids("tree_roots").into_iter().map(|root| position(root, inner)).collect::<Build<Vec<usize>>>()?;
    if roots.is_empty() {
        return problem("there is no tree");
    }
    let choose = |names: &[&str], name: &str, default: i64| {
        let number = call.int_or(name, default);
        match usize::try_from(number).ok().and_then(|number| names.get(number)) {
            Some(name) => Ok(name.to_string()),
            None => problem(format!("there is no `{name}` {number}")),
        }
    };
    let aggregate = choose(&["AVERAGE", "SUM", "MIN", "MAX"], "aggregate_function", 1)?;
    let transforms = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"];
    let transform = choose(&transforms, "post_transform", 0)?;
    let forest = Forest { nodes, roots, weights, targets, base: vec![], aggregate };
    let x = call.x(0)?;
    let b = &mut *call.b;
    let dtype = b.dtype(x);
    let x = rows(b, x)?;
    let scores = forest.scores(b, x)?;
    let y = transformed(b, scores, &transform)?;
    let y = b.convert(y, dtype)?;
    call.one(y)
}
