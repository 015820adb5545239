//! Where entries come from: a line editor on a terminal, else lines of standard input.

use super::entry::{self, NAMES};
use super::history;
use crate::cli::output;
use crate::cli::signals;
use crate::error::{Error, Result};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{History, MemHistory};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Helper};
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

/// Longest entry from a pipe.
const MAX_ENTRY: u64 = 64 << 20;

/// What stands before what a person types.
const PROMPT: &str = "> ";

/// What came.
pub enum Event {
    /// An entry.
    Entry(String),
    /// Ctrl-C: the line is gone.
    Interrupted,
    /// There will be nothing more.
    End,
}

/// A source of entries.
pub enum Input {
    /// On a terminal.
    Terminal(Box<Terminal>),
    /// A pipe or a file.
    Lines(Lines),
    /// Nothing.
    Empty,
}

impl Input {
    /// The next entry.
    ///
    /// # Errors
    /// Io; invalid if a line is not UTF-8; limit if an entry is too long.
    pub fn next(&mut self) -> Result<Event> {
        match self {
            Input::Terminal(terminal) => terminal.next(),
            Input::Lines(lines) => lines.next(),
            Input::Empty => Ok(Event::End),
        }
    }
}

/// The line editor and its history.
pub struct Terminal {
    editor: rustyline::Editor<Rules, MemHistory>,
    history: Option<PathBuf>,
}

impl Terminal {
    /// An editor with a history in this file.
    ///
    /// # Errors
    /// Io, from the terminal. A history that cannot be read is a note.
    pub fn new(history: Option<PathBuf>) -> Result<Terminal> {
        let config = Config::builder()
            .max_history_size(history::MOST)
            .map_err(terminal_error)?
            .build();
        let mut past = MemHistory::with_config(&config);
        let mut file = history;
        if let Some(path) = &file {
            match history::load(path) {
                Ok(entries) => {
                    for entry in entries {
                        past.add_owned(entry).map_err(terminal_error)?;
                    }
                }
                Err(e) => {
                    output::note(format_args!("quern: no history: {e}"));
                    file = None;
                }
            }
        }
        let mut editor = rustyline::Editor::with_history(config, past).map_err(terminal_error)?;
        editor.set_helper(Some(Rules));
        Ok(Terminal {
            editor,
            history: file,
        })
    }

    fn next(&mut self) -> Result<Event> {
        let line = signals::at_prompt(|| self.editor.readline(PROMPT));
        match line {
            Ok(text) => {
                self.remember(&text)?;
                Ok(Event::Entry(text))
            }
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Ok(Event::Interrupted),
            Err(ReadlineError::Eof) => Ok(Event::End),
            Err(e) => Err(terminal_error(e)),
        }
    }

    fn remember(&mut self, text: &str) -> Result<()> {
        if text.trim().is_empty() {
            return Ok(());
        }
        let is_new = self
            .editor
            .add_history_entry(text)
            .map_err(terminal_error)?;
        if let (Some(path), true) = (&self.history, is_new)
            && let Err(e) = history::append(path, text)
        {
            output::note(format_args!("quern: the history ends here: {e}"));
            self.history = None;
        }
        Ok(())
    }
}

fn terminal_error(e: ReadlineError) -> Error {
    let e = match e {
        ReadlineError::Io(e) => e,
        other => std::io::Error::other(other.to_string()),
    };
    Error::io("read", Path::new("the terminal"), &e)
}

/// What the editor knows of entries: when they are whole, and the names of commands.
struct Rules;

impl Helper for Rules {}
impl Highlighter for Rules {}
impl Hinter for Rules {
    type Hint = String;
}

impl Validator for Rules {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match entry::is_open(context.input()) {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Completer for Rules {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..at).unwrap_or_default();
        let names = NAMES
            .iter()
            .filter(|name| typed.starts_with('/') && name.starts_with(typed));
        Ok((0, names.map(|name| (*name).to_owned()).collect()))
    }
}

/// Lines of standard input.
#[derive(Default)]
pub struct Lines {
    read: u64,
}

impl Lines {
    fn next(&mut self) -> Result<Event> {
        let stdin = std::io::stdin();
        let name = Path::new("standard input");
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            let left = MAX_ENTRY - text.len() as u64 + 1;
            let read = stdin.lock().take(left).read_until(b'\n', &mut line);
            if read.map_err(|e| Error::io("read", name, &e))? == 0 {
                return Ok(match text.is_empty() {
                    true => Event::End,
                    false => Event::Entry(text),
                });
            }
            self.read += 1;
            if (text.len() + line.len()) as u64 > MAX_ENTRY {
                return Err(Error::limit(format_args!(
                    "standard input: the entry that ends in line {} is longer than {MAX_ENTRY} bytes",
                    self.read
                )));
            }
            if line.ends_with(b"\n") {
                line.pop();
                if line.ends_with(b"\r") {
                    line.pop();
                }
            }
            let line = std::str::from_utf8(&line).map_err(|e| {
                Error::invalid(format_args!(
                    "standard input: line {} is not UTF-8 from its byte {} on",
                    self.read,
                    e.valid_up_to()
                ))
            })?;
            text.push_str(line);
            if !entry::is_open(&text) {
                return Ok(Event::Entry(text));
            }
            text.push('\n');
        }
    }
}
