//! Values that are only needed in packed form, and so have no copy in the arena.

use crate::prepare::Packed;
use bytes::Bytes;
use std::ops::Range;
use thalweg_plan::{Plan, places};

/// A part of the arena that steps read in packed form only.
#[derive(Debug)]
pub(crate) struct Holding {
    /// The bytes of the arena.
    pub(crate) source: Range<usize>,
    /// The packed operands that are made of them.
    pub(crate) packed: Vec<usize>,
    /// What is there instead of what the arena has, if the packed operands were made of it.
    pub(crate) bytes: Option<Bytes>,
}

/// The holdings of a program: in the order of the arena, apart from each other.
#[derive(Debug, Default)]
pub(crate) struct Holdings(Vec<Holding>);

impl Holdings {
    /// Those places of packed operands that nothing uses but the steps which read them packed. The plan has been verified.
    pub(crate) fn of(plan: &Plan, rank: usize, packed: &[Packed]) -> Holdings {
        let mut found: Vec<Holding> = Vec::new();
        for (number, packed) in packed.iter().enumerate() {
            // One that loops shift is made turn by turn, each time from the arena.
            if packed.valid.len() != 1 {
                continue;
            }
            match found.iter_mut().find(|holding| holding.source == packed.source) {
                Some(holding) => holding.packed.push(number),
                None => {
                    found.push(Holding { source: packed.source.clone(), packed: vec![number], bytes: None })
                }
            }
        }
        found.sort_by_key(|holding| (holding.source.start, holding.source.end));
        let mut end = 0;
        let mut apart = Vec::with_capacity(found.len());
        for (at, holding) in found.iter().enumerate() {
            let next = found.get(at + 1);
            apart.push(
                holding.source.start >= end
                    && next.is_none_or(|next| next.source.start >= holding.source.end),
            );
            end = end.max(holding.source.end);
        }
        let mut apart = apart.into_iter();
        found.retain(|_| apart.next().unwrap_or(false));
        let mut uses = vec![0; found.len()];
        for used in places::uses(plan, &plan.programs[rank]) {
            let used = used.expect("the plan has been verified");
            let (start, end) = (used.bytes.start as usize, used.bytes.end as usize);
            let first = found.partition_point(|holding| holding.source.end <= start);
            for (holding, uses) in found[first..].iter().zip(&mut uses[first..]) {
                if holding.source.start >= end {
                    break;
                }
                *uses += 1;
            }
        }
        let sole = found.into_iter().zip(uses).filter(|(holding, uses)| *uses == holding.packed.len());
        Holdings(sole.map(|(holding, _)| holding).collect())
    }

    /// The holding of exactly these bytes of the arena.
    pub(crate) fn at(&self, place: &Range<usize>) -> Option<usize> {
        let at = self.0.partition_point(|holding| holding.source.start < place.start);
        self.0.get(at).is_some_and(|holding| holding.source == *place).then_some(at)
    }

    pub(crate) fn get(&self, at: usize) -> &Holding {
        &self.0[at]
    }

    /// Keeps what stands for the arena's bytes from now on.
    pub(crate) fn keep(&mut self, at: usize, bytes: Bytes) {
        self.0[at].bytes = Some(bytes);
    }

    /// What stands for exactly these bytes of the arena, if something does.
    pub(crate) fn shared(&self, place: &Range<usize>) -> Option<Bytes> {
        self.at(place).and_then(|at| self.0[at].bytes.clone())
    }

    /// What stands for bytes of the arena that overlap these.
    pub(crate) fn overlapping<'a>(
        &'a self,
        place: &'a Range<usize>,
    ) -> impl Iterator<Item = (&'a Range<usize>, &'a Bytes)> {
        let all = self.0.iter().filter_map(|holding| Some((&holding.source, holding.bytes.as_ref()?)));
        all.filter(|(source, _)| source.start < place.end && place.start < source.end)
    }

    /// Gives back what stands for bytes of the arena that overlap these: it has to be in the arena again.
    pub(crate) fn release(&mut self, place: &Range<usize>) -> Vec<(usize, Bytes)> {
        let overlapping = self
            .0
            .iter_mut()
            .filter(|holding| holding.source.start < place.end && place.start < holding.source.end);
        overlapping.filter_map(|holding| Some((holding.source.start, holding.bytes.take()?))).collect()
    }
}
