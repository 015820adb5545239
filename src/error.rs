//! One error type for the whole program: a message for a person, a kind that decides the exit code.
//!
//! A message is one lower-case line: where (path, byte offset or field), what was found, what was expected. Text that comes from
//! a file is quoted with `{:?}`, so that control characters in it cannot reach a terminal.

use std::fmt;
use std::path::Path;

/// What kind of failure an [`Error`] is; each kind has one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A batch finished, but some of its records failed: exit 1.
    Partial,
    /// Wrong usage, or an output that is locked or belongs to another run: exit 2.
    Usage,
    /// An invalid model, tokenizer, template or input file: exit 3.
    Invalid,
    /// The operating system refused to read or write: exit 4.
    Io,
    /// A limit was reached (context, memory, time, template fuel): exit 5.
    Limit,
    /// The model file changed while it was running: exit 6.
    Changed,
}

/// A failure: its kind and one line for a person.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Error {
            kind,
            message: message.to_string(),
        }
    }

    /// A usage error (exit 2).
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// An invalid file or value (exit 3).
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A limit that was reached (exit 5).
    pub fn limit(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// A model that changed while it was in use (exit 6).
    pub fn changed(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Changed, message)
    }

    /// An operating-system error on `path` (exit 4, or 5 if memory is what it lacked): `cannot {verb} "{path}": ...`.
    pub fn io(verb: &str, path: &Path, e: &std::io::Error) -> Self {
        let kind = match e.kind() {
            std::io::ErrorKind::OutOfMemory => ErrorKind::Limit,
            _ => ErrorKind::Io,
        };
        Self::new(kind, format_args!("cannot {verb} {path:?}: {e}"))
    }

    /// The same error with a place in front: `{place}: {message}`.
    pub fn at(self, place: impl fmt::Display) -> Self {
        Error {
            kind: self.kind,
            message: format!("{place}: {}", self.message),
        }
    }

    /// The kind of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The exit code of the process that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ErrorKind::Partial => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Invalid => 3,
            ErrorKind::Io => 4,
            ErrorKind::Limit => 5,
            ErrorKind::Changed => 6,
        }
    }
}

/// Converts a failed allocation whose size came from input into a limit error.
pub fn out_of_memory(what: &str, bytes: usize) -> Error {
    Error::limit(format_args!(
        "not enough memory for {what}: {bytes} bytes are needed"
    ))
}
