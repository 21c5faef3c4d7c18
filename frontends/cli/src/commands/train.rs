//! `train`: a training from its first step, or its latest checkpoint, to its last.

use crate::Ended;
use crate::args::TrainArgs;
use crate::output::{Output, bytes, memory, short};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thalweg::{Evaluation, Model, RunFolder, StepReport, Trace, TrainOptions, Trainer};

/// The longest time between checkpoints, so that a crash costs a minute at most.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// The longest time without a line, where there is no progress bar.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub fn run(args: &TrainArgs, output: &Output) -> Result<Ended> {
    let interrupted = on_interrupt()?;
    let started = Instant::now();
    let model = Model::from_file(&args.file)?;
    let mut trainer = model.trainer(&TrainOptions {
        model: args.build.model.clone(),
        settings: args.build.settings(),
        devices: args.build.devices(),
        split: args.build.split,
        seed: args.seed,
        steps: args.steps,
        precision: args.build.precision,
        no_rewrite: args.build.no_rewrite,
        verify: args.build.verify,
        cache: args.caching.cache(&args.build),
        weights: args.weights.clone(),
    })?;
    let mut folder = folder(args, &mut trainer, output)?;
    introduce(&trainer, args, output)?;
    let mut run = Run::new(args, &trainer, output);
    let ended = run.steps(&mut trainer, folder.as_mut(), &interrupted)?;
    run.bar.finish_and_clear();
    if let Some(path) = run.trace {
        super::profile::write(path, &run.traces, output)?;
    }
    if ended == Ended::Interrupted {
        match &folder {
            Some(folder) => output.note(format!(
                "interrupted after step {}; go on with `--out {} --resume`",
                trainer.steps_done(),
                folder.path().display()
            )),
            None => output.note(format!("interrupted after step {}", trainer.steps_done())),
        }
        return Ok(ended);
    }
    let weights = folder.as_mut().map(|folder| folder.finish(&trainer)).transpose()?;
    let evaluation = trainer.evaluate()?;
    conclude(&trainer, &run, &evaluation, weights, started.elapsed(), output)?;
    Ok(Ended::Done)
}

/// Set by Ctrl-C and by SIGTERM; a second one ends the process at once.
fn on_interrupt() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(crate::exit::INTERRUPTED));
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(flag)
}

fn folder(args: &TrainArgs, trainer: &mut Trainer, output: &Output) -> Result<Option<RunFolder>> {
    let Some(path) = &args.out else { return Ok(None) };
    if !args.resume {
        return Ok(Some(RunFolder::create(path)?));
    }
    let (folder, resumed) = RunFolder::resume(path, trainer)?;
    for damaged in &resumed.damaged {
        output.note(format!("not used: {damaged}"));
    }
    match resumed.step {
        0 => output.note(format!("no checkpoint in {}; beginning anew", path.display())),
        step => output.note(format!("going on after step {step}")),
    }
    Ok(Some(folder))
}

fn introduce(trainer: &Trainer, args: &TrainArgs, output: &Output) -> Result<()> {
    let (train, test) = trainer.rows();
    let plan = trainer.plan();
    let values: usize = plan.parameters.iter().map(|port| port.shape.iter().product::<usize>()).sum();
    output.progress(format!(
        "training {} on {}: {values} values, {train} rows in batches of {}, {test} to test on, {} steps, seed {}",
        trainer.model(),
        args.build.devices(),
        trainer.batch(),
        trainer.steps_total(),
        trainer.seed()
    ))?;
    let beside =
        trainer.memory_bytes().saturating_sub(plan.programs.iter().map(|program| program.arena_bytes).sum());
    let text = memory(plan.arena_bytes_max(), plan.devices());
    output.progress(match beside {
        0 => text,
        beside => format!("{text}; {} beside for packed operands", bytes(beside)),
    })
}

/// Steps that a trace has; more make files that viewers are slow with.
const TRACED_STEPS: usize = 10;

/// A training while it runs.
struct Run<'a> {
    output: &'a Output,
    trace: Option<&'a Path>,
    traces: Vec<Trace>,
    bar: ProgressBar,
    /// When, and after which step, measuring the speed began.
    since: (Instant, usize),
    last_line: Instant,
    last_checkpoint: Instant,
    checkpoint_every: usize,
    last: Option<StepReport>,
    epoch_loss: (f64, usize),
}

impl<'a> Run<'a> {
    fn new(args: &'a TrainArgs, trainer: &Trainer, output: &'a Output) -> Run<'a> {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(trainer.steps_total() as u64), target);
        let color = if output.color() { "bar:24.cyan/dim" } else { "bar:24" };
        let template = format!("{{{color}}} {{pos}}/{{len}} {{msg}}");
        let style = ProgressStyle::with_template(&template).expect("the template is well-formed");
        bar.set_style(style.progress_chars("━╸─"));
        bar.set_position(trainer.steps_done() as u64);
        let now = Instant::now();
        Run {
            output,
            trace: args.trace.as_deref(),
            traces: Vec::new(),
            bar,
            since: (now, trainer.steps_done()),
            last_line: now,
            last_checkpoint: now,
            checkpoint_every: args.checkpoint_every.map_or(trainer.steps_per_epoch(), |every| every as usize),
            last: None,
            epoch_loss: (0.0, 0),
        }
    }

    fn steps(
        &mut self,
        trainer: &mut Trainer,
        mut folder: Option<&mut RunFolder>,
        interrupted: &AtomicBool,
    ) -> Result<Ended> {
        let mut saved = trainer.steps_done();
        while !interrupted.load(Ordering::Relaxed) {
            let Some(report) = self.step(trainer)? else { return Ok(Ended::Done) };
            if let Some(folder) = folder.as_deref_mut() {
                folder.record(&report)?;
                let due = report.step % self.checkpoint_every == 0
                    || self.last_checkpoint.elapsed() >= CHECKPOINT_INTERVAL;
                if due {
                    folder.checkpoint(trainer)?;
                    self.last_checkpoint = Instant::now();
                    saved = report.step;
                }
            }
            self.show(trainer, report)?;
        }
        if let Some(folder) = folder.filter(|_| saved != trainer.steps_done()) {
            folder.checkpoint(trainer)?;
        }
        Ok(Ended::Interrupted)
    }

    /// One step, which is traced when it is one of the first and a trace is wanted.
    fn step(&mut self, trainer: &mut Trainer) -> Result<Option<StepReport>> {
        if self.trace.is_none() || self.traces.len() == TRACED_STEPS {
            return Ok(trainer.step()?);
        }
        let (report, trace) = trainer.step_traced()?;
        if report.is_some() {
            self.traces.push(trace);
        }
        Ok(report)
    }

    /// The bar after every step; a line after every epoch, and where there is no bar every few seconds.
    fn show(&mut self, trainer: &mut Trainer, report: StepReport) -> Result<()> {
        self.epoch_loss.0 += report.loss;
        self.epoch_loss.1 += 1;
        let metrics: String =
            report.metrics.iter().map(|(name, value)| format!("  {name} {value:.4}")).collect();
        if !self.bar.is_hidden() {
            self.bar.set_position(report.step as u64);
            let left = Duration::from_secs_f64(
                (trainer.steps_total() - report.step) as f64 * trainer.batch() as f64
                    / self.speed(trainer).max(1e-9),
            );
            let left = clock(left);
            let speed = short(self.speed(trainer));
            self.bar.set_message(format!("loss {:.4}{metrics}  {speed} items/s  {left} left", report.loss));
        }
        let (step, epoch) = (report.step, report.epoch);
        if step % trainer.steps_per_epoch() == 0 {
            let mean = self.epoch_loss.0 / self.epoch_loss.1 as f64;
            let start = Instant::now();
            let test = match trainer.rows().1 {
                0 => String::new(),
                _ => format!("  {}", summary(&trainer.evaluate()?)),
            };
            // The speed is that of training alone.
            self.since.0 += start.elapsed();
            let line = format!(
                "epoch {epoch}  step {step}  loss {mean:.4}{test}  {} items/s",
                short(self.speed(trainer))
            );
            self.line(line)?;
            self.epoch_loss = (0.0, 0);
        } else if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_INTERVAL {
            let speed = short(self.speed(trainer));
            self.line(format!(
                "epoch {epoch}  step {step}  loss {:.4}{metrics}  {speed} items/s",
                report.loss
            ))?;
        }
        self.last = Some(report);
        Ok(())
    }

    fn line(&mut self, text: String) -> Result<()> {
        self.last_line = Instant::now();
        self.bar.suspend(|| self.output.progress(text))
    }

    /// Rows of training in a second, so far.
    fn speed(&self, trainer: &Trainer) -> f64 {
        let rows = (trainer.steps_done() - self.since.1) * trainer.batch();
        rows as f64 / self.since.0.elapsed().as_secs_f64().max(1e-9)
    }
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

fn summary(evaluation: &Evaluation) -> String {
    let metrics: String =
        evaluation.metrics.iter().map(|(name, value)| format!("  {name} {value:.4}")).collect();
    format!("{}: loss {:.4}{metrics}", evaluation.split, evaluation.loss)
}

fn conclude(
    trainer: &Trainer,
    run: &Run<'_>,
    evaluation: &Evaluation,
    weights: Option<PathBuf>,
    time: Duration,
    output: &Output,
) -> Result<()> {
    let seconds = time.as_secs_f64();
    output.line(format!(
        "{} over {} rows, after {} steps in {seconds:.1} s",
        summary(evaluation),
        evaluation.rows,
        trainer.steps_done()
    ))?;
    if evaluation.rows_left_out > 0 {
        let (left, batch) = (evaluation.rows_left_out, trainer.batch());
        output.note(format!("{left} rows were left out: the model fixes batches of {batch}"));
    }
    match &weights {
        Some(path) => output.line(format!("weights -> {}", path.display()))?,
        None => output.line("the weights were not kept; --out DIR keeps them")?,
    }
    let mut object = serde_json::to_value(evaluation)?;
    let more = json!({
        "model": trainer.model(), "steps": trainer.steps_done(), "seed": trainer.seed(), "seconds": seconds,
        "items_per_s": run.speed(trainer), "train_loss": run.last.as_ref().map(|report| report.loss),
        "arena_bytes": trainer.plan().arena_bytes_max(), "devices": trainer.plan().devices(), "weights": weights,
    });
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        // Metrics keep their names, whatever these are.
        for (key, value) in more {
            object.entry(key).or_insert(value);
        }
    }
    output.object(&object)
}
