//! Parts of the arena that may lie in the caller's memory for one run, so that large inputs and outputs are not copied.

use std::ops::Range;
use thalweg_kernel::Access;
use thalweg_plan::{Plan, Port, places};

/// Memory of the caller that stands for a part of the arena during one run.
#[derive(Debug)]
pub enum Lent<'a> {
    /// An input of the program.
    Input {
        /// Where the program has it in its arena.
        offset: usize,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// An output of the program.
    Output {
        /// Where the program has it in its arena.
        offset: usize,
        /// Where it is to be.
        bytes: &'a mut [u8],
    },
}

/// A part of the arena that no step, port or constant uses together with other parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    pub(crate) bytes: Range<usize>,
    /// Whether steps write there.
    pub(crate) written: bool,
}

/// The windows of a program, in the order of the arena.
#[derive(Clone, Debug, Default)]
pub(crate) struct Windows(Vec<Window>);

impl Windows {
    /// The inputs and outputs of the program for the device of that rank, but those that share memory with something else.
    /// The plan has been verified.
    pub(crate) fn of(plan: &Plan, rank: usize) -> Windows {
        let program = &plan.programs[rank];
        let range = |port: &Port| {
            let elements: usize = port.local_shape(&plan.mesh).iter().product();
            port.places[rank]..port.places[rank] + elements * port.dtype.size_bytes()
        };
        let open = plan.inputs.iter().chain(&plan.outputs).map(|port| (range(port), true));
        let kept = plan.parameters.iter().chain(&plan.states).map(|port| (range(port), false));
        let constants = program.constants.iter().map(|(at, value)| (*at..at + value.bytes().len(), false));
        let mut ranges: Vec<(Range<usize>, bool)> = open.chain(kept).chain(constants).collect();
        ranges.retain(|(range, _)| !range.is_empty());
        ranges.sort_by_key(|(range, _)| (range.start, range.end));
        // What lies apart from everything before it and after it.
        let mut windows = Vec::new();
        let mut end = 0;
        for (at, (range, open)) in ranges.iter().enumerate() {
            let apart =
                range.start >= end && ranges.get(at + 1).is_none_or(|(next, _)| next.start >= range.end);
            if *open && apart {
                windows.push((Window { bytes: range.clone(), written: false }, true));
            }
            end = end.max(range.end);
        }
        for used in places::uses(plan, program) {
            let used = used.expect("the plan has been verified");
            let (start, end) = (used.bytes.start as usize, used.bytes.end as usize);
            let first = windows.partition_point(|(window, _)| window.bytes.end <= start);
            for (window, whole) in
                windows[first..].iter_mut().take_while(|(window, _)| window.bytes.start < end)
            {
                *whole &= window.bytes.start <= start && end <= window.bytes.end;
                window.written |= used.access != Access::Read;
            }
        }
        Windows(windows.into_iter().filter_map(|(window, whole)| whole.then_some(window)).collect())
    }

    /// How many regions there are: the arena and each window.
    pub(crate) fn regions(&self) -> usize {
        1 + self.0.len()
    }

    /// The region of an address that a step uses: 0 for the arena, else one more than the number of the window.
    pub(crate) fn region(&self, offset: usize) -> usize {
        let at = self.0.partition_point(|window| window.bytes.end <= offset);
        if self.0.get(at).is_some_and(|window| window.bytes.contains(&offset)) { at + 1 } else { 0 }
    }

    /// The region that lent memory may stand for: whole windows only, aligned as any element needs, and written by steps
    /// if, and only if, it is an output.
    pub(crate) fn fits(&self, lent: &Lent<'_>) -> Option<usize> {
        let (offset, length, address, output) = match lent {
            Lent::Input { offset, bytes } => (*offset, bytes.len(), bytes.as_ptr() as usize, false),
            Lent::Output { offset, bytes } => (*offset, bytes.len(), bytes.as_ptr() as usize, true),
        };
        let region = self.region(offset);
        let window = &self.0[region.checked_sub(1)?];
        let fits = window.bytes == (offset..offset + length) && window.written == output;
        (fits && address.is_multiple_of(ALIGNMENT)).then_some(region)
    }
}

/// The alignment of the widest element, twice: large vectors of bytes have it.
const ALIGNMENT: usize = 16;
