//! Standard output and colour.
//!
//! Output goes through [`stdout`]: errors are exit 4, but for a pipe whose reader has left, which is remembered so that
//! [`super::main`] ends quietly with 0.

use crate::error::{Error, ErrorKind, Result};
use crate::json;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// `--color`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Data.
    Stdout,
    /// Messages.
    Stderr,
}

static COLOR: OnceLock<Color> = OnceLock::new();
static PIPE_CLOSED: AtomicBool = AtomicBool::new(false);

impl Stream {
    /// Whether the stream is a terminal.
    pub fn is_terminal(self) -> bool {
        match self {
            Stream::Stdout => std::io::stdout().is_terminal(),
            Stream::Stderr => std::io::stderr().is_terminal(),
        }
    }
}

impl Color {
    /// Whether this choice means colour on that stream (<https://no-color.org>: an empty NO_COLOR does not count).
    pub fn enabled(self, stream: Stream) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
                let dumb = std::env::var_os("TERM").is_none_or(|v| v == "dumb");
                stream.is_terminal() && !no_color && !dumb
            }
        }
    }
}

/// Records `--color`; the first call counts.
pub fn set_color(color: Color) {
    let _ = COLOR.set(color);
}

/// Whether to colour what goes to that stream.
pub fn color(stream: Stream) -> bool {
    COLOR.get().copied().unwrap_or(Color::Auto).enabled(stream)
}

/// Whether a write to standard output failed because its reader has gone.
pub fn pipe_closed() -> bool {
    PIPE_CLOSED.load(Ordering::Relaxed)
}

/// Standard output. Buffered by line on the way; [`Stdout::flush_now`] passes everything on.
#[derive(Debug)]
pub struct Stdout(std::io::Stdout);

/// The standard output of the process.
pub fn stdout() -> Stdout {
    Stdout(std::io::stdout())
}

/// The error of a failed write to standard output; notes a closed pipe.
pub fn write_error(e: &std::io::Error) -> Error {
    if e.kind() == std::io::ErrorKind::BrokenPipe {
        PIPE_CLOSED.store(true, Ordering::Relaxed);
    }
    Error::new(
        ErrorKind::Io,
        format_args!("cannot write standard output: {e}"),
    )
}

impl Stdout {
    /// Writes all bytes.
    ///
    /// # Errors
    /// Exit 4 with the system's message.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(|e| write_error(&e))
    }

    /// Writes a line.
    ///
    /// # Errors
    /// As [`Stdout::put`].
    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<()> {
        writeln!(self.0, "{text}").map_err(|e| write_error(&e))
    }

    /// Writes a value as one line of JSON, see [`json::one_line`].
    ///
    /// # Errors
    /// As [`Stdout::put`].
    pub fn json(&mut self, value: &impl serde::Serialize) -> Result<()> {
        let text = json::one_line(value)?;
        self.line(text)
    }

    /// Passes on what is buffered.
    ///
    /// # Errors
    /// As [`Stdout::put`].
    pub fn flush_now(&mut self) -> Result<()> {
        self.0.flush().map_err(|e| write_error(&e))
    }

    /// Passes on what is buffered; the last call of a command, so that a full disk is an error and not a silent loss.
    ///
    /// # Errors
    /// As [`Stdout::put`].
    pub fn finish(mut self) -> Result<()> {
        self.flush_now()
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).inspect_err(|e| {
            write_error(e);
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush().inspect_err(|e| {
            write_error(e);
        })
    }
}

/// Writes text and a line end to stderr; if stderr is gone, there is nobody left to tell.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The text with control characters other than line feed and tab made visible: `\u{1b}` for escape, so that a name from a file or
/// the text of a model cannot command the terminal. Covers C0, DEL, C1 and the bidirectional overrides.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if hidden {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(
            visible("a\u{1b}]52;c;x\u{7}b\n\tж"),
            "a\\u{1b}]52;c;x\\u{7}b\n\tж"
        );
        assert_eq!(visible("\u{9b}31m\u{7f}\r"), "\\u{9b}31m\\u{7f}\\u{d}");
        assert_eq!(visible("\u{202e}x"), "\\u{202e}x");
    }

    #[test]
    fn color_choice() {
        assert!(Color::Always.enabled(Stream::Stdout));
        assert!(!Color::Never.enabled(Stream::Stderr));
    }
}
