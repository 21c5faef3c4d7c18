//! The executor: a plan on its devices, with names and global tensors outside and pieces inside.

use crate::crew::Crew;
use crate::piece::Piece;
use crate::{ExecutorError, Interrupt, Trace, initial_bytes};
use bytes::Bytes;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thalweg_base::{DType, Literal, Recycled};
use thalweg_collective::ThreadOptions;
use thalweg_device::{CheckedPlan, CpuDevice, Device, Lent, LoadedProgram, ReferenceDevice};
use thalweg_plan::{Plan, Port};

/// How a plan is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Threads of each device; 0 for an equal share of the machine's.
    pub threads_per_device: usize,
    /// Whether steps are evaluated by the reference device, slowly and without machine code.
    pub reference: bool,
    /// How long devices wait for each other before the run fails; for ever when absent.
    pub timeout: Option<Duration>,
}

/// A dense, row-major tensor that somebody else owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TensorView<'a> {
    /// The element type.
    pub dtype: DType,
    /// The sizes of the dims.
    pub shape: &'a [usize],
    /// The elements in storage format, little-endian.
    pub bytes: &'a [u8],
}

impl<'a> From<&'a Literal> for TensorView<'a> {
    fn from(literal: &'a Literal) -> TensorView<'a> {
        TensorView { dtype: literal.dtype(), shape: literal.shape(), bytes: literal.bytes() }
    }
}

/// A port with its piece on each device.
#[derive(Clone, Debug)]
struct Gate {
    pieces: Vec<Piece>,
    bytes: usize,
}

impl Gate {
    fn new(plan: &Plan, port: &Port) -> Gate {
        let bytes = port.shape.iter().product::<usize>() * port.dtype.size_bytes();
        Gate { pieces: (0..plan.devices()).map(|rank| Piece::new(port, &plan.mesh, rank)).collect(), bytes }
    }

    fn all(plan: &Plan, ports: &[Port]) -> Vec<Gate> {
        ports.iter().map(|port| Gate::new(plan, port)).collect()
    }
}

/// A plan on its devices.
pub struct Executor {
    plan: Arc<Plan>,
    devices: Vec<Arc<dyn Device>>,
    crew: Crew,
    inputs: Vec<Gate>,
    outputs: Vec<Gate>,
    /// Parameters, then states.
    kept: Vec<Gate>,
    /// What the outputs of the last run were written into.
    given: Vec<Recycled>,
    /// How many threads may work on first values.
    threads: usize,
    trace: Option<(Instant, usize, Trace)>,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor")
            .field("plan", &self.plan.name)
            .field("devices", &self.devices.len())
            .finish_non_exhaustive()
    }
}

impl Executor {
    /// Loads a plan on the processor, as many devices as the plan has. Kept values are zeros until they are set or
    /// initialized.
    pub fn new(plan: Arc<Plan>, options: &Options) -> Result<Executor, ExecutorError> {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match options.threads_per_device {
            0 => (available / plan.devices().max(1)).max(1),
            threads => threads,
        };
        let device = || -> Arc<dyn Device> {
            if options.reference { Arc::new(ReferenceDevice) } else { Arc::new(CpuDevice::new(threads)) }
        };
        let devices = (0..plan.devices()).map(|_| device()).collect();
        Executor::on(plan, devices, options.timeout)
    }

    /// Loads a plan on those devices, in the order of their ranks. Executors that never run at the same time, such as a
    /// training step and its evaluation, do well to share devices and so their threads.
    pub fn on(
        plan: Arc<Plan>,
        devices: Vec<Arc<dyn Device>>,
        timeout: Option<Duration>,
    ) -> Result<Executor, ExecutorError> {
        if devices.len() != plan.devices() {
            let (wanted, given) = (plan.devices(), devices.len());
            return Err(ExecutorError::Devices { plan: plan.name.clone(), wanted, given });
        }
        let checked = CheckedPlan::new(plan)?;
        let programs = devices.iter().enumerate().map(|(rank, device)| device.load(&checked, rank));
        let programs: Vec<Box<dyn LoadedProgram>> = programs.collect::<Result<_, _>>()?;
        let plan = Arc::clone(checked.plan());
        let crew = Crew::new(&plan, programs, ThreadOptions { timeout, ..ThreadOptions::default() })?;
        let kept: Vec<Port> = [&plan.parameters[..], &plan.states].concat();
        Ok(Executor {
            inputs: Gate::all(&plan, &plan.inputs),
            outputs: Gate::all(&plan, &plan.outputs),
            kept: Gate::all(&plan, &kept),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            devices,
            crew,
            plan,
            given: Vec::new(),
            trace: None,
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The devices, in the order of their ranks.
    pub fn devices(&self) -> &[Arc<dyn Device>] {
        &self.devices
    }

    /// Ports of parameters, then of states.
    pub fn kept(&self) -> impl Iterator<Item = &Port> {
        self.plan.parameters.iter().chain(&self.plan.states)
    }

    /// Bytes of the arenas and of what steps need beside them, of all devices.
    pub fn memory_bytes(&self) -> usize {
        let of = |rank| {
            let station = self.crew.station(rank);
            station.program.arena_bytes() + station.program.workspace_bytes()
        };
        (0..self.crew.devices()).map(of).sum()
    }

    /// What ends runs of this executor from other threads. An interrupted run leaves kept values half updated.
    pub fn interrupt(&self) -> Interrupt {
        self.crew.interrupt()
    }

    /// Gives every parameter and state its first value under the seed; zeros where the plan does not say how it begins.
    pub fn initialize(&mut self, seed: u64) -> Result<(), ExecutorError> {
        self.initialize_but(seed, |_| false)
    }

    /// The same for all but those of which `known` says that they are set otherwise: first values of large models take time.
    pub fn initialize_but(&mut self, seed: u64, known: impl Fn(&str) -> bool) -> Result<(), ExecutorError> {
        let plan = Arc::clone(&self.plan);
        let kept = plan.parameters.iter().chain(&plan.states).enumerate();
        for (at, port) in kept.filter(|(_, port)| !known(&port.name)) {
            let elements = port.shape.iter().product();
            let bytes = match &port.initial {
                Some(initial) => initial_bytes(initial, seed, &port.name, port.dtype, elements, self.threads),
                None => vec![0; self.kept[at].bytes],
            };
            self.write(&self.kept[at], &bytes)?;
        }
        Ok(())
    }

    /// The global value of a parameter or state.
    pub fn get(&self, name: &str) -> Result<Literal, ExecutorError> {
        let (at, port) = self.find(name)?;
        let mut bytes = vec![0; self.kept[at].bytes];
        self.read(&self.kept[at], &mut bytes)?;
        Ok(literal(port, bytes))
    }

    /// Reads the global value of a parameter or state into a buffer of its size.
    pub fn get_into(&self, name: &str, bytes: &mut [u8]) -> Result<(), ExecutorError> {
        let (at, port) = self.find(name)?;
        check_bytes(port, self.kept[at].bytes, bytes.len())?;
        self.read(&self.kept[at], bytes)
    }

    /// Sets the global value of a parameter or state.
    pub fn set<'a>(&mut self, name: &str, value: impl Into<TensorView<'a>>) -> Result<(), ExecutorError> {
        let value = value.into();
        let (at, port) = self.find(name)?;
        check_type(port, &value)?;
        self.write(&self.kept[at], value.bytes)
    }

    /// The same as [`set`](Self::set) of a value whose bytes may be kept instead of a copy: devices do so where they need
    /// them in another order only. Bytes of a mapped file are then used once and need not stay in memory.
    pub fn set_shared(&mut self, name: &str, value: &Literal) -> Result<(), ExecutorError> {
        let (at, port) = self.find(name)?;
        check_type(port, &value.into())?;
        let bytes = value.shared_bytes();
        for (rank, piece) in self.kept[at].pieces.iter().enumerate() {
            let program = &mut *self.crew.station(rank).program;
            match piece.is_whole() && piece.bytes() == bytes.len() {
                true => program.write_shared(piece.place(), &bytes)?,
                false => piece.write(program, &bytes)?,
            }
        }
        Ok(())
    }

    /// Copies the parameters and states that both executors have, by name, to another one; returns how many. Where both
    /// lay a value out alike, pieces go from arena to arena without being put together.
    pub fn copy_kept_to(&self, other: &mut Executor) -> Result<usize, ExecutorError> {
        let mut copied = 0;
        for (at, port) in self.kept().enumerate() {
            let Some((to, target)) = other.kept().enumerate().find(|(_, target)| target.name == port.name)
            else {
                continue;
            };
            if (target.dtype, &target.shape) != (port.dtype, &port.shape) {
                return Err(type_error(target, port.dtype, &port.shape));
            }
            copied += 1;
            let (from, to) = (&self.kept[at], &other.kept[to]);
            if port.layout != target.layout || self.plan.mesh != other.plan.mesh {
                let mut bytes = vec![0; from.bytes];
                self.read(from, &mut bytes)?;
                other.write(to, &bytes)?;
                continue;
            }
            for rank in 0..self.crew.devices() {
                let (source, mut sink) = (self.crew.station(rank), other.crew.station(rank));
                copy_piece(&*source.program, &mut *sink.program, &from.pieces[rank], &to.pieces[rank])?;
            }
        }
        Ok(copied)
    }

    /// Runs the plan once: every input by name, in any order; the outputs in the order of the signature.
    pub fn run(&mut self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Literal>, ExecutorError> {
        if let Some((name, _)) =
            inputs.iter().find(|(name, _)| self.plan.inputs.iter().all(|port| port.name != *name))
        {
            return Err(unknown("input", name, self.plan.inputs.iter()));
        }
        let mut ordered = Vec::with_capacity(self.inputs.len());
        for port in &self.plan.inputs {
            let given = inputs.iter().find(|(name, _)| *name == port.name);
            let (_, value) = given.ok_or_else(|| ExecutorError::Missing {
                name: port.name.clone(),
                dtype: port.dtype,
                shape: port.shape.clone(),
            })?;
            ordered.push(*value);
        }
        let mut given = std::mem::take(&mut self.given);
        given.resize(self.outputs.len(), Recycled::default());
        let ran = {
            let buffers = given.iter_mut().zip(&self.outputs);
            let mut outputs: Vec<&mut [u8]> =
                buffers.map(|(buffer, gate)| buffer.writable(gate.bytes)).collect();
            self.run_into(&ordered, &mut outputs)
        };
        self.given = given;
        ran?;
        let outputs = self.plan.outputs.iter().zip(&self.given);
        Ok(outputs.map(|(port, given)| literal(port, given.give())).collect())
    }

    /// Runs the plan once, allocating nothing (but a list of more than 32 of them): inputs and outputs in the order of the signature, outputs as the bytes of
    /// global tensors. A single device reads inputs and writes outputs where they are.
    pub fn run_into(
        &mut self,
        inputs: &[TensorView<'_>],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), ExecutorError> {
        let counts =
            [("input", self.inputs.len(), inputs.len()), ("output", self.outputs.len(), outputs.len())];
        for (what, wanted, given) in counts {
            if wanted != given {
                return Err(ExecutorError::Count { what, wanted, given });
            }
        }
        for (at, output) in outputs.iter().enumerate() {
            check_bytes(&self.plan.outputs[at], self.outputs[at].bytes, output.len())?;
        }
        for (at, value) in inputs.iter().enumerate() {
            check_type(&self.plan.inputs[at], value)?;
        }
        if self.crew.devices() == 1 {
            let whole = |gate: &Gate| gate.pieces[0].is_whole().then(|| gate.pieces[0].place());
            let inputs =
                self.inputs.iter().zip(inputs).filter_map(|(gate, value)| {
                    Some(Lent::Input { offset: whole(gate)?, bytes: value.bytes })
                });
            let outputs = self
                .outputs
                .iter()
                .zip(outputs)
                .filter_map(|(gate, output)| Some(Lent::Output { offset: whole(gate)?, bytes: output }));
            let mut lent: SmallVec<[Lent<'_>; 32]> = inputs.chain(outputs).collect();
            return self.execute_with(&mut lent);
        }
        for (gate, value) in self.inputs.iter().zip(inputs) {
            self.write(gate, value.bytes)?;
        }
        self.execute()?;
        for (at, output) in outputs.iter_mut().enumerate() {
            self.output_into(at, output)?;
        }
        Ok(())
    }

    /// Writes an input, given by its position in the signature. It stays until it is written again, or the plan is run with
    /// other inputs.
    pub fn set_input(&mut self, at: usize, value: TensorView<'_>) -> Result<(), ExecutorError> {
        check_type(&self.plan.inputs[at], &value)?;
        self.write(&self.inputs[at], value.bytes)
    }

    /// Runs the plan on the inputs that were written last.
    pub fn execute(&mut self) -> Result<(), ExecutorError> {
        self.execute_with(&mut [])
    }

    fn execute_with(&mut self, lent: &mut [Lent<'_>]) -> Result<(), ExecutorError> {
        self.crew.run(self.trace.as_ref().map(|(epoch, ..)| *epoch), lent)?;
        if let Some((_, calls, trace)) = &mut self.trace {
            for rank in 0..self.crew.devices() {
                trace.record(&self.plan, rank, *calls, &self.crew.station(rank).times);
            }
            *calls += 1;
        }
        Ok(())
    }

    /// An output of the last [`execute`](Self::execute), by its position in the signature.
    pub fn output(&self, at: usize) -> Result<Literal, ExecutorError> {
        let mut bytes = vec![0; self.outputs[at].bytes];
        self.read(&self.outputs[at], &mut bytes)?;
        Ok(literal(&self.plan.outputs[at], bytes))
    }

    /// Reads an output of the last [`execute`](Self::execute) into a buffer of its size.
    pub fn output_into(&self, at: usize, bytes: &mut [u8]) -> Result<(), ExecutorError> {
        check_bytes(&self.plan.outputs[at], self.outputs[at].bytes, bytes.len())?;
        self.read(&self.outputs[at], bytes)
    }

    /// Begins to record what every step of every call takes.
    pub fn start_trace(&mut self) {
        let trace = Trace { plan: self.plan.name.clone(), events: Vec::new() };
        self.trace = Some((Instant::now(), 0, trace));
    }

    /// Ends recording; nothing when it had not begun.
    pub fn take_trace(&mut self) -> Option<Trace> {
        self.trace.take().map(|(_, _, trace)| trace)
    }

    fn find(&self, name: &str) -> Result<(usize, &Port), ExecutorError> {
        let found = self.kept().enumerate().find(|(_, port)| port.name == name);
        found.ok_or_else(|| unknown("parameter or state", name, self.kept()))
    }

    fn write(&self, gate: &Gate, bytes: &[u8]) -> Result<(), ExecutorError> {
        for (rank, piece) in gate.pieces.iter().enumerate() {
            piece.write(&mut *self.crew.station(rank).program, bytes)?;
        }
        Ok(())
    }

    fn read(&self, gate: &Gate, bytes: &mut [u8]) -> Result<(), ExecutorError> {
        for (rank, piece) in gate.pieces.iter().enumerate().filter(|(_, piece)| piece.first) {
            piece.read(&*self.crew.station(rank).program, bytes)?;
        }
        Ok(())
    }
}

/// Copies one piece between programs, a part that stays in cache at a time, or lets both share it.
fn copy_piece(
    source: &dyn LoadedProgram,
    sink: &mut dyn LoadedProgram,
    from: &Piece,
    to: &Piece,
) -> Result<(), ExecutorError> {
    if let Some(shared) = source.shared(from.place(), from.bytes()) {
        sink.write_shared(to.place(), &shared)?;
        return Ok(());
    }
    const PART: usize = 128 << 10;
    let mut part = vec![0; PART.min(from.bytes())];
    for start in (0..from.bytes()).step_by(PART) {
        let part = &mut part[..PART.min(from.bytes() - start)];
        source.read(from.place() + start, part)?;
        sink.write(to.place() + start, part)?;
    }
    Ok(())
}

fn literal(port: &Port, bytes: impl Into<Bytes>) -> Literal {
    Literal::from_bytes(port.dtype, &port.shape, bytes).expect("a gate has the bytes of its port")
}

fn check_type(port: &Port, value: &TensorView<'_>) -> Result<(), ExecutorError> {
    if (value.dtype, value.shape) != (port.dtype, &port.shape[..]) {
        return Err(type_error(port, value.dtype, value.shape));
    }
    check_bytes(port, port.shape.iter().product::<usize>() * port.dtype.size_bytes(), value.bytes.len())
}

fn type_error(port: &Port, found_dtype: DType, found_shape: &[usize]) -> ExecutorError {
    ExecutorError::Type {
        name: port.name.clone(),
        dtype: port.dtype,
        shape: port.shape.clone(),
        found_dtype,
        found_shape: found_shape.to_vec(),
    }
}

fn check_bytes(port: &Port, expected: usize, found: usize) -> Result<(), ExecutorError> {
    match expected == found {
        true => Ok(()),
        false => Err(ExecutorError::Bytes { name: port.name.clone(), expected, found }),
    }
}

fn unknown<'a>(what: &'static str, name: &str, ports: impl Iterator<Item = &'a Port>) -> ExecutorError {
    ExecutorError::Unknown {
        what,
        name: name.to_string(),
        known: ports.map(|port| port.name.clone()).collect(),
    }
}
