//! Modules: the user's files and the standard library, parsed and indexed by name.

use crate::syntax::ast::{Const, Function, Ident, Item, Module, Train};
use crate::syntax::parse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use thalweg_base::{Diagnostic, SourceId, SourceMap, Span, define_id};

define_id! {
    /// A module of a program.
    ModuleId, "module"
}

/// The standard library: module name, file name, text. The prelude's names are known everywhere.
pub(crate) const STANDARD: [(&str, &str, &str); 5] = [
    ("prelude", "std/prelude.tw", include_str!("../std/prelude.tw")),
    ("nn", "std/nn.tw", include_str!("../std/nn.tw")),
    ("optim", "std/optim.tw", include_str!("../std/optim.tw")),
    ("init", "std/init.tw", include_str!("../std/init.tw")),
    ("random", "std/random.tw", include_str!("../std/random.tw")),
];

/// Modules that need no `use`.
pub(crate) const ALWAYS: [&str; 3] = ["init", "optim", "random"];

/// A function of the standard library.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LibraryItem {
    /// Its module; what is in `prelude` is known everywhere.
    pub module: &'static str,
    /// Its name.
    pub name: String,
    /// From its keyword to its result, on one line.
    pub signature: String,
    /// What its doc comment says; nothing for helpers of the library's own.
    pub doc: String,
}

/// Every function of the standard library, in the order of its files.
pub fn library() -> Vec<LibraryItem> {
    let mut items = Vec::new();
    for (module, _, text) in STANDARD {
        let (parsed, _) = parse(SourceId::new(0), text);
        for item in parsed.items {
            let Item::Function(function) = item else { continue };
            let signature = &text[function.span.start as usize..function.span.end as usize];
            let signature = signature.split_whitespace().collect::<Vec<_>>().join(" ");
            let signature = signature.replace("( ", "(").replace(", )", ")");
            items.push(LibraryItem {
                module,
                name: function.name.name.to_string(),
                signature,
                doc: function.doc.clone(),
            });
        }
    }
    items
}

/// What a name stands for at the top of a module.
#[derive(Clone)]
pub(crate) enum Entry {
    Const(Arc<Const>),
    Function(Arc<Function>),
    Module(ModuleId),
}

/// One module.
pub(crate) struct ModuleData {
    pub(crate) name: String,
    pub(crate) source: SourceId,
    pub(crate) standard: bool,
    pub(crate) entries: BTreeMap<Arc<str>, (Entry, Span)>,
    pub(crate) trains: Vec<Arc<Train>>,
    /// Functions in the order of the file.
    pub(crate) functions: Vec<Arc<Function>>,
}

/// All modules of a program.
#[derive(Default)]
pub(crate) struct Modules {
    pub(crate) all: Vec<ModuleData>,
    by_path: BTreeMap<String, ModuleId>,
}

impl Modules {
    pub(crate) fn get(&self, id: ModuleId) -> &ModuleData {
        &self.all[id.index()]
    }

    pub(crate) fn standard(&self, name: &str) -> Option<ModuleId> {
        self.by_path.get(&format!("std/{name}.tw")).copied()
    }

    /// Whether a source belongs to the standard library.
    pub(crate) fn is_standard(&self, source: SourceId) -> bool {
        self.all.iter().any(|module| module.standard && module.source == source)
    }
}

/// Reads modules one by one and the modules they use.
pub(crate) struct ModuleReader<'a> {
    pub(crate) sources: &'a mut SourceMap,
    pub(crate) modules: Modules,
    pub(crate) errors: Vec<Diagnostic>,
    pub(crate) load: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) reading: Vec<String>,
}

impl ModuleReader<'_> {
    /// Reads the standard library.
    pub(crate) fn standard(&mut self) {
        for (name, path, text) in STANDARD {
            self.read(name, path, text, true);
        }
    }

    /// Reads one module from its text.
    pub(crate) fn read(&mut self, name: &str, path: &str, text: &str, standard: bool) -> ModuleId {
        let source = self.sources.add(path, text);
        let (module, errors) = parse(source, text);
        self.errors.extend(errors);
        self.reading.push(path.to_string());
        let mut data = ModuleData {
            name: name.into(),
            source,
            standard,
            entries: BTreeMap::new(),
            trains: Vec::new(),
            functions: Vec::new(),
        };
        self.index(module, &mut data);
        self.reading.pop();
        self.modules.all.push(data);
        let id = ModuleId::new(self.modules.all.len() - 1);
        self.modules.by_path.insert(path.to_string(), id);
        id
    }

    fn index(&mut self, module: Module, data: &mut ModuleData) {
        for item in module.items {
            match item {
                Item::Use(item) => {
                    let Some(id) = self.find(&item.path, item.span) else { continue };
                    let name =
                        item.alias.as_ref().unwrap_or_else(|| item.path.last().expect("a path has a name"));
                    self.enter(data, name, Entry::Module(id));
                }
                Item::Const(item) => {
                    let name = item.name.clone();
                    self.enter(data, &name, Entry::Const(Arc::new(item)));
                }
                Item::Function(function) => {
                    self.enter(data, &function.name, Entry::Function(function.clone()));
                    data.functions.push(function);
                }
                Item::Train(train) => data.trains.push(train),
            }
        }
    }

    fn enter(&mut self, data: &mut ModuleData, name: &Ident, entry: Entry) {
        if let Some((_, first)) = data.entries.get(&name.name) {
            let error = Diagnostic::error("E0103", format!("`{}` is defined twice in this file", name.name))
                .at(name.span, "the second definition")
                .label(*first, "the first one");
            self.errors.push(error);
            return;
        }
        data.entries.insert(name.name.clone(), (entry, name.span));
    }

    fn find(&mut self, path: &[Ident], span: Span) -> Option<ModuleId> {
        let names: Vec<&str> = path.iter().map(|part| &*part.name).collect();
        if let [name] = names[..]
            && let Some(id) = self.modules.standard(name)
            && name != "prelude"
        {
            return Some(id);
        }
        let file = format!("{}.tw", names.join("/"));
        if let Some(id) = self.modules.by_path.get(&file) {
            return Some(*id);
        }
        if self.reading.contains(&file) {
            let error = Diagnostic::error("E0112", format!("`{}` uses itself", names.join(".")))
                .at(span, "this closes a circle of modules");
            self.errors.push(error);
            return None;
        }
        match (self.load)(&file) {
            Some(text) => Some(self.read(&names.join("."), &file, &text, false)),
            None => {
                let known: BTreeSet<&str> =
                    STANDARD.iter().map(|row| row.0).filter(|name| *name != "prelude").collect();
                let mut error =
                    Diagnostic::error("E0112", format!("there is no module `{}`", names.join(".")))
                        .at(span, format!("neither in the standard library nor a file `{file}`"));
                if let Some(close) = closest(names[0], known.iter().copied()) {
                    error = error.help(format!("did you mean `{close}`?"));
                }
                self.errors.push(error);
                None
            }
        }
    }
}

/// The candidate that was probably meant: the one at the least edit distance, if that is small for the length.
pub(crate) fn closest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    candidates
        .filter(|candidate| *candidate != name && !candidate.starts_with('_'))
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's edit distance, with a swap of neighbours counted as one edit (Damerau).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + (a[i - 1] != b[j - 1]) as usize;
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closest_finds_slips_and_nothing_else() {
        let names = ["linear", "layer_norm", "relu"];
        assert_eq!(closest("liner", names.into_iter()), Some("linear"));
        assert_eq!(closest("realu", names.into_iter()), Some("relu"));
        assert_eq!(closest("rleu", names.into_iter()), Some("relu"));
        assert_eq!(closest("conv", names.into_iter()), None);
    }
}
