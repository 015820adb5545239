//! A first look at an input that is a file: its hash, how many records it has, and whether two of them have one name.
//!
//! Names are compared by hashes of 16 bytes. Where there are more of them than memory is meant for, the file is read several times, each time for those
//! whose hashes lie in one range.

use super::identity::short_hash;
use super::lines::{Line, Lines};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;
use std::time::SystemTime;

/// Names that are compared at a time: some 200 MB of them.
const AT_ONCE: usize = 4 << 20;

/// What is known of an input before work begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Hash of all bytes, 64 hexadecimal digits.
    pub hash: String,
    /// How many lines are not blank.
    pub records: u64,
}

/// The names that a line may have.
#[derive(Deserialize)]
struct Names<'a> {
    #[serde(borrow, default)]
    custom_id: Option<Name<'a>>,
    #[serde(borrow, default)]
    id: Option<Name<'a>>,
}

/// A name, or something else in its place, which is found to be wrong later.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(IgnoredAny),
}

/// The name of a line, if it has one.
pub fn name_of(line: &[u8]) -> Option<Cow<'_, str>> {
    let names: Names = serde_json::from_slice(line).ok()?;
    match names.custom_id.or(names.id) {
        Some(Name::Text(text)) => Some(text),
        Some(Name::Other(IgnoredAny)) | None => None,
    }
}

/// Reads the file from its beginning and goes back there. `nameless`: what its lines are called does not matter.
///
/// # Errors
/// Io. Invalid: two lines with one name (names both).
pub fn survey(path: &Path, file: &mut File, nameless: bool) -> Result<Survey> {
    within(path, file, nameless, AT_ONCE)
}

/// The file as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64, Option<SystemTime>);

impl Stamp {
    /// As it is now.
    ///
    /// # Errors
    /// Io.
    pub fn of(path: &Path, file: &File) -> Result<Stamp> {
        let metadata = file.metadata();
        let metadata = metadata.map_err(|e| Error::io("examine", path, &e))?;
        Ok(Stamp(metadata.len(), metadata.modified().ok()))
    }

    /// The bytes that it had.
    pub fn bytes(&self) -> u64 {
        self.0
    }
}

/// Hashes what passes.
struct Hashing<'a> {
    file: &'a mut File,
    hasher: Option<blake3::Hasher>,
}

impl Read for Hashing<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(out)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&out[..n]);
        }
        Ok(n)
    }
}

fn within(path: &Path, file: &mut File, nameless: bool, at_once: usize) -> Result<Survey> {
    let failed = |e: io::Error| Error::io("read", path, &e);
    let mut out: Option<Survey> = None;
    // Hashes below this have been compared.
    let mut from = 0;
    loop {
        let mut to = u128::MAX;
        let mut names: HashMap<u128, u64> = HashMap::new();
        let hasher = out.is_none().then(blake3::Hasher::new);
        let hashing = Hashing {
            file: &mut *file,
            hasher,
        };
        let mut lines = Lines::new(BufReader::with_capacity(1 << 20, hashing));
        let mut records = 0;
        while let Some(line) = lines.read_line().map_err(failed)? {
            records += 1;
            let Some(hash) = hash_of(&line, nameless).filter(|hash| (from..=to).contains(hash))
            else {
                continue;
            };
            if let Some(first) = names.insert(hash, line.number) {
                let name = name_of(&line.bytes).unwrap_or_default();
                return Err(Error::invalid(format_args!(
                    "{path:?}: lines {first} and {} are both called {name:?}, expected names that differ",
                    line.number
                )));
            }
            while names.len() > at_once {
                to = from + (to - from) / 2;
                names.retain(|hash, _| *hash <= to);
            }
        }
        let hashing = lines.into_inner().into_inner();
        if let Some(hasher) = hashing.hasher {
            let hash = hasher.finalize().to_hex().to_string();
            out = Some(Survey { hash, records });
        }
        file.rewind().map_err(failed)?;
        match (to.checked_add(1), out.take()) {
            (None, Some(survey)) => return Ok(survey),
            (Some(next), survey) => (from, out) = (next, survey),
            (None, None) => {}
        }
    }
}

fn hash_of(line: &Line, nameless: bool) -> Option<u128> {
    if nameless || line.too_long.is_some() {
        return None;
    }
    name_of(&line.bytes).map(|name| short_hash(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn look(text: &str, at_once: usize) -> Result<Survey> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        within(Path::new("in.jsonl"), &mut file, false, at_once)
    }

    #[test]
    fn records_are_counted_and_the_hash_is_that_of_all_bytes() {
        let text = "{\"custom_id\":\"a\"}\n\nnonsense\n{\"id\":\"b\"}\n{\"id\":7}\n{\"id\":7}\n{}";
        for at_once in [1, 2, 100] {
            let survey = look(text, at_once).unwrap();
            assert_eq!(survey.records, 6);
            let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
            assert_eq!(survey.hash, hash);
        }
        assert_eq!(look("", 1).unwrap().records, 0);
    }

    #[test]
    fn two_of_one_name_are_found_however_little_memory_there_is() {
        let mut text: String = (0..200).map(|i| format!("{{\"id\":\"{i}\"}}\n")).collect();
        for at_once in [1, 3, 50, 1000] {
            assert_eq!(look(&text, at_once).unwrap().records, 200);
        }
        text.push_str("{\"custom_id\":\"1\\u0037\"}\n");
        for at_once in [1, 3, 50, 1000] {
            let e = look(&text, at_once).unwrap_err();
            assert_eq!(e.exit_code(), 3);
            let message = e.to_string();
            let part = "lines 18 and 201 are both called \"17\"";
            assert!(message.contains(part), "{at_once}: {message}");
        }
    }

    #[test]
    fn names_are_found_in_any_line() {
        assert_eq!(name_of(b"{\"x\":[1,{}],\"custom_id\":\"a\"}").unwrap(), "a");
        assert_eq!(name_of(b"{\"id\":\"b\",\"x\":1e5}").unwrap(), "b");
        for none in ["{\"id\":5}", "{\"id\":null}", "[]", "{", "{\"x\":\"id\"}"] {
            assert_eq!(name_of(none.as_bytes()), None, "{none}");
        }
    }
}
