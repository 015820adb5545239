//! Files of a model's folder: small JSON files, and paths that must not lead out of it.

use super::safetensors;
use super::source::SourceFile;
use crate::error::{Error, Result};
use serde_json::Value as Json;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// Longest JSON file or template beside the weights; a tokenizer has its own reader and bound.
pub(super) const MAX_SMALL: u64 = 64 << 20;

/// The JSON value in a file; none if there is no such file.
pub(super) fn json(path: &Path) -> Result<Option<Json>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = SourceFile::open(path)?.read_all(MAX_SMALL)?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::invalid(format_args!("{path:?}: {}", safetensors::quoted(&e))))
}

/// The path of a file that the index names, which must lie in the folder, also behind symbolic links. A snapshot of the hub's own cache is a
/// folder of links to files in the `blobs` beside `snapshots`: those are part of the model.
pub(super) fn inside(folder: &Path, file: &str) -> Result<PathBuf, String> {
    let relative = Path::new(file);
    let plain = |c: Component| matches!(c, Component::Normal(_));
    if file.is_empty() || file.contains('\0') || !relative.components().all(plain) {
        return Err("expected a file name within the folder".into());
    }
    let path = folder.join(relative);
    let real = |p: &Path| {
        p.canonicalize()
            .map_err(|e| format!("cannot open {p:?}: {e}"))
    };
    let (target, home) = (real(&path)?, real(folder)?);
    let blobs = home
        .parent()
        .filter(|p| p.file_name() == Some(OsStr::new("snapshots")))
        .and_then(Path::parent)
        .map(|p| p.join("blobs"));
    if target.starts_with(&home) || blobs.is_some_and(|b| target.starts_with(b)) {
        Ok(path)
    } else {
        Err(format!(
            "a link to {target:?}, expected a file within the folder"
        ))
    }
}
