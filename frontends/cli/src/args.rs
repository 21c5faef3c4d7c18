//! The arguments of all commands.

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;
use thalweg::{CompileOptions, DType, Devices, PlanCache, Precision, Split, Stage};

const EXAMPLES: &str = "\
Examples:
  thalweg check net.tw                                all mistakes at once
  thalweg train examples/digits.tw                    train, and test on rows held out
  thalweg train net.tw --out run --devices cpu:4      keep weights, metrics and checkpoints in `run`
  thalweg train net.tw --out run --resume             go on where it was stopped
  thalweg run net.tw --weights run/weights.safetensors --input x=x.npy -o y.npy
  thalweg compile net.tw --set batch=4 -o net.plan && thalweg run net.plan --input x=x.npy
  thalweg dump net.tw --set batch=4 --stage kernel    what the compiler made of it
  thalweg view net.tw -o net.svg                      a picture of the graph
  thalweg run net.onnx --input x=x.npy                an ONNX model, as any other
  thalweg import net.onnx -o net.tw                   as a program, with its weights
  thalweg export net.tw -o net.onnx                   a model for other tools

Exit codes:
  0    done
  1    the program or model has mistakes; all are shown, with their places
  2    the command line cannot be understood
  3    it cannot be done: a file, the data, the devices or the memory
  130  interrupted (Ctrl-C); with --out, a checkpoint was written first";

/// Compiles, trains and runs models: in the .tw language, or of the ONNX format.
#[derive(Parser, Debug)]
#[command(name = "thalweg", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
#[command(max_term_width = 100, subcommand_required = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print for people, or as JSON.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// When to use colour; by itself on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
}

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object on standard output.
    Json,
}

/// When text is coloured.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What can be done.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Check a program and show what its models take and give
    #[command(after_help = "Example:\n  thalweg check net.tw --set width=256 --format json")]
    Check(CheckArgs),
    /// Run a model, or a plan, on arrays in .npy files
    #[command(
        after_help = "Examples:\n  thalweg run net.tw --weights w.safetensors --input x=x.npy -o y.npy\n  \
        thalweg run net.plan --input x=x.npy --format json\n  \
        thalweg run decode.tw --input token=t.npy --input at=5"
    )]
    Run(RunArgs),
    /// Train a model on data
    #[command(after_help = "Examples:\n  thalweg train examples/digits.tw\n  \
        thalweg train net.tw --out run --steps 1000 --set batch=128 --devices cpu:4\n  \
        thalweg train net.tw --out run --resume\n  thalweg train net.tw --format json | jq .accuracy")]
    Train(TrainArgs),
    /// Compile a model to a plan file, which `run` accepts
    #[command(after_help = "Example:\n  thalweg compile net.tw --set batch=4 -o net.plan")]
    Compile(CompileArgs),
    /// Show what the compiler makes of a model, stage by stage
    #[command(after_help = "Examples:\n  thalweg dump net.tw --stage tensor\n  \
        thalweg dump net.tw --stage code --set batch=4\n  thalweg dump net.tw --stage gradient")]
    Dump(DumpArgs),
    /// Measure how long a model takes
    #[command(after_help = "Examples:\n  thalweg bench net.tw --set batch=128\n  \
        thalweg bench net.tw --train --profile\n  thalweg bench net.tw --set batch=1 --format json")]
    Bench(BenchArgs),
    /// Show the devices of this machine
    #[command(after_help = "Example:\n  thalweg devices --measure")]
    Devices(DevicesArgs),
    /// Draw a model's graph as DOT or SVG
    #[command(
        after_help = "Examples:\n  thalweg view net.tw -o net.svg\n  thalweg view net.tw --train -o net.dot"
    )]
    View(ViewArgs),
    /// Write an ONNX model as a program, with its weights beside it
    #[command(
        after_help = "Examples:\n  thalweg import net.onnx\n  thalweg import net.onnx -o net.tw --trainable 'head.*'\n  \
        thalweg run net.tw --weights net.safetensors --input x=x.npy"
    )]
    Import(ImportArgs),
    /// Write a model with its weights as an ONNX file
    #[command(
        after_help = "Examples:\n  thalweg export net.tw --weights run/weights.safetensors -o net.onnx\n  \
        thalweg export examples/digits.tw -o digits.onnx"
    )]
    Export(ExportArgs),
    /// Plan how a training is spread over a cluster, which need not be there
    #[command(
        after_help = "A cluster is a file, or a name from the library: DEVICE, DEVICE:N or DEVICE:HOSTSxDEVICES, joined by `+` \
        where hosts are unlike, and @NETWORK for another network. Devices are v100-16gb, v100-32gb, p100, k80, a100-40gb, \
        a100-80gb, h100, h200, tpu-v4 and cpu-32-cores.\n\n\
        Examples:\n  thalweg plan examples/models/gpt.tw --cluster v100-16gb:1x8 --keep f16\n  \
        thalweg plan gpt.tw --cluster a100-80gb:128x8 --keep bf16 --set hidden=12288 --set layers=96 --set heads=96 -o plan.ron\n  \
        thalweg plan gpt.tw --cluster mine.ron --manual 'dp=8,tp=4,pp=2,microbatches=16,zero=1,recompute=full'"
    )]
    Plan(PlanArgs),
    /// Run a step of a training on paper, on a cluster that need not be there
    #[command(
        after_help = "Examples:\n  thalweg simulate examples/models/gpt.tw --cluster a100-80gb:4x8 --keep bf16 --trace t.json\n  \
        thalweg simulate gpt.tw --cluster mine.ron --plan plan.ron --mtbf-hours 50000\n  \
        thalweg simulate gpt.tw --cluster a100-80gb:1x8 --keep bf16 --sweep devices=8..4096 --csv curve.csv --svg curve.svg"
    )]
    Simulate(SimulateArgs),
    /// Show or clear the plans that are kept on disk
    #[command(
        after_help = "Compiled plans are kept so that the same model starts at once the next time. The folder is \
        $THALWEG_CACHE, or `thalweg` in the user's folder for caches; THALWEG_CACHE=off keeps none.\n\n\
        Examples:\n  thalweg cache\n  thalweg cache --clear"
    )]
    Cache(CacheArgs),
    /// Lay a program's text out in the one way that all have
    #[command(after_help = "Examples:\n  thalweg fmt net.tw\n  thalweg fmt --check *.tw")]
    Fmt(FmtArgs),
    /// Write a completion script for a shell
    #[command(after_help = "Example:\n  thalweg completions bash > /etc/bash_completion.d/thalweg")]
    Completions(CompletionsArgs),
}

/// A value for something that a program leaves open.
#[derive(Clone, Debug)]
pub struct Setting {
    name: String,
    value: String,
}

fn setting(text: &str) -> Result<Setting, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok(Setting { name: name.trim().to_string(), value: value.trim().to_string() })
        }
        Some(_) | None => Err("write NAME=VALUE, such as `batch=4`".into()),
    }
}

fn devices(text: &str) -> Result<Devices, String> {
    text.parse().map_err(|error: thalweg::Error| error.to_string())
}

fn split(text: &str) -> Result<Split, String> {
    text.parse().map_err(|error: thalweg::Error| error.to_string())
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "full" => Ok(Precision::Full),
        "bf16" => Ok(Precision::Bf16),
        _ => Err(format!("matrix products are of precision `full` or `bf16`, not `{text}`")),
    }
}

/// Values for what a file leaves open.
#[derive(Args, Clone, Debug)]
pub struct Sets {
    /// A value for a constant, a static parameter, a size, or a field of the training; may be given often
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<Setting>,
}

impl Sets {
    /// The values by name; of those given twice the last counts.
    pub fn settings(&self) -> thalweg::Settings {
        self.set.iter().map(|setting| (setting.name.clone(), setting.value.clone())).collect()
    }
}

/// What every command that compiles is told.
#[derive(Args, Clone, Debug)]
pub struct Build {
    /// Which model, in a file with several
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    pub set: Sets,
    /// Where to run: `cpu`, or `cpu:4` for four devices in this process
    #[arg(long, value_name = "DEVICES", default_value = "cpu", value_parser = devices)]
    pub devices: Devices,
    /// Threads of each device; by default they share the processor's
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// How several devices share the work: `data`, `tensor`, or `auto`
    #[arg(long, value_name = "HOW", default_value = "data", value_parser = split)]
    pub split: Split,
    /// What matrix products of f32 may do with their operands: `full`, or `bf16` to round them where that is faster
    #[arg(long, value_name = "HOW", default_value = "full", value_parser = precision)]
    pub precision: Precision,
    /// Leave the graph as it is written
    #[arg(long)]
    pub no_rewrite: bool,
    /// Verify the result of every pass of the compiler
    #[arg(long)]
    pub verify: bool,
}

/// What the commands are told that may take plans made before.
#[derive(Args, Clone, Debug)]
pub struct Caching {
    /// Compile anew instead of taking a plan that was made before
    #[arg(long)]
    pub no_cache: bool,
}

impl Caching {
    /// Where plans are kept. What is to be verified is made anew. Nothing fails for want of a cache; `thalweg cache` says why
    /// there is none.
    pub fn cache(&self, build: &Build) -> Option<PlanCache> {
        match self.no_cache || build.verify {
            true => None,
            false => crate::commands::cache::folder().and_then(|folder| PlanCache::open(folder).ok()),
        }
    }
}

impl Build {
    /// The settings by name.
    pub fn settings(&self) -> thalweg::Settings {
        self.set.settings()
    }

    /// The devices with the threads asked for.
    pub fn devices(&self) -> Devices {
        self.threads.map_or(self.devices, |threads| self.devices.with_threads(threads))
    }

    /// As the library takes them, without a cache.
    pub fn options(&self, seed: u64) -> CompileOptions {
        CompileOptions {
            model: self.model.clone(),
            settings: self.settings(),
            devices: self.devices(),
            split: self.split,
            seed,
            precision: self.precision,
            no_rewrite: self.no_rewrite,
            verify: self.verify,
            cache: None,
        }
    }
}

/// `check`
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The program
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    #[command(flatten)]
    pub set: Sets,
}

/// An input and where its value comes from.
#[derive(Clone, Debug)]
pub struct Input {
    /// The name of the input.
    pub name: String,
    /// A `.npy` file, or a number.
    pub value: String,
}

fn input(text: &str) -> Result<Input, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok(Input { name: name.to_string(), value: value.to_string() })
        }
        Some(_) | None => Err("write NAME=FILE.npy, such as `x=x.npy`".into()),
    }
}

/// `run`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The program, or a plan that `compile` made
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Parameters and states, as `train` writes them; without, parameters have their first values
    #[arg(long, value_name = "FILE.safetensors", value_hint = ValueHint::FilePath)]
    pub weights: Option<PathBuf>,
    /// An input: a .npy file, or a number for a scalar; may be given often
    #[arg(long = "input", value_name = "NAME=FILE.npy", value_parser = input)]
    pub inputs: Vec<Input>,
    /// The seed of first values
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Write the output to this file; of several outputs, each to FILE with its name before the ending
    #[arg(short, long, value_name = "FILE.npy", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Write what each step took to this file, which chrome://tracing and ui.perfetto.dev show
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub trace: Option<PathBuf>,
    #[command(flatten)]
    pub build: Build,
    #[command(flatten)]
    pub caching: Caching,
}

/// `train`
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// The program
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Stop after so many steps; schedules still run over all steps of the program (see `--set steps=N`)
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// The seed of first values, of the order of the data and of random numbers
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Keep weights.safetensors, metrics.jsonl and checkpoints in this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Go on from the latest checkpoint in the folder of --out
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// Steps between checkpoints; by default one epoch, and at most a minute
    #[arg(long, value_name = "N", requires = "out", value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_every: Option<u64>,
    /// Begin with these parameters
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "resume", value_hint = ValueHint::FilePath)]
    pub weights: Option<PathBuf>,
    /// Write what each step took to this file, which chrome://tracing and ui.perfetto.dev show; of the first steps
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub trace: Option<PathBuf>,
    #[command(flatten)]
    pub build: Build,
    #[command(flatten)]
    pub caching: Caching,
}

/// `compile`
#[derive(Args, Debug)]
pub struct CompileArgs {
    /// The program
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// The plan file to write; by default the program's name with the ending .plan
    #[arg(short, long, value_name = "FILE.plan", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub build: Build,
}

fn stage(text: &str) -> Result<DumpStage, String> {
    match text {
        "gradient" => Ok(DumpStage::Gradient),
        _ => text.parse().map(DumpStage::Of).map_err(|_| {
            "stages are tensor, gradient, rewritten, partitioned, kernel, code and plan".to_string()
        }),
    }
}

/// What `dump` shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DumpStage {
    /// The step of the training, as differentiated.
    Gradient,
    /// A stage of the compiler.
    Of(Stage),
}

/// `dump`
#[derive(Args, Debug)]
pub struct DumpArgs {
    /// The program
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// tensor, gradient, rewritten, partitioned, kernel, code or plan
    #[arg(long, value_name = "STAGE", value_parser = stage)]
    pub stage: DumpStage,
    /// Show the training step instead of the model; `gradient` always does
    #[arg(long)]
    pub train: bool,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub build: Build,
}

/// `bench`
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// The program
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Measure steps of the training instead of calls of the model
    #[arg(long)]
    pub train: bool,
    /// Runs to measure, at least
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: u64,
    /// Seconds to measure, at least
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    pub seconds: f64,
    /// Runs before measuring
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub warm_up: u64,
    /// Tell how long each step of the plan takes, beside the least that measured rates of this machine allow
    #[arg(long)]
    pub profile: bool,
    /// Write what each step took to this file, which chrome://tracing and ui.perfetto.dev show
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub trace: Option<PathBuf>,
    /// Parameters and states
    #[arg(long, value_name = "FILE.safetensors", value_hint = ValueHint::FilePath)]
    pub weights: Option<PathBuf>,
    /// An input instead of random numbers: a .npy file, or a number for a scalar; may be given often
    #[arg(long = "input", value_name = "NAME=FILE.npy", value_parser = input)]
    pub inputs: Vec<Input>,
    /// Random integers of inputs are below this
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub integers: u64,
    /// The seed of first values and of inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub build: Build,
}

/// `devices`
#[derive(Args, Debug)]
pub struct DevicesArgs {
    /// Measure rates instead of estimating them; takes about a tenth of a second
    #[arg(long)]
    pub measure: bool,
    /// Which devices
    #[arg(long, value_name = "DEVICES", default_value = "cpu", value_parser = devices)]
    pub devices: Devices,
}

/// `view`
#[derive(Args, Debug)]
pub struct ViewArgs {
    /// The program
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// The picture to write; its ending, .svg or .dot, says which kind
    #[arg(short, long, value_name = "FILE.svg|FILE.dot", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Draw the training step instead of the model
    #[arg(long)]
    pub train: bool,
    /// Which model, in a file with several
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    pub set: Sets,
}

/// `import`
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// The ONNX model
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// The program to write; by default the model's name with the ending .tw. The weights go beside it, with the ending
    /// .safetensors
    #[arg(short, long, value_name = "FILE.tw", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Parameters that a training may change, by name, with `*` for any text; all others are kept as they are. May be given
    /// often; without, all are trained
    #[arg(long, value_name = "PATTERN")]
    pub trainable: Vec<String>,
    #[command(flatten)]
    pub set: Sets,
}

/// `export`
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// The program
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// The file to write; by default the program's name with the ending .onnx
    #[arg(short, long, value_name = "FILE.onnx", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Parameters and states, as `train` writes them; without, parameters have their first values
    #[arg(long, value_name = "FILE.safetensors", value_hint = ValueHint::FilePath)]
    pub weights: Option<PathBuf>,
    /// The seed of first values
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Which model, in a file with several
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    pub set: Sets,
}

fn keep(text: &str) -> Result<DType, String> {
    match text {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(format!("values are kept as f32, f16 or bf16, not `{text}`")),
    }
}

/// What is planned, and for what.
#[derive(Args, Debug)]
pub struct Subject {
    /// The program, which has a `train` block
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// The cluster: a file, or a short form such as `a100-80gb:4x8`
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: String,
    /// Which training, in a file with several, by its model
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    pub set: Sets,
    /// What values of f32 are kept and multiplied as: `f32`, or `f16` or `bf16` with a copy of each parameter in f32
    #[arg(long, value_name = "DTYPE", default_value = "f32", value_parser = keep)]
    pub keep: DType,
}

/// `plan`
#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    pub subject: Subject,
    /// Cost this plan instead of searching: `dp=8,tp=4,pp=2,microbatches=16,zero=1,recompute=full,schedule=1f1b`
    #[arg(long, value_name = "PLAN")]
    pub manual: Option<String>,
    /// Write the plan to this file
    #[arg(short, long, value_name = "FILE.ron", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// `simulate`
#[derive(Args, Debug)]
pub struct SimulateArgs {
    #[command(flatten)]
    pub subject: Subject,
    /// Run this plan, which `plan -o` wrote, instead of searching for one
    #[arg(long, value_name = "FILE.ron", value_hint = ValueHint::FilePath, conflicts_with_all = ["manual", "sweep"])]
    pub plan: Option<PathBuf>,
    /// Run this plan: `dp=8,tp=4,pp=2,microbatches=16,zero=1,recompute=full,schedule=1f1b`
    #[arg(long, value_name = "PLAN", conflicts_with = "sweep")]
    pub manual: Option<String>,
    /// Plan and run for several sizes of the cluster: `devices=8..4096` doubles from 8 on
    #[arg(long, value_name = "SIZES", conflicts_with_all = ["trace", "mtbf_hours"])]
    pub sweep: Option<String>,
    /// Write the sweep to this file as comma-separated values
    #[arg(long, value_name = "FILE.csv", requires = "sweep", value_hint = ValueHint::FilePath)]
    pub csv: Option<PathBuf>,
    /// Write the sweep to this file as a picture
    #[arg(long, value_name = "FILE.svg", requires = "sweep", value_hint = ValueHint::FilePath)]
    pub svg: Option<PathBuf>,
    /// Write what the first replica does to this file, which chrome://tracing and ui.perfetto.dev show
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub trace: Option<PathBuf>,
    /// How much the times of replicas on different hosts differ, as a share of them
    #[arg(long, value_name = "SHARE", default_value_t = thalweg::planning::JITTER, value_parser = share)]
    pub jitter: f64,
    /// The seed of these differences and of failures
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Mean time between failures of one device, in hours; tells what share of the time goes forward
    #[arg(long, value_name = "HOURS", value_parser = positive)]
    pub mtbf_hours: Option<f64>,
    /// Seconds that a checkpoint stops the training
    #[arg(long, value_name = "S", default_value_t = 60.0, requires = "mtbf_hours", value_parser = positive)]
    pub checkpoint_s: f64,
    /// Seconds between checkpoints; by default the best
    #[arg(long, value_name = "S", requires = "mtbf_hours", value_parser = positive)]
    pub checkpoint_every: Option<f64>,
    /// Seconds from a failure until the training goes on
    #[arg(long, value_name = "S", default_value_t = 300.0, requires = "mtbf_hours", value_parser = positive)]
    pub restart_s: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("a positive number, not `{text}`"))
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..0.3).contains(number));
    number.ok_or_else(|| format!("a share from 0 to 0.3, not `{text}`"))
}

/// `fmt`
#[derive(Args, Debug)]
pub struct FmtArgs {
    /// The programs
    #[arg(required = true, value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Change nothing; fail when a file is laid out otherwise
    #[arg(long)]
    pub check: bool,
}

/// `completions`
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `cache`
#[derive(Args, Debug)]
pub struct CacheArgs {
    /// Remove all plans
    #[arg(long)]
    pub clear: bool,
}
