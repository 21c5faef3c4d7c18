//! Places in the arena, with the turns of loops resolved to numbers.

use crate::windows::Windows;
use std::collections::BTreeMap;
use thalweg_plan::{Address, LoopId};

/// An address whose loops are slots of the table of turns.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    region: usize,
    offset: usize,
    shifts: Box<[(usize, isize)]>,
}

impl Place {
    /// Resolves an address; `slots` has every loop around it, as the verifier checked.
    pub(crate) fn new(address: &Address, slots: &BTreeMap<LoopId, usize>, windows: &Windows) -> Place {
        let shifts = address.per_turn.iter().map(|(id, stride)| (slots[id], *stride as isize)).collect();
        Place { region: windows.region(address.offset), offset: address.offset, shifts }
    }

    /// The region that it lies in, in every turn.
    #[inline]
    pub(crate) fn region(&self) -> usize {
        self.region
    }

    /// The byte offset in the present turns.
    #[inline]
    pub(crate) fn offset(&self, turns: &[usize]) -> usize {
        let mut offset = self.offset;
        for (slot, stride) in &self.shifts {
            offset = offset.wrapping_add_signed(stride.wrapping_mul(turns[*slot] as isize));
        }
        offset
    }

    /// The byte offset in the first turns.
    pub(crate) fn start(&self) -> usize {
        self.offset
    }

    /// The slots of the loops that shift it, with bytes for each turn.
    pub(crate) fn shifts(&self) -> &[(usize, isize)] {
        &self.shifts
    }

    /// Whether it is the same in every turn.
    pub(crate) fn is_fixed(&self) -> bool {
        self.shifts.is_empty()
    }

    /// Whether it is a multiple of `alignment` in every turn.
    pub(crate) fn is_aligned(&self, alignment: usize) -> bool {
        self.offset.is_multiple_of(alignment)
            && self.shifts.iter().all(|(_, stride)| stride.unsigned_abs().is_multiple_of(alignment))
    }
}
