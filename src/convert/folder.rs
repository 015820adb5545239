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
    parse(&bytes)
        .map(Some)
        .map_err(|e| Error::invalid(format_args!("{path:?}: {}", safetensors::quoted(&e))))
}

/// A JSON value, perhaps with the numbers that JSON does not have and Python writes all the same; they become what newer files hold in their
/// place: `{"__float__": "Infinity"}`.
fn parse(bytes: &[u8]) -> serde_json::Result<Json> {
    let strict = serde_json::from_slice(bytes);
    if strict.is_ok() {
        return strict;
    }
    serde_json::from_slice(&spelled_out(bytes)).or(strict)
}

/// The text with infinities and NaN outside of strings as objects that name them.
fn spelled_out(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let (mut at, mut in_string) = (0, false);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let names = ["-Infinity", "Infinity", "NaN"];
        let name = names.iter().find(|n| rest.starts_with(n.as_bytes()));
        if let (Some(name), false) = (name, in_string) {
            out.extend_from_slice(format!("{{\"__float__\":\"{name}\"}}").as_bytes());
            at += name.len();
            continue;
        }
        let step = match rest[0] {
            b'\\' if in_string => rest.len().min(2),
            b'"' => {
                in_string = !in_string;
                1
            }
            _ => 1,
        };
        out.extend_from_slice(&rest[..step]);
        at += step;
    }
    out
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_that_json_does_not_have() {
        let text = br#"{"a\"Infinity": [0.0, Infinity, -Infinity, NaN], "NaN": "Infinity\\"}"#;
        let float = |name: &str| json!({"__float__": name});
        let expected = json!({
            "a\"Infinity": [0.0, float("Infinity"), float("-Infinity"), float("NaN")],
            "NaN": "Infinity\\"
        });
        assert_eq!(parse(text).unwrap(), expected);
        for (bad, place) in [("[Infinity, ]", "column 2"), ("{\"a\": Inf}", "column 7")] {
            let e = parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(e.contains(place), "{e}");
        }
        assert!(parse(br#"["\"#).is_err());
    }
}
