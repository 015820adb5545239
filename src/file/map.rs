//! The memory of a model file: a read-only shared mapping, or a private copy.
//!
//! A mapping shows what is in the file *now*. Whoever writes into the file in place changes our weights, and whoever cuts it short takes
//! pages away. Three things notice: [`Mapping::check_unchanged`] compares size and modification time, the same call compares the last
//! page (a file cut within its last page reads as zeros there), and access to a page that is gone ends in [`super::signal`].
//! A file that is replaced by a rename stays as it was for us: the mapping holds the old one.
#![allow(unsafe_code)] // mapping a file

use super::signal::{self, Registration};
use crate::bytes::AlignedBytes;
use crate::error::{Error, Result};
use memmap2::{Mmap, MmapOptions};
use std::fs::{File, Metadata};
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What must stay the same while a file is mapped. Not the change time: replacing the file by a rename changes that, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// An open regular file, before anything in it is looked at.
pub struct Source {
    file: File,
    path: PathBuf,
    stamp: Stamp,
}

/// A file mapped into memory.
pub struct Mapping {
    // Before `map`: fields are dropped in order, and the watch must end while the addresses are still ours.
    _watch: Registration,
    map: Mmap,
    source: Source,
}

impl Source {
    /// Opens a regular file, or a symbolic link to one, without ever waiting.
    ///
    /// # Errors
    /// Io if it cannot be opened; invalid if it is a folder, a pipe, a socket or a device.
    pub fn open(path: &Path) -> Result<Source> {
        let io = |e: &std::io::Error| Error::io("open", path, e);
        // Before opening: opening a device can have effects. O_NONBLOCK: a pipe that takes the place in between must not block.
        check_regular(path, &std::fs::metadata(path).map_err(|e| io(&e))?)?;
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| io(&e))?;
        let metadata = file.metadata().map_err(|e| io(&e))?;
        check_regular(path, &metadata)?;
        Ok(Source {
            file,
            path: path.to_path_buf(),
            stamp: Stamp::of(&metadata),
        })
    }

    /// Bytes of the file when it was opened.
    pub fn len(&self) -> u64 {
        self.stamp.size
    }

    /// Whether the file was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, to be read from its start.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Reads bytes from the start of the file until `out` is full or the file ends; returns how many.
    ///
    /// # Errors
    /// Io if reading fails.
    pub fn read_start(&self, out: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            match self.file.read_at(&mut out[filled..], filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == IoKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path, &e)),
            }
        }
        Ok(filled)
    }

    /// Maps the whole file.
    ///
    /// # Errors
    /// Io if the system refuses; limit if the file is larger than the address space.
    pub fn map(self) -> Result<Mapping> {
        let len = self.address_len()?;
        // SAFETY: the mapping is read-only. Another process can change the file under it, which no lock prevents; this crate reads
        // mapped memory only as bytes and f32, for which every bit pattern is valid, bounds never come from mapped memory
        // that was not copied first, and pages that vanish end in the SIGBUS handler. This is the agreed price of loading
        // without a copy.
        let map = unsafe { MmapOptions::new().len(len).map(&self.file) }
            .map_err(|e| Error::io("map", &self.path, &e))?;
        // What is not in memory yet is then read in huge pages, where the file system can: see `atomic`.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let message = format!(
            "quern: {:?}: the model file was cut short or its disk failed while it was in use",
            self.path
        );
        Ok(Mapping {
            _watch: signal::watch(&map, &message),
            map,
            source: self,
        })
    }

    /// Reads the whole file into private memory.
    ///
    /// # Errors
    /// Limit if the memory cannot be had; io if reading fails; changed if the file changes meanwhile.
    pub fn read(self) -> Result<AlignedBytes> {
        let mut bytes = AlignedBytes::zeroed(self.address_len()?, "the model file")?;
        let read = self.read_start(bytes.as_mut())?;
        self.check_stamp()?;
        if read as u64 != self.stamp.size {
            return Err(self.changed(format_args!(
                "{read} of {} bytes could be read",
                self.stamp.size
            )));
        }
        Ok(bytes)
    }

    fn address_len(&self) -> Result<usize> {
        usize::try_from(self.stamp.size).map_err(|_| {
            Error::limit(format_args!(
                "{:?}: {} bytes are more than this machine can address",
                self.path, self.stamp.size
            ))
        })
    }

    fn changed(&self, what: std::fmt::Arguments<'_>) -> Error {
        Error::changed(format_args!(
            "{:?}: the model file changed while it was in use: {what}",
            self.path
        ))
    }

    fn check_stamp(&self) -> Result<()> {
        let metadata = self
            .file
            .metadata()
            .map_err(|e| Error::io("examine", &self.path, &e))?;
        let now = Stamp::of(&metadata);
        if now.size != self.stamp.size {
            return Err(self.changed(format_args!(
                "it had {} bytes, now it has {}",
                self.stamp.size, now.size
            )));
        }
        if now != self.stamp {
            return Err(self.changed(format_args!("its modification time is another")));
        }
        Ok(())
    }
}

impl Mapping {
    /// Checks that nobody wrote into the file or cut it since it was opened; `last_page` is what its last page must be.
    ///
    /// Costs one system call and a comparison of one page.
    ///
    /// # Errors
    /// Changed.
    pub fn check_unchanged(&self, last_page: &[u8]) -> Result<()> {
        self.source.check_stamp()?;
        if !self.map.ends_with(last_page) {
            return Err(self
                .source
                .changed(format_args!("its last page is another")));
        }
        Ok(())
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

fn check_regular(path: &Path, metadata: &Metadata) -> Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let what = if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(Error::invalid(format_args!(
        "{path:?} is {what}, expected a model file"
    )))
}
