//! Golden models as folders and as lists of tensors, for tests that take them apart.

use crate::materialise;
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The folder of a family's configuration and golden values.
pub fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(family)
}

/// A JSON file.
pub fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

/// Writes the Hugging Face folder of a family; `legacy` takes the configuration in the older style.
pub fn materialise(family: &str, legacy: bool, into: &Path) {
    assert!(
        materialise::materialise(&folder(family), into, legacy),
        "{family}"
    );
}

/// One tensor of a golden model.
pub struct Tensor {
    /// Its name in the folder.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// `F32` or `BF16`.
    pub dtype: String,
    /// Little-endian values.
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// The values widened to f32.
    pub fn values(&self) -> Vec<f32> {
        let wide = |b: &[u8]| {
            let mut word = [0; 4];
            word[4 - b.len()..].copy_from_slice(b);
            f32::from_le_bytes(word)
        };
        let size = if self.dtype == "F32" { 4 } else { 2 };
        self.bytes.chunks_exact(size).map(wide).collect()
    }
}

/// All tensors of a family, as the format's own library reads them from the folder.
pub fn tensors(family: &str) -> Vec<Tensor> {
    let folder = tempfile::tempdir().unwrap();
    materialise(family, false, folder.path());
    tensors_in(folder.path())
}

/// All tensors of the safetensors files in a folder, if there is one.
pub fn tensors_in(folder: &Path) -> Vec<Tensor> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = std::fs::read(path).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            out.extend(file.iter().map(|(name, view)| Tensor {
                name: name.to_owned(),
                shape: view.shape().to_vec(),
                dtype: view.dtype().to_string(),
                bytes: view.data().to_vec(),
            }));
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

/// A safetensors file of these tensors.
pub fn safetensors(tensors: &[&Tensor]) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for t in tensors {
        header.insert(
            t.name.clone(),
            json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [at, at + t.bytes.len()]}),
        );
        at += t.bytes.len();
    }
    let mut json = serde_json::to_vec(&header).unwrap();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json);
    tensors.iter().for_each(|t| out.extend(&t.bytes));
    out
}
