//! Files that are there whole or not at all, and the checksum that tells whether they stayed whole.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// FNV-1a in 64 bits (Fowler, Noll, Vo): tells damage, not malice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checksum(u64);

impl Checksum {
    pub(crate) fn new() -> Checksum {
        Checksum(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ *byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn digits(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// Writes a file through a temporary one beside it: until the last moment the old content stands, from then on the new.
/// When this returns, the content is on the disk. A link stays a link to what is written. Devices and pipes, such as
/// `/dev/stdout`, are written to as they are.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let whole = fs::canonicalize(path);
    let path = whole.as_deref().unwrap_or(path);
    if fs::metadata(path).is_ok_and(|data| !data.is_file() && !data.is_dir()) {
        let file = fs::OpenOptions::new().write(true).open(path).map_err(Error::io("write", path))?;
        let mut file = BufWriter::new(file);
        return write(&mut file).and_then(|()| file.flush()).map_err(Error::io("write", path));
    }
    let temporary = temporary(path);
    let result = write_synced(&temporary, write)
        .map_err(Error::io("write", path))
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io("write", path)));
    match result {
        Ok(()) => sync_folder(path),
        Err(error) => {
            // What was written so far is of no use, and a full disk needs the room; that it stays is no second error.
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// Writes a temporary file beside `path` and gives its name, for the caller to rename.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Writes a file and makes sure that its content is on the disk.
pub(crate) fn write_synced(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    write(&mut file)?;
    let file = file.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()
}

/// Makes sure that a rename in the folder of `path` is on the disk.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    // Folders can be opened on Unix only; elsewhere the rename is as durable as the system makes it.
    match cfg!(unix) {
        true => File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("write", folder)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of the authors' test suite (isthe.com/chongo/src/fnv/test_fnv.c).
    #[test]
    fn checksum_has_known_answers() {
        let of = |text: &str| {
            let mut sum = Checksum::new();
            sum.add(text.as_bytes());
            sum.digits()
        };
        assert_eq!(of(""), "cbf29ce484222325");
        assert_eq!(of("a"), "af63dc4c8601ec8c");
        assert_eq!(of("foobar"), "85944171f73967e8");
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_stay_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_atomically(&link, |to| to.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        write_atomically(Path::new("/dev/null"), |to| to.write_all(b"nothing")).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        // The device that is always full.
        let full = write_atomically(Path::new("/dev/full"), |to| to.write_all(b"anything"));
        assert!(matches!(full, Err(Error::Io { action: "write", .. })), "{full:?}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_atomically(&path, |file| file.write_all(b"old")).unwrap();
        let full = |file: &mut dyn Write| {
            file.write_all(b"new")?;
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        };
        let error = write_atomically(&path, full).unwrap_err();
        assert!(matches!(error, Error::Io { action: "write", .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
