//! Keys and tables without files.

use super::*;
use std::collections::BTreeMap;

/// Shapes and values of a file that is not there.
#[derive(Default)]
struct Fake(BTreeMap<&'static str, (Vec<u64>, Vec<f32>)>);

impl Tensors for Fake {
    fn shape(&self, name: &str) -> Option<&[u64]> {
        self.0.get(name).map(|t| t.0.as_slice())
    }
    fn values(&self, name: &str) -> Result<Vec<f32>> {
        let t = self.0.get(name).ok_or_else(|| Error::new(name))?;
        Ok(t.1.clone())
    }
    fn same(&self, a: &str, b: &str) -> Result<bool> {
        Ok(a == b)
    }
}

fn fake(tensors: &[(&'static str, &[u64], &[f32])]) -> Fake {
    let entry = |t: &(&'static str, &[u64], &[f32])| (t.0, (t.1.to_vec(), t.2.to_vec()));
    Fake(tensors.iter().map(entry).collect())
}

fn metadata(extra: Value) -> Map<String, Value> {
    let mut m = json!({"general.architecture": "llama", "general.name": "x", "llama.block_count": 2,
        "llama.context_length": 512, "llama.embedding_length": 64, "llama.feed_forward_length": 172,
        "llama.attention.head_count": 8, "llama.attention.head_count_kv": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.dimension_count": 8});
    m.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    m.as_object().unwrap().clone()
}

fn translate(metadata: &Map<String, Value>, file: &Fake) -> Result<Translation> {
    let list: Vec<(&str, &[u64])> = file.0.iter().map(|(n, t)| (*n, t.0.as_slice())).collect();
    architecture("m.gguf", metadata)?.translate("m.gguf", metadata, file, &list)
}

fn config(extra: Value) -> Result<Map<String, Value>> {
    let file = fake(&[("token_embd.weight", &[512, 64], &[])]);
    Ok(translate(&metadata(extra), &file)?.config)
}

#[test]
fn keys_become_those_of_transformers() {
    let c = config(json!({})).unwrap();
    assert_eq!(c["hidden_size"], 64);
    assert_eq!(c["num_key_value_heads"], 4);
    assert_eq!(c["vocab_size"], 512);
    assert_eq!(c["head_dim"], 8);
    assert_eq!(c["rope_parameters"]["partial_rotary_factor"], 1.0);
    assert_eq!(c["rope_parameters"]["rope_theta"], 1e4);
}

#[test]
fn scaling() {
    let yarn = json!({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 128, "llama.rope.scaling.attn_factor": 2.0});
    let c = config(yarn).unwrap();
    assert_eq!(
        c["rope_parameters"]["original_max_position_embeddings"],
        128
    );
    assert_eq!(
        c["rope_parameters"]["attention_factor"].as_f64().unwrap(),
        2.0 * (0.1 * libm::log(4.0) + 1.0)
    );
    let c = config(json!({"llama.rope.scale_linear": 2.0})).unwrap();
    assert_eq!(c["rope_parameters"]["rope_type"], "linear");
}

#[test]
fn lists_of_factors_are_tensors() {
    let long: &[f32] = &[1.0, 2.0, 4.0, 8.0];
    let file = fake(&[
        ("token_embd.weight", &[512, 64], &[]),
        ("rope_factors_long.weight", &[4], long),
        ("rope_factors_short.weight", &[4], &[1.0; 4]),
    ]);
    let c = translate(&metadata(json!({})), &file).unwrap().config;
    assert_eq!(c["rope_parameters"]["rope_type"], "longrope");
    assert_eq!(c["rope_parameters"]["long_factor"], json!(long));
    // Without them the word stands for nothing.
    let m = config(json!({"llama.rope.scaling.type": "longrope"})).unwrap_err();
    assert!(m.to_string().contains("rope_factors_long.weight"), "{m}");
}

#[test]
fn what_is_not_understood_is_an_error() {
    for (extra, word) in [
        (json!({"llama.mystery": 1}), "mystery"),
        (json!({"adapter.type": "lora"}), "adapter.type"),
        (json!({"xielu.beta": 1}), "xielu.beta"),
        (json!({"general.architecture": "warp"}), "warp"),
        (json!({"general.type": "mmproj"}), "mmproj"),
        (json!({"split.count": 3}), "split.count"),
        (json!({"llama.block_count": "two"}), "block_count"),
        (json!({"llama.attention.value_length": 16}), "value_length"),
        (json!({"llama.rope.dimension_count": 16}), "dimension_count"),
        (json!({"llama.rope.scaling.type": "warp"}), "warp"),
        (json!({"llama.attention.causal": false}), "causal"),
        (json!({"llama.pooling_type": 4}), "pooling_type"),
        (json!({"llama.nextn_predict_layers": 2}), "nextn"),
    ] {
        let message = config(extra).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn architectures_are_listed_once_and_in_the_message() {
    let mut names: Vec<&str> = architectures().map(|a| a.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
    let m = config(json!({"general.architecture": "warp"}));
    let m = m.unwrap_err().to_string();
    assert!(m.contains(&names.join(", ")), "{m}");
}

#[test]
fn a_part_of_a_head_is_found_again_from_its_share() {
    for whole in 1..=512 {
        for part in 1..=whole {
            let again = (f64::from(whole) * keys::share(part, whole)) as u32;
            assert_eq!(again, part, "{part} of {whole}");
        }
    }
}

#[test]
fn windows_by_flags_or_by_period() {
    let gemma = |extra: Value| {
        let mut m = json!({"general.architecture": "gemma3", "gemma3.block_count": 4,
            "gemma3.context_length": 512, "gemma3.embedding_length": 64, "gemma3.feed_forward_length": 172,
            "gemma3.attention.head_count": 8, "gemma3.attention.layer_norm_rms_epsilon": 1e-5,
            "gemma3.attention.sliding_window": 16});
        m.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let file = fake(&[("token_embd.weight", &[512, 64], &[])]);
        Ok::<_, Error>(translate(m.as_object().unwrap(), &file)?.config["layer_types"].clone())
    };
    let (f, s) = ("full_attention", "sliding_attention");
    let key = "gemma3.attention.sliding_window_pattern";
    assert_eq!(gemma(json!({})).unwrap(), json!([s, s, s, s]));
    assert_eq!(gemma(json!({key: 2})).unwrap(), json!([s, f, s, f]));
    let flags = json!({key: [true, false, false, true]});
    assert_eq!(gemma(flags).unwrap(), json!([s, f, f, s]));
    let none = json!({"gemma3.attention.sliding_window": 0});
    assert_eq!(gemma(none).unwrap(), json!([f, f, f, f]));
    let m = gemma(json!({key: [true]})).unwrap_err().to_string();
    assert!(m.contains("4 times"), "{m}");
}
