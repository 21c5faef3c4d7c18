//! Files in memory.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::path::Path;

/// A file whose bytes are in memory as far as they are used, without a copy.
///
/// The file should not change while it is mapped: another process that writes into it changes the bytes, and one that cuts
/// it short lets the first use of what is gone end this process. Files of models are replaced, not written over, by all
/// programs that write them whole.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a regular file.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        // SAFETY: the map is private and only read. That nobody else cuts the file short is asked of the user, above; what
        // is read out of it is checked as any input is.
        let map = unsafe { Mmap::map(&file)? };
        Ok(MappedFile(map))
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
