//! Devices that are threads of one process. Each member puts a segment of its operand into a slot that the others read.

use crate::combine::combine;
use crate::rendezvous::{Rendezvous, Signature, World};
use crate::{Call, CollectiveError, Communicator};
use std::sync::Arc;
use std::time::Duration;
use thalweg_base::{Mesh, ReduceFn};

/// How threads communicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThreadOptions {
    /// How long a member waits for the others before all fail; for ever when absent.
    pub timeout: Option<Duration>,
    /// Bytes of a slot, two for each device and axis: what is communicated at a time, small enough to stay in cache.
    pub segment_bytes: usize,
}

impl Default for ThreadOptions {
    fn default() -> ThreadOptions {
        ThreadOptions { timeout: None, segment_bytes: 1 << 20 }
    }
}

/// Operands up to this many bytes are combined by every member itself: that is cheaper than meeting twice.
const COMBINED_BY_ALL: usize = 16 << 10;

/// One communicator for each device of a mesh, in the order of their ranks.
///
/// ```
/// use thalweg_collective::{Call, Communicator, ThreadOptions, threads};
/// use thalweg_base::{DType, Mesh, ReduceFn};
///
/// let mesh = Mesh::line("data", 2);
/// let run = |mut device: thalweg_collective::ThreadCommunicator| {
///     let operand = [device.rank() as u8 + 1, 10];
///     let mut result = [0; 2];
///     let call = Call { axis: "data", dtype: DType::U8, label: "sum" };
///     device.all_reduce(call, ReduceFn::Sum, &operand, &mut result).map(|()| result)
/// };
/// let results: Vec<_> = std::thread::scope(|scope| {
///     let all: Vec<_> =
///         threads(&mesh, ThreadOptions::default()).into_iter().map(|device| scope.spawn(|| run(device))).collect();
///     all.into_iter().map(|thread| thread.join().unwrap()).collect()
/// });
/// assert_eq!(results, [Ok([3, 20]), Ok([3, 20])]);
/// ```
pub fn threads(mesh: &Mesh, options: ThreadOptions) -> Vec<ThreadCommunicator> {
    let devices = mesh.devices();
    let mut groups = Vec::new();
    let mut seats: Vec<Vec<Seat>> = vec![Vec::new(); devices];
    for (axis, size) in &mesh.axes {
        for rank in 0..devices {
            let ranks = mesh.group(rank, axis);
            if ranks[0] != rank {
                continue;
            }
            for (member, rank) in ranks.iter().enumerate() {
                seats[*rank].push(Seat { axis: axis.clone(), group: groups.len(), member, turn: 0 });
            }
            // A slot holds at least one element of the largest type for each member.
            groups.push(Rendezvous::new(ranks, options.segment_bytes.max(8 * size)));
        }
    }
    let world = Arc::new(World::new(groups, options.timeout));
    let device = |(rank, seats)| ThreadCommunicator { rank, devices, world: Arc::clone(&world), seats };
    seats.into_iter().enumerate().map(device).collect()
}

/// A device's place in the group along one axis.
#[derive(Clone, Debug)]
struct Seat {
    axis: String,
    group: usize,
    member: usize,
    /// Which of the two slots is written next. A slot is written again only after its writer has met the others once
    /// more: those that read it have all come there, so they have finished.
    turn: usize,
}

/// The communicator of one device among threads of one process. Dropping it makes the calls of those fail that wait
/// for this device.
#[derive(Debug)]
pub struct ThreadCommunicator {
    rank: usize,
    devices: usize,
    world: Arc<World>,
    seats: Vec<Seat>,
}

impl Drop for ThreadCommunicator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort("", "it panicked");
        }
        for seat in &self.seats {
            self.world.groups[seat.group].depart(self.rank);
        }
    }
}

/// A call under way in one group.
struct Session<'a> {
    world: &'a World,
    group: &'a Rendezvous,
    seat: &'a mut Seat,
    signature: Signature,
    label: &'a str,
}

impl Session<'_> {
    fn members(&self) -> usize {
        self.group.ranks.len()
    }

    /// Puts bytes into this member's slot, waits until all have, and returns which of the slots to read.
    fn publish(&mut self, fill: impl FnOnce(&mut [u8])) -> Result<usize, CollectiveError> {
        let turn = self.seat.turn;
        fill(&mut self.group.slot_mut(self.seat.member, turn));
        self.group.meet(self.world, self.seat.member, self.signature, self.label)?;
        self.seat.turn = 1 - turn;
        Ok(turn)
    }

    /// Combines the bytes of that range of all slots.
    fn combine(&self, function: ReduceFn, turn: usize, range: std::ops::Range<usize>, out: &mut [u8]) {
        let read = |member: usize, f: &mut dyn FnMut(&[u8])| f(&self.group.slot(member, turn)[range.clone()]);
        combine(self.signature.dtype, function, self.members(), &read, out);
    }
}

impl ThreadCommunicator {
    /// Begins a call: checks sizes; nothing when the group has one member.
    fn session<'a>(
        &'a mut self,
        call: Call<'a>,
        name: &'static str,
        operand: (usize, usize),
        result: (usize, usize),
        members: impl Fn(usize) -> (usize, usize),
    ) -> Result<Option<Session<'a>>, CollectiveError> {
        let seat = self.seats.iter_mut().find(|seat| seat.axis == call.axis);
        let count = seat.as_ref().map_or(1, |seat| self.world.groups[seat.group].ranks.len());
        let (more_operand, more_result) = members(count);
        for ((found, one), factor) in [(operand, more_operand), (result, more_result)] {
            let expected = one * factor * call.dtype.size_bytes();
            if found != expected {
                return Err(CollectiveError::Size { label: call.label.to_string(), found, expected });
            }
        }
        let signature = Signature { name, dtype: call.dtype, bytes: operand.0 };
        Ok(seat.filter(|_| count > 1).map(|seat| Session {
            group: &self.world.groups[seat.group],
            world: &self.world,
            seat,
            signature,
            label: call.label,
        }))
    }
}

/// Ranges of at most `most` bytes, a multiple of `size`, that cover `total` bytes.
fn segments(total: usize, most: usize, size: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let step = (most / size).max(1) * size;
    (0..total).step_by(step).map(move |start| start..(start + step).min(total))
}

/// The bytes of member `member`'s share of `bytes`, in whole elements.
fn share(bytes: usize, size: usize, member: usize, members: usize) -> std::ops::Range<usize> {
    let bound = |member: usize| bytes / size * member / members * size;
    bound(member)..bound(member + 1)
}

/// Calls `f` with matching ranges of bytes of a piece `[outer, inner]` and of the whole `[outer, members, inner]` in which
/// it is member `member`'s: all that lie within `range` of the piece.
fn rows(
    range: std::ops::Range<usize>,
    inner: usize,
    member: usize,
    members: usize,
    mut f: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>),
) {
    let mut start = range.start;
    while start < range.end {
        let (row, within) = (start / inner, start % inner);
        let length = (inner - within).min(range.end - start);
        let whole = (row * members + member) * inner + within;
        f(start..start + length, whole..whole + length);
        start += length;
    }
}

impl Communicator for ThreadCommunicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn devices(&self) -> usize {
        self.devices
    }

    fn group(&self, axis: &str) -> Vec<usize> {
        let seat = self.seats.iter().find(|seat| seat.axis == axis);
        seat.map_or_else(|| vec![self.rank], |seat| self.world.groups[seat.group].ranks.clone())
    }

    fn all_reduce(
        &mut self,
        call: Call<'_>,
        function: ReduceFn,
        operand: &[u8],
        result: &mut [u8],
    ) -> Result<(), CollectiveError> {
        let (size, most) = (call.dtype.size_bytes(), self.segment_bytes(call.axis));
        let elements = operand.len() / size;
        let name = combined_name(function);
        let sizes = ((operand.len(), elements), (result.len(), elements));
        let Some(mut session) = self.session(call, name, sizes.0, sizes.1, |_| (1, 1))? else {
            result.copy_from_slice(operand);
            return Ok(());
        };
        let (member, members) = (session.seat.member, session.members());
        for segment in segments(operand.len(), most, size) {
            let bytes = segment.len();
            let turn = session.publish(|slot| slot[..bytes].copy_from_slice(&operand[segment.clone()]))?;
            let result = &mut result[segment];
            if bytes <= COMBINED_BY_ALL {
                session.combine(function, turn, 0..bytes, result);
                continue;
            }
            // Each member combines its share for all.
            let own = share(bytes, size, member, members);
            let mut combined = session.group.slot_mut(member, 1 - turn);
            session.combine(function, turn, own.clone(), &mut combined[..own.len()]);
            drop(combined);
            let turn = session.publish(|_| ())?;
            for other in 0..members {
                let share = share(bytes, size, other, members);
                let length = share.len();
                result[share].copy_from_slice(&session.group.slot(other, turn)[..length]);
            }
        }
        Ok(())
    }

    fn all_gather(
        &mut self,
        call: Call<'_>,
        outer: usize,
        inner: usize,
        operand: &[u8],
        result: &mut [u8],
    ) -> Result<(), CollectiveError> {
        let (size, most) = (call.dtype.size_bytes(), self.segment_bytes(call.axis));
        let piece = outer * inner;
        let sizes = ((operand.len(), piece), (result.len(), piece));
        let Some(mut session) = self.session(call, "all-gather", sizes.0, sizes.1, |n| (1, n))? else {
            result.copy_from_slice(operand);
            return Ok(());
        };
        let members = session.members();
        for segment in segments(operand.len(), most, size) {
            let turn =
                session.publish(|slot| slot[..segment.len()].copy_from_slice(&operand[segment.clone()]))?;
            for member in 0..members {
                let slot = session.group.slot(member, turn);
                rows(segment.clone(), inner * size, member, members, |from, to| {
                    let from = from.start - segment.start..from.end - segment.start;
                    result[to].copy_from_slice(&slot[from]);
                });
            }
        }
        Ok(())
    }

    fn reduce_scatter(
        &mut self,
        call: Call<'_>,
        function: ReduceFn,
        outer: usize,
        inner: usize,
        operand: &[u8],
        result: &mut [u8],
    ) -> Result<(), CollectiveError> {
        let (size, most) = (call.dtype.size_bytes(), self.segment_bytes(call.axis));
        let piece = outer * inner;
        let sizes = ((operand.len(), piece), (result.len(), piece));
        let name = scattered_name(function);
        let Some(mut session) = self.session(call, name, sizes.0, sizes.1, |n| (n, 1))? else {
            result.copy_from_slice(operand);
            return Ok(());
        };
        let (own, members) = (session.seat.member, session.members());
        for segment in segments(result.len(), most / members, size) {
            let bytes = segment.len();
            let turn = session.publish(|slot| {
                for member in 0..members {
                    rows(segment.clone(), inner * size, member, members, |to, from| {
                        let start = member * bytes + to.start - segment.start;
                        slot[start..start + to.len()].copy_from_slice(&operand[from]);
                    });
                }
            })?;
            session.combine(function, turn, own * bytes..(own + 1) * bytes, &mut result[segment]);
        }
        Ok(())
    }

    fn all_to_all(
        &mut self,
        call: Call<'_>,
        block: usize,
        operand: &[u8],
        result: &mut [u8],
    ) -> Result<(), CollectiveError> {
        let (size, most) = (call.dtype.size_bytes(), self.segment_bytes(call.axis));
        let sizes = ((operand.len(), block), (result.len(), block));
        let Some(mut session) = self.session(call, "all-to-all", sizes.0, sizes.1, |n| (n, n))? else {
            result.copy_from_slice(operand);
            return Ok(());
        };
        let (own, members) = (session.seat.member, session.members());
        let block = block * size;
        for segment in segments(block, most / members, size) {
            let bytes = segment.len();
            let turn = session.publish(|slot| {
                for member in 0..members {
                    let from = member * block + segment.start;
                    slot[member * bytes..(member + 1) * bytes].copy_from_slice(&operand[from..from + bytes]);
                }
            })?;
            for member in 0..members {
                let to = member * block + segment.start;
                let slot = session.group.slot(member, turn);
                result[to..to + bytes].copy_from_slice(&slot[own * bytes..(own + 1) * bytes]);
            }
        }
        Ok(())
    }

    fn abort(&self, label: &str, reason: &str) {
        let (label, reason) = (label.to_string(), reason.to_string());
        self.world.fail(CollectiveError::Aborted { rank: self.rank, label, reason });
    }
}

impl ThreadCommunicator {
    /// Bytes of a slot of the group along an axis.
    fn segment_bytes(&self, axis: &str) -> usize {
        let seat = self.seats.iter().find(|seat| seat.axis == axis);
        seat.map_or(1, |seat| self.world.groups[seat.group].slot(seat.member, 0).len())
    }
}

fn combined_name(function: ReduceFn) -> &'static str {
    match function {
        ReduceFn::Sum => "all-reduce by sum",
        ReduceFn::Prod => "all-reduce by product",
        ReduceFn::Max => "all-reduce by maximum",
        ReduceFn::Min => "all-reduce by minimum",
    }
}

fn scattered_name(function: ReduceFn) -> &'static str {
    match function {
        ReduceFn::Sum => "reduce-scatter by sum",
        ReduceFn::Prod => "reduce-scatter by product",
        ReduceFn::Max => "reduce-scatter by maximum",
        ReduceFn::Min => "reduce-scatter by minimum",
    }
}
