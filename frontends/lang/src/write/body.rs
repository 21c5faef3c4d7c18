//! Statements: which values get a name, in what order they are written, and where.

use super::form::{Form, View};
use super::names::{Names, path, short};
use super::nouns::{noun, reduced};
use super::text::{COLUMNS, Text, number, shape, wrapped};
use super::{WriteError, WrittenProgram};
use std::collections::{BTreeMap, BTreeSet};
use thalweg_base::{Initializer, Literal, Scalar};
use thalweg_tensor::ops::{Leaf, LeafKind};
use thalweg_tensor::{Graph, NodeId, Op, TensorType};

/// Characters of a value that is written where it is used.
const INLINE_MAX: usize = 60;

/// Columns for the number at the end of a name.
const SUFFIX_COLUMNS: usize = 3;

/// Columns of a step of indentation.
pub(super) const INDENT: usize = 4;

/// A parameter or state in the program.
struct Held {
    variable: String,
    /// How it is declared, until it is.
    declaration: Option<String>,
}

/// What is common to a program: names, lines, parameters and stored constants.
pub(super) struct Writer {
    pub(super) names: Names,
    pub(super) lines: Vec<String>,
    pub(super) written: WrittenProgram,
    paths: BTreeSet<String>,
    held: BTreeMap<String, Held>,
    /// The variables of constants kept with the weights.
    stored: BTreeMap<Literal, String>,
    scope: String,
    /// Whether the last part of a scope names a single node.
    node_scopes: bool,
}

/// A graph or sub-graph that is being written.
pub(super) struct Body<'g> {
    pub(super) view: View<'g>,
    forms: Vec<Option<Form>>,
    pub(super) uses: Vec<usize>,
    readers: Vec<Vec<NodeId>>,
    values: Vec<Option<Text>>,
    /// Names of the results of ops that have several.
    pub(super) results: BTreeMap<(NodeId, usize), Text>,
    pub(super) indent: usize,
    /// Which outputs are written.
    live: Vec<bool>,
    /// Names that outputs and updates wish for their values.
    wishes: BTreeMap<NodeId, String>,
}

impl Writer {
    pub(super) fn new(graph: &Graph, names: Names) -> Writer {
        Writer {
            names,
            lines: Vec::new(),
            written: WrittenProgram::default(),
            paths: BTreeSet::new(),
            held: BTreeMap::new(),
            stored: BTreeMap::new(),
            scope: String::new(),
            node_scopes: has_node_scopes(graph),
        }
    }

    pub(super) fn line(&mut self, indent: usize, text: &str) {
        self.lines.extend(wrapped(text, indent));
    }

    /// Chooses names for a parameter or state that a node of `scope` reads. It is declared where it is first read.
    pub(super) fn hold(&mut self, leaf: &Leaf, scope: &str) -> Result<(), WriteError> {
        if self.held.contains_key(&*leaf.name) {
            return Ok(());
        }
        let group = self.group(scope);
        let path = match says_nothing(&leaf.name) && !group.is_empty() {
            true => {
                let role = if leaf.ty.rank() < 2 { "bias" } else { "weight" };
                path(&format!("{group}.{role}"), &mut self.paths)
            }
            false => path(&leaf.name, &mut self.paths),
        };
        let variable = self.names.unique(&short(&path.name));
        let first = match &leaf.init {
            Some(init) => initializer(init, &leaf.ty)?,
            None => number(Scalar::zero(leaf.ty.dtype), leaf.ty.dtype).expect("0 can be said").text,
        };
        let word = if leaf.kind == LeafKind::State { "state" } else { "param" };
        let declaration = declaration(word, &variable, &leaf.ty, &first, &path);
        self.written.names.insert(leaf.name.to_string(), path.name);
        self.held.insert(leaf.name.to_string(), Held { variable, declaration: Some(declaration) });
        Ok(())
    }

    /// The variable of a parameter or state.
    pub(super) fn variable(&self, name: &str) -> &str {
        &self.held[name].variable
    }

    /// Declares a parameter or state that is not declared yet.
    pub(super) fn declare(&mut self, name: &str, indent: usize) {
        let held = self.held.get_mut(name).expect("every leaf is held");
        if let Some(declaration) = held.declaration.take() {
            self.lines.push(format!("{}{declaration}", " ".repeat(indent)));
        }
    }

    /// A constant kept with the weights: declares its state and gives its variable. What is declared in a block is not
    /// known outside of it.
    pub(super) fn stored(&mut self, value: &Literal, wish: &str, indent: usize) -> String {
        if let Some(variable) = self.stored.get(value) {
            return variable.clone();
        }
        let path = path(wish, &mut self.paths);
        let variable = self.names.unique(&path.name);
        let ty = TensorType::new(value.dtype(), value.shape().iter().copied());
        let zero = number(Scalar::zero(ty.dtype), ty.dtype).expect("0 can be said").text;
        let declaration = declaration("state", &variable, &ty, &zero, &path);
        self.lines.push(format!("{}{declaration}", " ".repeat(indent)));
        self.written.constants.insert(path.name, value.clone());
        if indent == INDENT {
            self.stored.insert(value.clone(), variable.clone());
        }
        variable
    }

    /// The scope that a node is shown under.
    fn group<'s>(&self, scope: &'s str) -> &'s str {
        match self.node_scopes {
            true => scope.rsplit_once('.').map_or("", |(group, _)| group),
            false => scope,
        }
    }

    fn enter(&mut self, scope: &str, indent: usize) {
        let group = self.group(scope).to_string();
        if indent != INDENT || group.is_empty() || group == self.scope {
            return;
        }
        let text: String = group.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if self.lines.len() > 1 {
            self.lines.push(String::new());
        }
        self.lines.push(format!("{}// {text}", " ".repeat(indent)));
        self.scope = group;
    }
}

fn declaration(
    word: &str,
    variable: &str,
    ty: &TensorType,
    first: &str,
    path: &super::names::Path,
) -> String {
    let named = if path.written == variable { String::new() } else { format!(" as {}", path.written) };
    format!("{word} {variable}: {}{} = {first}{named}", ty.dtype, shape(&ty.shape))
}

fn initializer(init: &Initializer, ty: &TensorType) -> Result<String, WriteError> {
    let float = |value: &Scalar| {
        number(Scalar::Float(value.to_f64()), thalweg_base::DType::F64).expect("floats can be said").text
    };
    match init {
        Initializer::Constant(value) => {
            let text = number(*value, ty.dtype).ok_or(WriteError::Number { op: "a first value" })?;
            Ok(text.text)
        }
        Initializer::Uniform { low, high } => Ok(format!("init.uniform({}, {})", float(low), float(high))),
        Initializer::Normal { mean, deviation } if mean.to_f64() == 0.0 => {
            Ok(format!("init.normal({})", float(deviation)))
        }
        Initializer::Normal { mean, deviation } => {
            Ok(format!("init.normal({}, {})", float(deviation), float(mean)))
        }
    }
}

/// Whether a name was given by an exporter that knew none.
fn says_nothing(name: &str) -> bool {
    name.starts_with("onnx::") || name.chars().all(|c| c.is_ascii_digit())
}

/// Whether scopes name single nodes, as they do in graphs from elsewhere: most end in a word such as `MatMul_12`, or there
/// is one for every other node.
fn has_node_scopes(graph: &Graph) -> bool {
    let inner = graph.nodes().iter().filter(|node| !matches!(node.op, Op::Leaf(_)) && !node.scope.is_empty());
    let (mut scopes, mut count) = (BTreeSet::new(), 0);
    for node in inner {
        scopes.insert(&*node.scope);
        count += 1;
    }
    let ends = |scope: &&&str| {
        let last = scope.rsplit('.').next().unwrap_or("");
        last.starts_with(|c: char| c.is_uppercase())
    };
    let capital = scopes.iter().filter(ends).count();
    capital * 2 > scopes.len() || (scopes.len() * 2 > count && scopes.len() > 8)
}

impl<'g> Body<'g> {
    /// A graph whose inputs have those texts, in order, for the outputs that are live.
    pub(super) fn new(
        graph: &'g Graph,
        inputs: &[Text],
        indent: usize,
        live: impl Fn(usize) -> bool,
    ) -> Body<'g> {
        let count = graph.nodes().len();
        let mut body = Body {
            view: View::new(graph),
            forms: vec![None; count],
            uses: vec![0; count],
            readers: vec![Vec::new(); count],
            values: vec![None; count],
            results: BTreeMap::new(),
            indent,
            live: (0..graph.outputs.len()).map(live).collect(),
            wishes: BTreeMap::new(),
        };
        for ((id, _), text) in graph.leaves(LeafKind::Input).zip(inputs) {
            body.values[id.index()] = Some(text.clone());
        }
        let outputs = graph.outputs.iter().zip(&body.live).filter(|(_, live)| **live);
        let roots: Vec<NodeId> = outputs
            .map(|(output, _)| output.node)
            .chain(graph.updates.iter().map(|update| update.node))
            .collect();
        for root in roots {
            body.uses[root.index()] += 1;
        }
        for id in graph.ids().rev().filter(|id| !matches!(graph.node(*id).op, Op::Leaf(_))) {
            if body.uses[id.index()] == 0 {
                continue;
            }
            let several = matches!(graph.node(id).op, Op::Pick(_)) || graph.node(id).types.len() != 1;
            let form = if several { Form::Plain } else { body.view.form(id) };
            for read in form.reads(graph, id) {
                body.uses[read.index()] += 1;
                body.readers[read.index()].push(id);
            }
            body.forms[id.index()] = Some(form);
        }
        body
    }

    pub(super) fn wished(&self, id: NodeId) -> bool {
        self.wishes.contains_key(&id)
    }

    /// Writes the first line of a statement with a block.
    pub(super) fn open(&mut self, writer: &mut Writer, id: NodeId, line: &str) {
        writer.enter(&self.view.graph.node(id).scope, self.indent);
        writer.line(self.indent, line);
    }

    /// Lets a value have this name, if it gets one.
    pub(super) fn wish(&mut self, id: NodeId, name: &str) {
        self.wishes.insert(id, name.to_string());
    }

    pub(super) fn form(&self, id: NodeId) -> &Form {
        self.forms[id.index()].as_ref().expect("what is written has a form")
    }

    /// Writes every node that is used, as statements or as texts that wait for their only reader.
    pub(super) fn run(&mut self, writer: &mut Writer) -> Result<(), WriteError> {
        for id in self.view.graph.ids() {
            if self.uses[id.index()] > 0 && self.values[id.index()].is_none() {
                self.node(writer, id)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, writer: &mut Writer, id: NodeId) -> Result<(), WriteError> {
        let node = self.view.graph.node(id);
        match &node.op {
            Op::Leaf(leaf) => {
                self.set(id, Text::whole(writer.variable(&leaf.name)));
                return Ok(());
            }
            Op::Pick(pick) => {
                let from = node.operands[0];
                let text = match self.view.graph.node(from).types.len() {
                    1 => self.values[from.index()].clone(),
                    _ => self.results.get(&(from, pick.index)).cloned(),
                };
                self.set(id, text.expect("results that are picked have names"));
                return Ok(());
            }
            Op::Scan(op) => return self.scan(writer, id, op),
            Op::While(op) => return self.while_loop(writer, id, op),
            Op::Branch(op) => return self.branch(writer, id, op),
            Op::Constant(_) | Op::Iota(_) | Op::Random(_) | Op::Pointwise(_) | Op::Convert(_) => {}
            Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Pad(_) => {}
            Op::Concat(_) | Op::Gather(_) | Op::Scatter(_) | Op::Reduce(_) | Op::Cumulative(_) => {}
            Op::Contract(_) | Op::Convolve(_) | Op::Unfold(_) | Op::Fold(_) | Op::ArgSort(_) => {}
            Op::DynamicSlice(_) | Op::DynamicUpdate(_) | Op::Collective(_) => {}
        }
        let mut text = self.node_text(writer, id)?;
        let room = self.indent + "let  = ".len() + self.name_for(writer, id).len() + SUFFIX_COLUMNS;
        while room + text.text.chars().count() > COLUMNS && self.bind_longest(writer, id) {
            text = self.node_text(writer, id)?;
        }
        let length = text.text.chars().count();
        let simple =
            text.is_name() || (matches!(self.form(id), Form::Known(_)) && self.view.shape(id).is_empty());
        let inline = self.uses[id.index()] == 1 && length <= INLINE_MAX && !self.leaves_scope(writer, id);
        self.set(id, text);
        if !simple && !inline {
            self.bind(writer, id);
        }
        Ok(())
    }

    pub(super) fn set(&mut self, id: NodeId, text: Text) {
        self.values[id.index()] = Some(text);
    }

    /// The text of a node for one that reads it, which is about to be written.
    pub(super) fn read(&mut self, writer: &mut Writer, id: NodeId, reader: NodeId) -> Text {
        if let Some((LeafKind::Parameter | LeafKind::State, name)) = self.view.leaf(id) {
            writer.enter(&self.view.graph.node(reader).scope, self.indent);
            writer.declare(name, self.indent);
        }
        self.values[id.index()].clone().expect("operands are written first")
    }

    /// Gives a name to the longest of the texts that a node reads and that have none; whether there was one.
    fn bind_longest(&mut self, writer: &mut Writer, id: NodeId) -> bool {
        let reads = self.form(id).reads(self.view.graph, id);
        let length = |read: &NodeId| self.values[read.index()].as_ref().map_or(0, |text| text.text.len());
        let unnamed = |read: &&NodeId| {
            let text = self.values[read.index()].as_ref();
            text.is_some_and(|text| !text.is_name() && text.text.len() > 8)
        };
        let Some(longest) = reads.iter().filter(unnamed).max_by_key(|read| length(read)).copied() else {
            return false;
        };
        self.bind(writer, longest);
        true
    }

    /// Writes a value as a statement and gives it a name.
    pub(super) fn bind(&mut self, writer: &mut Writer, id: NodeId) {
        let node = self.view.graph.node(id);
        let text = self.values[id.index()].clone().expect("what is named was written");
        let name = writer.names.unique(&self.name_for(writer, id));
        writer.enter(&node.scope, self.indent);
        writer.line(self.indent, &format!("let {name} = {}", text.text));
        self.set(id, Text::whole(name));
    }

    /// A value as one name or number, for use within blocks.
    pub(super) fn atom(&mut self, writer: &mut Writer, id: NodeId, reader: NodeId) -> Text {
        let text = self.read(writer, id, reader);
        let number = self.view.known(id).is_some() && self.view.shape(id).is_empty();
        if text.is_name() || number {
            return text;
        }
        self.bind(writer, id);
        self.values[id.index()].clone().expect("just named")
    }

    /// A name that says where a value is from, or what it is.
    pub(super) fn name_for(&self, writer: &Writer, id: NodeId) -> String {
        if let Some(wish) = self.wishes.get(&id) {
            return wish.clone();
        }
        let group = writer.group(&self.view.graph.node(id).scope);
        let noun = self.noun(id);
        let scope = short(group);
        if scope.is_empty() {
            return noun.unwrap_or("h").to_string();
        }
        // What leaves a scope is what the scope is for; within it, values are told apart by what they are.
        match noun.filter(|_| !self.leaves_scope(writer, id)) {
            Some(noun) => {
                let last = group.rsplit('.').find(|part| part.chars().any(char::is_alphabetic));
                format!("{}_{noun}", short(last.unwrap_or(group)))
            }
            None => scope,
        }
    }

    /// Whether something of another scope reads a value.
    fn leaves_scope(&self, writer: &Writer, id: NodeId) -> bool {
        let group = |id: NodeId| writer.group(&self.view.graph.node(id).scope);
        self.readers[id.index()].iter().any(|reader| group(*reader) != group(id))
    }

    /// A word for what a value is, if there is one.
    fn noun(&self, id: NodeId) -> Option<&'static str> {
        match self.forms[id.index()].as_ref() {
            Some(Form::Library("softmax", _)) => Some("weights"),
            Some(Form::Library(_, _)) => Some("active"),
            Some(Form::Mean(_, _, _)) => Some("average"),
            Some(Form::Keep(function, _, _)) => Some(reduced(*function)),
            Some(Form::At(_)) => Some("part"),
            Some(Form::Plain | Form::Known(_) | Form::Pointwise(_, _) | Form::Spread(_)) | None => {
                noun(&self.view.graph.node(id).op)
            }
        }
    }

    /// Assignments that all happen at once, and results that are read before them.
    pub(super) fn finish(
        &mut self,
        writer: &mut Writer,
        assigned: Vec<(String, Text)>,
        results: Vec<Text>,
    ) -> Vec<Text> {
        let mut assigned: Vec<(String, Text)> =
            assigned.into_iter().filter(|(variable, text)| text.text != *variable).collect();
        let mut results = results;
        let variables: Vec<String> = assigned.iter().map(|(variable, _)| variable.clone()).collect();
        for at in 0..assigned.len() {
            if variables[..at].iter().any(|earlier| assigned[at].1.mentions(earlier)) {
                let name = writer.names.unique(&format!("{}_next", assigned[at].0));
                writer.line(self.indent, &format!("let {name} = {}", assigned[at].1.text));
                assigned[at].1 = Text::whole(name);
            }
        }
        for result in &mut results {
            if variables.iter().any(|variable| result.mentions(variable)) {
                let name = writer.names.unique("result");
                writer.line(self.indent, &format!("let {name} = {}", result.text));
                *result = Text::whole(name);
            }
        }
        for (variable, text) in assigned {
            writer.line(self.indent, &format!("{variable} = {}", text.text));
        }
        results
    }

    /// The texts of the live outputs.
    pub(super) fn outputs(&mut self, writer: &mut Writer) -> Vec<Text> {
        let outputs = self.view.graph.outputs.iter().zip(&self.live).filter(|(_, live)| **live);
        let roots: Vec<NodeId> = outputs.map(|(output, _)| output.node).collect();
        roots.into_iter().map(|root| self.read(writer, root, root)).collect()
    }

    /// The texts of the next values of states, by variable.
    pub(super) fn updates(&mut self, writer: &mut Writer) -> Vec<(String, Text)> {
        let updates = self.view.graph.updates.clone();
        let text = |update: thalweg_tensor::Update| {
            let variable = writer.variable(&update.name).to_string();
            (variable, self.read(writer, update.node, update.node))
        };
        updates.into_iter().map(text).collect()
    }
}
