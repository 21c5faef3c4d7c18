//! The walk over a model's nodes, in their order, which builds graphs of ours.
//!
//! Values are known as early as they can be: constants fold, shapes are computed with symbols. Where shapes or control depend
//! on values that only a run gives, the walk stops, hands out the graph so far as a stage, and goes on with the values that
//! the stage gave. So every model that can be run can be imported, and one without such places is a single graph.

use crate::builder::{Builder, Stop, scope_name};
use crate::call::{Attributes, Call};
use crate::control::LoopState;
use crate::element::Narrow;
use crate::error::{ImportError, NodeProblem, Problem};
use crate::file::Model;
use crate::fold;
use crate::inputs;
use crate::ops;
use crate::proto::NodeProto;
use crate::stage;
use crate::value::{Content, HostValue, Tensor, Value};
use std::collections::BTreeMap;
use std::rc::Rc;
use thalweg_base::{Bindings, Literal};
use thalweg_tensor::{Graph, NodeId};

/// How deep functions and bodies may be nested.
const DEPTH_MAX: usize = 64;

/// The most nodes of a model that are walked over, those of functions and of turns of loops counted each time, which only models
/// come near that never end.
const STEPS_MAX: usize = 1 << 19;

/// What is known of a call when a model is imported for it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ImportOptions {
    /// Sizes for symbols of the model's inputs.
    pub sizes: Bindings,
    /// Shapes of inputs, by name; they go before what the model says.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Values of inputs that are fixed, by name.
    pub values: BTreeMap<String, HostValue>,
}

/// A model as a graph.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The graph. Its inputs are those of the model that it uses, under their names.
    pub graph: Graph,
    /// The outputs of the model, in order.
    pub outputs: Vec<(String, OutputValue)>,
    /// The values of the graph's parameters and states, by name.
    pub weights: BTreeMap<String, Literal>,
}

/// Where an output of the model comes from.
#[derive(Clone, PartialEq, Debug)]
pub enum OutputValue {
    /// It is that output of the graph.
    Computed {
        /// The position among the graph's outputs.
        index: usize,
        /// The narrow type that its bytes are of.
        narrow: Option<Narrow>,
    },
    /// It does not depend on any input.
    Known(HostValue),
    /// A list.
    Sequence(Vec<OutputValue>),
    /// A value that may be missing.
    Optional(Option<Box<OutputValue>>),
}

/// What a walk came to.
#[derive(Debug)]
pub enum Step {
    /// The end.
    Done(Imported),
    /// A place that needs values of a run: the outputs of this graph go to [`Import::resume`].
    Stage(Stage),
    /// A place that needs the value of this input, which goes to [`Import::give`].
    Input(String),
}

/// A part of a model that runs before the rest is known.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The graph. Its inputs are those of the model or outputs of earlier stages, by name.
    pub graph: Graph,
    /// The values of the graph's parameters and states, by name.
    pub weights: BTreeMap<String, Literal>,
    /// The names that later stages know the graph's outputs by; absent for those that are not needed any more.
    pub names: Vec<String>,
}

/// A place in a list of nodes, with the names that are known there.
pub(crate) struct Frame<'m> {
    pub nodes: &'m [NodeProto],
    pub next: usize,
    pub outputs: Vec<&'m str>,
    pub scope: BTreeMap<&'m str, Value>,
    /// Whether names of the frame below are known too.
    pub sees_parent: bool,
    pub attributes: Rc<Attributes<'m>>,
    pub opsets: Rc<BTreeMap<&'m str, i64>>,
    pub end: End<'m>,
}

/// What happens at the end of a frame.
pub(crate) enum End<'m> {
    /// Its outputs are handed to who began it.
    Return,
    /// Its outputs are those of this node.
    Bind(&'m NodeProto),
    /// It is a turn of a loop.
    Turn(Box<LoopState<'m>>),
}

/// A walk over a model.
pub struct Import<'m> {
    pub(crate) model: &'m Model,
    pub(crate) builder: Builder,
    pub(crate) frames: Vec<Frame<'m>>,
    pub(crate) returned: Vec<Value>,
    /// Whether what is being built is only tried, so that problems go to who tries.
    pub(crate) trials: usize,
    pub(crate) stages: usize,
    steps: usize,
    /// Values of inputs that were asked for.
    given: BTreeMap<String, Literal>,
    problems: Vec<NodeProblem>,
}

impl<'m> Import<'m> {
    /// Begins at the model's inputs. Fails with all that is wrong with them.
    pub fn new(model: &'m Model, options: &ImportOptions) -> Result<Import<'m>, ImportError> {
        let mut problems = ops::unsupported(model);
        let mut builder = Builder::new(model.name());
        let scope = inputs::bind(model, options, &mut builder, &mut problems);
        if !problems.is_empty() {
            return Err(ImportError::Model(problems));
        }
        let graph = model.graph();
        let frame = Frame {
            nodes: &graph.node,
            next: 0,
            outputs: graph.output.iter().map(|output| output.name.as_str()).collect(),
            scope,
            sees_parent: false,
            attributes: Rc::default(),
            opsets: Rc::new(opsets(&model.proto.opset_import)),
            end: End::Return,
        };
        Ok(Import {
            model,
            builder,
            frames: vec![frame],
            returned: vec![],
            trials: 0,
            stages: 0,
            steps: 0,
            given: BTreeMap::new(),
            problems,
        })
    }

    /// Goes on to the end or to a place that needs values of a run. Fails with everything that cannot be imported.
    pub fn advance(&mut self) -> Result<Step, ImportError> {
        loop {
            match self.run(0) {
                Ok(()) if self.problems.is_empty() => {
                    let values = std::mem::take(&mut self.returned);
                    return Ok(Step::Done(self.finish(values)));
                }
                Err(Stop::Needs(tensor)) if self.problems.is_empty() => {
                    let Content::Node { level: 0, id } = tensor.content else {
                        unreachable!(
                            "known values are not needed, and bodies ask for what is outside of them"
                        )
                    };
                    // What comes from small inputs alone is computed here, once they are given.
                    let Some(inputs) = fold::small_inputs(self.builder.graph(), id) else {
                        return Ok(Step::Stage(stage::cut(self, id)));
                    };
                    match inputs.into_iter().find(|name| !self.given.contains_key(name)) {
                        Some(name) => return Ok(Step::Input(name)),
                        None => {
                            let value = fold::of_inputs(self.builder.graph(), id, &self.given);
                            self.replace(&BTreeMap::from([(id, Tensor::known(value))]));
                        }
                    }
                }
                Ok(()) | Err(Stop::Needs(_)) => {
                    return Err(ImportError::Model(std::mem::take(&mut self.problems)));
                }
                Err(Stop::Problem(problem)) => {
                    self.problems.push(NodeProblem::of_model(problem));
                    return Err(ImportError::Model(std::mem::take(&mut self.problems)));
                }
            }
        }
    }

    /// Gives the value of an input that [`Step::Input`] asked for.
    pub fn give(&mut self, name: &str, value: &Literal) {
        self.given.insert(name.to_string(), value.clone());
        let leaf = self.builder.graph().leaf(thalweg_tensor::ops::LeafKind::Input, name);
        if let Some(id) = leaf {
            self.replace(&BTreeMap::from([(id, Tensor::known(value.clone()))]));
        }
    }

    /// Gives the outputs of a stage, in order.
    pub fn resume(&mut self, stage: &Stage, outputs: &[Literal]) {
        stage::resume(self, stage, outputs);
    }

    /// Puts other tensors in the place of nodes of the model's graph.
    pub(crate) fn replace(&mut self, by: &BTreeMap<NodeId, Tensor>) {
        let mut visit = |tensor: &mut Tensor| {
            if let Content::Node { level: 0, id } = tensor.content
                && let Some(other) = by.get(&id)
            {
                *tensor = Tensor { narrow: tensor.narrow, ..other.clone() };
            }
        };
        for frame in &mut self.frames {
            frame.scope.values_mut().for_each(|value| value.tensors_mut(&mut visit));
            if let End::Turn(state) = &mut frame.end {
                state.values_mut().for_each(|value| value.tensors_mut(&mut visit));
            }
        }
    }

    /// Counts a node or a turn. Fails when there are more than a model can mean.
    pub(crate) fn count_step(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        match self.steps <= STEPS_MAX {
            true => Ok(()),
            false => Err(Stop::Problem(Problem::new(format!(
                "its loops and functions come to more than {STEPS_MAX} nodes when they are built one after the other"
            )))),
        }
    }

    /// Runs until no more than so many frames are left.
    pub(crate) fn run(&mut self, floor: usize) -> Result<(), Stop> {
        while self.frames.len() > floor {
            let frame = self.frames.last_mut().expect("there are more than the floor");
            let Some(node) = frame.nodes.get(frame.next) else {
                self.end_frame()?;
                continue;
            };
            self.count_step()?;
            // Bodies push frames above this one, which then goes on behind the node.
            let at = self.frames.len() - 1;
            self.frames[at].next += 1;
            match self.node(node) {
                Ok(()) => {}
                Err(Stop::Problem(problem)) if self.trials == 0 => {
                    let described = self.describe(node, problem);
                    self.problems.push(described);
                    self.bind(node, vec![Value::Poisoned; node.output.len()]);
                }
                Err(stop) => {
                    self.frames[at].next -= 1;
                    return Err(stop);
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &'m NodeProto) -> Result<(), Stop> {
        let inputs: Vec<Option<Value>> =
            node.input.iter().map(|name| self.operand(name)).collect::<Result<_, _>>()?;
        if inputs.iter().flatten().any(|value| matches!(value, Value::Poisoned)) {
            self.bind(node, vec![Value::Poisoned; node.output.len()]);
            return Ok(());
        }
        let frame = self.frames.last().expect("a node is in a frame");
        let opsets = frame.opsets.clone();
        let opset = opsets.get(ops::domain(&node.domain)).copied().unwrap_or(1);
        let outer = frame.attributes.clone();
        let name =
            if node.name.is_empty() { node.output.first().map_or("", String::as_str) } else { &node.name };
        if self.builder.depth() == 0 {
            self.builder.graph().current_scope = scope_name(name);
        }
        if let Some(function) = self.model.function(&node.domain, &node.op_type, &node.overload) {
            return self.enter_function(node, function, inputs, &outer);
        }
        if self.control(node, &inputs, opset, &outer)? {
            return Ok(());
        }
        let b = &mut self.builder;
        let call = Call { b, node, opset, inputs: &inputs, outer: &outer };
        if let Some(value) = ops::sizes_or_none(&call)? {
            self.bind(node, vec![value]);
            return Ok(());
        }
        let Some(entry) = ops::find(&node.domain, &node.op_type) else {
            return Err(Stop::Problem(ops::unknown(&node.domain, &node.op_type)));
        };
        let values = match entry.folds && inputs.iter().flatten().all(fold::is_constant) {
            true => self.folded(entry.lower, node, &inputs, opset, &outer)?,
            false => {
                let b = &mut self.builder;
                (entry.lower)(&mut Call { b, node, opset, inputs: &inputs, outer: &outer })?
            }
        };
        self.bind(node, values.into_iter().map(fold::without_elements).collect());
        Ok(())
    }

    /// The value of a name; absent for the empty one.
    pub(crate) fn operand(&self, name: &str) -> Result<Option<Value>, Stop> {
        if name.is_empty() {
            return Ok(None);
        }
        for frame in self.frames.iter().rev() {
            if let Some(value) = frame.scope.get(name) {
                return Ok(Some(value.clone()));
            }
            if !frame.sees_parent {
                break;
            }
        }
        Err(Stop::Problem(Problem::new(format!("`{name}` is used, but no node before computes it"))))
    }

    /// Gives the names of a node's outputs their values in the current frame.
    pub(crate) fn bind(&mut self, node: &'m NodeProto, values: Vec<Value>) {
        let frame = self.frames.last_mut().expect("a node is in a frame");
        for (name, value) in node.output.iter().zip(values) {
            if !name.is_empty() {
                frame.scope.insert(name, value);
            }
        }
    }

    /// Begins a frame.
    pub(crate) fn enter(&mut self, frame: Frame<'m>) -> Result<(), Stop> {
        if self.frames.len() >= DEPTH_MAX {
            return Err(Stop::Problem(Problem::new(format!(
                "functions and bodies are nested {DEPTH_MAX} deep"
            ))));
        }
        self.frames.push(frame);
        Ok(())
    }

    fn enter_function(
        &mut self,
        node: &'m NodeProto,
        function: &'m crate::proto::FunctionProto,
        inputs: Vec<Option<Value>>,
        outer: &Attributes<'m>,
    ) -> Result<(), Stop> {
        let mut attributes: Attributes<'m> =
            function.attribute_proto.iter().map(|a| (a.name.as_str(), a)).collect();
        for attribute in &node.attribute {
            match attribute.ref_attr_name.as_str() {
                "" => attributes.insert(&attribute.name, attribute),
                name => outer.get(name).and_then(|value| attributes.insert(&attribute.name, value)),
            };
        }
        let named = function.input.iter().map(String::as_str).zip(inputs);
        self.enter(Frame {
            nodes: &function.node,
            next: 0,
            outputs: function.output.iter().map(String::as_str).collect(),
            scope: named.filter_map(|(name, value)| Some((name, value?))).collect(),
            sees_parent: false,
            attributes: Rc::new(attributes),
            opsets: Rc::new(opsets(&function.opset_import)),
            end: End::Bind(node),
        })
    }

    fn end_frame(&mut self) -> Result<(), Stop> {
        let frame = self.frames.last().expect("a frame is ended");
        let values: Vec<Value> = frame
            .outputs
            .iter()
            .map(|name| Ok(self.operand(name)?.unwrap_or(Value::Optional(None))))
            .collect::<Result<_, Stop>>()?;
        if let End::Turn(state) = &frame.end
            && let Some(condition) = Self::end_turn_needs(state, &values)
        {
            return Err(Stop::Needs(Box::new(condition)));
        }
        let frame = self.frames.pop().expect("it was there");
        match frame.end {
            End::Return => self.returned = values,
            End::Bind(node) => self.bind(node, values),
            End::Turn(state) => self.end_turn(*state, values)?,
        }
        Ok(())
    }

    fn describe(&self, node: &NodeProto, problem: Problem) -> NodeProblem {
        let frame = self.frames.last().expect("a node is in a frame");
        let operand = |name: &String| match self.operand(name) {
            Ok(Some(Value::Tensor(tensor))) => Some(tensor.ty.to_string()),
            Ok(_) | Err(_) => None,
        };
        NodeProblem {
            node: Some(if node.name.is_empty() {
                node.output.first().cloned().unwrap_or_default()
            } else {
                node.name.clone()
            }),
            op: Some(ops::qualified(&node.domain, &node.op_type)),
            opset: frame.opsets.get(ops::domain(&node.domain)).copied(),
            operands: node.input.iter().filter_map(operand).collect(),
            problem,
        }
    }

    fn finish(&mut self, values: Vec<Value>) -> Imported {
        let names: Vec<String> = self.model.graph().output.iter().map(|output| output.name.clone()).collect();
        let outputs = names
            .into_iter()
            .zip(&values)
            .map(|(name, value)| {
                let value = self.output(&name, value);
                (name, value)
            })
            .collect();
        let graph = stage::trim(&self.builder.take_graph());
        let mut weights = std::mem::take(&mut self.builder.weights);
        weights.retain(|name, _| stage::is_used(&graph, name));
        Imported { graph, outputs, weights }
    }

    fn output(&mut self, name: &str, value: &Value) -> OutputValue {
        match value {
            Value::Tensor(tensor) => match tensor.literal() {
                Some(literal) => OutputValue::Known(HostValue::Tensor(literal, tensor.narrow)),
                None => {
                    let id =
                        self.builder.node(tensor).expect("a value of the model's own graph is a node of it");
                    let index = self.builder.graph().outputs.len();
                    self.builder.graph().output(name, id);
                    OutputValue::Computed { index, narrow: tensor.narrow }
                }
            },
            Value::Sequence(values) => {
                let one = |(at, value): (usize, &Value)| self.output(&format!("{name}.{at}"), value);
                OutputValue::Sequence(values.iter().enumerate().map(one).collect())
            }
            Value::Optional(value) => {
                OutputValue::Optional(value.as_ref().map(|value| Box::new(self.output(name, value))))
            }
            Value::Poisoned => unreachable!("a poisoned value comes with a problem"),
        }
    }
}

fn opsets(imports: &[crate::proto::OperatorSetIdProto]) -> BTreeMap<&str, i64> {
    imports.iter().map(|import| (ops::domain(&import.domain), import.version)).collect()
}
