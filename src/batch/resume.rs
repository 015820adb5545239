//! What an earlier run left, as far as it matters for going on; and the file that the lines of failed records go to as well.

use super::answer::Place;
use super::identity::Identity;
use super::journal::Left;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Which records have lines already.
#[derive(Debug, Default)]
pub struct Resumed {
    /// How many.
    count: u64,
    /// How many of them failed, by code.
    pub failures: BTreeMap<String, u64>,
    kept: Kept,
}

/// What is kept of every line.
#[derive(Debug, Default)]
enum Kept {
    /// Nothing: they are the first ones of an input that is known to be the same.
    #[default]
    Count,
    /// Their names, in order: they are the first ones of an input that may be another.
    InOrder(Vec<Identity>),
    /// Their names: they are any ones.
    Any(HashSet<Identity>),
}

impl Resumed {
    /// For lines in the order of the input, or in any; `known`: the input is known to be the same.
    pub fn new(in_order: bool, known: bool) -> Resumed {
        let kept = match (in_order, known) {
            (true, true) => Kept::Count,
            (true, false) => Kept::InOrder(Vec::new()),
            (false, _) => Kept::Any(HashSet::new()),
        };
        Resumed {
            kept,
            ..Resumed::default()
        }
    }

    /// Whether the record at `place`, the `own`th of this run from 0, has its line.
    ///
    /// # Errors
    /// Usage: there is a line of another record in its place.
    pub fn has(&self, own: u64, place: &Place) -> Result<bool> {
        match &self.kept {
            Kept::Count => Ok(own < self.count),
            Kept::Any(names) => Ok(names.contains(&place.identity())),
            Kept::InOrder(names) => {
                let Some(name) = usize::try_from(own).ok().and_then(|i| names.get(i)) else {
                    return Ok(false);
                };
                match *name == place.identity() {
                    true => Ok(true),
                    false => Err(Error::usage(format_args!(
                        "line {} of the input is not the record that line {} of the output answers: the input is not that of the run to be gone on with",
                        place.line,
                        own + 1
                    ))),
                }
            }
        }
    }
}

/// As much of a line as matters.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    index: Option<u64>,
    #[serde(borrow, default)]
    error: Option<Problem<'a>>,
}

#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
}

/// Reads what an earlier run left.
pub struct Reading<'r> {
    /// What becomes known.
    pub resumed: &'r mut Resumed,
    /// Where the lines of failed records go.
    pub errors: Option<&'r mut ErrorLines>,
}

impl Left for Reading<'_> {
    fn line(&mut self, bytes: &[u8]) -> Result<()> {
        let wrong = |e: &dyn std::fmt::Display| {
            Error::invalid(format_args!("{e}; expected a line of a batch's output"))
        };
        let head: Head = serde_json::from_slice(bytes).map_err(|e| wrong(&e))?;
        self.resumed.count += 1;
        if let Some(problem) = &head.error {
            let count = self.resumed.failures.entry(problem.code.to_string());
            *count.or_default() += 1;
            if let Some(errors) = &mut self.errors {
                errors.write(bytes)?;
            }
        }
        if matches!(self.resumed.kept, Kept::Count) {
            return Ok(());
        }
        let identity = match (head.index, &head.id) {
            (Some(index), id) => Some(Identity::of_plain(index, id.as_deref())),
            (None, Some(name)) => {
                let hex = name.strip_prefix("batch_req_");
                hex.and_then(Identity::from_hex)
            }
            (None, None) => None,
        };
        let identity = identity.ok_or_else(|| wrong(&"it does not say which record it answers"))?;
        match &mut self.resumed.kept {
            Kept::Count => {}
            Kept::InOrder(names) => names.push(identity),
            Kept::Any(names) => {
                names.insert(identity);
            }
        }
        Ok(())
    }
}

/// A second file for the lines of failed records. It is made anew whenever a run begins or is gone on with, and so always says what the output says.
pub struct ErrorLines {
    path: PathBuf,
    file: File,
    begun: bool,
}

impl ErrorLines {
    /// Opens and locks it, unchanged.
    ///
    /// # Errors
    /// Io; usage if another run holds it.
    pub fn open(path: &Path) -> Result<ErrorLines> {
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|e| Error::io("write", path, &e))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::usage(format_args!(
                "{path:?} is being written by another run"
            )));
        }
        Ok(ErrorLines {
            path: path.to_path_buf(),
            file,
            begun: false,
        })
    }

    /// Forgets what was in it before this run, once.
    ///
    /// # Errors
    /// Io.
    pub fn begin(&mut self) -> Result<()> {
        let regular = self.file.metadata().is_ok_and(|m| m.is_file());
        if !std::mem::replace(&mut self.begun, true) && regular {
            let emptied = self.file.set_len(0);
            emptied.map_err(|e| Error::io("write", &self.path, &e))?;
        }
        Ok(())
    }

    /// Adds a line.
    ///
    /// # Errors
    /// Io.
    pub fn write(&mut self, line: &[u8]) -> Result<()> {
        self.begin()?;
        let written = self.file.write_all(&[line, b"\n"].concat());
        written.map_err(|e| Error::io("write", &self.path, &e))
    }
}
