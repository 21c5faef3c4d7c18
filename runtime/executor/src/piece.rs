//! Which part of a global tensor a device holds, as runs of bytes.

use thalweg_base::Mesh;
use thalweg_device::{DeviceError, LoadedProgram};
use thalweg_plan::Port;

/// The piece of one port on one device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Where the device holds it.
    place: usize,
    /// Whether this device's copy is the one that is read: it is the first of those that hold the same.
    pub(crate) first: bool,
    /// The byte of the global tensor where the piece begins.
    start: usize,
    /// Bytes that lie together in both.
    run: usize,
    /// Extents and global strides in bytes of the dims outside of a run.
    outer: Vec<(usize, usize)>,
    /// How many runs there are.
    runs: usize,
}

impl Piece {
    pub(crate) fn new(port: &Port, mesh: &Mesh, rank: usize) -> Piece {
        let ranges = port.layout.ranges(&port.shape, mesh, rank);
        let cuts = |axis: &str| port.layout.cuts.iter().any(|(cut, _)| cut == axis);
        let first = mesh.axes.iter().all(|(axis, _)| cuts(axis) || mesh.coordinate(rank, axis) == 0);
        let mut strides = vec![port.dtype.size_bytes(); port.shape.len() + 1];
        for dim in (0..port.shape.len()).rev() {
            strides[dim] = strides[dim + 1] * port.shape[dim];
        }
        // Dims from here on are whole, so that a piece's rows of this dim lie together.
        let cut = (0..ranges.len()).rev().find(|dim| ranges[*dim].len() != port.shape[*dim]).unwrap_or(0);
        let run = ranges.get(cut).map_or(strides[0], |range| range.len() * strides[cut + 1]);
        let outer: Vec<_> = (0..cut).map(|dim| (ranges[dim].len(), strides[dim + 1])).collect();
        Piece {
            place: port.places[rank],
            first,
            start: ranges.iter().zip(&strides[1..]).map(|(range, stride)| range.start * stride).sum(),
            run,
            runs: if run == 0 { 0 } else { outer.iter().map(|(extent, _)| extent).product() },
            outer,
        }
    }

    /// Bytes of the piece.
    pub(crate) fn bytes(&self) -> usize {
        self.run * self.runs
    }

    /// Whether it is the global tensor.
    pub(crate) fn is_whole(&self) -> bool {
        self.runs == 1 && self.start == 0
    }

    /// Where the device holds it.
    pub(crate) fn place(&self) -> usize {
        self.place
    }

    /// The global byte where run `number` begins.
    fn global(&self, number: usize) -> usize {
        let (mut at, mut rest) = (self.start, number);
        for (extent, stride) in self.outer.iter().rev() {
            at += rest % extent * stride;
            rest /= extent;
        }
        at
    }

    /// Writes the device's piece of a global tensor.
    pub(crate) fn write(&self, program: &mut dyn LoadedProgram, global: &[u8]) -> Result<(), DeviceError> {
        for number in 0..self.runs {
            let start = self.global(number);
            program.write(self.place + number * self.run, &global[start..start + self.run])?;
        }
        Ok(())
    }

    /// Reads the device's piece into its part of a global tensor.
    pub(crate) fn read(&self, program: &dyn LoadedProgram, global: &mut [u8]) -> Result<(), DeviceError> {
        for number in 0..self.runs {
            let start = self.global(number);
            program.read(self.place + number * self.run, &mut global[start..start + self.run])?;
        }
        Ok(())
    }
}
