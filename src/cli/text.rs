//! Where a prompt comes from: an argument, a file, standard input.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

/// The text of a prompt.
#[derive(Debug, clap::Args)]
pub struct TextArgs {
    /// The text; what is piped into standard input goes before it
    #[arg(value_name = "PROMPT")]
    pub text: Option<OsString>,
    /// The same as PROMPT
    #[arg(
        short,
        long,
        value_name = "TEXT",
        conflicts_with = "text",
        allow_hyphen_values = true
    )]
    pub prompt: Option<OsString>,
    /// Read the text from this file (- is standard input); PROMPT follows it
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

impl TextArgs {
    fn argument(&self) -> Option<&OsString> {
        self.text.as_ref().or(self.prompt.as_ref())
    }

    /// The whole text: file or piped standard input first, then the argument, with nothing between them. One line end at the end of
    /// a file or of standard input is left out if nothing follows it: it belongs to the file and not to the text.
    ///
    /// # Errors
    /// Nothing was given (usage), unreadable (I/O), not UTF-8 (invalid: names the byte offset).
    pub fn read(&self) -> Result<String> {
        let (name, bytes) = match &self.file {
            Some(path) if path.as_os_str() != "-" => {
                let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
                (format!("{path:?}"), bytes)
            }
            Some(_) => ("standard input".to_owned(), read_stdin()?),
            None if stdin_is_piped() => ("standard input".to_owned(), read_stdin()?),
            None => (String::new(), Vec::new()),
        };
        let mut text = utf8(&name, bytes)?;
        match self.argument() {
            Some(argument) => {
                let bytes = argument.as_encoded_bytes().to_vec();
                text.push_str(&utf8("the prompt argument", bytes)?);
            }
            None => {
                if text.ends_with('\n') {
                    text.pop();
                    if text.ends_with('\r') {
                        text.pop();
                    }
                }
                if text.is_empty() {
                    return Err(Error::usage(if name.is_empty() {
                        "no prompt: give one as an argument, with -f FILE, --ids or through a pipe"
                            .to_owned()
                    } else {
                        format!("no prompt: {name} is empty")
                    }));
                }
            }
        }
        Ok(text)
    }
}

/// Whether standard input is something that was given to be read: a pipe, a file or a socket, and not a terminal or `/dev/null`.
pub fn stdin_is_piped() -> bool {
    if std::io::stdin().is_terminal() {
        return false;
    }
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        use std::os::unix::fs::FileTypeExt;
        let stdin = std::io::stdin();
        let Ok(copy) = stdin.as_fd().try_clone_to_owned() else {
            return false;
        };
        match std::fs::File::from(copy).metadata() {
            Ok(metadata) => {
                let kind = metadata.file_type();
                kind.is_fifo() || kind.is_file() || kind.is_socket()
            }
            Err(_) => false,
        }
    }
    #[cfg(not(unix))]
    true
}

fn read_stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("read", Path::new("standard input"), &e))?;
    Ok(bytes)
}

fn utf8(name: &str, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let byte = e.as_bytes()[at];
        Error::invalid(format_args!(
            "{name} is not UTF-8: byte {byte:#04x} at offset {at}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_utf8_names_the_offset() {
        let e = utf8("\"x\"", b"ab\xffc".to_vec()).unwrap_err();
        assert_eq!(e.to_string(), "\"x\" is not UTF-8: byte 0xff at offset 2");
        assert_eq!(e.exit_code(), 3);
        // A character that is cut off at the end.
        let e = utf8("x", b"\xd0\xb6\xd0".to_vec()).unwrap_err();
        assert!(e.to_string().ends_with("offset 2"), "{e}");
    }
}
