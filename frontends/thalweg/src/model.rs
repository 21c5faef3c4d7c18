//! Models: a file that has been read, what it needs and gives, and the ways from it to something that runs.

use crate::cache::{self, PlanCache};
use crate::devices::{Devices, Split};
use crate::error::{Diagnostics, Error, Result};
use crate::onnx::OnnxModel;
use crate::session::Session;
use crate::signature::Signature;
use crate::trainer::{TrainOptions, Trainer};
use crate::weights::Weights;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_base::Bindings;
use thalweg_driver::{Options, Report, Stage};
use thalweg_lang::{ModelGraph, Program, Settings, TrainProgram, WrittenProgram};
use thalweg_plan::{Plan, Precision};
use thalweg_tensor::Graph;
use thalweg_tensor::ops::{Leaf, LeafKind};

/// How a model is compiled and begun.
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    /// Which model of the file; may be absent when the file has just one.
    pub model: Option<String>,
    /// Values for constants, static parameters and sizes, by name.
    pub settings: Settings,
    /// Where to run.
    pub devices: Devices,
    /// How work is split over several devices.
    pub split: Split,
    /// The seed of first values of parameters.
    pub seed: u64,
    /// What may be done to operands of `f32` in matrix products: full precision unless told otherwise.
    pub precision: Precision,
    /// Whether the graph is left as it is written, without the rewriting that makes it faster.
    pub no_rewrite: bool,
    /// Whether every pass of the compiler is verified, which takes time. Always so in debug builds.
    pub verify: bool,
    /// Where plans are kept between programs; every plan is made anew when absent.
    pub cache: Option<PlanCache>,
}

impl CompileOptions {
    pub(crate) fn driver(&self) -> Options {
        let mut options = Options::for_device(self.devices.describe());
        options.mesh = self.devices.mesh(self.split);
        options.strategy = self.split.strategy();
        if self.no_rewrite {
            options.rewrite = None;
        }
        options.precision = self.precision;
        options.verify |= self.verify;
        options
    }
}

/// A program with its models and `train` blocks, or a model of the ONNX format.
///
/// ```
/// use thalweg::{CompileOptions, Model};
/// let model = Model::from_source("double.tw", "model Double(x: f32[n]) -> f32[n] { x + x }")?;
/// let session = model.compile(&CompileOptions::default())?;
/// let outputs = session.run(&[("x", ndarray::array![1f32, 2., 3.].into())])?;
/// assert_eq!(outputs.array::<f32>("output")?, ndarray::array![2f32, 4., 6.].into_dyn());
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone)]
pub struct Model {
    content: Content,
    folder: PathBuf,
}

/// What a file holds.
#[derive(Clone)]
enum Content {
    Program(Arc<Program>),
    Onnx(Arc<OnnxModel>),
}

impl Model {
    /// Reads a program from a text; `name` is what messages call it. It may use no other files; those of data are looked for
    /// in the working directory. Fails with all mistakes of syntax.
    pub fn from_source(name: &str, text: &str) -> Result<Model> {
        Model::read(name, text, PathBuf::from("."), &|_| None)
    }

    /// Reads a program from a file, with the files that it uses, or a model of the ONNX format, when the name ends in `.onnx`.
    /// Fails when the file cannot be read, and with all mistakes of syntax.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        let folder = path.parent().map_or(PathBuf::new(), Path::to_path_buf);
        if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx")) {
            return Ok(Model { content: Content::Onnx(Arc::new(OnnxModel::from_file(path)?)), folder });
        }
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::file(path, "this is not UTF-8 text"))?;
        let load = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        Model::read(&path.to_string_lossy(), &text, folder.clone(), &load)
    }

    fn read(name: &str, text: &str, folder: PathBuf, load: &dyn Fn(&str) -> Option<String>) -> Result<Model> {
        let (program, errors) = Program::load(name, text, load);
        match errors.is_empty() {
            true => Ok(Model { content: Content::Program(Arc::new(program)), folder }),
            false => Err(Error::Program(Diagnostics::new(errors, program.sources()))),
        }
    }

    /// Checks every model and `train` block: dtypes, shapes, names, all at once; of an ONNX model, whether all of it can be
    /// imported.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        match &self.content {
            Content::Onnx(model) => model.check(settings),
            Content::Program(program) => match program.check(settings) {
                found if found.is_empty() => Ok(()),
                found => Err(diagnostics(program, found)),
            },
        }
    }

    /// The names of the models, in the order of the file.
    pub fn models(&self) -> Vec<String> {
        match &self.content {
            Content::Onnx(model) => vec![model.name().to_string()],
            Content::Program(program) => program.models(),
        }
    }

    /// The names of the models that there is a `train` block for, in the order of the file.
    pub fn trains(&self) -> Vec<String> {
        match &self.content {
            Content::Onnx(_) => vec![],
            Content::Program(program) => program.trains(),
        }
    }

    /// What a model takes, keeps and gives. Sizes that are open are symbols.
    pub fn signature(&self, options: &CompileOptions) -> Result<Signature> {
        match &self.content {
            Content::Onnx(model) => Ok(model.described(&options.settings)?.signature),
            Content::Program(_) => {
                let name = self.model_name(options.model.as_deref())?;
                let model = self.graph(options)?;
                Ok(Signature::of_graph(&model.graph, &name, &model.doc))
            }
        }
    }

    /// The graph of a model, before anything is done to it. Fails for an ONNX model that is no single graph, because shapes
    /// depend on values that only a call gives.
    pub fn graph(&self, options: &CompileOptions) -> Result<ModelGraph> {
        match &self.content {
            Content::Onnx(model) => {
                let graph = model.import(&options.settings)?.graph;
                Ok(ModelGraph { graph, pins: vec![], doc: String::new() })
            }
            Content::Program(program) => {
                let name = self.model_name(options.model.as_deref())?;
                let found = program.elaborate_model(&name, &options.settings);
                found.map_err(|found| diagnostics(program, found))
            }
        }
    }

    /// The values that the file has for parameters and states. Those of a program have first values by their initializers.
    pub fn weights(&self, settings: &Settings) -> Result<Weights> {
        match &self.content {
            Content::Onnx(model) => Ok(model.import(settings)?.weights),
            Content::Program(_) => Ok(Weights::new()),
        }
    }

    /// A model as a program of the language, with the values of its parameters and states under their names in it. Of an ONNX
    /// model, these are its weights; of a program, only constants too large to be written out.
    ///
    /// Parameters whose names match one of `trainable`, where `*` is any text, stay parameters; all others become states, which
    /// no training changes. No pattern leaves all as they are. Fails for a pattern that matches none.
    pub fn write_program(
        &self,
        options: &CompileOptions,
        trainable: &[String],
    ) -> Result<(WrittenProgram, Weights)> {
        let mut model = self.graph(options)?;
        freeze(&mut model.graph, trainable)?;
        let name = match options.model.as_deref() {
            Some(name) => name.to_string(),
            None => identifier(&self.models()[0]),
        };
        let written = thalweg_lang::write_program(&model.graph, &name)?;
        let mut weights = written.constants.clone();
        for (name, value) in self.weights(&options.settings)? {
            if let Some(own) = written.names.get(&name) {
                weights.insert(own.clone(), value);
            }
        }
        Ok((written, weights))
    }

    /// The graphs of a `train` block, before anything is done to them. `name` may be absent when the file has just one.
    pub fn train_program(&self, name: Option<&str>, settings: &Settings) -> Result<TrainProgram> {
        match &self.content {
            Content::Onnx(_) => Err(Error::Option(
                "an ONNX model has no `train` block; `thalweg import` writes it as a program, to which one can be added".into(),
            )),
            Content::Program(program) => {
                let name = one_of(&self.trains(), name, "`train` block")?;
                program.elaborate_train(&name, settings).map_err(|found| diagnostics(program, found))
            }
        }
    }

    /// Makes a model ready to run. A plan is made at the first call for each set of sizes, and kept.
    pub fn compile(&self, options: &CompileOptions) -> Result<Session> {
        match &self.content {
            Content::Onnx(model) => Session::of_onnx(model, options),
            Content::Program(_) => {
                let name = self.model_name(options.model.as_deref())?;
                let model = self.graph(options)?;
                let signature = Signature::of_graph(&model.graph, &name, &model.doc);
                Ok(Session::of_graph(model.graph, signature, options))
            }
        }
    }

    /// Makes a training ready: reads the data, compiles the step, gives parameters their first values.
    pub fn trainer(&self, options: &TrainOptions) -> Result<Trainer> {
        Trainer::new(self, options)
    }

    /// A plan for a model whose sizes all have values, and how it was made.
    pub fn plan(&self, options: &CompileOptions) -> Result<(Plan, Report)> {
        let model = self.graph(options)?;
        Ok(cache::compile(&model.graph, &Bindings::new(), &options.driver(), options.cache.as_ref())?)
    }

    /// The text of a graph at a stage of compilation. `bindings` are values of its symbols, needed by all stages but the first.
    pub fn dump(
        graph: &Graph,
        bindings: &Bindings,
        options: &CompileOptions,
        stage: Stage,
    ) -> Result<String> {
        Ok(thalweg_driver::dump(graph, bindings, &options.driver(), stage)?)
    }

    /// A place in a source, as `file:line:column`. Only programs have places.
    pub fn location(&self, span: thalweg_base::Span) -> String {
        match &self.content {
            Content::Onnx(_) => String::new(),
            Content::Program(program) => program.sources().location(span),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn model_name(&self, name: Option<&str>) -> Result<String> {
        one_of(&self.models(), name, "model")
    }
}

/// Makes states of the parameters that no pattern matches.
fn freeze(graph: &mut Graph, trainable: &[String]) -> Result<()> {
    let parameters: Vec<(thalweg_tensor::NodeId, Leaf)> =
        graph.leaves(LeafKind::Parameter).map(|(id, leaf)| (id, leaf.clone())).collect();
    for pattern in trainable {
        if !parameters.iter().any(|(_, leaf)| matches(pattern, &leaf.name)) {
            let names: Vec<&str> = parameters.iter().take(5).map(|(_, leaf)| &*leaf.name).collect();
            let hint = Some(format!("parameters are called {}", names.join(", ")));
            return Err(Error::Unknown { what: "parameter that matches", name: pattern.clone(), hint });
        }
    }
    for (id, leaf) in parameters {
        if !trainable.is_empty() && !trainable.iter().any(|pattern| matches(pattern, &leaf.name)) {
            graph.replace_op(id, Leaf { kind: LeafKind::State, ..leaf }.into());
        }
    }
    Ok(())
}

/// Whether a pattern, in which `*` is any text, matches a whole name.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A name that a model may have in the language: capitalized words of letters and digits.
fn identifier(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let capitalized = words.map(|word| word[..1].to_ascii_uppercase() + &word[1..]);
    let text: String = capitalized.collect();
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) { text } else { format!("Model{text}") }
}

fn diagnostics(program: &Program, list: Vec<thalweg_base::Diagnostic>) -> Error {
    Error::Program(Diagnostics::new(list, program.sources()))
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("models", &self.models()).field("trains", &self.trains()).finish()
    }
}

/// The name that is asked for, or the only one. A name that is not there is left to the checker, which knows similar ones.
fn one_of(names: &[String], name: Option<&str>, what: &str) -> Result<String> {
    match (name, names) {
        (Some(name), _) => Ok(name.to_string()),
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err(Error::Option(format!("the file has no {what}"))),
        (None, several) => Err(Error::Option(format!(
            "the file has more than one {what}; choose one of {}",
            several.join(", ")
        ))),
    }
}

/// A program's text in the language's one layout. Fails with all mistakes of syntax; `name` is what messages call it.
pub fn format(name: &str, text: &str) -> Result<String> {
    thalweg_lang::format_source(text).map_err(|found| {
        let mut sources = thalweg_base::SourceMap::default();
        sources.add(name, text);
        Error::Program(Diagnostics::new(found, &sources))
    })
}

#[cfg(test)]
mod tests {
    use super::{identifier, matches};

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "b.a.b", false),
            ("*.weight", "a.weight", true),
            ("*.weight", "a.weight.b", false),
            ("a.*.b.*", "a.x.b.y", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("aa*aa", "aaa", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn names_of_models() {
        assert_eq!(identifier("main_graph"), "MainGraph");
        assert_eq!(identifier("3d-net"), "Model3dNet");
        assert_eq!(identifier(""), "Model");
    }
}
