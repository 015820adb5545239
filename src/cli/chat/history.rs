//! The history of what was typed: a file in the user's state folder that only the user can read, one JSON string per line.
//!
//! Entries are appended with one write each, so that several chats at a time do not cut each other's lines; lines that are no JSON strings are
//! passed over. When the file has grown it is replaced by one with its newest entries.

use crate::error::{Error, Result};
use crate::file::atomic::AtomicFile;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{ErrorKind as IoKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Entries that are kept.
pub const MOST: usize = 1000;
/// Bytes of the file that are read, from its end; a file that is longer is shortened.
const MOST_BYTES: u64 = 1 << 20;

/// Where the history is: `quern/history` in XDG_STATE_HOME, else in ~/.local/state; nowhere without a home.
pub fn path(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("quern/history"))
}

/// The newest entries, oldest first; none if there is no file yet.
///
/// # Errors
/// Io; usage if it is not a regular file.
pub fn load(path: &Path) -> Result<Vec<String>> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == IoKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("open", path, &e)),
    };
    let io = |e: std::io::Error| Error::io("read", path, &e);
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(Error::usage(format_args!(
            "{path:?} is not a regular file, expected the history of chats"
        )));
    }
    let skipped = metadata.len().saturating_sub(MOST_BYTES);
    file.seek(SeekFrom::Start(skipped)).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(io)?;
    // The first line of a part is usually not whole, and then no JSON.
    let mut entries: Vec<String> = bytes
        .split(|&b| b == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    entries.drain(..entries.len().saturating_sub(MOST));
    if skipped > 0 {
        shorten(path, &entries)?;
    }
    Ok(entries)
}

/// Replaces the file by one with half of what is read of it, so that this does not happen every time.
fn shorten(path: &Path, entries: &[String]) -> Result<()> {
    let mut lines = Vec::new();
    for entry in entries.iter().rev() {
        lines.push(line(entry)?);
        if lines.iter().map(Vec::len).sum::<usize>() as u64 > MOST_BYTES / 2 {
            break;
        }
    }
    lines.reverse();
    let mut file = AtomicFile::create(path)?;
    std::fs::set_permissions(file.path(), Permissions::from_mode(0o600))
        .and_then(|()| file.write_all(&lines.concat()))
        .map_err(|e| Error::io("write", path, &e))?;
    file.commit()
}

fn line(entry: &str) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(entry).map_err(Error::invalid)?;
    line.push(b'\n');
    Ok(line)
}

/// Adds an entry at the end.
///
/// # Errors
/// Io.
pub fn append(path: &Path, entry: &str) -> Result<()> {
    let line = line(entry)?;
    if line.len() as u64 > MOST_BYTES / 2 {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| Error::io("create", folder, &e))?;
    }
    let mut file = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| Error::io("open", path, &e))?;
    file.write_all(&line)
        .map_err(|e| Error::io("write", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_nobody_else_can_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/quern/history");
        assert_eq!(load(&path).unwrap(), Vec::<String>::new());
        for entry in ["one", "two\nlines \\ \"\u{1b}", "three"] {
            append(&path, entry).unwrap();
        }
        assert_eq!(
            load(&path).unwrap(),
            ["one", "two\nlines \\ \"\u{1b}", "three"]
        );
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        // What is not an entry is passed over.
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"garbage\n\xff\xfe\n\"four\"\n\"cut o")
            .unwrap();
        assert_eq!(load(&path).unwrap().len(), 4);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(load(&path).is_err());
        assert!(append(&path, "x").is_err());
    }

    #[test]
    fn a_long_history_is_shortened_to_its_newest_entries() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let many: Vec<u8> = (0..60_000)
            .flat_map(|i| line(&format!("entry number {i}")).unwrap())
            .collect();
        std::fs::write(&path, many).unwrap();
        let entries = load(&path).unwrap();
        assert_eq!(entries.len(), MOST);
        assert_eq!(entries[MOST - 1], "entry number 59999");
        let metadata = std::fs::metadata(&path).unwrap();
        assert!(metadata.len() < MOST_BYTES);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(load(&path).unwrap(), entries);
    }

    #[test]
    fn where_the_history_is() {
        let with = |state: Option<&str>, home: Option<&str>| {
            path(|name| {
                let value = if name == "HOME" { home } else { state };
                value.map(OsString::from)
            })
        };
        let home = Some("/home/x");
        assert_eq!(
            with(Some("/s"), home),
            Some(PathBuf::from("/s/quern/history"))
        );
        let default = Some(PathBuf::from("/home/x/.local/state/quern/history"));
        assert_eq!(with(None, home), default);
        assert_eq!(with(Some("relative"), home), default);
        assert_eq!(with(None, None), None);
    }
}
