//! Sessions: a model that runs, with its parameters and states.

mod onnx;

use crate::cache;
use crate::error::{Error, Result};
use crate::model::CompileOptions;
use crate::onnx::OnnxModel;
use crate::signature::{Signature, TensorInfo};
use crate::tensor::{Element, Tensor};
use crate::weights::{self, Expected, TensorFile, Weights};
use indexmap::IndexMap;
use ndarray::ArrayD;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg_base::{Bindings, Literal};
use thalweg_device::Device;
use thalweg_driver::Report;
use thalweg_executor::{Executor, TensorView, Trace};
use thalweg_plan::{Plan, PlanFileError};
use thalweg_tensor::Graph;
use thalweg_tensor::ops::LeafKind;

/// Plans that one session keeps; the one that was not used for longest goes first.
const PLANS_MAX: usize = 16;

/// A model that is ready to run, with its parameters and states.
///
/// Cloning gives another handle of the same session. Handles may be used from several threads; calls then wait for each other,
/// as they share parameters, states and memory. [`Session::fork`] gives a session of its own that runs at the same time.
///
/// The sizes that the signature leaves open are those of the arrays that a call is given. For each set of sizes a plan is made
/// once and kept, up to 16 of them. Parameters and states go with the caller from plan to plan; a state whose shape depends on
/// such a size begins anew for each set of sizes.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

struct Shared {
    source: Source,
    signature: Signature,
    options: CompileOptions,
    state: Mutex<State>,
}

/// What plans come from.
#[derive(Clone)]
enum Source {
    Graph(Graph),
    Plan(Arc<Plan>),
    Onnx(Arc<OnnxModel>),
}

/// What a plan is for.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    /// The session's graph or plan with these sizes.
    Sizes(Bindings),
    /// A graph that an ONNX model became for a call.
    Graph(Box<Graph>),
}

#[derive(Default)]
struct State {
    /// Plans by what they are for, the last used last.
    buckets: IndexMap<Key, Bucket>,
    /// What an ONNX model became for earlier calls.
    imports: Vec<onnx::Specialized>,
    /// Parameters and states that were given before there was a plan.
    given: Weights,
    /// What plans run on, shared by all of them.
    devices: Vec<Arc<dyn Device>>,
    /// Plans loaded so far.
    loaded: u64,
}

struct Bucket {
    /// Tells it from all others of the session, so that it can be found without its key.
    number: u64,
    executor: Executor,
    report: Option<Report>,
}

impl Session {
    pub(crate) fn of_graph(graph: Graph, signature: Signature, options: &CompileOptions) -> Session {
        Session::new(Source::Graph(graph), signature, options)
    }

    /// A session of an ONNX model. For each set of shapes, and of values that shapes depend on, the model is imported anew.
    pub(crate) fn of_onnx(model: &Arc<OnnxModel>, options: &CompileOptions) -> Result<Session> {
        let described = model.described(&options.settings)?;
        let session = Session::new(Source::Onnx(model.clone()), described.signature, options);
        session.lock().given = described.weights;
        Ok(session)
    }

    /// A session that runs a graph. Sizes that the graph leaves open are those of the arrays that a call is given.
    pub fn from_graph(graph: &Graph, options: &CompileOptions) -> Session {
        Session::of_graph(graph.clone(), Signature::of_graph(graph, &graph.name, ""), options)
    }

    /// A session that runs a plan. Only devices and seed of the options are looked at, and the plan says how many devices.
    pub fn from_plan(plan: Plan, options: &CompileOptions) -> Session {
        let signature = Signature::of_plan(&plan);
        Session::new(Source::Plan(Arc::new(plan)), signature, options)
    }

    /// A session that runs the plan of a file, which [`save_plan`] wrote.
    pub fn from_plan_file(path: impl AsRef<Path>, options: &CompileOptions) -> Result<Session> {
        Ok(Session::from_plan(load_plan(path)?, options))
    }

    fn new(source: Source, signature: Signature, options: &CompileOptions) -> Session {
        let state = Mutex::default();
        Session { shared: Arc::new(Shared { source, signature, options: options.clone(), state }) }
    }

    /// What the model takes, keeps and gives.
    pub fn signature(&self) -> &Signature {
        &self.shared.signature
    }

    /// Runs the model once. Every input is given by name, in any order.
    ///
    /// Fails when the inputs do not fit the signature, when a plan cannot be made for their sizes, or when the devices fail.
    pub fn run(&self, inputs: &[(&str, Tensor)]) -> Result<Outputs> {
        Ok(self.call(inputs, false)?.0)
    }

    /// As [`run`](Self::run), and tells how long each step of the plan took. Of an ONNX model that becomes several graphs, the
    /// steps are those of the last.
    pub fn run_traced(&self, inputs: &[(&str, Tensor)]) -> Result<(Outputs, Trace)> {
        let (outputs, trace) = self.call(inputs, true)?;
        Ok((outputs, trace.unwrap_or_default()))
    }

    fn call(&self, inputs: &[(&str, Tensor)], traced: bool) -> Result<(Outputs, Option<Trace>)> {
        let bindings = self.signature().bind(inputs)?;
        let mut state = self.lock();
        if let Source::Onnx(model) = &self.shared.source {
            return self.call_onnx(&mut state, model, inputs, traced);
        }
        let bucket = self.bucket(&mut state, &bindings)?;
        let views: Vec<(&str, TensorView<'_>)> =
            inputs.iter().map(|(name, tensor)| (*name, TensorView::from(&tensor.0))).collect();
        let (outputs, trace) = bucket.run(&views, traced)?;
        let names = self.signature().outputs.iter().map(|output| output.name.clone());
        Ok((Outputs { tensors: names.zip(outputs.into_iter().map(Tensor)).collect() }, trace))
    }

    /// Makes the plan for the sizes of these inputs, so that the first call need not; gives the plan, and how it was made
    /// unless it came from a file. An ONNX model is called for it, as its graph may depend on values.
    pub fn prepare(&self, inputs: &[(&str, Tensor)]) -> Result<(Arc<Plan>, Option<Report>)> {
        let bindings = self.signature().bind(inputs)?;
        let mut state = self.lock();
        if let Source::Onnx(model) = &self.shared.source {
            self.call_onnx(&mut state, model, inputs, false)?;
            let bucket = state.buckets.values().next_back().expect("a call leaves the plan that it ran");
            return Ok((bucket.executor.plan().clone(), bucket.report.clone()));
        }
        let bucket = self.bucket(&mut state, &bindings)?;
        Ok((bucket.executor.plan().clone(), bucket.report.clone()))
    }

    /// Bytes that the plans made so far have reserved, on all devices.
    pub fn memory_bytes(&self) -> usize {
        self.lock().buckets.values().map(|bucket| bucket.executor.memory_bytes()).sum()
    }

    /// Another session of the same model with the same parameters and states, which then lives on its own. It makes its own
    /// plans.
    pub fn fork(&self) -> Result<Session> {
        let state = self.lock();
        let given = self.values(&state)?;
        let session =
            Session::new(self.shared.source.clone(), self.signature().clone(), &self.shared.options);
        session.lock().given = given;
        Ok(session)
    }

    /// The value of a parameter or state. Fails for other names, and for values whose shape depends on sizes that no call has
    /// decided yet.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let state = self.lock();
        if let (Some(bucket), false) = (state.buckets.values().next_back(), self.is_onnx()) {
            return Ok(Tensor(bucket.executor.get(name)?));
        }
        let mut values = self.values(&state)?;
        values.remove(name).map(Tensor).ok_or_else(|| self.unknown(name))
    }

    /// Sets the value of a parameter or state.
    pub fn set(&self, name: &str, value: &Tensor) -> Result<()> {
        let weights = Weights::from([(name.to_string(), value.0.clone())]);
        let mut expected = self.expected();
        expected.retain(|expected| expected.name == name);
        if expected.is_empty() {
            return Err(self.unknown(name));
        }
        let problems = weights::misfits(&weights, expected);
        match problems.is_empty() {
            true => self.give(weights),
            false => Err(Error::Inputs { problems }),
        }
    }

    /// Takes parameters and states from a safetensors file. Every parameter must be there; states that are not keep their
    /// values. Fails with a list of everything that does not fit, and then changes nothing.
    pub fn load_weights(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let file = weights::read(path)?;
        let problems = weights::misfits(&file.tensors, self.expected());
        match problems.is_empty() {
            true => self.give(file.tensors),
            false => Err(Error::Weights { path: path.to_path_buf(), problems }),
        }
    }

    /// Writes all parameters and states to a safetensors file, whole or not at all.
    pub fn save_weights(&self, path: impl AsRef<Path>) -> Result<()> {
        let tensors = self.values(&self.lock())?;
        weights::write(path, &TensorFile { tensors, metadata: BTreeMap::new() })
    }

    /// Writes the model with its parameters and states as a file of the ONNX format, whole or not at all. What is kept from call
    /// to call becomes further outputs. Fails for a plan, which has no graph any more, and where the format lacks an op.
    pub fn export_onnx(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let graph = match &self.shared.source {
            Source::Graph(graph) => graph.clone(),
            Source::Onnx(model) => model.import(&self.shared.options.settings)?.graph,
            Source::Plan(_) => {
                return Err(Error::Option(
                    "a plan is machine code; export the model that it was made of".into(),
                ));
            }
        };
        let weights = self.values(&self.lock())?;
        let model = thalweg_onnx::export(&graph, &weights)?;
        crate::storage::write_atomically(path, |file| file.write_all(&thalweg_onnx::encode(&model)))
    }

    /// A call that panicked may have left states half updated, as an interrupted one does; the lock is no less usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unknown(&self, name: &str) -> Error {
        Error::Unknown { what: "parameter or state", name: name.to_string(), hint: None }
    }

    fn expected(&self) -> Vec<Expected<'_>> {
        fn of(info: &TensorInfo, required: bool) -> Expected<'_> {
            let sizes = info.ty.shape.iter().map(|dim| dim.as_constant().map(|size| size as usize));
            Expected { name: &info.name, dtype: info.ty.dtype, shape: sizes.collect(), required }
        }
        let signature = self.signature();
        let parameters = signature.parameters.iter().map(|info| of(info, true));
        parameters.chain(signature.states.iter().map(|info| of(info, false))).collect()
    }

    fn give(&self, weights: Weights) -> Result<()> {
        let mut state = self.lock();
        match self.is_onnx() {
            // Every plan of an ONNX model holds the weights that its graph uses.
            true => {
                state.buckets.values_mut().try_for_each(|bucket| bucket.set_known(&[&weights], |_| {}))?
            }
            false => {
                if let Some(bucket) = state.buckets.values_mut().next_back() {
                    for (name, value) in &weights {
                        bucket.executor.set_shared(name, value)?;
                    }
                }
            }
        }
        state.given.extend(weights);
        Ok(())
    }

    /// All parameters and states that have a value.
    fn values(&self, state: &State) -> Result<Weights> {
        if let (Some(bucket), false) = (state.buckets.values().next_back(), self.is_onnx()) {
            let kept = bucket.executor.kept().map(|port| port.name.clone());
            return kept.map(|name| Ok((name.clone(), bucket.executor.get(&name)?))).collect();
        }
        let mut values = state.given.clone();
        match &self.shared.source {
            // They were given from the beginning, and no call changes them.
            Source::Onnx(_) => {}
            Source::Graph(graph) => {
                for kind in [LeafKind::Parameter, LeafKind::State] {
                    for (_, leaf) in
                        graph.leaves(kind).filter(|(_, leaf)| !state.given.contains_key(&*leaf.name))
                    {
                        let sizes = leaf.ty.shape.iter().map(|dim| dim.as_constant()?.try_into().ok());
                        if let (Some(sizes), Some(init)) = (sizes.collect::<Option<Vec<usize>>>(), &leaf.init)
                        {
                            let seed = self.shared.options.seed;
                            let value = init.literal(seed, &leaf.name, leaf.ty.dtype, &sizes);
                            values.insert(leaf.name.to_string(), value);
                        }
                    }
                }
            }
            Source::Plan(plan) => {
                for port in plan.parameters.iter().chain(&plan.states) {
                    if let (false, Some(initial)) = (values.contains_key(&port.name), &port.initial) {
                        let elements = port.shape.iter().product();
                        let seed = self.shared.options.seed;
                        let bytes = thalweg_executor::initial_bytes(
                            initial, seed, &port.name, port.dtype, elements, 1,
                        );
                        let value = Literal::from_bytes(port.dtype, &port.shape, bytes);
                        values
                            .insert(port.name.clone(), value.expect("the first value has the port's shape"));
                    }
                }
            }
        }
        Ok(values)
    }

    /// The plan for these sizes, with the parameters and states of the call before.
    fn bucket<'a>(&self, state: &'a mut State, bindings: &Bindings) -> Result<&'a mut Bucket> {
        let last = state.buckets.len().checked_sub(1);
        let key = Key::Sizes(bindings.clone());
        let found = state.buckets.get_index_of(&key);
        if let Some(at) = found.filter(|at| Some(*at) == last) {
            return Ok(&mut state.buckets[at]);
        }
        let (mut bucket, fresh) = match found {
            Some(at) => (state.buckets.shift_remove_index(at).expect("it was found").1, false),
            None => (self.make(state, bindings)?, true),
        };
        match state.buckets.values().next_back() {
            Some(before) => hand_over(&before.executor, &mut bucket.executor)?,
            None if fresh => {
                for (name, value) in &state.given {
                    bucket.executor.set_shared(name, value)?;
                }
            }
            None => {}
        }
        Ok(state.keep(key, bucket))
    }

    fn make(&self, state: &mut State, bindings: &Bindings) -> Result<Bucket> {
        let options = &self.shared.options;
        let (plan, report) = match &self.shared.source {
            Source::Plan(plan) => (plan.clone(), None),
            Source::Graph(graph) => {
                let (plan, report) =
                    cache::compile(graph, bindings, &options.driver(), options.cache.as_ref())?;
                (Arc::new(plan), Some(report))
            }
            Source::Onnx(_) => unreachable!("the graphs of an ONNX model are made by its calls"),
        };
        // The first plan is told what was given; later ones take over what others hold, as far as shapes are the same.
        let given: BTreeSet<String> = match state.buckets.is_empty() {
            true => state.given.keys().cloned().collect(),
            false => BTreeSet::new(),
        };
        self.load(state, plan, report, |name| given.contains(name))
    }

    /// A plan on the session's devices, with first values but for those that are known and will be set.
    fn load(
        &self,
        state: &mut State,
        plan: Arc<Plan>,
        report: Option<Report>,
        known: impl Fn(&str) -> bool,
    ) -> Result<Bucket> {
        let options = &self.shared.options;
        if state.devices.is_empty() {
            state.devices = options.devices.open(plan.devices());
        }
        let mut executor = Executor::on(plan, state.devices.clone(), None)?;
        executor.initialize_but(options.seed, known)?;
        state.loaded += 1;
        Ok(Bucket { number: state.loaded, executor, report })
    }

    fn is_onnx(&self) -> bool {
        matches!(self.shared.source, Source::Onnx(_))
    }
}

impl State {
    /// Keeps a plan, as the last used, and drops the one that was not used for longest when there are too many.
    fn keep(&mut self, key: Key, bucket: Bucket) -> &mut Bucket {
        if self.buckets.len() >= PLANS_MAX {
            self.buckets.shift_remove_index(0);
        }
        let (at, _) = self.buckets.insert_full(key, bucket);
        &mut self.buckets[at]
    }
}

impl Bucket {
    fn run(
        &mut self,
        inputs: &[(&str, TensorView<'_>)],
        traced: bool,
    ) -> Result<(Vec<Literal>, Option<Trace>)> {
        if !traced {
            return Ok((self.executor.run(inputs)?, None));
        }
        self.executor.start_trace();
        let outputs = self.executor.run(inputs);
        let trace = self.executor.take_trace().expect("recording has begun");
        Ok((outputs?, Some(trace)))
    }

    /// Sets what this plan has of these values; where several have a name, the first counts. `set` is told of each.
    fn set_known(&mut self, values: &[&Weights], set: impl Fn(&Literal)) -> Result<()> {
        let kept: Vec<String> = self.executor.kept().map(|port| port.name.clone()).collect();
        for name in kept {
            if let Some(value) = values.iter().find_map(|values| values.get(&name)) {
                self.executor.set_shared(&name, value)?;
                set(value);
            }
        }
        Ok(())
    }
}

/// Copies parameters and states of equal shape from one plan's memory to another's.
pub(crate) fn hand_over(from: &Executor, to: &mut Executor) -> Result<()> {
    let other: BTreeMap<String, (thalweg_base::DType, Vec<usize>)> =
        to.kept().map(|port| (port.name.clone(), (port.dtype, port.shape.clone()))).collect();
    let same = from.kept().all(|port| {
        other.get(&port.name).is_none_or(|(dtype, shape)| (*dtype, shape) == (port.dtype, &port.shape))
    });
    if same {
        from.copy_kept_to(to)?;
        return Ok(());
    }
    for port in from.kept() {
        if other.get(&port.name).is_some_and(|(dtype, shape)| (*dtype, shape) == (port.dtype, &port.shape)) {
            to.set(&port.name, &from.get(&port.name)?)?;
        }
    }
    Ok(())
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("model", &self.signature().name).finish_non_exhaustive()
    }
}

/// What a call gave, by name, in the order of the signature.
#[derive(Clone, Debug)]
pub struct Outputs {
    tensors: IndexMap<String, Tensor>,
}

impl Outputs {
    /// An output. The only result of a model is called `output`.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
            let hint = Some(format!("the outputs are {}", known.join(", ")));
            Error::Unknown { what: "output", name: name.to_string(), hint }
        })
    }

    /// An output as an array. Fails when there is no such output or its elements are of another type.
    pub fn array<T: Element>(&self, name: &str) -> Result<ArrayD<T>> {
        self.get(name)?.array()
    }

    /// All outputs.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}

/// Reads a plan file. Fails when it is not there, damaged, or of another version. A plan holds machine code: only load plans
/// of people whose programs you would run.
pub fn load_plan(path: impl AsRef<Path>) -> Result<Plan> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::file(path, "this is no plan file"))?;
    Plan::from_text(&text).map_err(|error: PlanFileError| Error::file(path, error.to_string()))
}

/// Writes a plan file, whole or not at all.
pub fn save_plan(path: impl AsRef<Path>, plan: &Plan) -> Result<()> {
    crate::storage::write_atomically(path.as_ref(), |file| file.write_all(plan.to_text().as_bytes()))
}

/// Writes a text file, whole or not at all.
pub fn save_text(path: impl AsRef<Path>, text: &str) -> Result<()> {
    crate::storage::write_atomically(path.as_ref(), |file| file.write_all(text.as_bytes()))
}
