//! GGUF files that are wrong in ways that broke other programs, each with the message that says so.

use crate::foreign_files::*;
use crate::import::{file_of, imported};
use crate::import_hazards::{accept, check, refusal, refuse};
use quern::convert::quantize::Quant;

fn refuse_gguf(w: &GgufWriter, word: &str) {
    refuse("m.gguf", &w.build(), word);
}

fn tiny() -> GgufWriter {
    llama_gguf(llama_metadata(TINY), TINY, Kind::F32)
}

#[test]
fn the_valid_twin_is_accepted() {
    accept("m.gguf", &tiny().build());
    let mut v2 = tiny();
    v2.version = Some(2);
    accept("m.gguf", &v2.build());
}

#[test]
fn counts_that_the_file_cannot_hold() {
    for n in [u64::MAX, 1 << 63, 500_000_000, 14] {
        let mut w = GgufWriter::new();
        w.n_kv = Some(n);
        refuse_gguf(&w, "n_kv");
        let mut w = GgufWriter::new();
        w.n_tensors = Some(n);
        refuse_gguf(&w, "n_tensors");
    }
    // 24 bytes and nothing else.
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(500_000_000u64.to_le_bytes());
    refuse("m.gguf", &bytes, "n_kv is 500000000");
}

#[test]
fn string_lengths_that_the_file_cannot_hold() {
    for n in [u64::MAX, 1 << 63, u64::MAX - 7] {
        refuse_gguf(
            &llama_metadata(TINY).raw(b"general.x", 8, &n.to_le_bytes()),
            "bytes",
        );
        let mut key = tiny().build();
        // The first key's length.
        key[24..32].copy_from_slice(&n.to_le_bytes());
        refuse("m.gguf", &key, "byte 32");
    }
}

#[test]
fn numbers_of_dimensions() {
    let mut dims = Vec::new();
    for n in [0usize, 5] {
        dims.resize(n, 1u64);
        refuse_gguf(&llama_metadata(TINY).info(b"t", &dims, 0, 0), "n_dims");
    }
    let mut w = llama_metadata(TINY).info(b"t", &[1], 0, 0).build();
    let at = w.windows(5).rposition(|b| b == b"t\x01\0\0\0").unwrap();
    w[at + 1..at + 5].copy_from_slice(&u32::MAX.to_le_bytes());
    refuse("m.gguf", &w, "n_dims is 4294967295");
}

#[test]
fn just_the_magic() {
    refuse("m.gguf", b"GGUF", "byte 4");
    refuse("m.gguf", b"GG", "byte 0");
    refuse("m.gguf", b"", "");
}

#[test]
fn other_magics_and_versions() {
    let with = |at: usize, bytes: &[u8]| {
        let mut w = tiny().build();
        w[at..at + bytes.len()].copy_from_slice(bytes);
        w
    };
    refuse("m.gguf", &with(0, b"GGML"), "no model that can be imported");
    refuse("m.gguf", &with(4, &1u32.to_le_bytes()), "version is 1");
    refuse("m.gguf", &with(4, &4u32.to_le_bytes()), "version is 4");
    refuse("m.gguf", &with(4, &3u32.to_be_bytes()), "big-endian");
}

#[test]
fn array_length_times_type_overflows() {
    for (kind, n) in [(10, 1 << 61), (4, 1 << 62), (0, u64::MAX), (8, 1 << 61)] {
        refuse_gguf(
            &llama_metadata(TINY).array("general.x", kind, n, &[0; 64]),
            "an array's length",
        );
    }
}

#[test]
fn nested_arrays() {
    let mut inner = 4u32.to_le_bytes().to_vec();
    inner.extend(1u64.to_le_bytes());
    inner.extend(7u32.to_le_bytes());
    refuse_gguf(
        &llama_metadata(TINY).array("general.x", 9, 1, &inner),
        "array of arrays",
    );
}

#[test]
fn unknown_value_types_and_odd_booleans() {
    refuse_gguf(
        &llama_metadata(TINY).raw(b"general.x", 13, &[0; 8]),
        "type 13",
    );
    refuse_gguf(
        &llama_metadata(TINY).array("general.x", 99, 1, &[0; 8]),
        "type 99",
    );
    refuse_gguf(
        &llama_metadata(TINY).raw(b"general.x", 7, &[2]),
        "boolean 2",
    );
    refuse_gguf(
        &llama_metadata(TINY).array("general.x", 7, 2, &[1, 3]),
        "boolean",
    );
}

#[test]
fn shapes_that_wrap() {
    for (dims, kind, word) in [
        (
            vec![4, (1 << 30) - 1, (1 << 30) + 1],
            0,
            "larger than a file",
        ),
        (vec![5124095576030431008], 2, "end after the file"),
        (vec![(1 << 63) - 1, 2], 24, "more values"),
        (vec![1 << 40, 1 << 40], 0, "more values"),
        (vec![1 << 32, 1 << 32], 0, "more values"),
        (vec![1 << 61, 2], 0, "larger than a file"),
    ] {
        refuse_gguf(&llama_metadata(TINY).info(b"t", &dims, kind, 0), word);
    }
    let n = 0x7fff_ffff_ffff_ffc0;
    refuse_gguf(
        &llama_metadata(TINY)
            .info(b"a", &[n], 24, 0)
            .info(b"b", &[n], 24, n),
        "type I8",
    );
    // The same with a type that is read.
    refuse_gguf(
        &llama_metadata(TINY)
            .info(b"a", &[n / 4], 0, 0)
            .info(b"b", &[n / 4], 0, n),
        "end after the file",
    );
}

#[test]
fn dimensions_zero_and_minus_one() {
    refuse_gguf(
        &llama_metadata(TINY).info(b"t", &[0], 0, 0),
        "a dimension is 0",
    );
    refuse_gguf(
        &llama_metadata(TINY).info(b"t", &[4, u64::MAX], 0, 0),
        "a dimension is -1",
    );
}

#[test]
fn tensor_types_that_are_not_read() {
    for (kind, name) in [
        (16, "IQ2_XXS"),
        (34, "TQ1_0"),
        (28, "F64"),
        (4, "number 4"),
        (u32::MAX, "number 4294967295"),
    ] {
        refuse_gguf(
            &llama_metadata(TINY).info(b"blk.0.x", &[256], kind, 0),
            name,
        );
        refuse_gguf(
            &llama_metadata(TINY).info(b"blk.0.x", &[256], kind, 0),
            "\"blk.0.x\"",
        );
    }
    for (cols, kind) in [(33, 8), (32, 12), (128, 14), (48, 39)] {
        refuse_gguf(
            &llama_metadata(TINY).info(b"t", &[cols, 2], kind, 0),
            "no whole blocks",
        );
    }
}

#[test]
fn alignments() {
    for (a, ok) in [
        (0, false),
        (13, false),
        (0x8000_0000, false),
        (4, false),
        (8, true),
        (32, true),
    ] {
        let w = llama_gguf(
            llama_metadata(TINY).u32("general.alignment", a),
            TINY,
            Kind::F32,
        );
        if ok {
            // Offsets are multiples of 32, the data begins at one.
            accept("m.gguf", &w.build());
        } else {
            refuse_gguf(&w, "general.alignment");
        }
    }
    for (kind, bytes) in [
        (10, &32u64.to_le_bytes()[..]),
        (5, &32i32.to_le_bytes()),
        (6, &32f32.to_le_bytes()),
    ] {
        refuse_gguf(
            &llama_metadata(TINY).raw(b"general.alignment", kind, bytes),
            "general.alignment has type",
        );
    }
    refuse_gguf(
        &llama_metadata(TINY).str("general.alignment", "32"),
        "general.alignment has type",
    );
    refuse_gguf(
        &llama_metadata(TINY).info(b"t", &[4], 0, 4),
        "multiple of the alignment",
    );
}

#[test]
fn a_key_with_a_nul_beside_the_real_one() {
    let w = llama_metadata(TINY).raw(b"llama.block_count\0", 4, &9u32.to_le_bytes());
    refuse_gguf(&w, "a key is \"llama.block_count\\0\"");
    refuse_gguf(&llama_metadata(TINY).raw(b"", 4, &[0; 4]), "a key is \"\"");
    refuse_gguf(
        &llama_metadata(TINY).raw(b"general.\x1b[31m", 4, &[0; 4]),
        "a key is",
    );
    refuse_gguf(
        &llama_metadata(TINY).raw(b"general.\xff", 4, &[0; 4]),
        "not UTF-8",
    );
}

#[test]
fn keys_and_tensors_that_are_there_twice() {
    refuse_gguf(
        &llama_metadata(TINY).u32("llama.block_count", 1),
        "\"llama.block_count\" is there twice",
    );
    refuse_gguf(
        &tiny().tensor("output_norm.weight", &[32], 0, &[0; 128]),
        "\"output_norm.weight\" is there twice",
    );
    // Two names for the same thing.
    refuse_gguf(
        &tiny().tensor("model.norm.weight", &[32], 0, &[0; 128]),
        "is there twice",
    );
}

#[test]
fn data_past_the_end() {
    let w = llama_metadata(TINY);
    refuse_gguf(
        &w.clone().info(b"t", &[64], 0, 1 << 40),
        "end after the file",
    );
    refuse_gguf(
        &w.clone().info(b"t", &[64], 0, u64::MAX - 31),
        "end after the file",
    );
    refuse_gguf(&w.info(b"t", &[1 << 20], 0, 0), "end after the file");
    let mut cut = tiny().build();
    cut.pop();
    refuse("m.gguf", &cut, "end after the file");
}

#[test]
fn tensors_that_overlap() {
    let w = llama_metadata(TINY)
        .tensor("a", &[64], 0, &[0; 256])
        .info(b"b", &[8], 0, 64);
    refuse_gguf(&w, "overlap");
}

/// The records of a tiny llama with one replaced.
fn with(key: &str, kind: u32, value: &[u8]) -> GgufWriter {
    let replaced = llama_metadata(TINY).build();
    let at = replaced
        .windows(key.len())
        .position(|w| w == key.as_bytes())
        .unwrap();
    // Rename the real one into the general name space, where it means nothing.
    let mut bytes = replaced;
    let (head, tail) = bytes.split_at_mut(at);
    let _ = head;
    tail[..8].copy_from_slice(b"general.");
    let mut w = RawRecords::of(&bytes);
    w = w.raw(key.as_bytes(), kind, value);
    llama_gguf(w, TINY, Kind::F32)
}

/// Copies the records of a file without tensors into a new writer.
struct RawRecords;

impl RawRecords {
    fn of(bytes: &[u8]) -> GgufWriter {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let mut w = GgufWriter::new();
        let mut at = 24;
        for _ in 0..word(16) {
            let key = &bytes[at + 8..at + 8 + word(at)];
            at += 8 + key.len();
            let kind = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            at += 4;
            let len = match kind {
                8 => 8 + word(at),
                4 | 6 => 4,
                other => panic!("{other}"),
            };
            w = w.raw(key, kind, &bytes[at..at + len]);
            at += len;
        }
        w
    }
}

#[test]
fn hyperparameters() {
    let number = |key: &str, v: u32| with(key, 4, &v.to_le_bytes());
    refuse_gguf(
        &number("llama.attention.head_count", 0),
        "attention.head_count is 0",
    );
    refuse_gguf(
        &number("llama.attention.head_count_kv", 0),
        "num_key_value_heads is 0",
    );
    refuse_gguf(
        &number("llama.attention.head_count_kv", 3),
        "num_key_value_heads is 3",
    );
    refuse_gguf(&number("llama.block_count", 0), "num_hidden_layers is 0");
    refuse_gguf(
        &number("llama.block_count", 1_000_000),
        "num_hidden_layers is 1000000",
    );
    refuse_gguf(&number("llama.block_count", 2), "model.layers.1.");
    refuse_gguf(
        &with("llama.block_count", 8, &gguf_string(b"1")),
        "block_count is \"1\"",
    );
    refuse_gguf(
        &with("llama.block_count", 6, &1f32.to_le_bytes()),
        "block_count is 1.0",
    );
    refuse_gguf(
        &with("llama.block_count", 5, &(-1i32).to_le_bytes()),
        "block_count is -1",
    );
    refuse_gguf(
        &number("llama.embedding_length", u32::MAX),
        "hidden_size is 4294967295",
    );
    refuse_gguf(&number("llama.feed_forward_length", 65), "has shape");
    refuse_gguf(
        &number("llama.rope.dimension_count", 0),
        "dimension_count is 0",
    );
    refuse_gguf(
        &with(
            "llama.attention.layer_norm_rms_epsilon",
            6,
            &f32::NAN.to_le_bytes(),
        ),
        "NaN",
    );
    accept("m.gguf", &number("llama.block_count", 1).build());
}

#[test]
fn expert_arrays() {
    let w = llama_metadata(TINY);
    let zero = w
        .clone()
        .u32("llama.expert_count", 0)
        .u32("llama.expert_used_count", 0);
    accept("m.gguf", &llama_gguf(zero, TINY, Kind::F32).build());
    let eight = w.clone().u32("llama.expert_count", 8);
    refuse_gguf(
        &llama_gguf(eight, TINY, Kind::F32),
        "block_sparse_moe.gate.weight\" is missing",
    );
    let none = w.array("llama.expert_count", 4, 0, &[]);
    refuse_gguf(&llama_gguf(none, TINY, Kind::F32), "expert_count is []");
}

#[test]
fn special_ids_beyond_the_vocabulary() {
    for key in ["bos", "eos", "eot", "padding", "unknown"] {
        let w = |id| {
            llama_gguf(
                llama_metadata(TINY).u32(&format!("tokenizer.ggml.{key}_token_id"), id),
                TINY,
                Kind::F32,
            )
        };
        refuse_gguf(&w(40), "is 40, expected an id below the vocabulary's 40");
        accept("m.gguf", &w(39).build());
    }
    refuse_gguf(
        &llama_metadata(TINY)
            .f32("tokenizer.ggml.bos_token_id", 1.0)
            .info(b"t", &[1], 0, 0),
        "",
    );
}

#[test]
fn what_would_change_the_mathematics() {
    let with = |w: GgufWriter| llama_gguf(w, TINY, Kind::F32);
    refuse_gguf(
        &with(llama_metadata(TINY).u32("llama.mystery", 1)),
        "mystery",
    );
    refuse_gguf(
        &with(GgufWriter::new().str("general.architecture", "warp")),
        "\"warp\"",
    );
    refuse_gguf(
        &with(llama_metadata(TINY).str("general.type", "adapter")),
        "adapter",
    );
    refuse_gguf(&with(GgufWriter::new()), "general.architecture is missing");
    refuse_gguf(&llama_metadata(TINY), "no tensors");
    refuse_gguf(
        &tiny().tensor("blk.0.attn_q_norm.weight", &[16], 0, &[0; 64]),
        "\"blk.0.attn_q_norm.weight\"",
    );
    refuse_gguf(
        &tiny().tensor("blk.1.attn_q.weight", &[32, 32], 0, &[0; 4096]),
        "no use for: \"blk.1.attn_q.weight\"",
    );
}

#[test]
fn a_missing_tensor_is_named() {
    let mut w = llama_metadata(TINY);
    for (name, rows, cols) in llama_shapes(TINY) {
        if name != "blk.0.ffn_up.weight" {
            let values = llama_values(&name, rows, cols);
            let dims = [u64::from(cols), u64::from(rows)];
            let dims = if cols == 1 { &dims[1..] } else { &dims[..] };
            w = w.tensor(&name, dims, 0, &Kind::F32.encode(&values));
        }
    }
    refuse_gguf(&w, "mlp.up_proj.weight");
}

#[test]
fn values_that_are_not_finite() {
    let bytes = tiny().build();
    let start = bytes.len() - 40 * 32 * 4;
    let put = |at: usize, v: f32| {
        let mut b = bytes.clone();
        b[start + 4 * at..start + 4 * at + 4].copy_from_slice(&v.to_le_bytes());
        b
    };
    refuse(
        "m.gguf",
        &put(70, f32::NAN),
        "\"output.weight\": value 70 (row 2, column 6) is NaN",
    );
    refuse(
        "m.gguf",
        &put(1279, f32::INFINITY),
        "value 1279 (row 39, column 31) is inf",
    );
    accept("m.gguf", &put(70, 3.0));
    // Too large for the format that was asked for.
    let (_keep, path) = file_of("m.gguf", &put(70, 1e5));
    imported(&path, Quant::Keep);
    check(
        &refusal(&path, Quant::by_name("f16").unwrap()),
        "is 100000, expected at most",
    );
    let (_keep, path) = file_of("m.gguf", &put(70, 1e8));
    check(&refusal(&path, Quant::by_name("q8").unwrap()), "for q8");
    check(&refusal(&path, Quant::by_name("q4").unwrap()), "for q4");
    let (_keep, path) = file_of("m.gguf", &put(70, f32::MAX));
    check(&refusal(&path, Quant::by_name("bf16").unwrap()), "for bf16");
}

#[test]
fn block_scales_that_are_not_finite() {
    for (kind, block) in [(Kind::Q8_0, 34), (Kind::Q4_0, 18)] {
        let bytes = llama_gguf(llama_metadata(TINY), TINY, kind).build();
        let start = bytes.len() - 40 * block;
        for scale in [0x7c00u16, 0xfc00, 0x7e01] {
            let mut b = bytes.clone();
            b[start + 5 * block..start + 5 * block + 2].copy_from_slice(&scale.to_le_bytes());
            refuse(
                "m.gguf",
                &b,
                "\"output.weight\": scale is not finite in row 5 at column 0",
            );
            let (_keep, path) = file_of("m.gguf", &b);
            check(&refusal(&path, Quant::by_name("f32").unwrap()), "row 5");
        }
    }
}
