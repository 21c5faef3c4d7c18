//! Which devices to run on, and how work is split over them.

use crate::error::Error;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thalweg_base::DeviceDescription;
use thalweg_device::{CpuDevice, Device};
use thalweg_partition::Strategy;
use thalweg_tensor::Mesh;

/// The most devices that one process may be split into; far more than any machine has cores.
const COUNT_MAX: usize = 1024;

/// Devices of this process: `cpu` is all threads of the processor as one device, `cpu:4` is four devices that share them.
///
/// ```
/// use thalweg::Devices;
/// assert_eq!("cpu:4".parse::<Devices>().unwrap().count(), 4);
/// assert!("gpu".parse::<Devices>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Devices {
    count: usize,
    threads: Option<usize>,
}

/// How work is split over several devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Split {
    /// Each takes a share of the batch; all hold every parameter.
    #[default]
    Data,
    /// Each holds a share of every large parameter; all see the whole batch.
    Tensor,
    /// Whatever the cost model finds fastest.
    Auto,
}

impl Devices {
    /// `count` devices that share the processor's threads. Fails for 0, and for more than 1024.
    pub fn cpu(count: usize) -> Result<Devices, Error> {
        match (1..=COUNT_MAX).contains(&count) {
            true => Ok(Devices { count, threads: None }),
            false => {
                let message = format!("there may be 1 to {COUNT_MAX}");
                Err(Error::Devices { text: format!("cpu:{count}"), message })
            }
        }
    }

    /// The same devices with this many threads each, at least one; otherwise they share those of the processor.
    pub fn with_threads(self, threads: usize) -> Devices {
        Devices { threads: Some(threads.max(1)), ..self }
    }

    /// The number of devices.
    pub fn count(self) -> usize {
        self.count
    }

    /// Threads of each device.
    pub fn threads(self) -> usize {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or((all / self.count).max(1))
    }

    /// What each device is, estimated without running anything.
    pub fn describe(self) -> DeviceDescription {
        let mut description = thalweg_device::detect(Some(self.threads()));
        description.memory_bytes /= self.count as u64;
        description
    }

    /// As [`describe`](Self::describe), with rates measured on all threads at once, which takes about a tenth of a second.
    pub fn measure(self) -> DeviceDescription {
        let mut description = thalweg_device::measure(Some(self.threads()));
        description.memory_bytes /= self.count as u64;
        description
    }

    /// That many devices to load programs on, each with its threads.
    pub(crate) fn open(self, count: usize) -> Vec<Arc<dyn Device>> {
        let devices = Devices { count, ..self };
        (0..count).map(|_| Arc::new(CpuDevice::new(devices.threads())) as Arc<dyn Device>).collect()
    }

    pub(crate) fn mesh(self, split: Split) -> Mesh {
        let axis = match split {
            Split::Data => "data",
            Split::Tensor => "model",
            Split::Auto => "devices",
        };
        match self.count {
            1 => Mesh::default(),
            count => Mesh::line(axis, count),
        }
    }
}

impl Split {
    pub(crate) fn strategy(self) -> Strategy {
        match self {
            Split::Data => Strategy::data(),
            Split::Tensor => Strategy::tensor(),
            Split::Auto => Strategy::Auto,
        }
    }
}

impl Default for Devices {
    fn default() -> Devices {
        Devices { count: 1, threads: None }
    }
}

impl FromStr for Devices {
    type Err = Error;

    fn from_str(text: &str) -> Result<Devices, Error> {
        let wrong = |message: &str| Error::Devices { text: text.to_string(), message: message.to_string() };
        let (kind, count) = match text.trim().split_once(':') {
            Some((kind, count)) => (kind, Some(count)),
            None => (text.trim(), None),
        };
        if kind != "cpu" {
            return Err(wrong("write `cpu`, or `cpu:4` for four devices"));
        }
        match count.map(str::parse::<usize>) {
            None => Ok(Devices::default()),
            Some(Ok(count)) => Devices::cpu(count),
            Some(Err(_)) => Err(wrong("after `cpu:` comes the number of devices, such as `cpu:4`")),
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => f.write_str("cpu"),
            count => write!(f, "cpu:{count}"),
        }
    }
}

impl FromStr for Split {
    type Err = Error;

    fn from_str(text: &str) -> Result<Split, Error> {
        match text {
            "data" => Ok(Split::Data),
            "tensor" => Ok(Split::Tensor),
            "auto" => Ok(Split::Auto),
            _ => Err(Error::Option(format!("work is split by `data`, `tensor` or `auto`, not `{text}`"))),
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Data => "data",
            Split::Tensor => "tensor",
            Split::Auto => "auto",
        })
    }
}
