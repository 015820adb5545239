//! Encoder-decoders through the program: what is given goes to the encoder, the decoder begins with the file's id, and what does not fit is an
//! error that says what would.

use crate::common::program::{Done, run};
use crate::common::tiny::{BOS, EOS, VOCAB, tokenizer};
use crate::common::{Small, model_bytes, small_spec};
use crate::golden_folders::{Tensor, folder, materialise, read_json, safetensors, tensors};
use quern::file::meta::key;
use quern::file::{Meta, Value};
use quern_kernels::Format;
use quern_models::Spec;
use quern_models::spec::*;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

fn list(ids: &Json) -> String {
    let ids = ids.as_array().unwrap().iter();
    ids.map(Json::to_string).collect::<Vec<_>>().join(",")
}

fn close(found: &Json, expected: &Json, atol: f64) {
    let numbers = |v: &Json| -> Vec<f64> {
        let list = v.as_array().unwrap().iter();
        list.map(|x| x.as_f64().unwrap()).collect()
    };
    let (found, expected) = (numbers(found), numbers(expected));
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(&expected) {
        assert!((f - e).abs() <= atol, "{f} {e}");
    }
}

fn import(folder: &Path) -> (Done, PathBuf) {
    let out = folder.join("model.quern");
    let path = out.to_str().unwrap();
    (run(&["import", folder.to_str().unwrap(), "-o", path]), out)
}

#[test]
fn goldens_through_the_commands() {
    for name in ["t5_v1_0", "umt5"] {
        let scratch = tempfile::tempdir().unwrap();
        materialise(name, false, scratch.path());
        let (done, file) = import(scratch.path());
        assert_eq!(done.code, 0, "{}", done.err);
        let model = file.to_str().unwrap();
        let golden = read_json(&folder(name).join("golden.json"));
        let atol = golden["suggested_atol"].as_f64().unwrap();
        for sequence in golden["sequences"].as_array().unwrap() {
            let source = list(&sequence["encoder_input_ids"]);
            let greedy = &sequence["greedy"];
            let n = greedy.as_array().unwrap().len();
            let args = [
                "run", "-m", model, "--ids", &source, "--temp", "0", "--json",
            ];
            let more = ["--kv", "f32", "--ignore-eos", "-n", &n.to_string()];
            let found = run(&[&args[..], &more].concat()).json();
            assert_eq!(found["ids"], *greedy, "{name}");
            assert_eq!(found["prompt_ids"], sequence["encoder_input_ids"]);
            assert_eq!(found["decoder_prompt_ids"], json!([0]));
            let tokens = sequence["encoder_input_ids"].as_array().unwrap().len();
            assert_eq!(found["usage"]["prompt_tokens"], tokens);

            let decoder = list(&sequence["decoder_input_ids"]);
            let args = ["score", "-m", model, "--encoder-ids", &source];
            let more = [
                "--ids", &decoder, "--kv", "f32", "--json", "--logits", "last",
            ];
            let done = run(&[&args[..], &more].concat());
            assert_eq!(done.code, 0, "{}", done.err);
            let lines: Vec<Json> = done
                .text()
                .lines()
                .map(|l| serde_json::from_str(l).unwrap())
                .collect();
            let last = &lines[lines.len() - 2];
            close(&last["logits"], &sequence["last_logits"], atol);

            let args = ["embed", "-m", model, "--ids", &source];
            let hidden = run(&[&args[..], &["--pooling", "none", "--json"]].concat()).json();
            let rows = hidden["hidden"].as_array().unwrap();
            assert_eq!(rows.len(), tokens);
            close(&rows[0], &sequence["encoder_hidden_first"], atol);
            close(&rows[tokens - 1], &sequence["encoder_hidden_last"], atol);
        }
        let done = run(&["inspect", model]);
        for part in [
            "encoder         3 layers",
            "decoder         2 layers",
            "cross: 4 heads",
            "relative buckets 32, max distance 128, both ways",
            "relative buckets 32",
            "decoder_start 0",
        ] {
            assert!(done.text().contains(part), "{part:?} in {}", done.text());
        }
        let found = run(&["inspect", model, "--json", "--tensors"]).json();
        assert_eq!(found["n_layers"], 2);
        assert_eq!(found["n_encoder_layers"], 3);
        assert_eq!(found["metadata"]["token.decoder_start"], 0);
        let tensors = found["tensors"].as_array().unwrap();
        let name = "stacks.1.layers.2.blocks.0.branches.0.attn_relative_bias";
        assert!(tensors.iter().any(|t| t["name"] == name));
        assert_eq!(run(&["verify", model]).code, 0);
    }
}

/// A small encoder-decoder of no family.
fn small() -> Spec {
    let mut spec = small_spec(Small {
        vocab: VOCAB,
        hidden: 36,
        inner: 44,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        window: None,
        context: 64,
    });
    let mut encoder = spec.decoder.clone();
    for layer in &mut encoder.layers {
        if let Op::Attention(a) = &mut layer.blocks[0].branches[0].op {
            a.mask = Mask::Bidirectional;
        }
    }
    spec.encoder = Some(encoder);
    for layer in &mut spec.decoder.layers {
        let cross = Cross {
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 8,
            scale: 0.5,
        };
        let block = Block::pre_norm(Norm::rms(1e-5), Op::Cross(cross));
        layer.blocks.insert(1, block);
    }
    spec.head.as_mut().unwrap().scale = 4.0;
    spec
}

fn write(folder: &Path, start: Option<u32>) -> String {
    let mut meta = Meta::new();
    meta.set(key::EOS, Value::U32s(vec![EOS]));
    if let Some(start) = start {
        meta.set(key::DECODER_START, Value::U32(start));
    }
    let bytes = model_bytes(&small(), Format::Q8, meta, tokenizer(EOS));
    let path = folder.join(format!("small-{}.quern", start.unwrap_or(0)));
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn texts_go_to_the_encoder_and_the_decoder_begins_anew() {
    let scratch = tempfile::tempdir().unwrap();
    let model = write(scratch.path(), Some(65));
    let args = ["run", "-m", &model, "--temp", "0", "-n", "6", "--json"];
    let found = run(&[&args[..], &["hi"]].concat()).json();
    assert_eq!(found["prompt_ids"], json!([BOS, 104, 105]));
    assert_eq!(found["decoder_prompt_ids"], json!([65]));
    let by_ids = run(&[&args[..], &["--ids", "256,104,105"]].concat()).json();
    assert_eq!(found["fingerprint"], by_ids["fingerprint"]);
    let other = run(&[&args[..], &["ho"]].concat()).json();
    assert_ne!(found["fingerprint"], other["fingerprint"]);
    let stats = run(&[
        "run", "-m", &model, "--temp", "0", "-n", "6", "--stats", "hi",
    ]);
    assert_eq!(stats.text(), found["text"].as_str().unwrap());
    assert!(stats.err.contains("prompt:      3 tokens"), "{}", stats.err);
    let print = found["fingerprint"].as_str().unwrap();
    assert!(stats.err.contains(print), "{}", stats.err);

    let args = ["score", "-m", &model, "--json"];
    let text = run(&[&args[..], &["--encoder", "hi", "ab"]].concat());
    let ids = ["--encoder-ids", "256,104,105", "--ids", "65,256,97,98"];
    let ids = run(&[&args[..], &ids].concat());
    assert_eq!(text.code, 0, "{}", text.err);
    assert_eq!(text.text(), ids.text());
    assert_eq!(text.text().lines().count(), 5);
    let other = run(&[&args[..], &["--encoder", "ho", "ab"]].concat());
    assert_ne!(text.text(), other.text());
}

#[test]
fn what_does_not_fit_is_said() {
    let scratch = tempfile::tempdir().unwrap();
    let model = write(scratch.path(), Some(65));
    let m = ["-m", &model];
    let with = |command: &str, more: &[&str]| run(&[&[command], &m[..], more].concat());
    with("score", &["ab"]).fails(2, &["--encoder TEXT or --encoder-ids"]);
    with("score", &["--encoder", "a", "--encoder-ids", "1", "ab"]).fails(2, &["cannot be used"]);
    with("score", &["--encoder-ids", "272", "ab"]).fails(3, &["token id 272 at position 0"]);
    let long = "x".repeat(70);
    with("run", &[&long]).fails(5, &["the source has 71 tokens", "holds 64"]);
    with("score", &["--encoder", &long, "ab"]).fails(5, &["the source has 71 tokens"]);
    // The decoder has a context of its own.
    let found = with("run", &["--temp", "0", "--ignore-eos", "--json", "hi"]).json();
    assert_eq!(found["finish_reason"], "context");
    assert_eq!(found["ids"].as_array().unwrap().len(), 63);
    with("bench", &[]).fails(2, &["see quern bench --help"]);

    let model = write(scratch.path(), None);
    let done = run(&["run", "-m", &model, "hi"]);
    done.fails(3, &["token.decoder_start is missing"]);

    let decoder = crate::common::tiny::TinyFile::new(Default::default());
    let args = ["score", "-m", decoder.arg(), "--encoder-ids", "1", "ab"];
    run(&args).fails(2, &["this one has none"]);
}

#[test]
fn a_description_that_contradicts_itself_is_refused() {
    let refused = |change: &dyn Fn(&mut Spec)| {
        let mut spec = small();
        change(&mut spec);
        spec.validate().unwrap_err().to_string()
    };
    small().validate().unwrap();
    let e = refused(&|s| s.encoder = None);
    assert!(
        e.contains("layers.0.blocks.1: cross attention, but there is no encoder"),
        "{e}"
    );
    let e = refused(&|s| s.encoder = Some(s.decoder.clone()));
    assert!(e.contains("expected it in the decoder only"), "{e}");
    let e = refused(&|s| {
        for layer in &mut s.decoder.layers {
            layer.blocks.remove(1);
        }
    });
    assert!(e.contains("no cross attention"), "{e}");
    let e = refused(&|s| {
        if let Op::Cross(c) = &mut s.decoder.layers[1].blocks[1].branches[0].op {
            c.n_kv_heads = 3;
        }
    });
    assert!(e.contains("layers.1.blocks.1"), "{e}");
    let e = refused(&|s| s.encoder.as_mut().unwrap().layers[0].blocks[0].scale = f32::NAN);
    assert!(e.contains("encoder: layers.0.blocks.0"), "{e}");
    for (buckets, max_distance, both_ways) in [
        (0, 128, false),
        (1, 128, false),
        (2, 128, true),
        (33, 128, true),
        (32, 16, false),
        (32, 8, true),
        (1 << 13, 1 << 20, false),
    ] {
        let e = refused(&|s| {
            if let Op::Attention(a) = &mut s.decoder.layers[0].blocks[0].branches[0].op {
                a.relative = Some(RelativeBias {
                    buckets,
                    max_distance,
                    both_ways,
                });
            }
        });
        assert!(e.contains("layers.0.blocks.0.branches.0: relative"), "{e}");
    }
}

/// A folder of a family with another configuration or other tensors.
fn changed(family: &str, config: &dyn Fn(&mut Json), tensors: &[&Tensor]) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let mut json = read_json(&folder(family).join("config.json"));
    config(&mut json);
    std::fs::write(scratch.path().join("config.json"), json.to_string()).unwrap();
    let weights = safetensors(tensors);
    std::fs::write(scratch.path().join("model.safetensors"), weights).unwrap();
    scratch
}

#[test]
fn repeated_embeddings_and_keys_that_contradict_each_other() {
    let all = tensors("t5_v1_1");
    let shared = all.iter().find(|t| t.name == "shared.weight").unwrap();
    let named = |name: &str, change: bool| {
        let mut bytes = shared.bytes.clone();
        bytes[0] ^= u8::from(change);
        Tensor {
            name: name.to_owned(),
            shape: shared.shape.clone(),
            dtype: shared.dtype.clone(),
            bytes,
        }
    };
    let import_with = |config: &dyn Fn(&mut Json), more: &[Tensor], without: &str| {
        let tensors = all.iter().filter(|t| t.name != without).chain(more);
        let scratch = changed("t5_v1_1", config, &tensors.collect::<Vec<_>>());
        import(scratch.path()).0
    };
    let [encoder, decoder] = ["encoder", "decoder"].map(|s| format!("{s}.embed_tokens.weight"));
    let same = [named(&encoder, false), named(&decoder, false)];
    let done = import_with(&|_| {}, &same, "");
    assert_eq!(done.code, 0, "{}", done.err);
    let done = import_with(&|_| {}, &same, "shared.weight");
    assert_eq!(done.code, 0, "{}", done.err);
    let other = [named(&encoder, false), named(&decoder, true)];
    import_with(&|_| {}, &other, "").fails(3, &[&decoder, "share one embedding"]);
    import_with(&|_| {}, &[], "shared.weight").fails(3, &["\"shared.weight\" is missing"]);
    // A head with the values of the embedding is the embedding.
    let head = [named("lm_head.weight", false)];
    let done = import_with(&|_| {}, &head, "lm_head.weight");
    assert_eq!(done.code, 0, "{}", done.err);
    let table = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    import_with(&|_| {}, &[], table).fails(3, &["relative_attention_bias", "is missing"]);

    let set = |key: &'static str, value: Json| move |config: &mut Json| config[key] = value.clone();
    for (key, value) in [
        ("feed_forward_proj", json!("gated-tanh")),
        ("dense_act_fn", json!("relu")),
        ("is_gated_act", json!(false)),
        ("relative_attention_num_buckets", json!(0)),
        ("num_decoder_layers", json!(0)),
        ("d_kv", json!(1 << 20)),
        ("no_such_key", json!(1)),
    ] {
        import_with(&set(key, value), &[], "").fails(3, &[key]);
    }
}
