//! The folder of a training run: metrics of every step, two checkpoints, and at the end the weights.

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::storage;
use crate::trainer::{StepReport, Trainer};
use crate::weights;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

const CHECKPOINT: &str = "checkpoint.safetensors";
const PREVIOUS: &str = "checkpoint.previous.safetensors";
const METRICS: &str = "metrics.jsonl";
const WEIGHTS: &str = "weights.safetensors";

/// A folder that a training writes to: `metrics.jsonl` (one object for each step), `checkpoint.safetensors`, the one before
/// as `checkpoint.previous.safetensors`, and `weights.safetensors`.
///
/// At whatever moment the process is killed, [`RunFolder::resume`] finds a whole checkpoint and metrics up to it at least.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: File,
}

/// Where a training went on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resumed {
    /// Steps that were done already; 0 when there was no checkpoint yet.
    pub step: usize,
    /// Checkpoints that could not be used, each with the reason.
    pub damaged: Vec<String>,
}

impl RunFolder {
    /// Begins a run in a folder, which is made where it is not there. What an earlier run left in it is removed.
    pub fn create(path: impl AsRef<Path>) -> Result<RunFolder> {
        let path = path.as_ref().to_path_buf();
        fs::create_dir_all(&path).map_err(Error::io("make", &path))?;
        remove_temporary(&path)?;
        for name in [CHECKPOINT, PREVIOUS, WEIGHTS] {
            let file = path.join(name);
            if file.exists() {
                fs::remove_file(&file).map_err(Error::io("remove", &file))?;
            }
        }
        let file = path.join(METRICS);
        let metrics = File::create(&file).map_err(Error::io("write", &file))?;
        Ok(RunFolder { path, metrics })
    }

    /// Goes on with the run of a folder: brings the trainer to the latest checkpoint that is whole, and cuts the metrics behind
    /// it off. Where there is no checkpoint the run begins anew. Fails when there are checkpoints, but none is whole or of this
    /// training.
    pub fn resume(path: impl AsRef<Path>, trainer: &mut Trainer) -> Result<(RunFolder, Resumed)> {
        let path = path.as_ref().to_path_buf();
        if path.exists() {
            remove_temporary(&path)?;
        }
        let mut damaged = Vec::new();
        let mut last_error = None;
        for name in [CHECKPOINT, PREVIOUS] {
            let file = path.join(name);
            if !file.exists() {
                continue;
            }
            match checkpoint::read(&file) {
                Ok((position, tensors)) => {
                    trainer.restore(&file, &position, tensors)?;
                    let metrics = continue_metrics(&path.join(METRICS), position.step)?;
                    return Ok((RunFolder { path, metrics }, Resumed { step: position.step, damaged }));
                }
                Err(error) => {
                    damaged.push(error.to_string());
                    last_error = Some(error);
                }
            }
        }
        match last_error {
            Some(error) => Err(error),
            None => Ok((RunFolder::create(&path)?, Resumed { step: 0, damaged })),
        }
    }

    /// Appends a step to the metrics.
    pub fn record(&mut self, report: &StepReport) -> Result<()> {
        let mut line = serde_json::to_vec(report).expect("a report is plain data");
        line.push(b'\n');
        self.metrics.write_all(&line).map_err(Error::io("write", &self.path.join(METRICS)))
    }

    /// Writes a checkpoint; the one that was there becomes the previous one. When this returns, both are on the disk.
    pub fn checkpoint(&mut self, trainer: &Trainer) -> Result<()> {
        let (current, previous) = (self.path.join(CHECKPOINT), self.path.join(PREVIOUS));
        let failed = Error::io("write", &current);
        // Metrics first: what a checkpoint says was done must be found in them.
        self.metrics.sync_data().map_err(Error::io("write", &self.path.join(METRICS)))?;
        let file = trainer.checkpoint()?;
        let temporary = storage::temporary(&current);
        let written = storage::write_synced(&temporary, |to| weights::write_to(to, &file));
        if let Err(error) = written {
            // The file is not whole, and a full disk needs the room; that it stays is no second error.
            let _ = fs::remove_file(&temporary);
            return Err(failed(error));
        }
        if current.exists() {
            fs::rename(&current, &previous).map_err(Error::io("write", &previous))?;
        }
        fs::rename(&temporary, &current).map_err(failed)?;
        storage::sync_folder(&current)
    }

    /// Ends a run: a last checkpoint, and the weights by themselves. Gives the path of the weights.
    pub fn finish(&mut self, trainer: &Trainer) -> Result<PathBuf> {
        self.checkpoint(trainer)?;
        let path = self.path.join(WEIGHTS);
        trainer.save_weights(&path)?;
        Ok(path)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes what a process that was killed while it wrote a file has left.
fn remove_temporary(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ours = [CHECKPOINT, WEIGHTS].iter().any(|own| name.starts_with(&format!("{own}.")));
        if ours && name.ends_with(".tmp") {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Opens metrics to append to, without the steps after `step` and without a last line that is not whole.
fn continue_metrics(path: &Path, step: usize) -> Result<File> {
    let failed = Error::io("read", path);
    let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(&failed)?;
    let mut reader = BufReader::new(&file);
    let mut keep = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line).map_err(&failed)?;
        let done =
            serde_json::from_slice::<serde_json::Value>(&line).ok().and_then(|line| line["step"].as_u64());
        match done {
            Some(done) if done <= step as u64 && line.ends_with(b"\n") => keep += bytes as u64,
            Some(_) | None => break,
        }
    }
    file.set_len(keep).map_err(Error::io("write", path))?;
    Ok(file)
}
