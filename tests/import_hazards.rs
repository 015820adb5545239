//! Foreign files that are wrong in ways that broke other programs: each is refused with exit 3 and a message that says what is wrong, and each
//! has a valid twin that is accepted.

use crate::foreign_files::*;
use crate::golden_folders;
use crate::import::{file_of, imported, options};
use quern::convert::import::import_to;
use quern::convert::quantize::Quant;
use quern::error::Error;
use serde_json::{Value, json};
use std::io::Cursor;
use std::path::Path;

/// The error of importing `path`.
pub fn refusal(path: &Path, quant: Quant) -> Error {
    match import_to(path, Cursor::new(Vec::new()), &options(quant)) {
        Ok(_) => panic!("{path:?} was accepted"),
        Err(e) => e,
    }
}

pub fn check(e: &Error, word: &str) {
    let message = e.to_string();
    assert_eq!(e.exit_code(), 3, "{message}");
    assert!(message.contains(word), "{message:?} does not say {word:?}");
    assert!(!message.contains(char::is_control), "{message:?}");
}

/// Checks that a file with these bytes is invalid for a reason that contains `word`.
pub fn refuse(name: &str, bytes: &[u8], word: &str) {
    let (_keep, path) = file_of(name, bytes);
    check(&refusal(&path, Quant::Keep), word);
}

pub fn accept(name: &str, bytes: &[u8]) {
    let (_keep, path) = file_of(name, bytes);
    imported(&path, Quant::Keep);
}

mod safetensors {
    use super::*;

    /// A file from its header's text.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.resize(out.len() + data, 0);
        out
    }

    /// A folder whose weights are this file.
    fn refuse_file(bytes: &[u8], word: &str) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(
            golden_folders::folder("llama_mha").join("config.json"),
            folder.path().join("config.json"),
        )
        .unwrap();
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        check(&refusal(folder.path(), Quant::Keep), word);
    }

    #[test]
    fn shapes_that_wrap() {
        for shape in [
            "[2,18446744073709551614]",
            "[4194305,4194305,211106198978564]",
        ] {
            let h = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,16]}}}}"#);
            refuse_file(&file(&h, 16), "larger than a file");
        }
    }

    #[test]
    fn data_that_does_not_cover_the_file() {
        let two = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"F32","shape":[4],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[4],"data_offsets":{b}}}}}"#
            )
        };
        refuse_file(&file(&two("[0,16]", "[8,24]"), 24), "overlap");
        refuse_file(&file(&two("[0,16]", "[20,36]"), 36), "hole");
        refuse_file(&file(&two("[4,20]", "[20,36]"), 36), "hole");
        refuse_file(
            &file(&two("[0,16]", "[16,32]"), 33),
            "1 bytes after the last tensor",
        );
        refuse_file(&file(&two("[0,16]", "[16,32]"), 31), "31 bytes of data");
        refuse_file(&file(&two("[16,0]", "[16,32]"), 32), "expected 16 bytes");
        refuse_file(&file(&two("[0,15]", "[15,31]"), 31), "expected 16 bytes");
        refuse_file(
            &file(&two("[0,18446744073709551615]", "[16,32]"), 32),
            "expected 16 bytes",
        );
        // Correct: refused because these are not the model's tensors.
        refuse_file(
            &file(&two("[0,16]", "[16,32]"), 32),
            "model.embed_tokens.weight",
        );
    }

    #[test]
    fn keys_that_are_there_twice() {
        let one = r#""a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#;
        refuse_file(
            &file(&format!("{{{one},{one}}}"), 16),
            "\"a\" is there twice",
        );
        let inner = r#"{"a":{"dtype":"F32","dtype":"F16","shape":[4],"data_offsets":[0,16]}}"#;
        refuse_file(&file(inner, 16), "duplicate field `dtype`");
        let meta = r#"{"__metadata__":{},"__metadata__":{}}"#;
        refuse_file(&file(meta, 0), "\"__metadata__\" is there twice");
    }

    #[test]
    fn headers() {
        refuse_file(b"", "0 bytes");
        refuse_file(&[0; 7], "7 bytes");
        refuse_file(
            &u64::MAX.to_le_bytes(),
            "header length is 18446744073709551615",
        );
        let mut long = 100u64.to_le_bytes().to_vec();
        long.extend(b"{}");
        refuse_file(&long, "header length is 100");
        refuse_file(&file(" {}", 0), "brace");
        refuse_file(&file("", 0), "brace");
        refuse_file(&file("{}x", 0), "header: ");
        refuse_file(&file("{\"a\u{1b}[2J\":1}", 0), "header: ");
        refuse_file(
            &file(
                r#"{"a":{"dtype":"Q9","shape":[4],"data_offsets":[0,16]}}"#,
                16,
            ),
            "Q9",
        );
        refuse_file(
            &file(
                r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,16]}}"#,
                16,
            ),
            "-1",
        );
        refuse_file(
            &file(
                r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0]}}"#,
                16,
            ),
            "tensor \"a\"",
        );
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        refuse_file(&file(&deep, 0), "header: ");
    }
}

mod llama2c_files {
    use super::*;

    fn with(version: u32, at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut b = llama2c(TINY, version, true, 32, true);
        b[at..at + bytes.len()].copy_from_slice(bytes);
        b
    }

    #[test]
    fn the_valid_twins_are_accepted() {
        for version in 0..3 {
            accept("m.bin", &llama2c(TINY, version, true, 32, true));
        }
    }

    #[test]
    fn header_fields() {
        for (version, first) in [(0, 0), (1, 8), (2, 8)] {
            let word = |i: usize, v: i32| with(version, first + 4 * i, &v.to_le_bytes());
            refuse("m.bin", &word(3, 0), "n_heads is 0");
            refuse("m.bin", &word(5, i32::MIN), "vocab_size is -2147483648");
            refuse("m.bin", &word(5, 1 << 24), "the file has");
            refuse(
                "m.bin",
                &word(0, 33),
                "n_heads is 2, expected a divisor of dim 33",
            );
            refuse("m.bin", &word(2, 2), "the file has");
            refuse("m.bin", &word(2, -1), "n_layers is -1");
        }
        // 2^24 rows of 2^18 values: the product wraps in 32 bits.
        let mut wide = with(0, 20, &(1i32 << 24).to_le_bytes());
        wide[..4].copy_from_slice(&(1i32 << 18).to_le_bytes());
        wide[12..20].copy_from_slice(&[64, 0, 0, 0, 64, 0, 0, 0]);
        refuse("m.bin", &wide, "the file has");
        refuse("m.bin", &with(1, 4, &3i32.to_le_bytes()), "version is 3");
        refuse(
            "m.bin",
            &with(2, 37, &0i32.to_le_bytes()),
            "group size is 0",
        );
        refuse(
            "m.bin",
            &with(2, 37, &24i32.to_le_bytes()),
            "group size is 24",
        );
    }

    #[test]
    fn lengths_that_the_header_does_not_imply() {
        for version in 0..3 {
            let whole = llama2c(TINY, version, true, 32, true);
            refuse("m.bin", &whole[..whole.len() - 1], "the file has");
            let mut longer = whole.clone();
            longer.push(0);
            refuse("m.bin", &longer, "the file has");
            refuse("m.bin", &whole[..20], "");
        }
    }

    #[test]
    fn a_group_scale_that_is_not_finite() {
        let mut b = llama2c(TINY, 2, true, 32, true);
        let at = b.len() - 4;
        b[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        refuse("m.bin", &b, "scale is not finite in row 63");
    }
}

mod folders {
    use super::*;

    fn folder(family: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        golden_folders::materialise(family, false, folder.path());
        folder
    }

    fn edit(folder: &tempfile::TempDir, file: &str, change: impl FnOnce(&mut Value)) {
        let path = folder.path().join(file);
        let mut value = golden_folders::read_json(&path);
        change(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
    }

    const INDEX: &str = "model.safetensors.index.json";
    const SHARD: &str = "model-00001-of-00003.safetensors";
    const TENSOR: &str = "model.embed_tokens.weight";

    #[test]
    fn a_weight_map_that_points_out_of_the_folder() {
        let outside = tempfile::tempdir().unwrap();
        let f = folder("llama_gqa_tied");
        let secret = outside.path().join("x.safetensors");
        std::fs::copy(f.path().join(SHARD), &secret).unwrap();
        let point = |f: &tempfile::TempDir, to: &str| {
            edit(f, INDEX, |v| {
                for file in v["weight_map"].as_object_mut().unwrap().values_mut() {
                    if file == SHARD {
                        *file = json!(to);
                    }
                }
            });
        };
        let name = outside.path().file_name().unwrap().to_str().unwrap();
        for to in [
            format!("../{name}/x.safetensors"),
            secret.to_str().unwrap().to_owned(),
            "a/../../x".to_owned(),
            "./..".to_owned(),
            String::new(),
            "x\0y".to_owned(),
        ] {
            let f = folder("llama_gqa_tied");
            point(&f, &to);
            check(&refusal(f.path(), Quant::Keep), "within the folder");
        }
        // A link out of the folder, under an innocent name.
        std::os::unix::fs::symlink(&secret, f.path().join("link.safetensors")).unwrap();
        point(&f, "link.safetensors");
        check(&refusal(f.path(), Quant::Keep), "a link to");
        // A link that stays inside is fine.
        std::fs::remove_file(f.path().join("link.safetensors")).unwrap();
        std::os::unix::fs::symlink(SHARD, f.path().join("link.safetensors")).unwrap();
        imported(f.path(), Quant::Keep);
    }

    #[test]
    fn a_snapshot_of_the_hub_cache_is_a_folder_of_links() {
        let root = tempfile::tempdir().unwrap();
        let (blobs, snapshot) = (root.path().join("blobs"), root.path().join("snapshots/abc"));
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::create_dir_all(&snapshot).unwrap();
        let f = folder("llama_gqa_tied");
        for entry in std::fs::read_dir(f.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            std::fs::copy(&path, blobs.join(name)).unwrap();
            let target = Path::new("../../blobs").join(name);
            std::os::unix::fs::symlink(target, snapshot.join(name)).unwrap();
        }
        imported(&snapshot, Quant::Keep);
    }

    #[test]
    fn an_index_that_does_not_fit_its_shards() {
        let f = folder("llama_gqa_tied");
        edit(&f, INDEX, |v| {
            v["weight_map"][TENSOR] = json!("model-00003-of-00003.safetensors")
        });
        check(&refusal(f.path(), Quant::Keep), "is not in \"model-00003");
        let f = folder("llama_gqa_tied");
        edit(&f, INDEX, |v| v["weight_map"]["model.ghost"] = json!(SHARD));
        check(&refusal(f.path(), Quant::Keep), "\"model.ghost\" is not in");
        let f = folder("llama_gqa_tied");
        edit(&f, INDEX, |v| {
            v["weight_map"].as_object_mut().unwrap().remove(TENSOR);
        });
        check(&refusal(f.path(), Quant::Keep), "does not name the tensor");
        let f = folder("llama_gqa_tied");
        edit(&f, INDEX, |v| v["weight_map"][TENSOR] = json!(7));
        check(
            &refusal(f.path(), Quant::Keep),
            "is 7, expected a file name",
        );
        let f = folder("llama_gqa_tied");
        std::fs::remove_file(f.path().join(SHARD)).unwrap();
        check(&refusal(f.path(), Quant::Keep), "cannot open");
        // The same tensor in two shards.
        let f = folder("llama_gqa_tied");
        std::fs::copy(f.path().join(SHARD), f.path().join("again.safetensors")).unwrap();
        edit(&f, INDEX, |v| {
            v["weight_map"][TENSOR] = json!("again.safetensors")
        });
        check(&refusal(f.path(), Quant::Keep), "there twice");
    }

    #[test]
    fn folders_that_lack_something() {
        let empty = tempfile::tempdir().unwrap();
        check(&refusal(empty.path(), Quant::Keep), "no config.json");
        let f = folder("llama_mha");
        std::fs::remove_file(f.path().join("model.safetensors")).unwrap();
        check(&refusal(f.path(), Quant::Keep), "has no model.safetensors");
        std::fs::write(f.path().join("pytorch_model.bin"), "PK").unwrap();
        check(&refusal(f.path(), Quant::Keep), "saved as safetensors");
        let f = folder("llama_mha");
        std::fs::write(f.path().join("config.json"), "[]").unwrap();
        check(&refusal(f.path(), Quant::Keep), "no JSON object");
        std::fs::write(f.path().join("config.json"), "{\"a\": \u{1b}}").unwrap();
        check(&refusal(f.path(), Quant::Keep), "config.json");
    }

    #[test]
    fn tensors_that_are_missing_or_too_many_or_of_another_shape() {
        let change = |edit: &dyn Fn(&mut Vec<golden_folders::Tensor>)| {
            let f = folder("llama_mha");
            let mut tensors = golden_folders::tensors("llama_mha");
            edit(&mut tensors);
            let bytes = golden_folders::safetensors(&tensors.iter().collect::<Vec<_>>());
            std::fs::write(f.path().join("model.safetensors"), bytes).unwrap();
            f
        };
        const NAME: &str = "model.layers.1.mlp.up_proj.weight";
        let at = |t: &[golden_folders::Tensor]| t.iter().position(|t| t.name == NAME).unwrap();
        let f = change(&|t| {
            let i = at(t);
            t.remove(i);
        });
        check(
            &refusal(f.path(), Quant::Keep),
            &format!("tensor {NAME:?} is missing"),
        );
        let f = change(&|t| {
            let i = at(t);
            t[i].shape.reverse();
        });
        check(
            &refusal(f.path(), Quant::Keep),
            &format!("tensor {NAME:?} has shape [64, 96], expected [96, 64]"),
        );
        let f = change(&|t| {
            let i = at(t);
            t[i].name = "model.layers.1.mlp.gap_proj.weight".into();
        });
        check(&refusal(f.path(), Quant::Keep), NAME);
        let f = change(&|t| {
            let mut extra = golden_folders::tensors("llama_mha").remove(0);
            extra.name = "vision.tower".into();
            t.push(extra);
        });
        check(
            &refusal(f.path(), Quant::Keep),
            "no use for: \"vision.tower\"",
        );
        let f = change(&|t| {
            let i = at(t);
            t[i].dtype = "I32".into();
        });
        check(&refusal(f.path(), Quant::Keep), "has type I32");
        // Left over from old checkpoints, and known to be unneeded.
        let f = change(&|t| {
            let mut extra = golden_folders::tensors("llama_mha").pop().unwrap();
            extra.name = "model.layers.0.self_attn.rotary_emb.inv_freq".into();
            t.push(extra);
        });
        imported(f.path(), Quant::Keep);
    }

    #[test]
    fn configurations_that_are_not_understood() {
        let refuse_config = |key: &str, value: Value, word: &str| {
            let f = folder("llama_mha");
            edit(&f, "config.json", |v| v[key] = value.clone());
            check(&refusal(f.path(), Quant::Keep), word);
        };
        refuse_config("model_type", json!("warp"), "\"warp\"");
        refuse_config(
            "attention_chunk_size",
            json!(8),
            "\"attention_chunk_size\" = 8 is not understood",
        );
        refuse_config("hidden_act", json!("mish"), "mish");
        refuse_config("num_hidden_layers", json!(4), "model.layers.3");
        refuse_config(
            "num_hidden_layers",
            json!(1_000_000),
            "num_hidden_layers is 1000000",
        );
        refuse_config(
            "num_hidden_layers",
            json!(2),
            "no use for: \"model.layers.2",
        );
        refuse_config(
            "vocab_size",
            json!(289),
            "has shape [288, 64], expected [289, 64]",
        );
        refuse_config("eos_token_id", json!(288), "the eos token is 288");
        refuse_config("bos_token_id", json!("x"), "bos_token_id");
        refuse_config(
            "quantization_config",
            json!({"bits": 4}),
            "quantization_config",
        );
    }
}

mod other {
    use super::*;

    #[test]
    fn files_that_are_no_models() {
        refuse(
            "m.txt",
            b"once upon a time",
            "no model that can be imported",
        );
        refuse("m.safetensors", b"once upon a time", "name the folder");
        refuse("m.pt", b"PK\x03\x04 zip archive", "saved as safetensors");
        refuse("m.quern", b"\x89QRN\r\n\x1a\n....", "a weight file already");
        let missing = refusal(Path::new("/nonexistent/model.gguf"), Quant::Keep);
        assert_eq!(missing.exit_code(), 4);
        check(
            &refusal(Path::new("/dev/null"), Quant::Keep),
            "not a regular file",
        );
    }
}
