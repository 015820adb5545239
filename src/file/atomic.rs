//! A file that appears under its name complete, or not at all.
//!
//! Written under a temporary name in the same folder, `.NAME.quern-tmp-PID-N`; [`AtomicFile::commit`] flushes it to the disk and renames
//! it; dropping it without that removes it. While it is written its writer holds a lock on it, so whoever writes the same target
//! later can tell the remains of a killed process from a file in use, and removes the former.
//!
//! Replacing a file that a process has mapped is safe: that process keeps the old one.

use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind as IoKind, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const MARK: &str = ".quern-tmp-";

/// Bytes that are handed to the system at once, and start at a multiple of themselves: a huge page. File systems that keep large folios then
/// keep these bytes as one, and a mapping of the file has entries of that size: with small ones, reading a model is a third slower.
const CHUNK: usize = 2 << 20;

/// A file being written.
pub struct AtomicFile {
    file: File,
    /// Bytes that were not handed to the system yet, and where in the file they begin.
    pending: Vec<u8>,
    at: u64,
    target: PathBuf,
    folder: PathBuf,
    /// The temporary name; none once renamed.
    temporary: Option<PathBuf>,
}

impl AtomicFile {
    /// Begins a file that will be called `path`; a symbolic link there is followed. Removes what killed writers of the same file left.
    ///
    /// # Errors
    /// Usage if `path` is there and is not a regular file, or has no file name; io if the folder cannot be written.
    pub fn create(path: &Path) -> Result<AtomicFile> {
        let target = resolve(path)?;
        let Some(name) = target.file_name() else {
            return Err(Error::usage(format_args!(
                "{path:?} has no file name, expected the name of a file to write"
            )));
        };
        let folder = match target.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(MARK);
        remove_stale(&folder, &prefix);
        for attempt in 0..100 {
            let mut temporary = prefix.clone();
            temporary.push(format!("{}-{attempt}", std::process::id()));
            let temporary = folder.join(temporary);
            let created = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&temporary);
            let file = match created {
                Ok(file) => file,
                // Another writer of this process has that name.
                Err(e) if e.kind() == IoKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io("create", &temporary, &e)),
            };
            // From here on the temporary file is removed on every way out.
            let out = AtomicFile {
                file,
                pending: Vec::new(),
                at: 0,
                target: target.clone(),
                folder: folder.clone(),
                temporary: Some(temporary),
            };
            // Between creating and locking, somebody who looks for stale files may have taken and removed it: then try again.
            match out.file.try_lock() {
                Err(TryLockError::WouldBlock) => continue,
                // Some network file systems have no locks; then nobody removes stale files there either.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            match out.file.metadata() {
                Ok(m) if m.nlink() == 0 => continue,
                Ok(_) => return Ok(out),
                Err(e) => return Err(Error::io("examine", out.path(), &e)),
            }
        }
        Err(Error::new(
            crate::error::ErrorKind::Io,
            format_args!("cannot find a free temporary name for {path:?} in {folder:?}"),
        ))
    }

    /// The temporary name while it is written, the final one afterwards.
    pub fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.target)
    }

    /// The final name.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Flushes the data to the disk.
    ///
    /// # Errors
    /// Io: a full disk may show only here.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()
            .and_then(|()| retry(|| self.file.sync_all()))
            .map_err(|e| Error::io("write", &self.target, &e))
    }

    /// Flushes everything to the disk and gives the file its final name.
    ///
    /// # Errors
    /// Io; then the temporary file is removed and the target is as it was.
    pub fn commit(mut self) -> Result<()> {
        self.sync()?;
        // The target may have become something else meanwhile; rename would replace even a device.
        check_target(&self.target)?;
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.target)
                .map_err(|e| Error::io("rename a temporary file to", &self.target, &e))?;
            self.temporary = None;
        }
        let folder = File::open(&self.folder).map_err(|e| Error::io("open", &self.folder, &e))?;
        match retry(|| folder.sync_all()) {
            // Some file systems cannot flush a folder; they have no need for it or no way.
            Err(e) if !matches!(e.kind(), IoKind::InvalidInput | IoKind::Unsupported) => {
                Err(Error::io("write", &self.folder, &e))
            }
            _ => Ok(()),
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.at as usize % CHUNK + self.pending.len();
        let taken = bytes.len().min(CHUNK - end % CHUNK);
        self.pending.extend_from_slice(&bytes[..taken]);
        if (end + taken).is_multiple_of(CHUNK) {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.pending)?;
        self.at += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.flush()?;
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing can be done about a failure here; the next writer of this target tries again.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

fn retry(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(e) if e.kind() == IoKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The file that a symbolic link names, or the path itself.
fn resolve(path: &Path) -> Result<PathBuf> {
    let io = |e: &io::Error| Error::io("create", path, e);
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == IoKind::NotFound => Ok(path.to_path_buf()),
        Err(e) => Err(io(&e)),
        Ok(m) if m.is_symlink() => {
            let target = std::fs::canonicalize(path).map_err(|e| io(&e))?;
            check_target(&target)?;
            Ok(target)
        }
        Ok(_) => {
            check_target(path)?;
            Ok(path.to_path_buf())
        }
    }
}

fn check_target(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(m) if !m.is_file() => Err(Error::usage(format_args!(
            "{path:?} is there and is not a regular file: it is not replaced"
        ))),
        _ => Ok(()),
    }
}

/// Removes temporary files of this target whose writers are gone: their locks are free.
fn remove_stale(folder: &Path, prefix: &OsStr) {
    // Tidying up is no reason to fail: errors mean that something stays.
    let Ok(listing) = std::fs::read_dir(folder) else {
        return;
    };
    for item in listing.flatten() {
        let name = item.file_name();
        if !name
            .as_encoded_bytes()
            .starts_with(prefix.as_encoded_bytes())
        {
            continue;
        }
        let path = item.path();
        if !item.file_type().is_ok_and(|t| t.is_file()) {
            continue;
        }
        if let Ok(file) = File::options().write(true).open(&path)
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_and_order_make_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let expected: Vec<u8> = (0..2 * CHUNK + 12_345)
            .map(|i| (i * 7 % 251) as u8)
            .collect();
        let mut file = AtomicFile::create(&path).unwrap();
        // The head last, as weight files are written.
        file.seek(SeekFrom::Start(1000)).unwrap();
        let mut rest = &expected[1000..];
        for size in [1, CHUNK - 1001, 3, 4096, CHUNK + 1, usize::MAX] {
            let (piece, others) = rest.split_at(size.min(rest.len()));
            file.write_all(piece).unwrap();
            rest = others;
        }
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&expected[..1000]).unwrap();
        assert!(!path.exists());
        file.commit().unwrap();
        assert!(std::fs::read(&path).unwrap() == expected);
    }
}
