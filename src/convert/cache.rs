//! The user's cache of imported models: `-m` on a GGUF or a folder imports once.
//!
//! A model's **key** is BLAKE3 over: the version of this layout and of the importer, then for every file that an import reads (the
//! GGUF; of a folder its weights and small files, [`hf::files`]) its name, length and BLAKE3 of its content. The imported
//! file is `<cache>/<key>.quern`. So a copied, renamed or touched model is found again, and a changed one is not.
//!
//! Hashing reads everything, so its result is remembered in `<cache>/stamps/<hash of the absolute path>`: one line with the key
//! and BLAKE3 over device, inode, length and times (last change of content and of the inode, in nanoseconds) of every file. If all of them
//! are as they were, the key is taken from there.

use super::import::{self, Options, Progress, Summary};
use super::source::SourceFile;
use super::{hf, quantize::Quant};
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Changes when the same source would become another file.
const LAYOUT: &str = concat!("quern cache 2, importer ", env!("CARGO_PKG_VERSION"));

/// The cache folder: `QUERN_CACHE`, else `XDG_CACHE_HOME/quern`, else `HOME/.cache/quern`; `get` looks up the environment.
///
/// # Errors
/// Usage if none of them is set.
pub fn folder(get: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let set = |name| get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = set("QUERN_CACHE") {
        return Ok(path);
    }
    // A relative XDG_CACHE_HOME is to be ignored, says the XDG base directory specification.
    if let Some(path) = set("XDG_CACHE_HOME").filter(|p| p.is_absolute()) {
        return Ok(path.join("quern"));
    }
    set("HOME").map(|p| p.join(".cache/quern")).ok_or_else(|| {
        Error::usage(
            "no cache folder: neither QUERN_CACHE, XDG_CACHE_HOME nor HOME is set; use quern import SRC -o OUT.quern and -m OUT.quern",
        )
    })
}

/// Whether `path` has to be imported before it can run: a folder, or a file that is no weight file.
///
/// # Errors
/// I/O.
pub fn is_foreign(path: &Path) -> Result<bool> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io("open", path, &e))?;
    if meta.is_dir() {
        return Ok(true);
    }
    if !meta.is_file() || meta.len() < 4 {
        return Ok(false);
    }
    let mut start = [0u8; 4];
    SourceFile::open(path)?.read_at(0, &mut start)?;
    let magic = u32::from_le_bytes(start) == quern_models::llama2c::MAGIC;
    let bin = path.extension().is_some_and(|e| e == "bin");
    Ok(start == super::gguf::MAGIC || magic || bin)
}

/// A model in the cache, or what is needed to put it there.
pub enum Cached {
    /// It is there.
    Hit(PathBuf),
    /// It is not.
    Miss(Pending),
}

/// A model that is not in the cache yet.
pub struct Pending {
    source: PathBuf,
    target: PathBuf,
    hashes: Vec<blake3::Hash>,
}

/// Looks a foreign model up.
///
/// # Errors
/// I/O; Usage if the cache folder cannot be made.
pub fn look_up(source: &Path, cache: &Path) -> Result<Cached> {
    let absolute = source
        .canonicalize()
        .map_err(|e| Error::io("open", source, &e))?;
    let paths = if absolute.is_dir() {
        hf::files(&absolute)?
    } else {
        vec![absolute.clone()]
    };
    let state = state(&paths)?;
    let stamp = cache.join("stamps").join(
        blake3::hash(absolute.as_os_str().as_bytes())
            .to_hex()
            .as_str(),
    );
    let target = |key: &str| cache.join(format!("{key}.quern"));
    if let Some(key) = remembered(&stamp, &state) {
        let path = target(&key);
        if path.is_file() {
            return Ok(Cached::Hit(path));
        }
    }
    let mut key = blake3::Hasher::new();
    key.update(LAYOUT.as_bytes());
    let mut hashes = Vec::new();
    for path in &paths {
        let file = SourceFile::open(path)?;
        let hash = file.hash()?;
        // The name of a single file does not matter; those of a folder's files do.
        let name = if absolute.is_dir() {
            path.file_name().unwrap_or_default().as_bytes()
        } else {
            b""
        };
        key.update(&(name.len() as u64).to_le_bytes());
        key.update(name);
        key.update(&file.len().to_le_bytes());
        key.update(hash.as_bytes());
        hashes.push(hash);
    }
    let key = key.finalize().to_hex();
    for folder in [cache.to_owned(), cache.join("stamps")] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|e| {
                Error::io("create", &folder, &e)
                    .at("the cache of imported models (QUERN_CACHE chooses another place)")
            })?;
    }
    remember(&stamp, &state, &key)?;
    let target = target(&key);
    if target.is_file() {
        return Ok(Cached::Hit(target));
    }
    Ok(Cached::Miss(Pending {
        source: source.to_owned(),
        target,
        hashes,
    }))
}

impl Pending {
    /// Where the model will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Imports it with the values of its source; atomic, so that two processes may do it at once.
    ///
    /// # Errors
    /// As [`import::import`].
    pub fn import(self, threads: usize, progress: Progress) -> Result<(PathBuf, Summary)> {
        let options = Options {
            tokenizer: None,
            quant: Quant::Keep,
            tensors: &[],
            threads,
            hashes: Some(&self.hashes),
        };
        let summary = import::import(&self.source, &self.target, &options, progress)?;
        Ok((self.target, summary))
    }
}

/// BLAKE3 over what the operating system says about the files.
fn state(paths: &[PathBuf]) -> Result<String> {
    let mut state = blake3::Hasher::new();
    state.update(LAYOUT.as_bytes());
    for path in paths {
        let m = std::fs::metadata(path).map_err(|e| Error::io("open", path, &e))?;
        state.update(path.as_os_str().as_bytes());
        for n in [
            m.dev(),
            m.ino(),
            m.len(),
            m.mtime() as u64,
            m.mtime_nsec() as u64,
            m.ctime() as u64,
            m.ctime_nsec() as u64,
        ] {
            state.update(&n.to_le_bytes());
        }
    }
    Ok(state.finalize().to_hex().to_string())
}

/// The key in a stamp, if it was made in this state. A stamp that is damaged only costs a new hash.
fn remembered(stamp: &Path, state: &str) -> Option<String> {
    let text = std::fs::read_to_string(stamp).ok()?;
    let (key, then) = text.trim_end().split_once(' ')?;
    let hex = |s: &str| s.len() == 64 && s.bytes().all(|b| b.is_ascii_hexdigit());
    (then == state && hex(key)).then(|| key.to_owned())
}

fn remember(stamp: &Path, state: &str, key: &str) -> Result<()> {
    let mut name = stamp.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    std::fs::write(&temporary, format!("{key} {state}\n"))
        .and_then(|()| std::fs::rename(&temporary, stamp))
        .map_err(|e| Error::io("write", stamp, &e))
}
