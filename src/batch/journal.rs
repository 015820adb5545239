//! The output of a batch as a journal: complete lines only, and beside it a manifest that says which run they belong to.
//!
//! ```text
//! OUT                one line per record, each written by one call; at most the last one can be torn
//! OUT.manifest.json  model, parameters, input: everything that decides about the lines
//! ```
//! A run holds a lock on OUT while it lives. One that was killed is gone on with by cutting what follows the last complete line and
//! working on from the record after it: the file is then the one that an uninterrupted run writes, byte by byte. Lines are
//! flushed to the disk at least every second while work goes on, and at the end.
//!
//! Where the output is a pipe, a terminal or a device there is no lock, no manifest and nothing to go on with.

use super::manifest::{self, Manifest};
use crate::error::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind as IoKind, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Lines may be lost to a power failure for so long, not longer.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// An output that is this run's alone.
pub struct Output {
    path: PathBuf,
    file: File,
    kind: Kind,
    /// Whether this run made the file, and nothing is in it yet.
    made: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A file that can be gone on with.
    Regular,
    /// Anything else.
    Stream,
}

/// What an interrupted run left.
pub trait Left {
    /// One complete line of it, without its end, in order.
    ///
    /// # Errors
    /// It is no line of such a run.
    fn line(&mut self, bytes: &[u8]) -> Result<()>;
}

impl Output {
    /// Opens and locks `path`, which is not changed yet.
    ///
    /// # Errors
    /// Io if it cannot be written. Usage if another run holds it, or if it has contents and `resume` is not asked for.
    pub fn open(path: &Path, resume: bool) -> Result<Output> {
        loop {
            let (file, made) = open_or_make(path)?;
            let about = |e: &io::Error| Error::io("examine", path, e);
            let metadata = file.metadata().map_err(|e| about(&e))?;
            if !metadata.is_file() {
                return Ok(Output::stream(path, file));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::usage(format_args!(
                        "{path:?} is being written by another run"
                    )));
                }
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", path, &e)),
            }
            // Whoever held it before may have taken it away again.
            let there = std::fs::metadata(path).map(|m| (m.dev(), m.ino()));
            if there.is_ok_and(|there| there != (metadata.dev(), metadata.ino()))
                || file.metadata().map_err(|e| about(&e))?.nlink() == 0
            {
                continue;
            }
            let output = Output {
                path: path.to_path_buf(),
                file,
                kind: Kind::Regular,
                made,
            };
            let size = output.file.metadata().map_err(|e| about(&e))?.len();
            if size > 0 && !resume {
                return Err(Error::usage(format_args!(
                    "{path:?} is there already: give --resume to go on with it, or another name"
                )));
            }
            return Ok(output);
        }
    }

    /// A pipe or a device that is open.
    pub fn stream(path: &Path, file: File) -> Output {
        Output {
            path: path.to_path_buf(),
            file,
            kind: Kind::Stream,
            made: false,
        }
    }

    /// Whether it can be gone on with.
    pub fn is_file(&self) -> bool {
        self.kind == Kind::Regular
    }

    /// The manifest of the run that is to be gone on with, if there is something to go on with.
    ///
    /// # Errors
    /// Io; usage if there are lines and no manifest; invalid if it is none.
    pub fn manifest(&self) -> Result<Option<Manifest>> {
        let size = self
            .file
            .metadata()
            .map_err(|e| self.failed("examine", &e))?
            .len();
        if self.kind == Kind::Stream || size == 0 {
            return Ok(None);
        }
        match manifest::path(&self.path).exists() {
            true => Manifest::read(&self.path).map(Some),
            false => Err(Error::usage(format_args!(
                "{:?} has no manifest beside it: it is not the output of a batch that can be gone on with",
                self.path
            ))),
        }
    }

    fn failed(&self, verb: &str, e: &io::Error) -> Error {
        Error::io(verb, &self.path, e)
    }

    /// Begins to write, or goes on if there are lines; these go to `left`.
    ///
    /// # Errors
    /// Usage if the lines are of a run with another manifest (the message says what differs). Io. What `left` returns. The lines stay as they are then.
    pub fn begin(mut self, manifest: &Manifest, left: &mut dyn Left) -> Result<Journal> {
        let mut journal = Journal {
            path: self.path.clone(),
            file: self.file.try_clone().map_err(|e| self.failed("open", &e))?,
            kind: self.kind,
            length: 0,
            dirty: false,
            saved: 0,
            synced: Instant::now(),
        };
        if self.kind == Kind::Stream {
            return Ok(journal);
        }
        match self.manifest()? {
            None => manifest.write(&self.path)?,
            Some(there) => {
                there.same_run(&self.path, manifest)?;
                journal.take(left)?;
            }
        }
        // From here on the file stays.
        self.made = false;
        Ok(journal)
    }
}

impl Drop for Output {
    /// A run that ends before it begins leaves no file behind.
    fn drop(&mut self) {
        if self.made {
            // Nothing can be done about a failure; an empty file is as good as none.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn open_or_make(path: &Path) -> Result<(File, bool)> {
    let open = |new: bool| {
        File::options()
            .read(true)
            .write(true)
            .create_new(new)
            .open(path)
    };
    loop {
        match open(false) {
            Ok(file) => return Ok((file, false)),
            Err(e) if e.kind() == IoKind::NotFound => {}
            // Pipes and devices may be there to be written only.
            Err(e) => {
                let special = std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir());
                let file = File::options().write(true).open(path);
                return match (special, file) {
                    (true, Ok(file)) => Ok((file, false)),
                    _ => Err(Error::io("write", path, &e)),
                };
            }
        }
        match open(true) {
            Ok(file) => return Ok((file, true)),
            // Somebody else was faster.
            Err(e) if e.kind() == IoKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create", path, &e)),
        }
    }
}

/// Where lines go.
pub struct Journal {
    path: PathBuf,
    file: File,
    kind: Kind,
    /// Bytes of complete lines.
    length: u64,
    /// Whether some of them are not known to be on the disk.
    dirty: bool,
    saved: u64,
    synced: Instant,
}

impl Journal {
    /// Reads the complete lines, cuts what follows them and stands behind them.
    fn take(&mut self, left: &mut dyn Left) -> Result<()> {
        let path = &self.path;
        let failed = |verb: &str, e: &io::Error| Error::io(verb, path, e);
        let mut lines = BufReader::with_capacity(1 << 16, &self.file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let n = lines.read_until(b'\n', &mut line);
            let n = n.map_err(|e| failed("read", &e))?;
            // A file system that lost power may have kept the length of a file and not its bytes: they are zeros, which JSON never has.
            if n == 0 || line.pop() != Some(b'\n') || line.contains(&0) {
                break;
            }
            let place = |e: Error| e.at(format_args!("{path:?}: line {}", self.saved + 1));
            left.line(&line).map_err(place)?;
            self.length += n as u64;
            self.saved += 1;
        }
        let size = self.file.metadata().map_err(|e| failed("examine", &e))?;
        if self.length < size.len() {
            let cut = self.file.set_len(self.length);
            cut.map_err(|e| failed("cut", &e))?;
        }
        let at = SeekFrom::Start(self.length);
        self.file.seek(at).map_err(|e| failed("read", &e))?;
        Ok(())
    }

    /// Complete lines so far, those that were left by an earlier run included.
    pub fn saved(&self) -> u64 {
        self.saved
    }

    /// Whether it can be gone on with.
    pub fn is_file(&self) -> bool {
        self.kind == Kind::Regular
    }

    /// Writes one record; `line` has no line feed.
    ///
    /// # Errors
    /// Io. A file then ends with the last complete line.
    pub fn write(&mut self, line: &str) -> Result<()> {
        let bytes = [line.as_bytes(), b"\n"].concat();
        if let Err(e) = self.file.write_all(&bytes) {
            if self.kind == Kind::Regular {
                // What was written of the line must not stay; where even this fails, resuming cuts it.
                let _ = self.file.set_len(self.length);
                let _ = self.file.seek(SeekFrom::Start(self.length));
                // What was saved is to be found after a power failure too.
                let _ = self.file.sync_data();
            }
            return Err(self.failed(&e));
        }
        self.length += bytes.len() as u64;
        self.dirty = true;
        self.saved += 1;
        self.tick()
    }

    /// Flushes to the disk if that is due.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub fn tick(&mut self) -> Result<()> {
        match self.dirty && self.synced.elapsed() >= SYNC_AFTER {
            true => self.sync(),
            false => Ok(()),
        }
    }

    /// Flushes everything to the disk.
    ///
    /// # Errors
    /// Io: a full disk may show only here.
    pub fn sync(&mut self) -> Result<()> {
        self.synced = Instant::now();
        if !std::mem::take(&mut self.dirty) || self.kind == Kind::Stream {
            return Ok(());
        }
        loop {
            match self.file.sync_data() {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == IoKind::Interrupted => {}
                Err(e) => return Err(self.failed(&e)),
            }
        }
    }

    /// Adds to an error that ended the run how far it came.
    pub fn with_saved(&self, e: Error) -> Error {
        let next = match self.kind {
            Kind::Regular => ", --resume goes on from there",
            Kind::Stream => "",
        };
        Error::new(
            e.kind(),
            format_args!("{e}; {} records saved{next}", self.saved),
        )
    }

    fn failed(&self, e: &io::Error) -> Error {
        Error::io("write", &self.path, e)
    }
}
