//! Memory for tensors on the host.

use bytemuck::{Pod, Zeroable};
use bytes::Bytes;
use std::sync::Arc;

/// One cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes that begin at a multiple of 64, so that vectors of any width lie within cache lines. Vectors of bytes promise no
/// alignment, and large ones begin 16 bytes into a page on most systems.
#[derive(Clone)]
pub struct Buffer {
    lines: Vec<Line>,
    bytes: usize,
}

impl Buffer {
    /// That many zeros.
    pub fn zeroed(bytes: usize) -> Buffer {
        Buffer { lines: bytemuck::zeroed_vec(bytes.div_ceil(64)), bytes }
    }

    /// A copy.
    pub fn copy_of(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::zeroed(bytes.len());
        buffer.as_mut().copy_from_slice(bytes);
        buffer
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.bytes]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.bytes]
    }
}

impl From<Buffer> for Bytes {
    fn from(buffer: Buffer) -> Bytes {
        Bytes::from_owner(buffer)
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes)
    }
}

/// A buffer that is used again once everybody to whom its bytes were given has dropped them.
#[derive(Clone, Debug, Default)]
pub struct Recycled(Option<Arc<Buffer>>);

/// What keeps a given buffer alive.
struct Given(Arc<Buffer>);

impl AsRef<[u8]> for Given {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().as_ref()
    }
}

impl Recycled {
    /// The buffer to write into: the last one if nobody holds it any more and it has that size, else a new one. What was in
    /// it may still be there.
    pub fn writable(&mut self, bytes: usize) -> &mut [u8] {
        let reusable =
            self.0.as_mut().is_some_and(|buffer| buffer.bytes == bytes && Arc::get_mut(buffer).is_some());
        if !reusable {
            self.0 = Some(Arc::new(Buffer::zeroed(bytes)));
        }
        let buffer = self.0.as_mut().and_then(Arc::get_mut).expect("nobody else holds it");
        buffer.as_mut()
    }

    /// The bytes that were written. Nothing when nothing was.
    pub fn give(&self) -> Bytes {
        self.0.as_ref().map_or_else(Bytes::new, |buffer| Bytes::from_owner(Given(Arc::clone(buffer))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_hold_what_they_are_given() {
        for count in [0, 1, 63, 64, 65, 1000] {
            let bytes: Vec<u8> = (0..count).map(|at| at as u8).collect();
            let shared = Bytes::from(Buffer::copy_of(&bytes));
            assert_eq!(shared, bytes);
            assert_eq!(shared.as_ptr() as usize % 64, 0, "{count} bytes");
        }
    }

    #[test]
    fn a_buffer_is_used_again_only_when_nobody_holds_it() {
        let mut recycled = Recycled::default();
        recycled.writable(100)[0] = 1;
        let first = recycled.give();
        let place = first.as_ptr();
        recycled.writable(100)[0] = 2;
        let second = recycled.give();
        assert_eq!((first[0], second[0]), (1, 2));
        drop(second);
        let held = recycled.writable(100).as_ptr();
        assert_ne!(held, place);
        let third = recycled.give();
        drop((first, third));
        assert_eq!(recycled.writable(100).as_ptr(), held);
        assert_eq!(recycled.writable(200).len(), 200);
    }
}
