//! The command as its users see it: arguments in, text and exit codes out.

mod commands;
mod training;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of its own with a program in it.
struct Desk {
    folder: tempfile::TempDir,
}

const NET: &str = "\
use nn

/// Three classes of eight numbers.
model Net(x: f32[batch, 8]) -> f32[batch, 3] {
    let h = relu(nn.linear(x, 16) as hidden)
    nn.linear(h, 3) as out
}

train Net {
    data      = synthetic(rows: 200, classes: 3, holdout: 0.25)
    logits    = Net(data.x)
    loss      = nn.cross_entropy(logits, data.y)
    metrics   = { accuracy: nn.accuracy(logits, data.y) }
    optimizer = optim.adamw(lr: 0.01)
    batch     = 20
    epochs    = 4
}
";

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("net.tw"), NET).unwrap();
        Desk { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thalweg"));
        command.args(args).current_dir(self.folder.path()).env_remove("NO_COLOR");
        // The user's own cache is not touched.
        command.env("THALWEG_CACHE", self.path("cache"));
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// The one JSON object that a command prints.
    fn json(&self, args: &[&str]) -> serde_json::Value {
        let ran = self.run(&[args, &["--format", "json"]].concat());
        assert_eq!(ran.code, 0, "{}", ran.error);
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.out))
    }
}

/// What a command gave.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    error: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), error: text(output.stderr) }
    }
}

/// A little-endian .npy file of floats.
fn write_npy(path: &Path, rows: usize, columns: usize) {
    let values: Vec<f32> = (0..rows * columns).map(|at| at as f32 / 10.0).collect();
    thalweg::npy::write(path, &thalweg::Tensor::new(&[rows, columns], &values).unwrap()).unwrap();
}
