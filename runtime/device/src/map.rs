//! Files in memory.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::path::Path;

/// The smallest pages there are; where they are larger, advice about parts of them fails and nothing is lost.
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;

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

    /// Lets the system have the memory back in which `part` of the file lies; it is read again when it is used again. Nothing
    /// is done when `part` lies elsewhere.
    pub fn release(&self, part: &[u8]) {
        #[cfg(target_os = "linux")]
        {
            let offset = (part.as_ptr() as usize).checked_sub(self.0.as_ptr() as usize);
            let inside = offset.filter(|offset| offset + part.len() <= self.0.len());
            if let Some(offset) = inside {
                // Whole pages, also those that hold more: they are read again as well.
                let start = offset / PAGE * PAGE;
                // Only a hint: without it everything works, in more memory.
                // SAFETY: the map is of a file and only read, so pages that are given back are the same when they come again.
                let _ = unsafe {
                    let advice = memmap2::UncheckedAdvice::DontNeed;
                    self.0.unchecked_advise_range(advice, start, offset + part.len() - start)
                };
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = part;
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_released_is_read_again() {
        let folder = std::env::temp_dir().join(format!("thalweg-map-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("bytes");
        let bytes: Vec<u8> = (0..50_000usize).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = MappedFile::open(&path).unwrap();
        assert_eq!(file.as_ref(), bytes);
        for part in [0..50_000, 5_000..30_001, 49_999..50_000, 7..7] {
            file.release(&file.as_ref()[part]);
            assert_eq!(file.as_ref(), bytes);
        }
        file.release(&bytes[..10]);
        assert_eq!(bytes[9], 9, "what lies elsewhere is left alone");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
