//! Shards of one input as the one output that a run without shards writes.

use super::manifest::Manifest;
use super::shard::{Choice, Shard};
use crate::error::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Outputs that belong together, in order, all of them whole.
pub struct Shards {
    files: Vec<Part>,
    manifest: Manifest,
    in_order: bool,
}

struct Part {
    path: PathBuf,
    lines: BufReader<File>,
    shard: Shard,
    records: u64,
    failed: u64,
}

/// What was merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Lines.
    pub records: u64,
    /// How many of them say that their record failed.
    pub failed: u64,
}

impl Shards {
    /// Opens outputs, in whatever order they are named, and compares their manifests.
    ///
    /// # Errors
    /// Io. Usage: one is being written, is not finished or is no shard; they are of different runs, one is missing or there twice.
    pub fn open(paths: &[PathBuf]) -> Result<Shards> {
        let mut files = Vec::new();
        let mut common: Option<(Manifest, &Path)> = None;
        for path in paths {
            let (part, manifest) = Part::open(path)?;
            let manifest = manifest.without("shard").without("finished");
            match &common {
                None => common = Some((manifest, path)),
                Some((first, other)) => {
                    if let Some((key, a, b)) = first.difference(&manifest) {
                        return Err(Error::usage(format_args!(
                            "{path:?} is of another run than {other:?}: its {key} is {b}, there {a}"
                        )));
                    }
                }
            }
            files.push(part);
        }
        let Some((manifest, _)) = common else {
            return Err(Error::usage(
                "there is nothing to merge: expected the outputs of all shards",
            ));
        };
        files.sort_by_key(|part| part.shard.number);
        let of = files[0].shard.of;
        for (number, part) in (1..).zip(&files) {
            let Shard { number: own, of: n } = part.shard;
            if n != of {
                return Err(Error::usage(format_args!(
                    "{:?} is shard {}, but {:?} is {}: expected shards of one number",
                    part.path, part.shard, files[0].path, files[0].shard
                )));
            }
            if own < number {
                return Err(Error::usage(format_args!(
                    "{:?} is shard {own}/{of} a second time",
                    part.path
                )));
            }
            if own > number {
                return Err(missing(number, of));
            }
        }
        if (files.len() as u64) < of {
            return Err(missing(files.len() as u64 + 1, of));
        }
        let records: u64 = files.iter().map(|part| part.records).sum();
        if let Some(part) = files.iter().find(|p| p.shard.share(records) != p.records) {
            return Err(Error::invalid(format_args!(
                "{:?} has {} records, but shard {} of {records} has {}: the shards are not of one input",
                part.path,
                part.records,
                part.shard,
                part.shard.share(records)
            )));
        }
        let order = manifest.get("order").and_then(|v| v.as_str());
        let in_order = order != Some("completion");
        Ok(Shards {
            files,
            manifest,
            in_order,
        })
    }

    /// The manifest of a run without shards.
    pub fn manifest(&self) -> Manifest {
        let mut manifest = self.manifest.clone();
        let sum = |of: fn(&Part) -> u64| self.files.iter().map(of).sum();
        manifest.finish(sum(|part| part.records), sum(|part| part.failed));
        manifest
    }

    /// Writes all lines: in turn where they are in the order of the input, else one shard after another.
    ///
    /// # Errors
    /// Io, of reading; what `write` returns. Invalid: a shard does not have as many lines as its manifest says.
    pub fn write(mut self, write: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Merged> {
        let mut line = Vec::new();
        let records: u64 = self.files.iter().map(|part| part.records).sum();
        let failed = self.files.iter().map(|part| part.failed).sum();
        if self.in_order {
            let count = self.files.len() as u64;
            for index in 0..records {
                self.files[(index % count) as usize].next(&mut line)?;
                write(&line)?;
            }
        } else {
            for part in &mut self.files {
                for _ in 0..part.records {
                    part.next(&mut line)?;
                    write(&line)?;
                }
            }
        }
        for part in &mut self.files {
            let rest = part.lines.fill_buf();
            let rest = rest.map_err(|e| Error::io("read", &part.path, &e))?;
            if !rest.is_empty() {
                return Err(part.wrong("more"));
            }
        }
        Ok(Merged { records, failed })
    }
}

fn missing(number: u64, of: u64) -> Error {
    Error::usage(format_args!("shard {number}/{of} is missing"))
}

impl Part {
    fn open(path: &Path) -> Result<(Part, Manifest)> {
        let file = File::open(path).map_err(|e| Error::io("read", path, &e))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
            return Err(Error::usage(format_args!("{path:?} is being written")));
        }
        let manifest = Manifest::read(path)?;
        let shard = manifest.get("shard").and_then(|v| v.as_str());
        let shard = match shard.map(str::parse) {
            Some(Ok(Choice::Given(shard))) => shard,
            _ => {
                return Err(Error::usage(format_args!(
                    "{path:?} is no shard: expected the output of a batch with --shard"
                )));
            }
        };
        let Some((records, failed)) = manifest.finished() else {
            return Err(Error::usage(format_args!(
                "{path:?} is not finished: run it again with --resume"
            )));
        };
        let part = Part {
            path: path.to_path_buf(),
            lines: BufReader::with_capacity(1 << 16, file),
            shard,
            records,
            failed,
        };
        Ok((part, manifest))
    }

    /// The next line, with its end.
    fn next(&mut self, line: &mut Vec<u8>) -> Result<()> {
        line.clear();
        let read = loop {
            match self.lines.read_until(b'\n', line) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        read.map_err(|e| Error::io("read", &self.path, &e))?;
        match line.ends_with(b"\n") {
            true => Ok(()),
            false => Err(self.wrong("fewer")),
        }
    }

    fn wrong(&self, how: &str) -> Error {
        Error::invalid(format_args!(
            "{:?} has {how} lines than the {} that its manifest says",
            self.path, self.records
        ))
    }
}

/// Writes to something that can fail as files do.
pub fn to_file<'w>(out: &'w mut dyn Write, path: &'w Path) -> impl FnMut(&[u8]) -> Result<()> + 'w {
    move |line| {
        out.write_all(line)
            .map_err(|e| Error::io("write", path, &e))
    }
}
