//! `quern inspect`: what a person sees and what a program reads.

use super::*;
use crate::common::tiny::{Tiny, TinyFile};
use serde_json::Value as Json;
use std::process::Command;

fn inspect(path: &Path, options: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_quern"))
        .arg("inspect")
        .arg(path)
        .args(options)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_page_for_people() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.quern");
    let mut plan = tiny_plan(Format::Q4);
    plan.tokenizer.clear();
    plan.meta
        .set(key::NAME, Value::String("a\x1b[31m\nb".into()));
    plan.meta.set(key::TEMPERATURE, Value::F32(0.6));
    plan.meta
        .set(key::SOURCE_KIND, Value::String("gguf".into()));
    let files = Value::Strings(vec!["x\x1b.gguf".into()]);
    plan.meta.set(key::SOURCE_FILES, files);
    let hashes = Value::Strings(vec!["00ff".into()]);
    plan.meta.set(key::SOURCE_HASHES, hashes);
    let mut writer = Writer::create(&path, plan).unwrap();
    fill(&mut writer).unwrap();
    writer.finish().unwrap();
    let text = inspect(&path, &["--tensors"]);
    let file = open(&path).unwrap();
    let expected = format!(
        "\
name            a\\u{{1b}}[31m b
file            {path:?}
id              {}
size            36.0 KiB (36,864 bytes)
parameters      948 (948), 43.61 bits each
formats         f16         1 tensors,      240 weights,    640 B
                q8          1 tensors,      216 weights, 2.12 KiB
                q4          2 tensors,      480 weights, 2.25 KiB
                vectors     1 tensors,       12 weights,     48 B
",
        file.id_hex()
    );
    // Padding to 16 rows and 64 columns outweighs the weights of so small a file: 5168 bytes for 948 of them.
    assert_eq!(text[..expected.len()], expected);
    for line in [
        "vocabulary      18",
        "context         4096 positions",
        "width           12",
        "  0             rms norm, eps 1e-5",
        "                dense: inner 20, activation silu, gated",
        "tokenizer       none: only ids can be given and are printed",
        "special ids     bos 1, eos 2",
        "template        none",
        "defaults        temperature 0.6",
        "source          gguf",
        "                \"x\\u{1b}.gguf\" blake3 00ff",
        "x.list          \"a\", \"b\"",
        "   offset        bytes  format  shape               tensor",
        "    12288         2176  q8      18 x 12             token_embedding",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} in\n{text}");
    }
    assert!(!text.contains('\x1b'));
    assert!(!inspect(&path, &[]).contains("token_embedding"));
}

#[test]
fn an_object_for_programs() {
    let tiny = TinyFile::new(Tiny::default());
    let json: Json = serde_json::from_str(&inspect(tiny.path(), &["--json", "--tensors"])).unwrap();
    let file = open(tiny.path()).unwrap();
    // The names are a promise: fields are only ever added.
    let mut names: Vec<&str> = json
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "bits_per_weight",
            "bytes",
            "context_length",
            "features",
            "format_version",
            "formats",
            "hidden",
            "id",
            "metadata",
            "n_encoder_layers",
            "n_layers",
            "n_tensors",
            "name",
            "optional_features",
            "parameters",
            "path",
            "required_features",
            "sections",
            "spec",
            "tensors",
            "tokenizer",
            "vocab_size",
        ]
    );
    assert_eq!(json["id"], file.id_hex());
    assert_eq!(json["bytes"], file.len());
    assert_eq!(json["metadata"]["token.bos"], 256);
    assert_eq!(json["tokenizer"]["kind"], "byte-level BPE");
    assert_eq!(json["tokenizer"]["tokens"], file.spec().vocab_size);
    assert_eq!(json["n_layers"], 2);
    let spec = serde_json::to_vec(&json["spec"]).unwrap();
    assert_eq!(Spec::from_json(&spec).unwrap(), *file.spec());
    let tensors = json["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), file.entries().len());
    assert_eq!(tensors[0]["name"], "token_embedding");
    assert_eq!(tensors[0]["format"], "f32");
    let shape = [1, u64::from(file.spec().vocab_size), 36];
    assert_eq!(tensors[0]["shape"], serde_json::json!(shape));
    assert_eq!(tensors[0]["offset"], file.entries()[0].offset);
    let hash = blake3::hash(&file.data(0).0);
    assert_eq!(tensors[0]["blake3"], hash.to_hex().as_str());
    let short: Json = serde_json::from_str(&inspect(tiny.path(), &["--json"])).unwrap();
    assert!(short.get("tensors").is_none());
}
