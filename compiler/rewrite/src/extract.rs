//! Chooses one e-node for each class that is needed, by the cost of the whole choice: what is shared is paid once.
//!
//! A greedy walk from the leaves up keeps for every class the set of classes that its best choice needs (as in the
//! faster-greedy-dag extractor of egraphs-good/extraction-gym). Such a walk never takes a detour that pays only when
//! several values share it, such as one wide product in place of three. So local search follows: single choices, and all
//! users of a class that several of them could share, are switched as long as that makes the whole cheaper. A choice that
//! would need its own result is never taken.

use crate::facts::TensorGraph;
use crate::lang::ENode;
use egg::{Id, Language};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, VecDeque};

/// How often a class may change its choice in the greedy walk, which is far more than happens.
const REVISITS_MAX: usize = 16;

/// How many class visits local search may spend; a region of a few hundred nodes needs less.
const SEARCH_VISITS_MAX: usize = 4_000_000;

/// Improvements smaller than this share are rounding.
pub(crate) const RELATIVE_GAIN_MIN: f64 = 1e-9;

/// An e-graph laid out densely for extraction.
pub(crate) struct Choices {
    classes: FxHashMap<Id, u32>,
    /// The e-nodes of each class with their operands as dense classes and their seconds.
    nodes: Vec<Vec<Choice>>,
    parents: Vec<Vec<u32>>,
}

struct Choice {
    node: ENode,
    operands: Vec<u32>,
    seconds: f64,
}

/// A set of classes.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn empty(count: usize) -> Set {
        Set(vec![0; count.div_ceil(64)])
    }

    fn contains(&self, class: u32) -> bool {
        self.0[class as usize / 64] >> (class % 64) & 1 == 1
    }

    fn insert(&mut self, class: u32) {
        self.0[class as usize / 64] |= 1 << (class % 64);
    }

    fn extend(&mut self, other: &Set) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own |= other;
        }
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(at * 64 + bit)
            })
        })
    }
}

/// A choice of an e-node for each class; absent where none is possible yet.
type Chosen = Vec<Option<u32>>;

/// The e-nodes chosen for the roots and all they need, operands first.
pub(crate) struct Extraction {
    /// Each class with its e-node.
    pub(crate) nodes: Vec<(Id, ENode)>,
    /// The seconds of all.
    pub(crate) seconds: f64,
}

impl Choices {
    /// Lays out an e-graph. `seconds` gives what an e-node costs by itself.
    pub(crate) fn new(egraph: &TensorGraph, mut seconds: impl FnMut(&ENode) -> f64) -> Choices {
        let mut ids: Vec<Id> = egraph.classes().map(|class| class.id).collect();
        ids.sort_unstable();
        let classes: FxHashMap<Id, u32> = ids.iter().enumerate().map(|(at, id)| (*id, at as u32)).collect();
        let mut nodes = Vec::with_capacity(ids.len());
        let mut parents = vec![Vec::new(); ids.len()];
        for (at, id) in ids.iter().enumerate() {
            let mut own = Vec::new();
            for node in &egraph[*id].nodes {
                let operands: Vec<u32> =
                    node.children().iter().map(|child| classes[&egraph.find(*child)]).collect();
                if operands.contains(&(at as u32)) {
                    continue;
                }
                for operand in &operands {
                    let users: &mut Vec<u32> = &mut parents[*operand as usize];
                    if users.last() != Some(&(at as u32)) {
                        users.push(at as u32);
                    }
                }
                own.push(Choice { seconds: seconds(node), node: node.clone(), operands });
            }
            nodes.push(own);
        }
        Choices { classes, nodes, parents }
    }

    /// The cheapest choice found for these roots. Absent when the search ends in a cycle.
    pub(crate) fn extract(&self, egraph: &TensorGraph, roots: &[Id]) -> Option<Extraction> {
        let roots: Vec<u32> = roots.iter().map(|root| self.classes[&egraph.find(*root)]).collect();
        let mut chosen = self.greedy();
        let (mut order, mut seconds) = self.walk(&chosen, &roots)?;
        self.improve(&roots, &mut chosen, &mut order, &mut seconds);
        let ids: BTreeMap<u32, Id> = self.classes.iter().map(|(id, at)| (*at, *id)).collect();
        let node = |class: &u32| {
            let at = chosen[*class as usize].expect("what the walk meets is chosen");
            (ids[class], self.nodes[*class as usize][at as usize].node.clone())
        };
        Some(Extraction { nodes: order.iter().map(node).collect(), seconds })
    }

    /// For each class the choice whose needs cost least, as far as a walk from the leaves up can tell.
    fn greedy(&self) -> Chosen {
        let count = self.nodes.len();
        let mut chosen: Chosen = vec![None; count];
        let mut own_seconds = vec![0.0; count];
        let mut needs: Vec<Option<(Set, f64)>> = vec![None; count];
        let mut visits = vec![0usize; count];
        let leaf = |class: &u32| self.nodes[*class as usize].iter().any(|choice| choice.operands.is_empty());
        let mut queue: VecDeque<u32> = (0..count as u32).filter(leaf).collect();
        let mut queued = vec![false; count];
        for class in &queue {
            queued[*class as usize] = true;
        }
        while let Some(class) = queue.pop_front() {
            let at = class as usize;
            queued[at] = false;
            visits[at] += 1;
            if visits[at] > REVISITS_MAX {
                continue;
            }
            let mut improved = false;
            for (index, choice) in self.nodes[at].iter().enumerate() {
                if choice.operands.iter().any(|operand| needs[*operand as usize].is_none()) {
                    continue;
                }
                // One operand's needs alone are a lower bound.
                let most = choice
                    .operands
                    .iter()
                    .map(|operand| needs[*operand as usize].as_ref().map_or(0.0, |(_, seconds)| *seconds));
                let best = needs[at].as_ref().map_or(f64::INFINITY, |(_, seconds)| *seconds);
                let least = choice.seconds + most.fold(0.0, f64::max);
                if least >= best * (1.0 - RELATIVE_GAIN_MIN) {
                    continue;
                }
                let mut set = Set::empty(count);
                for operand in &choice.operands {
                    set.extend(&needs[*operand as usize].as_ref().expect("operands were checked").0);
                }
                if set.contains(class) {
                    continue;
                }
                let seconds = choice.seconds + set.iter().map(|need| own_seconds[need]).sum::<f64>();
                if seconds < best * (1.0 - RELATIVE_GAIN_MIN) {
                    set.insert(class);
                    needs[at] = Some((set, seconds));
                    chosen[at] = Some(index as u32);
                    own_seconds[at] = choice.seconds;
                    improved = true;
                }
            }
            if improved {
                for parent in &self.parents[at] {
                    if !std::mem::replace(&mut queued[*parent as usize], true) {
                        queue.push_back(*parent);
                    }
                }
            }
        }
        chosen
    }

    /// What the roots need by a choice, operands first, and its cost. Absent when something is not chosen or needs itself.
    fn walk(&self, chosen: &Chosen, roots: &[u32]) -> Option<(Vec<u32>, f64)> {
        let mut state = vec![0u8; self.nodes.len()];
        let mut order = Vec::new();
        let mut seconds = 0.0;
        let mut stack: Vec<(u32, usize)> = Vec::new();
        for root in roots {
            if state[*root as usize] == 0 {
                state[*root as usize] = 1;
                stack.push((*root, 0));
            }
            while let Some((class, next)) = stack.pop() {
                let choice = &self.nodes[class as usize][chosen[class as usize]? as usize];
                match choice.operands.get(next) {
                    None => {
                        state[class as usize] = 2;
                        seconds += choice.seconds;
                        order.push(class);
                    }
                    Some(operand) => {
                        stack.push((class, next + 1));
                        match state[*operand as usize] {
                            0 => {
                                state[*operand as usize] = 1;
                                stack.push((*operand, 0));
                            }
                            1 => return None,
                            _ => {}
                        }
                    }
                }
            }
        }
        Some((order, seconds))
    }

    /// Switches choices as long as the whole gets cheaper.
    fn improve(&self, roots: &[u32], chosen: &mut Chosen, order: &mut Vec<u32>, seconds: &mut f64) {
        let mut visits = 0;
        loop {
            let before = *seconds;
            for switch in self.switches(chosen, order) {
                visits += order.len();
                if visits > SEARCH_VISITS_MAX {
                    return;
                }
                let old: Vec<Option<u32>> = switch.iter().map(|(class, _)| chosen[*class as usize]).collect();
                for (class, index) in &switch {
                    chosen[*class as usize] = Some(*index);
                }
                match self.walk(chosen, roots) {
                    Some((new_order, new)) if new < *seconds * (1.0 - RELATIVE_GAIN_MIN) => {
                        (*order, *seconds) = (new_order, new);
                    }
                    Some(_) | None => {
                        for ((class, _), old) in switch.iter().zip(old) {
                            chosen[*class as usize] = old;
                        }
                    }
                }
            }
            if *seconds >= before {
                return;
            }
        }
    }

    /// Changes to try: every other choice of a class in use, and for each class not in use that could serve several, all
    /// the choices that it serves together.
    fn switches(&self, chosen: &Chosen, order: &[u32]) -> Vec<Vec<(u32, u32)>> {
        let mut used = vec![false; self.nodes.len()];
        for class in order {
            used[*class as usize] = true;
        }
        let mut switches = Vec::new();
        let mut shared: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
        for class in order {
            for (index, choice) in self.nodes[*class as usize].iter().enumerate() {
                if chosen[*class as usize] == Some(index as u32) {
                    continue;
                }
                switches.push(vec![(*class, index as u32)]);
                for operand in &choice.operands {
                    if !used[*operand as usize] && chosen[*operand as usize].is_some() {
                        let users = shared.entry(*operand).or_default();
                        if users.last().is_none_or(|(last, _)| last != class) {
                            users.push((*class, index as u32));
                        }
                    }
                }
            }
        }
        let together = shared.into_values().filter(|users| users.len() > 1);
        together.chain(switches).collect()
    }
}
