//! Every test that is about more than one module: conformance of all ops, graphs, partitioning, the shape of the workspace.

mod axes;
mod collective;
mod conformance;
mod cut_and_join;
mod dataflow;
mod empty;
mod fuzz;
mod gradient;
mod lowering;
mod narrow;
mod onnx_export;
mod partition;
mod places;
mod planning;
mod programs;
mod published;
mod random_graphs;
mod stages;
mod text;
mod tidy;
mod verifier;
mod windows;
