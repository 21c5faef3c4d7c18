//! Loops and branches: statements with blocks of their own.

use super::WriteError;
use super::body::{Body, INDENT, Writer};
use super::text::{Text, list, size};
use std::collections::BTreeSet;
use thalweg_tensor::ops::{Branch, LeafKind, Scan, While};
use thalweg_tensor::{Graph, NodeId, Op};

type Written<T> = Result<T, WriteError>;

impl Body<'_> {
    /// Which results of an op are read.
    fn read_results(&self, id: NodeId) -> Vec<usize> {
        if self.view.graph.node(id).types.len() == 1 {
            return vec![0];
        }
        let ids = self.view.graph.ids().filter(|pick| self.uses[pick.index()] > 0);
        let found: BTreeSet<usize> = ids
            .filter_map(|pick| match &self.view.graph.node(pick).op {
                Op::Pick(op) if self.view.operand(pick, 0) == id => Some(op.index),
                _ => None,
            })
            .collect();
        found.into_iter().collect()
    }

    /// Names results of an op, and gives the pattern that binds them in that order.
    fn bind_results(&mut self, writer: &mut Writer, id: NodeId, order: &[usize]) -> String {
        let mut names = Vec::new();
        for index in order {
            let pick = self.view.graph.ids().find(|pick| match &self.view.graph.node(*pick).op {
                Op::Pick(op) => op.index == *index && self.view.operand(*pick, 0) == id,
                _ => false,
            });
            let wish = self.name_for(writer, pick.filter(|pick| self.wished(*pick)).unwrap_or(id));
            let name = writer.names.unique(&wish);
            match self.view.graph.node(id).types.len() {
                1 => self.set(id, Text::whole(name.clone())),
                _ => {
                    self.results.insert((id, *index), Text::whole(name.clone()));
                }
            }
            names.push(name);
        }
        match &names[..] {
            [name] => name.clone(),
            names => list(names),
        }
    }

    /// Names for inputs of a body, from `from` on for `count`.
    fn inner_names(&self, writer: &mut Writer, body: &Graph, from: usize, count: usize) -> Vec<String> {
        let leaves = body.leaves(LeafKind::Input).skip(from).take(count);
        let wishes: Vec<&str> =
            leaves.map(|(_, leaf)| leaf.name.rsplit(['.', '/']).next().unwrap_or("h")).collect();
        wishes.into_iter().map(|wish| writer.names.unique(wish)).collect()
    }

    pub(super) fn scan(&mut self, writer: &mut Writer, id: NodeId, op: &Scan) -> Written<()> {
        let operands = self.view.graph.node(id).operands.clone();
        let read = self.read_results(id);
        let count = op.body.outputs.len();
        let mut texts = Vec::new();
        for (at, operand) in operands.iter().enumerate() {
            texts.push(match at < op.carries + op.sequences {
                true => self.read(writer, *operand, id),
                false => self.atom(writer, *operand, id),
            });
        }
        // What is bound must not change its name after it was read.
        let names = self.inner_names(writer, &op.body, 0, op.carries + op.sequences);
        let (carries, steps) = names.split_at(op.carries);
        let mut header = String::from(if op.reverse { "scan reverse " } else { "scan " });
        let mut walked: Vec<String> = steps
            .iter()
            .zip(&texts[op.carries..])
            .map(|(step, text)| format!("{step} in {}", text.text))
            .collect();
        if walked.is_empty() {
            let step = writer.names.unique("step");
            walked.push(format!("{step} in 0..{}", size(&op.length).at(super::text::SUM)));
        }
        header.push_str(&walked.join(", "));
        header.push_str(&carried(carries, &texts));
        let yields: Vec<usize> = read.iter().copied().filter(|at| (op.carries..count).contains(at)).collect();
        let histories: Vec<usize> = read.iter().copied().filter(|at| *at >= count).collect();
        let lasts: Vec<usize> = read.iter().copied().filter(|at| *at < op.carries).collect();
        let order = [&yields[..], &histories, &lasts].concat();
        let pattern = self.bind_results(writer, id, &order);
        self.open(writer, id, &format!("let {pattern} = {header} {{"));

        let inputs: Vec<Text> =
            names.iter().map(Text::whole).chain(texts[names.len()..].iter().cloned()).collect();
        let live = |at: usize| at < op.carries || yields.contains(&at);
        let mut body = Body::new(&op.body, &inputs, self.indent + INDENT, live);
        body.run(writer)?;
        let mut outputs = body.outputs(writer);
        let mut given = outputs.split_off(op.carries);
        given.extend(histories.iter().map(|at| Text::whole(&carries[at - count])));
        let assigned = carries.iter().cloned().zip(outputs).collect();
        let given = body.finish(writer, assigned, given);
        if !given.is_empty() {
            writer.line(body.indent, &format!("yield {}", joined(&given)));
        }
        if !lasts.is_empty() {
            let lasts: Vec<Text> = lasts.iter().map(|at| Text::whole(&carries[*at])).collect();
            writer.line(body.indent, &format!("last {}", joined(&lasts)));
        }
        writer.line(self.indent, "}");
        Ok(())
    }

    pub(super) fn while_loop(&mut self, writer: &mut Writer, id: NodeId, op: &While) -> Written<()> {
        if op.carries == 0 {
            return Err(WriteError::NothingCarried);
        }
        let operands = self.view.graph.node(id).operands.clone();
        let read = self.read_results(id);
        let mut texts = Vec::new();
        for (at, operand) in operands.iter().enumerate() {
            texts.push(match at < op.carries {
                true => self.read(writer, *operand, id),
                false => self.atom(writer, *operand, id),
            });
        }
        let carries = self.inner_names(writer, &op.body, 0, op.carries);
        let inputs: Vec<Text> =
            carries.iter().map(Text::whole).chain(texts[op.carries..].iter().cloned()).collect();
        let pattern = self.bind_results(writer, id, &read);

        let inner = self.indent + INDENT;
        let before = std::mem::take(&mut writer.lines);
        let mut condition = Body::new(&op.condition, &inputs, inner, |_| true);
        let holds = condition.run(writer).map(|()| condition.outputs(writer).remove(0));
        let statements = std::mem::replace(&mut writer.lines, before);
        let holds = holds?;
        let after = carried(&carries, &texts);
        if statements.is_empty() {
            self.open(writer, id, &format!("let {pattern} = while {}{after} {{", holds.text));
        } else {
            self.open(writer, id, &format!("let {pattern} = while {{"));
            writer.lines.extend(statements);
            writer.line(inner, &holds.text);
            writer.line(self.indent, &format!("}}{after} {{"));
        }
        let mut body = Body::new(&op.body, &inputs, inner, |_| true);
        body.run(writer)?;
        let outputs = body.outputs(writer);
        let assigned = carries.iter().cloned().zip(outputs).collect();
        body.finish(writer, assigned, vec![]);
        let lasts: Vec<Text> = read.iter().map(|at| Text::whole(&carries[*at])).collect();
        writer.line(inner, &format!("last {}", joined(&lasts)));
        writer.line(self.indent, "}");
        Ok(())
    }

    pub(super) fn branch(&mut self, writer: &mut Writer, id: NodeId, op: &Branch) -> Written<()> {
        let operands = self.view.graph.node(id).operands.clone();
        let read = self.read_results(id);
        let mut inputs = Vec::new();
        for operand in &operands[1..] {
            inputs.push(self.atom(writer, *operand, id));
        }
        let mut condition = self.read(writer, operands[0], id);
        // What begins otherwise would be taken for an argument of a function called `branch`.
        if !condition.text.starts_with(|c: char| c.is_alphabetic() || c == '!') {
            self.bind(writer, operands[0]);
            condition = self.read(writer, operands[0], id);
        }
        let pattern = self.bind_results(writer, id, &read);
        self.open(writer, id, &format!("let {pattern} = branch {} {{", condition.text));
        for (at, side) in [&op.then, &op.otherwise].into_iter().enumerate() {
            if at == 1 {
                writer.line(self.indent, "} else {");
            }
            let mut body = Body::new(side, &inputs, self.indent + INDENT, |at| read.contains(&at));
            body.run(writer)?;
            let outputs = body.outputs(writer);
            let text = match &outputs[..] {
                [one] => one.text.clone(),
                several => list(several.iter().map(|text| &text.text)),
            };
            writer.line(body.indent, &text);
        }
        writer.line(self.indent, "}");
        Ok(())
    }
}

/// `, carry h = x, c = y`
fn carried(names: &[String], first: &[Text]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let carries = names.iter().zip(first).map(|(name, text)| format!("{name} = {}", text.text));
    format!(", carry {}", carries.collect::<Vec<_>>().join(", "))
}

fn joined(texts: &[Text]) -> String {
    texts.iter().map(|text| text.text.clone()).collect::<Vec<_>>().join(", ")
}
