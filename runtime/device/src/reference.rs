//! The reference device: what steps mean, by obvious loops over scalars. It runs every plan, slowly, on any machine.

use crate::prepare::collective_bytes;
use crate::{
    CheckedPlan, CollectiveCall, Device, DeviceError, Lent, LoadedProgram, RunContext, RunError, detect,
    steps_in_order,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_base::{DType, DeviceDescription, Scalar, literal};
use thalweg_kernel::Access;
use thalweg_kernel::evaluate::{Array, evaluate};
use thalweg_plan::{
    Address, ArgSort, ContractAxis, Contraction, Convolution, ConvolveDirection, Launch, LoopId, Plan,
    Scatter, Step, StepKind,
};

/// A device that evaluates kernel IR and needs no machine code.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceDevice;

impl Device for ReferenceDevice {
    fn describe(&self) -> DeviceDescription {
        DeviceDescription { name: "reference".to_string(), threads: 1, ..detect(Some(1)) }
    }

    fn load(&self, plan: &CheckedPlan, rank: usize) -> Result<Box<dyn LoadedProgram>, DeviceError> {
        let plan = Arc::clone(plan.plan());
        let devices = plan.devices();
        let program = plan.programs.get(rank).ok_or(DeviceError::Rank { rank, devices })?;
        for (_, step) in steps_in_order(&program.steps) {
            if let StepKind::Collective(collective) = &step.kind {
                collective_bytes(&plan, collective).map_err(|violation| DeviceError::Invalid {
                    violation: format!("step `{}`: {violation}", step.origin.label),
                })?;
            }
        }
        let mut loaded =
            ReferenceProgram { arena: vec![0; program.arena_bytes], rank, plan: Arc::clone(&plan) };
        for (offset, value) in &program.constants {
            loaded.write(*offset, value.bytes())?;
        }
        Ok(Box::new(loaded))
    }
}

struct ReferenceProgram {
    plan: Arc<Plan>,
    rank: usize,
    arena: Vec<u8>,
}

impl LoadedProgram for ReferenceProgram {
    fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    fn workspace_bytes(&self) -> usize {
        0
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let arena = self.arena.len();
        let place = offset.checked_add(bytes.len()).and_then(|end| self.arena.get_mut(offset..end));
        place.ok_or(DeviceError::OutsideArena { offset, bytes: bytes.len(), arena })?.copy_from_slice(bytes);
        Ok(())
    }

    fn write_shared(&mut self, offset: usize, bytes: &Bytes) -> Result<(), DeviceError> {
        self.write(offset, bytes)
    }

    fn shared(&self, _: usize, _: usize) -> Option<Bytes> {
        None
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), DeviceError> {
        let place = offset.checked_add(into.len()).and_then(|end| self.arena.get(offset..end));
        let outside = DeviceError::OutsideArena { offset, bytes: into.len(), arena: self.arena.len() };
        into.copy_from_slice(place.ok_or(outside)?);
        Ok(())
    }

    fn run(&mut self, context: &mut RunContext<'_>, lent: &mut [Lent<'_>]) -> Result<(), RunError> {
        for lent in lent.iter() {
            if let Lent::Input { offset, bytes } = lent {
                self.write(*offset, bytes)?;
            }
        }
        let plan = Arc::clone(&self.plan);
        let steps = &plan.programs[self.rank].steps;
        Run { plan: &plan, arena: &mut self.arena, turns: BTreeMap::new(), number: 0, context }
            .steps(steps)?;
        for lent in lent {
            if let Lent::Output { offset, bytes } = lent {
                self.read(*offset, bytes)?;
            }
        }
        Ok(())
    }
}

/// One run under way.
struct Run<'a, 'b> {
    plan: &'a Plan,
    arena: &'a mut [u8],
    turns: BTreeMap<LoopId, usize>,
    /// The number of the next step in the order of [`steps_in_order`].
    number: usize,
    context: &'a mut RunContext<'b>,
}

impl Run<'_, '_> {
    fn at(&self, address: &Address) -> usize {
        let shift: i64 = address.per_turn.iter().map(|(id, stride)| stride * self.turns[id] as i64).sum();
        address.offset.wrapping_add_signed(shift as isize)
    }

    fn get(&self, dtype: DType, address: &Address, index: i64) -> Scalar {
        let start = self.at(address) + index as usize * dtype.size_bytes();
        literal::read_scalar(dtype, &self.arena[start..start + dtype.size_bytes()])
    }

    fn set(&mut self, dtype: DType, address: &Address, index: i64, value: Scalar) {
        let start = self.at(address) + index as usize * dtype.size_bytes();
        let mut bytes = Vec::with_capacity(8);
        literal::write_scalar(dtype, value, &mut bytes);
        self.arena[start..start + bytes.len()].copy_from_slice(&bytes);
    }

    fn holds(&self, flag: &Address) -> bool {
        self.arena[self.at(flag)] != 0
    }

    /// Runs steps whose first is number `self.number`; leaves there the number after their last.
    fn steps(&mut self, steps: &[Step]) -> Result<(), RunError> {
        for step in steps {
            let number = self.number;
            if !self.context.begin(number) {
                return Err(RunError::Cancelled { step: step.origin.label.clone() });
            }
            let began = self.context.now();
            self.number = number + 1;
            self.step(step)?;
            self.context.end(number, began);
            self.number = number + steps_in_order(std::slice::from_ref(step)).len();
        }
        Ok(())
    }

    /// Runs a list of steps whose first is number `number`.
    fn steps_from(&mut self, number: usize, steps: &[Step]) -> Result<(), RunError> {
        self.number = number;
        self.steps(steps)
    }

    fn step(&mut self, step: &Step) -> Result<(), RunError> {
        let first = self.number;
        match &step.kind {
            StepKind::Launch(launch) => self.launch(launch),
            StepKind::Contract { contraction, a, b, c, epilogue, b_constant: _ } => {
                self.contract(contraction, [a, b, c]);
                epilogue.iter().for_each(|launch| self.launch(launch));
            }
            StepKind::Convolve { convolution, a, b, c, epilogue, weights_constant: _ } => {
                self.convolve(convolution, [a, b, c]);
                epilogue.iter().for_each(|launch| self.launch(launch));
            }
            StepKind::Scatter { scatter, indices, updates, result } => {
                self.scatter(scatter, indices, updates, result);
            }
            StepKind::ArgSort { sort, operand, result } => self.arg_sort(sort, operand, result),
            StepKind::Copy { from, to, bytes } => {
                let (from, to) = (self.at(from), self.at(to));
                self.arena.copy_within(from..from + bytes, to);
            }
            StepKind::Collective(collective) => {
                let (from, to) = (self.at(&collective.operand), self.at(&collective.result));
                let (bytes, size) =
                    collective_bytes(self.plan, collective).expect("checked when it was loaded");
                let operand = self.arena[from..from + bytes].to_vec();
                let label = &step.origin.label;
                self.context
                    .exchange()
                    .exchange(
                        CollectiveCall { step: collective, label },
                        &operand,
                        &mut self.arena[to..to + size],
                    )
                    .map_err(|source| RunError::Collective { step: label.clone(), source })?;
            }
            StepKind::Loop { id, turns, body } => {
                for turn in 0..*turns {
                    self.turns.insert(*id, turn);
                    self.steps_from(first, body)?;
                }
            }
            StepKind::While { condition, flag, body } => {
                let inner = first + steps_in_order(condition).len();
                self.steps_from(first, condition)?;
                while self.holds(flag) {
                    self.steps_from(inner, body)?;
                    self.steps_from(first, condition)?;
                }
            }
            StepKind::Branch { flag, then, otherwise } => match self.holds(flag) {
                true => self.steps_from(first, then)?,
                false => self.steps_from(first + steps_in_order(then).len(), otherwise)?,
            },
        }
        Ok(())
    }

    /// Evaluates a kernel on copies of its buffers and writes back those that it writes.
    fn launch(&mut self, launch: &Launch) {
        let kernel = &self.plan.kernel(launch.kernel).kernel;
        let places = kernel.buffers.iter().zip(&launch.buffers);
        let mut arrays: Vec<Array> = places
            .clone()
            .map(|(buffer, address)| {
                let elements = 0..buffer.elements as i64;
                Array::new(buffer.dtype, elements.map(|index| self.get(buffer.dtype, address, index)))
            })
            .collect();
        evaluate(kernel, &mut arrays, &kernel.full_ranges());
        for ((buffer, address), array) in places.zip(&arrays) {
            if buffer.access != Access::Read {
                for (index, value) in array.values.iter().enumerate() {
                    self.set(buffer.dtype, address, index as i64, *value);
                }
            }
        }
    }

    fn contract(&mut self, contraction: &Contraction, [a, b, c]: [&Address; 3]) {
        let [a_dtype, b_dtype, dtype] = contraction.dtypes();
        let outer: Vec<ContractAxis> = [&contraction.batch[..], &contraction.m, &contraction.n].concat();
        let mut sums = Vec::new();
        each_offset(&outer, &mut |[a_start, b_start, c_start]| {
            let mut sum = Scalar::zero(wide(dtype));
            each_offset(&contraction.k, &mut |[a_step, b_step, _]| {
                let left = self.get(a_dtype, a, a_start + a_step);
                let product = (left, self.get(b_dtype, b, b_start + b_step));
                sum = multiply_add(product, sum);
            });
            sums.push((c_start, sum));
        });
        for (index, sum) in sums {
            self.set(dtype, c, index, sum);
        }
    }

    /// `y[b, o, p] = sum over c, t of x[b, c, p stride + t dilation - pad] w[o, c, t]`, solved for each of the three by
    /// adding every product where it belongs.
    fn convolve(&mut self, convolution: &Convolution, [a, b, c]: [&Address; 3]) {
        let Convolution { dtype, batch, groups, in_channels, out_channels, .. } = *convolution;
        let size = |sizes: &[usize]| sizes.iter().product::<usize>();
        let (inputs, taps, outputs) =
            (size(&convolution.input), size(&convolution.kernel), size(&convolution.output));
        let length = match convolution.direction {
            ConvolveDirection::Forward => batch * groups * out_channels * outputs,
            ConvolveDirection::InputGradient => batch * groups * in_channels * inputs,
            ConvolveDirection::WeightGradient => groups * out_channels * in_channels * taps,
        };
        let mut sums = vec![Scalar::zero(wide(dtype)); length];
        for (p, t) in (0..outputs).flat_map(|p| (0..taps).map(move |t| (p, t))) {
            let Some(i) = input_position(convolution, p, t) else { continue };
            for (n, g) in (0..batch).flat_map(|n| (0..groups).map(move |g| (n, g))) {
                for (o, ci) in (0..out_channels).flat_map(|o| (0..in_channels).map(move |ci| (o, ci))) {
                    let x = (((n * groups + g) * in_channels + ci) * inputs + i) as i64;
                    let w = (((g * out_channels + o) * in_channels + ci) * taps + t) as i64;
                    let y = (((n * groups + g) * out_channels + o) * outputs + p) as i64;
                    let (left, right, to) = match convolution.direction {
                        ConvolveDirection::Forward => (x, w, y),
                        ConvolveDirection::InputGradient => (w, y, x),
                        ConvolveDirection::WeightGradient => (x, y, w),
                    };
                    let product = (self.get(dtype, a, left), self.get(dtype, b, right));
                    sums[to as usize] = multiply_add(product, sums[to as usize]);
                }
            }
        }
        for (index, sum) in sums.into_iter().enumerate() {
            self.set(dtype, c, index as i64, sum);
        }
    }

    fn scatter(&mut self, scatter: &Scatter, indices: &Address, updates: &Address, result: &Address) {
        let Scatter { dtype, index_dtype, batch, before, size, indices: count, after } = *scatter;
        let mut sums = vec![Scalar::zero(wide(dtype)); batch * before * size * after];
        for (row, q) in (0..batch * before).flat_map(|row| (0..count).map(move |q| (row, q))) {
            let position = self.get(index_dtype, indices, (row / before * count + q) as i64).to_i64();
            let Some(position) = usize::try_from(position).ok().filter(|position| *position < size) else {
                continue;
            };
            for s in 0..after {
                let update = self.get(dtype, updates, ((row * count + q) * after + s) as i64);
                let sum = &mut sums[(row * size + position) * after + s];
                *sum = multiply_add((update, Scalar::one(dtype)), *sum);
            }
        }
        for (index, sum) in sums.into_iter().enumerate() {
            self.set(dtype, result, index as i64, sum);
        }
    }

    fn arg_sort(&mut self, sort: &ArgSort, operand: &Address, result: &Address) {
        for line in 0..sort.outer * sort.inner {
            let start = line / sort.inner * sort.length * sort.inner + line % sort.inner;
            let index = |position: usize| (start + position * sort.inner) as i64;
            let keys: Vec<Scalar> =
                (0..sort.length).map(|position| self.get(sort.dtype, operand, index(position))).collect();
            let mut order: Vec<usize> = (0..sort.length).collect();
            order.sort_by(|x, y| compare(keys[*x], keys[*y], sort.descending));
            for (rank, position) in order.into_iter().enumerate() {
                self.set(DType::I32, result, index(rank), Scalar::Int(position as i128));
            }
        }
    }
}

/// The dtype that sums are kept in until they are stored.
fn wide(dtype: DType) -> DType {
    if dtype.is_float() { DType::F64 } else { DType::I64 }
}

/// `a b + sum`, in binary64 or wrapping 64-bit integers.
fn multiply_add((a, b): (Scalar, Scalar), sum: Scalar) -> Scalar {
    match (a, b, sum) {
        (Scalar::Int(a), Scalar::Int(b), Scalar::Int(sum)) => {
            Scalar::Int(a.wrapping_mul(b).wrapping_add(sum))
        }
        (a, b, sum) => Scalar::Float(a.to_f64() * b.to_f64() + sum.to_f64()),
    }
}

/// The order of two elements; NaN is last whichever way they are sorted.
fn compare(x: Scalar, y: Scalar, descending: bool) -> std::cmp::Ordering {
    let order = match (x, y) {
        (Scalar::Int(x), Scalar::Int(y)) => x.cmp(&y),
        (x, y) => {
            let (x, y) = (x.to_f64(), y.to_f64());
            match x.partial_cmp(&y) {
                Some(order) => order,
                None => return x.is_nan().cmp(&y.is_nan()),
            }
        }
    };
    if descending { order.reverse() } else { order }
}

/// Calls `f` with the offsets in the three operands for every index of the axes.
fn each_offset(axes: &[ContractAxis], f: &mut dyn FnMut([i64; 3])) {
    fn visit(axes: &[ContractAxis], at: [i64; 3], f: &mut dyn FnMut([i64; 3])) {
        let Some((axis, inner)) = axes.split_first() else { return f(at) };
        for position in 0..axis.extent as i64 {
            let [a, b, c] = at;
            let next =
                [a + position * axis.stride_a, b + position * axis.stride_b, c + position * axis.stride_c];
            visit(inner, next, f);
        }
    }
    visit(axes, [0; 3], f);
}

/// The flat position in the input that tap `t` of output `p` sees, if it is not padding.
fn input_position(convolution: &Convolution, p: usize, t: usize) -> Option<usize> {
    let (mut p, mut t, mut position, mut scale) = (p, t, 0, 1);
    for dim in (0..convolution.input.len()).rev() {
        let at = p % convolution.output[dim] * convolution.stride[dim]
            + t % convolution.kernel[dim] * convolution.dilation[dim];
        let at = at.checked_sub(convolution.pad_low[dim]).filter(|at| *at < convolution.input[dim])?;
        position += at * scale;
        scale *= convolution.input[dim];
        p /= convolution.output[dim];
        t /= convolution.kernel[dim];
    }
    Some(position)
}
