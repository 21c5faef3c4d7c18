//! The processor: runs machine code and hand-written kernels on a pool of threads.

use crate::held::Holdings;
use crate::memory::{Arena, CodeMemory};
use crate::place::Place;
use crate::prepare::{
    Kind, Operation, Packed, PackedUse, Prepared, PreparedCollective, PreparedContract, PreparedConvolve,
    PreparedLaunch, Preparer, kernels_of,
};
use crate::routines::{self, Shared};
use crate::windows::{Lent, Windows};
use crate::{
    CheckedPlan, CollectiveCall, CpuFacts, Device, DeviceError, LoadedProgram, RunContext, RunError, detect,
    features, steps_in_order,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use thalweg_base::DeviceDescription;
use thalweg_kernel::cpu_abi;
use thalweg_kernels::{Epilogue, ThreadPool};
use thalweg_plan::Plan;

/// A processor, or some threads of it.
#[derive(Debug)]
pub struct CpuDevice {
    pool: Arc<ThreadPool>,
    packing_bytes: usize,
}

impl CpuDevice {
    /// A device of that many threads, the one that runs a program included; 0 counts as 1. Programs of one device share
    /// its threads and take turns.
    pub fn new(threads: usize) -> CpuDevice {
        let memory = CpuFacts::read().memory_bytes as usize;
        CpuDevice { pool: Arc::new(ThreadPool::new(threads)), packing_bytes: memory / 4 }
    }

    /// The same device with at most that many bytes in each program for packed copies of weights, which make products with
    /// few rows faster; a quarter of the machine's memory unless this is called.
    pub fn with_packing_bytes(self, packing_bytes: usize) -> CpuDevice {
        CpuDevice { packing_bytes, ..self }
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

impl Device for CpuDevice {
    fn describe(&self) -> DeviceDescription {
        DeviceDescription { threads: self.pool.threads(), ..detect(Some(self.pool.threads())) }
    }

    fn load(&self, plan: &CheckedPlan, rank: usize) -> Result<Box<dyn LoadedProgram>, DeviceError> {
        Ok(Box::new(CpuProgram::new(plan.plan(), rank, self)?))
    }
}

/// The helpers that generated code calls; the table lives as long as the process.
fn helpers() -> *mut u8 {
    static TABLE: OnceLock<Vec<usize>> = OnceLock::new();
    TABLE.get_or_init(cpu_abi::helper_table).as_ptr().cast_mut().cast()
}

/// Refuses machine code for another machine.
fn check_target(plan: &Plan) -> Result<(), DeviceError> {
    let present = features();
    let missing: Vec<&str> =
        plan.target.iter().filter(|name| !present.contains(name)).map(String::as_str).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(DeviceError::Target { missing: missing.join(", "), machine: present.join(", ") }),
    }
}

/// A program with its arena, its code and everything its steps need.
struct CpuProgram {
    plan: Arc<Plan>,
    rank: usize,
    pool: Arc<ThreadPool>,
    arena: Arena,
    workspace: Arena,
    prepared: Prepared,
    holdings: Holdings,
    windows: Windows,
    /// Where each region would begin if it were the whole arena: the arena itself, then each window.
    bases: Vec<*mut u8>,
    /// Room for those of the next run.
    next_bases: Vec<*mut u8>,
    turns: Vec<usize>,
    /// Keeps the entries of `prepared` mapped.
    _code: CodeMemory,
}

// SAFETY: the pointers in `prepared` and `bases` are into `arena`, the helpers' table and `_code`, which move along or are
// static, and none of them belongs to a particular thread. Those into memory that was lent for a run are replaced before
// the next one.
unsafe impl Send for CpuProgram {}

impl CpuProgram {
    fn new(plan: &Arc<Plan>, rank: usize, device: &CpuDevice) -> Result<CpuProgram, DeviceError> {
        let pool = &device.pool;
        let devices = plan.devices();
        let program = plan.programs.get(rank).ok_or(DeviceError::Rank { rank, devices })?;
        let kernels = kernels_of(program);
        if !kernels.is_empty() {
            check_target(plan)?;
        }
        let code = CodeMemory::new(plan, &kernels)?;
        let mut arena = Arena::new(program.arena_bytes, "an arena")?;
        for (offset, value) in &program.constants {
            arena.write(*offset, value.bytes())?;
        }
        let windows = Windows::of(plan, rank);
        let prepared = Preparer {
            plan,
            windows: &windows,
            code: &code,
            base: arena.base(),
            helpers: helpers(),
            threads: pool.threads(),
            packing_bytes_left: device.packing_bytes,
            slots: BTreeMap::new(),
            loop_turns: Vec::new(),
            number: 0,
            out: Prepared::default(),
        }
        .program(program)?;
        Ok(CpuProgram {
            plan: Arc::clone(plan),
            rank,
            pool: Arc::clone(pool),
            workspace: Arena::new(prepared.workspace_bytes, "a workspace")?,
            turns: vec![0; prepared.slots],
            bases: vec![arena.base(); windows.regions()],
            next_bases: vec![arena.base(); windows.regions()],
            windows,
            arena,
            holdings: Holdings::of(plan, rank, &prepared.packed),
            prepared,
            _code: code,
        })
    }
}

impl LoadedProgram for CpuProgram {
    fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    fn workspace_bytes(&self) -> usize {
        self.workspace.len() + self.prepared.packed.iter().map(|packed| packed.memory.len()).sum::<usize>()
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let place = self.arena.range(offset, bytes.len())?;
        for (start, held) in self.holdings.release(&place) {
            self.arena.write(start, &held)?;
        }
        self.arena.write(offset, bytes)?;
        for packed in &mut self.prepared.packed {
            if place.start < packed.source.end && packed.source.start < place.end {
                packed.valid.fill(false);
            }
        }
        Ok(())
    }

    fn write_shared(&mut self, offset: usize, bytes: &Bytes) -> Result<(), DeviceError> {
        let place = self.arena.range(offset, bytes.len())?;
        let Some(at) = self.holdings.at(&place) else { return self.write(offset, bytes) };
        // Kernels read aligned elements, which bytes of a file seldom are: they are in the arena while they are packed.
        self.arena.write(offset, bytes)?;
        for number in &self.holdings.get(at).packed {
            let packing = packing(&self.prepared.operations, *number).expect("some step reads it");
            let packed = &mut self.prepared.packed[*number];
            // SAFETY: the operand's bytes are in the arena, aligned as preparation checked, and the memory has the bytes
            // that this preparation asked for.
            unsafe { packing.pack(&self.pool, self.arena.base().add(offset), packed.memory.base()) };
            packed.valid.fill(true);
        }
        self.arena.discard(place);
        self.holdings.keep(at, bytes.clone());
        Ok(())
    }

    fn shared(&self, offset: usize, bytes: usize) -> Option<Bytes> {
        self.holdings.shared(&(offset..offset.checked_add(bytes)?))
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), DeviceError> {
        let place = self.arena.range(offset, into.len())?;
        self.arena.read(offset, into)?;
        for (source, held) in self.holdings.overlapping(&place) {
            let (start, end) = (source.start.max(offset), source.end.min(place.end));
            into[start - offset..end - offset]
                .copy_from_slice(&held[start - source.start..end - source.start]);
        }
        Ok(())
    }

    fn run(&mut self, context: &mut RunContext<'_>, lent: &mut [Lent<'_>]) -> Result<(), RunError> {
        self.lend(lent)?;
        let Prepared { operations, table, bounds, packed, .. } = &mut self.prepared;
        let mut machine = Machine {
            plan: &self.plan,
            rank: self.rank,
            pool: &self.pool,
            bases: &self.bases,
            workspace: self.workspace.base(),
            table,
            bounds,
            packed,
            turns: &mut self.turns,
            context,
        };
        machine.steps(operations)?;
        self.take_back(lent)
    }
}

impl CpuProgram {
    /// Lets windows lie in the lent memory that fits them and copies the inputs that do not.
    fn lend(&mut self, lent: &mut [Lent<'_>]) -> Result<(), RunError> {
        let arena = self.arena.base();
        self.next_bases.fill(arena);
        for lent in lent {
            match (self.windows.fits(lent), lent) {
                // Steps never write where an input lies, else it would not fit.
                (Some(region), Lent::Input { offset, bytes }) => {
                    self.next_bases[region] = bytes.as_ptr().cast_mut().wrapping_sub(*offset);
                }
                (Some(region), Lent::Output { offset, bytes }) => {
                    self.next_bases[region] = bytes.as_mut_ptr().wrapping_sub(*offset);
                }
                (None, Lent::Input { offset, bytes }) => self.write(*offset, bytes)?,
                (None, Lent::Output { .. }) => {}
            }
        }
        if self.next_bases != self.bases {
            std::mem::swap(&mut self.bases, &mut self.next_bases);
            for (entry, region, offset) in &self.prepared.windowed {
                self.prepared.table[*entry] = self.bases[*region].wrapping_add(*offset);
            }
        }
        Ok(())
    }

    /// Copies the outputs that were not written where they are wanted.
    fn take_back(&self, lent: &mut [Lent<'_>]) -> Result<(), RunError> {
        for lent in lent {
            let copied = self.windows.fits(lent).is_none();
            if let (true, Lent::Output { offset, bytes }) = (copied, lent) {
                self.arena.read(*offset, bytes)?;
            }
        }
        Ok(())
    }
}

/// How a constant operand is packed.
enum Packing<'a> {
    Contract(&'a thalweg_kernels::Prepared),
    Convolve(&'a thalweg_kernels::PreparedConvolution),
}

impl Packing<'_> {
    /// Packs an operand.
    ///
    /// # Safety
    ///
    /// The operand is aligned and has all elements, and the memory has the bytes that the preparation asked for.
    unsafe fn pack(&self, pool: &ThreadPool, operand: *const u8, memory: *mut u8) {
        match self {
            // SAFETY: as for this function.
            Packing::Contract(prepared) => unsafe { prepared.pack_b_with(pool, operand, memory) },
            // SAFETY: as for this function.
            Packing::Convolve(prepared) => unsafe { prepared.pack_weights(pool, operand, memory) },
        }
    }
}

/// How the packed operand of that number is made.
fn packing(operations: &[Operation], number: usize) -> Option<Packing<'_>> {
    let is = |used: &Option<PackedUse>| used.as_ref().is_some_and(|used| used.packed == number);
    operations.iter().find_map(|operation| match &operation.kind {
        Kind::Contract(contract) => is(&contract.packed).then_some(Packing::Contract(&contract.prepared)),
        Kind::Convolve(convolve) => is(&convolve.packed).then_some(Packing::Convolve(&convolve.prepared)),
        Kind::Loop { body, .. } => packing(body, number),
        Kind::While { condition, body, .. } => packing(condition, number).or_else(|| packing(body, number)),
        Kind::Branch { then, otherwise, .. } => packing(then, number).or_else(|| packing(otherwise, number)),
        Kind::Launch(_)
        | Kind::Scatter { .. }
        | Kind::ArgSort { .. }
        | Kind::Copy { .. }
        | Kind::Collective(_) => None,
    })
}

/// One run under way.
struct Machine<'a, 'b> {
    plan: &'a Plan,
    rank: usize,
    pool: &'a ThreadPool,
    bases: &'a [*mut u8],
    workspace: *mut u8,
    table: &'a mut [*mut u8],
    bounds: &'a [i64],
    packed: &'a mut [Packed],
    turns: &'a mut [usize],
    context: &'a mut RunContext<'b>,
}

impl Machine<'_, '_> {
    /// The address of a place in the present turns.
    #[inline]
    fn at(&self, place: &Place) -> *mut u8 {
        // The verifier checked that the place is within the arena in every turn of the loops around it, and it is within its
        // window in every turn, if it lies in one.
        self.bases[place.region()].wrapping_add(place.offset(self.turns))
    }

    /// Whether the flag at a place holds.
    fn holds(&self, flag: &Place) -> bool {
        // SAFETY: the flag is a byte of the arena, which no other thread uses between steps.
        unsafe { *self.at(flag) != 0 }
    }

    fn steps(&mut self, operations: &[Operation]) -> Result<(), RunError> {
        for operation in operations {
            if !self.context.begin(operation.number) {
                return Err(self.cancelled(operation.number));
            }
            let began = self.context.now();
            self.operation(&operation.kind)?;
            self.context.end(operation.number, began);
        }
        Ok(())
    }

    #[cold]
    fn cancelled(&self, number: usize) -> RunError {
        let steps = steps_in_order(&self.plan.programs[self.rank].steps);
        RunError::Cancelled { step: steps[number].1.origin.label.clone() }
    }

    fn operation(&mut self, kind: &Kind) -> Result<(), RunError> {
        match kind {
            Kind::Launch(launch) => self.launch(launch),
            Kind::Contract(contract) => self.contract(contract),
            Kind::Convolve(convolve) => self.convolve(convolve),
            Kind::Scatter { routine, indices, updates, result } => {
                let (indices, updates, result) = (self.at(indices), self.at(updates), self.at(result));
                // SAFETY: the verifier checked that the places have the bytes of the shape, preparation their alignment
                // and the size of the workspace, whose pages are aligned; no other step runs meanwhile.
                unsafe { routine.run(self.pool, indices, updates, result, self.workspace) }
            }
            Kind::ArgSort { routine, operand, result } => {
                let (operand, result) = (self.at(operand), self.at(result));
                // SAFETY: as for `Scatter`.
                unsafe { routine.run(self.pool, operand, result, self.workspace) }
            }
            Kind::Copy { from, to, bytes } => {
                // SAFETY: the verifier checked that both ranges are within the arena.
                unsafe { routines::copy(self.pool, self.at(from), self.at(to), *bytes) }
            }
            Kind::Collective(collective) => return self.collective(collective),
            Kind::Loop { slot, turns, body } => {
                for turn in 0..*turns {
                    self.turns[*slot] = turn;
                    self.steps(body)?;
                }
            }
            Kind::While { condition, flag, body } => {
                self.steps(condition)?;
                while self.holds(flag) {
                    self.steps(body)?;
                    self.steps(condition)?;
                }
            }
            Kind::Branch { flag, then, otherwise } => {
                let taken = if self.holds(flag) { then } else { otherwise };
                return self.steps(taken);
            }
        }
        Ok(())
    }

    /// Writes the pointers that loops shift into the table; returns where a kernel's pointers begin.
    #[inline]
    fn pointers(&mut self, launch: &PreparedLaunch) -> *const *mut u8 {
        for (entry, place) in &launch.shifted {
            self.table[*entry] = self.at(place);
        }
        self.table[launch.table.clone()].as_ptr()
    }

    fn launch(&mut self, launch: &PreparedLaunch) {
        let buffers = self.pointers(launch);
        let (entry, stride) = (launch.entry, launch.stride);
        let bounds = self.bounds[launch.bounds..launch.bounds + launch.parts * stride].as_ptr();
        if launch.parts == 1 {
            // SAFETY: the entry is that of the kernel's code; the pointers are those of its buffers, which the verifier
            // checked to lie within the arena, and of the helpers; the bounds cover its index space.
            unsafe { entry(buffers, bounds) };
            return;
        }
        let (buffers, bounds) =
            (Shared::new(buffers.cast_mut().cast()), Shared::new(bounds.cast_mut().cast()));
        self.pool.run(launch.parts, &|part| {
            // SAFETY: as above; the kernel IR lets disjoint parts of the index space run in parallel.
            unsafe { entry(buffers.get().cast(), bounds.get().cast::<i64>().add(part * stride)) };
        });
    }

    fn epilogue(&mut self, launch: &PreparedLaunch) -> Option<Epilogue> {
        let buffers = self.pointers(launch);
        (launch.parts > 0).then_some(Epilogue { function: launch.entry, buffers })
    }

    fn contract(&mut self, contract: &PreparedContract) {
        let epilogue = contract.epilogue.as_ref().and_then(|launch| self.epilogue(launch));
        let [a, b, c] = [0, 1, 2].map(|operand| self.at(&contract.operands[operand]));
        let prepared = &contract.prepared;
        let Some(used) = &contract.packed else {
            // SAFETY: the verifier checked that the operands are within the arena with all elements, preparation their
            // alignment and the size of the workspace; the epilogue's kernel has the ranges of the product, as preparation
            // checked, and the kernel IR lets disjoint parts run in parallel; no other step runs meanwhile.
            return unsafe { prepared.run(self.pool, a, b, c, self.workspace, epilogue) };
        };
        let (pool, packing) = (self.pool, Packing::Contract(prepared));
        // SAFETY: `b` is within the arena, the memory has the bytes that this preparation asked for.
        let memory = self.packed_operand(used, |memory| unsafe { packing.pack(pool, b, memory) });
        // SAFETY: as without packing; the packed operand was made by this preparation of the present `b`: nothing was
        // written there since, neither by steps, as the plan says, nor from outside, which `write` watches.
        unsafe { prepared.run_packed_b(self.pool, a, memory, c, self.workspace, epilogue) }
    }

    /// A packed operand, made by `pack` if it is not there yet. The bytes are as many as were asked for when the place for
    /// it was made.
    fn packed_operand(&mut self, used: &PackedUse, pack: impl FnOnce(*mut u8)) -> *const u8 {
        let number = used.turns.iter().map(|(slot, factor)| self.turns[*slot] * factor).sum::<usize>();
        let packed = &mut self.packed[used.packed];
        let valid = std::mem::replace(&mut packed.valid[number], true);
        // SAFETY: there are as many packed operands as flags.
        let memory = unsafe { packed.memory.base().add(number * packed.each) };
        if !valid {
            pack(memory);
        }
        memory
    }

    fn convolve(&mut self, convolve: &PreparedConvolve) {
        let [a, b, c] = [0, 1, 2].map(|operand| self.at(&convolve.operands[operand]));
        let fused = convolve.epilogue.as_ref().filter(|_| convolve.fused);
        let epilogue = fused.and_then(|launch| self.epilogue(launch));
        let (prepared, pool) = (&convolve.prepared, self.pool);
        match &convolve.packed {
            // SAFETY: as for a contraction.
            None => unsafe { prepared.run(self.pool, a, b, c, self.workspace, epilogue) },
            Some(used) => {
                let (weights, other) = prepared.sides(a, b);
                let packing = Packing::Convolve(prepared);
                // SAFETY: as for a contraction.
                let memory =
                    self.packed_operand(used, |memory| unsafe { packing.pack(pool, weights, memory) });
                // SAFETY: as for a contraction.
                unsafe { prepared.run_packed(self.pool, memory, other, c, self.workspace, epilogue) }
            }
        }
        if let Some(launch) = convolve.epilogue.as_ref().filter(|_| !convolve.fused) {
            self.launch(launch);
        }
    }

    fn collective(&mut self, collective: &PreparedCollective) -> Result<(), RunError> {
        let PreparedCollective { step, label, operand, operand_bytes, result, result_bytes } = collective;
        let (operand, result) = (self.at(operand), self.at(result));
        let apart = operand as usize + operand_bytes <= result as usize
            || result as usize + result_bytes <= operand as usize;
        assert!(apart, "step `{label}`: a collective's operand and result are different places");
        // SAFETY: the verifier checked that both are within the arena, or lent memory is that stands for a part of it; they
        // do not overlap; no other step runs meanwhile.
        let (operand, result) = unsafe {
            (
                std::slice::from_raw_parts(operand, *operand_bytes),
                std::slice::from_raw_parts_mut(result, *result_bytes),
            )
        };
        self.context
            .exchange()
            .exchange(CollectiveCall { step, label }, operand, result)
            .map_err(|source| RunError::Collective { step: label.clone(), source })
    }
}
