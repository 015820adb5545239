//! Damaged seeds of every importer: whatever is cut off, flipped or overwritten, the answer is success or exit 3, never a panic.
//!
//! `QUERN_FULL=1` goes over every byte and bit of the whole files; otherwise the headers are covered completely and the data in steps.

use crate::foreign_files::*;
use crate::golden_folders;
use crate::import::options;
use quern::convert::import::import_to;
use quern::convert::quantize::Quant;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

/// A folder or file whose weights file is rewritten again and again.
struct Target {
    /// What is imported.
    model: PathBuf,
    /// What is damaged.
    file: PathBuf,
    accepted: usize,
    refused: usize,
}

impl Target {
    fn try_bytes(&mut self, bytes: &[u8], what: impl Fn() -> String) {
        let mut f = std::fs::File::create(&self.file).unwrap();
        f.write_all(bytes).unwrap();
        drop(f);
        let mut o = options(Quant::Keep);
        o.threads = 1;
        match import_to(&self.model, Cursor::new(Vec::new()), &o) {
            Ok(_) => self.accepted += 1,
            Err(e) => {
                assert_eq!(e.exit_code(), 3, "{}: {e}", what());
                let message = e.to_string();
                assert!(
                    !message.contains(char::is_control) && message.len() < 4000,
                    "{}: {message:?}",
                    what()
                );
                self.refused += 1;
            }
        }
    }
}

/// Values that break arithmetic.
const SPECIAL: [u64; 11] = [
    0,
    (1 << 31) - 1,
    1 << 31,
    (1 << 31) + 1,
    (1 << 32) - 1,
    1 << 53,
    (1 << 63) - 1,
    1 << 63,
    (1 << 63) + 1,
    u64::MAX,
    1,
];

/// Damages `seed` in every way; the first `header` bytes always, the rest in steps.
fn damage(mut target: Target, seed: &[u8], header: usize) {
    let full = std::env::var_os("QUERN_FULL").is_some();
    let places = |step: usize| {
        let step = if full { 1 } else { step };
        (0..header.min(seed.len())).chain((header..seed.len()).step_by(step))
    };
    target.try_bytes(seed, || "the seed".into());
    assert_eq!(target.accepted, 1, "the seed itself is refused");
    for cut in places(211) {
        target.try_bytes(&seed[..cut], || format!("cut at {cut}"));
    }
    let mut bytes = seed.to_vec();
    for at in places(509) {
        let bits = if full || at % 4 == 0 { 0..8 } else { 3..4 };
        for bit in bits {
            bytes[at] ^= 1 << bit;
            target.try_bytes(&bytes, || format!("bit {bit} of byte {at}"));
            bytes[at] ^= 1 << bit;
        }
    }
    // Every place in a header may be a field: words of 4 and 8 bytes.
    for at in 0..header.min(seed.len() - 8) {
        if !full && at % 3 != 0 && at > 64 {
            continue;
        }
        for (i, v) in SPECIAL.into_iter().enumerate() {
            if !full && at > 64 && (at / 3 + i) % 4 != 0 {
                continue;
            }
            for width in [4, 8] {
                if width == 4 && u32::try_from(v).is_err() {
                    continue;
                }
                bytes[at..at + width].copy_from_slice(&v.to_le_bytes()[..width]);
                target.try_bytes(&bytes, || format!("{v} in {width} bytes at {at}"));
                bytes[at..at + width].copy_from_slice(&seed[at..at + width]);
            }
        }
    }
    assert!(
        target.refused > 100,
        "damage was found only {} times",
        target.refused
    );
}

fn single_file(name: &str) -> (tempfile::TempDir, Target) {
    // In memory where there is such a file system: tens of thousands of files are written.
    let shm = Path::new("/dev/shm");
    let folder = if shm.is_dir() {
        tempfile::tempdir_in(shm)
    } else {
        tempfile::tempdir()
    }
    .unwrap();
    let file = folder.path().join(name);
    let target = Target {
        model: file.clone(),
        file,
        accepted: 0,
        refused: 0,
    };
    (folder, target)
}

#[test]
fn damaged_gguf() {
    for kind in [Kind::Q4_0, Kind::F32] {
        let (_keep, target) = single_file("m.gguf");
        let w = llama_metadata(TINY)
            .array(
                "general.tags",
                8,
                2,
                &[gguf_string(b"a"), gguf_string(b"b")].concat(),
            )
            .array("general.numbers", 4, 2, &[1, 0, 0, 0, 2, 0, 0, 0]);
        let seed = llama_gguf(w, TINY, kind).build();
        let header = if kind == Kind::Q4_0 { 1400 } else { 200 };
        damage(target, &seed, header);
    }
}

#[test]
fn damaged_llama2c() {
    for version in 0..3 {
        let (_keep, target) = single_file("m.bin");
        let header = if version == 0 { 28 } else { 64 };
        damage(target, &llama2c(TINY, version, true, 32, true), header);
    }
}

#[test]
fn damaged_safetensors() {
    let (folder, mut target) = single_file("model.safetensors");
    let tensors = golden_folders::tensors("llama_mha");
    let keep: Vec<_> = tensors
        .iter()
        .filter(|t| !t.name.starts_with("model.layers.1") && !t.name.starts_with("model.layers.2"))
        .collect();
    let seed = golden_folders::safetensors(&keep);
    let mut config =
        golden_folders::read_json(&golden_folders::folder("llama_mha").join("config.json"));
    config["num_hidden_layers"] = 1.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    target.model = folder.path().to_owned();
    let header = 8 + u64::from_le_bytes(seed[..8].try_into().unwrap()) as usize;
    damage(target, &seed, header);
}

#[test]
fn damaged_config() {
    let (folder, mut target) = single_file("config.json");
    golden_folders::materialise("llama_rope_yarn", false, folder.path());
    let seed = std::fs::read(folder.path().join("config.json")).unwrap();
    target.model = folder.path().to_owned();
    damage(target, &seed, seed.len());
}
