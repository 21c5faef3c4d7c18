//! Training, step by step.

use crate::cache::{self, PlanCache};
use crate::checkpoint::Position;
use crate::data::Dataset;
use crate::devices::{Devices, Split};
use crate::error::{Error, Result};
use crate::model::{CompileOptions, Model};
use crate::session::hand_over;
use crate::tensor::Tensor;
use crate::weights::{self, Expected, TensorFile, Weights};
use indexmap::IndexMap;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_base::{Bindings, DType, Dim, Scalar};
use thalweg_device::Device;
use thalweg_driver::Report;
use thalweg_executor::{Executor, TensorView, Trace};
use thalweg_lang::{Settings, TrainProgram};
use thalweg_plan::{Plan, Port, Precision};
use thalweg_tensor::Graph;

/// How a training is done.
#[derive(Clone, Debug, Default)]
pub struct TrainOptions {
    /// Which `train` block of the file, by its model; may be absent when the file has just one.
    pub model: Option<String>,
    /// Values for constants, static parameters, sizes and the fields `batch`, `epochs`, `steps` and `seed`, by name.
    pub settings: Settings,
    /// Where to train.
    pub devices: Devices,
    /// How work is split over several devices.
    pub split: Split,
    /// The seed of first values, of the order of the data and of random numbers, instead of the program's.
    pub seed: Option<u64>,
    /// Steps after which to stop. Schedules of the program still run over all steps that the program asks for, so that a
    /// training that is stopped and one that goes on see the same values; only when more are asked for they run over these.
    pub steps: Option<usize>,
    /// What may be done to operands of `f32` in matrix products, forwards and backwards: full precision unless told otherwise.
    pub precision: Precision,
    /// Whether graphs are left as they are written, without the rewriting that makes them faster.
    pub no_rewrite: bool,
    /// Whether every pass of the compiler is verified, which takes time. Always so in debug builds.
    pub verify: bool,
    /// Where plans are kept between programs; every plan is made anew when absent.
    pub cache: Option<PlanCache>,
    /// A safetensors file of parameters and states to begin with instead of first values, as [`Trainer::load_weights`] reads
    /// it; first values of what it has are then never made, which takes a while for large models.
    pub weights: Option<PathBuf>,
}

/// What a step of training gave.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StepReport {
    /// The number of the step, from 1.
    pub step: usize,
    /// The pass over the data that it belongs to, from 1.
    pub epoch: usize,
    /// The loss of its batch, before the parameters changed.
    pub loss: f64,
    /// The metrics of its batch, in the order of the program.
    #[serde(flatten)]
    pub metrics: IndexMap<String, f64>,
}

/// What an evaluation gave: means over all rows.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Evaluation {
    /// `test`, or `train` when the data has no test rows.
    pub split: &'static str,
    /// Rows that were evaluated.
    pub rows: usize,
    /// Rows that were left out because the model fixes the size of a batch and they do not fill one; otherwise 0.
    pub rows_left_out: usize,
    /// The loss.
    pub loss: f64,
    /// The metrics, in the order of the program.
    #[serde(flatten)]
    pub metrics: IndexMap<String, f64>,
}

/// A training that is under way.
///
/// Each epoch has its own order of the training rows, which depends on the seed and the epoch only. Rows that do not fill the
/// last batch of an epoch are not used in it. Losses and parameters are the same however often a training is stopped, saved
/// and resumed.
pub struct Trainer {
    program: TrainProgram,
    options: TrainOptions,
    seed: u64,
    data: Dataset,
    bindings: Bindings,
    devices: Vec<Arc<dyn Device>>,
    training: Executor,
    report: Report,
    /// Executors of the evaluation by rows of a batch.
    evaluations: BTreeMap<usize, Executor>,
    steps_done: usize,
    /// Steps of the schedule, and steps after which to stop.
    steps_scheduled: usize,
    steps_total: usize,
    order: (usize, Vec<usize>),
    bytes: Vec<u8>,
}

impl Trainer {
    pub(crate) fn new(model: &Model, options: &TrainOptions) -> Result<Trainer> {
        let mut settings = options.settings.clone();
        if let Some(seed) = options.seed {
            settings.insert("seed".into(), seed.to_string());
        }
        let program = model.train_program(options.model.as_deref(), &settings)?;
        let seed = program.seed;
        let data = Dataset::load(&program.data, model.folder(), seed)?;
        if data.train.len() < program.batch {
            let message = format!(
                "there are {} rows to train on, fewer than one batch of {}",
                data.train.len(),
                program.batch
            );
            return Err(Error::Data(message));
        }
        let per_epoch = data.train.len() / program.batch;
        let of_program = (program.epochs * per_epoch).min(program.steps.unwrap_or(usize::MAX));
        let steps_total = options.steps.unwrap_or(of_program);
        let steps_scheduled = of_program.max(steps_total);
        let mut bindings = data.bindings.clone();
        for column in &program.data.columns {
            let fits = crate::signature::bind_dims(&column.ty.shape[..1], &[program.batch], &mut bindings);
            if !fits {
                let message = format!(
                    "`data.{}` is {}, whose first dim is not the batch of {}",
                    column.name, column.ty, program.batch
                );
                return Err(Error::Data(message));
            }
        }
        let (plan, report) =
            cache::compile(&program.step, &bindings, &driver(options), options.cache.as_ref())?;
        let devices = options.devices.open(plan.devices());
        let mut training = Executor::on(Arc::new(plan), devices.clone(), None)?;
        let given = match &options.weights {
            Some(path) => read_weights(path, training.plan())?,
            None => Weights::new(),
        };
        training.initialize_but(seed, |name| given.contains_key(name))?;
        for (name, value) in &given {
            training.set(name, value)?;
        }
        Ok(Trainer {
            options: TrainOptions { settings, ..options.clone() },
            seed,
            order: (0, data.order(seed, 0)),
            data,
            bindings,
            devices,
            training,
            report,
            evaluations: BTreeMap::new(),
            steps_done: 0,
            steps_scheduled,
            steps_total,
            bytes: Vec::new(),
            program,
        })
    }

    /// Does one step. Nothing is done and nothing given when the training is over.
    ///
    /// Fails with [`Error::NotFinite`] when the loss is not finite; the parameters are then of no use.
    pub fn step(&mut self) -> Result<Option<StepReport>> {
        if self.finished() {
            return Ok(None);
        }
        let epoch = self.steps_done / self.steps_per_epoch();
        if self.order.0 != epoch {
            self.order = (epoch, self.data.order(self.seed, epoch));
        }
        let first = self.steps_done % self.steps_per_epoch() * self.program.batch;
        let rows = &self.order.1[first..first + self.program.batch];
        feed(&mut self.training, &self.data, rows, &mut self.bytes, self.steps_done, self.steps_scheduled)?;
        self.training.execute()?;
        let (loss, metrics) = results(&self.training, &self.program.metrics)?;
        self.steps_done += 1;
        match loss.is_finite() {
            true => Ok(Some(StepReport { step: self.steps_done, epoch: epoch + 1, loss, metrics })),
            false => Err(Error::NotFinite { step: self.steps_done, loss }),
        }
    }

    /// As [`step`](Self::step), and tells how long each step of the plan took.
    pub fn step_traced(&mut self) -> Result<(Option<StepReport>, Trace)> {
        self.training.start_trace();
        let report = self.step();
        let trace = self.training.take_trace().expect("recording has begun");
        Ok((report?, trace))
    }

    /// Loss and metrics over all test rows, each row counted once, a last batch that is not full included; over the training
    /// rows when there are no test rows. Changes nothing.
    pub fn evaluate(&mut self) -> Result<Evaluation> {
        let (split, rows) = match self.data.test.is_empty() {
            true => ("train", self.data.train.clone()),
            false => ("test", self.data.test.clone()),
        };
        let batch = self.program.batch;
        let fixed = self.program.data.columns.iter().any(|column| column.ty.shape[0].as_constant().is_some());
        let used = if fixed { rows.len() / batch * batch } else { rows.len() };
        let mut loss_sum = 0.0;
        let mut sums: IndexMap<String, f64> =
            self.program.metrics.iter().map(|metric| (metric.clone(), 0.0)).collect();
        let mut handed: Option<usize> = None;
        for rows in rows[..used].chunks(batch) {
            self.prepare_evaluation(rows.len())?;
            let executor = self.evaluations.get_mut(&rows.len()).expect("it was prepared");
            if handed != Some(rows.len()) {
                hand_over(&self.training, executor)?;
                handed = Some(rows.len());
            }
            feed(executor, &self.data, rows, &mut self.bytes, self.steps_done, self.steps_scheduled)?;
            executor.execute()?;
            let (loss, metrics) = results(executor, &self.program.metrics)?;
            loss_sum += loss * rows.len() as f64;
            for (name, value) in metrics {
                sums[&name] += value * rows.len() as f64;
            }
        }
        if used == 0 {
            let message = format!(
                "the model fixes batches of {batch}, and there are {} {split} rows; write `batch` as its first dim",
                rows.len()
            );
            return Err(Error::Data(message));
        }
        let mean = |sum: f64| sum / used as f64;
        Ok(Evaluation {
            split,
            rows: used,
            rows_left_out: rows.len() - used,
            loss: mean(loss_sum),
            metrics: sums.into_iter().map(|(name, sum)| (name, mean(sum))).collect(),
        })
    }

    fn prepare_evaluation(&mut self, rows: usize) -> Result<()> {
        if self.evaluations.contains_key(&rows) {
            return Ok(());
        }
        let mut bindings = self.bindings.clone();
        for column in &self.program.data.columns {
            if let Some(symbol) = column.ty.shape[0].as_symbol() {
                bindings.insert(symbol.clone(), Dim::constant(rows as i64));
            }
        }
        let (graph, options) = (&self.program.evaluation, driver(&self.options));
        let (plan, _) = cache::compile(graph, &bindings, &options, self.options.cache.as_ref())?;
        let executor = Executor::on(Arc::new(plan), self.devices.clone(), None)?;
        self.evaluations.insert(rows, executor);
        Ok(())
    }

    /// Whether all steps are done.
    pub fn finished(&self) -> bool {
        self.steps_done >= self.steps_total
    }

    /// The number of steps that are done.
    pub fn steps_done(&self) -> usize {
        self.steps_done
    }

    /// The number of steps after which the training is over.
    pub fn steps_total(&self) -> usize {
        self.steps_total
    }

    /// The number of steps of one pass over the training rows.
    pub fn steps_per_epoch(&self) -> usize {
        self.data.train.len() / self.program.batch
    }

    /// Rows of one batch.
    pub fn batch(&self) -> usize {
        self.program.batch
    }

    /// The numbers of rows to train and to test on.
    pub fn rows(&self) -> (usize, usize) {
        (self.data.train.len(), self.data.test.len())
    }

    /// The name of the model that is trained.
    pub fn model(&self) -> &str {
        &self.program.model
    }

    /// The names of the metrics, in the order of the program.
    pub fn metrics(&self) -> &[String] {
        &self.program.metrics
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The graph of one step, before anything was done to it.
    pub fn graph(&self) -> &Graph {
        &self.program.step
    }

    /// The plan of one step.
    pub fn plan(&self) -> &Arc<Plan> {
        self.training.plan()
    }

    /// How the plan of a step was made.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Bytes that the plan of a step has reserved, on all devices.
    pub fn memory_bytes(&self) -> usize {
        self.training.memory_bytes()
    }

    /// The present value of a parameter or state, such as `hidden.weight`.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        Ok(Tensor(self.training.get(name)?))
    }

    /// Writes the model's parameters and states to a safetensors file, whole or not at all. What belongs to the optimizer is
    /// left out.
    pub fn save_weights(&self, path: impl AsRef<Path>) -> Result<()> {
        use thalweg_tensor::ops::LeafKind::{Parameter, State};
        let evaluation = &self.program.evaluation;
        let used = |name: &str| [Parameter, State].iter().any(|kind| evaluation.leaf(*kind, name).is_some());
        let ports = &self.training.plan().parameters;
        let parameters = ports.iter().map(|port| port.name.clone());
        let states =
            self.training.plan().states.iter().map(|port| port.name.clone()).filter(|name| used(name));
        let tensors = parameters.chain(states).map(|name| Ok((name.clone(), self.training.get(&name)?)));
        let tensors = tensors.collect::<Result<Weights>>()?;
        weights::write(path, &TensorFile { tensors, metadata: BTreeMap::new() })
    }

    /// Begins with the parameters and states of a safetensors file instead of fresh ones. Every parameter must be there. Fails
    /// with a list of everything that does not fit, and then changes nothing.
    pub fn load_weights(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let tensors = read_weights(path.as_ref(), self.training.plan())?;
        self.take(&tensors)
    }

    fn take(&mut self, tensors: &Weights) -> Result<()> {
        for (name, value) in tensors {
            self.training.set(name, value)?;
        }
        Ok(())
    }

    /// Where the training is, and everything that the next steps depend on.
    pub(crate) fn snapshot(&self) -> Result<(Position, Weights)> {
        let names = self.training.kept().map(|port| port.name.clone());
        let tensors =
            names.map(|name| Ok((name.clone(), self.training.get(&name)?))).collect::<Result<_>>()?;
        Ok((self.position(), tensors))
    }

    fn position(&self) -> Position {
        Position {
            model: self.program.model.clone(),
            step: self.steps_done,
            seed: self.seed,
            batch: self.program.batch,
            rows: self.data.train.len(),
            steps_total: self.steps_scheduled,
            settings: self.options.settings.clone(),
        }
    }

    /// Goes to where another training of the same program was. What differs is listed.
    pub(crate) fn restore(&mut self, path: &Path, position: &Position, tensors: Weights) -> Result<()> {
        let problems = position.differences(&self.position());
        if !problems.is_empty() {
            return Err(Error::Checkpoint { path: path.to_path_buf(), problems });
        }
        check_weights(path, &tensors, self.training.plan(), true)?;
        self.take(&tensors)?;
        self.steps_done = position.step;
        Ok(())
    }
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let steps = format!("{} of {}", self.steps_done, self.steps_total);
        f.debug_struct("Trainer")
            .field("model", &self.program.model)
            .field("steps", &steps)
            .finish_non_exhaustive()
    }
}

/// The tensors of a file that has every parameter of the plan, and whatever states it has.
fn read_weights(path: &Path, plan: &Plan) -> Result<Weights> {
    let file = weights::read(path)?;
    check_weights(path, &file.tensors, plan, false)?;
    Ok(file.tensors)
}

/// Whether tensors of a file are those of the plan's parameters and, if they are required, of its states; fails with a list of
/// everything that does not fit.
fn check_weights(path: &Path, tensors: &Weights, plan: &Plan, states_required: bool) -> Result<()> {
    fn of(port: &Port, required: bool) -> Expected<'_> {
        let shape = port.shape.iter().copied().map(Some).collect();
        Expected { name: &port.name, dtype: port.dtype, shape, required }
    }
    let parameters = plan.parameters.iter().map(|port| of(port, true));
    let states = plan.states.iter().map(|port| of(port, states_required));
    let problems = weights::misfits(tensors, parameters.chain(states));
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::Weights { path: path.to_path_buf(), problems }),
    }
}

fn driver(options: &TrainOptions) -> thalweg_driver::Options {
    let options = CompileOptions {
        devices: options.devices,
        split: options.split,
        precision: options.precision,
        no_rewrite: options.no_rewrite,
        verify: options.verify,
        ..CompileOptions::default()
    };
    options.driver()
}

/// Writes the inputs of a graph: columns of these rows, and the counts that schedules depend on.
fn feed(
    executor: &mut Executor,
    data: &Dataset,
    rows: &[usize],
    bytes: &mut Vec<u8>,
    step: usize,
    total: usize,
) -> Result<()> {
    let plan = Arc::clone(executor.plan());
    for (at, port) in plan.inputs.iter().enumerate() {
        if let Some(table) = data.table(&port.name) {
            table.gather(rows, bytes);
            let shape = table.batch_shape(rows.len());
            executor.set_input(at, TensorView { dtype: table.dtype(), shape: &shape, bytes })?;
            continue;
        }
        let value = match port.name.as_str() {
            "step" => step,
            "total_steps" => total,
            name => return Err(Error::Data(format!("the reader gives no column `{name}`"))),
        };
        let literal = thalweg_base::Literal::scalar(DType::I32, Scalar::Int(value as i128));
        executor.set_input(at, TensorView::from(&literal))?;
    }
    Ok(())
}

/// The loss and the metrics of the last run.
fn results(executor: &Executor, metrics: &[String]) -> Result<(f64, IndexMap<String, f64>)> {
    let value = |name: &str| -> Result<f64> {
        let at = executor.plan().outputs.iter().position(|port| port.name == name);
        let literal = executor.output(at.expect("a training gives its loss and its metrics"))?;
        Ok(literal.get(0).to_f64())
    };
    let metrics = metrics.iter().map(|name| Ok((name.clone(), value(name)?))).collect::<Result<_>>()?;
    Ok((value("loss")?, metrics))
}
