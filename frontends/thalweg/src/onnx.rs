//! Models of the ONNX format: their files, and what they take, keep and give.

use crate::error::{Error, Result};
use crate::signature::{Signature, TensorInfo};
use crate::weights::Weights;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_base::{Bindings, Dim, Symbol};
use thalweg_device::MappedFile;
use thalweg_lang::Settings;
use thalweg_onnx::{Import, ImportError, ImportOptions, Imported, NodeProblem, Problem, Step};

/// A model with the file that it came from.
pub(crate) struct OnnxModel {
    path: PathBuf,
    model: thalweg_onnx::Model,
    /// The files in which the model's tensors lie.
    files: Vec<Arc<MappedFile>>,
}

/// A mapped file whose bytes are shared.
struct Shared(Arc<MappedFile>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().as_ref()
    }
}

/// What is known of a model before it is called.
pub(crate) struct Described {
    pub signature: Signature,
    pub weights: Weights,
}

impl OnnxModel {
    /// Maps a file into memory and decodes it. Tensors that lie in other files must be below the model's folder.
    pub fn from_file(path: &Path) -> Result<OnnxModel> {
        let files = RefCell::new(Vec::new());
        let map = |path: &Path| -> std::io::Result<Bytes> {
            let file = Arc::new(MappedFile::open(path)?);
            files.borrow_mut().push(Arc::clone(&file));
            Ok(Bytes::from_owner(Shared(file)))
        };
        let folder = path.parent().map_or(PathBuf::new(), Path::to_path_buf);
        let beside = |name: &str| map(&folder.join(name)).map_err(|error| error.to_string());
        let bytes = map(path).map_err(Error::io("read", path))?;
        let model = thalweg_onnx::Model::read(bytes, &beside);
        let model = model.map_err(|source| Error::Onnx { path: path.to_path_buf(), source })?;
        Ok(OnnxModel { path: path.to_path_buf(), model, files: files.into_inner() })
    }

    /// Lets the system have the memory back in which the file has these bytes; they are read again when they are used again.
    pub fn release(&self, bytes: &[u8]) {
        for file in &self.files {
            file.release(bytes);
        }
    }

    /// The model's own name, as an identifier.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// The model as it was read.
    pub fn model(&self) -> &thalweg_onnx::Model {
        &self.model
    }

    /// Whether all of it can be imported, as far as that can be told without a call. With open sizes, only what is wrong for any
    /// sizes is told.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        self.walk(settings).map(drop)
    }

    /// The model as one graph.
    pub fn import(&self, settings: &Settings) -> Result<Imported> {
        match self.walk(settings)? {
            Walked::Whole(imported) => Ok(*imported),
            Walked::NeedsSizes(error) => Err(self.error(self.with_hint(error, settings)?)),
            Walked::NeedsInput(name) => {
                let message = format!(
                    "shapes depend on the values of the input `{name}`, so the model is a graph only for a call"
                );
                Err(self.problem(
                    Problem::new(message).help("`thalweg run` and `thalweg bench` take it with --input"),
                ))
            }
            Walked::NeedsRun => {
                let message = "shapes depend on values that the model computes, so it is several graphs, which a call makes";
                Err(self.problem(Problem::new(message).help("`thalweg run` and `thalweg bench` do so")))
            }
        }
    }

    /// What the model takes, keeps and gives, as far as that can be told without a call.
    pub fn described(&self, settings: &Settings) -> Result<Described> {
        let sizes = self.sizes(settings)?;
        let list = |problems: Vec<NodeProblem>| self.error(ImportError::Model(problems));
        let mut inputs = Vec::new();
        for info in self.model.inputs().map_err(list)? {
            let Some(ty) = info.ty else {
                let message =
                    format!("the input `{}` is a list or optional; a call takes tensors", info.name);
                return Err(self.problem(Problem::new(message)));
            };
            inputs.push(TensorInfo { name: info.name, ty: ty.substitute(&sizes) });
        }
        let name = self.name().to_string();
        let doc = self.model.graph().doc_string.clone();
        match self.walk(settings)? {
            Walked::Whole(imported) => {
                let graph = Signature::of_graph(&imported.graph, &name, &doc);
                let known = |name: &str| graph.outputs.iter().find(|info| info.name == name).cloned();
                let declared = self.model.outputs();
                let outputs = declared.into_iter().map(|info| {
                    let ty = info.ty.map(|ty| TensorInfo { name: info.name.clone(), ty });
                    known(&info.name).or(ty)
                });
                let signature = Signature { inputs, outputs: outputs.flatten().collect(), ..graph };
                Ok(Described { signature, weights: imported.weights })
            }
            Walked::NeedsSizes(_) | Walked::NeedsInput(_) | Walked::NeedsRun => {
                let outputs = self.model.outputs().into_iter();
                let outputs =
                    outputs.filter_map(|info| Some(TensorInfo { name: info.name, ty: info.ty? })).collect();
                let weights = self.model.weights().map_err(|problem| self.problem(problem))?;
                let info = |(name, value): (&String, &thalweg_base::Literal)| TensorInfo {
                    name: name.clone(),
                    ty: thalweg_tensor::TensorType::new(value.dtype(), value.shape().iter().copied()),
                };
                let (parameters, states) =
                    weights.iter().map(info).partition(|info| info.ty.dtype.is_float());
                Ok(Described {
                    signature: Signature { name, doc, inputs, parameters, states, outputs },
                    weights,
                })
            }
        }
    }

    /// An error of importing, with the file.
    pub fn error(&self, source: ImportError) -> Error {
        Error::Onnx { path: self.path.clone(), source }
    }

    /// An error of open sizes, with what would bind them.
    fn with_hint(&self, error: ImportError, settings: &Settings) -> Result<ImportError> {
        let ImportError::Model(mut problems) = error else { return Ok(error) };
        let open: Vec<String> = self
            .symbols()?
            .iter()
            .filter(|symbol| !settings.contains_key(symbol.name()))
            .map(|symbol| format!("--set {symbol}=N"))
            .collect();
        let message = "this is so while sizes are open; it may fit for known ones";
        problems.push(NodeProblem::of_model(Problem::new(message).help(format!("give {}", open.join(" ")))));
        Ok(ImportError::Model(problems))
    }

    /// The symbols of the inputs' sizes.
    fn symbols(&self) -> Result<BTreeSet<Symbol>> {
        let infos = self.model.inputs().map_err(|problems| self.error(ImportError::Model(problems)))?;
        let mut symbols = BTreeSet::new();
        for dim in infos.iter().filter_map(|info| info.ty.as_ref()).flat_map(|ty| &ty.shape) {
            dim.symbols(&mut symbols);
        }
        Ok(symbols)
    }

    fn problem(&self, problem: Problem) -> Error {
        self.error(ImportError::Model(vec![NodeProblem::of_model(problem)]))
    }

    fn walk(&self, settings: &Settings) -> Result<Walked> {
        let options = ImportOptions { sizes: self.sizes(settings)?, ..ImportOptions::default() };
        let mut import = Import::new(&self.model, &options).map_err(|error| self.error(error))?;
        match import.advance() {
            Ok(Step::Done(imported)) => Ok(Walked::Whole(Box::new(imported))),
            Ok(Step::Input(name)) => Ok(Walked::NeedsInput(name)),
            Ok(Step::Stage(_)) => Ok(Walked::NeedsRun),
            // What is wrong with symbols may be right for the sizes of a call.
            Err(error) if self.has_open_sizes(&options.sizes)? => Ok(Walked::NeedsSizes(error)),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Whether inputs have sizes that are not bound.
    fn has_open_sizes(&self, sizes: &Bindings) -> Result<bool> {
        Ok(self.symbols()?.iter().any(|symbol| !sizes.contains_key(symbol)))
    }

    /// Settings as sizes of the model's symbols.
    fn sizes(&self, settings: &Settings) -> Result<Bindings> {
        let symbols = self.symbols()?;
        let mut sizes = Bindings::new();
        for (name, value) in settings {
            let symbol = Symbol::new(name);
            if !symbols.contains(&symbol) {
                let known: Vec<&str> = symbols.iter().map(Symbol::name).collect();
                let hint = match known.is_empty() {
                    true => "the model leaves no size open".to_string(),
                    false => format!("the sizes that the model leaves open are {}", known.join(", ")),
                };
                return Err(Error::Unknown { what: "size", name: name.clone(), hint: Some(hint) });
            }
            match value.parse::<u32>() {
                Ok(size) => sizes.insert(symbol, Dim::constant(size.into())),
                Err(_) => return Err(Error::Option(format!("`{value}` is no size for `{name}`"))),
            };
        }
        Ok(sizes)
    }
}

/// How far a model can be imported without a call.
enum Walked {
    Whole(Box<Imported>),
    /// Only for known sizes: what is wrong with open ones.
    NeedsSizes(ImportError),
    NeedsInput(String),
    NeedsRun,
}
