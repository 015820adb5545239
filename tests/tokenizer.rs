//! Tokenizers: the reference vectors through the command, what the command prints, and linear time.

use crate::common::program::{run, run_with_input};
use crate::common::shared;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path)
        .expect("a vector file")
        .lines()
        .map(|l| serde_json::from_str(l).expect("a JSON line"))
        .collect()
}

/// Runs `quern tokenize --jsonl` over (text, add_special) and returns (ids, decoded).
fn tokenize(tokenizer: &Path, flags: &[&str], input: &[Value]) -> Vec<Value> {
    let mut text = String::new();
    for line in input {
        text.push_str(&line.to_string());
        text.push('\n');
    }
    let path = tokenizer.to_str().expect("UTF-8");
    let mut args = vec!["tokenize", "--tokenizer", path, "--jsonl"];
    args.extend_from_slice(flags);
    let done = run_with_input(&args, text.as_bytes());
    assert_eq!(done.code, 0, "{path}: {}", done.err);
    let out: Vec<Value> = done
        .text()
        .lines()
        .map(|l| serde_json::from_str(l).expect("a JSON line"))
        .collect();
    assert_eq!(out.len(), input.len(), "{path}: one line for each line");
    out
}

/// Every line of a vector file.
fn check_vectors(tokenizer: &Path, vectors: &Path, flags: &[&str]) {
    let want = lines(vectors);
    assert!(want.len() > 100, "{vectors:?}");
    let input: Vec<Value> = want
        .iter()
        .map(|v| json!({"text": v["text"], "add_special": v["add_special"]}))
        .collect();
    let got = tokenize(tokenizer, flags, &input);
    let wrong: Vec<String> = want
        .iter()
        .zip(&got)
        .filter(|(w, g)| w["ids"] != g["ids"] || w["decoded"] != g["decoded"])
        .map(|(w, g)| {
            format!(
                "{}: {:?}\n  got  {g}\n  want {} {}",
                w["id"], w["text"], w["ids"], w["decoded"]
            )
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{vectors:?}: {} of {} differ\n{}",
        wrong.len(),
        want.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_vector_of_tokenizer_json() {
    let Some(data) = shared("data/tokenizers") else {
        return;
    };
    for name in [
        "gpt2",
        "llama2",
        "mistral03",
        "modernbert",
        "bert_base_cased",
        "t5-small",
    ] {
        let file = data.join(format!("hf/{name}/tokenizer.json"));
        let vectors = data.join(format!("vectors/hf-{name}.jsonl"));
        check_vectors(&file, &vectors, &["--parse-special"]);
    }
}

#[test]
fn every_vector_of_gguf_vocabularies() {
    let Some(data) = shared("data/tokenizers") else {
        return;
    };
    for name in [
        "llama-bpe",
        "llama-spm",
        "qwen2",
        "gpt-2",
        "phi-3",
        "bert-bge",
    ] {
        let file = data.join(format!("ggml-vocab/ggml-vocab-{name}.gguf"));
        let vectors = data.join(format!("vectors/ggml-{name}.jsonl"));
        check_vectors(&file, &vectors, &["--parse-special"]);
        // llama.cpp's own tests: no special tokens added or parsed.
        let list = |end: &str| {
            let path = data.join(format!("ggml-vocab/ggml-vocab-{name}.gguf.{end}"));
            std::fs::read_to_string(path).expect("a test file")
        };
        let input: Vec<Value> = list("inp")
            .split("\n__ggml_vocab_test__\n")
            .map(|text| json!({"text": text, "add_special": false}))
            .collect();
        let want: Vec<Vec<u32>> = list("out")
            .lines()
            .map(|l| {
                l.split_whitespace()
                    .map(|n| n.parse().expect("an id"))
                    .collect()
            })
            .collect();
        let got = tokenize(&file, &[], &input);
        assert!(want.len() > 40);
        for ((text, got), want) in input.iter().zip(&got).zip(&want) {
            assert_eq!(got["ids"], json!(want), "{name}: {text}");
        }
    }
}

#[test]
fn every_vector_of_sentencepiece_and_tiktoken() {
    let Some(data) = shared("data/tokenizers") else {
        return;
    };
    // Control tokens in the text are plain text for SentencePiece; tiktoken was asked to allow them.
    check_vectors(
        &data.join("spm/llama2.model"),
        &data.join("vectors/spm-llama2.jsonl"),
        &[],
    );
    check_vectors(
        &data.join("tiktoken/cl100k_base.tiktoken"),
        &data.join("vectors/tiktoken-cl100k_base.jsonl"),
        &["--parse-special"],
    );
}

#[test]
fn every_golden_tokenizer() {
    let Some(golden) = shared("golden/_tokenizers") else {
        return;
    };
    for kind in [
        "gpt2",
        "llama3",
        "qwen2",
        "spm_gemma",
        "spm_llama",
        "unigram",
        "wordpiece",
    ] {
        let folder = golden.join(kind);
        let text = std::fs::read_to_string(folder.join("tokenizer_golden.json")).expect("a golden");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let cases = value["cases"].as_array().expect("cases");
        assert!(cases.len() > 10);
        let both = cases
            .iter()
            .flat_map(|c| [true, false].map(|add| json!({"text": c["text"], "add_special": add})));
        let input: Vec<Value> = both.collect();
        let got = tokenize(&folder, &["--parse-special"], &input);
        for (case, got) in cases.iter().zip(got.chunks(2)) {
            let text = &case["text"];
            assert_eq!(got[0]["ids"], case["ids"], "{kind}: {text}");
            assert_eq!(got[1]["ids"], case["ids_no_special"], "{kind}: {text}");
            assert_eq!(got[1]["decoded"], case["decoded"], "{kind}: {text}");
        }
    }
}

#[test]
fn tok_bin_is_its_sentencepiece_model() {
    let Some(models) = shared("data/models") else {
        return;
    };
    let Some(vectors) = shared("data/tokenizers/vectors/spm-llama2.jsonl") else {
        return;
    };
    let texts: Vec<Value> = lines(&vectors)
        .iter()
        .map(|v| json!({"text": v["text"], "add_special": false}))
        .collect();
    let bin = tokenize(&models.join("tok512.bin"), &[], &texts);
    let model = tokenize(&models.join("tok512.model"), &[], &texts);
    let gguf = tokenize(&models.join("stories260K-f32.gguf"), &[], &texts);
    let mut plain = 0;
    for (((text, a), b), c) in texts.iter().zip(&bin).zip(&model).zip(&gguf) {
        assert_eq!(a["ids"], c["ids"], "{text}");
        // The SentencePiece model also normalises: it removes extra white space, which the other two formats cannot say.
        let t = text["text"].as_str().unwrap();
        let spaces = t.starts_with(' ') || t.ends_with(' ') || t.contains("  ");
        if !spaces && t.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
            plain += 1;
            assert_eq!(a["ids"], b["ids"], "{text}");
            assert_eq!(a["decoded"], b["decoded"], "{text}");
        }
    }
    assert!(plain > 20, "{plain} texts without anything to normalise");
}

/// A byte-level tokenizer with a few merges, a special token and BOS, written as tokenizer.json.
fn small_json() -> Value {
    let mut vocab = serde_json::Map::new();
    let alphabet = (0x21u32..=0x7e)
        .chain(0xa1..=0xac)
        .chain(0xae..=0xff)
        .chain(0x100..=0x143);
    for c in alphabet.filter_map(char::from_u32) {
        vocab.insert(c.to_string(), json!(vocab.len()));
    }
    for piece in ["he", "ll", "hell", "hello", "Ġw", "Ġwo"] {
        vocab.insert(piece.into(), json!(vocab.len()));
    }
    let n = vocab.len();
    json!({
        "added_tokens": [
            {"id": n, "content": "<s>", "special": true, "normalized": false},
            {"id": n + 1, "content": "</s>", "special": true, "normalized": false},
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [n], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": ["h e", ["l", "l"], "he ll", "hell o", "Ġ w", "Ġw o"],
        },
    })
}

fn write(folder: &TempDir, name: &str, value: &Value) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, value.to_string()).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn what_the_command_prints() {
    let dir = TempDir::new().expect("a folder");
    let t = write(&dir, "tokenizer.json", &small_json());
    let go = |args: &[&str]| {
        let mut all = vec!["tokenize", "--tokenizer", &t];
        all.extend_from_slice(args);
        let done = run(&all);
        assert_eq!(done.code, 0, "{}", done.err);
        done.text().to_owned()
    };
    assert_eq!(
        go(&["hello wor"]),
        "262  \"<s>\"\n259  \"hello\"\n261  \"Ġwo\"\n 81  \"r\"\n"
    );
    assert_eq!(go(&["--ids", "hello wor"]), "262 259 261 81\n");
    assert_eq!(
        go(&["--ids", "--no-special", "hello", "wor"]),
        "259 261 81\n"
    );
    assert_eq!(go(&["--decode", "259", "261", "81"]), "hello wor\n");
    assert_eq!(go(&["--decode", "[259, 261]"]), "hello wo\n");
    // Text that looks like a control token is text unless the user asks.
    let plain = go(&["--ids", "--no-special", "</s>"]);
    assert!(!plain.split_whitespace().any(|id| id == "263"), "{plain}");
    assert_eq!(
        go(&["--ids", "--no-special", "--parse-special", "</s>"]),
        "263\n"
    );
    let json: Value = serde_json::from_str(&go(&["--json", "hello"])).expect("JSON");
    assert_eq!(json["ids"], json!([262, 259]));
    assert_eq!(json["pieces"], json!(["<s>", "hello"]));
    assert_eq!(json["decoded"], "<s>hello");
    // A folder and standard input.
    let folder = dir.path().to_str().expect("UTF-8");
    let done = run_with_input(&["tokenize", "--tokenizer", folder, "--ids"], b"hello\n");
    assert_eq!(
        done.text(),
        "262 259 198\n",
        "every byte counts, the line end too"
    );
    let done = run_with_input(
        &["tokenize", "--tokenizer", &t, "--jsonl"],
        b"{\"text\":\"hello\"}\n\n{\"text\":\"\",\"add_special\":false}\r\n",
    );
    assert_eq!(
        done.text(),
        "{\"ids\":[262,259],\"decoded\":\"<s>hello\"}\n{\"ids\":[],\"decoded\":\"\"}\n"
    );
}

#[test]
fn what_the_command_refuses() {
    let dir = TempDir::new().expect("a folder");
    let t = write(&dir, "tokenizer.json", &small_json());
    run(&["tokenize", "--tokenizer", &t, "--decode", "264"]).fails(3, &["264", "264 tokens"]);
    run(&["tokenize", "--tokenizer", &t, "--decode", "x"]).fails(2, &["\"x\""]);
    run(&["tokenize", "--tokenizer", "/nowhere/t.json", "x"]).fails(4, &["/nowhere/t.json"]);
    run_with_input(&["tokenize", "--tokenizer", &t], b"a\xff").fails(3, &["byte 1", "UTF-8"]);
    run_with_input(
        &["tokenize", "--tokenizer", &t, "--jsonl"],
        b"{\"text\":\"a\"}\n{\"txt\":1}\n",
    )
    .fails(3, &["line 2", "\"text\""]);
    let empty = TempDir::new().expect("a folder");
    let folder = empty.path().to_str().expect("UTF-8");
    run(&["tokenize", "--tokenizer", folder, "x"]).fails(3, &["tokenizer.json", "tokenizer.model"]);
    let none = dir.path().join("none.bin");
    std::fs::write(&none, b"\x7fELF").expect("a file");
    run(&[
        "tokenize",
        "--tokenizer",
        none.to_str().expect("UTF-8"),
        "x",
    ])
    .fails(3, &["not a tokenizer"]);
}

#[test]
fn a_split_pattern_that_explodes_is_a_limit() {
    let dir = TempDir::new().expect("a folder");
    let mut t = small_json();
    t["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        // The look-ahead keeps it from a linear engine.
        {"type": "Split", "pattern": {"Regex": "((?=a)a+)+b"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
    ]});
    let path = write(&dir, "t.json", &t);
    let text = "a".repeat(60);
    run(&["tokenize", "--tokenizer", &path, &text]).fails(5, &["split pattern"]);
    t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("(a+)+");
    let path = write(&dir, "t.json", &t);
    let text = "a".repeat(100_000);
    let done = run_with_input(
        &["tokenize", "--tokenizer", &path, "--ids"],
        text.as_bytes(),
    );
    assert!(done.code == 0 || done.code == 5, "{}", done.err);
}
