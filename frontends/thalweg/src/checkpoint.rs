//! Checkpoints: everything that the next steps of a training depend on, in one file.
//!
//! A checkpoint is a safetensors file of all parameters and states, what the optimizer remembers included, as global tensors:
//! it does not depend on how many devices there are. Its metadata has where the training is, as JSON under
//! `thalweg.training`, and under `thalweg.checksum` the FNV-1a checksum of that text and of every tensor's name, type and
//! bytes, which is compared when it is read.

use crate::error::{Error, Result};
use crate::storage::{self, Checksum};
use crate::trainer::Trainer;
use crate::weights::{self, TensorFile, Weights};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const TRAINING: &str = "thalweg.training";
const CHECKSUM: &str = "thalweg.checksum";

/// Where a training is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Position {
    pub model: String,
    /// Steps done. With the seed and the rows it also says where in the order of the data the training is.
    pub step: usize,
    pub seed: u64,
    pub batch: usize,
    /// Rows to train on.
    pub rows: usize,
    pub steps_total: usize,
    pub settings: BTreeMap<String, String>,
}

impl Position {
    /// Why a training cannot go on as the same one from here.
    pub fn differences(&self, other: &Position) -> Vec<String> {
        let mut problems = Vec::new();
        let mut differ = |what: &str, own: String, other: String| {
            if own != other {
                problems.push(format!("{what} is {own} in it, and {other} now"));
            }
        };
        differ("the model", format!("`{}`", self.model), format!("`{}`", other.model));
        differ("the seed", self.seed.to_string(), other.seed.to_string());
        differ("the batch", self.batch.to_string(), other.batch.to_string());
        differ("the number of training rows", self.rows.to_string(), other.rows.to_string());
        problems
    }
}

impl Trainer {
    /// Writes a checkpoint, whole or not at all; when this returns, it is on the disk.
    pub fn save_checkpoint(&self, path: impl AsRef<Path>) -> Result<()> {
        let file = self.checkpoint()?;
        storage::write_atomically(path.as_ref(), |to| weights::write_to(to, &file))
    }

    /// Goes on from a checkpoint: the next steps are those that the training which wrote it would have done next, to the last
    /// bit when devices and settings are the same. Fails when the checkpoint is damaged or of another training, and then
    /// changes nothing.
    pub fn resume(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let (position, tensors) = read(path.as_ref())?;
        self.restore(path.as_ref(), &position, tensors)
    }

    pub(crate) fn checkpoint(&self) -> Result<TensorFile> {
        let (position, tensors) = self.snapshot()?;
        let training = serde_json::to_string(&position).expect("a position is plain data");
        let checksum = checksum(&training, &tensors);
        let metadata = [(TRAINING.to_string(), training), (CHECKSUM.to_string(), checksum)].into();
        Ok(TensorFile { tensors, metadata })
    }
}

fn checksum(training: &str, tensors: &Weights) -> String {
    let mut sum = Checksum::new();
    sum.add(training.as_bytes());
    for (name, literal) in tensors {
        sum.add(format!("\n{name} {}{:?}\n", literal.dtype(), literal.shape()).as_bytes());
        sum.add(literal.bytes());
    }
    sum.digits()
}

/// Reads a checkpoint and compares its checksum.
pub(crate) fn read(path: &Path) -> Result<(Position, Weights)> {
    let file = weights::read(path)?;
    let (Some(training), Some(expected)) = (file.metadata.get(TRAINING), file.metadata.get(CHECKSUM)) else {
        return Err(Error::file(
            path,
            "this is no checkpoint; weights alone do not say where the training was",
        ));
    };
    if checksum(training, &file.tensors) != *expected {
        return Err(Error::file(path, "the checkpoint is damaged: its checksum does not fit its contents"));
    }
    let position = serde_json::from_str(training)
        .map_err(|error| Error::file(path, format!("the checkpoint is of another version ({error})")))?;
    Ok((position, file.tensors))
}
