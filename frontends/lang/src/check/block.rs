//! Statements.

use super::annotation::Site;
use super::call::is_tensor_type;
use super::frame::VarKind;
use super::value::Value;
use super::{Checked, Elaborator, Reported};
use crate::syntax::ast::{Block, Expr, Pattern, Stmt, StmtKind};
use thalweg_base::Diagnostic;

impl Elaborator<'_> {
    /// Runs a block in a scope of variables of its own. Statements with errors are passed over, so that those after them
    /// are checked too; the block then has no value.
    pub(crate) fn block(&mut self, block: &Block) -> Checked<Value> {
        self.frame_mut().blocks.push(Default::default());
        let result = self.statements(&block.statements);
        self.frame_mut().blocks.pop();
        result
    }

    /// Runs statements in the block that is open.
    pub(crate) fn statements(&mut self, statements: &[Stmt]) -> Checked<Value> {
        let mut result = Ok(Value::Unit);
        let mut failed = false;
        for (index, statement) in statements.iter().enumerate() {
            let outer = self.span.replace(statement.span);
            let last = index + 1 == statements.len();
            result = self.statement(statement, last);
            failed |= result.is_err();
            self.span = outer;
        }
        // A mistake in a `let` poisons its names and with them all that needs them; a value that does not is still good.
        match (failed, result) {
            (true, Ok(Value::Unit)) => Err(Reported),
            (_, result) => result,
        }
    }

    fn statement(&mut self, statement: &Stmt, last: bool) -> Checked<Value> {
        match &statement.kind {
            StmtKind::Let { mutable, pattern, ty, value } => {
                let kind = if *mutable { VarKind::Mutable } else { VarKind::Fixed };
                let value = self.eval(value).and_then(|value_now| match ty {
                    Some(ty) => {
                        let site =
                            Site { span: value.span, ty: ty.span, what: "this value".into(), code: "E0201" };
                        self.annotate(ty, value_now, &site)
                    }
                    None => Ok(value_now),
                });
                match value {
                    Ok(value) => self.bind(pattern, value, kind)?,
                    Err(Reported) => {
                        self.poison(pattern, kind);
                        return Err(Reported);
                    }
                }
                Ok(Value::Unit)
            }
            StmtKind::Assign { target, op, value } => {
                self.assign(target, *op, value, statement.span)?;
                Ok(Value::Unit)
            }
            StmtKind::For { pattern, over, body } => {
                let turns = self.iterable(over)?;
                let mut failed = false;
                for turn in turns {
                    self.frame_mut().blocks.push(Default::default());
                    let done = self.bind(pattern, turn, VarKind::Fixed).and_then(|()| self.block(body));
                    self.frame_mut().blocks.pop();
                    // What is wrong in one turn is wrong in the next, most of the time in the same words.
                    if done.is_err() {
                        failed = true;
                        break;
                    }
                }
                if failed { Err(Reported) } else { Ok(Value::Unit) }
            }
            StmtKind::Param(leaf) => self.parameter(leaf, false, statement.span).map(|()| Value::Unit),
            StmtKind::State(leaf) => self.parameter(leaf, true, statement.span).map(|()| Value::Unit),
            StmtKind::Yield(_) | StmtKind::Last(_) => {
                let word = if matches!(statement.kind, StmtKind::Yield(_)) { "yield" } else { "last" };
                let message = format!("`{word}` stands at the end of the body of a `scan` only");
                self.error("E0406", message, statement.span, "not the body of a scan")
            }
            StmtKind::Expr(expr) => {
                let value = self.eval(expr)?;
                if !last && !matches!(value, Value::Unit) {
                    let error = Diagnostic::error("E0409", "a value is not used")
                        .at(expr.span, format!("this is {}", value.describe()))
                        .help("only the last expression of a block is its value; give this one a name with `let`, or go on with an operator at the start of the next line");
                    return Err(self.fail(error));
                }
                Ok(value)
            }
            StmtKind::Error => Err(Reported),
        }
    }

    /// Checks a value against a written type, which also gives its dims names.
    fn annotate(&mut self, ty: &crate::syntax::ast::TypeExpr, value: Value, site: &Site) -> Checked<Value> {
        if !is_tensor_type(ty) {
            return self.check_static(ty, value, site.span, &site.what);
        }
        let mut deferred = Vec::new();
        let value = self.accept(ty, value, site, &mut deferred)?;
        self.settle(deferred)?;
        Ok(value)
    }

    /// The elements that a static loop runs over.
    pub(crate) fn iterable(&mut self, over: &Expr) -> Checked<Vec<Value>> {
        match self.eval(over)? {
            Value::List(values) => {
                self.take_turns(values.len() as i64, over.span)?;
                Ok(values.to_vec())
            }
            Value::Tensor(tensor) => {
                let error = Diagnostic::error(
                    "E0302",
                    "`for` runs over a range or list that is known when compiling",
                )
                .at(over.span, format!("this is a tensor {}", tensor.describe()))
                .help(
                    "to walk along a dim when the model runs, write `scan xt in x along dim, carry … { … }`",
                );
                Err(self.fail(error))
            }
            other => {
                let label = format!("this is {}", other.describe());
                self.error("E0303", "`for` runs over a range or a list", over.span, label)
            }
        }
    }

    /// Binds the names of a pattern.
    pub(crate) fn bind(&mut self, pattern: &Pattern, value: Value, kind: VarKind) -> Checked<()> {
        match pattern {
            Pattern::Name(name) => {
                self.declare(name, value, kind);
                Ok(())
            }
            Pattern::List(parts, span) => match value {
                Value::List(values) if values.len() == parts.len() => {
                    for (part, value) in parts.iter().zip(values.iter()) {
                        self.bind(part, value.clone(), kind.clone())?;
                    }
                    Ok(())
                }
                other => {
                    self.poison(pattern, kind);
                    let message = format!("a pattern of {} does not fit {}", parts.len(), other.describe());
                    let mut error =
                        Diagnostic::error("E0307", message).at(*span, format!("{} names", parts.len()));
                    if let Value::Tensor(_) = other {
                        error = error.help("`split(x, into: 3, along: -1)` makes a list of tensors");
                    }
                    Err(self.fail(error))
                }
            },
        }
    }

    /// Binds the names of a pattern to a value that silences what uses it.
    pub(crate) fn poison(&mut self, pattern: &Pattern, kind: VarKind) {
        match pattern {
            Pattern::Name(name) => self.declare(name, Value::Poison, kind),
            Pattern::List(parts, _) => parts.iter().for_each(|part| self.poison(part, kind.clone())),
        }
    }
}
