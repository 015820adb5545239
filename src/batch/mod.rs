//! Unattended work on many records: read, run side by side, written in order, gone on with after any interruption.
//!
//! ```text
//! input -> lines -> record -> (job -> schedule -> answer) -> line -> journal -> output
//!                      \______________ feed ______________/
//! ```
//! `record` says what a line asks for (with `fields` and `ask`), `feed` keeps what is under way, `schedule` runs it, `answer` writes what came of it, and
//! `journal` is what makes an interruption harmless. `survey` looks an input through before work begins, `resume` is what an earlier run left, `shard` and `merge` are
//! for work that is shared out.

pub mod answer;
pub mod ask;
pub mod feed;
pub mod fields;
pub mod flight;
pub mod identity;
pub mod job;
pub mod journal;
pub mod lines;
pub mod manifest;
pub mod merge;
pub mod notes;
pub mod prefix;
pub mod record;
pub mod resume;
pub mod schedule;
pub mod shard;
pub mod survey;

pub use job::{Answer, Feed, Generate, Job, Limits, Load, Next, Task, Totals};
pub use schedule::run;

use crate::error::{Error, ErrorKind, Result};
use std::fmt::Display;

/// Why a record has no answer: a code for programs and a message for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `invalid_request`, `unknown_field`, ...
    pub code: &'static str,
    /// One line.
    pub message: String,
}

impl Failure {
    /// A failure with its code.
    pub fn new(code: &'static str, message: impl Display) -> Failure {
        Failure {
            code,
            message: message.to_string(),
        }
    }

    /// A request that says something impossible.
    pub fn invalid(message: impl Display) -> Failure {
        Failure::new("invalid_request", message)
    }

    /// What is wrong with a request, found before anything was run.
    ///
    /// # Errors
    /// The error itself if it is about more than this record.
    pub fn of_request(e: Error) -> Result<Failure> {
        Failure::of(e, "invalid_request")
    }

    /// What went wrong while it ran.
    ///
    /// # Errors
    /// The error itself if it is about more than this record.
    pub fn of_run(e: Error) -> Result<Failure> {
        Failure::of(e, "generation_failed")
    }

    fn of(e: Error, code: &'static str) -> Result<Failure> {
        match e.kind() {
            ErrorKind::Io | ErrorKind::Changed => Err(e),
            ErrorKind::Limit => Ok(Failure::new("limit_exceeded", e)),
            ErrorKind::Partial | ErrorKind::Usage | ErrorKind::Invalid => Ok(Failure::new(code, e)),
        }
    }
}
