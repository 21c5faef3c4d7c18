//! Graphs as programs: what an importer made can be read, changed and compiled as any program is.
//!
//! A graph becomes one model: inputs are its parameters, weights `param`s, other kept values `state`s. Values that are used
//! once stand where they are used, others get a name from the scope they are in. Only what the language's own elaboration
//! adds is left out, so that the program elaborates to a graph that computes the same, bit by bit.

mod body;
mod control;
mod form;
mod names;
mod nouns;
mod ops;
mod patterns;
mod text;

use crate::syntax::format_source;
use body::{Body, INDENT, Writer};
use names::{Names, identifier};
use std::collections::{BTreeMap, BTreeSet};
use text::{COLUMNS, Text, list, shape};
use thalweg_base::{Bindings, Dim, Literal, Symbol};
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Graph, TensorType};

/// A graph as a program.
#[derive(Clone, Debug, Default)]
pub struct WrittenProgram {
    /// The program, laid out as `thalweg fmt` does.
    pub text: String,
    /// For each parameter and state of the graph, what it is called in the program.
    pub names: BTreeMap<String, String>,
    /// For each input of the graph, what it is called in the program.
    pub inputs: BTreeMap<String, String>,
    /// For each output of the graph, what it is called in the program.
    pub outputs: BTreeMap<String, String>,
    /// For each open size of the graph, what it is called in the program.
    pub sizes: BTreeMap<String, String>,
    /// The values of states of the program that are constants of the graph, too large to be written out. They belong
    /// into the weights file.
    pub constants: BTreeMap<String, Literal>,
}

/// Why a graph is no program.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The graph is split over devices.
    #[error("a graph that is split over devices is not written as a program")]
    Split,
    /// Programs change parameters by training only.
    #[error("the parameter `{0}` gets a new value at each call, which only a training does")]
    ParameterUpdate(String),
    /// A parameter has an open size.
    #[error("the parameter `{0}` has a size that is not known")]
    OpenParameter(String),
    /// A size is in the shape of no input and no state.
    #[error("the size `{0}` is that of no input")]
    UnknownSize(String),
    /// An attribute is an integer that no literal of the language says.
    #[error("the value of {op} is a number that the language has no literal for")]
    Number {
        /// What has the attribute.
        op: &'static str,
    },
    /// A loop that never changes its condition.
    #[error("a loop carries nothing")]
    NothingCarried,
}

/// A graph as a program of one model called like `name`, with the same inputs, parameters, states, outputs and updates
/// under names that the language allows. What is pruned from a graph is not written; leaves are.
///
/// ```
/// use thalweg_base::{DType, PointwiseFn};
/// use thalweg_tensor::{Graph, TensorType};
/// let mut graph = Graph::new("double");
/// let x = graph.input("x", TensorType::new(DType::F32, [3]));
/// let y = graph.pointwise(PointwiseFn::Add, &[x, x]);
/// graph.output("output", y);
/// let program = thalweg_lang::write_program(&graph, "Double").unwrap();
/// assert_eq!(program.text, "model Double(x: f32[3]) -> f32[3] {\n    x + x\n}\n");
/// ```
pub fn write_program(graph: &Graph, name: &str) -> Result<WrittenProgram, WriteError> {
    let mut names = Names::new();
    let (graph, sizes) = name_sizes(graph, &mut names)?;
    let name = names.unique(name);
    let mut writer = Writer::new(&graph, names);
    writer.written.sizes = sizes;
    let mut inputs = Vec::new();
    let mut params = Vec::new();
    for (_, leaf) in graph.leaves(LeafKind::Input) {
        let own = writer.names.unique(&leaf.name);
        params.push(format!("{own}: {}", type_text(&leaf.ty)));
        writer.written.inputs.insert(leaf.name.to_string(), own.clone());
        inputs.push(Text::whole(own));
    }
    hold_leaves(&graph, &mut writer)?;
    let outputs = output_names(&graph, &mut writer);

    let mut body = Body::new(&graph, &inputs, INDENT, |_| true);
    for (output, name) in graph.outputs.iter().zip(&outputs.names) {
        body.wish(output.node, name);
    }
    for update in &graph.updates {
        let next = format!("{}_next", writer.variable(&update.name));
        body.wish(update.node, &next);
    }
    for update in &graph.updates {
        writer.declare(&update.name, INDENT);
    }
    body.run(&mut writer)?;
    for kind in [LeafKind::Parameter, LeafKind::State] {
        graph.leaves(kind).for_each(|(_, leaf)| writer.declare(&leaf.name, INDENT));
    }
    let updates = body.updates(&mut writer);
    let results = body.outputs(&mut writer);
    let results = body.finish(&mut writer, updates, results);
    writer.line(INDENT, &outputs.value(&results));

    let types: Vec<String> = graph.outputs.iter().map(|output| type_text(graph.ty(output.node))).collect();
    let mut lines =
        signature(&name, &params, &outputs.value(&types.iter().map(Text::whole).collect::<Vec<_>>()));
    lines.append(&mut writer.lines);
    lines.push("}".into());
    let text = lines.join("\n") + "\n";
    let text = format_source(&text).unwrap_or_else(|errors| panic!("{}\n{text}", errors[0].message));
    Ok(WrittenProgram { text, ..writer.written })
}

fn type_text(ty: &TensorType) -> String {
    format!("{}{}", ty.dtype, shape(&ty.shape))
}

/// `model Name(x: f32[3]) -> f32[3] {`, over several lines if it is long. A type that is long by itself is left out.
fn signature(name: &str, params: &[String], result: &str) -> Vec<String> {
    let arrow = format!("-> {result} ");
    let arrow = if arrow.chars().count() <= COLUMNS / 2 { arrow } else { String::new() };
    let head = format!("model {name}({}) {arrow}{{", params.join(", "));
    if head.chars().count() <= COLUMNS {
        return vec![head];
    }
    let mut lines = vec![format!("model {name}(")];
    lines.extend(params.iter().map(|param| format!("    {param},")));
    lines.push(format!(") {arrow}{{"));
    lines
}

/// The graph with sizes under names that the language allows; each size must be found from an input or a state.
fn name_sizes(graph: &Graph, names: &mut Names) -> Result<(Graph, BTreeMap<String, String>), WriteError> {
    let mut symbols = BTreeSet::new();
    all_symbols(graph, &mut symbols);
    let mut given = BTreeSet::new();
    for kind in [LeafKind::Input, LeafKind::State] {
        for dim in graph.leaves(kind).flat_map(|(_, leaf)| &leaf.ty.shape) {
            dim.symbols(&mut given);
        }
    }
    if let Some(unknown) = symbols.iter().find(|symbol| !given.contains(*symbol)) {
        return Err(WriteError::UnknownSize(unknown.to_string()));
    }
    let (mut bindings, mut sizes) = (Bindings::new(), BTreeMap::new());
    for symbol in symbols {
        let own = names.unique(symbol.name());
        sizes.insert(symbol.name().to_string(), own.clone());
        bindings.insert(symbol, Dim::symbol(&own));
    }
    let graph = graph.substitute(&bindings).prune().0;
    Ok((graph, sizes))
}

fn all_symbols(graph: &Graph, symbols: &mut BTreeSet<Symbol>) {
    symbols.extend(graph.symbols());
    for node in graph.nodes() {
        let mut op = node.op.clone();
        op.dims_mut().into_iter().for_each(|dim| dim.symbols(symbols));
        op.subgraphs().into_iter().for_each(|inner| all_symbols(inner, symbols));
    }
}

/// Names parameters and states, and sees that the language can have them.
fn hold_leaves(graph: &Graph, writer: &mut Writer) -> Result<(), WriteError> {
    for (_, leaf) in graph.leaves(LeafKind::Parameter) {
        if leaf.ty.shape.iter().any(|size| size.as_constant().is_none()) {
            return Err(WriteError::OpenParameter(leaf.name.to_string()));
        }
    }
    for update in &graph.updates {
        if graph.leaf(LeafKind::State, &update.name).is_none() {
            return Err(WriteError::ParameterUpdate(update.name.clone()));
        }
    }
    let users = graph.users();
    for kind in [LeafKind::State, LeafKind::Parameter] {
        for (id, leaf) in graph.leaves(kind) {
            let scope = users[id.index()].first().map_or("", |user| &*graph.node(*user).scope);
            writer.hold(leaf, scope)?;
        }
    }
    Ok(())
}

/// How the outputs are given.
struct Outputs {
    names: Vec<String>,
    structure: Structure,
}

enum Structure {
    One,
    List,
    Record,
}

impl Outputs {
    /// The value that gives these outputs.
    fn value(&self, texts: &[Text]) -> String {
        let texts: Vec<&String> = texts.iter().map(|text| &text.text).collect();
        match self.structure {
            Structure::One => texts[0].clone(),
            Structure::List => list(texts),
            Structure::Record => {
                let fields = self.names.iter().zip(texts).map(|(name, text)| format!("{name}: {text}"));
                format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// A single `output` is the value itself, `output.0` and so on are a list, all others a record.
fn output_names(graph: &Graph, writer: &mut Writer) -> Outputs {
    let own: Vec<&str> = graph.outputs.iter().map(|output| &*output.name).collect();
    let counted = own.iter().enumerate().all(|(at, name)| *name == format!("output.{at}"));
    let structure = match &own[..] {
        ["output"] => Structure::One,
        _ if counted => Structure::List,
        _ => Structure::Record,
    };
    let mut taken = BTreeSet::new();
    let names: Vec<String> = own
        .iter()
        .map(|name| match structure {
            Structure::One | Structure::List => name.to_string(),
            Structure::Record => {
                let base = identifier(name);
                let base = if crate::syntax::keywords().any(|word| word == base) {
                    format!("{base}_")
                } else {
                    base
                };
                let mut unique = base.clone();
                let mut count = 1;
                while !taken.insert(unique.clone()) {
                    count += 1;
                    unique = format!("{base}_{count}");
                }
                unique
            }
        })
        .collect();
    let outputs = own.iter().map(|name| name.to_string()).zip(names.iter().cloned());
    writer.written.outputs.extend(outputs);
    Outputs { names, structure }
}
