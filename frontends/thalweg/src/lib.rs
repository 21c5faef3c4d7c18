//! Compile, train and run models: written in the `.tw` language, or of the ONNX format.
//!
//! [`Model`] reads a program or an ONNX file; [`Model::compile`] makes a [`Session`], which runs it on `ndarray` arrays; [`Model::trainer`]
//! makes a [`Trainer`], which trains it step by step. [`planning`] plans trainings for clusters. [`weights`] and [`npy`] read and write tensors, [`RunFolder`] keeps what a
//! training leaves behind, [`view`] draws graphs.
//!
//! Nothing here prints, reads environment variables or keeps global state; mistakes of every kind are [`Error`]s.
//!
//! ```
//! use thalweg::{CompileOptions, Model};
//! let text = "use nn\nmodel Net(x: f32[batch, 4]) -> f32[batch, 2] { nn.linear(x, 2) as out }";
//! let model = Model::from_source("net.tw", text)?;
//! let session = model.compile(&CompileOptions { seed: 7, ..CompileOptions::default() })?;
//! assert_eq!(session.signature().parameters[0].name, "out.weight");
//! let x = ndarray::Array2::<f32>::ones((3, 4));
//! let outputs = session.run(&[("x", x.view().into())])?;
//! assert_eq!(outputs.get("output")?.shape(), [3, 2]);
//! # Ok::<(), thalweg::Error>(())
//! ```

#![forbid(unsafe_code)]

mod cache;
mod checkpoint;
mod data;
mod devices;
mod error;
mod model;
pub mod npy;
mod onnx;
pub mod planning;
mod run_folder;
mod session;
mod signature;
mod storage;
mod tensor;
mod trainer;
pub mod view;
pub mod weights;

pub use cache::{CacheUsage, PlanCache};
pub use devices::{Devices, Split};
pub use error::{Diagnostics, Error, Result};
pub use model::{CompileOptions, Model, format};
pub use run_folder::{Resumed, RunFolder};
pub use session::{Outputs, Session, load_plan, save_plan, save_text};
pub use signature::{Signature, TensorInfo};
pub use tensor::{Element, Tensor};
pub use trainer::{Evaluation, StepReport, TrainOptions, Trainer};

pub use half::{bf16, f16};
pub use thalweg_base::{Bindings, DType, DeviceDescription, Dim, Symbol};
pub use thalweg_driver::{Report, Stage};
pub use thalweg_executor::{Trace, TraceEvent};
pub use thalweg_lang::{ModelGraph, Settings, TrainProgram, WrittenProgram};
pub use thalweg_plan::{Plan, Precision};
pub use thalweg_tensor::{Graph, TensorType};
