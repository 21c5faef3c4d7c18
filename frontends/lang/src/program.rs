//! Programs: what a user's file and the modules it uses amount to, and the graphs made from it.

use crate::check::call::tensor_parts;
use crate::check::call::{Given, is_tensor_type};
use crate::check::frame::Frame;
use crate::check::value::Value;
use crate::check::{Checked, Elaborator, Reported};
use crate::modules::{ModuleId, ModuleReader, Modules, closest};
use crate::syntax::ast::{Function, FunctionKind, Param, TypeKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use thalweg_base::{Diagnostic, SourceMap, Span};
use thalweg_tensor::{Graph, TensorType};

/// Values given from outside, by name: they replace constants of the user's files, static parameters of a model, settings of
/// a `train` block, and sizes that the model leaves open.
pub type Settings = BTreeMap<String, String>;

/// Stack for one elaboration: four times what the deepest program that the limits allow was seen to need. Pages that are
/// not touched cost nothing.
const STACK_BYTES: usize = 1 << 28;

/// A wish for the planner, from a `#hint(…)` in the source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pin {
    /// The scope of the call that it stands at, such as `block.0.up`.
    pub scope: String,
    /// What is wished: `shard`, `replicate`, `stage` or `recompute`.
    pub hint: String,
    /// Its arguments: a name if there is one, and a word or number.
    pub args: Vec<(Option<String>, String)>,
    /// Where it is written, the call included.
    pub span: Span,
}

/// A model as a graph. Inputs bear the names of the model's parameters; a single result is called `output`, those of a list
/// `output.0` and so on, those of a record by their fields.
#[derive(Clone, Debug)]
pub struct ModelGraph {
    /// The graph: inputs, parameters and states are its leaves, next values of states its updates.
    pub graph: Graph,
    /// Wishes for the planner.
    pub pins: Vec<Pin>,
    /// What the model's doc comment says.
    pub doc: String,
}

/// A parsed program: the user's file with all modules that it uses.
pub struct Program {
    pub(crate) sources: SourceMap,
    pub(crate) modules: Modules,
    pub(crate) main: ModuleId,
}

impl Program {
    /// Reads a program. `load` gives the text of a file that is used, by its path relative to the main file, such as
    /// `layers.tw`. The program holds what could be read; the diagnostics say what could not.
    pub fn load(name: &str, text: &str, load: &dyn Fn(&str) -> Option<String>) -> (Program, Vec<Diagnostic>) {
        let mut sources = SourceMap::default();
        let mut reader = ModuleReader {
            sources: &mut sources,
            modules: Modules::default(),
            errors: Vec::new(),
            load,
            reading: Vec::new(),
        };
        reader.standard();
        let main = reader.read("main", name, text, false);
        let (modules, errors) = (reader.modules, reader.errors);
        (Program { sources, modules, main }, errors)
    }

    /// Reads a program that is one file.
    pub fn parse(name: &str, text: &str) -> (Program, Vec<Diagnostic>) {
        Program::load(name, text, &|_| None)
    }

    /// The texts that spans of diagnostics and nodes point into.
    pub fn sources(&self) -> &SourceMap {
        &self.sources
    }

    /// The names of the models of the main file, in order.
    pub fn models(&self) -> Vec<String> {
        self.main_models().map(|function| function.name.name.to_string()).collect()
    }

    /// The names of the models that the main file has a `train` block for, in order.
    pub fn trains(&self) -> Vec<String> {
        self.modules.get(self.main).trains.iter().map(|train| train.model.name.to_string()).collect()
    }

    fn main_models(&self) -> impl Iterator<Item = &Arc<Function>> {
        let functions = &self.modules.get(self.main).functions;
        functions.iter().filter(|function| function.kind == FunctionKind::Model)
    }

    /// Checks every model and `train` block of the main file, and the names in what none of them uses. A model whose static
    /// parameters have no value is checked where it is used.
    pub fn check(&self, settings: &Settings) -> Vec<Diagnostic> {
        let mut errors: Vec<Diagnostic> = Vec::new();
        let mut reached = BTreeSet::new();
        // A setting that one model knows is none of another's business.
        let several = self.models().len() + self.trains().len() > 1;
        let mut add = |found: Vec<Diagnostic>| {
            for error in found {
                let same = |other: &Diagnostic| {
                    (other.code, &other.message, &other.primary)
                        == (error.code, &error.message, &error.primary)
                };
                let foreign = several && error.code == "E0506" && error.primary.is_none();
                if !foreign && !errors.iter().any(same) {
                    errors.push(error);
                }
            }
        };
        for function in self.main_models() {
            let open = |param: &Param| {
                param.default.is_none()
                    && !is_tensor_type(&param.ty)
                    && !settings.contains_key(&*param.name.name)
            };
            if !function.params.iter().any(open) {
                add(self.elaborated(function, settings, &mut reached).err().unwrap_or_default());
            }
        }
        for train in &self.modules.get(self.main).trains {
            add(self.trained(train, settings, &mut reached).err().unwrap_or_default());
        }
        for function in &self.modules.get(self.main).functions {
            if !reached.contains(&function.span) {
                add(self.sketch(function, &mut reached));
            }
        }
        errors
    }

    /// The graph of a model, as it is used: `training` is false in it. All diagnostics of one run are given together.
    pub fn elaborate_model(&self, name: &str, settings: &Settings) -> Result<ModelGraph, Vec<Diagnostic>> {
        let Some(function) = self.main_models().find(|function| &*function.name.name == name).cloned() else {
            return Err(vec![self.no_model(name)]);
        };
        self.elaborated(&function, settings, &mut BTreeSet::new())
    }

    fn elaborated(
        &self,
        function: &Arc<Function>,
        settings: &Settings,
        reached: &mut BTreeSet<Span>,
    ) -> Result<ModelGraph, Vec<Diagnostic>> {
        self.on_large_stack(|| {
            let mut elab = Elaborator::new(self, settings, &function.name.name, false);
            let result = elab.model(function, self.main);
            let unused = elab.unused_settings();
            elab.errors.extend(unused);
            reached.append(&mut elab.reached);
            match result {
                Ok(()) if elab.errors.is_empty() => {
                    let graph = elab.levels.swap_remove(0).graph.prune().0;
                    Ok(ModelGraph { graph, pins: elab.pins, doc: function.doc.clone() })
                }
                Ok(()) | Err(Reported) => Err(elab.errors),
            }
        })
    }

    /// Elaboration follows the nesting of the program on the stack.
    pub(crate) fn on_large_stack<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run);
            match thread.expect("a thread can be started").join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    pub(crate) fn no_model(&self, name: &str) -> Diagnostic {
        let models = self.models();
        let mut error = Diagnostic::error("E0507", format!("there is no model `{name}`"));
        if let Some(close) = closest(name, models.iter().map(String::as_str)) {
            error = error.help(format!("did you mean `{close}`?"));
        } else if !models.is_empty() {
            error = error.help(format!("the models of the file are {}", models.join(", ")));
        }
        error
    }
}

impl Elaborator<'_> {
    /// Elaborates a model by itself: an input leaf for each tensor of its signature.
    fn model(&mut self, function: &Arc<Function>, module: ModuleId) -> Checked<()> {
        let mut frame = Frame::new(module, function.name.name.to_string(), None);
        frame.owns = true;
        frame.symbolic = true;
        self.frames.push(frame);
        let result = self.model_inputs(function).and_then(|()| self.run_body(function, function.span));
        self.frames.pop();
        let value = result?;
        self.outputs(&value, "output", function.name.span)?;
        for (name, tensor) in std::mem::take(&mut self.updates) {
            let node = self.import(&tensor, 0);
            self.levels[0].graph.update(name, node);
        }
        Ok(())
    }

    fn model_inputs(&mut self, function: &Arc<Function>) -> Checked<()> {
        let statics = |param: &&Param| !is_tensor_type(&param.ty);
        let mut given = vec![None; function.params.len()];
        let mut failed = false;
        for (slot, param) in given.iter_mut().zip(&function.params).filter(|(_, param)| statics(param)) {
            match self.static_parameter(function, param) {
                Ok(value) => *slot = value,
                Err(Reported) => failed = true,
            }
        }
        if failed {
            return Err(Reported);
        }
        // Sizes may be named after static parameters, which are bound first.
        let (static_params, static_given): (Vec<Param>, Vec<Option<Given>>) = function
            .params
            .iter()
            .zip(given)
            .filter(|(param, _)| statics(param))
            .map(|(param, given)| (param.clone(), given))
            .unzip();
        self.enter(function, &static_params, static_given)?;
        for param in function.params.iter().filter(|param| !statics(param)) {
            failed |= self.model_input(param).is_err();
        }
        if failed { Err(Reported) } else { Ok(()) }
    }

    fn model_input(&mut self, param: &Param) -> Checked<()> {
        let Some((element, dims)) = tensor_parts(&param.ty) else {
            return self.error(
                "E0303",
                "an input of a model is a tensor or a static value",
                param.ty.span,
                "not one of these",
            );
        };
        let dtype = self.element_dtype(element, None)?;
        let (shape, infos) = self.shape_of(dims)?;
        let tensor = self.input(&param.name.name, TensorType { dtype, shape }, infos, param.name.span);
        self.declare(&param.name, Value::Tensor(tensor), crate::check::frame::VarKind::Fixed);
        Ok(())
    }

    /// The value that a setting gives to a static parameter of a model; none if the default holds.
    fn static_parameter(&mut self, function: &Function, param: &Param) -> Checked<Option<Given>> {
        let name = &param.name.name;
        let Some(text) = self.settings.get(&**name).cloned() else {
            if param.default.is_some() {
                return Ok(None);
            }
            let error = Diagnostic::error(
                "E0106",
                format!("the model `{}` needs a value for `{name}`", function.name.name),
            )
            .at(param.name.span, "has no default")
            .help(format!("give it with `--set {name}=…`"));
            return Err(self.fail(error));
        };
        self.used_settings.insert(name.to_string());
        let like = match &param.ty.kind {
            TypeKind::Name(ty) => match &*ty.name {
                "int" => Value::int(0),
                "float" => Value::Float(0.0),
                "bool" => Value::Bool(false),
                "str" => Value::Str("".into()),
                "dtype" => Value::DType(thalweg_base::DType::F32),
                _ => Value::Unit,
            },
            TypeKind::Tensor(..) | TypeKind::List(_) | TypeKind::Record(_) | TypeKind::Error => Value::Unit,
        };
        let value = self.adapt_setting(name, text, &like, param.name.span)?;
        Ok(Some(Given { value, span: param.name.span, variable: None }))
    }

    /// Names the tensors of a value as outputs.
    pub(crate) fn outputs(&mut self, value: &Value, name: &str, span: Span) -> Checked<()> {
        match value {
            Value::Tensor(tensor) => {
                let node = self.import(tensor, 0);
                self.levels[0].graph.output(name, node);
                Ok(())
            }
            Value::List(values) => {
                for (index, value) in values.iter().enumerate() {
                    self.outputs(value, &format!("{name}.{index}"), span)?;
                }
                Ok(())
            }
            Value::Record(fields) => {
                for (field, value) in fields.iter() {
                    let name = if name == "output" { field.to_string() } else { format!("{name}.{field}") };
                    self.outputs(value, &name, span)?;
                }
                Ok(())
            }
            other => {
                let error =
                    Diagnostic::error("E0206", format!("a model gives tensors, not {}", other.describe()))
                        .at(span, "the result of this model")
                        .help("declare the result's type: `-> f32[batch, 10]`");
                Err(self.fail(error))
            }
        }
    }

    pub(crate) fn unused_settings(&self) -> Vec<Diagnostic> {
        let main = self.program.modules.get(self.program.main);
        let mut known: Vec<String> = main.entries.keys().map(|name| name.to_string()).collect();
        known.extend(
            main.functions
                .iter()
                .flat_map(|function| &function.params)
                .map(|param| param.name.name.to_string()),
        );
        let consts = |name: &str| {
            self.program.modules.all.iter().any(|module| {
                !module.standard
                    && matches!(module.entries.get(name), Some((crate::modules::Entry::Const(_), _)))
            })
        };
        // A constant that this model does not need is still a constant of the program.
        let unused = self.settings.keys().filter(|name| !self.used_settings.contains(*name) && !consts(name));
        unused
            .map(|name| {
                let error =
                    Diagnostic::error("E0506", format!("nothing is called `{name}` that could be set"));
                match closest(name, known.iter().map(String::as_str)) {
                    Some(close) => error.help(format!("did you mean `{close}`?")),
                    None => error.help("constants of the file and static parameters of the model can be set"),
                }
            })
            .collect()
    }
}
