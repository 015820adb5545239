//! The block types of GGUF: kept as they are, and run with the same bits everywhere.

use crate::foreign_files::*;
use crate::ggml;
use crate::import::{file_of, format_of, imported, interleaved, key_of_gguf, options, stored};
use quern::convert::import::{Options, import, import_to};
use quern::convert::quantize::{Quant, TensorQuant};
use quern::error::ErrorKind;
use quern::file::meta::key;
use quern::model::{Engine, Model, Step, Wanted};
use quern::par::Team;
use quern_kernels::{Format, Kernels, KvType};
use quern_models::spec::{Role, Shape};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

/// Rows of 256 and 512 columns, as the types with large blocks need them.
const WIDE: Sizes = Sizes {
    dim: 256,
    inner: 512,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    vocab: 70,
};

#[test]
fn every_block_type_is_kept_without_loss() {
    for format in ggml::FORMATS {
        let kind = Kind::Blocks(format);
        let gguf = llama_gguf(llama_metadata(WIDE), WIDE, kind).build();
        let (_keep, path) = file_of("m.gguf", &gguf);
        let file = imported(&path, Quant::Keep);
        let exact = imported(&path, Quant::To(Format::F32));
        for (name, rows, cols) in llama_shapes(WIDE).into_iter().filter(|s| s.2 > 1) {
            let key = key_of_gguf(&name);
            assert_eq!(format_of(&file, key), format, "{name}");
            let values = llama_values(&name, rows, cols);
            let rotary = name.contains("attn_q") || name.contains("attn_k");
            let found = stored(&file, key);
            assert_eq!(found, stored(&exact, key), "{} {name}", format.name());
            for (i, row) in found.chunks(cols as usize).enumerate() {
                let from = if rotary { interleaved(i, 64) } else { i };
                let start = from * cols as usize;
                let bytes = kind.encode(&values[start..start + cols as usize]);
                assert_eq!(row, kind.decode(&bytes), "{} {name} {i}", format.name());
            }
        }
    }
}

/// Logits of every position of a prompt, run in chunks.
fn logits(model: &Arc<Model>, kernels: &'static Kernels, threads: usize, chunk: usize) -> Vec<f32> {
    let mut engine = Engine::new(model.clone(), kernels, Team::new(threads).unwrap());
    let mut seq = engine.model().new_sequence(KvType::F32);
    let ids: Vec<u32> = (0..50).map(|i| i * 31 % WIDE.vocab).collect();
    seq.set_prompt_len(ids.len());
    let mut out = Vec::new();
    for part in ids.chunks(chunk) {
        let logits = engine
            .forward(&mut [Step {
                seq: &mut seq,
                tokens: part,
                wanted: Wanted::All,
            }])
            .unwrap();
        (0..logits.rows()).for_each(|i| out.extend_from_slice(logits.row(i)));
    }
    out
}

fn model(path: &Path, quant: Quant) -> Arc<Model> {
    Arc::new(Model::bind(Arc::new(imported(path, quant))).unwrap())
}

/// Logits of all formats below: the same on every machine and in every version of the arithmetic that old prompt caches suit
/// (`generate::stored::ARITHMETIC`).
const LOGITS: &str = "c4f5ba89f2cd9930f417b6ba366e4ec3";

/// The kept file differs from one with the same values in f32 by the rounding of activations to int8 alone, at most half a step of 1/127 of the largest of
/// 32 in every product. What that makes of the logits of a random model has no useful bound; it was measured as 1% to 8% of their root mean square.
/// Logits that have nothing to do with each other differ by 1.4 times that, so a fifth tells a wrong row, scale or order of codes from rounding; that single
/// products are exact within a derived bound, and values to the bit, is tested elsewhere.
#[test]
fn models_of_blocks_run_with_the_same_bits_everywhere_and_near_their_values() {
    let scalar = quern_kernels::by_name("scalar").unwrap();
    let mut hash = blake3::Hasher::new();
    for format in ggml::FORMATS {
        let gguf = llama_gguf(llama_metadata(WIDE), WIDE, Kind::Blocks(format)).build();
        let (_keep, path) = file_of("m.gguf", &gguf);
        let kept = model(&path, Quant::Keep);
        let expected = logits(&kept, scalar, 1, 50);
        for logit in &expected {
            hash.update(&logit.to_bits().to_le_bytes());
        }
        for kernels in quern_kernels::supported() {
            for (threads, chunk) in [(1, 1), (2, 50), (3, 7)] {
                let got = logits(&kept, kernels, threads, chunk);
                let same = got
                    .iter()
                    .zip(&expected)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(
                    same,
                    "{} {} {threads} threads",
                    format.name(),
                    kernels.name()
                );
            }
        }
        let exact = logits(&model(&path, Quant::To(Format::F32)), scalar, 1, 50);
        let square = |x: f32| f64::from(x) * f64::from(x);
        let off: f64 = exact
            .iter()
            .zip(&expected)
            .map(|(a, b)| square(a - b))
            .sum();
        let all: f64 = exact.iter().map(|a| square(*a)).sum();
        let relative = (off / all).sqrt();
        assert!(relative < 0.2, "{}: {relative}", format.name());
        assert!(relative > 0.0, "{}: activations are rounded", format.name());
    }
    assert_eq!(hash.finalize().to_hex()[..32], *LOGITS);
}

/// What `--quant` and `--quant-tensor` make of an f32 file: role, layer and format of every matrix.
fn asked(sizes: Sizes, quant: &str, tensors: &[&str]) -> Vec<(Role, u32, Format)> {
    let gguf = llama_gguf(llama_metadata(sizes), sizes, Kind::F32).build();
    let (_keep, path) = file_of("m.gguf", &gguf);
    let tensors: Vec<TensorQuant> = tensors
        .iter()
        .map(|t| TensorQuant::parse(t).unwrap())
        .collect();
    let options = Options {
        tensors: &tensors,
        ..options(Quant::by_name(quant).unwrap())
    };
    let bytes = import_to(&path, Cursor::new(Vec::new()), &options).unwrap();
    let bytes = quern::bytes::AlignedBytes::copy_of(&bytes.into_inner()).unwrap();
    let file = quern::file::ModelFile::from_bytes(Arc::new(bytes)).unwrap();
    let asked = file.meta().string(key::QUANT).unwrap();
    assert!(asked.starts_with(quant), "{asked}");
    assert_eq!(asked.split(", ").count(), 1 + tensors.len(), "{asked}");
    let entries = file.entries().iter();
    let matrices = entries.filter(|e| matches!(e.shape, Shape::Matrix { .. }));
    matrices
        .map(|e| (e.key.role, e.key.layer, e.format))
        .collect()
}

#[test]
fn mixes_give_more_bits_to_what_suffers_most() {
    let sizes = Sizes { layers: 8, ..WIDE };
    for (quant, format) in [("q4k", Format::Q4k), ("q5k", Format::Q5k)] {
        for (role, layer, found) in asked(sizes, quant, &[]) {
            // The first eighth, the last, and every third between.
            let more = matches!(role, Role::AttnV | Role::MlpDown) && [0, 3, 6, 7].contains(&layer);
            let expected = match role {
                Role::TokenEmbedding | Role::Head => Format::Q6k,
                _ if more => Format::Q6k,
                _ => format,
            };
            assert_eq!(found, expected, "{quant} {role:?} {layer}");
        }
    }
    for (role, _, found) in asked(WIDE, "mxfp4", &[]) {
        let ends = matches!(role, Role::TokenEmbedding | Role::Head);
        assert_eq!(found, if ends { Format::Q8 } else { Format::Mxfp4 });
    }
    for (_, _, found) in asked(WIDE, "q6k", &[]) {
        assert_eq!(found, Format::Q6k);
    }
}

#[test]
fn single_matrices_are_stored_as_asked() {
    let tensors = [
        "mlp_*=q5m",
        "layers.1.*=q3k",
        "blk.0.ffn_up.weight=keep",
        "head=bf16",
    ];
    for (role, layer, found) in asked(WIDE, "q8", &tensors) {
        let expected = match (role, layer) {
            (Role::Head, _) => Format::Bf16,
            (_, 1) => Format::Q3k,
            (Role::MlpUp, 0) => Format::F32,
            (Role::MlpGate | Role::MlpDown, 0) => Format::Q5m,
            _ => Format::Q8,
        };
        assert_eq!(found, expected, "{role:?} {layer}");
    }
    let gguf = llama_gguf(llama_metadata(TINY), TINY, Kind::F32).build();
    let (_keep, path) = file_of("m.gguf", &gguf);
    let nothing = [TensorQuant::parse("mlp_dwon=q8").unwrap()];
    let options = Options {
        tensors: &nothing,
        ..options(Quant::Keep)
    };
    let e = import_to(&path, Cursor::new(Vec::new()), &options).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage);
    assert!(
        e.to_string().contains("\"mlp_dwon=q8\" is about no matrix"),
        "{e}"
    );
}

#[test]
fn narrow_rows_take_small_blocks_and_it_is_said() {
    let gguf = llama_gguf(llama_metadata(TINY), TINY, Kind::F32).build();
    let (keep, path) = file_of("m.gguf", &gguf);
    let out = keep.path().join("out.quern");
    let quant = options(Quant::by_name("q4k").unwrap());
    let summary = import(&path, &out, &quant, &mut |_, _| Ok(())).unwrap();
    let notes = summary.notes.join("\n");
    assert!(notes.contains("matrices are q5 instead of q4k"), "{notes}");
    assert!(notes.contains("matrices are q8 instead of q6k"), "{notes}");
    for (_, _, found) in asked(TINY, "q4k", &[]) {
        assert!([Format::Q5, Format::Q8].contains(&found), "{found:?}");
    }
}
