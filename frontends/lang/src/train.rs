//! `train` blocks: the graph of one training step, the graph of an evaluation, and what is to be done with them.

use crate::check::frame::{Frame, VarKind};
use crate::check::value::{Callable, Tensor, Value};
use crate::check::{Checked, Elaborator, Reported};
use crate::modules::closest;
use crate::program::{Pin, Program, Settings};
use crate::syntax::ast::{Expr, ExprKind, Ident, Train};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use thalweg_base::{DType, Diagnostic, Span};
use thalweg_tensor::ops::{Leaf, LeafKind};
use thalweg_tensor::{Graph, TensorType, gradients};

/// A static value that a reader of data is given.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StaticValue {
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// Text.
    Str(String),
    /// A list.
    List(Vec<StaticValue>),
}

/// One column of data as the graphs take it: an input of this name.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Column {
    /// `x`, `y` or whatever the program calls it.
    pub name: String,
    /// Its type for one batch; the first dim counts the rows of the batch.
    pub ty: TensorType,
}

/// Where training data comes from.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DataSpec {
    /// The reader: `csv`, `idx`, `npy`, `text` or `synthetic`.
    pub reader: String,
    /// What it is given, by name; the file of `csv` and `text`, and the folder of `npy`, is called
    /// `path`.
    pub options: BTreeMap<String, StaticValue>,
    /// The columns that the program uses.
    pub columns: Vec<Column>,
}

/// A training: graphs and settings.
///
/// The step's inputs are the columns of data and, if they are needed, the scalars `step: i32` (from 0) and
/// `total_steps: i32`. Its outputs are `loss` and the metrics, its updates all parameters and states. The evaluation takes
/// the same columns, gives the same outputs, and changes nothing.
#[derive(Clone, Debug)]
pub struct TrainProgram {
    /// The model that is trained.
    pub model: String,
    /// Where data comes from.
    pub data: DataSpec,
    /// One step: forward in training mode, loss, gradients, optimizer.
    pub step: Graph,
    /// Forward in evaluation mode with loss and metrics.
    pub evaluation: Graph,
    /// The names of the metrics, in order; each is an output of both graphs.
    pub metrics: Vec<String>,
    /// Rows of one batch.
    pub batch: usize,
    /// Passes over the data.
    pub epochs: usize,
    /// Steps after which training ends, if fewer than the epochs have.
    pub steps: Option<usize>,
    /// The seed of initial values, of the order of data and of random numbers.
    pub seed: u64,
    /// Wishes for the planner.
    pub pins: Vec<Pin>,
}

/// A reader of data: its name, and what it is given; `!` marks what it cannot do without.
struct Reader {
    name: &'static str,
    options: &'static [&'static str],
}

const READERS: [Reader; 5] = [
    Reader { name: "csv", options: &["path!", "target!", "scale", "holdout", "separator", "shuffle"] },
    Reader {
        name: "idx",
        options: &["images!", "labels!", "test_images", "test_labels", "scale", "holdout", "shuffle"],
    },
    Reader { name: "npy", options: &["path!", "holdout", "shuffle"] },
    Reader { name: "text", options: &["path!", "window!", "holdout", "shuffle"] },
    Reader { name: "synthetic", options: &["rows!", "classes", "holdout", "shuffle"] },
];

/// The fields that mean something; all others are names for the fields after them.
const FIELDS: [&str; 10] =
    ["data", "loss", "metrics", "optimizer", "gradients", "freeze", "batch", "epochs", "steps", "seed"];

/// What the fields of a `train` block evaluate to.
#[derive(Default)]
struct Fields {
    data: Option<(String, BTreeMap<String, StaticValue>)>,
    loss: Option<(Tensor, Span)>,
    metrics: Vec<(String, Tensor)>,
    optimizer: Option<(Callable, Span)>,
    gradients: Option<(Callable, Span)>,
    freeze: Vec<(String, Span)>,
    batch: Option<usize>,
    epochs: Option<usize>,
    steps: Option<usize>,
    seed: u64,
}

impl Program {
    /// The graphs and settings of the `train` block for a model. All diagnostics of one run are given together.
    pub fn elaborate_train(&self, name: &str, settings: &Settings) -> Result<TrainProgram, Vec<Diagnostic>> {
        let trains = &self.modules.get(self.main).trains;
        let Some(train) = trains.iter().find(|train| &*train.model.name == name).cloned() else {
            let mut error = Diagnostic::error("E0507", format!("there is no `train {name}` block"));
            if let Some(close) = closest(name, trains.iter().map(|train| &*train.model.name)) {
                error = error.help(format!("did you mean `{close}`?"));
            }
            return Err(vec![error]);
        };
        self.trained(&train, settings, &mut BTreeSet::new())
    }

    pub(crate) fn trained(
        &self,
        train: &Arc<Train>,
        settings: &Settings,
        reached: &mut BTreeSet<Span>,
    ) -> Result<TrainProgram, Vec<Diagnostic>> {
        let name = &train.model.name;
        self.on_large_stack(|| {
            let mut elab = Elaborator::new(self, settings, &format!("{name}.train"), true);
            let result = elab.train(train);
            let unused = elab.unused_settings();
            elab.errors.extend(unused);
            reached.append(&mut elab.reached);
            let fields = match result {
                Ok(fields) if elab.errors.is_empty() => fields,
                Ok(_) | Err(Reported) => return Err(elab.errors),
            };
            let mut evaluation = Elaborator::new(self, settings, &format!("{name}.evaluate"), false);
            match evaluation.evaluation(train) {
                Ok(()) if evaluation.errors.is_empty() => {}
                Ok(()) | Err(Reported) => return Err(evaluation.errors),
            }
            Ok(assemble(name, elab, evaluation, fields))
        })
    }
}

fn assemble(
    name: &str,
    mut elab: Elaborator<'_>,
    mut evaluation: Elaborator<'_>,
    fields: Fields,
) -> TrainProgram {
    let (reader, options) = fields.data.expect("a train block without data was refused");
    let columns = elab
        .data
        .iter()
        .map(|(name, tensor)| Column { name: name.to_string(), ty: tensor.ty.clone() })
        .collect();
    TrainProgram {
        model: name.into(),
        data: DataSpec { reader, options, columns },
        step: elab.levels.swap_remove(0).graph.prune().0,
        evaluation: evaluation.levels.swap_remove(0).graph.prune().0,
        metrics: fields.metrics.into_iter().map(|(name, _)| name).collect(),
        batch: fields.batch.expect("a train block without a batch was refused"),
        epochs: fields.epochs.unwrap_or(1),
        steps: fields.steps,
        seed: fields.seed,
        pins: elab.pins,
    }
}

impl Elaborator<'_> {
    fn evaluation(&mut self, train: &Arc<Train>) -> Checked<()> {
        let fields = self.fields(train)?;
        self.train_outputs(&fields);
        Ok(())
    }

    fn train(&mut self, train: &Arc<Train>) -> Checked<Fields> {
        let fields = self.fields(train)?;
        self.train_outputs(&fields);
        let mut frame = Frame::new(self.program.main, "train", None);
        frame.train = true;
        self.frames.push(frame);
        let updated = self.optimize(&fields);
        self.frames.pop();
        updated?;
        for (name, tensor) in std::mem::take(&mut self.updates) {
            let node = self.import(&tensor, 0);
            self.levels[0].graph.update(name, node);
        }
        Ok(fields)
    }

    fn train_outputs(&mut self, fields: &Fields) {
        let loss = fields.loss.iter().map(|(loss, _)| ("loss", loss));
        let outputs: Vec<(&str, &Tensor)> =
            loss.chain(fields.metrics.iter().map(|(name, value)| (&**name, value))).collect();
        for (name, tensor) in outputs {
            let node = self.import(tensor, 0);
            self.levels[0].graph.output(name, node);
        }
    }

    /// Evaluates the fields in order; each is a name for those after it.
    fn fields(&mut self, train: &Arc<Train>) -> Checked<Fields> {
        let mut frame = Frame::new(self.program.main, "train", None);
        frame.train = true;
        self.frames.push(frame);
        let mut fields = Fields::default();
        // The seed is needed by whatever comes before it too.
        if let Some((_, expr)) = train.fields.iter().find(|(name, _)| &*name.name == "seed") {
            fields.seed = self.whole_field("seed", expr, 0).unwrap_or(0) as u64;
            self.seed = fields.seed;
        } else if let Some(seed) = self.whole_setting("seed", 0, train.span).unwrap_or_default() {
            (fields.seed, self.seed) = (seed as u64, seed as u64);
        }
        let mut failed = false;
        let mut seen: Vec<Ident> = Vec::new();
        for (name, expr) in &train.fields {
            if let Some(first) = seen.iter().find(|own| own.name == name.name) {
                let error = Diagnostic::error("E0103", format!("the field `{}` is given twice", name.name))
                    .at(name.span, "the second time")
                    .label(first.span, "the first time");
                self.fail(error);
                failed = true;
            }
            seen.push(name.clone());
            self.span = Some(expr.span);
            failed |= self.train_field(name, expr, &mut fields).is_err();
        }
        let given = |field: &str| train.fields.iter().any(|(name, _)| &*name.name == field);
        for (name, slot) in
            [("batch", &mut fields.batch), ("epochs", &mut fields.epochs), ("steps", &mut fields.steps)]
        {
            if !given(name) {
                match self.whole_setting(name, 1, train.span) {
                    Ok(value) => *slot = value,
                    Err(Reported) => failed = true,
                }
            }
        }
        failed |= self.required(train, &fields).is_err();
        self.frames.pop();
        if failed { Err(Reported) } else { Ok(fields) }
    }

    fn required(&mut self, train: &Train, fields: &Fields) -> Checked<()> {
        let given = |field: &str| train.fields.iter().any(|(name, _)| &*name.name == field);
        let setting = self.settings.contains_key("batch");
        let missing: Vec<&str> = ["data", "loss", "optimizer", "batch"]
            .into_iter()
            .filter(|field| !given(field) && (*field != "batch" || !setting))
            .collect();
        if !missing.is_empty() {
            let list: Vec<String> = missing.iter().map(|field| format!("`{field}`")).collect();
            let mut error =
                Diagnostic::error("E0501", format!("`train {}` needs {}", train.model.name, list.join(", ")))
                    .at(train.span, "not given");
            for field in &missing {
                let own =
                    train.fields.iter().map(|(name, _)| &*name.name).filter(|name| !FIELDS.contains(name));
                if let Some(close) =
                    own.into_iter().find(|own| closest(own, std::iter::once(*field)).is_some())
                {
                    error = error.help(format!("did you mean `{field}` by `{close}`?"));
                }
            }
            return Err(self.fail(error));
        }
        let batch = fields.batch.map(|batch| batch as i64);
        for (name, tensor) in self.data.clone() {
            let rows = tensor.ty.shape.first().map(|rows| rows.as_constant());
            let fits = match rows {
                Some(Some(rows)) => Some(rows) == batch,
                Some(None) => true,
                None => false,
            };
            if !fits {
                let message = format!(
                    "the data column `{name}` is {}, whose first dim does not count rows of a batch",
                    tensor.ty
                );
                return self.error("E0504", message, train.span, "in this training");
            }
        }
        Ok(())
    }

    fn train_field(&mut self, name: &Ident, expr: &Expr, fields: &mut Fields) -> Checked<()> {
        match &*name.name {
            "data" => {
                fields.data = Some(self.data_field(expr)?);
                self.declare(name, Value::Data, VarKind::Fixed);
            }
            "batch" => fields.batch = Some(self.whole_field("batch", expr, 1)?),
            "epochs" => fields.epochs = Some(self.whole_field("epochs", expr, 1)?),
            "steps" => fields.steps = Some(self.whole_field("steps", expr, 1)?),
            "seed" => {}
            "freeze" => match self.eval(expr)? {
                Value::List(values) => {
                    for value in values.iter() {
                        let Value::Str(name) = value else {
                            return self.error(
                                "E0303",
                                "`freeze` lists names of parameters",
                                expr.span,
                                "not all are strings",
                            );
                        };
                        fields.freeze.push((name.to_string(), expr.span));
                    }
                }
                other => {
                    let label = format!("this is {}", other.describe());
                    return self.error("E0303", "`freeze` lists names of parameters", expr.span, label);
                }
            },
            "optimizer" => fields.optimizer = Some((self.function_field(name, expr)?, expr.span)),
            "gradients" => fields.gradients = Some((self.function_field(name, expr)?, expr.span)),
            "loss" => {
                let loss = self.scalar_field("the loss", expr)?;
                self.declare(name, Value::Tensor(loss.clone()), VarKind::Fixed);
                fields.loss = Some((loss, expr.span));
            }
            "metrics" => match &expr.kind {
                ExprKind::Record(metrics) => {
                    for (name, expr) in metrics {
                        let value = self.scalar_field(&format!("the metric `{}`", name.name), expr)?;
                        fields.metrics.push((name.name.to_string(), value));
                    }
                }
                _ => {
                    let message = "`metrics` is a record: `{ accuracy: nn.accuracy(logits, data.y) }`";
                    return self.error("E0303", message, expr.span, "not a record");
                }
            },
            _ => {
                let value = self.eval(expr);
                let value = value.inspect_err(|_| self.declare(name, Value::Poison, VarKind::Fixed))?;
                self.declare(name, value, VarKind::Fixed);
            }
        }
        Ok(())
    }

    /// The value that a setting gives to a field that the block does not have.
    fn whole_setting(&mut self, name: &str, least: i64, span: Span) -> Checked<Option<usize>> {
        let Some(text) = self.settings.get(name).cloned() else { return Ok(None) };
        self.used_settings.insert(name.to_string());
        let value = self.adapt_setting(name, text, &Value::int(0), span)?.as_int();
        match value.filter(|value| *value >= least).and_then(|value| usize::try_from(value).ok()) {
            Some(value) => Ok(Some(value)),
            None => self.error("E0303", format!("`{name}` is at least {least}"), span, "of this training"),
        }
    }

    fn whole_field(&mut self, name: &str, expr: &Expr, least: i64) -> Checked<usize> {
        let value = match self.settings.get(name).cloned() {
            Some(text) => {
                self.used_settings.insert(name.to_string());
                self.adapt_setting(name, text, &Value::int(0), expr.span)?.as_int()
            }
            None => Some(self.eval_int(expr)?),
        };
        match value.filter(|value| *value >= least).and_then(|value| usize::try_from(value).ok()) {
            Some(value) => Ok(value),
            None => self.error("E0303", format!("`{name}` is at least {least}"), expr.span, "too small"),
        }
    }

    fn scalar_field(&mut self, what: &str, expr: &Expr) -> Checked<Tensor> {
        match self.eval(expr)? {
            Value::Tensor(tensor) if tensor.rank() == 0 && tensor.ty.dtype.is_float() => Ok(tensor),
            other => {
                let mut error = Diagnostic::error("E0502", format!("{what} must be a floating-point scalar"))
                    .at(expr.span, format!("this is {}", other.describe()));
                if let Value::Tensor(tensor) = &other
                    && tensor.rank() > 0
                {
                    error = error.help("`mean(…)` or `sum(…)` makes a scalar of it");
                }
                Err(self.fail(error))
            }
        }
    }

    fn function_field(&mut self, name: &Ident, expr: &Expr) -> Checked<Callable> {
        match self.eval(expr)? {
            Value::Function(callable) => Ok(callable),
            other => {
                let message = format!(
                    "`{}` is a function such as `optim.adamw(lr: 1e-3)`, not {}",
                    name.name,
                    other.describe()
                );
                self.error("E0303", message, expr.span, format!("this is {}", other.describe()))
            }
        }
    }

    fn data_field(&mut self, expr: &Expr) -> Checked<(String, BTreeMap<String, StaticValue>)> {
        let names = READERS.map(|reader| reader.name);
        let call = match &expr.kind {
            ExprKind::Call(callee, args) => match &callee.kind {
                ExprKind::Name(name) => Some((name, args)),
                _ => None,
            },
            _ => None,
        };
        let Some((name, args)) = call else {
            let message = format!("`data` is given by a reader: {}", names.join(", "));
            return self.error(
                "E0503",
                message,
                expr.span,
                "such as `csv(\"digits.csv\", target: \"digit\")`",
            );
        };
        let Some(reader) = READERS.iter().find(|reader| *reader.name == *name.name) else {
            let mut error = Diagnostic::error("E0503", format!("there is no reader `{}`", name.name))
                .at(name.span, format!("readers are {}", names.join(", ")));
            if let Some(close) = closest(&name.name, names.into_iter()) {
                error = error.help(format!("did you mean `{close}`?"));
            }
            return Err(self.fail(error));
        };
        let known: Vec<&str> = reader.options.iter().map(|option| option.trim_end_matches('!')).collect();
        let mut options = BTreeMap::new();
        for arg in args {
            let option = match &arg.name {
                Some(name) if known.contains(&&*name.name) => name.name.to_string(),
                None if !options.contains_key(known[0]) => known[0].to_string(),
                name => {
                    let span = name.as_ref().map_or(arg.value.span, |name| name.span);
                    let mut error =
                        Diagnostic::error("E0503", format!("`{}` takes no such argument", reader.name))
                            .at(span, format!("its arguments are {}", known.join(", ")));
                    if let Some(close) =
                        name.as_ref().and_then(|name| closest(&name.name, known.iter().copied()))
                    {
                        error = error.help(format!("did you mean `{close}`?"));
                    }
                    return Err(self.fail(error));
                }
            };
            let value = self.eval(&arg.value)?;
            let Some(value) = static_value(&value) else {
                let message =
                    format!("`{option}` is a number, a string or a list of these, not {}", value.describe());
                return self.error("E0503", message, arg.value.span, "not a static value");
            };
            options.insert(option, value);
        }
        let needed = reader.options.iter().filter_map(|option| option.strip_suffix('!'));
        let missing: Vec<&str> = needed.filter(|option| !options.contains_key(*option)).collect();
        if !missing.is_empty() {
            let message = format!("`{}` needs `{}`", reader.name, missing.join("` and `"));
            return self.error("E0503", message, expr.span, "not given");
        }
        Ok((reader.name.to_string(), options))
    }

    /// Adds gradients of the loss and the optimizer's new values of all parameters.
    fn optimize(&mut self, fields: &Fields) -> Checked<()> {
        let (loss, loss_span) = fields.loss.clone().expect("a train block without loss was refused");
        let (optimizer, span) =
            fields.optimizer.clone().expect("a train block without optimizer was refused");
        let frozen = |name: &str| {
            fields.freeze.iter().any(|(prefix, _)| {
                name == prefix || name.strip_prefix(&**prefix).is_some_and(|rest| rest.starts_with('.'))
            })
        };
        let parameters: Vec<(String, Tensor)> = self.levels[0]
            .graph
            .leaves(LeafKind::Parameter)
            .map(|(_, leaf)| leaf.name.to_string())
            .filter(|name| !frozen(name))
            .map(|name| (name.clone(), self.declared[&name].tensor.clone()))
            .collect();
        for (prefix, at) in &fields.freeze {
            if !self.declared.keys().any(|name| name == prefix || name.starts_with(&format!("{prefix}."))) {
                let error = Diagnostic::error("E0506", format!("no parameter is called `{prefix}`"))
                    .at(*at, "asked to stay as it is");
                return Err(self.fail(error));
            }
        }
        let node = self.import(&loss, 0);
        let wrt: Vec<_> = parameters.iter().map(|(_, tensor)| tensor.node).collect();
        let grads = match gradients(&mut self.levels[0].graph, node, &wrt) {
            Ok(grads) => grads,
            Err(error) => {
                let at = error.span.unwrap_or(loss_span);
                let diagnostic = Diagnostic::error(
                    "E0505",
                    format!("`{}` cannot be differentiated: {}", error.op, error.reason),
                )
                .at(at, "needed by the gradient of the loss")
                .label(loss_span, "the loss");
                return Err(self.fail(diagnostic));
            }
        };
        let mut grads: Vec<Tensor> = grads
            .iter()
            .zip(&parameters)
            .map(|(node, (_, parameter))| Tensor { node: *node, ..parameter.clone() })
            .collect();
        if let Some((transform, at)) = &fields.gradients {
            grads = self.transform(transform, grads, *at)?;
        }
        self.span = Some(span);
        let step = self.step_input(span);
        let step = self.convert(&step, DType::F32, span)?;
        let ty = TensorType::scalar(DType::I32);
        let total = self.leaf(
            Leaf { kind: LeafKind::Input, name: "total_steps".into(), ty, init: None },
            vec![],
            span,
        );
        let total = self.convert(&total, DType::F32, span)?;
        for ((name, parameter), grad) in parameters.into_iter().zip(grads) {
            let parts = std::iter::once("optimizer").chain(name.split('.')).map(str::to_string).collect();
            let values = [parameter.clone(), grad, step.clone(), total.clone()].map(Value::Tensor).to_vec();
            let new = self.call_value(&optimizer, values, Some(parts), span)?;
            match new {
                Value::Tensor(new) if new.ty == parameter.ty => {
                    self.updates.insert(name, new);
                }
                other => {
                    let message =
                        format!("an optimizer gives the new value of a parameter, not {}", other.describe());
                    return self.error("E0503", message, span, format!("`{name}` is {}", parameter.ty));
                }
            }
        }
        Ok(())
    }

    fn transform(&mut self, transform: &Callable, grads: Vec<Tensor>, span: Span) -> Checked<Vec<Tensor>> {
        let list = Value::list(grads.iter().cloned().map(Value::Tensor));
        let result = self.call_value(transform, vec![list], None, span)?;
        if let Value::List(values) = &result
            && values.len() == grads.len()
        {
            let tensors: Option<Vec<Tensor>> = values
                .iter()
                .zip(&grads)
                .map(|(value, grad)| match value {
                    Value::Tensor(tensor) if tensor.ty == grad.ty => Some(tensor.clone()),
                    _ => None,
                })
                .collect();
            if let Some(tensors) = tensors {
                return Ok(tensors);
            }
        }
        let message = "what transforms gradients takes their list and gives one like it";
        self.error("E0503", message, span, format!("this gives {}", result.describe()))
    }
}

fn static_value(value: &Value) -> Option<StaticValue> {
    match value {
        Value::Bool(value) => Some(StaticValue::Bool(*value)),
        Value::Int(value) => value.as_constant().map(StaticValue::Int),
        Value::Float(value) => Some(StaticValue::Float(*value)),
        Value::Str(value) => Some(StaticValue::Str(value.to_string())),
        Value::List(values) => values.iter().map(static_value).collect::<Option<_>>().map(StaticValue::List),
        _ => None,
    }
}
