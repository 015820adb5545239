//! Importing: every value of a foreign model is in the weight file, whatever format and style it comes in, or the import is refused.

use crate::common::shared;
use crate::foreign_files::*;
use crate::golden_folders;
use quern::bytes::AlignedBytes;
use quern::convert::import::{Options, import, import_to};
use quern::convert::quantize::Quant;
use quern::file::meta::key;
use quern::file::verify::verify;
use quern::file::{ModelFile, OpenOptions};
use quern_kernels::Format;
use quern_models::rope::{Rope, default_inv_freq};
use quern_models::spec::*;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The families that one family file reads.
const LLAMAS: [&str; 8] = [
    "llama_mha",
    "llama_gqa_tied",
    "llama_mqa_bias_hd",
    "llama_rope_linear",
    "llama_rope_dynamic",
    "llama_rope_llama3",
    "llama_rope_yarn",
    "mistral_swa",
];

pub fn options(quant: Quant) -> Options<'static> {
    Options {
        tokenizer: None,
        quant,
        tensors: &[],
        threads: 2,
        hashes: None,
    }
}

/// The imported model, opened from memory.
pub fn imported(source: &Path, quant: Quant) -> ModelFile {
    let bytes = import_to(source, Cursor::new(Vec::new()), &options(quant))
        .unwrap_or_else(|e| panic!("{source:?}: {e}"))
        .into_inner();
    open(&bytes)
}

fn open(bytes: &[u8]) -> ModelFile {
    let file = ModelFile::from_bytes(Arc::new(AlignedBytes::copy_of(bytes).unwrap())).unwrap();
    verify(&file, 1, &|_| {}).unwrap();
    file
}

/// All values of a stored tensor.
pub fn stored(file: &ModelFile, key: TensorKey) -> Vec<f32> {
    let entry = file.entries().iter().find(|e| e.key == key);
    match entry.unwrap_or_else(|| panic!("no {key}")).shape {
        Shape::Vector(_) => file.vector(key).unwrap().to_vec(),
        Shape::Matrix { .. } => {
            let m = file.matrix(key).unwrap();
            let mut out = vec![0.0; m.count() * m.rows() * m.cols()];
            for (i, row) in out.chunks_mut(m.cols()).enumerate() {
                m.row(i / m.rows(), i % m.rows(), row);
            }
            out
        }
    }
}

pub fn format_of(file: &ModelFile, key: TensorKey) -> Format {
    file.entries().iter().find(|e| e.key == key).unwrap().format
}

/// Where a tensor of a Hugging Face folder is stored.
fn key_of(name: &str) -> TensorKey {
    match name {
        "model.embed_tokens.weight" => return TensorKey::model(Role::TokenEmbedding),
        "model.norm.weight" => return TensorKey::model(Role::FinalNorm),
        "lm_head.weight" => return TensorKey::model(Role::Head),
        _ => {}
    }
    let rest = name.strip_prefix("model.layers.").unwrap();
    let (layer, part) = rest.split_once('.').unwrap();
    let layer = layer.parse().unwrap();
    let branch = |block, role| TensorKey::branch(layer, block, 0, role);
    match part {
        "input_layernorm.weight" => TensorKey::block(layer, 0, Role::PreNorm),
        "post_attention_layernorm.weight" => TensorKey::block(layer, 1, Role::PreNorm),
        "self_attn.q_proj.weight" => branch(0, Role::AttnQ),
        "self_attn.q_proj.bias" => branch(0, Role::AttnQBias),
        "self_attn.k_proj.weight" => branch(0, Role::AttnK),
        "self_attn.k_proj.bias" => branch(0, Role::AttnKBias),
        "self_attn.v_proj.weight" => branch(0, Role::AttnV),
        "self_attn.v_proj.bias" => branch(0, Role::AttnVBias),
        "self_attn.o_proj.weight" => branch(0, Role::AttnO),
        "self_attn.o_proj.bias" => branch(0, Role::AttnOBias),
        "mlp.gate_proj.weight" => branch(1, Role::MlpGate),
        "mlp.gate_proj.bias" => branch(1, Role::MlpGateBias),
        "mlp.up_proj.weight" => branch(1, Role::MlpUp),
        "mlp.up_proj.bias" => branch(1, Role::MlpUpBias),
        "mlp.down_proj.weight" => branch(1, Role::MlpDown),
        "mlp.down_proj.bias" => branch(1, Role::MlpDownBias),
        other => panic!("unknown tensor {other}"),
    }
}

/// Where a tensor of [`llama_gguf`] is stored.
pub fn key_of_gguf(name: &str) -> TensorKey {
    let name = name.strip_suffix(".weight").unwrap();
    let (layer, part) = match name.strip_prefix("blk.").and_then(|r| r.split_once('.')) {
        Some((layer, part)) => (layer.parse().unwrap(), part),
        None => (0, name),
    };
    let branch = |block, role| TensorKey::branch(layer, block, 0, role);
    match part {
        "token_embd" => TensorKey::model(Role::TokenEmbedding),
        "output_norm" => TensorKey::model(Role::FinalNorm),
        "output" => TensorKey::model(Role::Head),
        "attn_norm" => TensorKey::block(layer, 0, Role::PreNorm),
        "ffn_norm" => TensorKey::block(layer, 1, Role::PreNorm),
        "attn_q" => branch(0, Role::AttnQ),
        "attn_k" => branch(0, Role::AttnK),
        "attn_v" => branch(0, Role::AttnV),
        "attn_output" => branch(0, Role::AttnO),
        "ffn_gate" => branch(1, Role::MlpGate),
        "ffn_up" => branch(1, Role::MlpUp),
        "ffn_down" => branch(1, Role::MlpDown),
        other => panic!("unknown tensor {other}"),
    }
}

/// A temporary folder with one file of these bytes.
pub fn file_of(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn attention(spec: &Spec, layer: usize) -> &Attention {
    match &spec.decoder.layers[layer].blocks[0].branches[0].op {
        Op::Attention(a) => a,
        other => panic!("{other:?}"),
    }
}

#[test]
fn golden_llamas_keep_every_value_from_both_config_styles() {
    for family in LLAMAS {
        let source = golden_folders::tensors(family);
        let mut specs = Vec::new();
        for legacy in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            golden_folders::materialise(family, legacy, folder.path());
            let file = imported(folder.path(), Quant::Keep);
            assert_eq!(file.entries().len(), source.len(), "{family}");
            for tensor in &source {
                let key = key_of(&tensor.name);
                let same = stored(&file, key) == tensor.values();
                assert!(same, "{family}: {}", tensor.name);
                let expected = match (tensor.shape.len(), tensor.dtype.as_str()) {
                    (1, _) | (_, "F32") => Format::F32,
                    (_, "BF16") => Format::Bf16,
                    other => panic!("{other:?}"),
                };
                assert_eq!(format_of(&file, key), expected, "{family}: {}", tensor.name);
            }
            specs.push(file.spec().clone());
        }
        assert_eq!(specs[0], specs[1], "{family}: config_legacy.json");
    }
}

#[test]
fn golden_llamas_have_the_spec_of_their_configuration() {
    let spec = |family: &str| {
        let folder = tempfile::tempdir().unwrap();
        golden_folders::materialise(family, false, folder.path());
        imported(folder.path(), Quant::Keep).spec().clone()
    };
    let default = default_inv_freq(16, 1e4);
    let mha = spec("llama_mha");
    assert_eq!((mha.vocab_size, mha.hidden), (288, 64));
    assert_eq!(mha.decoder.final_norm.as_ref().unwrap().eps, 0.01);
    assert_eq!(mha.decoder.final_norm.as_ref().unwrap().kind, NormKind::Rms);
    assert!(!mha.head.as_ref().unwrap().tied);
    assert_eq!(attention(&mha, 0).scale, 0.25);
    assert_eq!(
        mha.ropes,
        [Rope::Fixed {
            inv_freq: default.clone(),
            factor: 1.0
        }]
    );
    assert!(spec("llama_gqa_tied").head.as_ref().unwrap().tied);

    let mqa = spec("llama_mqa_bias_hd");
    let a = attention(&mqa, 2);
    assert_eq!((a.n_heads, a.n_kv_heads, a.head_dim), (4, 1, 24));
    assert!(a.q_bias && a.kv_bias && a.o_bias);
    match &mqa.decoder.layers[1].blocks[1].branches[0].op {
        Op::Dense(d) => assert!(d.up_bias && d.down_bias && d.gated && d.inner == 96),
        other => panic!("{other:?}"),
    }

    let linear = spec("llama_rope_linear");
    let quarter: Vec<f64> = default.iter().map(|f| f / 4.0).collect();
    assert_eq!(*linear.ropes[0].inv_freq(1), quarter[..]);
    assert_eq!(
        spec("llama_rope_dynamic").ropes,
        [Rope::DynamicNtk {
            dim: 16,
            theta: 1e4,
            factor: 4.0,
            max_positions: 48
        }]
    );
    let yarn = spec("llama_rope_yarn");
    assert_eq!(yarn.ropes[0].factor(), 0.1 * 4f64.ln() + 1.0);
    let llama3 = spec("llama_rope_llama3");
    let default = default_inv_freq(32, 1e4);
    let f = llama3.ropes[0].inv_freq(1);
    assert_eq!((f[0], f[15]), (default[0], default[15] / 8.0));

    let swa = spec("mistral_swa");
    assert!((0..3).all(|l| attention(&swa, l).mask == Mask::Sliding(16)));
    assert_eq!(attention(&mha, 0).mask, Mask::Causal);
}

/// The GGUF that converters make of a folder of the llama family: names, and rows of q and k interleaved within a head.
fn as_gguf(family: &str, heads: u32, kv_heads: u32) -> Vec<u8> {
    let config = golden_folders::read_json(&golden_folders::folder(family).join("config.json"));
    let number = |key: &str| config[key].as_u64().unwrap() as u32;
    let hd = number("head_dim");
    let mut w = GgufWriter::new()
        .str("general.architecture", "llama")
        .u32("llama.block_count", number("num_hidden_layers"))
        .u32("llama.context_length", number("max_position_embeddings"))
        .u32("llama.embedding_length", number("hidden_size"))
        .u32("llama.feed_forward_length", number("intermediate_size"))
        .u32("llama.attention.head_count", heads)
        .u32("llama.attention.head_count_kv", kv_heads)
        .u32("llama.attention.key_length", hd)
        .u32("llama.attention.value_length", hd)
        .u32("llama.rope.dimension_count", hd)
        .f32("llama.rope.freq_base", 1e4)
        .f32("llama.attention.layer_norm_rms_epsilon", 0.01);
    for t in golden_folders::tensors(family) {
        let name = t
            .name
            .replace("model.embed_tokens", "token_embd")
            .replace("model.norm", "output_norm")
            .replace("lm_head", "output")
            .replace("model.layers.", "blk.")
            .replace("input_layernorm", "attn_norm")
            .replace("post_attention_layernorm", "ffn_norm")
            .replace("self_attn.q_proj", "attn_q")
            .replace("self_attn.k_proj", "attn_k")
            .replace("self_attn.v_proj", "attn_v")
            .replace("self_attn.o_proj", "attn_output")
            .replace("mlp.gate_proj", "ffn_gate")
            .replace("mlp.up_proj", "ffn_up")
            .replace("mlp.down_proj", "ffn_down");
        let row_bytes = t.bytes.len() / t.shape[0];
        let mut bytes = t.bytes.clone();
        if name.contains("attn_q") || name.contains("attn_k") {
            for (i, row) in t.bytes.chunks(row_bytes).enumerate() {
                let (head, d) = (i / hd as usize, i % hd as usize);
                let half = hd as usize / 2;
                // Row 2k + s of a head is row s * half + k of the folder.
                let at = head * hd as usize + 2 * (d % half) + d / half;
                bytes[at * row_bytes..][..row_bytes].copy_from_slice(row);
            }
        }
        let dims: Vec<u64> = t.shape.iter().rev().map(|&d| d as u64).collect();
        let kind = match t.dtype.as_str() {
            "F32" => 0,
            "BF16" => 30,
            other => panic!("{other}"),
        };
        w = w.tensor(&name, &dims, kind, &bytes);
    }
    w.build()
}

#[test]
fn a_folder_and_its_gguf_give_the_same_file() {
    for (family, heads, kv_heads) in [
        ("llama_mha", 4, 4),
        ("llama_gqa_tied", 4, 2),
        ("llama_mqa_bias_hd", 4, 1),
    ] {
        let folder = tempfile::tempdir().unwrap();
        golden_folders::materialise(family, false, folder.path());
        let a = imported(folder.path(), Quant::Keep);
        let (_keep, path) = file_of("m.gguf", &as_gguf(family, heads, kv_heads));
        let b = imported(&path, Quant::Keep);
        assert_eq!(a.spec(), b.spec(), "{family}");
        assert_eq!(a.entries(), b.entries(), "{family}");
        for i in 0..a.entries().len() {
            assert_eq!(
                a.checksum(i),
                b.checksum(i),
                "{family}: {}",
                a.entries()[i].key
            );
        }
    }
}

/// The foreign row that is stored as row `i` of a projection with rotary heads.
pub fn interleaved(i: usize, head_dim: usize) -> usize {
    let (head, d) = (i / head_dim, i % head_dim);
    let half = head_dim / 2;
    head * head_dim + 2 * (d % half) + d / half
}

#[test]
fn every_gguf_type_is_kept_without_loss() {
    let s = Sizes {
        dim: 64,
        inner: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        vocab: 50,
    };
    for (kind, format) in [
        (Kind::F32, Format::F32),
        (Kind::F16, Format::F16),
        (Kind::Bf16, Format::Bf16),
        (Kind::Q8_0, Format::Q8),
        (Kind::Q4_0, Format::Q4),
    ] {
        let (_keep, path) = file_of("m.gguf", &llama_gguf(llama_metadata(s), s, kind).build());
        let file = imported(&path, Quant::Keep);
        for (name, rows, cols) in llama_shapes(s) {
            let key = key_of_gguf(&name);
            let values = llama_values(&name, rows, cols);
            if cols == 1 {
                assert_eq!(stored(&file, key), values, "{name}");
                continue;
            }
            assert_eq!(format_of(&file, key), format, "{name}");
            let rotary = name.contains("attn_q") || name.contains("attn_k");
            let found = stored(&file, key);
            for (i, row) in found.chunks(cols as usize).enumerate() {
                let from = if rotary { interleaved(i, 16) } else { i };
                let start = from * cols as usize;
                let bytes = kind.encode(&values[start..start + cols as usize]);
                assert_eq!(row, kind.decode(&bytes), "{kind:?} {name} row {i}");
            }
        }
    }
}

#[test]
fn quantization_converts_all_matrices_and_no_vector() {
    let (_keep, path) = file_of(
        "m.gguf",
        &llama_gguf(llama_metadata(TINY), TINY, Kind::F32).build(),
    );
    let exact = imported(&path, Quant::Keep);
    for (quant, format) in [
        ("f32", Format::F32),
        ("f16", Format::F16),
        ("bf16", Format::Bf16),
        ("q8", Format::Q8),
        ("q4", Format::Q4),
    ] {
        let file = imported(&path, Quant::by_name(quant).unwrap());
        assert_eq!(file.meta().string(key::QUANT), Some(quant));
        for entry in file.entries() {
            let matrix = matches!(entry.shape, Shape::Matrix { .. });
            let expected = if matrix { format } else { Format::F32 };
            assert_eq!(entry.format, expected, "{}", entry.key);
            // The packing is the kernels crate's and tested there; here it must be the right rows.
            let (a, b) = (stored(&exact, entry.key), stored(&file, entry.key));
            let scale = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let worst = a
                .iter()
                .zip(&b)
                .fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
            // Half a step of the coarsest format, q4: the range 2 * scale in 15 steps; other formats are far finer.
            assert!(
                worst <= scale / 7.0,
                "{quant} {}: {worst} of {scale}",
                entry.key
            );
            assert_eq!(
                worst == 0.0,
                entry.format == Format::F32,
                "{quant} {}",
                entry.key
            );
        }
    }
}

#[test]
fn rope_freqs_divide_the_frequencies() {
    let divisors: Vec<f32> = (0..8).map(|k| 1.0 + k as f32).collect();
    let bytes: Vec<u8> = divisors.iter().flat_map(|d| d.to_le_bytes()).collect();
    let w = llama_gguf(llama_metadata(TINY), TINY, Kind::F32);
    let with = |b: &[u8], n: u64| w.clone().tensor("rope_freqs.weight", &[n], 0, b).build();
    let (_keep, path) = file_of("m.gguf", &with(&bytes, 8));
    let rope = imported(&path, Quant::Keep).spec().ropes[0].clone();
    let expected: Vec<f64> = default_inv_freq(16, 1e4)
        .iter()
        .zip(&divisors)
        .map(|(f, d)| f / f64::from(*d))
        .collect();
    assert_eq!(*rope.inv_freq(1), expected[..]);
    crate::import_hazards::refuse("m.gguf", &with(&bytes[..28], 7), "rope_freqs.weight");
    crate::import_hazards::refuse("m.gguf", &with(&[0; 32], 8), "rope_freqs.weight");
}

#[test]
fn a_head_that_equals_the_embedding_is_tied() {
    let w = llama_metadata(TINY);
    let embedding = llama_values("token_embd.weight", 40, 32);
    let tied = llama_shapes(TINY).iter().fold(w, |w, (name, rows, cols)| {
        let values = if name == "output.weight" {
            embedding.clone()
        } else {
            llama_values(name, *rows, *cols)
        };
        let dims = [u64::from(*cols), u64::from(*rows)];
        let dims = if *cols == 1 { &dims[1..] } else { &dims[..] };
        w.tensor(name, dims, 0, &Kind::F32.encode(&values))
    });
    let (_keep, path) = file_of("m.gguf", &tied.build());
    assert!(
        imported(&path, Quant::Keep)
            .spec()
            .head
            .as_ref()
            .unwrap()
            .tied
    );
    let (_keep, path) = file_of(
        "m.gguf",
        &llama_gguf(llama_metadata(TINY), TINY, Kind::F32).build(),
    );
    assert!(
        !imported(&path, Quant::Keep)
            .spec()
            .head
            .as_ref()
            .unwrap()
            .tied
    );
}

#[test]
fn llama2c_versions_agree_with_each_other() {
    let (_keep, path) = file_of(
        "m.gguf",
        &llama_gguf(llama_metadata(TINY), TINY, Kind::F32).build(),
    );
    let gguf = imported(&path, Quant::Keep);
    for version in [0, 1] {
        let (_keep, path) = file_of("m.bin", &llama2c(TINY, version, false, 0, false));
        let file = imported(&path, Quant::Keep);
        assert_eq!(file.spec(), gguf.spec(), "version {version}");
        for i in 0..gguf.entries().len() {
            assert_eq!(file.checksum(i), gguf.checksum(i), "version {version}");
        }
        let (_keep, path) = file_of("m.bin", &llama2c(TINY, version, true, 0, false));
        assert!(
            imported(&path, Quant::Keep)
                .spec()
                .head
                .as_ref()
                .unwrap()
                .tied
        );
    }
}

#[test]
fn llama2c_groups_stay_as_they_are_where_q8_can_hold_them() {
    // Groups of 32 with scales that are f16 are q8; others keep their values in f32.
    for (group, exact, format) in [
        (32, true, Format::Q8),
        (32, false, Format::F32),
        (16, true, Format::F32),
    ] {
        let (_keep, path) = file_of("m.bin", &llama2c(TINY, 2, false, group, exact));
        let file = imported(&path, Quant::Keep);
        for (name, rows, cols) in llama_shapes(TINY).into_iter().filter(|s| s.2 > 1) {
            let key = key_of_gguf(&name);
            assert_eq!(format_of(&file, key), format, "{name}");
            let values: Vec<f32> = llama_values(&name, rows, cols)
                .chunks(group as usize)
                .flat_map(|g| {
                    let (codes, scale) = group_codes(g, exact);
                    codes.into_iter().map(move |c| f32::from(c as i8) * scale)
                })
                .collect();
            let rotary = name.contains("attn_q") || name.contains("attn_k");
            for (i, row) in stored(&file, key).chunks(cols as usize).enumerate() {
                let from = if rotary { interleaved(i, 16) } else { i };
                let start = from * cols as usize;
                assert_eq!(row, &values[start..start + cols as usize], "{name} row {i}");
            }
        }
    }
}

#[test]
fn the_published_checkpoint_and_its_gguf_give_the_same_weights() {
    let Some(models) = shared("data/models") else {
        return;
    };
    let a = imported(&models.join("stories260K.bin"), Quant::Keep);
    let b = imported(&models.join("stories260K-f32.gguf"), Quant::Keep);
    assert_eq!(a.spec(), b.spec());
    assert!(a.spec().head.as_ref().unwrap().tied);
    // Offsets differ: only the GGUF file brings a tokenizer.
    let tensors = |f: &ModelFile| -> Vec<_> {
        let entries = f.entries().iter();
        entries
            .map(|e| (e.key, e.shape, e.format, e.length))
            .collect()
    };
    assert_eq!(tensors(&a), tensors(&b));
    for i in 0..a.entries().len() {
        assert_eq!(a.checksum(i), b.checksum(i), "{}", a.entries()[i].key);
    }
    assert_eq!((a.meta().bos(), a.meta().eos()), (Some(1), &[2][..]));
    assert_eq!((b.meta().bos(), b.meta().eos()), (Some(1), &[2][..]));
}

#[test]
fn provenance_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    golden_folders::materialise("llama_gqa_tied", false, folder.path());
    std::fs::write(folder.path().join("notes.md"), "no part of the model").unwrap();
    let file = imported(folder.path(), Quant::Keep);
    let meta = file.meta();
    assert_eq!(meta.string(key::SOURCE_KIND), Some("safetensors"));
    assert_eq!(
        meta.strings(key::SOURCE_FILES),
        [
            "config.json",
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
            "model.safetensors.index.json",
        ]
    );
    for (name, hash) in meta
        .strings(key::SOURCE_FILES)
        .iter()
        .zip(meta.strings(key::SOURCE_HASHES))
    {
        let bytes = std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(*hash, blake3::hash(&bytes).to_hex().to_string(), "{name}");
    }
    assert!(meta.string(key::IMPORTER).unwrap().starts_with("quern "));
}

#[test]
fn special_ids_sampling_and_template_come_from_the_small_files() {
    let folder = tempfile::tempdir().unwrap();
    golden_folders::materialise("llama_mha", false, folder.path());
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let meta = || imported(folder.path(), Quant::Keep).meta().clone();
    let plain = meta();
    assert_eq!((plain.bos(), plain.eos()), (Some(0), &[1][..]));
    assert_eq!(plain.u32(key::PAD), Some(2));
    assert_eq!(plain.chat_template(), None);

    write(
        "generation_config.json",
        r#"{"eos_token_id": [7, 3], "do_sample": true, "temperature": 0.5, "top_k": 20, "top_p": 0.75}"#,
    );
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]}"#,
    );
    let m = meta();
    assert_eq!(m.eos(), [3, 7]);
    assert_eq!(m.f32(key::TEMPERATURE), Some(0.5));
    assert_eq!(
        (m.u32(key::TOP_K), m.f32(key::TOP_P)),
        (Some(20), Some(0.75))
    );
    assert_eq!(m.chat_template(), Some("D"));
    write("generation_config.json", r#"{"temperature": 0.5}"#);
    write("chat_template.json", r#"{"chat_template": "J"}"#);
    assert_eq!(meta().f32(key::TEMPERATURE), None);
    assert_eq!(meta().chat_template(), Some("J"));
    write("chat_template.jinja", "X");
    assert_eq!(meta().chat_template(), Some("X"));
}

#[test]
fn what_a_template_is_given_and_what_it_made_of_samples_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    golden_folders::materialise("llama_mha", false, folder.path());
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let meta = || imported(folder.path(), Quant::Keep).meta().clone();
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "T{{ tools[0].function.name }}"},
            {"name": "default", "template": "{{ bos_token }}{{ messages[-1].content }}{{ strftime_now('%Y') }}"}],
            "bos_token": {"content": "<b>", "lstrip": false}, "eos_token": "<e>", "pad_token": null, "add_bos_token": true}"#,
    );
    write(
        "special_tokens_map.json",
        r#"{"bos_token": "<a>", "unk_token": {"content": "<u>"}}"#,
    );
    let m = meta();
    assert_eq!(
        m.string(key::CHAT_TEMPLATE_TOOLS),
        Some("T{{ tools[0].function.name }}")
    );
    let special = ["bos_token", "<b>", "eos_token", "<e>", "unk_token", "<u>"];
    assert_eq!(m.strings(key::CHAT_TEMPLATE_SPECIAL), special);
    let samples = m.template_samples().unwrap();
    let texts: Vec<&str> = samples.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(texts[0], "<b>Hello, world!2026");
    assert_eq!(texts[2], "Tadd");
    // One that a template refuses is not recorded; a template that is broken is kept.
    write(
        "chat_template.jinja",
        "{% if tools %}{{ raise_exception('no') }}{% endif %}x",
    );
    assert_eq!(meta().template_samples().unwrap().len(), 2);
    write("chat_template.jinja", "{% if %}");
    let broken = meta();
    assert_eq!(broken.chat_template(), Some("{% if %}"));
    assert_eq!(broken.template_samples().unwrap(), []);
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let s = Sizes {
        dim: 96,
        inner: 3000,
        layers: 2,
        heads: 6,
        kv_heads: 2,
        vocab: 6000,
    };
    let (_keep, path) = file_of(
        "m.gguf",
        &llama_gguf(llama_metadata(s), s, Kind::F32).build(),
    );
    let with = |threads| {
        let o = Options {
            threads,
            ..options(Quant::To(Format::Q8))
        };
        import_to(&path, Cursor::new(Vec::new()), &o)
            .unwrap()
            .into_inner()
    };
    let one = with(1);
    assert!([2, 3, 7].into_iter().all(|n| with(n) == one));
}

#[test]
fn an_import_to_a_file_is_complete_and_opens() {
    let (folder, path) = file_of(
        "m.gguf",
        &llama_gguf(llama_metadata(TINY), TINY, Kind::Q4_0).build(),
    );
    let out = folder.path().join("m.quern");
    let mut last = (0, 0);
    let summary = import(&path, &out, &options(Quant::Keep), &mut |done, all| {
        assert!(done >= last.0 && done <= all);
        last = (done, all);
        Ok(())
    })
    .unwrap();
    assert_eq!(last.0, last.1);
    assert_eq!(summary.bytes, std::fs::metadata(&out).unwrap().len());
    assert_eq!((summary.name.as_str(), summary.tensors), ("tiny", 12));
    let file = ModelFile::open(&out, OpenOptions::default()).unwrap();
    verify(&file, 1, &|_| {}).unwrap();
    assert_eq!(file.meta().name(), Some("tiny"));
    let refused = import(&path, &path, &options(Quant::Keep), &mut |_, _| Ok(())).unwrap_err();
    assert_eq!(refused.exit_code(), 2);
}
