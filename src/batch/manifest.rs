//! What decides about the lines of an output, in a file beside it: lines of different runs are never mixed.

use crate::error::{Error, Result};
use crate::file::atomic::AtomicFile;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Longest manifest that is read.
const LONGEST: u64 = 4 << 20;
/// The only key that says how a run went and not what it is.
const FINISHED: &str = "finished";

/// Keys and values that decide about the lines of an output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest(Map<String, Value>);

/// Where the manifest of an output is.
pub fn path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".manifest.json");
    PathBuf::from(name)
}

impl Manifest {
    /// Says that `key` is `value`.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// A value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The same without a key.
    pub fn without(&self, key: &str) -> Manifest {
        let kept = self.0.iter().filter(|(name, _)| *name != key);
        Manifest(kept.map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    /// Notes that the run came to its end: so many records, of which so many failed.
    pub fn finish(&mut self, records: u64, failed: u64) {
        self.set(FINISHED, json!({"records": records, "failed": failed}));
    }

    /// How many records a finished run has, and how many of them failed.
    pub fn finished(&self) -> Option<(u64, u64)> {
        let finished = self.get(FINISHED)?;
        let number = |key: &str| finished.get(key)?.as_u64();
        Some((number("records")?, number("failed")?))
    }

    /// The manifest of an output.
    ///
    /// # Errors
    /// Io; invalid if it is no JSON object.
    pub fn read(output: &Path) -> Result<Manifest> {
        let path = path(output);
        let failed = |e: std::io::Error| Error::io("read", &path, &e);
        let file = File::open(&path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).map_err(failed)?;
        let map = serde_json::from_slice(&bytes).map_err(|e| {
            Error::invalid(format_args!(
                "{path:?}: {e}; expected the manifest of a batch"
            ))
        })?;
        Ok(Manifest(map))
    }

    /// Writes it beside an output; it appears complete or not at all.
    ///
    /// # Errors
    /// Io.
    pub fn write(&self, output: &Path) -> Result<()> {
        let mut file = AtomicFile::create(&path(output))?;
        let text = format!("{:#}\n", Value::Object(self.0.clone()));
        let written = file.write_all(text.as_bytes());
        written.map_err(|e| Error::io("write", file.target(), &e))?;
        file.commit()
    }

    /// Whether it is that of the same run.
    ///
    /// # Errors
    /// Usage: the first key whose value differs, with both.
    pub fn same_run(&self, output: &Path, here: &Manifest) -> Result<()> {
        match self.difference(here) {
            None => Ok(()),
            Some((key, there, here)) => Err(Error::usage(format_args!(
                "{output:?} belongs to another run: its {key} is {there}, now {here}"
            ))),
        }
    }

    /// A key whose value differs, with both values as text.
    pub fn difference(&self, other: &Manifest) -> Option<(String, String, String)> {
        let keys = self.0.keys().chain(other.0.keys());
        let mut keys = keys.filter(|key| *key != FINISHED);
        let key = keys.find(|key| self.get(key) != other.get(key))?;
        let show = |v: Option<&Value>| v.map_or("nothing".to_owned(), Value::to_string);
        Some((key.clone(), show(self.get(key)), show(other.get(key))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_compared_but_for_their_end() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let mut a = Manifest::default();
        a.set("seed", 7);
        a.set("model", "abc");
        a.write(&output).unwrap();
        let mut b = Manifest::read(&output).unwrap();
        assert_eq!(a, b);
        b.finish(10, 2);
        assert_eq!(b.finished(), Some((10, 2)));
        a.same_run(&output, &b).unwrap();
        b.set("seed", 8);
        let e = a.same_run(&output, &b).unwrap_err();
        assert_eq!(e.exit_code(), 2);
        assert!(e.to_string().ends_with("its seed is 7, now 8"), "{e}");
        let e = a.same_run(&output, &b.without("seed")).unwrap_err();
        assert!(e.to_string().ends_with("its seed is 7, now nothing"), "{e}");
    }
}
