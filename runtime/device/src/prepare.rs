//! From the steps of a plan to operations of the processor: addresses resolved, kernels entered, routines prepared.

use crate::memory::{Arena, CodeMemory, Entry};
use crate::place::Place;
use crate::routines::{ArgSortRoutine, ScatterRoutine};
use crate::windows::Windows;
use crate::{DeviceError, steps_in_order};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use thalweg_base::DType;
use thalweg_kernel::Kernel;
use thalweg_kernels as kernels;
use thalweg_plan::{
    Address, CollectiveKind, CollectiveStep, ContractAxis, Contraction, Convolution, ConvolveDirection,
    KernelId, Launch, LoopId, Plan, Precision, Program, Step, StepKind,
};

/// One step, ready to run.
pub(crate) struct Operation {
    /// Its number among all steps.
    pub(crate) number: usize,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Launch(PreparedLaunch),
    Contract(Box<PreparedContract>),
    Convolve(Box<PreparedConvolve>),
    Scatter { routine: Box<ScatterRoutine>, indices: Place, updates: Place, result: Place },
    ArgSort { routine: Box<ArgSortRoutine>, operand: Place, result: Place },
    Copy { from: Place, to: Place, bytes: usize },
    Collective(Box<PreparedCollective>),
    Loop { slot: usize, turns: usize, body: Vec<Operation> },
    While { condition: Vec<Operation>, flag: Place, body: Vec<Operation> },
    Branch { flag: Place, then: Vec<Operation>, otherwise: Vec<Operation> },
}

/// A kernel call: its pointers are in the program's table, its bounds in the program's list.
pub(crate) struct PreparedLaunch {
    pub(crate) entry: Entry,
    /// Where in the table its pointers are, the helpers' last.
    pub(crate) table: Range<usize>,
    /// What is to be written there before each call: nothing when no loop shifts them.
    pub(crate) shifted: Vec<(usize, Place)>,
    /// Where in the list its bounds begin; each part has `stride` of them.
    pub(crate) bounds: usize,
    pub(crate) stride: usize,
    /// 0 when some range is empty.
    pub(crate) parts: usize,
}

pub(crate) struct PreparedContract {
    pub(crate) prepared: kernels::Prepared,
    pub(crate) operands: [Place; 3],
    pub(crate) epilogue: Option<PreparedLaunch>,
    /// Which packed operand stands for `b`.
    pub(crate) packed: Option<PackedUse>,
}

pub(crate) struct PreparedConvolve {
    pub(crate) prepared: kernels::PreparedConvolution,
    pub(crate) operands: [Place; 3],
    pub(crate) epilogue: Option<PreparedLaunch>,
    /// Whether the epilogue sees tiles, else it is a launch of its own afterwards.
    pub(crate) fused: bool,
    /// Which packed operand stands for the weights.
    pub(crate) packed: Option<PackedUse>,
}

pub(crate) struct PreparedCollective {
    pub(crate) step: CollectiveStep,
    pub(crate) label: String,
    pub(crate) operand: Place,
    pub(crate) operand_bytes: usize,
    pub(crate) result: Place,
    pub(crate) result_bytes: usize,
}

/// Constant operands of one step in the order that the kernels read, made when they are first needed.
pub(crate) struct Packed {
    pub(crate) memory: Arena,
    /// Bytes of each.
    pub(crate) each: usize,
    /// The bytes of the arena that they were made of; they are made anew after a write to them.
    pub(crate) source: Range<usize>,
    /// Which are made of what is there now.
    pub(crate) valid: Vec<bool>,
}

/// Which packed operand a step uses: of those with that number, the one at the sum of turns times factors.
pub(crate) struct PackedUse {
    pub(crate) packed: usize,
    pub(crate) turns: Vec<(usize, usize)>,
}

/// All that a program needs to run.
#[derive(Default)]
pub(crate) struct Prepared {
    pub(crate) operations: Vec<Operation>,
    pub(crate) table: Vec<*mut u8>,
    /// Entries of the table that lie in a window: the entry, its region, its offset in the arena.
    pub(crate) windowed: Vec<(usize, usize, usize)>,
    pub(crate) bounds: Vec<i64>,
    pub(crate) packed: Vec<Packed>,
    /// Loops whose turns are counted.
    pub(crate) slots: usize,
    pub(crate) workspace_bytes: usize,
}

/// The kernels that a program names, epilogues included.
pub(crate) fn kernels_of(program: &Program) -> Vec<KernelId> {
    let mut found = BTreeSet::new();
    for (_, step) in steps_in_order(&program.steps) {
        match &step.kind {
            StepKind::Launch(launch) => {
                found.insert(launch.kernel);
            }
            StepKind::Contract { epilogue, .. } | StepKind::Convolve { epilogue, .. } => {
                found.extend(epilogue.as_ref().map(|launch| launch.kernel));
            }
            StepKind::Scatter { .. }
            | StepKind::ArgSort { .. }
            | StepKind::Copy { .. }
            | StepKind::Collective(_)
            | StepKind::Loop { .. }
            | StepKind::While { .. }
            | StepKind::Branch { .. } => {}
        }
    }
    found.into_iter().collect()
}

/// Prepares the steps of one program.
pub(crate) struct Preparer<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) code: &'a CodeMemory,
    pub(crate) base: *mut u8,
    pub(crate) helpers: *mut u8,
    pub(crate) threads: usize,
    /// The most bytes that further packed operands may take.
    pub(crate) packing_bytes_left: usize,
    pub(crate) windows: &'a Windows,
    pub(crate) slots: BTreeMap<LoopId, usize>,
    /// How often the loop of each slot turns.
    pub(crate) loop_turns: Vec<usize>,
    pub(crate) number: usize,
    pub(crate) out: Prepared,
}

impl Preparer<'_> {
    pub(crate) fn program(mut self, program: &Program) -> Result<Prepared, DeviceError> {
        self.out.operations = self.steps(&program.steps)?;
        Ok(self.out)
    }

    fn steps(&mut self, steps: &[Step]) -> Result<Vec<Operation>, DeviceError> {
        steps.iter().map(|step| self.step(step)).collect()
    }

    fn place(&self, step: &Step, address: &Address, dtype: DType) -> Result<Place, DeviceError> {
        let place = Place::new(address, &self.slots, self.windows);
        match place.is_aligned(dtype.size_bytes()) {
            true => Ok(place),
            false => Err(invalid(step, format!("offset {} is not aligned for {dtype}", address.offset))),
        }
    }

    fn needs(&mut self, workspace: usize) {
        self.out.workspace_bytes = self.out.workspace_bytes.max(workspace);
    }

    fn step(&mut self, step: &Step) -> Result<Operation, DeviceError> {
        let number = self.number;
        self.number += 1;
        let kind = match &step.kind {
            StepKind::Launch(launch) => Kind::Launch(self.launch(step, launch, launch.parts as usize)?),
            StepKind::Contract { contraction, a, b, c, epilogue, b_constant } => {
                self.contract(step, contraction, [a, b, c], epilogue.as_ref(), *b_constant)?
            }
            StepKind::Convolve { convolution, a, b, c, epilogue, weights_constant } => {
                self.convolve(step, convolution, [a, b, c], epilogue.as_ref(), *weights_constant)?
            }
            StepKind::Scatter { scatter, indices, updates, result } => {
                let routine = ScatterRoutine::new(scatter)
                    .ok_or_else(|| DeviceError::DType { step: label(step), dtype: scatter.index_dtype })?;
                self.needs(routine.workspace_bytes());
                Kind::Scatter {
                    indices: self.place(step, indices, scatter.index_dtype)?,
                    updates: self.place(step, updates, scatter.dtype)?,
                    result: self.place(step, result, scatter.dtype)?,
                    routine: Box::new(routine),
                }
            }
            StepKind::ArgSort { sort, operand, result } => {
                let routine = ArgSortRoutine::new(sort, self.threads).ok_or_else(|| {
                    invalid(step, format!("{} elements are too many to number in i32", sort.length))
                })?;
                self.needs(routine.workspace_bytes());
                Kind::ArgSort {
                    operand: self.place(step, operand, sort.dtype)?,
                    result: self.place(step, result, DType::I32)?,
                    routine: Box::new(routine),
                }
            }
            StepKind::Copy { from, to, bytes } => Kind::Copy {
                from: self.place(step, from, DType::U8)?,
                to: self.place(step, to, DType::U8)?,
                bytes: *bytes,
            },
            StepKind::Collective(collective) => self.collective(step, collective)?,
            StepKind::Loop { id, turns, body } => {
                let slot = self.out.slots;
                self.out.slots += 1;
                self.loop_turns.push(*turns);
                self.slots.insert(*id, slot);
                let body = self.steps(body)?;
                Kind::Loop { slot, turns: *turns, body }
            }
            StepKind::While { condition, flag, body } => Kind::While {
                flag: self.place(step, flag, DType::Bool)?,
                condition: self.steps(condition)?,
                body: self.steps(body)?,
            },
            StepKind::Branch { flag, then, otherwise } => Kind::Branch {
                flag: self.place(step, flag, DType::Bool)?,
                then: self.steps(then)?,
                otherwise: self.steps(otherwise)?,
            },
        };
        Ok(Operation { number, kind })
    }

    fn launch(&mut self, step: &Step, launch: &Launch, parts: usize) -> Result<PreparedLaunch, DeviceError> {
        let kernel = &self.plan.kernel(launch.kernel).kernel;
        let start = self.out.table.len();
        let mut shifted = Vec::new();
        for (buffer, address) in kernel.buffers.iter().zip(&launch.buffers) {
            let place = self.place(step, address, buffer.dtype)?;
            // Shifted places are written before each call; until then they hold the base, which is never used.
            let offset = if place.is_fixed() { place.offset(&[]) } else { 0 };
            // SAFETY: the verifier checked that the place is in the arena, whose base this is.
            let pointer = unsafe { self.base.add(offset) };
            if !place.is_fixed() {
                shifted.push((self.out.table.len(), place));
            } else if place.region() != 0 {
                self.out.windowed.push((self.out.table.len(), place.region(), offset));
            }
            self.out.table.push(pointer);
        }
        self.out.table.push(self.helpers);
        let bounds = self.out.bounds.len();
        let parts = self.split(kernel, parts);
        Ok(PreparedLaunch {
            entry: self.code.entry(launch.kernel),
            table: start..self.out.table.len(),
            shifted,
            bounds,
            stride: 2 * kernel.ranges.len(),
            parts,
        })
    }

    /// Appends the bounds of each part of a kernel's index space, split along the first range; returns the number of
    /// parts. A range with lanes is split at multiples of them.
    fn split(&mut self, kernel: &Kernel, parts: usize) -> usize {
        if kernel.ranges.iter().any(|range| range.extent == 0) {
            return 0;
        }
        let Some(first) = kernel.ranges.first() else { return 1 };
        let grain = first.lanes.max(1) as usize;
        let grains = first.extent.div_ceil(grain);
        let parts = if self.threads == 1 { 1 } else { parts.clamp(1, grains) };
        for part in 0..parts {
            let bound = |part: usize| (grains * part / parts * grain).min(first.extent) as i64;
            self.out.bounds.extend([bound(part), bound(part + 1)]);
            self.out.bounds.extend(kernel.ranges[1..].iter().flat_map(|range| [0, range.extent as i64]));
        }
        parts
    }

    fn contract(
        &mut self,
        step: &Step,
        contraction: &Contraction,
        addresses: [&Address; 3],
        epilogue: Option<&Launch>,
        b_constant: bool,
    ) -> Result<Kind, DeviceError> {
        let kernel_dtype =
            |dtype| kernel_dtype(dtype).ok_or_else(|| DeviceError::DType { step: label(step), dtype });
        let dtypes = contraction.dtypes();
        let narrow = match contraction.operands {
            None => None,
            Some([a, b]) => {
                let fits = |dtype| matches!(dtype, DType::I8 | DType::U8 | DType::I16);
                if contraction.dtype != DType::I32 || !fits(a) || !fits(b) {
                    let violation =
                        format!("products of {a} and {b} are not summed in {}", contraction.dtype);
                    return Err(invalid(step, violation));
                }
                Some([kernel_dtype(a)?, kernel_dtype(b)?])
            }
        };
        let axes = |axes: &[ContractAxis]| axes.iter().map(kernel_axis).collect::<Vec<_>>();
        let contract = kernels::Contraction {
            batch: axes(&contraction.batch),
            m: axes(&contraction.m),
            n: axes(&contraction.n),
            k: axes(&contraction.k),
            dtype: kernel_dtype(contraction.dtype)?,
            operands: narrow,
        };
        let operands = self.operands(step, addresses, dtypes)?;
        // What is lent for a run is other memory each time.
        let b_constant =
            b_constant && operands[1].region() == 0 && contraction.batch.iter().all(|axis| axis.extent == 1);
        let isa = kernels::Isa::detect();
        let prepared = match contraction.precision {
            Precision::Full => contract.prepare(isa, self.threads),
            Precision::Bf16 => contract.prepare_rounded(isa, self.threads, b_constant),
        };
        self.needs(prepared.workspace_bytes());
        let extent = |axes: &[ContractAxis]| axes.iter().map(|axis| axis.extent).product::<usize>();
        let extents = [extent(&contraction.batch), extent(&contraction.m), extent(&contraction.n)];
        let epilogue = match epilogue {
            Some(launch) if self.ranges(launch.kernel) == extents => Some(self.launch(step, launch, 1)?),
            Some(launch) => {
                let ranges = self.ranges(launch.kernel);
                return Err(invalid(step, format!("the epilogue has ranges {ranges:?}, not {extents:?}")));
            }
            None => None,
        };
        // One row reads its matrix once either way, so nothing is gained for it unless there are fewer bytes to read; 2 to 64
        // rows gain a fifth to a half of the time, more rows a tenth and less.
        let packed = match b_constant && (extents[1] > 1 || prepared.wants_packed_row()) {
            true => {
                let axes = contraction.n.iter().chain(&contraction.k).chain(&contraction.batch);
                let last: i64 = axes.map(|axis| axis.stride_b * (axis.extent as i64 - 1)).sum();
                let bytes = (last + 1) as usize * dtypes[1].size_bytes();
                self.packed(prepared.packed_b_bytes(), &operands[1], bytes)?
            }
            false => None,
        };
        Ok(Kind::Contract(Box::new(PreparedContract { prepared, operands, epilogue, packed })))
    }

    /// A place for the packed forms, of `each` bytes, of an operand of `bytes` bytes: one for each turn of the loops that
    /// shift it, as long as there is memory for them.
    fn packed(
        &mut self,
        each: usize,
        operand: &Place,
        bytes: usize,
    ) -> Result<Option<PackedUse>, DeviceError> {
        let each = each.next_multiple_of(64);
        let (mut count, mut turns) = (1usize, Vec::new());
        let (mut low, mut high) = (0, bytes as isize);
        for (slot, stride) in operand.shifts() {
            turns.push((*slot, count));
            count = count.saturating_mul(self.loop_turns[*slot]);
            let reach = stride * (self.loop_turns[*slot] as isize - 1);
            (low, high) = (low + reach.min(0), high + reach.max(0));
        }
        let total = each.saturating_mul(count);
        if total == 0 || total > self.packing_bytes_left {
            return Ok(None);
        }
        self.packing_bytes_left -= total;
        let start = operand.start();
        self.out.packed.push(Packed {
            memory: Arena::new(total, "packed operands")?,
            each,
            source: start.wrapping_add_signed(low)..start.wrapping_add_signed(high),
            valid: vec![false; count],
        });
        Ok(Some(PackedUse { packed: self.out.packed.len() - 1, turns }))
    }

    fn convolve(
        &mut self,
        step: &Step,
        convolution: &Convolution,
        addresses: [&Address; 3],
        epilogue: Option<&Launch>,
        weights_constant: bool,
    ) -> Result<Kind, DeviceError> {
        let dtype = kernel_dtype(convolution.dtype)
            .ok_or_else(|| DeviceError::DType { step: label(step), dtype: convolution.dtype })?;
        let (lists, extents) = (spatial_lists(convolution), result_extents(convolution));
        let rank = convolution.input.len();
        if !(1..=3).contains(&rank) || lists.iter().any(|list| list.len() != rank) {
            return Err(DeviceError::Unsupported {
                step: label(step),
                reason: format!("a convolution has one to three spatial dims, not {:?}", convolution.input),
            });
        }
        if convolution.stride.iter().chain(&convolution.dilation).any(|steps| *steps == 0) {
            return Err(invalid(step, "a window that stands still".to_string()));
        }
        let prepared = kernels::Convolution {
            direction: match convolution.direction {
                ConvolveDirection::Forward => kernels::Direction::Forward,
                ConvolveDirection::InputGradient => kernels::Direction::InputGradient,
                ConvolveDirection::WeightGradient => kernels::Direction::WeightGradient,
            },
            batch: convolution.batch,
            groups: convolution.groups,
            in_channels: convolution.in_channels,
            out_channels: convolution.out_channels,
            input: convolution.input.clone(),
            kernel: convolution.kernel.clone(),
            output: convolution.output.clone(),
            stride: convolution.stride.clone(),
            dilation: convolution.dilation.clone(),
            pad_low: convolution.pad_low.iter().map(|pad| *pad as isize).collect(),
            dtype,
        }
        .prepare(kernels::Isa::detect(), self.threads);
        self.needs(prepared.workspace_bytes());
        // A kernel over `[batch, all channels, positions]` of a convolution in groups sees other ranges than the tiles have.
        let fused = epilogue.is_some_and(|launch| self.ranges(launch.kernel) == extents);
        let parts = if fused { 1 } else { self.threads };
        let epilogue = epilogue.map(|launch| self.launch(step, launch, parts)).transpose()?;
        let operands = self.operands(step, addresses, [convolution.dtype; 3])?;
        let weights = match convolution.direction {
            ConvolveDirection::Forward => Some(&operands[1]),
            ConvolveDirection::InputGradient => Some(&operands[0]),
            ConvolveDirection::WeightGradient => None,
        };
        // What is lent for a run is other memory each time.
        let weights = weights.filter(|place| weights_constant && place.region() == 0);
        let packed = match (weights, prepared.packed_weights_bytes()) {
            (Some(place), Some(each)) => {
                let channels = [convolution.groups, convolution.in_channels, convolution.out_channels];
                let elements = channels.iter().chain(&convolution.kernel).product::<usize>();
                self.packed(each, place, elements * convolution.dtype.size_bytes())?
            }
            (None, _) | (_, None) => None,
        };
        Ok(Kind::Convolve(Box::new(PreparedConvolve { prepared, operands, epilogue, fused, packed })))
    }

    fn operands(
        &self,
        step: &Step,
        addresses: [&Address; 3],
        dtypes: [DType; 3],
    ) -> Result<[Place; 3], DeviceError> {
        let place = |at: usize| self.place(step, addresses[at], dtypes[at]);
        Ok([place(0)?, place(1)?, place(2)?])
    }

    fn ranges(&self, kernel: KernelId) -> Vec<usize> {
        self.plan.kernel(kernel).kernel.ranges.iter().map(|range| range.extent).collect()
    }

    fn collective(&mut self, step: &Step, collective: &CollectiveStep) -> Result<Kind, DeviceError> {
        let (operand, result) = collective_bytes(self.plan, collective).map_err(|why| invalid(step, why))?;
        Ok(Kind::Collective(Box::new(PreparedCollective {
            label: label(step),
            operand: self.place(step, &collective.operand, collective.dtype)?,
            operand_bytes: operand,
            result: self.place(step, &collective.result, collective.dtype)?,
            result_bytes: result,
            step: collective.clone(),
        })))
    }
}

/// Bytes of a collective's operand and result, or what is wrong with it.
pub(crate) fn collective_bytes(plan: &Plan, collective: &CollectiveStep) -> Result<(usize, usize), String> {
    let devices = plan.mesh.size(&collective.axis);
    let elements = collective.elements;
    let (operand, result) = match collective.kind {
        CollectiveKind::AllReduce(_) => (elements, elements),
        CollectiveKind::AllGather { outer, inner } => (outer * inner, outer * inner * devices),
        CollectiveKind::ReduceScatter { outer, inner, .. } => (outer * inner * devices, outer * inner),
        CollectiveKind::AllToAll { block } => (block * devices, block * devices),
    };
    if operand != elements {
        return Err(format!("{operand} elements are communicated of an operand of {elements}"));
    }
    let size = collective.dtype.size_bytes();
    Ok((operand * size, result * size))
}

/// The extents of a convolution's result as the tiles of the micro-kernels see it.
pub(crate) fn result_extents(convolution: &Convolution) -> [usize; 3] {
    let size = |sizes: &[usize]| sizes.iter().product::<usize>();
    let (groups, outer) = (convolution.groups, convolution.batch * convolution.groups);
    match convolution.direction {
        ConvolveDirection::Forward => [outer, convolution.out_channels, size(&convolution.output)],
        ConvolveDirection::InputGradient => [outer, convolution.in_channels, size(&convolution.input)],
        ConvolveDirection::WeightGradient => {
            [groups, convolution.out_channels, convolution.in_channels * size(&convolution.kernel)]
        }
    }
}

fn spatial_lists(convolution: &Convolution) -> [&[usize]; 6] {
    [
        &convolution.input,
        &convolution.kernel,
        &convolution.output,
        &convolution.stride,
        &convolution.dilation,
        &convolution.pad_low,
    ]
}

fn label(step: &Step) -> String {
    step.origin.label.clone()
}

fn invalid(step: &Step, violation: String) -> DeviceError {
    DeviceError::Invalid { violation: format!("step `{}`: {violation}", step.origin.label) }
}

fn kernel_axis(axis: &ContractAxis) -> kernels::Axis {
    kernels::Axis {
        extent: axis.extent,
        stride_a: axis.stride_a as isize,
        stride_b: axis.stride_b as isize,
        stride_c: axis.stride_c as isize,
    }
}

/// The micro-kernels' name of a dtype that products are formed of.
fn kernel_dtype(dtype: DType) -> Option<kernels::DType> {
    match dtype {
        DType::F32 => Some(kernels::DType::F32),
        DType::F64 => Some(kernels::DType::F64),
        DType::F16 => Some(kernels::DType::F16),
        DType::BF16 => Some(kernels::DType::Bf16),
        DType::I8 => Some(kernels::DType::I8),
        DType::U8 => Some(kernels::DType::U8),
        // Products and sums of unsigned integers have the bits of those of signed ones.
        DType::I16 | DType::U16 => Some(kernels::DType::I16),
        DType::I32 | DType::U32 => Some(kernels::DType::I32),
        DType::I64 | DType::U64 => Some(kernels::DType::I64),
        DType::Bool => None,
    }
}
